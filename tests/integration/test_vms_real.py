"""Hypervisors as real processes: QEMU itself, and one that burns known CPU time under a name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.sim.firework import SimFirework, service, status
from tests.sim.loads import NoCompilerError
from tests.sim.vmm import Vmm, compile_vmm
from tychod import config
from tychod.hostfs import Host
from tychod.kernel.hierarchy import choose_hierarchy
from tychod.workloads.firework import Firework
from tychod.workloads.vmprocs import ThreadTimes, VmFinder, VmProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECOND = 1_000_000_000
TICK = SECOND // os.sysconf("SC_CLK_TCK")
PATIENCE_S = 20.0
UUID = "0d8a1b5e-6f0a-4c55-9d1e-5b0f3c2a7e11"
QEMU = "qemu-system-x86_64"


@pytest.fixture
def host() -> Host:
    """Return this machine."""
    return Host(config.Host())


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a program called firecracker."""
    try:
        return compile_vmm(tmp_path)
    except NoCompilerError as exc:
        pytest.skip(str(exc))


def found(host: Host, pid: int) -> VmProcess:
    """Return what a first look finds of a process."""
    vms = VmFinder(host, "v2").look(0)
    return next(vm for vm in vms if vm.pid == pid)


def state(tmp_path: Path, name: str) -> Path:
    """Return a service's directory as Firework lays it out."""
    directory = tmp_path / "state" / "vms" / name
    directory.mkdir(parents=True)
    (directory / "vm-config.json").write_text(
        '{"machine-config": {"vcpu_count": 2, "mem_size_mib": 128},'
        ' "boot-source": {"boot_args": "console=ttyS0 TOKEN=canary"}}'
    )
    return directory


def test_an_agents_microvm_is_found(host: Host, program: Path, tmp_path: Path) -> None:
    """Its service, its sizes and its cgroup; its kernel's arguments stay where they are."""
    directory = state(tmp_path, "web-1")
    arguments = ("--id", "0a1b2c", "--api-sock", f"{directory}/firecracker.sock")
    with Vmm(program, *arguments, "--config-file", f"{directory}/vm-config.json") as vmm:
        vm = found(host, vmm.pid)
        own = host.process_file(os.getpid(), "cgroup") or b""

    assert vm.machine[:3] == ("firecracker", "web-1", "web-1")
    assert vm.machine.identified_by == "api-sock"
    if os.geteuid() == 0:
        assert (vm.machine.vcpus, vm.machine.memory_bytes) == (2, 128 << 20)
    assert f"0::{vm.cgroup}\n".encode() in own
    assert "canary" not in repr(vm)


def test_a_jailed_microvm_is_found(host: Host, program: Path) -> None:
    """The jailer runs it by a relative path, with its id and times of its own."""
    times = ("--start-time-us=1", "--start-time-cpu-us=2", "--parent-cpu-time-us=3")
    with Vmm(program, "--id=551e7604-e35c", *times, called="./firecracker") as vmm:
        vm = found(host, vmm.pid)

    assert (vm.machine.id, vm.machine.identified_by) == ("551e7604-e35c", "--id")


def test_cpu_time_of_vcpus_and_of_all(host: Host, program: Path) -> None:
    """What is read lies between what the threads' own clocks say before and after.

    The figures are the same kernel counters, so nothing else is left to allow for.
    """
    times = ThreadTimes(host)
    with Vmm(program, "--id", "a", vcpus=3) as vmm:
        vm = found(host, vmm.pid)
        for _ in range(3):
            before = vmm.burn(20_000, api_us=10_000, main_us=5_000)
            told = times.read(vm)
            after = vmm.tell()

            assert told is not None
            assert told.vcpu_ns is not None
            assert before.vcpu_ns <= told.vcpu_ns <= after.vcpu_ns
            assert before.process_ns <= told.cpu_ns <= after.process_ns
    assert before.vcpu_ns >= 3 * 3 * 20_000_000
    assert times.read(vm) is None


def test_threads_that_end_are_not_missed(host: Host, program: Path) -> None:
    """Threads that nobody saw, before and between two readings, are in the process's total.

    That is counted in ticks, cut off twice (user and system time), less the tick that is let go.
    """
    times = ThreadTimes(host)
    with Vmm(program, "--id", "a") as vmm:
        vmm.churn(20, 3_000)
        vm = found(host, vmm.pid)
        for _ in range(3):
            before = vmm.churn(20, 3_000)
            told = times.read(vm)
            after = vmm.tell()
            assert told is not None
            assert before.process_ns - 3 * TICK <= told.cpu_ns <= after.process_ns


def test_threads_without_names_are_not_told_apart(host: Host, program: Path) -> None:
    """The split is unknown; the sum is not."""
    with Vmm(program, "--id", "a", named=False) as vmm:
        used = vmm.burn(5_000)
        told = ThreadTimes(host).read(found(host, vmm.pid))

    assert told is not None
    assert told.vcpu_ns is None
    assert told.cpu_ns >= used.process_ns


def test_an_agents_child_is_found_once_it_is_a_microvm(host: Host, program: Path) -> None:
    """It is seen as the agent's fork first and has another command line the next time."""
    script = (
        "import os, sys; sys.stdin.readline(); os.execv(sys.argv[1], ['firecracker', '--id=x'])"
    )
    finder = VmFinder(host, "v2")
    with subprocess.Popen(
        [sys.executable, "-S", "-c", script, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin
        assert child.stdout
        assert child.pid not in [vm.pid for vm in finder.look(0)]
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "ready\n"
        later = {vm.pid: vm.machine.id for vm in finder.look(SECOND, soon=True)}
        child.kill()

    assert later[child.pid] == "x"


def test_the_agent_names_a_process_that_it_started(host: Host, program: Path) -> None:
    """Its answer is joined to the real process; one from before that began is not."""
    with SimFirework(status()) as agent:
        firework = Firework(agent.url)
        with Vmm(program, "--id", "0a1b2c") as vmm:
            vm = found(host, vmm.pid)
            agent.answer = status(service("web-1", vmm.pid))
            # What an agent asked in the very tick of the start says is not believed yet.
            wait_until(lambda: started_ns(vm) + TICK < boot_ns())
            firework.poll(0)
            wait_until(lambda: poll_for(firework, vm.pid))
            named = firework.service_of(vm)
            later = vm._replace(start_ticks=boot_ns() // TICK + 1)

            assert named is not None
            assert named.name == "web-1"
            assert firework.service_of(later) is None
        firework.close()


def boot_ns() -> int:
    """Return the time since boot, as processes' starts are told in."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def started_ns(vm: VmProcess) -> int:
    """Return when a process began, since boot."""
    return vm.start_ticks * TICK


def poll_for(firework: Firework, pid: int) -> bool:
    """Take in an answer if there is one; say whether it tells of a process."""
    firework.poll(0)
    return pid in firework.services


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so; fail where it never is."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.01)


@contextmanager
def qemu(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a machine without a disk, whose firmware looks in vain for one."""
    program = shutil.which(QEMU)
    if program is None:
        pytest.skip(f"{QEMU} is not installed (Debian: qemu-system-x86)")
    arguments = ["-name", name, "-uuid", UUID, "-accel", "tcg", "-smp", "2", "-m", "32"]
    quiet = ["-display", "none", "-serial", "none", "-monitor", "none", "-nic", "none"]
    with subprocess.Popen(
        [program, *arguments, *quiet, "-nodefaults"], stdin=subprocess.DEVNULL
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def thread_names(pid: int) -> set[str]:
    """Return what a process's threads are called at this moment."""
    folder = f"/proc/{pid}/task"
    host = Host(config.Host())
    return {(host.read_text(f"{folder}/{t}/comm") or "").strip() for t in os.listdir(folder)}  # noqa: PTH208


def test_qemu_calls_its_vcpus_as_we_believe(host: Host) -> None:
    """With debug-threads a real QEMU's vCPUs can be told from the rest of it."""
    with qemu("guest=t1,debug-threads=on") as child:
        wait_until(lambda: {"CPU 0/TCG", "CPU 1/TCG"} <= thread_names(child.pid))
        vm = found(host, child.pid)
        times = ThreadTimes(host)
        wait_until(lambda: ((times.read(vm) or (0, 0))[1] or 0) > 0)
        told = times.read(vm)

    assert vm.machine == ("qemu", UUID, "t1", 2, 32 << 20, "uuid", None)
    assert told is not None
    assert told.vcpu_ns is not None
    assert 0 < told.vcpu_ns < told.cpu_ns


def test_qemu_without_thread_names_is_one_sum(host: Host) -> None:
    """Without debug-threads all its threads bear the program's name: no split is made up."""
    with qemu("t2") as child:
        wait_until(lambda: len(os.listdir(f"/proc/{child.pid}/task")) >= 4)  # noqa: PTH208
        vm = found(host, child.pid)
        told = ThreadTimes(host).read(vm)
        names = thread_names(child.pid)

    assert names == {QEMU[:15]}
    assert vm.machine.name == "t2"
    assert told is not None
    assert told.cpu_ns > 0
    assert told.vcpu_ns is None


def test_the_hierarchy_in_use_gives_the_path(host: Host, program: Path) -> None:
    """The cgroup is one that is there, in the hierarchy that this host believes."""
    chosen = choose_hierarchy(host, "auto")
    version = getattr(chosen, "version", None)
    if version is None:
        pytest.skip(f"no cgroup hierarchy: {chosen}")
    with Vmm(program, "--id", "a") as vmm:
        (vm,) = (vm for vm in VmFinder(host, version).look(0) if vm.pid == vmm.pid)

        assert os.path.isdir(f"{chosen.root}{vm.cgroup}")  # noqa: PTH112

"""Finding hypervisors and reading their threads, on a procfs of plain files."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sim.vmm import FakeProcess
from tychod import config
from tychod.hostfs import Host
from tychod.workloads import vmprocs
from tychod.workloads.hypervisors import COMMAND_LIMIT, Machine
from tychod.workloads.vmprocs import ThreadTimes, VmFinder, VmProcess, parse_schedstat_ns

SECOND = 1_000_000_000
TICK = SECOND // os.sysconf("SC_CLK_TCK")
QEMU = ("/usr/bin/qemu-system-x86_64", "-name", "guest=web,debug-threads=on")
FIRECRACKER = ("./firecracker", "--id", "web-1")
SHELL = ("/bin/sh", "-c", "qemu-system-x86_64 -name guest=no")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a machine with a procfs of its own and nothing in it."""
    (tmp_path / "proc").mkdir()
    return Host(config.Host(procfs=str(tmp_path / "proc")))


@pytest.fixture
def put(host: Host) -> Callable[..., FakeProcess]:
    """Return what writes a process."""

    def put(pid: int, *argv: str, **changes: object) -> FakeProcess:
        process = FakeProcess(Path(host.procfs), pid, argv, **changes)  # type: ignore[arg-type]
        process.write()
        return process

    return put


Put = Callable[..., FakeProcess]


@pytest.fixture(autouse=True)
def costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listings here are as often as the tests say, however long this machine takes for one."""
    monkeypatch.setattr(vmprocs, "RESTING", 0)


class CountingHost:
    """A host that counts what is read of processes."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.procfs = host.procfs
        self.read: list[str] = []

    def pid_names(self) -> set[str]:
        """List the processes."""
        self.read.append("list")
        return self._host.pid_names()

    def read_bytes(self, path: str, limit: int) -> bytes | None:
        """Read a file."""
        self.read.append(path.removeprefix(self.procfs + "/"))
        return self._host.read_bytes(path, limit)

    def taken(self) -> list[str]:
        """Return what was read since the last time."""
        read, self.read = self.read, []
        return read


def crowd(put: Put) -> None:
    """Write so many processes that few of them are read again in one listing."""
    for pid in range(1000, 1120):
        put(pid, "/usr/bin/sleep", "9")


def pids(vms: tuple[VmProcess, ...]) -> list[int]:
    """Return whose processes they are."""
    return [vm.pid for vm in vms]


def test_finds_hypervisors_with_their_cgroups(host: Host, put: Put) -> None:
    """Each has its process's start and the cgroup of the hierarchy that is believed."""
    put(20, *QEMU, start_ticks=77)
    put(30, *SHELL)
    put(40)

    (vm,) = VmFinder(host, "v2").look(0)
    assert vm == (20, 77, "/system.slice/agent.service", vm.machine)
    assert (vm.machine.id, vm.machine.name) == ("web", "web")
    assert VmFinder(host, "v1").look(0)[0].cgroup == "/v1/system.slice/agent.service"


def test_listed_every_2_s_and_when_asked_5_times_a_second(host: Host) -> None:
    """However often somebody looks, procfs is listed no more often than that."""
    counting = CountingHost(host)
    finder = VmFinder(counting, "v2")  # type: ignore[arg-type]

    for hundredth in range(1000):
        finder.look(hundredth * SECOND // 100)
    assert counting.taken() == ["list"] * 5

    for hundredth in range(1000, 1100):
        finder.look(hundredth * SECOND // 100, soon=True)
    assert counting.taken() == ["list"] * 5


def test_a_process_is_read_twice_and_then_once_a_minute(host: Host, put: Put) -> None:
    """What does not change costs its listing; all are read again once a minute, some each time."""
    for pid in range(100, 160):
        put(pid, "/usr/bin/sleep", "9")
    counting = CountingHost(host)
    finder = VmFinder(counting, "v2")  # type: ignore[arg-type]
    read = []
    for second in range(0, 304, 2):
        finder.look(second * SECOND)
        read.append(len(counting.taken()) - 1)

    assert read[:2] == [60, 60]
    assert max(read[2:]) == 2
    assert sum(read[2:32]) == 60


def test_a_fork_that_becomes_a_hypervisor_is_found(host: Host, put: Put) -> None:
    """An agent's child is looked at again: it bears the agent's command line until it execs."""
    finder = VmFinder(host, "v2")
    child = put(20, "/usr/bin/firework-agent")
    assert pids(finder.look(0)) == []
    child.argv = FIRECRACKER
    child.write()

    assert pids(finder.look(SECOND // 4, soon=True)) == [20]


def test_a_slow_exec_is_found_when_the_process_is_2_s_old(host: Host, put: Put) -> None:
    """Also where somebody asked often in between."""
    finder = VmFinder(host, "v2")
    child = put(20, "/usr/bin/systemd")
    for tenth in range(19):
        assert pids(finder.look(tenth * SECOND // 10, soon=True)) == []
    child.argv = FIRECRACKER
    child.write()

    assert pids(finder.look(2 * SECOND, soon=True)) == [20]


def test_a_later_exec_is_found_within_a_minute(host: Host, put: Put) -> None:
    """A wrapper that prepares for long before it execs is found at last."""
    crowd(put)
    finder = VmFinder(host, "v2")
    wrapper = put(20, *SHELL)
    for second in range(0, 10, 2):
        finder.look(second * SECOND)
    wrapper.argv = QEMU
    wrapper.write()

    found = [pids(finder.look(second * SECOND)) for second in range(10, 72, 2)]
    assert [20] in found


def test_the_fork_of_a_hypervisor_is_none_once_it_is_something_else(host: Host, put: Put) -> None:
    """QEMU forks its helpers, which bear its command line until they exec."""
    finder = VmFinder(host, "v2")
    put(20, *QEMU)
    fork = put(21, *QEMU)
    assert pids(finder.look(0)) == [20, 21]
    fork.argv = ("/usr/lib/qemu/qemu-bridge-helper",)
    fork.write()

    assert pids(finder.look(2 * SECOND)) == [20]


def test_a_reused_pid_inherits_nothing(host: Host, put: Put) -> None:
    """Another start is another process, with its own command line or none."""
    crowd(put)
    finder = VmFinder(host, "v2")
    put(20, *QEMU, start_ticks=5)
    put(30, *QEMU, start_ticks=5)
    for second in range(0, 10, 2):
        finder.look(second * SECOND)
    put(20, *FIRECRACKER, start_ticks=6)
    put(30, "/usr/bin/sleep", start_ticks=6)

    (vm,) = finder.look(10 * SECOND)
    assert (vm.pid, vm.start_ticks, vm.machine.id) == (20, 6, "web-1")


def test_a_pid_that_was_gone_is_a_new_process(host: Host, put: Put) -> None:
    """It is read at once and again, whatever was known of the one before it."""
    crowd(put)
    finder = VmFinder(host, "v2")
    known, young = put(20, "/usr/bin/sleep"), put(30, "/usr/bin/sleep")
    young.remove()
    finder.look(0)
    finder.look(2 * SECOND)
    young.write()
    finder.look(4 * SECOND)
    known.remove()
    young.remove()
    finder.look(5 * SECOND, soon=True)
    put(20, *QEMU)
    young.write()
    assert pids(finder.look(6 * SECOND, soon=True)) == [20]

    put(30, *FIRECRACKER)
    assert pids(finder.look(7 * SECOND, soon=True)) == [20, 30]


def test_a_hypervisor_is_followed_to_its_end(host: Host, put: Put) -> None:
    """It may move to another cgroup; dead and not waited for it runs nothing more."""
    crowd(put)
    finder = VmFinder(host, "v2")
    process = put(20, *QEMU)
    first = finder.look(0)
    assert finder.look(2 * SECOND) is first
    process.cgroup = "/machine.slice/vm.scope"
    process.write()
    assert finder.look(4 * SECOND)[0].cgroup == "/machine.slice/vm.scope"

    process.state = "Z"
    process.write()
    assert finder.look(6 * SECOND) == ()
    process.remove()
    assert finder.look(8 * SECOND) == ()


def test_firecrackers_configuration_is_read_where_root_named_it(
    host: Host, put: Put, tmp_path: Path
) -> None:
    """Its sizes alone; a file that somebody else named is not opened, a pipe or link to one never.

    Else anybody could let the daemon open what he likes.
    """
    good = tmp_path / "vm-config.json"
    good.write_text('{"machine-config": {"vcpu_count": 2, "mem_size_mib": 64}, "boot-source": "x"}')
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/proc/self/environ")
    for pid, path, uid in (
        (20, str(good), 0),
        (21, str(good), 1000),
        (22, str(pipe), 0),
        (23, str(link), 0),
        (24, good.name, 0),
        (25, str(tmp_path), 0),
        (26, str(tmp_path / "gone"), 0),
        (27, "/" + "x" * 5000, 0),
    ):
        put(pid, *FIRECRACKER, "--config-file", path, uid=uid)

    vms = VmFinder(host, "v2").look(0)
    sizes = {vm.pid: (vm.machine.vcpus, vm.machine.memory_bytes) for vm in vms}
    assert sizes == {20: (2, 64 << 20), **dict.fromkeys(range(21, 28), (None, None))}


INSIDE = (
    f"/system.slice/docker-{'a1' * 32}.scope",
    f"/docker/{'a1' * 32}/system.slice/firework.service",
    f"/docker/{'a1' * 32}/firecracker/vm-1",
    "/kubepods/burstable/pod0f3a5b1c-1111-4222-8333-444455556666",
    f"/kubepods/besteffort/pod0f3a5b1c-1111-4222-8333-444455556666/{'b2' * 32}",
    f"/machine.slice/libpod-{'a1' * 32}.scope/container",
    "/lxc.payload.web/init.scope",
    f"/docker/{'a1' * 32}" + "/x" * 100,
)
OUTSIDE = ("/", "/system.slice/firework.service", "/firecracker/vm-1", "/user.slice/user-0.slice")


@pytest.mark.parametrize("cgroup", INSIDE + OUTSIDE)
def test_a_containers_root_names_no_file_of_the_host(
    host: Host, put: Put, tmp_path: Path, cgroup: str
) -> None:
    """What stands in its command line is a path in its own file system, or meant to look so."""
    config_file = tmp_path / "vm-config.json"
    config_file.write_text('{"machine-config": {"vcpu_count": 2, "mem_size_mib": 64}}')
    put(20, *FIRECRACKER, "--config-file", str(config_file), uid=0, cgroup=cgroup)

    (vm,) = VmFinder(host, "v2").look(0)
    assert vm.cgroup == cgroup
    assert vm.machine.vcpus == (2 if cgroup in OUTSIDE else None)


def test_regular_files_alone_are_read_of_those_that_others_name(tmp_path: Path) -> None:
    """A pipe would be waited for, an environment holds secrets."""
    host = Host(config.Host())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/proc/self/environ")
    (tmp_path / "file").write_text("text")

    assert host.read_regular(str(tmp_path / "file")) == b"text"
    assert host.read_regular(str(tmp_path / "pipe")) is None
    assert host.read_regular(str(tmp_path / "gone")) is None
    assert host.read_regular("/dev/null") is None
    with pytest.raises(PermissionError, match="never read"):
        host.read_regular(str(tmp_path / "link"))


def test_hostile_command_lines_do_no_harm(host: Host, put: Put) -> None:
    """Ten thousand characters, no text, escapes, nothing at all, more than is read."""
    put(20, "qemu-kvm", "-name", "x\x1b[31m" + "y" * 10_000, "-uuid", "z" * 10_000)
    put(
        21, "firecracker", "--id", os.fsdecode(b"\xff\xfe"), "--api-sock", os.fsdecode(b"/vms/\xff")
    )
    put(22, "x" * 10_000)
    put(23)
    put(24, "kvm", *(["-name", "end", "-drive", "d" * 100] * (COMMAND_LIMIT // 100)))
    put(25, os.fsdecode(b"\xff" * 300))

    machines = {vm.pid: vm.machine for vm in VmFinder(host, "v2").look(0)}
    assert sorted(machines) == [20, 21, 24]
    assert machines[21] == Machine("firecracker")
    assert machines[24].id == "end"
    assert all(len(repr(m)) < 500 and repr(m).isprintable() for m in machines.values())


def test_what_goes_while_it_is_read_is_not_there(host: Host, put: Put) -> None:
    """Each file of a process may be missing: it has ended."""
    for pid, missing in ((20, "cmdline"), (21, "stat"), (22, "cgroup"), (23, "status")):
        put(pid, *FIRECRACKER, "--config-file", "/nowhere")
        (Path(host.procfs) / str(pid) / missing).unlink()

    assert pids(VmFinder(host, "v2").look(0)) == [23]


def test_hidden_processes_are_told_of_once(
    host: Host, put: Put, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be read is said with its remedy, and when it is over."""

    class Hiding(CountingHost):
        """A procfs mounted with hidepid=1."""

        hidden = True

        def read_bytes(self, path: str, limit: int) -> bytes | None:
            if self.hidden:
                raise PermissionError(1, "Operation not permitted", path)
            return super().read_bytes(path, limit)

    caplog.set_level(logging.INFO)
    put(20, *QEMU)
    hiding = Hiding(host)
    finder = VmFinder(hiding, "v2")  # type: ignore[arg-type]
    for second in range(0, 20, 2):
        assert finder.look(second * SECOND) == ()
    assert "hidepid" in finder.route
    hiding.hidden = False
    found = [pids(finder.look(second * SECOND)) for second in range(20, 90, 2)]

    assert found[-1] == [20]
    assert finder.route == "ok"
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


def test_a_procfs_that_cannot_be_listed_keeps_what_is_known(
    tmp_path: Path, put: Put, host: Host
) -> None:
    """The last listing stands, and why is said."""
    put(20, *QEMU)
    finder = VmFinder(host, "v2")
    found = finder.look(0)
    (tmp_path / "proc").rename(tmp_path / "away")

    assert finder.look(2 * SECOND) is found
    assert "No such file" in finder.route


def test_a_flood_of_hypervisors_is_looked_at_up_to_a_limit(
    host: Host, put: Put, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those known stay, one more costs no more than any process, and a place that is free is taken.

    The route says it, without a number that would be another line with each look.
    """
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(vmprocs, "MOST_VMS", 5)
    crowd(put)
    counting = CountingHost(host)
    finder = VmFinder(counting, "v2")  # type: ignore[arg-type]
    real = [put(pid, *FIRECRACKER) for pid in range(20, 24)]
    finder.look(0)
    flood = [put(pid, *FIRECRACKER) for pid in range(300, 340)]
    for second in range(2, 8, 2):
        found = finder.look(second * SECOND)
    counting.read.clear()
    again = finder.look(8 * SECOND)

    assert len(found) == 5
    assert again == found
    assert {p.pid for p in real} <= set(pids(found))
    assert finder.route.startswith("more than 5 hypervisors, the others are not told apart; see ")
    beyond = {str(p.pid) for p in flood} - {str(pid) for pid in pids(found)}
    read = [path for path in counting.read if path.partition("/")[0] in beyond]
    assert all(path.endswith("/cmdline") for path in read)
    assert len(read) <= 3  # one 30th of those there are

    for process in (real[0], *flood[20:]):
        process.remove()
    last = [finder.look(second * SECOND) for second in range(10, 90, 2)][-1]
    assert len(last) == 5
    for process in flood[:20]:
        process.remove()
    assert pids(finder.look(100 * SECOND)) == [21, 22, 23]
    assert finder.route == "ok"
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


# --- CPU time


def vm_of(process: FakeProcess, hypervisor: str = "firecracker") -> VmProcess:
    """Return what a finder would say of a process."""
    machine = Machine(hypervisor)  # type: ignore[arg-type]
    return VmProcess(process.pid, process.start_ticks, process.cgroup, machine)


def test_vcpus_and_the_rest_are_told_apart(host: Host, put: Put) -> None:
    """The sum is to the nanosecond; what vCPUs used is a part of it."""
    threads = {20: (5, "firecracker"), 21: (1000, "fc_vcpu 0"), 22: (2000, "fc_vcpu 1")}
    process = put(20, *FIRECRACKER, threads={**threads, 23: (70, "fc_api")})

    assert ThreadTimes(host).read(vm_of(process)) == (3075, 3000)


@pytest.mark.parametrize("hypervisor", ["qemu", "xen", "vmware"])
def test_without_names_the_split_is_not_known(host: Host, put: Put, hypervisor: str) -> None:
    """QEMU without debug-threads calls all threads alike: unknown, never 0."""
    threads = {20: (5, "qemu-system-x86"), 21: (1000, "qemu-system-x86"), 22: (7, "vcpu0")}
    process = put(20, *QEMU, threads=threads)

    assert ThreadTimes(host).read(vm_of(process, hypervisor)) == (1012, None)


def test_a_thread_that_is_named_late_counts_as_what_it_is(host: Host, put: Put) -> None:
    """A thread begins with its creator's name; it is read again until two readings agree."""
    process = put(20, *FIRECRACKER, threads={21: (10, "firecracker")})
    times = ThreadTimes(host)
    assert times.read(vm_of(process)) == (10, None)
    process.threads = {21: (20, "fc_vcpu 0")}
    process.write()
    assert times.read(vm_of(process)) == (20, 20)
    process.write()
    times.read(vm_of(process))

    process.threads = {21: (30, "renamed by its guest")}
    process.write()
    assert times.read(vm_of(process)) == (30, 30)


def test_a_flood_of_threads_is_read_as_a_whole(
    host: Host, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limits of one and of all, the sum alone is told; it never falls, nor is lost."""
    monkeypatch.setattr(vmprocs, "MOST_THREADS", 4)
    monkeypatch.setattr(vmprocs, "MOST_READ", 6)
    few = {20: (7 * TICK, "firecracker"), 21: (9 * TICK, "fc_vcpu 0")}
    process = put(20, *FIRECRACKER, threads=few, cpu_ticks=16)
    other = put(30, *FIRECRACKER, threads={31: (5, "fc_vcpu 0"), 32: (5, "x"), 33: (5, "x")})
    times, finder = ThreadTimes(host), VmFinder(host, "v2")
    finder.look(0)
    assert times.read(vm_of(process)) == (16 * TICK, 9 * TICK)
    assert times.read(vm_of(other)) == (15, 5)
    finder.look(2 * SECOND)
    assert finder.route == "ok"

    process.threads = {**few, **dict.fromkeys(range(40, 80), (TICK, "x"))}
    process.cpu_ticks = 56
    process.write()
    times.keep_only([vm_of(process), vm_of(other)])
    assert times.read(vm_of(process)) == (56 * TICK, None)
    finder.look(4 * SECOND)
    assert "more than 4 threads in one hypervisor or 6 in all, whose vCPUs" in finder.route
    assert times.read(vm_of(other)) == (15, 5)  # what was not read left room for it
    third = put(50, *FIRECRACKER, threads=dict.fromkeys((51, 52), (TICK, "x")), cpu_ticks=2)
    assert times.read(vm_of(third)) == (2 * TICK, None)

    process.threads, process.cpu_ticks = few, 57
    process.write()
    times.keep_only([vm_of(process)])
    total = times.read(vm_of(process))
    assert total is not None
    assert total[0] >= 56 * TICK
    assert total[1] == 9 * TICK


def test_ended_threads_stay_counted(host: Host, put: Put) -> None:
    """What a thread had when it was last read is kept; a number that comes back is a new thread."""
    first = {20: (10, "m"), 21: (500, "fc_vcpu 0"), 22: (90, "pool")}
    process = put(20, *FIRECRACKER, threads=first)
    times = ThreadTimes(host)
    assert times.read(vm_of(process)) == (600, 500)

    process.threads = {20: (11, "m"), 22: (4, "fc_vcpu 1")}
    process.write()
    assert times.read(vm_of(process)) == (605, 504)


def test_what_ended_before_anybody_looked_is_not_missed(host: Host, put: Put) -> None:
    """The process's own total knows of threads never seen; after it the nanoseconds count on."""
    process = put(20, *FIRECRACKER, cpu_ticks=300, threads={21: (1000, "fc_vcpu 0")})
    times = ThreadTimes(host)
    assert times.read(vm_of(process)) == (299 * TICK, 1000)

    process.threads = {21: (1500, "fc_vcpu 0")}
    process.write()
    assert times.read(vm_of(process)) == (299 * TICK + 500, 1500)


def test_it_never_falls(host: Host, put: Put) -> None:
    """Whatever is read, neither figure gets smaller while the process lives."""
    process = put(20, *FIRECRACKER, cpu_ticks=50, threads={21: (9 * SECOND, "fc_vcpu 0")})
    times = ThreadTimes(host)
    before = times.read(vm_of(process))
    assert before == (9 * SECOND, 9 * SECOND)
    for threads in (
        {21: (10 * SECOND, "x")},
        {},
        {21: (1, "x")},
        {21: (0, "x"), 22: (3, "fc_vcpu 0")},
        {20: (0, "x")},
    ):
        process.threads = threads
        process.write()
        now = times.read(vm_of(process))
        assert now is not None
        assert now.cpu_ns >= before.cpu_ns
        assert now.vcpu_ns is not None
        assert before.vcpu_ns <= now.vcpu_ns <= now.cpu_ns
        before = now


@pytest.mark.parametrize("has_schedstat", [True, False])
def test_without_schedstat_the_process_is_read(host: Host, put: Put, has_schedstat: bool) -> None:
    """Missing files, or zeros from a kernel that does not count: ticks, and no split."""
    process = put(20, *FIRECRACKER, cpu_ticks=300, has_schedstat=has_schedstat)
    process.threads = {21: (0, "fc_vcpu 0")}
    process.write()
    times = ThreadTimes(host)
    assert times.read(vm_of(process)) == (300 * TICK, None)
    process.cpu_ticks = 299
    process.write()
    assert times.read(vm_of(process)) == (300 * TICK, None)


def test_another_process_under_the_pid_has_nothing(host: Host, put: Put) -> None:
    """What ended is None, and a later process does not get what the earlier one used."""
    process = put(20, *FIRECRACKER, threads={21: (SECOND, "fc_vcpu 0")})
    vm, times = vm_of(process), ThreadTimes(host)
    assert times.read(vm) == (SECOND, SECOND)

    process.start_ticks += 1
    process.threads = {21: (7, "fc_vcpu 0")}
    process.write()
    assert times.read(vm) is None
    assert times.read(vm_of(process)) == (7, 7)
    process.remove()
    assert times.read(vm_of(process)) is None


def test_forgotten_hypervisors_are_read_as_new(host: Host, put: Put) -> None:
    """Only those that somebody still wants are remembered."""
    process = put(20, *FIRECRACKER, threads={21: (100, "fc_vcpu 0"), 22: (50, "fc_api")})
    times = ThreadTimes(host)
    times.read(vm_of(process))
    process.threads = {21: (100, "fc_vcpu 0")}
    process.write()

    times.keep_only([vm_of(process)])
    assert times.read(vm_of(process)) == (150, 100)
    times.keep_only([])
    assert times.read(vm_of(process)) == (100, 100)


def test_schedstats() -> None:
    """The first number counts; without one there is none."""
    told = {b"12 3 4\n": 12, b"": None, None: None, b"x 1 2": None}

    assert {data: parse_schedstat_ns(data) for data in told} == told

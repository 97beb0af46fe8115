"""Processes against this machine's own kernel: none lost by the programs, ends by taskstats."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.sim.bpf import loaded, require_bpf
from tests.sim.cgrouptree import RealCgroups, real_base
from tests.sim.loads import Load, NoCompilerError, compile_load
from tychod import config
from tychod.clock import SystemClock
from tychod.config import Config
from tychod.hostfs import Host, own_capabilities
from tychod.kernel.bpf import abi, syscall
from tychod.kernel.bpf.attach import make_plan
from tychod.kernel.bpf.processes import BpfProcesses, ExitRing, counts_processes
from tychod.kernel.procscan import ProcScan, without_exits
from tychod.kernel.taskstats import CAP_NET_ADMIN, ExitListener, Refusal, listen
from tychod.samples import CgroupRef, ProcessUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

PATIENCE_S = 20.0
PER_SECOND, SECONDS, USED_US = 1667, 3, 500
BUSY_THREADS = """
import threading, time
def use():
    while time.thread_time() < 0.1:
        pass
threads = [threading.Thread(target=use) for _ in range(3)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


@pytest.fixture
def cgroups(run_name: str) -> Iterator[RealCgroups]:
    """Return a place for cgroups of this run in cgroup2, removed at the end."""
    base = real_base("v2")
    if base is None:
        pytest.skip("no writable cgroup v2 hierarchy below /sys/fs/cgroup")
    with RealCgroups(base, run_name) as made:
        yield made


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return the compiled load."""
    try:
        return compile_load(tmp_path)
    except NoCompilerError as exc:
        pytest.skip(str(exc))


def wait_for(found: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.bpf
def test_short_processes_are_all_seen_and_add_up(cgroups: RealCgroups, program: Path) -> None:
    """Of 5000 processes of 0.5 ms 99.9 % are seen; their sum is their cgroup's counter, to the ns.

    What the table had no room for is counted, and is the only thing that may be missing.
    """
    place = cgroups.make("short")
    cgid = place.stat().st_ino
    require_bpf()
    settings = Config(host=config.Host(hierarchy="v2"))
    plan = replace(make_plan(Host(settings.host), settings), processes=True)
    with loaded(plan) as found:
        views = abi.view_maps(found.maps)
        assert counts_processes(views.ctl)
        ring = ExitRing(found.maps["ty_exit"])
        refs = {cgid: CgroupRef(f"/{place.name}", cgid)}
        reader = BpfProcesses(
            syscall, os.dup(found.maps["ty_proc"]), ring, views.ctl, lambda: refs, SystemClock()
        )
        reader.read()
        with Load(program, place, SECONDS, "spawn", PER_SECOND, USED_US) as load:
            load.go()
            used: dict[tuple[int, int], ProcessUse] = {}
            for _ in range(SECONDS + 1):
                time.sleep(1.0)
                used |= ours(reader, cgid)
            count = load.finish()
        for _ in range(2):  # an end is reported twice, the second time with all of it
            used |= ours(reader, cgid)
        left = ours(reader, cgid)
        slot = views.info["cgid"].tolist().index(cgid)
        counted_ns = sum(int(row[slot]["ns"][abi.TASK]) for row in views.total)
        lost_ns = int(views.ctl["proc_lost"][0])
        reader.close()

    summed_ns = sum(use.cpu_ns for use in used.values())
    assert count >= PER_SECOND * SECONDS * 0.999
    assert len(used) >= 0.999 * count
    assert counted_ns - lost_ns <= summed_ns <= counted_ns
    assert [use for use in used.values() if not use.exited] == []
    assert left == {}


def ours(reader: BpfProcesses, cgid: int) -> dict[tuple[int, int], ProcessUse]:
    """Read once; return what is of this cgroup."""
    return {(u.pid, u.start_ns): u for u in reader.read().uses if u.key == cgid}


@pytest.fixture
def exits() -> Iterator[ExitListener]:
    """Return a listener to this machine's kernel."""
    if not own_capabilities() >> CAP_NET_ADMIN & 1:
        pytest.skip("taskstats takes CAP_NET_ADMIN")
    found = listen(Host(Config().host), own_capabilities())
    if isinstance(found, Refusal):
        pytest.skip(f"no taskstats here: {found.reason}")
    assert isinstance(found, ExitListener)
    yield found
    found.close()


def test_an_end_is_told_with_all_threads_and_its_cgroup(
    exits: ExitListener, cgroups: RealCgroups
) -> None:
    """A process that lived between two readings is one row: its threads' time, its own cgroup."""
    place = cgroups.make("ends")
    refs = {7: CgroupRef(f"/{place.relative_to(cgroups.top.parent)}", place.stat().st_ino)}
    scan = ProcScan(Host(Config().host), "v2", lambda: refs, SystemClock(), exits)
    scan.read()
    enter = f"open({str(place / 'cgroup.procs')!r}, 'w').write('0')\n"
    child = subprocess.Popen([sys.executable, "-S", "-c", enter + BUSY_THREADS])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # its end waits to be reaped
    time.sleep(0.2)  # for the listener's thread
    child.wait()
    rows = [use for use in scan.read().uses if use.pid == child.pid]
    ticks_ns = 3 * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    assert len(rows) == 1
    assert rows[0].exited
    assert rows[0].key == 7
    assert rows[0].cpu_ns >= 300_000_000 - ticks_ns
    assert abs(rows[0].start_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < PATIENCE_S * 1e9
    assert scan.reason is None


def test_many_ends_are_all_told(exits: ExitListener) -> None:
    """Of 300 processes that end at once not one is missing, nor is one told twice."""
    exits.drain()
    children = [subprocess.Popen(["true"]) for _ in range(300)]
    for child in children:
        child.wait()
    wanted = {child.pid for child in children}
    told: list[int] = []

    def all_told() -> bool:
        told.extend(one.pid for one in exits.drain() if one.pid in wanted)
        return len(told) >= len(wanted)

    wait_for(all_told)
    assert sorted(told) == sorted(wanted)
    assert exits.reason is None


def test_without_the_capability_it_says_what_to_do() -> None:
    """A daemon that may not listen says so, with the drop-in that would let it."""
    refused = listen(Host(Config().host), 0)

    assert isinstance(refused, Refusal)
    assert "CAP_NET_ADMIN" in refused.reason
    assert refused.remedy is not None
    assert "taskstats.conf" in refused.remedy


def test_the_scan_sees_what_lives_and_what_it_used(cgroups: RealCgroups) -> None:
    """A busy process is listed with its name, its cgroup and no less time than it had before."""
    place = cgroups.make("busy")
    load = cgroups.load(place, 1.0)
    refs = {9: CgroupRef(f"/{place.relative_to(cgroups.top.parent)}", place.stat().st_ino)}
    scan = ProcScan(
        Host(Config().host), "v2", lambda: refs, SystemClock(), without_exits("none wanted")
    )
    before = {use.pid: use for use in scan.read().uses}
    time.sleep(0.5)
    after = {use.pid: use for use in scan.read().uses}
    scan.close()

    assert after[load.pid].key == 9
    assert not after[load.pid].exited
    assert after[load.pid].comm.startswith("python")
    assert after[load.pid].cpu_ns > before[load.pid].cpu_ns
    assert before.keys() & after.keys() >= {1, os.getpid()}
    assert scan.reason == "none wanted"

"""Kernel accounting on the real kernel, against witnesses that count in another way.

The scheduler's clock starts a task a little before our tracepoint does: cpu.stat may differ by 3 us
a switch and one tick.  Time that the hypervisor stole is in ours and not in cpu.stat.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from tests.sim.bpf import loaded, require_bpf
from tests.sim.cgrouptree import RealCgroups, real_base
from tests.sim.kernelmaps import (
    KernelMaps,
    accounted,
    drain,
    first,
    inode,
    own_ns,
    plan_for,
    reading,
)
from tests.sim.loads import Load, NoCompilerError, compile_load
from tychod.kernel.bpf import abi
from tychod.samples import KERNEL_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sim.kernelmaps import Version

pytestmark = [pytest.mark.root, pytest.mark.bpf]

SWITCH_NS = 3_000
JIFFY_NS = round(1e9 * time.clock_getres(6))  # CLOCK_MONOTONIC_COARSE: a tick of this kernel
USER_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

MOVER = """
import os, sys, time
cpu, steps, *places = sys.argv[1:]
doors = [os.open(place + "/cgroup.procs", os.O_WRONLY) for place in places]
os.sched_setaffinity(0, {int(cpu)})
for step in steps.split():
    os.write(doors[int(step[0])], b"0")
    end = time.thread_time_ns() + 1000 * int(step[1:])
    while time.thread_time_ns() < end:
        pass
"""
"""Moves itself: each step is a place and how many microseconds it stays there.

cpu.stat gives a task's time since the last tick or switch to where it is then; asking for its own
time brings cpu.stat up to date first.
"""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled loads."""
    try:
        return compile_load(tmp_path_factory.mktemp("load"))
    except NoCompilerError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def version() -> Version:
    """Return the hierarchy of the test; cgroup2 unless it says otherwise."""
    return "v2"


@pytest.fixture
def cgroups(version: Version, run_name: str) -> Iterator[RealCgroups]:
    """Return a place for cgroups of this run, removed at the end."""
    require_bpf()
    base = real_base(version)
    if base is None:
        pytest.skip(f"no writable cgroup {version} hierarchy below /sys/fs/cgroup")
    with RealCgroups(base, run_name) as made:
        yield made


class Times(NamedTuple):
    """The machine's times by /proc/stat, in nanoseconds."""

    idle_ns: int
    steal_ns: int


def read_times() -> Times:
    """Read /proc/stat."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    _, _, _, idle, iowait, _, _, steal = (USER_TICK_NS * int(x) for x in fields[:8])
    return Times(idle + iowait, steal)


def usage_ns(cgroup: Path) -> int:
    """Return the kernel's own count of a cgroup, its children included."""
    try:
        return int((cgroup / "cpuacct.usage").read_text())
    except FileNotFoundError:
        return 1000 * int((cgroup / "cpu.stat").read_text().split()[1])


def allowed_ns(switches: int, since: Times, maps: KernelMaps) -> int:
    """Return how far cpu.stat may be away: a switch that nobody told us is noticed by the tick."""
    untold = int(maps.views.ctl["missed"][0])
    stolen_ns = read_times().steal_ns - since.steal_ns
    return SWITCH_NS * switches + JIFFY_NS * (1 + untold) + stolen_ns


def assert_as_counted(maps: KernelMaps, cgroup: Path, since: Times) -> None:
    """Compare all time of a cgroup, interrupts while it ran included, with the kernel's count."""
    time.sleep(0.05)  # a task that has been waited for may not have left its CPU yet
    used = maps.used(inode(cgroup))
    witness_ns = usage_ns(cgroup)

    assert used.sum_ns > 0
    assert abs(used.sum_ns - witness_ns) <= allowed_ns(used.switches, since, maps), cgroup.name


# ---- the witnesses ----


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_each_load_is_the_kernels_count(cgroups: RealCgroups, load: Path, version: Version) -> None:
    """Spinning, switching, datagrams and short lives: each cgroup has what the kernel counted."""
    kinds = (("busy",), ("pingpong",), ("udp", 20), ("spawn", 500, 200))
    with accounted(version) as maps, ExitStack() as running:
        since = read_times()
        places = [cgroups.make(str(words[0])) for words in kinds]
        loads = [
            running.enter_context(Load(load, place, 1.5, *words))
            for place, words in zip(places, kinds, strict=True)
        ]
        for one in loads:
            one.go()
        for one in loads:
            one.finish()

        for place in places:
            assert_as_counted(maps, place, since)
        assert maps.used(inode(cgroups.top)).sum_ns == 0
        assert maps.partition_error_ns() == 0


def test_idle_time_is_the_kernels(cgroups: RealCgroups, load: Path) -> None:
    """Idle time of the node is what /proc/stat says, within its ticks."""
    with accounted("v2") as maps:
        cpus = len(maps.views.cpu)
        with Load(load, cgroups.make("busy"), 1.5, "busy", cpu=0) as one, reading(maps) as reader:
            one.go()
            time.sleep(0.2)
            before = read_times()
            start = first(reader)[-1]
            switches = int(maps.views.cpu["switches"].sum())
            samples = drain(reader, 1.0)
            after = read_times()
            switches = int(maps.views.cpu["switches"].sum()) - switches
            one.finish()
        # Idle time between the witness's readings and the samples' ends is one CPU's at most.
        apart_ns = abs((samples[-1].idle_ns - start.idle_ns) - (after.idle_ns - before.idle_ns))

    assert apart_ns <= SWITCH_NS * switches + cpus * (USER_TICK_NS + 3 * abi.BUCKET_NS)


def test_two_cpus_in_one_cgroup(cgroups: RealCgroups, load: Path) -> None:
    """CPUs that charge one cgroup at the same time lose nothing to each other, nor a switch."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    cgroup = cgroups.make("both")
    with accounted("v2") as maps, ExitStack() as running:
        since = read_times()
        loads = [
            running.enter_context(Load(load, cgroup, 1.0, "pingpong", cpu=cpu)) for cpu in cpus
        ]
        for one in loads:
            one.go()
        rounds = sum(one.finish() for one in loads)

        assert maps.used(inode(cgroup)).switches >= 2 * rounds
        assert_as_counted(maps, cgroup, since)
        assert maps.partition_error_ns() == 0


def test_every_flag_on(cgroups: RealCgroups, load: Path) -> None:
    """With processes and every counter on all still holds, and software counters fit the times."""
    names = ("sw:task-clock", "sw:context-switches", "sw:page-faults")
    busy, ping = cgroups.make("busy"), cgroups.make("ping")
    with loaded(plan_for("v2", processes=True, counters=names)) as found, ExitStack() as running:
        since = read_times()
        if found.notes:
            pytest.skip("; ".join(found.notes))
        maps = KernelMaps(found.maps, "v2")
        loads = [
            running.enter_context(Load(load, busy, 1.0, "busy")),
            running.enter_context(Load(load, ping, 1.0, "pingpong")),
        ]
        for one in loads:
            one.go()
        for one in loads:
            one.finish()
        pmu = maps.views.pmu
        assert pmu is not None
        for place in (busy, ping):
            assert_as_counted(maps, place, since)
            used = maps.used(inode(place))
            row = pmu[:, maps.slot(inode(place))]
            clock_ns, switches, _ = (int(n) for n in row["value"].sum(axis=0))
            margin_ns = allowed_ns(used.switches, since, maps)
            assert abs(clock_ns - used.sum_ns) <= margin_ns
            assert all(abs(int(ns) - used.sum_ns) <= margin_ns for ns in row["ns"].sum(axis=0))
            # The kernel counts a switch just after our tracepoint: a task that comes has it.  One
            # that it did not tell us of is counted for whoever we take to be running.
            missed = int(maps.views.ctl["missed"][0])
            assert abs(switches - used.switches) <= len(maps.views.cpu) + missed
        assert maps.partition_error_ns() == 0


# ---- when, and whose ----


def test_a_task_that_never_switches_is_in_every_bin(cgroups: RealCgroups, load: Path) -> None:
    """A real-time task that never leaves its CPU fills every 50 ms, and no bin beyond the CPU."""
    cgroup = cgroups.make("fifo")
    cpu = max(os.sched_getaffinity(0))
    with accounted("v2") as maps, reading(maps) as reader:
        # 0.8 s: less than what the kernel lets a real-time task have in a second.
        with Load(load, cgroup, 0.8, "busy", cpu=cpu) as one:
            os.sched_setscheduler(one.pid, os.SCHED_FIFO, os.sched_param(10))
            one.go()
            samples = drain(reader, 1.0)
            one.finish()
        key = inode(cgroup)
        bins = np.diff([own_ns(s, key) for s in samples])
        irqs = np.diff([own_ns(s, KERNEL_KEY) for s in samples])
        widths = np.diff([s.t_ns for s in samples])
        ran = np.flatnonzero(bins)
        inner = slice(int(ran[0]) + 1, int(ran[-1]))  # but for those in which it began and ended

        assert (widths == abi.BUCKET_NS).all()
        assert (bins <= abi.BUCKET_NS).all()
        assert len(bins[inner]) >= 13
        assert (bins[inner] + irqs[inner] >= abi.BUCKET_NS).all()


def test_a_moved_task_is_split(cgroups: RealCgroups, load: Path) -> None:
    """A running task that is moved 20 times leaves each cgroup its part, within 1 %.

    A switch that the kernel does not tell of may give up to a tick to the wrong one.
    """
    one, two = cgroups.make("one"), cgroups.make("two")
    with accounted("v2") as maps:
        with Load(load, one, 4.1, "busy", cpu=max(os.sched_getaffinity(0))) as running:
            running.go()
            for number in range(20):
                time.sleep(0.2)
                place = (two, one)[number % 2]
                (place / "cgroup.procs").write_text(str(running.pid))
            running.finish()
        for place in (one, two):
            used_ns, witness_ns = maps.used(inode(place)).sum_ns, usage_ns(place)
            untold_ns = JIFFY_NS * int(maps.views.ctl["missed"][0])
            assert abs(used_ns - witness_ns) <= witness_ns / 100 + untold_ns, place.name
        assert maps.partition_error_ns() == 0


@pytest.mark.parametrize("round_", ["11 0800", "11000 0800", "11000 2800 11000 0800"])
def test_moves_between_two_events(cgroups: RealCgroups, round_: str) -> None:
    """Who moves again before the CPU's next event leaves each cgroup its part, there and back."""
    places = [cgroups.make(name) for name in ("one", "two", "three")]
    steps = " ".join(["01000", *[round_] * 300])
    with accounted("v2") as maps:
        since = read_times()
        cpu = max(os.sched_getaffinity(0))
        command = [sys.executable, "-c", MOVER, str(cpu), steps, *map(str, places)]
        subprocess.run(command, check=True)
        time.sleep(0.05)
        used = [maps.used(inode(place)) for place in places]
        # As at a switch, the kernel's clock changes hands a little before the tracepoint.
        events = len(steps.split()) + sum(one.switches for one in used)
        allowed = allowed_ns(events, since, maps)

        for place, one in zip(places, used, strict=True):
            assert abs(one.sum_ns - usage_ns(place)) <= allowed, place.name
        assert maps.partition_error_ns() == 0


@pytest.mark.parametrize("kind", ["born", "moved"])
def test_cgroups_that_live_for_one_process(cgroups: RealCgroups, load: Path, kind: str) -> None:
    """A hundred cgroups with one short process each are all accounted, none in its parent."""
    places = [cgroups.make(f"c{number}") for number in range(100)]
    cgids = [inode(place) for place in places]
    with accounted("v2") as maps:
        since = read_times()
        if kind == "born":
            with Load(load, None, 1.0, "born", 1000, *places) as one:
                one.go()
                one.finish()
        else:
            for place in places:
                with Load(load, place, 0.001, "spawn", 1000, 1000) as one:
                    one.go()
                    one.finish()
        time.sleep(0.05)
        witness_ns = sum(usage_ns(place) for place in places)
        for place in places:
            place.rmdir()
        used = [maps.used(cgid) for cgid in cgids]
        slots = [maps.slot(cgid) for cgid in cgids]
        names = [maps.views.info["name"][slot].decode() for slot in slots]
        gone = [int(maps.views.info["gone"][slot]) for slot in slots]

        switches = sum(one.switches for one in used)
        # A process ends when its own clock says so; a switch that nobody told us is another's time.
        short_ns = sum(max(0, 1_000_000 - one.sum_ns) for one in used)
        assert all(one.sum_ns > 0 for one in used)
        assert short_ns <= allowed_ns(switches, since, maps)
        assert names == [place.name for place in places]
        assert all(gone)
        apart_ns = abs(sum(one.sum_ns for one in used) - witness_ns)
        assert apart_ns <= allowed_ns(switches, since, maps)
        assert maps.used(inode(cgroups.top)).sum_ns == 0


def test_processes_add_up_to_their_cgroup(cgroups: RealCgroups, load: Path) -> None:
    """Every short-lived process is there, and together they are their cgroup, to the nanosecond."""
    cgroup = cgroups.make("short")
    with accounted("v2", processes=True) as maps:
        with Load(load, cgroup, 1.0, "spawn", 500, 500) as one:
            one.go()
            spawned = one.finish()
        time.sleep(0.05)
        _, values = maps.processes(inode(cgroup))
        lost_ns = int(maps.views.ctl["proc_lost"][0])

        assert len(values) >= 0.999 * (spawned + 1)
        assert int(values["ns"].sum()) + lost_ns == maps.used(inode(cgroup)).sum_ns

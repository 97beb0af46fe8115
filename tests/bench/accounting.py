"""What kernel accounting costs and how exact it is, on this machine's own kernel.

Root, BTF, clang and a C compiler are needed; what is missing is said and not measured.
"""

import os
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.daemon import say
from tests.bench.figures import Figure
from tests.sim.bpf import bpf_lock, why_not
from tests.sim.bpfstats import Spent, read_spent, stats_on
from tests.sim.cgrouptree import RealCgroups, real_base
from tests.sim.kernelmaps import Version, accounted, close_all, inode, plan_for
from tests.sim.loads import Load, NoCompilerError, compile_load
from tychod.kernel.bpf import child, libbpf
from tychod.kernel.bpf.core import load_core
from tychod.kernel.bpf.reader import BpfReader, Figures

MIXED_S: Final = 30.0
WINDOW_DRAINS: Final = 3  # a window is 3 s, a drain 1 s
SPAWNS_PER_S: Final = 1000
SHORT_LIVES: Final = 5000
SHORT_USEC: Final = 500
CGROUPS: Final = 1000
DRAINS: Final = 12
REPEATS: Final = 3
LOADS: Final = 9
EMPTY: Final = Path(__file__).with_name("empty.bpf.c")
OTHERS: Final = ("ty_irq_in", "ty_irq_out", "ty_softirq_in", "ty_softirq_out")


class Place(NamedTuple):
    """Where a measurement runs."""

    load: Path  # the compiled loads
    empty: Path  # the compiled empty program
    cgroups: RealCgroups
    version: Version


def measure() -> list[Figure]:
    """Return every figure of kernel accounting that this machine can give."""
    lacking = why_not()
    if lacking:
        say(f"kernel accounting: not measured, {lacking}")
        return []
    parts: tuple[Callable[[Place], list[Figure]], ...] = (
        measure_switch,
        measure_read,
        measure_short_lives,
        measure_load,
        measure_partition,
    )
    figures = []
    for part in parts:
        try:
            with prepared() as place:
                figures += part(place)
        except (NoCompilerError, subprocess.CalledProcessError, FileNotFoundError) as exc:
            say(f"{part.__name__}: not measured, {exc}")
    return figures


@contextmanager
def prepared() -> Iterator[Place]:
    """Compile what is needed, and make a place for cgroups; everything is gone afterwards."""
    version: Version = "v2" if real_base("v2") else "v1"
    base = real_base(version)
    if base is None:
        raise FileNotFoundError("no cgroup hierarchy can be written here (needs root)")
    with ExitStack() as undo:
        name = undo.enter_context(tempfile.TemporaryDirectory(prefix="tychod-bench-"))
        empty = Path(name) / "empty.bpf.o"
        clang = ["clang", "-O2", "-g", "-target", "bpf", "-c", str(EMPTY), "-o", str(empty)]
        subprocess.run(clang, check=True)
        load = compile_load(Path(name))
        prefix = f"tychod-bench-{secrets.token_hex(4)}"
        yield Place(load, empty, undo.enter_context(RealCgroups(base, prefix)), version)


# ---- cost of a switch ----


def measure_switch(place: Place) -> list[Figure]:
    """Net time of the programs at each task switch: the kernel's measure, less an empty one's."""
    say(f"cost of a task switch, {4 * REPEATS} s")
    rounds = [measure_switch_once(place) for _ in range(REPEATS)]
    median = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    return [
        Figure("an empty program (subtracted below)", median["empty"], "ns", None),
        Figure("a switch, cgroups, net", median["cgroups"], "ns", 100.0),
        Figure("a switch between two cgroups, net", median["between"], "ns", 100.0),
        Figure("a switch, cgroups and processes, net", median["processes"], "ns", 150.0),
        *(
            Figure(f"program {name.removeprefix('ty_')}, net", median[name], "ns", None)
            for name in OTHERS
            if name in median
        ),
    ]


def measure_switch_once(place: Place) -> dict[str, float]:
    """Return net nanoseconds of a run: of each kind of switch, and of the other programs."""
    one, two = place.cgroups.make("one"), place.cgroups.make("two")
    with bpf_lock():
        empty = run_empty(place, one)
        by_cgroup = run_loaded(place, one, processes=False)
        between = run_loaded(place, one, str(two / "cgroup.procs"), processes=False)
        by_process = run_loaded(place, one, processes=True)
    return {
        **{k: s.mean_ns - empty for k, s in by_cgroup.items() if s.runs and k != "ty_switch"},
        "empty": empty,
        "cgroups": by_cgroup["ty_switch"].mean_ns - empty,
        "between": between["ty_switch"].mean_ns - empty,
        "processes": by_process["ty_switch"].mean_ns - empty,
    }


def run_empty(place: Place, cgroup: Path) -> float:
    """Return what one run of a program that does nothing seems to take, in nanoseconds."""
    file = libbpf.ObjectFile(libbpf.open_library(), str(place.empty))
    try:
        file.load()
        (program,) = file.programs()
        link = program.attach()
    finally:
        file.close()
    try:
        return spent_by(place, cgroup, {"empty": link})["empty"].mean_ns
    finally:
        os.close(link)


def run_loaded(place: Place, cgroup: Path, *words: str, processes: bool) -> dict[str, Spent]:
    """Return what our programs take."""
    found = load_core(plan_for(place.version, processes=processes))
    try:
        return spent_by(place, cgroup, found.links, *words)
    finally:
        close_all(found)


def spent_by(place: Place, cgroup: Path, links: Mapping[str, int], *words: str) -> dict[str, Spent]:
    """Return the time of programs during a second of ping-pong on one CPU."""
    with stats_on(), Load(place.load, cgroup, 1.0, "pingpong", *words, cpu=0) as load:
        before = read_spent(links)
        load.go()
        load.finish()
        after = read_spent(links)
    return {name: after[name] - before[name] for name in links}


# ---- cost of reading ----


def measure_read(place: Place) -> list[Figure]:
    """CPU time of a drain while a thousand real cgroups have all run in the last second."""
    say(f"reading {CGROUPS} cgroups, {DRAINS} s")
    paths = [place.cgroups.make(f"c{number}") for number in range(CGROUPS)]
    costs_ms, active = [], []
    with accounted(place.version) as maps:
        reader = maps.reader()
        try:
            first_sample(reader)
            for _ in range(DRAINS):
                began = time.monotonic()
                with Load(place.load, None, 1.0, "born", 0, *paths) as load:
                    load.go()
                    load.finish()
                time.sleep(max(0.0, began + 1.0 - time.monotonic()))
                used_ns = time.thread_time_ns()
                samples = reader.read()
                costs_ms.append((time.thread_time_ns() - used_ns) / 1e6)
                used = samples[-1].own_ns - samples[0].own_ns
                active.append(int((used > 0).sum()))
        finally:
            reader.close()
    costs_ms, active = costs_ms[2:], active[2:]
    return [
        Figure("cgroups that ran between two readings, least", min(active), "cgroups", None),
        Figure(
            f"a second of {CGROUPS} cgroups x 20 bins: median", median_of(costs_ms), "ms CPU", 1
        ),
        Figure(f"a second of {CGROUPS} cgroups x 20 bins: worst", max(costs_ms), "ms CPU", None),
    ]


def median_of(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def first_sample(reader: BpfReader) -> None:
    """Read until there is a first sample."""
    for _ in range(100):
        if reader.read():
            return
        time.sleep(0.05)
    raise RuntimeError(f"no first sample: {reader.failure}")


# ---- short-lived processes ----


def measure_short_lives(place: Place) -> list[Figure]:
    """Which of 5000 short-lived processes are seen, and whether they add up to their cgroup."""
    say(f"{SHORT_LIVES} processes of {SHORT_USEC / 1000} ms")
    cgroup = place.cgroups.make("short")
    with accounted(place.version, processes=True) as maps:
        seconds = SHORT_LIVES / SPAWNS_PER_S
        words = ("spawn", SPAWNS_PER_S, SHORT_USEC)
        with Load(place.load, cgroup, seconds, *words) as load:
            load.go()
            spawned, parent = load.finish(), load.pid
        time.sleep(0.1)
        keys, values = maps.processes(inode(cgroup))
        total_ns = maps.used(inode(cgroup)).sum_ns
        lost_ns = int(maps.views.ctl["proc_lost"][0])
    seen = len({(int(k["tgid"]), int(k["start"])) for k in keys if int(k["tgid"]) != parent})
    apart_ns = total_ns - int(values["ns"].sum())
    return [
        Figure(f"unseen of {spawned} processes", 100 * (1 - seen / spawned), "%", 0.1),
        Figure("their cgroup's counter - their sum", float(abs(apart_ns)), "ns", 0.0),
        Figure("CPU time without a place in the process map", float(lost_ns), "ns", None),
    ]


# ---- time to load ----


def measure_load(place: Place) -> list[Figure]:
    """Time from nothing to attached programs, in this process and by a child."""
    say(f"load and attach, {2 * LOADS} times")
    plan = plan_for(place.version)
    inside, by_child = [], []
    with bpf_lock():
        for _ in range(LOADS):
            began = time.monotonic()
            found = load_core(plan)
            inside.append(1e3 * (time.monotonic() - began))
            close_all(found)
            began = time.monotonic()
            found = child.load_in_child(plan, child.core_backend())
            by_child.append(1e3 * (time.monotonic() - began))
            close_all(found)
    return [
        Figure("load and attach", median_of(inside), "ms", 150.0),
        Figure("the same with starting a Python process", median_of(by_child), "ms", None),
    ]


# ---- partition ----


def measure_partition(place: Place) -> list[Figure]:
    """How exactly the published times add up to the CPUs' time under a mixed load."""
    say(f"partition under a mixed load, {MIXED_S:.0f} s")
    with accounted(place.version) as maps, ExitStack() as running:
        reader = maps.reader()
        running.callback(reader.close)
        first_sample(reader)
        cpus = int((maps.views.cpu["ts"] != 0).sum())
        loads = [running.enter_context(load) for load in mixed_loads(place)]
        drains = Drains(reader, cpus)
        for load in loads:
            load.go()
        began = time.monotonic()
        drains.run(began, round(MIXED_S))
        for load in loads:
            load.finish()
        drains.run(time.monotonic(), 2)
        quiet_ns = maps.partition_error_ns()
        stats = reader.figures
    return [*partition_figures(drains, cpus), *quality(stats, quiet_ns)]


def mixed_loads(place: Place) -> Iterator[Load]:
    """Start each load in a cgroup of its own."""
    for kind, *words in (
        ("spawn", SPAWNS_PER_S, 0),
        ("busy",),
        ("pingpong",),
        ("udp", 20),
    ):
        cgroup = place.cgroups.make(f"mixed-{kind}")
        yield Load(place.load, cgroup, MIXED_S, str(kind), *words)


class Drains:
    """Reads as the daemon does, and keeps how far the sums are from the CPUs' time."""

    def __init__(self, reader: BpfReader, cpus: int) -> None:
        self._reader = reader
        self._cpus = cpus
        self._first: tuple[int, int] | None = None
        self.errors_ns: list[int] = []
        self.wall_ns = 0

    def run(self, began: float, count: int) -> None:
        """Read once a second, on deadlines."""
        for number in range(1, count + 1):
            time.sleep(max(0.0, began + number - time.monotonic()))
            samples = self._reader.read()
            if not samples:
                raise RuntimeError(f"no sample: {self._reader.failure}")
            last = samples[-1]
            counted_ns = int(last.own_ns.sum()) + last.idle_ns
            if self._first is None:
                self._first = (last.t_ns, counted_ns)
            self.wall_ns = last.t_ns - self._first[0]
            error = counted_ns - self._first[1] - self._cpus * self.wall_ns
            self.errors_ns.append(error)


def partition_figures(drains: Drains, cpus: int) -> list[Figure]:
    """Return the errors: over the whole run, of the worst window, and of all windows together."""
    edges = drains.errors_ns[::WINDOW_DRAINS]
    windows = [b - a for a, b in pairwise(edges)]
    worst = max(map(abs, windows)) / (cpus * WINDOW_DRAINS * 1e9)
    largest = max(map(abs, drains.errors_ns)) / (cpus * drains.wall_ns)
    return [
        Figure("partition error, cumulative, largest seen", largest, "of CPUs x t", 1e-6),
        Figure(
            "partition error, cumulative, largest seen", max(map(abs, drains.errors_ns)), "ns", None
        ),
        Figure("partition error, worst window of 3 s", worst, "of CPUs x t", 2e-5),
        Figure("signed errors of the windows, sum", abs(sum(windows)) / 1e3, "us", 100.0),
        Figure(
            "published sums - CPUs' time, after the load", float(drains.errors_ns[-1]), "ns", 0.0
        ),
    ]


def quality(stats: Figures, quiet_ns: int) -> list[Figure]:
    """Return what the reader counted, and the error once all is quiet."""
    return [
        Figure("partition error in the maps when quiet", float(abs(quiet_ns)), "ns", 0.0),
        Figure("snapshots with all tries used up", float(stats.exhausted), "of ~30", None),
        Figure("time moved to another bin", stats.late_ns / 1e6, "ms", None),
    ]

"""A restart in one boot loses nothing: totals as of a daemon that ran on, no counter falls."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from tests.property.test_conservation import node, sums
from tests.sim.world import MS, RESERVED, Load, Meter, World, container, cut, unit, zone
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, State
from tychod.kernel.cgroups import CpuBaseline, baseline_of
from tychod.model import Snapshot, Window
from tychod.runtime.store import Store
from tychod.samples import CpuSample, CpuSeries

PARAMS = Params(cpus=4, terminated_age_ns=4_000 * MS, terminated_max=3)
UNTIL_NS = 15_000 * MS
BOOT = "boot"


@dataclass(frozen=True)
class Process:
    """What one run of the daemon sees of a world: its own samples, and keys of its own."""

    world: World
    begun_ns: int
    baseline: CpuBaseline | None
    first_key: int

    def observe(self, window: Window) -> Observations:
        """Samples of this process in a window."""
        later = replace(
            self.world,
            energy_times=tuple(t for t in self.world.energy_times if t >= self.begun_ns),
        )
        times = tuple(t for t in self.world.cpu_times if t >= self.begun_ns)
        if self.baseline:
            times = (self.baseline.t_ns, *times)
        cpu = CpuSeries(
            "cgroup-v2",
            tuple(self.sample(t) for t in cut(times, window)),
            {load.key + self.first_key: load.ref for load in self.world.loads if load.key >= 0},
        )
        names = RESERVED | {
            load.key + self.first_key: load.identity for load in self.world.loads if load.key >= 0
        }
        return Observations(later.series(window), cpu, names, 10**18)

    def sample(self, t_ns: int) -> CpuSample:
        """A reading: own times are since this process began to count, totals are the kernel's."""
        there = self.world.cpu_sample(t_ns)
        keys = np.where(there.keys >= 0, there.keys + self.first_key, there.keys)
        since = self.counted_from(there.keys)
        # The first sample says what was saved: interpolated at the end of the last window.
        is_saved = self.baseline is not None and t_ns == self.baseline.t_ns
        total = since if is_saved else there.total_ns
        return CpuSample(t_ns, keys, total - since, total, 0)

    def counted_from(self, keys: "np.typing.NDArray[np.int64]") -> "np.typing.NDArray[np.int64]":
        """Each key's total when this process began to count it."""
        if self.baseline is None:
            return keys * 0
        refs = {load.key: load.ref for load in self.world.loads}
        reserved = {-1: self.baseline.kernel_ns, -2: self.baseline.outside_ns, -3: 0}
        return np.array(
            [
                self.baseline.totals.get(refs[k], 0) if k >= 0 else reserved[k]
                for k in keys.tolist()
            ],
            np.int64,
        )


@composite
def worlds(draw: DrawFn) -> World:
    """Workloads that live on once born, meters near a wrap, samples about every interval."""
    reserved = [
        Load(key, RESERVED[key], share) for key, share in ((-3, 0.0), (-2, 0.05), (-1, 0.1))
    ]
    loads = [
        Load(
            key,
            container(key, draw(st.integers(0, 1))) if key % 2 else unit(f"u{key}.service"),
            draw(st.floats(0, 1)),
            draw(st.sampled_from((0, 0, 2_300 * MS, 7_777 * MS))),
        )
        for key in range(draw(st.integers(1, 5)))
    ]
    limit = 262_143_328_850
    meters = [
        Meter(zone(name, limit), draw(st.floats(0, 30)), draw(st.floats(0, 9)), limit - offset)
        for name, offset in (("package-0", 60_000_000), ("dram-0", 5_000))
    ]
    shift = draw(st.integers(0, 49)) * MS
    return World(
        (*reserved, *loads),
        {"rapl": tuple(meters)},
        tuple(range(shift, UNTIL_NS + 1_000 * MS, 50 * MS)),
        tuple(range(shift, UNTIL_NS + 1_000 * MS, 500 * MS)),
    )


def saved_and_loaded(state: State, process: Process, window: Window) -> tuple[State, CpuBaseline]:
    """Through the file, as between two processes."""
    cpu = process.observe(window).cpu
    assert cpu is not None
    assert state.cpu_end is not None
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        try:
            store.save(BOOT, state, baseline_of(cpu.method, state.cpu_end, cpu.cgroups))
            loaded = store.load(BOOT, UNTIL_NS)
        finally:
            store.close()
    assert loaded is not None
    assert loaded.baseline is not None
    return loaded.state, loaded.baseline


def run(world: World, edges: tuple[int, ...], restarts: Mapping[int, int]) -> list[Snapshot]:
    """Analyse; after the windows named in ``restarts`` another process begins so much later."""
    process, state, found = Process(world, 0, None, 0), State(), []
    for k, (start, end) in enumerate(pairwise(edges)):
        window = Window(start, end)
        snapshot, state = analyse(process.observe(window), window, state, PARAMS)
        found.append(snapshot)
        if k in restarts:
            state, baseline = saved_and_loaded(state, process, window)
            process = Process(world, end + restarts[k], baseline, process.first_key + 10**9)
    return found


def counters(snapshot: Snapshot) -> dict[str, tuple[int, ...]]:
    """All energies and CPU time of each leaf, and each domain's and zone's energy."""
    found = {
        leaf.identity.id: (leaf.cpu_ns, *(x for _, e in sorted(leaf.energy.items()) for x in e))
        for leaf in snapshot.leaves
    }
    for name, domain in snapshot.domains.items():
        found |= {f"domain {name}": (domain.energy_uj,)}
        found |= {f"zone {zone.name}": (zone.energy_uj,) for zone in domain.zones}
    return found


EDGES = tuple(range(1_000 * MS, UNTIL_NS, 1_000 * MS))
RESTARTS = st.dictionaries(
    st.integers(1, len(EDGES) - 3), st.sampled_from((0, 60 * MS, 900 * MS)), max_size=3
)


@given(worlds(), RESTARTS)
def test_split_run_counts_what_the_whole_run_counts(
    world: World, restarts: Mapping[int, int]
) -> None:
    """Energy of each zone and CPU time of each leaf are those of a daemon that never stopped.

    Interpolated points are rounded down: 1 uJ and, by key, 2 ns at each restart.
    """
    whole, split = run(world, EDGES, {})[-1], run(world, EDGES, restarts)[-1]
    allowed = 1 + 2 * len(restarts)
    for name, domain in whole.domains.items():
        other = split.domains[name]
        assert abs(other.energy_uj - domain.energy_uj) <= allowed * len(domain.zones)
    cpu = {leaf.identity.id: leaf.cpu_ns for leaf in whole.leaves}
    for leaf in split.leaves:
        assert abs(leaf.cpu_ns - cpu[leaf.identity.id]) <= allowed * len(world.loads)


@given(worlds(), RESTARTS)
def test_no_counter_falls_over_a_restart(world: World, restarts: Mapping[int, int]) -> None:
    """Every counter goes on, so do sequence, `since` and first sights; the gap is told."""
    found = run(world, EDGES, restarts)
    for k, (before, after) in enumerate(pairwise(found)):
        old, new = counters(before), counters(after)
        for name, values in old.items():
            assert all(a >= b for a, b in zip(new[name], values, strict=True))
        assert after.sequence == before.sequence + 1
        assert after.since_ns == before.since_ns
        assert after.window.start_ns == before.window.end_ns
        assert after.gap == (k in restarts)
        assert after.conservation_violations == 0
        assert sums(after) == node(after)
    first = {leaf.identity.id: leaf.first_seen_ns for leaf in run(world, EDGES, {})[-1].leaves}
    assert {leaf.identity.id: leaf.first_seen_ns for leaf in found[-1].leaves} == first

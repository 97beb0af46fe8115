"""Promises 1 and 3: every microjoule lands once, in every window and for ever."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from tests.sim.world import MS, Load, Meter, World, container, unit, zone
from tychod.analysis.state import Params
from tychod.model import Energy, Identity, Leaf, Snapshot
from tychod.samples import CpuSample

PARAMS = Params(cpus=4, terminated_age_ns=4_000 * MS, terminated_max=3)


@composite
def grids(draw: DrawFn, until_ns: int, step_ns: int) -> tuple[int, ...]:
    """Sample times: about every ``step_ns``, with jitter and missing ones."""
    times, now = [], draw(st.integers(0, step_ns))
    while now <= until_ns:
        times.append(now)
        now += draw(st.sampled_from((step_ns, step_ns + 3 * MS, 2 * step_ns, 7 * step_ns)))
    return tuple(times)


@composite
def loads(draw: DrawFn, until_ns: int) -> tuple[Load, ...]:
    """Containers of pods, loose units and the kernel, with births and deaths."""
    found = [Load(-1, RESERVED_KERNEL, draw(st.floats(0, 0.2)))]
    for key in range(draw(st.integers(1, 7))):
        identity = draw(
            st.one_of(
                st.integers(0, 2).map(lambda pod, n=key: container(n, pod)),
                st.just(container(key)),
                st.just(unit(f"u{key}.service")),
            )
        )
        born = draw(st.one_of(st.just(0), st.integers(0, until_ns)))
        dies = draw(st.one_of(st.just(1 << 62), st.integers(born, until_ns + 1)))
        found.append(Load(key, identity, draw(st.floats(0, 1)), born, dies))
    return tuple(found)


RESERVED_KERNEL = Identity("kernel", "kernel", "kernel")


@composite
def meters(draw: DrawFn, until_ns: int) -> tuple[Meter, ...]:
    """Package zones of two sockets and dram, near a wrap, sometimes unreadable for a while."""
    found = []
    for name in draw(st.sampled_from((("package-0",), ("package-0", "package-1", "dram")))):
        limit = draw(st.sampled_from((262_143_328_850, 900_000_000)))
        fail_from = draw(st.integers(0, until_ns))
        fails = draw(st.sampled_from(((), ((fail_from, fail_from + 2_500 * MS),))))
        found.append(
            Meter(
                zone(name, limit, max_w=60.0),
                draw(st.floats(0, 20)),
                draw(st.floats(0, 8)),
                limit - draw(st.integers(1, 50_000_000)),
                fails,
            )
        )
    return tuple(found)


@composite
def worlds(draw: DrawFn) -> tuple[World, tuple[int, ...]]:
    """A world and the edges of its windows."""
    until = 12_000 * MS
    world = World(
        draw(loads(until)),
        {"rapl": draw(meters(until))},
        draw(grids(until, 50 * MS)),
        draw(grids(until, 500 * MS)),
    )
    edges = [1_000 * MS]
    while edges[-1] < until:
        edges.append(edges[-1] + draw(st.sampled_from((1_000 * MS, 3_000 * MS, 3_001 * MS))))
    return world, tuple(edges)


def sums(snapshot: Snapshot) -> dict[str, Energy]:
    """Add up all leaves, by domain."""
    total: dict[str, Energy] = {}
    for leaf in snapshot.leaves:
        for name, e in leaf.energy.items():
            had = total.get(name, Energy())
            total[name] = Energy(had.idle_uj + e.idle_uj, had.dynamic_uj + e.dynamic_uj)
    return total


def node(snapshot: Snapshot) -> dict[str, Energy]:
    """The node's split, by attributed domain."""
    return {
        name: Energy(d.idle_uj, d.dynamic_uj or 0)
        for name, d in snapshot.domains.items()
        if d.idle_uj is not None
    }


@given(worlds())
def test_leaves_add_up_to_the_node(case: tuple[World, tuple[int, ...]]) -> None:
    """In every window, for each domain and kind, the leaves sum to the node to the microjoule."""
    world, edges = case
    for snapshot in world.run(edges, PARAMS):
        assert sums(snapshot) == node(snapshot)
        assert snapshot.conservation_violations == 0
        for domain in snapshot.domains.values():
            assert domain.energy_uj == sum(z.energy_uj for z in domain.zones)
            if domain.idle_uj is not None:
                assert domain.idle_uj + (domain.dynamic_uj or 0) == domain.energy_uj


@given(worlds())
def test_node_energy_is_what_the_counters_counted(case: tuple[World, tuple[int, ...]]) -> None:
    """Through wraps, gaps and failing zones a zone's energy is the true difference of its counter.

    The tolerance is the interpolation between the two readings around each end of the run.
    """
    world, edges = case
    snapshots = world.run(edges, PARAMS)
    for meter in world.sources["rapl"]:
        read = [t for t in world.energy_times if world.reading(meter, t) is not None]
        through = [t for t in read if t <= edges[-1]]
        zones = {z.name: z for d in snapshots[-1].domains.values() for z in d.zones}
        if meter.zone.name not in zones or not through:
            continue
        shown = zones[meter.zone.name]
        first = max([t for t in read if t <= edges[0]][-1:] or read[:1])
        slack = _slack(world, meter, read, (edges[0], edges[-1]))
        begin = max(edges[0], first)
        last = edges[-1] if any(t >= edges[-1] for t in read) else through[-1]
        true_uj = world.energy_uj(meter, last) - world.energy_uj(meter, begin)

        assert abs(shown.energy_uj - max(true_uj, 0)) <= slack


def _slack(world: World, meter: Meter, read: Sequence[int], ends: tuple[int, ...]) -> int:
    """Energy of the sample intervals around the ends: interpolation cannot know more."""
    total = 2
    for end in ends:
        before = [t for t in read if t <= end][-1:]
        after = [t for t in read if t >= end][:1]
        if before and after:
            total += world.energy_uj(meter, after[0]) - world.energy_uj(meter, before[0]) + 2
    return total


@given(worlds())
def test_no_counter_ever_falls(case: tuple[World, tuple[int, ...]]) -> None:
    """Counters of a listed leaf, of the node and of the past never get smaller."""
    world, edges = case
    for before, after in pairwise(world.run(edges, PARAMS)):
        old = {leaf.identity.id: leaf for leaf in before.leaves}
        new = {leaf.identity.id: leaf for leaf in after.leaves}
        for leaf_id in old.keys() & new.keys():
            assert new[leaf_id].cpu_ns >= old[leaf_id].cpu_ns
            for name, energy in old[leaf_id].energy.items():
                assert new[leaf_id].energy[name].idle_uj >= energy.idle_uj
                assert new[leaf_id].energy[name].dynamic_uj >= energy.dynamic_uj
        for name, domain in before.domains.items():
            assert after.domains[name].energy_uj >= domain.energy_uj


@given(worlds())
def test_cpu_time_is_credited_once(case: tuple[World, tuple[int, ...]]) -> None:
    """All leaves together have the CPU time that the samples showed, evicted ones included.

    Rounding: each key's time is interpolated down to a nanosecond at either end of the run.
    """
    world, edges = case
    last = world.run(edges, PARAMS)[-1]
    samples = [world.cpu_sample(t) for t in world.cpu_times]
    keys = sorted({key for sample in samples for key in sample.keys.tolist()})
    expected = sum(shown_ns(samples, key, edges[-1]) for key in keys)
    expected -= sum(shown_ns(samples, key, edges[0]) for key in keys)

    assert abs(sum(leaf.cpu_ns for leaf in last.leaves) - expected) <= 2 * len(keys)


def shown_ns(samples: Sequence[CpuSample], key: int, t_ns: int) -> float:
    """CPU time of a key at a moment, as the samples show it: linear between, held after its end."""
    curve, reached = [], 0
    for sample in samples:
        own = dict(zip(sample.keys.tolist(), sample.own_ns.tolist(), strict=True))
        reached = max(reached, own.get(key, 0))
        curve.append((sample.t_ns, reached))
    if not curve:
        return 0.0
    return float(np.interp(t_ns, [t for t, _ in curve], [ns for _, ns in curve]))


@given(worlds(), st.randoms(use_true_random=False))
def test_order_and_keys_do_not_matter(case: tuple[World, tuple[int, ...]], rng: object) -> None:
    """Permuting workloads permutes the result and changes nothing else."""
    world, edges = case
    named = [load for load in world.loads if load.key >= 0]
    keys = [load.key for load in named]
    rng.shuffle(keys)  # type: ignore[attr-defined]
    moved = tuple(
        replace(load, key=key, inode=load.key + 1000) for load, key in zip(named, keys, strict=True)
    )
    shuffled = replace(world, loads=(*moved, *(load for load in world.loads if load.key < 0)))

    assert [s.leaves for s in shuffled.run(edges, PARAMS)] == [
        s.leaves
        for s in replace(
            world, loads=tuple(replace(x, inode=x.key + 1000) for x in world.loads)
        ).run(edges, PARAMS)
    ]


@given(worlds())
def test_a_removed_source_changes_nothing_in_the_others(
    case: tuple[World, tuple[int, ...]],
) -> None:
    """Promise 4: what cannot be read costs only itself."""
    world, edges = case
    extra = {"other": (Meter(zone("uncore")._replace(key="other:uncore"), 3.0, 1.0),)}
    both = replace(world, sources={**world.sources, **extra})
    for with_it, without in zip(both.run(edges, PARAMS), world.run(edges, PARAMS), strict=True):
        for name, domain in without.domains.items():
            assert with_it.domains[name] == domain
        shared = {leaf.identity.id: leaf for leaf in with_it.leaves}
        for leaf in without.leaves:
            assert {k: v for k, v in shared[leaf.identity.id].energy.items() if k != "uncore"} == (
                leaf.energy
            )


def told(world: World) -> World:
    """The same world with idle power that is known, as of a model: then nothing is learned."""
    sources = {
        name: tuple(replace(m, zone=m.zone._replace(idle_w=m.idle_w)) for m in meters)
        for name, meters in world.sources.items()
    }
    return replace(world, sources=sources)


def learned_uj(leaf: Leaf, name: str) -> float:
    """Return how far a leaf's energy may be off by what was learned: four standard deviations."""
    return 4.0 * leaf.sd_uj[name]


@given(worlds(), st.booleans())
def test_splitting_a_workload_splits_its_energy(
    case: tuple[World, tuple[int, ...]], is_told: bool
) -> None:
    """A cgroup split in two of the same workload leaves the workload's energy as it was.

    Rounding CPU times to nanoseconds may move some of them, and the remainder 1 uJ a window.
    """
    world, edges = (told(case[0]) if is_told else case[0]), case[1]
    whole = world.loads[-1]
    halves = (
        replace(whole, share=whole.share / 2),
        replace(whole, key=99, share=whole.share / 2, inode=whole.ref.inode),
    )
    split = replace(world, loads=(*world.loads[:-1], *halves))
    windows = world.run(edges, PARAMS)
    one, two = windows[-1], split.run(edges, PARAMS)[-1]
    allowed = 4 * len(edges) + rounding_uj(windows, moved_ns=8)
    for a, b in zip(one.leaves, two.leaves, strict=True):
        assert a.identity.id == b.identity.id
        for name, energy in a.energy.items():
            apart = abs(energy.total_uj - b.energy[name].total_uj)
            # Idle energy is of `system`, and what one leaf has more of, others have less.
            slack = 0.0 if is_told else sum(learned_uj(x, name) for x in (*one.leaves, *two.leaves))
            assert apart <= allowed + energy.total_uj // 10**6 + slack


def rounding_uj(snapshots: Sequence[Snapshot], moved_ns: int) -> int:
    """Return what `moved_ns` of CPU time are worth at most, summed over the windows.

    In a window of whose CPU time only a sliver is known that sliver decides over all its energy,
    and each of its nanoseconds is worth microjoules; elsewhere they are worth next to nothing.
    """
    worth = 0
    for before, after in pairwise(snapshots):
        used_ns = sum(x.cpu_ns for x in after.leaves) - sum(x.cpu_ns for x in before.leaves)
        grown_uj = sum(d.energy_uj for d in after.domains.values()) - sum(
            d.energy_uj for d in before.domains.values()
        )
        worth += moved_ns * grown_uj // max(used_ns, moved_ns)
    return worth


@given(worlds(), st.booleans())
def test_merging_workloads_adds_their_energy(
    case: tuple[World, tuple[int, ...]], is_told: bool
) -> None:
    """Two units that become one get the sum of what they had apart."""
    world, edges = (told(case[0]) if is_told else case[0]), case[1]
    pair = (
        Load(50, unit("a.service"), 0.25),
        Load(51, unit("b.service"), 0.5),
    )
    apart = replace(world, loads=(*world.loads, *pair))
    merged = replace(
        world,
        loads=(
            *world.loads,
            pair[0],
            replace(pair[1], identity=pair[0].identity, inode=pair[0].ref.inode),
        ),
    )
    a, m = apart.run(edges, PARAMS)[-1], merged.run(edges, PARAMS)[-1]
    one = {leaf.identity.id: leaf for leaf in a.leaves}
    both = {leaf.identity.id: leaf for leaf in m.leaves}["a.service"]
    for name, whole in both.energy.items():
        parts = [one["a.service"], one["b.service"]]
        apart_uj = abs(whole.total_uj - sum(x.energy[name].total_uj for x in parts))
        slack = 0.0 if is_told else sum(learned_uj(x, name) for x in (both, *parts))

        assert apart_uj <= 2 * len(edges) + slack

"""GPU attribution on random devices: what holds whatever runs on them.

Numbers in brackets are those of the reference's invariants.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim.gpuwindow import (
    MIG,
    START_NS,
    WINDOW,
    S,
    device,
    leaf,
    look,
    metered,
    process,
    sample,
    series,
    uuid,
)
from tychod.analysis.gpuidle import IdleMemory
from tychod.analysis.gpumemory import GpuMemory
from tychod.analysis.gpus import GpuWindow, Tenants, gpu_window
from tychod.analysis.gpuseries import DeviceWindow
from tychod.analysis.state import Params
from tychod.model import UNATTRIBUTED_ID, Identity, Window
from tychod.samples import GpuProcess, GpuSample, GpuSeries, GpuUse

SEEDS = st.integers(0, 1 << 32)
ODD = (None, 0.0, 1.0, 37.0, 100.0, 250.0, -3.0, float("nan"))


class Case(NamedTuple):
    """Some devices in one window, and all that is known of them."""

    windows: Sequence[DeviceWindow]
    samples: Sequence[GpuSample]
    looks: Sequence[GpuUse]
    identities: Mapping[int, Identity]
    live: frozenset[str]
    memory: Mapping[str, GpuMemory]
    params: Params

    def run(self) -> GpuWindow:
        """Split the window."""
        seen = series([w.device for w in self.windows], self.looks, self.samples)
        tenants = Tenants(self.identities, self.live)
        return gpu_window(self.windows, seen, tenants, WINDOW, self.memory, self.params)


def case(seed: int, *, is_told: bool = False) -> Case:
    """Return the case of a seed; ``is_told``: every process's use is told, and sane."""
    rng = random.Random(seed)
    devices = [device(n, MIG if rng.random() < 0.3 else ()) for n in range(rng.randint(1, 3))]
    ids = (
        [uuid(n) for n in range(4)] + [f"{uuid(0)}::{n}" for n in range(3)] + [i.uuid for i in MIG]
    )
    leaves = [leaf(10 * n, *rng.sample(ids, rng.randint(0, 2))) for n in range(1, 7)]
    memory = {
        d.uuid: GpuMemory(
            idle=IdleMemory(
                {s: (rng.uniform(5, 90),) for s in rng.sample(range(-1, 9), rng.randint(0, 4))},
                quiet_ns=rng.choice([0, START_NS - 5 * S]),
                allocated=tuple(i.id for i in rng.sample(leaves, rng.randint(0, 2))),
            )
        )
        for d in devices
        if rng.random() < 0.8
    }
    return Case(
        [_window(rng, d) for d in devices],
        [
            sample(
                d, t_ns, rng.choice([None, 0, 0, 50]), rng.choice([None, 0, 9]), rng.randint(0, 8)
            )
            for d in devices
            for t_ns in range(START_NS - S, START_NS + 3 * S, S // 4)
            if rng.random() < 0.9
        ],
        [look for d in devices for look in _looks(rng, d.uuid, is_told=is_told)],
        {10 * n: leaves[n - 1] for n in range(1, 7) if rng.random() < 0.9},
        frozenset(i.id for i in leaves if rng.random() < 0.8),
        memory,
        Params(cpus=4, gpu_idle=rng.choice(["system", "allocated"])),
    )


def _window(rng: random.Random, of: object) -> DeviceWindow:
    power_w = [rng.choice([0.0, rng.uniform(1, 700)]) for _ in range(rng.randint(1, 30))]
    late_uj = rng.choice([0, 0, rng.randint(1, 10**9)])
    found = metered(of, power_w, late_uj=late_uj, late_s=rng.choice([0.0, 2.0]), sd_j=1.0)
    off = round(rng.choice([1.0, rng.uniform(0.5, 2.0)]) * found.zone.energy_uj)
    return found._replace(zone=found.zone._replace(energy_uj=off))


def _looks(rng: random.Random, of: str, *, is_told: bool) -> list[GpuUse]:
    found, at_ns = [], START_NS - rng.choice([0, 2 * S, 20 * S])
    for _ in range(rng.randint(0, 5)):
        since_ns = at_ns + rng.choice([0, 0, S // 3])
        at_ns = since_ns + rng.randint(1, 2 * S)
        processes = tuple(
            process(
                rng.randint(1, 8),
                rng.uniform(1, 30) if is_told else rng.choice(ODD),
                rng.choice([None, None, None, 0, 777]),
                rng.choice([None, 1, 2, 9]),
            )
            for _ in range(rng.randint(0, 4))
        )
        activity = ((1, rng.uniform(0, 1)), (2, 0.0)) if rng.random() < 0.3 else ()
        found.append(GpuUse(at_ns, of, since_ns, processes, activity))
    return found


@given(SEEDS)
def test_every_microjoule_of_a_device_lands_once(seed: int) -> None:
    """[58, 59] Per device the leaves' parts add up to its energy; nothing is negative."""
    told = case(seed)
    found = told.run()

    for share, one in zip(found.shares, told.windows, strict=True):
        assert share.idle_uj + share.dynamic_uj == one.zone.energy_uj + one.zone.late_uj
        assert sum(share.by_leaf.values()) == share.dynamic_uj
        assert sum(share.idle_by_leaf.values()) == share.idle_uj
        assert min([0, *share.by_leaf.values(), *share.idle_by_leaf.values()]) == 0
        assert sum(share.reasons.values()) == share.by_leaf.get(UNATTRIBUTED_ID, 0)
        before = told.memory.get(share.uuid, GpuMemory()).idle
        after = found.memory[share.uuid].idle
        assert after.idle_uj - before.idle_uj == share.idle_uj
        assert after.dynamic_uj - before.dynamic_uj == share.dynamic_uj
    booked = found.booked
    assert sum(booked.by_leaf.values()) == booked.dynamic_uj
    assert sum(booked.idle_by_leaf.values()) == booked.idle_uj
    assert booked.dynamic_uj == sum(s.dynamic_uj for s in found.shares)
    assert 0 <= booked.lost_uj <= booked.by_leaf.get(UNATTRIBUTED_ID, 0)
    assert all(doubt.window_var >= 0.0 for doubt in booked.doubts.values())


@given(SEEDS)
def test_only_those_who_are_known_get_anything(seed: int) -> None:
    """Leaves are those of the window's identities, and the fixed ones."""
    told = case(seed)
    found = told.run().booked
    known = {i.id for i in told.identities.values()} | {UNATTRIBUTED_ID}

    assert set(found.by_leaf) <= known
    assert set(found.idle_by_leaf) <= (known & told.live) | {"system"}


@given(SEEDS)
def test_order_of_processes_and_pids_do_not_matter(seed: int) -> None:
    """[60] Other pids and another order of all that was seen change nothing."""
    told = case(seed)
    rng = random.Random(seed + 1)
    pids = list(range(1000, 1010))
    rng.shuffle(pids)
    looks = [_renumbered(each, pids, rng) for each in told.looks]
    other = told._replace(
        looks=rng.sample(looks, len(looks)), samples=rng.sample(told.samples, len(told.samples))
    )

    assert other.run().booked == told.run().booked


def _renumbered(told: GpuUse, pids: Sequence[int], rng: random.Random) -> GpuUse:
    found = [p._replace(pid=pids[p.pid], key=_key_of(told, p)) for p in told.processes]
    return told._replace(processes=tuple(rng.sample(found, len(found))))


def _key_of(told: GpuUse, one: GpuProcess) -> int | None:
    """Return the cgroup of a process that is listed more than once: of the first that has one."""
    same = [p for p in told.processes if (p.pid, p.gpu_instance) == (one.pid, one.gpu_instance)]
    return next((p.key for p in same if p.key is not None), None)


@given(SEEDS)
def test_names_of_leaves_permute_the_result(seed: int) -> None:
    """[60] Other ids for the same workloads: the same energy, to the microjoule of the rounding."""
    told = case(seed)
    names = {i.id: f"{'zyxwvu'[n]}{i.id}" for n, i in enumerate(told.identities.values())}
    other = told._replace(
        identities={k: replace(i, id=names[i.id]) for k, i in told.identities.items()},
        live=frozenset(names.get(i, i) for i in told.live),
        memory={
            d: replace(m, idle=replace(m.idle, allocated=_named(m.idle.allocated, names)))
            for d, m in told.memory.items()
        },
    )
    before, after = told.run().booked, other.run().booked

    for leaf_id, energy_uj in before.by_leaf.items():
        again = after.by_leaf.get(names.get(leaf_id, leaf_id), 0)
        assert again == pytest.approx(energy_uj, abs=len(told.windows))


def _named(ids: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(names.get(i, i) for i in ids)


@given(SEEDS)
def test_splitting_a_process_changes_nothing(seed: int) -> None:
    """[61] Two processes with half the use each, in the same workload: the same energy."""
    told = case(seed, is_told=True)
    looks = [each._replace(processes=_halved(_once(each.processes))) for each in told.looks]
    whole = [each._replace(processes=_once(each.processes)) for each in told.looks]
    before = told._replace(looks=whole).run().booked
    after = told._replace(looks=looks).run().booked

    for leaf_id in before.by_leaf.keys() | after.by_leaf.keys():
        found = after.by_leaf.get(leaf_id, 0)
        assert found == pytest.approx(before.by_leaf.get(leaf_id, 0), abs=1000)


def _once(processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
    return tuple({(p.pid, p.gpu_instance): p for p in processes}.values())


def _halved(processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
    halves = [p._replace(sm_percent=(p.sm_percent or 0.0) / 2) for p in processes]
    return (*halves, *(p._replace(pid=p.pid + 500) for p in halves))


@given(SEEDS)
def test_merging_workloads_adds_their_energy(seed: int) -> None:
    """[62] Two workloads as one have together what they had apart."""
    told = case(seed)
    plain = {k: replace(i, devices={}) for k, i in told.identities.items()}
    if not {10, 20} <= plain.keys():
        return
    apart = told._replace(identities=plain).run().booked.by_leaf
    merged = plain | {20: plain[10]}
    together = told._replace(identities=merged).run().booked.by_leaf
    pair = [plain[10].id, plain[20].id]

    both = sum(apart.get(i, 0) for i in pair)
    assert together.get(pair[0], 0) == pytest.approx(both, abs=2 * len(told.windows))


@given(SEEDS)
def test_what_happens_on_one_device_changes_nothing_on_another(seed: int) -> None:
    """[67] A pod more on GPU A: GPU B's energy and its users stay as they were."""
    told = case(seed)
    one, *rest = told.windows
    busier = metered(one.device, [650.0] * 30)
    more = process(8, 90.0, key=4242)
    looks = [
        each._replace(processes=(*each.processes, more)) if each.device == one.device.uuid else each
        for each in told.looks
    ]
    other = told._replace(
        windows=[busier, *rest], looks=looks, identities={**told.identities, 4242: leaf(4242)}
    )

    assert other.run().shares[1:] == told.run().shares[1:]


@given(st.integers(1, 100), st.integers(50, 700))
def test_identical_pods_on_one_device_have_half_each(use: int, power_w: int) -> None:
    """[67] Two alike share evenly, and have together what one of them would have alone."""
    of = device()
    windows = [metered(of, [float(power_w)] * 30)]
    two = look(of, [process(1, float(use)), process(2, float(use))])
    both = {10: leaf(10), 20: leaf(20)}
    memory = {of.uuid: GpuMemory(idle=IdleMemory({0: (40.0,)}))}

    def run(look_: GpuUse) -> Mapping[str, int]:
        tenants = Tenants(both, frozenset(i.id for i in both.values()))
        seen: GpuSeries = series([of], [look_])
        found = gpu_window(windows, seen, tenants, WINDOW, memory, Params(cpus=4))
        return found.booked.by_leaf

    alone = run(look(of, [process(1, float(use))]))
    half = run(two)
    assert abs(half[both[10].id] - half[both[20].id]) <= 1
    assert sum(half.values()) == alone[both[10].id]


@given(SEEDS, st.floats(0.05, 0.95))
def test_a_second_window_goes_on_where_the_first_ended(seed: int, part: float) -> None:
    """Split in two, a window's looks and steps give the same leaves their energy."""
    rng = random.Random(seed)
    of = device()
    powers = [rng.uniform(100, 600) for _ in range(30)]
    cut = max(1, round(30 * part))
    middle_ns = START_NS + cut * S // 10
    halves = [Window(START_NS, middle_ns), Window(middle_ns, WINDOW.end_ns)]
    looks = [look(of, [process(1, 30.0), process(2, 60.0)])]
    who = {10: leaf(10), 20: leaf(20)}
    tenants = Tenants(who, frozenset(i.id for i in who.values()))
    memory = {of.uuid: GpuMemory(idle=IdleMemory({0: (40.0,)}))}
    whole = gpu_window(
        [metered(of, powers)], series([of], looks), tenants, WINDOW, memory, Params(cpus=4)
    )
    found: dict[str, int] = {}
    for window, steps in zip(halves, (powers[:cut], powers[cut:]), strict=True):
        if not steps:
            continue
        one = metered(of, steps, window)
        part_of = gpu_window([one], series([of], looks), tenants, window, memory, Params(cpus=4))
        for leaf_id, energy_uj in part_of.booked.by_leaf.items():
            found[leaf_id] = found.get(leaf_id, 0) + energy_uj

    assert found == pytest.approx(whole.booked.by_leaf, abs=6)

"""One domain in one window: each package's energy to who ran there, the unseen to nobody."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.property.test_conservation import node, sums
from tests.sim.world import MS, Load, Meter, World, unit, zone
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Params, State
from tychod.model import Leaf, Snapshot, Window
from tychod.samples import CpuSample

S = 1_000 * MS
PARAMS = Params(cpus=8)
A, B, C = (unit(f"{name}.service") for name in "abc")


TIMES = tuple(range(0, 40 * S, 50 * MS))
LOADS = (Load(1, A, 0.5), Load(2, B, 0.25, 0, 20 * S), Load(3, C, 1.0, 9 * S))


def socket(number: int, idle_w: float, busy_w: float, *, is_told: bool = False) -> World:
    """One socket: ``a`` and ``b`` run on socket 0, ``c`` on socket 1."""
    of = zone(f"package-{number}")._replace(
        key=f"rapl:package-{number}", socket=number, idle_w=idle_w if is_told else None
    )
    loads = LOADS[2:] if number else LOADS[:2]
    return World(loads, {f"rapl{number}": (Meter(of, idle_w, busy_w),)}, TIMES, TIMES)


CALM = (socket(0, 10.0, 5.0), socket(1, 30.0, 9.0))
WHOLE = World(LOADS, {}, TIMES, TIMES)


def _placed(sample: CpuSample) -> CpuSample:
    is_first = sample.keys < 3
    where = np.stack([np.where(is_first, sample.own_ns, 0), np.where(is_first, 0, sample.own_ns)])
    return sample._replace(package_ns=where)


def run(
    sockets: Sequence[World], until_s: int, world: World = WHOLE, *, is_placed: bool = True
) -> list[Snapshot]:
    """Analyse windows of 3 s."""
    state, found = State(), []
    for start in range(0, until_s, 3):
        window = Window(start * S, (start + 3) * S)
        seen = world.observe(window)
        energy = tuple(series for one in sockets for series in one.series(window))
        seen = replace(seen, energy=energy)
        if is_placed and seen.cpu is not None:
            samples = tuple(_placed(s) for s in seen.cpu.samples)
            cpu = replace(seen.cpu, samples=samples, packages=(0, 1), package_cpus=(4, 4))
            seen = replace(seen, cpu=cpu)
        snapshot, state = analyse(seen, window, state, PARAMS)
        assert sums(snapshot) == node(snapshot)
        found.append(snapshot)
    return found


def leaf(snapshot: Snapshot, name: str) -> Leaf:
    """A leaf by its id."""
    return next(x for x in snapshot.leaves if x.identity.id == name)


def uj(snapshot: Snapshot, name: str) -> int:
    """Dynamic energy of a leaf's package domain."""
    return leaf(snapshot, name).energy["package"].dynamic_uj


def test_a_package_is_paid_by_who_ran_on_it() -> None:
    """Whatever an empty socket draws is idle energy: no joule of it is of who ran on the other."""
    wild = socket(1, 90.0, 9.0)
    for sockets, idle_w in ((CALM, 30.0), ((CALM[0], wild), 90.0)):
        for snapshot in run(sockets, 9):  # nobody is on socket 1 yet
            seconds = 3 * snapshot.sequence
            idle_j = (snapshot.domains["package"].idle_uj or 0) / 1e6
            assert uj(snapshot, "a.service") + uj(snapshot, "b.service") <= 13_750_000 * seconds
            assert idle_w * seconds <= idle_j <= (idle_w + 13.75) * seconds
    last = run(CALM, 39)[-1]

    for name, joules in (("a.service", 39 * 2.5), ("c.service", 30 * 9.0)):
        sd_uj = leaf(last, name).sd_uj["package"]
        assert abs(uj(last, name) - joules * 1e6) <= 4 * sd_uj


def test_without_places_the_sockets_are_one() -> None:
    """Where the kernel does not say on which package time was used, there is one model."""
    last = run(CALM, 9, is_placed=False)[-1]
    floor = last.domains["package"].idle_floor

    assert floor is not None
    assert 0.0 <= floor.power_w <= 43.75 * 1.02


def test_energy_of_unseen_bins_is_nobodys() -> None:
    """CPU samples stop in the middle of a window: the energy above the floor is `unattributed`."""
    blind = replace(WHOLE, cpu_times=tuple(t for t in TIMES if t <= 28 * S))
    *_, before, after = run(CALM, 30, blind)
    domain = after.domains["package"]
    floor = domain.idle_floor
    gained_j = (uj(after, "unattributed") - uj(before, "unattributed")) / 1e6

    assert "missing-cpu" in domain.flags
    assert domain.coverage == pytest.approx(1 / 3)
    assert uj(before, "unattributed") == 0
    assert floor is not None
    assert gained_j == pytest.approx(2.0 * (40.0 + 2.5 + 9.0 - floor.power_w), abs=1e-5)


def test_a_window_seen_in_part_teaches_nothing() -> None:
    """The floor stays as it was, and its age says since when."""
    blind = replace(WHOLE, cpu_times=tuple(t for t in TIMES if t <= 28 * S))
    known, *later = (s.domains["package"].idle_floor for s in run(CALM, 36, blind)[8:])

    assert known is not None
    assert known.age_s == 0.0
    for count, floor in enumerate(later, 1):
        assert floor is not None
        assert floor == known._replace(age_s=3.0 * count)


def test_a_known_floor_is_used_as_it_is() -> None:
    """A model's idle watts need no learning and get no error, on each socket its own."""
    told = (socket(0, 10.0, 5.0, is_told=True), socket(1, 30.0, 9.0, is_told=True))
    last = run(told, 12)[-1]

    assert last.domains["package"].idle_floor is None
    assert all(x.sd_uj["package"] == 0.0 for x in last.leaves)
    assert abs((last.domains["package"].idle_uj or 0) - 12 * 40_000_000) <= 4 * 4
    assert abs(uj(last, "c.service") - 27_000_000) <= 4 * 4

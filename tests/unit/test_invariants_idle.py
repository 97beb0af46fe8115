"""Idle and dynamic energy, on nodes whose floor is known: the reference's invariants 46 to 55.

Numbers in brackets are the reference's; its mJ are uJ here.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.property.test_conservation import node, sums
from tests.sim.trace import BIN_NS, Trace, analysed, package
from tychod.analysis.state import Params
from tychod.model import IdleFloor, Snapshot

CPUS = 4
SECOND = 20  # bins
NORMAL_95 = 1.96


def floors(snapshots: Sequence[Snapshot]) -> list[IdleFloor | None]:
    """Return the floor that each window told."""
    return [snapshot.domains["package"].idle_floor for snapshot in snapshots]


def known(snapshots: Sequence[Snapshot]) -> list[IdleFloor]:
    """Return the floors that were told."""
    return [floor for floor in floors(snapshots) if floor is not None]


def idle_w(snapshots: Sequence[Snapshot]) -> list[float]:
    """Return what each window called idle, in watts, from the second on."""
    had = [(s.domains["package"].idle_uj or 0, s.window.seconds) for s in snapshots]
    return [(b - a) / 1e6 / seconds for (a, _), (b, seconds) in pairwise(had)]


def levels(shares: Sequence[float], bins: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return busy CPUs of one workload: each share of the node for so many bins."""
    return np.repeat(np.array(shares, np.float64), bins)[:, None] * CPUS


def varied(seconds: int, low: float, high: float) -> list[float]:
    """Return a share of the node for each third of a second, as a seed gives them."""
    drawn = np.random.default_rng(5).uniform(low, high, 3 * seconds)
    found: list[float] = drawn.tolist()
    return found


def check(snapshots: Sequence[Snapshot]) -> None:
    """Each window: idle and dynamic are the energy, neither negative, and the leaves' sums."""
    for before, after in pairwise([None, *snapshots]):
        assert after is not None
        assert sums(after) == node(after)
        old = before.domains["package"] if before else None
        new = after.domains["package"]
        grown = new.energy_uj - (old.energy_uj if old else 0)
        idle_uj = (new.idle_uj or 0) - ((old.idle_uj or 0) if old else 0)
        dynamic_uj = (new.dynamic_uj or 0) - ((old.dynamic_uj or 0) if old else 0)
        assert idle_uj + dynamic_uj == grown
        assert 0 <= idle_uj <= grown
        assert dynamic_uj >= 0


SWEEP = [0.02 * k for k in range(26)]


@pytest.mark.parametrize("hold", [SECOND, 2 * SECOND, 3 * SECOND, 4 * SECOND])
def test_a_slow_sweep_finds_the_floor(hold: int) -> None:
    """[52, vector 7] 60 W + 100 W per load, load 0 to a half: within 3 W, or its error."""
    run = package(levels(SWEEP, hold), 60.0, [100.0 / CPUS]).run()
    told = known(run)

    check(run)
    assert len(told) >= len(run) - 1
    assert all(abs(floor.power_w - 60.0) <= max(3.0, NORMAL_95 * floor.sd_w) for floor in told)
    assert told[-1].power_w == pytest.approx(60.0, abs=3.0)


@pytest.mark.parametrize("shares", [varied(45, 0.6, 1.0), [0.8] * 135], ids=["varies", "constant"])
def test_a_node_that_is_never_idle(shares: list[float]) -> None:
    """[53] Never below 60 % load: idle is above the true power by no more than the error it tells.

    Where nothing varies nothing tells the two apart: that has to show in the confidence.
    """
    run = package(levels(shares, 7), 60.0, [100.0 / CPUS]).run()

    check(run)
    for floor in known(run):
        assert floor.power_w - 60.0 <= NORMAL_95 * floor.sd_w
        if len(set(shares)) == 1:
            assert floor.confidence < 0.5
    if len(set(shares)) == 1:
        assert all("learning" in snapshot.domains["package"].flags for snapshot in run)
    else:
        assert known(run)[-1].power_w == pytest.approx(60.0, abs=NORMAL_95 * known(run)[-1].sd_w)


def test_a_step_in_load_does_not_move_the_floor() -> None:
    """[54] From a fifth to nine tenths of the node: no window moves it by more than its error."""
    noise = 0.02 * np.random.default_rng(2).standard_normal((800, 1))
    busy = levels([0.2, 0.9], 400) + CPUS * noise
    run = package(busy, 60.0, [100.0 / CPUS]).run()

    check(run)
    for before, after in pairwise(known(run)[1:]):
        assert abs(after.power_w - before.power_w) <= before.sd_w


def test_the_floor_comes_up_again() -> None:
    """[55] A lasting rise of the quiet power by 5 % is followed within two minutes, no freeze."""
    busy = levels(varied(180, 0.0, 0.7), 7)
    risen = len(busy) // 3
    power_w = np.where(np.arange(len(busy)) < risen, 60.0, 63.0)
    run = package(busy, power_w, [100.0 / CPUS]).run()
    before, after = known(run)[risen // 60 - 2], known(run)[-1]

    check(run)
    assert before.power_w == pytest.approx(60.0, abs=0.6)
    assert after.power_w == pytest.approx(63.0, abs=0.63)


def without_energy(trace: Trace, begin: int, end: int) -> Trace:
    """Return the trace with a meter that counts nothing between two bins."""
    power_w = trace.power_w["package-0"].copy()
    power_w[begin:end] = 0.0
    return replace(trace, power_w={"package-0": power_w})


def test_a_second_without_energy_does_not_collapse_the_floor() -> None:
    """[55] The meter counts nothing for a second, as when its driver is loaded anew: no collapse.

    That window's own idle energy may be anything; a minute later the floor is what it was.
    """
    trace = package(levels(varied(120, 0.0, 0.7), 7), 60.0, [100.0 / CPUS])
    run = without_energy(trace, 601, 621).run()

    check(run)
    assert known(run)[8].power_w == pytest.approx(60.0, rel=0.05)
    assert known(run)[-1].power_w == pytest.approx(60.0, rel=0.05)


def test_a_meter_that_stalls_and_catches_up_teaches_nothing_wrong() -> None:
    """[55] The counter stands still for a second and then has all of it: the floor stands."""
    trace = package(levels(varied(90, 0.0, 0.7), 7), 60.0, [100.0 / CPUS])
    stalled = []
    for seen, window in trace.windows():
        (series,) = seen.energy
        still = [s for s in series.samples if s.t_ns <= 601 * BIN_NS]
        samples = tuple(
            s._replace(energy_uj=still[-1].energy_uj)
            if still and 601 * BIN_NS < s.t_ns < 621 * BIN_NS
            else s
            for s in series.samples
        )
        stalled.append((replace(seen, energy=(replace(series, samples=samples),)), window))
    run = analysed(stalled, Params(cpus=CPUS))

    check(run)
    assert all(f.power_w == pytest.approx(60.0, rel=0.05) for f in known(run)[2:])
    assert "coarse-bins" in run[10].domains["package"].flags


def test_power_below_the_floor_is_not_exceeded() -> None:
    """[46, 47, 50, vector 6: not clamped here] The power falls below the floor that was learned.

    The reference clamps what is left and lets its baseline down by 5 % a step, so that its sums
    exceed the meter.  Here idle is never above what was measured, window by window, the sums close
    to the microjoule, and the floor is at the new power as soon as the next window is over.
    """
    busy = levels(varied(120, 0.0, 0.7), 7)
    fallen = 20 * 60
    power_w = np.where(np.arange(len(busy)) < fallen, 130.0, 100.0)
    run = package(busy, power_w, [100.0 / CPUS]).run()
    said = idle_w(run)

    check(run)
    assert said[18] == pytest.approx(130.0, rel=0.01)
    assert known(run)[22].power_w == pytest.approx(100.0, rel=0.02)
    assert run[-1].domains["package"].energy_uj == pytest.approx(
        float((busy[:, 0] * 25.0 + power_w).sum()) * 0.05 * 1e6, abs=1
    )


def test_without_any_knowledge_all_is_dynamic() -> None:
    """[51] Before anything was learned nothing is called idle on a guess; all is there."""
    trace = package(levels([0.3, 0.6], 60), 60.0, [100.0 / CPUS])
    seen, window = trace.observe(0, 60, every=30), next(trace.windows())[1]
    (run,) = analysed([(seen, window)], Params(cpus=CPUS))
    domain = run.domains["package"]

    assert domain.idle_uj == 0
    assert domain.dynamic_uj == domain.energy_uj > 0
    assert domain.idle_floor is None
    assert "learning" in domain.flags

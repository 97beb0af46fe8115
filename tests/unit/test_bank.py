"""The bank of filters against a machine whose power, parts and late meter are known."""

import copy
import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest

from tests.sim.bmcpower import BEGIN_NS, PlatformSettings, PlatformWorld, Reading
from tychod.analysis.bank import (
    CALIBRATION,
    HISTORY_S,
    KERNELS,
    Bank,
    Fit,
    History,
    fit,
    fresh,
    from_plain,
    fused_w,
    is_settled,
    kernels_of,
    take,
    to_plain,
    unplaced,
    with_parts,
)
from tychod.analysis.bank_state import COEFFICIENT, COEFFICIENT_SD
from tychod.analysis.learned import Float64s

USUAL = PlatformSettings(seconds=240.0)
EXACT = replace(USUAL, noise_w=0.0, quantum_w=0.0, half_s=0.0, load_noise_w=0.0)
GRID_S = 0.25


class Run(NamedTuple):
    """A world and the bank after each of its readings."""

    world: PlatformWorld
    banks: list[Bank]

    @property
    def last(self) -> Fit:
        """What is known at the end."""
        return fit(self.banks[-1])

    def at(self, t_s: float) -> Fit:
        """What was known at a second of the world."""
        before = [r for r in self.world.readings if r.t_ns <= BEGIN_NS + t_s * 1e9]
        return fit(self.banks[len(before) - 1])

    def off_s(self, t_s: float) -> float:
        """How far the centroid was from the truth at a second of the world."""
        true_s = self.world.centroid_at_s(BEGIN_NS + int(t_s * 1e9))
        return abs(self.at(t_s).centroid_s - true_s)


def history(world: PlatformWorld, t_ns: int, seconds: float = HISTORY_S) -> History:
    """What the parts used until then."""
    grid = world.grid_ns(t_ns, seconds)
    return History(int(grid[0]), world.parts_j(grid))


def shown(bank: Bank, world: PlatformWorld, reading: Reading) -> Bank:
    """The bank after one more reading."""
    past = history(world, reading.t_ns)
    return take(bank, past, reading.t_ns, reading.half_ns, reading.power_w)


def run(world: PlatformWorld, bank: Bank | None = None) -> Run:
    """Show a bank all readings; it is the usual one of 99 candidates unless another is given."""
    bank = bank or fresh(world.settings.parts, 0.0, KERNELS)
    banks = []
    for reading in world.readings:
        bank = shown(bank, world, reading)
        banks.append(bank)
    return Run(world, banks)


@cache
def usual(seed: int = 1) -> Run:
    """Four minutes of the usual world."""
    return run(PlatformWorld(USUAL, seed))


def fused_windows(told: Run, begin_s: float, shift_s: float = 0.0) -> Float64s:
    """Power of windows of 3 s from each window's newest bank; its readings are ``shift_s`` late."""
    found = []
    for k in range(int((told.world.settings.seconds - shift_s - begin_s) / 3.0)):
        end_ns = BEGIN_NS + round((begin_s + 3.0 * (k + 1)) * 1e9)
        edges = np.arange(end_ns - 3_000_000_000, end_ns + 1, 50_000_000)
        newest = sum(r.t_ns <= end_ns + shift_s * 1e9 for r in told.world.readings) - 1
        parts_w = np.diff(told.world.parts_j(edges), axis=1) / 0.05
        found.append(float(fused_w(told.banks[newest], parts_w).mean()))
    return np.array(found)


def is_possible(bank: Bank) -> bool:
    """Whether nothing in it is below 0 or without an end."""
    known = np.concatenate([bank.theta.ravel(), bank.cov.ravel(), bank.evidence])
    spread = np.linalg.eigvalsh(bank.cov.transpose(2, 0, 1))
    return bool(np.isfinite(known).all() and (bank.theta >= 0.0).all() and (spread > 0.0).all())


def test_nothing_is_below_zero_or_without_an_end() -> None:
    """Coefficients, base and fused power are finite and at least 0, whatever is read (no. 43)."""
    world = PlatformWorld(replace(USUAL, spikes=0.1, base_w=3.0, coefficients=(0.2, 0.9)), 2)
    rng = np.random.default_rng(5)
    bank = fresh(world.settings.parts, 0.0)
    for i, reading in enumerate(world.readings):
        odd = float(rng.choice([0.0, 1.0, 9e5])) if i % 11 == 0 else reading.power_w
        bank = shown(bank, world, reading._replace(power_w=odd))

        assert is_possible(bank)
        assert (fused_w(bank, np.array([[0.0, 1.0], [0.0, 1e4]])) >= 0.0).all()
        assert all(math.isfinite(value) and value >= 0.0 for value in fit(bank).coefficients)
    assert fit(bank).base_w >= 0.0


def test_a_few_readings_are_not_enough() -> None:
    """Fewer than five readings leave it unready, and its start as it was (no. 43)."""
    told = usual()
    start = fit(fresh(USUAL.parts, 120.0))

    assert not start.is_ready
    assert start.coefficients == (COEFFICIENT, COEFFICIENT)
    assert start.base_w == 120.0
    assert not any(fit(bank).is_ready for bank in told.banks[:4])
    assert all(fit(bank).is_ready for bank in told.banks[30:])


def test_it_is_ready_only_when_the_delay_is_sure() -> None:
    """Without a step nothing is known of the delay, and it stays unready."""
    told = run(PlatformWorld(replace(USUAL, seconds=120.0, quiet=((-80.0, 999.0),)), 1))

    assert told.last.readings > 50
    assert told.last.centroid_sd_s > 1.0
    assert not told.last.is_ready


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_so_is_found_out(seed: int) -> None:
    """Coefficients, base and delay are found from readings without noise (no. 44).

    The truth lies far outside the prior; four standard deviations of its own are allowed.
    """
    told = run(PlatformWorld(EXACT, seed))
    last, true = told.last, EXACT.coefficients

    for found, sd, wanted in zip(last.coefficients, last.coefficient_sd, true, strict=True):
        assert abs(wanted - COEFFICIENT) > COEFFICIENT_SD
        assert sd < COEFFICIENT_SD / 3.0
        assert abs(found - wanted) < 4.0 * sd
    assert abs(last.base_w - EXACT.base_w) < 4.0 * last.base_sd_w
    assert told.off_s(EXACT.seconds) < 2.0 * last.centroid_sd_s


def test_nothing_is_learned_from_nothing() -> None:
    """With parts that stand still coefficients stay where they were (no. 44)."""
    told = run(PlatformWorld(replace(EXACT, quiet=((-80.0, 999.0),)), 1))

    assert told.last.coefficients == pytest.approx((COEFFICIENT, COEFFICIENT), abs=1e-6)
    assert min(told.last.coefficient_sd) > 0.7 * COEFFICIENT_SD


def test_the_delay_is_applied() -> None:
    """All readings two seconds later: the delay is so much longer, fused power the same (no. 45).

    Both series are the same within four standard deviations of the base, as it is stated.
    """
    on_time, late = usual(), run(PlatformWorld(replace(USUAL, late_s=2.0), 1))
    longer_s = late.last.centroid_s - on_time.last.centroid_s
    other = fused_windows(late, 90.0, shift_s=2.0)
    one = fused_windows(on_time, 90.0)[: len(other)]

    assert abs(longer_s - 2.0) < math.hypot(on_time.last.centroid_sd_s, late.last.centroid_sd_s)
    assert len(other) > 45
    assert np.abs(one - other).max() < 4.0 * on_time.last.base_sd_w


def test_a_change_of_delay_is_followed() -> None:
    """A meter that becomes two seconds later is so for the bank within a minute."""
    world = PlatformWorld(replace(USUAL, delay_steps=((120.0, 3.75),)), 3)
    told = run(world)

    assert told.off_s(119.0) < GRID_S
    assert abs(told.at(119.0).centroid_s - 2.25) < GRID_S
    assert abs(told.at(180.0).centroid_s - 4.25) < GRID_S


@pytest.mark.parametrize("kernel", [(0.0, 10.0), (2.0, 1.0), (0.0, 0.1)])
def test_an_unusual_meter_is_recognised(kernel: tuple[float, float]) -> None:
    """Its lag and averaging are found among all, and what is ruled out is dropped."""
    lag, boxcar = kernel
    world = PlatformWorld(replace(USUAL, lag_s=lag, boxcar_s=boxcar), 1)
    told = run(world, fresh(USUAL.parts, 0.0))

    assert (told.last.lag_s, told.last.boxcar_s) == kernel
    assert told.off_s(USUAL.seconds) < GRID_S
    assert len(told.banks[0].kernels) == len(CALIBRATION)
    assert len(told.banks[-1].kernels) == 3


def test_a_stuck_meter_is_noticed() -> None:
    """An old value with fresh stamps changes nothing, and is told until there is a new one."""
    world = PlatformWorld(replace(USUAL, stuck=((100.0, 160.0),)), 1)
    told = run(world)
    before, during, after = told.at(99.0), told.at(158.0), told.at(239.0)

    assert not before.is_stuck
    assert during.is_stuck
    assert not after.is_stuck
    assert after.rejected > 20
    assert during.coefficients == pytest.approx(before.coefficients, abs=0.03)
    assert max(told.off_s(t) for t in range(100, 240, 5)) < GRID_S


def test_equal_readings_of_a_steady_machine_are_believed() -> None:
    """A value may repeat where nothing moves: that is no stuck meter."""
    told = run(PlatformWorld(replace(EXACT, quiet=((-80.0, 999.0),), quantum_w=10.0), 1))

    assert len({reading.power_w for reading in told.world.readings}) == 1
    assert told.last.rejected == 0
    assert not told.last.is_stuck


def test_a_spike_moves_little() -> None:
    """One reading in fifty 300 W off leaves the delay, and what is fused, where they are."""
    told = run(PlatformWorld(replace(USUAL, spikes=0.02), 1))
    settled = [bank for bank in told.banks if fit(bank).readings > 40]

    assert max(abs(fit(bank).centroid_s - 2.25) for bank in settled) < GRID_S
    for bank, reading in zip(settled, told.world.readings[-len(settled) :], strict=True):
        more = fit(shown(bank, told.world, reading._replace(t_ns=reading.t_ns + 1, power_w=900.0)))

        assert abs(more.base_w - fit(bank).base_w) < 30.0


@pytest.mark.parametrize("seed", [1, 2])
def test_an_hour_without_steps_forgets_nothing(seed: int) -> None:
    """The estimate stays, is stated as less sure, and is sure again after the first steps."""
    settings = replace(USUAL, seconds=3900.0, period_s=5.0, quiet=((200.0, 3700.0),))
    told = run(PlatformWorld(settings, seed))
    before, quiet = told.at(200.0), told.at(3700.0)

    assert abs(quiet.centroid_s - before.centroid_s) < GRID_S
    assert quiet.centroid_sd_s > 3.0 * before.centroid_sd_s
    assert quiet.coefficients == pytest.approx(
        before.coefficients, abs=4 * before.coefficient_sd[0]
    )
    assert quiet.is_ready
    assert told.last.centroid_sd_s < 2.0 * before.centroid_sd_s
    assert told.off_s(3899.0) < GRID_S


def test_the_base_follows_both_ways() -> None:
    """What no part explains is in the base within a minute, up and down."""
    told = run(PlatformWorld(replace(USUAL, base_steps=((80.0, 50.0), (160.0, -50.0))), 1))

    for t_s, true_w in ((79.0, 120.0), (140.0, 170.0), (220.0, 120.0)):
        known = told.at(t_s)
        assert abs(known.base_w - true_w) < 4.0 * known.base_sd_w


def test_after_a_long_silence_it_goes_on() -> None:
    """An hour without readings makes it less sure, not wrong; so does the clock of another boot."""
    told = usual()
    bank, reading = told.banks[-1], told.world.readings[-1]
    known = fit(bank)
    for shift_ns in (3_600_000_000_000, -900_000_000_000):
        past = history(told.world, reading.t_ns)
        past = past._replace(start_ns=past.start_ns + shift_ns)
        later = take(bank, past, reading.t_ns + shift_ns, reading.half_ns, reading.power_w + 1.0)

        assert fit(later).readings == known.readings + 1
        assert is_possible(later)
        assert known.centroid_sd_s < fit(later).centroid_sd_s
        assert fit(later).base_sd_w > 0.0
        assert fit(later).coefficients == pytest.approx(
            known.coefficients, abs=4 * max(known.coefficient_sd)
        )


def test_what_cannot_be_used_is_counted() -> None:
    """A reading out of order or impossible changes nothing else."""
    told = usual()
    bank, reading = told.banks[-1], told.world.readings[-1]
    past = history(told.world, reading.t_ns)
    newer = reading.t_ns + 1
    for history_, t_ns, power_w in (
        (past, reading.t_ns, 500.0),  # the same once more
        (past, reading.t_ns - 2_000_000_000, 500.0),
        (past, newer, math.nan),
        (past, newer, math.inf),
        (past, newer, -1.0),
        (past, newer, 1e9),
    ):
        after = take(bank, history_, t_ns, 0, power_w)

        assert after == replace(bank, rejected=bank.rejected + 1)


def test_a_history_that_is_too_short_changes_nothing() -> None:
    """It is nobody's fault: such a reading is neither believed nor counted as rejected."""
    told = usual()
    bank, reading = told.banks[-1], told.world.readings[-1]
    past = history(told.world, reading.t_ns)
    for history_, t_ns in (
        (past, reading.t_ns + 1_000_000_000),  # the parts are not known so far
        (history(told.world, reading.t_ns, 1.0), reading.t_ns + 1),
        (past._replace(energy_j=past.energy_j * math.nan), reading.t_ns + 1),
    ):
        assert take(bank, history_, t_ns, 0, 500.0) is bank


def test_a_short_history_is_enough_for_the_base() -> None:
    """Once the delay is known: the base is found again, the delays are not compared."""
    told = usual()
    known = unplaced(replace(told.banks[-20], is_ready=True))
    for reading in told.world.readings[-19:-16]:
        past = history(told.world, reading.t_ns, 5.0)
        before = known
        known = take(known, past, reading.t_ns, reading.half_ns, reading.power_w)
        ageing = math.exp(-(reading.t_ns - before.last_ns) / 1e9 / 600.0)
        assert known.evidence == pytest.approx(before.evidence * ageing)
    assert is_settled(known)
    assert known.readings == told.banks[-20].readings + 3
    assert abs(fit(known).base_w - told.last.base_w) < 3 * (2.0 + told.last.base_sd_w)


def test_one_reading_does_not_say_where_the_base_is() -> None:
    """The first after a pause may be off: one that does not fit to it begins anew."""
    told = usual()
    known = unplaced(told.banks[-20])
    off, *others = told.world.readings[-19:-15]
    for reading in (off._replace(power_w=off.power_w + 300.0), *others):
        assert not is_settled(known)
        known = shown(known, told.world, reading)
        if is_settled(known):
            break
    assert known.readings == told.banks[-20].readings + 3
    assert abs(fit(known).base_w - told.last.base_w) < 3 * (2.0 + told.last.base_sd_w)


@pytest.mark.parametrize(
    ("average_s", "boxcars"), [(0.0, None), (0.9, {1.0}), (50.0, {60.0}), (0.2, {0.1})]
)
def test_a_known_average_is_the_only_one(average_s: float, boxcars: set[float] | None) -> None:
    """The nearest of those that are looked for; without one, all are."""
    found = kernels_of(average_s)
    assert {boxcar for _, boxcar in found} == (boxcars or {boxcar for _, boxcar in CALIBRATION})


@pytest.mark.parametrize("parts", [("package",), ("package", "dram", "gpu", "psys")])
def test_any_number_of_parts_will_do(parts: tuple[str, ...]) -> None:
    """One part or four: each coefficient is found as well as it is stated."""
    true = (1.25, 1.1, 0.92, 1.0)[: len(parts)]
    dwell_s = (10.0, 14.0, 20.0, 17.0)[: len(parts)]
    settings = replace(EXACT, parts=parts, coefficients=true, dwell_s=dwell_s)
    last = run(PlatformWorld(settings, 1)).last

    for found, sd, wanted in zip(last.coefficients, last.coefficient_sd, true, strict=True):
        assert abs(found - wanted) < 4.0 * sd
        assert sd < COEFFICIENT_SD


def test_parts_come_and_go() -> None:
    """Delay and shared coefficients stay; the base is what the others leave, at once."""
    told = usual()
    bank, reading = told.banks[-1], told.world.readings[-1]
    fewer = with_parts(bank, ("gpu",))
    known, after = fit(bank), fit(fewer)

    assert with_parts(bank, bank.parts) is bank
    assert (after.centroid_s, after.centroid_sd_s) == (known.centroid_s, known.centroid_sd_s)
    assert after.coefficients == known.coefficients[1:]
    assert not after.is_ready
    past = history(told.world, reading.t_ns)
    past = past._replace(energy_j=past.energy_j[1:])
    again = fit(take(fewer, past, reading.t_ns + 1, reading.half_ns, reading.power_w))
    assert again.is_ready
    package_w = 20.0 * np.diff(told.world.parts_j(told.world.grid_ns(reading.t_ns - 2 * 10**9, 1)))
    assert again.base_w > known.base_w + float(package_w[0].min())
    more = fit(with_parts(fewer, ("package", "gpu")))
    assert more.coefficients == (COEFFICIENT, known.coefficients[1])
    assert more.coefficient_sd == pytest.approx((COEFFICIENT_SD, known.coefficient_sd[1]))


def test_the_same_readings_make_the_same_bank() -> None:
    """To the bit, so that a recording can be replayed; and no bank is changed in place."""
    world = PlatformWorld(replace(USUAL, seconds=60.0), 4)
    once = run(world)
    before = [copy.deepcopy(bank) for bank in once.banks]
    again = run(world)

    for one, other, kept in zip(once.banks, again.banks, before, strict=True):
        for field in fields(Bank):
            values = [getattr(bank, field.name) for bank in (one, other, kept)]
            assert np.array_equal(values[0], values[1], equal_nan=field.name == "last_w")
            assert np.array_equal(values[0], values[2], equal_nan=field.name == "last_w")


@pytest.mark.parametrize("at", [3, 25, -1])
def test_what_is_known_can_be_saved(at: int) -> None:
    """Through the bytes of a state file: the same fit, unready until a reading tells the base."""
    told = usual()
    bank = told.banks[at]
    plain = to_plain(bank)
    back = from_plain(msgpack.unpackb(msgpack.packb(plain)))

    assert to_plain(back) == plain
    assert fit(back)._replace(is_ready=bank.is_ready, is_stuck=False) == fit(bank)
    assert not fit(back).is_ready
    newest = told.world.readings[-1]
    later = take(back, history(told.world, newest.t_ns), newest.t_ns + 1, 0, newest.power_w)
    assert fit(later).is_ready == bank.is_ready


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """A saved bank in which something was changed."""
    plain = copy.deepcopy(to_plain(usual().banks[-1]))
    change(plain)
    return plain


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.clear(),
        lambda p: p.update(version=2),
        lambda p: p.update(parts=[]),
        lambda p: p.update(parts=["a", "a"]),
        lambda p: p.update(parts="ab"),
        lambda p: p.update(parts=["a", "b", "c"]),
        lambda p: p.update(kernels=[]),
        lambda p: p.update(kernels=[[0.0, 1.0]] * 3),
        lambda p: p.update(kernels=[[0.0, 1e9], [0.5, 1.0], [1.0, 1.0]]),
        lambda p: p.update(kernels=[[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]]),
        lambda p: p.update(kernels=[[math.nan, 1.0], [0.5, 1.0], [1.0, 1.0]]),
        lambda p: p.update(kernels=7),
        lambda p: p.update(judged=[1]),
        lambda p: p.update(applied=99),
        lambda p: p.update(applied=-1),
        lambda p: p.update(candidates=[]),
        lambda p: p.update(candidates=p["candidates"][:1] * 2),
        lambda p: p["candidates"][0].pop(),
        lambda p: p["candidates"][0].__setitem__(0, 10**6),
        lambda p: p["candidates"][0].__setitem__(1, 1.0),
        lambda p: p["candidates"][0].__setitem__(2, -1.0),
        lambda p: p["candidates"][0].__setitem__(3, math.inf),
        lambda p: p["candidates"][0].__setitem__(3, "1"),
        lambda p: p["candidates"][0].__setitem__(5, -1.0),
        lambda p: p["candidates"][0].__setitem__(5, 10**400),
        lambda p: p.update(noise_w2=0.0),
        lambda p: p.update(half_s=-1.0),
        lambda p: p.update(readings="many"),
        lambda p: p.update(last_ns=1.5),
    ],
)
def test_nothing_odd_is_taken_for_one(change: Callable[[dict[str, Any]], object]) -> None:
    """Whatever a file may hold instead, it is refused."""
    assert from_plain(broken(lambda _: None)).parts == USUAL.parts
    with pytest.raises(ValueError, match=r"."):
        from_plain(broken(change))

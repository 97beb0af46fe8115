"""Native counters: wraps, resets, gaps."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tychod.analysis.counters import energy_at, native_at, step, track, unwrap
from tychod.samples import EnergyZone

ZONE = EnergyZone("rapl:0", "package", "package-0", 0, 262_143_328_850, 1000.0)
ENDLESS = ZONE._replace(max_range_uj=0)
SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("previous", "current", "limit", "expected"),
    [
        (20_000_000, 25_000_000, 100_000_000, 5_000_000),
        (90_000_000, 10_000_000, 100_000_000, 20_000_000),
        (100_000_000, 0, 100_000_000, 0),
        (2, 1, 0, None),
    ],
)
def test_unwrap(previous: int, current: int, limit: int, expected: int | None) -> None:
    """A counter with a range that goes back has wrapped; one without was reset."""
    assert unwrap(previous, current, limit) == expected


def test_wrap_gives_the_energy_that_was_used() -> None:
    """A wrap between two readings neither loses nor invents energy."""
    moved = step(ZONE, ZONE.max_range_uj - 1_000_000, 2_500_000, SECOND // 20)

    assert moved == (3_500_000, None)


def test_reset_books_nothing() -> None:
    """A counter that goes back by more than a wrap can explain is taken as reset, and said."""
    moved = step(ZONE, 100_000_000_000, 5_000_000, SECOND // 20)

    assert moved.energy_uj == 0
    assert "without a wrap" in (moved.problem or "")


def test_rise_is_always_believed() -> None:
    """What a meter counted is booked, whatever was thought to be the hardware's utmost power."""
    capped = ZONE._replace(max_power_w=10.0)

    assert step(capped, 1_000_000, 3_500_000, SECOND // 20) == (2_500_000, None)


@pytest.mark.parametrize("slip", [2**40, 2**62])
def test_endless_counter_that_leaps_books_nothing(slip: int) -> None:
    """A rise over what the load can draw is no energy; one that was counted late is."""
    away = step(ENDLESS, 1_000_000, slip, SECOND)
    assert away.energy_uj == 0
    assert "more than it can measure" in (away.problem or "")
    assert step(ENDLESS, slip, 2_000_000, SECOND).energy_uj == 0
    most_uj = round(ENDLESS.max_power_w * 3e6)
    assert step(ENDLESS, 0, most_uj, SECOND) == (most_uj, None)


def test_endless_counter_that_goes_back_books_nothing() -> None:
    """A counter without a range has no wrap to explain a fall."""
    assert step(ENDLESS, 5, 4, SECOND).energy_uj == 0


def test_long_silence_that_may_hide_a_wrap_books_nothing() -> None:
    """After long enough for a second wrap nothing is booked, and the reason is told."""
    short = step(ZONE, 0, 60_000_000_000, 100 * SECOND)
    long = step(ZONE, 0, 60_000_000_000, 700 * SECOND)

    assert short == (60_000_000_000, None)
    assert long.energy_uj == 0
    assert "more than once" in (long.problem or "")


def test_interpolation_is_exact_at_readings_and_holds_outside() -> None:
    """Energy between readings is linear; before the first and after the last it is held."""
    found = track(ZONE, 0, 100, [(10, 200), (20, 500)])

    assert [energy_at(found, t) for t in (-5, 0, 5, 10, 15, 20, 99)] == [
        0,
        0,
        50,
        100,
        250,
        400,
        400,
    ]


def test_cut_points_chain_across_a_wrap() -> None:
    """Cutting a track anywhere and going on from there gives the same total."""
    top = ZONE.max_range_uj
    readings = [(SECOND, top - 10), (2 * SECOND, 90), (3 * SECOND, 290)]
    whole = track(ZONE, 0, top - 110, readings)
    for cut_ns in range(0, 3 * SECOND, SECOND // 7):
        at_ns, native = native_at(whole, cut_ns, top)
        rest = track(ZONE, at_ns, native, readings)

        assert energy_at(whole, cut_ns) + rest.energy_uj[-1] == whole.energy_uj[-1]


def test_samples_that_are_not_newer_are_ignored() -> None:
    """Only readings after the point count."""
    found = track(ZONE, 10, 100, [(5, 1), (10, 2), (20, 160)])

    assert found.energy_uj == [0, 60]


def test_gathered_wrap_cases(cases_dir: Path) -> None:
    """Every gathered single-counter step gives the energy that was used."""
    cases = json.loads((cases_dir / "wraparound.json").read_text())["node_delta_cases"]
    for case in cases:
        got = unwrap(case["previous_uj"], case["current_uj"], case["max_uj"])

        assert (got or 0) == case["expect_delta_uj"], case["note"]
    assert cases


def test_gathered_sums_of_counters(cases_dir: Path) -> None:
    """Zones are unwrapped one by one: a failing one costs the others nothing.

    The gathered program sums readings first and unwraps the sum; its rows about such sums wrap,
    and the row marked HAZARD loses a delta.  Here each zone has its own chain, so the expected
    energy is each zone's own steps added up.
    """
    cases = json.loads((cases_dir / "wraparound.json").read_text())["aggregate_cases"]
    for case in cases:
        expected = got = 0
        for index, limit in enumerate(case["max_uj"]):
            zone = ZONE._replace(max_range_uj=limit, max_power_w=0.98 * limit / 1e6)
            seen = [row[index] for row in case["readings_uj"] if row[index] is not None]
            if not seen:
                continue
            # one second apart: the bound of max_power_w allows less than one whole range
            readings = [(k * SECOND, value) for k, value in enumerate(seen)]
            got += track(zone, 0, seen[0], readings[1:]).energy_uj[-1]
            expected += sum(b - a if b >= a else limit - a + b for a, b in pairwise(seen))

        assert got == expected, case["note"]


@pytest.mark.parametrize("power_w", [1000.0, 1e9])
def test_a_track_is_its_steps(power_w: float) -> None:
    """Readings taken in at once come to what each step comes to: also of wraps, stops and gaps."""
    zone = ZONE._replace(max_range_uj=1_000_000_000, max_power_w=power_w)
    rising = [(i * SECOND, i * 7_000_001) for i in range(1, 40)]
    for odd in ([], [(40 * SECOND, 5)], [(39 * SECOND, 300_000_000)], [(9_000 * SECOND, 10**9)]):
        readings = [(0, 3), *rising, *odd, (20_000 * SECOND, 10**9)]
        found = track(zone, 0, 0, readings)
        energy_uj = [0]
        at = [(0, 0)]
        problems = []
        for t_ns, value_uj in readings:
            if t_ns > at[-1][0]:
                moved = step(zone, at[-1][1], value_uj, t_ns - at[-1][0])
                energy_uj.append(energy_uj[-1] + moved.energy_uj)
                problems += [moved.problem] if moved.problem else []
                at.append((t_ns, value_uj))

        assert found == ([t for t, _ in at], energy_uj, [uj for _, uj in at], problems)

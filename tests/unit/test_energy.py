"""Zones and domains in one window: exact in total, late energy told apart."""

from dataclasses import replace

import numpy as np
import pytest

from tests.sim.world import zone
from tychod.analysis.bins import Meter, joined
from tychod.analysis.energy import (
    Chosen,
    ZoneWindow,
    attributed_domains,
    chosen_series,
    domain_windows,
    unread_zones,
    zone_windows,
)
from tychod.analysis.state import Params, State, ZonePoint
from tychod.model import Window
from tychod.samples import EnergySample, EnergySeries, EnergyZone, PowerSensor

S = 1_000_000_000
J = 1_000_000
PARAMS = Params(cpus=4)
PACKAGE = zone("package-0")


def series(
    *readings: tuple[float, int | None], of: EnergyZone = PACKAGE, quality: str = "measured"
) -> EnergySeries:
    """Readings ``(seconds, joules)`` of one zone."""
    samples = tuple(
        EnergySample(round(t * S), (None if j is None else j * J,)) for t, j in readings
    )
    return EnergySeries(of.key.partition(":")[0], quality, (of,), samples, {})


def cut(
    start_s: float, end_s: float, point: ZonePoint | None, *readings: tuple[float, int | None]
) -> ZoneWindow:
    """One zone in one window."""
    window = Window(round(start_s * S), round(end_s * S))
    state = State(zones={PACKAGE.key: point} if point else {})
    (found,) = zone_windows(series(*readings), window, state, PARAMS)
    return found


def joules(meter: Meter, *at_s: float) -> list[float]:
    """What a meter says of the stretches between these moments."""
    edges = np.array(at_s) * S
    return np.diff(np.interp(edges, meter.times_ns, meter.energy_j)).tolist()


def at(t_s: float, joules: int | None, booked_j: int = 0) -> ZonePoint:
    """A booked point."""
    native = None if joules is None else joules * J
    return ZonePoint(round(t_s * S), native, booked_j * J, "package")


def test_first_sight_books_from_the_start_of_the_window() -> None:
    """A counter's past is not ours: counting begins at the window's start."""
    found = cut(1, 3, None, (0, 1000), (2, 1020), (4, 1060))

    assert (found.energy_uj, found.late_uj) == (30 * J, 0)
    assert found.point == at(3, 1040, 30)
    assert joules(found.meter, 1, 2, 3) == [10.0, 20.0]
    assert (found.meter.marks_ns / S).tolist() == [0, 2, 4]


def test_first_sight_inside_the_window_books_from_there() -> None:
    """Nothing is made up for the time before the first reading."""
    found = cut(1, 3, None, (2, 500), (4, 520))

    assert found.energy_uj == 10 * J
    assert found.covered_ns == S


def test_first_sight_after_the_window_books_nothing() -> None:
    """A reading from after the end is only where the next window begins."""
    found = cut(1, 3, None, (4, 500))
    following = cut(3, 6, found.point, (4, 500), (7, 560))

    assert (found.energy_uj, found.covered_ns) == (0, 0)
    assert following.energy_uj == 40 * J


def test_without_a_reading_at_the_end_energy_is_held() -> None:
    """What is not known yet waits for the next window, and both together are the counter's."""
    first = cut(0, 3, at(0, 100), (0, 100), (2.9, 129))
    second = cut(3, 6, first.point, (2.9, 129), (3.1, 131), (6, 160))

    assert first.energy_uj == 29 * J
    assert (second.energy_uj, second.late_uj) == (31 * J, 0)
    assert second.point.booked_uj == 60 * J


def test_energy_of_a_long_silence_is_late() -> None:
    """What was used before the window by a zone that could not be read is told apart, exactly."""
    quiet = cut(300, 303, at(100, 0), (290, None), (302, None))
    back = cut(303, 306, quiet.point, (302, None), (305, 410), (306, 420))

    assert (quiet.energy_uj, quiet.late_uj, quiet.covered_ns) == (0, 0, 0)
    assert (back.late_uj, back.energy_uj) == (406 * J, 14 * J)
    assert back.covered_ns == 206 * S
    assert joules(back.meter, 303, 304, 305, 306) == pytest.approx([2, 2, 10])


def test_silence_that_may_hide_wraps_books_nothing_and_says_so() -> None:
    """30 days at 500 W: the counter has wrapped thousands of times."""
    month = 30 * 86_400
    found = cut(month, month + 3, at(0, 0), (month + 1, 200_000), (month + 3, 201_000))

    assert found.late_uj == 0
    assert found.energy_uj == 1000 * J
    assert "more than once" in (found.reason or "")


def test_wide_counters_keep_a_month() -> None:
    """A counter without a range gives a month's energy exactly."""
    month, of = 30 * 86_400, PACKAGE._replace(max_range_uj=0)
    window = Window(month * S, (month + 3) * S)
    seen = series((month + 3, 500 * (month + 3)), of=of)
    state = State(zones={of.key: at(0, 0)})
    (found,) = zone_windows(seen, window, state, PARAMS)

    assert found.energy_uj + found.late_uj == 500 * (month + 3) * J
    assert found.energy_uj == 1500 * J


def test_taken_over_zone_begins_anew() -> None:
    """After another source counted its domain, a zone keeps its sum and skips the meantime."""
    found = cut(100, 103, at(10, None, booked_j=7), (99, 5000), (101, 5020), (103, 5040))

    assert found.energy_uj + found.late_uj == 30 * J
    assert found.point == at(103, 5040, 37)


def test_zone_never_read_has_no_energy_and_a_reason() -> None:
    """A counter that was never read books nothing and is told apart from one that counts 0."""
    window = Window(0, 3 * S)
    seen = series((0, None), (3, None))

    assert zone_windows(seen, window, State(), PARAMS) == []
    (unread,) = unread_zones(seen, State())
    assert unread.zone == seen.zones[0]
    assert unread.reason


def test_model_yields_to_a_meter() -> None:
    """Two that count the same energy are never added; psys counts the package too."""
    model = series((0, 0), of=PACKAGE._replace(key="model:x"), quality="modelled")
    meter = series((0, 0))
    dram = series((0, 0), of=zone("dram"))

    def told(found: list[EnergySeries]) -> list[EnergySeries]:
        return [chosen for chosen, _ in chosen_series(found)]

    psys = series((0, 0), of=zone("psys"))

    assert told([meter, model]) == [meter]
    assert told([model, psys]) == [psys]
    assert told([dram, model]) == [dram, model]
    assert told([model]) == [model]


def test_a_domain_has_one_source() -> None:
    """The first that has it; what is no domain of ours may come from several."""
    rapl, board = series((0, 0)), series((0, 0), of=PACKAGE._replace(key="hwmon:x"))
    fan, disk = (series((0, 0), of=PACKAGE._replace(key=k, domain="other")) for k in "ab")

    assert chosen_series([rapl, board]) == (Chosen(rapl, frozenset({"package"})),)
    assert [chosen for chosen, _ in chosen_series([fan, disk])] == [fan, disk]


def test_domain_is_the_sum_of_its_zones() -> None:
    """Energies and bins add up; the idle power is known only where every zone's is."""
    window = Window(0, 3 * S)
    zones = [
        z
        for of in (zone("package-0")._replace(idle_w=4.0), zone("package-1"), zone("dram-0"))
        for z in zone_windows(series((0, 0), (3, 30), of=of), window, State(), PARAMS)
    ]
    domains = domain_windows(zones)

    assert domains["package"].energy_uj == 60 * J
    meter = joined([z.meter for z in domains["package"].zones])
    assert joules(meter, 0, 1, 3) == pytest.approx([20, 40])
    assert domains["package"].idle_w is None
    assert domains["dram"].energy_uj == 30 * J


def test_psys_stands_in_only_where_there_is_no_package() -> None:
    """A package that cannot be read now is still there: psys does not take its place."""
    assert attributed_domains(["psys", "dram"], []) == ("dram", "psys")
    assert attributed_domains(["package", "psys"], []) == ("package",)
    assert attributed_domains(["psys"], ["package", "psys"]) == ()


def test_a_counter_that_stands_still_is_no_news() -> None:
    """Readings at which a slow sensor says what it said before mark no edge."""
    found = cut(0, 3, at(0, 0), (0, 0), (0.5, 0), (1, 10), (1.5, 10), (2, 20), (2.5, 20), (3, 30))

    assert (found.meter.marks_ns / S).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [2**62, 2**63, 2**64 - 5, 10**100, -1])
def test_no_value_of_a_collector_stops_the_analysis(value: int) -> None:
    """A counter or a power that no machine can have is left out; the others are booked."""
    sensor = PowerSensor("x:p", "other", "p", None, 1000.0)
    good = [(0.0, 10), (1.0, 20), (2.0, 30), (3.0, 40), (4.0, 50)]
    for of in (PACKAGE, PACKAGE._replace(max_range_uj=0)):
        known = replace(series(*good, of=of), sensors=(sensor,), period_ns=S)
        samples = [s._replace(power_uw=(5 * J,)) for s in known.samples]
        samples[2] = samples[2]._replace(energy_uj=(value,), power_uw=(value,))
        counter, power = zone_windows(
            replace(known, samples=tuple(samples)), Window(S, 4 * S), State(), PARAMS
        )
        assert counter.energy_uj == 30 * J
        assert counter.reason is None
        assert power.energy_uj == 15 * J


def test_the_delay_is_taken_off() -> None:
    """A reading of a sensor that lags by a second tells of a second ago."""
    window = Window(2 * S, 4 * S)
    seen = replace(series((0, 0), (2, 10), (4, 40), (6, 100)), delay_ns=S)
    (found,) = zone_windows(seen, window, State(), PARAMS)

    assert joules(found.meter, 2, 3, 4) == pytest.approx([15, 30])
    assert found.energy_uj == 45 * J
    assert (found.meter.marks_ns / S).tolist() == [-1, 1, 3, 5]


def test_meters_that_are_read_apart_are_joined_without_loss() -> None:
    """The sum has the readings of the one with the most, and both energies to the end."""
    often = Meter(np.array([0, S, 2 * S]), np.array([0.0, 1.0, 5.0]), np.array([0, S, 2 * S]))
    seldom = Meter(np.array([0, 2 * S]), np.array([0.0, 8.0]), np.array([0]))
    both = joined([seldom, often])

    assert both.times_ns.tolist() == [0, S, 2 * S]
    assert both.energy_j.tolist() == [0.0, 5.0, 13.0]

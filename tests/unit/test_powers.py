"""Power readings become energy that adds up over windows, and nothing is made up."""

from dataclasses import replace
from itertools import pairwise

import pytest

from tychod.analysis.energy import ZoneWindow, unread_zones, zone_windows
from tychod.analysis.state import Params, State
from tychod.model import Window
from tychod.samples import EnergySample, EnergySeries, EnergyZone, PowerSensor

S = 1_000_000_000
PARAMS = Params(cpus=1)
SENSOR = PowerSensor("hwmon:x:power1", "other", "power1", None, 1000.0)


def series(
    *readings: tuple[float, int | None], of: PowerSensor = SENSOR, delay_s: float = 0.0
) -> EnergySeries:
    """Readings at seconds, in watts."""
    samples = tuple(
        EnergySample(round(t * S), (), (None if w is None else w * 1_000_000,)) for t, w in readings
    )
    return EnergySeries(
        "hwmon", "measured", (), samples, {}, round(delay_s * S), (of,), round(0.5 * S)
    )


def booked(seen: EnergySeries, edges: list[float]) -> tuple[list[ZoneWindow], State]:
    """Window after window."""
    state, found = State(), []
    for start, end in pairwise(edges):
        window = Window(round(start * S), round(end * S))
        (zone,) = zone_windows(seen, window, state, PARAMS)
        found.append(zone)
        state = State(zones={zone.zone.key: zone.point})
    return found, state


def test_moments_are_joined_by_straight_lines() -> None:
    """10 W, then 30 W a second later: 20 J between them."""
    (found,), _ = booked(series((0, 10), (1, 30), (2, 30)), [0, 2])
    assert (found.energy_uj, found.late_uj, found.reason) == (50_000_000, 0, None)


def test_means_hold_for_the_time_before_them() -> None:
    """The mean of a second says what was used in that second."""
    (found,), _ = booked(series((0, 10), (1, 30), of=SENSOR._replace(average_s=1.0)), [0, 1])
    assert found.energy_uj == 30_000_000


def test_what_the_energy_is_from_is_told() -> None:
    """Means are labelled, moments too, and how far apart the added-up readings are."""
    for average_s, method in ((0.0, "power"), (1.0, "average")):
        seen = series((0, 10), (1, 30), of=SENSOR._replace(average_s=average_s))
        (found,), _ = booked(seen, [0, 1])
        assert (found.method, found.interval_ns) == (method, round(0.5 * S))
        (unread,) = unread_zones(replace(seen, samples=()), State())
        assert unread.method == method
    counter = EnergyZone("hwmon:x:energy1", "other", "energy1", None, 0, 1000.0)
    samples = (EnergySample(0, (0,)), EnergySample(S, (9,)))
    (zone,) = zone_windows(
        EnergySeries("hwmon", "measured", (counter,), samples, {}, period_ns=S),
        Window(0, S),
        State(),
        PARAMS,
    )
    assert (zone.method, zone.interval_ns) == ("counter", None)


@pytest.mark.parametrize("average_s", [0.0, 1.0])
def test_windows_add_up_wherever_they_meet(average_s: float) -> None:
    """Edges between readings neither lose nor double a microjoule."""
    readings = [(0.3 * i, (i * 7919) % 97) for i in range(40)]
    seen = series(*readings, of=SENSOR._replace(average_s=average_s))
    whole, _ = booked(seen, [0.0, 11.7])
    parts, _ = booked(seen, [0.0, 1.0, 2.345678, 5.0, 8.123456789, 11.7])
    assert sum(z.energy_uj for z in parts) == whole[0].energy_uj
    assert parts[-1].point == whole[0].point


def test_a_long_silence_is_not_made_up() -> None:
    """Ten seconds without a reading book nothing and say so; after them it goes on."""
    seen = series((0, 10), (1, 10), (11, 10), (12, 10))
    found, _ = booked(seen, [0, 3, 6, 9, 12])
    assert [z.energy_uj + z.late_uj for z in found] == [10_000_000, 0, 0, 10_000_000]
    assert "was not read for 10 s" in (found[-1].reason or "")


def test_a_restart_goes_on_from_what_was_booked() -> None:
    """What another process booked stays; the time between both is not made up if it was long."""
    _, state = booked(series((0, 10), (1.5, 10), (3, 10)), [0, 3])
    (found,) = zone_windows(
        series((60, 50), (61, 50), (62, 50)), Window(3 * S, 61 * S), state, PARAMS
    )
    assert found.point.booked_uj == 80_000_000
    assert "was not read" in (found.reason or "")


def test_a_constant_reading_is_news_every_time() -> None:
    """A sensor that says the same again says that the power is the same: its bins are known."""
    (found,), _ = booked(series(*((0.5 * i, 10) for i in range(7))), [0, 3])
    assert len(found.meter.marks_ns) == 7


def test_the_delay_shifts_the_readings() -> None:
    """A value that is half a second old belongs half a second earlier."""
    late = series((0.5, 10), (1.5, 30), (2.5, 30), delay_s=0.5)
    (found,), _ = booked(late, [0, 2])
    assert found.energy_uj == 50_000_000

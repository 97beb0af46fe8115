"""Power readings -> energy since a point: what a sensor says of moments, added up over time.

Between two momentary readings power is taken to change evenly (trapezoid rule); a reading that is
a mean holds for the time before it.  A stretch without readings is not made up: how much was used
meanwhile, power readings cannot tell.
"""

from collections.abc import Sequence
from typing import Final

from tychod.analysis.counters import Track, energy_at
from tychod.samples import EnergyZone, PowerSensor

LONGEST_NS: Final = 2_000_000_000
"""Readings further apart than this, and than three periods, do not tell what was in between."""
PERIODS: Final = 3

Reading = tuple[int, int]
"""Time (ns) and power (microwatts)."""


def as_zone(sensor: PowerSensor) -> EnergyZone:
    """Return the zone that a sensor's added-up energy is shown and kept as."""
    return EnergyZone(
        sensor.key, sensor.domain, sensor.name, sensor.socket, 0, sensor.max_power_w, None
    )


def power_track(
    sensor: PowerSensor, t_ns: int, booked_uj: int, readings: Sequence[Reading], period_ns: int
) -> Track:
    """Return the energy since ``t_ns`` at each later reading; ``booked_uj`` is its own counter.

    The sum is made from one reading to the next and only then cut at ``t_ns``, in integers, so
    that two windows that meet there add up to it.
    """
    limit_ns = max(LONGEST_NS, PERIODS * period_ns)
    whole = Track([], [], [], [])
    for time_ns, power_uw in readings:
        if whole.times_ns and time_ns <= whole.times_ns[-1]:
            continue
        rise, problem = _rise(sensor, whole, (time_ns, power_uw), limit_ns)
        before = whole.energy_uj[-1] if whole.energy_uj else 0
        whole.times_ns.append(time_ns)
        whole.energy_uj.append(before + rise)
        whole.native_uj.append(power_uw)
        if problem and time_ns > t_ns:
            whole.problems.append(problem)
    if not whole.times_ns or whole.times_ns[0] > t_ns:
        whole = _begun_at(t_ns, whole, limit_ns)
    return _cut(whole, t_ns, booked_uj)


def _rise(
    sensor: PowerSensor, whole: Track, reading: Reading, limit_ns: int
) -> tuple[int, str | None]:
    """Return the energy from the reading before to this one, or 0 and why it is not known."""
    if not whole.times_ns:
        return 0, None
    time_ns, power_uw = reading
    elapsed_ns, before_uw = time_ns - whole.times_ns[-1], whole.native_uj[-1]
    if elapsed_ns > limit_ns:
        return 0, unknown_for(elapsed_ns)
    twice_uw = 2 * power_uw if sensor.average_s else before_uw + power_uw
    return twice_uw * elapsed_ns // 2_000_000_000, None


def unknown_for(elapsed_ns: int) -> str:
    """Return why the energy of a stretch without readings is not known."""
    return (
        f"it was not read for {elapsed_ns / 1e9:.0f} s; power readings do not tell what was used "
        "meanwhile"
    )


def _begun_at(t_ns: int, whole: Track, limit_ns: int) -> Track:
    """Return the track with its first reading held back to ``t_ns``, if that is not too far."""
    if not whole.times_ns:
        return Track([t_ns], [0], [0], [])
    first_ns, first_uw = whole.times_ns[0], whole.native_uj[0]
    elapsed_ns = first_ns - t_ns
    is_known = elapsed_ns <= limit_ns
    rise = first_uw * elapsed_ns // 1_000_000_000 if is_known else 0
    problems = whole.problems if is_known else [unknown_for(elapsed_ns), *whole.problems]
    return Track(
        [t_ns, *whole.times_ns],
        [0, *(rise + energy for energy in whole.energy_uj)],
        [first_uw, *whole.native_uj],
        problems,
    )


def _cut(whole: Track, t_ns: int, booked_uj: int) -> Track:
    """Return what comes after ``t_ns``; the native counter goes on from what was booked."""
    before = energy_at(whole, t_ns)
    later = [(t, e - before) for t, e in zip(*whole[:2], strict=True) if t > t_ns]
    energy = [0, *(e for _, e in later)]
    native = [booked_uj + e for e in energy]
    return Track([t_ns, *(t for t, _ in later)], energy, native, whole.problems)

"""Native energy counters -> energy since a point: wraps, resets, gaps.

A powercap counter runs from 0 to ``max_range_uj`` and starts again.  Between two readings the
energy is ``(current - previous) mod range`` plus an unknown number of whole ranges.  How much a
load can draw at most (``max_power_w``) decides what is believable.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import le, lt, sub
from typing import Final, NamedTuple

from tychod.samples import EnergyZone

MARGIN_NS = 1_000_000
"""A RAPL counter is updated about every 0.976 ms, so a reading may hold that much of the past."""

SLACK_NS: Final = 2_000_000_000
"""A counter in 64 bits may be counted up so late, and then make up for it."""
LEAPT: Final = "its counter rose by more than it can measure; counting goes on from the new value"
COUNTER_END: Final = 2**62
"""No counter in microjoules gets there: at 1 GW after 146 years."""


class Step(NamedTuple):
    """Energy between two readings, or why none can be booked."""

    energy_uj: int
    problem: str | None = None


def unwrap(previous_uj: int, current_uj: int, max_range_uj: int) -> int | None:
    """Return the least energy between two readings in microjoules; None: it went back for good.

    A counter with a range that goes back has wrapped; one without has been reset.
    """
    if current_uj >= previous_uj:
        return current_uj - previous_uj
    return max_range_uj - previous_uj + current_uj if 0 < previous_uj <= max_range_uj else None


def step(zone: EnergyZone, previous_uj: int, current_uj: int, elapsed_ns: int) -> Step:
    """Return the energy between two readings of a zone, ``elapsed_ns`` apart.

    Nothing is booked, and the reason told, when the counter went back by more than a wrap at the
    hardware's utmost power explains (it was reset), or may have wrapped more than once, or has no
    range and rose by more than that power explains: in 64 bits a slip would be booked for good.
    Any other rise is believed: no guess about the hardware's limits drops what a meter counted.
    """
    energy_uj = unwrap(previous_uj, current_uj, zone.max_range_uj)
    if energy_uj is None:
        return Step(0, "its counter was reset; counting goes on from the new value")
    if not zone.max_range_uj:
        most_uj = zone.max_power_w * (elapsed_ns + SLACK_NS) / 1_000
        return Step(energy_uj) if energy_uj <= most_uj else Step(0, LEAPT)
    limit_uj = zone.max_power_w * (elapsed_ns + MARGIN_NS) / 1_000
    if current_uj < previous_uj and energy_uj > limit_uj:
        return Step(0, "its counter went back without a wrap; counting goes on from the new value")
    if energy_uj + zone.max_range_uj <= limit_uj:
        seconds = elapsed_ns / 1e9
        return Step(0, f"it was not read for {seconds:.0f} s and may have wrapped more than once")
    return Step(energy_uj)


class Track(NamedTuple):
    """Energy since a point at each reading; lists of one length, the first energy is 0."""

    times_ns: list[int]
    energy_uj: list[int]
    native_uj: list[int]
    problems: list[str]


def track(
    zone: EnergyZone, t_ns: int, native_uj: int, readings: Iterable[tuple[int, int]]
) -> Track:
    """Follow a zone from the point ``(t_ns, native_uj)`` through later readings ``(t, native)``."""
    later = [reading for reading in readings if reading[0] > t_ns]
    times, values = [t_ns, *(t for t, _ in later)], [native_uj, *(uj for _, uj in later)]
    if _only_rises(zone, times, values):
        return Track(times, [value_uj - native_uj for value_uj in values], values, [])
    found = Track([t_ns], [0], [native_uj], [])
    for time_ns, value_uj in later:
        if time_ns <= found.times_ns[-1]:
            continue
        moved = step(zone, found.native_uj[-1], value_uj, time_ns - found.times_ns[-1])
        found.times_ns.append(time_ns)
        found.energy_uj.append(found.energy_uj[-1] + moved.energy_uj)
        found.native_uj.append(value_uj)
        if moved.problem:
            found.problems.append(moved.problem)
    return found


def _only_rises(zone: EnergyZone, times_ns: Sequence[int], values_uj: Sequence[int]) -> bool:
    """Say whether each step is one that ``step`` believes whatever it rose by: nearly always so."""
    if not zone.max_range_uj or not all(map(lt, times_ns, times_ns[1:])):
        return False
    longest_ns = max(map(sub, times_ns[1:], times_ns), default=0)
    limit_uj = zone.max_power_w * (longest_ns + MARGIN_NS) / 1_000
    return zone.max_range_uj > limit_uj and all(map(le, values_uj, values_uj[1:]))


def energy_at(found: Track, t_ns: int) -> int:
    """Return the energy since the point at ``t_ns``, linear between readings, held outside them.

    Integer arithmetic, so that two windows that meet at ``t_ns`` agree to the microjoule.
    """
    times = found.times_ns
    if t_ns <= times[0]:
        return 0
    if t_ns >= times[-1]:
        return found.energy_uj[-1]
    after = bisect_left(times, t_ns)
    before = after - 1
    rise = found.energy_uj[after] - found.energy_uj[before]
    return found.energy_uj[before] + rise * (t_ns - times[before]) // (times[after] - times[before])


def native_at(found: Track, t_ns: int, max_range_uj: int) -> tuple[int, int]:
    """Return ``(time, native counter)`` of the track at ``t_ns``, or at its last reading."""
    if t_ns >= found.times_ns[-1]:
        return found.times_ns[-1], found.native_uj[-1]
    after = bisect_left(found.times_ns, t_ns)
    native = found.native_uj[after] - (found.energy_uj[after] - energy_at(found, t_ns))
    return t_ns, native % max_range_uj if max_range_uj else native

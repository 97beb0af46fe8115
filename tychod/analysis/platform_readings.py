"""Readings of the whole machine's power: sums over its sensors, and energy by holding them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple

from tychod.analysis.energy import PLATFORM
from tychod.analysis.platform_memory import PlatformMemory, Reading, Seen, Stretch
from tychod.samples import EnergySample, EnergySeries

GAPS: Final = 9
LATE: Final = 1.5
"""A reading is late after so many of the usual gaps: one lost reading is noticed."""
SHORTEST_NS, LONGEST_NS, UNKNOWN_NS = 2_000_000_000, 60_000_000_000, 15_000_000_000
MOST: Final = 8192
"""Readings of one window at most: a minute of a hundred a second, and some."""
KEPT: Final = 64
"""Readings that may wait: a minute of the fastest BMC."""


class Held(NamedTuple):
    """Energy by holding each reading until the next, as stretches that follow each other."""

    stretches: tuple[Stretch, ...]
    carry: int  # microwatt nanoseconds that no whole microjoule was booked for


def heartbeat_ns(gaps_ns: Sequence[int]) -> int:
    """Return how long a reading may be believed when no other follows."""
    if not gaps_ns:
        return UNKNOWN_NS
    return min(max(round(LATE * median(gaps_ns)), SHORTEST_NS), LONGEST_NS)


def with_readings(memory: PlatformMemory, series: EnergySeries) -> PlatformMemory:
    """Return the memory with what is new; a reading is there when every sensor has a new value."""
    seen, readings, gaps = dict(memory.seen), list(memory.readings), list(memory.gaps_ns)
    wanted = _wanted(series, seen)
    newest = memory.readings[-1].newest_ns if memory.readings else memory.taken_ns
    for sample in series.samples:
        seen |= _values(sample, wanted, seen)
        have = [seen[key] for key in wanted.values() if key in seen]
        if not have or len(have) < len(wanted) or min(value.t_ns for value in have) <= newest:
            continue
        reading = _sum(have)
        if readings:
            gaps = [*gaps, reading.t_ns - readings[-1].t_ns][-GAPS:]
        readings.append(reading)
        newest = reading.newest_ns
    return replace(memory, seen=seen, readings=tuple(readings[-MOST:]), gaps_ns=tuple(gaps))


def _wanted(series: EnergySeries, seen: Mapping[str, Seen]) -> dict[int, str]:
    """Return the sensors that make up the sum: one that was never read and cannot be is not one."""
    return {
        i: s.key
        for i, s in enumerate(series.sensors)
        if s.domain == PLATFORM
        and (
            s.key in seen
            or s.key not in series.zone_reasons
            or any(_power_uw(sample, i) is not None for sample in series.samples)
        )
    }


def _power_uw(sample: EnergySample, index: int) -> int | None:
    return sample.power_uw[index] if index < len(sample.power_uw) else None


def _values(
    sample: EnergySample, wanted: Mapping[int, str], seen: Mapping[str, Seen]
) -> dict[str, Seen]:
    found = {}
    for index, key in wanted.items():
        power_uw = _power_uw(sample, index)
        if power_uw is not None and (key not in seen or sample.t_ns > seen[key].t_ns):
            found[key] = Seen(sample.t_ns, sample.half_ns, power_uw)
    return found


def _sum(values: Sequence[Seen]) -> Reading:
    """Several chassis publish apart from each other: their sum is of the middle, and less sharp."""
    times = [value.t_ns for value in values]
    half_ns = max(value.half_ns for value in values) + (max(times) - min(times)) // 2
    power_uw = sum(value.power_uw for value in values)
    return Reading((max(times) + min(times)) // 2, half_ns, power_uw, max(times))


def silent_keys(memory: PlatformMemory, series: EnergySeries, end_ns: int) -> list[str]:
    """Return the sensors without a value that is new enough."""
    limit_ns = end_ns - heartbeat_ns(memory.gaps_ns)
    return [
        sensor.key
        for sensor in series.sensors
        if sensor.domain == PLATFORM
        and (sensor.key not in memory.seen or memory.seen[sensor.key].t_ns < limit_ns)
    ]


def hold(memory: PlatformMemory, from_ns: int, end_ns: int, delay_ns: int) -> Held:
    """Return the zero-order hold of the readings since ``from_ns``, exactly.

    A reading holds until the next is there, so that a late one changes nothing that was booked;
    without a next it holds for a heartbeat.
    """
    heartbeat, carry = heartbeat_ns(memory.gaps_ns), memory.carry
    stretches = []
    ends = [*(after.t_ns for _, after in pairwise(memory.readings)), None]
    for reading, next_ns in zip(memory.readings, ends, strict=True):
        latest_ns = reading.t_ns + heartbeat
        if next_ns is None and latest_ns > end_ns + delay_ns:
            break
        until_ns = min(next_ns or latest_ns, latest_ns) - delay_ns
        a = max(reading.t_ns - delay_ns, from_ns)
        b = min(until_ns, end_ns)
        if b > a:
            uj, carry = divmod(reading.power_uw * (b - a) + carry, 1_000_000_000)
            stretches.append(Stretch(a, b, uj))
    return Held(tuple(stretches), carry)


def kept_readings(memory: PlatformMemory) -> PlatformMemory:
    """Return the memory without the readings that are booked and that the bank has seen."""
    done_ns = min(memory.taken_ns, memory.through_ns or 0)
    later = [r for r in memory.readings if r.t_ns > done_ns]
    before = [r for r in memory.readings if r.t_ns <= done_ns]
    return replace(memory, readings=(*before[-1:], *later)[-KEPT:])

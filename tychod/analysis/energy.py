"""Energy of each zone and domain in one window, exact in total and resolved by bin."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tychod.analysis.bins import Meter
from tychod.analysis.counters import Track, energy_at, native_at, track
from tychod.analysis.state import Params, State, ZonePoint
from tychod.model import Window
from tychod.samples import EnergySeries, EnergyZone, Int64s

ATTRIBUTED = ("package", "core", "uncore", "dram")
"""Domains that are split among workloads; psys too where there is no package (design.md 6)."""


class ZoneWindow(NamedTuple):
    """One zone in one window."""

    zone: EnergyZone
    source: str
    quality: str
    point: ZonePoint
    energy_uj: int  # used inside the window
    late_uj: int  # used before it, known only now
    covered_ns: int  # how long the energies above took
    meter: Meter  # the window's part, on the axis that the source's delay is taken off
    reason: str | None
    broken: bool = False  # it was reset or may have wrapped unseen: its bins do not show its power


class UnreadZone(NamedTuple):
    """A zone that is there and was never read: it has no number, and the reason is told."""

    zone: EnergyZone
    source: str
    reason: str


class DomainWindow(NamedTuple):
    """One domain in one window: sums over its zones."""

    name: str
    zones: tuple[ZoneWindow, ...]
    energy_uj: int
    late_uj: int
    idle_w: float | None  # known, for modelled sources


def chosen_series(series: Iterable[EnergySeries]) -> tuple[EnergySeries, ...]:
    """Drop modelled zones of a domain that something measures: the two must never be added."""
    found = tuple(series)
    measured = {z.domain for s in found if s.quality == "measured" for z in s.zones}
    return tuple(
        s
        for s in found
        if s.quality == "measured" or not any(_covers(measured, z.domain) for z in s.zones)
    )


def _covers(measured: set[str], domain: str) -> bool:
    return domain in measured or (domain == "package" and "psys" in measured)


def zone_windows(
    series: EnergySeries, window: Window, state: State, params: Params
) -> list[ZoneWindow]:
    """Return each zone of a source that has been read at least once."""
    found = []
    for index, zone in enumerate(series.zones):
        readings = _readings(series, index)
        point = _point(zone, state)
        if point.native_uj is None and not readings:
            continue
        begun = point if point.native_uj is not None else _seed(zone, readings, window, point)
        found.append(_zone_window(zone, series, readings, window, begun, params))
    return found


def unread_zones(series: EnergySeries, state: State) -> list[UnreadZone]:
    """Return each zone of a source that has never been read."""
    return [
        UnreadZone(zone, series.source, series.zone_reasons.get(zone.key) or "not read yet")
        for index, zone in enumerate(series.zones)
        if _point(zone, state).native_uj is None and not _readings(series, index)
    ]


def _readings(series: EnergySeries, index: int) -> list[tuple[int, int]]:
    return [
        (s.t_ns - series.delay_ns, value)
        for s in series.samples
        if (value := s.energy_uj[index]) is not None
    ]


def _point(zone: EnergyZone, state: State) -> ZonePoint:
    return state.zones.get(zone.key) or ZonePoint(0, None, 0, zone.domain)


def _zone_window(
    zone: EnergyZone,
    series: EnergySeries,
    readings: Sequence[tuple[int, int]],
    window: Window,
    point: ZonePoint,
    params: Params,
) -> ZoneWindow:
    found = track(zone, point.t_ns, point.native_uj or 0, readings)
    until_ns, native_uj = native_at(found, window.end_ns, zone.max_range_uj)
    rise_uj = energy_at(found, window.end_ns)
    is_late = point.t_ns < window.start_ns - params.late_tolerance_ns
    late_uj = energy_at(found, window.start_ns) if is_late else 0
    end = ZonePoint(until_ns, native_uj, point.booked_uj + rise_uj, zone.domain)
    return ZoneWindow(
        zone,
        series.source,
        series.quality,
        end,
        rise_uj - late_uj,
        late_uj,
        max(until_ns - point.t_ns, 0),
        _meter(found, readings, window, is_late=is_late),
        series.zone_reasons.get(zone.key) or (found.problems[-1] if found.problems else None),
        bool(found.problems),
    )


def _seed(
    zone: EnergyZone, readings: Sequence[tuple[int, int]], window: Window, before: ZonePoint
) -> ZonePoint:
    """First sight of a counter books nothing: begin at the window's start, or where it begins."""
    (first_ns, first_uj), *rest = readings
    found = track(zone, first_ns, first_uj, rest)
    t_ns, native_uj = native_at(found, max(window.start_ns, first_ns), zone.max_range_uj)
    return ZonePoint(t_ns, native_uj, before.booked_uj, zone.domain)


def _meter(
    found: Track, readings: Sequence[tuple[int, int]], window: Window, *, is_late: bool
) -> Meter:
    """Return the track inside the window; a little lateness before it belongs to its first bin."""
    first_ns = window.start_ns if is_late else found.times_ns[0]
    times = np.array(found.times_ns, np.int64)
    energy = np.array(found.energy_uj, np.float64) / 1e6
    ends = np.array([first_ns, min(max(found.times_ns[-1], first_ns), window.end_ns)], np.int64)
    at_ends = np.interp(ends - first_ns, times - first_ns, energy)
    inner = (times > ends[0]) & (times < ends[1])
    return Meter(
        np.concatenate([ends[:1], times[inner], ends[1:]]),
        np.concatenate([at_ends[:1], energy[inner], at_ends[1:]]) - at_ends[0],
        _marks(readings),
    )


def _marks(readings: Sequence[tuple[int, int]]) -> Int64s:
    """Return the times at which the counter was seen to have moved.

    A sensor that is slower than its reader says the same for a while: that is no news.
    """
    times = np.array([t for t, _ in readings], np.int64)
    values = np.array([v for _, v in readings], np.int64)
    return times[np.concatenate([[True], np.diff(values) != 0])] if len(times) else times


def domain_windows(zones: Iterable[ZoneWindow]) -> Mapping[str, DomainWindow]:
    """Sum zones by domain, in the order in which the domains appear."""
    by_domain: dict[str, list[ZoneWindow]] = {}
    for zone in zones:
        by_domain.setdefault(zone.zone.domain, []).append(zone)
    return {
        name: DomainWindow(
            name,
            tuple(members),
            sum(z.energy_uj for z in members),
            sum(z.late_uj for z in members),
            _known_idle_w(members),
        )
        for name, members in by_domain.items()
    }


def _known_idle_w(members: Sequence[ZoneWindow]) -> float | None:
    known = [z.zone.idle_w for z in members if z.zone.idle_w is not None]
    return sum(known) if len(known) == len(members) else None


def attributed_domains(present: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return which of the present domains are split among workloads.

    ``known`` has those too that cannot be read now: psys does not stand in for a package that
    only failed once, else a workload's total would change its meaning.
    """
    names = set(present)
    wanted = ATTRIBUTED if "package" in {*names, *known} else (*ATTRIBUTED, "psys")
    return tuple(name for name in wanted if name in names)

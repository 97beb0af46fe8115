"""Energy of each zone and domain in one window, exact in total and resolved by bin."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from tychod.analysis.bins import Meter
from tychod.analysis.counters import COUNTER_END, Track, energy_at, native_at, track
from tychod.analysis.powers import as_zone, power_track
from tychod.analysis.state import Params, State, ZonePoint
from tychod.model import Window, ZoneMethod
from tychod.samples import EnergySeries, EnergyZone, Int64s, PowerSensor

ATTRIBUTED = ("package", "core", "uncore", "dram")
"""Domains that are split among workloads by CPU time; psys too where there is no package."""
PLATFORM: Final = "platform"
GPU: Final = "gpu"
OTHER: Final = "other"
"""What sensors measure that is no domain of ours: it is shown, and is in no total."""
POWER_END: Final = 2**50
"""No power in microwatts gets there (1 GW); collectors know what each sensor can say."""


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
    method: ZoneMethod = "counter"
    interval_ns: int | None = None  # how far apart the added-up readings are; None: not known


class Followed(NamedTuple):
    """One zone's energy since a point, however it is known."""

    zone: EnergyZone
    source: str
    quality: str
    point: ZonePoint
    track: Track  # begins at the point
    marks_ns: Int64s  # when something new was read
    reason: str | None  # why it cannot be read now
    missing_ns: int = 0  # of the time that the track covers: nothing is known of it


class UnreadZone(NamedTuple):
    """A zone that is there and was never read: it has no number, and the reason is told."""

    zone: EnergyZone
    source: str
    reason: str
    method: ZoneMethod = "counter"


class DomainWindow(NamedTuple):
    """One domain in one window: sums over its zones."""

    name: str
    zones: tuple[ZoneWindow, ...]
    energy_uj: int
    late_uj: int
    idle_w: float | None  # known, for modelled sources


class Chosen(NamedTuple):
    """A source and those of its domains that count."""

    series: EnergySeries
    domains: frozenset[str]


def chosen_series(series: Iterable[EnergySeries]) -> tuple[Chosen, ...]:
    """Give each domain to the first kind of meter that has it: two of one thing are never added.

    What is modelled counts only where nothing measures; sensors of domain ``other`` all count.
    """
    found = tuple(series)
    measured = {z.domain for s in found if s.quality == "measured" for z in _parts(s)}
    kinds: dict[str, str] = {}
    chosen = []
    for one in found:
        own = {z.domain: _kind(z) for z in _parts(one)}
        if one.quality != "measured" and any(_covers(measured, name) for name in own):
            continue
        mine = [name for name, kind in own.items() if kinds.get(name, kind) == kind]
        if mine:
            chosen.append(Chosen(one, frozenset(mine)))
        kinds |= {name: own[name] for name in mine if name != OTHER}
    return tuple(chosen)


def _kind(part: EnergyZone | PowerSensor) -> str:
    return part.key.partition(":")[0]


def _parts(series: EnergySeries) -> tuple[EnergyZone | PowerSensor, ...]:
    return (*series.zones, *series.sensors)


def _covers(measured: set[str], domain: str) -> bool:
    return domain in measured or (domain == "package" and "psys" in measured)


def zone_windows(
    series: EnergySeries,
    window: Window,
    state: State,
    params: Params,
    domains: Set[str] | None = None,
) -> list[ZoneWindow]:
    """Return each zone and power sensor of a source that has been read at least once.

    ``domains``: those that count; None: all.
    """
    found = []
    for zone, sensor, index in _columns(series, domains):
        point, readings = _point(zone, state), _told(series, sensor, index)
        if point.native_uj is None and not readings:
            continue
        begun = point
        if point.native_uj is None:
            begin = _begun if sensor else partial(_seed, zone)
            begun = begin(readings, window, point)
        native_uj = begun.native_uj or 0
        if sensor is None:
            moved, marks_ns = track(zone, begun.t_ns, native_uj, readings), _marks(readings)
        else:
            moved = power_track(sensor, begun.t_ns, native_uj, readings, series.period_ns)
            marks_ns = np.array([t_ns for t_ns, _ in readings], np.int64)
        reason = series.zone_reasons.get(zone.key)
        followed = Followed(zone, series.source, series.quality, begun, moved, marks_ns, reason)
        booked = zone_window(followed, window, params)
        if sensor:
            period_ns = series.period_ns or None
            booked = booked._replace(method=method_of(sensor), interval_ns=period_ns)
        found.append(booked)
    return found


def method_of(sensor: PowerSensor) -> ZoneMethod:
    """Return what the energy of a sensor's zone is from."""
    return "average" if sensor.average_s else "power"


def _begun(readings: Sequence[tuple[int, int]], window: Window, before: ZonePoint) -> ZonePoint:
    """A sensor's counter is our own: it goes on from what was booked."""
    t_ns = max(window.start_ns, readings[0][0])
    return before._replace(t_ns=t_ns, native_uj=before.booked_uj)


def _columns(
    series: EnergySeries, domains: Set[str] | None
) -> Iterator[tuple[EnergyZone, PowerSensor | None, int]]:
    """Yield each zone or sensor that counts, with its place in the samples."""
    for index, zone in enumerate(series.zones):
        if domains is None or zone.domain in domains:
            yield zone, None, index
    for index, sensor in enumerate(series.sensors):
        if domains is None or sensor.domain in domains:
            yield as_zone(sensor), sensor, index


def _told(series: EnergySeries, sensor: PowerSensor | None, index: int) -> list[tuple[int, int]]:
    """Return the readings of one zone or sensor, on the corrected axis."""
    return _powers(series, index) if sensor else _readings(series, index)


def unread_zones(
    series: EnergySeries, state: State, domains: Set[str] | None = None
) -> list[UnreadZone]:
    """Return each zone and sensor of a source that has never been read."""
    return [
        UnreadZone(
            zone,
            series.source,
            series.zone_reasons.get(zone.key) or "not read yet",
            method_of(sensor) if sensor else "counter",
        )
        for zone, sensor, index in _columns(series, domains)
        if _point(zone, state).native_uj is None and not _told(series, sensor, index)
    ]


def _powers(series: EnergySeries, index: int) -> list[tuple[int, int]]:
    return [
        (s.t_ns - series.delay_ns, value)
        for s in series.samples
        if index < len(s.power_uw)
        and (value := s.power_uw[index]) is not None
        and 0 <= value < POWER_END
    ]


def _readings(series: EnergySeries, index: int) -> list[tuple[int, int]]:
    """Return the readings of a counter, without what no collector should let through."""
    return [
        (s.t_ns - series.delay_ns, value)
        for s in series.samples
        if (value := s.energy_uj[index]) is not None and 0 <= value < COUNTER_END
    ]


def _point(zone: EnergyZone, state: State) -> ZonePoint:
    return state.zones.get(zone.key) or ZonePoint(0, None, 0, zone.domain)


def zone_window(followed: Followed, window: Window, params: Params) -> ZoneWindow:
    """Cut what is known of a zone at the window's ends; what came too late is told apart."""
    zone, point, found = followed.zone, followed.point, followed.track
    until_ns, native_uj = native_at(found, window.end_ns, zone.max_range_uj)
    rise_uj = energy_at(found, window.end_ns)
    is_late = point.t_ns < window.start_ns - params.late_tolerance_ns
    late_uj = energy_at(found, window.start_ns) if is_late else 0
    first_ns = window.start_ns if is_late else point.t_ns
    return ZoneWindow(
        zone,
        followed.source,
        followed.quality,
        ZonePoint(until_ns, native_uj, point.booked_uj + rise_uj, zone.domain),
        rise_uj - late_uj,
        late_uj,
        max(until_ns - point.t_ns - followed.missing_ns, 0),
        _meter(found, followed.marks_ns, first_ns, window.end_ns),
        followed.reason or (found.problems[-1] if found.problems else None),
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


def _meter(found: Track, marks_ns: Int64s, first_ns: int, end_ns: int) -> Meter:
    """Return a track from the first to the last moment, as the bins want it."""
    times = np.array(found.times_ns, np.int64)
    energy = np.array(found.energy_uj, np.float64) / 1e6
    last_ns = min(max(found.times_ns[-1], first_ns), end_ns)
    ends = np.array([first_ns, last_ns], np.int64)
    at_ends = np.interp(ends - first_ns, times - first_ns, energy)
    inner = (times > first_ns) & (times < last_ns)
    return Meter(
        np.concatenate([ends[:1], times[inner], ends[1:]]),
        np.concatenate([at_ends[:1], energy[inner], at_ends[1:]]) - at_ends[0],
        marks_ns,
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

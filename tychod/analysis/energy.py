"""Energy of each zone and domain in one window, exact in total and resolved by bin."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tychod.analysis.counters import Track, energy_at, native_at, track
from tychod.analysis.state import Params, State, ZonePoint
from tychod.model import Window
from tychod.samples import EnergySeries, EnergyZone, Int64s

Float64s = NDArray[np.float64]

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
    bins_uj: Float64s  # shape (bins,): how energy_uj spreads over the bins; weights only
    reason: str | None


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
    bins_uj: Float64s
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
    series: EnergySeries, window: Window, edges_ns: Int64s, state: State, params: Params
) -> list[ZoneWindow]:
    """Return each zone of a source that has been read at least once."""
    found = []
    for index, zone in enumerate(series.zones):
        readings = _readings(series, index)
        point = _point(zone, state)
        if point.native_uj is None and not readings:
            continue
        begun = point if point.native_uj is not None else _seed(zone, readings, window, point)
        found.append(_zone_window(zone, series, readings, window, edges_ns, begun, params))
    return found


def unread_zones(series: EnergySeries, state: State) -> list[UnreadZone]:
    """Return each zone of a source that has never been read."""
    return [
        UnreadZone(zone, series.source, series.zone_reasons.get(zone.key) or "not read yet")
        for index, zone in enumerate(series.zones)
        if _point(zone, state).native_uj is None and not _readings(series, index)
    ]


def _readings(series: EnergySeries, index: int) -> list[tuple[int, int]]:
    return [(s.t_ns, value) for s in series.samples if (value := s.energy_uj[index]) is not None]


def _point(zone: EnergyZone, state: State) -> ZonePoint:
    return state.zones.get(zone.key) or ZonePoint(0, None, 0, zone.domain)


def _zone_window(
    zone: EnergyZone,
    series: EnergySeries,
    readings: Sequence[tuple[int, int]],
    window: Window,
    edges_ns: Int64s,
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
        _bins(found, edges_ns, first_ns=window.start_ns if is_late else point.t_ns),
        series.zone_reasons.get(zone.key) or (found.problems[-1] if found.problems else None),
    )


def _seed(
    zone: EnergyZone, readings: Sequence[tuple[int, int]], window: Window, before: ZonePoint
) -> ZonePoint:
    """First sight of a counter books nothing: begin at the window's start, or where it begins."""
    (first_ns, first_uj), *rest = readings
    found = track(zone, first_ns, first_uj, rest)
    t_ns, native_uj = native_at(found, max(window.start_ns, first_ns), zone.max_range_uj)
    return ZonePoint(t_ns, native_uj, before.booked_uj, zone.domain)


def _bins(found: Track, edges_ns: Int64s, first_ns: int) -> Float64s:
    edges = edges_ns.copy()
    edges[0] = min(int(edges[0]), first_ns)  # a little lateness belongs to the first bin
    at_edges = np.interp(
        edges.astype(np.float64) - float(edges[0]),
        np.array(found.times_ns, np.float64) - float(edges[0]),
        np.array(found.energy_uj, np.float64),
    )
    return np.diff(at_edges)


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
            np.add.reduce([z.bins_uj for z in members], axis=0),
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

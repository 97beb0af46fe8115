"""The whole machine's energy where something counts it: the counters' own, and nothing made up."""

from dataclasses import replace

from tychod.analysis.energy import PLATFORM, ZoneWindow, zone_windows
from tychod.analysis.platform_memory import CounterPoint, PlatformMemory, Stretch
from tychod.analysis.platform_shown import Booked
from tychod.analysis.state import Params, State, ZonePoint
from tychod.model import Window, Zone
from tychod.samples import EnergySeries


def counted(
    memory: PlatformMemory, series: EnergySeries, window: Window, params: Params
) -> tuple[PlatformMemory, Booked, tuple[Zone, ...]]:
    """Take the counters' own energy; those of several chassis are added."""
    points = {key: ZonePoint(*point, PLATFORM) for key, point in memory.points.items()}
    found = zone_windows(series, window, State(zones=points), params, {PLATFORM})
    found = [zone for zone in found if any(zone.zone.key == z.key for z in series.zones)]
    after = {zone.zone.key: CounterPoint(*zone.point[:3]) for zone in found}
    energy_uj = sum(zone.energy_uj + zone.late_uj for zone in found)
    fresh_ns = window.end_ns - params.stale_ns
    rows = tuple(_counter_row(zone, fresh_ns) for zone in found)
    if not found:
        return memory, Booked((), "none", "unavailable", "not read yet"), rows
    through = min(zone.point.t_ns for zone in found)
    begun = min(_begun_ns(zone) for zone in found)
    from_ns = max(begun, memory.through_ns or begun)
    stale = [row.name for row in rows if row.quality == "stale"]
    reason = f"no new reading of {', '.join(stale)}" if stale else None
    if through <= from_ns:
        return memory, Booked((), "counter", "stale", reason, live_w=None), rows
    booked = Booked(
        (Stretch(from_ns, through, energy_uj),),
        "counter",
        "stale" if stale else "measured",
        reason or next((row.reason for row in rows if row.reason), None),
    )
    by_sensor = {**memory.by_sensor, **{z.zone.key: z.point.booked_uj for z in found}}
    memory = replace(
        memory,
        points={**memory.points, **after},
        through_ns=through,
        energy_uj=memory.energy_uj + energy_uj,
        by_sensor=by_sensor,
    )
    return memory, booked, rows


def _begun_ns(zone: ZoneWindow) -> int:
    return zone.point.t_ns - zone.covered_ns


def _counter_row(zone: ZoneWindow, fresh_ns: int) -> Zone:
    is_fresh, moved_uj = zone.point.t_ns >= fresh_ns, zone.energy_uj + zone.late_uj
    return Zone(
        zone.zone.name,
        zone.zone.socket,
        zone.point.booked_uj,
        moved_uj * 1_000 / zone.covered_ns if is_fresh and zone.covered_ns else None,
        "measured" if is_fresh else "stale",
        zone.reason,
    )

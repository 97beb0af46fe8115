"""Energy of each GPU in one window, whatever its driver tells.

A counter is followed exactly.  Without one, our own is kept: averages are undone by a small least
squares, momentary readings joined by lines.  What is booked is never changed afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from tychod.analysis.counters import Track, native_at
from tychod.analysis.energy import Followed, ZoneWindow, zone_window
from tychod.analysis.gpucounter import counter_track, is_refused, learn, method_of
from tychod.analysis.gpumemory import GpuMemory, Meter
from tychod.analysis.gpureadings import GAP_PERIODS, Readings, by_device, readings_of, segments
from tychod.analysis.gpusolve import BIN_NS, Piece, lines, undone
from tychod.analysis.gpuspread import spread_j
from tychod.analysis.state import Params, ZonePoint
from tychod.model import GpuMethod, Window, ZoneMethod
from tychod.samples import EnergyZone, GpuDevice, GpuSample, GpuSeries

DOMAIN: Final = "gpu"


class DeviceWindow(NamedTuple):
    """One GPU in one window."""

    device: GpuDevice
    zone: ZoneWindow
    method: GpuMethod
    sd_j: float  # standard deviation of the zone's energy, sensor's own gain left out
    newest: GpuSample | None
    rejected: int = 0  # values read in the window that cannot be


class _Counted(NamedTuple):
    """A GPU's energy since a point."""

    point: ZonePoint
    track: Track
    missing_ns: int = 0  # of the time that the track covers: nothing is known of it


def zone_key(device: GpuDevice) -> str:
    """Return the key under which a GPU's energy is booked."""
    return f"nvml:{device.uuid}"


def device_windows(
    series: GpuSeries,
    window: Window,
    points: Mapping[str, ZonePoint],
    memory: Mapping[str, GpuMemory],
    params: Params,
) -> tuple[list[DeviceWindow], Mapping[str, GpuMemory]]:
    """Return each GPU that has been read at least once, and what is remembered of all.

    The memory of a device that is gone is kept: it may come back.
    """
    found: dict[str, DeviceWindow] = {}
    learned = dict(memory)
    samples = by_device(series.samples)
    for device in series.devices:
        if device.uuid in found:
            continue  # two of one name cannot be told apart: they are booked as one
        before = memory.get(device.uuid, GpuMemory())
        point = points.get(zone_key(device)) or ZonePoint(0, None, 0, DOMAIN)
        readings = readings_of(device, samples.get(device.uuid, ()))
        counted, meter = _counted(readings, window, point, before)
        learned[device.uuid] = after = replace(before, meter=meter)
        if counted:
            zone = _booked(series, device, readings, counted, window, params)
            after = learn(after, readings, counted.point.t_ns, zone.point.t_ns)
            learned[device.uuid] = after
            found[device.uuid] = _device_window(device, zone, readings, window, after)
    return list(found.values()), learned


def _booked(
    series: GpuSeries,
    device: GpuDevice,
    readings: Readings,
    counted: _Counted,
    window: Window,
    params: Params,
) -> ZoneWindow:
    zone = EnergyZone(zone_key(device), DOMAIN, device.name, None, 0, readings.max_w)
    reason = series.reasons.get(device.uuid)
    marks_ns = np.array([r.t_ns for r in readings.found], np.int64)
    point, track, missing_ns = counted
    followed = Followed(zone, series.source, "measured", point, track, marks_ns, reason, missing_ns)
    return zone_window(followed, window, params)


def _counted(
    readings: Readings, window: Window, point: ZonePoint, memory: GpuMemory
) -> tuple[_Counted | None, Meter]:
    meter = _meter(readings, point, memory)
    is_new = point.native_uj is None or not memory.meter
    begin = ZonePoint(window.start_ns, None, point.booked_uj, DOMAIN) if is_new else point
    if meter == "counter":
        return _by_counter(readings, begin, is_same=memory.meter == meter), meter
    return (_by_series(readings, begin, window.end_ns) if meter else None), meter


def _meter(readings: Readings, point: ZonePoint, memory: GpuMemory) -> Meter:
    """Return what counts the energy of a window: the device's counter while it can be believed."""
    new = [r for r in readings.found if r.t_ns > point.t_ns]
    if not new:
        return memory.meter
    has_counter = any(r.energy_uj is not None for r in new)
    return "counter" if has_counter and not is_refused(memory.agreement) else "series"


def _by_counter(readings: Readings, begin: ZonePoint, *, is_same: bool) -> _Counted | None:
    """Follow the device's counter; where it begins to count, it does so without a rise."""
    native_uj = begin.native_uj if is_same else None
    if native_uj is None:
        first = next(((r.t_ns, e) for r in readings.found if (e := r.energy_uj) is not None), None)
        if first is None:
            return None
        until_ns = max(begin.t_ns, first[0])
        t_ns, native_uj = native_at(counter_track(readings, *first), until_ns, 0)
        begin = begin._replace(t_ns=t_ns)
    return _Counted(begin, counter_track(readings, begin.t_ns, native_uj))


def _by_series(readings: Readings, begin: ZonePoint, end_ns: int) -> _Counted | None:
    """Count the energy of readings that nobody else counts."""
    pieces = _pieces(readings, begin.t_ns, end_ns)
    if begin.native_uj is None:
        if not pieces:
            return None
        begin = begin._replace(t_ns=max(begin.t_ns, int(pieces[0].times_ns[0])))
    native_uj = begin.native_uj or 0
    times, energy, missing_ns = _joined(pieces, begin.t_ns, 3 * readings.period_ns)
    rise_uj = [round(j * 1e6) for j in energy]
    told = f"it was not read for {missing_ns / 1e9:.1f} s: the energy of that time is missing"
    track = Track(times, rise_uj, [native_uj + uj for uj in rise_uj], [told] if missing_ns else [])
    return _Counted(begin, track, missing_ns)


def _pieces(readings: Readings, from_ns: int, end_ns: int) -> list[Piece]:
    """Return the energy of each stretch without gaps that begins before the window's end."""
    longest_ns = GAP_PERIODS * readings.period_ns
    if _has_averages(readings):
        known = [r for r in readings.found if r.average_w is not None]
        cut = segments(known, longest_ns + readings.average_ns)
        found = [undone(readings, part, from_ns, end_ns) for part in cut]
    else:
        known = [r for r in readings.found if r.instant_w is not None]
        count = max(0, end_ns - from_ns) // BIN_NS
        edges = end_ns - np.arange(count, -1, -1, dtype=np.int64) * BIN_NS
        found = [lines(readings, part, edges) for part in segments(known, longest_ns)]
    return [p for p in found if p is not None and p.times_ns[0] < end_ns]


def _has_averages(readings: Readings) -> bool:
    return readings.average_ns > 0 and any(r.average_w is not None for r in readings.found)


def _joined(pieces: Sequence[Piece], t_ns: int, hold_ns: int) -> tuple[list[int], list[float], int]:
    """Return times, energy since the first and the time of which nothing is known.

    Between two pieces the power is held for a little; what is longer has no energy.
    """
    times, energy, missing_ns = [t_ns], [0.0], 0
    held_w: float | None = None
    for piece in pieces:
        begin_ns = int(piece.times_ns[0])
        if begin_ns > times[-1]:
            held_ns = min(begin_ns - times[-1], hold_ns)
            missing_ns += begin_ns - times[-1] - held_ns
            power_w = piece.first_w if held_w is None else held_w
            energy += [energy[-1] + power_w * held_ns / 1e9] * 2
            times += [times[-1] + held_ns, begin_ns]
        held_w = piece.last_w
        at_j = float(np.interp(times[-1] - begin_ns, piece.times_ns - begin_ns, piece.energy_j))
        later = piece.times_ns > times[-1]
        energy += (piece.energy_j[later] + (energy[-1] - at_j)).tolist()
        times += piece.times_ns[later].tolist()
    return times, energy, missing_ns


def _device_window(
    device: GpuDevice, zone: ZoneWindow, readings: Readings, window: Window, memory: GpuMemory
) -> DeviceWindow:
    method: GpuMethod
    if memory.meter == "counter":
        method = method_of(memory, readings)
    else:
        method = "averages" if _has_averages(readings) else "instants"
        from_power: ZoneMethod = "average" if method == "averages" else "power"
        zone = zone._replace(method=from_power, interval_ns=readings.period_ns)
    sd_j = spread_j(method, readings, memory, zone.meter)
    rejected = sum(window.start_ns < t_ns <= window.end_ns for t_ns in readings.rejected_ns)
    return DeviceWindow(device, zone, method, sd_j, readings.newest, rejected)

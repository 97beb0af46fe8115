"""Energy of the platform's parts over time: the measure that its late readings are laid against."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from tychod.analysis.bank import HISTORY_S, History
from tychod.analysis.energy import DomainWindow, ZoneWindow
from tychod.analysis.learned import Float64s
from tychod.analysis.platform_memory import PartTrack
from tychod.samples import Int64s

PARTS: Final = ("package", "dram", "gpu")
"""Domains that add up to what is measured of the machine; psys holds some of them twice."""
BIN_NS: Final = 50_000_000
KEPT_NS: Final = round(HISTORY_S * 1e9) + 10_000_000_000
"""History that a reading may need, and how long it may wait for a part."""
COARSE_NS: Final = 2_500_000_000
"""Readings of a part further apart do not show when its power changed."""
MEAN_NS: Final = 3_000_000_000
"""A part that is not read is held at its mean power over so long."""

Tracks = Mapping[str, PartTrack]


def part_names(tracks: Tracks) -> tuple[str, ...]:
    """Return the domains that are there, in a fixed order."""
    present = {track.domain for track in tracks.values()}
    return tuple(name for name in PARTS if name in present)


def followed(tracks: Tracks, domains: Mapping[str, DomainWindow], end_ns: int) -> Tracks:
    """Return the tracks with this window's energy; a zone that is gone is not followed further."""
    found = {}
    for name in PARTS:
        for zone in domains[name].zones if name in domains else ():
            found[zone.zone.key] = _advanced(tracks.get(zone.zone.key), zone, end_ns)
    return found


def _advanced(track: PartTrack | None, zone: ZoneWindow, end_ns: int) -> PartTrack:
    """Return a zone's track with its energy of one window, whole microjoules at every edge."""
    first_ns = int(zone.meter.times_ns[0])
    if track is None:
        begun_ns = min(first_ns, zone.point.t_ns)
        times, energy = np.array([begun_ns], np.int64), np.zeros(1, np.int64)
        track = PartTrack(zone.zone.domain, times, energy, begun_ns, begun_ns)
    track = replace(track, is_modelled=zone.quality == "modelled")
    total_uj = zone.energy_uj + zone.late_uj
    from_ns, to_ns = track.through_ns, zone.point.t_ns
    if to_ns <= from_ns:
        return track
    at, rise_uj = _points(track, zone, to_ns, total_uj)
    nodes = _nodes(from_ns, to_ns, end_ns)
    risen = np.rint(np.interp(nodes - from_ns, at - from_ns, rise_uj)).astype(np.int64)
    risen[-1] = total_uj
    times = np.concatenate([track.times_ns, nodes])
    energy = np.concatenate([track.energy_uj, track.energy_uj[-1] + risen])
    keep = max(int(np.searchsorted(times, end_ns - KEPT_NS, "right")) - 1, 0)
    return replace(
        track,
        times_ns=times[keep:],
        energy_uj=energy[keep:],
        solid_ns=_solid_ns(at, track.solid_ns),
    )


def _points(
    track: PartTrack, zone: ZoneWindow, to_ns: int, total_uj: int
) -> tuple[Int64s, Float64s]:
    """Return where the meter was read since the track's end, and the rise until then."""
    from_ns, meter = track.through_ns, zone.meter
    inner = (meter.times_ns > from_ns) & (meter.times_ns < to_ns)
    rise = zone.late_uj + meter.energy_j[inner] * 1e6
    at = np.concatenate([[from_ns], meter.times_ns[inner], [to_ns]]).astype(np.int64)
    rise = np.concatenate([[0.0], np.clip(rise, 0.0, total_uj), [float(total_uj)]])
    return at, np.maximum.accumulate(rise)


def _nodes(from_ns: int, to_ns: int, end_ns: int) -> Int64s:
    """Return the edges of bins behind ``from_ns`` and ``to_ns`` itself; none that is old news."""
    first = max(from_ns, end_ns - KEPT_NS) // BIN_NS + 1
    edges = np.arange(first, -(-to_ns // BIN_NS), dtype=np.int64) * BIN_NS
    return np.append(edges, to_ns)


def _solid_ns(at: Int64s, before_ns: int) -> int:
    """Return from when on the readings are close enough to each other."""
    coarse = np.flatnonzero(np.diff(at) > COARSE_NS)
    return int(at[coarse[-1] + 1]) if len(coarse) else before_ns


def energy_uj(track: PartTrack, from_ns: int, to_ns: int) -> int:
    """Return a zone's energy between two moments; what it does not know of is left out."""
    return _at(track, to_ns) - _at(track, from_ns)


def _at(track: PartTrack, t_ns: int) -> int:
    """Integers, so that stretches that meet add up to the microjoule."""
    times, energy = track.times_ns, track.energy_uj
    after = int(np.searchsorted(times, t_ns))
    if after == 0:
        return int(energy[0])
    if after == len(times):
        return int(energy[-1])
    t0, t1, e0, e1 = (int(x[i]) for x in (times, energy) for i in (after - 1, after))
    return e0 + (e1 - e0) * (t_ns - t0) // (t1 - t0)


def through_ns(tracks: Iterable[PartTrack]) -> int | None:
    """Return up to when all parts are known; None: there are none."""
    return min((track.through_ns for track in tracks), default=None)


def history(tracks: Tracks, parts: Sequence[str]) -> History | None:
    """Return the parts' energy on the edges of bins, as far as all of them are known well."""
    if not tracks:
        return None
    begin_ns = max(max(t.solid_ns, int(t.times_ns[0])) for t in tracks.values())
    end_ns = min(t.through_ns for t in tracks.values())
    begin_ns = max(begin_ns, end_ns - KEPT_NS)
    edges = np.arange(-(-begin_ns // BIN_NS), end_ns // BIN_NS + 1, dtype=np.int64) * BIN_NS
    if len(edges) < 2:
        return None
    return History(int(edges[0]), _joules(tracks, parts, edges))


def _joules(tracks: Tracks, parts: Sequence[str], at: Int64s) -> Float64s:
    """Return energy since the first moment by part, shape (parts, n); held behind its end."""
    found = np.zeros((len(parts), len(at)))
    start = int(at[0])
    for track in tracks.values():
        times = track.times_ns - start
        base = int(track.energy_uj[0])
        joules = np.interp(at - start, times, (track.energy_uj - base) / 1e6)
        behind = np.maximum(at - track.through_ns, 0) / 1e9
        found[parts.index(track.domain)] += joules - joules[0] + behind * mean_w(track)
    return found


def power_w(
    tracks: Tracks, parts: Sequence[str], from_ns: int, to_ns: int
) -> tuple[Float64s, Float64s]:
    """Return each part's power, shape (parts, n), and the seconds, of every bin in between.

    A part that is not known up to the end is held at its last mean power.
    """
    inner = np.arange(from_ns // BIN_NS + 1, -(-to_ns // BIN_NS), dtype=np.int64) * BIN_NS
    at = np.concatenate([[from_ns], inner, [to_ns]]).astype(np.int64)
    seconds = np.diff(at) / 1e9
    return np.diff(_joules(tracks, parts, at), axis=1) / seconds, seconds


def mean_w(track: PartTrack) -> float:
    """Return a zone's newest mean power, watts."""
    to_ns = track.through_ns
    from_ns = max(to_ns - MEAN_NS, int(track.times_ns[0]))
    return energy_uj(track, from_ns, to_ns) * 1_000 / (to_ns - from_ns) if to_ns > from_ns else 0.0

"""Energy of the platform's parts over time: the measure that its late readings are laid against."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from tychod.analysis.bank import HISTORY_S, History
from tychod.analysis.energy import DomainWindow, ZoneWindow
from tychod.analysis.learned import Float64s
from tychod.analysis.platform_memory import Hole, PartTrack, PlatformMemory
from tychod.samples import Int64s

PARTS: Final = ("package", "dram", "gpu")
"""Domains that add up to what is measured of the machine; psys holds some of them twice."""
BIN_NS: Final = 50_000_000
KEPT_NS: Final = round(HISTORY_S * 1e9) + 10_000_000_000
"""History that a reading may need, and how long it may wait for a part."""
COARSE_NS: Final = 2_500_000_000
"""Readings of a part further apart do not show when its power changed."""
WAIT_NS: Final = 2_500_000_000
"""A part that is late is waited for so long behind the window's end, then held."""
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
    solid_ns = to_ns if zone.broken else _solid_ns(at, track.solid_ns)
    nodes = _nodes(from_ns, to_ns, end_ns)
    risen = np.rint(np.interp(nodes - from_ns, at - from_ns, rise_uj)).astype(np.int64)
    risen[-1] = total_uj
    times = np.concatenate([track.times_ns, nodes])
    energy = np.concatenate([track.energy_uj, track.energy_uj[-1] + risen])
    keep = max(int(np.searchsorted(times, end_ns - KEPT_NS, "right")) - 1, 0)
    holes = tuple(hole for hole in track.holes if hole.to_ns > times[keep])
    if zone.broken:
        holes = (*holes, _hole(track, zone))
    return replace(
        track,
        times_ns=times[keep:],
        energy_uj=energy[keep:],
        solid_ns=solid_ns,
        holes=holes,
    )


def _hole(track: PartTrack, zone: ZoneWindow) -> Hole:
    """Where its counter was reset in between, what it says of the whole stretch is too little.

    If nothing is known of before, the window's own mean is all there is.
    """
    from_ns, to_ns = track.through_ns, zone.point.t_ns
    power_w = mean_w(track) if len(track.times_ns) > 1 else 0.0
    own_w = (zone.energy_uj + zone.late_uj) * 1_000 / (to_ns - from_ns)
    reason = zone.reason or "its counter does not tell all"
    return Hole(from_ns, to_ns, max(power_w, own_w), reason)


def _points(
    track: PartTrack, zone: ZoneWindow, to_ns: int, total_uj: int
) -> tuple[Int64s, Float64s]:
    """Return where the meter was read since the track's end, and the rise until then."""
    from_ns, meter = track.through_ns, zone.meter
    inner = (meter.times_ns > from_ns) & (meter.times_ns < to_ns)
    inner[:1] = False  # of a late meter this is the window's start, where nobody read it
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


def unread(tracks: Tracks, end_ns: int) -> tuple[str, ...]:
    """Return the zones that are not waited for any more at a window's end."""
    return tuple(key for key, track in tracks.items() if track.through_ns < end_ns - WAIT_NS)


def read(memory: PlatformMemory) -> Tracks:
    """Return the parts that are read; what the others use is in the base meanwhile."""
    return {key: track for key, track in memory.tracks.items() if key not in memory.unread}


def holed(tracks: Tracks, from_ns: int, to_ns: int) -> Mapping[str, str]:
    """Return the domains of which a part's energy will never be known in between, and why."""
    return {
        track.domain: hole.reason
        for track in tracks.values()
        for hole in track.holes
        if hole.reason and hole.from_ns < to_ns and hole.to_ns > from_ns
    }


def through_ns(tracks: Iterable[PartTrack]) -> int | None:
    """Return up to when all parts are known; None: there are none."""
    return min((track.through_ns for track in tracks), default=None)


def solid_since_ns(tracks: Tracks) -> int:
    """Return from when on all parts are known well enough to show when power changed."""
    return max((max(t.solid_ns, int(t.times_ns[0])) for t in tracks.values()), default=0)


def history(tracks: Tracks, parts: Sequence[str], window_end_ns: int) -> History | None:
    """Return the parts' energy on the edges of bins, as far as all of them are known well.

    ``tracks``: those that are read; without any, all that is used is in the base.
    """
    begin_ns = solid_since_ns(tracks)
    end_ns = min((t.through_ns for t in tracks.values()), default=window_end_ns)
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
        joules = joules + behind * mean_w(track) + _in_holes(track, at)
        found[parts.index(track.domain)] += joules - joules[0]
    return found


def _in_holes(track: PartTrack, at: Int64s) -> Float64s:
    """Return how much more is taken to have been used in its holes than was counted, joules."""
    found = np.zeros(len(at))
    start = int(track.times_ns[0])
    for hole in track.holes:
        inside = np.clip(at, hole.from_ns, hole.to_ns)
        counted = np.interp(inside - start, track.times_ns - start, track.energy_uj / 1e6)
        begun = np.interp(hole.from_ns - start, track.times_ns - start, track.energy_uj / 1e6)
        found += (inside - hole.from_ns) / 1e9 * hole.power_w - (counted - begun)
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
    """Return a zone's newest mean power, watts; in a hole, what was taken for it."""
    if track.holes and track.holes[-1].to_ns >= track.through_ns:
        return track.holes[-1].power_w
    to_ns = track.through_ns
    from_ns = max(to_ns - MEAN_NS, int(track.times_ns[0]), *(h.to_ns for h in track.holes))
    return energy_uj(track, from_ns, to_ns) * 1_000 / (to_ns - from_ns) if to_ns > from_ns else 0.0

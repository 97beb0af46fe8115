"""A GPU's window in pieces: what it used, in which state, and which look tells by whom.

The percentages of a look are means since the look before, so a piece belongs to the look that ends
it.  Where none does, the last look holds for a while.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from tychod.analysis.energy import ZoneWindow
from tychod.analysis.gpuidle import UNTOLD, Piece
from tychod.analysis.gpushare import HOLD_NS, is_told, is_used
from tychod.analysis.learned import Float64s
from tychod.samples import GpuSample, GpuUse, Int64s

LEAST_ACTIVITY: Final = 0.005
"""Less is 0 in the whole percent that a device's own utilisation is told in."""


class Seen(NamedTuple):
    """What was seen of one device in and around a window, each in the order of time."""

    samples: Sequence[GpuSample]
    looks: Sequence[GpuUse]
    is_assigned: bool  # to somebody whose processes may not be visible
    instances: frozenset[int] = frozenset()  # GPU instances that it is divided into


class Looked(NamedTuple):
    """A piece with the look that covers it."""

    piece: Piece
    look: int | None  # its number; None: nobody looked
    is_held: bool  # the look is not of that time
    is_late: bool  # it is from before the window


def pieces_of(zone: ZoneWindow, seen: Seen) -> list[Looked]:
    """Return the parts of a zone's energy, oldest first; what came late is before the window."""
    times, energy_j = _knots(zone)
    if len(times) < 2:
        return []
    stops = [look.t_ns for look in seen.looks]
    words = [_word(look, seen.instances) for look in seen.looks]
    inner = [t for look in seen.looks for t in (look.since_ns, look.t_ns)]
    edges = np.unique(np.concatenate([times, np.array(inner, np.int64)]))
    edges = edges[(edges >= times[0]) & (edges <= times[-1])]
    at_edges = np.interp(edges - times[0], times - times[0], energy_j)
    told = [sample.published_ns for sample in seen.samples]
    begins_ns = int(zone.meter.times_ns[0])
    found = []
    spans = zip(pairwise(edges.tolist()), np.diff(at_edges).tolist(), strict=True)
    for (start_ns, end_ns), used_j in spans:
        is_late = end_ns <= begins_ns
        look = covering(seen.looks, stops, start_ns, end_ns)
        is_held = look is None and not is_late
        if is_held:
            look = _nearest(seen.looks, stops, start_ns, end_ns)
        states = _states(seen.samples, told, start_ns, end_ns)
        pstate = states[0].pstate if states else None
        is_quiet = _is_quiet(states, None if look is None else words[look], seen.is_assigned)
        piece = Piece(start_ns, end_ns, used_j, UNTOLD if pstate is None else pstate, is_quiet)
        found.append(Looked(piece, look, is_held, is_late))
    return found


def _knots(zone: ZoneWindow) -> tuple[Int64s, Float64s]:
    """Return the meter with what came late before it; that was used at nobody knows what power."""
    meter = zone.meter
    begun_ns = zone.point.t_ns - zone.covered_ns
    if not zone.late_uj or not len(meter.times_ns) or begun_ns >= int(meter.times_ns[0]):
        return meter.times_ns, meter.energy_j
    late_j = zone.late_uj / 1e6
    return (
        np.concatenate([np.array([begun_ns], np.int64), meter.times_ns]),
        np.concatenate([[0.0], meter.energy_j + late_j]),
    )


def covering(
    looks: Sequence[GpuUse], stops: Sequence[int], start_ns: int, end_ns: int
) -> int | None:
    """Return the look that tells of a stretch of time; ``stops`` are when they were."""
    at = bisect_left(stops, end_ns)
    return at if at < len(looks) and looks[at].since_ns <= start_ns else None


def _nearest(
    looks: Sequence[GpuUse], stops: Sequence[int], start_ns: int, end_ns: int
) -> int | None:
    """Return the last look before a piece, else the next after it, if it is not too far."""
    at = bisect_left(stops, end_ns)
    if at and start_ns - stops[at - 1] <= HOLD_NS:
        return at - 1
    return at if at < len(looks) and looks[at].since_ns - end_ns <= HOLD_NS else None


def _states(
    samples: Sequence[GpuSample], told: Sequence[int], start_ns: int, end_ns: int
) -> Sequence[GpuSample]:
    """Return the updates around a piece: the last before its middle, and the first after it."""
    at = bisect_right(told, (start_ns + end_ns) // 2)
    found = samples[max(at - 1, 0) : at + 1]
    return [s for s in found if start_ns - HOLD_NS <= s.published_ns <= end_ns + HOLD_NS]


class _Word(NamedTuple):
    """What a look says of all processes together."""

    is_used: bool  # by one of them at least
    is_sure: bool  # nothing of what is listed is left open
    is_empty: bool
    is_measured: bool  # the device's own word on each of its instances


def _word(look: GpuUse, instances: frozenset[int]) -> _Word:
    is_busy = any(part >= LEAST_ACTIVITY for _, part in look.activity)
    return _Word(
        is_busy or any(is_used(process) for process in look.processes),
        look.reason is None and all(is_told(process) for process in look.processes),
        not look.processes,
        bool(instances) and instances <= {number for number, _ in look.activity},
    )


def _is_quiet(states: Sequence[GpuSample], word: _Word | None, is_assigned: bool) -> bool:
    """Say whether nobody used a device: by its own word, else because nobody could have."""
    if not states or (word is not None and word.is_used):
        return False
    if any(state.sm_percent or state.memory_percent for state in states):
        return False
    if all(state.sm_percent is not None for state in states):
        return True
    if word is not None and word.is_measured:
        return True
    return word is not None and word.is_sure and not (word.is_empty and is_assigned)

"""From readings and CPU bins to rows: the bins in which energy and CPU time are both known.

An edge of a CPU bin is kept where the meter gave a usable reading close to it; bins without are
joined.  "Close" is meant relative to the phase of the readings: they may all lie a few
milliseconds beside the edges, which costs less than joining everything.  A reading is usable if
the counter has moved since the last: a sensor slower than its reader has edges only where it
moves.  What is left of the error of an edge, the reading's distance and the sensor's step, goes
into the covariance, so nothing more has to be joined.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tychod.analysis.columns import Rows
from tychod.analysis.learned import Float64s
from tychod.samples import Int64s

TOLERANCE_NS: Final = 8_000_000
SLIVER_NS: Final = 5_000_000
FOREVER_NS: Final = 1 << 62
GRAIN_S: Final = 0.00028
"""Half of RAPL's update period of 0.976 ms: a reading's age is not known better."""


class Meter(NamedTuple):
    """Cumulative energy of one or more zones that are read together, on the corrected axis."""

    times_ns: Int64s  # (r,) increasing; the first and last are where the window's part ends
    energy_j: Float64s  # (r,) since the first
    marks_ns: Int64s  # times of readings at which the counter had moved, some outside too


class Block(NamedTuple):
    """A meter with the CPU time on the CPUs that it measures."""

    meter: Meter
    work_s: Float64s  # (bins, leaves) CPU seconds
    cpus: float


def joined(meters: Sequence[Meter]) -> Meter:
    """Return the sum of meters, read when the one with the most readings was."""
    base = max(meters, key=lambda m: len(m.times_ns))
    if len(meters) == 1:
        return base
    start = int(base.times_ns[0])
    energy = sum(
        (np.interp(base.times_ns - start, m.times_ns - start, m.energy_j) for m in meters),
        np.zeros(len(base.times_ns)),
    )
    return Meter(base.times_ns, energy, base.marks_ns)


def kept_edges(edges_ns: Int64s, meter: Meter) -> NDArray[np.int64]:
    """Return the positions of the edges between which the energy is known.

    The outermost that the readings cover are among them, whether or not a reading is near.
    """
    inside = np.flatnonzero((edges_ns >= meter.times_ns[0]) & (edges_ns <= meter.times_ns[-1]))
    marks = meter.marks_ns
    if len(inside) < 3 or not len(marks):
        length_ns = edges_ns[inside[-1]] - edges_ns[inside[0]] if len(inside) else 0
        is_most = 2 * length_ns >= meter.times_ns[-1] - meter.times_ns[0]
        return inside[[0, -1]] if length_ns and is_most else np.array([0, len(edges_ns) - 1])
    off = _offset(edges_ns, marks)
    phase = _median(off if _is_dense(marks, edges_ns) else -_offset(marks, edges_ns))
    good = np.abs(off - phase) <= TOLERANCE_NS
    good[inside[[0, -1]]] = True
    return _apart(edges_ns, inside[good[inside]])


def _apart(edges_ns: Int64s, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop edges that leave a sliver: a nanosecond of CPU time would decide over its energy."""
    wide = np.diff(edges_ns[kept]) >= SLIVER_NS
    keep = np.ones(len(kept), bool)
    keep[1:-1] = wide[:-1] & (wide[1:] | (np.arange(1, len(kept) - 1) < len(kept) - 2))
    return kept[keep]


def _is_dense(times: Int64s, edges_ns: Int64s) -> bool:
    return len(times) > 1 and _median(np.diff(times)) <= _median(np.diff(edges_ns))


def _median(values: NDArray[Any]) -> float:
    """Return what ``np.median`` does of some finite numbers, in a fifth of the time."""
    ordered, middle = np.sort(values), len(values) // 2
    if len(values) % 2:
        return float(ordered[middle])
    return (float(ordered[middle - 1]) + float(ordered[middle])) / 2.0


def _offset(of: Int64s, to: Int64s) -> Float64s:
    """Return how far the nearest of ``to`` is from each of ``of``; positive: later."""
    after = np.clip(np.searchsorted(to, of), 1, len(to) - 1) if len(to) > 1 else 0
    late, early = to[after] - of, to[np.maximum(after - 1, 0)] - of
    found: Float64s = np.where(np.abs(late) < np.abs(early), late, early).astype(np.float64)
    return found


def rows(
    edges_ns: Int64s,
    blocks: Sequence[Block],
    features: Float64s | None = None,
    *,
    to_readings: bool = True,
) -> Rows | None:
    """Return the rows of all blocks, or None where nothing is covered.

    ``to_readings``: from reading to reading, else from edge to edge.
    """
    found = [_block_rows(i, edges_ns, b, to_readings=to_readings) for i, b in enumerate(blocks)]
    parts = [part for part in found if part is not None]
    if not parts:
        return None
    count = sum(len(p.t_s) for p in parts)
    timing = np.zeros((count, count))
    at = 0
    for part in parts:
        n = len(part.t_s)
        timing[at : at + n, at : at + n] = part.timing
        at += n
    zone, t_s, seconds, energy, work, busy, *_ = zip(*parts, strict=True)
    return Rows(
        np.concatenate(zone),
        np.concatenate(t_s),
        np.concatenate(seconds),
        np.concatenate(energy),
        np.concatenate(work),
        np.concatenate(busy),
        timing,
        features if features is not None else np.zeros((work[0].shape[1], 0)),
    )


def stretches(bins: int, most: int) -> list[tuple[int, int]]:
    """Return the first and last edge of each part of a window, of about the same length."""
    count = max(-(-bins // most), 1)
    at = [round(i * bins / count) for i in range(count + 1)]
    return list(pairwise(at))


def part_rows(
    edges_ns: Int64s, blocks: Sequence[Block], features: Float64s | None, first: int, last: int
) -> Rows:
    """Return the rows between two edges; what lies beside the window's ends goes to its parts."""
    begin_ns = int(edges_ns[first]) if first else 0
    end_ns = int(edges_ns[last]) if last < len(edges_ns) - 1 else FOREVER_NS
    cut = [Block(_cut(b.meter, begin_ns, end_ns), b.work_s[first:last], b.cpus) for b in blocks]
    found = rows(edges_ns[first : last + 1], cut, features)
    if found is None:
        raise ArithmeticError("a part of a window that was seen whole has no rows")
    return found


def _cut(meter: Meter, begin_ns: int, end_ns: int) -> Meter:
    """Return the meter between two moments."""
    times = meter.times_ns
    begin_ns, end_ns = max(begin_ns, int(times[0])), min(end_ns, int(times[-1]))
    inner = (times > begin_ns) & (times < end_ns)
    at = np.concatenate([[begin_ns], times[inner], [end_ns]]).astype(np.int64)
    energy = np.interp(at - begin_ns, times - begin_ns, meter.energy_j)
    return Meter(at, energy - energy[0], meter.marks_ns)


def _block_rows(index: int, edges_ns: Int64s, block: Block, *, to_readings: bool) -> Rows | None:
    meter = block.meter
    if meter.times_ns[-1] <= meter.times_ns[0]:
        return None
    kept = kept_edges(edges_ns, meter)
    off_ns = np.zeros(len(kept), np.int64)
    if to_readings:
        kept, off_ns = _read_apart(edges_ns, kept, meter.marks_ns)
    start = int(edges_ns[0])
    read_at = edges_ns[kept] + off_ns
    whole_s = np.diff(read_at) / 1e9
    # What the meter knows beyond the outermost edges is taken for more of their rows.
    at = np.concatenate([meter.times_ns[:1], read_at[1:-1], meter.times_ns[-1:]])
    seconds = np.diff(at) / 1e9
    energy_j = np.diff(np.interp(at - start, meter.times_ns - start, meter.energy_j))
    work = _work(edges_ns, block.work_s, kept, off_ns / 1e9)
    work *= (seconds / whole_s)[:, None]
    used = work.sum(axis=1)
    return Rows(
        zone=np.full(len(energy_j), index, np.int64),
        t_s=(at[:-1] + at[1:] - 2 * start) / 2e9,
        seconds=seconds,
        energy_j=energy_j,
        work_s=work,
        busy=np.minimum(used / (block.cpus * seconds), 1.0),
        timing=_timing(at, meter, energy_j / seconds),
        features=np.zeros((0, 0)),
    )


def _read_apart(
    edges_ns: Int64s, kept: NDArray[np.int64], marks_ns: Int64s
) -> tuple[NDArray[np.int64], Int64s]:
    """Return the kept edges whose nearest readings follow each other, and how far those are off.

    Two edges may have one reading in common, as where the window ends just after a bin.
    """
    off_ns = np.zeros(len(kept), np.int64)
    if len(marks_ns) and len(kept) > 2:
        off_ns[1:-1] = _offset(edges_ns[kept[1:-1]], marks_ns)
    at = edges_ns[kept] + off_ns
    apart = np.ones(len(kept), bool)
    apart[1:-1] = (at[1:-1] > np.maximum.accumulate(at)[:-2]) & (at[1:-1] < at[-1])
    return kept[apart], off_ns[apart]


def _work(edges_ns: Int64s, work_s: Float64s, kept: NDArray[np.int64], off_s: Float64s) -> Float64s:
    """Return the CPU seconds between the readings nearest the kept edges, by leaf.

    Rows run from reading to reading: there the energy is exact, while at the edge it would be
    interpolated, which smooths it into the neighbours and leaves CPU time sharp.  How CPU time
    goes on from the edge to the reading: at the rate of the bin that the reading is in, if the
    two bins beside the edge are alike; else a burst has begun or ended away from the edge.
    """
    found: Float64s = np.add.reduceat(work_s[: kept[-1]], kept[:-1], axis=0)
    inner = kept[1:-1]
    if not len(inner):
        return found
    rate = work_s / (np.diff(edges_ns) / 1e9)[:, None]
    before, after = rate[inner - 1], rate[inner]
    low, high = np.minimum(before, after), np.maximum(before, after)
    own = np.where((off_s[1:-1] > 0.0)[:, None], after, before)
    local = np.where(low > 0.5 * high, own, np.where(low > 0.0, high, 0.0))
    moved = local * off_s[1:-1, None]
    found[:-1] += moved
    found[1:] -= moved
    return np.maximum(found, 0.0)


def _timing(at: Int64s, meter: Meter, power_w: Float64s) -> Float64s:
    """Return the covariance of the rows' energy by the errors of their edges, in J^2."""
    marks = meter.marks_ns
    off_s = _offset(at, marks) / 1e9 if len(marks) else np.zeros(len(at))
    local = np.concatenate([power_w[:1], (power_w[:-1] + power_w[1:]) / 2, power_w[-1:]])
    change = np.diff(power_w, prepend=power_w[:1], append=power_w[-1:])
    var = change**2 * off_s**2 + (local * GRAIN_S) ** 2
    found: Float64s = np.diag(var[:-1] + var[1:])
    inner = np.arange(len(power_w) - 1)
    found[inner, inner + 1] = found[inner + 1, inner] = -var[1:-1]
    return found

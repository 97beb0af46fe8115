"""A GPU's power from readings alone: lines between momentary ones, or averages undone."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from tychod.analysis.gpureadings import Reading, Readings
from tychod.analysis.learned import Float64s
from tychod.samples import Int64s

BIN_NS: Final = 50_000_000
MOST_BINS: Final = 300
"""Longer stretches get wider bins: the equations' cost grows with the cube."""
LOOK_AHEAD_NS: Final = 300_000_000
LOOK_BACK_NS: Final = 700_000_000
"""Bins that are solved for and not kept, after the window and, with an average's length, before
it: half the error at the window's ends (fusion.md 3.2)."""
AVERAGE_WEIGHT: Final = 6.0
SMOOTHNESS: Final = 0.005
RIDGE: Final = 1e-12
LEAST_APART_NS: Final = 40_000_000
"""Averages closer than this are left out: they hardly differ, and each costs a row of each bin."""
BEND: Final = (1.0, -2.0, 1.0)
MOST_ROUNDS: Final = 8


class Piece(NamedTuple):
    """Cumulative energy over a stretch without gaps."""

    times_ns: Int64s  # (n,) increasing
    energy_j: Float64s  # (n,) since the first
    first_w: float
    last_w: float


def lines(readings: Readings, found: Sequence[Reading], edges_ns: Int64s) -> Piece | None:
    """Return the energy under lines between momentary readings, each in the middle of its part.

    It is told at the readings and at ``edges_ns``.
    """
    known = [(r.t_ns - readings.sensor_ns // 2, w) for r in found if (w := r.instant_w) is not None]
    if len(known) < 2:
        return None
    at_ns = np.array([t for t, _ in known], np.int64)
    watts = np.array([w for _, w in known])
    inside = edges_ns[(edges_ns > at_ns[0]) & (edges_ns < at_ns[-1])]
    times = np.union1d(at_ns, inside)
    power = np.interp(times - at_ns[0], at_ns - at_ns[0], watts)
    rise = (power[1:] + power[:-1]) / 2 * np.diff(times) / 1e9
    return Piece(times, np.concatenate([[0.0], np.cumsum(rise)]), float(watts[0]), float(watts[-1]))


def undone(
    readings: Readings, found: Sequence[Reading], from_ns: int, until_ns: int
) -> Piece | None:
    """Return the energy whose trailing averages are those that were read, in even bins.

    ``from_ns`` to ``until_ns`` is what will be kept; both ends get bins beyond.
    """
    ends = [r.t_ns for r in found if r.average_w is not None and r.t_ns <= until_ns + LOOK_AHEAD_NS]
    if not ends:
        return None
    until_ns = min(until_ns, ends[-1])
    start_ns = max(
        min(from_ns, until_ns) - readings.average_ns - LOOK_BACK_NS, ends[0] - readings.average_ns
    )
    edges = _edges(start_ns, until_ns, ends[-1])
    power = _solved(readings, found, edges)
    if power is None:
        return None
    energy = np.concatenate([[0.0], np.cumsum(power * np.diff(edges) / 1e9)])
    return Piece(edges, energy, float(power[0]), float(power[-1]))


def _edges(start_ns: int, until_ns: int, last_ns: int) -> Int64s:
    """Return even edges, one of them where the kept part ends."""
    width = max(BIN_NS, -(-(last_ns - start_ns) // MOST_BINS))
    before, after = -(-(until_ns - start_ns) // width), -(-(last_ns - until_ns) // width)
    return until_ns + np.arange(-before, after + 1, dtype=np.int64) * width


def _solved(readings: Readings, found: Sequence[Reading], edges: Int64s) -> Float64s | None:
    """Return the least-squares power of each bin, never negative."""
    instants = _rows(
        [(r.t_ns, r.instant_w) for r in found if r.instant_w is not None],
        readings.sensor_ns,
        edges,
    )
    averages = _rows(
        _apart([(r.t_ns, r.average_w) for r in found if r.average_w is not None]),
        readings.average_ns,
        edges,
    )
    if not len(averages[1]):
        return None
    rows = np.vstack([instants[0], AVERAGE_WEIGHT * averages[0]])
    values = np.concatenate([instants[1], AVERAGE_WEIGHT * averages[1]])
    matrix = rows.T @ rows
    matrix[np.diag_indices_from(matrix)] += RIDGE
    inner = np.arange(len(matrix) - 2)
    for i, one in enumerate(BEND):  # second differences, squared
        for j, other in enumerate(BEND):
            matrix[inner + i, inner + j] += SMOOTHNESS * one * other
    return _not_negative(matrix, rows.T @ values)


def _apart(known: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the newest and, going back, those that are far enough from the one kept before."""
    kept: list[tuple[int, float]] = []
    for one in reversed(known):
        if not kept or kept[-1][0] - one[0] >= LEAST_APART_NS:
            kept.append(one)
    kept.reverse()
    return kept


def _rows(
    known: Sequence[tuple[int, float]], length_ns: int, edges: Int64s
) -> tuple[Float64s, Float64s]:
    """Return each reading's share in each bin, and its value; for those wholly inside the bins."""
    start = int(edges[0])
    ends = np.array([t - start for t, _ in known], np.float64)
    watts = np.array([w for _, w in known], np.float64)
    inside = (ends - length_ns >= 0) & (ends <= edges[-1] - start)
    ends, watts = ends[inside], watts[inside]
    bins = (edges - start).astype(np.float64)
    low = np.maximum(bins[None, :-1], ends[:, None] - length_ns)
    high = np.minimum(bins[None, 1:], ends[:, None])
    return np.maximum(high - low, 0.0) / length_ns, watts


def _not_negative(matrix: Float64s, vector: Float64s) -> Float64s:
    """Solve, drop what is negative, solve again: the answer of non-negative least squares here."""
    power = np.zeros(len(vector))
    kept = np.arange(len(vector))
    for _ in range(MOST_ROUNDS):
        if not len(kept):
            break
        solved = np.linalg.solve(matrix[np.ix_(kept, kept)], vector[kept])
        power[:] = 0.0
        power[kept] = solved
        if (solved >= 0.0).all():
            break
        kept = kept[solved >= 0.0]
    return np.maximum(power, 0.0)

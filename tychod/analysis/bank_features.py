"""What each way to see late power would have shown of the parts: lagged, averaged and delayed.

Exact where the parts' power is constant within a bin: the energy between the two ends of the
averaging, taken from cumulative energy.  A first-order lag needs no second integration, since
``C_lag(t) = C(t) - lag (p_lag(t) - p_lag(0))`` with the filtered power ``p_lag``.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tychod.analysis.learned import Float64s

BIN_S: Final = 0.05
"""Distance of a history's edges."""
DELAYS_S: Final = 0.25 * np.arange(33)
LONGEST_BOXCAR_S: Final = 60.0
WARM_UP_S: Final = 2.0
"""A lag's filter begins with the first power known; so long before, it is of no consequence."""
HISTORY_S: Final = float(DELAYS_S[-1]) + LONGEST_BOXCAR_S + WARM_UP_S + 1.0
"""A history so long before a reading is enough for everything."""
LAG_KEPT: Final = 5.0
"""After so many lags what was before is of no consequence."""
FILTERED_S: Final = 24.0
"""The filters run over so much of the end: delay, averaging and some of the longest lags."""
MOST_LAGS: Final = 300.0
"""The exponentials over a longer time would get too large."""

Kernel = tuple[float, float]
"""Lag and width of the averaging (boxcar), seconds."""


class History(NamedTuple):
    """Energy of the parts, cumulative, at edges 50 ms apart."""

    start_ns: int  # of the first edge
    energy_j: Float64s  # (parts, edges)


class Seen(NamedTuple):
    """The parts as each candidate saw them; candidates: kernel by kernel, delay by delay."""

    parts_w: Float64s  # (parts, candidates)
    slope_w_s: Float64s  # (parts, candidates) its change with the reading's time
    covered: NDArray[np.bool_]  # (candidates,) the history reaches back far enough


def centroids(kernels: Sequence[Kernel]) -> Float64s:
    """Return each candidate's mean age of what a reading tells, seconds."""
    found: Float64s = np.add.outer([lag + boxcar / 2 for lag, boxcar in kernels], DELAYS_S).ravel()
    return found


def seen(history: History, t_ns: int, kernels: Sequence[Kernel]) -> Seen | None:
    """Return what a reading at that time would show; None: the history has not got so far."""
    reach = (t_ns - history.start_ns) / (BIN_S * 1e9)  # in bins
    bins = history.energy_j.shape[1] - 1
    if not 0.0 < reach <= bins + 1e-6:
        return None
    boxcar = np.array([width for _, width in kernels])
    longest = max(width + LAG_KEPT * lag for lag, width in kernels)
    before = max(int(reach - (DELAYS_S[-1] + longest + WARM_UP_S) / BIN_S), 0)
    energy_j = np.ascontiguousarray(history.energy_j[:, before:].T)
    lags = sorted({lag for lag, _ in kernels})
    joules, watts = _lagged(energy_j, lags)
    row = np.array([lags.index(lag) for lag, _ in kernels]) * len(energy_j)
    end = reach - before - DELAYS_S / BIN_S
    begin = end - (boxcar / BIN_S)[:, None]
    warm_up = np.array([WARM_UP_S / BIN_S if lag > 0.0 else -1e-6 for lag, _ in kernels])
    end = np.minimum(end, len(energy_j) - 1.0)
    late_j, late_w = _at(joules, watts, row[:, None], np.broadcast_to(end, begin.shape))
    early_j, early_w = _at(joules, watts, row[:, None], begin)
    width = np.repeat(boxcar, len(DELAYS_S))[:, None]
    covered = begin >= warm_up[:, None]
    parts_w, slope = (late_j - early_j) / width, (late_w - early_w) / width
    return Seen(np.ascontiguousarray(parts_w.T), np.ascontiguousarray(slope.T), covered.ravel())


def _lagged(energy_j: Float64s, lags: Sequence[float]) -> tuple[Float64s, Float64s]:
    """Return cumulative energy and power through each lag, one below the other, by parts.

    The last row of each lag's power is only there so that both have as many rows.
    """
    power = (energy_j[1:] - energy_j[:-1]) / BIN_S
    power = np.concatenate([power, power[-1:]])
    joules, watts = [], []
    for lag in lags:
        filtered, delayed = power, energy_j
        if lag > 0.0:
            filtered = _filtered(power[:-1], lag)
            delayed = energy_j - lag * filtered
        joules.append(delayed)
        watts.append(filtered)
    return np.concatenate(joules), np.concatenate(watts)


def _filtered(power: Float64s, lag: float) -> Float64s:
    """Return power through a first-order lag at each edge, as if it had always been the first."""
    span = min(len(power), round(min(FILTERED_S, MOST_LAGS * lag) / BIN_S))
    rise = np.exp(np.arange(span + 1) * (BIN_S / lag))[:, None]
    tail = power[-span:]
    filtered = np.empty((len(power) + 1, power.shape[1]))
    filtered[: -span - 1] = power[: len(power) - span]
    pushed = np.cumsum(tail * rise[1:], axis=0) * -np.expm1(-BIN_S / lag)
    filtered[-span - 1] = tail[0]
    filtered[-span:] = (tail[0] + pushed) / rise[1:]
    return filtered


def _at(
    joules: Float64s, watts: Float64s, row: NDArray[np.int64], at: Float64s
) -> tuple[Float64s, Float64s]:
    """Return each candidate's energy and power at a place in bins; linear in between."""
    left = np.maximum(at, 0.0).astype(np.int64)
    part = (at - left).reshape(-1, 1)
    left = (left + row).ravel()
    before, right = joules.take(left, axis=0), np.minimum(left + 1, len(joules) - 1)  # at the end
    return before + part * (joules.take(right, axis=0) - before), watts.take(left, axis=0)

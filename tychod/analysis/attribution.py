"""Sharing an integer amount of energy among workloads, exactly."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tychod.samples import Int64s

Float64s = NDArray[np.float64]


def allocate(amount_uj: int, weights: Sequence[float]) -> list[int]:
    """Split ``amount_uj`` in proportion to ``weights``; the parts add up to it exactly.

    Largest remainder: round down, then one microjoule each to those that lost most, ties to the
    earlier position.  The sum of weights is correctly rounded (fsum), so the order of workloads
    does not change a result.  All weights zero: all parts are zero and the caller keeps the rest.
    """
    total = math.fsum(weights)
    if total <= 0.0 or amount_uj <= 0:
        return [0] * len(weights)
    exact = [amount_uj * (w / total) for w in weights]
    parts = [math.floor(x) for x in exact]
    left = amount_uj - sum(parts)
    order = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    _hand_out(parts, [i for i in order if weights[i] > 0.0], left)
    return parts


def _hand_out(parts: list[int], order: Sequence[int], left: int) -> None:
    """Add ``left`` units one by one; it is negative only where floats rounded up a huge amount."""
    step = 1 if left > 0 else -1
    position = 0
    while left:
        index = order[position % len(order)]
        if step > 0 or parts[index] > 0:
            parts[index] += step
            left -= step
        position += 1


def dynamic_bins(bins_uj: Float64s, idle_w: float, edges_ns: Int64s) -> Float64s:
    """Return each bin's energy above the idle floor in microjoules; all of it if none is above."""
    idle_uj = idle_w * np.diff(edges_ns).astype(np.float64) / 1_000.0
    above = np.maximum(bins_uj - idle_uj, 0.0)
    return above if above.any() else bins_uj


def weights(bins_uj: Float64s, used_ns: Int64s) -> tuple[Float64s, float]:
    """Share each bin's energy by CPU time: ``(weight of each column, energy of unused bins)``.

    ``used_ns`` has shape (bins, n).  The sum over bins runs in their order, without BLAS, so the
    result does not depend on how numpy was built.
    """
    totals = used_ns.sum(axis=1)
    found = np.zeros(used_ns.shape[1], np.float64)
    unused = 0.0
    for energy, used, total in zip(bins_uj.tolist(), used_ns, totals.tolist(), strict=True):
        if total > 0:
            found += used * (energy / total)
        else:
            unused += energy
    return found, unused

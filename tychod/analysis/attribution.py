"""Sharing an integer amount of energy among workloads, exactly."""

import math
from collections.abc import Sequence


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
    lost = [part - x for part, x in zip(parts, exact, strict=True)]
    order = sorted(range(len(parts)), key=lost.__getitem__)  # which keeps the order of equals
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

"""From one way of accounting to another: the time between the two belongs to nobody we know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tychod.samples import LOST_KEY, CpuSample

if TYPE_CHECKING:
    from tychod.kernel.cgroups import CpuBaseline


def bridge(before: CpuBaseline, first: CpuSample) -> tuple[CpuSample, ...]:
    """Return the first sample of a method, and one that ends what another method has counted.

    Whose the CPU time in between was nobody knows: all of it, by /proc/stat, is lost time.
    """
    lost_ns = max(first.busy_ns - before.busy_ns, 0)
    if first.t_ns <= before.t_ns or not lost_ns:
        return (first,)
    keys, own, total = (
        np.concatenate([np.array([value], np.int64), values])
        for value, values in ((LOST_KEY, first.keys), (lost_ns, first.own_ns), (0, first.total_ns))
    )
    for array in (keys, own, total):
        array.setflags(write=False)
    earlier = CpuSample(
        before.t_ns, keys, np.concatenate([own[:1] * 0, own[1:]]), total, first.idle_ns
    )
    return earlier, CpuSample(first.t_ns, keys, own, total, first.idle_ns, first.busy_ns)

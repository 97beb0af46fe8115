"""From one way of accounting to another: the time between the two belongs to nobody we know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tychod.samples import LOST_KEY, CpuSample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tychod.kernel.cgroups import CpuBaseline
    from tychod.samples import Int64s


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


class Splice:
    """Samples of a collector that follows another, as if the first had gone on.

    Each begins its own times at 0; here they go on from what the keys had.  A key that only the
    first knew has used nothing since; it may come back with a third.
    """

    def __init__(self, last: CpuSample, before: Splice | None = None) -> None:
        """``last``: the last sample of the collector before, which ``before`` was applied to."""
        self._last = last
        own_ns = dict(zip(last.keys.tolist(), last.own_ns.tolist(), strict=True))
        self.had: Final[Mapping[int, int]] = {**before.had, **own_ns} if before else own_ns
        self._keys: Int64s | None = None
        self._base: Int64s = last.own_ns
        self._where: Int64s | None = None

    def apply(self, samples: Sequence[CpuSample]) -> tuple[CpuSample, ...]:
        """Return those samples that are newer than the last one of before."""
        return tuple(self._shift(s) for s in samples if s.t_ns > self._last.t_ns)

    def _shift(self, sample: CpuSample) -> CpuSample:
        if self._keys is not sample.keys:
            self._keys, self._base = sample.keys, self._aligned(sample.keys)
            self._where = self._placed(sample)
        own_ns = sample.own_ns + self._base
        own_ns.setflags(write=False)
        if sample.package_ns is None or self._where is None:
            return sample._replace(own_ns=own_ns)
        package_ns = sample.package_ns + self._where
        package_ns.setflags(write=False)
        return sample._replace(own_ns=own_ns, package_ns=package_ns)

    def _aligned(self, keys: Int64s) -> Int64s:
        return np.array([self.had.get(key, 0) for key in keys.tolist()], np.int64)

    def _placed(self, sample: CpuSample) -> Int64s | None:
        """Return where the keys had used their time; None where the packages are others."""
        now, last = sample.package_ns, self._last.package_ns
        if now is None or last is None or len(now) != len(last):
            return None
        placed = np.zeros_like(now)
        _, here, there = np.intersect1d(sample.keys, self._last.keys, return_indices=True)
        placed[:, here] = last[:, there]
        return placed

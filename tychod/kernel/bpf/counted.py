"""Hardware counters by key, as the kernel programs added them up at every task switch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tychod.kernel.bpf import abi
from tychod.samples import CounterSample

if TYPE_CHECKING:
    from collections.abc import Callable

    from tychod.kernel.bpf.columns import Columns


def read_counters(
    views: abi.Views, columns: Columns, used: int, now_ns: Callable[[], int]
) -> CounterSample | None:
    """Return the counters that are on, as they are now; None where none is.

    They have no buckets: what two readings differ by is of the time between the readings, which
    come some 0.1 s after the ends of windows.  They are written while we read: a value may be a
    switch ahead of its covered time.
    """
    if views.pmu is None:
        return None
    t_ns = now_ns()
    flags = int(views.ctl["flags"][0])
    on = [place for place, flag in enumerate(abi.FLAG_COUNTERS) if flags & flag]
    value, covered = (
        columns.fold(_by_slot(views.pmu[field], on, used), 0) for field in ("value", "ns")
    )
    names = tuple(abi.COUNTERS[place] for place in on)
    return CounterSample(int(views.ctl["stamp"][0]), names, columns.keys, value, covered, t_ns)


def _by_slot(cells: np.ndarray, on: list[int], used: int) -> np.ndarray:
    """Sum over packages; shape (counters, used + 1), the last column is nobody's."""
    found = np.zeros((len(on), used + 1), np.int64)
    found[:, :used] = cells[:, :used, on].sum(axis=0, dtype=np.int64).T
    return found

"""Own CPU time out of totals: what a cgroup's tasks used, its children's not included.

Pure arithmetic on int64 arrays.  Totals are read children first, one after the other, so a
difference may come out negative; it is carried as a debt and worked off, never dropped and never
published.  Therefore published own times plus debts always add up to the root's growth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tychod.samples import KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY, Int64s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

RESERVED_KEYS: Final = (ROOT_KEY, OUTSIDE_KEY, KERNEL_KEY)
"""The first rows of every array, in this order (it is the order of the keys)."""

ROOT, OUTSIDE, KERNEL = range(3)
FIRST_CGROUP: Final = 3

SEED: Final = -1
"""A start that is not known: the first total read counts as the start, nothing before it."""


class OwnTime:
    """Cumulative own time of a changing tree of counters.

    Rows are the reserved keys and then the cgroups by key.  The row OUTSIDE holds the time of all
    tasks of the machine, the row KERNEL that of interrupts, the row ROOT the root cgroup's total.
    """

    def __init__(self, *, see_outside: bool) -> None:
        self._see_outside = see_outside
        self.keys: Int64s = _frozen(np.array(RESERVED_KEYS, dtype=np.int64))
        self.own_ns: Int64s = _frozen(np.zeros(FIRST_CGROUP, dtype=np.int64))
        self.debt_ns: Int64s = np.zeros(FIRST_CGROUP, dtype=np.int64)
        self.last_ns: Int64s = np.full(FIRST_CGROUP, SEED, dtype=np.int64)
        self._parents: NDArray[np.intp] = np.zeros(0, dtype=np.intp)

    def reshape(self, keys: list[int], parent_keys: list[int], starts: Mapping[int, int]) -> None:
        """Set the cgroups: sorted keys, the key of each one's parent, and where new ones start."""
        new_keys = np.array([*RESERVED_KEYS, *keys], dtype=np.int64)
        stays = np.isin(self.keys, new_keys)
        self._hand_up_debts(stays)
        rows = np.searchsorted(new_keys, self.keys[stays])
        self.own_ns = _frozen(_moved(self.own_ns[stays], rows, len(new_keys)))
        self.debt_ns = _moved(self.debt_ns[stays], rows, len(new_keys))
        self.last_ns = _moved(self.last_ns[stays], rows, len(new_keys))
        self.keys = _frozen(new_keys)
        self._parents = np.searchsorted(new_keys, np.array(parent_keys, dtype=np.int64))
        for key, start_ns in starts.items():
            self.last_ns[np.searchsorted(new_keys, key)] = start_ns

    def advance(self, totals_ns: Int64s, *, root_is_kernel: bool, root_restarts: bool) -> None:
        """Add what the totals grew by to the own times of their cgroups.

        ``root_is_kernel``: the root cgroup's own time is that of kernel threads.
        ``root_restarts``: a smaller root total is a counter set back, not noise.
        """
        net = self._own_deltas(totals_ns, root_restarts=root_restarts) + self.debt_ns
        gains = np.maximum(net, 0)
        self.debt_ns = np.minimum(net, 0)
        if root_is_kernel:
            gains[KERNEL] += gains[ROOT]
            gains[ROOT] = 0
        self.own_ns = _frozen(self.own_ns + gains)
        self.last_ns = totals_ns

    def _own_deltas(self, totals_ns: Int64s, *, root_restarts: bool) -> Int64s:
        starts_ns = np.where(self.last_ns == SEED, totals_ns, self.last_ns)
        # A cgroup's counter only grows; if it fell (v1: written to), it counts from 0 again.
        restarted = totals_ns < starts_ns
        restarted[:FIRST_CGROUP] &= (root_restarts, False, False)
        deltas = totals_ns - np.where(restarted, 0, starts_ns)
        own = deltas.copy()
        np.subtract.at(own, self._parents, deltas[FIRST_CGROUP:])
        own[OUTSIDE] = deltas[OUTSIDE] - deltas[ROOT] if self._see_outside else 0
        return own

    def _hand_up_debts(self, stays: NDArray[np.bool_]) -> None:
        """Give the debt of each row that leaves to its parent; parents have smaller keys."""
        for row in np.flatnonzero(~stays)[::-1]:
            self.debt_ns[self._parents[row - FIRST_CGROUP]] += self.debt_ns[row]


def _moved(values: Int64s, rows: NDArray[np.intp], size: int) -> Int64s:
    moved = np.zeros(size, dtype=np.int64)
    moved[rows] = values
    return moved


def _frozen(values: Int64s) -> Int64s:
    values.setflags(write=False)
    return values

"""From slots of the kernel's table to the keys of samples, and what each key began with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tychod.kernel.bpf.slots import NOBODY
from tychod.samples import KERNEL_KEY, LOST_KEY, OUTSIDE_KEY, ROOT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tychod.kernel.bpf.buckets import Reached, Where
    from tychod.samples import Int64s

RESERVED: Final = (ROOT_KEY, OUTSIDE_KEY, KERNEL_KEY)


class Columns:
    """One column for each key.

    Published own time = time in the key's slots + its shift.  The shift holds what the key had
    before we began (negative), and what came and went with slots that changed hands.
    """

    def __init__(self, packages: int = 1) -> None:
        """``packages``: where there are several, time of each is kept apart, too."""
        self.keys: Int64s = np.array(RESERVED, np.int64)
        self.keys.setflags(write=False)
        self.own: Int64s = np.zeros(len(RESERVED), np.int64)  # at the newest sample
        self.where: Int64s | None = None  # shape (packages, keys), of the buckets up to there
        if packages > 1:
            self.where = np.zeros((packages, len(RESERVED)), np.int64)
        self._shift: dict[int, int] = {}
        self.shift: Int64s = np.zeros(len(RESERVED), np.int64)  # of each column
        self._source = np.full(len(RESERVED), -1, np.intp)
        self._extra_slots = np.zeros(0, np.intp)
        self._extra_columns = np.zeros(0, np.intp)

    def arrange(self, cgroups: Iterable[int], owner: Int64s) -> tuple[int, ...]:
        """Take these cgroups and the owners of the slots; return the keys that left."""
        lost = (LOST_KEY,) if self._shift.get(LOST_KEY) else ()
        keys = np.array([*lost, *RESERVED, *sorted(cgroups)], np.int64)
        left: tuple[int, ...] = ()
        if not np.array_equal(keys, self.keys):
            left = tuple(np.setdiff1d(self.keys, keys).tolist())
            self._realign(keys)
            for key in left:
                self._shift.pop(key, None)
        self._connect(owner)
        self._spread_shift()
        return left

    def _realign(self, keys: Int64s) -> None:
        stays = np.isin(self.keys, keys)
        to = np.searchsorted(keys, self.keys[stays])
        own = np.zeros(len(keys), np.int64)
        own[to] = self.own[stays]
        if self.where is not None:
            where = np.zeros((len(self.where), len(keys)), np.int64)
            where[:, to] = self.where[:, stays]
            self.where = where
        keys.setflags(write=False)
        self.keys, self.own = keys, own

    def _connect(self, owner: Int64s) -> None:
        slots = np.flatnonzero(owner != NOBODY)
        columns = np.minimum(np.searchsorted(self.keys, owner[slots]), len(self.keys) - 1)
        # Every owner is listed.  If one were not, its time must not come to a neighbour.
        columns[self.keys[columns] != owner[slots]] = self.column(OUTSIDE_KEY)
        first, rows = np.unique(columns, return_index=True)
        self._source = np.full(len(self.keys), -1, np.intp)  # the last column of any row is 0
        self._source[first] = slots[rows]
        others = np.ones(len(slots), bool)
        others[rows] = False
        self._extra_slots, self._extra_columns = slots[others], columns[others]

    def column(self, key: int) -> int:
        """Return the column of a key that is there."""
        return int(np.searchsorted(self.keys, key))

    def move(self, changed: Mapping[int, tuple[int, int]], slot_ns: Int64s) -> None:
        """Slots changed hands: what was published in one key's name stays there."""
        for slot, (before, now) in changed.items():
            if before == NOBODY:
                continue
            held_ns = int(slot_ns[slot])
            self._shift[before] = self._shift.get(before, 0) + held_ns
            if now != NOBODY:
                self._shift[now] = self._shift.get(now, 0) - held_ns

    def begin(self, native: Int64s, base: Int64s) -> None:
        """Count from here: ``base`` is what each key had been credited already."""
        base = np.minimum(base, native)
        self._shift.update(zip(self.keys.tolist(), (-base).tolist(), strict=True))
        self._spread_shift()
        self.own = native - base

    def lose(self, lost_ns: int) -> None:
        """Add time that nothing accounted; it has a key only where there is some."""
        if lost_ns > 0:
            self._shift[LOST_KEY] = lost_ns

    def _spread_shift(self) -> None:
        self.shift = np.array([self._shift.get(k, 0) for k in self.keys.tolist()], np.int64)

    def fold(self, values: Int64s, irq: Int64s | int) -> Int64s:
        """Turn values by slot, shape (..., slots + 1), into values by key."""
        folded: Int64s = values.take(self._source, axis=-1)
        if len(self._extra_slots):
            np.add.at(folded.T, self._extra_columns, values.T[self._extra_slots])
        folded[..., self.column(KERNEL_KEY)] += irq
        return folded

    def go_on(self, where: Where | None, edges: int) -> list[Int64s] | list[None]:
        """Return where each key's time was used, up to each of so many edges; None: not kept.

        ``where`` holds the buckets that end at the last of them, None: there were none.
        """
        if self.where is None:
            return [None] * edges
        steps = np.zeros((edges, *self.where.shape), np.int64)
        if where is not None:
            steps[edges - len(where.task) :] = self.fold(where.task, where.irq)
        steps[0] += self.where
        np.cumsum(steps, axis=0, out=steps)
        steps.setflags(write=False)
        self.where = steps[-1]
        return list(steps)

    def native(self, reached: Reached) -> Int64s:
        """Return the time in each key's slots."""
        return self.fold(reached.task, reached.irq_ns)

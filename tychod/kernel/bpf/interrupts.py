"""Softirq and irq time to the cgroup that was interrupted, instead of to the kernel.

The kernel keeps this time by slot, but its buckets only by CPU.  So how much is known to the
nanosecond, and when it was is taken from the whole node: what a cgroup had between two drains
is spread over the bins as all of this time was.  What lies in buckets that are not closed is known
by its sum alone; each slot's part of it waits for the next drain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tychod.kernel.bpf import abi
from tychod.kernel.bpf.slots import NOBODY

if TYPE_CHECKING:
    from tychod.kernel.bpf.buckets import Reached, Rows
    from tychod.kernel.bpf.snapshot import Snapshot
    from tychod.samples import Int64s

OTHER_ACCOUNT: Final = 1 << 40
"""Counted so, the same maps are another account: a saved state of one is not of the other."""


def stamp_of(views: abi.Views, interrupted: Interrupted | None) -> int:
    """Return which life of the counters this is, as it is saved with the state."""
    stamp = int(views.ctl["stamp"][0])
    return stamp ^ OTHER_ACCOUNT if interrupted else stamp


class Interrupted:
    """How much each slot has been given so far."""

    def __init__(self, views: abi.Views) -> None:
        self._slot_ns: Int64s = np.zeros(len(views.info), np.int64)
        self._idle_ns = 0  # while nobody was interrupted, and what nobody can be given
        self._given_ns = 0
        # Time of slots that were given back before we came is in keys that we do not have.
        self._retired_ns = int(views.ctl["retired"][0])

    def charge(self, snapshot: Snapshot, reached: Reached, owner: Int64s) -> tuple[Reached, Int64s]:
        """Give each slot its part.

        Return the times with it, and what is new of it by slot; the last is the kernel's.
        """
        waiting = self._waiting(snapshot, reached, owner)
        due_ns = reached.irq_ns - self._retired_ns - self._given_ns
        new = _share(waiting, max(due_ns, 0))
        used = len(new) - 1
        self._slot_ns[:used] += new[:used]
        self._idle_ns += int(new[used])
        self._given_ns += int(new.sum())
        task = reached.task.copy()
        task[:used] += self._slot_ns[:used]
        return reached._replace(task=task, irq_ns=self._idle_ns), new

    def _waiting(self, snapshot: Snapshot, reached: Reached, owner: Int64s) -> Int64s:
        used = snapshot.total.shape[1]
        counted = np.zeros(used + 1, np.int64)
        np.sum(snapshot.total[:, :, abi.SOFTIRQ : abi.KINDS], axis=(0, 2), out=counted[:used])
        counted[used] = snapshot.cpu["idle"][:, abi.SOFTIRQ :].sum()
        for charge in reached.charges:
            if charge.kind != abi.TASK:
                counted[charge.slot if 0 <= charge.slot < used else used] += charge.ns
        nobody = np.flatnonzero(owner[:used] == NOBODY)
        self._slot_ns[nobody] = 0  # it will be another's, and empty then
        counted[nobody] = 0
        counted[:used] -= self._slot_ns[:used]
        counted[used] -= self._idle_ns
        waiting: Int64s = np.maximum(counted, 0)
        return waiting


def _share(waiting: Int64s, due_ns: int) -> Int64s:
    """Return parts that add up to ``due_ns``: of what waits all, or the same share of each."""
    waiting_ns = int(waiting.sum())
    if due_ns >= waiting_ns:
        waiting[-1] += due_ns - waiting_ns
        return waiting
    ends = np.rint(np.cumsum(waiting) * (due_ns / waiting_ns)).astype(np.int64)
    ends[-1] = due_ns
    parts: Int64s = np.diff(np.minimum(ends, due_ns), prepend=0)
    return parts


def spread(rows: Rows, new: Int64s) -> Rows:
    """Return the rows with the new time of interrupts in them, as it was over the bins."""
    node_ns = int(rows.irq.sum())
    if not node_ns:
        return rows  # no bucket holds any: what there is comes with the totals
    so_far = np.cumsum(rows.irq) / node_ns
    got = np.flatnonzero(new)
    ends = np.rint(np.outer(so_far, new[got])).astype(np.int64)
    steps = np.zeros_like(rows.task)
    steps[:, got] = np.diff(ends, axis=0, prepend=0)
    irq = steps[:, -1].copy()
    steps[:, -1] = 0
    where = rows.where
    if where is not None:
        part = int(new[-1]) / max(int(new.sum()), 1)
        where = where._replace(irq=np.rint(where.irq * part).astype(np.int64))
    return rows._replace(task=rows.task + steps, irq=irq, where=where)

"""From a snapshot to cumulative time at the edges of bins: pure arithmetic on its arrays.

The totals decide how much, the buckets only when.  So a bucket that lacks time or has too much
moves time between neighbouring bins, and nothing can be lost or counted twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tychod.kernel.bpf import abi
from tychod.kernel.bpf.snapshot import IDLE, Charge, charges_in_flight, ring

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tychod.kernel.bpf.snapshot import Snapshot
    from tychod.samples import Int64s

ANY_BUCKET: Final = 1 << 62


class Where(NamedTuple):
    """Time in closed buckets, each package by itself."""

    task: Int64s  # shape (buckets, packages, used + 1)
    irq: Int64s  # shape (buckets, packages)


class Rows(NamedTuple):
    """Closed buckets: time in each of them, the first is number ``first``."""

    first: int
    task: Int64s  # shape (buckets, used + 1); the last column stays 0: for cgroups without a slot
    irq: Int64s  # shape (buckets,)
    where: Where | None = None  # None: there is one package


class Reached(NamedTuple):
    """Cumulative time at one moment, of all packages together."""

    task: Int64s  # shape (used + 1,); the last is 0
    irq_ns: int  # softirq and irq time, whoever was interrupted
    idle_ns: int
    charges: tuple[Charge, ...] = ()  # what of it was in flight


def copy_rows(views: abi.Views, first: int, last: int, used: int) -> Rows:
    """Copy closed buckets; call after the snapshot, when nobody writes to them any more."""
    count, packages = max(last - first + 1, 0), views.bucket.shape[1]
    if packages > 1:
        where = _copy_apart(views, first, count, used)
        return Rows(first, where.task.sum(axis=1), where.irq.sum(axis=1), where)
    task, irq = np.zeros((count, used + 1), np.int64), np.zeros(count, np.int64)
    if count:
        bucket, per_cpu = views.bucket.view(np.int64), views.irq_bucket.view(np.int64)
        for to, rows in ring(first, count):
            task[to, :used] = bucket[rows, 0, :used]
            np.sum(per_cpu[:, rows], axis=0, out=irq[to])
    return Rows(first, task, irq)


def _copy_apart(views: abi.Views, first: int, count: int, used: int) -> Where:
    packages = views.bucket.shape[1]
    task = np.zeros((count, packages, used + 1), np.int64)
    irq = np.zeros((count, packages), np.int64)
    bucket, per_cpu = views.bucket.view(np.int64), views.irq_bucket.view(np.int64)
    of_cpu = np.minimum(views.cpu["pkg"], packages - 1)
    for to, rows in ring(first, count) if count else ():
        task[to, :, :used] = bucket[rows, :, :used]
        for package in range(packages):
            irq[to, package] = per_cpu[of_cpu == package, rows].sum(axis=0)
    return Where(task, irq)


def clear_rows(views: abi.Views, first: int, last: int, used: int) -> None:
    """Empty buckets for their next turn in the ring."""
    for _, rows in ring(first, last - first + 1):
        views.bucket[rows, :, :used] = 0
        views.irq_bucket[:, rows] = 0


def clear_all(views: abi.Views, used: int) -> None:
    """Empty the ring."""
    clear_rows(views, 0, abi.BUCKETS - 1, used)


def reached_now(snapshot: Snapshot, online: NDArray[np.bool_]) -> Reached:
    """Return the cumulative times at the snapshot itself."""
    floor = snapshot.t_ns // abi.BUCKET_NS + 1
    charges = charges_in_flight(snapshot, online, snapshot.t_ns, floor, ANY_BUCKET)
    return _reached(snapshot, tuple(charges), snapshot.t_ns, has_buckets=False)


def reached_at(snapshot: Snapshot, online: NDArray[np.bool_], closed: int, rows: Rows) -> Reached:
    """Return the times at the end of the bucket ``closed``, and complete the closed rows."""
    edge_ns = (closed + 1) * abi.BUCKET_NS
    charges = tuple(charges_in_flight(snapshot, online, edge_ns, rows.first, closed))
    for charge in charges:
        if charge.bucket >= rows.first:
            _add(rows, charge)
    return _reached(snapshot, charges, edge_ns, has_buckets=True)


def _add(rows: Rows, charge: Charge) -> None:
    slot, package, kind, bucket, ns = charge
    at, where = bucket - rows.first, rows.where
    if kind != abi.TASK:
        rows.irq[at] += ns
        if where:
            where.irq[at, package] += ns
    elif 0 <= slot < rows.task.shape[1] - 1:
        rows.task[at, slot] += ns
        if where:
            where.task[at, package, slot] += ns


def _reached(
    snapshot: Snapshot, charges: tuple[Charge, ...], edge_ns: int, *, has_buckets: bool
) -> Reached:
    used = snapshot.total.shape[1]
    task = np.zeros(used + 1, np.int64)
    np.sum(snapshot.total[:, :, abi.TASK] - snapshot.open_task, axis=0, out=task[:used])
    cpu = snapshot.cpu
    irq_ns = int(snapshot.total[:, :, abi.SOFTIRQ : abi.KINDS].sum()) - snapshot.open_irq_ns
    irq_ns += int(cpu["idle"][:, abi.SOFTIRQ :].sum())
    idle_ns = int(cpu["idle"][:, abi.TASK].sum())
    for slot, _pkg, kind, _bucket, ns in charges:
        if kind != abi.TASK:
            irq_ns += ns
        elif slot == IDLE:
            idle_ns += ns
        elif slot < used:
            # Else (bcc) nobody knows whose it is until it is charged.  So what is in flight at the
            # first snapshot counts as used after it: at most a tick of each CPU, once.
            task[slot] += ns
    if has_buckets:
        open_ns = int(snapshot.open_task.sum()) + snapshot.open_irq_ns
        idle_ns -= _idle_after_ns(cpu, edge_ns, open_ns)
    return Reached(task, irq_ns, idle_ns, charges)


def _idle_after_ns(cpu: NDArray[np.void], edge_ns: int, open_ns: int) -> int:
    """Return the idle time after ``edge_ns`` that is counted in ``idle`` already.

    Idle time has no buckets: it is what the CPUs have accounted for after the edge, less the rest.
    """
    ahead = cpu[(cpu["ts"] >= np.uint64(edge_ns)) & (cpu["ts"] != 0)]
    ts, t0 = ahead["ts"].astype(np.int64), ahead["t0"].astype(np.int64)
    accounted_ns = int((ts - np.maximum(t0, edge_ns)).sum())
    waiting_ns = int(ahead["acc"].sum())  # of any kind, idle too: in no total, neither in idle
    return accounted_ns - open_ns - waiting_ns


def cumulate(
    before: Int64s, steps: Int64s, after: Int64s, *, is_first_open: bool
) -> tuple[Int64s, int]:
    """Return cumulative values at the end of each step, and how much the steps were wrong.

    Values never fall and the last are ``after`` (or ``before``, where that is less).  What the
    steps lack came in the first if that had no bucket (``is_first_open``), else in the last.
    """
    after = np.maximum(before, after)
    values: Int64s = np.empty_like(steps)
    so_far = before
    for value, step in zip(values, steps, strict=True):  # a third of what np.cumsum takes
        np.add(so_far, step, out=value)
        so_far = value
    missing = after - so_far
    wrong = np.flatnonzero(missing)
    if not len(wrong):
        return values, 0
    lowest, highest, missing = before[wrong], after[wrong], missing[wrong]
    part = values[:, wrong]
    if is_first_open:
        part += np.maximum(missing, 0)
        np.minimum(missing, 0, out=missing)
    np.minimum(part, highest, out=part)
    np.maximum(part, lowest, out=part)
    part[-1] = highest
    values[:, wrong] = part
    return values, int(np.abs(missing).sum())

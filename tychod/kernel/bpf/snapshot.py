"""One consistent copy of what the kernel programs write, and the time that is still in flight.

Every CPU raises ``enter`` before and ``leave`` after it writes.  A copy is taken between two
copies of the CPUs' states; where these are equal, nothing was written in between.  Each package has
rows of its own, so on a big machine only the CPUs of one package must be still at the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tychod.kernel.bpf import abi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tychod.samples import Int64s

TRIES: Final = 50
ROW_TRIES: Final = 20
"""Of one CPU's state: some 2 us each, and even a CPU without rest is outside our programs often."""

OPEN_ROWS: Final = 4
"""Buckets after the closed ones that may hold time already: two, and two for a slow copy."""

IDLE: Final = -1
"""In place of a slot: the idle task."""

_CPU_WORDS: Final = abi.CPU.itemsize // 8
_TOTAL_WORDS: Final = abi.TOTAL.itemsize // 8
_ENTER, _LEAVE = 0, 1  # words of a CPU's state

Pairs = list[tuple["Int64s", "Int64s"]]


class Seen(NamedTuple):
    """States of the CPUs, each by itself consistent, but for those in ``unseen``."""

    t_ns: int  # no state is younger
    cpu: NDArray[np.void]
    unseen: int  # a bit for each CPU


class Snapshot(NamedTuple):
    """Copies in buffers that the next snapshot uses again.

    ``total`` and ``open_task`` keep the packages apart; whoever sums over them loses only that.
    """

    t_ns: int
    cpu: NDArray[np.void]  # abi.CPU, shape (ncpu,)
    total: Int64s  # shape (npkg, used, kinds + 1)
    open_task: Int64s  # shape (npkg, used): in buckets that are not closed
    open_irq_ns: int
    tries_used_up: bool
    seen: Seen


class Charge(NamedTuple):
    """Time that is in no total yet."""

    slot: int  # IDLE, abi.SLOT_UNKNOWN, or whose it is
    pkg: int
    kind: int
    bucket: int
    ns: int


class Snapshots:
    """Takes snapshots; holds the buffers, so that the copying itself allocates nothing."""

    def __init__(self, views: abi.Views, now_ns: Callable[[], int]) -> None:
        ncpu, (npkg, nslot) = len(views.cpu), views.total.shape
        self._now_ns = now_ns
        self._ctl = views.ctl
        self._cpu = views.cpu.view(np.int64).reshape(ncpu, _CPU_WORDS)
        self._total = views.total.view(np.int64).reshape(npkg, nslot, _TOTAL_WORDS)
        self._bucket = views.bucket.view(np.int64)
        self._irq = views.irq_bucket.view(np.int64)
        self._pkg_of_cpu = np.minimum(views.cpu["pkg"].astype(np.int64), npkg - 1)
        self._first, self._again, self._kept = (np.zeros_like(self._cpu) for _ in range(3))
        self._kept_total = np.zeros_like(self._total)
        self._open = np.zeros((OPEN_ROWS, npkg, nslot), np.int64)
        self._open_irq = np.zeros((ncpu, OPEN_ROWS), np.int64)
        self._kept_irq = np.zeros_like(self._open_irq)

    def used(self) -> int:
        """Return how many slots have ever been used."""
        return min(int(self._ctl["next_slot"][0]), self._total.shape[1])

    def take(self, first_open: int | None) -> Snapshot:
        """Copy everything; ``first_open``: the bucket after the closed ones, None: no buckets."""
        pending = np.ones(self._total.shape[0], bool)
        used, pairs = -1, {}
        for _ in range(TRIES):
            if used != self.used():
                used = self.used()
                pending[:] = True
                pairs = {p: self._pairs(p, used, first_open) for p in range(len(pending))}
                irq_pairs = self._irq_pairs(first_open)
            np.copyto(self._first, self._cpu)
            for package in np.flatnonzero(pending).tolist() if len(pending) > 1 else (0,):
                for target, source in pairs[package]:
                    np.copyto(target, source)
            for target, source in irq_pairs:
                np.copyto(target, source)
            t_ns = self._now_ns()
            np.copyto(self._again, self._cpu)
            self._keep_still(pending)
            if not pending.any() and used == self.used():
                return self._result(t_ns, used, first_open, tries_used_up=False)
        rows = pending[self._pkg_of_cpu]
        self._kept[rows], self._kept_irq[rows] = self._first[rows], self._open_irq[rows]
        return self._result(t_ns, used, first_open, tries_used_up=True)

    def _keep_still(self, pending: NDArray[np.bool_]) -> None:
        """Keep the states of the packages whose CPUs wrote nothing during the copy."""
        still = (self._first == self._again).all(axis=1)
        still &= self._first[:, _ENTER] == self._first[:, _LEAVE]
        if len(pending) == 1:
            if still.all():
                self._kept, self._first = self._first, self._kept
                self._kept_irq, self._open_irq = self._open_irq, self._kept_irq
                pending[0] = False
            return
        for package in np.flatnonzero(pending).tolist():
            rows = self._pkg_of_cpu == package
            if still[rows].all():
                self._kept[rows], self._kept_irq[rows] = self._first[rows], self._open_irq[rows]
                pending[package] = False

    def _pairs(self, package: int, used: int, first_open: int | None) -> Pairs:
        """Return what is copied for a package, and where to: as few copies as there can be."""
        pairs: Pairs = [(self._kept_total[package, :used], self._total[package, :used])]
        if first_open is not None:
            pairs += [
                (self._open[to, package, :used], self._bucket[rows, package, :used])
                for to, rows in ring(first_open, OPEN_ROWS)
            ]
        return pairs

    def _irq_pairs(self, first_open: int | None) -> Pairs:
        if first_open is None:
            return []
        return [
            (self._open_irq[:, to], self._irq[:, rows]) for to, rows in ring(first_open, OPEN_ROWS)
        ]

    def _result(
        self, t_ns: int, used: int, first_open: int | None, *, tries_used_up: bool
    ) -> Snapshot:
        npkg = self._total.shape[0]
        if first_open is None:
            open_task, open_irq_ns = np.zeros((npkg, used), np.int64), 0
        else:
            open_task = self._open[:, :, :used].sum(axis=0)
            open_irq_ns = int(self._kept_irq.sum())
        cpu = self._kept.view(abi.CPU)[:, 0]
        seen = self._look_again() if tries_used_up else Seen(t_ns, cpu, 0)
        return Snapshot(
            t_ns, cpu, self._kept_total[:, :used], open_task, open_irq_ns, tries_used_up, seen
        )

    def _look_again(self) -> Seen:
        """Look at each CPU by itself: on a busy machine they are never still all together."""
        unseen = 0
        for at in range(len(self._cpu)):
            if not self._saw(at):
                unseen |= 1 << at
        return Seen(self._now_ns(), self._again.view(abi.CPU)[:, 0], unseen)

    def _saw(self, at: int) -> bool:
        """Copy the state of a CPU; False: it wrote at every try."""
        state, copied = self._cpu[at], self._again[at]
        for _ in range(ROW_TRIES):
            left = state[_LEAVE]
            np.copyto(copied, state)
            if state[_ENTER] == left:
                return True
        return False


def ring(first: int, count: int) -> list[tuple[slice, slice]]:
    """Return where ``count`` buckets from ``first`` on lie in the ring: (place, rows) pairs."""
    row = first % abi.BUCKETS
    head = min(count, abi.BUCKETS - row)
    parts = [(slice(0, head), slice(row, row + head))]
    if head < count:
        parts.append((slice(head, count), slice(0, count - head)))
    return parts


def charges_in_flight(
    snapshot: Snapshot, online: NDArray[np.bool_], until_ns: int, floor: int, last: int
) -> Iterator[Charge]:
    """Yield what CPUs have spent and not charged, of those whose interval began by bucket ``last``.

    Intervals reach to ``until_ns``.  What lies before the bucket ``floor`` is one charge to the one
    before it.  A CPU that is not online spends no time, but may not have charged its last.
    """
    cpu = snapshot.cpu
    waiting = (cpu["ts"] != 0) & (cpu["ts"] // abi.BUCKET_NS <= last)
    for at in np.flatnonzero(waiting).tolist():
        yield from _of_cpu(cpu[at], bool(online[at]), until_ns, floor)


def _of_cpu(state: np.void, is_online: bool, until_ns: int, floor: int) -> Iterator[Charge]:
    ts, pkg = int(state["ts"]), int(state["pkg"])
    owner = int(state["slot"]) if state["tgid"] else IDLE
    for kind, ns in enumerate(state["acc"].tolist()):
        if ns:
            yield Charge(owner, pkg, kind, max(ts // abi.BUCKET_NS, floor - 1), ns)
    if not is_online or until_ns <= ts:
        return
    kind = abi.IRQ if state["irq"] else abi.SOFTIRQ if state["soft"] else abi.TASK
    moved_ns = until_ns
    if state["pend"]:  # at that time the running task came into another cgroup
        moved_ns = min(max(int(state["pend_at"]), ts), until_ns)
    for slot, start_ns, end_ns in (
        (owner, ts, moved_ns),
        (int(state["pend_slot"]) if state["tgid"] else IDLE, moved_ns, until_ns),
    ):
        for bucket, ns in _cut(start_ns, end_ns, floor):
            yield Charge(slot, pkg, kind, bucket, ns)


def _cut(start_ns: int, end_ns: int, floor: int) -> Iterator[tuple[int, int]]:
    """Yield (bucket, time) of an interval; all before bucket ``floor`` as one."""
    before_ns = min(floor * abi.BUCKET_NS, end_ns)
    if start_ns < before_ns:
        yield floor - 1, before_ns - start_ns
        start_ns = before_ns
    while start_ns < end_ns:
        bucket = start_ns // abi.BUCKET_NS
        stop_ns = min((bucket + 1) * abi.BUCKET_NS, end_ns)
        yield bucket, stop_ns - start_ns
        start_ns = stop_ns

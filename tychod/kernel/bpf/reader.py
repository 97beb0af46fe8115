"""CPU time of every cgroup from the kernel's account: a drain a second, a sample every 50 ms.

Two buckets behind the present, the reader closes buckets: the programs charge them no more.  It
copies the totals and what is still in flight, and makes of the closed buckets the cumulative time
at the end of each; the totals have the last word.  Then it empties the buckets for their next turn.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from tychod.kernel.bpf import abi
from tychod.kernel.bpf.buckets import (
    clear_all,
    clear_rows,
    copy_rows,
    cumulate,
    reached_at,
    reached_now,
)
from tychod.kernel.bpf.busy import NodeBusy
from tychod.kernel.bpf.columns import Columns
from tychod.kernel.bpf.counted import read_counters
from tychod.kernel.bpf.cpus import package_numbers
from tychod.kernel.bpf.interrupts import Interrupted, spread, stamp_of
from tychod.kernel.bpf.presence import Presence, has_started
from tychod.kernel.bpf.slots import Places, Slots
from tychod.kernel.bpf.snapshot import Snapshots
from tychod.kernel.cgroups import CpuBaseline, Names
from tychod.kernel.tree import CgroupTree
from tychod.samples import KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY, CgroupRef, CpuSample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tychod.clock import Clock
    from tychod.hostfs import Host
    from tychod.kernel.bpf.buckets import Reached, Where
    from tychod.kernel.bpf.slots import Device
    from tychod.kernel.bpf.snapshot import Snapshot
    from tychod.kernel.hierarchy import Hierarchy
    from tychod.samples import CounterSample, Int64s

BEHIND: Final = 2
"""Buckets between the present one and the newest closed one."""

STALL_BUCKETS: Final = 50
"""A drain later than this (2.5 s) takes totals only: the ring may have gone round."""

PATIENCE_NS: Final = 10_000_000_000
"""How long to wait for a CPU that is online and has not switched yet."""

SILENCE_NS: Final = 1_000_000_000
"""We have just been switched to ourselves: no event for so long means that nothing is attached."""

FULL_SHOWN_NS: Final = 60_000_000_000


class Figures(NamedTuple):
    """How well the accounting works; all cumulative."""

    late_ns: int = 0  # moved to another bin of the same second, since no bucket held it
    dropped: int = 0  # lookups that found the table full, exit records without room
    proc_lost_ns: int = 0  # in no process, though in its cgroup
    exhausted: int = 0  # snapshots that were not consistent after all tries
    stalls: int = 0  # drains so late that their bins were given up
    reads: int = 0


class BpfReader:
    """Reads one set of maps; one thread calls it, any thread may look at ``cgroups``.

    ``irq``: who gets softirq and irq time.
    """

    def __init__(
        self,
        host: Host,
        hierarchy: Hierarchy,
        clock: Clock,
        views: abi.Views,
        device: Device,
        history_ns: int,
        irq: Literal["kernel", "interrupted"] = "kernel",
    ) -> None:
        self.hierarchy: Final = hierarchy
        self._clock, self._views = clock, views
        self.interrupted: Final = Interrupted(views) if irq == "interrupted" else None
        self.stamp: Final = stamp_of(views, self.interrupted)
        with ExitStack() as opened:
            self._busy = NodeBusy(host)
            opened.callback(self._busy.close)
            self._presence = Presence(host, len(views.cpu))
            opened.callback(self._presence.close)
            is_v1 = hierarchy.version == "v1"
            self._tree = CgroupTree(host, hierarchy.root, None, may_rename=is_v1)
            opened.callback(self._tree.close)
            self._opened = opened.pop_all()
        self._places = Places()
        self._places.roots = frozenset({int(views.ctl["root_cgid"][0]), self._tree.root.inode})
        self.packages: Final = package_numbers(host, views.cpu["pkg"].tolist(), len(views.total))
        self._slots = Slots(views, device, self._places, history_ns)
        self._snapshots = Snapshots(views, clock.now_ns)
        self._columns = Columns(len(self.packages))
        self._names = Names(history_ns)
        self._slot_ns: Int64s = np.zeros(len(views.info), np.int64)  # at the newest sample
        self._baseline: CpuBaseline | None = None
        self._asked_ns: int | None = None  # when the first reading was tried
        self._started, self._changes = False, -1
        self._closed, self._is_first_open = 0, False  # the newest sample lies within _closed
        self._t_ns = self._idle_ns = self._idle_shift_ns = 0
        self._no_slot = (0, 0)  # how often the table was full, and when we last saw that grow
        self.figures = Figures()
        self.counters: CounterSample | None = None
        self.failure = ""

    @property
    def cgroups(self) -> Mapping[int, CgroupRef]:
        """Which cgroup each key stands for; an immutable mapping, replaced on change."""
        return self._names.table

    @property
    def package_cpus(self) -> tuple[int, ...]:
        """How many CPUs of each package were online and counted at the newest sample."""
        row = np.minimum(self._views.cpu["pkg"][self._presence.counted], len(self.packages) - 1)
        return tuple(np.bincount(row, minlength=len(self.packages)).tolist())

    @property
    def problems(self) -> tuple[str, ...]:
        """What is degraded at present, one line each."""
        found = list(self._tree.problems)
        if self._no_slot[1] and self._t_ns - self._no_slot[1] < FULL_SHOWN_NS:
            found.append(
                f"the kernel's table of {len(self._views.info)} cgroups is full, further ones "
                "count for the cgroup above them; raise [accounting] slots"
            )
        if self._presence.missing:
            cpus = ", ".join(map(str, self._presence.missing))
            found.append(f"CPUs not accounted until something runs on them: {cpus}")
        if self._slots.unlisted:
            found.append(
                f"{self._slots.unlisted} cgroups are not listed until something runs in them; "
                "raise [accounting] slots"
            )
        if self._slots.failure:
            found.append(self._slots.failure)
        return tuple(found)

    def resume(self, baseline: CpuBaseline) -> bool:
        """Continue from a baseline of this boot, whatever its method; False: it is too late."""
        if self._started or baseline.t_ns >= self._clock.now_ns():
            return False
        self._baseline = baseline
        return True

    def close(self) -> None:
        """Close every file; the maps and their device belong to who gave them."""
        self._opened.close()

    def read(self) -> tuple[CpuSample, ...]:
        """Return the samples since the last reading; none where ``failure`` says why."""
        self.figures = self.figures._replace(reads=self.figures.reads + 1)
        if stamp_of(self._views, self.interrupted) != self.stamp:
            return self._fail("the kernel's maps were set up anew: they are another account now")
        now_ns = self._clock.now_ns()
        closed = now_ns // abi.BUCKET_NS - BEHIND
        if not self._started or closed - self._closed > STALL_BUCKETS:
            return self._read_wide(now_ns)
        if closed < self._closed + (not self._is_first_open):
            return self._fail("no bin of 50 ms has ended since the last reading")
        return self._read_bins(now_ns, closed)

    def read_last(self) -> tuple[CpuSample, ...]:
        """Return the samples since the last reading, and one of now: no reading follows."""
        found = self.read()
        now_ns = self._clock.now_ns()
        return (*found, *self._read_wide(now_ns, is_stall=False)) if self._started else found

    def _fail(self, reason: str) -> tuple[CpuSample, ...]:
        self.failure = reason
        return ()

    # ---- one drain ----

    def _read_bins(self, now_ns: int, closed: int) -> tuple[CpuSample, ...]:
        """Return a sample for each bucket that has been closed since the last drain."""
        views, first = self._views, self._closed + 1
        views.ctl["closed"] = closed
        snapshot = self._snapshots.take(closed + 1)
        if not self._is_alive(snapshot):
            return ()
        online = self._presence.update(snapshot)
        self._arrange(now_ns, snapshot)
        rows = copy_rows(views, first, closed, snapshot.total.shape[1])
        reached = self._complete(reached_at(snapshot, online, closed, rows))
        if self.interrupted:
            reached, new = self.interrupted.charge(snapshot, reached, self._slots.owner)
            rows = spread(rows, new)
        if closed >= first:
            clear_rows(views, first, closed, snapshot.total.shape[1])
        steps = self._columns.fold(rows.task, rows.irq)
        if self._is_first_open:
            steps = np.vstack([np.zeros((1, steps.shape[1]), np.int64), steps])
        after = self._columns.native(reached) + self._columns.shift
        own, late_ns = cumulate(self._columns.own, steps, after, is_first_open=self._is_first_open)
        edges = np.arange(closed + 2 - len(steps), closed + 2, dtype=np.int64) * abi.BUCKET_NS
        idle = self._idle_at(edges, own, reached.idle_ns + self._idle_shift_ns, online)
        self._closed, self._is_first_open = closed, False
        self.figures = self.figures._replace(late_ns=self.figures.late_ns + late_ns)
        return self._publish(edges, own, idle, reached, snapshot, rows.where)

    def _read_wide(self, now_ns: int, *, is_stall: bool = True) -> tuple[CpuSample, ...]:
        """Return one sample, of now: the first or last, or after a silence longer than the ring."""
        if not self._started and not self._is_ready(now_ns):
            return ()
        closed, snapshot = self._close_present()
        if not self._is_alive(snapshot):
            return ()
        self._closed = closed
        clear_all(self._views, snapshot.total.shape[1])
        online = self._presence.update(snapshot)
        self._arrange(now_ns, snapshot)
        reached = self._complete(reached_now(snapshot, online))
        if self.interrupted:
            reached, _ = self.interrupted.charge(snapshot, reached, self._slots.owner)
        self._is_first_open = True
        edges = np.array([snapshot.t_ns], np.int64)
        if not self._started:
            return self._publish_first(snapshot, reached, int(online.sum()))
        self.figures = self.figures._replace(stalls=self.figures.stalls + is_stall)
        after = self._columns.native(reached) + self._columns.shift
        own = np.maximum(self._columns.own, after)[np.newaxis]
        idle = self._idle_at(edges, own, reached.idle_ns + self._idle_shift_ns, online)
        return self._publish(edges, own, idle, reached, snapshot)

    def _close_present(self) -> tuple[int, Snapshot]:
        """Close the present bucket too and copy everything before it ends."""
        while True:
            closed = self._clock.now_ns() // abi.BUCKET_NS
            self._views.ctl["closed"] = closed
            snapshot = self._snapshots.take(None)
            if snapshot.t_ns // abi.BUCKET_NS == closed:
                return closed, snapshot

    def _is_ready(self, now_ns: int) -> bool:
        """Say whether every CPU that is online has begun to count, or we have waited enough."""
        created_ns = int(self._views.ctl["created"][0])  # who read before us has waited too
        self._asked_ns = min(now_ns, created_ns) if self._asked_ns is None else self._asked_ns
        started = has_started(self._views.cpu)
        waiting = np.flatnonzero(self._presence.online(started) & ~started).tolist()
        if started.any() and (not waiting or now_ns - self._asked_ns >= PATIENCE_NS):
            return True
        self._fail(f"waiting for something to run on CPU {', '.join(map(str, waiting))}")
        return False

    def _is_alive(self, snapshot: Snapshot) -> bool:
        if snapshot.tries_used_up:
            self.figures = self.figures._replace(exhausted=self.figures.exhausted + 1)
        if snapshot.t_ns - int(snapshot.cpu["ts"].max()) <= SILENCE_NS:
            return True
        self._fail("the kernel programs count no more: they were detached")
        return False

    def _complete(self, reached: Reached) -> Reached:
        irq_ns = reached.irq_ns + int(self._views.ctl["retired"][0])
        idle_ns = reached.idle_ns - self._presence.absent_ns
        return reached._replace(irq_ns=irq_ns, idle_ns=idle_ns)

    # ---- keys ----

    def _arrange(self, now_ns: int, snapshot: Snapshot) -> None:
        """Bring keys and names up to date with the tree and the kernel's table."""
        used = snapshot.total.shape[1]
        tree_changed = self._tree.refresh(now_ns) or not self._started
        if tree_changed:
            self._places.replace(self._tree.root.inode, self._tree.nodes)
        moved = self._slots.drop_final(now_ns)
        self._columns.move(moved, self._slot_ns)
        changes = int(self._views.ctl["changes"][0])
        is_changed = changes != self._changes or tree_changed
        if is_changed:
            changed = self._slots.refresh(used, tree_changed=tree_changed)
            self._columns.move(changed, self._slot_ns)
        if not self._tree.problems:
            knows_all = self.hierarchy.true_root
            self._slots.note_absent(now_ns, knows_all=knows_all, is_changed=is_changed)
        if moved or is_changed:
            self._changes = changes
            self._rename(now_ns)

    def _rename(self, now_ns: int) -> None:
        refs = self._slots.refs()
        for key in self._columns.arrange(refs, self._slots.owner):
            self._places.retire(key)
        self._names.replace(refs, now_ns)

    # ---- samples ----

    def _publish(
        self,
        edges: Int64s,
        own: Int64s,
        idle: Int64s,
        reached: Reached,
        snapshot: Snapshot,
        where: Where | None = None,
    ) -> tuple[CpuSample, ...]:
        total = own - self._columns.shift
        busy = self._busy.at(edges, snapshot.t_ns)
        own.setflags(write=False)
        total.setflags(write=False)
        keys = self._columns.keys
        self._columns.own = own[-1]
        self._slot_ns[: len(reached.task) - 1] = reached.task[:-1]
        self._t_ns, self._idle_ns = int(edges[-1]), int(idle[-1])
        self._slots.advance(snapshot.seen, self._t_ns, snapshot.t_ns)
        self._count(snapshot.t_ns)
        used, now_ns = snapshot.total.shape[1], self._clock.now_ns
        self.counters = read_counters(self._views, self._columns, used, now_ns)
        self.failure = ""
        apart = self._columns.go_on(where, len(own))
        columns = (edges.tolist(), [keys] * len(own), own, total, idle.tolist(), busy, apart)
        return tuple(CpuSample(*row) for row in zip(*columns, strict=True))

    def _publish_first(
        self, snapshot: Snapshot, reached: Reached, online: int
    ) -> tuple[CpuSample, ...]:
        """Return the present, after what was saved if we continue."""
        self._started = True
        saved, native = self._baseline, self._columns.native(reached)
        busy_ns = self._busy.read_ns()
        base, lost_ns = native, 0
        if saved and saved.stamp and saved.stamp == self.stamp:
            self._slots.forget(self._published_before(saved))
            self._rename(snapshot.t_ns)
            native = self._columns.native(reached)
            base = self._base_of(saved)
        elif saved and int(self._views.ctl["created"][0]) >= saved.t_ns:
            base = np.zeros_like(native)
            lost_ns = busy_ns - saved.busy_ns - int(native.sum())
        elif saved:
            lost_ns = busy_ns - saved.busy_ns
        self._columns.begin(native, base)
        if saved and saved.busy_ns and lost_ns > 0:
            self._columns.lose(lost_ns)
            self._rename(snapshot.t_ns)
            self._columns.own[0] = lost_ns
        own, edges = self._columns.own[np.newaxis], [snapshot.t_ns]
        idle = [reached.idle_ns]
        if saved:
            own, edges = np.vstack([own * 0, own]), [saved.t_ns, *edges]
            present_ns = (snapshot.t_ns - saved.t_ns) * online - int(own[1].sum())
            idle = [saved.idle_ns, saved.idle_ns + max(present_ns, 0)]
            self._idle_shift_ns = idle[-1] - reached.idle_ns
            self._busy.go_on(saved.t_ns, saved.busy_ns)
        return self._publish(np.array(edges), own, np.array(idle), reached, snapshot)

    def _base_of(self, saved: CpuBaseline) -> Int64s:
        """Return what each key had when the state was saved; by inode, for v1 may rename."""
        totals = {ref.inode: total_ns for ref, total_ns in saved.totals.items()}
        totals |= {ROOT_KEY: saved.root_ns, OUTSIDE_KEY: saved.outside_ns}
        totals[KERNEL_KEY] = saved.kernel_ns
        return np.array([totals.get(k, 0) for k in self._columns.keys.tolist()], np.int64)

    def _published_before(self, saved: CpuBaseline) -> dict[int, int]:
        """Return slots whose cgroup had been taken out of the samples when the state was saved."""
        known = {ref.inode for ref in saved.totals}
        info = self._views.info
        old = (info["gone"] != 0) & (info["gone"] < saved.t_ns) & (info["born"] < saved.t_ns)
        old &= self._slots.owner == info["cgid"].astype(np.int64)
        cgroups = {slot: int(info["cgid"][slot]) for slot in np.flatnonzero(old).tolist()}
        return {slot: cgid for slot, cgid in cgroups.items() if cgid not in known}

    def _idle_at(
        self, edges: Int64s, own: Int64s, last_ns: int, online: NDArray[np.bool_]
    ) -> Int64s:
        """Return cumulative idle time at the edges: what the CPUs had, less what was used."""
        used = np.diff(own.sum(axis=1), prepend=int(self._columns.own.sum()))
        spans = np.diff(edges, prepend=self._t_ns) * int(online.sum())
        last_ns = max(last_ns, self._idle_ns)
        idle = np.maximum.accumulate(self._idle_ns + np.cumsum(np.maximum(spans - used, 0)))
        idle = np.minimum(idle, last_ns)
        idle[-1] = last_ns
        return idle

    def _count(self, now_ns: int) -> None:
        ctl = self._views.ctl
        no_slot, exit_lost = int(ctl["no_slot"][0]), int(ctl["exit_lost"][0])
        if no_slot != self._no_slot[0]:
            self._no_slot = (no_slot, now_ns)
        self.figures = self.figures._replace(
            dropped=no_slot + exit_lost, proc_lost_ns=int(ctl["proc_lost"][0])
        )

"""The kernel programs (bpf/tychod.bpf.c) in Python, line by line, and the truth beside them.

Programs are generators: each ``yield`` is a moment at which a reader on another CPU may look.  The
truth knows nothing of slots, totals or buckets: it lists who had each CPU from when to when.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tychod.kernel.bpf import abi
from tychod.samples import KERNEL_KEY, ROOT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Steps = "Iterator[None]"
IDLE_KEY = 0
ROOT_CGID = 1
SETTLE_NS = 1_000_000
WALK_BUCKETS = 8
LEVELS = 16
AGAIN_NS = 10_000_000
NO_EPOCH = (1 << 64) - 1
CALL_NS = 150  # what one look at the clock costs


class Task(NamedTuple):
    """What runs: ``cgid`` 0 is a kernel thread of the root, ``tgid`` 0 the idle task."""

    tgid: int
    cgid: int

    @property
    def key(self) -> int:
        """The key that its time belongs to."""
        if not self.tgid:
            return IDLE_KEY
        return {0: KERNEL_KEY, ROOT_CGID: ROOT_KEY}.get(self.cgid, self.cgid)


IDLE = Task(0, ROOT_CGID)


class Cgroup(NamedTuple):
    """A directory as the programs see it."""

    cgid: int
    parent: int
    name: str


class Clock:
    """Monotonic time; whoever looks may let held programs of other CPUs go on."""

    def __init__(self, t_ns: int) -> None:
        self.t_ns = t_ns
        self.on_look: Callable[[], None] = lambda: None

    def now_ns(self) -> int:
        """Return the time, which goes on by the looking."""
        self.t_ns += CALL_NS
        self.on_look()
        return self.t_ns

    def wall_offset_ns(self) -> int:
        """Return no offset."""
        return 0


@dataclass
class Cpu:
    """struct ty_cpu, and the task that runs."""

    number: int
    pkg: int
    enter: int = 0
    leave: int = 0
    ts: int = 0
    edge: int = 0
    bucket: int = 0
    acc: list[int] = field(default_factory=lambda: [0, 0, 0])
    cgid: int = 0
    slot: int = 0
    tgid: int = 0
    pend: int = 0
    irq: int = 0
    soft: int = 0
    epoch: int = 0
    pend_at: int = 0
    pend_cgid: int = 0
    pend_slot: int = 0
    idle: list[int] = field(default_factory=lambda: [0, 0, 0])
    switches: int = 0
    t0: int = 0
    charged: int = 0
    full: int = 0
    current: Task = IDLE

    @property
    def kind(self) -> int:
        """What its time is."""
        return abi.IRQ if self.irq else abi.SOFTIRQ if self.soft else abi.TASK


class Kernel:
    """The maps, the programs that write them, and what a reader may do to maps (a Device)."""

    def __init__(self, clock: Clock, *, ncpu: int = 2, npkg: int = 1, nslot: int = 64) -> None:
        self.clock, self.nslot, self.npkg = clock, nslot, npkg
        word = np.uint64
        self.views = abi.Views(
            np.zeros(1, abi.CTL),
            np.zeros(ncpu, abi.CPU),
            np.zeros(nslot, abi.INFO),
            np.zeros((npkg, nslot), abi.TOTAL),
            np.zeros((abi.BUCKETS, npkg, nslot), word),
            np.zeros((ncpu, abi.BUCKETS), word),
        )
        self.ctl = self.views.ctl[0]
        for name, value in (("abi", abi.ABI), ("loader", abi.LOADER_CORE), ("ncpu", ncpu)):
            self.ctl[name] = value
        for name, value in (("npkg", npkg), ("nslot", nslot), ("stamp", 77)):
            self.ctl[name] = value
        self.ctl["created"], self.ctl["root_cgid"] = clock.t_ns, ROOT_CGID
        self.ctl["next_slot"] = abi.SLOT_FIRST
        self.cpus = [Cpu(n, n * npkg // ncpu) for n in range(ncpu)]
        for cpu in self.cpus:
            self.show(cpu)
        self.slot_of: dict[int, int] = {}
        self.free: list[int] = []
        self.cgroups: dict[int, Cgroup] = {ROOT_CGID: Cgroup(ROOT_CGID, 0, "")}
        self.walked_past = 0  # ns that no bucket got, the silence being longer than the walk

    # ---- Device ----

    def delete_slot(self, cgid: int) -> None:
        """Remove a cgroup from ty_slot_of."""
        self.slot_of.pop(cgid, None)

    def push_free(self, slot: int) -> None:
        """Put a slot into ty_free."""
        assert slot not in self.free
        self.free.append(slot)

    # ---- state and charging ----

    def show(self, s: Cpu) -> None:
        """Let a reader see the state of a CPU."""
        now = (s.enter, s.leave, s.ts, s.edge, s.bucket, s.acc, s.cgid, s.slot, s.pkg, 0, s.tgid)
        pend = (s.pend, s.irq, s.soft, s.epoch, s.pend_at, s.pend_cgid, s.pend_slot, 0)
        self.views.cpu[s.number] = (*now, *pend, s.idle, s.switches, s.t0, s.charged, s.full)

    def to_bucket(self, s: Cpu, kind: int, bucket: int, ns: int) -> None:
        """Charge a bucket, unless it is the reader's."""
        row = bucket % abi.BUCKETS
        if bucket <= int(self.ctl["closed"]):
            self.ctl["late"] += np.uint64(ns)
        elif kind == abi.TASK:
            self.views.bucket[row, s.pkg, s.slot] += np.uint64(ns)
        else:
            self.views.irq_bucket[s.number, row] += np.uint64(ns)

    def to_total(self, s: Cpu, kind: int, ns: int) -> None:
        """Charge a total, or idle."""
        if not s.tgid:
            s.idle[kind] += ns
        else:
            self.views.total["ns"][s.pkg, s.slot, kind] += np.uint64(ns)

    def flush(self, s: Cpu, bucket: int) -> Iterator[None]:
        """Book acc[]; a reader may look between the bucket and the total."""
        (task, soft, irq), s.acc = s.acc, [0, 0, 0]
        if soft | irq:
            self.to_bucket(s, abi.IRQ, bucket, soft + irq)
        if s.tgid and task:
            self.to_bucket(s, abi.TASK, bucket, task)
        yield
        for kind, ns in enumerate((task, soft, irq)):
            self.to_total(s, kind, ns)

    def cross(self, s: Cpu, start: int, now: int) -> Iterator[None]:
        """Spend an interval that reaches beyond its bucket."""
        first, last, kind = start // abi.BUCKET_NS, now // abi.BUCKET_NS, s.kind
        if first < last:
            s.acc[kind] += (first + 1) * abi.BUCKET_NS - start
            yield from self.flush(s, first)
            start = last * abi.BUCKET_NS
        if first + 1 < last:
            between = (last - first - 1) * abi.BUCKET_NS
            self.to_total(s, kind, between)
            if s.tgid or kind != abi.TASK:
                for bucket in range(last - 1, max(first, last - 1 - WALK_BUCKETS), -1):
                    self.to_bucket(s, kind, bucket, abi.BUCKET_NS)
                if last - first - 1 > WALK_BUCKETS:
                    self.walked_past += between - WALK_BUCKETS * abi.BUCKET_NS
        s.bucket, s.edge = last, (last + 1) * abi.BUCKET_NS
        s.acc[kind] += now - start

    def spend(self, s: Cpu, start: int, now: int) -> Iterator[None]:
        """Take an interval into acc[]."""
        if now >= s.edge:
            yield from self.cross(s, start, now)
        else:
            s.acc[s.kind] += now - start

    def advance(self, s: Cpu, seen: Callable[[int], None]) -> Iterator[None]:
        """Take the time since the last event for what the CPU has been doing."""
        start, now = s.ts, self.clock.t_ns
        seen(now)
        s.ts = max(now, start)
        if s.pend:
            s.pend = 0
            at = min(s.pend_at, s.ts)
            if at > start:
                yield from self.spend(s, start, at)
                start = at
            yield from self.flush(s, s.bucket)
            s.cgid, s.slot = s.pend_cgid, s.pend_slot
        if s.ts > start:
            yield from self.spend(s, start, s.ts)

    # ---- who runs ----

    def new_slot(self, s: Cpu, cgid: int) -> int:
        """Give a cgroup its slot; SLOT_OVERFLOW when there is none left."""
        if s.full and s.ts - s.full < AGAIN_NS:
            return abi.SLOT_OVERFLOW
        if self.free:
            slot = self.free.pop(0)
        else:
            slot = int(self.ctl["next_slot"])
            if slot >= self.nslot:
                s.full = s.ts
                self.ctl["no_slot"] += np.uint64(1)
                return abi.SLOT_OVERFLOW
            self.ctl["next_slot"] = slot + 1
        cgroup = self.cgroups[cgid]
        name = cgroup.name.encode()
        self.views.info[slot] = (cgid, cgroup.parent, self.clock.t_ns, 0, name)
        self.slot_of[cgid] = slot
        self.ctl["changes"] += np.uint64(1)
        return slot

    def find_slot(self, cgid: int) -> None:
        """cgroup_mkdir: a slot for what may only hold others, but for a quarter of the table."""
        if int(self.ctl["next_slot"]) < self.nslot // 4 * 3 and cgid not in self.slot_of:
            self.new_slot(self.cpus[0], cgid)

    def slot_above(self, cgid: int) -> int:
        """Return the slot of the nearest cgroup above that has one."""
        for _ in range(LEVELS):
            parent = self.cgroups[cgid].parent
            if not parent:
                break
            cgid = parent if parent in self.cgroups else ROOT_CGID
            if cgid in self.slot_of:
                return self.slot_of[cgid]
        return abi.SLOT_OVERFLOW

    def slot_for(self, s: Cpu, cgid: int) -> tuple[int, bool]:
        """Return who is charged for a cgroup, and whether that is itself."""
        if not cgid:
            return abi.SLOT_KERNEL, True
        if cgid in self.slot_of:
            return self.slot_of[cgid], True
        slot = self.new_slot(s, cgid)
        if slot != abi.SLOT_OVERFLOW:
            return slot, True
        return self.slot_above(cgid), False

    def rekey(self, s: Cpu) -> None:
        """From here on the time of this CPU is the current task's."""
        was_busy, s.tgid = bool(s.tgid), s.current.tgid
        if not s.tgid:
            return
        if s.current.cgid == s.cgid:
            if s.epoch == int(self.ctl["epoch"]):
                return
            if s.epoch == NO_EPOCH and was_busy and s.ts - s.full < AGAIN_NS:
                return
        s.epoch, s.cgid = int(self.ctl["epoch"]), s.current.cgid
        s.slot, own = self.slot_for(s, s.cgid)
        if not own:
            s.epoch = NO_EPOCH

    # ---- programs ----

    def program(self, cpu: int, body: Iterator[None]) -> Iterator[None]:
        """Run the body of a program between enter and leave, visibly at each step."""
        s = self.cpus[cpu]
        s.enter += 1
        self.show(s)
        yield
        for _ in body:
            self.show(s)
            yield
        self.show(s)
        yield
        s.leave += 1
        self.show(s)

    def switch(self, cpu: int, to: Task, seen: Callable[[int], None]) -> Iterator[None]:
        """sched_switch."""
        s = self.cpus[cpu]
        if s.ts:
            yield from self.advance(s, seen)
            yield from self.flush(s, s.bucket)
            s.charged = s.ts
            s.switches += 1
        else:
            s.ts = s.t0 = s.charged = self.clock.t_ns
            s.slot = abi.SLOT_KERNEL
            seen(s.ts)
            s.bucket = s.ts // abi.BUCKET_NS
            s.edge = (s.bucket + 1) * abi.BUCKET_NS
        s.irq = s.soft = 0
        s.current = to
        self.rekey(s)

    def irq_in(self, cpu: int, seen: Callable[[int], None]) -> Iterator[None]:
        """irq_handler_entry, and the system vectors."""
        s = self.cpus[cpu]
        yield from self.advance(s, seen)
        if not s.irq and s.ts - s.charged > SETTLE_NS:
            yield from self.flush(s, s.bucket)
            s.charged = s.ts
            self.rekey(s)
        s.irq += 1

    def irq_out(self, cpu: int, seen: Callable[[int], None]) -> Iterator[None]:
        """irq_handler_exit; the caller knows that there was an entry."""
        yield from self.advance(self.cpus[cpu], seen)
        self.cpus[cpu].irq -= 1

    def soft_in(self, cpu: int, seen: Callable[[int], None]) -> Iterator[None]:
        """softirq_entry."""
        yield from self.advance(self.cpus[cpu], seen)
        self.cpus[cpu].soft += 1

    def soft_out(self, cpu: int, seen: Callable[[int], None]) -> Iterator[None]:
        """softirq_exit; the caller knows that there was an entry."""
        yield from self.advance(self.cpus[cpu], seen)
        self.cpus[cpu].soft -= 1

    def moved(self, cpu: int, cgid: int) -> None:
        """cgroup_attach_task and sched_process_exec: the running task is in another cgroup now."""
        s = self.cpus[cpu]
        s.current = Task(s.current.tgid, cgid)
        if cgid == (s.pend_cgid if s.pend else s.cgid):
            return
        for _ in self.program(cpu, self.note(s, cgid)):
            pass

    def note(self, s: Cpu, cgid: int) -> Iterator[None]:
        """Leave a note; one that no event has settled yet is settled first."""
        if s.pend:
            yield from self.advance(s, lambda _: None)
        slot, own = self.slot_for(s, cgid)
        s.pend_slot, s.pend_cgid, s.pend_at = slot, cgid, self.clock.t_ns
        if not own:
            s.epoch = NO_EPOCH
        s.pend = 1

    def rmdir(self, cgid: int) -> None:
        """cgroup_rmdir."""
        slot = self.slot_of.get(cgid)
        if slot is not None:
            self.views.info["gone"][slot] = self.clock.t_ns
            self.ctl["changes"] += np.uint64(1)


class Truth:
    """Who had each CPU when, as a plain list."""

    def __init__(self, ncpu: int) -> None:
        self.spans: list[tuple[int, int, int]] = []  # from, to, key
        self._now: list[tuple[int, int] | None] = [None] * ncpu

    def set(self, cpu: int, t_ns: int, key: int) -> None:
        """From now on the CPU is somebody else's."""
        before = self._now[cpu]
        if before:
            self.spans.append((before[0], t_ns, before[1]))
        self._now[cpu] = (t_ns, key)

    def used(self, start_ns: int, end_ns: int) -> dict[int, int]:
        """Return the time of each key in an interval."""
        found: dict[int, int] = {}
        running = [(since, end_ns, key) for since, key in filter(None, self._now)]
        for begun, ended, key in [*self.spans, *running]:
            ns = min(ended, end_ns) - max(begun, start_ns)
            if ns > 0:
                found[key] = found.get(key, 0) + ns
        return found

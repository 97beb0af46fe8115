"""Virtual machines in another's cgroup: carved out of its CPU time, process by process.

This runs before any leaf is known.  What a machine gets, the cgroup that it is in loses, bin by
bin, so no sum over leaves ever changes.  Of the two only the total is read; within the window a
machine's time runs as its cgroup's does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final, Literal, NamedTuple

import numpy as np

from tychod.analysis.cpu import CpuWindow
from tychod.analysis.ledger import ONE_CGROUP_KINDS
from tychod.analysis.pmu import NO_SHARES, Shares
from tychod.analysis.processes import TICK_NS
from tychod.analysis.state import Account, Observations, State, VmId, VmPoint
from tychod.model import Identity, Window
from tychod.samples import CgroupRef, Int64s, ProcessSeries, VmUse
from tychod.views import PROCESS_MARK

FIRST_VM_KEY: Final = -1_000
"""Keys of machines are below."""
BELOW_ONE: Final = 1.0 - 2.0**-50
"""Shares are rounded down by more than a product of floats is ever too large."""

FOUND_NS: Final = 5_000_000_000
"""A new hypervisor is found, and its agent asked for its name, in less."""

Kind = Literal["carved", "view", "own"]


class Part(NamedTuple):
    """One hypervisor process in one window."""

    who: VmId
    kind: Kind  # own: the machine has a cgroup of its own
    key: int  # stands for the machine; of an own cgroup, that one's
    cgroup_key: int | None  # of the cgroup that the process is in; None: not accounted
    identity: Identity | None  # None: that of its own cgroup
    inode: int | None
    before: VmPoint
    now: VmPoint
    is_live: bool
    credited_ns: int = 0

    @property
    def wanted_ns(self) -> int:
        """CPU time used and not credited yet."""
        return self.now.cpu_ns - self.before.cpu_ns


class Carved(NamedTuple):
    """A window in which each machine has CPU time of its own."""

    cpu: CpuWindow
    observations: Observations
    parts: tuple[Part, ...] = ()
    shares: Shares = NO_SHARES
    """Key of a cgroup -> CPU time that it kept and that machines got of it, by key."""


def carve(cpu: CpuWindow, observations: Observations, window: Window, state: State) -> Carved:
    """Give each machine its part of its cgroup's CPU time; what is credited by key stays as it is.

    Both counters go on from the window before, so what the cgroup has too little of in this window
    comes in the next: the two are not read at the same moment.
    """
    if not state.vms and not (observations.vms and observations.vms.uses):
        return Carved(cpu, observations)
    rooms = dict(zip(cpu.keys.tolist(), cpu.used_ns.sum(axis=0).tolist(), strict=True))
    present = _present(observations, window, state)
    found = [p if p.cgroup_key in rooms else p._replace(cgroup_key=None) for p in present]
    missing = list(_missing(observations, state))
    places = {_place(key, observations): key for key in rooms} if missing else {}
    found += [part._replace(cgroup_key=places.get(part.now.cgroup)) for part in missing]
    credited = tuple(_credited(found, rooms))
    carved = sorted((p for p in credited if p.kind == "carved"), key=lambda p: p.key)
    named = {p.key: p.identity for p in carved if p.identity is not None}
    seen = replace(observations, identities={**observations.identities, **named})
    return Carved(_with_columns(cpu, carved), seen, credited, _shares(carved, rooms))


def _place(key: int, observations: Observations) -> int:
    """Return what stands for a cgroup whoever accounts it: keys change with the collector."""
    refs: Mapping[int, CgroupRef] = observations.cpu.cgroups if observations.cpu else {}
    ref = refs.get(key)
    return key if ref is None else ref.inode


def _present(observations: Observations, window: Window, state: State) -> Iterator[Part]:
    """Yield the machines of this reading; one that nobody has identified yet waits."""
    series, identities = observations.vms, observations.identities
    if series is None:
        return
    refs: Mapping[int, CgroupRef] = observations.cpu.cgroups if observations.cpu else {}
    lasts = _last_counters(observations, [VmId(u.pid, u.start_ticks) for u in series.uses])
    # What it used before it was found is its cgroup's at first, and comes with the next windows.
    found_ns = FOUND_NS if state.end_ns is not None else 0
    horizon_ticks = (window.start_ns - found_ns + series.suspended_ns) // TICK_NS
    done: set[int | VmId] = set()
    for use in series.uses:
        who, key = VmId(use.pid, use.start_ticks), use.vm_key
        if {who, key} & done or not (key is None or key in identities):
            continue
        done |= {who} if key is None else {who, key}
        place = _place(use.key, observations)
        now = VmPoint(max(use.cpu_ns, lasts.get(who, 0)), use.vcpu_ns, place)
        before = _before(state.vms.get(who), use, now, is_new=use.start_ticks >= horizon_ticks)
        ref = None if key is None else refs.get(key)
        inode, identity = ref.inode if ref else None, None if key is None else identities[key]
        kind = _kind(use, identities)
        stands = use.key if key is None else key
        yield Part(who, kind, stands, use.key, identity, inode, before, now, is_live=True)


def _kind(use: VmUse, identities: Mapping[int, Identity]) -> Kind:
    if use.vm_key is None:
        return "own"
    owner = identities.get(use.key)
    return "view" if owner is not None and owner.kind in ONE_CGROUP_KINDS else "carved"


def _before(known: VmPoint | None, use: VmUse, now: VmPoint, *, is_new: bool) -> VmPoint:
    """Return how far a machine's counters were credited.

    Where that is not known, or was in another cgroup, what it used so far is its cgroup's.
    """
    if known is None and is_new:
        return VmPoint(0, None if use.vcpu_ns is None else 0, now.cgroup)
    if known is None or known.cgroup != now.cgroup or use.cpu_ns < known.cpu_ns:
        return now
    return known


def _missing(observations: Observations, state: State) -> Iterator[Part]:
    """Yield the machines that are not in this reading: it was not made, or they have ended.

    Of one that has ended only the kernel programs know the last part.
    """
    series = observations.vms
    present = {VmId(u.pid, u.start_ticks) for u in series.uses} if series else set()
    gone = {who: point for who, point in state.vms.items() if who not in present}
    if not gone:
        return
    accounts = _accounts_of(state)
    lasts = _last_counters(observations, gone) if series else {}
    lowest = min([FIRST_VM_KEY, *observations.identities])
    for number, (who, before) in enumerate(sorted(gone.items()), start=1):
        last_ns = max(lasts.get(who, 0), before.cpu_ns)
        known = accounts.get(f"{who.pid}-{who.start_ticks}")
        if known is None or (series is not None and last_ns == before.cpu_ns):
            continue
        account, kind = known
        now = VmPoint(last_ns, _vcpu_at(last_ns, before), before.cgroup)
        identity, inode, key = account.identity, account.inode, lowest - number
        yield Part(who, kind, key, None, identity, inode, before, now, is_live=series is None)


def _vcpu_at(cpu_ns: int, point: VmPoint) -> int | None:
    """Return the guests' part of a counter that was not read by thread: in proportion."""
    if point.vcpu_ns is None or not point.cpu_ns:
        return point.vcpu_ns
    return point.vcpu_ns * cpu_ns // point.cpu_ns


def _accounts_of(state: State) -> dict[str, tuple[Account, Kind]]:
    """Return the machines that are known without a cgroup of their own, by process."""
    found: dict[str, tuple[Account, Kind]] = {}
    for account in state.accounts.values():
        if account.identity.kind == "vm" and PROCESS_MARK in (account.identity.cgroup or ""):
            found[(account.identity.cgroup or "").partition(PROCESS_MARK)[2]] = account, "carved"
    for account in state.views.values():
        found[(account.identity.cgroup or "").partition(PROCESS_MARK)[2]] = account, "view"
    return found


def _last_counters(observations: Observations, whom: Iterable[VmId]) -> dict[VmId, int]:
    """Return the CPU time of those that the kernel programs saw end, all cgroups together."""
    series = observations.processes.series if observations.processes else None
    if series is None or series.method != "bpf":
        return {}
    pids = {who.pid for who in whom}
    ended = {u.pid for u in series.uses if u.exited and u.pid in pids}
    if not ended:
        return {}
    return {who: _counted(series, who) for who in whom if who.pid in ended}


def _counted(series: ProcessSeries, who: VmId) -> int:
    rows = [
        use
        for use in series.uses
        if use.pid == who.pid and abs(use.start_ns // TICK_NS - who.start_ticks) <= 1
    ]
    return sum(row.cpu_ns for row in rows) if any(row.exited for row in rows) else 0


def _credited(parts: Iterable[Part], rooms: Mapping[int, int]) -> Iterator[Part]:
    """Yield each machine with what it gets: where a cgroup has too little, each its proportion.

    ``rooms`` is what each cgroup used, by key.
    """
    groups: dict[int, list[Part]] = {}
    for part in parts:
        if part.kind == "own" or part.cgroup_key is None:
            yield part
        else:
            groups.setdefault(part.cgroup_key, []).append(part)
    for key, members in groups.items():
        room_ns = rooms[key]
        wanted_ns = sum(part.wanted_ns for part in members)
        had_ns = 0
        for part in members:
            begin_ns, had_ns = had_ns, had_ns + part.wanted_ns
            if wanted_ns > room_ns:
                more_ns = room_ns * had_ns // wanted_ns - room_ns * begin_ns // wanted_ns
            else:
                more_ns = part.wanted_ns
            yield part._replace(credited_ns=more_ns)


def _with_columns(cpu: CpuWindow, carved: list[Part]) -> CpuWindow:
    """Return the window with a column for each machine, which its cgroup's column loses."""
    if not carved:
        return cpu
    keys = np.array([part.key for part in carved], np.int64)
    used = np.zeros((len(cpu.used_ns), len(carved)), np.int64)
    left, packages = cpu.used_ns.copy(), cpu.package_ns
    where = None if packages is None else np.zeros((*packages.shape[:2], len(carved)), np.int64)
    takers = [i for i, part in enumerate(carved) if part.credited_ns]
    if takers:
        wanted = np.array([carved[i].credited_ns for i in takers], np.int64)
        owners = np.searchsorted(cpu.keys, [carved[i].cgroup_key or 0 for i in takers])
        order = np.argsort(owners, kind="stable")
        places, owners, wanted = np.array(takers)[order], owners[order], wanted[order]
        used[:, places] = parts = _divided(cpu.used_ns, owners, wanted)
        np.subtract.at(left.T, owners, parts.T)
        if packages is not None and where is not None:
            share = parts / np.maximum(cpu.used_ns[:, owners], 1) * BELOW_ONE
            moved = np.floor(packages[:, :, owners] * share[:, None, :]).astype(np.int64)
            where[:, :, places] = moved
            packages = packages.copy()
            np.subtract.at(packages.transpose(2, 0, 1), owners, moved.transpose(2, 0, 1))
    return cpu._replace(
        keys=np.concatenate([keys, cpu.keys]),
        used_ns=np.concatenate([used, left], axis=1),
        package_ns=None if packages is None else np.concatenate([where, packages], axis=2),
        live=cpu.live | {part.key for part in carved if part.is_live},
    )


def _divided(used_ns: Int64s, owners: Int64s, wanted: Int64s) -> Int64s:
    """Return each machine's time by bin, shape (bins, machines): as its cgroup's runs, exactly.

    ``owners`` are columns of ``used_ns``, in ascending order.  No bin gives more than it has.  What
    rounding down leaves, at most about a nanosecond a bin, is taken where there is room, in order:
    the machines' rests and the bins' rooms are laid out on one line, and where they meet, they go.
    """
    room = used_ns[:, owners]
    share = wanted / room.sum(axis=0) * BELOW_ONE
    parts: Int64s = np.minimum(np.floor(room * share).astype(np.int64), room)
    starts = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
    sizes = np.diff(np.r_[starts, len(owners)])
    taken = np.repeat(np.add.reduceat(parts, starts, axis=1), sizes, axis=1)
    room_end = np.cumsum(room - taken, axis=0)
    room_begin = room_end - (room - taken)
    rest = wanted - parts.sum(axis=0)
    rest_end = np.cumsum(rest)
    rest_end -= np.repeat(rest_end[starts] - rest[starts], sizes)
    meet = np.minimum(room_end, rest_end) - np.maximum(room_begin, rest_end - rest)
    found: Int64s = parts + np.maximum(meet, 0)
    return found


def _shares(carved: Iterable[Part], rooms: Mapping[int, int]) -> dict[int, dict[int, int]]:
    found: dict[int, dict[int, int]] = {}
    for part in carved:
        if part.cgroup_key is not None and part.credited_ns:
            found.setdefault(part.cgroup_key, {})[part.key] = part.credited_ns
    for key, gone in found.items():
        gone[key] = rooms[key] - sum(gone.values())
    return found

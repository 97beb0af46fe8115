"""Virtual machines after a window: vCPU time of those that are leaves, and views of the others.

A machine inside a container is a view: the container's leaf has the energy, and the view says which
part of the leaf's dynamic energy went with the machine's CPU time.  Views are in no sum.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple

from tychod.analysis.carve import Carved, Part
from tychod.analysis.processes import LeafWindow, LeafWindows
from tychod.analysis.state import Account, Params, State, VmId, VmPoint
from tychod.model import Energy, Window

VIEWS_MAX: Final = 1_000
NOTHING_USED: Final = LeafWindow(0, MappingProxyType({}))
NO_ENERGY: Final = Energy()

Accounts = dict[str, Account]
Won = dict[str, dict[str, int]]


class Machines(NamedTuple):
    """What is remembered of machines after a window, and what the snapshot tells of them."""

    points: Mapping[VmId, VmPoint]
    views: Mapping[str, Account]
    won_uj: Mapping[str, Mapping[str, int]]  # of this window, by view and domain


class _Gain(NamedTuple):
    """What one machine got in a window."""

    part: Part
    leaf_id: str | None  # that has the energy; None: its cgroup is not accounted
    cpu_ns: int
    vcpu_ns: int | None  # None: not known


def leaf_of_process(carved: Carved, leaf_of: Mapping[int, str]) -> dict[tuple[int, int], str]:
    """Return the leaf of each hypervisor process that is not in its cgroup's, by pid and start.

    Whoever reads a start may be a tick beside another reader.
    """
    return {
        (part.who.pid, part.who.start_ticks + beside): leaf_of[part.key]
        for part in carved.parts
        if part.kind == "carved" and part.key in leaf_of
        for beside in (-1, 1, 0)
    }


def book_machines(
    carved: Carved,
    used: LeafWindows,
    accounts: Accounts,
    state: State,
    window: Window,
    params: Params,
) -> Machines:
    """Book each machine's vCPU time in ``accounts``, and return the rest."""
    if not carved.parts and not state.views:
        return Machines(_points(carved, (), state, 0), {}, {})
    gains = list(_gains(carved.parts, used))
    for gain in gains:
        account = accounts.get(gain.leaf_id or "")
        if gain.part.kind != "view" and account is not None and _is_its_own(gain, account):
            vcpu_ns = _vcpu_after(account, gain, account.cpu_ns)
            accounts[account.identity.id] = replace(account, vcpu_ns=vcpu_ns)
    views, won = _views(carved, gains, used, accounts, state, window)
    return Machines(
        _points(carved, gains, state, _most_owed_ns(carved, params)),
        _kept(views, accounts, window, params),
        won,
    )


def _gains(parts: Iterable[Part], used: LeafWindows) -> Iterator[_Gain]:
    """Yield what each machine got; vCPU time is never more than the CPU time it is a part of."""
    left: dict[str, int] = {}
    for part in parts:
        key = part.cgroup_key if part.kind == "view" else part.key
        leaf_id = None if key is None else used.leaf_of.get(key)
        cpu_ns = part.credited_ns
        if part.kind == "own":
            leaf = used.by_leaf.get(leaf_id or "", NOTHING_USED)
            cpu_ns = left.get(leaf_id or "", leaf.cpu_ns)
        vcpu_ns = None if part.now.vcpu_ns is None else min(_unbooked_vcpu_ns(part), cpu_ns)
        if part.kind == "own":
            left[leaf_id or ""] = cpu_ns - (vcpu_ns or 0)
        yield _Gain(part, leaf_id, cpu_ns, vcpu_ns)


def _unbooked_vcpu_ns(part: Part) -> int:
    before_ns, now_ns = part.before.vcpu_ns, part.now.vcpu_ns
    return 0 if before_ns is None or now_ns is None else max(now_ns - before_ns, 0)


def _is_its_own(gain: _Gain, account: Account) -> bool:
    """Say whether a leaf is the machine's: one whose id another has is its cgroup's."""
    identity = gain.part.identity
    who = account.identity
    return who.kind == "vm" and (identity is None or identity.id == who.id)


def _vcpu_after(account: Account, gain: _Gain, cpu_ns: int) -> int | None:
    """Return the vCPU part of an account that has this CPU time after the window.

    What it used before its threads were told apart is divided as the process's whole life is.
    """
    had_ns, more_ns = account.vcpu_ns, gain.vcpu_ns
    if more_ns is None:
        return had_ns
    if had_ns is None:
        is_own, now = gain.part.kind == "own", gain.part.now
        older_ns = cpu_ns if is_own else cpu_ns - gain.cpu_ns
        had_ns = older_ns * min(now.vcpu_ns or 0, now.cpu_ns) // max(now.cpu_ns, 1)
        more_ns = 0 if is_own else more_ns
    return min(had_ns + more_ns, cpu_ns)  # two hypervisors may be one machine's


def _most_owed_ns(carved: Carved, params: Params) -> int:
    """Return how much CPU time two readings can differ by that were not made at one moment.

    Without a limit two ways of counting that differ would add up for ever.
    """
    vms, at_end = carved.observations.vms, carved.cpu.at_end
    apart_ns = abs(vms.t_ns - at_end.t_ns) if vms and at_end else 0
    return params.cpus * (params.late_tolerance_ns + apart_ns)


def _points(
    carved: Carved, gains: Iterable[_Gain], state: State, most_ns: int
) -> Mapping[VmId, VmPoint]:
    """Return how far each machine's counters are credited now."""
    series = carved.observations.vms
    if series is None:
        return state.vms
    present = (VmId(use.pid, use.start_ticks) for use in series.uses)
    found = {who: state.vms[who] for who in present if who in state.vms}
    return found | {g.part.who: _point(g, most_ns) for g in gains if g.part.is_live}


def _point(gain: _Gain, most_ns: int) -> VmPoint:
    part, now = gain.part, gain.part.now
    if part.kind != "own" and part.cgroup_key is None:
        return part.before
    owed_ns = 0 if part.kind == "own" else min(part.wanted_ns - part.credited_ns, most_ns)
    vcpu_ns = part.before.vcpu_ns if now.vcpu_ns is None else now.vcpu_ns
    if now.vcpu_ns is not None:
        vcpu_ns = now.vcpu_ns - min(_unbooked_vcpu_ns(part) - (gain.vcpu_ns or 0), most_ns)
    return VmPoint(now.cpu_ns - owed_ns, vcpu_ns, now.cgroup)


def _views(
    carved: Carved,
    gains: Iterable[_Gain],
    used: LeafWindows,
    accounts: Accounts,
    state: State,
    window: Window,
) -> tuple[Accounts, Won]:
    """Return the machines inside other leaves after the window, and what each won in it.

    Of two that claim one id the one that has the view keeps it, else the older has it.
    """
    found = {i: a for i, a in state.views.items() if _has_leaf(a, state.accounts, accounts)}
    won, done = Won(), set[str]()
    wall_ns = window.start_ns + carved.observations.wall_offset_ns
    for gain in sorted((g for g in gains if g.part.kind == "view"), key=lambda g: _rank(g, found)):
        part, who = gain.part, gain.part.identity
        if who is None or who.id in done or who.id in accounts:
            continue
        known = _same(found.get(who.id), part)
        if gain.leaf_id is not None:
            won[who.id] = _won(gain, used.by_leaf.get(gain.leaf_id, NOTHING_USED))
            known = known or Account(who, wall_ns, part.inode)
            found[who.id] = _viewed(known, gain, won[who.id], window)
        if known is not None:
            done.add(who.id)
    if carved.observations.vms is not None:
        _end_absent(found, done, window)
    return found, won


def _has_leaf(view: Account, before: Mapping[str, Account], now: Mapping[str, Account]) -> bool:
    """Say whether a view's leaf is the one that it was in, not another of the same id."""
    then, leaf = (accounts.get(view.identity.parent or "") for accounts in (before, now))
    return then is not None and leaf is not None and then.first_seen_ns == leaf.first_seen_ns


def _same(view: Account | None, part: Part) -> Account | None:
    """Return the view if it is of this process, or else nothing: another one begins anew."""
    return view if view is not None and view.inode == part.inode else None


def _end_absent(views: Accounts, present: set[str], window: Window) -> None:
    for view_id, account in views.items():
        if account.ended_ns is None and view_id not in present:
            views[view_id] = replace(account, ended_ns=window.end_ns)


def _rank(gain: _Gain, views: Mapping[str, Account]) -> tuple[bool, bool, int, VmId]:
    part = gain.part
    known = _same(views.get(part.identity.id) if part.identity else None, part)
    is_new = known is None or known.ended_ns is not None
    return (not part.is_live, is_new, part.inode or 0, part.who)


def _won(gain: _Gain, leaf: LeafWindow) -> dict[str, int]:
    """Return the machine's part of what its leaf gained: by CPU time, rounded down."""
    if not gain.cpu_ns:
        return {}
    return {
        domain: dynamic_uj * gain.cpu_ns // max(leaf.cpu_ns, gain.cpu_ns)
        for domain, dynamic_uj in leaf.dynamic_uj.items()
    }


def _viewed(account: Account, gain: _Gain, won_uj: Mapping[str, int], window: Window) -> Account:
    """Return a view after the window."""
    energy = dict(account.energy)
    for domain, more_uj in won_uj.items():
        energy[domain] = Energy(0, energy.get(domain, NO_ENERGY).dynamic_uj + more_uj)
    who, cpu_ns = gain.part.identity or account.identity, account.cpu_ns + gain.cpu_ns
    return Account(
        who if who.parent == gain.leaf_id else replace(who, parent=gain.leaf_id),
        account.first_seen_ns,
        account.inode,
        cpu_ns,
        energy,
        ended_ns=None if gain.part.is_live else window.end_ns,
        vcpu_ns=_vcpu_after(account, gain, cpu_ns),
    )


def _kept(views: Accounts, accounts: Accounts, window: Window, params: Params) -> Accounts:
    """Return the views to keep: whose leaf is there, not the long ended, and not too many."""
    found = {
        view_id: account
        for view_id, account in views.items()
        if account.identity.parent in accounts
        and (
            account.ended_ns is None or window.end_ns - account.ended_ns <= params.terminated_age_ns
        )
    }
    if len(found) <= VIEWS_MAX:
        return found

    def rank(view_id: str) -> tuple[bool, int, str]:
        account = found[view_id]
        return (account.ended_ns is not None, -account.cpu_ns, view_id)

    return {view_id: found[view_id] for view_id in sorted(found, key=rank)[:VIEWS_MAX]}

"""Processes: a view below the leaves.  A leaf's dynamic energy is divided by CPU time used.

What a leaf used and no listed process explains stays with none of them: processes are read once
a window and some are never seen, so no total is ever made of them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from tychod.analysis.attribution import allocate
from tychod.analysis.booked import Booked
from tychod.analysis.owners import Owners
from tychod.analysis.state import (
    Account,
    Observations,
    Params,
    ProcessAccount,
    ProcessesSeen,
    ProcessId,
    ProcessState,
    ReadingId,
    State,
)
from tychod.model import UNATTRIBUTED_ID, Energy, Process, Processes, Window, total_power_w
from tychod.samples import ProcessSeries, ProcessUse

TICK_NS: Final = 10_000_000
"""Unit of field 22 of /proc/PID/stat; the kernel programs know the time to the nanosecond."""

Accounts = dict[ProcessId, ProcessAccount]
Won = dict[ProcessId, dict[str, int]]


class LeafWindow(NamedTuple):
    """What one leaf used in a window."""

    cpu_ns: int
    dynamic_uj: Mapping[str, int]  # by domain, without what was lost to it


class LeafWindows(NamedTuple):
    """What all leaves used in a window, and whose each cgroup is."""

    by_leaf: Mapping[str, LeafWindow]
    leaf_of: Mapping[int, str]  # key of a cgroup -> leaf id
    of_process: Mapping[tuple[int, int], str]  # pid and start in ticks -> leaf id, not its cgroup's


class Spent(NamedTuple):
    """What one process used in one leaf since the last reading."""

    use: ProcessUse
    cpu_ns: int
    exited: bool


class Processed(NamedTuple):
    """Processes after a window, and the energy each gained in it."""

    state: ProcessState
    won_uj: Mapping[ProcessId, Mapping[str, int]]


NOTHING: Final = Processed(ProcessState(), {})


def leaf_windows(
    owned: Owners, booked: Mapping[str, Booked], of_process: Mapping[tuple[int, int], str]
) -> LeafWindows:
    """Return what each leaf used in this window, to be divided among its processes."""
    gains: dict[str, dict[str, int]] = {leaf.id: {} for leaf in owned.leaves}
    for domain, part in booked.items():
        for leaf_id, dynamic_uj in part.by_leaf.items():
            if leaf_id in gains:
                lost_uj = part.lost_uj if leaf_id == UNATTRIBUTED_ID else 0
                gains[leaf_id][domain] = dynamic_uj - lost_uj
    used_ns = zip(owned.leaves, owned.used_ns.sum(axis=0).tolist(), strict=True)
    found = {leaf.id: LeafWindow(cpu_ns, gains[leaf.id]) for leaf, cpu_ns in used_ns}
    return LeafWindows(found, owned.leaf_of, of_process)


def book_processes(
    observations: Observations,
    window: Window,
    state: State,
    params: Params,
    leaves: Mapping[str, Account],
    used: LeafWindows,
) -> Processed:
    """Return the processes after a window in which the leaves used this much."""
    seen, before = observations.processes, state.processes
    if seen is None:
        return NOTHING
    series = seen.series
    known = {i: a for i, a in before.accounts.items() if _has_leaf(i, a, leaves)}
    if series is None or (before.t_ns is not None and series.t_ns <= before.t_ns):
        kept = _kept(known, {}, window, params)
        return Processed(replace(before, accounts=kept), {})
    counters = _counters(series)
    last_ns = before.t_ns if before.method == series.method else None
    horizon_ns = (window.start_ns if last_ns is None else last_ns) + (
        observations.wall_offset_ns - seen.boot_offset_ns
    )
    old = before if last_ns is not None else ProcessState()
    whole = last_ns is not None and not state.restarted
    known_ns = _known_readings(counters, old, None if whole else horizon_ns)
    spent = _spent(series, counters, known_ns, used)
    accounts = _opened(known, spent, seen, leaves)
    won = _divide(spent, used.by_leaf)
    _book(accounts, spent, won)
    _end(accounts, series, window)
    after = ProcessState(
        _kept(accounts, spent, window, params),
        _readings(counters, known_ns),
        series.method,
        series.t_ns,
    )
    return Processed(after, won)


def _has_leaf(who: ProcessId, account: ProcessAccount, leaves: Mapping[str, Account]) -> bool:
    leaf = leaves.get(who.leaf_id)
    return leaf is not None and leaf.first_seen_ns == account.leaf_since_ns


Counter = tuple[ProcessUse, int, bool]


def _counters(series: ProcessSeries) -> dict[ReadingId, Counter]:
    """Return each counter with who it is of."""
    found: dict[ReadingId, Counter] = {}
    for use in series.uses:
        who = ReadingId(use.pid, use.start_ns // TICK_NS, use.cgroup)
        _, more_ns, exited = found.get(who, (use, 0, False))
        found[who] = (use, use.cpu_ns + more_ns, use.exited or exited)
    return found


def _known_readings(
    counters: Mapping[ReadingId, Counter], before: ProcessState, horizon_ns: int | None
) -> dict[ReadingId, int]:
    """Return where each counter stood at the last reading.

    A counter that was not read before is all new, unless there may have been a reading that is
    not remembered: then (``horizon_ns``, since boot) only that of a younger process is.
    """
    found = {}
    for who, (use, now_ns, _) in counters.items():
        is_new = horizon_ns is None or use.start_ns > horizon_ns
        found[who] = before.read_ns.get(who, 0 if is_new else now_ns)
    return found


def _readings(
    counters: Mapping[ReadingId, Counter], known_ns: Mapping[ReadingId, int]
) -> dict[ReadingId, int]:
    """Return where each counter stands; one whose cgroup is not known yet is booked later."""
    return {
        who: known_ns[who] if use.key is None else now_ns
        for who, (use, now_ns, _) in counters.items()
    }


def _spent(
    series: ProcessSeries,
    counters: Mapping[ReadingId, Counter],
    known_ns: Mapping[ReadingId, int],
    used: LeafWindows,
) -> dict[ProcessId, Spent]:
    """Return what each process used in each leaf since the last reading.

    Of a cgroup that is not accounted (any more) only what was used counts: it lists nobody.
    """
    found: dict[ProcessId, Spent] = {}
    for who, (use, now_ns, exited) in counters.items():
        more_ns = now_ns - known_ns[who]
        if more_ns < 0:  # evicted and made anew, where the kernel does that
            more_ns = now_ns if series.method == "bpf" else 0
        if use.key is None or not (more_ns or use.key in used.leaf_of):
            continue
        leaf_id = used.of_process.get(who[:2]) or used.leaf_of.get(use.key, UNATTRIBUTED_ID)
        owner = ProcessId(who.pid, who.start_ticks, leaf_id)
        other = found.get(owner, Spent(use, 0, exited=False))
        found[owner] = Spent(use, other.cpu_ns + more_ns, exited or other.exited)
    return found


def _opened(
    known: Accounts,
    spent: Mapping[ProcessId, Spent],
    seen: ProcessesSeen,
    leaves: Mapping[str, Account],
) -> Accounts:
    """Return the accounts with one for each process seen; a process keeps its first times."""
    found = dict(known)
    for who, (use, _, _) in spent.items():
        had = found.get(who)
        leaf = leaves.get(who.leaf_id)
        if had is None and leaf is not None:
            start_ns = use.start_ns + seen.boot_offset_ns
            found[who] = ProcessAccount(use.comm, start_ns, leaf.first_seen_ns)
        elif had is not None and had.comm != use.comm and use.comm:
            found[who] = replace(had, comm=use.comm)
    return found


def _divide(spent: Mapping[ProcessId, Spent], used: Mapping[str, LeafWindow]) -> Won:
    """Divide what each leaf gained among its processes; the rest of its CPU time has the rest."""
    by_leaf: dict[str, list[ProcessId]] = {}
    for who in sorted(i for i, s in spent.items() if s.cpu_ns):
        by_leaf.setdefault(who.leaf_id, []).append(who)
    won: Won = {}
    for leaf_id, members in by_leaf.items():
        leaf = used.get(leaf_id)
        if leaf is None:
            continue
        shares = [float(spent[who].cpu_ns) for who in members]
        rest_ns = max(leaf.cpu_ns - sum(spent[who].cpu_ns for who in members), 0)
        for domain, amount_uj in leaf.dynamic_uj.items():
            parts = allocate(amount_uj, [*shares, float(rest_ns)])[:-1]
            for who, part_uj in zip(members, parts, strict=True):
                if part_uj:
                    won.setdefault(who, {})[domain] = part_uj
    return won


def _book(accounts: Accounts, spent: Mapping[ProcessId, Spent], won: Won) -> None:
    for who, (_, cpu_ns, _) in spent.items():
        account, gained = accounts.get(who), won.get(who, {})
        if account is None or not (cpu_ns or gained):
            continue
        energy = dict(account.dynamic_uj)
        for domain, part_uj in gained.items():
            energy[domain] = energy.get(domain, 0) + part_uj
        accounts[who] = replace(account, cpu_ns=account.cpu_ns + cpu_ns, dynamic_uj=energy)


def _end(accounts: Accounts, series: ProcessSeries, window: Window) -> None:
    """Mark what has ended; procfs lists all that live, the kernel's table may have evicted some."""
    exited = {(u.pid, u.start_ns // TICK_NS) for u in series.uses if u.exited}
    listed = {(u.pid, u.start_ns // TICK_NS) for u in series.uses}
    for who, account in accounts.items():
        process = who[:2]
        is_gone = series.method == "procfs" and process not in listed
        if account.ended_ns is None and (is_gone or process in exited):
            accounts[who] = replace(account, ended_ns=window.end_ns)


def _kept(
    accounts: Accounts, spent: Mapping[ProcessId, Spent], window: Window, params: Params
) -> Accounts:
    """Return the accounts to keep: not the long ended ones, and of too many the most active."""
    found = {
        who: account
        for who, account in accounts.items()
        if account.ended_ns is None
        or window.end_ns - account.ended_ns <= params.process_ended_age_ns
    }
    if len(found) <= params.processes_max:
        return found

    def rank(who: ProcessId) -> tuple[bool, int, int, ProcessId]:
        account, used = found[who], spent.get(who)
        return (account.ended_ns is not None, -(used.cpu_ns if used else 0), -account.cpu_ns, who)

    return {who: found[who] for who in sorted(found, key=rank)[: params.processes_max]}


def list_processes(
    seen: ProcessesSeen, processed: Processed, names: list[str], booked: list[str], window: Window
) -> Processes:
    """Return the processes for the snapshot: energy in every attributed domain of ``names``.

    ``booked`` are the domains whose energy of this window is known.
    """
    entries = tuple(
        _process(who, account, names, booked, processed.won_uj.get(who, {}), window)
        for who, account in sorted(processed.state.accounts.items())
    )
    return Processes(processed.state.method, seen.reason, entries)


def _process(
    who: ProcessId,
    account: ProcessAccount,
    names: list[str],
    booked: list[str],
    won_uj: Mapping[str, int],
    window: Window,
) -> Process:
    power_w: dict[str, float | None] = dict.fromkeys(names)
    power_w |= {name: won_uj.get(name, 0) / 1e6 / window.seconds for name in booked}
    return Process(
        pid=who.pid,
        start_ns=account.start_wall_ns,
        comm=account.comm,
        workload=who.leaf_id,
        state="running" if account.ended_ns is None else "terminated",
        cpu_ns=account.cpu_ns,
        energy={name: Energy(0, account.dynamic_uj.get(name, 0)) for name in names},
        total_power_w=total_power_w(power_w),
    )

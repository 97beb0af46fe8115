"""Accounts of leaves: booking, ending, eviction; no microjoule is ever lost or doubled."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple

from tychod.analysis.booked import Doubt
from tychod.analysis.state import Account, Params
from tychod.model import (
    KERNEL_ID,
    PAST_ID,
    SYSTEM_ID,
    UNATTRIBUTED_ID,
    Energy,
    Identity,
)

FIXED: Final = (
    Identity("kernel", KERNEL_ID, "kernel"),
    Identity("system", SYSTEM_ID, "system"),
    Identity("past", PAST_ID, "past"),
    Identity("unattributed", UNATTRIBUTED_ID, "unattributed"),
)
"""Leaves that are always there, one each (design.md 6)."""
ENDING_KINDS: Final = frozenset({"container", "vm", "unit"})
ONE_CGROUP_KINDS: Final = frozenset({"container", "vm"})
"""A unit that stops and starts is the same leaf; one of these in a new cgroup is another."""

Accounts = dict[str, Account]


def with_fixed(accounts: Mapping[str, Account], now_wall_ns: int) -> Accounts:
    """Return the accounts with the four fixed leaves present."""
    found = dict(accounts)
    for identity in FIXED:
        found.setdefault(identity.id, Account(identity, now_wall_ns))
    return found


class Seen(NamedTuple):
    """A leaf in one window."""

    identity: Identity
    inode: int | None  # of its own cgroup; None: that one was not seen
    is_live: bool  # a cgroup of it is still there at the end


def admit(accounts: Accounts, present: Iterable[Seen], now_wall_ns: int) -> None:
    """Open an account for each leaf seen, or refresh its names.

    A container whose cgroup was made anew is another container: what the old one had moves to
    the past at once.
    """
    for seen in present:
        leaf_id = seen.identity.id
        known = accounts.get(leaf_id)
        if known is not None and _is_other(known, seen):
            evict(accounts, leaf_id)
            known = None
        accounts[leaf_id] = _refreshed(known, seen) if known else _opened(seen, now_wall_ns)


def _opened(seen: Seen, now_wall_ns: int) -> Account:
    requested = dict(seen.identity.requests)
    return Account(seen.identity, now_wall_ns, seen.inode, requested=requested)


def _refreshed(known: Account, seen: Seen) -> Account:
    inode = known.inode if seen.inode is None else seen.inode
    ended_ns = None if seen.is_live else known.ended_ns
    identity = _kept_pod(known.identity, seen.identity)
    if (known.identity, known.inode, known.ended_ns) == (identity, inode, ended_ns):
        return known
    # Requests are remembered: Kubernetes lets nobody take one back, so one that is missing now is
    # one that we are no longer told of.
    requested = {**known.requested, **identity.requests}
    return replace(known, identity=identity, inode=inode, ended_ns=ended_ns, requested=requested)


def _kept_pod(known: Identity, now: Identity) -> Identity:
    """A cgroup never changes its pod: what a restart forgot, or a file denies, still holds."""
    if known.pod_uid in (None, now.pod_uid) or known.cgroup != now.cgroup:
        return now
    return replace(
        now,
        pod_uid=known.pod_uid,
        pod=known.pod,
        namespace=known.namespace,
        owner=known.owner,
        qos=known.qos,
        labels=known.labels,
    )


def _is_other(known: Account, seen: Seen) -> bool:
    return (
        seen.identity.kind in ONE_CGROUP_KINDS
        and known.inode is not None
        and seen.inode is not None
        and seen.inode != known.inode
    )


NO_DOUBTS: Final[Mapping[str, Doubt]] = MappingProxyType({})


def add(
    account: Account,
    gains: Mapping[str, Energy],
    cpu_ns: int = 0,
    doubts: Mapping[str, Doubt] = NO_DOUBTS,
) -> Account:
    """Return the account with more energy and doubt, by domain, and more CPU time."""
    return Account(  # once a leaf and window: ``replace`` would take three times as long
        identity=account.identity,
        first_seen_ns=account.first_seen_ns,
        inode=account.inode,
        cpu_ns=account.cpu_ns + cpu_ns,
        energy=_added(account.energy, gains),
        ended_ns=account.ended_ns,
        spread=_spread(account.spread, doubts) if doubts else account.spread,
        requested=account.requested,
    )


def _added(energy: Mapping[str, Energy], gains: Mapping[str, Energy]) -> dict[str, Energy]:
    """Add two splits domain by domain."""
    found = dict(energy)
    for domain, more in gains.items():
        had = found.get(domain)
        found[domain] = (
            Energy(had.idle_uj + more.idle_uj, had.dynamic_uj + more.dynamic_uj) if had else more
        )
    return found


def _spread(spread: Mapping[str, float], doubts: Mapping[str, Doubt]) -> dict[str, float]:
    """Return the variance of each total after one more window, in J^2."""
    found = dict(spread)
    for domain, more in doubts.items():
        var_j2 = found.get(domain, 0.0)
        if more.added_var is None:
            found[domain] = (math.sqrt(var_j2) + math.sqrt(more.window_var)) ** 2
        else:
            found[domain] = max(var_j2 + more.added_var, 0.0)
    return found


def end_absent(accounts: Accounts, live: frozenset[str], end_ns: int) -> None:
    """Mark the leaves whose last cgroup is gone."""
    for leaf_id, account in accounts.items():
        if (
            account.ended_ns is None
            and leaf_id not in live
            and account.identity.kind in ENDING_KINDS
        ):
            accounts[leaf_id] = replace(account, ended_ns=end_ns)


def evict_old(accounts: Accounts, end_ns: int, params: Params) -> None:
    """Move ended leaves that are too old or too many to the past, oldest first."""
    ended = sorted(
        (account.ended_ns, leaf_id)
        for leaf_id, account in accounts.items()
        if account.ended_ns is not None
    )
    surplus = len(ended) - params.terminated_max
    for index, (ended_ns, leaf_id) in enumerate(ended):
        if index < surplus or end_ns - ended_ns > params.terminated_age_ns:
            evict(accounts, leaf_id)
    _fold_finished_pods(accounts)


def evict(accounts: Accounts, leaf_id: str) -> None:
    """Move one leaf's counters to ``past:<pod_uid>``, or to ``past`` where it has no pod.

    ``evict_old`` folds the pasts of pods that are no longer listed, in the same window.
    """
    account = accounts.pop(leaf_id)
    merge_into(accounts, former(account.identity), account)


def former(identity: Identity) -> Identity:
    """Return the leaf that gets what an ended leaf had, or what its last cgroup still uses."""
    return past_of(identity) if identity.pod_uid else FIXED[2]


def past_of(identity: Identity) -> Identity:
    """Return the leaf that holds what ended leaves of the same pod had."""
    return Identity(
        "past",
        f"{PAST_ID}:{identity.pod_uid}",
        PAST_ID,
        namespace=identity.namespace,
        pod=identity.pod,
        pod_uid=identity.pod_uid,
        labels=identity.labels,
        names_from=identity.names_from,
        owner=identity.owner,
        qos=identity.qos,
    )


def merge_into(accounts: Accounts, target: Identity, account: Account) -> None:
    """Add an account's counters to another leaf's, which is opened when missing."""
    into = accounts.get(target.id) or Account(target, account.first_seen_ns)
    accounts[target.id] = replace(
        add(into, account.energy, account.cpu_ns),
        first_seen_ns=min(into.first_seen_ns, account.first_seen_ns),
        spread=_merged(into.spread, account.spread),
    )


def _merged(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Two leaves' errors are taken as independent."""
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


def listed_pods(accounts: Mapping[str, Account]) -> frozenset[str]:
    """Return the uids of pods that have a leaf of their own (not only a past)."""
    return frozenset(
        a.identity.pod_uid
        for a in accounts.values()
        if a.identity.pod_uid and a.identity.kind in ENDING_KINDS
    )


def _fold_finished_pods(accounts: Accounts) -> None:
    """A pod with no leaf left leaves nothing but its share of ``past``."""
    listed = listed_pods(accounts)
    for leaf_id in list(_pod_pasts(accounts)):
        if accounts[leaf_id].identity.pod_uid not in listed:
            merge_into(accounts, FIXED[2], accounts.pop(leaf_id))


def _pod_pasts(accounts: Accounts) -> Iterator[str]:
    return (i for i, a in accounts.items() if a.identity.kind == "past" and i != PAST_ID)


def settle_identity(identity: Identity, listed_pods: frozenset[str]) -> Identity:
    """A pod's own cgroup counts for ``past:<uid>`` only while a leaf of that pod is listed."""
    if identity.kind == "past" and identity.pod_uid not in listed_pods:
        return FIXED[2]
    return identity


def violations(accounts: Accounts, domains: Mapping[str, Energy]) -> int:
    """Count domains and kinds whose sum over leaves is not the domain's energy."""
    found = 0
    for name, expected in domains.items():
        parts = [a.energy[name] for a in accounts.values() if name in a.energy]
        found += sum(e.idle_uj for e in parts) != expected.idle_uj
        found += sum(e.dynamic_uj for e in parts) != expected.dynamic_uj
    return found

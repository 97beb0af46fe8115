"""Accounts of leaves: booking, ending, eviction; no microjoule is ever lost or doubled."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple

from tychod.analysis import folded as folding
from tychod.analysis.booked import Doubt
from tychod.analysis.folded import Folded, added, total_uj
from tychod.analysis.state import Account, Params
from tychod.model import (
    KERNEL_ID,
    PAST_ID,
    SYSTEM_ID,
    UNATTRIBUTED_ID,
    Energy,
    Identity,
)
from tychod.views import past_id, pod_key

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
SNAPSHOTS_SHOWN: Final = 2
"""An ended leaf is in so many snapshots at least, whatever its age: readers come in their own
time, and each is to see it."""

Accounts = dict[str, Account]


class Places:
    """The leaves, found by their cgroups too; those are listed when somebody asks first."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        """``accounts`` may change; a leaf that comes later is found by its id alone."""
        self.accounts = accounts
        self._by_path: dict[str, str] | None = None

    def around(self, place: str, least: int) -> Iterator[Account]:
        """Yield the leaves that a cgroup is in, nearest first, whose paths are so long at least."""
        if self._by_path is None:
            found = ((a.identity.cgroup, i) for i, a in self.accounts.items())
            self._by_path = {path: i for path, i in found if path}
        while len(place := place.rpartition("/")[0]) >= max(least, 1):
            account = self.accounts.get(self._by_path.get(place, ""))
            if account is not None and account.identity.cgroup == place:
                yield account


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


def admit(accounts: Accounts, folded: Folded, present: Iterable[Seen], now_wall_ns: int) -> None:
    """Open an account for each leaf seen, or refresh its names.

    A container whose cgroup was made anew is another container: what the old one had is evicted
    at once.
    """
    places = Places(accounts)
    for seen in present:
        leaf_id = seen.identity.id
        known = accounts.get(leaf_id)
        if known is not None and _is_other(known, seen):
            evict(accounts, folded, leaf_id, places)
            known = None
        accounts[leaf_id] = _refreshed(known, seen, folded) if known else _opened(seen, now_wall_ns)


def _opened(seen: Seen, now_wall_ns: int) -> Account:
    requested = dict(seen.identity.requests)
    return Account(seen.identity, now_wall_ns, seen.inode, requested=requested)


def _refreshed(known: Account, seen: Seen, folded: Folded) -> Account:
    inode = known.inode if seen.inode is None else seen.inode
    # A unit in a new cgroup has lived again, though it may be gone again by now.
    is_again = seen.is_live or known.inode not in (None, inode)
    ended_ns = None if is_again else known.ended_ns
    identity = _kept_pod(known.identity, seen.identity)
    if (known.identity, known.inode, known.ended_ns) == (identity, inode, ended_ns):
        return known
    folding.move(folded, known, identity)
    # Requests are remembered: Kubernetes lets nobody take one back, so one that is missing now is
    # one that we are no longer told of.
    requested = {**known.requested, **identity.requests}
    return replace(
        known,
        identity=identity,
        inode=inode,
        ended_ns=ended_ns,
        ended_sequence=None if is_again else known.ended_sequence,
        requested=requested,
    )


def _kept_pod(known: Identity, now: Identity) -> Identity:
    """A cgroup never changes its pod: what a restart forgot, or a file denies, still holds."""
    is_same = known.cgroup in (None, now.cgroup) or pod_key(known) == pod_key(now)
    is_denied = known.pod_uid not in (None, now.pod_uid)
    if is_same and (is_denied or known.namespace not in (None, now.namespace)):
        return _with_names_of(now, known)
    return now


def _with_names_of(identity: Identity, known: Identity) -> Identity:
    return replace(
        identity,
        pod_uid=known.pod_uid,
        pod=known.pod,
        namespace=known.namespace,
        owner=known.owner,
        qos=known.qos,
        labels=known.labels,
    )


def _is_other(known: Account, seen: Seen) -> bool:
    if known.identity.kind != seen.identity.kind:
        return True
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
        energy=added(account.energy, gains),
        ended_ns=account.ended_ns,
        spread=_spread(account.spread, doubts) if doubts else account.spread,
        requested=account.requested,
        ended_sequence=account.ended_sequence,
        vcpu_ns=account.vcpu_ns,
    )


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


def end_absent(accounts: Accounts, live: frozenset[str], end_ns: int, sequence: int) -> None:
    """Mark the leaves whose last cgroup is gone; ``sequence`` is of the snapshot in the making."""
    for leaf_id, account in accounts.items():
        if (
            account.ended_ns is None
            and leaf_id not in live
            and account.identity.kind in ENDING_KINDS
        ):
            accounts[leaf_id] = replace(account, ended_ns=end_ns, ended_sequence=sequence)


def evict_old(
    accounts: Accounts, folded: Folded, end_ns: int, sequence: int, params: Params
) -> None:
    """Evict the ended leaves that are too old, too small or too many."""
    places = Places(accounts)
    for leaf_id in _surplus(accounts, end_ns, sequence, params):
        evict(accounts, folded, leaf_id, places)
    _fold_finished_pods(accounts, folded, places)
    folding.trim(folded, (account.identity for account in accounts.values()))


def _surplus(accounts: Accounts, end_ns: int, sequence: int, params: Params) -> list[str]:
    """Return the ended leaves that must go, oldest end first.

    Of too many those stay that have most energy, and of equal ones those that ended first.
    """
    ended = [
        (account.ended_ns, leaf_id)
        for leaf_id, account in accounts.items()
        if account.ended_ns is not None
    ]
    gone = [one for one in ended if _is_over(accounts[one[1]], end_ns, sequence, params)]
    most = len(ended) - len(gone)
    if 0 <= params.terminated_max < most:
        kept = [(-total_uj(accounts[one[1]].energy), one) for one in set(ended).difference(gone)]
        gone += [one for _, one in sorted(kept)[params.terminated_max :]]
    return [leaf_id for _, leaf_id in sorted(gone)]


def _is_over(account: Account, end_ns: int, sequence: int, params: Params) -> bool:
    """Say whether an ended leaf has been shown long enough, or has too little to be shown."""
    if params.terminated_min_uj > 0 and total_uj(account.energy) < params.terminated_min_uj:
        return True
    is_old = end_ns - (account.ended_ns or 0) > params.terminated_age_ns
    return is_old and sequence - (account.ended_sequence or 0) >= SNAPSHOTS_SHOWN


def evict(accounts: Accounts, folded: Folded, leaf_id: str, places: Places) -> None:
    """Move one leaf's counters to its pod's past, to the leaf that it was in, or to ``past``.

    ``evict_old`` folds the pasts of pods that are no longer listed, in the same window.
    """
    account = accounts.pop(leaf_id)
    merge_into(accounts, folded, former(account.identity, places, account), account)


def former(identity: Identity, places: Places, account: Account | None = None) -> Identity:
    """Return the leaf that gets what an ended leaf had.

    What a tenant used stays with him: else he would only have to make his cgroups anew.
    """
    outer = _outer(identity, places, account or places.accounts.get(identity.id))
    if identity.pod_uid is not None:
        return past_of(identity, outer)
    return outer or FIXED[2]


def late_heir(identity: Identity, places: Places, present: Mapping[str, Identity]) -> Identity:
    """Return who gets what an ended leaf's cgroup used last; ``present`` are this window's leaves.

    An id that was his may have become another's meanwhile.
    """
    heir = former(identity, places)
    now = present.get(heir.id, heir)
    return now if heir.kind in ("unit", "past") or now.cgroup == heir.cgroup else FIXED[2]


def _outer(identity: Identity, places: Places, account: Account | None) -> Identity | None:
    """Return the nearest leaf that a tenant's leaf, or his pod's past, was in; his own at most."""
    tenant = identity.tenant
    if tenant is None:
        return None
    place = identity.cgroup or f"{tenant}/past"
    named = places.accounts.get(identity.parent or "")
    if named is not None and _takes(named, identity, account):
        is_his = identity.cgroup is None and named.identity.tenant == tenant
        if is_his or place.startswith(f"{named.identity.cgroup}/"):
            return named.identity
    # Its parent is gone, or another has its id.
    around = places.around(place, len(tenant))
    return next((one.identity for one in around if _takes(one, identity, account)), None)


def _takes(outer: Account, identity: Identity, account: Account | None) -> bool:
    """Say whether a leaf may take over another's counters: final ones never change.

    A unit goes on when it is started again; a container or machine in its place is another one.
    """
    who, key = outer.identity, pod_key(identity)
    if who.kind not in ENDING_KINDS or (key is not None and pod_key(who) == key):
        return False
    is_older = account is None or outer.first_seen_ns <= account.first_seen_ns
    return who.kind == "unit" or (outer.ended_ns is None and is_older)


def past_of(identity: Identity, outer: Identity | None = None) -> Identity:
    """Return the leaf that holds what ended leaves of the same pod had, which is in ``outer``."""
    return Identity(
        "past",
        past_id(identity),
        PAST_ID,
        namespace=identity.namespace,
        pod=identity.pod,
        pod_uid=identity.pod_uid,
        parent=outer.id if outer else None,
        labels=identity.labels,
        names_from=identity.names_from,
        owner=identity.owner,
        qos=identity.qos,
        tenant=identity.tenant,
    )


def merge_into(accounts: Accounts, folded: Folded, target: Identity, account: Account) -> None:
    """Add an account's counters to another leaf's, which is opened when missing."""
    into = accounts.get(target.id) or Account(target, account.first_seen_ns)
    identity, first_ns = into.identity, into.first_seen_ns
    if identity.namespace is None and target.namespace is not None:
        identity = _with_names_of(identity, target)
    folding.move(folded, account, identity)
    if identity.kind == "past":  # it is as old as what it holds
        first_ns = min(first_ns, account.first_seen_ns)
    accounts[target.id] = Account(  # not ``replace``: there may be dozens in a window
        identity,
        first_ns,
        into.inode,
        into.cpu_ns + account.cpu_ns,
        added(into.energy, account.energy),
        into.ended_ns,
        _merged(into.spread, account.spread),
        into.requested,
        into.ended_sequence,
        into.vcpu_ns,
    )


def _merged(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Two leaves' errors are taken as independent."""
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


def listed_pods(accounts: Mapping[str, Account]) -> frozenset[str]:
    """Return the keys of pods that have a leaf of their own (not only a past)."""
    return pods_of(account.identity for account in accounts.values())


def pods_of(identities: Iterable[Identity]) -> frozenset[str]:
    """Return the keys of the pods that workloads are in."""
    return frozenset(
        key
        for identity in identities
        if identity.pod_uid is not None
        and identity.kind in ENDING_KINDS
        and (key := pod_key(identity)) is not None
    )


def _fold_finished_pods(accounts: Accounts, folded: Folded, places: Places) -> None:
    """A pod with no leaf left leaves nothing but its share of ``past``, or of what it was in."""
    pasts = list(_pod_pasts(accounts))
    listed = listed_pods(accounts) if pasts else frozenset()
    for leaf_id in pasts:
        if pod_key(accounts[leaf_id].identity) not in listed:
            account = accounts.pop(leaf_id)
            target = _outer(account.identity, places, account) or FIXED[2]
            merge_into(accounts, folded, target, account)


def _pod_pasts(accounts: Accounts) -> Iterator[str]:
    return (i for i, a in accounts.items() if a.identity.kind == "past" and i != PAST_ID)


def settle_identity(identity: Identity, listed_pods: frozenset[str]) -> Identity:
    """A pod's own cgroup counts for its pod's past only while a leaf of that pod is listed."""
    if identity.kind == "past" and pod_key(identity) not in listed_pods:
        return FIXED[2]
    return identity


def violations(accounts: Accounts, domains: Mapping[str, Energy]) -> int:
    """Count domains and kinds whose sum over leaves is not the domain's energy."""
    found = 0
    for name, expected in domains.items():
        parts = [a.energy[name] for a in accounts.values() if name in a.energy]
        found += sum([e.idle_uj for e in parts]) != expected.idle_uj
        found += sum([e.dynamic_uj for e in parts]) != expected.dynamic_uj
    return found

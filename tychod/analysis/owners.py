"""Which leaf each cgroup's CPU time belongs to in one window."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tychod.analysis import ledger
from tychod.analysis.claims import place_of, settle_claims
from tychod.analysis.cpu import CpuWindow
from tychod.analysis.state import Account, Observations
from tychod.model import UNATTRIBUTED_ID, Identity
from tychod.samples import CgroupRef, Int64s

UNKNOWN = "cgroup that is not identified yet"


class Owners(NamedTuple):
    """CPU time of one window by leaf; columns of ``used_ns`` are in the order of ``leaves``."""

    leaves: tuple[Identity, ...]  # sorted by id
    inodes: Mapping[str, int]  # leaf id -> inode of its own cgroup
    live: frozenset[str]  # leaf ids with a cgroup that is still there
    used_ns: Int64s  # shape (bins, leaves)
    package_ns: Int64s | None  # shape (bins, packages, leaves): where it ran, by share
    unattributed_reasons: Mapping[str, int]  # reason -> CPU nanoseconds
    identity_of: Mapping[int, Identity]  # key -> leaf
    leaf_of: Mapping[int, str]  # key -> leaf id


def owners(cpu: CpuWindow, observations: Observations, accounts: Mapping[str, Account]) -> Owners:
    """Sum the CPU time of cgroups by leaf."""
    keys = cpu.keys.tolist()
    refs = observations.cpu.cgroups if observations.cpu else {}
    by_key = _identities(keys, observations.identities, accounts)
    _keep_machines(by_key, refs, accounts)
    settle_claims(by_key, refs, cpu.live, accounts)
    inodes = _leaf_inodes(keys, by_key, refs, cpu.live)
    present = {identity.id: identity for identity in by_key.values()}
    places = ledger.Places(accounts)
    for key, identity in by_key.items():
        if _is_former(key, identity, refs, inodes):
            by_key[key] = ledger.late_heir(identity, places, present)
    used_by_key = cpu.used_ns.sum(axis=0).tolist()
    leaves = {by_key[key].id: by_key[key] for key in keys}
    order = sorted(leaves)
    column = {leaf_id: index for index, leaf_id in enumerate(order)}
    columns = np.array([column[by_key[key].id] for key in keys], np.int64)
    used = _summed(cpu.used_ns, columns, len(order))
    packages = None if cpu.package_ns is None else _summed(cpu.package_ns, columns, len(order))
    reasons: dict[str, int] = {}
    for key, spent in zip(keys, used_by_key, strict=True):
        identity = by_key[key]
        if spent and identity.id == UNATTRIBUTED_ID and identity.reason:
            reasons[identity.reason] = reasons.get(identity.reason, 0) + spent
    live = frozenset(by_key[key].id for key in keys if key in cpu.live)
    leaf_of = {key: identity.id for key, identity in by_key.items()}
    found = tuple(leaves[i] for i in order)
    return Owners(found, inodes, live, used, packages, reasons, by_key, leaf_of)


def _summed(values: Int64s, columns: Int64s, count: int) -> Int64s:
    """Sum the last axis by leaf; every leaf has a key."""
    if not count:
        return np.zeros((*values.shape[:-1], 0), np.int64)
    order = np.argsort(columns, kind="stable")
    starts = np.searchsorted(columns[order], np.arange(count))
    found: Int64s = np.add.reduceat(values[..., order], starts, axis=-1)
    return found


def _identities(
    keys: list[int], identities: Mapping[int, Identity], accounts: Mapping[str, Account]
) -> dict[int, Identity]:
    unknown = Identity("unattributed", UNATTRIBUTED_ID, UNATTRIBUTED_ID, reason=UNKNOWN)
    found = {key: identities.get(key, unknown) for key in keys}
    listed = ledger.pods_of(found.values()) | ledger.listed_pods(accounts)
    settled = {key: ledger.settle_identity(i, listed) for key, i in found.items()}
    claims = [k for k, i in found.items() if i.tenant is not None and settled[k] is not i]
    if claims:
        by_path = {i.cgroup: i for i in found.values() if i.cgroup and i.kind != "past"}
        settled |= {key: _holder(found[key], by_path) for key in claims}
    return settled


def _keep_machines(
    by_key: dict[int, Identity], refs: Mapping[int, CgroupRef], accounts: Mapping[str, Account]
) -> None:
    """Let a machine keep its leaf, and its names, though they are found in another way now.

    An agent may be silent after a restart.  The same path with the same inode is the same machine;
    a process without a cgroup has both, too.
    """
    if not any(identity.kind == "vm" for identity in by_key.values()):
        return
    places = {
        (place_of(who.cgroup), account.inode): who
        for account in accounts.values()
        if (who := account.identity).kind == "vm" and account.inode is not None
    }
    inodes = {refs[key].path: refs[key].inode for key in by_key if key in refs}
    for key, who in by_key.items():
        if who.kind == "vm" and who.cgroup is not None:
            known = places.get((place_of(who.cgroup), inodes.get(who.cgroup, -1)))
            by_key[key] = _kept(known, who) if known else who


def _kept(known: Identity, now: Identity) -> Identity:
    """Return a machine as it is found now, with what an agent told of it before."""
    if known.names_from != "agent" or now.names_from == "agent":
        return replace(now, id=known.id)
    return replace(
        now, id=known.id, name=known.name, names_from=known.names_from, labels=known.labels
    )


def _holder(identity: Identity, by_path: Mapping[str, Identity]) -> Identity:
    """Return who gets the time of a pod's cgroup that a tenant made without any container in it.

    The node's past is out of his reach: whoever works there stays with what the tree was given to.
    The path says what it is in, for ids can be copied.
    """
    tenant, above = identity.tenant or "", identity.cgroup or ""
    while len(above) > len(tenant):
        above = above.rpartition("/")[0]
        if above in by_path:
            return by_path[above]
    reason = f"pod without containers in {tenant}"
    return Identity("unattributed", UNATTRIBUTED_ID, UNATTRIBUTED_ID, reason=reason)


def _leaf_inodes(
    keys: list[int],
    by_key: Mapping[int, Identity],
    refs: Mapping[int, CgroupRef],
    live: frozenset[int],
) -> dict[str, int]:
    """Return the inode of each leaf's own cgroup, of the newest where a path was made anew."""
    found: dict[str, int] = {}
    for key in sorted(keys, key=lambda k: (k in live, k)):
        ref = refs.get(key)
        if ref is not None and ref.path == by_key[key].cgroup:
            found[by_key[key].id] = ref.inode
    return found


def _is_former(
    key: int, identity: Identity, refs: Mapping[int, CgroupRef], inodes: Mapping[str, int]
) -> bool:
    """Say whether a leaf's cgroup is one that another of the same id has replaced."""
    ref = refs.get(key)
    return (
        identity.kind in ledger.ONE_CGROUP_KINDS
        and ref is not None
        and ref.path == identity.cgroup
        and inodes.get(identity.id, ref.inode) != ref.inode
    )

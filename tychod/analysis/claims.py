"""Which cgroup is a container, where several claim its id: whoever may name a cgroup may lie.

The host's own cgroup goes before those that tenants make, the one that has the leaf before
those that come later, the older before the younger.  Ended leaves are guarded too, while they are
listed: only the host, or the tenant who had it, can take one up again.
"""

from collections.abc import Callable, Collection, Mapping, Set
from typing import Final, NamedTuple

from tychod.analysis import ledger
from tychod.analysis.state import Account
from tychod.model import UNATTRIBUTED_ID, Identity
from tychod.samples import CgroupRef
from tychod.views import PROCESS_MARK

PEOPLE: Final = "/user.slice/"
UNKNOWN_INODE: Final = 1 << 64
"""Above every inode: such a cgroup's own directory was not seen."""


class _Claim(NamedTuple):
    """One path of cgroups that says it is a container."""

    path: str
    tenant: str | None
    inode: int  # grows with the time of making (kernfs)
    is_live: bool


def settle_claims(
    by_key: dict[int, Identity],
    refs: Mapping[int, CgroupRef],
    live: Collection[int],
    accounts: Mapping[str, Account],
) -> None:
    """Give the keys of false claims to what encloses them; the rest of ``by_key`` stays."""
    lost: dict[str, tuple[_Claim, Identity]] = {}  # by path: the claim, and who it says it is
    others = _other_ids(by_key, accounts)
    for leaf_id, keys in _contested(by_key, accounts, others).items():
        claims = _claims(keys, by_key, refs, live)
        holder = None if leaf_id in others else _holder(claims, accounts.get(leaf_id))
        lost |= {c.path: (c, by_key[keys[0]]) for c in claims if c.path != holder}
    if not lost:
        return
    named = {
        ref.path: by_key[key]
        for key, ref in refs.items()
        if key in by_key and (by_key[key].cgroup or "") not in lost
    }
    present = {identity.id: identity for identity in named.values()}
    places = ledger.Places(accounts)

    def gone(who: Identity) -> Identity:
        return ledger.late_heir(who, places, present)

    heirs = {
        p: _heir(claim, named, who, accounts.get(who.id), gone) for p, (claim, who) in lost.items()
    }
    for key, identity in by_key.items():
        if _is_claim(identity) and identity.cgroup in heirs:
            by_key[key] = heirs[identity.cgroup]


def _is_claim(identity: Identity) -> bool:
    return identity.kind in ledger.ONE_CGROUP_KINDS and identity.cgroup is not None


def _other_ids(by_key: Mapping[int, Identity], accounts: Mapping[str, Account]) -> Set[str]:
    """Return the ids of leaves that no name can claim: the fixed ones, and units.

    A machine may be called ``kernel``.
    """
    found = {identity.id for identity in by_key.values() if not _is_claim(identity)}
    found |= {i for i, account in accounts.items() if not _is_claim(account.identity)}
    return found | {identity.id for identity in ledger.FIXED}


def _contested(
    by_key: Mapping[int, Identity], accounts: Mapping[str, Account], others: Set[str]
) -> dict[str, list[int]]:
    """Return the keys of each id that is claimed by another path than its leaf's, or by two."""
    first: dict[str, str | None] = {}
    contested = set()
    for identity in by_key.values():
        if not _is_claim(identity):
            continue
        if identity.id not in first:
            account = accounts.get(identity.id)
            first[identity.id] = (account.identity.cgroup if account else None) or identity.cgroup
        if identity.id in others or place_of(first[identity.id]) != place_of(identity.cgroup):
            contested.add(identity.id)
    if not contested:
        return {}
    found: dict[str, list[int]] = {leaf_id: [] for leaf_id in sorted(contested)}
    for key, identity in by_key.items():
        if identity.id in contested and _is_claim(identity):
            found[identity.id].append(key)
    return found


def place_of(path: str | None) -> str | None:
    """Return what tells a claim from others: of a machine without a cgroup, its process.

    A process that moves takes its leaf with it.
    """
    return path if path is None else path.partition(PROCESS_MARK)[2] or path


def _claims(
    keys: list[int],
    by_key: Mapping[int, Identity],
    refs: Mapping[int, CgroupRef],
    live: Collection[int],
) -> list[_Claim]:
    """Return one claim for each path."""
    found: dict[str, _Claim] = {}
    for key in keys:
        identity, ref, is_live = by_key[key], refs.get(key), key in live
        path = identity.cgroup or ""
        inode = ref.inode if ref is not None and ref.path == path else UNKNOWN_INODE
        claim = found.get(path) or _Claim(path, identity.tenant, inode, is_live)
        found[path] = claim._replace(
            inode=min(inode, claim.inode), is_live=is_live or claim.is_live
        )
    return list(found.values())


def _holder(claims: list[_Claim], account: Account | None) -> str | None:
    """Return the path that has the leaf; it may be one of before, whose cgroup is gone."""
    had = account.identity.cgroup if account else None
    had = next((c.path for c in claims if place_of(c.path) == place_of(had)), had)
    order = sorted(claims, key=lambda c: (c.path != had, c.inode, c.path))
    hosts = [c for c in order if c.is_live and c.tenant is None]
    if hosts:
        return hosts[0].path
    if account is None or had is None:
        return min(order, key=lambda c: (_reach(c.tenant), not c.is_live)).path
    above = [c for c in order if c.is_live and _reach(c.tenant) < _reach(account.identity.tenant)]
    if above:
        return min(above, key=lambda c: _reach(c.tenant)).path
    if account.identity.tenant is None or any(c.is_live and c.path == had for c in claims):
        return had
    heirs = [c for c in order if c.is_live and c.tenant == account.identity.tenant]
    return heirs[0].path if heirs else had


def _reach(tenant: str | None) -> int:
    """Return who may take an id before whom: the host, the system's services, people's sessions."""
    if tenant is None:
        return 0
    return 2 if tenant.startswith(PEOPLE) else 1


def _heir(
    claim: _Claim,
    named: Mapping[str, Identity],
    who: Identity,
    account: Account | None,
    gone: Callable[[Identity], Identity],
) -> Identity:
    """Return who gets the time of a claim that was lost; ``gone`` says so of an ended leaf."""
    if account and account.identity.cgroup == claim.path and not claim.is_live:
        return gone(account.identity)  # it was the container, and has ended
    above = claim.path.rpartition("/")[0]
    while above:
        found = named.get(above)
        if found is not None and found.id != UNATTRIBUTED_ID:
            return found
        above = above.rpartition("/")[0]
    reason = f"two cgroups claim container {who.id}"
    return Identity("unattributed", UNATTRIBUTED_ID, UNATTRIBUTED_ID, reason=reason)

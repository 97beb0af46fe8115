"""Who gets a domain's idle energy: the policies of ``[attribution] idle``, exact to the microjoule.

Whatever no workload has a claim to goes to ``system``.  So does whatever cannot be known: a pod's
request that is no longer told moves its own part there, and while one was never told, nobody is
given what might be reserved for that pod.  No tenant ever gains by what we fail to see.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Final, NamedTuple

from tychod.analysis.attribution import allocate
from tychod.analysis.ledger import ENDING_KINDS
from tychod.analysis.state import Account, Params
from tychod.model import SYSTEM_ID, Identity, IdlePolicy
from tychod.views import pod_key

CPU_REQUEST: Final = "cpu_millicores"
MEMORY_REQUEST: Final = "memory_bytes"
REQUEST_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "package": CPU_REQUEST,
        "core": CPU_REQUEST,
        "uncore": CPU_REQUEST,
        "psys": CPU_REQUEST,
        "dram": MEMORY_REQUEST,
    }
)
"""Which request reserves a domain; idle energy of any other domain is the system's."""
NO_REQUEST_QOS: Final = "BestEffort"
"""QoS class of pods in which no container requests anything (Kubernetes); its path tells it."""


class Claimant(NamedTuple):
    """One leaf in one window and domain, as far as it bears on idle energy."""

    leaf_id: str
    activity: float = 0.0  # dynamic energy or weight of the window, in any unit
    request: int = 0  # millicores or bytes, as last told; 0: none
    is_workload: bool = True  # not the kernel, the past or what is not known
    is_running: bool = True
    is_listed: bool = True  # a workload of its own, neither a grouping nor a pod's pause container
    is_lost: bool = False  # the request is not told any more
    is_unknown: bool = False  # it may have a request that was never told


class _Pool(NamedTuple):
    """Energy to be shared by weights; a claimant that may not take leaves its part to system."""

    energy_uj: int
    weights: Sequence[float]
    may_take: Sequence[bool]


def idle_parts(
    domain: str,
    idle_uj: int,
    activity: Mapping[str, float],
    accounts: Mapping[str, Account],
    live: Set[str],
    params: Params,
) -> dict[str, int]:
    """Return the idle energy of each leaf in one window and domain, in microjoules.

    ``activity`` has the dynamic energy or weight of every leaf, what nobody used under
    ``unattributed``; ``live`` the leaves with a cgroup at the window's end.
    """
    request = REQUEST_OF.get(domain)
    if request is None or params.idle_policy == "system":
        return {SYSTEM_ID: idle_uj}
    capacity = params.cpus * 1000 if request == CPU_REQUEST else params.memory_bytes
    found = claimants(request, activity, accounts, live)
    return share_idle(params.idle_policy, idle_uj, found, capacity)


def claimants(
    request: str,
    activity: Mapping[str, float],
    accounts: Mapping[str, Account],
    live: Set[str],
) -> list[Claimant]:
    """Return every leaf as a claimant, in the order of their ids."""
    told = pods_told(account.identity for account in accounts.values())
    told |= {pod for a in accounts.values() if a.requested and (pod := pod_key(a.identity))}
    return [
        _claimant(accounts[leaf_id], request, activity.get(leaf_id, 0.0), leaf_id in live, told)
        for leaf_id in sorted(accounts)
    ]


def _claimant(
    account: Account, request: str, activity: float, is_live: bool, told: Set[str]
) -> Claimant:
    who = account.identity
    asked = who.requests.get(request, account.requested.get(request, 0))
    return Claimant(
        who.id,
        activity,
        asked,
        is_workload=who.kind in ENDING_KINDS,
        is_running=is_live,
        is_listed=not who.sandbox and not who.name.endswith(".slice"),
        is_lost=asked > 0 and request not in who.requests,
        is_unknown=is_request_unknown(who, told),
    )


def pods_told(identities: Iterable[Identity]) -> Set[str]:
    """Return the pods that the kubelet has told about: nobody else knows these facts.

    A container of such a pod for which no request is known has none.
    """
    return {
        pod
        for who in identities
        if (who.requests or who.owner or who.labels) and (pod := pod_key(who))
    }


def is_request_unknown(who: Identity, told: Set[str]) -> bool:
    """Say whether a container may have a request that nobody told; its pod's QoS class shows it."""
    return (
        who.kind == "container"
        and not who.sandbox
        and who.pod_uid is not None
        and who.qos != NO_REQUEST_QOS
        and pod_key(who) not in told
    )


def share_idle(
    policy: IdlePolicy, idle_uj: int, found: Sequence[Claimant], capacity: int
) -> dict[str, int]:
    """Return what each leaf gets of a window's idle energy; the parts add up to it exactly.

    ``capacity`` is in the unit of the requests; 0: not known, so nothing can be called reserved.
    """
    pools: list[_Pool] = []
    if policy == "reserved" and capacity > 0:
        pools = _reserved(idle_uj, found, capacity)
    elif policy == "proportional":
        pools = [_by_activity(idle_uj, found, [True] * len(found))]
    elif policy == "equal":
        equal = [c.is_workload and c.is_running and c.is_listed for c in found]
        pools = [_Pool(idle_uj, [float(takes) for takes in equal], equal)]
    return _shared(idle_uj, found, pools)


def _reserved(idle_uj: int, found: Sequence[Claimant], capacity: int) -> list[_Pool]:
    """Two pools: what is reserved by request, the rest by activity of those without a request.

    More requests than the node has share all of it.  What a workload reserved and did not use is
    its own, so the rest does not depend on it.
    """
    asked = [c.request if c.is_running and c.is_workload else 0 for c in found]
    reserved_uj = idle_uj * min(sum(asked), capacity) // capacity
    is_open = not any(c.is_unknown and c.is_running for c in found)
    without = [not c.request for c in found]
    return [
        _Pool(reserved_uj, [float(n) for n in asked], [not c.is_lost for c in found]),
        _by_activity(idle_uj - reserved_uj if is_open else 0, found, without),
    ]


def _by_activity(energy_uj: int, found: Sequence[Claimant], among: Sequence[bool]) -> _Pool:
    """One that ended within the window takes its part, too: it did run; others do not pay."""
    weights = [c.activity if is_in else 0.0 for c, is_in in zip(found, among, strict=True)]
    return _Pool(energy_uj, weights, [c.is_workload for c in found])


def _shared(idle_uj: int, found: Sequence[Claimant], pools: Sequence[_Pool]) -> dict[str, int]:
    """Split each pool; whatever no workload takes is the system's."""
    taken: dict[str, int] = {}
    for pool in pools:
        entitled = [i for i, weight in enumerate(pool.weights) if weight]
        parts = allocate(pool.energy_uj, [pool.weights[i] for i in entitled])
        for index, part_uj in zip(entitled, parts, strict=True):
            if part_uj and pool.may_take[index]:
                leaf_id = found[index].leaf_id
                taken[leaf_id] = taken.get(leaf_id, 0) + part_uj
    return taken | {SYSTEM_ID: idle_uj - sum(taken.values())}

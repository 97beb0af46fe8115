"""A workload beside the rest of the node: GPUs, who holds its energy, what nobody gets; pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from tychod.model import SYSTEM_ID, UNATTRIBUTED_ID, Gpu, Leaf, Snapshot, total_domains
from tychod.runtime.entries import Plain
from tychod.runtime.explain_find import Found
from tychod.runtime.explain_window import Span, by_whom_uj

PLATFORM: Final = "platform"
SYSTEM_WHY: Final = (
    "idle energy that the policy ([attribution] idle, gpu_idle) gives to no workload"
)
PAST_WHY: Final = "late energy of workloads that have ended and are not listed any more"
UNATTRIBUTED_WHY: Final = "nothing says who used it"
RESIDUAL_WHY: Final = (
    "what the whole machine drew beyond its measured parts (fans, disks, losses of the power "
    "supply): a fact of the node that is shared among nobody"
)


def gpu_parts(leaves: Sequence[Leaf], newest: Snapshot) -> list[Plain]:
    """Return the GPUs that these leaves used in the window or were assigned."""
    ids = {leaf.identity.id for leaf in leaves}
    found = [g for g in newest.gpus if ids & {*g.workloads, *g.allocated}]
    return [_gpu_part(gpu, ids, newest.window.seconds) for gpu in found]


def _gpu_part(gpu: Gpu, ids: set[str], seconds: float) -> Plain:
    own_w = sum(watts for leaf_id, watts in gpu.workloads.items() if leaf_id in ids)
    all_w = sum(gpu.workloads.values())
    return {
        "number": gpu.number,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "quality": gpu.quality,
        "reason": gpu.reason,
        "method": gpu.method,
        "power_w": gpu.power_w,
        "idle_w": gpu.idle_w,
        "dynamic_uj": round(own_w * seconds * 1e6),
        "dynamic_w": own_w,
        "share": own_w / all_w if all_w else None,
        "allocated": bool(ids & set(gpu.allocated)),
        "allocated_to": len(gpu.allocated),
        "instances": list(gpu.instances),
    }


def holder_entry(found: Found, newest: Snapshot) -> Plain | None:
    """Return who has the energy of a machine that is but a view; None: what is asked for itself."""
    if not found.is_view:
        return None
    parent = found.leaves[0].identity.parent
    holder = next((x.identity for x in newest.leaves if x.identity.id == parent), None)
    if holder is None:
        return {"id": parent, "kind": None, "name": None, "namespace": None, "pod": None}
    return {
        "id": holder.id,
        "kind": holder.kind,
        "name": holder.name,
        "namespace": holder.namespace,
        "pod": holder.pod,
    }


def node_entry(span: Span, members: Sequence[Leaf], own_uj: Mapping[str, int]) -> Plain:
    """Return the whole node's energy of the window, by whom, and why nobody gets some of it.

    ``own_uj``: by domain, what these leaves have.
    """
    newest = span.newest
    names = [n for n in total_domains(newest.domains) if _is_shared(n, newest)]
    whom: dict[str, int] = {}
    for name in names:
        for who, uj in by_whom_uj(name, span, own_uj.get(name, 0), members).items():
            whom[who] = whom.get(who, 0) + uj
    return {
        "domains": names,
        "shared_uj": sum(span.sums[name].uj for name in names),
        "by_whom_uj": whom,
        "nobody": _nobody(span, names),
        "platform": _platform(newest),
    }


def _is_shared(name: str, newest: Snapshot) -> bool:
    return any(name in leaf.energy for leaf in newest.leaves)


def _nobody(span: Span, names: Sequence[str]) -> list[Plain]:
    """Return what no workload of anybody's has, each with its share of the whole and the reason."""
    newest = span.newest
    every = sum(span.sums[name].uj for name in names)
    whom = [by_whom_uj(name, span, 0, ()) for name in names]
    reasons = {x.identity.id: x.identity.reason for x in newest.leaves}
    why = {
        SYSTEM_ID: SYSTEM_WHY,
        UNATTRIBUTED_ID: reasons.get(UNATTRIBUTED_ID) or UNATTRIBUTED_WHY,
        "past": PAST_WHY,
    }
    found: list[Plain] = []
    for who, reason in why.items():
        uj = sum(parts[who] for parts in whom)
        share = uj / every if every else None
        found.append({"who": who, "uj": uj, "share": share, "reason": reason if uj else None})
    return found


def _platform(newest: Snapshot) -> Plain | None:
    """Return the whole machine's power of the window and the part that no meter of it explains."""
    platform, rest = newest.domains.get(PLATFORM), newest.residual
    if platform is None:
        return None
    power_w = platform.power_w
    residual_w = rest.power_w if rest else None
    share = residual_w / power_w if residual_w is not None and power_w else None
    return {
        "power_w": power_w,
        "quality": platform.quality,
        "residual_w": residual_w,
        "residual_share": share,
        "residual_idle_w": rest.idle_w if rest else None,
        "usable": rest.usable if rest else None,
        "reason": rest.reason if rest else None,
        "why": RESIDUAL_WHY,
    }

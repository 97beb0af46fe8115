"""In words: how a domain is shared, who gets its idle energy and why, what flags mean; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tychod.analysis.ledger import ENDING_KINDS
from tychod.analysis.models import MAIN, MISSES
from tychod.analysis.policy import CPU_REQUEST, REQUEST_OF, is_request_unknown, pods_told
from tychod.flags import DOMAIN_FLAGS, LEAF_FLAGS
from tychod.model import SYSTEM_ID, Domain, Identity, Leaf, Snapshot
from tychod.runtime.explain_window import Span, gain_of

GPU: Final = "gpu"
DRAM: Final = "dram"
OWN: Final = (
    "CPU seconds x intensity x factor; the intensity is learned for each workload from how the "
    "energy of the bins varies with who ran"
)
FOLLOWS: Final = (
    "CPU seconds x intensity x factor; intensities follow those of the package as far as this "
    "domain does, and their mean is its own"
)
BY_MISSES: Final = "each CPU second counts as much as its cache misses"
BY_DEVICE: Final = (
    "device by device: energy above idle goes to the processes that were seen to use it, else to "
    "whom the device is assigned"
)
PLAIN: Final = (
    "nothing was learned from this window: what is above the idle floor is shared by CPU time and "
    "what is known of intensities"
)
MODELLED: Final = (
    "a model gives every CPU second of the node the same energy above its idle power ([model]); "
    "nothing is measured, so nothing is learned of workloads"
)
NOT_BOOKED: Final = "no energy of this domain was booked in this window"
NO_POLICY: Final = "no policy shares idle energy of this domain: it is the system's"
SYSTEMS: Final = "[attribution] idle = system: idle energy is no workload's, it is booked to system"
GPU_SYSTEMS: Final = (
    "[attribution] gpu_idle = system: idle energy of GPUs is no workload's, it is booked to system"
)
PROPORTIONAL: Final = "[attribution] idle = proportional: shared as the dynamic energy is"
EQUAL: Final = "[attribution] idle = equal: an equal part for each workload that runs"
NO_EQUAL: Final = "[attribution] idle = equal: slices and pause containers take no part"
NO_WORKLOAD: Final = "containers, machines and units alone get any; the part of others is system's"
RESERVED: Final = "[attribution] idle = reserved: "
UNITS: Final[Mapping[str, tuple[str, float]]] = {CPU_REQUEST: ("CPUs", 1e3)}
BYTES: Final = ("GiB of memory", float(1 << 30))


def how_shared(name: str, domain: Domain, newest: Snapshot) -> str:
    """Return how a domain's dynamic energy of the last window was shared."""
    if name == GPU:
        return BY_DEVICE
    if all(leaf.power_w.get(name) is None for leaf in newest.leaves):
        return NOT_BOOKED
    if not any(name in leaf.intensity for leaf in newest.leaves):
        return MODELLED if domain.quality == "modelled" else PLAIN
    if name in MAIN:
        return OWN
    return f"{FOLLOWS}; {BY_MISSES}" if _is_by_misses(name, domain, newest) else FOLLOWS


def _is_by_misses(name: str, domain: Domain, newest: Snapshot) -> bool:
    """Memory goes by cache misses where any were counted."""
    is_told = any(leaf.counters.get(MISSES) for leaf in newest.leaves)
    return name == DRAM and is_told and "fallback-activity" not in domain.flags


def activity_weights(span: Span) -> dict[str, dict[str, float]]:
    """Return by domain how much a CPU second of each leaf counts, where not all count alike."""
    newest = span.newest
    domain = newest.domains.get(DRAM)
    if domain is None or span.basis == "power" or not _is_by_misses(DRAM, domain, newest):
        return {}
    used = {leaf.identity.id: gain_of(leaf, span).cpu_ns or 0 for leaf in newest.leaves}
    told = {x.identity.id: x.counters[MISSES] for x in newest.leaves if MISSES in x.counters}
    counted = {leaf_id: misses for leaf_id, misses in told.items() if used[leaf_id] > 0}
    misses, cpu_ns = sum(counted.values()), sum(used[leaf_id] for leaf_id in counted)
    if not misses:
        return {}
    own = {leaf_id: n / used[leaf_id] / (misses / cpu_ns) for leaf_id, n in counted.items()}
    return {DRAM: {leaf_id: own.get(leaf_id, 1.0) for leaf_id in used}}


def meanings(flags: Iterable[str]) -> dict[str, str]:
    """Return what each flag says."""
    known = {**LEAF_FLAGS, **DOMAIN_FLAGS}
    return {flag: known.get(flag, "") for flag in dict.fromkeys(flags)}


def idle_rules(name: str, leaves: Sequence[Leaf], newest: Snapshot) -> list[str]:
    """Return who gets a domain's idle energy, and what that means for these leaves."""
    if name == GPU:
        return [_gpu_rule(leaves, newest)]
    if name not in REQUEST_OF:
        return [NO_POLICY]
    if newest.idle_policy == "system":
        return [SYSTEMS]
    shown = [leaf.identity for leaf in leaves]
    if any(who.id == SYSTEM_ID for who in shown):
        return [f"[attribution] idle = {newest.idle_policy}: system has what no workload gets"]
    told = [_rule(name, who, newest) for who in shown if who.kind != "past"]
    return list(dict.fromkeys(told)) or [f"[attribution] idle = {newest.idle_policy}"]


def _gpu_rule(leaves: Sequence[Leaf], newest: Snapshot) -> str:
    if newest.gpu_idle_policy == "system":
        return GPU_SYSTEMS
    ids = {leaf.identity.id for leaf in leaves}
    numbers = [str(gpu.number) for gpu in newest.gpus if ids & set(gpu.allocated)]
    rule = "[attribution] gpu_idle = allocated: idle energy of a GPU is of whom it is assigned to"
    return f"{rule}; here: {', '.join(numbers) or 'none'}"


def _rule(name: str, who: Identity, newest: Snapshot) -> str:
    policy = newest.idle_policy
    if who.kind not in ENDING_KINDS:
        return f"[attribution] idle = {policy}: {NO_WORKLOAD}"
    if policy == "proportional":
        return PROPORTIONAL
    if policy == "equal":
        is_grouping = who.sandbox or who.name.endswith(".slice")
        return NO_EQUAL if is_grouping else EQUAL
    return RESERVED + _reserved(name, who, newest)


def _reserved(name: str, who: Identity, newest: Snapshot) -> str:
    request = REQUEST_OF[name]
    asked = who.requests.get(request, 0)
    if asked:
        unit, size = UNITS.get(request, BYTES)
        return f"{who.name} requests {asked / size:g} {unit}, and gets that part of the node's idle"
    told = pods_told(leaf.identity for leaf in newest.leaves)
    if is_request_unknown(who, told):
        return f"what {who.name} requests is not known, so it gets none"
    running = [leaf.identity for leaf in newest.leaves if leaf.state == "running"]
    if any(is_request_unknown(one, told) for one in running):
        return (
            f"{who.name} requests nothing, and while any container's request is not known what is "
            "not reserved stays with system"
        )
    return f"{who.name} requests nothing: of what nobody reserved it gets a part by activity"

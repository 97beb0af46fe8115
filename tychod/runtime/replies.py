"""Results as the plain data that answers carry (JSON and msgpack); pure.

The keys are docs/protocol.md's.  Additions are free; a removal or a change of meaning raises
``SCHEMA``.  ``None`` is "not observed" or "does not apply", never zero.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tychod.frames import ProtocolError
from tychod.model import (
    DaemonStatus,
    Domain,
    Identity,
    Leaf,
    NodeFacts,
    Process,
    Snapshot,
    SourceStatus,
    Zone,
    total_domains,
)
from tychod.runtime.entries import (
    SECOND_NS,
    Plain,
    energies,
    leaf_entry,
    render_time,
    total_of,
)
from tychod.runtime.hardware import fit_entry, gpus_body, residual_entry, source_device_entry
from tychod.runtime.problems import problems_of, state_of
from tychod.runtime.rollup import namespace_entries, pod_entries, slice_entries

SCHEMA: Final = 1
PROCESSES_OFF: Final = (
    "processes are not accounted: set [accounting] processes = true and restart tychod"
)

ROUTE_OK: Final = "ok"
ROUTE_STALE: Final = "stale: "
ROUTE_STATES: Final[Mapping[str, tuple[str, ...]]] = {
    "off": ("off", "not configured"),
    "unused": ("not used yet", "not asked yet", "not read yet"),
}
"""What a way's text begins with that is neither ok, stale nor a fault."""


def _wall(monotonic_ns: int | None, offset_ns: int) -> str | None:
    return None if monotonic_ns is None else render_time(monotonic_ns + offset_ns)


def head(facts: NodeFacts, snapshot: Snapshot | None, since_ns: int | None = None) -> Plain:
    """Return the head of every answer; before the first window sequence 0 and no window."""
    if snapshot is not None:
        since_ns = snapshot.since_ns
    return {
        "schema": SCHEMA,
        "node": facts.node,
        "boot_id": facts.boot_id,
        "since": None if since_ns is None else render_time(since_ns),
        "sequence": snapshot.sequence if snapshot else 0,
        "window": _window(snapshot) if snapshot else None,
    }


def _window(snapshot: Snapshot) -> Plain:
    return {
        "start": _wall(snapshot.window.start_ns, snapshot.wall_offset_ns),
        "end": _wall(snapshot.window.end_ns, snapshot.wall_offset_ns),
        "seconds": snapshot.window.seconds,
        "gap": snapshot.gap,
    }


def node_body(snapshot: Snapshot) -> Plain:
    """Return the node's energy and power by domain."""
    offset_ns = snapshot.wall_offset_ns
    domains = {name: _domain(domain, offset_ns) for name, domain in snapshot.domains.items()}
    return {
        "domains": domains,
        "residual": residual_entry(snapshot.residual, lambda t_ns: _wall(t_ns, offset_ns)),
        "platform": fit_entry(snapshot.fit),
        "attribution": _attribution(snapshot),
    }


def _attribution(snapshot: Snapshot | None) -> Plain:
    """Return the rule that the energies of an answer follow; null before the first window."""
    return {
        "idle": snapshot.idle_policy if snapshot else None,
        "gpu_idle": snapshot.gpu_idle_policy if snapshot else None,
    }


def _domain(domain: Domain, offset_ns: int) -> Plain:
    return {
        "source": domain.source,
        "quality": domain.quality,
        "reason": domain.reason,
        "through": _wall(domain.through_ns, offset_ns),
        "energy_uj": domain.energy_uj,
        "idle_uj": domain.idle_uj,
        "dynamic_uj": domain.dynamic_uj,
        "power_w": domain.power_w,
        "zones": [_zone(zone) for zone in domain.zones],
        "idle_floor": domain.idle_floor._asdict() if domain.idle_floor else None,
        "coverage": domain.coverage,
        "flags": list(domain.flags),
    }


def _zone(zone: Zone) -> Plain:
    return {
        "name": zone.name,
        "socket": zone.socket,
        "uuid": zone.uuid,
        "energy_uj": zone.energy_uj,
        "power_w": zone.power_w,
        "quality": zone.quality,
        "reason": zone.reason,
        "method": zone.method,
        "interval_s": zone.interval_s,
    }


def _leaf(leaf: Leaf, snapshot: Snapshot) -> Plain:
    return leaf_entry(leaf, snapshot.window.seconds)


def workloads_body(snapshot: Snapshot) -> Plain:
    """Return every leaf."""
    return {"workloads": [_leaf(leaf, snapshot) for leaf in snapshot.leaves], **_meters(snapshot)}


def containers_body(snapshot: Snapshot) -> Plain:
    """Return the leaves of kind container."""
    return _of_kind(snapshot, "container")


def units_body(snapshot: Snapshot) -> Plain:
    """Return the leaves of kind unit, and the slices: sums over all kinds of leaves in each."""
    return {**_of_kind(snapshot, "unit"), "slices": slice_entries(snapshot)}


def vms_body(snapshot: Snapshot) -> Plain:
    """Return the leaves of kind vm, and those whose energy another leaf holds, marked as views."""
    holders = {leaf.identity.id: leaf.identity for leaf in snapshot.leaves}
    own = [leaf for leaf in snapshot.leaves if leaf.identity.kind == "vm"]
    entries = [{**_leaf(leaf, snapshot), "view": False, "held_by": None} for leaf in own]
    for leaf in snapshot.views:
        held_by = _holder(holders.get(leaf.identity.parent or ""))
        entries.append({**_leaf(leaf, snapshot), "view": True, "held_by": held_by})
    return {"workloads": entries, **_meters(snapshot)}


def _holder(who: Identity | None) -> Plain | None:
    """Return by what names people know the workload that has a view's energy."""
    if who is None:
        return None
    return {
        "kind": who.kind,
        "id": who.id,
        "name": who.name,
        "namespace": who.namespace,
        "pod": who.pod,
    }


def _of_kind(snapshot: Snapshot, kind: str) -> Plain:
    """Return the answer of `workloads`, filtered."""
    leaves = [_leaf(leaf, snapshot) for leaf in snapshot.leaves if leaf.identity.kind == kind]
    return {"workloads": leaves, **_meters(snapshot)}


def _meters(snapshot: Snapshot) -> Plain:
    """Return what stands behind the entries of a list, so that no estimate passes as measured."""
    in_total = total_domains(snapshot.domains)
    return {
        "domains": {
            name: {
                "quality": domain.quality,
                "reason": domain.reason,
                "energy_uj": domain.energy_uj,
                "power_w": domain.power_w,
                "in_total": name in in_total,
                "coverage": domain.coverage,
                "flags": list(domain.flags),
            }
            for name, domain in snapshot.domains.items()
        }
    }


def pods_body(snapshot: Snapshot) -> Plain:
    """Return the pods, ended and evicted containers included, and the sums by namespace."""
    return {
        "pods": pod_entries(snapshot),
        "namespaces": namespace_entries(snapshot),
        **_meters(snapshot),
    }


def processes_body(snapshot: Snapshot) -> Plain:
    """Return the processes; raise where they are not accounted."""
    found = snapshot.processes
    if found is None:
        raise ProtocolError("unavailable", PROCESSES_OFF)
    leaves = {leaf.identity.id: leaf.identity for leaf in snapshot.leaves}
    return {
        "processes": [_process_entry(p, leaves.get(p.workload)) for p in found.entries],
        "method": found.method,
        "reason": found.reason,
        **_meters(snapshot),
    }


def _process_entry(process: Process, leaf: Identity | None) -> Plain:
    """Return one process; names are those of its workload."""
    return {
        "pid": process.pid,
        "start_time": render_time(process.start_ns),
        "comm": process.comm,
        "state": process.state,
        "workload": process.workload,
        "kind": leaf.kind if leaf else None,
        "name": leaf.name if leaf else None,
        "namespace": leaf.namespace if leaf else None,
        "pod": leaf.pod if leaf else None,
        "cpu_seconds": process.cpu_ns / SECOND_NS,
        "energy": energies(process.energy),
        "total": total_of(process.energy),
        "total_power_w": process.total_power_w,
    }


def sources_body(sources: Iterable[SourceStatus], offset_ns: int) -> Plain:
    """Return the health of every source; ``offset_ns`` leads from monotonic to wall time."""
    return {"sources": [_source(source, offset_ns) for source in sources]}


def routes_body(routes: Mapping[str, str]) -> Plain:
    """Return the ways to names; each text is ``ok``, ``ok; note`` or ``reason; remedy``.

    Before a reason may stand ``stale: ``: what this way told is in use, but not refreshed now.
    """
    return {"identity": [{"route": name, **route_state(told)} for name, told in routes.items()]}


def route_state(told: str) -> Plain:
    """Return a way's state; its reason, or what is odd where it is in use; and the remedy."""
    first, _, rest = told.partition("; ")
    if first == ROUTE_OK:
        return {"state": ROUTE_OK, "reason": rest or None, "remedy": None}
    states = [state for state, starts in ROUTE_STATES.items() if first.startswith(starts)]
    if first.startswith(ROUTE_STALE):
        states, first = ["stale"], first.removeprefix(ROUTE_STALE)
    return {
        "state": states[0] if states else "unavailable",
        "reason": first,
        "remedy": rest or None,
    }


def _source(source: SourceStatus, offset_ns: int) -> Plain:
    return {
        "name": source.name,
        "enabled": source.enabled,
        "state": source.state,
        "quality": source.quality,
        "reason": source.reason,
        "remedy": source.remedy,
        "interval_s": source.interval_s,
        "delay_s": source.delay_s,
        "samples": source.samples,
        "errors": source.errors,
        "last_sample": _wall(source.last_sample_ns, offset_ns),
        "late": source.late,
        "notes": list(source.notes),
        "devices": [source_device_entry(device) for device in source.devices],
    }


def status_body(
    facts: NodeFacts, status: DaemonStatus, snapshot: Snapshot | None, offset_ns: int
) -> Plain:
    """Return the daemon's health and every problem with its remedy."""
    return {
        "version": facts.version,
        "commit": facts.commit,
        "uptime_s": status.uptime_s,
        "state": state_of(status, snapshot),
        "accounting": _accounting(facts),
        "hierarchy": facts.hierarchy,
        "hierarchy_reason": facts.hierarchy_reason,
        "workloads": _counts(snapshot),
        "terminated": _terminated(snapshot),
        "views": len(snapshot.views) if snapshot else 0,
        "self": {"cpu_percent": status.cpu_percent, "rss_bytes": status.rss_bytes},
        "conservation_violations": status.conservation_violations,
        "attribution": _attribution(snapshot),
        "problems": problems_of(status, snapshot),
        "endpoint": None if status.endpoint is None else dict(status.endpoint),
        "config_rejected": status.config_rejected,
        "state_directory": status.state_directory,
        "identity": dict(status.identity_routes),
        **sources_body(status.sources, offset_ns),
        **(_meters(snapshot) if snapshot else {"domains": {}}),
    }


def _accounting(facts: NodeFacts) -> Plain:
    figures = facts.accounting
    return {
        "method": facts.accounting_method,
        "reason": facts.accounting_reason,
        "late_s": figures.late_ns / SECOND_NS,
        "dropped": figures.dropped,
        "exhausted": figures.exhausted,
        "stalls": figures.stalls,
    }


def _counts(snapshot: Snapshot | None) -> dict[str, int]:
    counts: dict[str, int] = {}
    for leaf in snapshot.leaves if snapshot else ():
        counts[leaf.identity.kind] = counts.get(leaf.identity.kind, 0) + 1
    return counts


def _terminated(snapshot: Snapshot | None) -> int:
    return sum(leaf.state == "terminated" for leaf in snapshot.leaves) if snapshot else 0


SNAPSHOT_BODIES: Final[Mapping[str, Callable[[Snapshot], Plain]]] = {
    "node": node_body,
    "workloads": workloads_body,
    "pods": pods_body,
    "containers": containers_body,
    "vms": vms_body,
    "units": units_body,
    "processes": processes_body,
    "gpus": gpus_body,
}
"""The operations that are answered from a snapshot alone: encoded once for all who ask."""

"""Results as the plain data that answers carry (JSON and msgpack); pure.

The keys are docs/protocol.md's.  Additions are free; a removal or a change of meaning raises
``SCHEMA``.  ``None`` is "not observed" or "does not apply", never zero.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tychod.frames import ProtocolError
from tychod.model import (
    PAST_ID,
    DaemonStatus,
    Domain,
    Energy,
    Identity,
    Leaf,
    NodeFacts,
    Process,
    Snapshot,
    SourceStatus,
    Zone,
    total_domains,
)
from tychod.runtime.problems import problems_of, state_of

SCHEMA: Final = 1
SECOND_NS: Final = 1_000_000_000
PROCESSES_OFF: Final = (
    "processes are not accounted: set [accounting] processes = true and restart tychod"
)

Plain = dict[str, object]


def render_time(wall_ns: int) -> str:
    """Return nanoseconds since 1970 as RFC 3339 in UTC, cut to microseconds."""
    seconds, rest_ns = divmod(wall_ns, SECOND_NS)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{rest_ns // 1000:06d}Z"


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
    return {"domains": domains, "residual": None}


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
    }


def leaf_entry(leaf: Leaf) -> Plain:
    """Return one leaf workload; energy in microjoules, power in watts."""
    who = leaf.identity
    return {
        "kind": who.kind,
        "id": who.id,
        "name": who.name,
        "namespace": who.namespace,
        "pod": who.pod,
        "pod_uid": who.pod_uid,
        "runtime": who.runtime,
        "cgroup": who.cgroup,
        "parent": who.parent,
        "sandbox": who.sandbox,
        "labels": dict(who.labels),
        "requests": dict(who.requests),
        "names_from": who.names_from,
        "stale": who.stale,
        "state": leaf.state,
        "first_seen": render_time(leaf.first_seen_ns),
        "reason": who.reason,
        "cpu_seconds": leaf.cpu_ns / SECOND_NS,
        "energy": _energies(leaf.energy),
        "total": _total(leaf.energy),
        "power_w": dict(leaf.power_w),
        "total_power_w": leaf.total_power_w,
        "counters": dict(leaf.counters),
    }


def _energies(energy: Mapping[str, Energy]) -> Plain:
    return {name: {"idle_uj": e.idle_uj, "dynamic_uj": e.dynamic_uj} for name, e in energy.items()}


def _total(energy: Mapping[str, Energy]) -> Plain:
    """Return the total over the domains that make one up; null, not zero, where there is none."""
    parts = [energy[name] for name in total_domains(energy) if name in energy]
    return {
        "idle_uj": sum(e.idle_uj for e in parts) if parts else None,
        "dynamic_uj": sum(e.dynamic_uj for e in parts) if parts else None,
    }


def workloads_body(snapshot: Snapshot) -> Plain:
    """Return every leaf."""
    return {"workloads": [leaf_entry(leaf) for leaf in snapshot.leaves], **_meters(snapshot)}


def containers_body(snapshot: Snapshot) -> Plain:
    """Return the leaves of kind container."""
    return _of_kind(snapshot, "container")


def units_body(snapshot: Snapshot) -> Plain:
    """Return the leaves of kind unit."""
    return _of_kind(snapshot, "unit")


def _of_kind(snapshot: Snapshot, kind: str) -> Plain:
    """Return the answer of `workloads`, filtered."""
    leaves = [leaf_entry(leaf) for leaf in snapshot.leaves if leaf.identity.kind == kind]
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
            }
            for name, domain in snapshot.domains.items()
        }
    }


def pods_body(snapshot: Snapshot) -> Plain:
    """Return the pods: each the sum over all leaves with its uid, ended and evicted ones too."""
    pods: dict[str, list[Leaf]] = {}
    for leaf in snapshot.leaves:
        uid = pod_uid(leaf)
        if uid is not None:
            pods.setdefault(uid, []).append(leaf)
    entries = [_pod_entry(uid, leaves) for uid, leaves in pods.items()]
    return {"pods": entries, **_meters(snapshot)}


def pod_uid(leaf: Leaf) -> str | None:
    """Return the uid of the pod a leaf belongs to; `past:<uid>` holds its evicted leaves'."""
    prefix = f"{PAST_ID}:"
    if leaf.identity.pod_uid is None and leaf.identity.id.startswith(prefix):
        return leaf.identity.id.removeprefix(prefix)
    return leaf.identity.pod_uid


def _pod_entry(uid: str, leaves: list[Leaf]) -> Plain:
    energy = sum_energy(leaf.energy for leaf in leaves)
    powers = [leaf.total_power_w for leaf in leaves if leaf.total_power_w is not None]
    containers = [leaf.identity for leaf in leaves if leaf.identity.kind == "container"]
    running = any(leaf.state == "running" and leaf.identity.kind != "past" for leaf in leaves)
    return {
        "namespace": _first(leaf.identity.namespace for leaf in leaves),
        "name": _first(leaf.identity.pod for leaf in leaves),
        "uid": uid,
        "owner": _first(leaf.identity.owner for leaf in leaves),
        "qos": _first(leaf.identity.qos for leaf in leaves),
        "state": "running" if running else "terminated",
        "labels": dict(next((x.identity.labels for x in leaves if x.identity.labels), {})),
        "containers": [who.id for who in containers if not who.sandbox],
        "sandboxes": [who.id for who in containers if who.sandbox],
        "cpu_seconds": sum(leaf.cpu_ns for leaf in leaves) / SECOND_NS,
        "energy": _energies(energy),
        "total": _total(energy),
        "total_power_w": sum(powers) if powers else None,
    }


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value), None)


def sum_energy(parts: Iterable[Mapping[str, Energy]]) -> dict[str, Energy]:
    """Return the sum by domain, in microjoules."""
    total: dict[str, Energy] = {}
    for part in parts:
        for name, energy in part.items():
            before = total.get(name, Energy())
            total[name] = Energy(
                before.idle_uj + energy.idle_uj, before.dynamic_uj + energy.dynamic_uj
            )
    return total


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
        "energy": _energies(process.energy),
        "total": _total(process.energy),
        "total_power_w": process.total_power_w,
    }


def sources_body(sources: Iterable[SourceStatus], offset_ns: int) -> Plain:
    """Return the health of every source; ``offset_ns`` leads from monotonic to wall time."""
    return {"sources": [_source(source, offset_ns) for source in sources]}


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
        "self": {"cpu_percent": status.cpu_percent, "rss_bytes": status.rss_bytes},
        "conservation_violations": status.conservation_violations,
        "problems": problems_of(status, snapshot),
        "config_rejected": status.config_rejected,
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
    "units": units_body,
    "processes": processes_body,
}
"""The operations that are answered from a snapshot alone: encoded once for all who ask."""

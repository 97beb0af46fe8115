"""Leaves as the plain data of answers, with what is known of their errors; pure."""

import math
import time
from collections.abc import Mapping
from typing import Final

from tychod.model import (
    SYSTEM_ID,
    UNATTRIBUTED_ID,
    Energy,
    Identity,
    Leaf,
    total_domains,
)
from tychod.views import pod_key, shown_cgroup

SECOND_NS: Final = 1_000_000_000
NOTHING: Final = Energy()

Plain = dict[str, object]


def render_time(wall_ns: int) -> str:
    """Return nanoseconds since 1970 as RFC 3339 in UTC, cut to microseconds."""
    seconds, rest_ns = divmod(wall_ns, SECOND_NS)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{rest_ns // 1000:06d}Z"


def leaf_entry(leaf: Leaf, seconds: float) -> Plain:
    """Return one leaf workload; energy in microjoules, power in watts; the window's seconds."""
    return {
        **_identity(leaf.identity),
        "state": leaf.state,
        "first_seen": render_time(leaf.first_seen_ns),
        "ended": None if leaf.ended_ns is None else render_time(leaf.ended_ns),
        "ended_sequence": leaf.ended_sequence,
        "reason": leaf.identity.reason,
        "cpu_seconds": leaf.cpu_ns / SECOND_NS,
        **_vcpu_times(leaf),
        "energy": energies(leaf.energy),
        "total": total_of(leaf.energy),
        "power_w": dict(leaf.power_w),
        "total_power_w": leaf.total_power_w,
        "counters": dict(leaf.counters),
        "uncertainty": _uncertainty(leaf),
        "total_sd_uj": rounded(total_sd_uj(leaf)),
        "total_power_sd_w": sd_w(total_sd_uj(leaf, window_sd_uj_of(leaf)), seconds),
        "intensity_j_per_cpu_s": dict(leaf.intensity),
        "flags": list(leaf.flags),
    }


def _identity(who: Identity) -> Plain:
    """Return who a leaf is, as far as that does not change from window to window."""
    return {
        "kind": who.kind,
        "id": who.id,
        "name": who.name,
        "namespace": who.namespace,
        "pod": who.pod,
        "pod_uid": who.pod_uid,
        "runtime": who.runtime,
        "cgroup": shown_cgroup(who.cgroup),
        "parent": who.parent,
        "tenant": who.tenant,
        "nested": pod_key(who) != who.pod_uid,
        "sandbox": who.sandbox,
        "description": who.description,
        "pid": who.pid,
        "labels": dict(who.labels),
        "labels_known": are_labels_known(who),
        "requests": dict(who.requests),
        "devices": {resource: list(ids) for resource, ids in who.devices.items()},
        "names_from": who.names_from,
        "stale": who.stale,
    }


def are_labels_known(who: Identity) -> bool:
    """Say whether the kubelet has told of the pod: without that no labels are not no labels."""
    return bool(who.labels or who.owner or who.requests)


def _vcpu_times(leaf: Leaf) -> Plain:
    """Return how a VM's CPU time divides into the guest's and its hypervisor's own, in seconds."""
    vcpu_ns = leaf.vcpu_ns
    return {
        "vcpu_seconds": None if vcpu_ns is None else vcpu_ns / SECOND_NS,
        "overhead_seconds": None if vcpu_ns is None else (leaf.cpu_ns - vcpu_ns) / SECOND_NS,
    }


def energies(energy: Mapping[str, Energy]) -> Plain:
    """Return the energy by domain."""
    return {name: {"idle_uj": e.idle_uj, "dynamic_uj": e.dynamic_uj} for name, e in energy.items()}


def total_of(energy: Mapping[str, Energy]) -> Plain:
    """Return the total over the domains that make one up; null, not zero, where there is none."""
    parts = [energy[name] for name in total_domains(energy) if name in energy]
    return {
        "idle_uj": sum(e.idle_uj for e in parts) if parts else None,
        "dynamic_uj": sum(e.dynamic_uj for e in parts) if parts else None,
    }


def _uncertainty(leaf: Leaf) -> Plain:
    """Return one standard deviation by domain, of the running total and of the last window."""
    known, of_window = sd_uj_of(leaf), window_sd_uj_of(leaf)
    return {
        name: {"sd_uj": rounded(known.get(name)), "window_sd_uj": rounded(of_window.get(name))}
        for name in leaf.sd_uj
    }


def sd_uj_of(leaf: Leaf) -> dict[str, float]:
    """Return the standard deviations of a leaf's energy, of the domains where one is estimated.

    Nobody estimates those of a model, of idle energy and of what no CPU time explains: they have
    none of zero.
    """
    return {n: sd_uj for n, sd_uj in leaf.sd_uj.items() if sd_uj or not _is_untold(leaf, n)}


def window_sd_uj_of(leaf: Leaf) -> dict[str, float]:
    """Return those of the last window's part, of the domains where one is estimated."""
    is_nobodys = leaf.identity.kind == UNATTRIBUTED_ID
    return {
        name: sd_uj
        for name, sd_uj in leaf.window_sd_uj.items()
        if sd_uj or not (leaf.power_w.get(name) and (is_nobodys or _is_untold(leaf, name)))
    }


def _is_untold(leaf: Leaf, name: str) -> bool:
    """Say whether nobody estimated how far a leaf's energy of a domain may be off."""
    energy = leaf.energy.get(name, NOTHING)
    if leaf.identity.kind == SYSTEM_ID:
        return energy.total_uj > 0
    return not leaf.sd_uj.get(name) and energy.dynamic_uj > 0


def total_sd_uj(leaf: Leaf, by_domain: Mapping[str, float] | None = None) -> float | None:
    """Return the standard deviation of a leaf's total in microjoules, None where it is not known.

    The domains' errors are independent: each has a meter of its own.
    """
    known = sd_uj_of(leaf) if by_domain is None else by_domain
    names = [name for name in total_domains(leaf.energy) if name in leaf.energy]
    if not names or any(name not in known for name in names):
        return None
    return math.hypot(*(known[name] for name in names))


def rounded(sd_uj: float | None) -> float | None:
    """Return whole nanojoules; None for what no JSON can hold."""
    return round(sd_uj, 3) if sd_uj is not None and math.isfinite(sd_uj) else None


def sd_w(sd_uj: float | None, seconds: float) -> float | None:
    """Return a window's standard deviation as one of power, in watts."""
    known_uj = rounded(sd_uj)
    return None if known_uj is None else known_uj / 1e6 / seconds

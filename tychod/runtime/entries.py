"""Leaves and pods as the plain data of answers, with what is known of their errors; pure."""

import math
import time
from collections.abc import Iterable, Mapping
from typing import Final

from tychod.model import PAST_ID, Energy, Leaf, total_domains

SECOND_NS: Final = 1_000_000_000

Plain = dict[str, object]


def render_time(wall_ns: int) -> str:
    """Return nanoseconds since 1970 as RFC 3339 in UTC, cut to microseconds."""
    seconds, rest_ns = divmod(wall_ns, SECOND_NS)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{rest_ns // 1000:06d}Z"


def leaf_entry(leaf: Leaf, seconds: float) -> Plain:
    """Return one leaf workload; energy in microjoules, power in watts; the window's seconds."""
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
        "energy": energies(leaf.energy),
        "total": total_of(leaf.energy),
        "power_w": dict(leaf.power_w),
        "total_power_w": leaf.total_power_w,
        "counters": dict(leaf.counters),
        "uncertainty": _uncertainty(leaf),
        "total_sd_uj": _rounded(total_sd_uj(leaf)),
        "total_power_sd_w": _sd_w(total_sd_uj(leaf, leaf.window_sd_uj), seconds),
        "intensity_j_per_cpu_s": dict(leaf.intensity),
        "flags": list(leaf.flags),
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
    return {
        name: {
            "sd_uj": _rounded(sd_uj),
            "window_sd_uj": _rounded(leaf.window_sd_uj.get(name)),
        }
        for name, sd_uj in leaf.sd_uj.items()
    }


def total_sd_uj(leaf: Leaf, by_domain: Mapping[str, float] | None = None) -> float | None:
    """Return the standard deviation of a leaf's total in microjoules, None where it is not known.

    The domains' errors are independent: each has a meter of its own.
    """
    known = leaf.sd_uj if by_domain is None else by_domain
    names = [name for name in total_domains(leaf.energy) if name in leaf.energy]
    if not names or any(name not in known for name in names):
        return None
    return math.hypot(*(known[name] for name in names))


def _rounded(sd_uj: float | None) -> float | None:
    """Return whole nanojoules; None for what no JSON can hold."""
    return round(sd_uj, 3) if sd_uj is not None and math.isfinite(sd_uj) else None


def _sd_w(sd_uj: float | None, seconds: float) -> float | None:
    known_uj = _rounded(sd_uj)
    return None if known_uj is None else known_uj / 1e6 / seconds


def pod_uid(leaf: Leaf) -> str | None:
    """Return the uid of the pod a leaf belongs to; `past:<uid>` holds its evicted leaves'."""
    prefix = f"{PAST_ID}:"
    if leaf.identity.pod_uid is None and leaf.identity.id.startswith(prefix):
        return leaf.identity.id.removeprefix(prefix)
    return leaf.identity.pod_uid


def pod_entry(uid: str, leaves: list[Leaf], seconds: float) -> Plain:
    """Return one pod: the sum over its leaves; the window's seconds."""
    energy = sum_energy(leaf.energy for leaf in leaves)
    powers = [leaf.total_power_w for leaf in leaves if leaf.total_power_w is not None]
    containers = [leaf.identity for leaf in leaves if leaf.identity.kind == "container"]
    sds = [(total_sd_uj(leaf), leaf.total.total_uj > 0) for leaf in leaves]
    window_sds = [(total_sd_uj(x, x.window_sd_uj), bool(x.total_power_w)) for x in leaves]
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
        "energy": energies(energy),
        "total": total_of(energy),
        "total_power_w": sum(powers) if powers else None,
        "total_sd_uj": _rounded(_joint_sd_uj(sds)),
        "total_power_sd_w": _sd_w(_joint_sd_uj(window_sds), seconds),
    }


def _joint_sd_uj(found: Iterable[tuple[float | None, bool]]) -> float | None:
    """Return the standard deviation of a sum of leaves, whose errors are taken as independent.

    None where one that matters, since its leaf has energy, is not known.
    """
    needed = [sd for sd, matters in found if sd is not None or matters]
    known = [sd for sd in needed if sd is not None]
    return math.hypot(*known) if known and len(known) == len(needed) else None


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

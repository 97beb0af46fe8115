"""Pods, namespaces and slices as the plain data of answers: sums over leaves; pure."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from tychod.model import Energy, Identity, Leaf, Snapshot, Usage
from tychod.runtime.entries import (
    SECOND_NS,
    Plain,
    are_labels_known,
    energies,
    render_time,
    rounded,
    sd_w,
    total_of,
    total_sd_uj,
    window_sd_uj_of,
)
from tychod.views import NAMESPACE, SLICE, first_known, view_keys
from tychod.views import pod_of as pod_of  # noqa: PLC0414 - others have it from here

NOTHING: Final = Usage(0, {})


class Group(NamedTuple):
    """The leaves of one view, and what its evicted ones had."""

    leaves: list[Leaf]
    folded: Usage = NOTHING


def pod_entries(snapshot: Snapshot) -> list[Plain]:
    """Return the pods: each the sum over all its leaves, ended and evicted ones too."""
    found: dict[str, list[Leaf]] = {}
    for leaf in snapshot.leaves:
        key = pod_of(leaf.identity)
        if key is not None:
            found.setdefault(key, []).append(leaf)
    names = {leaf.identity.id: leaf.identity.name for leaf in snapshot.leaves}
    seconds = snapshot.window.seconds
    return [pod_entry(key, leaves, seconds, names) for key, leaves in found.items()]


def pod_entry(
    key: str, leaves: list[Leaf], seconds: float, names: Mapping[str, str] | None = None
) -> Plain:
    """Return one pod; the window's seconds, and the names of the leaves that it may run in."""
    who = [leaf.identity for leaf in leaves]
    containers = [one for one in who if one.kind == "container"]
    uid, _, tenant = key.partition("@")
    parent = _enclosing(who) if tenant else None
    return {
        "namespace": first_known(one.namespace for one in who),
        "name": first_known(one.pod for one in who),
        "uid": uid,
        "tenant": tenant or None,
        "nested": bool(tenant),
        "parent": parent,
        "parent_name": (names or {}).get(parent) if parent else None,
        "owner": first_known(one.owner for one in who),
        "qos": first_known(one.qos for one in who),
        **_state(leaves),
        "labels": dict(next((one.labels for one in who if one.labels), {})),
        "labels_known": any(are_labels_known(one) for one in who),
        "containers": [one.id for one in containers if not one.sandbox],
        "sandboxes": [one.id for one in containers if one.sandbox],
        **_sums(Group(leaves), seconds),
    }


def _enclosing(members: list[Identity]) -> str | None:
    """Return the id of the workload around a pod: the first parent that is not in the pod."""
    own = {one.id for one in members}
    return first_known(one.parent for one in members if one.parent not in own)


def _state(leaves: list[Leaf]) -> Plain:
    """Return whether anything of a pod runs, else when the last of it ended."""
    present = [leaf for leaf in leaves if leaf.identity.kind != "past"]
    if any(leaf.state == "running" for leaf in present):
        return {"state": "running", "ended": None}
    ends = [leaf.ended_ns for leaf in present if leaf.ended_ns is not None]
    return {"state": "terminated", "ended": render_time(max(ends)) if ends else None}


def namespace_entries(snapshot: Snapshot) -> list[Plain]:
    """Return the namespaces of the host's own pods, by name, evicted leaves included."""
    seconds = snapshot.window.seconds
    return [
        {
            "namespace": key.removeprefix(NAMESPACE),
            "pods": len({pod_of(leaf.identity) for leaf in group.leaves} - {None}),
            **_sums(group, seconds),
        }
        for key, group in sorted(_groups(snapshot, NAMESPACE))
    ]


def slice_entries(snapshot: Snapshot) -> list[Plain]:
    """Return the host's slices in the order of their tree: each the sum of all that is in it."""
    told = {leaf.identity.cgroup: leaf.identity.description for leaf in snapshot.leaves}
    found = [(key.removeprefix(SLICE), group) for key, group in _groups(snapshot, SLICE)]
    return [
        _slice_entry(path, group, told.get(path), snapshot.window.seconds)
        for path, group in sorted(found, key=lambda one: one[0].split("/"))
    ]


def _slice_entry(path: str, group: Group, description: str | None, seconds: float) -> Plain:
    parts = path.strip("/").split("/")
    return {
        "id": parts[-1],
        "cgroup": path,
        "depth": len(parts) - 1,
        "description": description,
        "leaves": len(group.leaves),
        **_sums(group, seconds),
    }


def _groups(snapshot: Snapshot, prefix: str) -> Iterator[tuple[str, Group]]:
    """Yield the views whose keys begin so.

    What evicted leaves had is in one place alone: in a ``past`` leaf that is in the view, or in
    ``folded``.
    """
    found: dict[str, list[Leaf]] = {}
    for leaf in snapshot.leaves:
        for key in view_keys(leaf.identity):
            found.setdefault(key, []).append(leaf)
    for key in {**found, **snapshot.folded}:
        if key.startswith(prefix):
            yield key, Group(found.get(key, []), snapshot.folded.get(key, NOTHING))


def _sums(group: Group, seconds: float) -> Plain:
    """Return CPU time, energy, power and their errors over a group; the window's seconds."""
    leaves, folded = group
    energy = sum_energy([*(leaf.energy for leaf in leaves), folded.energy])
    powers = [leaf.total_power_w for leaf in leaves if leaf.total_power_w is not None]
    had = any(part.total_uj for part in folded.energy.values())  # how sure that is was not kept
    sds = [(None, had), *((total_sd_uj(leaf), leaf.total.total_uj > 0) for leaf in leaves)]
    window_sds = [(total_sd_uj(x, window_sd_uj_of(x)), bool(x.total_power_w)) for x in leaves]
    return {
        "cpu_seconds": (sum(leaf.cpu_ns for leaf in leaves) + folded.cpu_ns) / SECOND_NS,
        "energy": energies(energy),
        "total": total_of(energy),
        "total_power_w": sum(powers) if powers or not leaves else None,  # who is gone has none
        "total_sd_uj": rounded(_joint_sd_uj(sds)),
        "total_power_sd_w": sd_w(_joint_sd_uj(window_sds), seconds),
    }


def _joint_sd_uj(found: Iterable[tuple[float | None, bool]]) -> float | None:
    """Return the standard deviation of a sum of leaves, whose errors are taken as independent.

    None where one that matters, since its leaf has energy, is not known.
    """
    needed = [sd for sd, matters in found if sd is not None or matters]
    known = [sd for sd in needed if sd is not None]
    return math.hypot(*known) if known and len(known) == len(needed) else None


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

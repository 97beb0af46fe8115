"""Our own metrics of pods, containers, VMs, units, processes and all other leaves; pure."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tychod.config_results import Level
from tychod.exposition.family import Shown
from tychod.exposition.scrape import (
    SECOND_NS,
    Rounding,
    Scrape,
    known_domains,
    rounding_of,
    shared_domains,
)
from tychod.exposition.text import Block, Line, joined, labels_text
from tychod.model import Energy, Identity, Leaf, Process, Snapshot
from tychod.views import first_known, pod_key, pod_of, shown_cgroup

LEAF_LEVELS: Final[Mapping[str, Level]] = {"container": "container", "vm": "vm", "unit": "unit"}
"""Kinds of leaves with a level of their own; the others are always there."""
GPU: Final = "gpu"
"""Few workloads have energy of this domain, so the others have no series of it."""


class Owner(NamedTuple):
    """Something that has energy, of a pod's or a leaf's kind."""

    family: str  # what its metrics' names begin with
    labels: str
    energy: Mapping[str, Energy]
    power_w: Mapping[str, float | None]
    cpu_ns: int
    since_ns: int  # wall clock


class Figures(NamedTuple):
    """How energy becomes series: the domains that workloads share, and the rounding."""

    domains: tuple[tuple[str, str, str], ...]  # domain, its label text, what comes after family
    rounding: Rounding


def figures_of(scrape: Scrape) -> Figures:
    """Return how the energy of workloads is shown."""
    shared = [
        (name, f'domain="{name}"', "_part" if role == "part" else "")
        for name, role in shared_domains(scrape.snapshot)
    ]
    return Figures(tuple(shared), rounding_of(scrape))


def owner_lines(owner: Owner, figures: Figures) -> Iterator[Line]:
    """Yield energy, power and CPU time; idle energy and that of GPUs once there is some."""
    family, labels, since_ns = owner.family, owner.labels, owner.since_ns
    joules, watts = figures.rounding.joules, figures.rounding.watts
    for domain, label, part in figures.domains:
        energy = owner.energy.get(domain)
        if energy is None or (domain == GPU and not energy.total_uj):
            continue
        name, head = f"{family}{part}_joules_total", f"{labels},{label}"
        yield name, f'{head},kind="dynamic"', joules(energy.dynamic_uj), since_ns
        if energy.idle_uj:
            yield name, f'{head},kind="idle"', joules(energy.idle_uj), since_ns
        power_w = owner.power_w.get(domain)
        if power_w is not None and not part:
            yield f"{family}_watts", head, watts(power_w), 0
    yield f"{family}_cpu_seconds_total", labels, owner.cpu_ns / SECOND_NS, since_ns


class Names:
    """Gives each leaf of a level an id that no other has, though its maker chose another's."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def unique(self, ident: str, cgroup: str | None) -> str:
        """Return the id, with a mark of its cgroup where it is taken."""
        found, count = ident, 1
        while found in self._seen:
            mark = f"{cgroup}#{count}".encode("utf-8", "surrogatepass")
            found = f"{ident}@{hashlib.sha256(mark).hexdigest()[:12]}"
            count += 1
        self._seen.add(found)
        return found


def leaf_blocks(scrape: Scrape, wanted: Iterable[Shown]) -> Iterator[Block]:
    """Yield the leaves of the wanted levels."""
    figures, wanted = figures_of(scrape), set(wanted)
    names = Names()
    for leaf in scrape.snapshot.leaves:
        level = LEAF_LEVELS.get(leaf.identity.kind)
        if level in wanted:
            yield _leaf_block(leaf, level, names, figures)
    if "vm" in wanted:
        for leaf in scrape.snapshot.views:
            yield _leaf_block(leaf, "vm", names, figures, is_view=True)


def _leaf_block(
    leaf: Leaf, level: Level, names: Names, figures: Figures, *, is_view: bool = False
) -> Block:
    who = leaf.identity
    ident = names.unique(who.id, who.cgroup)
    labels = _leaf_labels(who, level, ident)
    family = "tycho_vm_view" if is_view else f"tycho_{level}"
    owner = Owner(family, labels, leaf.energy, leaf.power_w, leaf.cpu_ns, leaf.first_seen_ns)
    lines = list(owner_lines(owner, figures))
    info = joined(labels, _info_text(leaf, level, is_view=is_view))
    lines.append((f"tycho_{level}_info", info, 1, 0))
    if level == "vm" and leaf.vcpu_ns is not None and not is_view:
        vcpu_s = leaf.vcpu_ns / SECOND_NS
        lines.append(("tycho_vm_vcpu_seconds_total", labels, vcpu_s, leaf.first_seen_ns))
    return Block(level, ident, leaf.total.total_uj, lines)


def _leaf_labels(who: Identity, level: Level, ident: str) -> str:
    if level == "container":
        names = ("namespace", "pod", "container", "id")
        return labels_text(names, (who.namespace, who.pod, who.name, ident))
    return labels_text((level, "id"), (who.name, ident))


def _info_text(leaf: Leaf, level: Level, *, is_view: bool) -> str:
    """Return what is told of a leaf beside the labels of its figures."""
    who = leaf.identity
    if level == "container":
        sandbox = "true" if who.sandbox else "false"
        names = ("uid", "runtime", "sandbox", "state")
        return labels_text(names, (pod_key(who), who.runtime, sandbox, leaf.state))
    if level == "vm":
        held_by = who.parent if is_view else None
        more = ("hypervisor", "namespace", "pod", "held_by", "state")
        return labels_text(more, (who.runtime, who.namespace, who.pod, held_by, leaf.state))
    return labels_text(("cgroup", "state"), (shown_cgroup(who.cgroup), leaf.state))


def other_block(scrape: Scrape) -> Block:
    """Return the leaves that are always there; all that is past is one."""
    figures = figures_of(scrape)
    found: dict[str, list[Leaf]] = {}
    for leaf in scrape.snapshot.leaves:
        if leaf.identity.kind not in LEAF_LEVELS:
            found.setdefault(leaf.identity.kind, []).append(leaf)
    lines: list[Line] = []
    for kind, leaves in found.items():
        labels = labels_text(("workload",), (kind,))
        # As old as the counters: its leaves come and go, and their sum has no younger begin.
        owner = _summed("tycho_other", labels, leaves, scrape.snapshot.since_ns)
        lines += owner_lines(owner, figures)
    return Block("node", "other", 0, lines)


def _summed(family: str, labels: str, leaves: Sequence[Leaf], since_ns: int) -> Owner:
    """Return the sum of some leaves, by domain."""
    if len(leaves) == 1:
        leaf = leaves[0]
        return Owner(family, labels, leaf.energy, leaf.power_w, leaf.cpu_ns, since_ns)
    totals: dict[str, Energy] = {}
    powers: dict[str, float | None] = {}
    for leaf in leaves:
        for name, part in leaf.energy.items():
            had = totals.get(name)
            totals[name] = part if had is None else _added(had, part)
        for name, power_w in leaf.power_w.items():
            if power_w is not None:
                powers[name] = (powers.get(name) or 0.0) + power_w
    cpu_ns = sum(leaf.cpu_ns for leaf in leaves)
    return Owner(family, labels, totals, powers, cpu_ns, since_ns)


def _added(one: Energy, other: Energy) -> Energy:
    return Energy(one.idle_uj + other.idle_uj, one.dynamic_uj + other.dynamic_uj)


def pods_of(snapshot: Snapshot) -> dict[str, list[Leaf]]:
    """Return the leaves of each pod, evicted ones included, by what tells the pod from others."""
    found: dict[str, list[Leaf]] = {}
    for leaf in snapshot.leaves:
        key = pod_of(leaf.identity)
        if key is not None:
            found.setdefault(key, []).append(leaf)
    return found


def pod_state(leaves: Iterable[Leaf]) -> str:
    """Say whether anything of a pod runs."""
    runs = any(leaf.state == "running" and leaf.identity.kind != "past" for leaf in leaves)
    return "running" if runs else "terminated"


def pod_blocks(scrape: Scrape) -> Iterator[Block]:
    """Yield the pods: each the sum of its leaves."""
    figures = figures_of(scrape)
    for key, leaves in pods_of(scrape.snapshot).items():
        who = [leaf.identity for leaf in leaves]
        names = first_known(one.namespace for one in who), first_known(one.pod for one in who), key
        labels = labels_text(("namespace", "pod", "uid"), names)
        since_ns = min(leaf.first_seen_ns for leaf in leaves)
        lines = list(owner_lines(_summed("tycho_pod", labels, leaves, since_ns), figures))
        told = (
            first_known(one.owner for one in who),
            first_known(one.qos for one in who),
            pod_state(leaves),
        )
        tenant = key.partition("@")[2]
        info = labels_text(("owner", "qos", "state", "tenant"), (*told, tenant))
        lines.append(("tycho_pod_info", joined(labels, info), 1, 0))
        yield Block("pod", key, sum(leaf.total.total_uj for leaf in leaves), lines)


def process_blocks(scrape: Scrape) -> Iterator[Block]:
    """Yield the processes; none where they are not accounted."""
    found = scrape.snapshot.processes
    shown = known_domains(scrape.snapshot)
    domains = [one for one in figures_of(scrape).domains if one[0] in shown]
    rounding = rounding_of(scrape)
    seen: set[tuple[int, str]] = set()
    for process in found.entries if found else ():
        start = f"{process.start_ns / SECOND_NS:.2f}"
        if (process.pid, start) not in seen:
            seen.add((process.pid, start))
            yield _process_block(process, start, domains, rounding)


def _process_block(
    process: Process, start: str, domains: Sequence[tuple[str, str, str]], rounding: Rounding
) -> Block:
    names = ("pid", "start", "comm", "id")
    labels = labels_text(names, (str(process.pid), start, process.comm, process.workload))
    lines: list[Line] = []
    for domain, label, part in domains:
        energy = process.energy.get(domain)
        if energy is not None:
            name = f"tycho_process{part}_joules_total"
            joules = rounding.joules(energy.dynamic_uj)
            lines.append((name, f"{labels},{label}", joules, process.start_ns))
    if process.total_power_w is not None:
        lines.append(("tycho_process_watts", labels, rounding.watts(process.total_power_w), 0))
    cpu_s = process.cpu_ns / SECOND_NS
    lines.append(("tycho_process_cpu_seconds_total", labels, cpu_s, process.start_ns))
    total_uj = sum(process.energy[name].total_uj for name in process.energy)
    return Block("process", f"{process.pid} {start}", total_uj, lines)

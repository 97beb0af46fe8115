"""Kepler's metrics: its names and labels, with our figures; pure.

Kepler's active energy is our dynamic energy, and workloads have no idle energy there.  What power
no snapshot tells is the growth of an energy since the window before.
"""

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from tychod.exposition.family import Shown
from tychod.exposition.owners import GPU, pod_state, pods_of
from tychod.exposition.scrape import (
    SECOND_NS,
    Rounding,
    Scrape,
    known_domains,
    rounding_of,
)
from tychod.exposition.table import FAMILIES
from tychod.exposition.text import Block, Line, joined, labels_text
from tychod.model import Energy, Gpu, Leaf, Process, Snapshot
from tychod.views import first_known, pod_key

ZONES: Final = ("package", "core", "dram", "uncore", "psys")
"""Kepler's zones of the CPU; they overlap."""
VENDOR: Final = "nvidia"
"""The only one that tychod reads."""


class Past(NamedTuple):
    """The window before, where it is the one right before: energies by who had them."""

    seconds: float
    snapshot: Snapshot
    leaves: Mapping[str, Leaf]
    processes: Mapping[tuple[int, int], Process]


class Figures(NamedTuple):
    """How energy becomes series."""

    node_name: str  # label text
    zones: tuple[str, ...]
    has_gpu: bool
    rounding: Rounding
    past: Past | None

    def grown_w(self, now: Energy | None, then: Energy | None) -> float | None:
        """Return the dynamic power of the last window; None without the window before."""
        if self.past is None or now is None:
            return None
        had_uj = then.dynamic_uj if then else 0
        return self.rounding.watts(max(now.dynamic_uj - had_uj, 0) / 1e6 / self.past.seconds)


class Owner(NamedTuple):
    """Something that has energy, as Kepler tells it."""

    family: str
    labels: str
    energy: Mapping[str, Energy]
    then: Mapping[str, Energy]  # at the end of the window before
    since_ns: int


def figures_of(scrape: Scrape) -> Figures:
    """Return how energy is shown."""
    known = known_domains(scrape.snapshot)
    zones = tuple(name for name in ZONES if name in known)
    node_name = labels_text(("node_name",), (scrape.facts.node,))
    return Figures(node_name, zones, GPU in known, rounding_of(scrape), _past_of(scrape))


def _past_of(scrape: Scrape) -> Past | None:
    before, snapshot = scrape.before, scrape.snapshot
    if before is None or before.sequence + 1 != snapshot.sequence:
        return None
    listed = before.processes.entries if before.processes else ()
    return Past(
        snapshot.window.seconds,
        before,
        {leaf.identity.id: leaf for leaf in (*before.leaves, *before.views)},
        {(process.pid, process.start_ns): process for process in listed},
    )


def blocks(scrape: Scrape, wanted: Iterable[Shown]) -> Iterator[Block]:
    """Yield all series of the wanted levels."""
    figures, wanted = figures_of(scrape), set(wanted)
    yield Block("self", "self", 0, [_build(scrape)])
    yield Block("node", "node", 0, list(_node(scrape, figures)))
    if "pod" in wanted:
        yield from _pods(scrape.snapshot, figures)
    if "container" in wanted:
        leaves = (leaf for leaf in scrape.snapshot.leaves if leaf.identity.kind == "container")
        yield from _once(_container(leaf, figures) for leaf in leaves)
    if "vm" in wanted:
        held = (*scrape.snapshot.leaves, *scrape.snapshot.views)
        leaves = (leaf for leaf in held if leaf.identity.kind == "vm")
        yield from _once(_vm(leaf, figures) for leaf in leaves)
    if "process" in wanted:
        yield from _processes(scrape.snapshot, figures)


def _once(found: Iterable[Block]) -> Iterator[Block]:
    """Yield the first of those with one key: a duplicate series would fail the whole scrape."""
    seen: set[str] = set()
    for block in found:
        if block.key not in seen:
            seen.add(block.key)
            yield block


def _build(scrape: Scrape) -> Line:
    values = (
        os.uname().machine,
        "",
        scrape.facts.commit,
        scrape.facts.version,
        f"python{platform.python_version()}",
    )
    name = "kepler_build_info"
    return name, labels_text(FAMILIES[name].labels, values), 1, 0


def _node(scrape: Scrape, figures: Figures) -> Iterator[Line]:
    snapshot = scrape.snapshot
    for zone in figures.zones:
        yield from _zone(zone, snapshot, figures)
    for gpu in snapshot.gpus:
        yield from _gpu(gpu, snapshot.since_ns, figures)
    yield from _supplies(snapshot, figures)
    cpus = os.cpu_count()
    if figures.past is not None and cpus:
        had_ns = sum(leaf.cpu_ns for leaf in figures.past.snapshot.leaves)
        used_ns = sum(leaf.cpu_ns for leaf in snapshot.leaves) - had_ns
        ratio = used_ns / SECOND_NS / cpus / figures.past.seconds
        yield (
            "kepler_node_cpu_usage_ratio",
            figures.node_name,
            round(min(max(ratio, 0.0), 1.0), 4),
            0,
        )


def _zone(zone: str, snapshot: Snapshot, figures: Figures) -> Iterator[Line]:
    """Yield one zone of the CPU; path says which source it is read by."""
    domain, since_ns, rounding = snapshot.domains[zone], snapshot.since_ns, figures.rounding
    labels = labels_text(("zone", "path"), (zone, domain.source))
    labels = joined(labels, figures.node_name)
    total = "kepler_node_cpu"
    yield f"{total}_joules_total", labels, rounding.joules(domain.energy_uj), since_ns
    if domain.power_w is not None:
        yield f"{total}_watts", labels, rounding.watts(domain.power_w), 0
    if domain.idle_uj is None or domain.dynamic_uj is None:
        return
    then = figures.past.snapshot.domains.get(zone) if figures.past else None
    parts = (("idle", domain.idle_uj), ("active", domain.dynamic_uj))
    for part, energy_uj in parts:
        name = f"{total}_{part}"
        yield f"{name}_joules_total", labels, rounding.joules(energy_uj), since_ns
        if figures.past is not None and then is not None:
            had_uj = then.idle_uj if part == "idle" else then.dynamic_uj
            grown_w = max(energy_uj - (had_uj or 0), 0) / 1e6 / figures.past.seconds
            yield f"{name}_watts", labels, rounding.watts(grown_w), 0


def _gpu(gpu: Gpu, since_ns: int, figures: Figures) -> Iterator[Line]:
    names = ("gpu", "gpu_uuid", "gpu_name", "vendor")
    labels = labels_text(names, (str(gpu.number), gpu.uuid, gpu.name, VENDOR))
    labels, rounding = joined(labels, figures.node_name), figures.rounding
    total = "kepler_node_gpu"
    yield f"{total}_info", labels, 1, 0
    energy = gpu.energy
    if gpu.quality != "unavailable" or energy.total_uj:
        for part, uj in (
            ("", energy.total_uj),
            ("_idle", energy.idle_uj),
            ("_active", energy.dynamic_uj),
        ):
            yield f"{total}{part}_joules_total", labels, rounding.joules(uj), since_ns
    if gpu.power_w is not None:
        yield f"{total}_watts", labels, rounding.watts(gpu.power_w), 0
        if gpu.idle_w is not None:
            active_w = max(gpu.power_w - gpu.idle_w, 0.0)
            yield f"{total}_active_watts", labels, rounding.watts(active_w), 0
    if gpu.idle_w is not None:
        yield f"{total}_idle_watts", labels, rounding.watts(gpu.idle_w), 0


def _supplies(snapshot: Snapshot, figures: Figures) -> Iterator[Line]:
    """Yield each meter of the whole machine; which BMC and chassis it is of is in its name."""
    domain = snapshot.domains.get("platform")
    names = ("source", "bmc_id", "chassis_id", "source_id", "source_name", "source_type")
    seen: set[str] = set()
    for zone in domain.zones if domain else ():
        if zone.power_w is None or zone.name in seen or domain is None:
            continue
        seen.add(zone.name)
        values = (domain.source, "", "", zone.name, zone.name, zone.method)
        labels = joined(labels_text(names, values), figures.node_name)
        yield "kepler_platform_watts", labels, figures.rounding.watts(zone.power_w), 0


def _owner_lines(owner: Owner, figures: Figures, *, has_gpu: bool = True) -> Iterator[Line]:
    """Yield the dynamic energy and power by zone, and of GPUs where there is some."""
    joules = figures.rounding.joules
    family, base = owner.family, owner.labels
    for zone in figures.zones:
        energy = owner.energy.get(zone)
        if energy is None:
            continue
        labels = f'{base},zone="{zone}",{figures.node_name}'
        yield f"{family}_cpu_joules_total", labels, joules(energy.dynamic_uj), owner.since_ns
        power_w = figures.grown_w(energy, owner.then.get(zone))
        if power_w is not None:
            yield f"{family}_cpu_watts", labels, power_w, 0
    energy = owner.energy.get(GPU)
    if has_gpu and energy is not None and energy.dynamic_uj > 0:
        labels = f"{base},{figures.node_name}"
        yield f"{family}_gpu_joules_total", labels, joules(energy.dynamic_uj), owner.since_ns
        power_w = figures.grown_w(energy, owner.then.get(GPU))
        if power_w:
            yield f"{family}_gpu_watts", labels, power_w, 0


def _then(leaf: Leaf, figures: Figures) -> Mapping[str, Energy]:
    found = figures.past.leaves.get(leaf.identity.id) if figures.past else None
    return found.energy if found and found.first_seen_ns == leaf.first_seen_ns else {}


def _container(leaf: Leaf, figures: Figures) -> Block:
    who = leaf.identity
    names = ("container_id", "container_name", "runtime", "state", "pod_id")
    labels = labels_text(names, (who.id, who.name, who.runtime, leaf.state, pod_key(who)))
    then = _then(leaf, figures)
    owner = Owner("kepler_container", labels, leaf.energy, then, leaf.first_seen_ns)
    lines = list(_owner_lines(owner, figures))
    labels, cpu_s = f"{labels},{figures.node_name}", leaf.cpu_ns / SECOND_NS
    lines.append(("kepler_container_cpu_seconds_total", labels, cpu_s, leaf.first_seen_ns))
    return Block("container", who.id, leaf.total.dynamic_uj, lines)


def _vm(leaf: Leaf, figures: Figures) -> Block:
    who = leaf.identity
    names = ("vm_id", "vm_name", "hypervisor", "state")
    labels = labels_text(names, (who.id, who.name, who.runtime, leaf.state))
    owner = Owner("kepler_vm", labels, leaf.energy, _then(leaf, figures), leaf.first_seen_ns)
    lines = list(_owner_lines(owner, figures, has_gpu=False))
    return Block("vm", who.id, leaf.total.dynamic_uj, lines)


def _pods(snapshot: Snapshot, figures: Figures) -> Iterator[Block]:
    names = ("pod_id", "pod_name", "pod_namespace", "state")
    # By pod, not by leaf: what is evicted moves within its pod, and that is no growth.
    before = pods_of(figures.past.snapshot) if figures.past else {}
    for key, leaves in pods_of(snapshot).items():
        who = [leaf.identity for leaf in leaves]
        pod, namespace = (
            first_known(one.pod for one in who),
            first_known(one.namespace for one in who),
        )
        labels = labels_text(names, (key, pod, namespace, pod_state(leaves)))
        since_ns = min(leaf.first_seen_ns for leaf in leaves)
        energy = _dynamic(leaf.energy for leaf in leaves)
        then = _dynamic(leaf.energy for leaf in before.get(key, ()))
        owner = Owner("kepler_pod", labels, energy, then, since_ns)
        total_uj = sum(leaf.total.dynamic_uj for leaf in leaves)
        yield Block("pod", key, total_uj, list(_owner_lines(owner, figures)))


def _dynamic(parts: Iterable[Mapping[str, Energy]]) -> dict[str, Energy]:
    """Return the sum of dynamic energies, by domain."""
    totals: dict[str, int] = {}
    for part in parts:
        for name, energy in part.items():
            totals[name] = totals.get(name, 0) + energy.dynamic_uj
    return {name: Energy(0, total_uj) for name, total_uj in totals.items()}


def _processes(snapshot: Snapshot, figures: Figures) -> Iterator[Block]:
    """Yield each pid once: of those that had it, one that runs, else the latest."""
    kinds = {leaf.identity.id: leaf.identity.kind for leaf in snapshot.leaves}
    found = snapshot.processes.entries if snapshot.processes else ()
    ranked = sorted(found, key=lambda one: (one.state != "running", -one.start_ns))
    yield from _once(_process(one, kinds.get(one.workload, "system"), figures) for one in ranked)


def _process(process: Process, kind: str, figures: Figures) -> Block:
    """Return one process; exe is not read, so it is empty."""
    who = {
        "pid": str(process.pid),
        "comm": process.comm,
        "exe": "",
        "type": kind if kind in ("container", "vm") else "regular",
        "container_id": process.workload if kind == "container" else "",
        "vm_id": process.workload if kind == "vm" else "",
    }
    base = labels_text(who, who.values())
    state = labels_text(("state",), (process.state,))
    past = figures.past.processes if figures.past else {}
    before = past.get((process.pid, process.start_ns))
    then = before.energy if before else {}
    labels = f"{base},{state}"
    owner = Owner("kepler_process", labels, process.energy, then, process.start_ns)
    lines = list(_owner_lines(owner, figures))
    cpu_s = process.cpu_ns / SECOND_NS
    name, labels = "kepler_process_cpu_seconds_total", f"{base},{figures.node_name}"
    lines.append((name, labels, cpu_s, process.start_ns))
    total_uj = sum(energy.dynamic_uj for energy in process.energy.values())
    return Block("process", str(process.pid), total_uj, lines)

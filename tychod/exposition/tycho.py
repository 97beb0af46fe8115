"""Our own metrics of the daemon, the node and its GPUs; pure."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, get_args

from tychod.exposition.family import LEVELS, Shown
from tychod.exposition.scrape import (
    SECOND_NS,
    Rounding,
    Scrape,
    known_domains,
    role_of,
    rounding_of,
)
from tychod.exposition.table import FAMILIES
from tychod.exposition.text import Block, Line, joined, labels_text
from tychod.model import Domain, Gpu, Quality, Residual, Snapshot, SourceStatus

QUALITIES: Final[tuple[str, ...]] = get_args(Quality)
SOURCE_STATES: Final = ("ok", "stalled", "unavailable", "absent", "off")
DAEMON_STATES: Final = ("starting", "running", "degraded")


def one(name: str, value: float, *labels: str | None, since_ns: int = 0) -> Line:
    """Return one series of a family of the table."""
    name = f"tycho_{name}"
    return name, labels_text(FAMILIES[name].labels, labels), value, since_ns


def states(name: str, known: Iterable[str], is_in: str, *labels: str | None) -> Iterator[Line]:
    """Yield 1 for the state that something is in and 0 for the others."""
    for state in known:
        yield one(name, int(state == is_in), *labels, state)


def self_block(scrape: Scrape, threads: int) -> Block:
    """Return what the daemon tells of itself and its sources."""
    lines = [*_facts(scrape), *_window(scrape.snapshot), *_daemon(scrape, threads)]
    for source in scrape.status.sources:
        lines += _source(source, scrape.snapshot.wall_offset_ns)
    return Block("self", "self", 0, lines)


def exporter_lines(
    shown: Mapping[Shown, int], dropped: Mapping[Shown, int], quantum_j: float
) -> Iterator[Line]:
    """Yield what is in a scrape and what is left out, both in series by level."""
    for level in LEVELS:
        yield one("exporter_series", shown.get(level, 0), level)
        yield one("exporter_series_dropped", dropped.get(level, 0), level)
    yield one("exporter_energy_quantum_joules", quantum_j)


ZONE_FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {"total": "zone", "part": "zone_part", "whole": "zone_platform", "other": "zone_other"}
)
EXPORTER_SERIES: Final = 2 * len(LEVELS) + 1


def _facts(scrape: Scrape) -> Iterator[Line]:
    facts, snapshot = scrape.facts, scrape.snapshot
    yield one("build_info", 1, facts.version, facts.commit, facts.built)
    yield one("node_info", 1, facts.node, facts.boot_id)
    yield one("accounting_info", 1, facts.accounting_method, facts.hierarchy)
    yield one("attribution_info", 1, snapshot.idle_policy, snapshot.gpu_idle_policy)
    figures = facts.accounting
    yield one("accounting_late_seconds_total", figures.late_ns / SECOND_NS)
    yield one("accounting_dropped_total", figures.dropped)
    yield one("accounting_exhausted_total", figures.exhausted)
    yield one("accounting_stalls_total", figures.stalls)


def _window(snapshot: Snapshot) -> Iterator[Line]:
    end_ns = snapshot.window.end_ns + snapshot.wall_offset_ns
    yield one("since_timestamp_seconds", snapshot.since_ns / SECOND_NS)
    yield one("windows_total", snapshot.sequence, since_ns=snapshot.since_ns)
    yield one("window_end_timestamp_seconds", end_ns / SECOND_NS)
    yield one("window_seconds", snapshot.window.seconds)
    yield one("window_gap", int(snapshot.gap))
    yield one("conservation_violations_total", snapshot.conservation_violations)


def _daemon(scrape: Scrape, threads: int) -> Iterator[Line]:
    status = scrape.status
    yield from states("daemon_state", DAEMON_STATES, status.state)
    yield one("daemon_uptime_seconds", round(status.uptime_s, 3))
    cpu_s = status.cpu_percent / 100.0 * status.uptime_s
    yield one("daemon_cpu_seconds_total", round(cpu_s, 3))
    yield one("daemon_resident_memory_bytes", status.rss_bytes)
    yield one("daemon_threads", threads)
    yield one("daemon_config_rejected", int(status.config_rejected is not None))


def _source(source: SourceStatus, offset_ns: int) -> Iterator[Line]:
    name = source.name
    is_absent = source.absent and source.state == "unavailable"
    yield from states("source_state", SOURCE_STATES, "absent" if is_absent else source.state, name)
    yield from states("source_quality", QUALITIES, source.quality, name)
    yield one("source_samples_total", source.samples, name)
    yield one("source_errors_total", source.errors, name)
    yield one("source_late_total", source.late, name)
    yield one("source_interval_seconds", source.interval_s, name)
    if source.last_sample_ns is not None:
        at_s = (source.last_sample_ns + offset_ns) / SECOND_NS
        yield one("source_last_sample_timestamp_seconds", at_s, name)


def node_block(scrape: Scrape) -> Block:
    """Return the node by domain and zone."""
    snapshot, rounding = scrape.snapshot, rounding_of(scrape)
    lines: list[Line] = []
    for name, domain in known_domains(snapshot).items():
        lines += _energy(name, domain, snapshot, rounding)
        lines += _zones(name, domain, snapshot, rounding)
    for name, domain in snapshot.domains.items():
        lines += _quality(name, domain, snapshot, rounding)
    if snapshot.residual is not None:
        lines += _residual(snapshot.residual, rounding)
    cpu_s = sum(leaf.cpu_ns for leaf in snapshot.leaves) / SECOND_NS
    lines.append(one("node_cpu_seconds_total", cpu_s, since_ns=snapshot.since_ns))
    return Block("node", "node", 0, lines)


def _energy(name: str, domain: Domain, snapshot: Snapshot, rounding: Rounding) -> Iterator[Line]:
    since_ns, role = snapshot.since_ns, role_of(name, snapshot)
    family = "node_part" if role == "part" else "node"
    labels: tuple[str, ...] = (name,)
    if role == "other":
        return
    if role == "whole":
        family, labels = f"node_{name}", ()
        joules = rounding.joules(domain.energy_uj)
        yield one(f"{family}_joules_total", joules, since_ns=since_ns)
    elif domain.idle_uj is not None and domain.dynamic_uj is not None:
        for kind, uj in (("idle", domain.idle_uj), ("dynamic", domain.dynamic_uj)):
            joules = rounding.joules(uj)
            yield one(f"{family}_joules_total", joules, name, kind, since_ns=since_ns)
    if domain.power_w is not None:
        yield one(f"{family}_watts", rounding.watts(domain.power_w), *labels)


def _zones(name: str, domain: Domain, snapshot: Snapshot, rounding: Rounding) -> Iterator[Line]:
    """Yield the meters of a domain; psys beside a package has one alone: itself."""
    role = role_of(name, snapshot)
    if role == "whole" and name != "platform":
        return
    family = ZONE_FAMILIES[role]
    seen: dict[tuple[str, str], int] = {}
    for zone in domain.zones:
        socket = "" if zone.socket is None else str(zone.socket)
        who = zone.uuid or zone.name
        again = seen[who, socket] = seen.get((who, socket), 0) + 1
        labels = (name, who if again == 1 else f"{who}#{again}", socket)
        yield one("zone_info", 1, *labels, zone.quality, zone.method)
        if zone.quality == "unavailable" and not zone.energy_uj:
            continue
        yield one(f"{family}_joules_total", rounding.joules(zone.energy_uj), *labels)
        if zone.power_w is not None and role != "part":
            yield one(f"{family}_watts", rounding.watts(zone.power_w), *labels)


def _quality(name: str, domain: Domain, snapshot: Snapshot, rounding: Rounding) -> Iterator[Line]:
    yield one("domain_info", 1, name, domain.source, role_of(name, snapshot))
    yield from states("domain_quality", QUALITIES, domain.quality, name)
    if domain.through_ns is not None:
        at_s = (domain.through_ns + snapshot.wall_offset_ns) / SECOND_NS
        yield one("domain_through_timestamp_seconds", at_s, name)
    if domain.coverage is not None:
        yield one("domain_coverage_ratio", round(domain.coverage, 4), name)
    if domain.idle_floor is not None:
        floor_w = rounding.watts(domain.idle_floor.power_w)
        yield one("domain_idle_floor_watts", floor_w, name)
        yield one("domain_idle_confidence_ratio", round(domain.idle_floor.confidence, 4), name)


def _residual(residual: Residual, rounding: Rounding) -> Iterator[Line]:
    yield one("node_residual_joules", rounding.joules(residual.idle_uj), "idle")
    yield one("node_residual_joules", rounding.joules(residual.dynamic_uj), "dynamic")
    yield one("node_residual_usable", int(residual.usable))
    if residual.power_w is not None:
        yield one("node_residual_watts", rounding.watts(residual.power_w))


def gpu_blocks(scrape: Scrape) -> Iterator[Block]:
    """Yield each GPU."""
    rounding = rounding_of(scrape)
    for gpu in scrape.snapshot.gpus:
        lines = [*_gpu(gpu, rounding, scrape.snapshot.since_ns), *_gpu_state(gpu)]
        yield Block("gpu", gpu.uuid, gpu.energy.total_uj, lines)


def _gpu(gpu: Gpu, rounding: Rounding, since_ns: int) -> Iterator[Line]:
    who = (str(gpu.number), gpu.uuid)
    if gpu.quality != "unavailable" or gpu.energy.total_uj:
        for kind, uj in (("idle", gpu.energy.idle_uj), ("dynamic", gpu.energy.dynamic_uj)):
            yield one("gpu_joules_total", rounding.joules(uj), *who, kind, since_ns=since_ns)
    if gpu.power_w is not None:
        yield one("gpu_watts", rounding.watts(gpu.power_w), *who)
    if gpu.idle_w is not None:
        yield one("gpu_idle_watts", rounding.watts(gpu.idle_w), *who)
    base = labels_text(("gpu", "gpu_uuid"), who)
    for leaf_id, power_w in gpu.workloads.items():
        labels = joined(base, labels_text(("id",), (leaf_id,)))
        yield "tycho_gpu_workload_watts", labels, rounding.watts(power_w), 0


def _gpu_state(gpu: Gpu) -> Iterator[Line]:
    who = (str(gpu.number), gpu.uuid)
    yield one("gpu_info", 1, *who, gpu.name, gpu.pci, gpu.method)
    yield from states("gpu_quality", QUALITIES, gpu.quality, *who)
    told = {
        "gpu_utilization_ratio": (gpu.sm_percent, 0.01),
        "gpu_memory_used_bytes": (gpu.memory_used_bytes, 1),
        "gpu_memory_bytes": (gpu.memory_total_bytes, 1),
        "gpu_clock_hertz": (gpu.sm_mhz, 1_000_000),
        "gpu_temperature_celsius": (gpu.celsius, 1),
    }
    for name, (value, factor) in told.items():
        if value is not None:
            yield one(name, round(value * factor, 2), *who)

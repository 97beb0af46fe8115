"""The table of all metrics: names, types, labels and help; text, manual and tests come from it.

A sum over one family never counts anything twice: what is a part of something else, or encloses
it, is a family of its own.  Domains of the families without ``part``: ``package, dram, gpu``, and
``psys`` where there is no package.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from tychod.exposition.family import Family, MetricType, Shown
from tychod.exposition.table_kepler import KEPLER

_POD: Final = ("namespace", "pod", "uid")
_CONTAINER: Final = ("namespace", "pod", "container", "id")
_GPU: Final = ("gpu", "gpu_uuid")
_ZONE: Final = ("domain", "zone", "socket")
_SPLIT: Final = ("domain", "kind")
_OWNERS: Final[Mapping[Shown, tuple[str, tuple[str, ...], str]]] = MappingProxyType(
    {
        "pod": ("pod", _POD, "a pod: all its containers, pause and ended ones included"),
        "container": ("container", _CONTAINER, "a container"),
        "vm": ("vm", ("vm", "id"), "a virtual machine that is in no other workload"),
        "unit": ("unit", ("unit", "id"), "a systemd unit, what is in its containers excluded"),
    }
)
LATER: Final = '; kind="idle" and domain="gpu" are there once it has had some'


def _row(
    name: str,
    metric_type: MetricType,
    labels: tuple[str, ...],
    level: Shown,
    source: str,
    text: str,
) -> Family:
    return Family(f"tycho_{name}", metric_type, labels, text, level, _unit(name), "tycho", source)


def _unit(name: str) -> str:
    """Return the base unit that a name ends with; counters have _total behind it."""
    word = name.removesuffix("_total").rpartition("_")[2]
    units = ("joules", "watts", "seconds", "bytes", "ratio", "celsius", "hertz")
    return word if word in units else ""


def _owner_rows() -> Iterator[Family]:
    """Yield what there is of pods, containers, VMs and units alike."""
    for level, (name, labels, what) in _OWNERS.items():
        leaf = "sums over the leaves" if level == "pod" else "Leaf"
        yield _row(
            f"{name}_joules_total",
            "counter",
            (*labels, *_SPLIT),
            level,
            f"{leaf}.energy",
            f"Energy of {what}{LATER}.",
        )
        yield _row(
            f"{name}_part_joules_total",
            "counter",
            (*labels, *_SPLIT),
            level,
            f"{leaf}.energy",
            f"The part of the package energy of {what}, in core and uncore.",
        )
        yield _row(
            f"{name}_watts",
            "gauge",
            (*labels, "domain"),
            level,
            f"{leaf}.power_w",
            f"Mean power over the last window of {what}, idle share included.",
        )
        yield _row(
            f"{name}_cpu_seconds_total",
            "counter",
            labels,
            level,
            f"{leaf}.cpu_ns",
            f"CPU time of {what}.",
        )


SELF: Final = (
    _row("build_info", "info", ("version", "revision", "built"), "self", "NodeFacts", "Build."),
    _row("node_info", "info", ("node", "boot_id"), "self", "NodeFacts", "Which node this is."),
    _row(
        "accounting_info",
        "info",
        ("method", "hierarchy"),
        "self",
        "NodeFacts",
        "How CPU time is accounted.",
    ),
    _row(
        "attribution_info",
        "info",
        ("idle_policy", "gpu_idle_policy"),
        "self",
        "Snapshot",
        "Who is given idle energy.",
    ),
    _row("since_timestamp_seconds", "gauge", (), "self", "Snapshot.since_ns",
         "When all counters of energy and CPU time began."),
    _row("windows_total", "counter", (), "self", "Snapshot.sequence",
         "Windows measured; goes on over a restart of the daemon."),
    _row("window_end_timestamp_seconds", "gauge", (), "self", "Snapshot.window",
         "End of the window that these metrics are of."),
    _row("window_seconds", "gauge", (), "self", "Snapshot.window", "Length of that window."),
    _row("window_gap", "gauge", (), "self", "Snapshot.gap",
         "1 where that window spans a restart of the daemon."),
    _row("conservation_violations_total", "counter", (), "self",
         "Snapshot.conservation_violations",
         "Checks in which the workloads did not add up to the node: a fault of tychod."),
    _row("daemon_state", "gauge", ("state",), "self", "DaemonStatus.state",
         "1 for the state that the daemon is in: starting, running or degraded."),
    _row("daemon_uptime_seconds", "gauge", (), "self", "DaemonStatus.uptime_s",
         "How long the daemon runs."),
    _row("daemon_cpu_seconds_total", "counter", (), "self", "DaemonStatus.cpu_percent x uptime_s",
         "CPU time of the daemon itself."),
    _row("daemon_resident_memory_bytes", "gauge", (), "self", "DaemonStatus.rss_bytes",
         "Memory of the daemon itself."),
    _row("daemon_threads", "gauge", (), "self", "the interpreter", "Threads of the daemon itself."),
    _row("daemon_config_rejected", "gauge", (), "self", "DaemonStatus.config_rejected",
         "1 while the last reload was refused: its reason is in tychoctl status."),
    _row("accounting_late_seconds_total", "counter", (), "self", "AccountingFigures.late_ns",
         "CPU time that is in the totals, but whose bin is not known."),
    _row("accounting_dropped_total", "counter", (), "self", "AccountingFigures.dropped",
         "Cgroups and records that found no room."),
    _row("accounting_exhausted_total", "counter", (), "self", "AccountingFigures.exhausted",
         "Readings that never found all CPUs at rest."),
    _row("accounting_stalls_total", "counter", (), "self", "AccountingFigures.stalls",
         "Readings so late that their bins were lost."),
    _row("source_state", "gauge", ("source", "state"), "self", "SourceStatus.state, absent",
         "1 for the state that a source is in: ok, stalled, unavailable, absent (this host has "
         "no such thing) or off."),
    _row("source_quality", "gauge", ("source", "quality"), "self", "SourceStatus.quality",
         "1 for the quality of what a source gives: measured, modelled, stale or unavailable."),
    _row("source_samples_total", "counter", ("source",), "self", "SourceStatus.samples",
         "Readings of a source."),
    _row("source_errors_total", "counter", ("source",), "self", "SourceStatus.errors",
         "Readings of a source that failed."),
    _row("source_late_total", "counter", ("source",), "self", "SourceStatus.late",
         "Readings of a source that came too late."),
    _row("source_last_sample_timestamp_seconds", "gauge", ("source",), "self",
         "SourceStatus.last_sample_ns",
         "When a source was last read; absent before the first time."),
    _row("source_interval_seconds", "gauge", ("source",), "self", "SourceStatus.interval_s",
         "Time between two readings of a source."),
    _row("exporter_series", "gauge", ("level",), "self", "counted",
         "Series of this scrape by level; _created lines are not counted."),
    _row("exporter_series_dropped", "gauge", ("level",), "self", "counted",
         "Series left out by [metrics] max_series, by level."),
    _row("exporter_energy_quantum_joules", "gauge", (), "self", "[metrics] energy_quantum",
         "Energies are rounded down to multiples of this, each series for itself."),
)  # fmt: skip
NODE: Final = (
    _row("node_joules_total", "counter", _SPLIT, "node", "Domain.idle_uj, dynamic_uj",
         "Energy of the node by domain; the sum of containers, VMs, units and others."),
    _row("node_part_joules_total", "counter", _SPLIT, "node", "Domain.idle_uj, dynamic_uj",
         "The part of the node's package energy in core and uncore."),
    _row("node_watts", "gauge", ("domain",), "node", "Domain.power_w",
         "Mean power of the node over the last window."),
    _row("node_part_watts", "gauge", ("domain",), "node", "Domain.power_w",
         "The part of the node's package power in core and uncore."),
    _row("node_cpu_seconds_total", "counter", (), "node", "sum over Leaf.cpu_ns",
         "CPU time of all workloads, the kernel included."),
    _row("node_platform_joules_total", "counter", (), "node", "Domain.energy_uj",
         "Energy of the whole machine, as its own meter (BMC, power supply) tells; holds all "
         "domains."),
    _row("node_platform_watts", "gauge", (), "node", "Domain.power_w",
         "Power of the whole machine."),
    _row("node_psys_joules_total", "counter", (), "node", "Domain.energy_uj",
         "Energy of RAPL's psys, where it holds the package and is no domain of its own."),
    _row("node_psys_watts", "gauge", (), "node", "Domain.power_w", "Power of the same."),
    _row("node_residual_joules", "gauge", ("kind",), "node", "Residual.idle_uj, dynamic_uj",
         "What the whole machine used beyond the domains (fans, disks, losses); signed, so no "
         "counter."),
    _row("node_residual_watts", "gauge", (), "node", "Residual.power_w",
         "The same over the last window; signed."),
    _row("node_residual_usable", "gauge", (), "node", "Residual.usable",
         "1 where the last window's residual may be believed."),
    _row("domain_info", "info", ("domain", "source", "role"), "node", "Domain.source",
         "Where a domain's energy is from; role: total, part (of package), whole (holds the "
         "others) or other."),
    _row("domain_quality", "gauge", ("domain", "quality"), "node", "Domain.quality",
         "1 for the quality of a domain: measured, modelled (an estimate), stale or "
         "unavailable."),
    _row("domain_through_timestamp_seconds", "gauge", ("domain",), "node", "Domain.through_ns",
         "Up to when a domain's energy is known."),
    _row("domain_coverage_ratio", "gauge", ("domain",), "node", "Domain.coverage",
         "Share of the last window in which energy and CPU time were observed."),
    _row("domain_idle_floor_watts", "gauge", ("domain",), "node", "Domain.idle_floor",
         "Power of a domain when nothing runs, as learned."),
    _row("domain_idle_confidence_ratio", "gauge", ("domain",), "node", "Domain.idle_floor",
         "How sure that is: 0 a guess, 1 the data alone."),
    _row("zone_joules_total", "counter", _ZONE, "node", "Zone.energy_uj",
         "Energy of one meter (a socket, a DRAM controller, a GPU) of a domain."),
    _row("zone_watts", "gauge", _ZONE, "node", "Zone.power_w",
         "Mean power of the same over the last window."),
    _row("zone_part_joules_total", "counter", _ZONE, "node", "Zone.energy_uj",
         "The part of a socket's package energy in core and uncore."),
    _row("zone_platform_joules_total", "counter", _ZONE, "node", "Zone.energy_uj",
         "Energy of one meter of the whole machine, as a power supply."),
    _row("zone_platform_watts", "gauge", _ZONE, "node", "Zone.power_w", "Power of the same."),
    _row("zone_other_joules_total", "counter", _ZONE, "node", "Zone.energy_uj",
         "Energy of one meter (hwmon) of something that is no domain; such meters may overlap."),
    _row("zone_other_watts", "gauge", _ZONE, "node", "Zone.power_w", "Power of the same."),
    _row("zone_info", "info", (*_ZONE, "quality", "method"), "node", "Zone.quality, method",
         "How a zone is read: its quality, and whether it counts energy or tells power."),
    _row("other_joules_total", "counter", ("workload", *_SPLIT), "node", "Leaf.energy",
         "Energy of what is no container, VM or unit: kernel, system (idle energy that nobody "
         "is given), past (of workloads that are gone; grows when one goes) and unattributed."),
    _row("other_part_joules_total", "counter", ("workload", *_SPLIT), "node", "Leaf.energy",
         "The part of that package energy in core and uncore."),
    _row("other_watts", "gauge", ("workload", "domain"), "node", "Leaf.power_w",
         "Mean power of the same over the last window."),
    _row("other_cpu_seconds_total", "counter", ("workload",), "node", "Leaf.cpu_ns",
         "CPU time of the same."),
)  # fmt: skip
GPU: Final = (
    _row("gpu_joules_total", "counter", (*_GPU, "kind"), "gpu", "Gpu.energy", "Energy of a GPU."),
    _row("gpu_watts", "gauge", _GPU, "gpu", "Gpu.power_w",
         "Mean power of a GPU over the last window or update."),
    _row("gpu_idle_watts", "gauge", _GPU, "gpu", "Gpu.idle_w",
         "Power of a GPU at rest in its present state, as learned."),
    _row("gpu_workload_watts", "gauge", (*_GPU, "id"), "gpu", "Gpu.workloads",
         "Mean dynamic power of one workload on a GPU; id as in the info of its level."),
    _row("gpu_utilization_ratio", "gauge", _GPU, "gpu", "Gpu.sm_percent",
         "Share of time in which the GPU computed."),
    _row("gpu_memory_used_bytes", "gauge", _GPU, "gpu", "Gpu.memory_used_bytes",
         "Memory in use on a GPU."),
    _row("gpu_memory_bytes", "gauge", _GPU, "gpu", "Gpu.memory_total_bytes", "Memory of a GPU."),
    _row("gpu_clock_hertz", "gauge", _GPU, "gpu", "Gpu.sm_mhz",
         "Clock of a GPU's multiprocessors."),
    _row("gpu_temperature_celsius", "gauge", _GPU, "gpu", "Gpu.celsius", "Temperature of a GPU."),
    _row("gpu_quality", "gauge", (*_GPU, "quality"), "gpu", "Gpu.quality",
         "1 for the quality of a GPU's energy: measured, modelled, stale or unavailable."),
    _row("gpu_info", "info", (*_GPU, "model", "pci", "method"), "gpu", "Gpu",
         "What a GPU is, and what its energy is made of."),
)  # fmt: skip
INFOS: Final = (
    _row("pod_info", "info", (*_POD, "owner", "qos", "state", "tenant"), "pod", "Leaf.identity",
         "What is known of a pod; tenant: the cgroup of the cluster in a container that it is "
         "of."),
    _row("container_info", "info", (*_CONTAINER, "uid", "runtime", "sandbox", "state"), "container",
         "Leaf.identity",
         "What is known of a container; uid: of its pod."),
    _row("vm_info", "info",
         ("vm", "id", "hypervisor", "namespace", "pod", "held_by", "state"), "vm",
         "Leaf.identity",
         "What is known of a virtual machine; held_by: id of the workload that has its energy."),
    _row("unit_info", "info", ("unit", "id", "cgroup", "state"), "unit", "Leaf.identity",
         "What is known of a unit."),
)  # fmt: skip
VM_MORE: Final = (
    _row("vm_vcpu_seconds_total", "counter", ("vm", "id"), "vm", "Leaf.vcpu_ns",
         "The part of a VM's CPU time that its guest used."),
    _row("vm_view_joules_total", "counter", ("vm", "id", *_SPLIT), "vm", "Snapshot.views",
         "Energy of a virtual machine in another workload, which has this energy, too."),
    _row("vm_view_watts", "gauge", ("vm", "id", "domain"), "vm", "Snapshot.views",
         "Mean power of the same over the last window."),
    _row("vm_view_cpu_seconds_total", "counter", ("vm", "id"), "vm", "Snapshot.views",
         "CPU time of the same."),
)  # fmt: skip
_PROCESS: Final = ("pid", "start", "comm", "id")
PROCESS: Final = (
    _row("process_joules_total", "counter", (*_PROCESS, "domain"), "process", "Process.energy",
         "Dynamic energy of a process; a part of that of its workload, whose id is given."),
    _row("process_part_joules_total", "counter", (*_PROCESS, "domain"), "process",
         "Process.energy",
         "The part of that package energy in core and uncore."),
    _row("process_watts", "gauge", _PROCESS, "process", "Process.total_power_w",
         "Mean dynamic power of a process over the last window, all domains."),
    _row("process_cpu_seconds_total", "counter", _PROCESS, "process", "Process.cpu_ns",
         "CPU time of a process."),
)  # fmt: skip
METRICS: Final[tuple[Family, ...]] = (
    *SELF,
    *NODE,
    *GPU,
    *_owner_rows(),
    *INFOS,
    *VM_MORE,
    *PROCESS,
    *KEPLER,
)
FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({row.name: row for row in METRICS})

"""Kepler's metrics, as rows of the table: its names, types and labels."""

from collections.abc import Iterator
from typing import Final

from tychod.exposition.family import Family, MetricType, Shown

NODE_NAME: Final = ("node_name",)
"""Kepler's constant label."""
_ZONE: Final = ("zone", "path")
_GPU: Final = ("gpu", "gpu_uuid", "gpu_name", "vendor")
_PROCESS: Final = ("pid", "comm", "exe", "type", "state", "container_id", "vm_id")
_CONTAINER: Final = ("container_id", "container_name", "runtime", "state", "pod_id")
_VM: Final = ("vm_id", "vm_name", "hypervisor", "state")
_POD: Final = ("pod_id", "pod_name", "pod_namespace", "state")
_SUPPLY: Final = (
    *("source", "node_name", "bmc_id", "chassis_id", "source_id", "source_name", "source_type"),
)


def _row(
    name: str,
    metric_type: MetricType,
    labels: tuple[str, ...],
    level: Shown,
    source: str,
    text: str,
) -> Family:
    word = name.removesuffix("_total").rpartition("_")[2]
    unit = word if word in ("joules", "watts", "seconds", "ratio") else ""
    return Family(f"kepler_{name}", metric_type, labels, text, level, unit, "kepler", source)


def _energy(
    name: str, labels: tuple[str, ...], level: Shown, source: str, what: str, watts_from: str
) -> Iterator[Family]:
    """Yield a counter of joules and its gauge of watts."""
    labels = (*labels, *NODE_NAME)
    yield _row(f"{name}_joules_total", "counter", labels, level, source, f"Energy: {what}.")
    yield _row(f"{name}_watts", "gauge", labels, level, watts_from, f"Power: {what}.")


def _levels() -> Iterator[Family]:
    """Yield what there is of processes, containers, VMs and pods."""
    energy, watts = "Leaf.energy, dynamic", "growth since the window before"
    gpu = "on GPUs; absent while 0"
    for name, labels, level in (
        ("container", _CONTAINER, "container"),
        ("vm", _VM, "vm"),
        ("pod", _POD, "pod"),
    ):
        shown: Shown = level  # type: ignore[assignment]
        what = f"of a {name} in a zone of the CPU, dynamic alone; zones overlap"
        yield from _energy(f"{name}_cpu", (*labels, "zone"), shown, energy, what, watts)
        if name != "vm":
            yield from _energy(f"{name}_gpu", labels, shown, energy, f"of a {name} {gpu}", watts)
    what = "of a process in a zone of the CPU; zones overlap"
    source = "Process.energy"
    yield from _energy("process_cpu", (*_PROCESS, "zone"), "process", source, what, watts)
    yield from _energy("process_gpu", _PROCESS, "process", source, f"of a process {gpu}", watts)


def _node() -> Iterator[Family]:
    for part, what in (("", "all"), ("_active", "dynamic"), ("_idle", "idle")):
        text = f"of the node by zone, {what}; zones overlap"
        source = "Domain" if part else "Domain.energy_uj"
        watts = "growth since the window before" if part else "Domain.power_w"
        yield from _energy(f"node_cpu{part}", _ZONE, "node", source, text, watts)
    for part, what in (("", "all"), ("_active", "dynamic"), ("_idle", "idle")):
        watts = {"": "Gpu.power_w", "_idle": "Gpu.idle_w"}.get(part, "Gpu.power_w - Gpu.idle_w")
        yield from _energy(
            f"node_gpu{part}", _GPU, "node", "Gpu.energy", f"of a GPU, {what}", watts
        )


KEPLER: Final[tuple[Family, ...]] = (
    _row("build_info", "gauge", ("arch", "branch", "revision", "version", "goversion"), "self",
         "NodeFacts",
         "Build of tychod; goversion is Python's."),
    *_node(),
    _row("node_cpu_usage_ratio", "gauge", NODE_NAME, "node", "growth of Leaf.cpu_ns",
         "Share of the last window's CPU time that was used."),
    _row("node_gpu_info", "gauge", (*_GPU, *NODE_NAME), "node", "Gpu", "A GPU of the node."),
    _row("platform_watts", "gauge", _SUPPLY, "node", "Zone.power_w of platform",
         "Power of the whole machine by meter."),
    *_levels(),
    _row("container_cpu_seconds_total", "counter", (*_CONTAINER, *NODE_NAME), "container",
         "Leaf.cpu_ns",
         "CPU time of a container."),
    _row("process_cpu_seconds_total", "counter",
         ("pid", "comm", "exe", "type", "container_id", "vm_id", *NODE_NAME), "process",
         "Process.cpu_ns",
         "CPU time of a process."),
)  # fmt: skip

"""The platform, its residual and the GPUs as the plain data of answers; pure."""

from collections.abc import Callable, Mapping
from typing import Final

from tychod.model import Gpu, Leaf, PlatformFit, Residual, Snapshot, SourceDevice
from tychod.runtime.entries import Plain

Render = Callable[[int | None], str | None]
"""Turns a monotonic time into what answers carry."""
UNNAMED: Final = "unattributed"


def residual_entry(residual: Residual | None, render: Render) -> Plain | None:
    """Return what the platform used beyond its measured parts; microjoules may be negative."""
    if residual is None:
        return None
    return {
        "energy_uj": residual.energy_uj,
        "idle_uj": residual.idle_uj,
        "dynamic_uj": residual.dynamic_uj,
        "platform_uj": residual.platform_uj,
        "parts_uj": residual.parts_uj,
        "power_w": residual.power_w,
        "idle_w": residual.idle_w,
        "usable": residual.usable,
        "reason": residual.reason,
        "through": render(residual.through_ns),
    }


def fit_entry(fit: PlatformFit | None) -> Plain | None:
    """Return how the platform's power is put together; seconds and watts."""
    if fit is None:
        return None
    return {
        "method": fit.method,
        "reason": fit.reason,
        "centroid_s": fit.centroid_s,
        "centroid_sd_s": fit.centroid_sd_s,
        "delay_s": fit.delay_s,
        "lag_s": fit.lag_s,
        "boxcar_s": fit.boxcar_s,
        "base_w": fit.base_w,
        "base_sd_w": fit.base_sd_w,
        "coefficients": {name: c._asdict() for name, c in fit.coefficients.items()},
        "period_s": fit.period_s,
        "readings": fit.readings,
        "rejected": fit.rejected,
    }


def gpus_body(snapshot: Snapshot) -> Plain:
    """Return the GPUs, and who used each in the last window."""
    leaves = {leaf.identity.id: leaf for leaf in snapshot.leaves}
    return {"gpus": [gpu_entry(gpu, leaves) for gpu in snapshot.gpus]}


def gpu_entry(gpu: Gpu, leaves: Mapping[str, Leaf]) -> Plain:
    """Return one GPU; energy in microjoules, power in watts."""
    return {
        "uuid": gpu.uuid,
        "number": gpu.number,
        "name": gpu.name,
        "pci": gpu.pci,
        "quality": gpu.quality,
        "reason": gpu.reason,
        "energy": {"idle_uj": gpu.energy.idle_uj, "dynamic_uj": gpu.energy.dynamic_uj},
        "power_w": gpu.power_w,
        "power_sd_w": gpu.sd_w,
        "idle_w": gpu.idle_w,
        "method": gpu.method,
        "period_s": gpu.period_s,
        "pstate": gpu.pstate,
        "sm_percent": gpu.sm_percent,
        "memory_percent": gpu.memory_percent,
        "memory_used_bytes": gpu.memory_used_bytes,
        "memory_total_bytes": gpu.memory_total_bytes,
        "sm_mhz": gpu.sm_mhz,
        "memory_mhz": gpu.memory_mhz,
        "celsius": gpu.celsius,
        "workloads": [
            {**_named(leaf_id, leaves), "power_w": power_w}
            for leaf_id, power_w in sorted(gpu.workloads.items(), key=lambda item: -item[1])
        ],
        "allocated": [_named(leaf_id, leaves) for leaf_id in gpu.allocated],
        "instances": list(gpu.instances),
    }


def _named(leaf_id: str, leaves: Mapping[str, Leaf]) -> Plain:
    """Return by what names people know a workload."""
    leaf = leaves.get(leaf_id)
    who = leaf.identity if leaf else None
    return {
        "id": leaf_id,
        "kind": who.kind if who else UNNAMED,
        "name": who.name if who else leaf_id,
        "namespace": who.namespace if who else None,
        "pod": who.pod if who else None,
    }


def source_device_entry(device: SourceDevice) -> Plain:
    """Return when one device of a source publishes; seconds."""
    plain: dict[str, object] = device._asdict()
    del plain["updates"]  # says only whether the period is worth keeping
    return plain

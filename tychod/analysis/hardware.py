"""What has meters of its own in a window: each GPU, and the machine as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tychod.analysis.energy import (
    GPU,
    PLATFORM,
    Chosen,
    DomainWindow,
    UnreadZone,
)
from tychod.analysis.gpumemory import GpuMemory
from tychod.analysis.gpus import GpuShare, GpuWindow, Tenants, gpu_window
from tychod.analysis.gpuseries import DeviceWindow, device_windows, zone_key
from tychod.analysis.owners import Owners
from tychod.analysis.platform_shown import PlatformWindow
from tychod.analysis.state import DomainAccount, Observations, Params, State
from tychod.model import Domain, Energy, Gpu, Window, Zone
from tychod.samples import EnergySeries, EnergyZone, GpuDevice, GpuSample

UNREAD = "not read yet"


class Devices(NamedTuple):
    """The GPUs in one window: those whose energy is known, and those that were never read."""

    read: Sequence[DeviceWindow]
    silent: Sequence[GpuDevice]
    unread: Sequence[UnreadZone]  # the zones of those
    memory: Mapping[str, GpuMemory]


class Hardware(NamedTuple):
    """What the window's own meters showed, for publication."""

    devices: Devices
    gpus: GpuWindow | None  # None: no GPU was read
    platform: PlatformWindow | None  # None: nothing has ever measured it


def devices_of(observations: Observations, window: Window, state: State, params: Params) -> Devices:
    """Return each GPU's energy of the window."""
    series = observations.gpus
    if series is None:
        return Devices((), (), (), state.gpus)
    read, memory = device_windows(series, window, state.zones, state.gpus, params)
    found = {one.device.uuid for one in read}
    silent = [device for device in series.devices if device.uuid not in found]
    unread = [
        UnreadZone(_zone(device), series.source, series.reasons.get(device.uuid) or UNREAD)
        for device in silent
    ]
    return Devices(read, silent, unread, memory)


def _zone(device: GpuDevice) -> EnergyZone:
    return EnergyZone(zone_key(device), GPU, device.name, None, 0, device.max_power_w)


def uuid_of(key: str) -> str | None:
    """Return the uuid of the GPU that a zone's key is of; None for a meter that tells none."""
    source, _, uuid = key.partition(":")
    return uuid if source == "nvml" else None


def share_gpus(
    devices: Devices,
    domains: Mapping[str, DomainWindow],
    observations: Observations,
    owned: Owners,
    window: Window,
    params: Params,
) -> GpuWindow | None:
    """Split the GPUs' energy of the window among the leaves; None where there is none."""
    if GPU not in domains:
        return None
    own = {one.zone.zone.key for one in devices.read}
    others = [zone for zone in domains[GPU].zones if zone.zone.key not in own]
    tenants = Tenants(owned.identity_of, owned.live)
    return gpu_window(
        devices.read, observations.gpus, tenants, window, devices.memory, params, others
    )


def platform_series(chosen: Sequence[Chosen]) -> EnergySeries | None:
    """Return the source that measures the whole machine."""
    return next((one.series for one in chosen if PLATFORM in one.domains), None)


def platform_domain(found: PlatformWindow, total: DomainAccount) -> Domain:
    """Return the machine's power as a domain: a fact of the node that is split among nobody."""
    return Domain(
        source=found.source,
        quality=found.quality,
        reason=found.reason,
        through_ns=found.through_ns,
        energy_uj=total.energy_uj,
        idle_uj=None,
        dynamic_uj=None,
        power_w=found.power_w,
        zones=found.zones,
        flags=found.flags,
    )


def gpu_rows(hardware: Hardware, zones: Sequence[Zone], window: Window) -> tuple[Gpu, ...]:
    """Return the GPUs; ``zones`` are the domain's as published."""
    by_uuid = {zone.uuid: zone for zone in zones}
    shares = {share.uuid: share for share in hardware.gpus.shares} if hardware.gpus else {}
    rows = [
        _gpu_row(one, by_uuid[one.device.uuid], shares[one.device.uuid], hardware, window)
        for one in hardware.devices.read
        if one.device.uuid in by_uuid and one.device.uuid in shares
    ]
    rows += [
        _unread_row(device, by_uuid[device.uuid].reason, None)
        for device in hardware.devices.silent
        if device.uuid in by_uuid
    ]
    return tuple(sorted(rows, key=lambda gpu: (gpu.number, gpu.uuid)))


def _unread_row(device: GpuDevice, reason: str | None, newest: GpuSample | None) -> Gpu:
    """Return a GPU as its driver describes it, of whose energy nothing is known."""
    return Gpu(
        uuid=device.uuid,
        number=device.number,
        name=device.name,
        pci=device.pci,
        quality="unavailable",
        reason=reason,
        energy=Energy(),
        power_w=None,
        sd_w=None,
        idle_w=None,
        method="unknown",
        period_s=None,
        workloads={},
        allocated=(),
        instances=tuple(instance.profile for instance in device.instances),
        **_telemetry(newest),
    )


def _gpu_row(
    one: DeviceWindow, zone: Zone, share: GpuShare, hardware: Hardware, window: Window
) -> Gpu:
    device = one.device
    memory = hardware.gpus.memory[device.uuid] if hardware.gpus else GpuMemory()
    return replace(
        _unread_row(device, zone.reason or share.reason, one.newest),
        quality=zone.quality,
        energy=Energy(memory.idle.idle_uj, memory.idle.dynamic_uj),
        power_w=zone.power_w,
        sd_w=one.sd_j / window.seconds,
        idle_w=share.idle_w,
        method=one.method,
        period_s=device.period_s or None,
        workloads=share.power_w,
        allocated=share.allocated,
    )


def _telemetry(newest: GpuSample | None) -> dict[str, int | None]:
    """Return what the newest update says besides power."""
    names = ("pstate", "sm_percent", "memory_percent", "memory_used_bytes", "memory_total_bytes")
    more = ("sm_mhz", "memory_mhz", "celsius")
    return {name: getattr(newest, name, None) for name in (*names, *more)}

"""One GPU's window as attribution is given it: built from a power curve, nothing left to chance."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tests.sim.world import container
from tychod.analysis.bins import Meter
from tychod.analysis.energy import ZoneWindow
from tychod.analysis.gpuseries import DeviceWindow
from tychod.analysis.state import ZonePoint
from tychod.model import Identity, Window
from tychod.samples import (
    EnergyZone,
    GpuDevice,
    GpuProcess,
    GpuSample,
    GpuSeries,
    GpuUse,
    MigInstance,
)

S = 1_000_000_000
START_NS = 1_000 * S
WINDOW = Window(START_NS, START_NS + 3 * S)
MIG = tuple(
    MigInstance(f"MIG-0000000{n}-aaaa-bbbb-cccc-000000000000", n, slices, None, f"{slices}g")
    for n, slices in ((1, 3), (2, 2))
)


def uuid(number: int) -> str:
    """Return the uuid of a device."""
    return f"GPU-0000000{number}-1111-2222-3333-444444444444"


def device(number: int = 0, mig: Sequence[MigInstance] = ()) -> GpuDevice:
    """Return a device, divided into those instances."""
    slices = 7 if mig else 0
    return GpuDevice(
        uuid(number), number, "Sim", f"{number}", 700.0, 0.0, 0.0, 0.1, 0.0, slices, tuple(mig)
    )


def metered(
    of: GpuDevice,
    power_w: Sequence[float],
    window: Window = WINDOW,
    *,
    late_uj: int = 0,
    late_s: float = 0.0,
    pstate: int | None = 0,
    sd_j: float = 0.0,
) -> DeviceWindow:
    """Return a device's window of steps of equal length at those powers."""
    steps = len(power_w)
    times = np.linspace(window.start_ns, window.end_ns, steps + 1).astype(np.int64)
    energy = np.concatenate([[0.0], np.cumsum(np.array(power_w) * np.diff(times) / 1e9)])
    key = f"nvml:{of.uuid}"
    covered_ns = window.end_ns - window.start_ns + round(late_s * S)
    zone = ZoneWindow(
        EnergyZone(key, "gpu", of.name, None, 0, of.max_power_w),
        "nvml",
        "measured",
        ZonePoint(window.end_ns, 0, 0, "gpu"),
        round(1e6 * float(energy[-1])),
        late_uj,
        covered_ns,
        Meter(times, energy, times),
        None,
    )
    return DeviceWindow(of, zone, "counter", sd_j, sample(of, window.end_ns, pstate=pstate))


def sample(
    of: GpuDevice, t_ns: int, sm: int | None = 50, memory: int | None = 0, pstate: int | None = 0
) -> GpuSample:
    """Return an update that tells utilisation and state."""
    return GpuSample(t_ns, of.uuid, t_ns, 0, None, None, None, pstate, sm, memory)


def process(
    pid: int, sm: float | None, key: int | None = None, instance: int | None = None
) -> GpuProcess:
    """Return a process in the cgroup of that key; 10 x pid where none is given, none where 0."""
    key = 10 * pid if key is None else key or None
    return GpuProcess(pid, (None, None), key, sm, None, None, None, None, instance)


def look(
    of: GpuDevice,
    processes: Sequence[GpuProcess],
    window: Window = WINDOW,
    activity: Mapping[int, float] | None = None,
    reason: str | None = None,
) -> GpuUse:
    """Return one look that covers a window."""
    told = tuple((activity or {}).items())
    return GpuUse(window.end_ns, of.uuid, window.start_ns, tuple(processes), told, reason)


def series(
    devices: Sequence[GpuDevice],
    looks: Sequence[GpuUse] = (),
    samples: Sequence[GpuSample] | None = None,
    window: Window = WINDOW,
) -> GpuSeries:
    """Return what the collector saw; by default every device is busy in P0."""
    if samples is None:
        steps = range(window.start_ns - S, window.end_ns + 1, S // 2)
        samples = [sample(each, t_ns) for t_ns in steps for each in devices]
    return GpuSeries("nvml", tuple(devices), tuple(samples), tuple(looks), {})


def leaf(key: int, *ids: str, resource: str = "nvidia.com/gpu") -> Identity:
    """Return the container of a key, with the devices it was given."""
    return replace(container(key), devices={resource: ids} if ids else {})


def tenants_of(*leaves: Identity) -> dict[int, Identity]:
    """Return the containers by key: 10, 20, 30 and so on."""
    return {10 * n: who for n, who in enumerate(leaves, 1)}

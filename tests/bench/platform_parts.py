"""Time of one BMC reading in the bank of filters, and of one window of two GPUs at 100 ms.

Run as a module it prints both medians in milliseconds.
"""

import statistics
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tychod.analysis.gpumemory import GpuMemory

READINGS: Final = 60
WINDOWS: Final = 20
S: Final = 1_000_000_000


def bank_ms() -> float:
    """Take in the readings of a simulated BMC, of a machine with two parts."""
    from tests.sim.bmcpower import PlatformSettings, PlatformWorld
    from tychod.analysis.bank import HISTORY_S, History, take
    from tychod.analysis.bank_state import fresh

    world = PlatformWorld(PlatformSettings(seconds=2.0 * READINGS), seed=1)
    bank, took = fresh(world.settings.parts, 150.0), []
    for reading in world.readings:
        edges = world.grid_ns(reading.t_ns + S, HISTORY_S)
        history = History(int(edges[0]), world.parts_j(edges))
        began = time.perf_counter()
        bank = take(bank, history, reading.t_ns, reading.half_ns, reading.power_w)
        took.append(time.perf_counter() - began)
    return 1e3 * statistics.median(took)


def gpu_window_ms() -> float:
    """Follow and split two GPUs, each used by two processes, window by window."""
    import numpy as np

    from tests.sim import gpuworld
    from tests.sim.gpuwindow import leaf, process, tenants_of
    from tychod.analysis.gpus import Tenants, gpu_window
    from tychod.analysis.gpuseries import device_windows
    from tychod.analysis.state import Params, ZonePoint
    from tychod.model import Window
    from tychod.samples import GpuSeries, GpuUse

    rng, seconds = np.random.default_rng(1), 3.0 * (WINDOWS + 2)
    sensor = gpuworld.Sensor(average_s=1.0)
    devices = [gpuworld.device(sensor)._replace(uuid=f"GPU-{number}") for number in range(2)]
    samples = sorted(
        sample._replace(device=each.uuid, sm_percent=50, pstate=0)
        for each in devices
        for sample in gpuworld.samples(gpuworld.bursts(rng, seconds), sensor, rng, 0.0, seconds)
    )
    tenants = Tenants(tenants_of(leaf(1), leaf(2)), {leaf(1).id, leaf(2).id})
    users = (process(1, 30.0), process(2, 60.0))
    points: dict[str, ZonePoint] = {}
    memory: dict[str, GpuMemory] = {}
    took = []
    for index in range(1, WINDOWS):
        window = Window(3 * index * S, 3 * (index + 1) * S)
        inside = tuple(s for s in samples if window.start_ns - 4 * S < s.t_ns <= window.end_ns + S)
        looks = tuple(
            GpuUse(end_ns, each.uuid, end_ns - S, users)
            for end_ns in range(window.start_ns + S, window.end_ns + 1, S)
            for each in devices
        )
        series = GpuSeries("nvml", tuple(devices), inside, looks, {})
        began = time.perf_counter()
        found, learned = device_windows(series, window, points, memory, Params(cpus=64))
        split = gpu_window(found, series, tenants, window, learned, Params(cpus=64))
        took.append(time.perf_counter() - began)
        points |= {one.zone.zone.key: one.zone.point for one in found}
        memory = dict(split.memory)
    return 1e3 * statistics.median(took)


if __name__ == "__main__":
    print(bank_ms())
    print(gpu_window_ms())

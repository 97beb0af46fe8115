"""GPU rows: one device with several users, split by what its driver tells of their use.

The world knows what each process drew: so much for the part of the time that it had the device.
The driver tells whole percent of periods of a sixth of a second, and the means of those are looked
at about once a second; the energy is one counter for all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tests.accuracy.figure import Figure
from tests.sim.gpuworld import Floats, Power, S, Sensor, device, samples
from tests.sim.world import container
from tychod.analysis.gpus import Tenants, gpu_window
from tychod.analysis.gpuseries import device_windows
from tychod.analysis.state import Params, ZonePoint
from tychod.model import Window
from tychod.samples import GpuProcess, GpuSample, GpuSeries, GpuUse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tychod.analysis.gpumemory import GpuMemory
    from tychod.samples import GpuDevice

CASE: Final = "GPU shared"
SECONDS: Final = 132
QUIET_S: Final = 12.0
WINDOW_S: Final = 3
STEP_S: Final = 0.01
SAMPLED_S: Final = 1 / 6
"""Between two samples of a process's use (NVML, nvmlDeviceGetProcessUtilization)."""
LOOK_S: Final = 1.0
IDLE_W: Final = 60.0
BUSY_W: Final = 320.0


class World(NamedTuple):
    """What runs on one device: each process's part of its time, in steps."""

    parts: Floats  # (steps, processes)
    power: Power

    @property
    def true_j(self) -> Floats:
        """Energy of each process in each step."""
        found: Floats = self.parts * BUSY_W * STEP_S
        return found


def world(rng: np.random.Generator, duties: Sequence[float]) -> World:
    """Processes that come and go on their own; who is on it shares its time with who else is."""
    steps = round(SECONDS / STEP_S)
    wants = np.stack([_wanted(rng, duty, steps) for duty in duties], axis=1)
    wants[: round(QUIET_S / STEP_S)] = 0.0
    parts = wants / np.maximum(wants.sum(axis=1, keepdims=True), 1.0)
    times = np.arange(steps + 1) * STEP_S
    watts = IDLE_W + BUSY_W * parts.sum(axis=1)
    return World(parts, Power(times.astype(np.float64), watts.astype(np.float64)))


def _wanted(rng: np.random.Generator, duty: float, steps: int) -> Floats:
    """On and off, for 0.2 to 3 s together, with another intensity of use each time."""
    found, at = np.zeros(steps), 0
    while at < steps:
        length = rng.uniform(0.2, 3.0) / STEP_S
        on = round(length * duty * rng.uniform(0.8, 1.2))
        found[at : at + on] = rng.uniform(0.4, 1.0)
        at += max(round(length), 1)
    return found


def told(of: World, rng: np.random.Generator, dev: GpuDevice, first: int) -> list[GpuUse]:
    """What the driver tells of each process, look by look."""
    width = round(SAMPLED_S / STEP_S)
    rows = len(of.parts) // width
    percent = np.round(100 * of.parts[: rows * width].reshape(rows, width, -1).mean(axis=1))
    looks, since_s = [], 0.0
    while since_s + 1.5 * LOOK_S < SECONDS:
        at_s = since_s + LOOK_S * rng.uniform(0.9, 1.1)
        inside = percent[round(since_s / STEP_S) // width : round(at_s / STEP_S) // width]
        use = inside.mean(axis=0) if len(inside) else np.zeros(percent.shape[1])
        processes = tuple(
            GpuProcess(first + n, (None, None), first + n, float(value))
            for n, value in enumerate(use)
        )
        looks.append(GpuUse(round(at_s * S), dev.uuid, round(since_s * S), processes))
        since_s = at_s
    return looks


def updates(
    of: World, rng: np.random.Generator, dev: GpuDevice, sensor: Sensor
) -> tuple[GpuSample, ...]:
    """What the device publishes, with its own word of how busy it is."""
    width = round(SAMPLED_S / STEP_S)
    busy = np.convolve(of.parts.sum(axis=1), np.ones(width) / width)[: len(of.parts)]

    def dressed(one: GpuSample) -> GpuSample:
        at = min(max(round(one.published_ns / S / STEP_S), 0), len(busy) - 1)
        return one._replace(device=dev.uuid, pstate=0, sm_percent=round(100 * busy[at]))

    found = samples(of.power, sensor, rng, 0.0, float(SECONDS))
    return tuple(dressed(one) for one in found)


class Found(NamedTuple):
    """What was said of a run, after the device was seen unused."""

    said_uj: Floats  # (windows, processes of all devices)
    true_uj: Floats
    off_uj: int  # most that the leaves' sum is off the meter's, of any device and window


def run(seed: int, *devices: Sequence[float]) -> Found:
    """Analyse devices with processes of those duties, window after window."""
    sensor = Sensor()
    series, worlds = _seen(seed, devices, sensor)
    keys = [p.key or 0 for use in _first_looks(series) for p in use.processes]
    who = {key: container(key) for key in keys}
    tenants = Tenants(who, frozenset(i.id for i in who.values()))
    points: dict[str, ZonePoint] = {}
    memory: dict[str, GpuMemory] = {}
    said, off_uj = [], 0
    for begin_s in range(0, SECONDS - WINDOW_S, WINDOW_S):
        window = Window(begin_s * S, (begin_s + WINDOW_S) * S)
        part = _cut(series, window)
        cuts, after = device_windows(part, window, points, memory, Params(cpus=1))
        found = gpu_window(cuts, part, tenants, window, after, Params(cpus=1))
        memory = dict(found.memory)
        points = {cut.zone.zone.key: cut.zone.point for cut in cuts}
        for cut, share in zip(cuts, found.shares, strict=True):
            parts = (*share.by_leaf.values(), *share.idle_by_leaf.values())
            off_uj = max(off_uj, abs(cut.zone.energy_uj + cut.zone.late_uj - sum(parts)))
        said.append([found.booked.by_leaf.get(who[key].id, 0) for key in keys])
    true_j = np.concatenate([w.true_j for w in worlds], axis=1)[: len(said) * WINDOW_S * 100]
    true_uj = 1e6 * true_j.reshape(len(said), WINDOW_S * 100, -1).sum(axis=1)
    settled = round(QUIET_S / WINDOW_S)
    return Found(np.array(said, np.float64)[settled:], true_uj[settled:], off_uj)


def _seen(
    seed: int, devices: Sequence[Sequence[float]], sensor: Sensor
) -> tuple[GpuSeries, list[World]]:
    found: list[GpuSample] = []
    looks: list[GpuUse] = []
    listed, worlds = [], []
    for number, duties in enumerate(devices):
        rng = np.random.default_rng([seed, number])
        dev = device(sensor)._replace(uuid=f"GPU-{number}", number=number)
        worlds.append(world(rng, duties))
        listed.append(dev)
        found += updates(worlds[-1], rng, dev, sensor)
        looks += told(worlds[-1], rng, dev, 100 * (number + 1))
    return GpuSeries("nvml", tuple(listed), tuple(found), tuple(looks), {}), worlds


def _first_looks(series: GpuSeries) -> list[GpuUse]:
    return [next(u for u in series.uses if u.device == d.uuid) for d in series.devices]


def _cut(series: GpuSeries, window: Window) -> GpuSeries:
    """What a window is given: two seconds before it, and what there is half a second after it."""
    first_ns, last_ns = window.start_ns - 2 * S, window.end_ns + S // 2
    return replace(
        series,
        samples=tuple(s for s in series.samples if first_ns < s.t_ns <= last_ns),
        uses=tuple(u for u in series.uses if first_ns < u.t_ns <= last_ns),
    )


def split_errors(found: Found) -> tuple[float, float]:
    """Return the worst error of a process's total, and the windows' mean, in percent."""
    total = 100 * np.abs(found.said_uj.sum(axis=0) / found.true_uj.sum(axis=0) - 1)
    moved = np.abs(found.said_uj - found.true_uj).sum(axis=1) / 2
    used = found.true_uj.sum(axis=1)
    return float(total.max()), float(100 * moved[used > 0].sum() / used.sum())


def figures(seeds: Sequence[int]) -> list[Figure]:
    """Return the rows of a GPU with two users, over all seeds."""
    totals, windows, off, even, moved = [], [], 0, [], 0.0
    for seed in seeds:
        rng = np.random.default_rng([seed, 9])
        found = run(seed, (rng.uniform(0.6, 0.9), rng.uniform(0.2, 0.5)))
        total, window = split_errors(found)
        totals.append(total)
        windows.append(window)
        twins = run(seed, (0.5, 0.5), (0.7,))
        alone = run(seed, (0.5,), (0.7,))
        part = twins.said_uj[:, 0].sum() / twins.said_uj[:, :2].sum()
        even.append(abs(100 * part - 50))
        off = max(off, found.off_uj, twins.off_uj)
        moved = max(moved, float(np.abs(twins.said_uj[:, -1] - alone.said_uj[:, -1]).max()))
    return [
        Figure(CASE, "leaves' sum against the device, worst", off, "uJ", 0),
        Figure(CASE, "a leaf's energy of two minutes, worst", max(totals), "%", 5),
        Figure(CASE, "energy with the wrong leaf, 3 s windows", float(np.mean(windows)), "%", 5),
        Figure(CASE, "two alike: off one half, worst", max(even), "%", 10),
        Figure(CASE, "a pod more on A: device B, worst window", moved, "uJ", 0),
    ]

"""GPU rows: energy of windows and bins against a world of known power."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tests.accuracy.figure import Figure
from tests.sim.gpuworld import Floats, Power, S, Sensor, bursts, device, samples, series
from tychod.analysis.gpuseries import DeviceWindow, device_windows
from tychod.analysis.state import Params, ZonePoint
from tychod.model import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tychod.analysis.gpumemory import GpuMemory

SECONDS: Final = 150.0
WARM_S: Final = 15.0
WINDOW_S: Final = 3.0
LAG_S: Final = 0.5
BEHIND_S: Final = 2.0
"""How much of the time before a window its series has."""
BIN_S: Final = 0.05


class Seen(NamedTuple):
    """One window: what was said and what was."""

    cut: DeviceWindow
    window: Window
    said_j: float
    true_j: float
    said_bins_j: Floats
    true_bins_j: Floats


def run(
    power: Power, sensor: Sensor, seed: int, *, seconds: float = SECONDS, window_s: float = WINDOW_S
) -> Iterator[Seen]:
    """Analyse a device window after window, each with the samples that there are by then."""
    rng = np.random.default_rng([seed, 6])
    dev = device(sensor)
    everything = samples(power, sensor, rng, -3.0, seconds + 3.0)
    points: dict[str, ZonePoint] = {}
    memory: dict[str, GpuMemory] = {}
    for index in range(int(seconds / window_s)):
        begin_s, end_s = index * window_s, (index + 1) * window_s
        window = Window(round(begin_s * S), round(end_s * S))
        seen = series(dev, everything, begin_s - BEHIND_S, end_s + LAG_S)
        (cut,), told = device_windows(seen, window, points, memory, Params(cpus=1))
        memory = dict(told)
        points = {cut.zone.zone.key: cut.zone.point}
        yield _seen(power, cut, window)


def _seen(power: Power, cut: DeviceWindow, window: Window) -> Seen:
    edges_s = np.arange(window.start_ns / S, window.end_ns / S + BIN_S / 2, BIN_S)
    meter = cut.zone.meter
    at_j = np.interp(
        edges_s * S - window.start_ns, meter.times_ns - window.start_ns, meter.energy_j
    )
    true_j = power.energy_j(edges_s)
    return Seen(
        cut,
        window,
        cut.zone.energy_uj / 1e6,
        float(true_j[-1] - true_j[0]),
        np.diff(at_j),
        np.diff(true_j),
    )


class Errors(NamedTuple):
    """Errors of windows in percent, of bins as a share of all energy, and what was stated."""

    mean: float
    p95: float
    bins: float
    covered: float  # percent of windows in two standard deviations
    stated: float  # mean standard deviation
    methods: Counter[str]

    def named(self, method: str) -> float:
        """Percent of windows in which it was so recognised."""
        return 100.0 * self.methods[method] / self.methods.total()


def errors(seen: Sequence[Seen]) -> Errors:
    """Sum up windows."""
    off = np.array([100.0 * abs(s.said_j - s.true_j) / s.true_j for s in seen])
    stated = np.array([100.0 * s.cut.sd_j / s.true_j for s in seen])
    bins = sum(float(np.abs(s.said_bins_j - s.true_bins_j).sum()) for s in seen)
    return Errors(
        float(off.mean()),
        float(np.quantile(off, 0.95)),
        100.0 * bins / sum(s.true_j for s in seen),
        float(100.0 * (off <= 2.0 * stated).mean()),
        float(stated.mean()),
        Counter(s.cut.method for s in seen),
    )


def measured(sensor: Sensor, seeds: Sequence[int]) -> Errors:
    """Windows of bursts after the memory has warmed up, over all seeds."""
    found = []
    for seed in seeds:
        power = bursts(np.random.default_rng(seed), SECONDS + 10.0)
        found += [s for s in run(power, sensor, seed) if s.window.start_ns >= WARM_S * S]
    return errors(found)


class Row(NamedTuple):
    """One kind of device and what has to be reached with it; no bound: it is only shown."""

    case: str
    sensor: Sensor
    mean: float
    p95: float
    method: str


WHOLE: Final = Sensor()
ANY: Final = float("inf")
"""No bound."""
ROWS: Final = (
    Row("GPU true counter", WHOLE, ANY, 2.0, "counter"),
    Row(
        "GPU 1 s averages",
        replace(WHOLE, counter="none", average_s=1.0),
        ANY,
        4.0,
        "averages",
    ),
    Row("GPU instants, 25 of 100ms", replace(WHOLE, counter="none"), 6.0, 15.0, "instants"),
    Row(
        "GPU counter of instants",
        replace(WHOLE, counter="sampled"),
        6.0,
        15.0,
        "sampled-counter",
    ),
)


def figures(seeds: Sequence[int]) -> list[Figure]:
    """Return the rows of GPU energy in bursts of 30 to 300 ms, windows of 3 s."""
    found = []
    for row in ROWS:
        got = measured(row.sensor, seeds)
        found += [
            Figure(row.case, "3 s windows, mean error", got.mean, "%", row.mean),
            Figure(row.case, "3 s windows, p95 error", got.p95, "%", row.p95),
            Figure(row.case, "windows within 2 sd of the truth", got.covered, "%", 95.0, True),
            Figure(row.case, "stated sd, mean", got.stated, "%", ANY),
            Figure(row.case, "50 ms bins, sum |error| / energy", got.bins, "%", ANY),
            Figure(row.case, f"recognised as {row.method}", got.named(row.method), "%", 99.0, True),
        ]
    return found

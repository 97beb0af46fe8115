"""A node told bin by bin: who used how many CPUs and what each domain drew, in bins of 50 ms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.sim.world import MS, RESERVED, unit, zone
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, State
from tychod.model import Identity, Snapshot, Window
from tychod.samples import (
    CgroupRef,
    CounterSample,
    CpuSample,
    CpuSeries,
    EnergySample,
    EnergySeries,
)

BIN_NS = 50 * MS
BIN_S = 0.05
WINDOW_BINS = 60
STAMP = 7

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """Workloads named ``w0``, ``w1``, ... (or as ``names`` says) and the power of each domain."""

    busy: Floats  # (bins, workloads) CPUs in use
    power_w: Mapping[str, Floats]  # by domain: (bins,) watts
    cpus: int = 4
    names: Mapping[int, Identity] = field(default_factory=dict)
    misses: Floats | None = None  # (bins, workloads) cache misses

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.busy)

    def identity(self, index: int) -> Identity:
        """Who a workload is."""
        return self.names.get(index) or unit(f"w{index}")

    def observe(self, first: int, last: int, every: int = 1) -> Observations:
        """What is seen of the bins ``first .. last - 1``, sampled at every so many edges."""
        count = self.busy.shape[1]
        edges = [*range(first, last, every), last]
        own = _cumulative(self.busy * BIN_S * 1e9)
        keys = np.arange(1, count + 1, dtype=np.int64)
        samples = tuple(CpuSample(t * BIN_NS, keys, own[t], own[t], 0) for t in edges)
        names = {index + 1: self.identity(index) for index in range(count)}
        cgroups = {k: CgroupRef(who.cgroup or "/", 1000 + k) for k, who in names.items()}
        cpu = CpuSeries("cgroup-v2", samples, cgroups, counters=self._counters(keys, last))
        energy = {d: _cumulative(w[:, None] * BIN_S * 1e6)[:, 0] for d, w in self.power_w.items()}
        read = tuple(
            EnergySample(t * BIN_NS, tuple(int(e[t]) for e in energy.values())) for t in edges
        )
        zones = tuple(zone(d, 0) for d in energy)
        series = EnergySeries("rapl", "measured", zones, read, {})
        return Observations((series,), cpu, names | RESERVED, wall_offset_ns=10**18)

    def _counters(self, keys: NDArray[np.int64], last: int) -> CounterSample | None:
        if self.misses is None:
            return None
        value = _cumulative(self.misses)[last][None, :]
        covered = np.full(value.shape, last * BIN_NS, np.int64)
        return CounterSample(STAMP, ("llc_misses",), keys, value, covered, last * BIN_NS)

    def windows(self, bins: int = WINDOW_BINS) -> Iterator[tuple[Observations, Window]]:
        """All windows of so many bins, with what is seen of each."""
        for first in range(0, self.bins, bins):
            last = min(first + bins, self.bins)
            yield self.observe(first, last), Window(first * BIN_NS, last * BIN_NS)

    def run(self, params: Params | None = None, bins: int = WINDOW_BINS) -> list[Snapshot]:
        """The snapshots of all windows."""
        return analysed(self.windows(bins), params or Params(cpus=self.cpus))


def analysed(
    windows: Iterator[tuple[Observations, Window]] | Sequence[tuple[Observations, Window]],
    params: Params,
) -> list[Snapshot]:
    """Analyse windows one after the other from a cold start."""
    state, found = State(), []
    for seen, window in windows:
        snapshot, state = analyse(seen, window, state, params)
        found.append(snapshot)
    return found


def package(busy: Floats, idle_w: float | Floats, watts: Sequence[float], cpus: int = 4) -> Trace:
    """A package that draws an idle power, and for each workload so many watts per CPU in use."""
    power = busy @ np.array(watts, np.float64) + idle_w
    return Trace(busy, {"package-0": power}, cpus)


def _cumulative(values: Floats) -> NDArray[np.int64]:
    zero = np.zeros((1, values.shape[1]))
    found: NDArray[np.int64] = np.rint(np.cumsum(np.vstack([zero, values]), axis=0)).astype(
        np.int64
    )
    return found

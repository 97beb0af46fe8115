"""A simulated run as the daemon would deliver it to the analysis, window by window."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tests.sim.generator import BIN_NS, Run
from tychod.analysis.state import Observations
from tychod.model import Identity, Window
from tychod.samples import CgroupRef, CpuSample, CpuSeries, EnergySample, EnergySeries, EnergyZone

START_NS = 1_000_000_000_000
"""Monotonic time of the run's first edge: a node has been up for a while."""
WINDOW_BINS = 60
MAX_POWER_W = 5_000.0
"""What no package draws; the same for every world."""

Ints = NDArray[np.int64]


def leaf_id(workload: int) -> str:
    """Id of a workload's leaf."""
    return f"{workload:064x}"


class Delivery:
    """The samples of one run.

    Energy comes as the meter's readings: those of the window, the last one before and the first
    one after, by the time that a reading tells of.  CPU time comes cumulative at every edge of a
    bin; a workload is absent from the samples before its birth and after its end.
    """

    def __init__(self, run: Run) -> None:
        """``run`` is not changed."""
        self._run = run
        zero = np.zeros((1, run.settings.packages), np.int64)
        self._until = np.concatenate([zero, np.cumsum(run.flat_cpu_ns, axis=0)])
        self._idle_ns = self._idle(run)
        self._delay_ns = round(run.settings.delay_s * 1e9)
        self._readings = self._all_readings(run)
        self._known: dict[int, tuple[CgroupRef, Identity]] = {}

    def windows(self) -> Iterator[tuple[int, int, Observations, Window]]:
        """First and last+1 bin of each window, and what the daemon would have of it."""
        for first in range(0, self._run.bins, WINDOW_BINS):
            last = min(first + WINDOW_BINS, self._run.bins)
            window = Window(START_NS + first * BIN_NS, START_NS + last * BIN_NS)
            cpu, identities = self._cpu(first, last)
            yield first, last, Observations((self._energy(window),), cpu, identities, 0), window

    @staticmethod
    def _idle(run: Run) -> list[int]:
        lengths = run.alive[:, 1] - run.alive[:, 0]
        begin = np.repeat(run.alive[:, 0] - run.offset, lengths)
        at = begin + np.arange(len(begin))
        used = np.bincount(at, run.flat_cpu_ns.sum(axis=1), minlength=run.bins)
        cpus = run.settings.packages * run.settings.cpus
        idle = np.concatenate([[0.0], np.cumsum(cpus * BIN_NS - used)])
        return [round(ns) for ns in idle.tolist()]

    def _all_readings(self, run: Run) -> tuple[Ints, list[EnergySample]]:
        """The moments that the readings tell of, and the readings with the time they were made."""
        made_ns = run.reads[0].t_ns + START_NS
        values = [[v if v >= 0 else None for v in r.native_uj.tolist()] for r in run.reads]
        samples = [
            EnergySample(t_ns, row)
            for t_ns, row in zip(made_ns.tolist(), zip(*values, strict=True), strict=True)
        ]
        return made_ns - self._delay_ns, samples

    def _energy(self, window: Window) -> EnergySeries:
        told_ns, samples = self._readings
        first = max(int(np.searchsorted(told_ns, window.start_ns, "right")) - 1, 0)
        last = int(np.searchsorted(told_ns, window.end_ns, "left")) + 1
        zones = tuple(
            EnergyZone(
                key=f"rapl:package-{p}",
                domain="package",
                name=f"package-{p}",
                socket=p,
                max_range_uj=self._run.max_range_uj,
                max_power_w=MAX_POWER_W,
            )
            for p in range(self._run.settings.packages)
        )
        return EnergySeries(
            "rapl", "measured", zones, tuple(samples[first:last]), {}, self._delay_ns
        )

    def _cpu(self, first: int, last: int) -> tuple[CpuSeries, dict[int, Identity]]:
        run, alive = self._run, self._run.alive
        who = np.flatnonzero((alive[:, 0] < last) & (alive[:, 1] >= first))
        born, gone, begin = alive[who, 0], alive[who, 1], run.offset[who]
        edges = np.arange(first, last + 1)
        rows = begin + np.clip(edges[:, None] - born, 0, gone - born)
        used = (self._until[rows] - self._until[begin]).transpose(0, 2, 1)  # edges, packages, k
        there = ((edges[:, None] > born) | (born == 0)) & (edges[:, None] <= gone)
        samples = tuple(self._samples(edges, who + 1, used, there))
        known = {key: self._know(key) for key in (who + 1).tolist()}
        series = CpuSeries(
            method="bpf-core",
            samples=samples,
            cgroups={key: ref for key, (ref, _) in known.items()},
            packages=tuple(range(run.settings.packages)),
            package_cpus=(run.settings.cpus,) * run.settings.packages,
        )
        return series, {key: identity for key, (_, identity) in known.items()}

    def _samples(
        self, edges: Ints, keys: Ints, used: Ints, there: NDArray[np.bool_]
    ) -> Iterator[CpuSample]:
        own = used.sum(axis=1)
        missing = (len(keys) - there.sum(axis=1)).tolist()
        cpus = self._run.settings.packages * self._run.settings.cpus
        for row, edge in enumerate(edges.tolist()):
            now, mine, by_package = keys, own[row], used[row]
            if missing[row]:
                kept = there[row]
                now, mine, by_package = keys[kept], mine[kept], by_package[:, kept]
            idle_ns = self._idle_ns[edge]
            yield CpuSample(
                t_ns=START_NS + edge * BIN_NS,
                keys=now,
                own_ns=mine,
                total_ns=mine,
                idle_ns=idle_ns,
                busy_ns=cpus * edge * BIN_NS - idle_ns,
                package_ns=by_package,
            )

    def _know(self, key: int) -> tuple[CgroupRef, Identity]:
        if key not in self._known:
            name = leaf_id(key - 1)
            path = f"/machine.slice/{name}"
            identity = Identity("container", name, f"w{key - 1}", runtime="podman", cgroup=path)
            self._known[key] = CgroupRef(path, key), identity
        return self._known[key]

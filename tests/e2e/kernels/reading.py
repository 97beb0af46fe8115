"""The daemon's reader at work beside the checks: what it publishes must add up as well."""

import time
from typing import Final

import numpy as np

from tests.e2e.steps import require
from tychod.clock import SystemClock
from tychod.hostfs import Host
from tychod.kernel.bpf.abi import Views
from tychod.kernel.bpf.opening import SlotTable
from tychod.kernel.bpf.plan import Loaded
from tychod.kernel.bpf.reader import BpfReader
from tychod.kernel.hierarchy import Hierarchy
from tychod.samples import CpuSample

EVERY_S: Final = 0.4
HISTORY_NS: Final = 10_000_000_000


class Reading:
    """Reads every now and then; keeps the first sample and the newest."""

    def __init__(self, host: Host, hierarchy: Hierarchy, loaded: Loaded, views: Views) -> None:
        self._ncpu = len(views.cpu)
        self._reader = BpfReader(
            host, hierarchy, SystemClock(), views, SlotTable(loaded.maps), HISTORY_NS
        )
        self._first: CpuSample | None = None
        self._newest: CpuSample | None = None
        self._next_s = 0.0
        self.samples = 0
        self.worst_ns = 0

    def read_when_due(self) -> None:
        """Drain the maps if the last time was a while ago."""
        if time.monotonic() >= self._next_s:
            self.read()

    def read(self) -> None:
        """Drain the maps; StepError where a sample's time is not that of all CPUs."""
        samples = self._reader.read()
        self._next_s = time.monotonic() + EVERY_S
        require(samples, f"the reader has nothing: {self._reader.failure}")
        self._first = self._first or samples[0]
        self.samples += len(samples)
        self._newest = samples[-1]
        passed_ns = self._ncpu * (self._newest.t_ns - self._first.t_ns)
        error_ns = _all_ns(self._newest) - _all_ns(self._first) - passed_ns
        self.worst_ns = max(self.worst_ns, abs(error_ns))
        require(abs(error_ns) <= 1e-6 * passed_ns, f"samples: {error_ns} ns of {passed_ns} ns")

    def own_ns(self, inode: int) -> int:
        """Return what the newest sample tells of a cgroup, by the inode of its directory."""
        if self._newest is None:
            return 0
        at = np.flatnonzero(self._newest.keys == inode).tolist()
        require(at, f"no sample has the cgroup {inode}")
        return int(self._newest.own_ns[at[0]])

    def close(self) -> None:
        """Close the reader's files."""
        self._reader.close()


def _all_ns(sample: CpuSample) -> int:
    return int(sample.own_ns.sum()) + sample.idle_ns

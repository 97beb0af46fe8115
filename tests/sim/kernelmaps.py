"""The kernel programs' maps as tests and benchmarks look at them, and a reader on them."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from tests.sim.bpf import loaded
from tychod import config
from tychod.clock import SystemClock
from tychod.config import Config
from tychod.hostfs import Host
from tychod.kernel.bpf import abi, attach
from tychod.kernel.bpf.opening import SlotTable
from tychod.kernel.bpf.reader import BpfReader
from tychod.kernel.bpf.snapshot import Snapshots
from tychod.kernel.bpf.syscall import lookup_all
from tychod.kernel.hierarchy import Hierarchy, choose_hierarchy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from tychod.kernel.bpf.plan import Loaded, LoadPlan
    from tychod.samples import CpuSample

Version = Literal["v1", "v2"]


class Used(NamedTuple):
    """What a cgroup's tasks, and interrupts while they were current, have used."""

    task_ns: int
    softirq_ns: int
    irq_ns: int
    switches: int

    @property
    def sum_ns(self) -> int:
        """All CPU time while its tasks were current: what cpu.stat counts."""
        return self.task_ns + self.softirq_ns + self.irq_ns


def settings_for(version: Version) -> Config:
    """Return default settings but for the hierarchy."""
    return Config(host=config.Host(hierarchy=version))


def plan_for(version: Version, **changes: object) -> LoadPlan:
    """Return the plan for this machine's hierarchy, and what is to be different."""
    settings = settings_for(version)
    plan = attach.make_plan(Host(settings.host), settings)
    return replace(plan, **changes)  # type: ignore[arg-type]


def open_reader(fds: Mapping[str, int], version: Version, history_s: float = 10.0) -> BpfReader:
    """Return the daemon's reader on a running accounting."""
    host = Host(settings_for(version).host)
    hierarchy = choose_hierarchy(host, version)
    assert isinstance(hierarchy, Hierarchy)
    views = abi.view_maps(fds)
    return BpfReader(host, hierarchy, SystemClock(), views, SlotTable(fds), round(history_s * 1e9))


class KernelMaps:
    """A running accounting, looked at without the daemon's arithmetic."""

    def __init__(self, fds: Mapping[str, int], version: Version) -> None:
        self.fds = fds
        self.version: Version = version
        self.views = abi.view_maps(fds)

    def slot(self, cgid: int) -> int | None:
        """Return the slot of a cgroup, removed ones too; None: it never ran."""
        found = np.flatnonzero(self.views.info["cgid"] == cgid).tolist()
        return int(found[0]) if found else None

    def used(self, cgid: int) -> Used:
        """Return what a cgroup has used, all packages together; all 0 where it never ran."""
        slot = self.slot(cgid)
        if slot is None:
            return Used(0, 0, 0, 0)
        rows = self.views.total[:, slot]
        task, softirq, irq = (int(rows["ns"][:, kind].sum()) for kind in range(abi.KINDS))
        return Used(task, softirq, irq, int(rows["switches"].sum()))

    def partition_error_ns(self) -> int:
        """Return accounted time less the CPUs' time that has passed; only when it is quiet."""
        snapshots = Snapshots(self.views, SystemClock().now_ns)
        for _ in range(1000):
            shot = snapshots.take(None)
            if not shot.tries_used_up:
                break
        else:
            raise RuntimeError("no consistent snapshot: the machine is not quiet")
        cpu = shot.cpu[shot.cpu["ts"] != 0]
        pending_ns = int(cpu["acc"].sum()) + sum(shot.t_ns - int(ts) for ts in cpu["ts"])
        counted_ns = int(shot.total[:, :, : abi.KINDS].sum()) + int(cpu["idle"].sum())
        counted_ns += int(self.views.ctl["retired"][0])
        return counted_ns + pending_ns - sum(shot.t_ns - int(t0) for t0 in cpu["t0"])

    def processes(self, cgid: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Return keys and values of a cgroup's processes."""
        keys, values = lookup_all(
            self.fds["ty_proc"], abi.PROC_KEY, abi.PROC, int(self.views.ctl["nproc"][0])
        )
        ours = keys["cgid"] == cgid
        return keys[ours], values[ours]

    def reader(self, history_s: float = 10.0) -> BpfReader:
        """Return the daemon's reader on these maps."""
        return open_reader(self.fds, self.version, history_s)


@contextmanager
def accounted(version: Version, **changes: object) -> Iterator[KernelMaps]:
    """Load the programs for a hierarchy under the machine's lock; gone afterwards."""
    with loaded(plan_for(version, **changes)) as found:
        yield KernelMaps(found.maps, version)


@contextmanager
def reading(maps: KernelMaps, history_s: float = 10.0) -> Iterator[BpfReader]:
    """Open a reader that has had its first sample."""
    reader = maps.reader(history_s)
    try:
        first(reader)
        yield reader
    finally:
        reader.close()


def first(reader: BpfReader) -> tuple[CpuSample, ...]:
    """Return the first samples of a reader."""
    for _ in range(200):
        samples = reader.read()
        if samples:
            return samples
        time.sleep(0.02)
    raise RuntimeError(reader.failure)


def drain(reader: BpfReader, seconds: float) -> list[CpuSample]:
    """Return all samples of a while."""
    found: list[CpuSample] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.25)
        found += reader.read()
    return found


def own_ns(sample: CpuSample, key: int) -> int:
    """Return the own time of a key, 0 where it is not in the sample."""
    at = np.flatnonzero(sample.keys == key)
    return int(sample.own_ns[at[0]]) if len(at) else 0


def counted_ns(sample: CpuSample) -> int:
    """Return all time in a sample."""
    return int(sample.own_ns.sum()) + sample.idle_ns


def close_all(found: Loaded) -> None:
    """End an accounting."""
    for fd in (*found.links.values(), *found.maps.values()):
        os.close(fd)


def inode(directory: Path) -> int:
    """Return a cgroup's id."""
    return directory.stat().st_ino

"""CPU time of every cgroup, from the cgroup files of the hierarchy this host uses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from tychod.collectors.base import (
    CollectorSpec,
    CpuCollector,
    Pace,
    Ready,
    Unavailable,
)
from tychod.kernel.cgroups import CgroupReader, CpuBaseline
from tychod.kernel.hierarchy import NoHierarchy, choose_hierarchy
from tychod.model import AccountingFigures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tychod.clock import Clock
    from tychod.config import Config
    from tychod.hostfs import Host
    from tychod.samples import CgroupRef, CpuSample


class CgroupFiles:
    """The cgroup files as a source of CPU time."""

    name: Final = "cpu"
    delay_s: Final = 0.0

    def __init__(self, reader: CgroupReader, pace: Pace) -> None:
        self._reader = reader
        self.pace: Final = pace
        self.figures: Final = AccountingFigures()
        self.outdated: Final = False
        self.method: Final = reader.hierarchy.method
        self.method_reason: Final = f"cgroup files, read every {pace.interval_s:g} s"
        self.hierarchy: Final = f"{reader.hierarchy.version} at {reader.hierarchy.root}"
        self.hierarchy_reason: Final = reader.hierarchy.reason
        self.root: Final = reader.hierarchy.root

    @property
    def cgroups(self) -> Mapping[int, CgroupRef]:
        """Which cgroup each key stands for, lately gone ones too; replaced on change."""
        return self._reader.cgroups

    @property
    def problems(self) -> tuple[str, ...]:
        """What is degraded at present, one line each."""
        return self._reader.problems

    @property
    def failure(self) -> str:
        """Why the last reading gave no sample; empty if it gave one."""
        return self._reader.failure

    def resume(self, baseline: CpuBaseline) -> bool:
        """Continue from saved totals of this boot; call before the first read.  False: cannot."""
        return self._reader.resume(baseline)

    def read(self) -> tuple[CpuSample, ...]:
        """Read all cgroups once; nothing when the root or /proc/stat could not be read."""
        sample = self._reader.read()
        return (sample,) if sample else ()

    def close(self) -> None:
        """Close every file."""
        self._reader.close()


def probe(host: Host, config: Config, clock: Clock) -> Ready[CpuCollector] | Unavailable:
    """Find the hierarchy and open every cgroup in it."""
    hierarchy = choose_hierarchy(host, config.host.hierarchy)
    if isinstance(hierarchy, NoHierarchy):
        return Unavailable(hierarchy.reason, hierarchy.remedy)
    reader = CgroupReader(host, hierarchy, clock, round(config.window.history * 1e9))
    collector = CgroupFiles(reader, Pace(config.accounting.cgroup_interval, config.window.history))
    return Ready(collector, collector.problems)


def grid_s(config: Config) -> float:
    """Return the seconds between readings that a window's end must coincide with."""
    if config.accounting.loader == "off":
        return config.accounting.cgroup_interval
    return drain_interval_s(config)


def drain_interval_s(config: Config) -> float:
    """Return the interval of the kernel's maps: as set, or a little less so that windows fit."""
    length_s = config.window.length
    return length_s / math.ceil(length_s / config.accounting.interval)


SPEC: Final[CollectorSpec[CpuCollector]] = CollectorSpec(
    name="cpu",
    quality="measured",
    enabled=lambda _config: True,
    interval_s=grid_s,
    probe=probe,
)

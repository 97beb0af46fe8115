"""CPU time of every cgroup: from the kernel programs' maps, else from the cgroups' own files."""

from __future__ import annotations

import errno
import math
import os
import threading
from typing import TYPE_CHECKING, Final

from tychod.clock import Clock, EndingClock
from tychod.collectors.base import (
    CollectorSpec,
    CpuCollector,
    Pace,
    Ready,
    Unavailable,
)
from tychod.hostfs import render_error
from tychod.kernel.bpf.abi import BUCKET_NS
from tychod.kernel.bpf.opening import (
    OpenMaps,
    PinWatch,
    SlotTable,
    counted_hierarchy,
    open_maps,
)
from tychod.kernel.bpf.plan import LoadError
from tychod.kernel.bpf.reader import BpfReader
from tychod.kernel.bridge import bridge
from tychod.kernel.cgroups import CgroupReader, CpuBaseline
from tychod.kernel.hierarchy import Hierarchy, NoHierarchy, choose_hierarchy
from tychod.model import AccountingFigures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tychod.config import Config
    from tychod.hostfs import Host
    from tychod.samples import CgroupRef, CounterSample, CpuSample


SWITCHED_OFF: Final = "kernel accounting is off in the settings"
SWITCH_ON: Final = 'set [accounting] loader = "auto", then: systemctl restart tychod-bpf tychod'
KERNEL_PHASE_S: Final = 0.1
"""The maps are read this long after a window's end: two buckets later its last one is closed."""


class CgroupFiles:
    """The cgroup files as a source of CPU time."""

    name: Final = "cpu"
    delay_s: Final = 0.0
    figures: Final = AccountingFigures()
    stamp: Final = 0
    counters: Final = None
    packages: Final = ()
    package_cpus: Final = ()

    def __init__(
        self,
        reader: CgroupReader,
        pace: Pace,
        why: str,
        better: PinWatch | None,
        remedy: str | None = None,
    ) -> None:
        """``why`` and ``remedy``: why the kernel does not count; ``better``: pins that may come."""
        self._reader = reader
        self._better = better
        self._before: CpuBaseline | None = None  # where another method got to
        self.pace: Final = pace
        self.method: Final = reader.hierarchy.method
        self.method_reason: Final = f"cgroup files, read every {pace.interval_s:g} s; {why}"
        self.method_remedy: Final = remedy
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

    @property
    def outdated(self) -> bool:
        """True when the loader's pins came or changed since the probe."""
        return self._better is not None and self._better.changed()

    def resume(self, baseline: CpuBaseline) -> bool:
        """Continue from saved totals of this boot; call before the first read.  False: cannot."""
        if self._reader.resume(baseline):
            return True
        self._before = baseline if baseline.busy_ns else None
        return self._before is not None

    def read(self) -> tuple[CpuSample, ...]:
        """Read all cgroups once; nothing when the root or /proc/stat could not be read."""
        sample = self._reader.read()
        if sample is None:
            return ()
        before, self._before = self._before, None
        return bridge(before, sample) if before else (sample,)

    read_last = read

    def close(self) -> None:
        """Close every file."""
        self._reader.close()


class KernelMaps:
    """The kernel programs' maps as a source of CPU time."""

    name: Final = "cpu"
    delay_s: Final = 0.0

    def __init__(self, opened: OpenMaps, reader: BpfReader, clock: EndingClock, pace: Pace) -> None:
        """``clock`` is the reader's."""
        hierarchy = reader.hierarchy
        self._reader = reader
        self._clock = clock
        self._open = threading.Lock()  # held by who uses descriptors in another thread
        self._closed = False
        self.opened: Final = opened
        self.stamp: Final = reader.stamp
        self.packages: Final = reader.packages
        self.charges_interrupted: Final = reader.interrupted is not None
        self.pace: Final = pace
        self.method: Final = opened.method
        self.method_reason: Final = (
            f"kernel programs, {opened.origin}; bins of 50 ms, read every {pace.interval_s:g} s"
        )
        self.method_remedy: Final = None
        self.hierarchy: Final = f"{hierarchy.version} at {hierarchy.root}"
        self.hierarchy_reason: Final = hierarchy.reason
        self.root: Final = hierarchy.root

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

    @property
    def figures(self) -> AccountingFigures:
        """The quality of the accounting so far."""
        figures = self._reader.figures
        return AccountingFigures(
            figures.late_ns, figures.dropped, figures.exhausted, figures.stalls
        )

    @property
    def counters(self) -> CounterSample | None:
        """Hardware counters as last read; None where there are none."""
        return self._reader.counters

    @property
    def package_cpus(self) -> tuple[int, ...]:
        """CPUs online in each package."""
        return self._reader.package_cpus

    @property
    def outdated(self) -> bool:
        """True when these maps are no longer the pinned ones: nothing counts in them any more."""
        return self.opened.replaced()

    def resume(self, baseline: CpuBaseline) -> bool:
        """Continue from saved totals of this boot; call before the first read.  False: cannot."""
        return self._reader.resume(baseline)

    def read(self) -> tuple[CpuSample, ...]:
        """Return the samples of the bins since the last reading; none until all CPUs count.

        Once these maps are no longer the pinned ones their time ends with the last event in them:
        who has used the CPUs since is not to be guessed from who ran then.
        """
        if not self.opened.replaced():
            return self._reader.read()
        self._clock.end(int(self.opened.views.cpu["ts"].max()))
        return self._reader.read_last()

    def read_last(self) -> tuple[CpuSample, ...]:
        """Return the samples since the last reading, and one of now."""
        return self._reader.read_last()

    def share(self, name: str) -> int:
        """Return a copy of a map's descriptor, the caller's to close; OSError once we are closed.

        Any thread may ask: after our end the number of ours may be another file's.
        """
        with self._open:
            if self._closed:
                raise OSError(errno.EBADF, "the accounting was closed")
            return os.dup(self.opened.fds[name])

    def close(self) -> None:
        """Give the maps back; pinned programs go on counting."""
        self._reader.close()
        with self._open:
            if not self._closed:
                self._closed = True
                self.opened.close()


def probe(host: Host, config: Config, clock: Clock) -> Ready[CpuCollector] | Unavailable:
    """Find the hierarchy, and let the kernel count its cgroups' time, or read their files."""
    hierarchy = choose_hierarchy(host, config.host.hierarchy)
    if isinstance(hierarchy, NoHierarchy):
        return Unavailable(hierarchy.reason, hierarchy.remedy)
    if config.accounting.loader == "off":
        return _files(host, config, clock, hierarchy, SWITCHED_OFF, None, SWITCH_ON)
    watch = PinWatch(host)
    try:
        opened = open_maps(host, config, hierarchy)
    except LoadError as exc:
        why = f"no kernel accounting: {exc.text}"
        return _files(host, config, clock, hierarchy, why, watch, exc.remedy)
    history_s = min(config.window.history, 2 * config.window.length + 4.0)  # 20 samples a second
    interval_s = drain_interval_s(config)
    samples = math.ceil(interval_s * 1e9 / BUCKET_NS) + 1
    pace = Pace(interval_s, history_s, KERNEL_PHASE_S, samples)
    table = SlotTable(opened.fds)
    try:
        hierarchy = counted_hierarchy(host, config, opened, hierarchy)
        ending = EndingClock(clock)
        reader = BpfReader(
            host,
            hierarchy,
            ending,
            opened.views,
            table,
            round(history_s * 1e9),
            config.attribution.irq,
        )
    except (LoadError, OSError) as exc:
        opened.close()
        text, remedy = _told(exc)
        why = f"no kernel accounting: {text}"
        return _files(host, config, clock, hierarchy, why, watch, remedy)
    collector = KernelMaps(opened, reader, ending, pace)
    return Ready(collector, (*opened.notes, *collector.problems))


def _told(exc: LoadError | OSError) -> tuple[str, str | None]:
    """Return the text of a failure, and its remedy where one is known."""
    return (exc.text, exc.remedy) if isinstance(exc, LoadError) else (render_error(exc), None)


def _files(
    host: Host,
    config: Config,
    clock: Clock,
    hierarchy: Hierarchy,
    why: str,
    better: PinWatch | None = None,
    remedy: str | None = None,
) -> Ready[CpuCollector]:
    if config.attribution.irq == "interrupted":
        why = f"{why}; the kernel's own files decide who gets interrupts, [attribution] irq cannot"
    reader = CgroupReader(host, hierarchy, clock, round(config.window.history * 1e9))
    pace = Pace(config.accounting.cgroup_interval, config.window.history)
    collector = CgroupFiles(reader, pace, why, better, remedy)
    return Ready(collector, (collector.method_reason, *collector.problems))


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

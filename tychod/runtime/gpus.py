"""The graphics processors as analysis sees them."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Literal

from tychod.buffer import Buffer
from tychod.clock import Clock
from tychod.collectors import GPU_COLLECTOR
from tychod.collectors.base import GpuCollector, Pace, Ready, Timings, Unavailable
from tychod.collectors.nvml import MOST_DEVICES
from tychod.collectors.nvml_device import FASTEST_S
from tychod.config import Config
from tychod.hostfs import Host
from tychod.model import Window
from tychod.runtime.plans import Access, Plan
from tychod.runtime.sampler import Sampler
from tychod.runtime.sources import Crashed, calibrated, self_timed, untimed
from tychod.samples import CgroupRef, GpuProcess, GpuSample, GpuSeries, GpuUse

LOOK_AHEAD_S: Final = 0.3
"""What a window needs of the time after it, to undo averages (analysis/gpuseries.py)."""
MARGIN_NS: Final = 4_000_000_000
"""What it needs of the time before it: the last updates, and the last look at processes."""
SILENT_PERIODS: Final = 3
"""A device that did not publish for so many periods is not waited for."""

Hierarchy = Literal["v1", "v2"]


class GpuSampler:
    """The one source of all graphics processors."""

    def __init__(
        self,
        plan: Plan,
        find: Callable[[], Ready[GpuCollector] | Unavailable],
        version: Callable[[], Hierarchy],
        clock: Clock,
        crashed: Crashed,
        look_s: float,
    ) -> None:
        """``version``: of the cgroup hierarchy that workloads are found in.

        ``look_s``: seconds between two looks at the processes of each device.
        """
        self._version = version
        self._clock = clock
        looks = math.ceil(plan.history_s / look_s)
        self._uses: Buffer[GpuUse] = Buffer(MOST_DEVICES * looks)
        self._published: Mapping[str, int] = MappingProxyType({})  # newest update of each device
        access = Access(
            find,
            self._read,
            outdated=attrgetter("outdated"),
            pace=partial(_pace, plan),
            timed=self_timed,
        )
        self.sampler: Final = Sampler(plan, access, clock, crashed)

    def _read(self, collector: GpuCollector) -> tuple[GpuSample, ...]:
        """Read what is due, on the sampler's thread."""
        samples = collector.read()
        if samples:
            newest = {sample.device: sample.published_ns for sample in samples}
            self._published = MappingProxyType({**self._published, **newest})
        uses = collector.uses()
        for use in uses:
            last = self._uses.last()
            later_ns = last.t_ns + 1 if last and use.t_ns <= last.t_ns else use.t_ns
            self._uses.append(use._replace(t_ns=later_ns))
        if uses:  # now and then is enough
            self._forget()
        return samples

    def _forget(self) -> None:
        """Drop what no window needs any more: there is room for as many as there could be."""
        before_ns = self._clock.now_ns() - round(self.sampler.plan.history_s * 1e9)
        self._uses.forget(before_ns)
        opened = self.sampler.opened()
        if opened is not None:
            opened.buffer.forget(before_ns)

    def lag_s(self) -> float | None:
        """How long after its end a window is known; None while the source is not there."""
        opened = self.sampler.opened()
        if opened is None or self.sampler.health().state != "ok" or not self._live():
            return None
        return opened.published_s() + opened.collector.delay_s + LOOK_AHEAD_S

    def newest_ns(self) -> int | None:
        """Monotonic time up to which every device that answers is known, look-ahead included."""
        opened, live = self.sampler.opened(), self._live()
        if opened is None or not live:
            return None
        return min(live) - round((opened.collector.delay_s + LOOK_AHEAD_S / 2) * 1e9)

    def _live(self) -> list[int]:
        """Return the newest update of each device that still publishes."""
        opened = self.sampler.opened()
        if opened is None:
            return []
        silent_ns = round(SILENT_PERIODS * max(opened.published_s(), 0.1) * 1e9)
        since_ns = self._clock.now_ns() - silent_ns
        there = {device.uuid for device in opened.collector.devices}
        return [t for uuid, t in self._published.items() if uuid in there and t >= since_ns]

    def series(self, window: Window, cgroups: Mapping[int, CgroupRef]) -> GpuSeries | None:
        """Return what a window needs; ``cgroups`` says which cgroup each key stands for."""
        opened = self.sampler.opened()
        if opened is None:
            return None
        collector = opened.collector
        late_ns = round((collector.delay_s + LOOK_AHEAD_S) * 1e9)
        start_ns = window.start_ns - MARGIN_NS
        uses = self._uses.cut(start_ns, window.end_ns)
        return GpuSeries(
            source=self.sampler.plan.name,
            devices=collector.devices,
            samples=opened.buffer.cut(start_ns, window.end_ns + 4 * late_ns),
            uses=placed(uses, cgroups, self._version()),
            reasons=collector.reasons,
        )

    def problems(self) -> tuple[str, ...]:
        """Return what is degraded at present."""
        opened = self.sampler.opened()
        return opened.collector.problems if opened else ()


def placed(
    uses: tuple[GpuUse, ...], cgroups: Mapping[int, CgroupRef], version: Hierarchy
) -> tuple[GpuUse, ...]:
    """Return the looks with the key of each process's cgroup, where that is known."""
    if not any(use.processes for use in uses):
        return uses
    keys = {ref.path: key for key, ref in cgroups.items()}
    return tuple(
        use._replace(processes=tuple(_placed(p, keys, version) for p in use.processes))
        for use in uses
    )


def _placed(process: GpuProcess, keys: Mapping[str, int], version: Hierarchy) -> GpuProcess:
    """Find the cgroup of a process, or the nearest one around it that is known."""
    v2, v1 = process.cgroups
    path = v2 if version == "v2" else v1
    while path and path != "/":
        if path in keys:
            return process._replace(key=keys[path])
        path = path.rpartition("/")[0]
    return process


def gpu_sampler(
    host: Host,
    config: Config,
    version: Callable[[], Hierarchy],
    clock: Clock,
    epoch_ns: int,
    crashed: Crashed,
    timings: Timings = untimed,
) -> GpuSampler | None:
    """Return the sampler of graphics processors; None where the settings switch it off."""
    spec, length_s = GPU_COLLECTOR, config.window.length
    enabled = spec.enabled(config)
    if enabled is False:
        return None
    interval_s = spec.interval_s(config)
    history_s = 2 * length_s + MARGIN_NS / 1e9 + 10.0
    plan = Plan(spec.name, enabled, spec.quality, interval_s, history_s, epoch_ns)
    find = partial(calibrated, partial(spec.find, host, config, clock), timings)
    return GpuSampler(plan, find, version, clock, crashed, config.nvml.process_interval)


def _pace(plan: Plan, _: GpuCollector) -> Pace:
    """Return a pace that gives the buffer room for all devices that could come, at their fastest.

    When devices are read, they say themselves; what is old is dropped by its age.
    """
    each = math.ceil(plan.interval_s / FASTEST_S)
    return Pace(plan.interval_s, plan.history_s, samples=each * MOST_DEVICES)

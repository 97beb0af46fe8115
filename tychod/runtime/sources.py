"""Samplers as analysis sees them, and which source may run beside which."""

from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Protocol, TypeVar, runtime_checkable

from tychod.clock import Clock
from tychod.collectors import CPU_COLLECTOR, ENERGY_COLLECTORS
from tychod.collectors.base import (
    CpuCollector,
    EnergyCollector,
    GpuCollector,
    Pace,
    Ready,
    SelfTimed,
    Timings,
    Unavailable,
)
from tychod.config import Config
from tychod.hostfs import Host
from tychod.kernel.bpf.abi import BUCKET_NS
from tychod.kernel.bridge import Splice
from tychod.kernel.cgroups import CpuBaseline, baseline_of
from tychod.model import SourceStatus, Window
from tychod.runtime.plans import Access, Closed, Plan
from tychod.runtime.sampler import Sampler
from tychod.samples import (
    CgroupRef,
    CpuSample,
    CpuSeries,
    EnergySample,
    EnergySeries,
    EnergyZone,
    PowerSensor,
)

Crashed = Callable[[str], None]
C = TypeVar("C", bound=EnergyCollector | GpuCollector)
CPU_DOMAINS: Final = frozenset({"package", "psys"})
"""A meter of one of these measures the CPU; then no model is needed."""
PLATFORM: Final = "platform"
ABANDONED_S: Final = 120.0
"""As long as analysis carries on without readings of the platform (analysis/platform.py)."""


@runtime_checkable
class Cuttable(Protocol):
    """A source whose reading may wait for somebody else, and can be cut short."""

    def cut(self) -> None:
        """Ask nothing more, from another thread; what is under way ends soon."""


class EnergySampler:
    """One energy source."""

    def __init__(self, sampler: Sampler[EnergyCollector, EnergySample], clock: Clock) -> None:
        self.sampler: Final = sampler
        self._clock = clock

    def lag_s(self) -> float | None:
        """Delay plus interval in seconds; None while no window should wait for the source.

        It is not there or stalled, or all it has is the platform's power, which comes late anyway.
        """
        opened = self.sampler.opened()
        if opened is None or self.sampler.health().state != "ok":
            return None
        if all(part.domain == PLATFORM for part in _parts(opened.collector)):
            return None
        return opened.collector.delay_s + self.sampler.plan.interval_s

    def newest_ns(self) -> int | None:
        """Monotonic time up to which energy is known: of the newest sample, less its delay."""
        opened = self.sampler.opened()
        last = opened.buffer.last() if opened else None
        return last.t_ns - delay_ns(opened.collector) if opened and last else None

    def series(self, window: Window) -> EnergySeries | None:
        """Return the samples of a window; None while the source is not there.

        They are those read as much later as their values are older than the reading.
        """
        opened = self.sampler.opened()
        if opened is None:
            return None
        collector = opened.collector
        if self.sampler.plan.remote and self._is_abandoned():
            return None
        late_ns = delay_ns(collector)
        return EnergySeries(
            source=self.sampler.plan.name,
            quality=collector.quality,
            zones=collector.zones,
            samples=opened.buffer.cut(window.start_ns + late_ns, window.end_ns + late_ns),
            zone_reasons=collector.zone_reasons,
            delay_ns=late_ns,
            sensors=collector.sensors,
            period_ns=round(opened.published_s() * 1e9) or round(opened.pace.interval_s * 1e9),
        )

    def _is_abandoned(self) -> bool:
        """Say whether it has told nothing for so long that another source may take its place."""
        last_ns = self.sampler.last_ns()
        return last_ns is None or self._clock.now_ns() - last_ns > ABANDONED_S * 1e9

    def problems(self) -> tuple[str, ...]:
        """Return what is degraded at present and shows in no zone."""
        opened = self.sampler.opened()
        return opened.collector.problems if opened else ()

    def measures_cpu(self) -> bool:
        """Say whether this source is there and measures the CPU's energy."""
        opened = self.sampler.opened()
        if opened is None or opened.collector.quality != "measured":
            return False
        return any(part.domain in CPU_DOMAINS for part in _parts(opened.collector))


def _parts(collector: EnergyCollector) -> tuple[EnergyZone | PowerSensor, ...]:
    return (*collector.zones, *collector.sensors)


class CpuSampler:
    """The accounting of CPU time."""

    def __init__(
        self,
        plan: Plan,
        find: Callable[[], Ready[CpuCollector] | Unavailable],
        clock: Clock,
        crashed: Crashed,
        saved: CpuBaseline | None,
    ) -> None:
        """``saved``: where another process got to; the first collector goes on from there."""
        self._find = find
        self._saved = saved
        self._former: Mapping[int, CgroupRef] = {}
        self._former_until_ns = 0
        self._known: tuple[object, Mapping[int, CgroupRef]] = (None, {})
        self._splices: tuple[tuple[CpuCollector, Splice], ...] = ()  # of the newest two
        access: Access[CpuCollector, CpuSample] = Access(
            self._probe,
            lambda collector: self._spliced(collector, collector.read()),
            outdated=attrgetter("outdated"),
            pace=attrgetter("pace"),
            last=lambda collector: self._spliced(collector, collector.read_last()),
            goes_on=True,
        )
        self.sampler: Final = Sampler(plan, access, clock, crashed)

    def _probe(self) -> Ready[CpuCollector] | Unavailable:
        """Find a collector that goes on from where the one before it got to."""
        outcome = self._find()
        known = self.baseline() or self._saved
        if not isinstance(outcome, Ready) or known is None:
            return outcome
        outcome.collector.resume(known)
        before = self.sampler.newest()
        last = before.buffer.last() if before else None
        if before is not None and last is not None:
            self._former, self._former_until_ns = before.collector.cgroups, last.t_ns
            splice = Splice(last, self._splice_of(before.collector))
            self._splices = (*self._splices[-1:], (outcome.collector, splice))
        return outcome

    def _spliced(
        self, collector: CpuCollector, samples: tuple[CpuSample, ...]
    ) -> tuple[CpuSample, ...]:
        splice = self._splice_of(collector)
        return splice.apply(samples) if splice else samples

    def _splice_of(self, collector: CpuCollector) -> Splice | None:
        return next((s for owner, s in self._splices if owner is collector), None)

    def newest_ns(self) -> int | None:
        """Monotonic time of the newest sample."""
        return self.sampler.last_ns()

    def cgroups(self) -> Mapping[int, CgroupRef]:
        """Which cgroup each key stands for; for a while those of the collector before, too."""
        opened = self.sampler.opened()
        if opened is None:
            return {}
        present, former = opened.collector.cgroups, self._former
        if not former:
            return present
        if self._known[0] is not present:
            self._known = (present, MappingProxyType({**former, **present}))
        return self._known[1]

    def collector(self) -> CpuCollector | None:
        """Return the collector while it is there."""
        opened = self.sampler.opened()
        return opened.collector if opened else None

    def series(self, window: Window) -> CpuSeries | None:
        """Return the samples of a window."""
        opened = self.sampler.opened()
        if opened is None:
            return None
        if window.start_ns > self._former_until_ns:
            self._former = {}
        samples = opened.buffer.cut(window.start_ns, window.end_ns)
        collector = opened.collector
        splice = self._splice_of(collector)
        return CpuSeries(
            method=collector.method,
            samples=samples,
            cgroups=self.cgroups(),
            run=opened.run,
            stamp=collector.stamp,
            counters=collector.counters,
            away=splice.had.keys() if splice else frozenset(),
            packages=collector.packages,
            package_cpus=collector.package_cpus,
        )

    def baseline(self) -> CpuBaseline | None:
        """Return where the newest collector got to, for one that is opened anew to go on from."""
        opened = self.sampler.newest()
        last = opened.buffer.last() if opened else None
        if opened is None or last is None:
            return None
        found = opened.collector
        return baseline_of(found.method, last, found.cgroups, found.stamp)


def untimed(_name: str, _fingerprint: str) -> None:
    """Know nothing of any device."""


def calibrated(
    find: Callable[[], Ready[C] | Unavailable], timings: Timings
) -> Ready[C] | Unavailable:
    """Probe, and tell what is found when its devices publish, as far as that is known."""
    outcome = find()
    timed = self_timed(outcome.collector) if isinstance(outcome, Ready) else None
    if timed is not None:
        timed.calibrate(timings)
    return outcome


def energy_samplers(
    host: Host,
    config: Config,
    clock: Clock,
    epoch_ns: int,
    crashed: Crashed,
    timings: Timings = untimed,
) -> tuple[EnergySampler, ...]:
    """Return a sampler for each enabled energy source; a model yields to what is measured."""
    made: list[EnergySampler] = []
    meters: list[EnergySampler] = []  # those that may measure the CPU
    for spec in ENERGY_COLLECTORS:
        enabled = spec.enabled(config)
        if enabled is False:
            continue
        plan = Plan(
            spec.name,
            enabled,
            spec.quality,
            spec.interval_s(config),
            config.window.history,
            epoch_ns,
            spec.remote,
        )
        probe = partial(calibrated, partial(spec.find, host, config, clock), timings)
        better = tuple(meters) if spec.quality == "modelled" else ()
        access = Access(
            probe,
            read_energy,
            _yield_to(better),
            attrgetter("outdated"),
            partial(energy_pace, plan),
            timed=self_timed,
            cut=cut,
        )
        sampler = Sampler(plan, access, clock, crashed)
        for source in better:
            source.sampler.follow(sampler.wake)
        made.append(EnergySampler(sampler, clock))
        meters += made[-1:] if spec.measures_cpu else []
    return tuple(made)


def self_timed(collector: EnergyCollector | GpuCollector) -> SelfTimed | None:
    """Return a source that says itself when to be read; ask once, a protocol's check is slow."""
    return collector if isinstance(collector, SelfTimed) else None


def cut(collector: EnergyCollector | GpuCollector) -> None:
    """Let a source that asks somebody else ask nothing more."""
    if isinstance(collector, Cuttable):
        collector.cut()


def read_energy(collector: EnergyCollector) -> tuple[EnergySample, ...]:
    """Return the sample of one reading, or none."""
    sample = collector.read()
    return (sample,) if sample else ()


def delay_ns(collector: EnergyCollector) -> int:
    """Return by how much a value is older than its reading."""
    return round(collector.delay_s * 1e9)


def energy_pace(plan: Plan, collector: EnergyCollector) -> Pace:
    """Return when to read: so that values lie on edges of bins, once their delay is taken off."""
    phase_s = delay_ns(collector) % BUCKET_NS / 1e9
    return Pace(plan.interval_s, plan.history_s + collector.delay_s, phase_s)


def _yield_to(measured: tuple[EnergySampler, ...]) -> Callable[[], Closed | None]:
    """Return a gate that keeps a model off while something measures the CPU or is still probed."""

    def gate() -> Closed | None:
        asked = [s.sampler.plan.name for s in measured if not s.sampler.health().tried]
        if asked:
            return Closed(f"{', '.join(asked)} has not answered yet", settled=False)
        name = next((s.sampler.plan.name for s in measured if s.measures_cpu()), None)
        if name is None:
            return None
        return Closed(f"{name} measures it; a model is used only where nothing does")

    return gate


def cpu_sampler(
    host: Host,
    config: Config,
    clock: Clock,
    epoch_ns: int,
    crashed: Crashed,
    baseline: CpuBaseline | None,
) -> CpuSampler:
    """Return the sampler of CPU time, which goes on from ``baseline`` the first time it opens.

    When it is opened anew later, it goes on from where it was.
    """
    spec = CPU_COLLECTOR

    plan = Plan(
        spec.name,
        enabled=True,
        quality="measured",
        interval_s=spec.interval_s(config),
        history_s=config.window.history,
        epoch_ns=epoch_ns,
    )
    return CpuSampler(plan, partial(spec.find, host, config, clock), clock, crashed, baseline)


def off_status(config: Config) -> tuple[SourceStatus, ...]:
    """Return the rows of energy sources that the settings switch off."""
    return tuple(
        switched_off(spec.name, spec.interval_s(config))
        for spec in ENERGY_COLLECTORS
        if spec.enabled(config) is False
    )


def switched_off(name: str, interval_s: float) -> SourceStatus:
    """Return the row of a source that the settings switch off."""
    return SourceStatus(
        name=name,
        enabled=False,
        state="off",
        quality="unavailable",
        reason="switched off by the settings",
        remedy=None,
        interval_s=interval_s,
        delay_s=0.0,
        samples=0,
        errors=0,
        last_sample_ns=None,
    )

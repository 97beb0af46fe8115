"""What a collector is: found by a probe, read at its interval, closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Final,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    runtime_checkable,
)

from tychod.clock import Clock
from tychod.config import Config, Enabled
from tychod.hostfs import Host, render_error

if TYPE_CHECKING:
    from tychod.kernel.cgroups import CpuBaseline
    from tychod.model import AccountingFigures, SourceDevice
    from tychod.samples import (
        CgroupRef,
        CounterSample,
        CpuSample,
        EnergySample,
        EnergyZone,
        GpuDevice,
        GpuSample,
        GpuUse,
        PowerSensor,
    )


class Pace(NamedTuple):
    """How often a source is to be read, and how many samples a reading gives."""

    interval_s: float
    history_s: float  # how long its samples are kept in memory
    phase_s: float = 0.0  # readings come this much after the deadlines that all sources share
    samples: int = 1  # in each reading


class EnergyCollector(Protocol):
    """Cumulative energy counters of one source."""

    @property
    def name(self) -> str:
        """The source's name, as in the settings."""

    @property
    def quality(self) -> Literal["measured", "modelled"]:
        """Whether hardware counts this energy or a model does."""

    @property
    def delay_s(self) -> float:
        """Seconds by which a value is older than its reading; its readings are shifted by it.

        With its interval over 0.5 s no window waits for it: its energy is booked when it is known.
        """

    @property
    def zones(self) -> tuple[EnergyZone, ...]:
        """The counters, in the order of each sample's values."""

    @property
    def sensors(self) -> tuple[PowerSensor, ...]:
        """The power sensors, in the order of each sample's values."""

    @property
    def zone_reasons(self) -> Mapping[str, str]:
        """Zone or sensor key -> why it cannot be read now; immutable, replaced on change."""

    @property
    def failure(self) -> str:
        """Why the last reading gave no sample; empty if it gave one."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What is degraded at present and shows in no zone, one line each."""

    @property
    def outdated(self) -> bool:
        """True after a reading that noticed other zones than at the probe: probe anew."""

    def read(self) -> EnergySample | None:
        """Read all counters once; None when none of them could be read."""

    def close(self) -> None:
        """Give back what the probe opened."""


class Timing(NamedTuple):
    """When a device publishes, as calibrated, in seconds; None: not measured."""

    period_s: float | None
    period_sd_s: float | None
    delay_s: float | None


Timings = Callable[[str, str], Timing | None]
"""Returns what is known of a device by its name and fingerprint; None: nothing that still holds."""


@runtime_checkable
class SelfTimed(Protocol):
    """A source that publishes in its own time: it is read when its next value is expected.

    A reading that finds nothing new gives no sample, and no failure either.
    """

    def due_ns(self, now_ns: int) -> int:
        """Return the monotonic time at which to read next."""

    def calibrate(self, timings: Timings) -> None:
        """Begin with what is known of each device, those that are found later too."""

    def published(self) -> tuple[SourceDevice, ...]:
        """Return when each of its devices publishes, as learned or calibrated."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know, as that a certificate is not verified."""


class GpuCollector(SelfTimed, Protocol):
    """Graphics processors: what they used, and who was on them."""

    @property
    def name(self) -> str:
        """The source's name, as in the settings."""

    @property
    def delay_s(self) -> float:
        """Seconds by which a value is older than its publication, of the slowest device."""

    @property
    def devices(self) -> tuple[GpuDevice, ...]:
        """The devices there are; replaced on change."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """uuid -> why it cannot be read now; immutable, replaced on change."""

    @property
    def failure(self) -> str:
        """Why the last reading gave no sample; empty if it did, or if nothing is new."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What is degraded at present, one line each."""

    @property
    def outdated(self) -> bool:
        """True after a reading that noticed that the driver went: probe anew."""

    def read(self) -> tuple[GpuSample, ...]:
        """Read what is due and return what was published since, oldest first."""

    def uses(self) -> tuple[GpuUse, ...]:
        """Return the looks at who is on the devices since the last call, oldest first."""

    def close(self) -> None:
        """Give back what the probe opened."""


class CpuCollector(Protocol):
    """CPU time of every cgroup."""

    @property
    def name(self) -> str:
        """The source's name."""

    @property
    def delay_s(self) -> float:
        """Seconds by which a value is older than its reading."""

    @property
    def pace(self) -> Pace:
        """How often it is to be read."""

    @property
    def outdated(self) -> bool:
        """True after a reading that noticed a better method, or that this one is gone."""

    @property
    def figures(self) -> AccountingFigures:
        """The quality of the accounting so far."""

    @property
    def method(self) -> str:
        """How it is counted: ``bpf-core``, ``bpf-bcc``, ``cgroup-v2`` or ``cgroup-v1``."""

    @property
    def counters(self) -> CounterSample | None:
        """Hardware counters as last read; None where there are none."""

    @property
    def packages(self) -> tuple[int, ...]:
        """Socket number of each row of a sample's ``package_ns``; none where that is not kept."""

    @property
    def package_cpus(self) -> tuple[int, ...]:
        """CPUs online in each of them."""

    @property
    def stamp(self) -> int:
        """Which life of the native counters this is; 0 where they live as long as the boot."""

    @property
    def method_reason(self) -> str:
        """Why this method and no better one."""

    @property
    def method_remedy(self) -> str | None:
        """What would let the kernel count where it does not; None: nothing that is known."""

    @property
    def hierarchy(self) -> str:
        """The hierarchy that is believed: ``v2`` or ``v1`` and its directory."""

    @property
    def hierarchy_reason(self) -> str:
        """Why that hierarchy."""

    @property
    def root(self) -> str:
        """The hierarchy's directory, below which the cgroups' paths begin."""

    @property
    def failure(self) -> str:
        """Why the last reading gave no sample; empty if it gave one."""

    @property
    def cgroups(self) -> Mapping[int, CgroupRef]:
        """Which cgroup each key stands for, lately gone ones too; replaced on change."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What is degraded at present, one line each."""

    def resume(self, baseline: CpuBaseline) -> bool:
        """Continue from saved totals of this boot; call before the first read.  False: cannot."""

    def read(self) -> tuple[CpuSample, ...]:
        """Read all cgroups once: the samples since the last reading; none when that failed."""

    def read_last(self) -> tuple[CpuSample, ...]:
        """Read as ``read`` does, up to this moment: no reading follows."""

    def close(self) -> None:
        """Give back what the probe opened."""


C_co = TypeVar("C_co", bound=EnergyCollector | CpuCollector | GpuCollector, covariant=True)


@dataclass(frozen=True, slots=True)
class Ready(Generic[C_co]):
    """The source is there; ``notes`` are for the log at start."""

    collector: C_co
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The source cannot be read: why, and what a person could do about it.

    ``absent``: nothing of it was found on this host, which most often is as it should be.
    """

    reason: str
    remedy: str
    absent: bool = False


UNREADABLE_REMEDY: Final = (
    "let the daemon's user read it (mode, owner, hidepid of /proc, a security module), or point "
    "[host] procfs, sysfs and cgroupfs to where they are"
)


def failure_of(reasons: Mapping[str, str], parts: int) -> str:
    """Return why none of a source's parts could be read, by reason; "" where one could."""
    if len(reasons) < parts:
        return ""
    keys: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        keys.setdefault(reason, []).append(key)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in keys.items())


@dataclass(frozen=True, slots=True)
class CollectorSpec(Generic[C_co]):
    """One row of the table of collectors."""

    name: str
    quality: Literal["measured", "modelled"]
    enabled: Callable[[Config], Enabled]
    interval_s: Callable[[Config], float]
    probe: Callable[[Host, Config, Clock], Ready[C_co] | Unavailable]  # may raise OSError
    measures_cpu: bool = True  # it may: a model of the CPU waits for its answer
    remote: bool = False  # it asks over a network: nothing else ever waits for it

    def find(self, host: Host, config: Config, clock: Clock) -> Ready[C_co] | Unavailable:
        """Probe; a file that the host refuses makes the source unavailable, and nothing worse."""
        try:
            return self.probe(host, config, clock)
        except OSError as exc:
            return Unavailable(render_error(exc), UNREADABLE_REMEDY)

"""How one source is to be read, and how it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from tychod.buffer import Buffer, Timed
from tychod.collectors.base import (
    CpuCollector,
    EnergyCollector,
    GpuCollector,
    Pace,
    Ready,
    SelfTimed,
    Unavailable,
)
from tychod.model import Quality, SourceState

S = TypeVar("S", bound=Timed)
R = TypeVar("R", bound=EnergyCollector | CpuCollector | GpuCollector)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one source is to be read."""

    name: str
    enabled: bool | str
    quality: Quality
    interval_s: float
    history_s: float
    epoch_ns: int  # all deadlines of all sources are whole intervals after this
    remote: bool = False  # asked over a network: nothing waits for its answer

    @property
    def pace(self) -> Pace:
        """How it is read as long as its collector does not say otherwise."""
        return Pace(self.interval_s, self.history_s)


class Health(NamedTuple):
    """How a source is; replaced as a whole, so that any thread may read it."""

    state: SourceState
    reason: str | None = None
    remedy: str | None = None
    samples: int = 0
    errors: int = 0
    late: int = 0
    last_ns: int | None = None
    tried: bool = False  # read once, or known to be unavailable or off
    absent: bool = False  # as the probe said


def unavailable(outcome: Unavailable) -> Health:
    """Return how a source is that its probe did not find."""
    return Health("unavailable", outcome.reason, outcome.remedy, tried=True, absent=outcome.absent)


class Closed(NamedTuple):
    """Why a source is off, and whether that is settled or depends on another's first answer."""

    reason: str
    settled: bool = True


class Opened(NamedTuple, Generic[R, S]):
    """A collector that was found, and its samples."""

    collector: R
    buffer: Buffer[S]
    run: int  # another number: its samples have nothing to do with those before
    pace: Pace
    timed: SelfTimed | None = None  # the collector, where it says itself when to be read

    def due_ns(self, now_ns: int) -> int | None:
        """Return when it wants to be read next; None: at its pace."""
        return self.timed.due_ns(now_ns) if self.timed else None

    def published_s(self) -> float:
        """Return the longest period in seconds at which a device of it publishes; 0: not known."""
        devices = self.timed.published() if self.timed else ()
        return max((device.period_s or 0.0 for device in devices), default=0.0)


@dataclass(frozen=True, slots=True)
class Access(Generic[R, S]):
    """What a sampler does with its source."""

    probe: Callable[[], Ready[R] | Unavailable]
    read: Callable[[R], Sequence[S]]  # oldest first; none when the reading failed
    gate: Callable[[], Closed | None] = lambda: None  # the reason to stay off, or None
    outdated: Callable[[R], bool] = lambda _: False  # after a reading: it has to be probed anew
    pace: Callable[[R], Pace | None] = lambda _: None  # where the plan's does not fit
    last: Callable[[R], Sequence[S]] | None = None  # read so at the end, then wait to be let go
    goes_on: bool = False  # samples of one that is opened anew go on from those before
    timed: Callable[[R], SelfTimed | None] = lambda _: None  # asked once; None: read at its pace
    cut: Callable[[R], None] = lambda _: None  # from another thread: ask nothing more, soon end

"""One thread per source: probe it, read it on absolute deadlines, tell how it is.

A source that hangs hangs here, shows as ``stalled`` and holds up nobody else.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from tychod.buffer import Buffer, Latest, Timed
from tychod.clock import Clock, next_deadline_ns
from tychod.collectors.base import CpuCollector, EnergyCollector, Ready, Unavailable
from tychod.model import Quality, SourceState, SourceStatus

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Timed)

REPROBE_S: Final = 30.0
"""How often a source that is not there is looked for again: a driver may come later."""
GATE_S: Final = 1.0
GIVE_UP_AFTER_S: Final = 30.0
"""A source that gave nothing for this long is closed and probed anew."""
STALLED_AFTER_S: Final = 2.0
RETELL_S: Final = 30.0
"""A source that fails and recovers all the time is told of this often, not at every reading."""


R = TypeVar("R", bound=EnergyCollector | CpuCollector)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one source is to be read."""

    name: str
    enabled: bool | str
    quality: Quality
    interval_s: float
    history_s: float
    epoch_ns: int  # all deadlines of all sources are whole intervals after this

    @property
    def interval_ns(self) -> int:
        """The interval in nanoseconds."""
        return round(self.interval_s * 1e9)

    @property
    def capacity(self) -> int:
        """How many samples the history holds."""
        return int(self.history_s / self.interval_s) + 2


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


class Opened(NamedTuple, Generic[R, S]):
    """A collector that was found, and its samples; a new probe starts a new buffer."""

    collector: R
    buffer: Buffer[S]
    run: int  # how many were opened before this one


class Sampler(Generic[R, S]):
    """Owns one source and the thread that reads it."""

    def __init__(
        self,
        plan: Plan,
        probe: Callable[[], Ready[R] | Unavailable],
        clock: Clock,
        crashed: Callable[[str], None],
        gate: Callable[[], str | None] = lambda: None,
    ) -> None:
        """``gate`` gives the reason to stay off, or None; ``crashed`` ends the daemon."""
        self.plan: Final = plan
        self._probe = probe
        self._clock = clock
        self._crashed = crashed
        self._gate = gate
        self._stop = threading.Event()
        self._health: Latest[Health] = Latest()
        self._opened: Latest[Opened[R, S] | None] = Latest()
        self._newest: Opened[R, S] | None = None
        self._told_ns: int | None = None  # when a failed reading was last logged
        self._owes_recovery = False
        self._thread = threading.Thread(target=self._run, name=f"read-{plan.name}", daemon=True)
        self._set(Health("unavailable", "not probed yet"))

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def ask_stop(self) -> None:
        """Tell the thread to end; it does so after the reading in progress."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; False when the source still hangs."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def wait_tried(self, timeout_s: float) -> bool:
        """Wait until the source was read once or is known to be absent; False on time-out."""
        deadline_ns = self._clock.now_ns() + round(timeout_s * 1e9)
        while True:
            seen = self._health.count()
            if self._now().tried:
                return True
            left_s = (deadline_ns - self._clock.now_ns()) / 1e9
            if left_s <= 0 or not self._health.wait_newer(seen, left_s):
                return self._now().tried

    def opened(self) -> Opened[R, S] | None:
        """Return the collector and its samples, or None while the source is not there."""
        return self._opened.get()

    def newest(self) -> Opened[R, S] | None:
        """Return the collector opened last, closed or not, and its samples."""
        return self._newest

    def health(self) -> Health:
        """Return how the source is; ``stalled`` when it has not answered for too long."""
        health = self._health.get() or Health("unavailable", "not probed yet")
        if health.state != "ok" or health.last_ns is None:
            return health
        quiet_s = (self._clock.now_ns() - health.last_ns) / 1e9
        if quiet_s <= max(STALLED_AFTER_S, 3 * self.plan.interval_s):
            return health
        reason = health.reason or f"no answer for {quiet_s:.0f} s; it is asked again all the time"
        return health._replace(
            state="stalled",
            reason=reason,
            remedy=f"see journalctl -u tychod: what {self.plan.name} reads hangs or fails",
        )

    def status(self) -> SourceStatus:
        """Return the row for ``tychoctl sources``."""
        health, opened = self.health(), self.opened()
        quality: Quality = self.plan.quality if health.state == "ok" else "unavailable"
        return SourceStatus(
            name=self.plan.name,
            enabled=self.plan.enabled,
            state=health.state,
            quality="stale" if health.state == "stalled" else quality,
            reason=health.reason,
            remedy=health.remedy,
            interval_s=self.plan.interval_s,
            delay_s=opened.collector.delay_s if opened else 0.0,
            samples=health.samples,
            errors=health.errors,
            last_sample_ns=health.last_ns,
            late=health.late,
            absent=health.absent,
        )

    def _run(self) -> None:
        try:
            self._live()
        except Exception:  # the outermost frame of the thread: a fault of ours ends the daemon
            log.critical("the thread that reads %s failed", self.plan.name, exc_info=True)
            self._crashed(f"reading {self.plan.name} failed")

    def _live(self) -> None:
        while not self._stop.is_set():
            closed = self._gate()
            if closed is not None:
                self._change(Health("off", closed, tried=True))
                self._stop.wait(GATE_S)
                continue
            outcome = self._probe()
            if isinstance(outcome, Unavailable):
                self._change(unavailable(outcome))
                self._stop.wait(REPROBE_S)
                continue
            for note in outcome.notes:
                log.info("%s: %s", self.plan.name, note, extra={"source": self.plan.name})
            with self._open(outcome.collector) as opened:
                self._read_until_lost(opened)

    @contextmanager
    def _open(self, collector: R) -> Iterator[Opened[R, S]]:
        run = self._newest.run + 1 if self._newest else 0
        opened: Opened[R, S] = Opened(collector, Buffer(self.plan.capacity), run)
        self._newest = opened
        self._opened.publish(opened)
        try:
            yield opened
        finally:
            self._opened.publish(None)
            collector.close()

    def _read_until_lost(self, opened: Opened[R, S]) -> None:
        deadline_ns = self.plan.epoch_ns
        last_good_ns = self._clock.now_ns()
        while not self._stop.is_set():
            if self._read_once(opened):
                last_good_ns = self._clock.now_ns()
            elif self._clock.now_ns() - last_good_ns > GIVE_UP_AFTER_S * 1e9:
                return
            if self._gate() is not None:
                return
            now_ns = self._clock.now_ns()
            following_ns = next_deadline_ns(deadline_ns, self.plan.interval_ns, now_ns)
            self._count_late(following_ns - deadline_ns, deadline_ns)
            deadline_ns = following_ns
            self._stop.wait((deadline_ns - now_ns) / 1e9)

    def _read_once(self, opened: Opened[R, S]) -> bool:
        health = self._now()
        try:
            sample = opened.collector.read()
        except OSError as exc:
            self._failed(health, f"{exc.strerror or exc}")
            return False
        if sample is None:
            self._failed(health, "nothing could be read")
            return False
        opened.buffer.append(sample)  # type: ignore[arg-type]  # R reads S by construction
        self._change(
            Health(
                "ok", None, None, health.samples + 1, health.errors, health.late, sample.t_ns, True
            )
        )
        return True

    def _failed(self, health: Health, reason: str) -> None:
        now_ns = self._clock.now_ns()
        is_due = self._told_ns is None or now_ns - self._told_ns >= RETELL_S * 1e9
        if health.reason != reason and is_due:
            log.warning("%s: %s", self.plan.name, reason, extra={"source": self.plan.name})
            self._told_ns, self._owes_recovery = now_ns, True
        self._set(health._replace(reason=reason, errors=health.errors + 1, tried=True))

    def _count_late(self, skipped_ns: int, deadline_ns: int) -> None:
        missed = skipped_ns // self.plan.interval_ns - 1
        if missed > 0 and deadline_ns != self.plan.epoch_ns:
            health = self._now()
            self._set(health._replace(late=health.late + missed))

    def _now(self) -> Health:
        return self._health.get() or Health("unavailable")

    def _set(self, health: Health) -> None:
        self._health.publish(health)

    def _change(self, health: Health) -> None:
        """Publish, and log when the state or its reason is another than before."""
        before = self._now()
        self._set(health)
        if (before.state, before.reason) == (health.state, health.reason):
            return
        if before.state == health.state == "ok" and not self._owes_recovery:
            return
        self._owes_recovery = False
        event = {"event": f"source-{health.state}", "source": self.plan.name}
        if health.state == "ok":
            log.info("%s: reading every %g s", self.plan.name, self.plan.interval_s, extra=event)
        elif health.state == "off":
            log.info("%s: off: %s", self.plan.name, health.reason, extra=event)
        else:
            level = logging.WARNING if self.plan.enabled is True else logging.INFO
            told = f"; {health.remedy}" if health.remedy else ""
            log.log(
                level, "%s: unavailable: %s%s", self.plan.name, health.reason, told, extra=event
            )

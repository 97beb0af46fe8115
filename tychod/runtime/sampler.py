"""One thread per source: probe it, read it on absolute deadlines, tell how it is.

A source that hangs hangs here, shows as ``stalled`` and holds up nobody else.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic

from tychod.buffer import Buffer, Latest
from tychod.clock import Clock, next_deadline_ns
from tychod.collectors.base import Pace, Ready, Unavailable
from tychod.hostfs import render_error
from tychod.model import Quality, SourceStatus
from tychod.runtime.plans import Access, Closed, Health, Opened, Plan, R, S, unavailable

log = logging.getLogger(__name__)

REPROBE_S: Final = 30.0
"""How often a source that is not there is looked for again: a driver may come later."""
GATE_S: Final = 1.0
RELEASE_S: Final = 2.0
"""How long a source stays open after its last reading, at most."""
GIVE_UP_AFTER_S: Final = 30.0
"""A source that gave nothing for this long is closed and probed anew."""
STALLED_AFTER_S: Final = 2.0
LEAST_WAIT_NS: Final = 500_000
"""Between two readings of a source that times them itself: no fault of it makes us spin."""
RETELL_S: Final = 30.0
"""A source that fails and recovers all the time is told of this often, not at every reading."""


class Sampler(Generic[R, S]):
    """Owns one source and the thread that reads it."""

    def __init__(
        self,
        plan: Plan,
        access: Access[R, S],
        clock: Clock,
        crashed: Callable[[str], None],
    ) -> None:
        """``crashed`` ends the daemon."""
        self.plan: Final = plan
        self._access = access
        self._clock = clock
        self._crashed = crashed
        self._followers: tuple[Callable[[], None], ...] = ()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._rested = threading.Event()
        self._released = threading.Event()
        self._health: Latest[Health] = Latest()
        self._opened: Latest[Opened[R, S] | None] = Latest()
        self._newest: Opened[R, S] | None = None
        self._asked: R | None = None  # the collector that is read, or was read last
        self._told_ns: int | None = None  # when a failed reading was last logged
        self._owes_recovery = False
        self._thread = threading.Thread(target=self._run, name=f"read-{plan.name}", daemon=True)
        self._set(Health("unavailable", "not probed yet"))

    def follow(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called when the source comes, goes or first answers (set up first)."""
        self._followers += (changed,)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def wake(self) -> None:
        """Let a source that is off or not there look again now."""
        self._wake.set()

    def ask_stop(self) -> None:
        """Tell the thread to end; it does so after the reading in progress, cut short if it may."""
        self._stop.set()
        self._wake.set()
        if self._asked is not None:
            self._access.cut(self._asked)

    def wait_rested(self, timeout_s: float) -> bool:
        """After ``ask_stop``: wait for the last reading; its samples stay until ``join``."""
        return self._thread.ident is None or self._rested.wait(timeout_s)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; False when the source still hangs."""
        self._released.set()
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

    def last_ns(self) -> int | None:
        """Monotonic time of the newest sample of the collector that is open."""
        opened = self.opened()
        last = opened.buffer.last() if opened else None
        return last.t_ns if last else None

    def health(self) -> Health:
        """Return how the source is; ``stalled`` when it has not answered for too long."""
        health = self._health.get() or Health("unavailable", "not probed yet")
        if health.state != "ok" or health.last_ns is None:
            return health
        quiet_s = (self._clock.now_ns() - health.last_ns) / 1e9
        if quiet_s <= max(STALLED_AFTER_S, 3 * self._period_s()):
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
        timed = opened.timed if opened else None
        return SourceStatus(
            name=self.plan.name,
            enabled=self.plan.enabled,
            state=health.state,
            quality="stale" if health.state == "stalled" else quality,
            reason=health.reason,
            remedy=health.remedy,
            interval_s=self._pace().interval_s,
            delay_s=opened.collector.delay_s if opened else 0.0,
            samples=health.samples,
            errors=health.errors,
            last_sample_ns=health.last_ns,
            late=health.late,
            absent=health.absent,
            devices=timed.published() if timed else (),
            notes=timed.notes if timed else (),
        )

    def _run(self) -> None:
        try:
            self._live()
        except Exception:  # the outermost frame of the thread: a fault of ours ends the daemon
            log.critical("the thread that reads %s failed", self.plan.name, exc_info=True)
            self._crashed(f"reading {self.plan.name} failed")
        finally:
            self._rested.set()

    def _live(self) -> None:
        while not self._stop.is_set():
            closed = self._access.gate()
            if closed is not None:
                self._turn_off(closed)
                self._pause(GATE_S)
                continue
            outcome = self._access.probe()
            if isinstance(outcome, Unavailable):
                self._change(unavailable(outcome))
                self._pause(REPROBE_S)
                continue
            opened = self._open(outcome)
            self._publish(opened)
            try:
                self._read_until_lost(opened)
            finally:
                self._close()

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _turn_off(self, closed: Closed) -> None:
        health = Health("off", closed.reason, tried=closed.settled)
        if closed.settled:
            self._change(health)
        else:
            self._set(health)  # nothing to log: it is a matter of moments

    def _open(self, ready: Ready[R]) -> Opened[R, S]:
        for note in ready.notes:
            log.info("%s: %s", self.plan.name, note, extra={"source": self.plan.name})
        pace = self._access.pace(ready.collector) or self.plan.pace
        capacity = (int(pace.history_s / pace.interval_s) + 2) * pace.samples
        before = self._newest
        if before is not None and self._access.goes_on:
            return Opened(ready.collector, before.buffer.grown(capacity), before.run, pace)
        run, timed = before.run + 1 if before else 0, self._access.timed(ready.collector)
        return Opened(ready.collector, Buffer(capacity), run, pace, timed)

    def _pace(self) -> Pace:
        opened = self.opened()
        return opened.pace if opened else self.plan.pace

    def _period_s(self) -> float:
        """Return the seconds between two samples: the pace's, or how often the source publishes."""
        opened = self.opened()
        return max(self._pace().interval_s, opened.published_s() if opened else 0.0)

    def _publish(self, opened: Opened[R, S]) -> None:
        self._newest = opened
        self._opened.publish(opened)

    def _close(self) -> None:
        opened = self._opened.get()
        self._opened.publish(None)
        if opened is not None:
            opened.collector.close()

    def _renewed(self, old: Opened[R, S]) -> Opened[R, S]:
        """Probe anew and replace what is outdated; keep it where nothing better is found.

        The new one is published with a sample of its own, so that to analysis the source was
        never away: a zone's energy goes on from the last window's end, whatever opens it.
        """
        outcome = self._access.probe()
        if isinstance(outcome, Unavailable):
            return old
        fresh = self._open(outcome)
        if not self._read_once(fresh):
            fresh.collector.close()
            return old
        self._publish(fresh)
        old.collector.close()
        log.info("%s: opened anew", self.plan.name, extra={"source": self.plan.name})
        return fresh

    def _read_until_lost(self, opened: Opened[R, S]) -> None:
        deadline_ns = first_ns = self._first_deadline_ns(opened.pace)
        last_good_ns = self._clock.now_ns()
        while not self._stop.is_set():
            if self._read_once(opened):
                last_good_ns = self._clock.now_ns()
            elif self._is_given_up(opened, last_good_ns):
                return
            if self._access.gate() is not None:
                return
            if self._access.outdated(opened.collector):
                opened = self._renewed(opened)
                deadline_ns = first_ns = self._first_deadline_ns(opened.pace)
            now_ns, interval_ns = self._clock.now_ns(), round(opened.pace.interval_s * 1e9)
            due_ns = opened.due_ns(now_ns)
            if due_ns is not None:
                self._stop.wait(max(due_ns - now_ns, LEAST_WAIT_NS) / 1e9)
                continue
            following_ns = next_deadline_ns(deadline_ns, interval_ns, now_ns)
            if deadline_ns != first_ns:
                self._count_late((following_ns - deadline_ns) // interval_ns - 1)
            deadline_ns = following_ns
            self._stop.wait((deadline_ns - now_ns) / 1e9)
        self._read_last(opened)

    def _is_given_up(self, opened: Opened[R, S], last_good_ns: int) -> bool:
        """Say whether to probe anew; a source that times itself knows how often it failed."""
        if opened.timed is not None:
            return False
        return self._clock.now_ns() - last_good_ns > GIVE_UP_AFTER_S * 1e9

    def _read_last(self, opened: Opened[R, S]) -> None:
        """Read up to the end, and keep it open until everything has been made of it."""
        if self._access.last is None:
            return
        self._read_once(opened, self._access.last)
        self._rested.set()
        self._released.wait(RELEASE_S)

    def _first_deadline_ns(self, pace: Pace) -> int:
        return self.plan.epoch_ns + round(pace.phase_s * 1e9)

    def _read_once(
        self, opened: Opened[R, S], read: Callable[[R], Sequence[S]] | None = None
    ) -> bool:
        health = self._now()
        self._asked = opened.collector
        if self._stop.is_set():  # looked at before it was there
            self._access.cut(opened.collector)
        try:
            samples = (read or self._access.read)(opened.collector)
        except OSError as exc:
            self._failed(health, render_error(exc))
            return False
        if not samples:
            return self._without_sample(opened, health)
        for sample in samples:
            opened.buffer.append(sample)
        count, last_ns = health.samples + len(samples), samples[-1].t_ns
        good = Health("ok", None, None, count, health.errors, health.late, last_ns, True)
        if health.state == "ok" and health.reason is None and health.tried:
            self._health.publish(good)  # as it was: nothing to tell, twenty times a second
        else:
            self._change(good)
        return True

    def _without_sample(self, opened: Opened[R, S], health: Health) -> bool:
        """Say whether a reading without a sample is as it should be: nothing new was published."""
        reason = opened.collector.failure
        if not reason and opened.timed is not None:
            if not health.tried or health.state != "ok":
                self._change(health._replace(state="ok", reason=None, remedy=None, tried=True))
            return True
        self._failed(health, reason or "nothing could be read")
        return False

    def _failed(self, health: Health, reason: str) -> None:
        now_ns = self._clock.now_ns()
        is_due = self._told_ns is None or now_ns - self._told_ns >= RETELL_S * 1e9
        if health.reason != reason and is_due:
            log.warning("%s: %s", self.plan.name, reason, extra={"source": self.plan.name})
            self._told_ns, self._owes_recovery = now_ns, True
        self._set(health._replace(reason=reason, errors=health.errors + 1, tried=True))

    def _count_late(self, missed: int) -> None:
        if missed > 0:
            health = self._now()
            self._set(health._replace(late=health.late + missed))

    def _now(self) -> Health:
        return self._health.get() or Health("unavailable")

    def _set(self, health: Health) -> None:
        before = self._now()
        self._health.publish(health)
        if (before.state, before.tried) != (health.state, health.tried):
            for changed in self._followers:
                changed()

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
            log.info("%s: reading every %g s", self.plan.name, self._pace().interval_s, extra=event)
        elif health.state == "off":
            log.info("%s: off: %s", self.plan.name, health.reason, extra=event)
        else:
            level = logging.WARNING if self.plan.enabled is True else logging.INFO
            told = f"; {health.remedy}" if health.remedy else ""
            log.log(
                level, "%s: unavailable: %s%s", self.plan.name, health.reason, told, extra=event
            )

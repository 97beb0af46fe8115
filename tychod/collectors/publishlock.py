"""When to read a device that publishes on a cadence of its own, and when each value appeared.

Reading faster than the device publishes costs a call and tells nothing; reading at a fixed pace
beats with the device's.  The lock learns period and phase and reads a little after each publish:
two in five of those readings are early on purpose, for only a reading that finds the old value
bounds the publish from below.  It has no clock and no thread: times are arguments, in monotonic ns.
"""

import math
from typing import Final, NamedTuple

from tychod.collectors.publishfilter import Interval, Moment, PublishFilter
from tychod.collectors.publishsearch import SHORTER_STEPS, Guard, Search

NS: Final = 1_000_000_000
AFTER_SD: Final = 0.28  # a normal's 61 % point: of the first readings 39 % are early
RETRY_SD: Final = 1.5
OVERSHOOT_GAIN: Final = 0.05
MOST_OVERSHOOT: Final = 0.1  # of the period; a longer one is a hiccup, and no habit
SKIPS_IN_ROW: Final = 5
LONGEST_WAIT_NS: Final = 1.0 * NS  # in silence, unless a quarter of the period is more
SILENT_SHARE: Final = 12  # in a long silence a reading each twelfth of it
FINE_PERIODS: Final = 2.75  # readings in a period; with fewer a wrong one looks well followed
KNOWN_SD: Final = (0.005, 0.2)  # of the period, whatever a calibration says
LEAST_PERIOD_NS: Final = 0.001 * NS
MOST_PERIOD_NS: Final = 3600.0 * NS


class Stamp(NamedTuple):
    """When a value was published."""

    t_ns: int
    sd_ns: int
    half_ns: int  # half the width of an even distribution with that sd
    missed: int  # values published since the one before that nobody read


class PublishLock:
    """Period and phase of one device's publishing."""

    def __init__(
        self,
        period_s: float,
        *,
        known_sd_s: float | None = None,
        least_retry_s: float = 0.001,
        least_period_s: float = 0.001,
        seed: int = 1,
    ) -> None:
        """``known_sd_s``: how sure the period is, where a calibration knows it.

        A device that publishes more often than each ``least_period_s`` is read only so often.
        """
        self._least_period_ns: Final = max(least_period_s * NS, LEAST_PERIOD_NS)
        period_ns = self._bounded(period_s * NS)
        sd_ns = None if known_sd_s is None else _between(known_sd_s * NS, KNOWN_SD, period_ns)
        self.reads = 0
        self.updates = 0
        self.missed = 0
        self._least_ns: Final = max(least_retry_s, 0.0001) * NS
        self._phase: Search | PublishFilter = Search(period_ns, sd_ns)
        self._guard = Guard(seed)
        self._last: Interval | None = None  # the last reading: began, ended
        self._planned_ns: float | None = None
        self._overshoot_ns = 0.0
        self._new_ns = 0.0  # when the newest value was read, or the first reading
        self._old = 0  # readings since, less the one off phase
        self._failures = 0
        self._skips = 0

    @property
    def is_locked(self) -> bool:
        """Whether period and phase are known."""
        return isinstance(self._phase, PublishFilter)

    @property
    def period_s(self) -> float:
        """The period, as learned so far or as given."""
        return self._phase.period_ns / NS

    @property
    def period_sd_s(self) -> float | None:
        """How sure the period is; None while it is not known."""
        phase = self._phase  # once: another thread may ask while it is replaced
        if isinstance(phase, Search):
            return None
        sd_ns = math.sqrt(max(phase.period_variance, 0.0))
        if phase.period_ns < FINE_PERIODS * self._least_ns:
            sd_ns = max(sd_ns, self._least_ns / 2)
        return sd_ns / NS

    def know(self, period_s: float, sd_s: float) -> None:
        """Take a calibrated period, unless one has been learned by now."""
        if isinstance(self._phase, Search):
            period_ns = self._bounded(period_s * NS)
            self._phase = Search(period_ns, _between(sd_s * NS, KNOWN_SD, period_ns))

    def due_ns(self, now_ns: int) -> int:
        """Return when to read next: now, or a bounded time ahead whatever the clock has done."""
        if self._planned_ns is None or (self._last and now_ns < self._last.low_ns):
            return now_ns
        longest_ns = 2 * max(self._phase.period_ns, LONGEST_WAIT_NS) + self._least_ns
        if self._planned_ns - now_ns > longest_ns:
            return now_ns  # the clock was set back
        return max(now_ns, math.ceil(self._planned_ns))

    def failed(self, after_ns: int) -> None:
        """Take a reading that gave no value: it tells nothing, and the next one waits longer."""
        wait_ns = max(self._least_ns, self._phase.period_ns / 4) * 2 ** min(self._failures, 20)
        self._failures += 1
        self._planned_ns = after_ns + min(wait_ns, self._longest_ns())
        self._guard.drop()
        if self._last and after_ns < self._last.low_ns:
            self._last = None  # the clock was set back

    def saw(self, before_ns: int, after_ns: int, is_new: bool) -> Stamp | None:
        """Take a reading that began and ended then; return when its value was published.

        None: the value was known already, or nobody can say when it was published, as of the first.
        """
        self.reads += 1
        self._failures = 0
        reading = Interval(float(before_ns), float(max(before_ns, after_ns)))
        last, self._last = self._last, reading
        if last is None or reading.low_ns < last.low_ns:
            self._begin(reading)
            return None
        self._learn_overshoot(reading)
        stamp = self._take(last, reading, is_new)
        self._planned_ns = self._plan(reading)
        return stamp

    def _begin(self, reading: Interval) -> None:
        """Begin at a first reading, or at one from before the last: the clock was set back."""
        if isinstance(self._phase, PublishFilter):
            sd_ns = math.sqrt(max(self._phase.period_variance, 0.0))
            self._phase = Search(self._phase.period_ns, sd_ns)
        self._guard.drop()
        self._overshoot_ns = 0.0
        self._new_ns, self._old = reading.high_ns, 0
        self._planned_ns = self._plan(reading)

    def _take(self, last: Interval, reading: Interval, is_new: bool) -> Stamp | None:
        """Take one reading after another."""
        phase, guarding = self._phase, self._is_off_phase(reading)
        is_late = self._is_late(reading)
        if isinstance(phase, Search):
            phase.reads += not is_late
        if not is_new:
            self._old += 0 if guarding else 1
            if guarding:
                self._guard.took(found=False)
            return None
        # When a reading saw the value is known to its length only; its middle is unbiased.
        within = Interval(last.mid_ns, reading.mid_ns)
        if isinstance(phase, Search):
            moment, missed = self._search(phase, within, is_late=is_late)
        elif guarding:
            moment, missed = self._find_off_phase(phase, within)
        else:
            moment, missed = self._follow(phase, within, is_late=is_late)
        self._new_ns, self._old = reading.high_ns, 0
        self.updates += 1
        self.missed += missed
        return _stamp(moment, reading.variance, missed)

    def _is_late(self, reading: Interval) -> bool:
        """Whether a reading came so late that publishes may have been stepped over."""
        phase = self._phase
        most_ns = phase.step_ns if isinstance(phase, Search) else phase.period_ns / 2
        return self._planned_ns is not None and reading.low_ns - self._planned_ns > most_ns

    def _search(self, search: Search, within: Interval, *, is_late: bool) -> tuple[Moment, int]:
        """Take a publish while period or phase are not known."""
        search.take(within, is_late=is_late)
        if search.is_over:
            can_be_finer = search.step_ns > self._least_ns
            if search.is_coarse and can_be_finer:
                self._phase = Search(self._bounded(search.period_ns / 4), None)
            else:
                self._phase = search.result()
                self._phase.period_ns = self._bounded(self._phase.period_ns)
            self._skips = 0
            self._guard.clear()
        return (Moment(within.mid_ns, within.variance), 0)

    def _is_off_phase(self, reading: Interval) -> bool:
        """Whether this is a reading off phase, and not one that came too late to be it."""
        if self._guard.share is None or isinstance(self._phase, Search):
            return False
        due = self._phase.expect()
        is_it = reading.mid_ns < due.t_ns - 2 * math.sqrt(due.variance)
        if not is_it:
            self._guard.drop()
        return is_it

    def _find_off_phase(self, phase: PublishFilter, within: Interval) -> tuple[Moment, int]:
        """Take a publish where none should be: it says nothing of the phase that was followed."""
        self._guard.took(found=True)
        if self._guard.is_shorter:
            self._guard.clear()
            self._phase = Search(phase.period_ns, None, SHORTER_STEPS)
        return (Moment(within.mid_ns, within.variance), 0)

    def _follow(
        self, phase: PublishFilter, within: Interval, *, is_late: bool
    ) -> tuple[Moment, int]:
        """Take the publish that was waited for, or one of those after it."""
        passed = phase.passed(within)
        seen = phase.take(within, passed, is_late=is_late)
        phase.period_ns = self._bounded(phase.period_ns)
        # Between two readings that lie close no value was missed: the device was silent.
        gap_ns = within.high_ns - within.low_ns
        missed = min(passed - 1, math.floor(gap_ns / phase.period_ns))
        if not is_late:
            self._skips = self._skips + 1 if passed > 1 else 0
        if phase.period_ns > self._least_period_ns:
            self._guard.plan()
        else:
            self._guard.clear()  # of a shorter one nothing needs to be known
        if self._skips >= SKIPS_IN_ROW:
            self._skips = 0
            self._guard.clear()
            self._phase = Search(phase.period_ns, None)
        return (seen, missed)

    def _learn_overshoot(self, reading: Interval) -> None:
        """Learn by how much later than planned the device is really asked."""
        if self._planned_ns is None or isinstance(self._phase, Search):
            return
        late_ns = min(reading.mid_ns - self._planned_ns, MOST_OVERSHOOT * self._phase.period_ns)
        if late_ns >= 0:
            self._overshoot_ns += OVERSHOOT_GAIN * (late_ns - self._overshoot_ns)

    def _plan(self, reading: Interval) -> float:
        """Return when to read next."""
        phase = self._phase
        silent_ns = reading.high_ns - self._new_ns
        if isinstance(phase, Search):
            wait_ns = min(max(phase.step_ns, silent_ns / SILENT_SHARE), self._longest_ns())
            return max(reading.low_ns + wait_ns, reading.high_ns + self._least_ns)
        due = phase.expect()
        sd_ns = math.sqrt(due.variance)
        if self._old:
            return reading.high_ns + self._retry_ns(sd_ns, silent_ns)
        planned_ns = due.t_ns + AFTER_SD * sd_ns - self._overshoot_ns
        if self._guard.share is not None:
            planned_ns = due.t_ns - (1 - self._guard.share) * phase.period_ns
        return max(planned_ns, reading.high_ns + self._least_ns)

    def _retry_ns(self, sd_ns: float, silent_ns: float) -> float:
        """Return how long to wait after a reading that found the old value."""
        wait_ns = min(RETRY_SD * sd_ns * 2.0 ** min(self._old - 1, 20), self._phase.period_ns / 4)
        if silent_ns > 2 * self._phase.period_ns:
            wait_ns = max(wait_ns, min(silent_ns / SILENT_SHARE, self._longest_ns()))
        return max(wait_ns, self._least_ns)

    def _longest_ns(self) -> float:
        return max(LONGEST_WAIT_NS, self._phase.period_ns / 4, self._least_ns)

    def _bounded(self, period_ns: float) -> float:
        return min(MOST_PERIOD_NS, max(self._least_period_ns, period_ns))


def _between(value: float, shares: tuple[float, float], whole: float) -> float:
    return min(shares[1] * whole, max(shares[0] * whole, value))


def _stamp(moment: Moment, reading_variance: float, missed: int) -> Stamp:
    sd_ns = math.sqrt(moment.variance + reading_variance)
    half_ns = max(1, round(sd_ns * math.sqrt(3)))
    return Stamp(round(moment.t_ns), max(1, round(sd_ns)), half_ns, missed)

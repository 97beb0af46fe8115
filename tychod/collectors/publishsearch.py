"""Finding the period and phase of a device's publishing, and noticing that it became shorter."""

import math
from collections import deque
from typing import Final

from tychod.collectors.publishfilter import Interval, Moment, PublishFilter

SEARCH_STEPS: Final = 12  # readings in a period while it is not known
SHORTER_STEPS: Final = 16  # the same where it has become shorter
SEARCH_GAPS: Final = 8
LEAST_SEARCH_READS: Final = 2.5  # for each publish; with fewer some were stepped over
LATE_SHARE: Final = 0.25  # of a gap: a late reading that says so much less of when is no use
GUARD_EVERY: Final = 50  # updates between two readings off phase
GUARD_SOON: Final = 3  # the same once one of them has found a publish
GUARD_SHARES: Final = (0.5, 0.65)  # of the period: past the middle, where one half as long shows
_MASK: Final = (1 << 64) - 1


class Search:
    """Readings at even steps until a number of publishes has been seen."""

    def __init__(self, period_ns: float, sd_ns: float | None, steps: int = SEARCH_STEPS) -> None:
        """``sd_ns``: of a period that is known; then one publish is enough, to find the phase."""
        self.period_ns: Final = period_ns
        self.step_ns: Final = period_ns / steps
        self.reads = 0  # that came in time
        self._sd_ns: Final = sd_ns
        self._last: Interval | None = None
        self._was_late = False
        self._in_time = 0  # publishes that readings in time have seen
        self._gaps: list[float] = []
        self._width_ns = 0.0

    def take(self, within: Interval, *, is_late: bool) -> None:
        """Take a publish that lies in an interval; ``is_late``: its end came later than planned.

        A late reading may have stepped over publishes: what lies about it tells no period, or a
        machine short of CPU time would make the device another one.
        """
        last, self._last = self._last, within
        was_late, self._was_late = self._was_late, is_late
        self._in_time += not is_late
        if last is None:
            return
        gap_ns = within.mid_ns - last.mid_ns
        ends = ((last, was_late), (within, is_late))
        if not any(late and i.high_ns - i.low_ns > LATE_SHARE * gap_ns for i, late in ends):
            self._gaps.append(gap_ns)
            self._width_ns = max(self._width_ns, *(i.high_ns - i.low_ns for i, _ in ends))

    @property
    def is_over(self) -> bool:
        """Whether enough has been seen."""
        if self._sd_ns is not None:
            return self._last is not None
        return self.is_coarse or len(self._gaps) >= SEARCH_GAPS

    @property
    def is_coarse(self) -> bool:
        """Whether the steps are too wide for a period as short as this."""
        is_told = self._sd_ns is None and self._in_time > SEARCH_GAPS
        return is_told and self.reads < LEAST_SEARCH_READS * self._in_time

    def result(self) -> PublishFilter:
        """Return the filter to go on with, once it is over."""
        within = self._last or Interval(0.0, 0.0)
        last = Moment(within.mid_ns, within.variance)
        if self._sd_ns is not None or not self._gaps:
            return PublishFilter(last, self.period_ns, (self._sd_ns or self.period_ns) ** 2)
        median = sorted(self._gaps)[len(self._gaps) // 2]
        # A gap of two periods is one publish that was missed; the median says which those are.
        periods = sum(max(1, round(gap / median)) for gap in self._gaps)
        period_ns = sum(self._gaps) / periods
        width_ns = self._width_ns / math.sqrt(12)
        return PublishFilter(last, period_ns, max(0.05 * period_ns, width_ns / 2) ** 2)


class Guard:
    """Readings off phase: at half of the true period a lock sees every other publish, all well."""

    def __init__(self, seed: int) -> None:
        self._random = (seed * 2 + 1) & _MASK
        self._found: deque[bool] = deque(maxlen=4)
        self._left = GUARD_SOON  # a period that was found or given is verified
        self.share: float | None = None  # where in the period the next one is; None: not now

    def plan(self) -> None:
        """Count an update; every so often the next reading is to be off phase."""
        self._left -= 1
        if self._left > 0:
            return
        low, high = GUARD_SHARES
        # A linear congruence (Knuth): it need only not beat with the device.
        self._random = (self._random * 6364136223846793005 + 1442695040888963407) & _MASK
        self.share = low + (high - low) * self._random / (_MASK + 1)

    def took(self, found: bool) -> None:
        """Take what the reading off phase has found."""
        self.share = None
        self._found.append(found)
        self._left = GUARD_SOON if any(self._found) else GUARD_EVERY

    def drop(self) -> None:
        """Leave the planned reading out: the phase is not what it was."""
        self.share = None
        self._left = GUARD_EVERY

    @property
    def is_shorter(self) -> bool:
        """Whether so many found a publish that the period must be shorter."""
        return sum(self._found) > 1

    def clear(self) -> None:
        """Forget what was found: the period is learned anew."""
        self._found.clear()
        self.share = None
        self._left = GUARD_SOON

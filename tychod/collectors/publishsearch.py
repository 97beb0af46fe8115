"""Finding the period and phase of a device's publishing, and noticing that it became shorter."""

import math
from collections import deque
from itertools import pairwise
from typing import Final

from tychod.collectors.publishfilter import Interval, Moment, PublishFilter

SEARCH_STEPS: Final = 12  # readings in a period while it is not known
SHORTER_STEPS: Final = 16  # the same where it has become shorter
SEARCH_GAPS: Final = 8
LEAST_SEARCH_READS: Final = 2.5  # for each publish; with fewer some were stepped over
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
        self.reads = 0
        self._sd_ns: Final = sd_ns
        self._seen: list[Interval] = []

    def take(self, within: Interval) -> None:
        """Take a publish that lies in an interval."""
        self._seen.append(within)

    @property
    def is_over(self) -> bool:
        """Whether enough has been seen."""
        return len(self._seen) > (SEARCH_GAPS if self._sd_ns is None else 0)

    @property
    def is_coarse(self) -> bool:
        """Whether the steps were too wide for a period as short as this."""
        return self._sd_ns is None and self.reads < LEAST_SEARCH_READS * len(self._seen)

    def result(self) -> PublishFilter:
        """Return the filter to go on with, once it is over."""
        last = Moment(self._seen[-1].mid_ns, self._seen[-1].variance)
        if self._sd_ns is not None:
            return PublishFilter(last, self.period_ns, self._sd_ns**2)
        mids = [interval.mid_ns for interval in self._seen]
        gaps = [after - before for before, after in pairwise(mids)]
        median = sorted(gaps)[len(gaps) // 2]
        # A gap of two periods is one publish that was missed; the median says which those are.
        periods = sum(max(1, round(gap / median)) for gap in gaps)
        period_ns = (mids[-1] - mids[0]) / periods
        width_ns = math.sqrt(max(interval.variance for interval in self._seen))
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

"""When a device publishes next: its last publish and its period, each with a variance.

A reading never sees the moment of a publish, only that it lies between two readings.  The filter is
a two-state Kalman filter that takes such intervals: the update is weighted by what the interval
says beyond what was expected.  Times are nanoseconds as floats, exact to 100 days of uptime.
"""

import math
from typing import Final, NamedTuple

# Shares of the period, and gains; from a prototype with 5 % of jitter, see docs/measuring.md.
PERIOD_DRIFT: Final = 1e-4
START_JITTER: Final = 0.05
WALK_SHARE: Final = 1.0  # of the jitter: a late publish delays those after it
SCATTER_SHARE: Final = 0.15  # and so much more does not
LEAST_JITTER: Final = 0.002
LEAST_JITTER_NS: Final = 2e5
MOST_JITTER: Final = 0.2
JITTER_GAINS: Final = (0.03, 0.005)  # at first, and in the long run
# Beyond this the expectation is worth nothing: the interval alone is taken.
FAR_SD: Final = 5.0
FAR_JITTERS: Final = 8.0
LONG_PERIODS: Final = 8  # without a publish; then only the period is kept
SURE_SD: Final = 3.0  # a reading so close to when a publish is due does not tell whether it was


class Interval(NamedTuple):
    """A publish lies after ``low_ns`` and not after ``high_ns``."""

    low_ns: float
    high_ns: float

    @property
    def mid_ns(self) -> float:
        """The middle."""
        return (self.low_ns + self.high_ns) / 2

    @property
    def variance(self) -> float:
        """Of an even distribution over it, in ns squared."""
        return (self.high_ns - self.low_ns) ** 2 / 12


class Moment(NamedTuple):
    """A point in time with its variance in ns squared."""

    t_ns: float
    variance: float


def _density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def censor(expected: Moment, within: Interval) -> Moment:
    """Return what is known of a moment that was expected and turned out to lie in an interval."""
    sd = math.sqrt(expected.variance)
    a, b = ((edge - expected.t_ns) / sd for edge in within)
    if a > FAR_SD or b < -FAR_SD:
        return _nearest_end(expected, within, sd)
    share = (math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2))) / 2
    if share < 1e-9:  # the interval is narrower than floats can tell
        return Moment(within.mid_ns, within.variance)
    near, far = _density(a), _density(b)
    shift = (near - far) / share
    # a and b may be huge where the density is nil
    edges = (max(a, -40.0) * near - min(b, 40.0) * far) / share
    scale = min(1.0, max(1e-6, 1 + edges - shift * shift))
    return Moment(expected.t_ns + sd * shift, expected.variance * scale)


def _nearest_end(expected: Moment, within: Interval, sd: float) -> Moment:
    """Return the end that was expected: no more than one sd into the interval."""
    width = min(within.high_ns - within.low_ns, 2 * sd)
    if expected.t_ns < within.low_ns:
        near = Interval(within.low_ns, within.low_ns + width)
    else:
        near = Interval(within.high_ns - width, within.high_ns)
    return Moment(near.mid_ns, near.variance)


class PublishFilter:
    """The last publish and the period, with covariance, and the jitter of one publish."""

    def __init__(self, last: Moment, period_ns: float, period_variance: float) -> None:
        self.last_ns = last.t_ns
        self.period_ns = period_ns
        self.period_variance = period_variance
        self._last_variance = last.variance
        self._shared = 0.0
        self._jitter = (START_JITTER * period_ns) ** 2
        self._taken = 0

    def expect(self, ahead: int = 1) -> Moment:
        """Return when the publish that many periods ahead is due."""
        variance = self._last_variance + 2 * ahead * self._shared
        variance += (
            ahead * ahead * self.period_variance
            + (ahead * WALK_SHARE + SCATTER_SHARE) * self._jitter
        )
        return Moment(self.last_ns + ahead * self.period_ns, max(variance, LEAST_JITTER_NS**2))

    def passed(self, within: Interval) -> int:
        """Return which publish ahead, at least the first, is the newest one in an interval.

        The last that is due in it, for a reading that comes late would invent publishes; where
        none is due in it the nearest: one that was taken for missing had been seen before.
        """
        low, high = ((edge - self.last_ns) / self.period_ns for edge in within)
        ahead = math.floor(high)
        if ahead < low and ahead + 1 - high < low - ahead:
            ahead += 1
        return max(1, ahead)

    def is_unsure(self, within: Interval) -> bool:
        """Whether a reading came so late that it cannot be said which publish it saw.

        With the wrong one every later reading would see the publish before the one that it was
        meant for, always "new", and draw the period down.
        """
        ahead = max(1, round((within.high_ns - self.last_ns) / self.period_ns))
        due = self.expect(ahead)
        return ahead > 1 and abs(within.high_ns - due.t_ns) < SURE_SD * due.variance**0.5

    def take(self, within: Interval, passed: int, *, is_late: bool = False) -> Moment:
        """Take the publish that lies in an interval; return its moment."""
        if passed > LONG_PERIODS:
            self.period_variance += (0.02 * self.period_ns) ** 2
            return self._restart(within)
        if is_late and self.is_unsure(within):
            return self._restart(within)
        expected = self.expect(passed)
        seen = censor(expected, within)
        self._predict(passed)
        innovation = seen.t_ns - expected.t_ns
        certain = 1 - seen.variance / expected.variance
        self._learn_jitter(innovation, expected.variance, seen.variance)
        self._correct(innovation, certain, expected.variance)
        return seen

    def _restart(self, within: Interval) -> Moment:
        """Keep only the period: the publish is one of the last period before the reading."""
        near = Interval(max(within.low_ns, within.high_ns - self.period_ns), within.high_ns)
        self.last_ns, self._last_variance = near.mid_ns, near.variance
        self._shared = 0.0
        return Moment(near.mid_ns, near.variance)

    def _predict(self, ahead: int) -> None:
        self.last_ns += ahead * self.period_ns
        self._last_variance += 2 * ahead * self._shared + ahead * ahead * self.period_variance
        self._last_variance += ahead * WALK_SHARE * self._jitter
        self._shared += ahead * self.period_variance
        self.period_variance += ahead * (PERIOD_DRIFT * self.period_ns) ** 2

    def _correct(self, innovation: float, certain: float, variance: float) -> None:
        last_gain, period_gain = self._last_variance / variance, self._shared / variance
        self.last_ns += last_gain * innovation
        # No update can turn the period round or double it.
        change = period_gain * innovation
        self.period_ns += min(0.5 * self.period_ns, max(-0.3 * self.period_ns, change))
        self.period_variance -= certain * period_gain * self._shared
        self._shared -= certain * last_gain * self._shared
        self._last_variance -= certain * last_gain * self._last_variance

    def _learn_jitter(self, innovation: float, expected: float, seen: float) -> None:
        """Learn from all publishes: those that a reading just missed alone would stamp early."""
        if expected > FAR_JITTERS * self._jitter:
            return  # the phase was lost, and what is found of it is no jitter
        surplus = min(innovation**2, 9 * expected) + seen - expected
        self._taken += 1
        gain = max(JITTER_GAINS[1], min(JITTER_GAINS[0], 1 / self._taken))
        jitter = self._jitter + gain * surplus
        least = max(LEAST_JITTER * self.period_ns, min(LEAST_JITTER_NS, 0.05 * self.period_ns))
        most = MOST_JITTER * self.period_ns
        self._jitter = min(most * most, max(least * least, jitter))

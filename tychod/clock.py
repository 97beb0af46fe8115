"""Monotonic time, injected wherever time matters, and its offset to the wall clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """What the daemon asks of time; tests bring their own."""

    def now_ns(self) -> int:
        """Nanoseconds of the monotonic clock."""

    def wall_offset_ns(self) -> int:
        """Nanoseconds to add to a monotonic time for the wall clock (since 1970, UTC)."""


class SleepClock(Clock, Protocol):
    """A clock that knows for how long the machine slept."""

    def slept_ns(self) -> int:
        """Nanoseconds since boot that the monotonic clock did not count."""


class SystemClock:
    """CLOCK_MONOTONIC and CLOCK_REALTIME of this machine."""

    def now_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC: since boot, not counting suspend."""
        return time.monotonic_ns()

    def wall_offset_ns(self) -> int:
        """CLOCK_REALTIME minus CLOCK_MONOTONIC, read between two readings of the latter."""
        before = time.monotonic_ns()
        wall = time.time_ns()
        return wall - (before + time.monotonic_ns()) // 2

    def slept_ns(self) -> int:
        """CLOCK_BOOTTIME minus CLOCK_MONOTONIC in whole seconds: time in suspend."""
        boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return round((boottime_ns - time.monotonic_ns()) / 1e9) * 1_000_000_000


class EndingClock:
    """Another clock, until it is told at which time to stand still."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._end_ns: int | None = None

    def end(self, t_ns: int) -> None:
        """Stand still at this time from now on; the first one stays."""
        self._end_ns = t_ns if self._end_ns is None else self._end_ns

    def now_ns(self) -> int:
        """Nanoseconds of the monotonic clock, up to the end."""
        now_ns = self._clock.now_ns()
        return now_ns if self._end_ns is None else min(now_ns, self._end_ns)

    def wall_offset_ns(self) -> int:
        """Nanoseconds to add to a monotonic time for the wall clock."""
        return self._clock.wall_offset_ns()


def next_deadline_ns(deadline_ns: int, interval_ns: int, now_ns: int) -> int:
    """Return the first deadline after ``now_ns`` on the grid: missed ones are skipped."""
    if deadline_ns + interval_ns > now_ns:
        return deadline_ns + interval_ns
    return deadline_ns + ((now_ns - deadline_ns) // interval_ns + 1) * interval_ns

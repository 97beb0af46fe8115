"""The two ways data passes between threads: a bounded history and a one-place slot."""

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """A sample: immutable, with the monotonic time of its reading."""

    @property
    def t_ns(self) -> int:
        """Monotonic nanoseconds."""


S = TypeVar("S", bound=Timed)
T = TypeVar("T")


class Buffer(Generic[S]):
    """Bounded history of one source, oldest out first; times never decrease."""

    def __init__(self, capacity: int) -> None:
        self._samples: deque[S] = deque(maxlen=capacity)
        self._lock = threading.Lock()

    def append(self, sample: S) -> bool:
        """Add the newest sample; refuse (False) one that is older than the last."""
        with self._lock:
            if self._samples and sample.t_ns <= self._samples[-1].t_ns:
                return False
            self._samples.append(sample)
            return True

    def forget(self, before_ns: int) -> None:
        """Drop what is older: a capacity alone would keep slow sources' samples for hours."""
        with self._lock:
            while self._samples and self._samples[0].t_ns < before_ns:
                self._samples.popleft()

    def grown(self, capacity: int) -> "Buffer[S]":
        """Return another buffer that begins with the newest samples of this one."""
        other: Buffer[S] = Buffer(capacity)
        with self._lock:
            other._samples.extend(self._samples)
        return other

    def cut(self, start_ns: int, end_ns: int) -> tuple[S, ...]:
        """Return the samples in ``(start, end]``, the last one before and the first one after."""
        with self._lock:
            samples = list(self._samples)
        times = [s.t_ns for s in samples]
        first = max(bisect_right(times, start_ns) - 1, 0)
        return tuple(samples[first : bisect_left(times, end_ns) + 1])

    def last(self) -> S | None:
        """Return the newest sample."""
        with self._lock:
            return self._samples[-1] if self._samples else None

    def first(self) -> S | None:
        """Return the oldest sample kept."""
        with self._lock:
            return self._samples[0] if self._samples else None

    def __len__(self) -> int:
        with self._lock:
            return len(self._samples)


class Latest(Generic[T]):
    """The newest value and how many came before it; readers may wait for a newer one."""

    def __init__(self) -> None:
        self._value: T | None = None
        self._before: T | None = None
        self._count = 0
        self._changed = threading.Condition()

    def publish(self, value: T) -> None:
        """Replace the value and wake all who wait."""
        with self._changed:
            self._before, self._value = self._value, value
            self._count += 1
            self._changed.notify_all()

    def get(self) -> T | None:
        """Return the newest value, or None before the first; one reference needs no lock."""
        return self._value

    def pair(self) -> tuple[T | None, T | None]:
        """Return the newest value and the one before it."""
        with self._changed:
            return self._value, self._before

    def count(self) -> int:
        """Return how many values have been published."""
        with self._changed:
            return self._count

    def wait_newer(self, count: int, timeout_s: float) -> bool:
        """Wait until more than ``count`` values have been published; False on time-out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count > count, timeout_s)

"""The thread that reads how much CPU time each hypervisor has used, at each window's end."""

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from tychod.clock import Clock
from tychod.runtime.punctual import Punctual
from tychod.samples import VmSeries, VmUse
from tychod.workloads.machines import Watched
from tychod.workloads.vmprocs import ThreadTimes, VmTimes

YOUNG_NS: Final = 5_000_000_000
"""A machine that lives no longer may never see a window's end: it is read at every look."""

Who = tuple[int, int]


class _Young(NamedTuple):
    """A machine that has just begun, as last read."""

    first_ns: int
    watched: Watched
    times: VmTimes | None


class VmSampler:
    """Reads the threads of the hypervisors that the identity thread has found."""

    def __init__(self, times: ThreadTimes, clock: Clock, crashed: Callable[[str], None]) -> None:
        self._times = times
        self._clock = clock
        self._lock = threading.Lock()
        self._watched: tuple[Watched, ...] = ()
        self._known: set[Who] = set()
        self._young: dict[Who, _Young] = {}
        self._reached_ns: int | None = None
        self._series: VmSeries | None = None
        self._thread = Punctual("hypervisors", self._read, clock, crashed, lambda: None)
        self.start: Final = self._thread.start
        self.ask_stop: Final = self._thread.ask_stop
        self.join: Final = self._thread.join
        self.expect: Final = self._thread.expect

    def follow(self, watched: tuple[Watched, ...], now_ns: int) -> None:
        """Take in who is to be read; one that is young is read now, for it may soon be gone."""
        with self._lock:
            self._watched = watched
            for each in watched:
                who = _who(each)
                if who not in self._known:
                    self._known.add(who)
                    self._young[who] = _Young(now_ns, each, None)
                young = self._young.get(who)
                if young is not None and now_ns - young.first_ns > YOUNG_NS:
                    del self._young[who]
                elif young is not None:
                    times = self._times.read(each.process) or young.times
                    self._young[who] = _Young(young.first_ns, each, times)

    def newest_ns(self) -> int | None:
        """Monotonic time up to which they were read; None: not once."""
        with self._lock:
            return self._reached_ns

    def seen(self) -> VmSeries | None:
        """Return the newest reading."""
        with self._lock:
            return self._series

    def _read(self, due_ns: int) -> None:
        with self._lock:
            t_ns = self._clock.now_ns()
            uses = {_who(w): _use(w, self._times.read(w.process)) for w in self._watched}
            for who, young in tuple(self._young.items()):
                if uses.get(who) is None:  # it has ended since the last window
                    uses[who] = _use(young.watched, young.times)
                    del self._young[who]
            self._known &= {_who(w) for w in self._watched}
            self._times.keep_only(w.process for w in self._watched)
            found = tuple(use for use in uses.values() if use is not None)
            self._reached_ns = due_ns
            self._series = VmSeries(t_ns, found, _suspended_ns())


def _who(watched: Watched) -> Who:
    return watched.process.pid, watched.process.start_ticks


def _use(watched: Watched, times: VmTimes | None) -> VmUse | None:
    """Return what a machine has used; None where it is gone, or another has its pid by now."""
    if times is None:
        return None
    process = watched.process
    return VmUse(
        process.pid,
        process.start_ticks,
        watched.vm_key,
        watched.key,
        times.cpu_ns,
        times.vcpu_ns,
    )


def _suspended_ns() -> int:
    """Return how long the machine was suspended since its boot: processes' starts include it."""
    before_ns = time.monotonic_ns()
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return boot_ns - (before_ns + time.monotonic_ns()) // 2

"""The thread that reads how much CPU time each hypervisor has used, at each window's end."""

import threading
import time
from collections.abc import Callable
from typing import Final

from tychod.clock import Clock
from tychod.runtime.punctual import Punctual
from tychod.samples import VmSeries, VmUse
from tychod.workloads.machines import Watched
from tychod.workloads.vmprocs import ThreadTimes


class VmSampler:
    """Reads the threads of the hypervisors that the identity thread has found."""

    def __init__(
        self,
        watched: Callable[[], tuple[Watched, ...]],
        times: ThreadTimes,
        clock: Clock,
        crashed: Callable[[str], None],
    ) -> None:
        self._watched = watched
        self._times = times
        self._clock = clock
        self._lock = threading.Lock()
        self._reached_ns: int | None = None
        self._series: VmSeries | None = None
        self._thread = Punctual("hypervisors", self._read, clock, crashed, lambda: None)
        self.start: Final = self._thread.start
        self.ask_stop: Final = self._thread.ask_stop
        self.join: Final = self._thread.join
        self.expect: Final = self._thread.expect

    def newest_ns(self) -> int | None:
        """Monotonic time up to which they were read; None: not once."""
        with self._lock:
            return self._reached_ns

    def seen(self) -> VmSeries | None:
        """Return the newest reading."""
        with self._lock:
            return self._series

    def _read(self, due_ns: int) -> None:
        watched = self._watched()
        t_ns = self._clock.now_ns()
        uses = [use for each in watched if (use := self._use(each)) is not None]
        self._times.keep_only(each.process for each in watched)
        with self._lock:
            self._reached_ns = due_ns
            self._series = VmSeries(t_ns, tuple(uses), _suspended_ns())

    def _use(self, watched: Watched) -> VmUse | None:
        process = watched.process
        times = self._times.read(process)
        if times is None:
            return None  # gone, or another process has its pid by now
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

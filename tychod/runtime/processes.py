"""The thread that reads the processes, once a window at its end, when the settings ask for it."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tychod.analysis.state import ProcessesSeen
from tychod.collectors.cpu import KernelMaps
from tychod.hostfs import own_capabilities, render_error
from tychod.kernel.bpf import syscall
from tychod.kernel.bpf.processes import BpfProcesses, ExitRing, counts_processes
from tychod.kernel.procscan import ProcScan, without_exits
from tychod.kernel.taskstats import NOT_LISTED, Refusal, listen
from tychod.model import Trouble
from tychod.runtime.punctual import Punctual

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from tychod.clock import Clock
    from tychod.collectors.base import CpuCollector
    from tychod.hostfs import Host
    from tychod.samples import ProcessSeries

log = logging.getLogger(__name__)

NOT_READ: Final = "not read yet"
NOT_COUNTED: Final = (
    "the loaded kernel programs do not count processes; procfs is read instead",
    "load them with the present settings: systemctl restart tychod-bpf tychod",
)
NO_ACCOUNTING: Final = "there is no accounting of CPU time to go with them"


Problem = tuple[str, str | None]


class ProcessReader(Protocol):
    """One way to learn of processes."""

    @property
    def reason(self) -> str | None:
        """Which processes are not listed, and why."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What somebody may want to mend, with the remedy."""

    def read(self) -> ProcessSeries:
        """Read all processes once; OSError where the kernel refuses."""

    def close(self) -> None:
        """Give back what is open."""


class _Opened(NamedTuple):
    collector: CpuCollector
    reader: ProcessReader


class ProcessSampler:
    """Reads when a window ends; what it found is taken with :meth:`seen`."""

    def __init__(
        self,
        collector: Callable[[], CpuCollector | None],
        open_reader: Callable[[CpuCollector], ProcessReader],
        clock: Clock,
        crashed: Callable[[str], None],
    ) -> None:
        """``open_reader`` is called whenever the accounting is opened anew: keys are its own."""
        self._collector = collector
        self._open = open_reader
        self._lock = threading.Lock()
        self._reached_ns: int | None = None
        self._series: ProcessSeries | None = None
        self._reason: str | None = NOT_READ
        self._problems: tuple[Problem, ...] = ()
        self._opened: _Opened | None = None
        self._thread = Punctual("processes", self._read, clock, crashed, self._close)
        self.start: Final = self._thread.start
        self.ask_stop: Final = self._thread.ask_stop
        self.join: Final = self._thread.join
        self.expect: Final = self._thread.expect

    def newest_ns(self) -> int | None:
        """Monotonic time up to which processes were read or found unreadable; None: not once."""
        with self._lock:
            return self._reached_ns

    def seen(self) -> ProcessesSeen:
        """Return the newest reading, and what is not in it."""
        with self._lock:
            return ProcessesSeen(self._series, self._reason, boot_offset_ns())

    def troubles(self) -> Iterator[Trouble]:
        """Yield what somebody may want to mend."""
        with self._lock:
            problems = self._problems
        return (Trouble("processes", reason, remedy) for reason, remedy in problems)

    def _read(self, due_ns: int) -> None:
        series: ProcessSeries | None = None
        reason: str | None = NO_ACCOUNTING
        problems: tuple[Problem, ...] = ()
        try:
            opened = self._current()  # the accounting may be closed just now
            series = opened.reader.read() if opened else None
        except OSError as exc:
            reason = render_error(exc)
        else:
            if opened is not None:
                reason, problems = opened.reader.reason, opened.reader.problems
        self._publish(due_ns, series, reason, problems)

    def _publish(
        self,
        due_ns: int,
        series: ProcessSeries | None,
        reason: str | None,
        problems: tuple[Problem, ...],
    ) -> None:
        with self._lock:
            is_new = problems != self._problems or (series is None and reason != self._reason)
            self._reached_ns = due_ns
            self._series, self._reason, self._problems = series, reason, problems
        if is_new and reason:
            log.warning("processes: %s", reason, extra={"source": "processes"})

    def _current(self) -> _Opened | None:
        """Return the reader that goes with the accounting as it is now."""
        collector = self._collector()
        if self._opened is not None and self._opened.collector is not collector:
            self._close()
        if self._opened is None and collector is not None:
            self._opened = _Opened(collector, self._open(collector))
        return self._opened

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.reader.close()


def boot_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_BOOTTIME, which counts suspended time: starts are in it."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    wall = time.time_ns()
    return wall - (before + time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 2


def open_processes(host: Host, clock: Clock, collector: CpuCollector) -> ProcessReader:
    """Return the reader that goes with a collector: its kernel programs' map, else procfs."""
    if isinstance(collector, KernelMaps):
        opened = collector.opened
        if counts_processes(opened.views.ctl):
            return _open_map(collector, clock)
        if opened.method == "bpf-core":
            return open_scan(host, clock, collector, (NOT_COUNTED,))
    return open_scan(host, clock, collector)


def _open_map(collector: KernelMaps, clock: Clock) -> BpfProcesses:
    ring_fd = collector.share("ty_exit")
    try:
        ring = ExitRing(ring_fd)
    finally:
        os.close(ring_fd)  # what is mapped stays
    try:
        fd = collector.share("ty_proc")
    except OSError:
        ring.close()
        raise
    ctl = collector.opened.views.ctl
    with_irq = collector.charges_interrupted
    return BpfProcesses(syscall, fd, ring, ctl, lambda: collector.cgroups, clock, with_irq=with_irq)


def open_scan(
    host: Host, clock: Clock, collector: CpuCollector, problems: tuple[Problem, ...] = ()
) -> ProcScan:
    """Return the reader of procfs, with ends by taskstats where that is permitted."""
    exits = listen(host, own_capabilities())
    if isinstance(exits, Refusal):
        log.info("processes: %s: %s; %s", NOT_LISTED, exits.reason, exits.remedy)
        reason = f"{NOT_LISTED}: {exits.reason}"
        exits = without_exits(reason, ((reason, exits.remedy),))
    version: Literal["v2", "v1"] = "v1" if collector.hierarchy.startswith("v1") else "v2"
    return ProcScan(host, version, lambda: collector.cgroups, clock, exits, problems)

"""The thread that reads processes: at the end of each window, from the accounting as it is now."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from tychod import config
from tychod.analysis.state import ProcessesSeen
from tychod.clock import SystemClock
from tychod.collectors.base import CpuCollector
from tychod.hostfs import Host
from tychod.kernel.taskstats import Refusal
from tychod.runtime import processes
from tychod.runtime.processes import ProcessSampler, boot_offset_ns, open_scan
from tychod.samples import ProcessSeries

PATIENCE_S = 20.0
CLOCK = SystemClock()


@dataclass
class Reader:
    """A reader that the test rules."""

    error: Exception | None = None
    reads: int = 0
    closed: int = 0
    reason: str | None = None
    problems: tuple[tuple[str, str | None], ...] = ()

    def read(self) -> ProcessSeries:
        """Read nothing, or fail."""
        self.reads += 1
        if self.error:
            raise self.error
        return ProcessSeries(CLOCK.now_ns(), "procfs", ())

    def close(self) -> None:
        """Count it."""
        self.closed += 1


@dataclass
class World:
    """Collectors that come and go, each with a reader of its own."""

    collector: object | None = None
    readers: list[Reader] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)

    def current(self) -> CpuCollector | None:
        """Return the collector there is now."""
        return self.collector  # type: ignore[return-value]

    def open(self, _: CpuCollector) -> Reader:
        """Open a reader."""
        self.readers.append(Reader())
        return self.readers[-1]


@pytest.fixture
def world() -> World:
    """One collector."""
    return World(object())


@pytest.fixture
def sampler(world: World) -> Iterator[ProcessSampler]:
    """Return a running sampler, stopped at the end."""
    made = ProcessSampler(world.current, world.open, CLOCK, world.crashes.append)
    made.start()
    yield made
    made.ask_stop()
    assert made.join(PATIENCE_S)


def read(sampler: ProcessSampler) -> ProcessesSeen:
    """Let a window end now, and return what was read of it."""
    end_ns = CLOCK.now_ns()
    sampler.expect(end_ns)
    wait_for(lambda: (sampler.newest_ns() or 0) >= end_ns)
    return sampler.seen()


def wait_for(found: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_it_reads_when_a_window_ends(sampler: ProcessSampler, world: World) -> None:
    """Not before the end it was told of, and once for each."""
    assert (sampler.newest_ns(), sampler.seen().series) == (None, None)
    end_ns = CLOCK.now_ns() + 100_000_000
    sampler.expect(end_ns)
    wait_for(lambda: sampler.newest_ns() is not None)
    series = sampler.seen().series

    assert series is not None
    assert series.t_ns >= end_ns
    assert world.readers[0].reads == 1


def test_a_reading_that_fails_is_told_and_tried_again(
    sampler: ProcessSampler, world: World
) -> None:
    """What the kernel refuses is a reason, not an end; nothing of before passes as new."""
    assert read(sampler).series is not None
    world.readers[0].error = OSError(errno.EACCES, "Permission denied", "procfs")
    seen = read(sampler)
    assert (seen.series, seen.reason) == (None, "procfs: Permission denied")
    world.readers[0].error = None

    assert read(sampler).series is not None
    assert world.crashes == []


def test_accounting_opened_anew_opens_the_reader_anew(
    sampler: ProcessSampler, world: World
) -> None:
    """Keys are those of one collector, so a reader never outlives it."""
    read(sampler)
    world.collector = object()
    read(sampler)
    assert [reader.closed for reader in world.readers] == [1, 0]
    world.collector = None
    seen = read(sampler)

    assert seen.series is None
    assert seen.reason == processes.NO_ACCOUNTING
    assert [reader.closed for reader in world.readers] == [1, 1]


def test_problems_reach_the_status(sampler: ProcessSampler, world: World) -> None:
    """What a reader wants mended is a trouble with its remedy, as long as it lasts."""
    read(sampler)
    world.readers[0].problems = (("not all are listed", "do this"),)
    read(sampler)
    assert [(t.source, t.reason, t.remedy) for t in sampler.troubles()] == [
        ("processes", "not all are listed", "do this")
    ]
    world.readers[0].problems = ()
    read(sampler)

    assert list(sampler.troubles()) == []


def test_a_fault_of_ours_ends_the_daemon(sampler: ProcessSampler, world: World) -> None:
    """An error that nobody foresaw is not hidden."""
    read(sampler)
    world.readers[0].error = ValueError("a fault")
    sampler.expect(CLOCK.now_ns())
    wait_for(lambda: bool(world.crashes))

    assert world.crashes == ["reading processes failed"]
    assert world.readers[0].closed == 1


def test_it_ends_at_once_and_closes_the_reader(world: World) -> None:
    """Asked to stop in the middle of a window it does not wait for the window's end."""
    sampler = ProcessSampler(world.current, world.open, CLOCK, world.crashes.append)
    sampler.start()
    read(sampler)
    sampler.expect(CLOCK.now_ns() + 3_600 * 10**9)
    sampler.ask_stop()

    assert sampler.join(PATIENCE_S)
    assert world.readers[0].closed == 1
    assert not [t for t in threading.enumerate() if t.name == "processes"]


def test_starts_become_wall_clock_times() -> None:
    """Adding the offset to a time since boot gives the time of day."""
    lowest, boot = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    found = boot_offset_ns() + boot

    assert abs(found - lowest) < PATIENCE_S * 1e9


def test_without_ends_the_scan_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Where taskstats is refused the list says what is missing, and the status how to have it."""
    refusal = Refusal("tychod lacks CAP_NET_ADMIN", "a drop-in")
    monkeypatch.setattr(processes, "listen", lambda *_: refusal)
    collector: CpuCollector = SimpleNamespace(hierarchy="v2 at /x", cgroups={})  # type: ignore[assignment]
    scan = open_scan(Host(config.Host(procfs=str(tmp_path))), CLOCK, collector)

    assert scan.read().uses == ()
    assert scan.reason is not None
    assert "not listed: tychod lacks CAP_NET_ADMIN" in scan.reason
    assert scan.problems == ((scan.reason, "a drop-in"),)

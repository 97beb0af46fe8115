"""The thread that reads a source: on its grid, honest about failures, alone when it hangs."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.fixtures.hosts.trees import host_config
from tests.sim.cgrouptree import FakeTree
from tychod.collectors.base import EnergyCollector, Ready, Unavailable
from tychod.config import Accounting, Config
from tychod.hostfs import Host
from tychod.model import SourceState, Window
from tychod.runtime import sampler as module
from tychod.runtime.plans import Access, Closed, Plan
from tychod.runtime.sampler import Sampler
from tychod.runtime.sources import EnergySampler, cpu_sampler, read_energy
from tychod.samples import EnergySample, EnergyZone

INTERVAL_S = 0.01
PATIENCE_S = 20.0
ZONE = EnergyZone("rapl:0", "package", "package-0", 0, 0, 1000.0)


class MovedClock:
    """The real clock, moved forward by the test."""

    def __init__(self) -> None:
        self.moved_ns = 0

    def now_ns(self) -> int:
        """Monotonic time of a machine that the test may let wait."""
        return time.monotonic_ns() + self.moved_ns

    def wall_offset_ns(self) -> int:
        """Not used here."""
        return 0


class Meter:
    """A source whose readings the test decides; one for each time it is opened."""

    name = "rapl"
    quality = "measured"
    delay_s = 0.0
    zones = (ZONE,)
    sensors = ()
    zone_reasons: Mapping[str, str] = MappingProxyType({})
    problems = ()
    failure = "rapl:0: energy_uj holds no number"
    outdated = False

    def __init__(self, clock: MovedClock, behave: Callable[[], int | None]) -> None:
        self._clock = clock
        self._behave = behave
        self.times_ns: list[int] = []
        self.closed = False

    def read(self) -> EnergySample | None:
        """What the test wants to be read now."""
        value = self._behave()
        self.times_ns.append(self._clock.now_ns())
        return None if value is None else EnergySample(self.times_ns[-1], (value,))

    def close(self) -> None:
        """Remember it."""
        self.closed = True


class Bench:
    """A sampler of a source that the test steers."""

    def __init__(self) -> None:
        self.clock = MovedClock()
        self.behave: Callable[[], int | None] = lambda: 1
        self.unavailable: Unavailable | None = None
        self.closed_by: Closed | None = None
        self.crashes: list[str] = []
        self.meters: list[Meter] = []
        epoch_ns = self.clock.now_ns()
        plan = Plan("rapl", "auto", "measured", INTERVAL_S, 10.0, epoch_ns)
        self.sampler: Sampler[EnergyCollector, EnergySample] = Sampler(
            plan,
            Access(self.probe, read_energy, lambda: self.closed_by, attrgetter("outdated")),
            self.clock,
            self.crashes.append,
        )

    def probe(self) -> Ready[EnergyCollector] | Unavailable:
        """Open the source, or say why not."""
        if self.unavailable:
            return self.unavailable
        self.meters.append(Meter(self.clock, self._read))
        return Ready(self.meters[-1])  # type: ignore[arg-type]  # attributes for properties

    def _read(self) -> int | None:
        return self.behave()

    def wait(self, met: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not met():
            assert time.monotonic() < deadline, f"waited in vain; {self.sampler.health()}"
            time.sleep(0.002)

    def wait_state(self, state: SourceState) -> None:
        """Wait until the source is so."""
        self.wait(lambda: self.sampler.health().state == state)

    def wait_more(self, count: int = 3) -> None:
        """Wait for some more good samples."""
        before = self.sampler.health().samples
        self.wait(lambda: self.sampler.health().samples >= before + count)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A sampler that looks again soon; stopped at the end."""
    monkeypatch.setattr(module, "REPROBE_S", 0.01)
    monkeypatch.setattr(module, "GATE_S", 0.01)
    made = Bench()
    yield made
    made.sampler.ask_stop()
    assert made.sampler.join(PATIENCE_S)


def fail() -> int:
    """A reading that the kernel refuses."""
    raise PermissionError(13, "Permission denied")


def test_reads_on_a_grid_and_counts_what_it_missed(bench: Bench) -> None:
    """At most one reading for each deadline of the grid, and each missed one is counted."""
    slow = iter([0.0, 0.0, 0.055, 0.0, 0.031])

    def behave() -> int:
        time.sleep(next(slow, 0.0))
        return 1

    bench.behave = behave
    bench.sampler.start()
    bench.wait(lambda: bench.sampler.health().samples >= 12)
    bench.sampler.ask_stop()
    assert bench.sampler.join(PATIENCE_S)
    plan, health = bench.sampler.plan, bench.sampler.health()
    begun = [t - ns for t, ns in zip(bench.meters[0].times_ns, (0, 0, 55e6, 0, 31e6), strict=False)]
    ticks = [int(t - plan.epoch_ns) // round(plan.interval_s * 1e9) for t in begun]

    assert ticks == sorted(set(ticks))
    assert health.late >= 5 + 2
    used = health.samples + health.late
    assert (bench.clock.now_ns() - plan.epoch_ns) // round(plan.interval_s * 1e9) + 1 >= used


def test_failures_are_told_and_recovery_too(bench: Bench) -> None:
    """Errors count, the reason shows, good readings make it well again."""
    bench.sampler.start()
    bench.wait_more()
    bench.behave = fail
    bench.wait(lambda: bench.sampler.health().reason == "Permission denied")
    bench.behave = lambda: None
    bench.wait(lambda: bench.sampler.health().reason == Meter.failure)
    errors = bench.sampler.health().errors
    bench.behave = lambda: 1
    bench.wait(lambda: bench.sampler.health().reason is None)
    health = bench.sampler.health()

    assert errors >= 2
    assert health.state == "ok"
    assert health.errors >= errors
    assert bench.sampler.status().quality == "measured"
    assert len(bench.meters) == 1


def test_a_source_that_fails_at_once_is_tried(bench: Bench) -> None:
    """Neither good nor absent: the start does not wait for it, and it is no good source."""
    bench.behave = fail
    bench.sampler.start()

    assert bench.sampler.wait_tried(PATIENCE_S)
    assert bench.sampler.health().state == "unavailable"
    assert bench.sampler.status().quality == "unavailable"


def test_flapping_does_not_flood_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Every second reading fails: told once, not at every tick."""
    caplog.set_level(logging.INFO)
    turns = iter(range(10_000))
    bench.behave = lambda: 1 if next(turns) % 2 else fail()
    bench.sampler.start()
    bench.wait(lambda: bench.sampler.health().errors >= 10)

    assert len(caplog.records) <= 3
    bench.clock.moved_ns += 31 * 10**9
    bench.wait(lambda: len([r for r in caplog.records if r.levelname == "WARNING"]) == 2)


def test_hanging_source_is_stalled(bench: Bench) -> None:
    """A reading that does not return: stalled with reason and remedy, until it returns."""
    release, hanging = threading.Event(), threading.Event()
    source = EnergySampler(bench.sampler, bench.clock)

    def hang() -> int:
        hanging.set()
        return int(release.wait(PATIENCE_S))

    bench.sampler.start()
    bench.wait_more()
    assert source.lag_s() == INTERVAL_S
    bench.behave = hang
    assert hanging.wait(PATIENCE_S)
    bench.clock.moved_ns += 5 * 10**9
    bench.wait_state("stalled")
    status = bench.sampler.status()
    bench.sampler.ask_stop()
    hangs = not bench.sampler.join(0.05)
    lag_s = source.lag_s()
    release.set()

    assert (status.quality, hangs, lag_s) == ("stale", True, None)
    assert "no answer for" in (status.reason or "")
    assert "journalctl" in (status.remedy or "")
    assert bench.sampler.join(PATIENCE_S)
    assert bench.meters[0].closed


def test_a_source_silent_for_long_is_probed_anew(bench: Bench) -> None:
    """After half a minute of failures it is closed and opened again, with samples of its own."""
    bench.sampler.start()
    bench.wait_more()
    first = bench.sampler.opened()
    bench.behave = fail
    bench.wait(lambda: bench.sampler.health().reason is not None)
    bench.clock.moved_ns += 31 * 10**9
    bench.wait(lambda: len(bench.meters) == 2)
    bench.behave = lambda: 2
    bench.wait_state("ok")
    second = bench.sampler.opened()

    assert bench.meters[0].closed
    assert first is not None
    assert second is not None
    assert (first.run, second.run) == (0, 1)
    assert second.buffer.first() != first.buffer.first()
    assert bench.sampler.newest() is second


def test_absent_source_is_looked_for_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Unavailable with reason and remedy, told once, until its driver comes."""
    caplog.set_level(logging.INFO)
    bench.unavailable = Unavailable("no powercap", "modprobe intel_rapl_msr", absent=True)
    bench.sampler.start()
    assert bench.sampler.wait_tried(PATIENCE_S)
    status = bench.sampler.status()
    time.sleep(0.1)
    told = [r for r in caplog.records if "no powercap" in r.getMessage()]
    bench.unavailable = None
    bench.wait_state("ok")

    assert (status.state, status.reason, status.remedy) == (
        "unavailable",
        "no powercap",
        "modprobe intel_rapl_msr",
    )
    assert len(told) == 1
    assert status.absent
    assert not bench.sampler.status().absent


def test_gate_closes_and_opens(bench: Bench) -> None:
    """A closed gate ends the reading, says why, and gives the source back."""
    source = EnergySampler(bench.sampler, bench.clock)
    bench.closed_by = Closed("something better measures it")
    bench.sampler.start()
    bench.wait_state("off")
    assert not bench.meters
    bench.closed_by = None
    bench.wait_state("ok")
    bench.wait_more()
    assert source.measures_cpu()
    bench.closed_by = Closed("the meter is back")
    bench.wait_state("off")

    assert bench.sampler.status().reason == "the meter is back"
    assert bench.meters[0].closed
    assert source.series(Window(0, 1)) is None
    assert (source.lag_s(), source.newest_ns(), source.measures_cpu()) == (None, None, False)


def test_waiting_for_another_source_is_not_an_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the gate is not settled the source has not been tried; a wake makes it look again."""
    monkeypatch.setattr(module, "GATE_S", PATIENCE_S)
    bench.closed_by = Closed("rapl has not answered yet", settled=False)
    bench.sampler.start()
    bench.wait_state("off")
    waits = not bench.sampler.wait_tried(0.02)
    bench.closed_by = None
    bench.sampler.wake()

    assert waits
    bench.wait_more()
    assert bench.sampler.health().tried


def test_followers_hear_of_coming_and_going(bench: Bench) -> None:
    """Who follows a source is called at its first answer and when it goes, not at each reading."""
    heard: list[SourceState] = []
    bench.sampler.follow(lambda: heard.append(bench.sampler.health().state))
    bench.sampler.start()
    bench.wait_more(5)
    bench.closed_by = Closed("the meter is back")
    bench.wait_state("off")

    assert heard == ["ok", "off"]


def test_an_outdated_source_is_replaced_without_a_gap(bench: Bench) -> None:
    """The new one is there, with a sample, before the old one is closed; it was never away."""
    missing: list[bool] = []
    bench.sampler.start()
    bench.wait_more()
    first = bench.sampler.opened()
    assert first is not None

    def behave() -> int:
        opened = bench.sampler.opened()
        missing.append(opened is None or len(opened.buffer) == 0)
        return 5

    bench.behave = behave
    bench.meters[0].outdated = True
    bench.wait(lambda: bench.meters[0].closed)
    second = bench.sampler.opened()
    bench.wait_more()

    assert second is not None
    assert (first.run, second.run) == (0, 1)
    assert id(second.collector) == id(bench.meters[1])
    assert len(second.buffer) > 0
    assert missing
    assert not any(missing)
    assert bench.sampler.health().errors == 0


def test_an_outdated_source_stays_where_nothing_better_is_found(bench: Bench) -> None:
    """A probe that finds nothing, or what cannot be read, takes away nothing."""
    bench.sampler.start()
    bench.wait_more()
    first = bench.meters[0]
    bench.unavailable = Unavailable("no powercap", "modprobe intel_rapl_msr")
    first.outdated = True
    bench.wait_more(5)
    first.outdated = False
    assert not first.closed
    bench.unavailable = None
    bench.behave = lambda: 1 if len(bench.meters) == 1 else fail()
    first.outdated = True
    bench.wait(lambda: len(bench.meters) > 1)
    first.outdated = False
    opened = bench.sampler.opened()

    assert opened is not None
    assert id(opened.collector) == id(first)
    assert all(meter.closed for meter in bench.meters[1:-1])


def test_a_fault_of_ours_ends_the_daemon(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """What is no failure of the source is logged with its trace and reported, not swallowed."""

    def behave() -> int:
        raise RuntimeError("a fault")

    bench.behave = behave
    bench.sampler.start()
    bench.wait(lambda: bool(bench.crashes))

    assert bench.crashes == ["reading rapl failed"]
    assert "a fault" in caplog.text
    assert bench.meters[0].closed


def test_wait_tried_gives_up(bench: Bench) -> None:
    """A source that hangs from the first reading on does not hold the start."""
    release = threading.Event()
    bench.behave = lambda: int(release.wait(PATIENCE_S))
    bench.sampler.start()
    tried = bench.sampler.wait_tried(0.05)
    release.set()

    assert not tried


def test_never_started_sampler_stops(bench: Bench) -> None:
    """A start that fails half way can stop everything."""
    bench.sampler.ask_stop()

    assert bench.sampler.join(0.0)


def test_cpu_time_goes_on_after_a_long_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened anew, the accounting gives new keys, and counts what was used meanwhile."""
    monkeypatch.setattr(module, "REPROBE_S", 0.01)
    clock, crashes = MovedClock(), list[str]()
    with ExitStack() as stack:
        tree = FakeTree(tmp_path)
        stack.callback(tree.close)
        tree.make("/a.service")
        roots = host_config(tmp_path, procfs=tree.procfs, cgroupfs=tree.cgroupfs)
        config = Config(host=roots, accounting=Accounting(cgroup_interval=INTERVAL_S))
        cpu = cpu_sampler(Host(roots), config, clock, clock.now_ns(), crashes.append, None)
        stack.callback(cpu.sampler.join, PATIENCE_S)
        stack.callback(cpu.sampler.ask_stop)
        cpu.sampler.start()
        wait_for(lambda: cpu.sampler.health().samples > 2)
        stat = tree.procfs / "stat"
        stat.write_bytes(b"nothing\n")
        wait_for(lambda: cpu.sampler.health().reason is not None)
        before = cpu.sampler.opened()
        tree.use("/a.service", 3_000_000_000)
        good = stat.read_bytes()
        stat.write_bytes(b"nothing\n")
        clock.moved_ns += 31 * 10**9
        wait_for(lambda: cpu.sampler.newest() is not before)
        stat.write_bytes(good)
        assert before is not None
        old = before.buffer.last()
        assert old is not None
        wait_for(lambda: (cpu.newest_ns() or 0) > old.t_ns)
        after = cpu.sampler.opened()
        assert after is not None
        new = after.buffer.last()
        gained = cpu.series(Window(0, clock.now_ns()))

    assert new is not None
    assert not {k for k in old.keys.tolist() if k >= 0} & {k for k in new.keys.tolist() if k >= 0}
    assert gained is not None
    assert gained.run == 0
    assert old.t_ns in [sample.t_ns for sample in gained.samples]
    # a reading may have slipped in before the file was broken again
    assert old.own_ns[-1] + new.own_ns[-1] == 3_000_000_000
    assert not crashes


def wait_for(met: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)

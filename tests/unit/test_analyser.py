"""The analysis thread: chained windows, on disk first, waiting for samples but not for ever."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.sim.world import RESERVED, unit, zone
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, State
from tychod.buffer import Latest
from tychod.model import Snapshot, Window
from tychod.runtime.analyser import (
    MAX_LAG_S,
    Analyser,
    Axis,
    Inputs,
    Named,
    Outputs,
    zone_reasons,
)
from tychod.runtime.store import Store
from tychod.samples import CgroupRef, CpuSample, CpuSeries, EnergySample, EnergySeries

PATIENCE_S = 20.0
WINDOW_NS = 40_000_000
GRID_NS = 10_000_000
BOOT = "boot"


class MovedClock:
    """The real clock moved by the test, or one that stands still."""

    def __init__(self) -> None:
        self.moved_ns = 0
        self.stands_at_ns: int | None = None

    def now_ns(self) -> int:
        """Monotonic time."""
        if self.stands_at_ns is not None:
            return self.stands_at_ns
        return time.monotonic_ns() + self.moved_ns

    def wall_offset_ns(self) -> int:
        """One fixed offset."""
        return 10**18


class Source:
    """CPU time and energy whose counters are the clock itself: 1 CPU busy, 1 W."""

    def __init__(self, clock: MovedClock, lag_s: float | None = 0.001) -> None:
        self._clock = clock
        self._lag_s = lag_s
        self.newest: Callable[[], int | None] = clock.now_ns
        self.cuts: list[tuple[Window, int, int | None]] = []  # with clock and newest sample then
        self.hold = threading.Event()
        self.hold.set()

    def lag_s(self) -> float | None:
        """Delay plus interval."""
        return self._lag_s

    def newest_ns(self) -> int | None:
        """Time of the newest sample."""
        return self.newest()

    def _cut(self, window: Window) -> tuple[int, int]:
        self.cuts.append((window, self._clock.now_ns(), self.newest()))
        assert self.hold.wait(PATIENCE_S)
        return window.start_ns, window.end_ns


class Meter(Source):
    """The energy source."""

    def series(self, window: Window) -> EnergySeries | None:
        """A reading at both ends."""
        samples = tuple(EnergySample(t, (t // 1000,)) for t in self._cut(window))
        return EnergySeries("rapl", "measured", (zone("package-0", 0),), samples, {})


class Accounting(Source):
    """The CPU source."""

    def series(self, window: Window) -> CpuSeries | None:
        """A reading at both ends."""
        keys = np.array([-3, -2, -1, 1], np.int64)
        samples = tuple(
            CpuSample(t, keys, np.array([0, 0, 0, t]), np.array([0, 0, 0, t]), 0)
            for t in self._cut(window)
        )
        return CpuSeries("cgroup-v2", samples, {1: CgroupRef("/system.slice/a.service", 1)})


class Bench:
    """An analyser between steered sources and a real store."""

    def __init__(self, directory: Path) -> None:
        self.clock = MovedClock()
        self.store = Store(directory)
        self.latest: Latest[Snapshot] = Latest()
        self.params: Latest[Params] = Latest()
        self.params.publish(Params(cpus=2))
        self.cpu = Accounting(self.clock)
        self.meters: tuple[Meter, ...] = (Meter(self.clock),)
        self.crashes: list[str] = []
        self.made: Analyser | None = None

    def build(self, state: State | None = None) -> Analyser:
        """Make the analyser; call ``start`` on it."""
        axis = Axis(self.clock.now_ns(), WINDOW_NS, GRID_NS)
        inputs = Inputs(self.meters, self.cpu, self.identify)
        outputs = Outputs(BOOT, self.store, self.latest)
        self.made = Analyser(
            axis, inputs, state or State(), self.params, outputs, self.clock, self.crashes.append
        )
        return self.made

    def identify(self, cgroups: Mapping[int, CgroupRef]) -> Named:
        """The one unit there is."""
        return Named(RESERVED | dict.fromkeys(cgroups, unit("a.service")), {})

    def wait(self, met: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not met():
            assert time.monotonic() < deadline, f"waited in vain; crashes: {self.crashes}"
            time.sleep(0.002)

    def wait_windows(self, count: int) -> list[Window]:
        """Wait for some more windows; return all so far."""
        before = self.latest.count()
        self.wait(lambda: self.latest.count() >= before + count)
        return [window for window, _, _ in self.cpu.cuts]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A bench whose thread and lock are given back."""
    made = Bench(tmp_path)
    yield made
    for source in (made.cpu, *made.meters):
        source.hold.set()
    if made.made is not None:
        made.made.ask_stop()
        assert made.made.join(PATIENCE_S)
    made.store.close()


def test_windows_chain_on_the_grid(bench: Bench) -> None:
    """Each begins where the last one ended, at whole grid steps, and no energy is lost."""
    analyser = bench.build()
    analyser.start()
    windows = bench.wait_windows(6)[:6]
    snapshot = bench.latest.get()

    for before, after in pairwise(windows):
        assert after.start_ns == before.end_ns
        assert (after.end_ns - after.start_ns) % WINDOW_NS == 0
    assert snapshot is not None
    spent_ns = snapshot.window.end_ns - windows[0].start_ns
    leaf = next(x for x in snapshot.leaves if x.identity.id == "a.service")
    assert leaf.cpu_ns == spent_ns
    assert snapshot.domains["package"].energy_uj == spent_ns // 1000
    assert not snapshot.gap


def test_saved_before_published(bench: Bench) -> None:
    """Whoever sees a snapshot finds its state on disk already."""
    bench.build().start()
    for _ in range(5):
        bench.wait_windows(1)
        snapshot = bench.latest.get()
        saved = bench.store.load(BOOT, bench.clock.now_ns())
        assert snapshot is not None
        assert saved is not None
        assert saved.state.sequence >= snapshot.sequence
        assert saved.baseline is not None


def test_a_window_waits_for_its_samples(bench: Bench) -> None:
    """It is cut when every quick source has a sample after its end, and no earlier."""
    bench.cpu.newest = lambda: bench.clock.now_ns() - 30_000_000
    bench.meters[0].newest = lambda: bench.clock.now_ns() - 60_000_000
    bench.build().start()
    bench.wait_windows(5)

    for window, now_ns, newest_ns in (*bench.cpu.cuts, *bench.meters[0].cuts):
        assert newest_ns is not None
        assert newest_ns >= window.end_ns or now_ns - window.end_ns > MAX_LAG_S * 1e9


def test_a_silent_source_holds_nobody_for_ever(bench: Bench) -> None:
    """Without its samples the window closes after the longest lag."""
    silent_ns = bench.clock.now_ns()
    bench.cpu.newest = lambda: silent_ns
    bench.build().start()
    windows = bench.wait_windows(3)

    assert all(now_ns - window.end_ns > MAX_LAG_S * 1e9 for window, now_ns, _ in bench.cpu.cuts)
    assert windows[1].start_ns == windows[0].end_ns


@pytest.mark.parametrize(
    ("lags_s", "expected_s"),
    [((), 0.05), ((0.1, 0.3), 0.3), ((0.1, None), 0.1), ((0.1, 5.0), 0.1), ((0.5,), 0.5)],
)
def test_lag_is_the_slowest_quick_source_s(
    bench: Bench, lags_s: tuple[float | None, ...], expected_s: float
) -> None:
    """Slow, stalled and absent sources do not hold the window; half a second is the most."""
    bench.clock.stands_at_ns = bench.clock.now_ns()
    bench.meters = tuple(Meter(bench.clock, lag_s) for lag_s in lags_s)
    analyser = bench.build()
    analyser.start()

    assert analyser.wait_s() == pytest.approx((GRID_NS + WINDOW_NS) / 1e9 + expected_s)


def test_slow_sources_do_not_hold_the_window(bench: Bench) -> None:
    """A source read every half second or less often is booked when it is known."""
    silent_ns = bench.clock.now_ns()
    bench.meters = (Meter(bench.clock, 0.4), Meter(bench.clock, None))
    for meter in bench.meters:
        meter.newest = lambda: silent_ns
    bench.build().start()
    bench.wait_windows(2)

    assert all(newest == silent_ns for _, _, newest in bench.meters[0].cuts)


def test_missed_windows_make_the_next_longer(bench: Bench) -> None:
    """After a pause one window covers it all, on the same grid, and nothing is lost."""
    bench.build().start()
    bench.wait_windows(2)
    bench.cpu.hold.clear()
    cuts = len(bench.cpu.cuts)
    bench.wait(lambda: len(bench.cpu.cuts) > cuts)
    bench.clock.moved_ns += 50 * WINDOW_NS
    bench.cpu.hold.set()
    windows = bench.wait_windows(3)
    lengths = [(w.end_ns - w.start_ns) / WINDOW_NS for w in windows]

    assert max(lengths) >= 50
    assert all(length == int(length) for length in lengths)
    assert all(b.start_ns == a.end_ns for a, b in pairwise(windows))


def test_heartbeat_stops_when_analysis_hangs(bench: Bench) -> None:
    """A window that never ends starves the watchdog; one that ends feeds it again."""
    analyser = bench.build()
    analyser.start()
    bench.wait_windows(1)
    bench.cpu.hold.clear()
    cuts = len(bench.cpu.cuts)
    bench.wait(lambda: len(bench.cpu.cuts) > cuts)
    bench.clock.moved_ns += 10 * 10**9
    hung_s = analyser.quiet_s()
    bench.cpu.hold.set()
    bench.wait(lambda: analyser.quiet_s() < 4.0)

    assert hung_s >= 10.0


def test_restart_goes_on_from_the_saved_end(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The first window after a restart runs from the saved end, is flagged, and told once."""
    caplog.set_level("INFO")
    end_ns = bench.clock.now_ns() - 7 * 10**9
    bench.build(State(sequence=41, since_ns=5, end_ns=end_ns, restarted=True)).start()
    published: list[Snapshot] = []

    def two() -> bool:
        snapshot = bench.latest.get()
        if snapshot is not None and snapshot not in published:
            published.append(snapshot)
        return len(published) >= 2

    bench.wait(two)
    windows = [window for window, _, _ in bench.cpu.cuts]

    assert windows[0].start_ns == end_ns
    assert windows[0].seconds > 7.0
    assert published[0].sequence == 42 or published[0].window != windows[0]
    assert published[0].gap == (published[0].window == windows[0])
    assert not published[-1].gap
    assert published[-1].since_ns == 5
    assert caplog.text.count("counters go on") == 1


def test_a_fault_of_ours_ends_the_daemon(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Analysis that fails is logged and reported; it does not go on with half a window."""

    def fail() -> int:
        raise RuntimeError("a fault")

    bench.cpu.newest = fail
    bench.build().start()
    bench.wait(lambda: bool(bench.crashes))

    assert bench.crashes == ["analysis failed"]
    assert "a fault" in caplog.text
    assert bench.latest.count() == 0


def test_settings_change_between_windows(bench: Bench) -> None:
    """New parameters count from the next window on."""
    bench.build().start()
    bench.wait_windows(1)
    bench.params.publish(Params(cpus=2, stale_ns=-1))
    bench.wait_windows(2)
    snapshot = bench.latest.get()

    assert snapshot is not None
    assert snapshot.domains["package"].quality == "stale"


def test_stop_before_start_and_twice(bench: Bench) -> None:
    """A start that fails half way can stop everything."""
    analyser = bench.build()
    analyser.ask_stop()
    assert analyser.join(0.0)
    assert analyser.wait_s() == WINDOW_NS / 1e9


def test_each_zone_s_trouble_is_told_by_its_own_name() -> None:
    """Zones of one name are told together; one without a socket has none in its name."""
    bad = [zone("package-0"), zone("dram"), zone("dram")._replace(key="rapl:other")]
    reasons = {"rapl:package-0": "gone", "rapl:dram": "first", "rapl:other": "second"}
    bad[0] = bad[0]._replace(socket=None)
    series = EnergySeries("rapl", "measured", tuple(bad), (), reasons)
    seen = Observations((series,), None, {}, 0)
    snapshot, _ = analyse(seen, Window(0, 3 * 10**9), State(), Params(cpus=1))

    assert zone_reasons(snapshot) == {
        "rapl package-0": "gone",
        "rapl dram (socket 0)": "first; second",
    }

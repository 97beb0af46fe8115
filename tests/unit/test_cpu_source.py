"""Another way of accounting takes over while the daemon runs, and no CPU time is lost."""

import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests.unit.test_sampler import PATIENCE_S, wait_for
from tychod.analysis.cpu import cpu_window
from tychod.analysis.state import State
from tychod.clock import SystemClock
from tychod.collectors.base import Pace, Ready
from tychod.kernel.cgroups import CpuBaseline
from tychod.model import AccountingFigures, Window
from tychod.runtime.plans import Plan
from tychod.runtime.sources import CpuSampler
from tychod.samples import KERNEL_KEY, CgroupRef, CounterSample, CpuSample

INTERVAL_S = 0.01


class Meter:
    """Accounts one CPU that is always busy with the cgroup ``key``, from its baseline on."""

    name = "cpu"
    delay_s = 0.0
    pace = Pace(INTERVAL_S, 10.0)
    method = "cgroup-v2"
    method_reason = hierarchy = hierarchy_reason = failure = ""
    method_remedy = None
    root = "/"
    problems = ()
    figures = AccountingFigures()
    counters: CounterSample | None = None
    stamp = 0
    packages = package_cpus = ()

    def __init__(self, key: int, begun_ns: int) -> None:
        self.cgroups = {key: CgroupRef(f"/{key}", key)}
        self.outdated = False
        self.closed = False
        self._keys = np.array([KERNEL_KEY, key], np.int64)
        self._begun_ns = begun_ns
        self._saved: list[int] = []

    def resume(self, baseline: CpuBaseline) -> bool:
        """Go on from a moment."""
        self._begun_ns = baseline.t_ns
        self._saved = [baseline.t_ns]
        return True

    def read(self) -> tuple[CpuSample, ...]:
        """One sample of now, and at first one of the moment it goes on from."""
        times, self._saved = [*self._saved, time.monotonic_ns()], []
        return tuple(self._sample(t) for t in times)

    read_last = read

    def _sample(self, t_ns: int) -> CpuSample:
        own = np.array([0, t_ns - self._begun_ns], np.int64)
        return CpuSample(t_ns, self._keys, own, own, 0, t_ns)

    def close(self) -> None:
        """Remember it."""
        self.closed = True


@pytest.fixture
def meters() -> list[Meter]:
    """Those that were found, in order."""
    return []


@pytest.fixture
def source(meters: list[Meter]) -> Iterator[CpuSampler]:
    """A sampler that finds meters of the keys 5, 7, 5, 7, ..."""
    keys = itertools.cycle((5, 7))

    def find() -> Ready[Meter]:
        meters.append(Meter(next(keys), time.monotonic_ns()))
        return Ready(meters[-1])

    clock = SystemClock()
    plan = Plan("cpu", True, "measured", INTERVAL_S, 10.0, clock.now_ns())
    crashes: list[str] = []
    found = CpuSampler(plan, find, clock, crashes.append, None)  # type: ignore[arg-type]
    found.sampler.start()
    yield found
    found.sampler.ask_stop()
    assert found.sampler.join(PATIENCE_S)
    assert not crashes


def test_time_of_both_is_credited_once(source: CpuSampler, meters: list[Meter]) -> None:
    """Windows that hold changes of the collector hold all the time of both, and no more."""
    wait_for(lambda: source.newest_ns() is not None)
    first_ns = source.newest_ns() or 0
    state, used, named = State(), {5: 0, 7: 0}, set[int]()
    end_ns = first_ns
    for turn in range(12):
        count = len(meters)
        if turn % 3 != 1:  # windows with a change, and windows that know one collector alone
            meters[-1].outdated = True
            wait_for(lambda count=count: len(meters) > count and meters[count - 1].closed)  # type: ignore[misc]
        seen_ns = source.newest_ns() or 0
        wait_for(lambda seen_ns=seen_ns: (source.newest_ns() or 0) > seen_ns)  # type: ignore[misc]
        window = Window(end_ns, seen_ns)
        series = source.series(window)
        assert series is not None
        found = cpu_window(series, window, state)
        named |= set(series.cgroups)
        for key, ns in zip(found.keys.tolist(), found.used_ns.sum(axis=0).tolist(), strict=True):
            if key in used:
                used[key] += ns
        state = State(end_ns=seen_ns, consumed_ns=found.consumed_ns, cpu_run=found.run)
        end_ns = seen_ns

    assert sum(used.values()) == end_ns - first_ns
    assert min(used.values()) > 0
    assert named == {5, 7}

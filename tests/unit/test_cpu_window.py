"""Cutting windows out of CPU samples: every nanosecond once."""

from itertools import pairwise

import numpy as np
import pytest

from tychod.analysis.cpu import CpuWindow, cpu_window
from tychod.analysis.state import State
from tychod.model import Window
from tychod.samples import CpuSample, CpuSeries

S = 1_000_000_000


def sample(t_s: float, **own_ns: int) -> CpuSample:
    """A sample of keys named k1, k2, ..."""
    keys = np.array(sorted(int(k[1:]) for k in own_ns), np.int64)
    own = np.array([own_ns[f"k{k}"] for k in keys.tolist()], np.int64)
    return CpuSample(round(t_s * S), keys, own, own, 0)


def series(*samples: CpuSample, run: int = 0) -> CpuSeries:
    """The samples of one source."""
    return CpuSeries("cgroup-v2", samples, {}, run)


def cut(start_s: float, end_s: float, state: State, *samples: CpuSample, run: int = 0) -> CpuWindow:
    """One window."""
    window = Window(round(start_s * S), round(end_s * S))
    return cpu_window(series(*samples, run=run), window, state)


def after(window: CpuWindow) -> State:
    """The state that the next window starts from."""
    end_ns = int(window.edges_ns[-1])
    return State(end_ns=end_ns, consumed_ns=window.consumed_ns, cpu_run=window.run)


def used(window: CpuWindow) -> dict[int, int]:
    """CPU time of the whole window by key, without zeros."""
    totals = window.used_ns.sum(axis=0).tolist()
    return {k: t for k, t in zip(window.keys.tolist(), totals, strict=True) if t}


def test_bins_are_the_samples_own() -> None:
    """A sample inside the window is an edge; the ends are interpolated."""
    found = cut(1, 3, State(), sample(0.5, k1=0), sample(1.5, k1=100), sample(3.5, k1=300))

    assert found.edges_ns.tolist() == [S, 3 * S // 2, 3 * S]
    assert found.used_ns.tolist() == [[50], [150]]


def test_windows_chain_whatever_the_samples() -> None:
    """Any windows over the same samples add up to what one window over all of them has."""
    samples = [sample(t / 3, k1=7 * t * t, k2=1000 + 13 * t) for t in range(40)]
    whole = used(cut(0.1, 12, State(), *samples))
    for step in (0.2, 0.5, 1.7):
        state, total = State(), dict.fromkeys(whole, 0)
        edges = [0.1, *np.arange(0.1 + step, 12, step).tolist(), 12]
        for start, end in pairwise(edges):
            first = max(i for i, s in enumerate(samples) if s.t_ns <= start * S + 1)
            last = next(i for i, s in enumerate(samples) if s.t_ns >= end * S - 1)
            found = cut(start, end, state, *samples[first : last + 1])
            state = after(found)
            total = {k: total[k] + used(found).get(k, 0) for k in whole}

        assert total == whole


def test_no_sample_in_or_after_the_window_is_made_up_for_later() -> None:
    """What no sample shows yet is credited to the window whose samples show it."""
    first = cut(0, 3, State(), sample(0, k1=0), sample(2, k1=20))
    quiet = cut(3, 6, after(first), sample(2, k1=20))
    late = cut(6, 9, after(quiet), sample(2, k1=20), sample(9, k1=90))

    assert [used(w) for w in (first, quiet, late)] == [{1: 20}, {}, {1: 70}]
    assert first.edges_ns.tolist() == [0, 3 * S]  # no bin of which nothing is known


def test_one_sample_only_credits_nothing() -> None:
    """The first sight of a counter says nothing of the window."""
    for t in (0.5, 1.5, 3.5):
        assert used(cut(1, 3, State(), sample(t, k1=500))) == {}


def test_first_sample_later_than_the_start() -> None:
    """Counting begins with the first sample."""
    assert used(cut(0, 3, State(), sample(1, k1=5), sample(2, k1=25), sample(3, k1=45))) == {1: 40}


def test_two_samples_of_one_time() -> None:
    """A repeated time makes no bin without length, and no wrong sum."""
    same = [sample(0, k1=0), sample(1, k1=10), sample(1, k1=12), sample(3, k1=30)]
    found = cut(0, 3, State(), *same)

    assert used(found) == {1: 30}
    assert found.edges_ns.tolist() == [0, S, 3 * S]


def test_born_and_dead_inside() -> None:
    """A key absent before had used nothing; one that is gone uses no more and is credited once."""
    samples = (
        sample(0, k1=0),
        sample(1, k1=10, k2=4),
        sample(2, k1=20, k2=9, k3=1),
        sample(3, k1=30, k3=5),
    )
    found = cut(0, 3, State(), *samples)
    following = cut(3, 6, after(found), samples[-1], sample(6, k1=60))

    assert used(found) == {1: 30, 2: 9, 3: 5}
    assert found.live == {1, 3}
    assert used(following) == {1: 30}
    assert following.live == {1}


def test_key_in_the_predecessor_only_is_not_credited_again() -> None:
    """It died between two samples: the first window had all it used."""
    first = cut(0, 3, State(), sample(0, k1=0), sample(2.8, k1=28), sample(3.3))
    second = cut(3, 6, after(first), sample(2.8, k1=28), sample(3.3), sample(6.1))

    assert used(first) == {1: 28}
    assert used(second) == {}


def test_born_after_the_end_is_credited_in_parts() -> None:
    """A key first seen by the sample after the end grows from nothing in between."""
    first = cut(0, 3, State(), sample(2), sample(4, k1=100))
    second = cut(3, 6, after(first), sample(2), sample(4, k1=100), sample(6, k1=100))

    assert used(first)[1] + used(second)[1] == 100


@pytest.mark.parametrize("gone", [None, series()])
def test_a_window_without_samples_loses_nothing(gone: CpuSeries | None) -> None:
    """No CPU series for a window: nothing is credited, and nothing twice when it is back."""
    first = cut(0, 3, State(), sample(0, k1=0), sample(3, k1=30))
    hole = cpu_window(gone, Window(3 * S, 6 * S), after(first))
    back = cut(6, 9, after(hole), sample(3, k1=30), sample(9, k1=90))

    assert used(hole) == {}
    assert hole.used_ns.shape == (1, 0)
    assert used(back) == {1: 60}


def test_source_opened_anew_counts_from_zero_again() -> None:
    """The counters of another run owe nothing to those of the one before."""
    first = cut(0, 3, State(), sample(0, k1=0), sample(3, k1=10**9))
    anew = cut(3, 6, after(first), sample(4, k1=0), sample(6, k1=20), run=1)
    following = cut(6, 9, after(anew), sample(6, k1=20), sample(9, k1=50), run=1)

    assert used(anew) == {1: 20}
    assert used(following) == {1: 30}


def test_restart_point_is_at_the_end_or_before() -> None:
    """What is saved for a restart is where crediting ended, never after."""
    between = cut(0, 3, State(), sample(0, k1=0), sample(2, k1=20), sample(4, k1=40, k2=10)).at_end
    ahead = cut(0, 3, State(), sample(0, k1=0), sample(2, k1=20)).at_end

    assert between is not None
    assert (between.t_ns, between.own_ns.tolist()) == (3 * S, [30, 5])
    assert ahead is not None
    assert (ahead.t_ns, ahead.own_ns.tolist()) == (2 * S, [20])
    assert cut(0, 3, State()).at_end is None


def test_a_long_silence_is_a_bin_of_its_own() -> None:
    """A sample just after the start does not speak for the three seconds that follow."""
    samples = [sample(0.5, k1=0), sample(1.0, k1=100), sample(1.001, k1=101)]
    silent = cut(1, 4, State(), *samples)
    usual = cut(1, 4, State(), *samples, *(sample(t, k1=200) for t in (1.5, 2, 2.5, 3, 3.5)))

    assert silent.used_ns.tolist() == [[1], [0]]
    assert usual.edges_ns.tolist()[-2:] == [3 * S, 4 * S]

"""Learned intensity on small nodes: told apart where data tell, pooled where they do not."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tychod.analysis.columns import GONE_WINDOWS, YOUNG_WINDOWS, Rows
from tychod.analysis.intensity import Estimate, learn
from tychod.analysis.learned import Learned
from tychod.model import Window

Floats = NDArray[np.float64]
S = 1_000_000_000
STEP_S = 0.05
CPUS = 8.0
FLAT: Callable[[Floats], Floats] = np.ones_like


@dataclass(frozen=True)
class Node:
    """Workloads that run by a pattern, each at its own joules per CPU second, above idle watts."""

    rates: Mapping[str, float]
    pattern: Callable[[np.random.Generator, int], Floats]  # (rows, workloads) CPUs
    idle_w: float = 40.0
    noise_j: float = 0.05
    curve: Callable[[Floats], Floats] = FLAT
    count: int = 60
    features: Mapping[str, float] | None = None

    def window(self, rng: np.random.Generator) -> tuple[Rows, list[str], Floats]:
        """One window of rows, who ran, and the true dynamic energy by row and workload."""
        work = self.pattern(rng, self.count) * STEP_S
        busy = work.sum(axis=1) / (CPUS * STEP_S)
        names = list(self.rates)
        true = work * np.array([self.rates[n] for n in names]) * self.curve(busy)[:, None]
        noise = rng.normal(0.0, self.noise_j, self.count)
        seconds = np.full(self.count, STEP_S)
        told = [[self.features[n]] for n in names] if self.features else [[] for _ in names]
        rows = Rows(
            np.zeros(self.count, np.int64),
            (np.arange(self.count) + 0.5) * STEP_S,
            seconds,
            self.idle_w * seconds + true.sum(axis=1) + noise,
            work,
            busy,
            np.diag(np.full(self.count, 1e-6)),
            np.array(told, np.float64),
        )
        return rows, names, true


def bursts(count: int) -> Callable[[np.random.Generator, int], Floats]:
    """Each runs on one CPU in about half of the stretches of 0.25 s, by chance."""

    def pattern(rng: np.random.Generator, rows: int) -> Floats:
        stretches = rng.integers(0, 2, (rows // 5 + 1, count)).astype(np.float64)
        return np.repeat(stretches, 5, axis=0)[:rows]

    return pattern


def teach(
    node: Node, windows: int, seed: int = 1, learned: Learned | None = None, first: int = 0
) -> Iterator[tuple[Learned, Estimate, list[str], Floats]]:
    """Learn window by window."""
    rng = np.random.default_rng(seed)
    features = ("rate",) if node.features else ()
    now = learned or Learned(zones=("node",), features=features)
    for index in range(first, first + windows):
        rows, names, true = node.window(rng)
        now, found = learn(now, rows, names, Window(index * 3 * S, (index + 1) * 3 * S))
        yield now, found, names, true


def taught(node: Node, windows: int, seed: int = 1) -> tuple[Learned, Estimate]:
    """The last of many windows."""
    *_, (learned, found, _, _) = teach(node, windows, seed)
    return learned, found


def rate_sd(learned: Learned, *leaves: str) -> float:
    """Standard deviation of the sum of these workloads' intensities."""
    names = list(learned.columns)
    gain = np.zeros(len(learned.beta))
    for leaf in leaves:
        gain[learned.mean_at] += 1.0
        gain[learned.fixed + names.index(leaf)] = 1.0
    return float(np.sqrt(learned.noise.excess * (gain @ learned.cov @ gain)))


def test_two_intensities_are_told_apart() -> None:
    """1 : 2 in bursts: both are found within three of their standard deviations, not the mean."""
    learned, found = taught(Node({"a": 4.0, "b": 8.0}, bursts(2)), 10)

    for rate, true, leaf in zip(found.intensity, (4.0, 8.0), "ab", strict=True):
        sd = rate_sd(learned, leaf)
        assert abs(rate - true) <= 3 * sd
        assert 3 * sd < 2.0  # the mean is not in reach
    assert found.own.all()
    assert found.surety.min() > 0.9


def test_two_that_are_always_together_share_the_mean() -> None:
    """Nothing tells them apart: one intensity, sure of the sum and not of either, truth inside."""

    def together(rng: np.random.Generator, rows: int) -> Floats:
        apart = bursts(5)(rng, rows)
        return np.column_stack([apart[:, 0], apart])

    rates = {"a": 4.5, "b": 8.0, "c": 4.0, "d": 9.0, "e": 5.0, "f": 10.0}
    learned, found = taught(Node(rates, together), 10)
    one, two, *_ = found.intensity.tolist()

    assert one == pytest.approx(two, rel=1e-6)
    assert abs(one + two - 12.5) <= 3 * rate_sd(learned, "a", "b")
    assert max(abs(one - 4.5), abs(two - 8.0)) <= 3 * rate_sd(learned, "a")
    assert rate_sd(learned, "a") > rate_sd(learned, "a", "b")
    assert found.surety[:2].max() < 0.5 < 0.9 < found.surety[2:].min()


def test_a_new_workload_begins_at_the_mean() -> None:
    """Before it was seen often enough it has no intensity of its own, then a column."""
    old = Node({"a": 4.0, "b": 8.0}, bursts(2))
    learned, _ = taught(old, 5)
    more = Node({"a": 4.0, "b": 8.0, "c": 20.0}, bursts(3))
    steps = list(teach(more, YOUNG_WINDOWS + 1, 2, learned, first=5))

    for now, found, _, _ in steps[:YOUNG_WINDOWS]:
        assert found.own.tolist() == [True, True, False]
        assert found.intensity[2] == pytest.approx(now.beta[now.mean_at])
    assert steps[-1][1].own.all()


def test_equal_workloads_stay_pooled() -> None:
    """Noise makes no differences: none is further from the mean than three deviations."""
    names = [f"w{k}" for k in range(6)]
    learned, found = taught(Node(dict.fromkeys(names, 6.0), bursts(6)), 12)

    for rate, leaf in zip(found.intensity, names, strict=True):
        assert abs(rate - 6.0) <= 3 * rate_sd(learned, leaf)
    assert learned.tau < 0.1


def test_a_concave_curve_is_nobodys_property() -> None:
    """Power per CPU second falls as the node fills up: who runs in company is not thought cheap.

    One runs alone, six run together when it does not, all at one intensity.  By a straight line
    through the idle power that one would have a larger one by the curve's values at their loads.
    """

    def curve(u: Floats) -> Floats:
        return 0.75 + 0.25 / np.sqrt(np.maximum(u, 1e-6))

    def pattern(rng: np.random.Generator, rows: int) -> Floats:
        is_on = bursts(1)(rng, rows)
        level = np.repeat(rng.uniform(0.2, 1.0, rows // 5 + 1), 5)[:rows, None]
        return np.column_stack([(1.0 - is_on) * level, np.repeat(is_on * level, 6, axis=1)])

    names = ["alone", *(f"crowd{k}" for k in range(6))]
    node = Node(dict.fromkeys(names, 6.0), pattern, noise_j=0.02, curve=curve)
    learned, found = taught(node, 40)
    alone, crowd = float(found.intensity[0]), float(found.intensity[1:].mean())
    straight = float(curve(np.array(0.6 / CPUS)) / curve(np.array(6 * 0.6 / CPUS)))

    assert straight > 1.4
    assert abs(alone / crowd - 1.0) < (straight - 1.0) / 2
    assert abs(alone - crowd) <= 3 * (rate_sd(learned, "alone") + rate_sd(learned, "crowd0"))


def churn(index: int) -> Node:
    """Two that stay, and five new ones in every window that live for four."""
    names = [f"w{k}" for k in range(5 * max(index - 3, 0), 5 * (index + 1))]
    rates = {"a": 4.0, "b": 8.0} | dict.fromkeys(names, 6.0)
    return Node(rates, bursts(len(rates)), count=20)


def test_state_of_gone_workloads_is_dropped() -> None:
    """With churn for ever the arrays stay as large as those of who was there lately."""
    learned, rng, sizes = Learned(zones=("node",)), np.random.default_rng(1), []
    for index in range(4 * GONE_WINDOWS):
        rows, names, _ = churn(index).window(rng)
        window = Window(index * 3 * S, (index + 1) * 3 * S)
        learned, _ = learn(learned, rows, names, window)
        sizes.append(len(learned.beta))
        assert len(learned.beta) == learned.fixed + len(learned.columns) == len(learned.cov)
        assert len(learned.young) <= 5 * 4
    most = learned.fixed + 2 + 5 * (GONE_WINDOWS + 4)

    assert {"a", "b"} <= learned.columns.keys()
    assert max(sizes) <= most
    assert learned.info.shape == learned.cov.shape == (sizes[-1], sizes[-1])


def test_who_leaves_takes_only_itself() -> None:
    """Dropping a column changes what is known of nobody else."""
    learned, _ = taught(Node({"a": 4.0, "b": 8.0, "c": 6.0}, bursts(3)), 6)
    steps = teach(Node({"a": 4.0, "b": 8.0}, bursts(2)), GONE_WINDOWS + 2, 2, learned, 6)
    before = [found.intensity for _, found, _, _ in steps]

    assert before[-1] == pytest.approx(before[GONE_WINDOWS - 2], rel=0.05)


def test_three_times_the_watts_have_the_same_shares() -> None:
    """No constant of the estimation has watts in it."""
    one = Node({"a": 4.0, "b": 8.0, "c": 5.0}, bursts(3))
    three = Node({"a": 12.0, "b": 24.0, "c": 15.0}, bursts(3), idle_w=120.0, noise_j=0.15)
    # The error of edges is in joules too.
    for (_, x, _, _), (_, y, _, _) in zip(teach(one, 5), _tripled(three, 5), strict=True):
        assert y.energy_j.sum(axis=0) == pytest.approx(3 * x.energy_j.sum(axis=0), rel=1e-6)


def _tripled(node: Node, windows: int) -> Iterator[tuple[Learned, Estimate, None, None]]:
    rng, now = np.random.default_rng(1), Learned(zones=("node",))
    for index in range(windows):
        rows, names, _ = node.window(rng)
        rows = rows._replace(timing=9.0 * rows.timing)
        now, found = learn(now, rows, names, Window(index * 3 * S, (index + 1) * 3 * S))
        yield now, found, None, None


def test_counters_tell_of_a_new_workload() -> None:
    """Intensity goes with a counter's rate: a newcomer's first window is nearer to the truth."""
    told = {"a": -0.5, "b": 0.5, "c": 0.0, "new": 1.0}
    rates = {leaf: 6.0 * (1.0 + more) for leaf, more in told.items()}
    known = {leaf: rates[leaf] for leaf in "abc"}
    misses = []
    for features in (told, None):
        learned, _ = taught(Node(known, bursts(3), features=features), 10)
        ((_, found, _, _),) = teach(
            Node(rates, bursts(4), features=features), 1, 2, learned, first=10
        )
        misses.append(abs(found.intensity[3] - rates["new"]))

    assert misses[0] < misses[1]


@pytest.mark.parametrize("idle_w", [0.0, 5.0, 200.0])
def test_a_silent_meter_and_a_silent_node_are_no_error(idle_w: float) -> None:
    """No noise, no load or no energy at all: everything stays finite, nobody is given any."""
    none: Callable[[np.random.Generator, int], Floats] = lambda _, rows: np.zeros((rows, 1))  # noqa: E731
    node = Node({"a": 0.0}, none, idle_w=idle_w, noise_j=0.0)
    busy = Node({"a": 0.0}, bursts(1), idle_w=idle_w, noise_j=0.0)
    for shown in (node, busy):
        for learned, found, _, _ in teach(shown, 4):
            assert np.isfinite(learned.beta).all()
            assert np.isfinite(learned.cov).all()
            assert (found.energy_j >= 0.0).all()
            assert found.energy_j.sum() <= idle_w * 3.0 * 1.000001

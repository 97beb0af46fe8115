"""How noisy the energy of bins is, found from the residuals alone."""

import numpy as np
import pytest

from tychod.analysis import noise
from tychod.analysis.learned import NOISE_TERMS, Float64s, Noise

COUNT = 60
T_S = (np.arange(COUNT) + 0.5) * 0.05
SECONDS = np.full(COUNT, 0.05)


def kernels(rng: np.random.Generator) -> list[Float64s]:
    """Covariances of one window in which three workloads use 0 to 0.6 J a bin."""
    each, _ = noise.wander(T_S, SECONDS, np.ones(NOISE_TERMS))
    energy = rng.uniform(0.0, 0.6, (COUNT, 3))
    overlap = energy @ energy.T
    timing = 1e-4 * (2 * np.eye(COUNT) - np.eye(COUNT, k=1) - np.eye(COUNT, k=-1))
    return [np.eye(COUNT), *(overlap * r for r in each), timing]


def learned(theta: Float64s, windows: int = 150, power_w: float = 40.0) -> Noise:
    """Learn from residuals that are drawn with these scales."""
    rng, now = np.random.default_rng(1), noise.begin(power_w)
    none = np.zeros((COUNT, COUNT))
    for _ in range(windows):
        parts = kernels(rng)
        rest = rng.multivariate_normal(np.zeros(COUNT), noise.total(parts, theta))
        guess = noise.total(parts, np.maximum(now.theta, 1e-12)) + 1e-12 * np.eye(COUNT)
        now = noise.score(now, parts, rest, none, np.linalg.inv(guess))
    return now


@pytest.mark.parametrize(
    "theta", [(0.0025, 0, 0, 0, 0), (0.0025, 0, 0.0225, 0, 1.0), (0.0001, 0.01, 0, 0.01, 0)]
)
def test_scales_are_found(theta: tuple[float, ...]) -> None:
    """Each part's scale is where its own information says, within four deviations.

    The equations are weighted by their age, so that about 100 windows are in them; wanders over
    neighbouring times are hard to tell apart, which their common information says.
    """
    found = learned(np.array(theta))
    deviation = np.sqrt(np.diag(np.linalg.inv(found.matrix)))

    assert (found.theta >= 0.0).all()
    assert (np.abs(found.theta - np.array(theta)) <= 4 * deviation).all()
    assert found.excess == pytest.approx(1.0, abs=4 * np.sqrt(2 / (100 * COUNT)))


def test_no_scale_is_negative_and_no_residual_is_no_noise() -> None:
    """Exact worlds exist, as on a virtual machine: scales are 0 then, and nothing breaks."""
    found = learned(np.zeros(NOISE_TERMS), 20)

    assert np.isfinite(found.theta).all()
    assert (found.theta >= 0.0).all()
    assert found.theta[0] < noise.begin(40.0).theta[0]


def test_one_odd_window_is_bounded() -> None:
    """A window of which nothing fits raises the excess by no more than its cap, with forgetting."""
    before = learned(np.array([0.0025, 0, 0, 0, 0]), 20)
    rng = np.random.default_rng(2)
    parts, none = kernels(rng), np.zeros((COUNT, COUNT))
    inverse = np.linalg.inv(noise.total(parts, np.maximum(before.theta, 1e-9)))
    after = noise.score(before, parts, rng.normal(0.0, 50.0, COUNT), none, inverse)

    assert before.excess < after.excess
    assert after.excess <= before.excess + (1 - noise.FORGET) * noise.MOST_EXCESS


def test_wander_is_less_alike_further_apart() -> None:
    """Rows alike most with themselves, and the sum follows its weights."""
    each, total = noise.wander(T_S, SECONDS, np.array([9.0, 1.0, 2.0, 3.0, 9.0]))

    for r in each:
        assert (np.diff(r[0]) <= 0.0).all()
        assert (np.linalg.eigvalsh(r) > -1e-9).all()
    assert total == pytest.approx(each[0] + 2 * each[1] + 3 * each[2])
    assert (each[0] <= each[1]).all()

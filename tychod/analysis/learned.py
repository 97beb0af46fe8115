"""What is learned of one domain, and how its parameters are laid out.

Parameters of a domain, in this order: the idle power of each zone (W), the terms of the power
curve, the mean intensity (J per CPU second), one coefficient for each feature, and the deviation
from the mean of each workload that has a column of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]

CURVE_TERMS: Final = 2
"""Terms of the power curve; see ``curve_terms``."""
NOISE_TERMS: Final = 5
"""Node noise, wander of intensities over 0.25, 1 and 4 s, and timing of the readings."""


def _none() -> Float64s:
    return np.zeros(0, np.float64)


@dataclass(frozen=True, slots=True)
class Noise:
    """Running equations of the noise parameters and their solution, all variances."""

    theta: Float64s = field(default_factory=lambda: np.zeros(NOISE_TERMS))
    start: Float64s = field(default_factory=lambda: np.zeros(NOISE_TERMS))  # the first guess
    matrix: Float64s = field(default_factory=lambda: np.zeros((NOISE_TERMS, NOISE_TERMS)))
    vector: Float64s = field(default_factory=lambda: np.zeros(NOISE_TERMS))
    excess: float = 1.0  # mean of r'S^-1 r / n, at least 1: how much the errors are underrated
    weight: float = 0.0  # windows in the equations, with forgetting


class Column(NamedTuple):
    """Memory about one workload that has a column."""

    windows: int = 0  # in which it ran
    absent: int = 0  # windows since it last ran
    score: float = 0.0  # leaky sum of how far its energy is from what was expected
    score_var: float = 0.0


@dataclass(frozen=True, slots=True)
class Learned:
    """One domain's model; arrays are never changed in place once they are in here."""

    zones: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    columns: Mapping[str, Column] = field(default_factory=dict)  # leaf id, in the arrays' order
    young: Mapping[str, Column] = field(default_factory=dict)  # leaf ids without one, yet
    info: Float64s = field(default_factory=lambda: np.zeros((0, 0)))  # Z'V^-1 Z, with forgetting
    vector: Float64s = field(default_factory=_none)  # Z'V^-1 y
    beta: Float64s = field(default_factory=_none)  # the newest solution
    cov: Float64s = field(default_factory=lambda: np.zeros((0, 0)))  # its covariance
    past: Float64s = field(default_factory=lambda: np.zeros((0, 0)))
    """Covariance of each column's error of the energy booked so far with the parameters' errors."""
    windows: int = 0
    tau: float = 0.0  # relative spread of intensities
    curve_var: Float64s = field(default_factory=_none)
    lowest_w: Float64s = field(default_factory=_none)  # (windows, zones), of half a second
    quiet_w: Float64s = field(default_factory=_none)  # by zone: power of a quiet moment
    moved: float = 0.0  # how far the mean intensity went in the newest window, logarithm
    noise: Noise = field(default_factory=Noise)
    updated_ns: int = 0  # end of the newest window that taught anything

    @property
    def fixed(self) -> int:
        """Number of parameters before the workloads' own."""
        return len(self.zones) + CURVE_TERMS + 1 + len(self.features)

    @property
    def mean_at(self) -> int:
        """Position of the mean intensity."""
        return len(self.zones) + CURVE_TERMS


def curve_terms(busy: Float64s) -> Float64s:
    """Return the terms of the power curve at busy shares, shape (n, 2).

    ``g(u) = 1 + a1 (u^-1/2 - ur^-1/2) + a2 (ur - u)``: power per CPU second falls as the package
    fills up, since clocks fall and threads share cores.  At ``ur`` it is 1.
    """
    share = np.clip(busy, LOWEST_BUSY, 1.0)
    return np.stack([share**-0.5 - BUSY_REFERENCE**-0.5, BUSY_REFERENCE - share], axis=1)


BUSY_REFERENCE: Final = 0.4
LOWEST_BUSY: Final = 0.02

"""Covariance of the energy of bins around the model, and its scale from the data.

``V = n0 I + sum_j g_j (E E') o R_j + q T`` with ``E`` the expected energy of each workload in each
row, ``R_j = exp(-|dt| / tau_j)`` the wander of intensities and ``T`` the errors of bin edges.
The five scales are variances; they follow from minimum norm quadratic unbiased estimation
(Rao 1971) by scoring, with forgetting.
"""

from collections.abc import Sequence
from itertools import product
from typing import Final

import numpy as np

from tychod.analysis.learned import NOISE_TERMS, Float64s, Noise

WANDER_S: Final = (0.25, 1.0, 4.0)
"""Time constants of the wander, in seconds: from bursts within a bin to phases of a program."""
FORGET: Final = 0.99
"""How much of the equations of a window is left after the next."""
START: Final = (0.0, 0.02**2, 0.1**2, 0.02**2, 1.0)
"""First guess: relative variance of intensities by time constant, and errors as computed."""
MOST_EXCESS: Final = 20.0
"""One window cannot raise the running mean of the excess by more than this."""
PULL: Final = 0.2
"""Weight of the first guess among the equations, relative to one window's."""
CHOICES: Final = np.array(list(product((False, True), repeat=NOISE_TERMS)))
"""Which of the variances are above 0."""


def wander(t_s: Float64s, seconds: Float64s, theta: Float64s) -> tuple[list[Float64s], Float64s]:
    """Return each ``R_j`` and their sum weighted by ``theta``.

    Rows are means over their length: within one, two moments are a third of it apart.  Written
    as a product, so that rows of different lengths at one time still make a covariance.
    """
    apart = np.abs(t_s[:, None] - t_s[None, :])
    apart += (seconds[:, None] + seconds[None, :]) / 6.0
    each = [np.exp(-apart / tau) for tau in WANDER_S]
    return each, sum((theta[1 + j] * r for j, r in enumerate(each)), np.zeros_like(apart))


def total(kernels: Sequence[Float64s], theta: Float64s) -> Float64s:
    """Return the covariance of all kernels at these scales."""
    return sum((t * k for t, k in zip(theta, kernels, strict=True)), np.zeros_like(kernels[0]))


def begin(power_w: float) -> Noise:
    """Return where the estimation begins: one percent of the mean power in each row."""
    theta = np.array(START)
    theta[0] = (0.01 * power_w * 0.05) ** 2
    return Noise(theta, theta)


def score(
    noise: Noise, kernels: Sequence[Float64s], rest: Float64s, spread: Float64s, inverse: Float64s
) -> Noise:
    """Take in one window's residuals ``rest``; ``inverse`` is of ``S = V + spread``.

    ``F_ij = 1/2 tr(S^-1 K_i S^-1 K_j)`` and
    ``s_i = 1/2 (r' S^-1 K_i S^-1 r - tr(S^-1 K_i S^-1 Z P Z'))``.
    """
    weighted = inverse @ rest
    products = [inverse @ k for k in kernels]
    around = inverse @ spread
    matrix = np.empty((NOISE_TERMS, NOISE_TERMS))
    vector = np.empty(NOISE_TERMS)
    for i, one in enumerate(products):
        for j in range(i + 1):
            matrix[i, j] = matrix[j, i] = 0.5 * float(np.sum(one * products[j].T))
        fit = float(weighted @ kernels[i] @ weighted)
        vector[i] = 0.5 * (fit - float(np.sum(one * around.T)))
    matrix = FORGET * noise.matrix + matrix
    vector = FORGET * noise.vector + vector
    excess = float(rest @ weighted) / max(len(rest), 1)
    excess = FORGET * noise.excess + (1.0 - FORGET) * min(excess, MOST_EXCESS)
    weight = FORGET * noise.weight + 1.0
    theta = _solve(matrix, vector, noise.start, PULL / weight)
    return Noise(theta, noise.start, matrix, vector, excess, weight)


def _solve(matrix: Float64s, vector: Float64s, guess: Float64s, pull: float) -> Float64s:
    """Solve ``matrix theta = vector`` for non-negative variances, pulled a little to the guess.

    Columns are scaled to one diagonal, so no unit decides.  Five unknowns: every set of zeros
    is tried, all at once.
    """
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale[None, :]
    scaled[np.diag_indices(NOISE_TERMS)] += pull
    wanted = vector * scale + pull * guess / scale
    inside = CHOICES[:, :, None] & CHOICES[:, None, :]
    systems = np.where(inside, scaled, np.eye(NOISE_TERMS))
    sides = np.where(CHOICES, wanted, 0.0)
    found = np.linalg.solve(systems, sides[:, :, None])[:, :, 0]
    value = np.where((found >= 0.0).all(axis=1), -0.5 * np.sum(sides * found, axis=1), np.inf)
    result: Float64s = found[int(np.argmin(value))] * scale
    return result

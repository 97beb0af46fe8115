"""What is known of a machine's late meter and its prompt parts: candidates, priors, growth.

A candidate is a kernel (lag and averaging) with a delay; candidates lie kernel by kernel, delay by
delay.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from tychod.analysis.bank_features import DELAYS_S, Kernel
from tychod.analysis.learned import Float64s

KERNELS: Final[tuple[Kernel, ...]] = ((0.0, 1.0), (0.5, 1.0), (1.0, 1.0))
"""A mean over a second, with a lag up to one: what most BMCs show."""
CALIBRATION: Final[tuple[Kernel, ...]] = (
    *KERNELS,
    *((2.0, 1.0), (0.0, 0.1), (0.0, 2.0), (0.0, 5.0), (0.0, 10.0), (0.0, 30.0), (0.0, 60.0)),
)
"""Also what others show: a mean over ten seconds taken for one of a second ruins everything."""
START_DELAY_S: Final = 1.0
COEFFICIENT, COEFFICIENT_SD = 1.05, 0.07
"""Of a power supply and the converters after it."""
BASE_SD_W: Final = 100.0
NOISE_START: Final = 4.0
EVIDENCE_FLOOR: Final = -25.0
"""Nats behind the best; what is there may come back."""
LAG_SPREAD_S, UNUSUAL = 0.7, 1.0
AGREED: Final = 2
"""So many readings that fit together say where the base is; one alone may be off."""
KERNELS_KEPT, KERNELS_AFTER, KERNELS_BEHIND = 3, 30, 10.0


def _none() -> Float64s:
    return np.zeros((0, 0))


@dataclass(frozen=True)
class Bank:
    """All candidates, kernel by kernel and delay by delay; never changed in place."""

    parts: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    theta: Float64s  # (parts + 1, candidates) coefficients and the base in watts
    cov: Float64s  # (parts + 1, parts + 1, candidates)
    evidence: Float64s  # (candidates,) log-likelihood less that of the best
    applied: int  # the candidate in use
    noise_w2: float = NOISE_START  # variance of a reading
    half_s: float = 0.0  # of the stamps, lately
    is_placed: bool = False  # the base is known for these parts
    is_ready: bool = False  # it has been sure enough once
    last_ns: int = 0  # of the last reading that counted
    last_w: float = math.nan
    shown_w: Float64s = field(default_factory=_none)  # (parts, candidates) when it appeared
    repeats: int = 0  # readings in a row that cannot be new
    misses: int = 0  # readings in a row that no candidate expected
    agreed: int = 0  # readings that fit together since the base was looked for, up to AGREED
    readings: int = 0
    rejected: int = 0
    judged: tuple[int, ...] = ()  # by kernel: readings that the history reached back for


def fresh(parts: tuple[str, ...], base_w: float, kernels: tuple[Kernel, ...] = CALIBRATION) -> Bank:
    """Return a bank that knows nothing; ``kernels``: all that the meter may show."""
    count, size = len(kernels) * len(DELAYS_S), len(parts) + 1
    theta = np.full((size, count), COEFFICIENT)
    theta[-1] = max(base_w, 0.0)
    first = kernels.index(KERNELS[0]) if KERNELS[0] in kernels else 0
    applied = first * len(DELAYS_S) + int(np.argmin(np.abs(DELAYS_S - START_DELAY_S)))
    cov, evidence, judged = _prior_cov(size, count), np.zeros(count), (0,) * len(kernels)
    return Bank(parts, kernels, theta, cov, evidence, applied, judged=judged)


def _prior_cov(size: int, count: int) -> Float64s:
    cov = np.zeros((size, size, count))
    cov[range(size), range(size)] = COEFFICIENT_SD**2
    cov[-1, -1] = BASE_SD_W**2
    return cov


def with_parts(bank: Bank, parts: tuple[str, ...]) -> Bank:
    """Return a bank for other parts, with what is known of the delay and of the parts in both.

    The next reading says what the base is now: what no part explains any more is in it.
    """
    if parts == bank.parts:
        return bank
    count, size = len(bank.evidence), len(parts) + 1
    theta, cov = np.full((size, count), COEFFICIENT), _prior_cov(size, count)
    theta[-1] = bank.theta[-1]
    both = [name for name in parts if name in bank.parts]
    new, old = [parts.index(name) for name in both], [bank.parts.index(name) for name in both]
    theta[new] = bank.theta[old]
    cov[np.ix_(new, new)] = bank.cov[np.ix_(old, old)]
    return unplaced(replace(bank, parts=parts, theta=theta, cov=cov))


def unplaced(bank: Bank) -> Bank:
    """Return the bank as it is when the base is no longer known, nor what the meter last showed."""
    return replace(
        bank,
        is_placed=False,
        last_w=math.nan,
        shown_w=np.zeros((0, 0)),
        repeats=0,
        misses=0,
        agreed=0,
    )


def shifted(bank: Bank, by_w: float) -> Bank:
    """Return the bank with another base, watts higher; none goes below 0."""
    theta = bank.theta.copy()
    theta[-1] = np.maximum(theta[-1] + by_w, 0.0)
    return replace(bank, theta=theta)


def unread(bank: Bank, part: str, power_w: float) -> Bank:
    """Return the bank when some of a part's power, watts, is in the base from now on; or was."""
    theta = bank.theta.copy()
    more = theta[bank.parts.index(part)] * power_w
    theta[-1] = np.maximum(theta[-1] + more, 0.0)
    return replace(bank, theta=theta)


def kernels_of(average_s: float) -> tuple[Kernel, ...]:
    """Return what a meter may show whose averaging time is known (seconds); 0: it is not."""
    if average_s <= 0.0:
        return CALIBRATION
    nearest = min((b for _, b in CALIBRATION), key=lambda b: abs(math.log(b / average_s)))
    return tuple(kernel for kernel in CALIBRATION if kernel[1] == nearest)


def log_prior(kernels: tuple[Kernel, ...]) -> Float64s:
    """Return how likely each candidate is beforehand, as a logarithm."""
    each = [-0.5 * (lag / LAG_SPREAD_S) ** 2 - UNUSUAL * (boxcar != 1.0) for lag, boxcar in kernels]
    return np.repeat(each, len(DELAYS_S))


def narrowed(bank: Bank) -> Bank:
    """Drop the kernels that the data have ruled out, which cost time and can no longer win."""
    if len(bank.kernels) <= KERNELS_KEPT or min(bank.judged) < KERNELS_AFTER:
        return bank
    score = (bank.evidence + log_prior(bank.kernels)).reshape(len(bank.kernels), -1).max(axis=1)
    used = bank.applied // len(DELAYS_S)
    near = [_unlike(kernel, bank.kernels[used]) for kernel in bank.kernels]
    order = np.lexsort((near, -score, np.arange(len(near)) != used))
    if score[order[KERNELS_KEPT]] > score[used] - KERNELS_BEHIND:
        return bank
    kept = np.sort(order[:KERNELS_KEPT])
    at = (kept[:, None] * len(DELAYS_S) + np.arange(len(DELAYS_S))).ravel()
    return replace(
        bank,
        kernels=tuple(bank.kernels[i] for i in kept),
        judged=tuple(bank.judged[i] for i in kept),
        theta=bank.theta[:, at],
        cov=bank.cov[:, :, at],
        evidence=bank.evidence[at],
        shown_w=bank.shown_w[:, at],
        applied=int(np.flatnonzero(at == bank.applied)[0]),
    )


def _unlike(one: Kernel, other: Kernel) -> float:
    return abs(math.log(one[1] / other[1])) + abs(one[0] - other[0])

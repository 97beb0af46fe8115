"""One small Kalman filter for every candidate, all at once: what a reading changes in them.

Each has a coefficient for every part and the base for its state.  The meter's noise has long tails,
and the parts are not all there is in a machine, so that no single reading decides anything.
"""

import math
from typing import Final, NamedTuple

import numpy as np

from tychod.analysis.bank_features import Seen
from tychod.analysis.bank_state import BASE_SD_W, COEFFICIENT_SD, EVIDENCE_FLOOR
from tychod.analysis.learned import Float64s

COEFFICIENT_WALK: Final = 1e-4**2 / 2.0
BASE_WALK: Final = 2.5**2 / 2.0
"""Variance that a second adds (W^2): the base may move by 2.5 W from one reading to the next.

Less follows the load that nobody measures too slowly, more follows the readings' own noise.
"""
UNREAD_WALK: Final = 20.0**2
"""While a part that is usually read is not: its power is in the base, and steps as it does."""
NOISE_LEAST, NOISE_GAIN, NOISE_MOST_MOVE = 0.3, 0.02, 9.0
FORGET_S: Final = 600.0
"""Evidence for a delay is forgotten: without load steps nothing new says that it is still so."""
ROBUST_ALL, ROBUST_OWN, STUDENT = 3.0, 4.0, 4.0
JUMP_AFTER, JUMP_GAIN = 3, 0.7
TINY: Final = 1e-12


class Filters(NamedTuple):
    """What the candidates know; see ``Bank``."""

    theta: Float64s  # (parts + 1, candidates)
    cov: Float64s  # (parts + 1, parts + 1, candidates)
    evidence: Float64s  # (candidates,)


class Meter(NamedTuple):
    """What is known of the readings themselves."""

    half_s: float  # of this reading's stamp
    noise_w2: float
    misses: int  # readings in a row that no candidate expected


class _Judged(NamedTuple):
    """One reading as each candidate sees it."""

    rest: Float64s  # what it did not expect
    px: Float64s  # (parts + 1, candidates)
    xpx: Float64s
    noise: Float64s  # variance of the reading itself
    z: Float64s  # rest squared, in units of its variance


def placed(filters: Filters, found: Seen, power_w: float) -> Filters:
    """Set the base so that each candidate expects this reading."""
    theta, cov = filters.theta.copy(), filters.cov.copy()
    theta[-1] = np.maximum(power_w - np.sum(theta[:-1] * found.parts_w, axis=0), 0.0)
    cov[-1], cov[:, -1] = 0.0, 0.0
    cov[-1, -1] = BASE_SD_W**2
    return filters._replace(theta=theta, cov=cov)


def aged(filters: Filters, seconds: float, base_walk: float = BASE_WALK) -> Filters:
    """Let time pass: all gets a little less sure, but never less than nothing known.

    A time that is not above 0 is between the clocks of two boots: it has been a while.
    """
    seconds = seconds if seconds > 0.0 else FORGET_S
    cov = filters.cov.copy()
    base = len(cov) - 1
    for i in range(base):
        cov[i, i] += _walk(cov[i, i], COEFFICIENT_WALK * seconds, 2.0 * COEFFICIENT_SD**2)
    cov[base, base] += _walk(cov[base, base], base_walk * seconds, BASE_SD_W**2)
    return filters._replace(cov=cov, evidence=filters.evidence * math.exp(-seconds / FORGET_S))


def _walk(var: Float64s, more: float, most: float) -> Float64s:
    found: Float64s = np.minimum(np.maximum(most - var, 0.0), more)
    return found


def corrected(
    filters: Filters, found: Seen, meter: Meter, beforehand: Float64s, power_w: float
) -> tuple[Filters, Meter]:
    """Let the reading correct every candidate and speak for or against it.

    ``beforehand``: how likely each candidate is without any reading, as a logarithm.
    """
    judged = _judge(filters, found, meter, power_w)
    best = int(np.argmin(np.where(found.covered, judged.z, np.inf)))
    misses = meter.misses + 1 if judged.z[best] > ROBUST_ALL**2 else 0
    if misses >= JUMP_AFTER:  # fans, disks, a card that nobody reads
        cov, misses = filters.cov.copy(), 0
        cov[-1, -1] += (JUMP_GAIN * judged.rest[best]) ** 2
        filters = filters._replace(cov=cov)
        judged = _judge(filters, found, meter, power_w)
    # What the best candidate finds odd is odd; a wrong one in use must not veto the evidence.
    weight = _robust(ROBUST_ALL, float(judged.z[found.covered].min()))
    evidence = filters.evidence + weight * _likely(judged)
    evidence -= evidence[found.covered].max()
    evidence = np.where(found.covered, np.maximum(evidence, EVIDENCE_FLOOR), EVIDENCE_FLOOR)
    noise = _noise(meter.noise_w2, judged, int(np.argmax(evidence + beforehand)))
    filters = _moved(filters, judged, weight)._replace(evidence=evidence)
    return filters, meter._replace(noise_w2=noise, misses=misses)


def _judge(filters: Filters, found: Seen, meter: Meter, power_w: float) -> _Judged:
    x = np.ones_like(filters.theta)
    x[:-1] = found.parts_w
    rest = power_w - (x * filters.theta).sum(axis=0)
    px = (filters.cov * x).sum(axis=1)
    xpx = np.maximum((px * x).sum(axis=0), 0.0)
    slope = (found.slope_w_s * filters.theta[:-1]).sum(axis=0)
    noise = meter.noise_w2 + meter.half_s**2 / 3.0 * slope**2
    return _Judged(rest, px, xpx, noise, rest**2 / (xpx + noise))


def _robust(limit: float, z: float) -> float:
    return min(1.0, limit / math.sqrt(max(z, TINY)))


def _likely(judged: _Judged) -> Float64s:
    """Return each candidate's log-likelihood with Student's tails."""
    tails = 0.5 * (STUDENT + 1.0) * np.log1p(judged.z / STUDENT)
    found: Float64s = -0.5 * np.log(judged.xpx + judged.noise) - tails
    return found


def _moved(filters: Filters, judged: _Judged, weight: float) -> Filters:
    """Correct every candidate as far as it may believe the reading; none goes below 0."""
    own = weight * np.minimum(1.0, ROBUST_OWN / np.sqrt(np.maximum(judged.z, TINY)))
    total = judged.xpx + judged.noise / own**2
    theta = filters.theta + judged.px * (judged.rest / total)
    cov = filters.cov - judged.px[:, None] * judged.px / total
    for i in range(len(theta)):
        if theta[i].min() < 0.0:  # move to 0, and what depends on it with it
            low = np.minimum(theta[i], 0.0) / np.maximum(cov[i, i], TINY)
            theta = theta - cov[:, i] * low
    return filters._replace(theta=np.maximum(theta, 0.0), cov=cov)


def _noise(noise_w2: float, judged: _Judged, at: int) -> float:
    """Return the readings' variance, moved towards what the best candidate left over."""
    square, known = float(judged.rest[at]) ** 2, float(judged.xpx[at])
    share = 1.0 - known / (known + float(judged.noise[at]))
    moved = min(square * share, NOISE_MOST_MOVE * noise_w2) - noise_w2
    return max(noise_w2 + NOISE_GAIN * moved, NOISE_LEAST)

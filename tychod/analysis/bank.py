"""Late, slow readings of the whole machine's power put together with its fast, prompt parts.

``machine = sum coefficient * part + base``.  A reading shows that some delay ago, through a lag
and averaged.  Each way to be late is a candidate with a small Kalman filter of its own over the
coefficients and the base; what it predicts badly becomes unlikely.  The base walks at random, which
is the anchor: it takes what the parts cannot explain, so that the fused power's integral is that
of the readings.  The likeliest candidate is applied, and only a much likelier one replaces it.
"""

import math
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from tychod.analysis.bank_features import (
    BIN_S,
    DELAYS_S,
    HISTORY_S,
    History,
    Seen,
    centroids,
    seen,
)
from tychod.analysis.bank_saved import from_plain, to_plain
from tychod.analysis.bank_state import (
    BASE_SD_W,
    CALIBRATION,
    COEFFICIENT_SD,
    EVIDENCE_FLOOR,
    KERNELS,
    Bank,
    fresh,
    log_prior,
    narrowed,
    with_parts,
)
from tychod.analysis.learned import Float64s

__all__ = [
    "BIN_S",
    "CALIBRATION",
    "HISTORY_S",
    "KERNELS",
    "Bank",
    "Fit",
    "History",
    "fit",
    "fresh",
    "from_plain",
    "fused_w",
    "take",
    "to_plain",
    "with_parts",
]

COEFFICIENT_WALK: Final = 1e-4**2 / 2.0
BASE_WALK: Final = 2.0**2 / 2.0
"""Variance that a second adds (W^2): the base may move by 2 W from one reading to the next."""
NOISE_LEAST, NOISE_GAIN = 0.3, 0.02
FORGET_S: Final = 600.0
"""Evidence for a delay is forgotten: without load steps nothing new says that it is still so."""
RESET_AFTER: Final = 20
HYSTERESIS: Final = 3.0
ROBUST_ALL, ROBUST_OWN, STUDENT = 3.0, 4.0, 4.0
JUMP_AFTER, JUMP_GAIN = 3, 0.7
STUCK_SIGMA, STUCK_REACH, STUCK_AFTER = 4.0, 10.0, 3
READY_AFTER, READY_SD_S, READY_BOXCAR_S = 5, 0.5, 10.0
OTHER_CLOCK_NS: Final = 60_000_000_000
"""A reading so much before the last is by the clock of another boot."""
MOST_W: Final = 1e6
BEND_LEAST: Final = 1.0
"""Nats: where the neighbours are about as likely, nothing is said of the place between them."""
HALF_GAIN: Final = 0.05
SHORT_S: Final = 2.0
"""Averages up to here must all be covered by the history before a reading counts."""
TINY: Final = 1e-12


class Fit(NamedTuple):
    """What is known now; a standard deviation for whatever is estimated."""

    centroid_s: float  # delay + lag + half of the averaging: what the data can tell
    centroid_sd_s: float
    delay_s: float
    lag_s: float
    boxcar_s: float
    base_w: float
    base_sd_w: float
    coefficients: tuple[float, ...]
    coefficient_sd: tuple[float, ...]
    is_ready: bool
    is_stuck: bool
    readings: int
    rejected: int


class _Judged(NamedTuple):
    """One reading as each candidate sees it."""

    x: Float64s  # (parts + 1, candidates)
    rest: Float64s  # what it did not expect
    px: Float64s  # (parts + 1, candidates)
    xpx: Float64s
    noise: Float64s  # variance of the reading itself
    z: Float64s  # rest squared, in units of its variance


def take(bank: Bank, history: History, t_ns: int, half_ns: int, power_w: float) -> Bank:
    """Take in one reading, which was published within ``half_ns`` of ``t_ns``."""
    found = None if _is_late(bank, t_ns) else seen(history, t_ns, bank.kernels)
    if found is None or not _is_usable(bank, found) or not 0.0 <= power_w <= MOST_W:
        return replace(bank, rejected=bank.rejected + 1)
    if _is_repeated(bank, found, power_w):
        return replace(bank, rejected=bank.rejected + 1, repeats=bank.repeats + 1)
    if power_w != bank.last_w:
        bank = replace(bank, last_w=power_w, shown_w=found.parts_w, repeats=0)
    if not bank.is_placed:
        bank = _placed(bank, found, power_w)
    half_s = half_ns / 1e9
    step = HALF_GAIN if bank.readings else 1.0
    bank = _aged(bank, t_ns)
    bank = replace(bank, half_s=bank.half_s + step * (half_s - bank.half_s))
    bank = _settled(_corrected(bank, found, half_s, power_w), found)
    whole = np.all(found.covered.reshape(len(bank.kernels), -1), axis=1)
    judged = tuple((np.array(bank.judged) + whole).tolist())
    bank = replace(bank, last_ns=t_ns, readings=bank.readings + 1, judged=judged)
    return narrowed(replace(bank, is_ready=bank.is_ready or _is_sure(bank)))


def _is_late(bank: Bank, t_ns: int) -> bool:
    return bank.last_ns - OTHER_CLOCK_NS < t_ns <= bank.last_ns


def _is_usable(bank: Bank, found: Seen) -> bool:
    """Whether what is judged now is judged alike: only the long averages may have to wait."""
    short = np.repeat([boxcar <= SHORT_S for _, boxcar in bank.kernels], len(DELAYS_S))
    is_covered = bool(found.covered[short].all() and found.covered[bank.applied])
    return is_covered and bool(np.isfinite(found.parts_w).all())


def _is_repeated(bank: Bank, found: Seen, power_w: float) -> bool:
    """Whether this cannot be a new reading: the parts moved, and it is the same to the last digit.

    A BMC may show an old value with fresh stamps.  All candidates that are any good must agree.
    """
    if power_w != bank.last_w or bank.shown_w.shape != found.parts_w.shape:
        return False
    if bank.repeats >= STUCK_AFTER:
        return True
    moved = np.abs(np.sum((found.parts_w - bank.shown_w) * bank.theta[:-1], axis=0))
    good = bank.evidence > -STUCK_REACH
    return bool((moved[good] > STUCK_SIGMA * math.sqrt(2.0 * bank.noise_w2)).all())


def _placed(bank: Bank, found: Seen, power_w: float) -> Bank:
    """Set the base so that each candidate expects this reading."""
    theta, cov = bank.theta.copy(), bank.cov.copy()
    theta[-1] = np.maximum(power_w - np.sum(theta[:-1] * found.parts_w, axis=0), 0.0)
    cov[-1], cov[:, -1] = 0.0, 0.0
    cov[-1, -1] = BASE_SD_W**2
    return replace(bank, theta=theta, cov=cov, is_placed=True)


def _aged(bank: Bank, t_ns: int) -> Bank:
    """Let time pass: all gets a little less sure, but never less than nothing known."""
    if not bank.last_ns:
        return bank
    dt = (t_ns - bank.last_ns) / 1e9
    dt = dt if dt > 0.0 else FORGET_S  # the time of another boot: it has been a while
    cov = bank.cov.copy()
    for i in range(len(cov)):
        walk, most = COEFFICIENT_WALK, 2.0 * COEFFICIENT_SD**2
        if i == len(cov) - 1:
            walk, most = BASE_WALK, BASE_SD_W**2
        cov[i, i] += np.clip(most - cov[i, i], 0.0, walk * dt)
    return replace(bank, cov=cov, evidence=bank.evidence * math.exp(-dt / FORGET_S))


def _corrected(bank: Bank, found: Seen, half_s: float, power_w: float) -> Bank:
    """Let the reading correct every candidate and speak for or against it."""
    judged = _judge(bank, found, half_s, power_w)
    best = int(np.argmin(np.where(found.covered, judged.z, np.inf)))
    misses = bank.misses + 1 if judged.z[best] > ROBUST_ALL**2 else 0
    if misses >= JUMP_AFTER:  # fans, disks, a card that nobody reads
        cov = bank.cov.copy()
        cov[-1, -1] = cov[-1, -1] + (JUMP_GAIN * judged.rest[best]) ** 2
        bank, misses = replace(bank, cov=cov), 0
        judged = _judge(bank, found, half_s, power_w)
    rest, z = judged.rest, judged.z
    # What the best candidate finds odd is odd; a wrong one in use must not veto the evidence.
    weight = _robust(ROBUST_ALL, float(z[found.covered].min()))
    likely = -0.5 * np.log(judged.xpx + judged.noise) - 0.5 * (STUDENT + 1.0) * np.log1p(
        z / STUDENT
    )
    evidence = bank.evidence + np.where(found.covered, weight * likely, 0.0)
    evidence -= evidence[found.covered].max()
    evidence = np.where(found.covered, np.maximum(evidence, EVIDENCE_FLOOR), EVIDENCE_FLOOR)
    own = weight * np.minimum(1.0, ROBUST_OWN / np.sqrt(np.maximum(z, TINY)))
    total = judged.xpx + judged.noise / own**2
    theta = bank.theta + judged.px * (rest / total)
    cov = bank.cov - judged.px[:, None] * judged.px[None] / total
    first = int(np.argmax(evidence + log_prior(bank.kernels)))
    noise = _noise(bank.noise_w2, judged, first)
    theta = np.where(found.covered, theta, bank.theta)
    cov = np.where(found.covered, cov, bank.cov)
    return replace(bank, theta=theta, cov=cov, evidence=evidence, noise_w2=noise, misses=misses)


def _judge(bank: Bank, found: Seen, half_s: float, power_w: float) -> _Judged:
    x = np.concatenate([found.parts_w, np.ones((1, found.parts_w.shape[1]))])
    rest = power_w - np.sum(x * bank.theta, axis=0)
    px = np.sum(bank.cov * x[None], axis=1)
    xpx = np.maximum(np.sum(px * x, axis=0), 0.0)
    slope = np.sum(found.slope_w_s * bank.theta[:-1], axis=0)
    noise = bank.noise_w2 + half_s**2 / 3.0 * slope**2
    return _Judged(x, rest, px, xpx, noise, rest**2 / (xpx + noise))


def _robust(limit: float, z: float) -> float:
    return min(1.0, limit / math.sqrt(max(z, TINY)))


def _noise(noise_w2: float, judged: _Judged, at: int) -> float:
    """Return the readings' variance, moved towards what the best candidate left over."""
    square, known = float(judged.rest[at]) ** 2, float(judged.xpx[at])
    share = 1.0 - known / (known + float(judged.noise[at]))
    moved = min(square * share, 9.0 * noise_w2) - noise_w2
    return max(noise_w2 + NOISE_GAIN * moved, NOISE_LEAST)


def _settled(bank: Bank, found: Seen) -> Bank:
    """Keep all possible, choose the candidate to apply, and let the hopeless begin anew from it."""
    bank = _possible(bank)
    score = np.where(found.covered, bank.evidence + log_prior(bank.kernels), -np.inf)
    applied = int(np.argmax(score))
    if score[applied] < score[bank.applied] + HYSTERESIS:
        applied = bank.applied
    lost = ~found.covered
    if bank.readings >= RESET_AFTER:
        lost |= bank.evidence <= EVIDENCE_FLOOR
    theta = np.where(lost, bank.theta[:, applied : applied + 1], bank.theta)
    cov = np.where(lost, bank.cov[:, :, applied : applied + 1], bank.cov)
    return replace(bank, theta=theta, cov=cov, applied=applied)


def _possible(bank: Bank) -> Bank:
    """Move a coefficient or base below 0 to 0, and what depends on it with it."""
    theta = bank.theta
    for i in range(len(theta)):
        low = theta[i] < 0.0
        if low.any():
            pull = np.where(low, theta[i] / np.maximum(bank.cov[i, i], TINY), 0.0)
            theta = theta - bank.cov[:, i] * pull
    return bank if theta is bank.theta else replace(bank, theta=np.maximum(theta, 0.0))


def _is_sure(bank: Bank) -> bool:
    """Whether it may be used; averages over more than ten seconds are not waited for.

    Where the meter has one, to hold its readings is no better than what is wrong until then.
    """
    counts = zip(bank.kernels, bank.judged, strict=True)
    enough = all(n >= READY_AFTER for (_, boxcar), n in counts if boxcar <= READY_BOXCAR_S)
    return enough and _centroid(bank)[1] < READY_SD_S


def _centroid(bank: Bank) -> tuple[float, float]:
    """Return the delay's centroid and its standard deviation, seconds.

    The grid and the stamps are not in the candidates' spread, so they are added.
    """
    score = bank.evidence + log_prior(bank.kernels)
    share = np.exp(score - score.max())
    share /= share.sum()
    centroid = centroids(bank.kernels)
    mean = float(np.sum(share * centroid))
    grid = float(DELAYS_S[1] - DELAYS_S[0])
    var = float(np.sum(share * (centroid - mean) ** 2)) + grid**2 / 12.0 + bank.half_s**2 / 3.0
    at = float(centroid[bank.applied]) + _between(score, bank.applied) * grid
    return at, math.sqrt(var)


def _between(score: Float64s, at: int) -> float:
    """Return where between its neighbours a candidate's score would be highest, in grid steps."""
    if not 0 < at % len(DELAYS_S) < len(DELAYS_S) - 1:
        return 0.0
    below, here, above = (float(score[at + i]) for i in (-1, 0, 1))
    bend = min(below - 2.0 * here + above, 0.0) - BEND_LEAST
    return min(max(0.5 * (below - above) / bend, -0.5), 0.5)


def fused_w(bank: Bank, power_w: Float64s) -> Float64s:
    """Return the machine's power from that of its parts, shape (parts, n), watts."""
    theta = bank.theta[:, bank.applied]
    found: Float64s = np.maximum(np.sum(theta[:-1, None] * power_w, axis=0) + theta[-1], 0.0)
    return found


def fit(bank: Bank) -> Fit:
    """Return what is known now."""
    (lag, boxcar), at = bank.kernels[bank.applied // len(DELAYS_S)], bank.applied
    centroid, centroid_sd = _centroid(bank)
    sd = [math.sqrt(max(float(bank.cov[i, i, at]), 0.0)) for i in range(len(bank.theta))]
    theta = bank.theta[:, at].tolist()
    return Fit(
        centroid_s=centroid,
        centroid_sd_s=centroid_sd,
        delay_s=max(centroid - lag - boxcar / 2.0, 0.0),
        lag_s=lag,
        boxcar_s=boxcar,
        base_w=theta[-1],
        base_sd_w=sd[-1],
        coefficients=tuple(theta[:-1]),
        coefficient_sd=tuple(sd[:-1]),
        is_ready=bank.is_ready and bank.is_placed,
        is_stuck=bank.repeats >= STUCK_AFTER,
        readings=bank.readings,
        rejected=bank.rejected,
    )

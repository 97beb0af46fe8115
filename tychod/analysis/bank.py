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
    Kernel,
    Seen,
    centroids,
    seen,
)
from tychod.analysis.bank_filters import (
    BASE_WALK,
    UNREAD_WALK,
    Filters,
    Meter,
    aged,
    corrected,
    placed,
)
from tychod.analysis.bank_saved import from_plain, to_plain
from tychod.analysis.bank_state import (
    AGREED,
    CALIBRATION,
    EVIDENCE_FLOOR,
    KERNELS,
    Bank,
    fresh,
    kernels_of,
    log_prior,
    narrowed,
    shifted,
    unplaced,
    unread,
    with_parts,
)
from tychod.analysis.learned import Float64s

__all__ = [
    "BASE_WALK",
    "BIN_S",
    "CALIBRATION",
    "HISTORY_S",
    "KERNELS",
    "READY_AFTER",
    "READY_SD_S",
    "UNREAD_WALK",
    "Bank",
    "Fit",
    "History",
    "doubt_w",
    "fit",
    "fresh",
    "from_plain",
    "fused_w",
    "is_settled",
    "kernels_of",
    "shifted",
    "take",
    "to_plain",
    "unplaced",
    "unread",
    "with_parts",
]

RESET_AFTER: Final = 20
HYSTERESIS, BLUNT_HYSTERESIS = 4.0, 8.0
"""Nats: only so much likelier a candidate replaces the one in use."""
SHARP_S: Final = 0.3
"""Standard deviation of the centroid below which the data say something of it."""
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
    judged: int = 0  # readings with which all averages that are waited for were judged


def take(
    bank: Bank,
    history: History,
    t_ns: int,
    half_ns: int,
    power_w: float,
    *,
    is_unread: bool = False,
) -> Bank:
    """Take in one reading, which was published within ``half_ns`` of ``t_ns``.

    ``is_unread``: a part is not in the history now, and so in the base.  A reading for which the
    history does not reach back far enough changes nothing.
    """
    if _is_late(bank, t_ns) or not 0.0 <= power_w <= MOST_W:
        return replace(bank, rejected=bank.rejected + 1)
    found = seen(history, t_ns, bank.kernels)
    is_whole = found is not None and _is_whole(bank, found)
    if found is None or not (is_whole or _says_the_base(bank, found)):
        return bank
    judged = _counted(bank, found)
    found = found if is_whole else _as_applied(found, bank.applied)
    if _is_repeated(bank, found, power_w):
        return replace(bank, rejected=bank.rejected + 1, repeats=bank.repeats + 1)
    before = _aged(bank, t_ns, is_unread=is_unread)
    bank = replace(
        _shown(bank, before, found, half_ns / 1e9, power_w, is_whole=is_whole),
        is_placed=True,
        last_ns=t_ns,
        last_w=power_w,
        shown_w=bank.shown_w if power_w == bank.last_w else found.parts_w,
        repeats=0,
        readings=bank.readings + 1,
        judged=judged,
    )
    if not bank.is_ready and _is_sure(bank):
        bank = replace(bank, is_ready=True)
    return narrowed(bank)


def _shown(
    bank: Bank, before: Filters, found: Seen, half_s: float, power_w: float, *, is_whole: bool
) -> Bank:
    """Return the bank with its candidates corrected, and another in use if it is likelier."""
    told = Meter(half_s, bank.noise_w2, bank.misses)
    filters, meter, agreed = _corrected(bank, before, found, told, power_w)
    if not is_whole:
        filters = filters._replace(evidence=before.evidence)
    (theta, cov, evidence), applied = _settled(bank, found, filters)
    return replace(
        bank,
        theta=theta,
        cov=cov,
        evidence=evidence,
        applied=applied,
        noise_w2=meter.noise_w2,
        misses=meter.misses,
        half_s=_followed(bank, meter.half_s),
        agreed=agreed,
    )


def _aged(bank: Bank, t_ns: int, *, is_unread: bool) -> Filters:
    found = Filters(bank.theta, bank.cov, bank.evidence)
    walk = UNREAD_WALK if is_unread else BASE_WALK
    return aged(found, (t_ns - bank.last_ns) / 1e9, walk) if bank.last_ns else found


def _corrected(
    bank: Bank, before: Filters, found: Seen, told: Meter, power_w: float
) -> tuple[Filters, Meter, int]:
    """Return what the reading changes, and how many fit together now.

    The first reading says where the base is; one that does not fit to it says so anew.
    """
    likely = log_prior(bank.kernels)
    if bank.is_placed:
        filters, meter = corrected(before, found, told, likely, power_w)
        if bank.agreed >= AGREED:
            return filters, meter, bank.agreed
        if meter.misses <= told.misses:
            return filters, meter, bank.agreed + 1
    filters, meter = corrected(placed(before, found, power_w), found, told, likely, power_w)
    return filters, meter, 1


def _followed(bank: Bank, half_s: float) -> float:
    """Return the stamps' half width as it is lately."""
    return bank.half_s + (HALF_GAIN if bank.readings else 1.0) * (half_s - bank.half_s)


def _counted(bank: Bank, found: Seen) -> tuple[int, ...]:
    """Return how often each kernel has been judged at every delay."""
    whole = np.all(found.covered.reshape(len(bank.kernels), -1), axis=1).tolist()
    return tuple(n + int(is_whole) for n, is_whole in zip(bank.judged, whole, strict=True))


def _is_late(bank: Bank, t_ns: int) -> bool:
    return bank.last_ns - OTHER_CLOCK_NS < t_ns <= bank.last_ns


def _is_whole(bank: Bank, found: Seen) -> bool:
    """Whether what is judged now is judged alike: only the long averages may have to wait."""
    short = np.repeat([boxcar <= SHORT_S for _, boxcar in bank.kernels], len(DELAYS_S))
    is_covered = bool(found.covered[short].all() and found.covered[bank.applied])
    return is_covered and bool(np.isfinite(found.parts_w).all())


def _says_the_base(bank: Bank, found: Seen) -> bool:
    """Whether the candidate in use can be corrected, though others cannot be compared to it.

    After a pause the base is not waited for as long as the longest delay would take.
    """
    is_known = bank.is_ready and bool(found.covered[bank.applied])
    return is_known and bool(np.isfinite(found.parts_w).all())


def _as_applied(found: Seen, applied: int) -> Seen:
    """Return the reading as if those that cannot tell had seen what the one in use did."""
    same = [np.where(found.covered, x, x[:, applied : applied + 1]) for x in found[:2]]
    return Seen(same[0], same[1], np.ones_like(found.covered))


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


def _settled(bank: Bank, found: Seen, filters: Filters) -> tuple[Filters, int]:
    """Choose the candidate to apply, and let the hopeless begin anew from it."""
    score = np.where(found.covered, filters.evidence + log_prior(bank.kernels), -np.inf)
    applied = int(np.argmax(score))
    if score[applied] < score[bank.applied] + _needed(score, bank.kernels):
        applied = bank.applied
    lost = ~found.covered
    if bank.readings >= RESET_AFTER:
        lost |= filters.evidence <= EVIDENCE_FLOOR
    theta = np.where(lost, filters.theta[:, applied : applied + 1], filters.theta)
    cov = np.where(lost, filters.cov[:, :, applied : applied + 1], filters.cov)
    return Filters(theta, cov, filters.evidence), applied


def _needed(score: Float64s, kernels: tuple[Kernel, ...]) -> float:
    """Return the lead that another candidate needs, in nats: more while the data say little.

    Without load steps all scores are close, and among so many one leads by chance now and then.
    """
    share = np.exp(score - score.max())
    share /= share.sum()
    centroid = centroids(kernels)
    mean = float(np.sum(share * centroid))
    spread_s = math.sqrt(max(float(np.sum(share * (centroid - mean) ** 2)), 0.0))
    return HYSTERESIS if spread_s < SHARP_S else BLUNT_HYSTERESIS


def _is_sure(bank: Bank) -> bool:
    """Whether it may be used; averages over more than ten seconds are not waited for.

    Where the meter has one, to hold its readings is no better than what is wrong until then.
    """
    return _judged(bank) >= READY_AFTER and _centroid(bank)[1] < READY_SD_S


def _judged(bank: Bank) -> int:
    """Return how many readings have spoken on all averages that are waited for."""
    counts = list(zip(bank.kernels, bank.judged, strict=True))
    waited = [n for (_, boxcar), n in counts if boxcar <= READY_BOXCAR_S]
    return min(waited or bank.judged)


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


def is_settled(bank: Bank) -> bool:
    """Whether the base is known as of more than one reading, since it was last looked for."""
    return bank.is_placed and bank.agreed >= AGREED


def doubt_w(bank: Bank, power_w: Float64s) -> float:
    """Return the standard deviation of ``fused_w`` for the parts' power, shape (parts,), watts."""
    x = np.append(power_w, 1.0)
    return math.sqrt(max(float(x @ bank.cov[:, :, bank.applied] @ x), 0.0))


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
        judged=_judged(bank),
    )

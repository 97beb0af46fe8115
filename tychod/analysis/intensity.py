"""Joules per CPU second of each workload, learned from how the energy of bins varies with who ran.

Per domain and row (a bin of one zone): ``y = idle dt + g(u) sum_w c_w x_w + noise``, with ``x_w``
the CPU seconds of workload ``w`` in that row, ``u`` the busy share of the zone's CPUs, ``g`` the
power curve of ``learned.curve_terms`` and ``c_w = mean + deviation_w``.  Recursive generalised
least squares in information form, one update a window, with forgetting; deviations have the
prior ``N(0, (tau mean)^2)`` whose ``tau`` follows from the data (MacKay 1992).  So where the data
tell nothing apart, workloads share the mean; idle power is a parameter beside the others, and
what a concave curve does is not taken for a workload's property.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tychod.analysis import noise as noises
from tychod.analysis.columns import (
    CURVE_GAIN,
    CURVE_WIDEST,
    IDLE_GUESS_SD,
    ROW_S,
    TAU_LEAST,
    TAU_MOST,
    Rows,
    deviation_var,
    loosened,
    prepared,
    prior,
)
from tychod.analysis.learned import Column, Float64s, Learned, curve_terms
from tychod.model import Window

SCORE_KEPT, SCORE_LIMIT, SCORE_MOST = 0.85, 4.0, 3
LEAST_RATE, MOST_OF_BIN = 0.05, 0.98
LEAST_ERROR: Final = 1e-3
"""No row's energy is known better than this, relative to the mean."""
TINY, FLOOR = 1e-15, 1e-12
IDLE_CAP: Final = 1.02
"""Idle power is at most this much of the lowest power of half a second."""
TWINS: Final = -0.6
"""Correlation of errors below which two workloads cannot be told apart."""
LEAST_SURE: Final = 0.05
"""The spread of intensities is believed once the data know about so many of them."""


class Estimate(NamedTuple):
    """What the model says of one window."""

    energy_j: Float64s  # (n, leaves) dynamic energy of each leaf in each row
    idle_w: Float64s  # (zones,)
    intensity: Float64s  # (leaves,) J per CPU second
    window_var: Float64s  # (leaves,) J^2, of the window's energy
    added_var: Float64s  # (leaves,) J^2, what it adds to that of the running total
    own: NDArray[np.bool_]  # (leaves,) has a column of its own
    surety: Float64s  # (leaves,) 0: its intensity is the prior's, 1: the data's alone
    row_sd_j: Float64s  # (n,) of a row in which nothing runs


class _Design(NamedTuple):
    """The linearised model at the last estimate."""

    z: Float64s  # (n, parameters)
    y: Float64s  # (n,)
    gx: Float64s  # (n, leaves) g(u) x
    at: NDArray[np.int64]  # (leaves,) position of its column, -1: none
    terms: Float64s


def learn(
    before: Learned, rows: Rows, leaves: Sequence[str], window: Window, *, own: bool = True
) -> tuple[Learned, Estimate]:
    """Take in one window and say how its energy splits; ``own``: with an intensity for each leaf.

    Raises ``LinAlgError`` or ``ArithmeticError`` where the numbers allow no solution.
    """
    now = prepared(before, rows, leaves, window.seconds, own=own)
    design = _design(now, rows, leaves)
    expected = design.gx * _rates(now, rows, design)
    each, _ = noises.wander(rows.t_s, rows.seconds, now.noise.theta)
    overlap = expected @ expected.T
    kernels = [np.diag(rows.seconds / ROW_S), *(overlap * r for r in each), rows.timing]
    unsettled = design.gx[:, design.at < 0]
    young = deviation_var(now) * (unsettled @ unsettled.T)
    rest = design.y - design.z @ now.beta
    with_z = design.z @ now.cov
    spread = with_z @ design.z.T + young
    inverse = _inverse(noises.total(kernels, now.noise.theta) + spread, rows)
    scored = noises.score(now.noise, kernels, rest, spread, inverse)
    past = (now.past @ design.z.T) @ (inverse @ with_z)
    np.subtract(now.past, past, out=past)  # in place: these are the large arrays
    now = _changed(replace(now, noise=scored, past=past), design, rest, inverse, leaves)
    v_inverse = _inverse(noises.total(kernels, scored.theta) + young, rows)
    weighted = v_inverse @ design.z
    info = design.z.T @ weighted
    info += now.info
    now = replace(
        now,
        info=info,
        vector=now.vector + weighted.T @ design.y,
        windows=now.windows + 1,
        updated_ns=window.end_ns,
    )
    return _estimate(_solved(now), rows, design, v_inverse)


def _inverse(v: Float64s, rows: Rows) -> Float64s:
    """Invert a covariance; a meter without any error is not believed.

    Otherwise a window that by chance shows no noise at all would decide for ever.
    """
    least = (LEAST_ERROR * float(np.mean(np.abs(rows.energy_j)))) ** 2
    v[np.diag_indices(len(v))] += max(least, TINY)
    found: Float64s = np.asarray(np.linalg.inv(v), np.float64)
    return found


def _design(now: Learned, rows: Rows, leaves: Sequence[str]) -> _Design:
    position = {leaf: now.fixed + i for i, leaf in enumerate(now.columns)}
    at = np.array([position.get(leaf, -1) for leaf in leaves], np.int64)
    terms = curve_terms(rows.busy)
    zones, mean_at = len(now.zones), now.mean_at
    a0 = now.beta[zones:mean_at]
    g = _curve(now, terms)
    gx = g[:, None] * rows.work_s
    design = _Design(np.zeros((len(g), len(now.beta))), rows.energy_j, gx, at, terms)
    flat = rows.work_s @ _rates(now, rows, design)  # as if the curve were flat
    z = design.z
    z[np.arange(len(g)), rows.zone] = rows.seconds
    z[:, zones:mean_at] = terms * flat[:, None]
    z[:, mean_at] = gx.sum(axis=1)
    z[:, mean_at + 1 : now.fixed] = gx @ rows.features
    z[:, at[at >= 0]] = gx[:, at >= 0]
    return design._replace(y=rows.energy_j + z[:, zones:mean_at] @ a0)


def _curve(now: Learned, terms: Float64s) -> Float64s:
    """Return the power of a CPU second in each row, relative to that at the reference."""
    found: Float64s = np.clip(1.0 + terms @ now.beta[len(now.zones) : now.mean_at], 0.2, 5.0)
    return found


def _rates(now: Learned, rows: Rows, design: _Design) -> Float64s:
    mean = max(now.beta[now.mean_at], 1e-9)
    own = np.where(design.at >= 0, now.beta[design.at], 0.0)
    own = own + rows.features @ now.beta[now.mean_at + 1 : now.fixed]
    rates: Float64s = np.maximum(mean + own, LEAST_RATE * mean)
    return rates


def _solved(now: Learned) -> Learned:
    """Solve for the parameters with the prior, keep them possible, and learn the prior's widths."""
    centre, precision = prior(now)
    full = now.info + 0.0
    full[np.diag_indices(len(full))] += precision
    cov = _scaled_inverse(full)
    beta = _possible(now, cov @ (now.vector + precision * centre), cov)
    beta[now.fixed :] = _twins_pooled(now, beta[now.fixed :], cov)
    curve = slice(len(now.zones), now.mean_at)
    expected = beta[curve] ** 2 + np.diag(cov)[curve]
    curve_var = now.curve_var + CURVE_GAIN * (expected - now.curve_var)
    own, tau = beta[now.fixed :], now.tau
    if len(own):
        sure = float(np.sum(1.0 - np.diag(cov)[now.fixed :] * precision[now.fixed :]))
        spread = math.sqrt(float(own @ own) / max(sure, 1e-3)) / float(beta[now.mean_at])
        tau = min(max(spread, TAU_LEAST), TAU_MOST) if sure > LEAST_SURE else tau
    before = max(float(now.beta[now.mean_at]), 1e-9)
    moved = abs(math.log(float(beta[now.mean_at]) / before))
    return replace(now, beta=beta, cov=cov, curve_var=curve_var, tau=tau, moved=moved)


def _twins_pooled(now: Learned, own: Float64s, cov: Float64s) -> Float64s:
    """Give workloads that always run together the same deviation, which keeps their sum.

    The prior alone would give more of it to the larger one, without any reason in the data.  Such
    a pair shows in the covariance: what one has more of, the other has less.
    """
    part = cov[now.fixed :, now.fixed :]
    sd = np.sqrt(np.diag(part))
    limit = np.outer(sd, sd)
    limit *= TWINS
    first, second = np.nonzero(part < limit)
    upper = first < second
    first, second = first[upper], second[upper]
    weight = np.sqrt(np.maximum(np.diag(now.info)[now.fixed :], 0.0))  # as their CPU time
    found = own.copy()
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        both = weight[i] + weight[j]
        if both > 0.0:
            found[[i, j]] = (weight[i] * found[i] + weight[j] * found[j]) / both
    return found


def _scaled_inverse(full: Float64s) -> Float64s:
    """Invert an information matrix whatever its units: a diagonal of 1 and a little more.

    ``full`` is used up.
    """
    if not (np.diag(full) > 0.0).all():
        raise ArithmeticError("an information matrix that is none")
    scale = 1.0 / np.sqrt(np.diag(full))
    both = np.outer(scale, scale)
    full *= both
    full[np.diag_indices(len(full))] += FLOOR
    one: Float64s = np.asarray(np.linalg.inv(full), np.float64)
    one *= both
    cov: Float64s = np.add(one, one.T, out=both)
    cov *= 0.5
    return cov


def _possible(now: Learned, beta: Float64s, cov: Float64s) -> Float64s:
    """Move parameters to the nearest possible ones, and what depends on them with them.

    Idle power is at least 0 and at most the lowest power seen; power per CPU second does not rise
    as a package fills up; the mean intensity is above 0.
    """
    count = len(now.zones)
    low = np.zeros(now.mean_at)
    high = np.concatenate([now.quiet_w * IDLE_CAP, np.full(now.mean_at - count, np.inf)])
    for _ in range(2):
        for i in range(now.mean_at):
            wanted = min(max(float(beta[i]), low[i]), high[i])
            if wanted != beta[i]:
                beta = beta - cov[:, i] * ((beta[i] - wanted) / cov[i, i])
    beta[:count] = np.clip(beta[:count], 0.0, high[:count])
    beta[count : now.mean_at] = np.maximum(beta[count : now.mean_at], 0.0)
    beta[now.mean_at] = max(float(beta[now.mean_at]), 1e-9)
    return beta


def _changed(
    now: Learned, design: _Design, rest: Float64s, inverse: Float64s, leaves: Sequence[str]
) -> Learned:
    """Notice workloads whose intensity has changed, and let the data decide anew about them."""
    weighted = inverse @ design.gx
    found = rest @ weighted
    variance = np.sum(design.gx * weighted, axis=0)
    columns = dict(now.columns)
    scores = []
    for leaf, s, var in zip(leaves, found.tolist(), variance.tolist(), strict=True):
        column = columns.get(leaf)
        if column is None:
            continue
        total = SCORE_KEPT * column.score + s
        total_var = SCORE_KEPT**2 * column.score_var + var
        columns[leaf] = Column(column.windows, column.absent, total, total_var)
        if total_var > 0.0 and abs(total) > SCORE_LIMIT * math.sqrt(total_var):
            scores.append((abs(total) / math.sqrt(total_var), leaf))
    if not scores:
        return replace(now, columns=columns)
    position = {leaf: now.fixed + i for i, leaf in enumerate(columns)}
    variances = {}
    for _, leaf in sorted(scores, reverse=True)[:SCORE_MOST]:
        variances[position[leaf]] = (0.5 * now.beta[now.mean_at]) ** 2
        columns[leaf] = columns[leaf]._replace(score=0.0, score_var=0.0)
    return replace(loosened(now, variances), columns=columns)


def _estimate(
    now: Learned, rows: Rows, design: _Design, v_inverse: Float64s
) -> tuple[Learned, Estimate]:
    zones = len(now.zones)
    g = _curve(now, design.terms)
    gx = g[:, None] * rows.work_s
    rates = _rates(now, rows, design)
    expected = gx * rates
    idle_w = now.beta[:zones]
    rest = rows.energy_j - idle_w[rows.zone] * rows.seconds - expected.sum(axis=1)
    pull = v_inverse @ rest
    _, r = noises.wander(rows.t_s, rows.seconds, now.noise.theta)
    more = expected * (r @ (expected * pull[:, None]))
    fresh = design.at < 0
    young_w = deviation_var(now)
    more[:, fresh] += young_w * gx[:, fresh] * (gx[:, fresh].T @ pull)
    energy = np.maximum(expected + more, LEAST_RATE * expected)
    total = energy.sum(axis=1)
    most = MOST_OF_BIN * np.maximum(rows.energy_j, 0.0)
    energy *= np.where(total > most, most / np.maximum(total, 1e-12), 1.0)[:, None]
    towards = expected * (r @ expected)
    spread = towards.sum(axis=0) - np.sum(towards * (v_inverse @ towards), axis=0)
    now, window_var, added_var = _doubts(
        now, rows, design, towards.T @ v_inverse, np.maximum(spread, 0.0)
    )
    return now, Estimate(
        energy,
        idle_w,
        rates,
        window_var,
        added_var,
        design.at >= 0,
        _surety(now, design),
        np.sqrt(now.noise.theta[0] * rows.seconds / ROW_S + np.diag(rows.timing)),
    )


def _surety(now: Learned, design: _Design) -> Float64s:
    """Return how much of the prior's doubt about each leaf the data have taken away.

    Compared are deviations from the mean of all: the mean itself and all deviations together may
    be in doubt, as by the idle power, and yet each told from the others.
    """
    own = now.cov[now.fixed :, now.fixed :]
    count = max(len(own), 1)
    if count == 1:
        return np.where(design.at >= 0, 1.0, 0.0)
    left = np.diag(own) - 2.0 * own.mean(axis=1) + own.mean()
    sure = np.clip(1.0 - left / (deviation_var(now) * (1.0 - 1.0 / count)), 0.0, 1.0)
    found: Float64s = np.where(design.at >= 0, sure[np.maximum(design.at - now.fixed, 0)], 0.0)
    return found


def _widened(now: Learned) -> Float64s:
    """Return the covariance if the curve were as free as it can be.

    Its prior is narrow, since a free curve and the idle power trade off; errors are not to be
    told by that.  Loosening the prior of a few parameters changes the covariance by their rank.
    """
    curve = np.arange(len(now.zones), now.mean_at)
    loosen = 1.0 / now.curve_var - 1.0 / CURVE_WIDEST**2
    if (loosen <= 0.0).any():
        return now.cov
    part = now.cov[:, curve]
    core = np.diag(1.0 / loosen) - part[curve]
    found: Float64s = now.cov + part @ np.linalg.solve(core, part.T)
    return found


def _doubts(
    now: Learned, rows: Rows, design: _Design, pulls: Float64s, spread: Float64s
) -> tuple[Learned, Float64s, Float64s]:
    """Return the variance of each leaf's energy in this window, and what the total's grows by.

    An error ``d`` of the parameters moves a workload's energy by what the model says, less what
    the prediction of its wander takes back: ``(l - t'V^-1 Z) d``.  As that error persists, windows
    share it: ``past`` is what the total so far has in common with it.
    """
    reach = -pulls @ design.z  # (leaves, parameters)
    zones, mean_at = len(now.zones), now.mean_at
    x = design.gx.sum(axis=0)
    own = np.flatnonzero(design.at >= 0)
    reach[:, mean_at] += x
    reach[:, mean_at + 1 : now.fixed] += x[:, None] * rows.features
    reach[own, design.at[own]] += x[own]
    reach[:, zones:mean_at] += (rows.work_s * _rates(now, rows, design)).T @ design.terms
    common = reach @ _widened(now)
    window_var = np.sum(common * reach, axis=1) + spread
    window_var += np.where(design.at >= 0, 0.0, deviation_var(now) * x**2)
    added_var = window_var.copy()
    row = design.at[own] - now.fixed
    past, mine = now.past.copy(), now.past[row]
    added_var[own] += 2.0 * np.sum(mine * reach[own], axis=1)
    mine += common[own]
    past[row] = mine
    return replace(now, past=past), np.maximum(window_var, 0.0), added_var


def present(now: Learned) -> tuple[float, float, float]:
    """Return the idle power of all zones in watts, its standard deviation, and the confidence.

    Confidence: the share of the prior's variance that the data have taken away.
    """
    count = len(now.zones)
    part = now.cov[:count, :count]
    guessed = float(np.sum((IDLE_GUESS_SD * now.quiet_w) ** 2))
    excess = max(now.noise.excess, 1.0)
    variance = excess * float(part.sum())
    confidence = 1.0 - min(variance / guessed, 1.0) if guessed > 0.0 else 0.0
    return float(now.beta[:count].sum()), float(np.sqrt(max(variance, 0.0))), confidence

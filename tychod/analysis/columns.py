"""Which parameters a domain's model has from window to window, and what is known of them at first.

Memory fades, idle power may drift, workloads come and go: all of that happens here, before a
window's rows are taken in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tychod.analysis import noise as noises
from tychod.analysis.learned import CURVE_TERMS, Column, Float64s, Learned

ROW_S: Final = 0.05
"""Node noise is stated for a row of this length."""
HALF_LIFE_S: Final = 900.0
IDLE_STEP: Final = 0.003
"""Relative random walk of the idle power in one window."""
IDLE_GUESS, IDLE_GUESS_SD = 0.6, 0.3
"""Prior of the idle power, as a share of the lowest half-second power."""
QUIET_S, QUIET_WINDOWS, QUIET_RANK = 0.5, 100, 20
"""A quiet moment lasts so long; it is sought in so many windows, one in so many is below it."""
POOR_MOVE: Final = 0.3
"""If the mean intensity moved by this much (logarithm), what was linearised there counts less."""
CURVE_SD, CURVE_GAIN = 0.1, 0.05
"""First spread of the curve's terms, and how fast it follows what is found (EM)."""
CURVE_WIDEST: Final = 0.3
"""Spread of the curve's terms for the uncertainty that is told."""
TAU_START, TAU_LEAST, TAU_MOST = 0.2, 0.01, 1.0
FEATURE_SD: Final = 0.3
"""Prior of what a counter rate twice the mean adds to an intensity, relative to the mean."""
YOUNG_WINDOWS: Final = 2
"""A workload gets a column of its own after so many windows."""
GONE_WINDOWS: Final = 20
"""After so many windows in which it did not run nothing more is known of a workload."""
MOST_COLUMNS: Final = 256
"""Workloads beyond this have no column: time grows with the cube of it, memory with the square."""
UNSEEN: Final = Column()
LEAST_SHARE: Final = 0.0005
"""Who used less of a window's CPU time than this gets no column of its own in it."""


class Rows(NamedTuple):
    """One domain in one window: bins of all zones, one zone below the other."""

    zone: NDArray[np.int64]  # (n,) index into the zones
    t_s: Float64s  # (n,) middle of each row
    seconds: Float64s  # (n,)
    energy_j: Float64s  # (n,)
    work_s: Float64s  # (n, leaves) CPU seconds on the zone's CPUs
    busy: Float64s  # (n,) busy share of the zone's CPUs
    timing: Float64s  # (n, n) covariance of the errors of bin edges, as computed, in J^2
    features: Float64s  # (leaves, features) relative deviations of hardware counter rates


def prepared(
    before: Learned, rows: Rows, leaves: Sequence[str], window_s: float, *, own: bool
) -> Learned:
    """Forget a little, drop who is gone, give columns to who has stayed."""
    lowest = _lowest(before, rows)
    now = replace(before, lowest_w=lowest, quiet_w=_quiet(lowest))
    if not before.windows:
        now = _begun(now, rows)
    keep = min(0.5 ** (window_s / HALF_LIFE_S), 1.0 - 0.5 / (now.windows + 2))
    if now.moved > POOR_MOVE:
        keep *= (POOR_MOVE / now.moved) ** 2
    now = replace(now, info=now.info * keep, vector=now.vector * keep)
    zones = range(len(now.zones))
    now = loosened(now, {i: (IDLE_STEP * max(now.beta[i], 0.0)) ** 2 for i in zones})
    return _with_columns(_without_gone(now), rows, leaves) if own else now


def _begun(now: Learned, rows: Rows) -> Learned:
    fixed = now.fixed
    beta = np.zeros(fixed)
    beta[: len(now.zones)] = IDLE_GUESS * now.quiet_w
    used = float(rows.work_s.sum())
    dynamic = float(rows.energy_j.sum() - (beta[rows.zone] * rows.seconds).sum())
    beta[now.mean_at] = max(dynamic, 0.05 * float(rows.energy_j.sum())) / max(used, 1e-3)
    power_w = float(rows.energy_j.sum() / rows.seconds.sum())
    now = replace(
        now,
        info=np.zeros((fixed, fixed)),
        vector=np.zeros(fixed),
        beta=beta,
        past=np.zeros((0, fixed)),
        tau=TAU_START,
        curve_var=np.full(CURVE_TERMS, CURVE_SD**2),
        noise=noises.begin(power_w),
    )
    return replace(now, cov=np.diag(1.0 / prior(now)[1]))


def _lowest(before: Learned, rows: Rows) -> Float64s:
    """Return the lowest power of half a second in each of the newest windows, shape (w, zones)."""
    found = np.empty(len(before.zones))
    for i in range(len(found)):
        mine = rows.zone == i
        if not mine.any():
            raise ArithmeticError("a zone without a row in a window that was seen whole")
        group = np.floor((rows.t_s[mine] - rows.t_s[mine][0]) / QUIET_S).astype(int)
        energy = np.bincount(group, rows.energy_j[mine])
        seconds = np.bincount(group, rows.seconds[mine])
        whole = seconds > 0.4 * QUIET_S
        power = energy[whole] / seconds[whole] if whole.any() else energy.sum() / seconds.sum()
        found[i] = np.min(power)
    kept = before.lowest_w.reshape(-1, len(found))[1 - QUIET_WINDOWS :]
    return np.vstack([kept, found])


def _quiet(lowest_w: Float64s) -> Float64s:
    """Return the power of a quiet moment by zone: low among the newest windows, not the lowest.

    One second in which a counter stood still would otherwise be the floor for hours.
    """
    found: Float64s = np.sort(lowest_w, axis=0)[len(lowest_w) // QUIET_RANK]
    return found


def loosened(now: Learned, variances: Mapping[int, float]) -> Learned:
    """Add variance to some parameters: what is known of them counts less from now on."""
    added = {i: variance for i, variance in variances.items() if variance > 0.0}
    if not added:
        return now
    info, vector, cov = now.info.copy(), now.vector, now.cov.copy()
    step = np.empty_like(info)  # one for all: these are the large arrays
    for i, variance in added.items():
        row = info[i].copy()
        gain = row / (row[i] + 1.0 / variance)
        info -= np.outer(gain, row, out=step)
        vector = vector - gain * vector[i]
        cov[i, i] += variance
    return replace(now, info=info, vector=vector, cov=cov)


def _without_gone(now: Learned) -> Learned:
    gone = [i for i, c in enumerate(now.columns.values()) if c.absent >= GONE_WINDOWS]
    if not gone:
        return now
    out = now.fixed + np.array(gone)
    stay = np.setdiff1d(np.arange(len(now.beta)), out)
    core = now.info[np.ix_(out, out)].copy()
    core[np.diag_indices(len(out))] += 1.0 / deviation_var(now)
    solved = np.linalg.solve(core, now.info[np.ix_(out, stay)])
    info = now.info[np.ix_(stay, stay)] - now.info[np.ix_(stay, out)] @ solved
    vector = now.vector[stay] - solved.T @ now.vector[out]
    names = list(now.columns)
    left = {names[i] for i in gone}
    columns = {k: c for k, c in now.columns.items() if k not in left}
    return replace(
        now,
        columns=columns,
        info=info,
        vector=vector,
        beta=now.beta[stay],
        cov=now.cov[np.ix_(stay, stay)],
        past=now.past[np.ix_(stay[now.fixed :] - now.fixed, stay)],
    )


def deviation_var(now: Learned) -> float:
    """Return the prior variance of a workload's deviation from the mean, (J per CPU second)^2."""
    return max((now.tau * float(now.beta[now.mean_at])) ** 2, 1e-12)


def _aged(column: Column, *, seen: bool) -> Column:
    windows, absent, score, score_var = column
    return Column(windows + seen, 0 if seen else absent + 1, score, score_var)


def _with_columns(now: Learned, rows: Rows, leaves: Sequence[str]) -> Learned:
    used = rows.work_s.sum(axis=0)
    least = LEAST_SHARE * float(used.sum())
    spent = {leaf: s for leaf, s in zip(leaves, used.tolist(), strict=True) if s > 0.0}
    columns = {k: _aged(c, seen=k in spent) for k, c in now.columns.items()}
    young, added = {}, []
    for leaf, seconds in spent.items():
        if leaf in columns:
            continue
        before = now.young.get(leaf, UNSEEN)
        seen = before.windows + (seconds >= least)
        if seen > YOUNG_WINDOWS or (not now.windows and seconds >= least):
            added.append(leaf)
        else:
            young[leaf] = Column(seen)
    for leaf, before in now.young.items():
        if leaf not in spent and before.absent < GONE_WINDOWS:
            young[leaf] = _aged(before, seen=False)
    room = max(MOST_COLUMNS - len(columns), 0)
    for leaf in sorted(added, key=lambda name: (-spent[name], name))[room:]:
        added.remove(leaf)
        young[leaf] = Column(YOUNG_WINDOWS)
    if not added:  # the arrays stay as they are
        return replace(now, columns=columns, young=young)
    columns |= {leaf: Column(1) for leaf in added}
    size, more = len(now.beta), len(added)
    info, cov = np.zeros((size + more,) * 2), np.zeros((size + more,) * 2)
    info[:size, :size], cov[:size, :size] = now.info, now.cov
    past = np.zeros((len(columns), size + more))
    past[: len(now.past), : now.past.shape[1]] = now.past
    new = np.arange(size, size + more)
    cov[new, new] = deviation_var(now)
    vector, beta = (np.concatenate([v, np.zeros(more)]) for v in (now.vector, now.beta))
    return replace(
        now, columns=columns, young=young, info=info, cov=cov, vector=vector, beta=beta, past=past
    )


def prior(now: Learned) -> tuple[Float64s, Float64s]:
    """Return the prior's centre and precision of each parameter."""
    size, zones, mean_at = len(now.beta), len(now.zones), now.mean_at
    centre, variance = np.zeros(size), np.empty(size)
    centre[:zones] = IDLE_GUESS * now.quiet_w
    variance[:zones] = (IDLE_GUESS_SD * now.quiet_w) ** 2
    variance[zones:mean_at] = now.curve_var
    centre[mean_at] = now.beta[mean_at]
    variance[mean_at] = (3.0 * now.beta[mean_at]) ** 2
    variance[mean_at + 1 :] = deviation_var(now)
    variance[mean_at + 1 : now.fixed] = (FEATURE_SD * now.beta[mean_at]) ** 2
    return centre, 1.0 / np.maximum(variance, 1e-12)

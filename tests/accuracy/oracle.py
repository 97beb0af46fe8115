"""The best causal estimate that the data allow when everything but intensities and idle is known.

A reference for the estimator under test, of which it uses nothing. It is told what an estimator
must learn: the power curve, the size of every noise, the wander's size and time, the mean and
spread of the intensities and when (not which) intensities change. It learns each workload's
intensity and the idle power of each package, from the same readings, from a cold start, and its
figures for a window use nothing that was read later.

Model, for package p and row i (one 50 ms bin, or several where an edge has no reading within 8 ms):

    y = idle_p dt + s(u) sum_w c_w (1 + d_w(t)) x_w + noise + edge_i - edge_(i-1)

with x the CPU seconds, s the known curve, d the wander (AR(1), one for a workload on all
packages) and edge the error of interpolating the counter at a bin edge. All is Gaussian: a Kalman
filter with a 3 s block of rows as one measurement. Its state holds c, the wander at the block's
start, idle and the error of the edge that two blocks share, so nothing is lost between blocks.
The product c d is linearised at the present estimate; what that leaves out is kept as noise.

A workload that appears later has no state for its first two windows: its intensity counts as a
random effect of the window around the mean. One approximation remains beside the linearisation:
intensities are log-normal, and only their mean and spread are used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.sim.generator import Run

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]
    Bools = NDArray[np.bool_]

BINS = 60
NEAR_S = 0.008
BIN_S = 0.05


@dataclass(frozen=True)
class OracleResult:
    """Estimates by window: joules by workload, idle watts by package; sd_j of each run's total."""

    dynamic_j: Floats
    idle_w: Floats
    sd_j: Floats


@dataclass(frozen=True)
class Bound:
    """Expected error when idle is given, as a share of the dynamic energy.

    ``causal`` is that of estimates made window by window, ``hindsight`` that of a total worked out
    at the end of the run.
    """

    causal: float
    hindsight: float


@dataclass(frozen=True)
class Known:
    """What the oracle is told about the world; the noise is that of one package and bin."""

    mean_j: float
    sd_j: float
    residents: int
    resident_mean_j: float
    resident_sd_j: float
    wander: float
    wander_s: float
    noise_j: float
    drift_w: float
    change_bin: int
    change_mean: float
    change_sd: float
    idle_given: bool


@dataclass(frozen=True)
class Meter:
    """One package's reading nearest to each bin edge: joules, how late it came, its variance, and
    whether it is near enough."""

    joules: Floats
    off_s: Floats
    end_var: Floats
    good: Bools


@dataclass(frozen=True)
class Block:
    """The rows of a window: energy, length, middle, variance of the end edge, package, CPU time.

    CPU seconds are weighed by the power curve; ``whole`` is their sum, bins without a row included.
    """

    who: Ints
    y: Floats
    dt: Floats
    mid_s: Floats
    end_var: Floats
    package: Ints
    x: Floats
    whole: Floats
    span_s: float


@dataclass(frozen=True)
class State:
    """Mean and covariance of (c, wander, idle, edge error) for the workloads ``who``."""

    who: Ints
    mean: Floats
    cov: Floats


@dataclass(frozen=True)
class Guess:
    """Energy of each workload in a window before its rows are seen: mean, variance, covariance."""

    mean: Floats
    var: Floats
    with_y: Floats


def oracle(run: Run) -> OracleResult:
    """The estimate of every window, idle estimated from a wide prior."""
    return _filter(run, _known(run.settings))[0]


def identifiability(run: Run) -> Bound:
    """The error to be expected of the best estimator when the idle power is given too."""
    result, last_var = _filter(run, replace(_known(run.settings), idle_given=True))
    total = 2.0 * float(run.total_dynamic_j().sum())
    mean_abs = np.sqrt(2.0 / np.pi)
    return Bound(
        float(mean_abs * result.sd_j.sum() / total),
        float(mean_abs * np.sqrt(last_var).sum() / total),
    )


def _known(s: Settings) -> Known:
    """What the oracle is told; a walk of the size of the drift stands for the drift."""
    sd_j = 0.0 if s.equal else s.mean_j * float(np.sqrt(np.expm1(s.sigma**2)))
    return Known(
        mean_j=s.scale * s.mean_j,
        sd_j=s.scale * sd_j,
        residents=s.workloads,
        resident_mean_j=s.scale * float(np.mean(s.intensities or s.mean_j)),
        resident_sd_j=s.scale * (float(np.std(s.intensities)) if s.intensities else sd_j),
        wander=s.wander,
        wander_s=s.wander_s,
        noise_j=s.scale * s.node_noise_w * 0.05 / float(np.sqrt(s.packages)),
        drift_w=s.scale * s.idle_w * s.idle_drift * BINS * 0.05 / s.seconds,
        change_bin=int(s.seconds * 10) if s.change != 1.0 else -1,
        change_mean=1.0 + s.changed * (s.change - 1.0),
        change_sd=abs(s.change - 1.0) * float(np.sqrt(s.changed * (1.0 - s.changed))),
        idle_given=False,
    )


def _meter(run: Run, package: int) -> Meter:
    """The reading nearest to each bin edge."""
    reads = run.reads[package]
    seen = reads.native_uj >= 0
    t_ns = reads.t_ns[seen] - round(run.settings.delay_s * 1e9)
    steps = np.diff(reads.native_uj[seen])
    steps = steps % run.max_range_uj if run.max_range_uj else steps
    joules = np.append(0.0, np.cumsum(steps) * 1e-6)
    after = np.clip(np.searchsorted(t_ns, run.edges_ns), 1, len(t_ns) - 1)
    nearer = t_ns[after] - run.edges_ns < run.edges_ns - t_ns[after - 1]
    nearest = after - ~nearer
    off_s = (t_ns[nearest] - run.edges_ns) * 1e-9
    watts = np.diff(joules[nearest]) / np.maximum(np.diff(t_ns[nearest]) * 1e-9, BIN_S / 5)
    left, right = np.append(watts[:1], watts), np.append(watts, watts[-1:])
    update_j = (left + right) / 2 * run.settings.update_s
    quantum_j = run.settings.quantum_uj * 1e-6
    var = (update_j**2 + quantum_j**2) / 12 + 0.1 * ((right - left) * off_s) ** 2
    return Meter(joules[nearest], off_s, var, np.abs(off_s) <= NEAR_S)


def _curve(s: Settings, u: Floats) -> Floats:
    """Power per joule of c x at busy share u."""
    u = np.maximum(u, 1e-9)
    if s.curve == "sqrt":
        return 0.75 + 0.25 / np.sqrt(u)
    if s.curve == "exp":
        return -np.expm1(-u) / u
    return np.ones_like(u)


def _bounds(run: Run, meters: list[Meter]) -> list[tuple[int, int]]:
    """First and last + 1 bin of each window; it ends at the next edge that all packages have."""
    good = np.logical_and.reduce([meter.good for meter in meters])
    nominal = np.arange(BINS, run.bins + BINS, BINS)
    ends = [run.bins if end >= run.bins else _next(good, int(end)) for end in nominal]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _next(good: NDArray[np.bool_], edge: int) -> int:
    later = np.flatnonzero(good[edge:])
    return edge + int(later[0]) if len(later) else len(good) - 1


def _block(run: Run, meters: list[Meter], known: Known, span: tuple[int, int]) -> Block:
    """The rows of a window, every package's after one another, and who ran in them."""
    first, last = max(span[0] - 1, 0), min(span[1] + 1, run.bins)
    who, cpu_ns, _ = run.block(first, last)
    x = cpu_ns * 1e-9 * _curve(run.settings, run.busy[first:last])[:, :, None]
    inner = slice(span[0] - first, span[1] - first)
    parts = [
        _package_rows(meter, run.idle_j[span[0] : span[1], p] * known.idle_given, x[:, p], span)
        for p, meter in enumerate(meters)
    ]
    y, dt, mid_s, end_var, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    package = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    return Block(
        who=who,
        y=y,
        dt=dt,
        mid_s=mid_s,
        end_var=end_var,
        package=package,
        x=rows,
        whole=x[inner].sum(axis=(0, 1)),
        span_s=(span[1] - span[0]) * BIN_S,
    )


def _package_rows(
    meter: Meter, idle_j: Floats, x: Floats, span: tuple[int, int]
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Energy, length, middle, end variance and CPU seconds of one package's rows."""
    edges = np.flatnonzero(meter.good[span[0] : span[1] + 1])
    at = edges + span[0]
    summed = np.append(0.0, np.cumsum(idle_j))[edges] + meter.off_s[at] * idle_j.mean() / BIN_S
    energy = np.diff(meter.joules[at] - summed)
    t_s = edges * BIN_S + meter.off_s[at]
    rows = np.diff(_at_reads(x, meter.off_s, span)[edges], axis=0)
    return energy, np.diff(t_s), (t_s[1:] + t_s[:-1]) / 2, meter.end_var[at[1:]], rows


def _at_reads(x: Floats, off_s: Floats, span: tuple[int, int]) -> Floats:
    """CPU seconds from the window's start to the reading of each of its edges.

    ``x`` has a bin more on both sides.  Near an edge a workload runs as in the busier of the two
    bins, or not at all where it is idle in one of them: it switches on or off within a bin.
    """
    bins = span[1] - span[0]
    before = x[:1] if span[0] == 0 else x[:0]
    after = x[-1:] if len(x) + len(before) < bins + 2 else x[:0]
    wide = np.concatenate((before, x, after))
    left, right = wide[:-1], wide[1:]
    summed = np.concatenate((np.zeros((1, x.shape[1])), np.cumsum(wide[1:-1], axis=0)))
    shift = off_s[span[0] : span[1] + 1, None] / BIN_S
    least, most = np.minimum(left, right), np.maximum(left, right)
    level = np.where(shift > 0, right, left)
    local = np.where(least > most / 2, level, np.where(least > 0, most, 0.0))
    return summed + shift * local


def _filter(run: Run, known: Known) -> tuple[OracleResult, Floats]:
    """All windows in turn; beside the result the variance of each total looking back."""
    meters = [_meter(run, package) for package in range(run.settings.packages)]
    spans = _bounds(run, meters)
    joules = np.zeros((len(spans), run.n))
    watts = np.zeros((len(spans), len(meters)))
    var, apart, spent, last = (np.zeros(run.n) for _ in range(4))
    state = _start(_block(run, meters, known, spans[0]), meters, known)
    for k, span in enumerate(spans):
        block = _block(run, meters, known, span)
        born = run.alive[block.who, 0]
        old = (born == 0) | (born <= span[0] - 2 * BINS)
        if spans[max(k - 1, 0)][0] < known.change_bin <= span[0]:
            state = _changed(state, known)
        state = _seated(state, block.who[old], known)
        state, mean, spread = _update(state, block, old, known)
        joules[k, block.who] = np.maximum(mean, 0.0)
        watts[k] = _idle(state, len(meters))
        n = len(state.who)
        c_var, used = np.zeros(len(old)), block.whole
        c_var[old] = np.diag(state.cov)[:n]
        rest = np.maximum(spread - c_var * used**2, 0.0)
        var[block.who] += c_var * used * (used + 2 * spent[block.who]) + rest
        apart[block.who] += rest
        spent[block.who] += used * old
        last[block.who] = c_var
    if known.idle_given:
        watts += _true_idle_w(run, spans)
    return OracleResult(joules, watts, np.sqrt(var)), apart + last * spent**2


def _true_idle_w(run: Run, spans: list[tuple[int, int]]) -> Floats:
    means = [run.idle_j[first:last].mean(axis=0) / BIN_S for first, last in spans]
    return np.array(means)


def _idle(state: State, packages: int) -> Floats:
    n = len(state.who)
    return state.mean[2 * n : 2 * n + packages]


def _start(block: Block, meters: list[Meter], known: Known) -> State:
    """Nobody known yet; idle somewhere between nothing and the lowest power of the first window."""
    packages = range(len(meters))
    power = block.y / block.dt
    lowest = [power[block.package == p].min(initial=np.inf) for p in packages]
    half = np.array([0.5 * watts if np.isfinite(watts) else 0.0 for watts in lowest])
    half *= not known.idle_given
    edge = [meter.end_var[np.argmax(meter.good)] for meter in meters]
    mean = np.concatenate((half, np.zeros(len(meters))))
    return State(np.zeros(0, np.int64), mean, np.diag(np.concatenate((half**2, edge))))


def _prior(known: Known, who: Ints) -> tuple[Floats, Floats]:
    """Mean and sd of the intensities of these workloads, in joules per CPU second."""
    resident = who < known.residents
    mean = np.where(resident, known.resident_mean_j, known.mean_j)
    return mean, np.where(resident, known.resident_sd_j, known.sd_j)


def _seated(state: State, who: Ints, known: Known) -> State:
    """The state for these workloads: who is gone leaves it, who is new begins at the prior."""
    if np.array_equal(state.who, who):
        return state
    n, packages = len(who), (len(state.mean) - 2 * len(state.who)) // 2
    mean_j, sd_j = _prior(known, who)
    mean = np.concatenate((mean_j, np.zeros(n + 2 * packages)))
    cov = np.diag(np.concatenate((sd_j**2, np.full(n, known.wander**2), np.zeros(2 * packages))))
    _, old, new = np.intersect1d(state.who, who, return_indices=True)
    m, tail = len(state.who), np.arange(2 * packages)
    source = np.concatenate((old, m + old, 2 * m + tail))
    target = np.concatenate((new, n + new, 2 * n + tail))
    mean[target] = state.mean[source]
    cov[np.ix_(target, target)] = state.cov[np.ix_(source, source)]
    return State(who, mean, cov)


def _changed(state: State, known: Known) -> State:
    """It is told that some intensities change now, and by how much, but not which."""
    n = len(state.who)
    scale = np.ones(len(state.mean))
    scale[:n] = known.change_mean
    square = state.mean[:n] ** 2 + np.diag(state.cov)[:n]
    cov = state.cov * scale[:, None] * scale
    cov[np.arange(n), np.arange(n)] += known.change_sd**2 * square
    return State(state.who, state.mean * scale, cov)


@dataclass(frozen=True)
class Model:
    """What a window's rows are expected to be, given the state before them.

    ``x`` of the workloads in the state and ``young`` of the others; ``e`` is the energy expected
    of x; ``alike`` the wander's correlation between rows, ``fade`` that with the window's start and
    ``inner`` what is left of it within the window; ``z`` the rows' columns, ``pz`` the state's
    covariance with the rows; ``loose`` the wander's variance per CPU second that ``e`` leaves out.
    """

    state: State
    block: Block
    old: Bools
    x: Floats
    young: Floats
    e: Floats
    alike: Floats
    fade: Floats
    inner: Floats
    z: Floats
    pz: Floats
    loose: Floats
    young_mean: Floats
    young_var: Floats


def _model(state: State, block: Block, old: Bools, known: Known) -> Model:
    n, rows = len(state.who), len(block.y)
    x = block.x[:, old]
    e = x * state.mean[:n]
    at = block.mid_s / known.wander_s
    third = block.dt / known.wander_s / 6
    # two moments of one row lie a third of its length apart in the mean
    alike = np.exp(-np.maximum(np.abs(at[:, None] - at), third[:, None] + third))
    fade = np.exp(-at)
    packages = (len(state.mean) - 2 * n) // 2
    here = block.package[:, None] == np.arange(packages)
    begins = here & (np.diff(block.package, prepend=-1) != 0)[:, None]
    z = np.concatenate((x, e * fade[:, None], here * block.dt[:, None], -1.0 * begins), axis=1)
    young_mean, young_sd = _prior(known, block.who[~old])
    return Model(
        state=state,
        block=block,
        old=old,
        x=x,
        young=block.x[:, ~old],
        e=e,
        alike=alike,
        fade=fade,
        inner=alike - np.outer(fade, fade),
        z=z.reshape(rows, len(state.mean)),
        pz=state.cov @ z.T,
        loose=np.diag(state.cov)[:n],
        young_mean=young_mean,
        young_var=young_sd**2,
    )


def _update(state: State, block: Block, old: Bools, known: Known) -> tuple[State, Floats, Floats]:
    """State after the rows of a window; mean and variance of each workload's energy in it."""
    m = _model(state, block, old, known)
    surprise = block.y - m.z @ state.mean - m.young @ m.young_mean
    cov_y = m.z @ m.pz + _noise_cov(m, known)
    step, added, drift = _carried(m, known)
    moved = step[:, None] * m.pz + drift
    guess = _guess(m, known)
    solved = np.linalg.solve(cov_y, np.column_stack((surprise, moved.T, guess.with_y.T)))
    at_end, size = solved[:, 0], len(state.mean)
    mean = step * state.mean + moved @ at_end
    cov = step[:, None] * state.cov * step + np.diag(added) - moved @ solved[:, 1 : size + 1]
    left = guess.var - np.einsum("wr,rw->w", guess.with_y, solved[:, size + 1 :])
    after = State(state.who, mean, (cov + cov.T) / 2)
    return after, guess.mean + guess.with_y @ at_end, np.maximum(left, 0.0)


def _noise_cov(m: Model, known: Known) -> Floats:
    """Covariance of the rows but for the state: wander, young workloads, node noise and edges."""
    wander = m.inner * (m.e @ m.e.T) + m.alike * ((m.x * m.loose) @ m.x.T)
    square = m.young_mean**2 + m.young_var
    wander += m.alike * ((m.young * square) @ m.young.T)
    cov = known.wander**2 * wander + (m.young * m.young_var) @ m.young.T
    b = m.block
    begins = np.diff(b.package, prepend=-1) != 0
    start_var = np.where(begins, 0.0, np.append(0.0, b.end_var[:-1]))
    noise = known.noise_j**2 * b.dt / BIN_S + b.end_var + start_var
    cov += np.diag(noise) - np.diag(start_var[1:], 1) - np.diag(start_var[1:], -1)
    return cov


def _carried(m: Model, known: Known) -> tuple[Floats, Floats, Floats]:
    """How the state moves to the window's end: factor, variance added, its covariance with rows."""
    n, b = len(m.state.who), m.block
    packages = (len(m.state.mean) - 2 * n) // 2
    to_end = np.exp((b.mid_s - b.span_s) / known.wander_s)
    kept = float(np.exp(-b.span_s / known.wander_s))
    drift = np.zeros((len(m.state.mean), len(b.y)))
    drift[n : 2 * n] = known.wander**2 * ((to_end - kept * m.fade)[:, None] * m.e).T
    ends = np.flatnonzero(np.diff(b.package, append=-1) != 0)
    rows_of = 2 * n + packages + b.package[ends]
    drift[rows_of, ends] = b.end_var[ends]
    step = np.concatenate((np.ones(n), np.full(n, kept), np.ones(packages), np.zeros(packages)))
    added = np.zeros(len(step))
    added[n : 2 * n] = known.wander**2 * (1.0 - kept**2)
    added[2 * n : 2 * n + packages] = 0.0 if known.idle_given else known.drift_w**2
    added[rows_of] = b.end_var[ends]
    return step, added, drift


def _guess(m: Model, known: Known) -> Guess:
    """Each workload's energy in the window before its rows are seen."""
    n, c = len(m.state.who), m.state.mean
    used, k = m.block.whole[m.old], m.e.T @ m.fade
    inside = ((m.inner @ m.e) * m.e + (m.alike @ m.x) * m.x * m.loose).T * known.wander**2
    pcc, pcd, pdd = (np.diag(part)[:n] for part in _corners(m.state.cov, n))
    guess = _empty(len(m.old), len(m.block.y))
    guess.mean[m.old] = used * c[:n] + k * c[n : 2 * n]
    guess.var[m.old] = used**2 * pcc + 2 * used * k * pcd + k**2 * pdd + inside.sum(axis=1)
    guess.with_y[m.old] = used[:, None] * m.pz[:n] + k[:, None] * m.pz[n : 2 * n] + inside
    young = m.block.whole[~m.old]
    square = known.wander**2 * (m.young_mean**2 + m.young_var)
    inside = ((m.alike @ m.young) * m.young * square).T
    guess.mean[~m.old] = young * m.young_mean
    guess.var[~m.old] = young**2 * m.young_var + inside.sum(axis=1)
    guess.with_y[~m.old] = (young * m.young_var)[:, None] * m.young.T + inside
    return guess


def _corners(cov: Floats, n: int) -> tuple[Floats, Floats, Floats]:
    return cov[:n, :n], cov[:n, n : 2 * n], cov[n : 2 * n, n : 2 * n]


def _empty(workloads: int, rows: int) -> Guess:
    return Guess(np.zeros(workloads), np.zeros(workloads), np.zeros((workloads, rows)))

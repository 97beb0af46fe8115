"""What the oracle knows, what its state is, and how a window's rows change it (``oracle``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tests.accuracy.oracle_rows import BIN_S, Block

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.accuracy.oracle_rows import Meter

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Known:
    """What the oracle is told, in joules and watts of this world; noise by package and bin."""

    mean_j: float
    sd_j: float
    residents: int
    resident_mean_j: float
    resident_sd_j: float
    wander: float
    wander_s: float
    noise_j: float
    drift_w_s: float
    change_bin: int
    change_mean: float
    change_sd: float
    idle_given: bool


@dataclass(frozen=True)
class State:
    """Mean and covariance of (c, d, idle, edge, slope), the first two for the workloads ``who``.

    ``past`` is the covariance of what each of them used in all windows so far with the state.
    """

    who: Ints
    packages: int
    mean: Floats
    cov: Floats
    past: Floats


@dataclass(frozen=True)
class Guess:
    """A window's energy of each workload before its rows are seen.

    Mean, variance, covariance with the rows and, for workloads in the state, with the state at the
    window's end and with their own past.
    """

    mean: Floats
    var: Floats
    with_y: Floats
    with_state: Floats
    with_past: Floats


@dataclass(frozen=True)
class Outcome:
    """A window's energy of each workload with its rows: mean, and what it adds to totals.

    ``added_var`` to the variance of the sum of the means; ``back_mean`` and ``back_var`` to mean
    and variance of the total as seen from the window's end.
    """

    mean: Floats
    added_var: Floats
    back_mean: Floats
    back_var: Floats


def start(block: Block, meters: list[Meter], known: Known) -> State:
    """Nobody known yet; idle somewhere between nothing and the lowest power of the first window."""
    packages = len(meters)
    power = block.y / block.dt
    lowest = np.array([power[block.package == p].min(initial=np.inf) for p in range(packages)])
    half = 0.0 if known.idle_given else np.where(np.isfinite(lowest), lowest / 2.0, 0.0)
    mean, var = np.zeros(3 * packages), np.zeros(3 * packages)
    mean[:packages], var[:packages] = half, np.square(half)
    var[packages : 2 * packages] = [meter.end_var[np.argmax(meter.good)] for meter in meters]
    var[2 * packages :] = 0.0 if known.idle_given else known.drift_w_s**2
    nobody = np.zeros(0, np.int64)
    return State(nobody, packages, mean, np.diag(var), np.zeros((0, len(mean))))


def _prior(known: Known, who: Ints) -> tuple[Floats, Floats]:
    """Mean and sd of the intensities of these workloads, in joules per CPU second."""
    resident = who < known.residents
    mean = np.where(resident, known.resident_mean_j, known.mean_j)
    return mean, np.where(resident, known.resident_sd_j, known.sd_j)


def seated(state: State, who: Ints, known: Known) -> State:
    """The state for these workloads: who is gone leaves it, who is new begins at the prior."""
    if np.array_equal(state.who, who):
        return state
    n, tail = len(who), 3 * state.packages
    mean_j, sd_j = _prior(known, who)
    mean = np.concatenate((mean_j, np.zeros(n + tail)))
    cov = np.diag(np.concatenate((sd_j**2, np.full(n, known.wander**2), np.zeros(tail))))
    past = np.zeros((n, len(mean)))
    _, old, new = np.intersect1d(state.who, who, return_indices=True)
    m, rest = len(state.who), np.arange(tail)
    source = np.concatenate((old, m + old, 2 * m + rest))
    target = np.concatenate((new, n + new, 2 * n + rest))
    mean[target] = state.mean[source]
    cov[np.ix_(target, target)] = state.cov[np.ix_(source, source)]
    past[np.ix_(new, target)] = state.past[np.ix_(old, source)]
    return State(who, state.packages, mean, cov, past)


def changed(state: State, known: Known) -> State:
    """It is told that some intensities change now, and by how much, but not which."""
    n = len(state.who)
    scale = np.ones(len(state.mean))
    scale[:n] = known.change_mean
    square = state.mean[:n] ** 2 + np.diag(state.cov)[:n]
    cov = state.cov * scale[:, None] * scale
    cov[np.arange(n), np.arange(n)] += known.change_sd**2 * square
    return replace(state, mean=state.mean * scale, cov=cov, past=state.past * scale)


@dataclass(frozen=True)
class Model:
    """What a window's rows are expected to be, given the state before them.

    ``x`` of the workloads in the state and ``young`` of the others; ``e`` is the energy expected
    of x; ``alike`` the wander's correlation between rows, ``fade`` that with the window's start and
    ``inner`` what is left of it within the window; ``z`` the rows' columns, ``pz`` the state's
    covariance with the rows; ``loose`` the variance of c, which ``e`` leaves out of the wander.
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
    n, x = len(state.who), block.x[:, old]
    e = x * state.mean[:n]
    at, part = block.mid_s / known.wander_s, block.dt / known.wander_s / 6.0
    # two moments of one row are a third of its length apart in the mean
    alike = np.exp(-np.maximum(np.abs(at[:, None] - at), part[:, None] + part))
    fade = np.exp(-at)
    here = block.package[:, None] == np.arange(state.packages)
    starts = here & block.begins[:, None]
    span = here * (block.dt * block.mid_s)[:, None]
    z = np.hstack((x, e * fade[:, None], here * block.dt[:, None], -1.0 * starts, span))
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
        z=z,
        pz=state.cov @ z.T,
        loose=np.diag(state.cov)[:n],
        young_mean=young_mean,
        young_var=young_sd**2,
    )


def update(state: State, block: Block, old: Bools, known: Known) -> tuple[State, Outcome]:
    """State after the rows of a window, and what they say about the window's energy.

    ``old`` tells which of the block's workloads are in the state.
    """
    m = _model(state, block, old, known)
    surprise = block.y - m.z @ state.mean - m.young @ m.young_mean
    added, drift = _drift(m, known)
    moved, guess = _move(m, m.pz, known) + drift, _guess(m, known)
    past_y = np.zeros_like(guess.with_y)
    past_y[old] = state.past @ m.z.T
    wanted = (surprise[:, None], moved.T, guess.with_y.T, past_y.T)
    solved = np.linalg.solve(m.z @ m.pz + _noise_cov(m, known), np.hstack(wanted))
    ends = np.cumsum([1, len(state.mean), len(old)])
    step, by_state, by_guess, by_past = np.split(solved, ends, axis=1)
    cov = _move(m, _move(m, state.cov, known).T, known) + np.diag(added) - moved @ by_state
    past = _move(m, state.past.T, known).T + guess.with_state
    after = State(
        who=state.who,
        packages=state.packages,
        mean=(_move(m, state.mean[:, None], known) + moved @ step)[:, 0],
        cov=(cov + cov.T) / 2.0,
        past=past - (guess.with_y + past_y)[old] @ by_state,
    )
    added_var = guess.var + 2.0 * guess.with_past - _rowwise(guess.with_y, by_guess + 2.0 * by_past)
    return after, Outcome(
        mean=guess.mean + guess.with_y @ step[:, 0],
        added_var=added_var,
        back_mean=guess.mean + (guess.with_y + past_y) @ step[:, 0],
        back_var=added_var - _rowwise(past_y, by_past),
    )


def _rowwise(a: Floats, solved: Floats) -> Floats:
    product: Floats = np.einsum("wr,rw->w", a, solved)
    return product


def _noise_cov(m: Model, known: Known) -> Floats:
    """Covariance of the rows but for the state: wander, young workloads, node noise and edges."""
    wander = m.inner * (m.e @ m.e.T) + m.alike * ((m.x * m.loose) @ m.x.T)
    square = m.young_mean**2 + m.young_var
    wander += m.alike * ((m.young * square) @ m.young.T)
    b = m.block
    start_var = np.where(b.begins, 0.0, np.append(0.0, b.end_var[:-1])[: len(b.y)])
    edges = np.diag(start_var[1:], 1) if len(b.y) > 1 else np.zeros((len(b.y), len(b.y)))
    noise = np.diag(known.noise_j**2 * b.dt / BIN_S + b.end_var + start_var)
    cov: Floats = known.wander**2 * wander + (m.young * m.young_var) @ m.young.T
    cov += noise - edges - edges.T
    return cov


def _move(m: Model, columns: Floats, known: Known) -> Floats:
    """What becomes of these columns over the state, from the window's start to its end."""
    n, packages = len(m.state.who), m.state.packages
    idle, edge, slope = 2 * n, 2 * n + packages, 2 * n + 2 * packages
    moved = columns.copy()
    moved[n:idle] *= np.exp(-m.block.span_s / known.wander_s)
    moved[idle:edge] += m.block.span_s * columns[slope:]
    moved[edge:slope] = 0.0
    return moved


def _drift(m: Model, known: Known) -> tuple[Floats, Floats]:
    """Variance that the state gains by the window's end, and its covariance with the rows."""
    n, b = len(m.state.who), m.block
    drift = np.zeros((len(m.state.mean), len(b.y)))
    drift[n : 2 * n] = _to_end(m, known).T
    added = np.zeros(len(m.state.mean))
    added[n : 2 * n] = known.wander**2 * (1.0 - np.exp(-2.0 * b.span_s / known.wander_s))
    ends = np.flatnonzero(b.ends)
    edge = 2 * n + m.state.packages + b.package[ends]
    drift[edge, ends] = added[edge] = b.end_var[ends]
    return added, drift


def _to_end(m: Model, known: Known) -> Floats:
    """Covariance of the wander's energy in each row with what the wander gains by the end."""
    left = np.exp((m.block.mid_s - m.block.span_s) / known.wander_s)
    gained = left - np.exp(-m.block.span_s / known.wander_s) * m.fade
    cov: Floats = known.wander**2 * gained[:, None] * m.e
    return cov


def _guess(m: Model, known: Known) -> Guess:
    """Each workload's energy in the window before its rows are seen."""
    rows, many, n = len(m.block.y), len(m.old), len(m.state.who)
    guess = Guess(
        mean=np.zeros(many),
        var=np.zeros(many),
        with_y=np.zeros((many, rows)),
        with_state=np.zeros((n, len(m.state.mean))),
        with_past=np.zeros(many),
    )
    mean, cov, past, each = m.state.mean, m.state.cov, m.state.past, np.arange(n)
    used, wander = m.block.whole[m.old], m.e.T @ m.fade
    with_state = used[:, None] * cov[:n] + wander[:, None] * cov[n : 2 * n]
    inside = ((m.inner @ m.e) * m.e + (m.alike @ m.x) * m.x * m.loose).T * known.wander**2
    own = used * with_state[each, each] + wander * with_state[each, n + each]
    guess.mean[m.old] = used * mean[:n] + wander * mean[n : 2 * n]
    guess.var[m.old] = own + inside.sum(axis=1)
    guess.with_y[m.old] = used[:, None] * m.pz[:n] + wander[:, None] * m.pz[n : 2 * n] + inside
    guess.with_past[m.old] = used * past[each, each] + wander * past[each, n + each]
    _guess_young(m, guess, known)
    at_end = _move(m, with_state.T, known).T
    at_end[each, n + each] += _to_end(m, known).sum(axis=0)
    return replace(guess, with_state=at_end)


def _guess_young(m: Model, guess: Guess, known: Known) -> None:
    """Fill in the workloads that are not in the state: known by this window's rows alone."""
    whole, young = m.block.whole[~m.old], ~m.old
    square = known.wander**2 * (m.young_mean**2 + m.young_var)
    inside = ((m.alike @ m.young) * m.young * square).T
    guess.mean[young] = whole * m.young_mean
    guess.var[young] = whole**2 * m.young_var + inside.sum(axis=1)
    guess.with_y[young] = (whole * m.young_var)[:, None] * m.young.T + inside

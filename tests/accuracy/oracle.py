"""The best causal estimate that the data allow when everything but intensities and idle is known.

A reference for the estimator under test, of which it uses nothing. It is told what an estimator
must learn: the power curve, the size of every noise, the wander's size and time, the mean and
spread of the intensities, the size of idle's drift, and when and by how much (not which)
intensities change. It learns each workload's intensity and the idle power of each package, from
the same readings and from a cold start; its figures for a window use nothing that came later.

Model, for package p and row i (``oracle_rows``: from one reading to the next, 50 ms):

    y = idle_p dt + s(u) sum_w c_w (1 + d_w(t)) x_w + noise + edge_i - edge_(i-1)

with x the CPU seconds, s the known curve, d the wander (AR(1), one for a workload on all
packages) and edge the error of a reading (the counter is as old as its last update). All is taken
as Gaussian: a Kalman filter with the rows of a 3 s window as one measurement. Its state holds c,
the wander at the window's start, idle, the last readings' errors and idle's slope, so nothing is
lost from window to window. The product c d is linearised at the present estimate; what that leaves
out counts as noise. A workload's energy in a window is its best linear prediction from the rows.

A workload that appears later is not in the state for its first two windows: its intensity counts
as a random effect around the mean in each. Two approximations remain beside the linearisation:
intensities and the change are not Gaussian, and CPU time within a bin is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tests.accuracy.oracle_model import Known, changed, seated, start, update
from tests.accuracy.oracle_rows import BIN_S, BINS, block_of, meter_of, windows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.sim.generator import Run, Settings

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OracleResult:
    """Estimates of a run.

    By window: ``dynamic_j`` of each workload and ``idle_w`` of each package. Of the whole run, for
    each workload: ``sd_j``, the standard deviation of the sum of its windows; ``hindsight_j`` and
    ``hindsight_sd_j``, the best estimate of that sum when all data are there, which no estimate by
    window can reach.
    """

    dynamic_j: Floats
    idle_w: Floats
    sd_j: Floats
    hindsight_j: Floats
    hindsight_sd_j: Floats


@dataclass(frozen=True)
class Bound:
    """The error to be expected when idle is given, as a share of the residents' dynamic energy.

    ``causal`` of the best estimates by window, ``hindsight`` of the best at the end of the run.
    """

    causal: float
    hindsight: float


def oracle(run: Run) -> OracleResult:
    """The estimate of every window, idle estimated from a wide prior."""
    return _filter(run, _known(run.settings))


def identifiability(run: Run) -> Bound:
    """The error to be expected of the best estimate when the idle power is given too."""
    result = _filter(run, replace(_known(run.settings), idle_given=True))
    residents = slice(run.settings.workloads)
    scale = 0.5 * float(np.sqrt(2.0 / np.pi)) / float(run.total_dynamic_j()[residents].sum())
    return Bound(
        causal=scale * float(result.sd_j[residents].sum()),
        hindsight=scale * float(result.hindsight_sd_j[residents].sum()),
    )


def _known(s: Settings) -> Known:
    """What the oracle is told of these settings."""
    sd_j = 0.0 if s.equal else s.mean_j * float(np.sqrt(np.expm1(s.sigma**2)))
    return Known(
        mean_j=s.scale * s.mean_j,
        sd_j=s.scale * sd_j,
        residents=s.workloads,
        resident_mean_j=s.scale * float(np.mean(s.intensities or s.mean_j)),
        resident_sd_j=s.scale * (float(np.std(s.intensities)) if s.intensities else sd_j),
        wander=s.wander,
        wander_s=s.wander_s,
        noise_j=s.scale * s.node_noise_w * BIN_S / float(np.sqrt(s.packages)),
        drift_w_s=s.scale * s.idle_w * s.idle_drift / s.seconds,
        change_bin=round(s.seconds / 2 / BIN_S) if s.change != 1.0 else -1,
        change_mean=1.0 + s.changed * (s.change - 1.0),
        change_sd=abs(s.change - 1.0) * float(np.sqrt(s.changed * (1.0 - s.changed))),
        idle_given=False,
    )


def _filter(run: Run, known: Known) -> OracleResult:
    """All windows in turn."""
    meters = [meter_of(run, package) for package in range(run.settings.packages)]
    spans = windows_of(run, meters)
    joules = np.zeros((len(spans), run.n))
    watts = np.zeros((len(spans), len(meters)))
    var, back, back_var = np.zeros(run.n), np.zeros(run.n), np.zeros(run.n)
    state = start(block_of(run, meters, known.idle_given, spans[0]), meters, known)
    for k, span in enumerate(spans):
        block = block_of(run, meters, known.idle_given, span)
        born = run.alive[block.who, 0]
        old = (born == 0) | (born <= span[0] - 2 * BINS)
        if spans[max(k - 1, 0)][0] < known.change_bin <= span[0]:
            state = changed(state, known)
        state = seated(state, block.who[old], known)
        state, outcome = update(state, block, old, known)
        joules[k, block.who] = np.maximum(outcome.mean, 0.0)
        watts[k] = state.mean[2 * len(state.who) :][: len(meters)]
        if known.idle_given:
            watts[k] = run.idle_j[span[0] : span[1]].mean(axis=0) / BIN_S
        var[block.who] += outcome.added_var
        back[block.who] += outcome.back_mean
        back_var[block.who] += outcome.back_var
    return OracleResult(
        joules, watts, np.sqrt(np.maximum(var, 0.0)), back, np.sqrt(np.maximum(back_var, 0.0))
    )

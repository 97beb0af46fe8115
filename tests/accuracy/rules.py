"""The rules that are compared: each gives the joules of every resident from the same samples.

``pooled``  the window's dynamic energy by CPU time, 5 s or 3 s windows.  It is told the true idle
            energy, so that the share rule alone is judged.
``tychod``  the product's own analysis, fed window by window; it is told nothing.
``oracle``  ``tests/accuracy/oracle.py``: told the noise, the spread and the curve.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.accuracy.deliver import Delivery, leaf_id
from tests.sim.generator import Run
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Params, State
from tychod.model import Snapshot

Floats = NDArray[np.float64]

LATER_BIN = 1200
"""The bin at 60 s, where the printed second score begins."""


@dataclass(frozen=True)
class Estimate:
    """Joules of each resident over the run and from 60 s on; idle watts of the node by window."""

    whole: Floats
    later: Floats
    sd: Floats | None = None  # of ``whole``; None: the rule does not say
    idle_w: Floats | None = None


def pooled(run: Run, bins: int) -> Estimate:
    """Share each window's dynamic energy by CPU time; a window has ``bins`` bins."""
    edges = np.arange(0, run.bins + 1, bins)
    energy = np.diff(measured_j(run)[edges])
    idle = np.add.reduceat(run.idle_j.sum(axis=1), edges[:-1])
    dynamic = np.maximum(energy - idle, 0.0)
    residents = run.settings.workloads
    used = run_cpu(run)
    total = np.add.reduceat(node_cpu(run), edges[:-1])
    shares = np.add.reduceat(used, edges[:-1], axis=0) / np.maximum(total, 1.0)[:, None]
    by_window = dynamic[:, None] * shares
    later = by_window[LATER_BIN // bins :].sum(axis=0)
    return Estimate(by_window.sum(axis=0)[:residents], later[:residents])


def run_cpu(run: Run) -> Floats:
    """CPU nanoseconds of each resident in each bin, (bins, residents)."""
    residents, bins = run.settings.workloads, run.bins
    rows = run.flat_cpu_ns[: residents * bins].sum(axis=1)
    used: Floats = rows.reshape(residents, bins).T.astype(np.float64)
    return used


def node_cpu(run: Run) -> Floats:
    """CPU nanoseconds of all workloads in each bin, visitors included."""
    used: Floats = run.busy.sum(axis=1) * run.settings.cpus * 50e6
    return used


def measured_j(run: Run) -> Floats:
    """Energy since some moment at each edge of a bin, interpolated between the meter's readings."""
    total = np.zeros(run.bins + 1)
    for reads in run.reads:
        read = reads.native_uj >= 0
        moved = np.diff(reads.native_uj[read])
        moved += np.where(moved < 0, run.max_range_uj, 0)
        told_ns = reads.t_ns[read] - round(run.settings.delay_s * 1e9)
        joules = np.concatenate([[0.0], np.cumsum(moved)]) / 1e6
        total += np.interp(run.edges_ns, told_ns, joules)
    return total


def tychod(run: Run) -> Estimate:
    """What the daemon would have booked."""
    state, idle_w = State(), []
    params = Params(cpus=run.settings.packages * run.settings.cpus)
    snapshot, before = None, np.zeros(run.settings.workloads)
    for first, _, observations, window in Delivery(run).windows():
        if first == LATER_BIN:
            before = _booked_j(run, snapshot)[0]
        snapshot, state = analyse(observations, window, state, params)
        floor = snapshot.domains["package"].idle_floor
        idle_w.append(floor.power_w if floor else np.nan)
    whole, sd = _booked_j(run, snapshot)
    return Estimate(whole, whole - before, sd, np.array(idle_w))


def _booked_j(run: Run, snapshot: Snapshot | None) -> tuple[Floats, Floats]:
    """Dynamic joules of each resident so far, and their standard deviations."""
    leaves = {leaf.identity.id: leaf for leaf in (snapshot.leaves if snapshot else ())}
    found = np.zeros((2, run.settings.workloads))
    for workload in range(run.settings.workloads):
        leaf = leaves.get(leaf_id(workload))
        if leaf is not None:
            found[0, workload] = leaf.energy["package"].dynamic_uj / 1e6
            found[1, workload] = leaf.sd_uj.get("package", 0.0) / 1e6
    return found[0], found[1]


def oracle(run: Run) -> Estimate:
    """The reference that knows the noise."""
    from tests.accuracy.oracle import oracle as estimate  # slow to import

    told = estimate(run)
    joules = told.dynamic_j[:, : run.settings.workloads]
    later = joules[LATER_BIN // 60 :].sum(axis=0)
    return Estimate(joules.sum(axis=0), later, idle_w=told.idle_w.sum(axis=1))


def envelope_w(run: Run) -> Floats:
    """A simple idle envelope at each 3 s window, for comparison: the line through power against
    load in the quarter of the last 300 seconds with the lowest load."""
    power = np.diff(measured_j(run)).reshape(-1, 20).sum(axis=1)
    load = run.busy.mean(axis=1).reshape(-1, 20).mean(axis=1)
    found = []
    for window in range(1, len(power) // 3 + 1):
        near = slice(max(3 * window - 300, 0), 3 * window)
        low = np.argsort(load[near], kind="stable")[: max(3, (near.stop - near.start) // 4)]
        found.append(_intercept(load[near][low], power[near][low]))
    return np.array(found)


def _intercept(load: Floats, power: Floats) -> float:
    centred = load - load.mean()
    slope = max(float(centred @ power) / max(float(centred @ centred), 1e-9), 0.0)
    return max(float(power.mean()) - slope * float(load.mean()), 0.0)

"""One run of one row: how far each rule was from the truth."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.accuracy import rules
from tests.accuracy.rules import LATER_BIN, Estimate
from tests.sim.generator import Run, world
from tests.sim.rows import settings

Floats = NDArray[np.float64]

RULES: Mapping[str, Callable[[Run], Estimate]] = {
    "pooled 5 s": lambda run: rules.pooled(run, 100),
    "pooled 3 s": lambda run: rules.pooled(run, 60),
    "tychod": rules.tychod,
    "oracle": rules.oracle,
}
HEAVY = 0.02
"""A workload with this share of the energy counts for the worst one."""


@dataclass(frozen=True)
class Outcome:
    """Errors are per cent of the true dynamic energy of the workloads that are scored."""

    row: str
    seed: int
    whole: Mapping[str, float]  # by rule
    later: Mapping[str, float]
    worst: float  # relative error of tychod's worst heavy workload, per cent
    worst_sd: float  # what tychod said of it
    inside: int  # workloads whose 95 % interval holds the truth
    pairs: int  # workloads that were asked
    idle: Mapping[str, float]  # by rule: mean error of the idle power in the second half, per cent
    split: float  # of a pair: |estimated - pooled| share of the first
    both: bool  # of a pair: both intervals hold the truth
    seconds: Mapping[str, float]


def error(estimated: Floats, true: Floats) -> float:
    """Half the sum of the absolute errors, in per cent of the truth."""
    return float(50.0 * np.abs(estimated - true).sum() / true.sum())


def measure(row: str, seed: int) -> Outcome:
    """Run one seed of one row under every rule."""
    begun = time.perf_counter()
    run = world(settings(row, seed), seed)
    seconds = {"world": time.perf_counter() - begun}
    found: dict[str, Estimate] = {}
    for name, rule in RULES.items():
        begun = time.perf_counter()
        found[name] = rule(run)
        seconds[name] = time.perf_counter() - begun
    return compare(row, run, found, seconds)


def compare(
    row: str, run: Run, found: Mapping[str, Estimate], seconds: Mapping[str, float]
) -> Outcome:
    """Hold the estimates against the truth."""
    residents = run.settings.workloads
    true = run.total_dynamic_j()[:residents]
    later = run.total_dynamic_j(LATER_BIN)[:residents]
    ours = found["tychod"]
    inside = is_inside(ours, true)
    worst, worst_sd = _worst(ours, true)
    split, both = _pair(run, ours, inside) if run.settings.pair else (0.0, True)
    return Outcome(
        row=row,
        seed=run.seed,
        whole={name: error(e.whole, true) for name, e in found.items()},
        later={name: error(e.later, later) for name, e in found.items()},
        worst=worst,
        worst_sd=worst_sd,
        inside=int(inside.sum()),
        pairs=len(inside),
        idle=_idle_errors(run, found),
        split=split,
        both=both,
        seconds=seconds,
    )


def is_inside(estimate: Estimate, true: Floats) -> NDArray[np.bool_]:
    """Whose 95 % interval of the running total holds the truth."""
    sd = estimate.sd if estimate.sd is not None else np.zeros_like(true)
    return np.abs(estimate.whole - true) <= 1.96 * sd


def _worst(ours: Estimate, true: Floats) -> tuple[float, float]:
    heavy = true >= HEAVY * true.sum()
    if not heavy.any():
        return 0.0, 0.0
    relative = np.where(heavy, np.abs(ours.whole - true) / true, -1.0)
    which = int(relative.argmax())
    sd = float(ours.sd[which] / true[which]) if ours.sd is not None else 0.0
    return 100.0 * float(relative[which]), 100.0 * sd


def _idle_errors(run: Run, found: Mapping[str, Estimate]) -> dict[str, float]:
    true_w = run.idle_j.sum(axis=1).reshape(-1, 60).sum(axis=1) / 3.0
    told = {name: e.idle_w for name, e in found.items() if e.idle_w is not None}
    told["envelope"] = rules.envelope_w(run)
    half = len(true_w) // 2
    return {
        name: float(100.0 * np.mean(np.abs(watts[half:] / true_w[half:] - 1.0)))
        for name, watts in told.items()
    }


def _pair(run: Run, ours: Estimate, inside: NDArray[np.bool_]) -> tuple[float, bool]:
    """How far the split of residents 0 and 1 is from their CPU time's, and hold both intervals?"""
    used = rules.run_cpu(run)[:, :2].sum(axis=0)
    booked = ours.whole[:2]
    split = abs(float(booked[0] / max(booked.sum(), 1e-9) - used[0] / used.sum()))
    return split, bool(inside[:2].all())

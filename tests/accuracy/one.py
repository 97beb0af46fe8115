"""`python -m tests.accuracy.one ROW SEED`: one run in detail."""

import sys
import time

import numpy as np

from tests.accuracy.outcome import RULES, compare, is_inside
from tests.accuracy.rules import Estimate
from tests.sim.generator import Run, world
from tests.sim.rows import ROWS, settings


def show_workloads(run: Run, found: dict[str, Estimate]) -> None:
    """One line a resident: pattern, intensity, truth and what each rule says of it."""
    s = run.settings
    true = run.total_dynamic_j()[: s.workloads]
    ours = found["tychod"]
    sd = ours.sd if ours.sd is not None else np.zeros_like(true)
    names = [name for name in found if name != "pooled 5 s"]
    print(f"{'':>4} {'pattern':<8}{'J/s':>6}{'J/s':>6}{'true J':>10}", end="")
    print("".join(f"{name + ' %':>14}" for name in names) + f"{'sd %':>8}  in interval")
    inside = is_inside(ours, true)
    for i in range(s.workloads):
        off = "".join(f"{100 * (found[n].whole[i] / true[i] - 1):>+14.1f}" for n in names)
        base = "".join(f"{x:>6.2f}" for x in run.intensity_j[i])
        pattern = s.patterns[i % len(s.patterns)]
        print(f"{i:>4} {pattern:<8}{base}{true[i]:>10.1f}{off}", end="")
        print(f"{100 * sd[i] / true[i]:>8.1f}  {'yes' if inside[i] else 'NO'}")


def show_idle(run: Run, found: dict[str, Estimate]) -> None:
    """The idle power now and then: truth and estimates."""
    true_w = run.idle_j.sum(axis=1).reshape(-1, 60).sum(axis=1) / 3.0
    for window in sorted({0, 1, 4, 9, 19, *range(39, len(true_w), 20)}):
        told = "  ".join(
            f"{name} {e.idle_w[window]:.2f}" for name, e in found.items() if e.idle_w is not None
        )
        print(f"idle W at {3 * (window + 1):>4} s: true {true_w[window]:.2f}  {told}")


def main() -> int:
    """Print one run."""
    if len(sys.argv) < 3 or sys.argv[1] not in ROWS or not sys.argv[2].isdecimal():
        print(f"use: python -m tests.accuracy.one ROW SEED; rows: {', '.join(ROWS)}")
        return 2
    row, seed = sys.argv[1], int(sys.argv[2])
    run = world(settings(row, seed), seed)
    found: dict[str, Estimate] = {}
    seconds: dict[str, float] = {}
    for name, rule in RULES.items():
        begun = time.perf_counter()
        found[name] = rule(run)
        seconds[name] = time.perf_counter() - begun
    show_workloads(run, found)
    show_idle(run, found)
    outcome = compare(row, run, found, seconds)
    for name in found:
        errors = f"error {outcome.whole[name]:6.2f} %, after 60 s {outcome.later[name]:6.2f} %"
        print(f"{name:<11} {errors}, {seconds[name]:.2f} s")
    print(f"in interval {outcome.inside} of {outcome.pairs}; ", end="")
    print(f"worst {outcome.worst:.1f} % off, its sd {outcome.worst_sd:.1f} %; ", end="")
    print("idle error " + ", ".join(f"{n} {e:.2f} %" for n, e in outcome.idle.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

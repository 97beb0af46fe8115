"""`make accuracy`: the table of errors against known truth; exit 1 on any MISS.

Options by environment: SEEDS (40), SEED0 (1000: the published seeds; tune on others), ROWS (names
of rows or of parts of the second table, separated by spaces or commas; all), JSON (a file that
gets every outcome), TABLE (a file that gets what is printed; docs/accuracy.txt is the published
one).
"""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from tests.accuracy import hardware, targets
from tests.accuracy.figure import Figure
from tests.accuracy.hardware import PARTS, run_part
from tests.accuracy.outcome import Outcome, measure
from tests.accuracy.table import HEADER, Line, lines
from tests.sim.rows import ROWS

HEAVY_ROWS = ("mixed-200", "churn", "drift")
NOTES = """\
Error: half the sum over workloads of |estimated - true| / true total, whole run from a cold start.
Pooled rules are told the true idle power, so that the share rule alone is judged; tychod is told
nothing.  The oracle is told the noise, the spread of the intensities and the curve.
Worst one: the greatest relative error of a workload with 2 % of the energy, median over the seeds.
* mean error of the idle power over the second half; under "pooled 3 s" stands a simple envelope."""


def jobs(rows: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Every run that is needed, long ones first."""
    wanted: dict[tuple[str, int], None] = {}
    for row in rows:
        for seed in seeds[: targets.FEW.get(row, len(seeds))]:
            wanted[row, seed] = None
            if row in targets.BASIS:
                wanted[targets.BASIS[row], seed] = None
    return sorted(wanted, key=lambda job: job[0] not in HEAVY_ROWS)


def run_job(job: tuple[str, int]) -> Outcome:
    """One run, in a process of its own."""
    return measure(*job)


def run_all(wanted: Sequence[tuple[str, int]]) -> dict[str, list[Outcome]]:
    """All runs, one process a core; outcomes by row in the order of the seeds."""
    begun = time.perf_counter()
    found: dict[str, list[Outcome]] = {}
    with get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        for done, outcome in enumerate(pool.imap_unordered(run_job, wanted), 1):
            found.setdefault(outcome.row, []).append(outcome)
            tell_progress(done, len(wanted), time.perf_counter() - begun)
    return {row: sorted(some, key=lambda o: o.seed) for row, some in found.items()}


def tell_progress(done: int, wanted: int, spent_s: float) -> None:
    """One line that is written over on a terminal; in a log one line for a tenth of the runs."""
    if sys.stderr.isatty():
        end = "\n" if done == wanted else ""
        print(f"\r{done} of {wanted} runs, {spent_s:.0f} s ", end=end, file=sys.stderr, flush=True)
    elif done == wanted or done % max(wanted // 10, 1) == 0:
        print(f"{done} of {wanted} runs, {spent_s:.0f} s", file=sys.stderr, flush=True)


def choose_rows(text: str) -> tuple[list[str], list[str]]:
    """The rows and parts that ROWS names; none named: all of both tables."""
    named = text.replace(",", " ").split()
    unknown = [row for row in named if row not in ROWS and row not in PARTS]
    if unknown:
        known = ", ".join([*ROWS, *PARTS])
        raise SystemExit(f"ROWS: no such row: {', '.join(unknown)}; there are {known}")
    if not named:
        return list(targets.ORDER), list(PARTS)
    return [row for row in named if row in ROWS], [part for part in named if part in PARTS]


def run_parts(parts: Sequence[str], seeds: Sequence[int]) -> dict[str, list[Figure]]:
    """The figures of the second table, in the order of the parts."""
    if not parts:
        return {}
    print(f"then {', '.join(parts)}", file=sys.stderr, flush=True)
    with get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        found = dict(pool.imap_unordered(run_part, [(part, seeds) for part in parts]))
    return {part: found[part] for part in parts}


def read_number(name: str, default: int, least: int) -> int:
    """A number from the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise SystemExit(f"{name}={text}: must be a whole number, {least} or more")
    return int(text)


def main() -> int:
    """Print the table."""
    count, first = read_number("SEEDS", targets.FULL, 1), read_number("SEED0", 1000, 0)
    rows, parts = choose_rows(os.environ.get("ROWS", ""))
    begun, seeds = time.perf_counter(), range(first, first + count)
    found = run_all(jobs(rows, seeds)) if rows else {}
    figures = run_parts(parts, seeds)
    if "JSON" in os.environ:
        told = [asdict(o) for some in found.values() for o in some]
        told += [f._asdict() for some in figures.values() for f in some]
        Path(os.environ["JSON"]).write_text(json.dumps(told))
    with contextlib.redirect_stdout(io.StringIO()) as text:
        print(f"seeds {first} to {first + count - 1}")
        missed = print_rows(rows, found, count) if rows else 0
        missed += print_figures(figures)
        print(f"{missed} missed" if missed else "all targets reached", end="")
        print(f" in {time.perf_counter() - begun:.0f} s")
    print(text.getvalue(), end="")
    if "TABLE" in os.environ:
        Path(os.environ["TABLE"]).write_text(text.getvalue())
    return 1 if missed else 0


def print_rows(rows: Sequence[str], found: Mapping[str, list[Outcome]], count: int) -> int:
    """Print the first table; return how many targets were missed."""
    print(f"{NOTES}\n")
    if count < targets.FULL:
        print(f"{targets.__doc__}")
    print(HEADER)
    printed: list[Line] = []
    for row in rows:
        printed += lines(row, found[row], found.get(targets.BASIS.get(row, ""), []))
    print("\n".join(line.render() for line in printed))
    return sum(not line.is_ok for line in printed)


def print_figures(found: Mapping[str, list[Figure]]) -> int:
    """Print the second table; return how many targets were missed."""
    figures = [figure for some in found.values() for figure in some]
    if figures:
        print(f"\n{hardware.__doc__}")
        print("\n".join(figure.render() for figure in figures))
    return sum(not figure.is_ok for figure in figures)


if __name__ == "__main__":
    sys.exit(main())

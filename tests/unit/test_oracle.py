"""The reference of the accuracy table: causal, calibrated, and no copy of what it judges."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.accuracy.oracle import identifiability, oracle
from tests.sim.generator import Settings, world
from tests.sim.sensor import LOST, Reads

SMALL = Settings(seconds=15.0, workloads=6, cpus=4)
WINDOW = 60  # bins


def test_later_readings_change_nothing_earlier() -> None:
    """The estimate of a window stands when everything 0.1 s after its end reads otherwise."""
    run = world(SMALL, 1)
    cut_ns = 3 * WINDOW * 50_000_000 + 100_000_000
    reads = []
    for read in run.reads:
        later = (read.t_ns > cut_ns) & (read.native_uj != LOST)
        moved = (read.native_uj + np.cumsum(later) * 5_000_000) % run.max_range_uj
        reads.append(Reads(read.t_ns, np.where(later, moved, read.native_uj)))
    before, after = oracle(run), oracle(replace(run, reads=tuple(reads)))
    assert np.array_equal(before.dynamic_j[:3], after.dynamic_j[:3])
    assert np.array_equal(before.idle_w[:3], after.idle_w[:3])
    assert not np.allclose(before.dynamic_j[3:], after.dynamic_j[3:])


def test_it_knows_how_wrong_it_is() -> None:
    """The squared error over the predicted variance is 1 in the mean, whatever the curve."""
    squares = []
    for seed in range(24):
        run = world(replace(SMALL, curve=("linear", "sqrt", "exp")[seed % 3]), seed)
        found = oracle(run)
        errors = found.dynamic_j.sum(axis=0) - run.total_dynamic_j()
        squares.append(float(np.mean((errors / found.sd_j) ** 2)))
    scatter = float(np.std(squares, ddof=1)) / np.sqrt(len(squares))
    assert abs(np.mean(squares) - 1.0) < 3.0 * scatter


def test_hindsight_and_given_idle_help() -> None:
    """What is bound to be smaller is: hindsight against causal, and with idle against without."""
    run = world(SMALL, 2)
    bound, found = identifiability(run), oracle(run)
    expected = found.sd_j.sum() / np.sqrt(2.0 * np.pi) / run.total_dynamic_j().sum()
    assert 0.0 < bound.hindsight < bound.causal < expected


@pytest.mark.parametrize("visitors", [0.0, 5.0])
def test_windows_without_readings(visitors: float) -> None:
    """When the meter falls silent, the mean of what was learned stands in; nothing fails."""
    run = world(replace(SMALL, visitors=visitors), 3)
    silent = [
        Reads(read.t_ns, np.where(read.t_ns > 5_000_000_000, LOST, read.native_uj))
        for read in run.reads
    ]
    found = oracle(replace(run, reads=tuple(silent)))
    assert found.dynamic_j.shape == (5, run.n)
    assert np.isfinite(found.dynamic_j).all()
    assert (found.dynamic_j[:, : SMALL.workloads].sum(axis=1) > 0.0).all()


def test_it_is_independent_of_what_it_judges() -> None:
    """Nothing of tychod is imported by the oracle."""
    for path in (Path(__file__).parents[1] / "accuracy").glob("oracle*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "tychod"], path

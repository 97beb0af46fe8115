"""The node with known truth: its truth adds up, and its meter tells it within its own errors."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.sim.generator import Run, Settings, world
from tests.sim.rows import ROWS, random_settings, settings

Floats = NDArray[np.float64]

SHORT = Settings(seconds=12.0)
SMALL = [random_settings(np.random.default_rng(seed)) for seed in range(6)]


def true_j(run: Run) -> Floats:
    """All energy of each bin and package: idle, noise and what the workloads used."""
    at = np.concatenate([np.arange(a, b) for a, b in run.alive.tolist()])
    total: Floats = run.idle_j + run.noise_j
    for p in range(run.settings.packages):
        total[:, p] += np.bincount(at, run.flat_dynamic_j[:, p], run.bins)
    return total


def told_j(run: Run, package: int) -> tuple[Floats, Floats]:
    """Moments that a package's readings tell of in seconds, and joules since the first."""
    reads = run.reads[package]
    read = reads.native_uj >= 0
    moved = np.diff(reads.native_uj[read])
    moved = np.where(moved < 0, moved + run.max_range_uj, moved)
    moments = reads.t_ns[read] / 1e9 - run.settings.delay_s
    return moments, np.concatenate([[0.0], np.cumsum(moved)]) / 1e6


@pytest.mark.parametrize("small", SMALL)
def test_readings_tell_the_true_energy(small: Settings) -> None:
    """Between two readings inside the run the counter moved by the integral of the true power.

    The witness knows the energy of whole bins and not where in its bin a reading was made, so
    each reading leaves an interval for what the counter was at 0; all must have a point in common.
    """
    run = world(small, 3)
    energy = true_j(run)
    for p in range(small.packages):
        moments, joules = told_j(run, p)
        inside = (moments >= 0.05) & (moments <= small.seconds)
        edges = np.concatenate([[0.0], np.cumsum(energy[:, p])])
        latest = np.minimum((moments[inside] / 0.05).astype(int), run.bins - 1)
        earliest = ((moments[inside] - 2 * small.update_s) / 0.05).astype(int)
        begin = joules[inside]
        quantum = 2 * (small.quantum_uj + 1) / 1e6
        assert (begin - edges[latest + 1]).max() <= (begin - edges[earliest]).min() + quantum


def test_a_quiet_meter_is_exact() -> None:
    """Without lateness, jitter and noise, constant power: each reading is at most one update and
    one quantum behind the straight line, never before it."""
    quiet = replace(
        SHORT,
        workloads=1,
        sizes=(0.0,),
        node_noise_w=0.0,
        read_jitter_s=0.0,
        update_jitter_s=0.0,
        late_every=0,
        lost_every=0,
        wraps=0,
    )
    run = world(quiet, 1)
    for p in range(quiet.packages):
        moments, joules = told_j(run, p)
        line = quiet.idle_w * (moments - moments[0])
        slack = quiet.idle_w * quiet.update_s + quiet.quantum_uj / 1e6 + 2e-6
        assert np.abs(joules - line).max() <= slack
        assert (run.reads[p].native_uj % quiet.quantum_uj == 0).all()


def test_the_same_seed_is_the_same_run() -> None:
    """Equal to the bit; another seed is another run."""
    one, two, other = world(SHORT, 5), world(SHORT, 5), world(SHORT, 6)

    for name in ("flat_cpu_ns", "flat_dynamic_j", "idle_j", "noise_j", "intensity_j"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert all(
        np.array_equal(a.native_uj, b.native_uj) and np.array_equal(a.t_ns, b.t_ns)
        for a, b in zip(one.reads, two.reads, strict=True)
    )
    assert not np.array_equal(one.flat_cpu_ns, other.flat_cpu_ns)


def test_delay_and_scale_leave_the_node_alone() -> None:
    """The same work in the same bins: only the readings move, and energy is three times as much."""
    plain, late, strong = (
        world(s, 5) for s in (SHORT, replace(SHORT, delay_s=1.23), replace(SHORT, scale=3.0))
    )

    assert np.array_equal(plain.flat_cpu_ns, late.flat_cpu_ns)
    assert np.array_equal(plain.flat_dynamic_j, late.flat_dynamic_j)
    assert np.array_equal(plain.flat_cpu_ns, strong.flat_cpu_ns)
    np.testing.assert_allclose(strong.flat_dynamic_j, 3.0 * plain.flat_dynamic_j, rtol=1e-12)
    np.testing.assert_allclose(true_j(strong), 3.0 * true_j(plain), rtol=1e-12)


def test_no_package_uses_more_than_its_cpus() -> None:
    """Asked for three times what there is, a package runs at its limit and no further."""
    run = world(replace(SHORT, load=3.0, patterns=("steady",)), 2)
    used = run.cpu_ns.sum(axis=2)
    limit = run.settings.cpus * 50_000_000

    assert (used <= limit + run.n).all()  # a nanosecond of rounding for each workload
    assert (used[:, 0] >= limit - run.n).any()


def test_the_least_load_is_kept() -> None:
    """In no bin is the node less busy than asked."""
    run = world(replace(SHORT, load=0.1, patterns=("steady",), min_load=0.3), 2)

    assert run.busy.mean(axis=1).min() >= 0.3 - 1e-9


@pytest.mark.parametrize(
    ("pattern", "duty"), [("bursts", 0.5), ("blips", 0.2), ("square", 0.5), ("steady", 1.0)]
)
def test_patterns_run_as_often_as_they_should(pattern: str, duty: float) -> None:
    """Over many workloads the node's load is the expected one, within four times its scatter."""
    run = world(replace(SHORT, workloads=60, cpus=200, patterns=(pattern,), load=0.3), 4)
    used = run.cpu_ns.sum(axis=(0, 1)) / 1e9 / run.settings.seconds
    expected = 0.3 * run.settings.packages * run.settings.cpus

    assert abs(used.sum() - expected) <= 4 * used.std() * np.sqrt(len(used))
    busy = (run.cpu_ns.sum(axis=1) > 0).mean()
    assert busy >= duty * 0.9  # bins that are cut by an edge count too
    assert (busy == 1.0) == (pattern == "steady")


def test_counters_wrap_in_every_row() -> None:
    """At least once a run on each package, as on a machine that is up for long."""
    for row in ("mixed", "tenants", "churn"):
        run = world(replace(settings(row, 0), seconds=9.0), 0)
        for reads in run.reads:
            native = reads.native_uj[reads.native_uj >= 0]
            assert (np.diff(native) < 0).any()
            assert native.max() < run.max_range_uj


def test_truth_adds_up_however_it_is_asked() -> None:
    """Blocks, dense arrays and totals are one truth; who is not alive uses nothing."""
    run = world(replace(SHORT, workloads=3, visitors=20.0), 7)
    summed = np.zeros(run.n)
    for first in range(0, run.bins, 60):
        who, cpu, joules = run.block(first, first + 60)
        assert ((cpu > 0) == (joules > 0)).all()
        np.add.at(summed, who, joules.sum(axis=(0, 1)))
    np.testing.assert_allclose(summed, run.total_dynamic_j(), rtol=1e-9)
    np.testing.assert_allclose(run.dynamic_j[60:].sum(axis=(0, 1)), run.total_dynamic_j(60))
    dead = np.ones((run.bins, run.n), bool)
    for i, (born, gone) in enumerate(run.alive.tolist()):
        dead[born:gone, i] = False
    assert not run.cpu_ns.sum(axis=1)[dead].any()


def test_visitors_live_a_second_at_most() -> None:
    """Each lives 0.1 to 1 s and uses 0.1 to 0.5 CPU for it."""
    run = world(replace(SHORT, workloads=1, sizes=(1.0,), visitors=30.0), 7)
    lives = (run.alive[1:, 1] - run.alive[1:, 0]) * 0.05
    used = run.cpu_ns.sum(axis=(0, 1))[1:] / 1e9

    assert run.n == 1 + 30 * 12
    assert lives.min() >= 0.1
    assert lives.max() <= 1.0 + 2 * 0.05  # the bins at both ends
    assert used.min() >= 0.01 - 1e-9
    assert used.max() <= 0.5 + 1e-9


def test_a_pair_always_runs_together() -> None:
    """Their CPU time is in one proportion in every bin, but for the nanosecond of rounding."""
    run = world(replace(SHORT, pair=True), 3)
    one, two = (run.cpu_ns[:, :, i].astype(float) for i in (0, 1))
    ratio = one.sum() / two.sum()

    np.testing.assert_allclose(one, ratio * two, atol=1 + ratio)
    assert not np.isclose(run.intensity_j[0, 0], run.intensity_j[1, 0])


def test_joules_follow_the_intensities() -> None:
    """Without wander and curve, a workload's joules are its CPU seconds times its intensity."""
    run = world(replace(SHORT, wander=0.0, change=1.5), 3)
    half = run.bins // 2
    for part, column in ((slice(0, half), 0), (slice(half, None), 1)):
        spent = run.cpu_ns[part].sum(axis=(0, 1)) / 1e9
        joules = run.dynamic_j[part].sum(axis=(0, 1))
        np.testing.assert_allclose(joules, spent * run.intensity_j[:, column], rtol=1e-6)
    changed = run.intensity_j[:, 1] / run.intensity_j[:, 0]
    assert sorted(np.round(changed, 9).tolist()) == [1.0] * 10 + [1.5] * 10


@pytest.mark.parametrize("curve", ["linear", "sqrt", "exp"])
def test_the_curve_is_of_the_package(curve: str) -> None:
    """With equal intensities and steady load the package's power is the curve of its load."""
    flat = replace(SHORT, equal=True, wander=0.0, curve=curve, patterns=("square",), workloads=6)
    run = world(flat, 3)
    u = run.busy
    shape = {"linear": u, "sqrt": 0.75 * u + 0.25 * np.sqrt(u), "exp": 1 - np.exp(-u)}[curve]
    joules = run.dynamic_j.sum(axis=2)
    steady = np.abs(np.diff(u, axis=0, prepend=-1, append=-1)).reshape(-1, 2)
    steady = (steady[:-1] < 1e-9) & (
        steady[1:] < 1e-9
    )  # load moves neither in the bin nor beside it

    assert steady.any()
    expected = flat.mean_j * flat.cpus * 0.05 * shape
    np.testing.assert_allclose(joules[steady], expected[steady], rtol=1e-6)


def test_idle_drifts_by_what_was_asked() -> None:
    """From the first bin to the last, up or down as the seed has it."""
    ways = set()
    for seed in range(8):
        run = world(replace(SHORT, workloads=1, idle_drift=0.2), seed)
        way = 1.0 if run.idle_j[-1, 0] > run.idle_j[0, 0] else -1.0
        ways.add(way)
        ramp = 1.0 + way * 0.2 * (np.arange(run.bins) + 0.5) / run.bins
        np.testing.assert_allclose(run.idle_j[:, 0], run.settings.idle_w * 0.05 * ramp, rtol=1e-9)
    assert ways == {-1.0, 1.0}


def test_every_row_has_a_world() -> None:
    """No row of the table names a setting that the generator does not take."""
    for row in ROWS:
        run = world(replace(settings(row, 0), seconds=3.0), 0)
        assert run.n >= 2
        assert run.total_dynamic_j()[: run.settings.workloads].sum() > 0
    delays = {settings("delay", seed).delay_s for seed in range(9)}
    assert len(delays) == 9
    assert all(0.0 <= d <= 2.0 for d in delays)

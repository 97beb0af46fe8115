"""The accuracy table judges as it says, and the analysis gets what the daemon would have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.accuracy import table, targets
from tests.accuracy.deliver import START_NS, Delivery
from tests.accuracy.outcome import Outcome, error
from tests.accuracy.targets import Target
from tests.sim.generator import BIN_NS, Settings, world

ROOT = Path(__file__).resolve().parents[2]

SEEDS = targets.FULL
WORLD = Settings(seconds=12.0, workloads=3, visitors=20.0, delay_s=1.23, lost_every=50)


def outcome(seed: int, tychod: float = 1.0, inside: int = 19, **more: object) -> Outcome:
    """A run with the given error of tychod and no other oddity."""
    by_rule = {"pooled 5 s": 14.0, "pooled 3 s": 14.0, "tychod": tychod, "oracle": 1.0}
    plain = Outcome(
        row="mixed",
        seed=seed,
        whole=by_rule,
        later=by_rule,
        worst=10.0,
        worst_sd=8.0,
        inside=inside,
        pairs=20,
        idle={"tychod": 1.0, "oracle": 1.0, "envelope": 20.0},
        split=0.0,
        both=True,
        seconds={"tychod": 0.5},
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def verdicts(row: str, found: list[Outcome], basis: list[Outcome] | None = None) -> dict[str, bool]:
    """What is said of each figure of a row."""
    return {line.what: line.is_ok for line in table.lines(row, found, basis or [])}


def test_error_is_half_the_sum() -> None:
    """Energy given to the wrong workload counts once."""
    assert error(np.array([6.0, 4.0]), np.array([4.0, 6.0])) == pytest.approx(20.0)


def test_all_targets_hold_for_forty_seeds() -> None:
    """With the full number of seeds nothing is widened; fewer seeds widen, more never narrow."""
    for target in (*targets.ERROR.values(), *targets.IDLE.values()):
        assert targets.widened(target, SEEDS) == target
        assert targets.widened(target, 80) == target
    few = targets.widened(Target(4.2, 6.0), 3)
    more = 2.5 * 1.8 / 1.645 * (1 / 3 - 1 / 40) ** 0.5
    assert few == Target(pytest.approx(4.2 + more), pytest.approx(6.0 + more))
    assert targets.inside_limits(800, SEEDS) == (90.0, 99.0)
    assert targets.inside_limits(80, SEEDS) == (90.0, 100.0)  # 79.2 pairs of 80
    assert targets.pair_limit(SEEDS) == pytest.approx(80.0)


@pytest.mark.parametrize(("usual", "tail", "is_ok"), [(4.2, 6.0, True), (4.3, 4.3, False)])
def test_the_median_is_judged(usual: float, tail: float, *, is_ok: bool) -> None:
    """At the target is reached; above it is a miss."""
    found = [outcome(seed, usual) for seed in range(SEEDS - 2)]
    found += [outcome(SEEDS - k, tail) for k in (1, 2)]

    assert verdicts("mixed", found)["dynamic energy"] is is_ok


def test_the_tail_is_judged() -> None:
    """Three of forty runs above the 95th percentile's target are a miss whatever the median."""
    found = [outcome(seed, 1.0 if seed < SEEDS - 3 else 7.0) for seed in range(SEEDS)]

    assert not verdicts("mixed", found)["dynamic energy"]


@pytest.mark.parametrize(("inside", "is_ok"), [(17, False), (18, True), (19, True), (20, False)])
def test_intervals_may_be_neither_short_nor_long(inside: int, *, is_ok: bool) -> None:
    """From 90 to 99 % of the pairs."""
    found = [outcome(seed, inside=inside) for seed in range(SEEDS)]

    assert verdicts("mixed", found)["in 95 % interval"] is is_ok


def test_an_unknown_idle_power_is_a_miss() -> None:
    """A rule that tells no idle power has not reached its target."""
    found = [
        outcome(seed, idle={"tychod": float("nan"), "envelope": 20.0}) for seed in range(SEEDS)
    ]

    assert not verdicts("drift", found)["idle power *"]
    assert verdicts("drift", [outcome(seed) for seed in range(SEEDS)])["idle power *"]


def test_the_pair_is_judged_in_every_run() -> None:
    """One run with another split is a miss; so are intervals that hold in fewer than 80 %."""
    good = [outcome(seed, row="pair", split=0.02) for seed in range(SEEDS)]
    apart = [*good[1:], outcome(0, row="pair", split=0.021)]
    short = [replace(o, both=o.seed >= 9) for o in good]

    assert all(verdicts("pair", good).values())
    assert not verdicts("pair", apart)["split - pooled"]
    assert not verdicts("pair", short)["both intervals"]


def test_delay_and_scale_are_held_against_the_plain_row() -> None:
    """Half a point in the median for a delay; 0.2 points in every run for another scale."""
    plain = [outcome(seed, 3.0) for seed in range(SEEDS)]
    slow = [outcome(seed, 3.6) for seed in range(SEEDS)]
    one_off = [*plain[1:5], outcome(0, 3.3)]

    assert verdicts("delay", plain, plain)["dynamic energy"]
    assert not verdicts("delay", slow, plain)["dynamic energy"]
    assert verdicts("scale", plain[:5], plain)["all powers x 3"]
    assert not verdicts("scale", one_off, plain)["all powers x 3"]


def test_lines_end_in_their_verdict() -> None:
    """Each line tells its target, then ok or MISS."""
    for tychod, word in ((1.0, "ok"), (9.0, "MISS")):
        line = table.lines("mixed", [outcome(s, tychod) for s in range(SEEDS)], [])[0]
        assert line.render().endswith(f"<= 4.20, p95 <= 6.00  {word}")


def test_delivered_cpu_time_is_the_run_s() -> None:
    """Differences of the delivered samples are each bin's CPU time, visitors to their last bin; a
    workload is absent before its birth and after its end."""
    run = world(WORLD, 3)
    seen = np.zeros((run.bins, run.settings.packages, run.n), np.int64)
    for first, last, observations, window in Delivery(run).windows():
        assert observations.cpu is not None
        samples = observations.cpu.samples
        assert [s.t_ns for s in samples] == list(range(window.start_ns, window.end_ns + 1, BIN_NS))
        assert set(observations.identities) == {k for s in samples for k in s.keys.tolist()}
        at_edges = np.zeros((len(samples), run.settings.packages, run.n), np.int64)
        for row, sample in enumerate(samples):
            assert sample.package_ns is not None
            assert np.array_equal(sample.package_ns.sum(axis=0), sample.own_ns)
            at_edges[row][:, sample.keys - 1] = sample.package_ns
            born, gone = run.alive[sample.keys - 1].T
            assert ((born < first + row) | (born == 0)).all()
            assert (gone >= first + row).all()
        seen[first:last] = np.maximum(np.diff(at_edges, axis=0), 0)  # 0: gone
    assert np.array_equal(seen, run.cpu_ns)


def test_delivered_readings_surround_the_window() -> None:
    """One reading at or before each window's start and one at or after its end, by what they tell
    of; none is missing between, and a lost one is None."""
    run = world(WORLD, 3)
    delay_ns = round(WORLD.delay_s * 1e9)
    delivered: dict[int, tuple[int | None, ...]] = {}
    for _, _, observations, window in Delivery(run).windows():
        (series,) = observations.energy
        told_ns = [s.t_ns - series.delay_ns for s in series.samples]
        assert series.delay_ns == delay_ns
        assert told_ns[0] <= window.start_ns < told_ns[1]
        assert told_ns[-2] < window.end_ns <= told_ns[-1]
        delivered |= {s.t_ns: s.energy_uj for s in series.samples}
    made_ns = (run.reads[0].t_ns + START_NS).tolist()
    begin, end = (made_ns.index(t) for t in (min(delivered), max(delivered)))
    assert list(delivered) == made_ns[begin : end + 1]
    for p, reads in enumerate(run.reads):
        native = [v if v >= 0 else None for v in reads.native_uj[begin : end + 1].tolist()]
        assert [values[p] for values in delivered.values()] == native
        assert None in native


def test_the_published_table_is_a_whole_run() -> None:
    """The manual's table has the published seeds and every row, and was printed by this program."""
    lines = (ROOT / "docs" / "accuracy.txt").read_text().splitlines()
    rows = {line.split()[0] for line in lines if line.endswith(("ok", "MISS"))}

    assert lines[0] == f"seeds 1000 to {1000 + targets.FULL - 1}"
    assert set(targets.ORDER) <= rows
    assert table.HEADER.splitlines()[0] in lines
    assert {"BMC,", "GPU"} <= rows

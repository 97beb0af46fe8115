"""Time, buffers and lives: those of the reference's invariants that no other test holds.

Numbers in brackets are the reference's.
"""

import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.property.test_conservation import node, sums
from tests.sim.trace import BIN_NS, package
from tests.sim.world import MS, Load, Meter, World, container, unit, zone
from tychod.analysis.cpu import cpu_window
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Params, ProcessesSeen, State
from tychod.buffer import Buffer
from tychod.model import Snapshot, Window
from tychod.samples import (
    CpuSample,
    CpuSeries,
    EnergySample,
    EnergySeries,
    ProcessSeries,
    ProcessUse,
)

S = 1_000 * MS
PARAMS = Params(cpus=4)
WORLD = World(
    (Load(1, unit("a.service"), 0.5), Load(2, unit("b.service"), 0.3)),
    {"rapl": (Meter(zone("package-0"), 10.0, 10.0),)},
    tuple(range(0, 40 * S, 50 * MS)),
    tuple(range(0, 40 * S, 50 * MS)),
)


def plain_sample(t_ns: int, value: int = 0) -> EnergySample:
    """Return a reading of one zone."""
    return EnergySample(t_ns, (value,))


def test_times_never_decrease() -> None:
    """[1] A sample that is not newer than the last is refused."""
    buffer: Buffer[EnergySample] = Buffer(10)

    assert [buffer.append(plain_sample(t)) for t in (5, 6, 6, 4, 7)] == [
        True, True, False, False, True,
    ]  # fmt: skip
    assert [s.t_ns for s in buffer.cut(0, 100)] == [5, 6, 7]


def test_a_buffer_loses_only_the_oldest() -> None:
    """[11] It never holds more than its capacity, and views are in the order of time."""
    buffer: Buffer[EnergySample] = Buffer(5)
    for t in range(1, 20):
        buffer.append(plain_sample(t))
        kept = [s.t_ns for s in buffer.cut(0, 100)]

        assert len(buffer) == len(kept) == min(t, 5)
        assert kept == list(range(max(t - 4, 1), t + 1))


def test_a_cut_has_a_sample_on_either_side() -> None:
    """[12] All of a window, the last before it and the first after it, so its ends are known."""
    buffer: Buffer[EnergySample] = Buffer(100)
    for t in range(10, 100, 10):
        buffer.append(plain_sample(t))

    assert [s.t_ns for s in buffer.cut(25, 55)] == [20, 30, 40, 50, 60]
    assert [s.t_ns for s in buffer.cut(30, 50)] == [30, 40, 50]


def test_no_reader_sees_half_a_sample() -> None:
    """[13] While another thread adds, each view is whole, in order and of true samples."""
    buffer: Buffer[EnergySample] = Buffer(64)
    stop = threading.Event()

    def add() -> None:
        for t in range(1, 20_000):
            buffer.append(plain_sample(t, -t))
            if stop.is_set():
                return

    writer = threading.Thread(target=add)
    writer.start()
    try:
        for _ in range(200):
            seen = buffer.cut(0, 1 << 40)
            assert all(b.t_ns == a.t_ns + 1 for a, b in pairwise(seen))
            assert all(s.energy_uj == (-s.t_ns,) for s in seen)
    finally:
        stop.set()
        writer.join()


def test_one_window_for_all() -> None:
    """[3, 26] Every part of a snapshot is of one window, which nobody can change."""
    window = Window(3 * S, 6 * S)
    snapshot, _ = analyse(WORLD.observe(window), window, State(), PARAMS)

    assert snapshot.window == window
    with pytest.raises(AttributeError):
        snapshot.window.end_ns = 0  # type: ignore[misc]
    assert len({leaf.first_seen_ns for leaf in snapshot.leaves}) == 1
    assert {d.through_ns for d in snapshot.domains.values()} == {window.end_ns}


def test_what_is_published_is_final() -> None:
    """[9] Samples of an earlier window that turn up late change neither it nor the next one."""
    first, second = Window(0, 3 * S), Window(3 * S, 6 * S)
    one, state = analyse(WORLD.observe(first), first, State(), PARAMS)
    told = repr(one)
    expected, _ = analyse(WORLD.observe(second), second, state, PARAMS)
    seen = WORLD.observe(second)
    (series,) = seen.energy
    assert seen.cpu is not None
    late = tuple(plain_sample(t, 10**9) for t in range(S, 2 * S, 50 * MS))
    old = tuple(WORLD.cpu_sample(t) for t in range(S, 2 * S, 50 * MS))
    more = replace(
        seen,
        energy=(replace(series, samples=(*late, *series.samples)),),
        cpu=replace(seen.cpu, samples=(*old, *seen.cpu.samples)),
    )

    assert analyse(more, second, state, PARAMS)[0] == expected
    assert repr(one) == told


def slow(interval_ms: int) -> list[Snapshot]:
    """Return windows of 3 s over a meter that is read once in a while."""
    times = tuple(range(0, 40 * S, interval_ms * MS))
    edges = [t * S for t in range(0, 31, 3)]
    return replace(WORLD, energy_times=times).run(edges, PARAMS)


@pytest.mark.parametrize("interval_ms", [2_900, 5_000])
def test_one_reading_in_a_window_is_enough(interval_ms: int) -> None:
    """[36, not ours] A window with one reading, or none, has the energy between its neighbours.

    The reference says nothing then, and what was used is in no window.  Here nothing is made up:
    all together it is what the meter counted, 10 W + 10 W per busy CPU, and every sum is exact.
    """
    run = slow(interval_ms)

    assert all(sums(snapshot) == node(snapshot) for snapshot in run)
    assert run[-1].domains["package"].energy_uj == pytest.approx(30 * 18_000_000, abs=len(run))


def test_a_single_reading_ever_is_no_energy() -> None:
    """[36] With one reading and no other nothing is known: no energy, no power, not 0 W."""
    window = Window(0, 3 * S)
    seen = WORLD.observe(window)
    (series,) = seen.energy
    alone: EnergySeries = replace(series, samples=series.samples[10:11])
    snapshot, _ = analyse(replace(seen, energy=(alone,)), window, State(), PARAMS)

    assert snapshot.domains["package"].energy_uj == 0
    assert snapshot.domains["package"].power_w is None


def test_first_sight_at_the_start_and_later() -> None:
    """[37, 68, not ours] What existed before the daemon brings no past; what is born since has all.

    The reference gives nobody the first value of a counter, so short lives cost nothing there.
    """
    old = Load(1, unit("old.service"), 0.5)
    new = Load(2, unit("new.service"), 0.5, born_ns=13_100 * MS)
    world = replace(WORLD, loads=(old, new))
    run = world.run([12 * S, 15 * S], PARAMS)
    leaves = {leaf.identity.id: leaf for leaf in run[0].leaves}

    assert leaves["old.service"].cpu_ns == 1_500 * MS
    assert leaves["new.service"].cpu_ns == 950 * MS
    energy_uj = leaves["new.service"].energy["package"].dynamic_uj
    sd_uj = leaves["new.service"].sd_uj["package"]
    assert abs(energy_uj - 9_500_000) <= 4 * sd_uj
    assert energy_uj > 0


def test_a_sample_over_an_end_is_shared_out() -> None:
    """[vector 12] 40 of a tick's 50 ms are in the window: 80 % of it, and the next has the rest."""
    keys = np.array([1], np.int64)
    samples = tuple(
        CpuSample(t * MS, keys, np.array([own], np.int64), np.array([own], np.int64), 0)
        for t, own in ((0, 0), (950, 0), (1_000, 1_000), (2_000, 1_000))
    )
    series, one, other = CpuSeries("cgroup-v2", samples, {}), Window(0, 990 * MS), 2_000 * MS
    first = cpu_window(series, one, State())
    state = State(end_ns=one.end_ns, consumed_ns=first.consumed_ns)
    second = cpu_window(series, Window(one.end_ns, other), state)

    assert int(first.used_ns.sum()) == 800
    assert int(second.used_ns.sum()) == 200


def test_a_pid_that_is_used_again_is_another_process() -> None:
    """[19, 25] The new process begins at 0 and the old one keeps what it had."""
    begun = [ProcessUse(7, 50 * S, "old", 1, 900 * MS, exited=False)]
    gone = [begun[0]._replace(exited=True), ProcessUse(7, 90 * S, "new", 2, 0, exited=False)]
    grown = [gone[0], gone[1]._replace(cpu_ns=200 * MS)]
    state, shown = State(), []
    for k, uses in enumerate((begun, gone, grown)):
        window = Window(k * 3 * S, (k + 1) * 3 * S)
        series = ProcessSeries(window.end_ns, "procfs", tuple(uses))
        seen = replace(WORLD.observe(window), processes=ProcessesSeen(series, None, 0))
        snapshot, state = analyse(seen, window, state, PARAMS)
        assert snapshot.processes is not None
        shown.append({p.comm: p for p in snapshot.processes.entries})

    assert shown[2]["old"].cpu_ns == shown[1]["old"].cpu_ns == shown[0]["old"].cpu_ns
    assert shown[2]["old"].energy == shown[0]["old"].energy
    assert shown[2]["new"].cpu_ns == 200 * MS
    assert shown[2]["new"].workload == "b.service"


def test_a_pod_made_anew_does_not_inherit() -> None:
    """[74] Same namespace, pod and container name, another uid: it begins at 0."""
    first = replace(container(1, 1), name="web")
    second = replace(container(2, 2), name="web", pod=first.pod, namespace=first.namespace)
    loads = (Load(1, first, 0.5, dies_ns=4 * S), Load(2, second, 0.5, born_ns=7 * S))
    run = replace(WORLD, loads=loads).run([0, 3 * S, 6 * S, 9 * S], PARAMS)
    seen = [{leaf.identity.id: leaf for leaf in snapshot.leaves} for snapshot in run]

    assert seen[2][second.id].cpu_ns == S
    assert seen[2][first.id].cpu_ns == seen[1][first.id].cpu_ns > 0
    assert seen[2][first.id].energy == seen[1][first.id].energy
    assert seen[2][first.id].state == "terminated"


def test_a_longer_cycle_has_the_bins_of_the_shorter_ones() -> None:
    """[4, 7] A window of two lengths: energy, CPU time and bins are those of two windows."""
    busy = np.random.default_rng(1).uniform(0.0, 2.0, (240, 2))
    trace = package(busy, 20.0, [10.0, 20.0])
    apart, double = trace.run(), trace.run(bins=120)

    assert [s.window.start_ns for s in double[1:]] == [s.window.end_ns for s in double[:-1]]
    assert sum(s.window.seconds for s in double) == pytest.approx(240 * BIN_NS / 1e9)
    for k, snapshot in enumerate(double):
        twin = apart[2 * k + 1]
        assert snapshot.domains["package"].energy_uj == twin.domains["package"].energy_uj
        assert [x.cpu_ns for x in snapshot.leaves] == [x.cpu_ns for x in twin.leaves]

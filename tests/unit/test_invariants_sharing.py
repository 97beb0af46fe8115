"""Who gets which energy: the reference's invariants 31, 35, 56 and 60 to 72, and vectors 1, 3, 5.

Numbers in brackets are the reference's; its mJ are uJ here and its ``__system__`` is ``kernel``,
``system`` and ``unattributed``.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.property.test_conservation import node, sums
from tests.sim.trace import BIN_NS, Floats, Trace, analysed, package
from tests.sim.world import container
from tychod.analysis.state import Observations, Params
from tychod.model import Identity, Leaf, Snapshot, Window
from tychod.samples import EnergySample, EnergySeries, EnergyZone

CPUS = 4
SIGMAS = 4.0
ROUNDING = 1e-8
"""Relative: sums of products of floats in another order."""
W = ("w0", "w1")


def leaves(snapshot: Snapshot) -> dict[str, Leaf]:
    """Return the leaves by id."""
    return {leaf.identity.id: leaf for leaf in snapshot.leaves}


def dynamic_uj(snapshot: Snapshot, leaf_id: str, domain: str = "package") -> int:
    """Return the dynamic energy of a leaf."""
    return leaves(snapshot)[leaf_id].energy[domain].dynamic_uj


def bursts(seconds: int, workloads: int, seed: int = 3) -> Floats:
    """Return busy CPUs: each workload on or off for a quarter of a second at a time."""
    drawn = np.random.default_rng(seed).uniform(0.0, 1.0, (4 * seconds, workloads))
    found: Floats = np.repeat(np.where(drawn < 0.5, 0.0, drawn), 5, axis=0)
    return found


def changed(trace: Trace, identities: Mapping[int, Identity | None]) -> list[Snapshot]:
    """Analyse a trace in which some keys have another identity, or none."""
    windows = []
    for seen, window in trace.windows():
        known = {k: identities.get(k, who) for k, who in seen.identities.items()}
        named = {k: who for k, who in known.items() if who is not None}
        windows.append((replace(seen, identities=named), window))
    return analysed(windows, Params(cpus=trace.cpus))


NAMED = {
    0: replace(container(1, 1), requests={"cpu_millicores": 500}, owner="Deployment/web"),
    1: replace(container(2, 2), requests={"cpu_millicores": 250}, labels={"app": "db"}),
    2: replace(container(3, 2), qos="Burstable"),
}


def test_names_that_are_lost_move_no_dynamic_energy() -> None:
    """[31, 84] Without any word of the kubelet each workload has the same energy, to the bit.

    The reference gives everything to its system then; here the cgroup says who it is.
    """
    trace = replace(package(bursts(15, 3), 40.0, [10.0, 20.0, 15.0]), names=NAMED)
    bare = {
        k + 1: Identity(who.kind, who.id, who.id[:12], cgroup=who.cgroup, pod_uid=who.pod_uid)
        for k, who in NAMED.items()
    }

    for snapshot, without in zip(trace.run(), changed(trace, bare), strict=True):
        assert snapshot.domains == without.domains
        for leaf_id, leaf in leaves(snapshot).items():
            assert leaves(without)[leaf_id].energy == leaf.energy
            assert leaves(without)[leaf_id].sd_uj == leaf.sd_uj


@pytest.mark.parametrize("lost", [(1,), (3,)])
def test_who_is_not_known_costs_only_itself(lost: tuple[int, ...]) -> None:
    """[31] A cgroup without identity is unattributed; others keep theirs but for rounding."""
    trace = package(bursts(15, 3), 40.0, [10.0, 20.0, 15.0])
    whole, part = trace.run()[-1], changed(trace, dict.fromkeys(lost))[-1]
    allowed = 2 * whole.sequence + whole.domains["package"].energy_uj * ROUNDING

    assert sums(part) == node(part)
    for k in (1, 2, 3):
        if k not in lost:
            name = f"w{k - 1}"
            assert abs(dynamic_uj(part, name) - dynamic_uj(whole, name)) <= allowed
    moved = sum(dynamic_uj(whole, f"w{k - 1}") for k in lost)
    assert abs(dynamic_uj(part, "unattributed") - moved) <= allowed


def test_parts_that_exceed_the_whole_are_told_as_counted() -> None:
    """[35, vector 5] Core and uncore count 130 W, the package 100 W: nothing is clamped.

    Each domain is split by itself and adds up to what its own meter counted.
    """
    busy = bursts(9, 2)
    work = busy.sum(axis=1)
    powers = {
        "package-0": 80.0 + 10.0 * work,
        "core": 70.0 + 10.0 * work,
        "uncore": 40.0 + 0.0 * work,
    }
    (*_, last) = Trace(busy, powers).run()

    assert sums(last) == node(last)
    for name, watts in powers.items():
        counted_uj = last.domains[name.partition("-")[0]].energy_uj
        assert counted_uj == pytest.approx(watts.sum() * 0.05 * 1e6, abs=1)


def test_who_does_nothing_has_no_dynamic_energy() -> None:
    """[63] A workload that sleeps beside busy ones has 0 uJ and 0 W, in every window."""
    busy = np.hstack([bursts(12, 2), np.zeros((240, 1))])
    for snapshot in package(busy, 40.0, [10.0, 20.0, 0.0]).run():
        sleeper = leaves(snapshot)["w2"]
        assert sleeper.energy["package"].total_uj == 0
        assert sleeper.power_w["package"] == 0.0


def test_half_the_time_is_half_the_energy() -> None:
    """[66] Two of one intensity, one of them active half the time: 1 : 2 within the error told."""
    on = np.random.default_rng(8).permutation(np.repeat([0.0, 1.0], 60))
    busy = np.stack([np.repeat(on, 10), np.ones(1200)], axis=1)
    last = package(busy, 40.0, [12.0, 12.0]).run()[-1]
    half, full = leaves(last)["w0"], leaves(last)["w1"]
    ratio = half.energy["package"].dynamic_uj / full.energy["package"].dynamic_uj
    error = (half.sd_uj["package"] + 0.5 * full.sd_uj["package"]) / full.energy[
        "package"
    ].dynamic_uj

    assert abs(ratio - 0.5) <= SIGMAS * error
    assert ratio == pytest.approx(0.5, abs=0.1)  # so that the error told is not anything at all


def test_shares_follow_the_bins_and_not_the_window() -> None:
    """[70, vector 3] Bins of 80 and 20 J, used by one workload each: 80 : 20, pooled it is 50 : 50.

    In the very first window nothing is known, so the shares are the bins' own, to the microjoule.
    """
    busy = np.array([[1.0, 0.0], [0.0, 1.0]])
    trace = Trace(busy, {"package-0": np.array([80.0, 20.0]) / 0.05})
    (snapshot,) = analysed([(trace.observe(0, 2), Window(0, 2 * BIN_NS))], Params(cpus=CPUS))

    assert dynamic_uj(snapshot, "w0") == 80_000_000
    assert dynamic_uj(snapshot, "w1") == 20_000_000
    assert sums(snapshot) == node(snapshot)


def test_the_same_work_at_twice_the_watts_has_twice_the_energy() -> None:
    """[70] CPU time at 10 and at 20 W: true within the error told, and the pooled share is not."""
    trace = package(bursts(60, 2), 40.0, [10.0, 20.0])
    last = trace.run()[-1]
    work_s = trace.busy.sum(axis=0) * 0.05
    total = dynamic_uj(last, "w0") + dynamic_uj(last, "w1")
    for k, watts in enumerate((10.0, 20.0)):
        leaf = leaves(last)[f"w{k}"]
        true_uj, pooled_uj = 1e6 * watts * work_s[k], total * work_s[k] / work_s.sum()
        error_uj = SIGMAS * leaf.sd_uj["package"]

        assert abs(dynamic_uj(last, f"w{k}") - true_uj) <= error_uj
        assert abs(pooled_uj - true_uj) > error_uj
    assert sums(last) == node(last)


@pytest.mark.parametrize("other", [0, 1])
def test_merged_workloads_have_the_sum(other: int) -> None:
    """[61, 62] Two cgroups of one workload have what two of its intensity had together.

    Apart each has an error of its own; the sums differ by no more than those.
    """
    trace = package(bursts(30, 3), 40.0, [15.0, 15.0, 8.0])
    apart = trace.run()[-1]
    one = trace.identity(other)
    together = changed(trace, {1: one, 2: one})[-1]
    pair = [leaves(apart)[f"w{k}"] for k in (0, 1)]
    whole = leaves(together)[one.id]
    allowed = SIGMAS * sum(leaf.sd_uj["package"] for leaf in (*pair, whole))
    parts = sum(leaf.energy["package"].dynamic_uj for leaf in pair)

    assert whole.cpu_ns == sum(leaf.cpu_ns for leaf in pair)
    assert abs(whole.energy["package"].dynamic_uj - parts) <= allowed
    assert allowed < 0.5 * parts  # it does say something


def with_misses(per_cpu_s: tuple[float, float]) -> Trace:
    """Return two workloads with a CPU each, always, and so many cache misses a CPU second."""
    busy = np.ones((240, 2))
    powers = {"package-0": np.full(240, 60.0), "dram": np.full(240, 9.0)}
    return Trace(busy, powers, misses=busy * 0.05 * np.array(per_cpu_s))


def test_memory_goes_by_cache_misses_where_there_are_any() -> None:
    """[71] Without a miss the whole window falls back to CPU time, and its flag says so."""
    by_misses, without = with_misses((3e6, 1e6)).run(), with_misses((0.0, 0.0)).run()

    assert all("fallback-activity" in s.domains["dram"].flags for s in without)
    assert "fallback-activity" in by_misses[0].domains["dram"].flags  # nothing to compare with yet
    assert not any("fallback-activity" in s.domains["dram"].flags for s in by_misses[1:])
    for run, ratio in ((without, 1.0), (by_misses, 3.0)):
        assert all(sums(snapshot) == node(snapshot) for snapshot in run)
        one, other = (dynamic_uj(run[-1], n, "dram") - dynamic_uj(run[0], n, "dram") for n in W)
        assert one / other == pytest.approx(ratio, rel=1e-3)
    for leaf in ("w0", "w1"):
        assert dynamic_uj(without[-1], leaf) == dynamic_uj(by_misses[-1], leaf)  # of the package


LIMIT_UJ = 2**32 * 61


@pytest.mark.parametrize("begin_uj", [0, LIMIT_UJ - 10_000_000])
def test_ten_watts_are_ten_watts(begin_uj: int) -> None:
    """[vector 1] 30 J in 3 s are 10 W, with and without a wrap of the counter at 2^32 units."""
    zone = EnergyZone("rapl:package-0", "package", "package-0", 0, LIMIT_UJ, 1000.0)
    end_uj = (begin_uj + 30_000_000) % LIMIT_UJ
    samples = (EnergySample(0, (begin_uj,)), EnergySample(3_000_000_000, (end_uj,)))
    seen = Observations((EnergySeries("rapl", "measured", (zone,), samples, {}),), None, {}, 10**18)
    (snapshot,) = analysed([(seen, Window(0, 3_000_000_000))], Params(cpus=CPUS))

    assert snapshot.domains["package"].power_w == 10.0
    assert snapshot.domains["package"].energy_uj == 30_000_000

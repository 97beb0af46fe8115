"""The measurement core on random small nodes: what holds whatever the node is like.

Numbers in brackets are those of the reference's invariants.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.accuracy.deliver import Delivery
from tests.property.test_conservation import node, sums
from tests.sim.generator import Run, world
from tests.sim.rows import random_settings
from tychod.analysis import domain as domains
from tychod.analysis.columns import Rows
from tychod.analysis.intensity import Estimate, learn
from tychod.analysis.learned import Learned
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, State
from tychod.model import Leaf, Snapshot, Window
from tychod.samples import CpuSample, CpuSeries, EnergySample, EnergySeries

SEEDS = st.integers(0, 10_000)
FEW = settings(max_examples=10)
"""A run of a small node takes some 60 ms."""


class Case(NamedTuple):
    """A node, and what the daemon would have seen of each of its windows."""

    run: Run
    windows: tuple[tuple[Observations, Window], ...]

    @property
    def params(self) -> Params:
        """Settings of the analysis on this node."""
        return Params(cpus=self.run.settings.packages * self.run.settings.cpus)


def case(seed: int) -> Case:
    """Return the node of a seed; its meters know what it draws at most: their ranges are small."""
    run = world(random_settings(np.random.default_rng(seed)), seed)
    most_w = 2.0 * float(np.max(np.diff(true_j(run), axis=0))) / 0.05

    def bounded(seen: Observations) -> Observations:
        (series,) = seen.energy
        zones = tuple(zone._replace(max_power_w=most_w) for zone in series.zones)
        return replace(seen, energy=(replace(series, zones=zones),))

    windows = Delivery(run).windows()
    return Case(run, tuple((bounded(seen), window) for _, _, seen, window in windows))


def analysed(
    one: Case, change: Callable[[Observations], Observations] = lambda seen: seen
) -> list[Snapshot]:
    """Analyse all windows, each observation changed before."""
    return [snapshot for snapshot, _ in steps(one, change)]


def steps(
    one: Case, change: Callable[[Observations], Observations] = lambda seen: seen
) -> Iterator[tuple[Snapshot, State]]:
    """Analyse all windows, with the state after each."""
    state = State()
    for seen, window in one.windows:
        snapshot, state = analyse(change(seen), window, state, one.params)
        yield snapshot, state


def leaves(snapshot: Snapshot) -> dict[str, Leaf]:
    """Return the leaves by id."""
    return {leaf.identity.id: leaf for leaf in snapshot.leaves}


@given(SEEDS)
@FEW
def test_every_microjoule_lands_once(seed: int) -> None:
    """[49, 50, 56, 59] Each window: leaves = node = zones, by kind, and nothing is negative."""
    for snapshot in analysed(case(seed)):
        assert sums(snapshot) == node(snapshot)
        assert snapshot.conservation_violations == 0
        for domain in snapshot.domains.values():
            assert domain.energy_uj == sum(zone.energy_uj for zone in domain.zones)
            assert domain.idle_uj is not None
            assert domain.dynamic_uj is not None
            assert domain.energy_uj == domain.idle_uj + domain.dynamic_uj
            assert min(domain.idle_uj, domain.dynamic_uj) >= 0
        for leaf in snapshot.leaves:
            assert all(min(e.idle_uj, e.dynamic_uj) >= 0 for e in leaf.energy.values())
            assert all(power >= 0.0 for power in leaf.power_w.values() if power is not None)
            assert all(uj >= 0.0 for uj in leaf.sd_uj.values())
            assert all(rate > 0.0 for rate in leaf.intensity.values())


@given(SEEDS)
@FEW
def test_zones_count_what_the_meter_counted(seed: int) -> None:
    """[14, 34] Through wraps, lost and late reads a zone has the true energy of its package.

    Allowed: at each end of the run the energy between the readings around it, and one update.
    """
    one = case(seed)
    last = analysed(one)[-1]
    settled, truth = one.run.settings, true_j(one.run)
    for p, zone in enumerate(last.domains["package"].zones):
        told = [t / 1e9 - settled.delay_s for t in one.run.reads[p].t_ns.tolist()]
        got = [t for t, uj in zip(told, one.run.reads[p].native_uj, strict=True) if uj >= 0]
        begin, end = max(0.0, got[0]), min(settled.seconds, got[-1])
        gap_s = max(b - a for a, b in pairwise(got)) + 2 * settled.update_s
        power_w = np.diff(truth[:, p]) / 0.05
        edge_w = [at(power_w, t, gap_s) for t in (begin, end)]
        slack_j = sum(edge_w) * gap_s + 2e-6 * settled.quantum_uj
        expected = np.interp([begin, end], np.arange(len(truth)) * 0.05, truth[:, p])

        assert abs(zone.energy_uj / 1e6 - (expected[1] - expected[0])) <= slack_j


def true_j(run: Run) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return each package's true energy at every edge of a bin, in joules."""
    _, _, dynamic = run.block(0, run.bins)
    power = dynamic.sum(axis=2) + run.idle_j + run.noise_j
    return np.vstack([np.zeros(power.shape[1]), np.cumsum(power, axis=0)])


def at(power_w: np.ndarray[tuple[int], np.dtype[np.float64]], t_s: float, gap_s: float) -> float:
    """Return the largest power within a gap of a moment."""
    first, last = int(max(t_s - gap_s, 0) / 0.05), int((t_s + gap_s) / 0.05) + 1
    return float(np.max(power_w[min(first, len(power_w) - 1) : last]))


def timeless(leaf: Leaf) -> Leaf:
    """Return a leaf without the times that are told by the wall clock."""
    return replace(leaf, first_seen_ns=0, ended_ns=None)


@given(SEEDS)
@FEW
def test_the_same_samples_give_the_same_bits(seed: int) -> None:
    """[8, 9, 10] A copy, with the wall clock stepping and its maps in another order, is equal."""
    one = case(seed)
    shuffle = random.Random(seed)

    def changed(seen: Observations) -> Observations:
        known = list(seen.identities.items())
        shuffle.shuffle(known)
        step_ns = shuffle.choice([-3_600_000_000_000, 0, 5, 3_600_000_000_000])
        return replace(seen, identities=dict(known), wall_offset_ns=step_ns)

    plain = analysed(one)
    told = repr(plain)
    for snapshot, other in zip(plain, analysed(one, changed), strict=True):
        assert snapshot.domains == other.domains
        for leaf, twin in zip(snapshot.leaves, other.leaves, strict=True):
            assert timeless(leaf) == timeless(twin)
    assert repr(plain) == told  # what was published stays as it was


@given(SEEDS)
@FEW
def test_order_of_workloads_permutes_the_result(seed: int) -> None:
    """[60] Other ids, so another order of the columns: each has what it had, but for rounding.

    Energies are sums of products of floats whose order follows the ids, so they agree to what
    rounding does: 1e-8 of the domain's energy, and 2 uJ a window for its last digit.
    """
    one = case(seed)
    ids = sorted({i.id for seen, _ in one.windows for i in seen.identities.values()})
    other = ids[:]
    random.Random(seed).shuffle(other)
    to = dict(zip(ids, other, strict=True))

    def renamed(seen: Observations) -> Observations:
        return replace(
            seen, identities={k: replace(i, id=to[i.id]) for k, i in seen.identities.items()}
        )

    for snapshot, permuted in zip(analysed(one), analysed(one, renamed), strict=True):
        mine, theirs = leaves(snapshot), leaves(permuted)
        assert {to.get(i, i) for i in mine} == set(theirs)
        allowed = 2 * snapshot.sequence + snapshot.domains["package"].energy_uj // 10**8
        for leaf_id, leaf in mine.items():
            twin = theirs[to.get(leaf_id, leaf_id)]
            assert leaf.cpu_ns == twin.cpu_ns
            for name, energy in leaf.energy.items():
                assert abs(energy.dynamic_uj - twin.energy[name].dynamic_uj) <= allowed


@given(SEEDS)
@FEW
def test_keys_of_cgroups_do_not_matter(seed: int) -> None:
    """[60] The numbers under which cgroups are accounted decide nothing, to the bit."""
    one = case(seed)
    keys = sorted({k for seen, _ in one.windows for k in seen.identities})
    other = keys[:]
    random.Random(seed).shuffle(other)
    to = dict(zip(keys, other, strict=True))

    def rekeyed(seen: Observations) -> Observations:
        assert seen.cpu is not None
        cpu = replace(
            seen.cpu,
            samples=tuple(with_keys(sample, to) for sample in seen.cpu.samples),
            cgroups={to[k]: ref for k, ref in seen.cpu.cgroups.items()},
        )
        identities = {to[k]: who for k, who in seen.identities.items()}
        return replace(seen, cpu=cpu, identities=identities)

    assert analysed(one) == analysed(one, rekeyed)


def with_keys(sample: CpuSample, to: Mapping[int, int]) -> CpuSample:
    """Return a sample under other keys."""
    keys = np.array([to[k] for k in sample.keys.tolist()], np.int64)
    order = np.argsort(keys)
    assert sample.package_ns is not None
    own = sample.own_ns[order]
    return sample._replace(
        keys=keys[order], own_ns=own, total_ns=own, package_ns=sample.package_ns[:, order]
    )


@given(SEEDS)
@FEW
def test_who_did_not_run_gets_nothing(seed: int) -> None:
    """Row by row, of one package each: no CPU time there and then, no energy of it, exactly."""
    one = case(seed)
    found: list[tuple[Rows, Estimate]] = []

    def watched(
        before: Learned, rows: Rows, names: Sequence[str], window: Window, *, own: bool
    ) -> tuple[Learned, Estimate]:
        after, estimate = learn(before, rows, names, window, own=own)
        found.append((rows, estimate))
        return after, estimate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domains, "learn", watched)
        snapshots = analysed(one)

    for rows, estimate in found:
        assert (estimate.energy_j[rows.work_s == 0.0] == 0.0).all()
        assert (estimate.energy_j >= 0.0).all()
        over = estimate.energy_j.sum(axis=1) - np.maximum(rows.energy_j, 0.0)
        assert (over <= 0.0).all()  # never more than was measured
    for before, after in pairwise(snapshots):
        had = leaves(before)
        for leaf_id, leaf in leaves(after).items():
            if leaf_id in had and leaf.cpu_ns == had[leaf_id].cpu_ns and leaf_id != "unattributed":
                assert {k: e.dynamic_uj for k, e in leaf.energy.items()} == {
                    k: e.dynamic_uj for k, e in had[leaf_id].energy.items()
                }


@given(SEEDS, st.integers(0, 2_500_000_000))
@FEW
def test_a_delay_that_is_known_changes_nothing(seed: int, more_ns: int) -> None:
    """[6] A sensor that says everything later, and tells by how much: the same to the bit."""
    one = case(seed)

    def later(seen: Observations) -> Observations:
        moved = tuple(
            replace(
                series,
                samples=tuple(EnergySample(s.t_ns + more_ns, s.energy_uj) for s in series.samples),
                delay_ns=series.delay_ns + more_ns,
            )
            for series in seen.energy
        )
        return replace(seen, energy=moved)

    assert analysed(one) == analysed(one, later)


@given(SEEDS)
@FEW
def test_skipped_cycles_lose_nothing(seed: int) -> None:
    """[4, 7] All windows in one: the same energy and CPU time, and sums still exact."""
    one = case(seed)
    apart = analysed(one)[-1]
    seen = joined([seen for seen, _ in one.windows])
    whole = Window(one.windows[0][1].start_ns, one.windows[-1][1].end_ns)
    together, _ = analyse(seen, whole, State(), one.params)

    assert sums(together) == node(together)
    assert [(z.name, z.energy_uj) for z in together.domains["package"].zones] == [
        (z.name, z.energy_uj) for z in apart.domains["package"].zones
    ]
    one_by_one = {i: leaf.cpu_ns for i, leaf in leaves(apart).items()}
    assert {i: leaf.cpu_ns for i, leaf in leaves(together).items()} == one_by_one


def joined(parts: Sequence[Observations]) -> Observations:
    """Return what was seen of several windows as of one."""
    energy = {s.t_ns: s for part in parts for s in part.energy[0].samples}
    cpus = [part.cpu for part in parts if part.cpu is not None]
    samples = {s.t_ns: s for cpu in cpus for s in cpu.samples}
    series: EnergySeries = replace(
        parts[0].energy[0], samples=tuple(energy[t] for t in sorted(energy))
    )
    cpu: CpuSeries = replace(
        cpus[0],
        samples=tuple(samples[t] for t in sorted(samples)),
        cgroups={k: ref for cpu in cpus for k, ref in cpu.cgroups.items()},
    )
    identities = {k: who for part in parts for k, who in part.identities.items()}
    return replace(parts[0], energy=(series,), cpu=cpu, identities=identities)

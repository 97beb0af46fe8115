"""Whole windows on simulated nodes: what is promised of energy, leaves and reasons."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.property.test_conservation import node, sums
from tests.sim.world import MS, Load, Meter, World, container, unit, zone
from tychod.analysis.pipeline import NO_ACTIVITY, analyse
from tychod.analysis.state import Observations, Params, State
from tychod.model import Energy, Identity, Leaf, Snapshot, Window
from tychod.samples import CpuSample, CpuSeries, EnergySample, EnergySeries
from tychod.workloads.paths import identify

S = 1_000 * MS
FOREVER = 1 << 62
PARAMS = Params(cpus=4)
A, B = unit("a.service"), unit("b.service")
KERNEL = Load(-1, Identity("kernel", "kernel", "kernel"), 0.01)


def world(
    *loads: Load, meters: Sequence[Meter] = (), until_s: int = 30, cpu_ms: int = 500
) -> World:
    """A node with a package meter (10 W + 10 W per busy CPU) unless told otherwise."""
    return World(
        (KERNEL, *loads),
        {"rapl": tuple(meters) or (Meter(zone("package-0"), 10.0, 10.0, 5_000),)},
        tuple(range(0, until_s * S, 50 * MS)),
        tuple(range(0, until_s * S, cpu_ms * MS)),
    )


def edges(*seconds: float) -> list[int]:
    """Window edges."""
    return [round(s * S) for s in seconds]


def every(step_s: int, until_s: int) -> list[int]:
    """Window edges at a fixed distance."""
    return [t * S for t in range(0, until_s + 1, step_s)]


def leaves(snapshot: Snapshot) -> dict[str, Leaf]:
    """Leaves by id."""
    return {leaf.identity.id: leaf for leaf in snapshot.leaves}


def dynamic_uj(snapshot: Snapshot, leaf_id: str, domain: str = "package") -> int:
    """Dynamic energy of a leaf; 0 where it is not listed."""
    found = leaves(snapshot).get(leaf_id)
    return found.energy[domain].dynamic_uj if found else 0


def check(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Sums in every window; return the last."""
    for snapshot in snapshots:
        assert sums(snapshot) == node(snapshot)
        assert snapshot.conservation_violations == 0
    return snapshots[-1]


def test_a_skipped_cycle_loses_nothing() -> None:
    """[0,3] and [3,6], or [0,6] at once: the same energy, CPU time and, by bins, shares.

    Shares are equal where nothing is learned, as beside a model that says how much is idle; else
    they differ by what the one run had learned, which their standard deviations tell.
    """
    told = Meter(zone("package-0")._replace(idle_w=10.0), 10.0, 10.0, 5_000)
    for meters, deviations in (((told,), 0.0), ((), 4.0)):
        busy = world(Load(1, A, 0.5, S, 4 * S), Load(2, B, 0.3), meters=meters)
        apart = check(busy.run(edges(0, 3, 6), PARAMS))
        together = check(busy.run(edges(0, 6), PARAMS))

        assert apart.domains["package"].energy_uj == together.domains["package"].energy_uj
        for leaf_id, leaf in leaves(together).items():
            other = leaves(apart)[leaf_id]
            sd_uj = leaf.sd_uj["package"] + other.sd_uj["package"]
            assert other.cpu_ns == leaf.cpu_ns
            apart_uj = dynamic_uj(apart, leaf_id) - dynamic_uj(together, leaf_id)
            assert abs(apart_uj) <= 4 + deviations * sd_uj


def test_wall_clock_steps_change_no_energy() -> None:
    """An hour forth and back: only the times shown move, and first sights stand."""
    steady = world(Load(1, A, 0.5), Load(2, B, 0.3, 4 * S))
    expected = steady.run(every(3, 12), PARAMS)
    state = State()
    for k, old in enumerate(expected):
        offset = 10**18 + (0, 3_600 * S, -3_600 * S, 7)[k]
        window = old.window
        seen = replace(steady.observe(window), wall_offset_ns=offset)
        snapshot, state = analyse(seen, window, state, PARAMS)

        assert snapshot.domains == old.domains
        assert [(x.energy, x.cpu_ns, x.power_w) for x in snapshot.leaves] == [
            (x.energy, x.cpu_ns, x.power_w) for x in old.leaves
        ]
        assert snapshot.since_ns == expected[0].since_ns
        assert leaves(snapshot)["a.service"].first_seen_ns == 10**18


def test_same_inputs_same_snapshot() -> None:
    """Equal to the last bit, whatever the order of the identities."""
    busy = world(*(Load(k, container(k, k % 3), 0.01 * k) for k in range(20)))

    def shuffled(seen: Observations) -> Observations:
        return replace(seen, identities=dict(reversed(tuple(seen.identities.items()))))

    one, two = State(), State()
    for start in range(0, 12, 3):
        window, seen = (
            Window(start * S, (start + 3) * S),
            busy.observe(Window(start * S, (start + 3) * S)),
        )
        first, one = analyse(seen, window, one, PARAMS)
        second, two = analyse(shuffled(seen), window, two, PARAMS)
        assert first == second


SEED_PROGRAM = """
from tests.sim.world import *
from tychod.analysis.state import Params
loads = [Load(k, container(k, k % 3), 0.013 * k, k * 100 * MS, (9000 - k * 211) * MS)
         for k in range(20)]
meters = (Meter(zone("package-0"), 10.0, 9.7), Meter(zone("dram-0"), 3.0, 0.7))
world = World(tuple(loads), {"rapl": meters, "other": (Meter(zone("psys"), 20, 11),)},
              tuple(range(0, 12000 * MS, 50 * MS)), tuple(range(0, 12000 * MS, 500 * MS)))
for snapshot in world.run([0, 3000 * MS, 6000 * MS, 9000 * MS], Params(4, terminated_max=5)):
    print(snapshot)
"""


def test_hash_seeds_change_nothing() -> None:
    """The order of sets and dicts of strings reaches no result."""
    root = Path(__file__).parents[2]
    printed = {
        subprocess.run(
            [sys.executable, "-c", SEED_PROGRAM],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }

    assert len(printed) == 1
    assert b"Snapshot" in printed.pop()


def halves(first_w: int, second_w: int, idle_w: float | None) -> tuple[Observations, Window]:
    """Two that use the same CPU time, one in each half of a window, at so many watts each."""
    busy = world(Load(1, A, 0.5, 0, 1500 * MS + 1), Load(2, B, 0.5, 1500 * MS))
    samples = tuple(
        EnergySample(t, ((min(t, 1500 * MS) * first_w + max(t - 1500 * MS, 0) * second_w) // 1000,))
        for t in range(0, 3001 * MS, 50 * MS)
    )
    of = zone("package-0")._replace(idle_w=idle_w)
    window = Window(0, 3 * S)
    meter = EnergySeries("rapl", "measured", (of,), samples, {})
    return replace(busy.observe(window), energy=(meter,)), window


def test_bursts_pay_for_their_bins() -> None:
    """Nobody's share of the window is by its CPU time: each half is of who ran in it."""
    snapshot, _ = analyse(*halves(90, 10, 0.0), State(), PARAMS)

    of_a, of_b = dynamic_uj(snapshot, "a.service"), dynamic_uj(snapshot, "b.service")
    assert abs(of_a - 135_000_000 * 50 // 51) <= 4
    assert abs(of_b - 15_000_000 * 50 // 51) <= 4
    assert sums(snapshot) == node(snapshot)


@pytest.mark.parametrize(("first_w", "second_w"), [(90, 10), (10, 90), (90, 0)])
def test_no_idle_floor_takes_a_burst_from_its_bins(first_w: int, second_w: int) -> None:
    """With the floor estimated too, of which nothing tells here: at most the bins' own energy.

    No more is missing than the lowest power, which all may be idle, and three of its own
    standard deviations.
    """
    snapshot, _ = analyse(*halves(first_w, second_w, None), State(), PARAMS)

    low_w = min(first_w, second_w)
    floor = snapshot.domains["package"].idle_floor
    assert floor is not None
    assert 0.0 <= floor.power_w <= low_w * 1.02
    for leaf_id, watts in (("a.service", first_w), ("b.service", second_w)):
        found = leaves(snapshot)[leaf_id]
        truth_uj, slack_uj = 1_500_000 * watts, 1_500_000 * low_w
        sd_uj = found.sd_uj["package"]
        assert found.energy["package"].dynamic_uj <= truth_uj
        assert found.energy["package"].dynamic_uj >= truth_uj * 50 / 51 - slack_uj - 3 * sd_uj
    assert sums(snapshot) == node(snapshot)


@pytest.mark.parametrize("missing", [None, "empty"])
def test_without_cpu_accounting_energy_is_unattributed(missing: str | None) -> None:
    """No CPU time observed: the energy is told and counted, idle is not guessed from it."""
    busy, state, snapshots = world(Load(1, A, 1.0)), State(), []
    for start in range(0, 27, 3):
        window = Window(start * S, (start + 3) * S)
        cpu = None if missing is None else CpuSeries("cgroup-v2", (), {})
        snapshot, state = analyse(replace(busy.observe(window), cpu=cpu), window, state, PARAMS)
        snapshots.append(snapshot)
    last = check(snapshots)

    assert dynamic_uj(last, "unattributed") == last.domains["package"].energy_uj > 0
    assert leaves(last)["unattributed"].identity.reason == NO_ACTIVITY
    assert last.domains["package"].idle_uj == 0


def test_quiet_accounting_teaches_no_floor() -> None:
    """A node that works while its CPU time cannot be read does not look idle afterwards.

    What is known of the floor then is what a daemon knows that began when CPU time came back.
    """
    busy = world(Load(1, A, 3.0), until_s=120)
    holes = replace(busy, cpu_times=tuple(t for t in busy.cpu_times if not 0 < t < 90 * S))
    run = holes.run(every(3, 117), PARAMS)
    last, begun = check(run), busy.run(edges(*range(90, 120, 3)), PARAMS)[-1]

    assert {s.domains["package"].idle_uj for s in run[:30]} == {0}
    assert last.domains["package"].idle_floor == begun.domains["package"].idle_floor is not None


def test_identity_that_is_not_known_yet_is_unattributed() -> None:
    """A cgroup without identity is nobody else's; named later, it goes on under its name."""
    busy = world(Load(1, A, 1.0))
    state = State()
    for start, known in ((0, False), (3, True)):
        window = Window(start * S, (start + 3) * S)
        seen = busy.observe(window)
        names = {k: v for k, v in seen.identities.items() if known or k != 1}
        snapshot, state = analyse(replace(seen, identities=names), window, state, PARAMS)
        if not known:
            assert dynamic_uj(snapshot, "unattributed") > 0
            assert leaves(snapshot)["unattributed"].identity.reason == (
                "cgroup that is not identified yet"
            )
            assert leaves(snapshot)["unattributed"].cpu_ns == 3 * S
    both = leaves(snapshot)

    assert both["a.service"].cpu_ns == both["unattributed"].cpu_ns == 3 * S
    assert sums(snapshot) == node(snapshot)


def test_leaf_that_changes_id_or_names_keeps_what_it_had() -> None:
    """Names refresh in place; another id is another leaf and the old one ends, nothing is lost."""
    busy, state = world(Load(1, A, 1.0)), State()
    names: list[Identity] = [
        A,
        replace(A, name="renamed", labels={"x": "y"}),
        replace(B, cgroup=A.cgroup),
    ]
    snapshots = []
    for k, name in enumerate(names):
        window = Window(k * 3 * S, (k + 1) * 3 * S)
        seen = busy.observe(window)
        snapshot, state = analyse(
            replace(seen, identities={**seen.identities, 1: name}), window, state, PARAMS
        )
        snapshots.append(snapshot)
    last = leaves(check(snapshots))

    assert last["a.service"].cpu_ns == 6 * S
    assert last["a.service"].identity.name == "renamed"
    assert last["a.service"].state == "terminated"
    assert last["b.service"].cpu_ns == 3 * S


UNREADABLE = ((6 * S + 1, 20 * S),)


def test_late_energy_is_exact_and_nobodys() -> None:
    """A zone that cannot be read for a while: stale meanwhile, then exact, told, and no spike."""
    meters = [Meter(zone("package-0"), 10.0, 0.0, fails=UNREADABLE), Meter(zone("dram-0"), 5.0, 0)]
    run = world(Load(1, A, 1.0), meters=meters).run(every(3, 27), PARAMS)
    last, back = check(run), run[6]
    quiet = [s.domains["package"] for s in run[3:6]]

    assert {d.quality for d in quiet} == {"stale"}
    assert {d.power_w for d in quiet} == {None}
    assert {d.through_ns for d in quiet} == {6 * S}
    assert {d.energy_uj for d in quiet} == {run[1].domains["package"].energy_uj}
    assert back.domains["package"].power_w == pytest.approx(10.0, rel=1e-3)
    assert back.domains["package"].quality == "measured"
    assert dynamic_uj(back, "unattributed") == 120_000_000
    assert "package-0 could not be read for 15 s" in (
        leaves(back)["unattributed"].identity.reason or ""
    )
    assert last.domains["package"].energy_uj == 270_000_000
    assert all(s.domains["dram"].quality == "measured" for s in run)
    assert dynamic_uj(last, "unattributed", "dram") == 0


def test_zone_that_never_returns_stays_where_it_was() -> None:
    """Its energy stands, its quality is stale, the others go on."""
    meters = [Meter(zone("package-0"), 10.0, 0, fails=((6 * S, FOREVER),)),
              Meter(zone("package-1"), 20.0, 0)]  # fmt: skip
    run = world(Load(1, A, 1.0), meters=meters).run(every(3, 27), PARAMS)
    last = check(run)
    zones = {z.name: z for z in last.domains["package"].zones}

    assert 59_000_000 < zones["package-0"].energy_uj <= 60_000_000
    assert zones["package-0"].quality == last.domains["package"].quality == "stale"
    assert zones["package-1"].energy_uj == 540_000_000
    assert last.domains["package"].energy_uj == sum(z.energy_uj for z in zones.values())


def test_lost_zone_does_not_make_the_others_idle() -> None:
    """The floor was learned of two zones: while one cannot be read, half of it is not there."""
    meters = [
        Meter(zone("package-0"), 40.0, 5.0, fails=((90 * S + 1, FOREVER),)),
        Meter(zone("package-1"), 40.0, 5.0),
    ]
    blinks = [Load(k, A, 2.0, k * 7 * S, k * 7 * S + 3 * S + 1) for k in range(1, 20)]
    blinks = [replace(load, identity=unit(f"u{load.key}")) for load in blinks]
    run = world(*blinks, meters=meters, until_s=130).run(every(3, 129), PARAMS)
    check(run)
    before, after = run[29].domains["package"], run[-1].domains["package"]
    idle_w = ((after.idle_uj or 0) - (before.idle_uj or 0)) / 39e6

    assert idle_w == pytest.approx(40.0, rel=0.1)
    # nor does it become the load of whoever ran in the quiet bins, but for the floor's own error
    floor = after.idle_floor
    assert floor is not None
    kernel = dynamic_uj(run[-1], "kernel") - dynamic_uj(run[29], "kernel")
    own_j, missed_j = 0.01 * 5.0 * 39.0, abs(80.0 - floor.power_w) / 2 * 39.0
    assert kernel <= 1e6 * (own_j + missed_j)


@dataclass(frozen=True)
class Sources:
    """Which sources exist in which windows, for the change from meter to model and back."""

    meter: World
    model: World

    def run(self, present: Sequence[str]) -> list[Snapshot]:
        """Analyse windows of 3 s; ``m`` for measured, ``e`` for estimated, ``b`` both, ``-``."""
        state, found = State(), []
        for k, which in enumerate(present):
            window = Window(k * 3 * S, (k + 1) * 3 * S)
            seen = self.meter.observe(window)
            estimate = tuple(
                replace(s, quality="modelled") for s in self.model.observe(window).energy
            )
            energy: Mapping[str, tuple[EnergySeries, ...]] = {
                "m": seen.energy,
                "e": estimate,
                "b": (*estimate, *seen.energy),
                "-": (),
            }
            snapshot, state = analyse(replace(seen, energy=energy[which]), window, state, PARAMS)
            found.append(snapshot)
        return found


def sources(model_key: str = "model:cpu") -> Sources:
    """A meter that shows 10 W and a model that thinks 100 W."""
    meter = world(Load(1, A, 1.0), until_s=60, meters=[Meter(zone("package-0", 0), 10.0, 0.0)])
    of = zone("package-0", 0)._replace(key=model_key, name="cpu-model", idle_w=60.0)
    model = replace(meter, sources={"model": (Meter(of, 100.0, 0.0),)})
    return Sources(meter, model)


@pytest.mark.parametrize(
    ("present", "joules"),
    [
        ("mmmm", 120),
        ("eeee", 1200),
        ("meem", 660),
        ("bbbb", 120),
        ("mebmbe", 30 + 300 + 30 + 30 + 30 + 300),
        ("m--m", 120),  # nothing took over: what the counter counted meanwhile is late, not lost
        ("e-me", 630),
    ],
)
def test_meter_and_model_are_never_added(present: str, joules: int) -> None:
    """Each window's energy is of one of the two; the domain's energy never falls."""
    run = sources().run(present)
    last = check(run)
    grown = [s.domains["package"].energy_uj for s in run]

    assert grown == sorted(grown)
    assert last.domains["package"].energy_uj == joules * 1_000_000
    for which, snapshot in zip(present, run, strict=True):
        quality = {"m": "measured", "e": "modelled", "b": "measured", "-": "unavailable"}[which]
        assert snapshot.domains["package"].quality == quality


def test_modelled_energy_keeps_its_known_floor() -> None:
    """The model's idle watts are the floor from the first window on."""
    last = check(sources().run("ee"))

    assert last.domains["package"].idle_uj == 360_000_000


def test_a_model_with_other_settings_takes_over() -> None:
    """Settings changed and changed back in one boot: the meantime is not counted twice."""
    one, two = sources("model:one"), sources("model:two")
    state = State()
    for k, which in enumerate((one, two, two, one)):
        window = Window(k * 3 * S, (k + 1) * 3 * S)
        series = tuple(replace(s, quality="modelled") for s in which.model.observe(window).energy)
        seen = replace(which.model.observe(window), energy=series)
        snapshot, state = analyse(seen, window, state, PARAMS)

    assert snapshot.domains["package"].energy_uj == 1_200_000_000
    assert dynamic_uj(snapshot, "unattributed") == 0


def test_psys_beside_package_is_a_fact_of_the_node() -> None:
    """It is counted and not split; alone it is split in the package's place."""
    both = [Meter(zone("package-0"), 10.0, 5.0), Meter(zone("psys"), 30.0, 6.0)]
    beside = check(world(Load(1, A, 1.0), meters=both).run(every(3, 9), PARAMS))
    alone = check(world(Load(1, A, 1.0), meters=both[1:]).run(every(3, 9), PARAMS))

    assert beside.domains["psys"].energy_uj > 0
    assert (beside.domains["psys"].idle_uj, beside.domains["psys"].dynamic_uj) == (None, None)
    assert all("psys" not in leaf.energy for leaf in beside.leaves)
    assert dynamic_uj(alone, "a.service", "psys") > 0
    assert leaves(alone)["a.service"].total.dynamic_uj == dynamic_uj(alone, "a.service", "psys")


def test_psys_does_not_stand_in_for_a_package_that_fails_at_first() -> None:
    """The package cannot be read in the first window: a workload's total keeps its meaning."""
    meters = [Meter(zone("package-0"), 10, 5, fails=((0, 3 * S),)), Meter(zone("psys"), 30, 6)]
    run = world(Load(1, A, 1.0), meters=meters).run(every(3, 9), PARAMS)
    check(run)

    assert all(s.domains["psys"].idle_uj is None for s in run)
    totals = [leaves(s)["a.service"].total.total_uj for s in run]
    assert totals == sorted(totals)


def test_energy_of_unused_time_says_so() -> None:
    """Bins with energy and no CPU time at all are nobody's, with the reason."""
    silent = replace(world(), loads=(Load(1, A, 1.0, 10 * S),))
    run = silent.run(every(3, 15), PARAMS)
    check(run)

    assert leaves(run[0])["unattributed"].identity.reason == NO_ACTIVITY
    assert dynamic_uj(run[0], "unattributed") == run[0].domains["package"].energy_uj
    assert dynamic_uj(run[4], "unattributed") == dynamic_uj(run[3], "unattributed")
    assert leaves(run[4])["unattributed"].identity.reason == NO_ACTIVITY  # of what it holds


def test_no_energy_source_at_all() -> None:
    """CPU time is accounted, no domain is made up."""
    bare = world(Load(1, A, 1.0)).without("rapl")
    last = bare.run(every(3, 9), PARAMS)[-1]

    assert last.domains == {}
    assert leaves(last)["a.service"].cpu_ns == 9 * S
    assert leaves(last)["a.service"].total_power_w is None


def test_stopped_unit_is_the_same_leaf() -> None:
    """A unit that stops and starts goes on with its counters; another cgroup is no other unit."""
    run = world(Load(1, A, 1.0, 0, 4 * S), Load(2, A, 1.0, 10 * S)).run(every(3, 18), PARAMS)
    last = leaves(check(run))["a.service"]

    assert [leaves(s)["a.service"].state for s in run] == [
        "running", "terminated", "terminated", "running", "running", "running",
    ]  # fmt: skip
    # the first life is seen up to its last sample, 3.5 s
    assert last.cpu_ns == 3500 * MS + 8 * S
    assert last.first_seen_ns == leaves(run[0])["a.service"].first_seen_ns


@pytest.mark.parametrize("pod", [1, None])
@pytest.mark.parametrize("again_s", [4, 7])
def test_container_in_a_new_cgroup_is_a_new_leaf(pod: int | None, again_s: int) -> None:
    """The same id with another inode: from 0, and the old counters are in the past that window."""
    first = Load(1, container(1, pod), 1.0, 0, 4 * S)
    second = Load(2, container(1, pod), 0.5, again_s * S)
    run = world(first, second).run(every(3, 12), PARAMS)
    past = f"past:uid-{pod}" if pod else "past"
    check(run)
    seen = [leaves(s) for s in run]
    (leaf_id,) = {i for x in seen for i in x if len(i) == 64}
    total = [sum(leaf.cpu_ns for leaf in x.values()) for x in seen]

    assert total == sorted(total)
    assert seen[-1][past].cpu_ns == 3500 * MS
    assert seen[-1][leaf_id].cpu_ns == (12 - again_s) * S // 2
    assert seen[-1][past].energy["package"].dynamic_uj > 0


USER = "/user.slice/user-1000.slice/user@1000.service"
ID, UID = "b2" * 32, "0f3a5b1c-1111-4222-8333-444455556666"
VICTIM = f"/kubepods/burstable/pod{UID}/{ID}"
CLAIM = f"{USER}/app.slice/docker-{ID}.scope"


def named(key: int, path: str, share: float, born_s: int, dies_s: int = 1 << 30) -> Load:
    """Return a cgroup that is who its path says."""
    identity = identify(path)
    assert identity is not None
    return Load(key, identity, share, born_s * S, dies_s * S, path=path)


@pytest.mark.parametrize(
    ("claim", "others", "heir"),
    [
        (CLAIM, (), "unattributed"),
        (CLAIM, (named(8, USER, 0.1, 0),), "user@1000.service"),
        (
            f"/docker/{'c3' * 32}/docker/{ID}",
            (named(8, f"/docker/{'c3' * 32}", 0.1, 0),),
            "c3" * 32,
        ),
    ],
)
@pytest.mark.parametrize("dies_s", [1 << 30, 15])
def test_a_copied_container_id_takes_nothing(
    claim: str, others: tuple[Load, ...], heir: str, dies_s: int
) -> None:
    """The container keeps its leaf and its pod, ended or not; the copy's time is its maker's."""
    victim, copy = named(1, VICTIM, 0.25, 0, dies_s), named(9, claim, 0.5, 6)
    shown = world(victim, copy, *others).run(every(3, 24), PARAMS)
    alone = world(victim, *others).run(every(3, 24), PARAMS)
    check(shown)
    for attacked, quiet in zip(shown, alone, strict=True):
        leaf, expected = leaves(attacked)[ID], leaves(quiet)[ID]

        assert (leaf.identity, leaf.cpu_ns, leaf.state) == (
            expected.identity, expected.cpu_ns, expected.state,
        )  # fmt: skip
        assert f"past:{UID}" not in leaves(attacked)
    maker = leaves(shown[-1])[heir]

    assert maker.cpu_ns == 9 * S + (heir != "unattributed") * 24 * S // 10
    if heir == "unattributed":
        assert maker.identity.reason == f"two cgroups claim container {ID}"


def test_the_hosts_container_gets_its_leaf_back() -> None:
    """A tenant that takes a stopped container's id has it only until that one starts again."""
    copy, real = named(1, CLAIM, 0.5, 0), named(2, VICTIM, 0.25, 10)
    shown = world(copy, real, named(8, USER, 0.0, 0)).run(every(3, 15), PARAMS)
    check(shown)

    assert leaves(shown[2])[ID].identity.cgroup == CLAIM
    assert leaves(shown[4])[ID].identity == real.identity
    assert leaves(shown[4])[ID].cpu_ns == 5 * S // 4
    assert leaves(shown[4])["past"].cpu_ns == 0
    assert leaves(shown[4])["user@1000.service"].cpu_ns == 15 * S // 2


@pytest.mark.parametrize(
    ("again", "is_his"),
    [(CLAIM, True), (CLAIM.replace("app.slice", "b.slice"), True), (VICTIM, True),
     (CLAIM.replace("1000", "1001"), False)],
)  # fmt: skip
def test_an_ended_tenants_id_is_his_or_the_hosts(again: str, is_his: bool) -> None:
    """As long as it is listed another tenant cannot take it up: what he uses is his own."""
    others = [
        named(key, USER.replace("1000", uid), 0.0, 0) for key, uid in ((8, "1000"), (9, "1001"))
    ]
    old, new = named(1, CLAIM, 0.5, 0, 7), named(2, again, 0.25, 10)
    last = leaves(check(world(old, new, *others).run(every(3, 18), PARAMS)))

    if is_his:
        assert (last[ID].identity.cgroup, last[ID].state) == (again, "running")
        assert last[ID].cpu_ns == 2 * S
        assert last["user@1000.service"].cpu_ns == 3250 * MS
        assert last["user@1001.service"].cpu_ns == 0
    else:
        assert (last[ID].identity.cgroup, last[ID].state) == (CLAIM, "terminated")
        assert last[ID].cpu_ns == 3250 * MS
        assert last["user@1001.service"].cpu_ns == 2 * S


def test_a_container_that_starts_again_elsewhere_is_a_new_leaf() -> None:
    """The host may start a container anew below another parent: what the old one had is past."""
    old, new = named(1, f"/docker/{ID}", 0.5, 0, 7), named(2, f"/batch/{ID}", 0.5, 10)
    shown = world(old, new).run(every(3, 18), PARAMS)
    check(shown)

    assert leaves(shown[1])[ID].state == "running"
    assert leaves(shown[2])[ID].state == "terminated"
    assert leaves(shown[-1])[ID].identity.cgroup == f"/batch/{ID}"
    assert leaves(shown[-1])[ID].cpu_ns == 4 * S
    assert leaves(shown[-1])["past"].cpu_ns == 3250 * MS


def test_finished_pod_leaves_only_the_past() -> None:
    """When the last leaf of a pod goes, past:<uid> goes with it in the same snapshot."""
    params = Params(cpus=4, terminated_age_ns=3 * S, terminated_max=1)
    loads = [Load(k, container(k, 1), 0.5, 0, (2 + 3 * k) * S) for k in (1, 2)]
    run = world(*loads).run(every(3, 24), params)
    check(run)
    with_pod = [any(len(i) == 64 for i in leaves(s)) for s in run]
    with_past = ["past:uid-1" in leaves(s) for s in run]

    assert not any(past and not pod for past, pod in zip(with_past, with_pod, strict=True))
    assert any(with_past)
    assert not with_pod[-1]
    assert leaves(run[-1])["past"].cpu_ns == 4500 * MS // 2 + 7500 * MS // 2


def test_time_of_a_pods_own_cgroup_is_the_pods() -> None:
    """Processes of no container of the pod count for the pod while it is listed, then for past."""
    residue = Identity("past", "past:uid-1", "past", pod="pod-1", pod_uid="uid-1")
    params = Params(cpus=4, terminated_max=0)
    loads = (Load(1, container(1, 1), 0.5, 0, 4 * S), Load(2, residue, 0.25))
    run = world(*loads).run(every(3, 12), params)
    last = leaves(check(run))

    assert leaves(run[0])["past:uid-1"].cpu_ns == 750 * MS
    assert "past:uid-1" not in last
    assert last["past"].cpu_ns == 3 * S + 3500 * MS // 2


def test_nobody_hides_his_energy_in_a_pod_of_his_own_making() -> None:
    """A user's cgroup that is called like a pod and holds no container is his session's."""
    loads = (named(1, USER, 0.25, 0), named(2, f"{USER}/kubepods/pod99", 0.5, 0))
    run = world(*loads).run(every(3, 12), Params(cpus=4))
    last = leaves(check(run))

    assert last["user@1000.service"].cpu_ns == 9 * S
    assert last["past"].cpu_ns == 0


@pytest.mark.parametrize("copy", [1, 9])
@pytest.mark.parametrize("there", [True, False])
def test_a_pod_in_a_copy_of_a_container_bills_its_maker(copy: int, there: bool) -> None:
    """A cgroup called like another's container, and like a pod in it, is not in that container."""
    victim, session = named(5, VICTIM, 0.25, 0), named(8, USER, 0.1, 0)
    claims = [named(copy, CLAIM, 0.0, 0)] if there else []
    pod = named(copy + 1, f"{CLAIM}/kubepods/pod99", 0.5, 0)
    last = leaves(check(world(victim, session, *claims, pod).run(every(3, 12), PARAMS)))

    assert last[ID].cpu_ns == 3 * S
    assert last["user@1000.service"].cpu_ns == 12 * S * 6 // 10


def test_nothing_ended_is_listed_when_none_may_be() -> None:
    """With terminated_max = 0 no ended leaf shows, in that window or by a late sample after."""
    loads = [Load(k, container(k), 0.1, 0, 5 * S) for k in range(5)]
    late = replace(world(*loads), cpu_times=(0, 2900 * MS, 5500 * MS, 8900 * MS, 13 * S))
    for snapshot in late.run(every(3, 12), Params(cpus=4, terminated_max=0)):
        assert all(leaf.state == "running" for leaf in snapshot.leaves)
    assert len(snapshot.leaves) == 4


def test_evicted_leaf_does_not_come_back_empty() -> None:
    """A sample from before its end, seen again by the next window, lists no leaf without energy."""
    loads = [Load(k, container(9 - k), 0.1, 0, 2950 * MS) for k in range(6)]
    late = replace(world(*loads), cpu_times=(0, 2900 * MS, 3010 * MS, 6 * S, 9 * S))
    run = late.run(every(3, 9), Params(cpus=4, terminated_max=3))
    check(run)
    listed = [{leaf.identity.id for leaf in s.leaves if leaf.state == "terminated"} for s in run]

    assert listed[0] == listed[1] == listed[2]
    assert all(leaf.cpu_ns for leaf in run[-1].leaves if leaf.state == "terminated")


def test_churn_stays_bounded() -> None:
    """10 000 containers in one window: as many listed as may be, the rest in the past, exact."""
    loads = [Load(k, container(k, k // 2), 0.001, 0, 2 * S) for k in range(10_000)]
    dying = replace(world(*loads), cpu_times=(0, S, 1500 * MS, 3 * S, 6 * S))
    snapshots, states = zip(*dying.steps(every(3, 6), PARAMS), strict=True)
    last = check(snapshots)

    assert len(last.leaves) <= 4 + 500
    assert len(states[-1].consumed_ns) < 10
    assert sum(leaf.cpu_ns for leaf in last.leaves) == 10_000 * 1_500_000 + 60 * MS


def test_large_numbers_stay_exact() -> None:
    """A gap of 30 days at 500 W on 8 zones, split among a thousand leaves, to the microjoule."""
    month = 30 * 86_400 * S
    zones = tuple(zone(f"package-{k}", 0) for k in range(8))
    keys = np.arange(1000, dtype=np.int64)
    own = np.arange(1000, dtype=np.int64) * 10**12
    cpu = CpuSeries(
        "cgroup-v2",
        (CpuSample(0, keys, own * 0, own, 0), CpuSample(month, keys, own, own, 0)),
        {},
    )
    energy = EnergySeries(
        "rapl",
        "measured",
        zones,
        tuple(EnergySample(t, (500 * t // 1000,) * 8) for t in (0, month)),
        {},
    )
    identities = {k: container(k) for k in range(1000)}
    seen = Observations((energy,), cpu, identities, 10**18)
    snapshot, _ = analyse(seen, Window(0, month), State(), Params(cpus=512))

    assert snapshot.domains["package"].energy_uj == 8 * 500 * month // 1000
    assert sums(snapshot) == {"package": Energy(0, 8 * 500 * month // 1000)}
    assert snapshot.conservation_violations == 0
    largest = dynamic_uj(snapshot, f"{999:064x}")
    assert largest == pytest.approx(8 * 500 * month / 1000 * 999 / sum(range(1000)), rel=1e-9)


def test_sequence_since_and_first_sight() -> None:
    """Sequence grows by one a window; since and first sights never move."""
    run = world(Load(1, A, 1.0), Load(2, B, 1.0, 4 * S)).run(every(3, 12), PARAMS)

    assert [s.sequence for s in run] == [1, 2, 3, 4]
    assert {s.since_ns for s in run} == {10**18}
    assert {leaves(s)["a.service"].first_seen_ns for s in run} == {10**18}
    assert {leaves(s)["b.service"].first_seen_ns for s in run[1:]} == {10**18 + 3 * S}
    assert not any(s.gap for s in run)


def test_a_socket_that_was_never_read_is_shown() -> None:
    """One of two sockets unreadable from the start: it is unavailable, and the domain not whole."""
    good = Meter(zone("package-0"), 10.0, 10.0)
    bad = Meter(zone("package-1"), 10.0, 10.0, fails=((0, FOREVER),))
    alone = Meter(zone("dram"), 1.0, 1.0, fails=((0, FOREVER),))
    (snapshot,) = world(meters=(good, bad, alone)).run(edges(1, 4), PARAMS)
    package, dram = snapshot.domains["package"], snapshot.domains["dram"]

    assert [(z.name, z.quality) for z in package.zones] == [
        ("package-0", "measured"),
        ("package-1", "unavailable"),
    ]
    assert package.zones[1].reason
    assert package.zones[1].power_w is None
    assert package.quality == "stale"
    assert "package-1" in (package.reason or "")
    assert (dram.quality, dram.power_w, dram.idle_uj) == ("unavailable", None, None)

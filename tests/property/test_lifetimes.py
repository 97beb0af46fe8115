"""Under churn nothing is lost, nothing falls, and what is kept stays bounded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from tests.property.test_conservation import node as node_sums
from tests.property.test_conservation import shown_ns, sums
from tests.property.test_restart import Process, saved_and_loaded
from tests.sim.churn import Churn
from tests.sim.world import MS, RESERVED, Load, Meter, World, container, unit, zone
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, State
from tychod.model import Energy, Identity, IdlePolicy, Leaf, Snapshot, Window
from tychod.views import NAMESPACE, SLICE, past_id, pod_key, slices_of, view_keys

S: Final = 1_000 * MS
UNTIL_NS: Final = 14 * S
EDGES: Final = tuple(range(1 * S, UNTIL_NS + 1, 1 * S))
FOREVER: Final = 1 << 62
CLASS: Final = "/kubepods.slice/kubepods-burstable.slice"

VIEWS: Final = (SLICE, NAMESPACE)

Totals = Mapping[str, tuple[int, ...]]


def pod_path(pod: int) -> str:
    """A pod's own cgroup."""
    return f"{CLASS}/kubepods-burstable-poduid_{pod}.slice"


def member(number: int, pod: int) -> Identity:
    """A container of a pod; every second pod is in another namespace."""
    path = f"{pod_path(pod)}/cri-containerd-{number:064x}.scope"
    return replace(container(number, pod), namespace=f"ns-{pod % 2}", cgroup=path)


def own(pod: int) -> Identity:
    """What runs in a pod's cgroup and in no container of it."""
    return replace(
        member(0, pod), kind="past", id=f"past:uid-{pod}", name="past", cgroup=pod_path(pod)
    )


def service(number: int, slice_path: str) -> Identity:
    """A unit in a slice."""
    return replace(unit(f"u{number}.service"), cgroup=f"{slice_path}/u{number}.service")


SLICES: Final = ("/system.slice", "/a.slice", "/a.slice/a-b.slice")


@dataclass(frozen=True)
class Story:
    """A node on which workloads come and go, and how late each is named."""

    world: World
    late_ns: Mapping[int, int]  # key -> how long after its birth its names are known


def inside(number: int, pod: int, slice_path: str) -> Identity:
    """A container that a service made, or one of a cluster's pod in that service's tree."""
    outer = service(0, slice_path)
    below = replace(
        container(number, pod if number % 2 else None), parent=outer.id, tenant=outer.cgroup
    )
    return replace(below, cgroup=f"{outer.cgroup}/{pod}/{number:064x}", namespace="inner")


@composite
def identities(draw: DrawFn, key: int) -> Identity:
    """Who a cgroup is; some containers' ids are used again, and so are units' names."""
    kind, pod = (
        draw(st.sampled_from(("new", "again", "pod", "unit", "unit", "inside"))),
        draw(st.integers(0, 2)),
    )
    if kind == "unit":
        return service(pod // 2, draw(st.sampled_from(SLICES)))
    if kind == "inside":
        return inside(key // 2 + 100, pod, draw(st.sampled_from(SLICES)))
    return own(pod) if kind == "pod" else member(key if kind == "new" else key // 2, pod)


@composite
def stories(draw: DrawFn) -> Story:
    """Containers of three pods, pods' own cgroups, and units that start again, maybe elsewhere."""
    loads = [Load(-1, RESERVED[-1], 0.05)]
    late: dict[int, int] = {}
    for key in range(1, draw(st.integers(6, 12))):
        born = draw(st.integers(0, UNTIL_NS - 4 * S))
        dies = born + draw(st.sampled_from((400 * MS, S, 3 * S, FOREVER)))
        loads.append(Load(key, draw(identities(key)), draw(st.floats(0, 1)), born, dies))
        late[key] = draw(st.sampled_from((0, 1_500 * MS, 1_500 * MS, FOREVER)))
    meters = (Meter(zone("package-0"), 9.0, 9.0), Meter(zone("dram"), 1.0, 0.5))
    times = tuple(range(0, UNTIL_NS + S, 250 * MS))
    return Story(World(tuple(loads), {"rapl": meters}, times, times), late)


LIMITS = st.builds(
    lambda age, most, least: Params(
        cpus=4, terminated_age_ns=age * S, terminated_max=most, terminated_min_uj=least
    ),
    st.sampled_from((0, 2, 100)),
    st.sampled_from((-1, 0, 0, 1, 3)),
    st.sampled_from((0, 2_000_000)),
)
RESTARTS = st.dictionaries(
    st.integers(4, len(EDGES) - 3), st.just(300 * MS), min_size=1, max_size=2
)


def named(seen: Observations, story: Story, process: Process, t_ns: int) -> Observations:
    """The same with only the names that this process knows by then; a pod's uid is in the path."""
    known = dict(seen.identities)
    loads = {load.key: load for load in story.world.loads}
    for key, identity in seen.identities.items():
        load = loads.get(key - process.first_key)
        if load is None or not identity.pod_uid:
            continue
        if t_ns < max(load.born_ns, process.begun_ns) + story.late_ns[load.key]:
            known[key] = replace(identity, namespace=None, pod=None)
    return replace(seen, identities=known)


def run(
    story: Story, params: Params, restarts: Mapping[int, int]
) -> Iterator[tuple[Snapshot, State]]:
    """Analyse window by window; the process that follows another knows no late name at first."""
    process, state = Process(story.world, 0, None, 0), State()
    for k, (start, end) in enumerate(pairwise(EDGES)):
        window = Window(start, end)
        seen = named(process.observe(window), story, process, end)
        snapshot, state = analyse(seen, window, state, params)
        yield snapshot, state
        if k in restarts:
            state, baseline = saved_and_loaded(state, process, window)
            process = Process(story.world, end + restarts[k], baseline, process.first_key + 10**6)


def grouped(snapshot: Snapshot) -> Totals:
    """CPU time and energy of each leaf, pod, namespace and slice, what was evicted included."""
    found: dict[str, tuple[int, ...]] = {
        key: flat(snapshot, usage.cpu_ns, usage.energy) for key, usage in snapshot.folded.items()
    }
    for leaf in snapshot.leaves:
        pod = pod_key(leaf.identity)
        keys = [
            f"leaf {leaf.identity.id}",
            *view_keys(leaf.identity),
            *([f"pod {pod}"] if pod else []),
        ]
        for key in keys:
            more = flat(snapshot, leaf.cpu_ns, leaf.energy)
            had = found.get(key, (0,) * len(more))
            found[key] = tuple(a + b for a, b in zip(had, more, strict=True))
    return found


def flat(snapshot: Snapshot, cpu_ns: int, energy: Mapping[str, Energy]) -> tuple[int, ...]:
    """CPU time and both kinds of energy of each domain, in one order."""
    parts = (energy.get(name, Energy()) for name in sorted(snapshot.domains))
    return (cpu_ns, *(uj for part in parts for uj in part))


def listed(snapshot: Snapshot) -> dict[str, Leaf]:
    """Ended leaves by id."""
    return {x.identity.id: x for x in snapshot.leaves if x.state == "terminated"}


@settings(max_examples=25)
@given(stories(), LIMITS, RESTARTS)
def test_churn_loses_nothing_and_nothing_falls(
    story: Story, params: Params, restarts: Mapping[int, int]
) -> None:
    """Leaves add up to the node; no leaf, pod, namespace or slice that is shown ever has less."""
    snapshots = [snapshot for snapshot, _ in run(story, params, restarts)]
    for snapshot in snapshots:
        assert sums(snapshot) == node_sums(snapshot)
        assert snapshot.conservation_violations == 0
        assert len(listed(snapshot)) <= params.terminated_max or params.terminated_max < 0
        pods = {pod_key(x.identity) for x in snapshot.leaves if x.identity.kind == "container"}
        pasts = {x.identity.id for x in snapshot.leaves if x.identity.id.startswith("past:")}
        assert pasts <= {f"past:{pod}" for pod in pods}
    for before, after in pairwise(map(grouped, snapshots)):
        for key in before.keys() & after.keys() - incarnations(story):
            assert all(a <= b for a, b in zip(before[key], after[key], strict=True)), key
        views = {key for key, had in before.items() if any(had) and key.startswith(VIEWS)}
        assert views <= after.keys()


def incarnations(story: Story) -> set[str]:
    """Leaves whose id was used again for another container: their counters begin anew."""
    ids = [x.identity.id for x in story.world.loads if x.identity.kind == "container"]
    return {f"leaf {i}" for i in ids if ids.count(i) > 1}


@settings(max_examples=25)
@given(stories(), LIMITS)
def test_slices_have_what_ran_in_them(story: Story, params: Params) -> None:
    """A slice's CPU time is that of the workloads in it, whoever has ended or was evicted.

    Rounding: each key's time is interpolated down to a nanosecond at either end of the run.
    """
    once = {load.identity.id: load for load in story.world.loads if load.identity.kind != "past"}
    world = replace(story.world, loads=tuple(sorted(once.values(), key=lambda load: load.key)))
    *_, (last, _) = run(replace(story, world=world), params, {})
    samples = [world.cpu_sample(t) for t in world.cpu_times]
    expected: dict[str, float] = {}
    for load in world.loads:
        used = shown_ns(samples, load.key, EDGES[-1]) - shown_ns(samples, load.key, EDGES[0])
        for path in slices_of(load.identity.cgroup):
            expected[SLICE + path] = expected.get(SLICE + path, 0.0) + used
    found = grouped(last)
    for key, cpu_ns in expected.items():
        assert abs(found.get(key, (0,))[0] - cpu_ns) <= 2 * len(world.loads), key


@settings(max_examples=25)
@given(stories(), LIMITS, RESTARTS)
def test_two_readers_see_what_ended(
    story: Story, params: Params, restarts: Mapping[int, int]
) -> None:
    """What is shown as ended is so in the next snapshot too, unless the limits send it away."""
    generous = replace(params, terminated_max=-1, terminated_min_uj=0)
    snapshots = [snapshot for snapshot, _ in run(story, generous, restarts)]
    for before, after in pairwise(snapshots):
        for leaf_id, leaf in listed(before).items():
            assert leaf.ended_sequence is not None
            assert leaf.ended_sequence <= before.sequence
            if leaf.ended_sequence == before.sequence:
                assert leaf_id in {x.identity.id for x in after.leaves}


@pytest.mark.parametrize("policy", get_args(IdlePolicy))
def test_an_ended_leaf_gets_nothing_more(policy: IdlePolicy) -> None:
    """Whoever gets the idle energy: what has ended keeps its final counters, asked for or not."""
    asked = {"cpu_millicores": 1000, "memory_bytes": 1 << 30}
    ends = (replace(member(1, 0), requests=asked), service(1, SLICES[0]))
    lives = (replace(member(2, 0), requests=asked), service(2, SLICES[0]))
    loads = [Load(k, who, 0.3, 0, 4 * S) for k, who in enumerate(ends, 1)]
    loads += [Load(k, who, 0.2) for k, who in enumerate(lives, 11)]
    meters = (Meter(zone("package-0"), 9.0, 9.0), Meter(zone("dram"), 1.0, 0.5))
    times = tuple(range(0, 16 * S, S // 2))
    world = World(tuple(loads), {"rapl": meters}, times, times)
    params = Params(cpus=4, idle_policy=policy, memory_bytes=4 << 30)
    *_, before, after = world.run(tuple(range(0, 13 * S, 3 * S)), params)[1:]
    final, shown = listed(before), listed(after)

    assert shown.keys() == {who.id for who in ends}
    assert {i: (x.energy, x.cpu_ns) for i, x in shown.items()} == {
        i: (x.energy, x.cpu_ns) for i, x in final.items()
    }
    assert sums(after) != sums(before)


def test_an_hour_in_small() -> None:
    """Containers of 5 s, 10 a second, as in the benchmark of an hour: sums stand, memory too."""
    node, most = Churn(1000, step_ns=500 * MS), 20
    params, state = Params(cpus=8, terminated_age_ns=12 * S, terminated_max=most), State()
    accounts, columns = [], []
    for index in range(28):
        window = Window(3 * index * S, 3 * (index + 1) * S)
        snapshot, state = analyse(node.observe(window), window, state, params)
        accounts.append(len(state.accounts))
        columns.append(sum(len(m.columns) + len(m.young) for m in state.learned.values()))

        assert sums(snapshot) == node_sums(snapshot)
        assert snapshot.conservation_violations == 0
        assert len(listed(snapshot)) <= most
    for kept in (accounts, columns):  # a workload without a column is remembered for a while
        assert max(kept[24:]) <= max(kept[:24])


def test_a_pod_inside_a_container_has_its_own_past() -> None:
    """Of a nested cluster's pod and the host's pod of the same uid neither gets the other's."""
    outer = replace(
        member(1, 0), cgroup=f"/docker/{1:064x}", pod_uid=None, pod=None, namespace=None
    )
    inner = replace(member(2, 1), tenant=outer.cgroup, cgroup=f"{outer.cgroup}{pod_path(1)}/x")
    mate = replace(inner, id=f"{4:064x}", cgroup=f"{outer.cgroup}{pod_path(1)}/y")
    hosts = (member(3, 1), member(5, 1))
    loads = [Load(k, i, 0.5) for k, i in enumerate((outer, mate, hosts[0]), 1)]
    loads += [Load(4, inner, 0.25, 0, 4 * S), Load(5, hosts[1], 0.125, 0, 4 * S)]
    times = tuple(range(0, 20 * S, S // 2))
    world = World(tuple(loads), {"rapl": (Meter(zone("package-0"), 9.0, 9.0),)}, times, times)
    *_, last = world.run(tuple(range(0, 13 * S, 3 * S)), Params(cpus=4, terminated_max=0))
    leaves = {leaf.identity.id: leaf for leaf in last.leaves}

    assert past_id(inner) == f"past:uid-1@{outer.cgroup}"
    assert leaves[past_id(inner)].cpu_ns == 3500 * MS // 4
    assert leaves["past:uid-1"].cpu_ns == 3500 * MS // 8
    assert last.conservation_violations == 0

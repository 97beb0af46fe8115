"""Promise 4: no name that a tenant gives to a cgroup of its own reaches another tenant's leaf."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from tests.property.test_conservation import PARAMS, worlds
from tests.sim.world import MS, Load, Meter, World, zone
from tychod.analysis.state import Params
from tychod.model import Energy, Snapshot
from tychod.runtime.rollup import pod_of
from tychod.workloads.paths import identify, unattributed, unnamed_reason

UIDS = ("0f3a5b1c-1111-4222-8333-444455556666", "5c2de33fd2a3a1c2d7f0b1e5a4c3b2d1")
IDS = tuple(f"{n:064x}" for n in range(1, 5))
VICTIMS = (
    f"/kubepods/burstable/pod{UIDS[0]}/{IDS[0]}",
    f"/kubepods/burstable/pod{UIDS[0]}/{IDS[1]}",
    f"/kubepods/pod{UIDS[1]}/{IDS[2]}",
    f"/system.slice/docker-{IDS[3]}.scope",
)
USER = "/user.slice/user-1000.slice/user@1000.service"
GIVEN = (USER, f"/docker/{'d0' * 32}", "/lxc.payload.web", "/system.slice/own.service")
UNTIL = 12_000 * MS
EDGES = tuple(range(1_000 * MS, UNTIL + 1, 1_000 * MS))
LIMITS = Params(cpus=4, terminated_age_ns=3_000 * MS, terminated_max=2)


def load(key: int, path: str, share: float, born: int, dies: int) -> Load:
    """Return a cgroup that is who its path says."""
    identity = identify(path) or unattributed(unnamed_reason(path))
    return Load(key, identity, share, born, dies, path=path)


@composite
def spoofs(draw: DrawFn) -> str:
    """A cgroup that an unprivileged owner of a subtree can make."""
    top, ident, uid = (draw(st.sampled_from(words)) for words in (GIVEN, IDS, UIDS))
    below = draw(
        st.sampled_from(
            (
                f"docker-{ident}.scope", f"app.slice/libpod-{ident}.scope/container",
                f"kubepods/pod{uid}/{ident}", f"kubepods/burstable/pod{uid}/x",
                f"kubepods-burstable-pod{uid.replace('-', '_')}.slice/x", f"kubepods/pod{uid}",
                f"kubepods-pod{uid.replace('-', '_')}.slice/crio-{ident}.scope",
                f"kubepods/pod{uid}/crio-conmon-{ident}", "kubepods/besteffort",
                f"docker-{'e0' * 32}.scope/docker/{ident}",
            )
        )
    )  # fmt: skip
    return f"{top}/{below}"


@composite
def attacks(draw: DrawFn) -> tuple[World, World]:
    """A node with victims that come and go, and the same node with a tenant's cgroups on it."""
    victims = [load(k, top, 0.1, 0, 1 << 62) for k, top in enumerate(GIVEN, start=50)]
    for key, path in enumerate(VICTIMS, start=1):
        dies = draw(st.sampled_from((1 << 62, 5_000 * MS, 7_500 * MS)))
        victims.append(load(key, path, draw(st.floats(0, 1)), 0, dies))
    foreign = []
    for key, path in enumerate(draw(st.lists(spoofs(), min_size=1, max_size=4, unique=True)), 100):
        born = draw(st.integers(0, UNTIL))
        foreign.append(load(key, path, draw(st.floats(0, 1)), born, draw(st.integers(born, UNTIL))))
    meters = {"rapl": (Meter(zone(max_w=60.0), 5.0, 8.0),)}
    times = tuple(range(0, UNTIL + 1, 250 * MS))
    quiet = World(tuple(victims), meters, times, times)
    return quiet, replace(quiet, loads=(*victims, *foreign))


def pod_sums(snapshot: Snapshot) -> dict[str, tuple[int, ...]]:
    """Return CPU time and energy of each pod: the sum over its leaves."""
    sums: dict[str, tuple[int, ...]] = {}
    for leaf in snapshot.leaves:
        uid = pod_of(leaf.identity)
        if uid is not None:
            had = sums.get(uid, (0, 0, 0))
            more = leaf.energy.get("package", Energy())
            now = (leaf.cpu_ns, more.idle_uj, more.dynamic_uj)
            sums[uid] = tuple(a + b for a, b in zip(had, now, strict=True))
    return sums


@given(attacks())
def test_a_tenants_cgroups_leave_every_other_leaf_as_it_is(case: tuple[World, World]) -> None:
    """Others keep who they are, their state and their CPU time to the nanosecond, dead or alive."""
    quiet, attacked = case
    for before, after in zip(quiet.run(EDGES, PARAMS), attacked.run(EDGES, PARAMS), strict=True):
        found = {leaf.identity.id: leaf for leaf in after.leaves}
        for leaf in (x for x in before.leaves if x.identity.id in IDS):
            there = found.get(leaf.identity.id)
            if there is None:  # more ended leaves than are listed: the oldest is in the past
                continue
            assert (there.identity, there.state) == (leaf.identity, leaf.state)
            assert (there.cpu_ns, there.first_seen_ns) == (leaf.cpu_ns, leaf.first_seen_ns)
        assert after.conservation_violations == 0


@given(attacks())
def test_a_tenant_bills_no_pod_and_takes_nothing_from_one(case: tuple[World, World]) -> None:
    """A pod's CPU time is the same with and without the tenant; its sums never fall.

    What he calls a pod in his own tree is one of his own, with his tree in its key.
    """
    quiet, attacked = case
    many = replace(LIMITS, terminated_max=100)
    calm, stormy = quiet.run(EDGES, many), attacked.run(EDGES, many)
    for before, after in zip(calm, stormy, strict=True):
        expected, shown = pod_sums(before), pod_sums(after)
        assert {uid: sums[0] for uid, sums in shown.items() if "@" not in uid} == {
            uid: sums[0] for uid, sums in expected.items()
        }
        assert all(key.partition("@")[2].startswith(GIVEN) for key in shown.keys() - expected)
    assert_no_pod_falls(stormy)


@given(attacks(), st.booleans())
def test_what_a_tenant_used_stays_with_him(case: tuple[World, World], again: bool) -> None:
    """His cgroups may end, be made anew and be evicted: the node's past has none of their time."""
    quiet, attacked = case
    none = replace(LIMITS, terminated_max=0)
    victims = len(quiet.loads)
    if again:  # each of his cgroups once more under its name, after its end
        more = [
            replace(x, key=x.key + 100, born_ns=x.dies_ns + 500 * MS, dies_ns=UNTIL)
            for x in attacked.loads[victims:]
        ]
        attacked = replace(attacked, loads=(*attacked.loads, *more))
    for before, after in zip(quiet.run(EDGES, none), attacked.run(EDGES, none), strict=True):
        was, now = (
            {leaf.identity.id: leaf.cpu_ns for leaf in x.leaves if leaf.identity.kind == "past"}
            for x in (before, after)
        )
        assert now["past"] == was["past"]


@given(attacks())
def test_one_tenants_cgroups_do_not_depend_on_a_restart(case: tuple[World, World]) -> None:
    """Who has a leaf is the same for a daemon that forgot which keys it saw first."""
    _, attacked = case
    turned = replace(
        attacked,
        loads=tuple(replace(x, key=1000 - x.key, inode=x.ref.inode) for x in attacked.loads),
    )
    for one, two in zip(attacked.run(EDGES, LIMITS), turned.run(EDGES, LIMITS), strict=True):
        assert [(x.identity.id, x.identity.cgroup, x.cpu_ns) for x in one.leaves] == [
            (x.identity.id, x.identity.cgroup, x.cpu_ns) for x in two.leaves
        ]


def assert_no_pod_falls(snapshots: list[Snapshot]) -> None:
    """A pod that is listed in two windows has in the later one at least what it had."""
    for before, after in pairwise(snapshots):
        old, new = pod_sums(before), pod_sums(after)
        for uid in old.keys() & new.keys():
            assert all(a <= b for a, b in zip(old[uid], new[uid], strict=True))


@given(worlds())
def test_pod_sums_never_fall(case: tuple[World, tuple[int, ...]]) -> None:
    """Over births, ends, eviction and folding a pod's sums grow as long as it is listed."""
    world, edges = case
    assert_no_pod_falls(world.run(edges, PARAMS))

"""Carving: whatever is read of hypervisors, agent and machines together are the cgroup."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from tests.sim.world import MS, Hypervisor, Load, Meter, World, container, unit, zone
from tychod.analysis.carve import carve
from tychod.analysis.cpu import CpuWindow
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, ProcessesSeen, State, VmId, VmPoint
from tychod.model import Identity, Snapshot, Window
from tychod.runtime.saved import pack, parse, unpack
from tychod.samples import CpuSeries, ProcessSeries, ProcessUse, VmSeries, VmUse

S = 1_000 * MS
PARAMS = Params(cpus=4, terminated_age_ns=6 * S, terminated_max=4)
AGENT = Load(1, unit("agent.service"), 1.5)
OTHER = Load(2, unit("other.service"), 0.7, dies_ns=14 * S)
POD = Load(3, container(1, 1), 0.8)
SCOPE = Load(4, Identity("vm", "uuid-4", "m4", cgroup="/machine.slice/m4.scope"), 0.5)
WORLD = World(
    (Load(-1, Identity("kernel", "kernel", "kernel"), 0.05), AGENT, OTHER, POD, SCOPE),
    {"rapl": (Meter(zone("package-0"), 3.0, 10.0), Meter(zone("dram"), 0.5, 1.0))},
    tuple(range(0, 24 * S, 100 * MS)),
    tuple(range(0, 24 * S, 500 * MS)),
)
NAMES = ("web", "db", "agent.service", "uuid-4", "past", "")


@composite
def hypervisors(draw: DrawFn) -> tuple[Hypervisor, ...]:
    """Processes in cgroups that do or do not own them, some with the id of another."""
    found = []
    for number in range(draw(st.integers(1, 5))):
        load = draw(st.sampled_from((AGENT, AGENT, OTHER, POD, SCOPE)))
        born = draw(st.integers(0, 15)) * S + draw(st.integers(0, 99)) * 10 * MS
        found.append(
            Hypervisor(
                100 + number,
                load,
                draw(st.sampled_from((0.0, 0.3, 0.7, 1.0, 1.6))),
                None if load is SCOPE else -1_001 - number,
                draw(st.sampled_from(NAMES)),
                born,
                draw(st.sampled_from((1 << 62, born + 4 * S, born + 9 * S))),
                draw(st.sampled_from((None, 0.5, 0.95, 1.2))),
                draw(st.sampled_from((None, "/tenant"))),
            )
        )
    return tuple(found)


events = st.sampled_from(
    ("", "", "", "restart", "unread", "no-cpu", "fall", "move", "unidentified", "exits", "no-vcpu")
)
stories = st.tuples(
    hypervisors(), st.sampled_from((0, 30 * MS, 700 * MS)), st.lists(events, min_size=4, max_size=7)
)


def befallen(seen: Observations, event: str, window: Window, now: World) -> Observations:
    """Let one thing happen to a reading."""
    if event == "no-cpu":
        return replace(seen, cpu=None)
    series = seen.vms
    if event == "unread" or series is None:
        return replace(seen, vms=None)
    uses = series.uses
    if event == "fall":
        uses = tuple(u._replace(cpu_ns=u.cpu_ns // 2) for u in uses)
    elif event == "move":
        uses = tuple(u._replace(key=u.key % 3 + 1) if u.vm_key else u for u in uses)
    elif event == "no-vcpu":
        uses = tuple(u._replace(vcpu_ns=None) for u in uses)
    elif event == "unidentified":
        known = {k: v for k, v in seen.identities.items() if k > -1_000}
        return replace(seen, identities=known)
    elif event == "exits":
        ends = (
            ProcessUse(h.pid, h.born_ns, "vm", h.load.key, h.cpu_ns(window.end_ns) + S, exited=True)
            for h in now.hypervisors
        )
        exited = ProcessSeries(window.end_ns, "bpf", tuple(ends))
        seen = replace(seen, processes=ProcessesSeen(exited, None, 10**18))
    return replace(seen, vms=replace(series, uses=uses))


def reloaded(state: State) -> State:
    """Return the state with what comes back from its file of leaves, views and machines."""
    saved = parse(unpack(pack("boot", state, None))).state
    assert (saved.vms, saved.views) == (state.vms, state.views)
    return replace(state, accounts=saved.accounts, vms=saved.vms, views=saved.views)


def used_ns(snapshot: Snapshot) -> int:
    """CPU time of all leaves."""
    return sum(leaf.cpu_ns for leaf in snapshot.leaves)


@settings(max_examples=25)
@given(stories)
def test_nothing_is_counted_twice(story: tuple[tuple[Hypervisor, ...], int, list[str]]) -> None:
    """Whatever happens to hypervisors, the node is the same to the nanosecond and microjoule.

    Views are in no sum, and have no more than their leaf; nobody's vCPU time exceeds his CPU time.
    """
    found, late_ns, happened = story
    now = replace(WORLD, hypervisors=found, vms_late_ns=late_ns)
    state = plain = State()
    for number, event in enumerate(happened):
        window = Window(number * 3 * S + S, number * 3 * S + 4 * S)
        if event == "restart":
            state, plain = (replace(x, restarted=x.end_ns is not None) for x in (state, plain))
            state = reloaded(state)
        seen = befallen(now.observe(window), event, window, now)
        other = WORLD.observe(window)
        other = replace(other, cpu=None) if event == "no-cpu" else other
        without, plain = analyse(other, window, plain, PARAMS)
        snapshot, state = analyse(seen, window, state, PARAMS)
        assert used_ns(snapshot) == used_ns(without)
        assert snapshot.domains.keys() == without.domains.keys()
        assert state.consumed_ns == plain.consumed_ns
        assert snapshot.conservation_violations == 0
        for name, domain in snapshot.domains.items():
            assert domain.energy_uj == without.domains[name].energy_uj
        check_views(snapshot)
        for shown in (*snapshot.leaves, *snapshot.views):
            assert shown.cpu_ns >= 0
            assert shown.vcpu_ns is None or 0 <= shown.vcpu_ns <= shown.cpu_ns


def check_views(snapshot: Snapshot) -> None:
    """A view's leaf is there and has at least what its views have together."""
    leaves = {leaf.identity.id: leaf for leaf in snapshot.leaves}
    for parent in {view.identity.parent or "" for view in snapshot.views}:
        views = [view for view in snapshot.views if view.identity.parent == parent]
        assert sum(view.cpu_ns for view in views) <= leaves[parent].cpu_ns
        for name, energy in leaves[parent].energy.items():
            assert sum(view.energy[name].total_uj for view in views) <= energy.dynamic_uj


@composite
def columns(draw: DrawFn) -> tuple[CpuWindow, Observations, State]:
    """A window of a few cgroups, and hypervisors in them that want any amount."""
    bins, cgroups = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    amounts = st.sampled_from((0, 0, 1, 2, 7, 49_999_999, 50 * MS, 10**13, 10**16))
    used = np.array([[draw(amounts) for _ in range(cgroups)] for _ in range(bins)], np.int64)
    packages = np.stack([used // 3, used - used // 3], axis=1)
    keys = np.arange(1, cgroups + 1, dtype=np.int64)
    live = frozenset(keys.tolist())
    edges = np.arange(bins + 1, dtype=np.int64)
    cpu = CpuWindow(edges, keys, used, packages, (True,) * bins, live, {}, 0, None)
    uses, points, identities = [], {}, {}
    for pid in range(draw(st.integers(1, 5))):
        key = draw(st.integers(1, cgroups))
        uses.append(VmUse(pid, 0, -2_000 - pid, key, draw(amounts), None))
        points[VmId(pid, 0)] = VmPoint(0, None, key)
        identities[-2_000 - pid] = Identity("vm", f"m{pid}", f"m{pid}")
    told = Observations(
        (), CpuSeries("bpf-core", (), {}), identities, 0, vms=VmSeries(0, tuple(uses))
    )
    return cpu, told, State(vms=points)


@settings(max_examples=100)
@given(columns())
def test_bins_are_divided_exactly(case: tuple[CpuWindow, Observations, State]) -> None:
    """Each machine has all it wants or its proportion; no bin gives what it has not.

    However large the numbers are: a day's gap on a large node does not fit a double.
    """
    cpu, told, state = case
    carved = carve(cpu, told, Window(0, 1), state)
    after = carved.cpu
    assert after.keys.tolist() == sorted(after.keys.tolist())
    assert (after.used_ns >= 0).all()
    assert after.package_ns is not None
    assert cpu.package_ns is not None
    assert (after.package_ns >= 0).all()
    for at, key in enumerate(cpu.keys.tolist()):
        mine = [p for p in carved.parts if p.cgroup_key == key]
        places = np.searchsorted(after.keys, [key, *(p.key for p in mine)])
        assert (after.used_ns[:, places].sum(axis=1) == cpu.used_ns[:, at]).all()
        assert (after.package_ns[:, :, places].sum(axis=2) == cpu.package_ns[:, :, at]).all()
        wanted, room = sum(p.wanted_ns for p in mine), int(cpu.used_ns[:, at].sum())
        for part, place in zip(mine, places[1:], strict=True):
            got = int(after.used_ns[:, place].sum())
            assert got == part.credited_ns
            exact = part.wanted_ns if wanted <= room else part.wanted_ns * room / wanted
            assert abs(got - exact) <= 1 + exact * 2**-52

"""Machines without a cgroup: carved out of their cgroup's time, or shown as views; never twice."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from tests.sim.world import MS, Hypervisor, Load, Meter, World, container, unit, zone
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Account, Observations, Params, ProcessesSeen, State, VmId
from tychod.model import Identity, Leaf, Snapshot, Window
from tychod.replay import run
from tychod.runtime.recording import Analysed, RecordingReader, RecordingWriter
from tychod.samples import CounterSample, ProcessSeries, ProcessUse, VmSeries

S = 1_000 * MS
PARAMS = Params(cpus=4)
EDGES = range(1 * S, 14 * S, 3 * S)
KERNEL = Load(-1, Identity("kernel", "kernel", "kernel"), 0.05)
AGENT = Load(1, unit("agent.service"), 1.5)
POD = Load(2, container(1, 1), 0.8)
SCOPE = Load(3, Identity("vm", "uuid-3", "m3", cgroup="/machine.slice/m3.scope"), 0.5)
WORLD = World(
    (KERNEL, AGENT, POD, SCOPE),
    {"rapl": (Meter(zone("package-0"), 10.0, 8.0),)},
    tuple(range(0, 20 * S, 50 * MS)),
    tuple(range(0, 20 * S, 250 * MS)),
)
FIRST = Hypervisor(10, AGENT, 0.5, -1_001)
SECOND = Hypervisor(11, AGENT, 0.3, -1_002, born_ns=5 * S, dies_ns=11 * S)
INNER = Hypervisor(12, POD, 0.7, -1_003, "inner")

Seen = tuple[Observations, Window]


def world(*hypervisors: Hypervisor, late_ns: int = 0) -> World:
    """The node with these hypervisors, read so long after each window's end."""
    return replace(WORLD, hypervisors=hypervisors, vms_late_ns=late_ns)


def observed(now: World, edges: Sequence[int] = EDGES) -> list[Seen]:
    """What is seen of each window."""
    windows = [Window(start, end) for start, end in pairwise(edges)]
    return [(now.observe(window), window) for window in windows]


def booked(seen: Sequence[Seen], state: State | None = None) -> list[tuple[Snapshot, State]]:
    """Analyse window after window; return the snapshots, and the state after each."""
    found, now = [], state or State()
    for observations, window in seen:
        snapshot, now = analyse(observations, window, now, PARAMS)
        assert snapshot.conservation_violations == 0
        found.append((snapshot, now))
    return found


def cpu(snapshot: Snapshot) -> dict[str, int]:
    """CPU time by leaf."""
    return {leaf.identity.id: leaf.cpu_ns for leaf in snapshot.leaves if leaf.cpu_ns}


def leaf(snapshot: Snapshot, leaf_id: str) -> Leaf:
    """One leaf."""
    return next(x for x in snapshot.leaves if x.identity.id == leaf_id)


def test_agent_and_machines_are_the_cgroup() -> None:
    """What the machines get the agent loses, to the nanosecond; the rest of the node is as it was.

    The cgroup used 1.5 CPUs, the first machine half of that, the second 0.3 of it while it lived.
    """
    plain = [cpu(s) for s, _ in booked(observed(world()))]
    carved = [cpu(s) for s, _ in booked(observed(world(FIRST, SECOND)))]
    for before, after in zip(plain, carved, strict=True):
        mine = ("agent.service", "qemu-10-0", "qemu-11-500")
        assert sum(after.get(x, 0) for x in mine) == before["agent.service"]
        assert {k: v for k, v in after.items() if k not in mine} == {
            k: v for k, v in before.items() if k not in mine
        }
    # Seen running at 4 s, where what it had used before is its cgroup's; read for the last time
    # at 13 s, and the other at 10 s.
    assert carved[-1]["qemu-10-0"] == int(9 * S * 1.5 * 0.5)
    assert carved[-1]["qemu-11-500"] == int(5 * S * 1.5 * 0.3)


def test_energy_goes_with_the_time() -> None:
    """A machine that uses half of its cgroup's time has half of its dynamic energy.

    To 1 uJ a window, since each is rounded.
    Idle energy stays with `system`; the row says how its bins were made.
    """
    both, alone = (booked(observed(world(*h))) for h in ((FIRST,), ()))
    shown = leaf(both[-1][0], "qemu-10-0")
    before = leaf(both[0][0], "qemu-10-0")
    agent = leaf(both[-1][0], "agent.service").total.dynamic_uj
    agent -= leaf(both[0][0], "agent.service").total.dynamic_uj
    gained = shown.total.dynamic_uj - before.total.dynamic_uj
    assert abs(gained - agent) <= len(EDGES)
    whole = leaf(alone[-1][0], "agent.service").total.dynamic_uj
    whole -= leaf(alone[0][0], "agent.service").total.dynamic_uj
    assert abs(gained + agent - whole) <= len(EDGES)
    assert shown.total.idle_uj == 0
    assert "carved" in shown.flags
    assert shown.identity.parent == "agent.service"


def test_bins_follow_the_cgroup() -> None:
    """A machine's time lies where its cgroup's does: none in a bin in which that was still."""
    burst = replace(AGENT, share=1.0, born_ns=5 * S, dies_ns=6 * S + 1)
    machine = replace(FIRST, load=burst, part=1.0)
    now = replace(world(machine), loads=(KERNEL, burst))
    (first, state), (second, _) = booked(observed(now, (1 * S, 4 * S, 7 * S)))
    assert "qemu-10-0" not in cpu(first)
    assert state.vms[VmId(10, 0)].cpu_ns == 0
    assert cpu(second)["qemu-10-0"] == S
    assert "agent.service" not in cpu(second)


def test_late_readings_lose_nothing() -> None:
    """Machines read 200 ms after each window's end want more than there is; it comes later.

    This one is all that its cgroup runs, until 9 s: the reading at 7.2 s shows 0.2 s of the next
    window, and that at 10.2 s nothing new beyond the end.
    """
    still = replace(AGENT, born_ns=2 * S, dies_ns=9 * S + 1)
    machine = replace(FIRST, load=still, part=1.0, born_ns=2 * S)
    late = replace(world(machine, late_ns=200 * MS), loads=(KERNEL, still))
    found = booked(observed(late))
    at = [cpu(s).get("qemu-10-200", 0) for s, _ in found]
    assert at == [3 * S, int(7.5 * S), int(10.5 * S), int(10.5 * S)]
    owed = [machine.cpu_ns(t * S + 200 * MS) - ns for t, ns in zip((4, 7, 10, 13), at, strict=True)]
    assert owed == [300 * MS, 300 * MS, 1, 1]
    assert [state.vms[VmId(10, 200)].cpu_ns for _, state in found] == at


def test_a_machine_found_late_has_all_its_time() -> None:
    """One that began 2 s before the window in which it is first read has those 2 s as well.

    Not one that began long before, and none of what was used before the counters began.
    """
    late = replace(FIRST, born_ns=5 * S)
    old = replace(FIRST, pid=14, vm_key=-1_006, part=0.25)
    seen = observed(world(late, old))
    (first, second), rest = observed(world())[:2], seen[2:]
    found = booked([first, second, *rest])
    at = [{k: v for k, v in cpu(s).items() if k[:4] == "qemu"} for s, _ in found]
    assert at[:2] == [{}, {}]
    assert at[2] == {"qemu-10-500": int(5 * S * 0.75)}
    assert at[3] == {"qemu-10-500": int(8 * S * 0.75), "qemu-14-0": int(3 * S * 0.375)}
    early = replace(FIRST, born_ns=990 * MS)
    assert cpu(booked(observed(world(early)))[0][0]).get("qemu-10-99") is None


def test_a_surplus_is_bounded() -> None:
    """A hypervisor that counts twice what its cgroup does takes all of it, and no debt grows."""
    double = replace(FIRST, part=2.0)
    found = booked(observed(world(double)))
    for _, state in found:
        assert double.cpu_ns(13 * S) >= state.vms[VmId(10, 0)].cpu_ns
    last_snapshot, last_state = found[-1]
    assert cpu(last_snapshot)["qemu-10-0"] == int(9 * S * 1.5)
    assert double.cpu_ns(13 * S) - last_state.vms[VmId(10, 0)].cpu_ns == PARAMS.cpus * S // 2


def test_machines_of_one_cgroup_share_what_there_is() -> None:
    """Where they want more than the cgroup used, each gets its proportion, adding up to it."""
    pair = (replace(FIRST, part=0.9), replace(FIRST, pid=13, vm_key=-1_005, part=0.45))
    found = cpu(booked(observed(world(*pair)))[1][0])
    assert found["qemu-10-0"] + found["qemu-13-0"] == int(3 * S * 1.5)
    assert abs(found["qemu-10-0"] - 2 * found["qemu-13-0"]) <= 2


def test_a_restart_goes_on() -> None:
    """After a restart keys are others, the cgroup is the same: the machine has all its time."""
    seen = observed(world(FIRST))
    (_, state), *_ = booked(seen[:1])
    (_, through) = booked(seen[:2])[-1]
    moved = replace(AGENT, key=7, inode=AGENT.ref.inode)
    again = replace(FIRST, load=moved, vm_key=-1_044)
    now = replace(world(again), loads=(KERNEL, moved, POD, SCOPE))
    restarted = replace(state, restarted=True, consumed_ns={}, cpu_run=0)
    observations, window = observed(now)[1]
    series = observations.cpu
    assert series is not None
    # The accounting goes on from the totals at the last window's end, so own times begin there.
    base = {load.key: load.own_ns(window.start_ns) for load in now.loads}
    samples = tuple(
        s._replace(
            own_ns=np.array(
                [n - base[k] for k, n in zip(s.keys.tolist(), s.own_ns.tolist(), strict=True)]
            )
        )
        for s in series.samples
        if s.t_ns >= window.start_ns
    )
    observations = replace(observations, cpu=replace(series, samples=samples))
    _, after = analyse(observations, window, restarted, PARAMS)
    assert after.accounts["qemu-10-0"].cpu_ns == through.accounts["qemu-10-0"].cpu_ns
    assert after.accounts["agent.service"].cpu_ns == through.accounts["agent.service"].cpu_ns


def test_a_machine_keeps_its_leaf_though_it_is_called_otherwise_now() -> None:
    """After a restart the agent that told its id may be silent: one machine is one leaf.

    The one without a cgroup is known by its process, the other by its cgroup's path and inode.
    """
    told = booked(observed(world(replace(FIRST, vm_id="checkout")), EDGES[:3]))
    scope = replace(SCOPE, identity=replace(SCOPE.identity, id="qemu-3-m3"))
    later = replace(world(replace(FIRST, vm_id="i-0815")), loads=(KERNEL, AGENT, POD, scope))
    last, _ = booked(observed(later, EDGES[2:]), told[-1][1])[-1]
    as_told = booked(observed(world(replace(FIRST, vm_id="checkout"))))[-1][0]

    assert cpu(last) == cpu(as_told)
    assert {"checkout", "uuid-3"} <= set(cpu(last))


def test_what_an_agent_told_is_not_taken_back() -> None:
    """A machine keeps its name and labels while its agent is silent after a restart."""
    told = replace(FIRST.identity, id="checkout", name="checkout", names_from="agent")
    told = replace(told, labels={"health": "ok"})

    def named(seen: Sequence[Seen], identity: Identity) -> list[Seen]:
        return [
            (replace(o, identities={**o.identities, FIRST.vm_key or 0: identity}), w)
            for o, w in seen
        ]

    before = booked(named(observed(world(FIRST), EDGES[:3]), told))
    silent = replace(FIRST.identity, id="i-0815", name="i-0815", names_from="cmdline")
    last, _ = booked(named(observed(world(FIRST), EDGES[2:]), silent), before[-1][1])[-1]
    found = leaf(last, "checkout").identity

    assert (found.name, found.names_from, found.labels) == ("checkout", "agent", {"health": "ok"})


def test_a_process_that_moves_takes_its_leaf_with_it() -> None:
    """What it used on the way is its cgroups'; then it is carved out of the other one.

    An older process that claims its id meanwhile gets nothing by that.
    """
    moved = replace(FIRST, load=replace(POD, identity=unit("other.service")))
    rival = replace(FIRST, pid=5, vm_key=-1_040, vm_id="qemu-10-0", part=0.1)
    loads = (KERNEL, AGENT, moved.load, SCOPE)
    here = observed(replace(world(FIRST), loads=loads))
    there = [
        counted(seen, {10: FIRST.cpu_ns(seen[1].end_ns)})
        for seen in observed(replace(world(moved, rival), loads=loads))
    ]
    found = booked([*here[:2], *there[2:]])
    at = [cpu(s).get("qemu-10-0", 0) for s, _ in found]
    assert at[1] == at[2] == int(3 * S * 1.5 * 0.5)
    assert at[3] - at[2] == int(3 * S * 0.75)
    assert cpu(found[3][0])["other.service"] == int(12 * S * 0.8) - int(3 * S * 0.75)


def counted(seen: Seen, cpu_ns: Mapping[int, int]) -> Seen:
    """The same with other counters of some processes."""
    observations, window = seen
    vms = observations.vms
    assert vms is not None
    uses = tuple(u._replace(cpu_ns=cpu_ns.get(u.pid, u.cpu_ns)) for u in vms.uses)
    return replace(observations, vms=replace(vms, uses=uses)), window


def test_a_counter_that_falls_is_read_anew() -> None:
    """A counter that stands lower than it was gives nothing in that window, and goes on after."""
    seen = observed(world(FIRST))
    fallen = [
        seen[0],
        seen[1],
        *(counted(x, {10: FIRST.cpu_ns(x[1].end_ns) - 2 * S}) for x in seen[2:]),
    ]
    at = [cpu(s).get("qemu-10-0", 0) for s, _ in booked(fallen)]
    assert at[2] == at[1] + 3 * S * 0.75 - 2 * S  # not below where it was: it only rose by less
    fallen = [
        seen[0],
        seen[1],
        *(counted(x, {10: FIRST.cpu_ns(x[1].end_ns) - 6 * S}) for x in seen[2:]),
    ]
    at = [cpu(s).get("qemu-10-0", 0) for s, _ in booked(fallen)]
    assert at[2] == at[1]
    assert at[3] == at[2] + 3 * S * 0.75


def test_the_kernel_programs_know_the_last_part() -> None:
    """A machine that ended between readings has what the kernel counted of it until its end.

    Where nobody saw the end the cgroup keeps it.
    """
    gone = observed(world(SECOND))
    observations, window = gone[3]
    exited = ProcessUse(11, 5 * S + 3 * MS, "qemu", AGENT.key, SECOND.cpu_ns(11 * S), exited=True)
    series = ProcessSeries(window.end_ns, "bpf", (exited,))
    told = replace(observations, processes=ProcessesSeen(series, None, 10**18))
    known, unknown = booked([*gone[:3], (told, window)]), booked(gone)
    assert cpu(known[-1][0])["qemu-11-500"] == SECOND.cpu_ns(11 * S)
    assert cpu(unknown[-1][0])["qemu-11-500"] == SECOND.cpu_ns(10 * S)
    assert sum(cpu(known[-1][0]).values()) == sum(cpu(unknown[-1][0]).values())
    for found in (known, unknown):
        assert leaf(found[-1][0], "qemu-11-500").state == "terminated"
        assert not found[-1][1].vms


def test_an_end_between_two_readings_of_one_window() -> None:
    """Where hypervisors were read before a machine's end and the kernel programs after it."""
    brief = replace(SECOND, dies_ns=9_950 * MS)
    seen = observed(world(brief, late_ns=-100 * MS))
    observations, window = seen[2]
    exited = ProcessUse(11, 5 * S, "qemu", AGENT.key, brief.cpu_ns(20 * S), exited=True)
    series = ProcessSeries(window.end_ns, "bpf", (exited,))
    told = replace(observations, processes=ProcessesSeen(series, None, 10**18))
    found = booked([*seen[:2], (told, window), seen[3]])
    at = [cpu(s).get("qemu-11-500", 0) for s, _ in found]
    assert at == [0, brief.cpu_ns(6_900 * MS), brief.cpu_ns(20 * S), brief.cpu_ns(20 * S)]
    states = [leaf(s, "qemu-11-500").state for s, _ in found[1:]]
    assert states == ["running", "running", "terminated"]


def test_a_window_without_a_reading_ends_nobody() -> None:
    """While hypervisors are not read their leaves run on, and their time comes with the next."""
    seen = observed(world(FIRST))
    unread = [*seen[:2], (replace(seen[2][0], vms=None), seen[2][1]), seen[3]]
    found = booked(unread)
    assert leaf(found[2][0], "qemu-10-0").state == "running"
    assert found[2][1].vms == found[1][1].vms
    # Half of 1.5 CPUs for two windows: as much as the cgroup used in the one that is left.
    assert cpu(found[3][0])["qemu-10-0"] == int(9 * S * 0.75)


def test_an_id_taken_up_by_a_new_process_is_a_new_workload() -> None:
    """A machine that was started again under its id begins at 0; what it had is its agent's."""
    old = replace(FIRST, vm_id="web", dies_ns=8 * S)
    new = replace(FIRST, pid=77, vm_id="web", vm_key=-1_009, born_ns=9 * S)
    found = booked(observed(world(old, new)))
    had = leaf(found[1][0], "web")
    now = leaf(found[2][0], "web")
    assert now.identity.pid == 77
    assert now.cpu_ns == int(S * 0.75)
    assert leaf(found[2][0], "past").cpu_ns == 0
    assert leaf(found[2][0], "agent.service").cpu_ns == 9 * S * 3 // 2 - now.cpu_ns
    assert now.first_seen_ns > had.first_seen_ns


def test_machines_that_come_and_go_leave_all_to_what_they_ran_in() -> None:
    """Whoever starts a fake machine every second has what it used, and `past` has none of it."""
    none = replace(PARAMS, terminated_max=0)
    fakes = [
        replace(FIRST, pid=20 + k, vm_key=-2_000 - k, vm_id="web", born_ns=k * S, dies_ns=k * S + S)
        for k in range(2, 12)
    ]
    state = State()
    for observations, window in observed(world(*fakes), range(S, 14 * S, S)):
        now, state = analyse(observations, window, state, none)
        used = cpu(now)
        assert "past" not in used
        assert used["agent.service"] + used.get("web", 0) == (window.end_ns - S) * 3 // 2
        assert now.conservation_violations == 0
    assert used["agent.service"] == 18 * S


def test_of_two_that_claim_an_id_the_one_that_has_it_keeps_it() -> None:
    """The time of the other stays with its cgroup, whichever has the lower key."""
    other = Hypervisor(66, replace(POD, identity=unit("b.service")), 0.5, -2_000, "web", 2 * S)
    one = replace(FIRST, vm_id="web")
    loads = (KERNEL, AGENT, other.load, SCOPE)
    for key in (-2_000, -900_000, -1_000 - 1):
        pair = (replace(one, vm_key=-1_500), replace(other, vm_key=key))
        found = booked(observed(replace(world(*pair), loads=loads)))
        last = cpu(found[-1][0])
        assert last["web"] == int(9 * S * 0.75)
        assert last["b.service"] == int(12 * S * 0.8)
        assert leaf(found[-1][0], "web").vcpu_ns == int(9 * S * 0.75 * 0.9)


def test_the_systems_machine_takes_its_id_from_a_session() -> None:
    """Whoever starts first, even with the very arguments, in his own session: root's one has it.

    What the imposter uses from then on is his session's, and his leaf is not the machine's.
    """
    path = "/user.slice/user-1000.slice/user@1000.service"
    session = Load(9, Identity("unit", "user@1000.service", "u", cgroup=path), 0.5, path=path)
    imposter = Hypervisor(20, session, 0.8, -1_020, "pay")
    real = Hypervisor(21, AGENT, 0.5, -1_021, "pay", born_ns=8 * S)
    both = replace(world(imposter, real), loads=(KERNEL, AGENT, POD, SCOPE, session))
    alone = replace(world(imposter), loads=(KERNEL, AGENT, POD, SCOPE, session))
    before = booked(observed(alone, EDGES[:3]))
    last = booked(observed(both, EDGES[2:]), before[-1][1])

    assert cpu(before[-1][0])["pay"] > 0
    found = leaf(last[-1][0], "pay")
    assert (found.identity.tenant, found.identity.parent) == (AGENT.ref.path, "agent.service")
    assert found.cpu_ns == real.cpu_ns(EDGES[-1]), "nothing of the imposter's is in it"


def test_a_machine_inside_a_container_is_a_view() -> None:
    """The container keeps time and energy; the view has its part of the dynamic energy, no more."""
    with_it, without = booked(observed(world(INNER))), booked(observed(world()))
    for (snapshot, _), (plain, _) in zip(with_it, without, strict=True):
        assert snapshot.leaves == plain.leaves
    view = with_it[-1][0].views[0]
    pod = [leaf(s, POD.identity.id) for s, _ in with_it]
    assert view.identity.parent == POD.identity.id
    assert view.cpu_ns == int(9 * S * 0.8 * 0.7)
    assert view.vcpu_ns is not None
    assert abs(view.vcpu_ns - 0.9 * view.cpu_ns) <= 4
    gained = pod[-1].total.dynamic_uj - pod[0].total.dynamic_uj
    assert 0.7 * gained - len(EDGES) - 1 <= view.total.dynamic_uj <= 0.7 * gained
    assert view.total.idle_uj == 0
    power = pod[-1].power_w["package"]
    assert power is not None
    assert abs((view.power_w["package"] or 0) - 0.7 * power) < 1e-6


def test_a_view_ends_and_is_forgotten() -> None:
    """It ends with its process, and goes by age or with its leaf."""
    ends = replace(INNER, dies_ns=6 * S)
    found = booked(observed(world(ends)))
    assert [s.views[0].state for s, _ in found] == [
        "running",
        "terminated",
        "terminated",
        "terminated",
    ]
    observations, window = observed(world())[-1]
    aged = analyse(observations, window, found[1][1], replace(PARAMS, terminated_age_ns=3 * S))[0]
    assert aged.views == ()
    evicted = replace(found[1][1], accounts={})
    assert analyse(replace(observations, cpu=None), window, evicted, PARAMS)[0].views == ()


def test_views_of_one_id() -> None:
    """A view's id is the first one's while that lives, then another's, from 0; never a leaf's."""
    pod = replace(POD, key=9, identity=container(2, 2))
    old = replace(INNER, dies_ns=9 * S)
    rival = Hypervisor(90, pod, 0.5, -5_000, "inner", 3 * S)
    found = booked(observed(replace(world(old, rival), loads=(*WORLD.loads, pod))))
    owners = [s.views[0].identity.parent for s, _ in found]
    assert owners == [POD.identity.id, POD.identity.id, pod.identity.id, pod.identity.id]
    assert found[3][0].views[0].cpu_ns == int(6 * S * 0.8 * 0.5)
    assert all(len(s.views) == 1 for s, _ in found)
    liar = replace(INNER, vm_id="agent.service")
    assert booked(observed(world(liar)))[-1][0].views == ()


def test_views_are_bounded() -> None:
    """Of too many the ended go first, then those with the least CPU time."""
    (observations, window), *_ = observed(world())
    _, state = analyse(observations, window, State(), PARAMS)
    who, now_ns = INNER.identity, state.accounts[POD.identity.id].first_seen_ns
    views = {
        f"v{n}": Account(
            replace(who, id=f"v{n}"), now_ns, n, n, ended_ns=window.end_ns if n > 1_150 else None
        )
        for n in range(1_200)
    }
    observations, window = observed(world())[1]
    unread = replace(observations, vms=None)
    _, after = analyse(unread, window, replace(state, views=views), PARAMS)
    assert sorted(int(name[1:]) for name in after.views) == list(range(151, 1_151))


def test_a_view_goes_with_its_leaf() -> None:
    """A container that was made anew under its id is another: the view of the old one is gone."""
    anew = replace(POD, key=9, inode=99, born_ns=7_500 * MS)
    old = replace(POD, dies_ns=7_500 * MS)
    inside = replace(INNER, load=anew, pid=13, vm_id="later", born_ns=8 * S)
    loads = (KERNEL, AGENT, SCOPE, old, anew)
    hypervisors = (replace(INNER, load=old, dies_ns=7_500 * MS), inside)
    found = booked(observed(replace(world(*hypervisors), loads=loads)))
    views = [[view.identity.id for view in s.views] for s, _ in found]
    assert views == [["inner"], ["inner"], ["later"], ["later"]]
    view, pod = found[2][0].views[0], leaf(found[2][0], POD.identity.id)
    assert 0 < view.cpu_ns < pod.cpu_ns == anew.own_ns(10 * S)


def test_a_machine_cannot_be_another_kind_of_leaf() -> None:
    """One that is called as a unit or as the kernel's leaf stays with its cgroup."""
    for name in ("kernel", "past", "agent.service", "unattributed", "system"):
        liar = replace(FIRST, vm_id=name)
        plain = booked(observed(world()))[-1][0]
        assert booked(observed(world(liar)))[-1][0].leaves == plain.leaves


def test_vcpu_time_of_a_machine_with_a_cgroup() -> None:
    """What it used before its threads were told apart is divided as its whole life is."""
    own = Hypervisor(40, SCOPE, 1.0, vcpu_part=0.6)
    seen = observed(world(own))
    found = [leaf(s, "uuid-3") for s, _ in booked([without_threads(seen[0]), *seen[1:]])]
    assert found[0].vcpu_ns is None
    for shown in found[1:]:
        assert shown.vcpu_ns is not None
        assert abs(shown.vcpu_ns - 0.6 * shown.cpu_ns) <= 4


def test_two_hypervisors_of_one_machine() -> None:
    """Their vCPU time together is no more than what their cgroup used."""
    pair = [Hypervisor(40 + n, SCOPE, 1.0, None, "", n * 5 * S, vcpu_part=0.95) for n in (0, 1)]
    for snapshot, _ in booked(observed(world(*pair))):
        shown = leaf(snapshot, "uuid-3")
        assert shown.vcpu_ns is not None
        assert 0.9 * shown.cpu_ns <= shown.vcpu_ns <= shown.cpu_ns


def without_threads(seen: Seen) -> Seen:
    """The same where threads cannot be told apart."""
    observations, window = seen
    vms = observations.vms or VmSeries(0, ())
    uses = tuple(use._replace(vcpu_ns=None) for use in vms.uses)
    return replace(observations, vms=replace(vms, uses=uses)), window


def test_overhead_is_never_negative_and_never_falls() -> None:
    """However threads were read: more than their process used, or all at once after nothing."""
    machines = (FIRST, Hypervisor(40, SCOPE, 1.0), INNER)
    before: Mapping[str, int] = {}
    state = State()
    for number, (observations, window) in enumerate(observed(world(*machines))):
        vms = observations.vms
        assert vms is not None
        uses = tuple(
            u._replace(vcpu_ns=(u.cpu_ns // 10, u.cpu_ns // 10, u.cpu_ns, 2 * u.cpu_ns)[number])
            for u in vms.uses
        )
        seen = replace(observations, vms=replace(vms, uses=uses))
        snapshot, state = analyse(seen, window, state, PARAMS)
        shown = [x for x in (*snapshot.leaves, *snapshot.views) if x.vcpu_ns is not None]
        overhead = {x.identity.id: x.cpu_ns - (x.vcpu_ns or 0) for x in shown}
        assert all(ns >= before.get(name, 0) for name, ns in overhead.items())
        before = overhead
    assert before.keys() == {"qemu-10-0", "uuid-3", "inner"}
    assert all(before.values())


def test_processes_go_with_their_machine() -> None:
    """A hypervisor is listed under its machine, and has that leaf's energy, not its cgroup's."""
    seen = observed(world(FIRST))
    told = []
    for observations, window in seen:
        uses = (
            ProcessUse(10, 4 * MS, "qemu", AGENT.key, FIRST.cpu_ns(window.end_ns), exited=False),
            ProcessUse(5, 0, "agent", AGENT.key, AGENT.own_ns(window.end_ns) // 2, exited=False),
        )
        series = ProcessSeries(window.end_ns, "procfs", uses)
        told.append((replace(observations, processes=ProcessesSeen(series, None, 0)), window))
    first, last = booked(told)[0][0], booked(told)[-1][0]
    assert last.processes is not None
    assert first.processes is not None
    gained = {p.pid: p.energy["package"].dynamic_uj for p in last.processes.entries}
    for process in first.processes.entries:
        gained[process.pid] -= process.energy["package"].dynamic_uj
    assert {p.pid: p.workload for p in last.processes.entries} == {
        10: "qemu-10-0",
        5: "agent.service",
    }
    for pid, leaf_id in ((10, "qemu-10-0"), (5, "agent.service")):
        whole = leaf(last, leaf_id).total.dynamic_uj - leaf(first, leaf_id).total.dynamic_uj
        assert abs(gained[pid] - whole) <= len(EDGES)


def test_hardware_counters_go_with_the_time() -> None:
    """Of what its cgroup's tasks counted a machine has the part that it has of the CPU time."""
    seen = observed(world(FIRST))
    told = []
    for number, (observations, window) in enumerate(seen):
        keys = np.array([AGENT.key], np.int64)
        value = np.array([[1_000_001 * number]], np.int64)
        counters = CounterSample(1, ("instructions",), keys, value, value + 1)
        assert observations.cpu is not None
        told.append(
            (replace(observations, cpu=replace(observations.cpu, counters=counters)), window)
        )
    last = booked(told)[-1][0]
    parts = [leaf(last, x).counters["instructions"] for x in ("agent.service", "qemu-10-0")]
    assert sum(parts) == 1_000_001
    assert abs(parts[0] - parts[1]) <= 2


def test_equal_shares_of_idle_energy_count_machines() -> None:
    """Under a policy that gives idle energy to workloads a carved machine is one of them."""
    seen = observed(world(FIRST))
    params = replace(PARAMS, idle_policy="equal")
    state = State()
    for observations, window in seen:
        snapshot, state = analyse(observations, window, state, params)
    shares = {x.identity.id: x.total.idle_uj for x in snapshot.leaves if x.total.idle_uj}
    assert {"qemu-10-0", "agent.service", "uuid-3", POD.identity.id} <= shares.keys()
    assert snapshot.conservation_violations == 0


def test_an_unknown_cgroup_waits() -> None:
    """While nothing accounts the cgroup nothing is credited, and nothing is lost."""
    seen = observed(world(FIRST))
    hidden = []
    for observations, window in seen:
        assert observations.vms is not None
        uses = tuple(use._replace(key=99) for use in observations.vms.uses)
        hidden.append((replace(observations, vms=replace(observations.vms, uses=uses)), window))
    found = booked(hidden)
    assert cpu(found[-1][0])["agent.service"] == int(12 * S * 1.5)
    assert leaf(found[-1][0], "qemu-10-0").cpu_ns == 0
    assert found[-1][1].vms[VmId(10, 0)].cpu_ns == FIRST.cpu_ns(4 * S)


def test_a_start_is_compared_in_one_clock() -> None:
    """Where the machine slept for an hour starts are an hour later, and mean the same."""
    hour_ns = 3_600 * S
    plain = observed(world(replace(FIRST, born_ns=4_500 * MS)))
    slept = []
    for observations, window in plain:
        vms = observations.vms
        assert vms is not None
        uses = tuple(u._replace(start_ticks=u.start_ticks + hour_ns // (10 * MS)) for u in vms.uses)
        told = VmSeries(vms.t_ns, uses, suspended_ns=hour_ns)
        slept.append((replace(observations, vms=told), window))
    # It began 2.5 s before its first reading's window; without the clock's hour it would be new
    # wherever it is first read.
    for skipped, expected in ((2, 5.5 * S * 0.75), (3, 0)):
        both = [booked([*observed(world())[:skipped], *seen[skipped:]]) for seen in (plain, slept)]
        assert [cpu(found[skipped][0]).get("qemu-10-450", 0) for found in both] == [expected] * 2


def test_a_unit_that_is_called_as_a_machine_was_begins_anew() -> None:
    """What the machine had is its agent's, and none of it is the unit's."""
    late = Load(8, unit("late.service"), 0.25, born_ns=8 * S)
    machine = replace(FIRST, vm_id="late.service", dies_ns=7_500 * MS)
    found = booked(observed(replace(world(machine), loads=(*WORLD.loads, late))))
    had = leaf(found[1][0], "late.service")
    now = leaf(found[3][0], "late.service")
    assert (had.identity.kind, now.identity.kind) == ("vm", "unit")
    assert now.cpu_ns == late.own_ns(13 * S)
    assert leaf(found[3][0], "agent.service").cpu_ns == 12 * S * 3 // 2 > had.cpu_ns > 0


def test_a_recording_replays() -> None:
    """From the middle, with machines, views and what was remembered of them, to the bit."""
    hypervisors = (FIRST, SECOND, INNER, Hypervisor(40, SCOPE, 1.0))
    state, writer = State(), RecordingWriter({"node": "n"})
    data = writer.start()
    for number, (observations, window) in enumerate(observed(world(*hypervisors))):
        snapshot, after = analyse(observations, window, state, PARAMS)
        if number:
            data += writer.add(Analysed(window, observations, state, PARAMS, snapshot))
        state = after
    replayed = run(RecordingReader(io.BytesIO(data + writer.end("complete"))))
    assert (replayed.problem, replayed.differences, replayed.windows) == (None, (), 3)
    assert replayed.snapshot is not None
    assert replayed.snapshot.views == snapshot.views

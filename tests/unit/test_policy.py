"""Idle energy by policy: exact, by request and activity, and never in favour of what is not seen.

Numbers in brackets are those of the reference's invariants and vectors; its mJ are uJ here and its
`__system__` is kernel, system and what is unattributed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod.analysis.ledger import FIXED
from tychod.analysis.policy import Claimant, claimants, idle_parts, share_idle
from tychod.analysis.state import Account, Params
from tychod.model import SYSTEM_ID, Identity, IdlePolicy

POLICIES: tuple[IdlePolicy, ...] = get_args(IdlePolicy)
CLAIMANTS = st.builds(
    Claimant,
    leaf_id=st.just(""),
    activity=st.one_of(st.just(0.0), st.floats(1e-9, 1e12)),
    request=st.one_of(st.just(0), st.integers(1, 4_000), st.integers(1, 2**63 - 1)),
    is_workload=st.booleans(),
    is_running=st.booleans(),
    is_listed=st.booleans(),
)
AMOUNTS = st.integers(0, 10**12)
CAPACITIES = st.sampled_from([0, 1_000, 128_000, 2**40])


def named(found: Sequence[Claimant]) -> list[Claimant]:
    """Return claimants with an id each."""
    return [c._replace(leaf_id=f"w{i:03}") for i, c in enumerate(found)]


FOUND = st.lists(CLAIMANTS, max_size=12).map(named)


def shared(
    policy: IdlePolicy, idle_uj: int, found: Sequence[Claimant], capacity: int = 4_000
) -> dict[str, int]:
    """Return the parts, those that are zero left out."""
    parts = share_idle(policy, idle_uj, found, capacity)
    return {leaf_id: part for leaf_id, part in parts.items() if part}


@given(st.sampled_from(POLICIES), AMOUNTS, FOUND, CAPACITIES)
def test_parts_add_up(
    policy: IdlePolicy, idle_uj: int, found: list[Claimant], capacity: int
) -> None:
    """[31, 72] Every policy gives away exactly what there is, and nothing less than none."""
    parts = share_idle(policy, idle_uj, found, capacity)

    assert sum(parts.values()) == idle_uj
    assert all(part >= 0 for part in parts.values())
    assert set(parts) <= {SYSTEM_ID, *(c.leaf_id for c in found if c.is_workload)}
    assert parts == share_idle(policy, idle_uj, found, capacity)


def test_a_request_is_worth_its_part_of_the_node() -> None:
    """[vector 2] 8 of 128 CPUs reserve a sixteenth of 91 W x 3 s, with or without activity."""
    for activity in (0.0, 5.0):
        one = Claimant("a", activity, 8_000)
        parts = shared("reserved", 273_000, [one, Claimant("k", 9.0, is_workload=False)], 128_000)

        assert parts["a"] in (17_062, 17_063)
        assert parts[SYSTEM_ID] == 273_000 - parts["a"]


def test_more_requests_than_the_node_has_share_all_of_it() -> None:
    """[vector 9, 63] Over-committed, requests share all; who requested nothing gets none."""
    found = [Claimant("a", 0.0, 3_000), Claimant("b", 7.0, 3_000), Claimant("c", 9.0)]

    assert shared("reserved", 1_000, found) == {"a": 500, "b": 500}


def test_what_is_not_reserved_goes_by_activity() -> None:
    """[vector 10] A quarter is reserved; the rest is shared 3 : 1, the kernel's part the system's.

    A unit is a workload here and takes its part; in the reference it is the system's.
    """
    asking = Claimant("a", 100.0, 1_000)
    kernel = Claimant("kernel", 1.0, is_workload=False)

    parts = shared("reserved", 1_000, [asking, Claimant("c", 3.0), kernel])

    assert parts["a"] == 250
    assert (parts["c"], parts[SYSTEM_ID]) in {(562, 188), (563, 187)}
    with_unit = shared("reserved", 1_000, [asking, Claimant("c", 3.0), Claimant("unit", 1.0)])
    assert with_unit["unit"] == parts[SYSTEM_ID]


@given(AMOUNTS, FOUND, st.integers(1, 2_000), st.floats(0.0, 1e9), st.floats(0.0, 1e9))
def test_equal_requests_bring_equal_idle_energy(
    idle_uj: int, others: list[Claimant], request: int, one: float, other: float
) -> None:
    """[64] What a request brings has nothing to do with activity; only the last uJ may differ."""
    pair = [Claimant("x", one, request), Claimant("y", other, request)]

    parts = share_idle("reserved", idle_uj, [*others, *pair], 4_000)

    assert abs(parts.get("x", 0) - parts.get("y", 0)) <= 1


@given(AMOUNTS, st.floats(0.1, 1e6), st.integers(1, 4_000))
def test_without_a_request_there_is_only_the_rest(
    idle_uj: int, activity: float, request: int
) -> None:
    """[64] A workload without a request gets at most what nobody reserved; none while it sleeps."""
    asking = Claimant("a", 0.0, request)

    busy = share_idle("reserved", idle_uj, [asking, Claimant("c", activity)], 4_000)
    asleep = share_idle("reserved", idle_uj, [asking, Claimant("c", 0.0)], 4_000)

    assert busy.get("c", 0) == asleep[SYSTEM_ID]
    assert "c" not in asleep


@given(AMOUNTS, FOUND)
def test_what_does_not_run_has_no_reserved_energy(idle_uj: int, found: list[Claimant]) -> None:
    """[65] Completed and waiting containers get none by request, and none of an equal share."""
    ended = Claimant("x", 0.0, 1_000, is_running=False)

    for policy in POLICIES:
        parts = share_idle(policy, idle_uj, [*found, ended], 4_000)
        assert "x" not in parts
        assert parts == share_idle(policy, idle_uj, found, 4_000)


def test_what_ran_and_ended_pays_for_its_activity() -> None:
    """A container that lived within the window does not leave its part to those who live longer."""
    found = [Claimant("c", 1.0), Claimant("gone", 1.0, is_running=False)]

    assert shared("proportional", 1_000, found) == {"c": 500, "gone": 500}


@given(st.sampled_from(POLICIES), AMOUNTS, FOUND, CAPACITIES, st.sets(st.integers(0, 11)))
def test_a_lost_request_moves_energy_to_the_system_alone(
    policy: IdlePolicy, idle_uj: int, found: list[Claimant], capacity: int, lost: set[int]
) -> None:
    """Whichever requests are not told any more, no other leaf gains a microjoule."""
    before = share_idle(policy, idle_uj, found, capacity)
    less = [c._replace(is_lost=c.request > 0) if i in lost else c for i, c in enumerate(found)]

    after = share_idle(policy, idle_uj, less, capacity)

    assert after[SYSTEM_ID] >= before[SYSTEM_ID]
    assert all(
        part <= before.get(leaf_id, 0) for leaf_id, part in after.items() if leaf_id != SYSTEM_ID
    )


@given(AMOUNTS, FOUND, st.sets(st.integers(0, 11)))
def test_a_request_that_was_never_told_favours_nobody(
    idle_uj: int, found: list[Claimant], hidden: set[int]
) -> None:
    """While a pod's request is not known yet, nobody gets more than with it known.

    As on every Kubernetes node, the requests together fit the node.
    """
    asking = [c._replace(request=c.request % 300, is_running=True) for c in found]
    truth = share_idle("reserved", idle_uj, asking, 4_000)
    unseen = [
        c._replace(request=0, is_unknown=True) if i in hidden and c.request else c
        for i, c in enumerate(asking)
    ]

    seen = share_idle("reserved", idle_uj, unseen, 4_000)

    for leaf_id, part in seen.items():
        assert leaf_id == SYSTEM_ID or part <= truth.get(leaf_id, 0) + 1  # the last microjoule


@given(st.sampled_from(POLICIES), AMOUNTS, FOUND, st.randoms())
def test_order_changes_nothing(
    policy: IdlePolicy, idle_uj: int, found: list[Claimant], random: object
) -> None:
    """[60] Another order gives the same parts, but for the microjoules of the remainder."""
    other = list(found)
    random.shuffle(other)  # type: ignore[attr-defined]

    one, two = (share_idle(policy, idle_uj, order, 4_000) for order in (found, other))

    assert all(abs(one.get(k, 0) - two.get(k, 0)) <= 2 for k in {*one, *two} - {SYSTEM_ID})


def test_the_system_policy_gives_nobody_anything() -> None:
    """The default: idle energy is nobody's."""
    assert shared("system", 1_000, [Claimant("a", 1.0, 1_000)]) == {SYSTEM_ID: 1_000}


def test_proportional_shares_all_by_activity() -> None:
    """Requests do not count; the parts of the kernel and of unknown users are the system's."""
    kernel = Claimant("kernel", 1.0, is_workload=False)
    found = [Claimant("a", 1.0, 4_000), Claimant("b", 2.0), kernel]

    assert shared("proportional", 1_000, found) == {"a": 250, "b": 500, SYSTEM_ID: 250}
    assert shared("proportional", 1_000, [Claimant("a"), Claimant("b")]) == {SYSTEM_ID: 1_000}


def test_equal_shares_among_workloads_that_run() -> None:
    """Neither slices nor pause containers: how many there are says nothing about tenants."""
    found = [
        Claimant("a", 9.0),
        Claimant("b"),
        Claimant("pause", 1.0, is_listed=False),
        Claimant("kernel", 1.0, is_workload=False),
    ]

    assert shared("equal", 1_000, found) == {"a": 500, "b": 500}
    assert shared("equal", 1_000, found[2:]) == {SYSTEM_ID: 1_000}


def test_an_unknown_capacity_reserves_nothing() -> None:
    """Without the size of the memory nobody can say which part of it is reserved."""
    found = [Claimant("a", 1.0, 2**30), Claimant("b", 1.0)]

    assert shared("reserved", 1_000, found, 0) == {SYSTEM_ID: 1_000}


def pod_container(cid: str, uid: str = "u", **more: object) -> Identity:
    """Return a container in a burstable pod."""
    whole = Identity("container", cid, cid, pod_uid=uid, qos="Burstable", cgroup=f"/{cid}")
    return dataclasses.replace(whole, **more)  # type: ignore[arg-type]


def accounts_of(*identities: Identity, **requested: Mapping[str, int]) -> dict[str, Account]:
    """Return accounts with requests that were told before."""
    return {i.id: Account(i, 0, requested=requested.get(i.id, {})) for i in (*FIXED, *identities)}


def test_each_domain_has_its_own_request() -> None:
    """Package by CPU request, DRAM by memory request; a GPU's idle energy is the system's."""
    asked = {"cpu_millicores": 1_000, "memory_bytes": 3 * 2**30}
    accounts = accounts_of(pod_container("a", requests=asked))
    params = Params(cpus=4, idle_policy="reserved", memory_bytes=4 * 2**30)

    parts = {
        domain: idle_parts(domain, 1_000, {"kernel": 1.0}, accounts, {"a"}, params)
        for domain in ("package", "core", "uncore", "psys", "dram", "gpu")
    }

    for domain in ("package", "core", "uncore", "psys"):
        assert parts[domain] == {"a": 250, SYSTEM_ID: 750}
    assert parts["dram"] == {"a": 750, SYSTEM_ID: 250}
    assert parts["gpu"] == {SYSTEM_ID: 1_000}


@pytest.mark.parametrize("policy", POLICIES)
def test_fixed_leaves_get_no_idle_energy(policy: IdlePolicy) -> None:
    """`kernel`, `past` and `unattributed` never have idle energy: that is the system's."""
    past = Identity("past", "past:u", "past", pod_uid="u")
    accounts = accounts_of(past)
    activity = dict.fromkeys(accounts, 1.0)

    for domain in ("package", "dram"):
        params = Params(cpus=1, idle_policy=policy, memory_bytes=1)
        parts = idle_parts(domain, 1_000, activity, accounts, set(accounts), params)
        assert parts == {SYSTEM_ID: 1_000}


def test_who_has_lost_a_request_is_told_from_the_account() -> None:
    """A request that the account remembers and nobody tells now is a lost one."""
    told = pod_container("a", requests={"memory_bytes": 5})
    accounts = accounts_of(told, a={"cpu_millicores": 700, "memory_bytes": 5})

    by_cpu, by_memory = (
        {c.leaf_id: c for c in claimants(request, {}, accounts, {"a"})}["a"]
        for request in ("cpu_millicores", "memory_bytes")
    )

    assert (by_cpu.request, by_cpu.is_lost) == (700, True)
    assert (by_memory.request, by_memory.is_lost) == (5, False)


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        (pod_container("a"), True),
        (pod_container("a", qos="Guaranteed"), True),
        (pod_container("a", qos="BestEffort"), False),
        (pod_container("a", qos=None), True),
        (pod_container("a", pod_uid=None, qos=None), False),
        (pod_container("a", sandbox=True), False),
        (pod_container("a", owner="ReplicaSet/x"), False),
        (pod_container("a", requests={"memory_bytes": 1}), False),
    ],
)
def test_a_request_may_be_unknown(container: Identity, expected: bool) -> None:
    """A pod's class tells that it requests something; only the kubelet tells what."""
    found = claimants("cpu_millicores", {}, accounts_of(container), {"a"})

    assert [c.is_unknown for c in found if c.leaf_id == "a"] == [expected]


def test_what_the_kubelet_told_of_one_container_it_told_of_its_pod() -> None:
    """A container without a request beside one that has one really has none."""
    accounts = accounts_of(pod_container("a"), pod_container("b"), b={"cpu_millicores": 1})

    assert not any(c.is_unknown for c in claimants("cpu_millicores", {}, accounts, set()))


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Account]:
    """Return containers in pods as the kubelet tells of them; all requests fit into 10 CPUs."""
    found = []
    for pod in range(draw(st.integers(1, 4))):
        asked = draw(st.lists(st.sampled_from([0, 0, 100, 500, 800]), min_size=1, max_size=3))
        qos = "Burstable" if any(asked) else "BestEffort"
        for number, millicores in enumerate(asked):
            requests = {"cpu_millicores": millicores} if millicores else {}
            known = {"requests": requests, "qos": qos, "owner": draw(st.sampled_from([None, "x"]))}
            found.append(pod_container(f"{pod}-{number}", f"pod{pod}", labels={"a": "b"}, **known))
    accounts = accounts_of(*found, Identity("unit", "cron.service", "cron.service"))
    return {i: dataclasses.replace(a, requested=a.identity.requests) for i, a in accounts.items()}


def without(account: Account, *, is_told: bool) -> Account:
    """Return a container's account after the kubelet fell silent, or before it ever spoke."""
    silent = dataclasses.replace(account.identity, requests={}, owner=None, labels={})
    return dataclasses.replace(
        account, identity=silent, requested=account.requested if is_told else {}
    )


@given(
    st.sampled_from(POLICIES),
    AMOUNTS,
    pods(),
    st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e9)), min_size=20, max_size=20),
    st.sets(st.integers(0, 3)),
    st.sets(st.integers(0, 3)),
)
def test_less_metadata_never_favours_another(
    policy: IdlePolicy,
    idle_uj: int,
    accounts: dict[str, Account],
    used: list[float],
    lost: set[int],
    never: set[int],
) -> None:
    """[31] Whatever pods are not told of any more, or never were: only the system gains."""
    activity = dict(zip(sorted(accounts), used, strict=False))
    params = Params(cpus=10, idle_policy=policy)
    silent = {f"pod{i}": False for i in never} | {f"pod{i}": True for i in lost - never}
    less = {
        i: without(a, is_told=silent[uid]) if (uid := a.identity.pod_uid or "") in silent else a
        for i, a in accounts.items()
    }

    before, after = (
        idle_parts("package", idle_uj, activity, seen, set(accounts), params)
        for seen in (accounts, less)
    )

    for leaf_id, part in after.items():
        assert leaf_id == SYSTEM_ID or part <= before.get(leaf_id, 0) + 1  # the last microjoule

"""Accounts of leaves: ending, eviction, incarnations; sums never fall."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim.world import container, unit
from tychod.analysis import ledger
from tychod.analysis.folded import Folded
from tychod.analysis.ledger import Places, Seen
from tychod.analysis.state import Account, Params, State
from tychod.model import Energy, Identity
from tychod.runtime.saved import pack, parse, unpack
from tychod.views import PROCESS_MARK, past_id, pod_key
from tychod.workloads.paths import identify

PARAMS = Params(cpus=4, terminated_age_ns=100, terminated_max=3)


def book(*identities: Identity, inode: int | None = 1) -> dict[str, Account]:
    """Accounts with 10 idle, 5 dynamic microjoules and 7 ns each."""
    accounts = ledger.with_fixed({}, 0)
    ledger.admit(accounts, {}, [Seen(i, inode, is_live=True) for i in identities], 1)
    for identity in identities:
        account = accounts[identity.id]
        accounts[identity.id] = ledger.add(account, {"package": Energy(10, 5)}, 7)
    return accounts


def sums(accounts: dict[str, Account]) -> tuple[int, int, int]:
    """Idle, dynamic and CPU time of all leaves together."""
    energies = [e for a in accounts.values() for e in a.energy.values()]
    return (
        sum(e.idle_uj for e in energies),
        sum(e.dynamic_uj for e in energies),
        sum(a.cpu_ns for a in accounts.values()),
    )


def end(
    accounts: dict[str, Account],
    *live: Identity,
    now: int,
    params: Params = PARAMS,
    sequence: int | None = None,
    folded: Folded | None = None,
) -> None:
    """Close a window in which these leaves were there; its snapshot is the ``now``th by default."""
    folded = {} if folded is None else folded
    sequence = now if sequence is None else sequence
    seen = [Seen(i, accounts[i.id].inode if i.id in accounts else 1, True) for i in live]
    ledger.admit(accounts, folded, seen, now)
    ledger.end_absent(accounts, frozenset(i.id for i in live), now, sequence)
    ledger.evict_old(accounts, folded, now, sequence, params)


def test_fixed_leaves_are_always_there() -> None:
    """Kernel, system, past and unattributed, one each, and they do not end."""
    accounts = book()
    end(accounts, now=10_000)

    assert sorted(accounts) == ["kernel", "past", "system", "unattributed"]
    assert all(a.ended_ns is None for a in accounts.values())


def test_ended_leaf_is_listed_until_its_age() -> None:
    """It stays for exactly the set time, then its counters are in the past."""
    leaf = unit("a.service")
    accounts = book(leaf)
    for now, listed in ((200, True), (300, True), (301, False)):
        end(accounts, now=now)
        assert (leaf.id in accounts) == listed
        assert sums(accounts) == (10, 5, 7)

    assert accounts["past"].energy == {"package": Energy(10, 5)}
    assert accounts["past"].cpu_ns == 7


def spend(accounts: dict[str, Account], leaf: Identity, dynamic_uj: int) -> None:
    """More energy of a leaf that is there."""
    gain = {"package": Energy(0, dynamic_uj)}
    accounts[leaf.id] = ledger.add(accounts[leaf.id], gain)


def test_those_with_most_energy_stay_when_there_are_too_many() -> None:
    """At most so many ended leaves are listed; of equal ones those that ended first stay."""
    leaves = [unit(f"{name}.service") for name in "edcba"]
    accounts = book(*leaves)
    spend(accounts, leaves[3], 1)
    for now, _ in enumerate(leaves, start=1):
        end(accounts, *leaves[now:], now=now)

    assert [leaf.id in accounts for leaf in leaves] == [True, True, False, True, False]
    assert sums(accounts) == (50, 26, 35)


def test_of_leaves_that_end_together_the_ids_decide() -> None:
    """Equal energy and equal end: which of them stay does not depend on the order of anything."""
    leaves = [unit(f"{name}.service") for name in "edcba"]
    for order in (leaves, leaves[::-1]):
        accounts = book(*order)
        end(accounts, now=1)

        assert sorted(accounts.keys() & {leaf.id for leaf in leaves}) == [
            "a.service", "b.service", "c.service",
        ]  # fmt: skip


def test_a_negative_maximum_is_none() -> None:
    """Any number of ended leaves is listed."""
    leaves = [unit(f"u{k}.service") for k in range(50)]
    accounts = book(*leaves)
    end(accounts, now=1, params=replace(PARAMS, terminated_max=-1))

    assert all(leaf.id in accounts for leaf in leaves)


def test_parts_of_a_domain_do_not_rank_a_leaf() -> None:
    """Energy is the leaf's total, idle and dynamic: cores are in the package, dram is not."""
    core, dram = unit("core.service"), unit("dram.service")
    accounts = book(core, dram)
    accounts[core.id] = ledger.add(accounts[core.id], {"core": Energy(0, 100)})
    accounts[dram.id] = ledger.add(accounts[dram.id], {"dram": Energy(1, 0)})
    end(accounts, now=1, params=replace(PARAMS, terminated_max=1))

    assert dram.id in accounts
    assert core.id not in accounts


def test_least_energy_counts_in() -> None:
    """An ended leaf with exactly the least energy stays; with a microjoule less it goes at once."""
    for least, listed in ((15, True), (16, False)):
        leaf, other = unit("a.service"), unit("b.service")
        accounts = book(leaf, other)
        end(accounts, other, now=1, params=replace(PARAMS, terminated_min_uj=least))

        assert (leaf.id in accounts) == listed
        assert other.id in accounts
        assert sums(accounts) == (20, 10, 14)


@pytest.mark.parametrize("age_ns", [0, 99])
def test_an_ended_leaf_is_in_two_snapshots_whatever_its_age(age_ns: int) -> None:
    """Readers come once a window at most: each sees the final energy, however short the age is."""
    leaf = unit("a.service")
    accounts = book(leaf)
    shown = []
    for sequence in range(5, 9):
        params = replace(PARAMS, terminated_age_ns=age_ns)
        end(accounts, now=sequence * 1000, params=params, sequence=sequence)
        shown.append(leaf.id in accounts)

    assert shown == [True, True, False, False]


def test_the_first_snapshot_that_shows_an_end_is_told() -> None:
    """Its number is set when the end is seen, kept, and cleared when the unit lives again."""
    leaf = unit("a.service")
    accounts = book(leaf)
    for sequence, live, expected in ((5, False, 5), (6, False, 5), (7, True, None), (8, False, 8)):
        end(accounts, *([leaf] if live else []), now=sequence, sequence=sequence)

        assert accounts[leaf.id].ended_sequence == expected
        assert accounts[leaf.id].ended_ns == expected


def test_a_unit_that_lived_again_within_a_window_ended_again() -> None:
    """A timer's unit that runs for a moment every minute is as old as its last run."""
    leaf = unit("a.service")
    accounts = book(leaf)
    end(accounts, now=5)
    ledger.admit(accounts, {}, [Seen(leaf, 2, is_live=False)], 9)
    end(accounts, now=9)

    assert (accounts[leaf.id].ended_ns, accounts[leaf.id].ended_sequence) == (9, 9)


def test_none_may_be_listed() -> None:
    """With a maximum of 0 an ended leaf goes to the past in the window that ends it."""
    accounts = book(unit("a.service"), unit("b.service"))
    end(accounts, unit("b.service"), now=5, params=Params(cpus=1, terminated_max=0))

    assert "a.service" not in accounts
    assert "b.service" in accounts
    assert accounts["past"].cpu_ns == 7


def test_evicted_container_stays_with_its_pod() -> None:
    """While a leaf of the pod is listed the evicted ones' counters are the pod's."""
    one, two, other = container(1, 7), container(2, 7), container(3)
    accounts = book(one, two, other)
    end(accounts, two, now=1, params=Params(cpus=1, terminated_max=0))

    assert accounts["past:uid-7"].energy == {"package": Energy(10, 5)}
    assert accounts["past:uid-7"].identity.pod == "pod-7"
    assert accounts["past"].energy == {"package": Energy(10, 5)}
    end(accounts, now=2, params=Params(cpus=1, terminated_max=0))
    assert sorted(accounts) == ["kernel", "past", "system", "unattributed"]
    assert sums(accounts) == (30, 15, 21)


@pytest.mark.parametrize("most", [0, 3])
@pytest.mark.parametrize(("number", "inode"), [(2, 1), (1, 2)])
def test_a_restarted_container_continues_its_pods_total(most: int, number: int, inode: int) -> None:
    """Under another id or, where a runtime reuses ids, in another cgroup: the pod goes on."""
    params = replace(PARAMS, terminated_max=most, terminated_age_ns=10**9)
    mate, first, again = container(9, 7), container(1, 7), container(number, 7)
    accounts = book(mate, first)
    totals = []
    for now, (leaf, at) in enumerate(((first, 1), (None, 0), (again, inode), (again, inode)), 1):
        if leaf:
            ledger.admit(accounts, {}, [Seen(leaf, at, is_live=True)], now)
            accounts[leaf.id] = ledger.add(accounts[leaf.id], {"package": Energy(0, 1)}, 1)
        end(accounts, mate, *([leaf] if leaf else []), now=now, params=params)
        pod = {i: a for i, a in accounts.items() if pod_key(a.identity) == "uid-7"}
        totals.append(sums(pod))

    assert totals == [(20, 11, 15), (20, 11, 15), (20, 12, 16), (20, 13, 17)]
    assert accounts[again.id].energy == {"package": Energy(0, 2)}


def test_container_in_a_new_cgroup_is_another() -> None:
    """Its counters begin at 0; what the one before had is its pod's past at once."""
    for leaf, past in ((container(1, 7), "past:uid-7"), (container(1), "past")):
        accounts = book(leaf)
        ledger.admit(accounts, {}, [Seen(leaf, 2, is_live=True)], 9)
        ledger.evict_old(accounts, {}, 9, 9, PARAMS)

        assert accounts[leaf.id] == Account(leaf, 9, 2)
        assert accounts[past].energy == {"package": Energy(10, 5)}


def test_unit_in_a_new_cgroup_is_the_same() -> None:
    """A unit that stops and starts keeps its counters and its first sight."""
    leaf = unit("a.service")
    accounts = book(leaf)
    end(accounts, now=5)
    ledger.admit(accounts, {}, [Seen(leaf, 2, is_live=True)], 9)

    assert accounts[leaf.id].energy == {"package": Energy(10, 5)}
    assert accounts[leaf.id].first_seen_ns == 1
    assert accounts[leaf.id].ended_ns is None
    assert accounts[leaf.id].inode == 2


def test_last_cpu_time_of_an_ended_leaf_does_not_revive_it() -> None:
    """A sample from before its end says nothing new: its age counts from its end."""
    leaf = container(1)
    accounts = book(leaf)
    end(accounts, now=5)
    ledger.admit(accounts, {}, [Seen(leaf, 1, is_live=False)], 9)

    assert accounts[leaf.id].ended_ns == 5


def test_an_inode_once_known_is_not_forgotten() -> None:
    """A window that shows only cgroups below the container's own leaves its inode known."""
    leaf = container(1)
    accounts = book(leaf)
    ledger.admit(accounts, {}, [Seen(leaf, None, is_live=True)], 2)
    ledger.admit(accounts, {}, [Seen(leaf, 2, is_live=True)], 3)

    assert accounts[leaf.id].energy == {}
    assert accounts["past"].energy == {"package": Energy(10, 5)}


def test_violations_are_counted() -> None:
    """A microjoule too many or too few in either kind is one violation each."""
    accounts = book(container(1))

    assert ledger.violations(accounts, {"package": Energy(10, 5)}) == 0
    assert ledger.violations(accounts, {"package": Energy(11, 5)}) == 1
    assert ledger.violations(accounts, {"package": Energy(9, 6), "dram": Energy(0, 0)}) == 2


LEAVES = tuple(
    [unit(f"u{k}") for k in range(4)]
    + [container(k, k % 3) for k in range(8)]
    + [container(k) for k in range(8, 11)]
)


@given(
    st.lists(st.sets(st.sampled_from(range(len(LEAVES)))), min_size=1, max_size=12),
    st.integers(0, 4),
)
def test_no_history_loses_anything(windows: list[set[int]], most: int) -> None:
    """Whatever comes and goes: all sums stand, the list is bounded, pods' pasts need a pod."""
    params = Params(cpus=1, terminated_age_ns=250, terminated_max=most)
    accounts, booked = ledger.with_fixed({}, 0), 0
    for now, present in enumerate(windows):
        seen = [LEAVES[k] for k in sorted(present)]
        ledger.admit(accounts, {}, [Seen(i, 1, is_live=True) for i in seen], now)
        for leaf in seen:
            accounts[leaf.id] = ledger.add(accounts[leaf.id], {"dram": Energy(1, 2)}, 3)
        booked += len(seen)
        end(accounts, *seen, now=now * 100, params=params)
        ended = [a for a in accounts.values() if a.ended_ns is not None]
        listed = ledger.listed_pods(accounts)

        assert sums(accounts) == (booked, 2 * booked, 3 * booked)
        assert len(ended) <= most
        assert {i for i in accounts if i.startswith("past:")} <= {f"past:{u}" for u in listed}


def test_a_pod_once_known_stays_the_containers() -> None:
    """Names that come from the kubelet alone are gone after a restart; the pod's sum is not."""
    leaf = container(1, 7)
    accounts = book(leaf)
    for pod_uid in (None, "another"):
        bare = replace(leaf, name="later", pod_uid=pod_uid, pod=None, namespace=None)
        ledger.admit(accounts, {}, [Seen(bare, 1, is_live=True)], 9)

        assert accounts[leaf.id].identity == replace(leaf, name="later")


def test_requests_that_are_not_told_any_more_are_remembered() -> None:
    """Each as last told, while the container is the same one; a new one begins with its own."""
    leaf = container(1, 7)
    both = replace(leaf, requests={"cpu_millicores": 1, "memory_bytes": 2})
    accounts = book(both)
    for now in (replace(leaf, requests={"cpu_millicores": 5}), leaf):
        ledger.admit(accounts, {}, [Seen(now, 1, is_live=True)], 9)

        assert accounts[leaf.id].requested == {"cpu_millicores": 5, "memory_bytes": 2}
        assert accounts[leaf.id].identity == now
    ledger.admit(accounts, {}, [Seen(leaf, 2, is_live=True)], 10)
    assert accounts[leaf.id].requested == {}


USER = "/user.slice/user-1000.slice/user@1000.service"
SCOPE, INNER, HOSTS = (f"docker-{letter * 64}.scope" for letter in "abc")
SMALL = f"/kubepods/burstable/pod0f3a5b1c-1111-4222-8333-444455556666/{'d' * 64}"


def who(path: str) -> Identity:
    """Return who a path says."""
    identity = identify(path)
    assert identity is not None
    return identity


def machine(pid: int, place: Identity) -> Identity:
    """Return a virtual machine whose process is in another workload's cgroup."""
    path = f"{place.cgroup}{PROCESS_MARK}{pid}-50"
    return Identity("vm", "web", "web", cgroup=path, parent=place.id, tenant=place.cgroup)


def test_whoever_makes_his_cgroups_anew_keeps_what_they_used() -> None:
    """A hundred times rmdir and mkdir, or a machine under one id: nothing gets to the past."""
    user = who(USER)
    for again in (
        lambda _: who(f"{USER}/{SCOPE}"),
        lambda turn: machine(100 + turn, user),
        lambda turn: who(f"{USER}/docker-{turn:064x}.scope"),
    ):
        accounts, folded = book(user), Folded()
        accounts[user.id] = replace(accounts[user.id], vcpu_ns=5)
        params = Params(cpus=1, terminated_max=0)
        for turn in range(100):
            leaf = again(turn)
            seen = [Seen(user, 1, is_live=True), Seen(leaf, 1000 + turn, is_live=True)]
            ledger.admit(accounts, folded, seen, 2 + turn)
            accounts[leaf.id] = ledger.add(accounts[leaf.id], {"package": Energy(0, 10)}, 3)
            ledger.end_absent(accounts, frozenset({user.id, leaf.id}), 2 + turn, 2 + turn)
            ledger.evict_old(accounts, folded, 2 + turn, 2 + turn, params)

        his = [accounts[user.id], accounts[leaf.id]]
        assert [a.energy["package"] for a in his] == [Energy(10, 5 + 990), Energy(0, 10)]
        assert [a.cpu_ns for a in his] == [7 + 297, 3]
        assert accounts["past"].energy == {}
        assert (his[0].inode, his[0].first_seen_ns, his[0].vcpu_ns) == (1, 1, 5)
        assert folded == {}


def test_what_was_inside_goes_to_the_nearest_that_still_counts() -> None:
    """A container's, while it runs and is the same; else its user's; else nobody's."""
    user, outer, inner = who(USER), who(f"{USER}/{SCOPE}"), who(f"{USER}/{SCOPE}/docker/{'b' * 64}")
    none = Params(cpus=1, terminated_max=0)
    for change, heir in (
        ({}, outer.id),
        ({"ended_ns": 1}, user.id),
        ({"first_seen_ns": 2}, user.id),
    ):
        accounts = book(user, outer, inner)
        accounts[outer.id] = replace(accounts[outer.id], **change)
        ledger.evict(accounts, {}, inner.id, Places(accounts))
        assert accounts[heir].energy == {"package": Energy(20, 10)}
    accounts = book(user, outer, inner)
    accounts[user.id] = replace(accounts[user.id], ended_ns=1, ended_sequence=1)
    end(accounts, user, now=2, params=none)
    assert accounts[user.id].energy == {"package": Energy(30, 15)}
    end(accounts, now=3, params=none)
    assert accounts["past"].energy == {"package": Energy(30, 15)}
    group = who("/user.slice/user-1000.slice")
    late = book(inner, group)
    end(late, group, now=2, params=none)
    assert late["past"].energy == late[group.id].energy == {"package": Energy(10, 5)}


def test_an_ended_units_account_keeps_its_end() -> None:
    """What it takes over neither revives it nor makes it older: its age counts from its end."""
    user, inner = who(USER), who(f"{USER}/{SCOPE}")
    accounts = book(user, inner)
    accounts[user.id] = replace(accounts[user.id], first_seen_ns=3)
    end(accounts, inner, now=5)
    ledger.evict(accounts, {}, inner.id, Places(accounts))

    found = accounts[user.id]
    assert (found.first_seen_ns, found.ended_ns, found.ended_sequence) == (3, 5, 5)
    assert accounts[user.id].energy == {"package": Energy(20, 10)}


@pytest.mark.parametrize("victim", [SMALL, f"/system.slice/{HOSTS}", f"{USER}/app.slice/{HOSTS}"])
@pytest.mark.parametrize("pod", ["", "/kubepods/pod99"])
def test_nobody_gives_what_he_used_to_another(victim: str, pod: str) -> None:
    """A cgroup that is called like another's container is not that container's inside."""
    there, user = who(victim), who(USER)
    inner = who(f"{USER}/docker-{there.id}.scope{pod}/{'f' * 64 if pod else INNER}")
    assert inner.parent == there.id
    accounts = book(there, user, inner)
    end(accounts, there, user, now=2, params=Params(cpus=1, terminated_max=0))

    assert inner.id not in accounts
    assert accounts[there.id].energy == {"package": Energy(10, 5)}
    assert accounts[user.id].energy == {"package": Energy(20, 10)}


def test_a_pod_inside_a_container_is_folded_into_it() -> None:
    """Its ended containers are its own past's as long as it is listed, then what it was in has it.

    So it is after a restart, and where the past was opened by the pod's own cgroup.
    """
    node = who(f"/docker/{'e' * 64}")
    pod = f"{node.cgroup}/kubelet/kubepods/pod77"
    one, two = (who(f"{pod}/{letter * 64}") for letter in "12")
    none = Params(cpus=1, terminated_max=0)
    for opened in ((), (who(pod),)):
        accounts = book(node, one, two, *opened)
        end(accounts, node, two, *opened, now=2, params=none)
        past = accounts[past_id(one)]
        assert past.identity.parent == node.id
        assert past.energy == {"package": Energy(10 + 10 * len(opened), 5 + 5 * len(opened))}
        assert parsed(accounts) == accounts
        end(accounts, node, now=3, params=none)
        assert sorted(accounts) == sorted([node.id, *ledger.with_fixed({}, 0)])
        assert accounts[node.id].cpu_ns == 21 + 7 * len(opened)
        assert accounts["past"].energy == {}


def test_what_a_container_of_a_pod_makes_is_folded_with_the_pod() -> None:
    """A pod's past goes to what the pod is in, though an inner container's own parent is in it."""
    node = who(f"/docker/{'e' * 64}")
    outer = who(f"{node.cgroup}/kubelet/kubepods/pod77/{'1' * 64}")
    inner = who(f"{outer.cgroup}/docker/{'2' * 64}")
    accounts = book(node, outer, inner)
    assert (inner.parent, pod_key(inner)) == (outer.id, pod_key(outer))
    end(accounts, node, outer, now=2, params=Params(cpus=1, terminated_max=0))
    assert accounts[past_id(outer)].identity.parent == node.id


def test_a_machine_in_a_pods_own_cgroup_is_no_part_of_its_past() -> None:
    """Only a workload takes over another's counters: what such a machine had is nobody's then."""
    mate, own = who(SMALL), who(SMALL.rpartition("/")[0])
    inside = replace(machine(7, own), parent=None)
    accounts = book(mate, own, inside)
    end(accounts, mate, own, now=2, params=Params(cpus=1, terminated_max=0))

    assert accounts["past"].energy == {"package": Energy(10, 5)}


def parsed(accounts: dict[str, Account]) -> dict[str, Account]:
    """Return the accounts as they come back from the state file."""
    return dict(parse(unpack(pack("boot", State(accounts=accounts), None))).state.accounts)


def test_a_leaf_whose_id_another_has_now_takes_over_nothing() -> None:
    """What an ended leaf's cgroup used last goes to who it was in, as that one is now."""
    user, outer, inner = who(USER), who(f"{USER}/{SCOPE}"), who(f"{USER}/{SCOPE}/docker/{'b' * 64}")
    accounts = book(user, outer, inner)
    renamed, hosts = replace(outer, name="now"), replace(outer, cgroup=f"/docker/{outer.id}")

    assert ledger.late_heir(inner, Places(accounts), {outer.id: renamed}) is renamed
    assert ledger.late_heir(inner, Places(accounts), {}) == outer
    assert ledger.late_heir(inner, Places(accounts), {outer.id: hosts}).id == "past"

"""Views over leaves that go: what an ended one had stays where it was used, and is there once."""

from dataclasses import replace

import pytest

from tests.sim.world import container, unit
from tychod.analysis import folded as folding
from tychod.analysis import ledger
from tychod.analysis.folded import Folded
from tychod.analysis.ledger import Accounts, Seen
from tychod.analysis.state import Account, Params
from tychod.model import Energy, Identity, Usage
from tychod.views import view_keys
from tychod.workloads.paths import identify

NONE_LISTED = Params(cpus=4, terminated_max=0)
POD = "/kubepods.slice/kubepods-poduid_7.slice"


def member(number: int, namespace: str | None = "shop") -> Identity:
    """A container of pod 7."""
    path = f"{POD}/crio-{number:064x}.scope"
    return replace(container(number, 7), namespace=namespace, cgroup=path)


def service(slice_path: str) -> Identity:
    """One unit in any slice."""
    return replace(unit("a.service"), cgroup=f"{slice_path}/a.service")


OWN = Identity("past", "past:uid-7", "past", pod_uid="uid-7", cgroup=POD)
"""What runs in pod 7's cgroup and in no container, while only its path is known."""


class Node:
    """Accounts and what was folded, window by window."""

    def __init__(self) -> None:
        """Begin with the fixed leaves."""
        self.accounts: Accounts = ledger.with_fixed({}, 0)
        self.folded: Folded = {}
        self.sequence = 0

    def live(self, *leaves: Identity, uses: int, params: Params = NONE_LISTED) -> None:
        """One window in which each of these uses so many ns and uJ, then its end."""
        self.sequence += 1
        now = self.sequence
        seen = [Seen(leaf, 1, is_live=True) for leaf in leaves]
        ledger.admit(self.accounts, self.folded, seen, now)
        for leaf in leaves:
            gain = {"package": Energy(0, uses)}
            self.accounts[leaf.id] = ledger.add(self.accounts[leaf.id], gain, uses)
        ledger.end_absent(self.accounts, frozenset(leaf.id for leaf in leaves), now, now)
        ledger.evict_old(self.accounts, self.folded, now, now, params)

    def views(self) -> dict[str, int]:
        """CPU time by view, where there is any; energy is the same number."""
        found = {key: usage.cpu_ns for key, usage in self.folded.items()}
        energy = {k: sum(e.total_uj for e in u.energy.values()) for k, u in self.folded.items()}
        for account in self.accounts.values():
            for key in view_keys(account.identity):
                found[key] = found.get(key, 0) + account.cpu_ns
                uj = sum(e.total_uj for e in account.energy.values())
                energy[key] = energy.get(key, 0) + uj
        assert found == energy
        return {key: ns for key, ns in found.items() if ns}


def test_an_evicted_leaf_stays_in_its_views() -> None:
    """Its slices and its namespace go on from what they had, pod by pod's past or not."""
    node = Node()
    expected = {"slice:/kubepods.slice": 10, "namespace:shop": 10}
    node.live(member(1), member(2), uses=5)
    assert node.views() == expected
    node.live(member(2), uses=0)
    assert "past:uid-7" in node.accounts
    assert node.views() == expected
    node.live(uses=0)
    assert sorted(node.accounts) == ["kernel", "past", "system", "unattributed"]
    assert node.views() == expected
    assert node.folded.keys() == expected.keys()


def test_a_unit_that_moves_leaves_its_past_where_it_was() -> None:
    """Each slice has what was used in it, before and after the unit is gone."""
    node = Node()
    for slice_path, uses in (("/a.slice", 5), ("/b.slice", 3), ("/a.slice/a-c.slice", 2)):
        node.live(service(slice_path), uses=uses)
    expected = {"slice:/a.slice": 7, "slice:/b.slice": 3, "slice:/a.slice/a-c.slice": 2}

    assert node.views() == expected
    node.live(uses=0)
    assert node.views() == expected
    assert node.accounts["past"].cpu_ns == 10


@pytest.mark.parametrize("later", [OWN, replace(OWN, namespace="shop", pod="pod-7")])
def test_a_pods_past_counts_once_however_late_it_is_named(later: Identity) -> None:
    """A pod's own cgroup, whose names are not known, takes over what a named container had."""
    node = Node()
    node.live(member(1), member(2), OWN, uses=4)
    assert node.views() == {"slice:/kubepods.slice": 12, "namespace:shop": 8}
    node.live(member(2), OWN, uses=0)
    expected = {"slice:/kubepods.slice": 12, "namespace:shop": 12}
    assert node.views() == expected
    node.live(member(2), later, uses=0)
    assert node.views() == expected
    node.live(uses=0)
    assert node.views() == expected


def test_names_that_come_late_bring_what_was_before() -> None:
    """The namespace of a container whose names are told after it has run has all of it."""
    node = Node()
    node.live(member(1, None), uses=4)
    assert node.views() == {"slice:/kubepods.slice": 4}
    node.live(member(1), uses=1)
    assert node.views() == {"slice:/kubepods.slice": 5, "namespace:shop": 5}


@pytest.mark.parametrize("told", [None, "another"])
def test_a_namespace_once_known_stays(told: str | None) -> None:
    """After a restart the names may come late again; a namespace's total does not fall by it."""
    node = Node()
    node.live(member(1), uses=4)
    node.live(member(1, told), uses=1)

    assert node.views() == {"slice:/kubepods.slice": 5, "namespace:shop": 5}
    assert node.accounts[member(1).id].identity.pod == "pod-7"


def test_what_a_tenant_names_is_in_no_namespace_of_the_host() -> None:
    """Neither a nested cluster's namespace nor a slice inside a container is the host's."""
    tenant = f"/docker/{9:064x}"
    inner = replace(member(1), tenant=tenant, cgroup=f"{tenant}{member(1).cgroup}")
    node = Node()
    node.live(inner, uses=4)
    node.live(uses=0)

    assert node.folded == {}


SCOPE = f"docker-{'e' * 64}.scope"


@pytest.mark.parametrize("outer", ["/user.slice/user-1.slice/user@1.service", f"/a.slice/{SCOPE}"])
@pytest.mark.parametrize(
    "inner", ["docker-{}.scope", "kubepods/pod77/{}", "b.slice/docker-{}.scope"]
)
def test_what_goes_to_the_leaf_it_was_in_counts_once(outer: str, inner: str) -> None:
    """The slices of both have it before and after, by way of its pod's past or not."""
    leaf, *members = (
        identify(path)
        for path in (outer, *(f"{outer}/{inner.format(letter * 64)}" for letter in "12"))
    )
    assert leaf
    one, two = (member for member in members if member)
    node = Node()
    node.live(leaf, one, two, uses=4)
    expected = dict.fromkeys(view_keys(leaf), 12)
    assert node.views() == expected
    for lives in ((leaf, two), (leaf,), (leaf,)):
        node.live(*lives, uses=0)
        assert node.views() == expected
    assert node.accounts[leaf.id].cpu_ns == 12
    assert all(usage.cpu_ns >= 0 for usage in node.folded.values())
    node.live(uses=0)
    assert node.views() == expected
    assert node.accounts["past"].cpu_ns == 12


def filled(count: int) -> Folded:
    """As many namespaces as said, each with one microjoule more than the one before."""
    return {f"namespace:n{k}": Usage(1, {"package": Energy(0, k)}) for k in range(count)}


def test_so_many_views_are_remembered() -> None:
    """Of too many the least go, as far as no listed leaf is in them; the order says nothing."""
    most = folding.MOST
    folded = dict(reversed(filled(most + 2).items()))
    folding.trim(folded, [replace(member(1), namespace="n0")])

    assert len(folded) == most
    assert "namespace:n0" in folded
    assert filled(most + 2).keys() - folded.keys() == {"namespace:n1", "namespace:n2"}


def test_views_with_leaves_are_never_forgotten() -> None:
    """With more listed views than are remembered otherwise each keeps what it had."""
    count = folding.MOST + 5
    folded = filled(count)
    folding.trim(folded, [replace(member(k), namespace=f"n{k}") for k in range(count)])

    assert len(folded) == count


def test_a_leaf_that_used_nothing_leaves_no_view() -> None:
    """Namespaces and slices in which nothing ran do not fill the memory."""
    folded: Folded = {}
    nothing = Account(member(1), 1, energy={"package": Energy()})
    folding.move(folded, nothing, ledger.FIXED[2])

    assert folded == {}

"""Ended workloads by the cases of another program's tracker.

Where that one loses something, the right answer is asked for instead.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.sim.world import MS, Load, Meter, World, container, unit, zone
from tychod.analysis import ledger
from tychod.analysis.folded import Folded
from tychod.analysis.state import Params
from tychod.model import Energy, Identity, Leaf, Snapshot

S = 1_000 * MS
NEVER_BY_AGE = 10**18
P1, OTHER = unit("p1.service"), unit("other.service")
ENDS, LIVES_BRIEFLY = "p1 ends", "p1 starts and ends inside one interval"


def read_cases(folder: Path, part: str) -> list[dict[str, Any]]:
    """Read the rows of one part of the case file."""
    rows: list[dict[str, Any]] = json.loads((folder / "terminated_tracker.json").read_text())[part]
    return rows


LISTED_J = {"unit": {"resource-1": 3000}, "container": {"resource-1": 2000}}
"""What is listed of an id that is given twice, where the other program ignores the second time and
what was used in it: a unit that runs again is the same leaf and goes on; a container in another
cgroup is another one, and what the first had is in the past."""


FIELDS = {"max", "min_energy_j", "added_in_order", "expect_ids", "basis"}


def leaf_of(kind: str, name: str) -> Identity:
    """Return a workload of that kind under the id of a row."""
    return unit(name) if kind == "unit" else replace(container(1), id=name, name=name)


def kept(case: dict[str, Any], kind: str) -> dict[str, int]:
    """Return the joules of what is listed when each has lived and ended in a window of its own."""
    params = Params(
        cpus=4,
        terminated_max=case["max"],
        terminated_min_uj=case["min_energy_j"] * 1_000_000,
        terminated_age_ns=NEVER_BY_AGE,
    )
    accounts, folded = ledger.with_fixed({}, 0), Folded()
    for sequence, row in enumerate(case["added_in_order"], start=1):
        leaf_id, energy = row["id"], Energy(0, row["energy_j"] * 1_000_000)
        seen = ledger.Seen(leaf_of(kind, leaf_id), sequence, is_live=True)
        ledger.admit(accounts, folded, [seen], sequence)
        accounts[leaf_id] = ledger.add(accounts[leaf_id], {"package": energy})
        ledger.end_absent(accounts, frozenset(), sequence, sequence)
        ledger.evict_old(accounts, folded, sequence, sequence, params)
    held = [e.dynamic_uj for account in accounts.values() for e in account.energy.values()]

    assert sum(held) == sum(row["energy_j"] for row in case["added_in_order"]) * 1_000_000
    return {
        leaf_id: account.energy["package"].dynamic_uj // 1_000_000
        for leaf_id, account in accounts.items()
        if account.ended_ns is not None
    }


@pytest.mark.parametrize("kind", ["unit", "container"])
def test_who_stays_listed(cases_dir: Path, kind: str) -> None:
    """Exactly the leaves that each case says, an id that comes again once; no joule is lost."""
    again = set()
    for case in read_cases(cases_dir, "cases"):
        assert case.keys() == FIELDS, case
        times = Counter(row["id"] for row in case["added_in_order"])
        energy_j = {row["id"]: row["energy_j"] for row in case["added_in_order"]}
        for leaf_id in (name for name, count in times.items() if count > 1):
            again.add(leaf_id)
            energy_j[leaf_id] = LISTED_J[kind][leaf_id]
        found = kept(case, kind)
        assert sorted(found) == sorted(case["expect_ids"]), case
        assert found == {leaf_id: energy_j[leaf_id] for leaf_id in found}, case
    assert again == set(LISTED_J[kind])


def test_an_end_that_is_told_twice_is_one(cases_dir: Path) -> None:
    """The last CPU time of what has ended adds to it, and lists it no second time."""
    (case,) = (c for c in read_cases(cases_dir, "cases") if len(c["added_in_order"]) == 2)
    accounts, folded = ledger.with_fixed({}, 0), Folded()
    for sequence, row in enumerate(case["added_in_order"], start=1):
        leaf = leaf_of("container", row["id"])
        ledger.admit(accounts, folded, [ledger.Seen(leaf, 1, is_live=sequence == 1)], sequence)
        accounts[leaf.id] = ledger.add(accounts[leaf.id], {"package": Energy(0, row["energy_j"])})
        ledger.end_absent(accounts, frozenset(), sequence, sequence)

    ended = {leaf_id: a for leaf_id, a in accounts.items() if a.ended_ns is not None}
    assert list(ended) == case["expect_ids"]
    assert ended["resource-1"].energy == {"package": Energy(0, 3000)}
    assert ended["resource-1"].ended_sequence == 1


def windows(how: str) -> Iterator[Snapshot]:
    """Yield snapshots from the first after the end on; by its age an ended leaf leaves at once."""
    times = tuple(range(0, 30 * S, S // 2))
    born_ns, dies_ns = (0, 4 * S) if how == ENDS else (3_500 * MS, 5 * S)
    loads = (Load(1, P1, 0.5, born_ns, dies_ns), Load(2, OTHER, 0.5))
    node = World(loads, {"rapl": (Meter(zone("package-0"), 10.0, 10.0),)}, times, times)
    run = node.run([k * 3 * S for k in range(9)], Params(cpus=4, terminated_age_ns=0))
    return iter(run[1:])


def reads(steps: list[str]) -> list[Leaf | None]:
    """Return what each reader is shown of the leaf; a reader takes the newest snapshot as it is."""
    follow, newest, found = windows(steps[0]), None, []
    for step in steps[1:]:
        if step == "refresh":
            newest = next(follow)
            continue
        assert step == "read", step
        assert newest is not None
        found.append(next((leaf for leaf in newest.leaves if leaf.identity == P1), None))
    return found


THEIRS = {
    (ENDS, "refresh", "refresh", "read"): [True],
    (ENDS, "refresh", "read", "refresh", "read"): [True, False],
    (LIVES_BRIEFLY, "refresh", "read"): [False],
}
"""What the other program's readers are shown.  All of ours are shown all: who reads second is shown
what the first was, and what began and ended between two readings was counted by the kernel."""


def test_every_reader_sees_what_ended(cases_dir: Path) -> None:
    """Two readers see it, and what lived within one interval too: there it is lost."""
    told = {}
    for case in read_cases(cases_dir, "lifetime_cases"):
        found = reads(case["steps"])
        theirs = case.get("p1_reported_in_reads", [case.get("p1_reported")])
        assert case.keys() <= {"steps", "why", "p1_reported", "p1_reported_in_reads"}, case
        told[tuple(case["steps"])] = theirs

        assert len(found) == len(theirs)
        for leaf in found:
            assert leaf is not None, case
            assert leaf.state == "terminated"
            assert leaf.cpu_ns > 0
            assert leaf.total.dynamic_uj > 0
        assert len({(leaf.cpu_ns, leaf.total, leaf.ended_ns) for leaf in found if leaf}) == 1
    assert told == THEIRS
    assert len(read_cases(cases_dir, "lifetime_cases")) == len(THEIRS)


@pytest.mark.parametrize("how", [ENDS, LIVES_BRIEFLY])
def test_the_end_is_told_by_time_and_sequence(how: str) -> None:
    """The end of the window in which it was gone, on the wall clock, and that window's number."""
    for snapshot, is_listed in zip(windows(how), (True, True, False), strict=False):
        leaf = next((x for x in snapshot.leaves if x.identity == P1), None)

        assert (leaf is not None) == is_listed
        if leaf is not None:
            assert leaf.ended_ns == 6 * S + snapshot.wall_offset_ns
            assert leaf.ended_sequence == 2

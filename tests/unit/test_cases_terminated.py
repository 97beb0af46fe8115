"""Ended workloads by the cases of another program's tracker.

Where that one loses something, the right answer is asked for instead.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim.world import MS, Load, Meter, World, unit, zone
from tychod.analysis import ledger
from tychod.analysis.folded import Folded
from tychod.analysis.state import Account, Params
from tychod.model import Energy, Leaf, Snapshot

S = 1_000 * MS
NEVER_BY_AGE = 10**18
P1, OTHER = unit("p1.service"), unit("other.service")
ENDS, LIVES_BRIEFLY = "p1 ends", "p1 starts and ends inside one interval"


def read_cases(folder: Path, part: str) -> list[dict[str, Any]]:
    """Read the rows of one part of the case file."""
    rows: list[dict[str, Any]] = json.loads((folder / "terminated_tracker.json").read_text())[part]
    return rows


def kept(case: dict[str, Any]) -> list[str]:
    """Return which leaves are listed when they have ended one by one, each in its own window."""
    params = Params(
        cpus=4,
        terminated_max=case["max"],
        terminated_min_uj=case["min_energy_j"] * 1_000_000,
        terminated_age_ns=NEVER_BY_AGE,
    )
    accounts, folded = ledger.with_fixed({}, 0), Folded()
    joules = {row["id"]: row["energy_j"] for row in reversed(case["added_in_order"])}
    order = list(dict.fromkeys(row["id"] for row in case["added_in_order"]))
    for sequence, name in enumerate(order, start=1):
        energy = {"package": Energy(0, joules[name] * 1_000_000)}
        accounts[name] = Account(unit(name), 1, 1, 1, energy)
        ledger.end_absent(accounts, frozenset(), sequence, sequence)
        ledger.evict_old(accounts, folded, sequence, sequence, params)
    held = [e.dynamic_uj for account in accounts.values() for e in account.energy.values()]

    assert sum(held) == sum(joules.values()) * 1_000_000
    return sorted(leaf_id for leaf_id, account in accounts.items() if account.ended_ns is not None)


def test_who_stays_listed(cases_dir: Path) -> None:
    """Exactly the leaves that each case says; the others' energy is in the past.

    An id that is given twice is one leaf, which can end but once.
    """
    for case in read_cases(cases_dir, "cases"):
        assert kept(case) == sorted(case["expect_ids"]), case


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


def test_every_reader_sees_what_ended(cases_dir: Path) -> None:
    """Two readers see it, and what lived within one interval too: there it is lost."""
    for case in read_cases(cases_dir, "lifetime_cases"):
        found = reads(case["steps"])
        theirs = case.get("p1_reported_in_reads", [case.get("p1_reported")])

        assert len(found) == len(theirs)
        for leaf in found:
            assert leaf is not None, case
            assert leaf.state == "terminated"
            assert leaf.cpu_ns > 0
            assert leaf.total.dynamic_uj > 0
        assert len({(leaf.cpu_ns, leaf.total, leaf.ended_ns) for leaf in found if leaf}) == 1


@pytest.mark.parametrize("how", [ENDS, LIVES_BRIEFLY])
def test_the_end_is_told_by_time_and_sequence(how: str) -> None:
    """The end of the window in which it was gone, on the wall clock, and that window's number."""
    for snapshot, is_listed in zip(windows(how), (True, True, False), strict=False):
        leaf = next((x for x in snapshot.leaves if x.identity == P1), None)

        assert (leaf is not None) == is_listed
        if leaf is not None:
            assert leaf.ended_ns == 6 * S + snapshot.wall_offset_ns
            assert leaf.ended_sequence == 2

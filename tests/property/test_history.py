"""Reports: whatever comes and goes between records, rows add up to the node to the microjoule."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.histories import Recorded
from tests.property.test_conservation import PARAMS, worlds
from tests.property.test_tenants import attacks
from tests.sim.world import World
from tychod.model import Energy, Snapshot, total_domains
from tychod.protocol import ReportBy
from tychod.runtime.rollup import namespace_entries, pod_entries

EVERY: tuple[ReportBy, ...] = ("namespace", "pod", "unit", "workload")
EDGES = tuple(range(10**9, 12 * 10**9 + 1, 10**9))
CHURN = replace(PARAMS, terminated_age_ns=10**9, terminated_max=1)


def node_energy(snapshot: Snapshot) -> dict[str, Energy]:
    """The node's attributed energy by the domains that make up a total."""
    found = {n: Energy(d.idle_uj or 0, d.dynamic_uj or 0) for n, d in snapshot.domains.items()}
    return {name: e for name, e in found.items() if name in total_domains(found)}


def check(report: Mapping[str, Any], start: Snapshot | None, end: Snapshot) -> None:
    """Compare the sum of a report's rows with the node's own counters."""
    had = node_energy(start) if start else {}
    for name, now in node_energy(end).items():
        before = had.get(name, Energy())
        cells = [row["energy"].get(name) for row in report["rows"]]
        shown = [cell for cell in cells if cell]
        assert sum(cell["idle_uj"] for cell in shown) == now.idle_uj - before.idle_uj
        assert sum(cell["dynamic_uj"] for cell in shown) == now.dynamic_uj - before.dynamic_uj
        assert all(min(cell.values()) >= 0 for cell in shown)
    cpu_s = sum(row["cpu_seconds"] for row in report["rows"])
    spent_ns = sum(x.cpu_ns for x in end.leaves) - sum(
        x.cpu_ns for x in (start.leaves if start else ())
    )
    assert abs(cpu_s - spent_ns / 1e9) < 1e-6


def check_all(snapshots: Sequence[Snapshot], kept: Sequence[int], a: int, b: int) -> None:
    """Record some of the snapshots, then ask for what was between two of those records."""
    with TemporaryDirectory() as place:
        recorded = Recorded(Path(place))
        for number in kept:
            recorded.record(snapshots[number])
        first, last = snapshots[kept[a]], snapshots[kept[b]]
        for by in EVERY:
            check(recorded.report(by, first, last), first, last)
            check(recorded.report(by, None, last), None, last)
        recorded.close()


def totals(entries: list[dict[str, object]], key: str) -> dict[object, Any]:
    """Energy of the entries of an answer, by their key."""
    return {
        entry[key]: {kind: uj or 0 for kind, uj in section(entry, "total").items()}
        for entry in entries
    }


def section(entry: Mapping[str, Any], key: str) -> dict[str, int | None]:
    """Part of an entry."""
    return dict(entry[key])


def check_views(snapshots: Sequence[Snapshot], kept: Sequence[int]) -> None:
    """Compare the rows with the sums that the daemon itself shows at both edges."""
    first, last = snapshots[kept[0]], snapshots[kept[-1]]
    with TemporaryDirectory() as place:
        recorded = Recorded(Path(place))
        for number in kept:
            recorded.record(snapshots[number])
        spaces, pods = (recorded.report(by, first, last)["rows"] for by in ("namespace", "pod"))
        recorded.close()
    had, has = (totals(namespace_entries(x), "namespace") for x in (first, last))
    found = {row["name"]: row["total"] for row in spaces if row["kind"] == "namespace"}
    for name, total in has.items():
        gain = {kind: uj - had.get(name, {}).get(kind, 0) for kind, uj in total.items()}
        assert found.get(name, dict.fromkeys(gain, 0)) == gain
    listed = [totals(pod_entries(snapshots[number]), "uid") for number in kept]
    shown = {row["id"]: row["total"] for row in pods if row["kind"] == "pod"}
    for uid in set.intersection(*(set(one) for one in listed)):
        gain = {kind: uj - listed[0][uid][kind] for kind, uj in listed[-1][uid].items()}
        assert shown.get(uid, dict.fromkeys(gain, 0)) == gain


choices = st.lists(st.integers(0, 10), min_size=2, max_size=8, unique=True)


@settings(max_examples=10)
@given(worlds(), choices, st.booleans())
def test_rows_add_up_to_the_node(
    case: tuple[World, tuple[int, ...]], kept: list[int], churn: bool
) -> None:
    """However few records there are, and whatever ended between them."""
    world, edges = case
    snapshots = world.run(edges, CHURN if churn else PARAMS)
    wanted = sorted({number % len(snapshots) for number in kept} | {0, len(snapshots) - 1})

    check_all(snapshots, wanted, len(wanted) // 3, len(wanted) - 1)
    check_views(snapshots, wanted)


@settings(max_examples=6)
@given(attacks(), choices)
def test_rows_add_up_with_workloads_in_workloads(
    case: tuple[World, World], kept: list[int]
) -> None:
    """What a tenant's evicted leaf had goes to the leaf around it, and is counted once."""
    snapshots = case[1].run(EDGES, CHURN)
    wanted = sorted(kept)

    check_all(snapshots, wanted, 0, len(wanted) - 1)

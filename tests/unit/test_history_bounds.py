"""The history's bounds: on memory, and on what a report may take of the daemon's."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.histories import SETTINGS, Recorded, later
from tychod.frames import ProtocolError
from tychod.model import Energy, Leaf, Snapshot
from tychod.protocol import ReportBy
from tychod.runtime import history, history_report, history_work
from tychod.runtime.history_accounts import Stretch, Table, account
from tychod.runtime.history_records import Gone, Row, Who, totals_of
from tychod.runtime.history_work import MOST_LEFT, WORK_PER_S, Allowance, Work
from tychod.runtime.slots import View

S_NS = 10**9
FIRST = made.make_snapshot()


@pytest.mark.parametrize("days", [0, 7])
def test_memory_is_bounded_in_bytes(
    tmp_path: Path, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever memory and interval say; the newest records are there, and those on disk."""
    monkeypatch.setattr(history, "MOST_MEMORY_BYTES", 20_000)
    recorded = Recorded(tmp_path, replace(SETTINGS, memory=86400.0, days=days))
    snapshots = [later(FIRST, 10.0 * number) for number in range(1, 200)]
    for snapshot in snapshots:
        recorded.record(snapshot)
    held = sum(len(chunk.data) for chunk in recorded.history._chunks)
    seconds = recorded.report("node", snapshots[0])["covered"]["seconds"]
    recorded.close()

    assert 20_000 // 2 < held <= 20_000
    assert seconds == 1980 if days else 300 < seconds < 1980


ENDED = 40


def churned(place: Path) -> tuple[Recorded, list[Snapshot]]:
    """A history of a node where in each record one pod has gone and another has come."""
    recorded = Recorded(place)
    found: list[Snapshot] = []
    past = {leaf.identity.id: leaf for leaf in FIRST.leaves}["past"]
    listed = tuple(leaf for leaf in FIRST.leaves if leaf is not past)
    for number in range(ENDED + 1):
        identity = made.container(f"{number:064x}", "app", f"web-{number}", f"{number:036x}")
        pod = made.make_leaf(identity, 1000 + 10 * number)
        leaves = (*listed, past, pod)
        past = joined(past, pod)
        domains = made.make_domains(leaves)
        found.append(later(FIRST, 10.0 * number + 1, leaves=leaves, domains=domains))
        recorded.record(found[-1])
    return recorded, found


def joined(past: Leaf, leaf: Leaf) -> Leaf:
    """The past with what a leaf had."""
    energy = {
        name: Energy(e.idle_uj + more.idle_uj, e.dynamic_uj + more.dynamic_uj)
        for (name, e), more in zip(past.energy.items(), leaf.energy.values(), strict=True)
    }
    return replace(past, energy=energy, cpu_ns=past.cpu_ns + leaf.cpu_ns)


@pytest.mark.parametrize("by", ["pod", "workload"])
def test_ended_workloads_beyond_a_number_are_one_row(
    tmp_path: Path, by: ReportBy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest have rows, and all of them add up to the node to the microjoule."""
    recorded, snapshots = churned(tmp_path)
    every = recorded.report(by, snapshots[0])
    monkeypatch.setattr(history_report, "MOST_ROWS", 8)
    some = recorded.report(by, snapshots[0])
    recorded.close()
    shown = [row["id"] for row in some["rows"] if row["kind"] in ("pod", "container")]
    largest = [row["id"] for row in every["rows"] if row["kind"] in ("pod", "container")]

    assert every["left_out"] == 0
    assert len(largest) >= ENDED
    assert shown == largest[:8]
    assert some["left_out"] == len(largest) - 8
    assert some["rows"][-1]["kind"] == "others"
    for kind in ("idle_uj", "dynamic_uj"):
        assert sum(row["total"][kind] for row in some["rows"]) == some["total"]["total"][kind]
    assert some["total"] == every["total"]


def test_a_table_holds_twice_as_many_rows_as_wanted_at_most() -> None:
    """However many are added in whatever order; nothing of any gets lost."""
    table = Table(10)
    for number in range(1000):
        who = Who("pod", str(number * 7919 % 1000), "x", None, None, None, None, nested=False)
        table.add(who, (1, number, 1))
        assert len(table) <= 21
    table.shrink()
    columns = zip(*(line.values for line in table.lines()), strict=True)

    assert tuple(map(sum, columns)) == (1000, 999 * 500, 1000)
    assert table.left_out == 990
    assert [line.values[1] for line in table.lines()[:10]] == [*range(999, 989, -1)]


def ended(count: int) -> Iterator[Gone]:
    """Frames of one ended pod each."""
    for number in range(count):
        who = Who("container", f"c{number}", "app", "shop", f"p{number}", "web", None, nested=False)
        pod = who._replace(kind="pod", id=f"p{number}")
        yield Gone(("package",), (Row(who, (5, 1, number)),), (Row(pod, (5, 1, number)),))


@pytest.mark.parametrize("by", ["pod", "workload", "namespace", "unit"])
def test_memory_does_not_grow_with_what_ended(by: ReportBy) -> None:
    """What ended is read and added up one record at a time."""
    final = totals_of(FIRST, None)._replace(domains=("package",), rows={})
    peaks = []
    for count in (500, 4000):
        tracemalloc.start()
        account(Stretch(None, ended(count), final), by, 50)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < 1.5 * peaks[0] + 10_000


def test_readers_without_rights_have_a_bound_of_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it a report is given up, and says what to do; root and admins get it."""
    monkeypatch.setattr(history, "MOST_WORK", 100)
    recorded, snapshots = churned(tmp_path)
    with pytest.raises(ProtocolError, match="ask for a shorter time") as refused:
        recorded.report("pod", view=View(None, None, 1.0))
    short = recorded.report("pod", snapshots[-3], view=View(None, None, 1.0))
    whole = recorded.report("pod")
    recorded.close()

    assert refused.value.code == "unavailable"
    assert short["covered"]["seconds"] == 20
    assert whole["covered"] is not None


def test_readers_without_rights_have_reports_as_often_as_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for one after the other is told when the next one is due; root never waits."""
    monkeypatch.setattr(history_work, "MOST_LEFT", 1000)
    recorded, _ = churned(tmp_path)
    view = View(None, None, 1.0)
    refused = first_refusal(recorded, view)
    recorded.report("pod")
    recorded.clock.monotonic_ns += round((refused.seconds or 0) * 1e9)
    again = recorded.report("pod", view=view)
    recorded.close()

    assert refused.code == "busy"
    assert "try again in 1 s" in refused.message
    assert again["covered"] is not None


def first_refusal(recorded: Recorded, view: View) -> ProtocolError:
    """What is told when there were too many reports."""
    for _ in range(1000):
        try:
            recorded.report("pod", view=view)
        except ProtocolError as exc:
            return exc
    raise AssertionError("no report was refused")


def test_an_allowance_grows_with_time_and_not_beyond_its_bound() -> None:
    """What one report took too much is waited for."""
    allowance, work = Allowance(), Work(None)
    allowance.check(0)
    work.spend(MOST_LEFT + 10 * WORK_PER_S)
    allowance.take(work)
    with pytest.raises(ProtocolError) as refused:
        allowance.check(5 * S_NS)
    allowance.check(11 * S_NS)
    allowance.check(10**6 * S_NS)
    allowance.take(work)
    with pytest.raises(ProtocolError):
        allowance.check(10**6 * S_NS)

    assert refused.value.seconds == 6

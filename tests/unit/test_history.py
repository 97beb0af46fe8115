"""The history: what is kept survives damage, full disks and clocks; what is read is what was."""

import itertools
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, ItemsView, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.histories import BOOT, SETTINGS, Recorded, later
from tychod.buffer import Latest
from tychod.config_results import History as Settings
from tychod.config_results import Report as Factors
from tychod.frames import ProtocolError
from tychod.model import Domain, Energy, Leaf, Snapshot, Usage
from tychod.protocol import Nothing, Report
from tychod.runtime.history_files import list_files
from tychod.runtime.history_parse import rebuild
from tychod.runtime.history_records import Encoder, Head, Life, scan, totals_of
from tychod.runtime.slots import View

FIRST = made.make_snapshot()


def grown(leaf: Leaf, much: int) -> Leaf:
    """A leaf that used so many microjoules of the package more, and as many nanoseconds."""
    had = leaf.energy["package"]
    energy = {**leaf.energy, "package": Energy(had.idle_uj, had.dynamic_uj + much)}
    return replace(leaf, energy=energy, cpu_ns=leaf.cpu_ns + much)


def after(snapshot: Snapshot, seconds: float = 10.0, much: int = 1000, **changed: Any) -> Snapshot:
    """The node some time later; every container used so much more."""
    leaves = tuple(
        grown(leaf, much) if leaf.identity.kind == "container" else leaf for leaf in snapshot.leaves
    )
    leaves = changed.pop("leaves", leaves)
    domains = made.make_domains(leaves)
    return later(snapshot, seconds, leaves=leaves, domains=domains, **changed)


def series(count: int, seconds: float = 10.0) -> list[Snapshot]:
    """A node window by window."""
    found = [FIRST]
    while len(found) < count:
        found.append(after(found[-1], seconds))
    return found


def filled(place: Path, snapshots: list[Snapshot], settings: Settings = SETTINGS) -> Recorded:
    """A history with a record of each."""
    recorded = Recorded(place, settings)
    for snapshot in snapshots:
        recorded.record(snapshot)
    return recorded


def energy_of(report: Mapping[str, Any]) -> int:
    """Sum of a report's rows."""
    return sum(sum(row["total"].values()) for row in report["rows"])


def files_in(place: Path) -> list[Path]:
    """The history's files, in order."""
    return [file.path for file in list_files(place / "history")]


def test_a_record_comes_back_as_it_was() -> None:
    """Names that are no UTF-8 or steer terminals included; the same from full and changed ones."""
    odd = replace(FIRST.leaves[0].identity, name="a\udcff\x1b[2J", id="\udcfe")
    leaves = (replace(FIRST.leaves[0], identity=odd), *FIRST.leaves[1:])
    snapshots = [FIRST, after(FIRST), after(after(FIRST), leaves=leaves)]
    encoder = Encoder(Head(Life(BOOT, 1), 0), None, 60)
    data, last = b"", None
    for snapshot in snapshots:
        last = totals_of(snapshot, last)
        data += encoder.encode(last)[0]
    log = Memory(data)
    frames = [frame for frame in scan(log, len(data)) if frame]
    chain = [frame for frame in frames if frame.kind in (1, 2)]

    assert rebuild(log, chain) == last


class Memory:
    """Bytes to read in."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, start: int, count: int) -> bytes:
        """Return a part."""
        return self._data[start : start + count]


@pytest.mark.parametrize("days", [0, 7])
def test_a_report_is_the_growth_between_two_records(tmp_path: Path, days: int) -> None:
    """From memory alone, and from disk in another run; edges are records, never between them."""
    snapshots = series(5)
    recorded = filled(tmp_path, snapshots, replace(SETTINGS, days=days))
    report = recorded.report("namespace", snapshots[1], snapshots[3])
    recorded.close()
    containers = sum(leaf.identity.kind == "container" for leaf in FIRST.leaves)

    assert energy_of(report) == 2 * 1000 * containers
    assert report["covered"]["seconds"] == 20.0
    assert (tmp_path / "history").exists() is bool(days)
    if days:
        assert Recorded(tmp_path).report("namespace", snapshots[1], snapshots[3]) == report


def test_files_are_for_the_daemon_alone(tmp_path: Path) -> None:
    """Names of workloads and when they ran are nobody else's business."""
    filled(tmp_path, series(2)).close()

    assert (tmp_path / "history").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in files_in(tmp_path)] == [0o600]


def test_what_ended_between_two_records_keeps_what_it_had(tmp_path: Path) -> None:
    """An evicted pod has a row with what was last recorded of it; the rest is in ``past``."""
    start = FIRST
    used = after(start, much=5000)
    job = next(leaf for leaf in used.leaves if leaf.identity.id == made.JOB_ID)
    last = grown(job, 300)
    gone = tuple(
        replace(leaf, energy=made_sum(leaf, last), cpu_ns=leaf.cpu_ns + last.cpu_ns)
        if leaf.identity.id == "past"
        else leaf
        for leaf in used.leaves
        if leaf is not job
    )
    shop = used.folded["namespace:shop"]
    folded = {
        **used.folded,
        "namespace:shop": Usage(shop.cpu_ns + last.cpu_ns, total_of(shop, last)),
    }
    evicted = after(used, leaves=gone, folded=folded)
    recorded = filled(tmp_path, [start, used, evicted, after(evicted)])
    pods = {row["id"]: row for row in recorded.report("pod", start, evicted)["rows"]}
    spaces = {row["id"]: row for row in recorded.report("namespace", start, evicted)["rows"]}
    recorded.close()

    assert pods[made.JOB_UID]["total"]["dynamic_uj"] == 5000
    assert pods["past"]["total"]["dynamic_uj"] == 300
    assert spaces["past"]["total"]["dynamic_uj"] == 0
    assert spaces["shop"]["total"]["dynamic_uj"] == 5300 + 2 * 5000


def made_sum(leaf: Leaf, other: Leaf) -> dict[str, Energy]:
    """Energy of two leaves."""
    return total_of(Usage(0, leaf.energy), other)


def total_of(usage: Usage, leaf: Leaf) -> dict[str, Energy]:
    """Energy of a sum with one leaf more."""
    return {
        name: Energy(
            e.idle_uj + leaf.energy[name].idle_uj, e.dynamic_uj + leaf.energy[name].dynamic_uj
        )
        for name, e in usage.energy.items()
    }


def test_a_run_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    """Restarts in one boot lose nothing; the time without records is told, its energy counted."""
    snapshots = [*series(3), after(after(after(FIRST)), 600.0)]
    filled(tmp_path, snapshots[:3]).close()
    recorded = filled(tmp_path, snapshots[3:])
    report = recorded.report("workload", snapshots[0], snapshots[3])
    recorded.close()
    containers = sum(leaf.identity.kind == "container" for leaf in FIRST.leaves)

    assert energy_of(report) == 3 * 1000 * containers
    assert [gap["counted"] for gap in report["gaps"]] == [True]
    assert len(files_in(tmp_path)) == 2


def test_counters_that_began_anew_are_added(tmp_path: Path) -> None:
    """A new boot's counters start at nothing; the time between is a gap that is not counted."""
    snapshots = series(3)
    filled(tmp_path, snapshots).close()
    hour_ns = 3600 * 10**9
    reborn = replace(
        FIRST, since_ns=FIRST.since_ns + hour_ns, wall_offset_ns=FIRST.wall_offset_ns + hour_ns
    )
    other = Recorded(tmp_path, boot="another")
    other.record(reborn)
    report = other.report("node", snapshots[0], reborn)
    other.close()
    whole = sum(e.total_uj for leaf in FIRST.leaves for e in leaf.energy.values())
    containers = sum(leaf.identity.kind == "container" for leaf in FIRST.leaves)

    assert sum(report["total"]["total"].values()) == whole + 2 * 1000 * containers
    assert [gap["counted"] for gap in report["gaps"]] == [False]


@pytest.mark.parametrize("kept", [-1, -200, 30, 3])
def test_a_torn_file_costs_its_last_records(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Power that fails, or a kill, tears the end; what is before counts, and one line is said."""
    snapshots = series(5)
    filled(tmp_path, snapshots).close()
    path = files_in(tmp_path)[0]
    os.truncate(path, kept if kept > 0 else path.stat().st_size + kept)
    again = Recorded(tmp_path)
    again.report("pod", None, snapshots[4])
    report = again.report("pod", None, snapshots[4])

    assert (report["covered"] is None) is (kept > 0)
    assert sum("damaged" in record.message for record in caplog.records) == 1


def test_damage_in_the_middle_costs_no_energy(tmp_path: Path) -> None:
    """Whatever byte is wrong: no report fails, and what is read is never more than there was."""
    snapshots = series(6)
    filled(tmp_path, snapshots).close()
    path = files_in(tmp_path)[0]
    data = path.read_bytes()
    whole = energy_of(Recorded(tmp_path).report("pod", snapshots[0], snapshots[5]))
    for place in range(0, len(data), 37):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x5A]) + data[place + 1 :])
        report = Recorded(tmp_path).report("pod", snapshots[0], snapshots[5])
        assert 0 <= energy_of(report) <= whole


def test_a_clock_that_is_set_moves_no_energy(tmp_path: Path) -> None:
    """Records of a boot are placed by its newest offset; order is that of the monotonic clock."""
    snapshots = series(4)
    year_ns = 365 * 86400 * 10**9
    wrong = [replace(x, wall_offset_ns=x.wall_offset_ns - year_ns) for x in snapshots[:2]]
    recorded = filled(tmp_path, [*wrong, *snapshots[2:]])
    report = recorded.report("pod", snapshots[0], snapshots[3])
    recorded.close()

    assert report["covered"]["seconds"] == 30.0


def test_a_machine_that_slept_moves_no_energy(tmp_path: Path) -> None:
    """A night in suspend is between its records; those of the evening stay where they were."""
    night_ns = 8 * 3600 * 10**9
    evening = series(2)
    morning = [after(evening[1]), after(after(evening[1]))]
    morning = [replace(x, wall_offset_ns=x.wall_offset_ns + night_ns) for x in morning]
    recorded = filled(tmp_path, evening)
    recorded.clock.asleep_ns = night_ns
    for snapshot in morning:
        recorded.record(snapshot)
    before = recorded.report("pod", evening[0], evening[1])
    whole = recorded.report("pod", evening[0], morning[1])
    recorded.close()

    assert before["covered"]["seconds"] == 10
    assert energy_of(before) * 3 == energy_of(whole) > 0
    assert whole["covered"]["seconds"] == 30 + 8 * 3600
    assert [gap["counted"] for gap in whole["gaps"]] == [True]


def test_a_full_disk_is_told_and_tried_again(tmp_path: Path) -> None:
    """Memory goes on meanwhile; afterwards the file begins with a record that stands alone."""
    snapshots = series(4)
    recorded = filled(tmp_path, snapshots[:1])
    directory = tmp_path / "history"
    directory.rename(tmp_path / "away")
    directory.write_text("no directory")
    recorded.close()
    recorded.record(snapshots[1])
    problem = recorded.history.problem
    report = recorded.report("pod", snapshots[0], snapshots[1])
    directory.unlink()
    (tmp_path / "away").rename(directory)
    recorded.record(snapshots[2])
    recorded.close()

    assert problem is not None
    assert "history cannot be written" in problem
    assert report["covered"]["seconds"] == 10.0
    assert recorded.history.problem is None
    assert Recorded(tmp_path).report("pod", snapshots[0], snapshots[2])["covered"]["seconds"] == 20


def test_files_that_somebody_removed_are_begun_anew(tmp_path: Path) -> None:
    """Who deletes the history while tychod runs loses what was, not what comes."""
    snapshots = series(4)
    recorded = filled(tmp_path, snapshots[:2])
    shutil.rmtree(tmp_path / "history")
    for snapshot in snapshots[2:]:
        recorded.record(snapshot)
    recorded.close()
    again = Recorded(tmp_path).report("node", snapshots[2], snapshots[3])

    assert again["covered"]["seconds"] == 10.0
    assert len(files_in(tmp_path)) == 1


def test_a_workload_that_gets_anothers_past_is_not_billed_for_it(tmp_path: Path) -> None:
    """What a tenant's evicted leaf had before the period is not used in the period."""
    start = after(FIRST)
    used = after(start, much=700)
    by_id = {leaf.identity.id: leaf for leaf in used.leaves}
    nested, outer = by_id[made.NESTED_ID], by_id[made.NODE_ID]
    heir = replace(
        outer,
        energy=total_of(Usage(0, outer.energy), nested),
        cpu_ns=outer.cpu_ns + nested.cpu_ns,
    )
    leaves = tuple(heir if leaf is outer else leaf for leaf in used.leaves if leaf is not nested)
    recorded = filled(tmp_path, [start, later(used, 10.0, leaves=leaves)])
    rows = {row["id"]: row for row in recorded.report("workload", start)["rows"]}
    recorded.close()

    assert made.NESTED_ID not in rows
    assert rows[made.NODE_ID]["total"]["dynamic_uj"] == 2 * 700
    assert rows[made.JOB_ID]["total"]["dynamic_uj"] == 700


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Records older than the setting are forgotten; a report says from when on it knows."""
    snapshots = series(200)
    recorded = filled(tmp_path, snapshots, replace(SETTINGS, days=0))
    report = recorded.report("node", snapshots[1], None)

    assert 600 <= report["covered"]["seconds"] <= 600 + 10 * 15


def test_readers_without_rights_see_edges_no_closer_than_their_step(tmp_path: Path) -> None:
    """However they choose a period, they learn nothing of shorter times."""
    snapshots = series(40)
    recorded = filled(tmp_path, snapshots[:9])
    recorded.close()  # the daemon was started again: its first record comes at any time
    recorded = filled(tmp_path, snapshots[9:])
    view = View(snapshots[-1], None, 60.0)
    edges = set()
    for start, end in itertools.combinations(snapshots[::3], 2):
        covered = recorded.report("node", start, end, view=view)["covered"]
        if covered:
            edges |= {covered["start"], covered["end"]}
    recorded.close()
    times = sorted(datetime.fromisoformat(edge).timestamp() for edge in edges)

    assert len(times) >= 3
    assert min(later - sooner for sooner, later in itertools.pairwise(times)) >= 60


def test_the_newest_window_is_the_end_of_a_report_up_to_now(tmp_path: Path) -> None:
    """Nobody waits for the next record to see what was used; unknown snapshots are no edge."""
    snapshots = series(3)
    recorded = filled(tmp_path, snapshots[:1])
    report = recorded.report("pod", snapshots[0], None, view=View(snapshots[2], None, 0.0))
    recorded.close()

    assert report["covered"]["seconds"] == 20.0


class Slow(dict[str, Domain]):
    """Domains that are read when the test says so."""

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        super().__init__(domains)
        self.inside = threading.Semaphore(0)
        self.go = threading.Event()

    def items(self) -> ItemsView[str, Domain]:
        """Wait, then be as any other."""
        self.inside.release()
        self.go.wait(10)
        return super().items()


def test_one_report_is_made_at_once(tmp_path: Path) -> None:
    """Who asks too much is told so; measuring does not wait."""
    recorded = Recorded(tmp_path)
    slow = Slow(FIRST.domains)
    view = View(replace(FIRST, domains=slow), None, 0.0)
    threads = [threading.Thread(target=recorded.report, kwargs={"view": view}) for _ in range(1)]
    for thread in threads:
        thread.start()
    both = [slow.inside.acquire(timeout=10) for _ in threads]
    with pytest.raises(ProtocolError) as refused:
        recorded.report(view=view)
    slow.go.set()
    for thread in threads:
        thread.join(10)

    assert all(both)
    assert refused.value.code == "busy"


def test_the_thread_keeps_every_window_and_records_at_the_end(tmp_path: Path) -> None:
    """Power of each window is there at once; a stop loses nothing of the time since a record."""
    snapshots = series(4, seconds=1.0)
    latest: Latest[Snapshot] = Latest()
    recorded = Recorded(tmp_path, latest=latest)
    recorded.history.start()
    for number, snapshot in enumerate(snapshots, start=1):
        latest.publish(snapshot)
        assert wait_for(lambda n=number: len(points(recorded, snapshots[-1], 0.0)) == n)
    recorded.history.ask_stop()

    assert recorded.history.join(10)
    assert recorded.crashes == []
    found = points(recorded, snapshots[-1], 0.0)
    assert found[-1] == [
        made_end_s(snapshots[-1]),
        {n: d.power_w for n, d in FIRST.domains.items()},
    ]
    assert len(points(recorded, snapshots[-1], 2.0)) == 2
    assert len(points(recorded, snapshots[1], 0.0)) == 2
    again = Recorded(tmp_path).report("node", snapshots[0], snapshots[-1])
    assert again["covered"]["seconds"] == 3.0


def test_the_trend_shows_no_more_than_was_seen_before(tmp_path: Path) -> None:
    """A reader in steps of 2 s who asks all the time is never told of windows closer than that."""
    latest: Latest[Snapshot] = Latest()
    recorded = Recorded(tmp_path, latest=latest)
    recorded.history.start()
    told: set[float] = set()
    snapshots = series(9, seconds=1.0)
    recorded.history._points = deque(maxlen=4)  # so that the oldest go, as after ten minutes
    for snapshot in snapshots:
        latest.publish(snapshot)
        end_s = made_end_s(snapshot)
        assert wait_for(lambda e=end_s: newest_s(recorded) == e)
        told |= {end_s for end_s, _ in points(recorded, snapshot, 2.0)}
    recorded.history.ask_stop()

    assert recorded.history.join(10)
    assert told == {made_end_s(snapshot) for snapshot in snapshots[::2]}


def newest_s(recorded: Recorded) -> float | None:
    """End of the newest window that root is told of."""
    found = points(recorded, series(9, seconds=1.0)[-1], 0.0)
    return found[-1][0] if found else None


def points(recorded: Recorded, newest: Snapshot, step_s: float) -> list[Any]:
    """What a reader who sees so far, in such steps, is told of the last minutes."""
    found: Any = recorded.history.trend(Nothing(), View(newest, None, step_s))["points"]
    return list(found)


def made_end_s(snapshot: Snapshot) -> float:
    """End of a window in seconds since 1970."""
    return (snapshot.window.end_ns + snapshot.wall_offset_ns) / 1e9


def wait_for(is_so: Callable[[], bool]) -> bool:
    """Wait until something is so."""
    until = time.monotonic() + 10
    while not is_so() and time.monotonic() < until:
        time.sleep(0.005)
    return is_so()


def test_a_period_that_ends_before_it_begins_is_refused(tmp_path: Path) -> None:
    """With what is wrong."""
    with pytest.raises(ProtocolError, match="start has to be before end"):
        Recorded(tmp_path).history.report(
            Report("pod", 20.0, 10.0), View(None, None, 0.0), Factors()
        )


def test_what_was_modelled_is_counted(tmp_path: Path) -> None:
    """The share of a report that nothing measured is known, over restarts too."""
    snapshots = series(4)
    filled(tmp_path, snapshots[:2]).close()
    recorded = filled(tmp_path, snapshots[2:])
    report = recorded.report("node", snapshots[0], snapshots[3])
    recorded.close()
    package = [x.domains["package"].energy_uj for x in snapshots]

    assert report["modelled_uj"] == package[3] - package[0]

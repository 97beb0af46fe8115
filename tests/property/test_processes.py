"""Processes: never more than their leaf, never falling, whatever happens to the kernel's table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim.world import MS, Load, Meter, World, container, unit, zone
from tychod.analysis.pipeline import analyse
from tychod.analysis.processes import TICK_NS
from tychod.analysis.state import Params, ProcessesSeen, ProcessState, State
from tychod.model import Energy, Identity, Process, Processes, Snapshot, Window
from tychod.runtime.saved import _parse_processes, _plain_processes
from tychod.samples import OUTSIDE_KEY, ProcessSeries, ProcessUse

S = 1_000 * MS
PARAMS = Params(cpus=4, process_ended_age_ns=6 * S, processes_max=9)
KEYS = (1, 2, 3, 4, OUTSIDE_KEY, 999)  # the last one is no cgroup's that is known
WORLD = World(
    (
        Load(-1, Identity("kernel", "kernel", "kernel"), 0.05),
        Load(1, container(1, 1), 0.4),
        Load(2, container(2, 1), 0.2, dies_ns=14 * S),
        Load(3, unit("a.service"), 0.3),
        Load(4, unit("a.service"), 0.1, born_ns=5 * S),
        Load(OUTSIDE_KEY, Identity("unattributed", "unattributed", "unattributed"), 0.1),
    ),
    {"rapl": (Meter(zone("package-0"), 3.0, 10.0), Meter(zone("dram"), 0.5, 1.0))},
    tuple(range(0, 40 * S, 50 * MS)),
    tuple(range(0, 40 * S, 500 * MS)),
)


@dataclass
class Row:
    """One entry of the table, as the kernel programs or procfs have it."""

    pid: int
    start_ns: int
    key: int
    ns: int = 0
    exited: bool = False
    is_known: bool = True  # its cgroup has a key


@dataclass
class Table:
    """The processes of a node, and what befalls them."""

    method: str
    rows: list[Row] = field(default_factory=list)

    def apply(self, event: str, pid: int, key: int, ns: int) -> None:
        """Let one thing happen to a process."""
        mine = [row for row in self.rows if row.pid == pid]
        if event == "run":
            self._run(pid, key, ns, mine)
        elif event == "exit":
            for row in mine:
                row.exited = True
        elif event in ("known", "unknown"):
            for row in mine:
                row.is_known = event == "known" or self.method == "procfs"
        elif event in ("evict", "vanish"):
            self.rows = [row for row in self.rows if row.pid != pid]

    def _run(self, pid: int, key: int, ns: int, mine: list[Row]) -> None:
        if any(row.exited for row in mine):
            return
        if self.method == "procfs" and mine:  # one counter for all cgroups
            mine[0].key = key
        if not any(row.key == key for row in mine):
            self.rows.append(Row(pid, pid * S + pid, key))
        row = next(row for row in self.rows if (row.pid, row.key) == (pid, key))
        row.ns += ns

    def read(self, t_ns: int) -> ProcessSeries:
        """Return what a reading shows."""
        return ProcessSeries(
            t_ns,
            self.method,
            tuple(
                ProcessUse(
                    r.pid,
                    r.start_ns,
                    f"p{r.pid}",
                    r.key if r.is_known else None,
                    r.ns,
                    r.exited,
                    0 if self.method == "procfs" else abs(r.key),
                )
                for r in self.rows
            ),
        )


events = st.tuples(
    st.sampled_from(("run", "run", "run", "exit", "evict", "vanish", "known", "unknown")),
    st.integers(1, 14),
    st.sampled_from(KEYS),
    st.sampled_from((0, 1, 1_000_000, 400 * MS, 5 * S)),
)
windows = st.lists(
    st.tuples(st.lists(events, max_size=12), st.sampled_from(("", "", "", "restart", "unread"))),
    min_size=2,
    max_size=8,
)
methods = st.sampled_from(("bpf", "procfs"))


def run(
    method: str, story: Sequence[tuple[Sequence[tuple[str, int, int, int]], str]]
) -> Iterator[tuple[Snapshot, Snapshot]]:
    """Yield each window's snapshot, and the one that there is without processes."""
    state = plain = State()
    table = Table(method)
    for number, (happened, what) in enumerate(story):
        window = Window(number * 3 * S + S, number * 3 * S + 4 * S)
        for event in happened:
            table.apply(*event)
        if what == "restart":
            state, plain = (replace(x, restarted=x.end_ns is not None) for x in (state, plain))
            state = replace(state, processes=reloaded(state.processes))
        series = None if what == "unread" else table.read(window.end_ns)
        seen = WORLD.observe(window)
        without, plain = analyse(seen, window, plain, PARAMS)
        told = replace(seen, processes=ProcessesSeen(series, None, 10**18))
        snapshot, state = analyse(told, window, state, PARAMS)
        yield snapshot, without


def reloaded(processes: ProcessState) -> ProcessState:
    """Return what comes back from the state's file."""
    return _parse_processes(msgpack.unpackb(msgpack.packb(_plain_processes(processes))))


def listed(snapshot: Snapshot) -> Processes:
    """The processes of a snapshot."""
    assert snapshot.processes is not None
    return snapshot.processes


def who(process: Process) -> tuple[int, int, str]:
    """What makes a row of the list."""
    return process.pid, process.start_ns, process.workload


@given(methods, windows)
def test_processes_have_at_most_what_their_leaf_has(method: str, story: list[object]) -> None:
    """In every window, for each leaf and domain: the sum over its processes is not above it."""
    for snapshot, _ in run(method, story):  # type: ignore[arg-type]
        leaves = {leaf.identity.id: leaf for leaf in snapshot.leaves}
        for leaf_id, leaf in leaves.items():
            mine = [p for p in listed(snapshot).entries if p.workload == leaf_id]
            for domain, has in leaf.energy.items():
                assert sum(p.energy[domain].dynamic_uj for p in mine) <= has.dynamic_uj
            watts = sum(p.total_power_w or 0.0 for p in mine)
            assert watts <= (leaf.total_power_w or 0.0) + 1e-9
        assert {p.workload for p in listed(snapshot).entries} <= leaves.keys()
        assert all(e.idle_uj == 0 for p in listed(snapshot).entries for e in p.energy.values())


@given(methods, windows)
def test_the_view_changes_nothing_below_it(method: str, story: list[object]) -> None:
    """Leaves, domains and their sums are the same whether processes are accounted or not."""
    for snapshot, without in run(method, story):  # type: ignore[arg-type]
        assert replace(snapshot, processes=None) == without


@given(methods, windows)
def test_no_process_ever_has_less(method: str, story: list[object]) -> None:
    """A row's counters never fall while it is listed, its end is final, its times stand."""
    for (before, _), (after, _) in pairwise(run(method, story)):  # type: ignore[arg-type]
        old = {who(p): p for p in listed(before).entries}
        for now in listed(after).entries:
            had = old.get(who(now))
            if had is None:
                continue
            assert now.cpu_ns >= had.cpu_ns
            assert all(now.energy[d].dynamic_uj >= e.dynamic_uj for d, e in had.energy.items())
            assert (had.state, now.state) != ("terminated", "running")


@given(methods, windows)
def test_the_list_is_bounded(method: str, story: list[object]) -> None:
    """There are never more than the most that are kept, and no row twice."""
    for snapshot, _ in run(method, story):  # type: ignore[arg-type]
        rows = [who(p) for p in listed(snapshot).entries]

        assert len(rows) <= PARAMS.processes_max
        assert len(set(rows)) == len(rows)


def story_of(*windows_of: tuple[str, int, int, int] | str) -> list[object]:
    """A story with one event in each window; a word is what else happens."""
    return [([w], "") if isinstance(w, tuple) else ([], w) for w in windows_of]


def cpu_ns(snapshot: Snapshot, pid: int) -> dict[str, int]:
    """CPU time of a process by workload."""
    return {p.workload: p.cpu_ns for p in listed(snapshot).entries if p.pid == pid}


def test_what_an_eviction_took_is_kept() -> None:
    """An entry that is evicted and made anew goes on where it was."""
    story = story_of(("run", 1, 3, 0), ("run", 1, 3, 5), ("evict", 1, 3, 0), ("run", 1, 3, 7))
    last = [snapshot for snapshot, _ in run("bpf", story)][-1]  # type: ignore[arg-type]

    assert cpu_ns(last, 1) == {"a.service": 12}


def test_a_cgroup_without_a_key_delays_and_loses_nothing() -> None:
    """What is used while nobody knows whose it is is booked once, when that is known."""
    story = story_of(
        *(("run", 1, 3, 9), ("run", 1, 3, 5), ("unknown", 1, 3, 0), ("run", 1, 3, 7)),
        *(("run", 1, 3, 1), ("known", 1, 3, 0), ("run", 1, 3, 2)),
    )
    rows = [cpu_ns(snapshot, 1)["a.service"] for snapshot, _ in run("bpf", story)]  # type: ignore[arg-type]

    assert [ns - rows[0] for ns in rows] == [0, 5, 5, 5, 5, 13, 15]


@pytest.mark.parametrize("what", ["", "restart"])
def test_history_does_not_come_again(what: str) -> None:
    """A row whose cgroup has no key in one reading, after a restart even, is not all new later."""
    used = (("run", 1, 3, 9), ("run", 1, 3, 5 * S))
    story = [*story_of(*used), ([("unknown", 1, 3, 0)], what), ([("known", 1, 3, 0)], "")]
    rows = [cpu_ns(snapshot, 1)["a.service"] for snapshot, _ in run("bpf", story)]  # type: ignore[arg-type]

    assert rows[-1] == rows[1]


def test_a_cgroup_that_is_gone_lists_nobody() -> None:
    """A counter of no leaf that stands still makes no row: its process is listed where it runs."""
    story = story_of(("run", 1, 999, 0), ("run", 1, 3, 5))
    for snapshot, _ in run("bpf", story):  # type: ignore[arg-type]
        assert cpu_ns(snapshot, 1).keys() <= {"a.service"}
    assert cpu_ns(snapshot, 1).keys() == {"a.service"}


def test_a_process_that_moves_has_a_row_for_each_workload() -> None:
    """What it used before stays where it was used; in one workload there is one row."""
    moves = (("run", 2, 3, 4), ("run", 2, 1, 6), ("run", 2, 4, 5))
    story = [*story_of(("run", 1, 3, 0)), *story_of(*moves)]
    for method in ("bpf", "procfs"):
        last = [snapshot for snapshot, _ in run(method, story)][-1]  # type: ignore[arg-type]

        assert cpu_ns(last, 2) == {"a.service": 9, container(1).id: 6}, method


def test_time_of_before_the_first_reading_is_not_counted() -> None:
    """A process that is older than the counters begins at 0; a restart does not begin it anew."""
    story = story_of(("run", 1, 3, 500), ("run", 1, 3, 7), "restart", ("run", 1, 3, 8))
    rows = [cpu_ns(snapshot, 1) for snapshot, _ in run("procfs", story)]  # type: ignore[arg-type]

    assert [row["a.service"] - rows[0]["a.service"] for row in rows] == [0, 7, 7, 15]


def test_a_process_alone_has_all_of_its_leaf() -> None:
    """Who used all of a leaf's CPU time has all of its dynamic energy."""
    used = 3 * S * 4 // 10
    story = story_of(("run", 1, 1, 0), ("run", 1, 1, used), ("run", 1, 1, used))
    first, *_, last = [snapshot for snapshot, _ in run("bpf", story)]  # type: ignore[arg-type]
    leaf_id = container(1).id
    before, after = (
        next(x.energy["package"] for x in s.leaves if x.identity.id == leaf_id)
        for s in (first, last)
    )
    (process,) = [p for p in listed(last).entries if p.pid == 1]

    assert process.energy["package"] == Energy(0, after.dynamic_uj - before.dynamic_uj)


def test_ended_processes_leave_the_list() -> None:
    """An end stays listed for its time, then it is gone."""
    story = story_of(("run", 1, 3, 1), ("exit", 1, 3, 0), *[("vanish", 1, 3, 0)] * 4)
    states = [
        [p.state for p in listed(snapshot).entries if p.pid == 1]
        for snapshot, _ in run("bpf", story)  # type: ignore[arg-type]
    ]

    assert states == [["running"], ["terminated"], ["terminated"], ["terminated"], [], []]


def test_a_start_is_one_process_for_every_method() -> None:
    """What procfs knows to 10 ms and the kernel to the nanosecond is the same process."""
    seen, window = WORLD.observe(Window(S, 4 * S)), Window(S, 4 * S)
    start_ns = 123 * TICK_NS
    state, state_rows = State(), []
    for number, (method, start) in enumerate((("bpf", start_ns + 4_711), ("procfs", start_ns))):
        window = Window(S + number * 3 * S, 4 * S + number * 3 * S)
        use = ProcessUse(5, start, "x", 3, 10, exited=False, cgroup=number)
        series = ProcessSeries(window.end_ns, method, (use,))
        seen = replace(WORLD.observe(window), processes=ProcessesSeen(series, None, 0))
        snapshot, state = analyse(seen, window, state, PARAMS)
        state_rows.append([who(p) for p in listed(snapshot).entries])

    assert state_rows[0] == state_rows[1]

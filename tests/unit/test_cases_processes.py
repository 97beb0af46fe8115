"""Processes by another program's cases: who each is, what it used, and when that is asked anew.

Every row runs through files of a procfs, the scan of it, the finder of hypervisors, the registry
and, where leaves share CPU time, analysis.  Where we rightly differ the reason is beside the row.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.sim.vmm import FakeProcess
from tests.sim.world import MS, Load, Meter, World, unit, zone
from tychod import config
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Params, ProcessesSeen, State
from tychod.hostfs import Host
from tychod.kernel.procscan import ProcScan, without_exits
from tychod.model import Identity, Snapshot, Window
from tychod.samples import CgroupRef, ProcessUse, VmSeries, VmUse
from tychod.workloads.registry import Registry
from tychod.workloads.vmprocs import ThreadTimes, VmFinder

S = 1_000 * MS
TICK_NS = 10 * MS  # "clock ticks are 100 per second"
WALL_NS = 10**18
EDGES = (1 * S, 4 * S, 7 * S)
BORN_TICKS, OLDER_TICKS = 200, 50  # within the first window, and before it
PID = 20
QEMU = ("/usr/bin/qemu-system-x86_64", "-name", "guest=web")
SHELL = ("/bin/sh", "-c", "qemu-system-x86_64 -name guest=web")
CONTAINER = f"/system.slice/docker-{'c3' * 32}.scope"
SERVICE = "/system.slice/agent.service"


def read_document(folder: Path) -> dict[str, Any]:
    """Read the case file."""
    document: dict[str, Any] = json.loads((folder / "proc_fixtures.json").read_text())
    return document


class CountingHost(Host):
    """A host that notes which files of processes are read."""

    def __init__(self, roots: config.Host) -> None:
        super().__init__(roots)
        self.read: list[str] = []

    def process_file(self, pid: int, name: str, limit: int = 4096) -> bytes | None:
        """Read a file of a process."""
        self.read.append(name)
        return super().process_file(pid, name, limit)


class Clock:
    """A clock that the test sets."""

    t_ns = 0

    def now_ns(self) -> int:
        """Monotonic time."""
        return self.t_ns

    def wall_offset_ns(self) -> int:
        """Wall clock minus monotonic time."""
        return WALL_NS


class Node:
    """A machine of files and all that looks at its processes."""

    def __init__(self, root: Path, *paths: str) -> None:
        names = ("procfs", "cgroupfs", "run", "log", "var")
        self.host = CountingHost(config.Host(**{n: str(root / n) for n in names}))
        self.procfs = Path(self.host.procfs)
        self.procfs.mkdir()
        self.cgroups = {key: CgroupRef(path, 100 + key) for key, path in enumerate(paths, 1)}
        self.finder = VmFinder(self.host, "v2")
        self.registry = Registry(self.host, self.host.cgroupfs)
        self.times = ThreadTimes(self.host)
        self.clock = Clock()
        exits = without_exits("not here")
        self.scan = ProcScan(self.host, "v2", lambda: self.cgroups, self.clock, exits)

    def put(self, pid: int = PID, **changes: Any) -> FakeProcess:
        """Write a process whose CPU time is known as a whole."""
        process = FakeProcess(self.procfs, pid, has_schedstat=False, **changes)
        process.write()
        return process

    def hide(self, name: str, pid: int = PID) -> None:
        """Let a file of a process be there and unreadable, for root too."""
        (self.procfs / str(pid) / name).unlink()
        (self.procfs / str(pid) / name).mkdir()

    def look(self, now_ns: int) -> Mapping[int, Identity]:
        """Look for hypervisors and return who each cgroup and machine is."""
        self.clock.t_ns = now_ns
        return self.registry.update(self.cgroups, now_ns, self.finder.look(now_ns))

    def machines(self) -> Iterator[VmUse]:
        """Yield what each hypervisor has used."""
        for process, vm_key, key in self.registry.watched:
            times = self.times.read(process)
            assert times is not None
            yield VmUse(process.pid, process.start_ticks, vm_key, key, *times)


class Watched:
    """A node that is analysed window by window; its first cgroup keeps four CPUs busy."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.state = State()
        load = Load(1, unit("x"), 4.0, EDGES[0], inode=101, path=node.cgroups[1].path)
        meters = {"rapl": (Meter(zone(), 10.0, 8.0),)}
        self.world = World((load,), meters, tuple(range(0, 9 * S, 50 * MS)), (0, *EDGES, 9 * S))

    def analyse(self, window: Window) -> Snapshot:
        """Read everything at a window's end and return its snapshot."""
        node, seen = self.node, self.world.observe(window)
        identities = node.look(window.end_ns)
        vms = VmSeries(window.end_ns, tuple(node.machines()))
        assert seen.cpu is not None
        seen = replace(
            seen,
            cpu=replace(seen.cpu, cgroups={**node.cgroups, **node.registry.machine_refs}),
            identities=identities,
            processes=ProcessesSeen(node.scan.read(), None, WALL_NS),
            vms=vms,
        )
        snapshot, self.state = analyse(seen, window, self.state, Params(cpus=4))
        assert snapshot.conservation_violations == 0
        return snapshot


WINDOWS = [Window(start, end) for start, end in pairwise(EDGES)]

# --- who a process is

KINDS = {"container": "container", "vm": "vm", "regular": "unit"}
"""No process is without a leaf: a regular one is in that of the unit around it."""
RUNTIMES = {"docker": "docker", "podman": "podman", "kvm": "qemu", None: None}
"""KVM is what accelerates a machine, and others use it too: QEMU is the program that runs it."""
REGULAR = {1337: "user@1000.service/tmux-spawn-e780eea5-fcf4-4010-88be-18150805c48e.scope"}
COMMS = {1337: "nvim"}
"""The fixture's `comm` and `stat` are of two processes: the kernel has one name, which we read in
`stat` and do not read twice."""
FIELDS = {"type", "runtime_or_hypervisor", "id", "cpu_seconds"}
OF_STAT = {"comm_in_stat", "cpu_seconds"}


def put_row(node: Node, row: dict[str, Any]) -> int:
    """Write the process of a row, and return its pid: the folder's, whatever its files say."""
    pid = row.get("pid") or int(row["stat"].partition(" ")[0])
    node.put(pid, argv=tuple(row.get("cmdline", ())))
    folder = node.procfs / str(pid)
    (folder / "stat").write_text(row["stat"] + "\n")
    (folder / "cgroup").unlink()
    if "cgroup" in row:
        (folder / "cgroup").write_text(row["cgroup"] + "\n")
    return int(pid)


class Fixture:
    """All rows as one node, looked at once."""

    def __init__(self, root: Path, rows: list[dict[str, Any]]) -> None:
        paths = dict.fromkeys(row["cgroup"].removeprefix("0::") for row in rows if "cgroup" in row)
        self.node = Node(root, *paths)
        self.rows = {put_row(self.node, row): row for row in rows}
        assert len(self.rows) == len(rows)
        self.identities = self.node.look(S)
        self.uses = {use.pid: use for use in self.node.scan.read().uses}
        self.machines = {use.pid: use for use in self.node.machines()}

    def who(self, pid: int) -> Identity:
        """Return the workload of a process: the machine that it runs, else its cgroup's."""
        machine = self.machines.get(pid)
        key = machine.vm_key if machine else self.uses[pid].key
        assert key is not None
        return self.identities[key]


@pytest.fixture
def fixture(cases_dir: Path, tmp_path: Path) -> Fixture:
    """Return the rows as a node."""
    return Fixture(tmp_path, read_document(cases_dir)["cases"])


def test_every_process_is_who_its_row_says(fixture: Fixture) -> None:
    """Kind, runtime and id, of each row; a row of another shape fails."""
    seen = 0
    for pid, row in fixture.rows.items():
        expect = row["expect"]
        if expect.keys() == OF_STAT:
            continue  # no cgroup and no command line: a row of what `stat` says alone
        assert expect.keys() == FIELDS, row
        who = fixture.who(pid)
        right_id = expect["id"]
        if expect["type"] == "regular":
            assert right_id is None
            right_id = REGULAR[pid]
        right = (KINDS[expect["type"]], RUNTIMES[expect["runtime_or_hypervisor"]], right_id)
        assert (who.kind, who.runtime, who.id) == right, row
        seen += 1
    assert seen == 6


def test_every_process_has_the_name_and_time_of_its_row(fixture: Fixture) -> None:
    """CPU time to the tick, children's left out, and a name that holds brackets itself."""
    for pid, row in fixture.rows.items():
        expect, use = row["expect"], fixture.uses[pid]
        assert use.cpu_ns == round(expect["cpu_seconds"] * 100) * TICK_NS, row
        assert use.comm == COMMS.get(pid, row.get("comm") or expect["comm_in_stat"]), row
        if expect.get("type") == "vm":
            assert fixture.machines[pid].cpu_ns == use.cpu_ns

    assert [COMMS[pid] != fixture.rows[pid]["comm"] for pid in COMMS] == [True] * len(COMMS)
    assert set(fixture.machines) == {
        pid for pid, row in fixture.rows.items() if row["expect"].get("type") == "vm"
    }


def test_the_fixtures_totals(fixture: Fixture, cases_dir: Path) -> None:
    """So many processes of each sort as the file says of itself."""
    told = re.findall(r"(\d+) (\w+)", read_document(cases_dir)["about"].rpartition(":")[2])
    right = Counter({name: int(count) for count, name in told})
    names = {"qemu": "kvm", None: "regular"}
    found = [fixture.who(p).runtime for p, row in fixture.rows.items() if "cgroup" in row]

    assert Counter(names.get(runtime, runtime) for runtime in found) == right


# --- what decides when two things speak, or one cannot be read

Precedence = tuple[bool | str, bool | str]
"""Whether the cgroup is a container's, and whether the command line is a machine's."""

AS_THE_ROW: dict[Precedence, str] = {
    (True, True): "container",
    (False, True): "vm",
    (True, "error"): "container",
}
LATER = "unattributed"
OTHERWISE: dict[Precedence, tuple[str, str, str]] = {
    ("error", True): (
        "vm",
        LATER,
        "its cgroup must lose what it gets: it waits until that can be read, or stays what it was",
    ),
    ("error", False): (
        "error, process left out of this refresh",
        LATER,
        "its leaf has the energy all the same; the row waits as nobody's, or stays where it was",
    ),
}


def put_precedence(node: Node, key: Precedence, cpu_ticks: int) -> None:
    """Write the process of a row."""
    is_container, is_machine = key
    argv = SHELL if is_machine is False else QEMU
    cgroup = node.cgroups[1].path
    node.put(argv=argv, cgroup=cgroup, start_ticks=BORN_TICKS, cpu_ticks=cpu_ticks)
    for name, is_readable in (("cgroup", is_container), ("cmdline", is_machine)):
        if is_readable == "error":
            node.hide(name)


def kind_of(snapshot: Snapshot) -> str:
    """Return the kind of the leaf that the process is listed in."""
    assert snapshot.processes is not None
    (workload,) = {p.workload for p in snapshot.processes.entries if p.pid == PID}
    return next(x.identity.kind for x in snapshot.leaves if x.identity.id == workload)


def cpu_by_kind(snapshot: Snapshot) -> dict[str, int]:
    """Return the CPU time of leaves that have any."""
    return {leaf.identity.kind: leaf.cpu_ns for leaf in snapshot.leaves if leaf.cpu_ns}


def test_all_precedence_rows_are_decided(cases_dir: Path) -> None:
    """A row that is not in the two tables above, or says something else by now, fails."""
    rows = read_document(cases_dir)["type_precedence_cases"]
    told = {(row["cgroup_container"], row["vm_cmdline"]): row["type"] for row in rows}

    assert len(told) == len(rows)
    assert told == AS_THE_ROW | {key: theirs for key, (theirs, _, _) in OTHERWISE.items()}
    assert all(theirs != ours for theirs, ours, _ in OTHERWISE.values())


@pytest.mark.parametrize("key", [*AS_THE_ROW, *OTHERWISE])
def test_precedence(tmp_path: Path, key: Precedence) -> None:
    """The process is listed where the row says, and its cgroup's CPU time is there once."""
    node = Node(tmp_path, CONTAINER if key[0] is True else SERVICE)
    watched = Watched(node)
    put_precedence(node, key, 100)
    snapshot = watched.analyse(WINDOWS[0])
    right = AS_THE_ROW.get(key) or OTHERWISE[key][1]

    assert kind_of(snapshot) == right
    assert sum(cpu_by_kind(snapshot).values()) == 12 * S
    holder = "container" if key[0] is True else "unit"
    expected = {holder: 11 * S, "vm": S} if right == "vm" else {holder: 12 * S}
    assert cpu_by_kind(snapshot) == expected
    views = [(view.identity.kind, view.identity.parent) for view in snapshot.views]
    assert views == ([("vm", "c3" * 32)] if key == (True, True) else [])


@pytest.mark.parametrize(("argv", "right"), [(QEMU, "vm"), (SHELL, "unit")])
def test_a_process_stays_what_it_was_while_its_cgroup_cannot_be_read(
    tmp_path: Path, argv: tuple[str, ...], right: str
) -> None:
    """Where the other program leaves out a process, it goes on as what it was found to be."""
    node = Node(tmp_path, SERVICE)
    watched = Watched(node)
    told = []
    for window, ticks in zip(WINDOWS, (100, 150), strict=True):
        node.put(argv=argv, start_ticks=BORN_TICKS, cpu_ticks=ticks)
        if told:
            node.hide("cgroup")
        told.append(watched.analyse(window))

    assert [kind_of(snapshot) for snapshot in told] == [right, right]
    assert cpu_by_kind(told[1]).get("vm", 0) == (1500 * MS if right == "vm" else 0)


def test_a_machine_is_found_when_its_cgroup_can_be_read(tmp_path: Path) -> None:
    """What could not be read at first sight is read again."""
    node = Node(tmp_path, SERVICE)
    process = node.put(argv=QEMU)
    node.hide("cgroup")
    assert node.finder.look(0) == ()
    process.write()

    assert [vm.pid for vm in node.finder.look(2 * S)] == [PID]


# --- CPU time from reading to reading

NEVER_READ = {"cmdline", "exe", "environ", "comm"}


def put_seconds(node: Node, seconds: float, argv: tuple[str, ...], start_ticks: int) -> None:
    """Let the process have used that much."""
    node.put(argv=argv, start_ticks=start_ticks, cpu_ticks=round(seconds * 100))


def deltas(
    root: Path, seconds: list[float], argv: tuple[str, ...], start_ticks: int
) -> tuple[list[float], list[float], list[list[str]]]:
    """Return what each window adds to the process and to a machine, and the files read for it."""
    node = Node(root, SERVICE)
    watched, process_s, machine_s, files = Watched(node), [0.0], [0.0], []
    for window, used_s in zip(WINDOWS, seconds, strict=True):
        put_seconds(node, used_s, argv, start_ticks)
        node.host.read.clear()
        snapshot = watched.analyse(window)
        assert snapshot.processes is not None
        process_s.append(sum(p.cpu_ns for p in snapshot.processes.entries if p.pid == PID) / S)
        machine_s.append(cpu_by_kind(snapshot).get("vm", 0) / S)
        files.append(list(node.host.read))
    steps = ([b - a for a, b in pairwise(each)] for each in (process_s, machine_s))
    return next(steps), next(steps), files


@pytest.fixture
def delta_rows(cases_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of CPU time; one with a field that no test here reads fails."""
    rows: list[dict[str, Any]] = read_document(cases_dir)["cpu_delta_cases"]
    known = {"note", "cpu_seconds", "expect_deltas", "expect_reread"}
    assert [row for row in rows if not row.keys() <= known] == []
    assert len(rows) == 3
    return rows


def test_cpu_time_between_readings(delta_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """A process that began in the window has all its time; later ones add the difference.

    A machine's leaf has the same, out of its cgroup's.
    """
    for number, row in enumerate(delta_rows):
        for argv in (SHELL, QEMU):
            root = tmp_path / f"{number}{len(argv[0])}"
            root.mkdir()
            process_s, machine_s, _ = deltas(root, row["cpu_seconds"], argv, BORN_TICKS)
            assert process_s == row["expect_deltas"], row
            assert machine_s == (row["expect_deltas"] if argv is QEMU else [0.0, 0.0]), row


def test_time_from_before_we_looked_is_no_windows(
    delta_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Of an older process the first reading adds nothing, where the other program adds it all.

    It used that time before the first window, whose energy alone is known.
    """
    for number, row in enumerate(delta_rows):
        root = tmp_path / str(number)
        root.mkdir()
        process_s, machine_s, _ = deltas(root, row["cpu_seconds"], QEMU, OLDER_TICKS)
        right = [0.0, *row["expect_deltas"][1:]]
        assert (process_s, machine_s) == (right, right), row


def test_what_used_nothing_is_not_read_again(
    delta_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Its cgroup is read only after CPU time was used; its name is in what is read anyway."""
    for number, row in enumerate(delta_rows):
        root = tmp_path / str(number)
        root.mkdir()
        _, _, files = deltas(root, row["cpu_seconds"], SHELL, BORN_TICKS)
        rereads = row.get("expect_reread", True)
        assert files == [["stat", "cgroup"], ["stat", "cgroup"] if rereads else ["stat"]], row
        assert NEVER_READ.isdisjoint(files[0] + files[1])


# --- when a process is looked at anew


def machines_after(root: Path, first: tuple[str, ...], then: tuple[str, ...]) -> list[list[str]]:
    """Return the machines before and after a process runs another program, for 62 s after it."""
    root.mkdir()
    node = Node(root, SERVICE)
    told = []
    for second in range(0, 140, 2):
        node.put(argv=first if second < 70 else then, start_ticks=BORN_TICKS)
        found = node.look(second * S)
        told.append([who.id for who in found.values() if who.kind == "vm"])
    return [told[34], told[-4]]


def test_exec_makes_it_another(cases_dir: Path, tmp_path: Path) -> None:
    """A process that runs another program is another workload, at most 62 s later.

    The other program asks for a change of `comm`, which any thread may set: ours for the command
    line.  A container stays one, whatever its processes run: its cgroup says so.
    """
    assert read_document(cases_dir)["reclassify_on"] == "comm change (exec)"
    assert machines_after(tmp_path / "into", SHELL, QEMU) == [[], ["web"]]
    assert machines_after(tmp_path / "out-of", QEMU, SHELL) == [["web"], []]


def renamed(node: Node, comm: str) -> ProcessUse:
    """Let the process have another name, and nothing else, and return its row."""
    stat = node.procfs / str(PID) / "stat"
    stat.write_text(f"{PID} ({comm}) " + stat.read_text().rpartition(") ")[2])
    (use,) = node.scan.read().uses
    return use


def test_a_new_name_alone_makes_nobody_another(tmp_path: Path) -> None:
    """The row of the process shows its name as it is now; its workload stays."""
    node = Node(tmp_path, CONTAINER)
    node.put(argv=QEMU, cgroup=CONTAINER)
    before, told = dict(node.look(0)), renamed(node, "qemu-system-x86")
    again = renamed(node, "nginx")

    assert (told.comm, again.comm) == ("qemu-system-x86", "nginx")
    assert again == told._replace(comm="nginx")
    assert node.look(2 * S) == before
    assert before[1].kind == "container"

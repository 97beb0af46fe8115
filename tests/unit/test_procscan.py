"""Processes from procfs and ends from taskstats, without a kernel: bytes in, rows out."""

import contextlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod import config
from tychod.hostfs import Host
from tychod.kernel.procscan import (
    Ended,
    Exits,
    ProcScan,
    Stat,
    parse_stat,
    without_exits,
)
from tychod.kernel.taskstats import Exit, Refusal, parse_exit, parse_messages
from tychod.samples import KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY, CgroupRef

ROOT = Path(__file__).resolve().parents[2]
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
CGROUPS = {
    5: CgroupRef("/a", 1),
    6: CgroupRef("/b", 2),
    8: CgroupRef("/b", 4),  # made anew
}
FAMILY = 31


class StillClock:
    """A clock that stands."""

    def now_ns(self) -> int:
        """Monotonic time."""
        return 9

    def wall_offset_ns(self) -> int:
        """Not asked."""
        raise NotImplementedError


class Told:
    """Ends that the test tells."""

    reason = None
    problems = ()

    def __init__(self) -> None:
        self.ended: list[Ended] = []

    def drain(self) -> tuple[Ended, ...]:
        """Return them once."""
        ended, self.ended = self.ended, []
        return tuple(ended)

    def close(self) -> None:
        """Nothing is open."""


class Procfs:
    """A procfs of a few processes."""

    def __init__(self, root: Path, *, version: str = "v2", exits: Exits | None = None) -> None:
        self._root = root
        self.version = version
        self.scan = ProcScan(
            Host(config.Host(procfs=str(root))),
            version,  # type: ignore[arg-type]
            lambda: CGROUPS,
            StillClock(),
            exits or without_exits("not here"),
        )

    def put(self, pid: int, ticks: int, cgroup: str = "/a", **changes: object) -> None:
        """Write one process."""
        told = {"comm": "name", "state": "S", "parent": 1, "flags": 0, "start": 700, **changes}
        directory = self._root / str(pid)
        directory.mkdir(exist_ok=True)
        (directory / "stat").write_bytes(stat_line(pid, ticks, told))
        lines = {"v2": f"1:cpuacct:/wrong\n0::{cgroup}\n", "v1": f"4:cpu,cpuacct:{cgroup}\n0::/\n"}
        (directory / "cgroup").write_text(lines[self.version])

    def remove(self, pid: int) -> None:
        """Let a process be gone."""
        for path in (self._root / str(pid)).iterdir():
            path.unlink()
        (self._root / str(pid)).rmdir()

    def read(self) -> dict[int, tuple[int, int, bool]]:
        """Read: pid -> key, ticks, ended."""
        uses = self.scan.read().uses
        assert len({u.pid for u in uses}) == len(uses)
        return {u.pid: (u.key, u.cpu_ns // TICK_NS, u.exited) for u in uses}


def stat_line(pid: int, ticks: int, told: dict[str, object]) -> bytes:
    """Return the text of /proc/PID/stat; the CPU time is split over user and system."""
    head = f"{pid} ({told['comm']}) {told['state']} {told['parent']} 1 1 0 -1 {told['flags']} "
    times = f"{ticks // 2} {ticks - ticks // 2}"
    return f"{head}1 2 3 4 {times} 9 9 20 0 1 0 {told['start']} 8 9\n".encode()


@pytest.mark.parametrize("comm", ["name", "a) b", "(sd-pam)", ") R 1 2 3", ""])
def test_names_cannot_forge_the_fields(comm: str) -> None:
    """A process may call itself anything; the fields behind its name are read all the same."""
    told = {"comm": comm, "state": "S", "parent": 3, "flags": 0, "start": 700}

    assert parse_stat(stat_line(7, 12, told)) == Stat(comm.encode(), False, 3, False, 12, 700)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser_of_stat(data: bytes) -> None:
    """What is no stat is none, whatever it is."""
    try:
        parse_stat(data)
    except ValueError:
        assert b") " in data  # only numbers that are none, which the kernel never writes


def test_each_process_has_the_key_of_its_cgroup(tmp_path: Path) -> None:
    """Containers, root, kernel threads, what is outside; a path made anew is the newest."""
    procfs = Procfs(tmp_path)
    procfs.put(10, 4)
    procfs.put(11, 5, "/b")
    procfs.put(12, 6, "/")
    procfs.put(13, 7, "/", flags=0x200000)
    procfs.put(14, 8, "/../other")
    procfs.put(15, 9, state="Z")

    assert procfs.read() == {
        10: (5, 4, False),
        11: (8, 5, False),
        12: (ROOT_KEY, 6, False),
        13: (KERNEL_KEY, 7, False),
        14: (OUTSIDE_KEY, 8, False),
        15: (5, 9, True),
    }


def test_a_move_shows_with_the_next_use(tmp_path: Path) -> None:
    """The cgroup of a process is looked at again when it used CPU time, or is another process."""
    procfs = Procfs(tmp_path)
    procfs.put(10, 4)
    procfs.read()
    procfs.put(10, 4, "/b")
    assert procfs.read()[10][0] == 5
    procfs.put(10, 5, "/b")
    assert procfs.read()[10][0] == 8
    procfs.put(10, 5, "/a", start=900)
    assert procfs.read()[10][0] == 5


def test_cpuacct_is_read_where_it_is_the_truth(tmp_path: Path) -> None:
    """With v1 the path is cpuacct's; a zombie, which v1 shows in the root, stays where it was."""
    procfs = Procfs(tmp_path, version="v1")
    procfs.put(10, 4)
    assert procfs.read() == {10: (5, 4, False)}
    procfs.put(10, 9, "/", state="Z")

    assert procfs.read() == {10: (5, 9, True)}


def test_an_end_is_a_row_with_its_own_cgroup_or_its_parents(tmp_path: Path) -> None:
    """Its own file as it ended, else what was known of it, else its parent's; else outside."""
    told = Told()
    procfs = Procfs(tmp_path, exits=told)
    procfs.put(10, 4, start=700)
    procfs.put(20, 1)
    procfs.read()
    procfs.remove(10)
    near_ns = 700 * TICK_NS + 999
    told.ended = [
        Ended(10, 1, near_ns, b"x", 6 * TICK_NS, None),
        Ended(31, 20, 10**12, b"x", 7 * TICK_NS, b"0::/b\n"),
        Ended(32, 20, 10**12, b"x", 8 * TICK_NS, None),
        Ended(33, 77, 10**12, b"x", 9 * TICK_NS, None),
    ]
    series = procfs.scan.read()

    assert {u.pid: (u.key, u.cpu_ns // TICK_NS, u.exited) for u in series.uses} == {
        20: (5, 1, False),
        10: (5, 6, True),
        31: (8, 7, True),
        32: (5, 8, True),
        33: (OUTSIDE_KEY, 9, True),
    }
    assert {u.pid: u.start_ns for u in series.uses}[10] == 700 * TICK_NS  # the same process


def test_an_end_and_a_zombie_are_one_process(tmp_path: Path) -> None:
    """What waits to be reaped and was told of is listed once."""
    told = Told()
    procfs = Procfs(tmp_path, exits=told)
    procfs.put(10, 4, state="Z")
    told.ended = [Ended(10, 1, 700 * TICK_NS + 5, b"x", 6 * TICK_NS, b"0::/a\n")]

    assert procfs.read()[10][2]


def attribute(kind: int, body: bytes) -> bytes:
    """Return a netlink attribute."""
    return struct.pack("=HH", len(body) + 4, kind) + body.ljust((len(body) + 3) // 4 * 4, b"\0")


def stats(
    *, pid: int = 5, tgid: int = 5, ns: int = 0, us: int = 0, flag: int = 0x20, version: int = 14
) -> bytes:
    """Return a struct taskstats."""
    data = bytearray(416)
    struct.pack_into("=H", data, 0, version)
    data[8] = flag
    struct.pack_into("=Q", data, 72, ns)
    data[80:84] = b"a\xff)\n"
    struct.pack_into("=II", data, 128, pid, 4)
    struct.pack_into("=QQQ", data, 144, 1, us, us)
    struct.pack_into("=IxxxxQ", data, 368, tgid, 3_000)
    return bytes(data)


def aggregate(kind: int, data: bytes) -> bytes:
    """Return the nested attribute of one record."""
    return attribute(kind, attribute(1, struct.pack("=I", 5)) + attribute(3, data))


def message(body: bytes, kind: int = FAMILY) -> bytes:
    """Return a netlink message."""
    body = (b"\2\1\0\0" if kind == FAMILY else b"") + body
    return struct.pack("=IHHII", len(body) + 16, kind, 0, 0, 0) + body


def test_a_record_is_the_process_not_the_thread() -> None:
    """Only the last thread's end is the process's; with threads the sums are of all of them."""
    alone, thread = stats(ns=7_000_000), stats(pid=6, ns=1_000_000, flag=0)
    last, whole = stats(pid=6, ns=2_000_000), stats(ns=9_000_000)
    data = b"".join(
        [
            message(aggregate(4, alone)),
            message(aggregate(4, thread)),
            message(aggregate(4, last) + aggregate(5, whole)),
        ]
    )

    assert list(parse_messages(data, FAMILY)) == [
        Exit(5, 4, 3_000_000, b"a\xff)\n", 7_000_000),
        Exit(5, 4, 3_000_000, b"a\xff)\n", 9_000_000),
    ]


def test_without_exact_times_the_coarse_ones_count() -> None:
    """A kernel without delay accounting tells user and system time alone."""
    found = parse_exit(aggregate(4, stats(us=4_000)))

    assert found is not None
    assert found.cpu_ns == 8_000_000


@pytest.mark.parametrize("data", [stats(version=15), stats()[:360]])
def test_records_that_would_mislead_are_refused(data: bytes) -> None:
    """A layout that mixes up its fields, or cannot tell threads, is not believed."""
    with pytest.raises(Refusal, match="taskstats") as refused:
        parse_exit(aggregate(4, data))
    assert refused.value.remedy


def test_a_refusal_by_the_kernel_names_the_capability() -> None:
    """EPERM is the missing capability; the remedy names the drop-in; an acknowledgement is none."""
    with pytest.raises(Refusal, match="CAP_NET_ADMIN") as refused:
        list(parse_messages(message(struct.pack("=i", -1), 2), FAMILY))

    assert refused.value.remedy
    assert "taskstats.conf" in refused.value.remedy
    assert list(parse_messages(message(struct.pack("=i", 0), 2), FAMILY)) == []


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_break_the_parser_of_records(data: bytes, framed: bool) -> None:
    """Whatever comes, it ends, and only a refusal is raised."""
    with contextlib.suppress(Refusal):
        list(parse_messages(message(data) if framed else data, FAMILY))


def test_pyroute2_is_loaded_only_to_listen() -> None:
    """The daemon with everything else imported has none of pyroute2 in its memory."""
    program = (
        "import sys, tychod.runtime.daemon, tychod.runtime.processes, tychod.kernel.taskstats\n"
        "import tychod.kernel.bpf.processes\n"
        "print(*[m for m in sys.modules if m.startswith(('pyroute2', 'asyncio'))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == []

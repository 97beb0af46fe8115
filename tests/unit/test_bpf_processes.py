"""Processes of the kernel programs, without a kernel: the ring's bytes, ends, lost entries."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tychod.kernel.bpf import abi, processes
from tychod.kernel.bpf.processes import (
    BUSY,
    DISCARDED,
    BpfProcesses,
    counts_processes,
    parse_exits,
    parse_ring,
)
from tychod.kernel.procscan import render_comm
from tychod.samples import OUTSIDE_KEY, ROOT_KEY, CgroupRef, ProcessUse

SIZE = 256
ROOT = 1
Row = tuple[int, int, int, int, int]  # cgid, pid, start, ns, exited


class Ring:
    """A ring as the kernel fills it."""

    def __init__(self, position: int = 0) -> None:
        self.data = bytearray(SIZE)
        self.consumer = self.producer = position

    def put(self, body: bytes, flags: int = 0) -> None:
        """Add a record."""
        record = struct.pack("<II", len(body) | flags, 0) + body
        for byte in record.ljust((len(record) + 7) // 8 * 8, b"\0"):
            self.data[self.producer % SIZE] = byte
            self.producer += 1

    def read(self) -> list[bytes]:
        """Read as the reader does."""
        drained = parse_ring(bytes(self.data) * 2, self.consumer, self.producer)
        self.consumer = drained.position
        return drained.records


@given(
    st.integers(0, 2**40).map(lambda n: n * 8),
    st.lists(st.lists(st.binary(max_size=60), max_size=3)),
)
def test_every_record_is_read_once_in_order(start: int, batches: list[list[bytes]]) -> None:
    """Whatever the lengths and wherever the ring wraps, what is put in comes out."""
    ring = Ring(start)
    for batch in batches:
        for body in batch:
            ring.put(body)

        assert ring.read() == batch
    assert ring.read() == []


def test_a_busy_record_holds_up_those_behind_it() -> None:
    """What is still being written is read later; what was thrown away is passed over."""
    ring = Ring(SIZE - 16)
    ring.put(b"first")
    ring.put(b"gone", DISCARDED)
    busy_at = ring.producer
    ring.put(b"late", BUSY)
    ring.put(b"behind")

    assert ring.read() == [b"first"]
    assert ring.consumer == busy_at
    ring.data[(busy_at + 3) % SIZE] = 0
    assert ring.read() == [b"late", b"behind"]


@given(st.binary(min_size=SIZE, max_size=SIZE), st.integers(0, 2**60), st.integers(-9, 2 * SIZE))
def test_any_bytes_end_the_reading_within_the_ring(data: bytes, start: int, ahead: int) -> None:
    """Bytes that are no records neither fail nor hang, and the reader gets past them."""
    start = start // 8 * 8
    drained = parse_ring(data * 2, start, start + ahead)

    assert sum(map(len, drained.records)) <= SIZE
    assert min(start, start + ahead) <= drained.position <= max(start, start + ahead)
    parse_exits(drained.records)


class Kernel:
    """The map, and records as they come; what is deleted is gone."""

    def __init__(self, *rows: Row) -> None:
        self.rows = list(rows)
        self.exits: list[Row] = []
        self.ctl = np.zeros(1, abi.CTL)
        self.ctl["nproc"], self.ctl["root_cgid"] = 100, ROOT
        self.ctl["flags"] = abi.FLAG_PROCESSES
        self.cgroups = {30: CgroupRef("/a", 3), 40: CgroupRef("/b", 4)}

    def lookup_all(
        self, fd: int, key: np.dtype[Any], value: np.dtype[Any], most: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the map."""
        assert (fd, most) == (5, 100)
        keys, values = np.zeros(len(self.rows), key), np.zeros(len(self.rows), value)
        for at, (cgid, pid, start, ns, exited) in enumerate(self.rows):
            keys[at] = (cgid, start, pid, 0)
            values[at] = ((ns, 7, 7), 1, exited, b"name\0junk")
        return keys, values

    def delete_batch(self, fd: int, keys: NDArray[Any]) -> int:
        """Delete from the map."""
        assert fd == 5
        gone = {(int(k["cgid"]), int(k["tgid"]), int(k["start"])) for k in keys}
        before = len(self.rows)
        self.rows = [row for row in self.rows if row[:3] not in gone]
        return before - len(self.rows)

    def drain(self) -> NDArray[np.void]:
        """Return the records once."""
        found = np.zeros(len(self.exits), abi.EXIT)
        for at, (cgid, pid, start, ns, exited) in enumerate(self.exits):
            found[at] = (cgid, start, pid, 0, ns, exited, b"name")
        self.exits = []
        return found

    def close(self) -> None:
        """Nothing is open."""

    def now_ns(self) -> int:
        """The clock stands."""
        return 9

    def wall_offset_ns(self) -> int:
        """Not asked."""
        raise NotImplementedError

    def reader(self) -> BpfProcesses:
        """Return a reader of this kernel."""
        return BpfProcesses(self, 5, self, self.ctl, lambda: self.cgroups, self)


def uses(reader: BpfProcesses) -> list[tuple[int, int | None, int, bool]]:
    """Read; return pid, key, nanoseconds and whether it ended."""
    return [(u.pid, u.key, u.cpu_ns, u.exited) for u in reader.read().uses]


def test_task_time_and_the_samples_keys() -> None:
    """A row has its cgroup's key, its name without junk, and the time that its leaf counts."""
    kernel = Kernel((3, 100, 77, 5_000, 0), (4, 100, 77, 6_000, 0), (ROOT, 101, 78, 1, 0))

    assert kernel.reader().read().uses == (
        ProcessUse(100, 77, "name", 30, 5_000, False, 3),
        ProcessUse(100, 77, "name", 40, 6_000, False, 4),
        ProcessUse(101, 78, "name", ROOT_KEY, 1, False, ROOT),
    )


def test_interrupts_are_their_processes_where_they_are_their_leaves() -> None:
    """Charged to whom they interrupted, they count for a process as they do for its leaf."""
    kernel = Kernel((3, 7, 1, 100, 0))
    reader = BpfProcesses(
        *(kernel, 5, kernel, kernel.ctl, lambda: kernel.cgroups, kernel), with_irq=True
    )

    assert uses(reader) == [(7, 30, 114, False)]


def test_an_end_is_told_until_nothing_more_is_used() -> None:
    """What frees its memory for long stays, ended; at rest all its rows leave the map together."""
    kernel = Kernel((3, 100, 77, 5, 0), (4, 100, 77, 6, 123), (3, 101, 78, 1, 0))
    reader = kernel.reader()

    assert uses(reader) == [(100, 30, 5, False), (100, 40, 6, True), (101, 30, 1, False)]
    for ns in (8, 9):
        kernel.rows[1] = (4, 100, 77, ns, 123)
        assert uses(reader) == [(100, 30, 5, False), (100, 40, ns, True), (101, 30, 1, False)]
    assert uses(reader) == [(100, 30, 5, False), (100, 40, 9, True), (101, 30, 1, False)]
    assert uses(reader) == [(101, 30, 1, False)]
    assert kernel.rows == [(3, 101, 78, 1, 0)]


def test_what_runs_on_after_its_removal_is_no_new_process() -> None:
    """One that hung in its exit is made anew by its last slices: it is ended, and removed again."""
    kernel = Kernel((3, 100, 77, 5, 123))
    reader = kernel.reader()
    uses(reader)
    uses(reader)
    assert kernel.rows == []
    kernel.rows = [(3, 100, 77, 2, 0), (3, 100, 99, 4, 0)]  # the second has its number again

    assert uses(reader) == [(100, 30, 2, True), (100, 30, 4, False)]
    uses(reader)
    assert kernel.rows == [(3, 100, 99, 4, 0)]


def test_what_is_remembered_of_the_ended_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm of processes costs no memory for ever; the newest are remembered."""
    monkeypatch.setattr(processes, "MOST_REMEMBERED", 3)
    kernel = Kernel()
    reader = kernel.reader()
    for pid in range(5):
        kernel.rows = [(3, pid, 77, 5, 123)]
        uses(reader)
        uses(reader)
    kernel.rows = [(3, pid, 77, 1, 0) for pid in range(5)]

    assert [exited for *_, exited in uses(reader)] == [False, False, True, True, True]


def test_a_removed_cgroup_is_told_once_more_and_forgotten() -> None:
    """Its rows keep its last key in one more reading, and leave the map: no history comes again."""
    kernel = Kernel((3, 100, 77, 5, 0), (4, 100, 77, 6, 0))
    reader = kernel.reader()
    uses(reader)
    kernel.cgroups = {40: kernel.cgroups[40]}
    kernel.rows[0] = (3, 100, 77, 7, 0)

    assert uses(reader) == [(100, 30, 7, False), (100, 40, 6, False)]
    assert kernel.rows == [(4, 100, 77, 6, 0)]
    kernel.rows.append((3, 100, 77, 1, 0))  # a last slice
    assert uses(reader) == [(100, 40, 6, False), (100, None, 1, False)]
    assert uses(reader) == [(100, 40, 6, False), (100, OUTSIDE_KEY, 1, False)]


def test_a_record_counts_only_where_its_entry_is_gone() -> None:
    """A process that was evicted before it was read has a row nevertheless; no other has two."""
    kernel = Kernel((3, 100, 77, 5, 123))
    kernel.exits = [(3, 100, 77, 4, 123), (4, 200, 79, 9, 124)]

    assert uses(kernel.reader()) == [(100, 30, 5, True), (200, 40, 9, True)]


def test_a_cgroup_not_known_yet_is_waited_for_once() -> None:
    """A new cgroup's processes come with the next reading, outside only if it stays unknown."""
    kernel = Kernel((8, 100, 77, 5, 0), (9, 101, 78, 6, 0))
    reader = kernel.reader()

    assert uses(reader) == [(100, None, 5, False), (101, None, 6, False)]
    kernel.cgroups = {**kernel.cgroups, 80: CgroupRef("/new", 8)}
    assert uses(reader) == [(100, 80, 5, False), (101, OUTSIDE_KEY, 6, False)]


def test_what_was_lost_is_said() -> None:
    """Time without a place, exits without room: since this reader began."""
    kernel = Kernel()
    kernel.ctl["proc_lost"], kernel.ctl["exit_lost"] = 10**9, 4
    reader = kernel.reader()
    assert reader.reason is None
    kernel.ctl["proc_lost"], kernel.ctl["exit_lost"] = 3 * 10**9, 5

    assert reader.reason is not None
    assert "2.000 s" in reader.reason
    assert "1 exits" in reader.reason
    assert counts_processes(kernel.ctl)
    kernel.ctl["flags"] = 0
    assert not counts_processes(kernel.ctl)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"nginx", "nginx"),
        (b"sh\0nginx", "sh"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\x1b[2J\n", "a\\x1b[2J\\n"),
        ("größe".encode(), "größe"),
        (b"", ""),
    ],
)
def test_names_may_be_any_bytes(raw: bytes, text: str) -> None:
    """What could steer a terminal or is no text becomes visible."""
    assert render_comm(raw) == text


@given(st.binary(max_size=40))
def test_a_name_is_always_printable(raw: bytes) -> None:
    """No process can put a control character into a list."""
    assert render_comm(raw).isprintable()


def test_other_records_are_passed_over() -> None:
    """A record of another length is none of ours."""
    body = bytes(abi.EXIT.itemsize)
    assert len(parse_exits([b"short", body, body + b"x"])) == 1

"""Processes as the kernel programs count them: the map, and the records of those that ended.

Both lose entries by design (an LRU map, a ring that may be full): no total is made of them.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from tychod.kernel.bpf import abi
from tychod.kernel.procscan import render_comm
from tychod.samples import OUTSIDE_KEY, ROOT_KEY, ProcessSeries, ProcessUse

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from tychod.clock import Clock
    from tychod.samples import CgroupRef

RING_BYTES: Final = 256 * 1024
"""Size of ``ty_exit``, fixed in bpf/tychod.bpf.c."""
HEADER_BYTES: Final = 8
BUSY: Final = 1 << 31  # its writer is not done (linux/bpf.h)
DISCARDED: Final = 1 << 30
MOST_REMEMBERED: Final = 4096
"""Removed processes that are still known as ended: one that hangs in its exit may run again."""
Process = tuple[int, int]  # pid, start


class Calls(Protocol):
    """What is needed of bpf(2): ``tychod.kernel.bpf.syscall``."""

    def lookup_all(
        self, fd: int, key: np.dtype[Any], value: np.dtype[Any], most: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return keys and values of a hash map."""

    def delete_batch(self, fd: int, keys: NDArray[Any]) -> int:
        """Remove keys from a hash map."""


class Records(Protocol):
    """Where exit records come from."""

    def drain(self) -> NDArray[np.void]:
        """Return the records since the last time."""

    def close(self) -> None:
        """Give back what is open."""


class Drained(NamedTuple):
    """Records of a ring, and how far it has been read."""

    records: list[bytes]
    position: int


def parse_ring(data: bytes | memoryview, consumer: int, producer: int) -> Drained:
    """Return the finished records from ``consumer`` up to ``producer``, in order.

    ``data`` is the ring's memory twice in a row, so that no record is cut where it wraps.  A
    record that is still being written ends the reading: those behind it wait for the next time.
    """
    size = len(data) // 2
    found: list[bytes] = []
    if not 0 <= producer - consumer <= size:
        return Drained(found, producer)
    while consumer < producer:
        at = consumer % size
        head = int.from_bytes(data[at : at + 4], "little")
        if head & BUSY:
            break
        length = head & ~(BUSY | DISCARDED)
        following = consumer + (length + HEADER_BYTES + 7) // 8 * 8
        if following > producer:  # not what the kernel writes: begin anew behind it
            return Drained(found, producer)
        if not head & DISCARDED:
            found.append(bytes(data[at + HEADER_BYTES : at + HEADER_BYTES + length]))
        consumer = following
    return Drained(found, consumer)


def parse_exits(records: Iterable[bytes]) -> NDArray[np.void]:
    """Return records as ``abi.EXIT``; one of another length is none of ours."""
    whole = b"".join(record for record in records if len(record) == abi.EXIT.itemsize)
    return np.frombuffer(whole, abi.EXIT)


class ExitRing:
    """The ring of exit records, read in place: no library and no callback."""

    def __init__(self, fd: int, size: int = RING_BYTES) -> None:
        """Map a BPF ring buffer; OSError where the kernel refuses."""
        page = mmap.PAGESIZE
        self._own = _mapped(fd, page, mmap.PROT_READ | mmap.PROT_WRITE, 0)
        theirs = page + 2 * size  # positions of the kernel, then the data twice
        try:
            self._theirs = _mapped(fd, theirs, mmap.PROT_READ, page)
        except OSError:
            self._own.close()
            raise

    def drain(self) -> NDArray[np.void]:
        """Return the records since the last time and let the kernel have their place."""
        # One aligned load and one aligned store of 8 bytes each, as the kernel's protocol asks.
        consumer = np.frombuffer(self._own, "<u8", 1)
        producer = np.frombuffer(self._theirs, "<u8", 1)
        data = memoryview(self._theirs)[mmap.PAGESIZE :]
        drained = parse_ring(data, int(consumer[0]), int(producer[0]))
        consumer[0] = drained.position
        data.release()
        return parse_exits(drained.records)

    def close(self) -> None:
        """Unmap; the descriptor is the owner's."""
        self._own.close()
        self._theirs.close()


def _mapped(fd: int, size: int, protection: int, offset: int) -> mmap.mmap:
    try:
        return mmap.mmap(fd, size, mmap.MAP_SHARED, protection, offset=offset)
    except ValueError as exc:  # Python's own word for a file that is shorter
        raise OSError(errno.EINVAL, f"no ring of exit records: {exc}") from None


def counts_processes(ctl: NDArray[np.void]) -> bool:
    """Say whether the programs that are loaded count processes at all."""
    return bool(int(ctl["flags"][0]) & abi.FLAG_PROCESSES)


class BpfProcesses:
    """The processes of the kernel programs' map."""

    method: Final = "bpf"

    def __init__(
        self,
        calls: Calls,
        fd: int,
        records: Records,
        ctl: NDArray[np.void],
        cgroups: Callable[[], Mapping[int, CgroupRef]],
        clock: Clock,
        *,
        with_irq: bool = False,
    ) -> None:
        """``fd`` is that of ``ty_proc``, ours from now on; ``cgroups`` are those of the samples.

        ``with_irq``: the leaves have the time of interrupts, so their processes have it, too.
        """
        self._calls = calls
        self._fd = fd
        self._records = records
        self._ctl = ctl
        self._cgroups = cgroups
        self._clock = clock
        self._keys = _Keys(int(ctl["root_cgid"][0]))
        self._dying: dict[Process, int] = {}  # what those that ended had used when last read
        self._removed: dict[Process, None] = {}  # the newest last
        self._lost_ns = int(ctl["proc_lost"][0])
        self._missed = int(ctl["exit_lost"][0])
        self._kinds = slice(abi.KINDS if with_irq else abi.TASK + 1)

    @property
    def reason(self) -> str | None:
        """Which processes are not listed, and why."""
        found = []
        lost_ns = int(self._ctl["proc_lost"][0]) - self._lost_ns
        if lost_ns:
            found.append(f"{lost_ns / 1e9:.3f} s of CPU time found no place in the table")
        missed = int(self._ctl["exit_lost"][0]) - self._missed
        if missed:
            found.append(f"{missed} exits found no room in the ring")
        return "; ".join(found) or None

    @property
    def problems(self) -> tuple[tuple[str, str | None], ...]:
        """What somebody may want to mend, with the remedy."""
        return ()

    def read(self) -> ProcessSeries:
        """Read all processes; OSError where the kernel refuses.

        One that ended is reported until it has used nothing more since the reading before: its
        memory is freed, and its last slice charged, after its end.
        """
        exits = self._records.drain()  # first: what they are of is in the map then, or evicted
        keys, values = self._calls.lookup_all(
            self._fd, abi.PROC_KEY, abi.PROC, int(self._ctl["nproc"][0])
        )
        t_ns = self._clock.now_ns()
        self._keys.renew(self._cgroups())
        used = values["ns"][:, self._kinds].sum(axis=1).tolist()
        uses = _uses_of(keys, values, used, self._keys.find, self._removed)
        uses += _evicted(exits, keys, self._keys.find)
        self._forget(keys, values)
        self._keys.settle()
        return ProcessSeries(t_ns, self.method, tuple(uses))

    def _forget(self, keys: NDArray[np.void], values: NDArray[np.void]) -> None:
        """Remove processes that have come to rest, and what was used in cgroups that are gone."""
        rows = _processes(keys)
        flags, used = (values["exited"] != 0).tolist(), values["ns"].sum(axis=1).tolist()
        ended = {who for who, flag in zip(rows, flags, strict=True) if flag or who in self._removed}
        dying = dict.fromkeys(ended, 0)
        for who, ns in zip(rows, used, strict=True):
            if who in ended:
                dying[who] += ns
        resting = {who for who, ns in dying.items() if self._dying.get(who) == ns}
        cgids = keys["cgid"].tolist()
        former = self._keys.former
        done = [w in resting or cgid in former for w, cgid in zip(rows, cgids, strict=True)]
        if any(done):
            self._calls.delete_batch(self._fd, keys[np.array(done, bool)])
        self._dying = {who: ns for who, ns in dying.items() if who not in resting}
        self._remember(resting)

    def _remember(self, removed: Iterable[Process]) -> None:
        self._removed |= dict.fromkeys(removed)
        for who in list(self._removed)[:-MOST_REMEMBERED]:
            del self._removed[who]

    def close(self) -> None:
        """Close the map and unmap the ring."""
        os.close(self._fd)
        self._records.close()


class _Keys:
    """The key of each cgroup's id; one not known yet is left for the next reading, once."""

    def __init__(self, root_cgid: int) -> None:
        self._root_cgid = root_cgid
        self._cgroups: Mapping[int, CgroupRef] | None = None
        self._known: dict[int, int] = {}
        self._waited: frozenset[int] = frozenset()
        self._unknown: set[int] = set()
        self.former: Mapping[int, int] = {}  # known in the last reading, gone since

    def renew(self, cgroups: Mapping[int, CgroupRef]) -> None:
        """Take over the present cgroups and begin a reading."""
        if cgroups is self._cgroups:
            return
        known = {ref.inode: key for key, ref in sorted(cgroups.items())}
        known[self._root_cgid] = ROOT_KEY
        self.former = {cgid: key for cgid, key in self._known.items() if cgid not in known}
        self._cgroups, self._known = cgroups, known

    def find(self, cgid: int) -> int | None:
        """Return a cgroup's key, the last it had where it is gone; None: wait."""
        key = self._known.get(cgid, self.former.get(cgid))
        if key is not None:
            return key
        self._unknown.add(cgid)
        return OUTSIDE_KEY if cgid in self._waited else None

    def settle(self) -> None:
        """End a reading."""
        self._waited, self._unknown = frozenset(self._unknown), set()
        self.former = {}


def _processes(keys: NDArray[np.void]) -> list[Process]:
    return list(zip(keys["tgid"].tolist(), keys["start"].tolist(), strict=True))


def _uses_of(
    keys: NDArray[np.void],
    values: NDArray[np.void],
    used: Sequence[int],
    key_of: Callable[[int], int | None],
    ended: Container[Process],
) -> list[ProcessUse]:
    rows = zip(
        keys["tgid"].tolist(),
        keys["start"].tolist(),
        keys["cgid"].tolist(),
        used,
        values["exited"].tolist(),
        values["comm"].tolist(),
        strict=True,
    )
    return [
        ProcessUse(
            *(pid, start, render_comm(comm), key_of(cgid), ns),
            exited=exited != 0 or (pid, start) in ended,
            cgroup=cgid,
        )
        for pid, start, cgid, ns, exited, comm in rows
    ]


def _evicted(
    exits: NDArray[np.void], keys: NDArray[np.void], key_of: Callable[[int], int | None]
) -> list[ProcessUse]:
    """Return a row for each process that ended and is not in the map any more."""
    if not len(exits):
        return []
    there = set(zip(*(keys[n].tolist() for n in ("cgid", "tgid", "start")), strict=True))
    names = ("tgid", "start", "cgid", "ns", "comm")
    found = []
    for pid, start, cgid, ns, comm in zip(*(exits[n].tolist() for n in names), strict=True):
        if (cgid, pid, start) not in there:
            key = key_of(cgid)
            known = OUTSIDE_KEY if key is None else key
            found.append(ProcessUse(pid, start, render_comm(comm), known, ns, True, cgid))
    return found

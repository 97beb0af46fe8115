"""Ends of processes from the kernel's taskstats (netlink), where no kernel program tells of them.

pyroute2 finds the family and asks for the records; its own decoding of each would cost more than
the process that ended, knows no record newer than 2.6 and trips over names that are not UTF-8, so
the records are cut here (Documentation/accounting/taskstats-struct.rst, linux/taskstats.h).
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.kernel.procscan import Ended

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tychod.hostfs import Host
    from tychod.kernel.procscan import Exits

CAP_NET_ADMIN: Final = 12
"""Number of the capability, from linux/capability.h."""
MISMADE_VERSION: Final = 15
"""Linux 6.14 and 6.15 put new fields in front of old ones; version 16 took that back."""
RECEIVE_BYTES: Final = 1 << 16
BUFFER_BYTES: Final = 4 << 20
WAIT_S: Final = 0.5
MOST_KEPT: Final = 20_000
"""Ends between two readings; more are counted and not listed."""
RECENT_S: Final = 60.0
"""How long after the last loss it is told."""
MOST_LOOKUPS: Final = 2_000
"""Of those, how many have their cgroup looked up: a storm of processes must not cost as much."""

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, pid
_GENL_BYTES: Final = 4
_ATTRIBUTE: Final = struct.Struct("=HH")
_NLMSG_ERROR: Final = 2
_PID, _TGID, _STATS, _AGGR_PID, _AGGR_TGID = 1, 2, 3, 4, 5
_GROUP_IS_GONE: Final = 0x20  # AGROUP of linux/acct.h: the last thread of its process

# Offsets into struct taskstats; the last two are there since version 11 (Linux 5.17).
_VERSION, _FLAG, _CPU_NS, _COMM, _PARENT = 0, 8, 72, 80, 132
_UTIME, _STIME = 152, 160
_TGID_AT, _TGID_ETIME = 368, 376
_COMM_BYTES: Final = 32
_LEAST_BYTES: Final = _TGID_ETIME + 8

NOT_LISTED: Final = "processes that live and end between two readings are not listed"
CAPABILITY_REMEDY: Final = (
    "let the kernel programs count them ([accounting] loader), or give tychod CAP_NET_ADMIN: "
    "etc/examples/taskstats.conf"
)
KERNEL_REMEDY: Final = "let the kernel programs count them ([accounting] loader)"
LIBRARY_REMEDY: Final = "install python3-pyroute2, or let the kernel programs count them"


class Exit(NamedTuple):
    """One process that ended, as the kernel's record has it."""

    pid: int
    parent: int
    lived_ns: int
    comm: bytes
    cpu_ns: int


class Refusal(Exception):  # noqa: N818 - an expected absence
    """Why ends are not told, and what would help."""

    def __init__(self, reason: str, remedy: str | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def parse_messages(data: bytes, family: int) -> Iterator[Exit]:
    """Yield the processes that ended in what one receive gave; raise ``Refusal`` for an error."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            return
        body = data[at + _HEADER.size : at + length]
        if kind == _NLMSG_ERROR and len(body) >= 4:
            _raise_error(-struct.unpack_from("=i", body)[0])
        elif kind == family:
            found = parse_exit(body[_GENL_BYTES:])
            if found is not None:
                yield found
        at += (length + 3) & ~3


def _raise_error(number: int) -> None:
    if number == 0:
        return
    if number == errno.EPERM:
        raise Refusal("tychod lacks CAP_NET_ADMIN", CAPABILITY_REMEDY)
    raise Refusal(f"the kernel refuses taskstats: {os.strerror(number)}", None)


def parse_exit(body: bytes) -> Exit | None:
    """Return the process that a record says has ended; None for a thread of one that lives on.

    A process with threads has a second record with the sums of all of them.
    """
    stats = {kind: _stats_of(part) for kind, part in _attributes(body)}
    last, whole = stats.get(_AGGR_PID), stats.get(_AGGR_TGID)
    if last is None:
        return None
    if len(last) < _LEAST_BYTES:
        raise Refusal("this kernel's taskstats does not tell processes from threads", KERNEL_REMEDY)
    (version,) = struct.unpack_from("=H", last, _VERSION)
    if version == MISMADE_VERSION:
        raise Refusal("this kernel's taskstats records are malformed (version 15)", KERNEL_REMEDY)
    if not last[_FLAG] & _GROUP_IS_GONE:
        return None
    cpu_ns = _cpu_ns(last if whole is None else whole)
    (pid,) = struct.unpack_from("=I", last, _TGID_AT)
    (lived_us,) = struct.unpack_from("=Q", last, _TGID_ETIME)
    (parent,) = struct.unpack_from("=I", last, _PARENT)
    comm = last[_COMM : _COMM + _COMM_BYTES].partition(b"\0")[0]
    return Exit(pid, parent, lived_us * 1_000, comm, cpu_ns)


def _cpu_ns(stats: bytes) -> int:
    """Return the CPU time; without delay accounting in the kernel there is only the coarse one."""
    (exact_ns,) = struct.unpack_from("=Q", stats, _CPU_NS)
    user_us, system_us = (struct.unpack_from("=Q", stats, at)[0] for at in (_UTIME, _STIME))
    return int(exact_ns or (user_us + system_us) * 1_000)


def _stats_of(aggregate: bytes) -> bytes:
    found = dict(_attributes(aggregate))
    return found.get(_STATS, b"")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


@dataclass
class _Losses:
    """What was lost lately: counted until there is none for ``RECENT_S``."""

    count: int = 0
    last_s: float = -math.inf

    def note(self) -> None:
        self.count = self.recent() + 1
        self.last_s = time.monotonic()

    def recent(self) -> int:
        return self.count if time.monotonic() - self.last_s <= RECENT_S else 0


class ExitListener:
    """Receives ends in a thread of its own, since nobody may be slow to take them."""

    def __init__(self, host: Host, channel: socket.socket, family: int) -> None:
        self._host = host
        self._socket = channel
        self._family = family
        self._ended: list[Ended] = []
        self._lookups = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._overflows = _Losses()
        self._dropped = _Losses()
        self._failure: Refusal | None = None
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="exits", daemon=True)
        self._thread.start()

    @property
    def reason(self) -> str | None:
        """Why some or all ends are not known."""
        found = [f"{NOT_LISTED}: {self._failure.reason}"] if self._failure else []
        if overflows := self._overflows.recent():
            found.append(f"the kernel had no room for exit records {overflows} times")
        if dropped := self._dropped.recent():
            found.append(f"{dropped} exits too many for one window")
        return "; ".join(found) or None

    @property
    def problems(self) -> tuple[tuple[str, str | None], ...]:
        """What somebody may want to mend, with the remedy."""
        failure = self._failure
        return ((f"{NOT_LISTED}: {failure.reason}", failure.remedy),) if failure else ()

    def drain(self) -> tuple[Ended, ...]:
        """Return the processes that ended since the last time; raise what ended the thread."""
        if self._fault is not None:
            raise self._fault
        with self._lock:
            ended, self._ended, self._lookups = self._ended, [], 0
        return tuple(ended)

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self._thread.join(2 * WAIT_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._listen()
        except Exception as exc:  # noqa: BLE001 - told to who drains: a fault of ours ends the daemon
            self._fault = exc

    def _listen(self) -> None:
        self._socket.settimeout(WAIT_S)
        while not self._stop.is_set():
            try:
                data = self._socket.recv(RECEIVE_BYTES)
                for one in parse_messages(data, self._family):
                    self._take(one)
            except TimeoutError:
                continue
            except Refusal as refusal:
                self._failure = refusal
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    self._failure = Refusal(f"taskstats: {exc.strerror}", None)
                    return
                self._overflows.note()

    def _take(self, one: Exit) -> None:
        if len(self._ended) >= MOST_KEPT:
            self._dropped.note()
            return
        cgroup = self._cgroup(one.pid) if self._lookups < MOST_LOOKUPS else None
        start_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - one.lived_ns
        ended = Ended(one.pid, one.parent, start_ns, one.comm, one.cpu_ns, cgroup)
        with self._lock:
            self._lookups += 1
            self._ended.append(ended)

    def _cgroup(self, pid: int) -> bytes | None:
        """Return the cgroup file of a process while it waits to be reaped."""
        try:
            return self._host.process_file(pid, "cgroup", 65_536)
        except OSError:
            return None


def listen(host: Host, capabilities: int) -> Exits | Refusal:
    """Ask the kernel for the ends of all processes; ``capabilities`` are bits, those in effect."""
    if not capabilities >> CAP_NET_ADMIN & 1:
        return Refusal("tychod lacks CAP_NET_ADMIN", CAPABILITY_REMEDY)
    try:
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.netlink.taskstats import TaskStats
    except ImportError:
        return Refusal("pyroute2 is not installed", LIBRARY_REMEDY)
    try:
        cpus = (host.read_text(f"{host.sysfs}/devices/system/cpu/possible") or "").strip()
        asker = TaskStats()
        try:
            asker.bind()
            channel = socket.socket(fileno=os.dup(asker.fileno()))
            family = int(asker.prid)
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            asker.register_mask(cpus)  # of this socket, as long as a copy of it is open
        finally:
            asker.close()
    except (OSError, NetlinkError) as exc:
        return Refusal(f"taskstats: {exc}", None)
    return ExitListener(host, channel, family)

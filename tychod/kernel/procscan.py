"""Processes without kernel programs: every /proc/PID/stat once a window, because it was asked for.

It costs some 30 us of CPU time for each process of the node and reading, and sees only those
that live at that moment; ends come from :mod:`tychod.kernel.taskstats` where that is allowed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from tychod.kernel.hierarchy import parse_cpuacct_path, parse_v2_path
from tychod.samples import KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY, ProcessSeries, ProcessUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tychod.clock import Clock
    from tychod.hostfs import Host
    from tychod.samples import CgroupRef

PF_KTHREAD: Final = 0x0020_0000
DEAD: Final = frozenset(b"ZXx")
"""States of a process that has ended (proc(5))."""
SAME_START_NS: Final = 1_000_000_000
"""Two starts of one pid this close are one process: a pid comes back only after all others."""


class Stat(NamedTuple):
    """What is of use in /proc/PID/stat; times in clock ticks."""

    comm: bytes
    is_dead: bool
    parent: int
    is_kernel_thread: bool
    cpu_ticks: int
    start_ticks: int  # since boot


class Ended(NamedTuple):
    """One process that has ended, as the kernel told of it."""

    pid: int
    parent: int
    start_ns: int  # since boot; about, where the kernel told only how long it lived
    comm: bytes
    cpu_ns: int
    cgroup: bytes | None  # its /proc/PID/cgroup as it ended; None: gone already


class Exits(Protocol):
    """Who tells of processes that end."""

    @property
    def reason(self) -> str | None:
        """Why some or all of them are not known."""

    @property
    def problems(self) -> tuple[tuple[str, str | None], ...]:
        """What somebody may want to mend, with the remedy."""

    def drain(self) -> tuple[Ended, ...]:
        """Return those that ended since the last time."""

    def close(self) -> None:
        """Stop listening."""


class _Known(NamedTuple):
    """What is remembered of a process from one scan to the next."""

    start_ns: int
    cpu_ticks: int
    key: int


def render_comm(raw: bytes) -> str:
    """Return a process's name; it may hold any bytes, and what is no letter becomes visible."""
    text = raw.partition(b"\0")[0].decode(errors="replace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def parse_stat(data: bytes) -> Stat | None:
    """Return the fields of a /proc/PID/stat; None where it is cut short.

    The name stands in parentheses and may hold parentheses and spaces itself.
    """
    head, found, tail = data.rpartition(b") ")
    fields = tail.split()
    if not found or len(fields) < 20:
        return None
    comm = head.partition(b"(")[2]
    parent, flags, utime, stime, start = (int(fields[i]) for i in (1, 6, 11, 12, 19))
    is_kernel_thread = bool(flags & PF_KTHREAD)
    return Stat(comm, fields[0][0] in DEAD, parent, is_kernel_thread, utime + stime, start)


class ProcScan:
    """All processes that procfs lists, and those that ended in between."""

    method: Final = "procfs"

    def __init__(
        self,
        host: Host,
        version: Literal["v2", "v1"],
        cgroups: Callable[[], Mapping[int, CgroupRef]],
        clock: Clock,
        exits: Exits,
        problems: tuple[tuple[str, str | None], ...] = (),
    ) -> None:
        """``cgroups`` are those of the CPU samples, of the hierarchy ``version``."""
        self._host = host
        self._parse = parse_v2_path if version == "v2" else parse_cpuacct_path
        self._zombies_keep_cgroup = version == "v2"  # v1 shows them in the root
        self._cgroups = cgroups
        self._clock = clock
        self._exits = exits
        self._problems = problems
        self._tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        self._known: dict[int, _Known] = {}

    @property
    def reason(self) -> str | None:
        """Which processes are not listed, and why."""
        return self._exits.reason

    @property
    def problems(self) -> tuple[tuple[str, str | None], ...]:
        """What somebody may want to mend, with the remedy."""
        return (*self._problems, *self._exits.problems)

    def read(self) -> ProcessSeries:
        """Read every process once; OSError where procfs cannot be read."""
        t_ns = self._clock.now_ns()
        paths = _newest(self._cgroups())
        before, self._known = self._known, {}
        uses = [use for pid in self._host.pids() if (use := self._use(pid, before, paths))]
        listed = {use.pid for use in uses if not use.exited}
        ended = [self._ended(one, before, paths) for one in self._exits.drain()]
        told = {(use.pid, use.start_ns) for use in ended}
        alive = [use for use in uses if (use.pid, use.start_ns) not in told]
        gone = [use for use in ended if use.pid not in listed or self._is_other(use)]
        return ProcessSeries(t_ns, self.method, tuple(alive + gone))

    def _is_other(self, use: ProcessUse) -> bool:
        """Say whether a pid that ended is another process by now."""
        return abs(self._known[use.pid].start_ns - use.start_ns) > SAME_START_NS

    def _use(
        self, pid: int, before: Mapping[int, _Known], paths: Mapping[str, int]
    ) -> ProcessUse | None:
        try:
            stat = parse_stat(self._host.process_file(pid, "stat", 4096) or b"")
        except OSError:
            return None  # hidden from us: others speak for it
        if stat is None:
            return None
        start_ns, had = stat.start_ticks * self._tick_ns, before.get(pid)
        if had is not None and had[:2] == (start_ns, stat.cpu_ticks):
            known = had  # it used nothing: wherever it is, nothing is to be given to that
        else:
            known = _Known(start_ns, stat.cpu_ticks, self._key(pid, stat, had, paths))
        self._known[pid] = known
        cpu_ns = stat.cpu_ticks * self._tick_ns
        return ProcessUse(pid, start_ns, render_comm(stat.comm), known.key, cpu_ns, stat.is_dead)

    def _key(self, pid: int, stat: Stat, had: _Known | None, paths: Mapping[str, int]) -> int:
        if stat.is_kernel_thread:
            return KERNEL_KEY
        if stat.is_dead and not self._zombies_keep_cgroup:
            return had.key if had else OUTSIDE_KEY
        try:
            data = self._host.process_file(pid, "cgroup", 65536)
        except OSError:
            data = None
        if not data and had is not None:
            return had.key  # it ended meanwhile, or is hidden now
        return self._key_of(data, paths)

    def _key_of(self, data: bytes | None, paths: Mapping[str, int]) -> int:
        path = self._parse(data) if data else None
        return OUTSIDE_KEY if path is None else paths.get(path, OUTSIDE_KEY)

    def _ended(
        self, one: Ended, before: Mapping[int, _Known], paths: Mapping[str, int]
    ) -> ProcessUse:
        """Return the row of a process that ended: with what is known of it, else of its parent."""
        both = (self._known.get(one.pid), before.get(one.pid))
        had = next((h for h in both if h and abs(h.start_ns - one.start_ns) <= SAME_START_NS), None)
        key = OUTSIDE_KEY
        if one.cgroup is not None and self._zombies_keep_cgroup:
            key = self._key_of(one.cgroup, paths)
        if key == OUTSIDE_KEY:
            kin = had or self._known.get(one.parent) or before.get(one.parent)
            key = kin.key if kin else OUTSIDE_KEY
        start_ns = had.start_ns if had else one.start_ns
        return ProcessUse(one.pid, start_ns, render_comm(one.comm), key, one.cpu_ns, True)

    def close(self) -> None:
        """Stop listening for ends."""
        self._exits.close()


def _newest(cgroups: Mapping[int, CgroupRef]) -> dict[str, int]:
    """Return the key of each path, of its last directory where it was made anew."""
    found = {ref.path: key for key, ref in sorted(cgroups.items())}
    return {**found, "/": ROOT_KEY}


def without_exits(reason: str, problems: Iterable[tuple[str, str | None]] = ()) -> Exits:
    """Return a teller of ends that knows none, and says why."""
    return _Silent(reason, tuple(problems))


class _Silent(NamedTuple):
    reason: str
    problems: tuple[tuple[str, str | None], ...]

    def drain(self) -> tuple[Ended, ...]:
        """Know nothing."""
        return ()

    def close(self) -> None:
        """Have nothing to close."""

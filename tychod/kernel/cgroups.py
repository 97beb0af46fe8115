"""CPU time of every cgroup from its own files: the accounting that works on every kernel.

A cgroup's counter holds its children's time too and survives their removal, so what a short-lived
cgroup used after its last reading appears in its parent, never nowhere.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import ExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tychod.hostfs import GONE, Host, render_error
from tychod.kernel.owntime import FIRST_CGROUP, ROOT, SEED, OwnTime
from tychod.kernel.procstat import (
    STAT_BYTES,
    CpuTimes,
    parse_cpu_times,
    parse_is_kernel_thread,
    tick_hz,
)
from tychod.kernel.tree import CgroupTree, Node, Origin
from tychod.samples import KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY, CgroupRef, CpuSample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tychod.clock import Clock
    from tychod.kernel.hierarchy import Hierarchy, Version

USAGE_FILES: Final[Mapping[Version, str]] = MappingProxyType(
    {"v2": "cpu.stat", "v1": "cpuacct.usage"}
)
USAGE_BYTES: Final = 64
"""The first line of cpu.stat, and all of cpuacct.usage, fit into this."""

OCCUPANTS_CHECK_NS: Final = 30_000_000_000
GONE_LIMIT: Final = 20_000
"""Names of gone cgroups kept at most."""

GONE_NS: Final = -1
"""In place of a usage: the cgroup is gone."""

_USAGE_V2: Final = b"usage_usec "


class CpuBaseline(NamedTuple):
    """Native counters at a moment of this boot, from which a later reader continues."""

    method: str
    t_ns: int
    idle_ns: int
    kernel_ns: int
    outside_ns: int
    root_ns: int
    totals: Mapping[CgroupRef, int]
    stamp: int = 0  # of the kernel's maps; 0: the method has none
    busy_ns: int = 0  # of the node by /proc/stat; 0: not known


def baseline_of(
    method: str, sample: CpuSample, cgroups: Mapping[int, CgroupRef], stamp: int = 0
) -> CpuBaseline:
    """Return what must be saved so that another reader continues after this sample."""
    totals = dict(zip(sample.keys.tolist(), sample.total_ns.tolist(), strict=True))
    return CpuBaseline(
        method,
        sample.t_ns,
        sample.idle_ns,
        totals.get(KERNEL_KEY, 0),
        totals.get(OUTSIDE_KEY, 0),
        totals.get(ROOT_KEY, 0),
        {cgroups[key]: total_ns for key, total_ns in totals.items() if key in cgroups},
        stamp,
        sample.busy_ns,
    )


def parse_usage_v2_ns(data: bytes) -> int:
    """Return usage_usec from the start of cpu.stat, in nanoseconds; ValueError if it is none."""
    if not data.startswith(_USAGE_V2):
        raise ValueError(f"not a cpu.stat: {data[:40]!r}")
    return int(data[11 : data.index(b"\n")]) * 1000


def parse_usages_v2_ns(texts: Sequence[bytes]) -> list[int]:
    """Return what ``parse_usage_v2_ns`` makes of each; ValueError if one holds no usage."""
    mark = b"\0" + _USAGE_V2
    if b"\0".join((b"", *texts)).count(mark) != len(texts):  # no call for each of hundreds
        raise ValueError("not a cpu.stat among them")
    return [int(text[11 : text.index(b"\n")]) * 1000 for text in texts]


def parse_usages_v1_ns(texts: Sequence[bytes]) -> list[int]:
    """Return the number in each cpuacct.usage; ValueError if one holds none."""
    return [*map(int, texts)]


class CgroupReader:
    """Reads one hierarchy; one thread calls it, any thread may look at ``cgroups``."""

    def __init__(self, host: Host, hierarchy: Hierarchy, clock: Clock, history_ns: int) -> None:
        self.hierarchy: Final = hierarchy
        self._clock = clock
        self._v2 = hierarchy.version == "v2"
        self._parse: Callable[[bytes], int] = parse_usage_v2_ns if self._v2 else int
        self._parse_all = parse_usages_v2_ns if self._v2 else parse_usages_v1_ns
        usage_file = USAGE_FILES[hierarchy.version]
        with ExitStack() as opened:
            self._stat = host.open_kept(f"{host.procfs}/stat")
            opened.callback(self._stat.close)
            # The v2 root's own cpu.stat repeats the ticks of /proc/stat, and kernels such as 6.1
            # add stolen time to it; so there /proc/stat itself is the root's total.
            self._root_file = None
            if not (self._v2 and hierarchy.true_root):
                self._root_file = host.open_kept(f"{hierarchy.root}/{usage_file}")
                opened.callback(self._root_file.close)
            # Fewer than one cgroup a nanosecond: keys of a reader opened anew are new ones.
            self._tree = CgroupTree(
                host,
                hierarchy.root,
                usage_file,
                may_rename=not self._v2,
                first_key=clock.now_ns(),
            )
            opened.callback(self._tree.close)
            self._opened = opened.pop_all()
        self._tick_hz = tick_hz()
        self._occupants = RootOccupants(host, hierarchy.root)
        self._names = Names(history_ns)
        self._own = OwnTime(see_outside=not hierarchy.true_root)
        self._nodes: tuple[Node, ...] = ()
        self._fds: tuple[int, ...] = ()  # children first: the reverse of the nodes
        self._baseline: CpuBaseline | None = None
        self._started = False
        self._idle_ns = 0
        self.failure = ""

    @property
    def cgroups(self) -> Mapping[int, CgroupRef]:
        """Which cgroup each key stands for; an immutable mapping, replaced on change."""
        return self._names.table

    @property
    def problems(self) -> tuple[str, ...]:
        """What is degraded at present."""
        return self._tree.problems

    def resume(self, baseline: CpuBaseline) -> bool:
        """Continue from a baseline of this boot; False if another hierarchy was read then."""
        if self._started or baseline.method != self.hierarchy.method:
            return False
        self._baseline = baseline
        return True

    def read(self) -> CpuSample | None:
        """Read every cgroup once, children first; None when the root could not be read."""
        now_ns = self._clock.now_ns()
        changed = self._tree.refresh(now_ns)
        if changed or not self._started:
            self._reshape(now_ns)
        if not self._started:
            self._started = True
            if self._baseline:
                return self._resume_from(self._baseline)
        return self._read_now()

    def close(self) -> None:
        """Close every file."""
        self._opened.close()

    def _read_now(self) -> CpuSample | None:
        before_ns = self._clock.now_ns()
        totals = self._read_cgroups(before_ns)
        try:
            root_ns = self._read_root_ns()
            times = parse_cpu_times(self._stat.read(STAT_BYTES), self._tick_hz)
        except (OSError, ValueError) as exc:
            # Without the root nothing adds up; the next reading catches up.
            self.failure = (
                render_error(exc) if isinstance(exc, OSError) else f"no counter of CPU time: {exc}"
            )
            return None
        self.failure = ""
        t_ns = (before_ns + self._clock.now_ns()) // 2
        rows = np.array(
            [times.tasks_ns if root_ns is None else root_ns, times.tasks_ns, times.irq_ns, *totals],
            dtype=np.int64,
        )
        root_is_kernel = self.hierarchy.true_root and self._occupants.are_kernel_threads(t_ns)
        self._own.advance(
            rows, root_is_kernel=root_is_kernel, root_restarts=self._root_file is not None
        )
        return self._sample(t_ns, times)

    def _sample(self, t_ns: int, times: CpuTimes) -> CpuSample:
        # Idle and iowait of /proc/stat may step back by a tick (proc(5)).
        self._idle_ns = max(self._idle_ns, times.idle_ns)
        own = self._own
        own.last_ns.setflags(write=False)
        busy_ns = times.tasks_ns + times.irq_ns
        return CpuSample(t_ns, own.keys, own.own_ns, own.last_ns, self._idle_ns, busy_ns)

    def _resume_from(self, saved: CpuBaseline) -> CpuSample:
        """Return the state at the baseline, so that the next sample holds the time in between."""
        self._own.last_ns[:FIRST_CGROUP] = (saved.root_ns, saved.outside_ns, saved.kernel_ns)
        self._idle_ns = saved.idle_ns
        known = [CgroupRef(n.path, n.inode) in saved.totals for n in self._nodes]
        rows = np.array([True] * FIRST_CGROUP + known, dtype=bool)
        arrays = (self._own.keys[rows], self._own.own_ns[rows], self._own.last_ns[rows])
        for array in arrays:
            array.setflags(write=False)
        return CpuSample(saved.t_ns, *arrays, saved.idle_ns, saved.busy_ns)

    def _reshape(self, now_ns: int) -> None:
        """Take the tree's present cgroups into the arrays and the table of names."""
        known = {node.key for node in self._nodes}
        self._nodes = self._tree.nodes
        self._fds = tuple(n.file.fileno() for n in reversed(self._nodes) if n.file)
        starts = {n.key: self._start_ns(n) for n in self._nodes if n.key not in known}
        parents = [n.parent.key for n in self._nodes if n.parent is not None]
        self._own.reshape([n.key for n in self._nodes], parents, starts)
        self._names.replace({n.key: self._names.ref(n) for n in self._nodes}, now_ns)

    def _start_ns(self, node: Node) -> int:
        """Return the total from which a cgroup found just now counts."""
        if self._baseline and not self._started:
            return self._baseline.totals.get(CgroupRef(node.path, node.inode), 0)
        # Before the root has been read, and of a cgroup found late, there is no telling which part
        # of its time its parents have had already.
        unknown = self._own.last_ns[ROOT] == SEED or node.origin is not Origin.NEW
        return SEED if unknown else 0

    def _read_cgroups(self, now_ns: int) -> list[int]:
        """Return every cgroup's total in the order of the rows, without those that are gone."""
        try:
            return self._read_all()
        except (OSError, ValueError):  # one of them: each by itself
            return self._read_each(now_ns)

    def _read_all(self) -> list[int]:
        pread = os.pread
        texts = [pread(fd, USAGE_BYTES, 0) for fd in self._fds]
        texts.reverse()
        return self._parse_all(texts)

    def _read_each(self, now_ns: int) -> list[int]:
        totals: list[int | None] = read_usages(self._fds, self._parse)
        totals.reverse()
        last = self._own.last_ns[FIRST_CGROUP:].tolist()
        filled = [b if a is None else a for a, b in zip(totals, last, strict=True)]
        gone = [n for n, total in zip(self._nodes, totals, strict=True) if total == GONE_NS]
        if not gone:
            return filled
        before = dict(zip((n.key for n in self._nodes), filled, strict=True))
        for node in gone:
            self._tree.drop(node)
        self._reshape(now_ns)
        return [before[n.key] for n in self._nodes]

    def _read_root_ns(self) -> int | None:
        """Return the root's total where a file holds it; None: /proc/stat is the total."""
        if self._root_file is None:
            return None
        return self._parse(self._root_file.read(USAGE_BYTES))


def read_usages(fds: Sequence[int], parse: Callable[[bytes], int]) -> list[int | None]:
    """Return the usage of each open counter, GONE_NS where its cgroup is gone, None: not read."""
    pread = os.pread
    usages: list[int | None] = []
    for fd in fds:
        try:
            usages.append(parse(pread(fd, USAGE_BYTES, 0)))
        except OSError as exc:
            usages.append(GONE_NS if exc.errno in GONE else None)
        except ValueError:
            usages.append(None)
    return usages


class Names:
    """Which cgroup each key stands for; the gone ones stay while samples may mention them."""

    def __init__(self, history_ns: int) -> None:
        self._history_ns = history_ns
        self._gone: deque[tuple[int, int, CgroupRef]] = deque(maxlen=GONE_LIMIT)
        self._live: dict[int, CgroupRef] = {}
        self.table: Mapping[int, CgroupRef] = MappingProxyType({})

    def ref(self, node: Node) -> CgroupRef:
        """Return what a present cgroup is called; the same object until it has another name."""
        known = self._live.get(node.key)
        return known if known and known.path is node.path else CgroupRef(node.path, node.inode)

    def replace(self, live: dict[int, CgroupRef], now_ns: int) -> None:
        """Set the present cgroups; those that left are remembered from now on."""
        left = [(now_ns, key, ref) for key, ref in self._live.items() if key not in live]
        while self._gone and self._gone[0][0] < now_ns - self._history_ns:
            self._gone.popleft()
        self._gone.extend(left)
        self._live = live
        self.table = MappingProxyType({key: ref for _, key, ref in self._gone} | live)


class RootOccupants:
    """Whether only kernel threads sit in the root cgroup; looked at every 30 s, not more."""

    def __init__(self, host: Host, root: str) -> None:
        self._host = host
        self._procs = f"{root}/cgroup.procs"
        self._next_look_ns: int | None = None
        self._kernel_threads: set[int] = set()
        self._only_kernel = False

    def are_kernel_threads(self, now_ns: int) -> bool:
        """Say whether the root's processes are all kernel threads, or there are none."""
        if self._next_look_ns is None or now_ns >= self._next_look_ns:
            self._next_look_ns = now_ns + OCCUPANTS_CHECK_NS
            self._only_kernel = self._look()
        return self._only_kernel

    def _look(self) -> bool:
        try:
            pids = [int(word) for word in (self._host.read_text(self._procs) or "").split()]
        except (OSError, ValueError):
            return False
        self._kernel_threads.intersection_update(pids)
        if any(self._is_user(pid) for pid in pids if pid not in self._kernel_threads):
            return False
        # With hidepid no process shows: then nothing is known, and the root keeps its own time.
        return bool(self._kernel_threads) or not pids

    def _is_user(self, pid: int) -> bool:
        try:
            stat = self._host.process_file(pid, "stat")
            is_kernel = stat is not None and parse_is_kernel_thread(stat)
        except (OSError, ValueError):
            return True
        if is_kernel:
            self._kernel_threads.add(pid)
        return stat is not None and not is_kernel

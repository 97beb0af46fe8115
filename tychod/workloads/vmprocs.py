"""Which processes are hypervisors, and how much CPU time each has used, thread by thread.

No file is kept open and nothing waits, so one thread may look for machines and another read them.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tychod.hostfs import render_error
from tychod.kernel.hierarchy import parse_cpuacct_path, parse_v2_path
from tychod.kernel.procscan import Stat, parse_stat
from tychod.workloads.hypervisors import (
    COMMAND_LIMIT,
    Machine,
    hypervisor_of,
    is_vcpu,
    names_vcpus,
    parse_cmdline,
    parse_firecracker_config,
    parse_machine,
)
from tychod.workloads.paths import is_contained

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tychod.hostfs import Host

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
LISTING_NS: Final = 2 * SECOND_NS
RESTING: Final = 700  # times the CPU time of a listing until the next: 0.14 % of a core
SOON_NS: Final = SECOND_NS // 5
FORGET_NS: Final = 60 * SECOND_NS
MOST_VMS: Final = 500
"""Hypervisors that are looked at; anybody may start processes that are called like one."""
MOST_THREADS: Final = 512
"""Threads of one hypervisor that are read; a machine has some ten and one for each of its CPUs."""
MOST_READ: Final = 10_000  # threads of all of them, in one window
_STAT_LIMIT: Final = 4096
_CONFIG_LIMIT: Final = 256 << 10
_ROOT_UIDS: Final = [b"0", b"0", b"0", b"0"]


class VmProcess(NamedTuple):
    """A hypervisor's process and the machine that it runs."""

    pid: int
    start_ticks: int  # clock ticks since boot; with the pid it names a process for ever
    cgroup: str  # its path in the hierarchy that is believed
    machine: Machine


class VmTimes(NamedTuple):
    """CPU time of a hypervisor since its process began."""

    cpu_ns: int
    vcpu_ns: int | None  # part of it that guests' CPUs used; None: threads cannot be told apart


class _Young(NamedTuple):
    """A process that may still become another program: agents fork first and then exec."""

    first_ns: int
    looks: int


class VmFinder:
    """Looks through procfs for hypervisors; a process is read when it is new, then rarely."""

    def __init__(self, host: Host, version: Literal["v2", "v1"]) -> None:
        """``version`` is the cgroup hierarchy that paths are of."""
        self._host = host
        self._parse_cgroup = parse_v2_path if version == "v2" else parse_cpuacct_path
        self._vms: dict[str, VmProcess] = {}
        self._young: dict[str, _Young] = {}
        self._settled: set[str] = set()
        self._recheck: list[str] = []
        self._hidden: set[str] = set()
        self._beyond: set[str] = set()  # more of them than are looked at
        self._threads: dict[str, int] = {}
        self._listed_ns: int | None = None
        self._rest = LISTING_NS
        self._found: tuple[VmProcess, ...] = ()
        self.route = "not looked yet"

    def look(self, now_ns: int, soon: bool = False) -> tuple[VmProcess, ...]:
        """Return the hypervisors that live, by pid; the same tuple while nothing has changed.

        ``soon``: somebody waits for a new one, so do not wait for the next regular listing.
        """
        if self._listed_ns is None or now_ns - self._listed_ns >= (SOON_NS if soon else self._rest):
            began_ns = time.thread_time_ns()
            self._list(now_ns)
            self._rest = max(LISTING_NS, RESTING * (time.thread_time_ns() - began_ns))
        return self._found

    def look_at(self, pids: Iterable[int], now_ns: int) -> tuple[VmProcess, ...]:
        """Look at some processes before the next listing, and return all hypervisors."""
        new = [name for pid in pids if (name := str(pid)) not in self._settled]
        for name in new:
            self._look_at(name, now_ns)
        if new:
            found = tuple(sorted(self._vms.values()))
            self._found = self._found if found == self._found else found
        return self._found

    def _list(self, now_ns: int) -> None:
        elapsed_ns = LISTING_NS if self._listed_ns is None else now_ns - self._listed_ns
        self._listed_ns = now_ns
        try:
            names = self._host.pid_names()
        except OSError as exc:
            self._say(f"{render_error(exc)}; let tychod's user list it")
            return
        self._drop_gone(names)
        self._verify()
        self._forget_some(elapsed_ns, now_ns)
        for name in names - self._settled:
            self._look_at(name, now_ns)
        found = tuple(sorted(self._vms.values()))
        self._found = self._found if found == self._found else found
        reasons = (_hidden_reason(len(self._hidden)), *self._flood_reasons())
        self._say("; ".join(reason for reason in reasons if reason) or "ok")

    def _flood_reasons(self) -> Iterator[str]:
        """Yield why some hypervisors are not told as they could be; no number, which would change.

        Their energy stays with what they run in, or is theirs without a guest's part.
        """
        see = "see who starts them (ps -eo user,pid,nlwp,args)"
        if self._beyond:
            yield f"more than {MOST_VMS} hypervisors, the others are not told apart; {see}"
        counts = self._threads.values()
        if max(counts, default=0) > MOST_THREADS or sum(counts) > MOST_READ:
            most = f"{MOST_THREADS} threads in one hypervisor or {MOST_READ} in all"
            yield f"more than {most}, whose vCPUs are not told apart; {see}"

    def _drop_gone(self, names: set[str]) -> None:
        self._settled &= names
        self._hidden &= names
        self._beyond &= names
        for name in self._young.keys() - names:
            del self._young[name]
        for name in self._vms.keys() - names:
            del self._vms[name]

    def _verify(self) -> None:
        """Drop what has ended or is another process under the same pid, follow those that move."""
        self._threads.clear()
        for name, vm in tuple(self._vms.items()):
            data = self._file(name, "stat", _STAT_LIMIT) or b""
            stat = parse_stat(data)
            if stat is None or stat.is_dead or stat.start_ticks != vm.start_ticks:
                del self._vms[name]
                self._settled.discard(name)
                self._young.pop(name, None)
                continue
            self._threads[name] = thread_count(data)
            cgroup = self._cgroup(name)
            if cgroup is not None and cgroup != vm.cgroup:
                self._vms[name] = vm._replace(cgroup=cgroup)

    def _forget_some(self, elapsed_ns: int, now_ns: int) -> None:
        """Let so many be read again that it is each one's turn once in 60 s."""
        if not self._recheck:
            self._recheck = list(self._settled)
        count = -int(-len(self._settled) * min(elapsed_ns / FORGET_NS, 1.0) // 1)
        turn, self._recheck = self._recheck[:count], self._recheck[count:]
        for name in self._settled.intersection(turn):
            self._settled.discard(name)
            self._young[name] = _Young(now_ns - LISTING_NS, 2)

    def _look_at(self, name: str, now_ns: int) -> None:
        """Read a new process at once, at the next look, and when it is 2 s old for good."""
        young = self._young.get(name) or _Young(now_ns, 0)
        is_grown = now_ns - young.first_ns >= LISTING_NS
        if young.looks < 2 or is_grown:
            self._read(name)
        if is_grown:
            self._settled.add(name)
            self._young.pop(name, None)
        else:
            self._young[name] = _Young(young.first_ns, young.looks + 1)

    def _read(self, name: str) -> None:
        vm = self._vm(name)
        if vm is None:
            self._vms.pop(name, None)
        elif vm != self._vms.get(name):
            self._vms[name] = vm

    def _vm(self, name: str) -> VmProcess | None:
        data = self._file(name, "cmdline", COMMAND_LIMIT)
        (self._hidden.add if data is None else self._hidden.discard)(name)
        program = (data or b"").partition(b"\0")[0].decode(errors="replace")
        self._beyond.discard(name)
        if not data or hypervisor_of(program) is None:
            return None
        if name not in self._vms and len(self._vms) >= MOST_VMS:
            self._beyond.add(name)
            return None
        machine, stat = parse_machine(parse_cmdline(data)), self._stat(name)
        if machine is None or stat is None or stat.is_dead:
            return None
        cgroup = self._cgroup(name)
        if cgroup is None:
            known = self._vms.get(name)
            return known if known and known.start_ticks == stat.start_ticks else None
        machine = self._with_config(name, machine, cgroup)
        return VmProcess(int(name), stat.start_ticks, cgroup, machine)

    def _with_config(self, name: str, machine: Machine, cgroup: str) -> Machine:
        """Add what Firecracker's configuration says, if the host's root wrote the command line.

        Anybody else, a container's root too, could let us open a file in a file system of his own
        that never answers, or one of ours that he may not see.
        """
        path = machine.config_file or ""
        if not path.startswith("/") or not self._is_roots(name) or is_contained(cgroup):
            return machine
        try:
            data = self._host.read_regular(path, _CONFIG_LIMIT)
        except OSError:
            return machine
        vcpus, memory_bytes = parse_firecracker_config(data or b"") or (None, None)
        return machine._replace(vcpus=vcpus, memory_bytes=memory_bytes)

    def _is_roots(self, name: str) -> bool:
        lines = (self._file(name, "status", _STAT_LIMIT) or b"").splitlines()
        return any(line.split()[1:] == _ROOT_UIDS for line in lines if line.startswith(b"Uid:"))

    def _cgroup(self, name: str) -> str | None:
        return self._parse_cgroup(self._file(name, "cgroup", _STAT_LIMIT) or b"")

    def _stat(self, name: str) -> Stat | None:
        return parse_stat(self._file(name, "stat", _STAT_LIMIT) or b"")

    def _file(self, name: str, file: str, limit: int) -> bytes | None:
        """Return a file of a process, empty if it is gone, None if it is hidden from us."""
        try:
            return self._host.read_bytes(f"{self._host.procfs}/{name}/{file}", limit) or b""
        except OSError:
            return None

    def _say(self, route: str) -> None:
        if route != self.route and (route != "ok" or self.route != "not looked yet"):
            log.log(
                logging.INFO if route == "ok" else logging.WARNING,
                "looking for virtual machines: %s",
                route,
                extra={"source": "vms"},
            )
        self.route = route


def _hidden_reason(count: int) -> str:
    if not count:
        return ""
    return (
        "the command lines of some processes are hidden (hidepid); let tychod's user be of the"
        " group that /proc is mounted with (gid=)"
    )


@dataclass(slots=True)
class _Thread:
    cpu_ns: int = 0
    comm: str | None = None
    is_named: bool = False  # its name was read twice and was the same
    is_vcpu: bool = False


@dataclass(slots=True)
class _Known:
    """What is remembered of one hypervisor from one reading to the next."""

    threads: dict[str, _Thread] = field(default_factory=dict)
    ended_ns: int = 0
    ended_vcpu_ns: int = 0
    missed_ns: int = 0  # used by threads that had ended before we could see them
    has_vcpus: bool = False
    last_ns: int = 0
    last_vcpu_ns: int = 0

    def end(self, tid: str) -> None:
        """Keep what a thread has used: it is no longer there to be read."""
        thread = self.threads.pop(tid)
        self.ended_ns += thread.cpu_ns
        self.ended_vcpu_ns += thread.cpu_ns if thread.is_vcpu else 0

    def whole(self, stat_ns: int) -> VmTimes:
        """Return the sum alone, of the process as a whole."""
        self.last_ns = max(stat_ns, self.last_ns)
        return VmTimes(self.last_ns, None)

    def total(self, stat_ns: int, tick_ns: int) -> VmTimes:
        """Return the sums; ``stat_ns``, read before the threads, also knows those never seen."""
        threads = self.threads.values()
        seen_ns = self.ended_ns + sum(t.cpu_ns for t in threads)
        if seen_ns == 0:
            # No schedstat; a kernel that does not count it writes zeros (sched_info_on()).
            return self.whole(stat_ns)
        self.missed_ns = max(self.missed_ns, stat_ns - tick_ns - seen_ns)
        self.last_ns = max(seen_ns + self.missed_ns, self.last_ns)
        vcpu_ns = self.ended_vcpu_ns + sum(t.cpu_ns for t in threads if t.is_vcpu)
        self.last_vcpu_ns = max(vcpu_ns, self.last_vcpu_ns)
        return VmTimes(self.last_ns, self.last_vcpu_ns if self.has_vcpus else None)


class ThreadTimes:
    """CPU time of hypervisors from their threads' schedstat, to the nanosecond."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tick_ns = SECOND_NS // os.sysconf("SC_CLK_TCK")
        self._known: dict[tuple[int, int], _Known] = {}
        self._read_now = 0  # threads read in this window

    def read(self, vm: VmProcess) -> VmTimes | None:
        """Return what a hypervisor has used since it began; None if it is no longer there.

        It never falls.  One that has died but was not waited for still has its last value.  Of one
        with too many threads the whole alone is read.
        """
        key = (vm.pid, vm.start_ticks)
        data = self._file(f"{vm.pid}/stat") or b""
        stat, count = parse_stat(data), thread_count(data)
        is_crowded = count > MOST_THREADS or self._read_now + count > MOST_READ
        self._read_now += 0 if is_crowded else count
        tasks = () if is_crowded else self._tasks(vm.pid)
        if stat is None or stat.start_ticks != vm.start_ticks or tasks is None:
            self._known.pop(key, None)
            return None
        known = self._known.setdefault(key, _Known())
        stat_ns = stat.cpu_ticks * self._tick_ns
        if is_crowded:
            return known.whole(stat_ns)
        self._read_threads(vm, known, tasks)
        return known.total(stat_ns, self._tick_ns)

    def keep_only(self, vms: Iterable[VmProcess]) -> None:
        """Forget every hypervisor but these: a window has been read."""
        self._read_now = 0
        kept = {(vm.pid, vm.start_ticks) for vm in vms}
        for key in self._known.keys() - kept:
            del self._known[key]

    def _tasks(self, pid: int) -> tuple[str, ...] | None:
        try:
            return self._host.list_dir(f"{self._host.procfs}/{pid}/task")
        except OSError:
            return None

    def _read_threads(self, vm: VmProcess, known: _Known, tasks: tuple[str, ...]) -> None:
        for tid in known.threads.keys() - set(tasks):
            known.end(tid)
        for tid in tasks:
            cpu_ns = parse_schedstat_ns(self._file(f"{vm.pid}/task/{tid}/schedstat"))
            if cpu_ns is None:
                continue  # it ended while we looked, or the kernel has no such file
            if tid in known.threads and cpu_ns < known.threads[tid].cpu_ns:
                known.end(tid)  # a later thread under the same number
            thread = known.threads.setdefault(tid, _Thread())
            thread.cpu_ns = cpu_ns
            if not thread.is_named and names_vcpus(vm.machine.hypervisor):
                self._read_name(vm, tid, thread)
                known.has_vcpus |= thread.is_vcpu

    def _read_name(self, vm: VmProcess, tid: str, thread: _Thread) -> None:
        """Read a thread's name until two readings agree: it is given after the thread began."""
        raw = self._file(f"{vm.pid}/task/{tid}/comm")
        comm = (raw or b"").removesuffix(b"\n").decode(errors="replace")
        thread.is_named = comm == thread.comm
        thread.comm = comm
        thread.is_vcpu = is_vcpu(vm.machine.hypervisor, comm)

    def _file(self, path: str) -> bytes | None:
        try:
            return self._host.read_bytes(f"{self._host.procfs}/{path}", _STAT_LIMIT)
        except OSError:
            return None


def thread_count(stat: bytes) -> int:
    """Return how many threads a /proc/PID/stat says that there are; 0 where it is cut short."""
    fields = stat.rpartition(b") ")[2].split()
    return int(fields[17]) if len(fields) > 17 else 0


def parse_schedstat_ns(data: bytes | None) -> int | None:
    """Return the first number of a schedstat: nanoseconds on a CPU; None where there is none."""
    number = (data or b"").partition(b" ")[0]
    return int(number) if number.isdigit() else None

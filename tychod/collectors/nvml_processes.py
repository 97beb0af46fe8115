"""Who is on a GPU: its processes, their use, and the cgroups that they are in.

The driver names a process; while the process lives its cgroups are read at once, for a short one
may be gone when anybody else asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tychod.collectors.nvml_library import NO_PERMISSION, Calls
from tychod.kernel.hierarchy import parse_cpuacct_path, parse_v2_path
from tychod.kernel.procscan import parse_stat
from tychod.samples import GpuProcess, GpuUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tychod.clock import Clock
    from tychod.collectors.nvml_mig import Mig
    from tychod.hostfs import Host

COMPUTE: Final = "nvmlDeviceGetComputeRunningProcesses_v3"
GRAPHICS: Final = "nvmlDeviceGetGraphicsRunningProcesses_v3"
MPS: Final = "nvmlDeviceGetMPSComputeRunningProcesses_v3"
UTILISATION: Final = "nvmlDeviceGetProcessUtilization"
MPS_SERVER: Final = b"nvidia-cuda-mps"  # as much of its name as the kernel keeps (15 bytes)
SELDOM: Final = 10
"""Lists that were empty are asked for once in so many looks: each may take the driver 10 ms."""

NO_VALUE_32: Final = 0xFFFF_FFFF
NO_VALUE_64: Final = 0xFFFF_FFFF_FFFF_FFFF
MOST_PROCESSES: Final = 1024
FORGET_LOOKS: Final = 10
LONGEST_NS: Final = 10_000_000_000
"""The driver keeps samples for about so long; older ones are not asked for."""
MS_NS: Final = 1_000_000

NO_LIST: Final = "the driver does not list the processes of this GPU"
NO_RIGHT: Final = "the driver lists a divided GPU's processes to root alone"
NO_UTILISATION: Final = "the driver tells no use by process (a divided GPU, or an old one)"


class Listed(NamedTuple):
    """What the driver's lists say of a process."""

    memory_bytes: int | None
    gpu_instance: int | None


class Used(NamedTuple):
    """What the driver's samples say of a process, in percent of the whole device."""

    sm: float
    memory: float
    encoder: float
    decoder: float


class _Known(NamedTuple):
    start: int
    is_mps_server: bool
    cgroups: tuple[str | None, str | None]
    seen: int  # number of the last look at it


class Cgroups:
    """The cgroups of processes by pid; what was read of one that is gone is kept for a while."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: dict[int, _Known] = {}
        self._looks = 0

    def find(self, pid: int) -> tuple[str | None, str | None]:
        """Return its paths in the v2 hierarchy and in v1's cpuacct."""
        known = self._read(pid) or self._known.get(pid)
        return known.cgroups if known else (None, None)

    def is_mps_server(self, pid: int) -> bool:
        """Say whether a process found before shares the GPU for others."""
        known = self._known.get(pid)
        return known is not None and known.is_mps_server

    def tick(self) -> None:
        """Forget those that were not asked for in the last looks."""
        self._looks += 1
        oldest = self._looks - FORGET_LOOKS
        self._known = {pid: known for pid, known in self._known.items() if known.seen >= oldest}

    def _read(self, pid: int) -> _Known | None:
        """Read a living process; another one with the same pid replaces what was known."""
        try:
            stat = parse_stat(self._host.process_file(pid, "stat") or b"")
            data = self._host.process_file(pid, "cgroup") or b""
        except (OSError, ValueError):
            return None
        if stat is None:
            return None
        paths = (parse_v2_path(data), parse_cpuacct_path(data))
        before = self._known.get(pid)
        if not data and before and before.start == stat.start_ticks:
            paths = before.cgroups  # it is ending
        is_server = stat.comm.startswith(MPS_SERVER)
        self._known[pid] = found = _Known(stat.start_ticks, is_server, paths, self._looks)
        return found


class Processes:
    """The processes of one device, from look to look."""

    def __init__(self, calls: Calls, mig: Mig, cgroups: Cgroups, clock: Clock) -> None:
        self._calls = calls
        self._mig = mig
        self._cgroups = cgroups
        self._clock = clock
        self._looks = 0
        self._filled: set[str] = set()  # lists that were not empty when last asked for
        self._since_ns = clock.now_ns()

    def look(self, device: str) -> GpuUse:
        """Return who is there and what they used since the last look."""
        now_ns = self._clock.now_ns()
        since_ns = max(self._since_ns, now_ns - LONGEST_NS)
        self._since_ns = now_ns  # on failure, too: what was missed is not made up for
        listed = self._listed()
        used = self._used(since_ns, now_ns)
        activity = self._mig.activity()
        self._looks += 1
        pids = sorted({*(listed or ()), *(used or ())})[:MOST_PROCESSES]
        return GpuUse(
            t_ns=now_ns,
            device=device,
            since_ns=since_ns,
            processes=tuple(self._process(pid, listed or {}, used) for pid in pids),
            activity=activity,
            reason=self._reason(listed, used),
        )

    def _process(
        self, pid: int, listed: Mapping[int, Listed], used: Mapping[int, Used] | None
    ) -> GpuProcess:
        seen = listed.get(pid, Listed(None, None))
        use = None if used is None else used.get(pid, Used(0.0, 0.0, 0.0, 0.0))
        return GpuProcess(
            pid=pid,
            cgroups=self._cgroups.find(pid),
            sm_percent=use and use.sm,
            memory_percent=use and use.memory,
            encoder_percent=use and use.encoder,
            decoder_percent=use and use.decoder,
            memory_bytes=seen.memory_bytes,
            gpu_instance=seen.gpu_instance,
        )

    def _listed(self) -> dict[int, Listed] | None:
        """Return the processes of all lists by pid; None where the driver has no list."""
        compute = self._list(COMPUTE)
        shared = [*compute] if compute else []
        is_shared = any(self._cgroups.is_mps_server(process.pid) for process in shared)
        others = [self._list_seldom(GRAPHICS), self._list_seldom(MPS, at_once=is_shared)]
        lists = [compute, *others]
        if all(found is None for found in lists):
            return None
        return merge_lists(process for found in lists for process in found or ())

    def _list_seldom(self, name: str, *, at_once: bool = False) -> list[Any] | None:
        if not (at_once or name in self._filled or self._looks % SELDOM == 0):
            return []
        found = self._list(name)
        if found:
            self._filled.add(name)
        else:
            self._filled.discard(name)
        return found

    def _list(self, name: str) -> list[Any] | None:
        """Ask the device, or its parts where it may not be asked as a whole."""
        found = self._calls.ask_list(name)
        if found is not None or self._calls.refused.get(name) != NO_PERMISSION:
            return found
        parts = [Calls(self._calls.pynvml, handle).ask_list(name) for handle in self._mig.handles]
        told = [part for part in parts if part is not None]
        return [process for part in told for process in part] if told else None

    def _used(self, since_ns: int, now_ns: int) -> dict[int, Used] | None:
        """Return the mean use by pid; empty where nobody used anything; None: it is not told."""
        if self._mig.slices:
            return None
        ago_ns = -(-(now_ns - since_ns) // MS_NS) * MS_NS  # up to whole milliseconds
        since_us = (now_ns + self._clock.wall_offset_ns() - ago_ns) // 1000
        samples = self._calls.ask_list(UTILISATION, max(since_us, 0))
        return None if samples is None else mean_use(samples, since_us)

    def _reason(self, listed: object, used: object) -> str | None:
        if listed is None:
            is_right = self._calls.refused.get(COMPUTE) == NO_PERMISSION
            return NO_RIGHT if is_right else NO_LIST
        return NO_UTILISATION if used is None else None


def merge_lists(processes: Iterable[Any]) -> dict[int, Listed]:
    """Return one entry a pid; one that computes and draws is in two lists."""
    found: dict[int, Listed] = {}
    for process in processes:
        if process.pid <= 0:
            continue
        memory = process.usedGpuMemory
        instance = getattr(process, "gpuInstanceId", NO_VALUE_32)
        before = found.get(process.pid, Listed(None, None))
        amounts = [m for m in (before.memory_bytes, memory) if m not in (None, NO_VALUE_64)]
        found[process.pid] = Listed(
            max(amounts) if amounts else None,
            before.gpu_instance if instance in (None, NO_VALUE_32) else instance,
        )
    return found


def mean_use(samples: Iterable[Any], since_us: int) -> dict[int, Used]:
    """Return the mean of each process's samples that are new and possible."""
    rows: dict[int, list[tuple[int, int, int, int]]] = {}
    for sample in samples:
        row = (sample.smUtil, sample.memUtil, sample.encUtil, sample.decUtil)
        # Drivers return entries that nobody has filled, with pid 0 or percentages of thousands.
        if sample.pid > 0 and sample.timeStamp >= since_us and max(row) <= 100:
            rows.setdefault(sample.pid, []).append(row)
    return {
        pid: Used(*(sum(column) / len(found) for column in zip(*found, strict=True)))
        for pid, found in rows.items()
    }

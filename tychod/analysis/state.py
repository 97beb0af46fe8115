"""What ``analyse`` is given, and what it carries from one window to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tychod.analysis.gpumemory import GpuMemory
from tychod.analysis.learned import Learned
from tychod.analysis.platform_memory import PlatformMemory
from tychod.model import Energy, GpuIdlePolicy, Identity, IdlePolicy, Usage
from tychod.samples import (
    CounterSample,
    CpuSample,
    CpuSeries,
    EnergySeries,
    GpuSeries,
    ProcessSeries,
    VmSeries,
)

LATE_NS: Final = 500_000_000
STALE_NS: Final = 1_500_000_000
"""Enough for sources that are read every 0.3 s or more often."""


class ProcessesSeen(NamedTuple):
    """What was seen of the processes in a window; there is none where they are not accounted."""

    series: ProcessSeries | None  # None: not read in this window
    reason: str | None  # which processes are not listed and why, or why none is
    boot_offset_ns: int  # wall clock minus time since boot, suspended time included


@dataclass(frozen=True, slots=True)
class Observations:
    """Everything that was seen of a window; ``identities`` covers every key of ``cpu``."""

    energy: tuple[EnergySeries, ...]
    cpu: CpuSeries | None
    identities: Mapping[int, Identity]
    wall_offset_ns: int
    processes: ProcessesSeen | None = None
    vms: VmSeries | None = None  # None: not read in this window
    gpus: GpuSeries | None = None  # None: there are none, or they are not read


@dataclass(frozen=True, slots=True)
class Params:
    """Settings of the analysis."""

    cpus: int
    late_tolerance_ns: int = LATE_NS  # energy this late still belongs to the window's first bin
    stale_ns: int = STALE_NS  # a zone whose last reading is older than this is stale
    terminated_age_ns: int = 600_000_000_000
    terminated_max: int = 500  # negative: no limit
    terminated_min_uj: int = 0  # an ended leaf with less is evicted at once
    process_ended_age_ns: int = 60_000_000_000
    processes_max: int = 2_000
    idle_policy: IdlePolicy = "system"
    gpu_idle: GpuIdlePolicy = "system"
    memory_bytes: int = 0  # of the node; 0: not known, so idle DRAM energy is not reserved


class ZonePoint(NamedTuple):
    """How far a zone has been booked: its native counter at a time, and what was booked so far."""

    t_ns: int
    native_uj: int | None  # None: another source took over the domain; begin anew when it is back
    booked_uj: int  # cumulative since the counters began
    domain: str


@dataclass(frozen=True, slots=True)
class DomainAccount:
    """Running totals of one hardware domain, in microjoules."""

    energy_uj: int = 0
    split: Energy = field(default_factory=Energy)
    attributed: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """Running totals of one leaf."""

    identity: Identity
    first_seen_ns: int  # wall clock
    inode: int | None = None  # of its cgroup: another one is another incarnation
    cpu_ns: int = 0
    energy: Mapping[str, Energy] = field(default_factory=dict)
    ended_ns: int | None = None  # monotonic end of the window in which its last cgroup was gone
    spread: Mapping[str, float] = field(default_factory=dict)  # variance of ``energy``, J^2
    requested: Mapping[str, int] = field(default_factory=dict)  # as last told, by resource
    ended_sequence: int | None = None  # of the snapshot that first showed it as ended
    vcpu_ns: int | None = None  # of ``cpu_ns``, by a virtual machine's CPUs; None: not known


class VmId(NamedTuple):
    """One hypervisor process."""

    pid: int
    start_ticks: int


class VmPoint(NamedTuple):
    """How far a hypervisor's CPU time has been credited."""

    cpu_ns: int  # its own counter
    vcpu_ns: int | None
    cgroup: int  # inode of the cgroup it was in, which outlives a key; a reserved key as it is


class ProcessId(NamedTuple):
    """One process in one leaf: a process that moves to another leaf has two."""

    pid: int
    start_ticks: int  # 10 ms since boot, as every method knows it
    leaf_id: str


@dataclass(frozen=True, slots=True)
class ProcessAccount:
    """Running totals of one process in one leaf."""

    comm: str
    start_wall_ns: int
    leaf_since_ns: int  # when the leaf's own account was opened: another one is another leaf
    cpu_ns: int = 0
    dynamic_uj: Mapping[str, int] = field(default_factory=dict)  # by domain
    ended_ns: int | None = None  # monotonic end of the window in which its end was seen


class ReadingId(NamedTuple):
    """One cumulative counter of a process, as its method has it."""

    pid: int
    start_ticks: int
    cgroup: int  # its id; 0 where the counter is of all cgroups together


@dataclass(frozen=True, slots=True)
class ProcessState:
    """Memory about processes; of ``read_ns`` only what is of a kept account survives a restart."""

    accounts: Mapping[ProcessId, ProcessAccount] = field(default_factory=dict)
    read_ns: Mapping[ReadingId, int] = field(default_factory=dict)  # counters as last read
    method: str | None = None  # of the last reading
    t_ns: int | None = None  # monotonic time of the last reading


@dataclass(frozen=True, slots=True)
class State:
    """Memory across windows; all but ``consumed_ns`` survives a restart on the same boot."""

    sequence: int = 0
    since_ns: int | None = None  # wall clock: when the counters began
    end_ns: int | None = None  # monotonic end of the last window
    restarted: bool = False  # the next window spans a restart of the daemon
    zones: Mapping[str, ZonePoint] = field(default_factory=dict)
    domains: Mapping[str, DomainAccount] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    learned: Mapping[str, Learned] = field(default_factory=dict)  # by domain and its activity
    consumed_ns: Mapping[int, int] = field(default_factory=dict)  # own CPU time credited, by key
    cpu_run: int = 0  # the series that those keys are of
    cpu_end: CpuSample | None = None  # CPU totals at ``end_ns``, for a restart to go on from
    violations: int = 0
    processes: ProcessState = field(default_factory=ProcessState)
    counters: CounterSample | None = None  # as last read; not saved
    vms: Mapping[VmId, VmPoint] = field(default_factory=dict)
    views: Mapping[str, Account] = field(default_factory=dict)  # VMs inside other leaves, by id
    folded: Mapping[str, Usage] = field(default_factory=dict)  # of evicted leaves, by view key
    gpus: Mapping[str, GpuMemory] = field(default_factory=dict)  # by uuid
    platform: PlatformMemory = field(default_factory=PlatformMemory)

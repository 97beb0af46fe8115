"""Raw observations: what was read, not what it means.  Units are in the names.

Counters are cumulative; a missed reading loses resolution, never energy or CPU time.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

KERNEL_KEY: Final = -1
"""Kernel threads, irq and softirq time."""
OUTSIDE_KEY: Final = -2
"""CPU time that no visible cgroup explains."""
ROOT_KEY: Final = -3
"""User processes that sit in the root cgroup itself."""
LOST_KEY: Final = -4
"""CPU time while nothing accounted it: between two lives of the kernel's maps."""


class EnergyZone(NamedTuple):
    """One energy counter of a source, as found by its probe."""

    key: str  # unique and stable within a boot: the source's name and the counter's path
    domain: str  # package, core, uncore, dram, psys, gpu, platform, other
    name: str  # as the hardware names it: package-0, package-0-die-1, dram
    socket: int | None
    max_range_uj: int  # the counter wraps after this value; 0: it never wraps
    max_power_w: float  # no real load exceeds this; tells a wrap from a reset
    idle_w: float | None = None  # known idle power (modelled sources only)


class PowerSensor(NamedTuple):
    """One power reading of a source, as found by its probe: watts that nobody has added up.

    It is another type than a counter because what happens between two readings is not known.
    """

    key: str  # unique and stable within a boot: the source's name and the reading's path
    domain: str  # as of a zone
    name: str  # as the hardware names it
    socket: int | None
    max_power_w: float  # no real load exceeds this: a reading above it is rejected and counted
    average_s: float = 0.0  # a value is the mean over so long before it; 0: momentary, or not told


class EnergySample(NamedTuple):
    """One reading of all counters and power sensors of a source.

    A source that tells when its values are new gives one sample for each value, dated by when it
    was published, and none while nothing is new.
    """

    t_ns: int  # monotonic, midpoint of the reading, or when the values were published
    energy_uj: tuple[int | None, ...]  # native counters in the order of the zones; None: not read
    power_uw: tuple[int | None, ...] = ()  # in the order of the sensors; None: not read
    half_ns: int = 0  # they were published within so long of ``t_ns``; 0: the source does not tell
    continued: bool = False  # nothing tells whether they are new: the same value was told again


@dataclass(frozen=True, slots=True)
class EnergySeries:
    """The samples of one source that a window needs: one before it, those in it, one after."""

    source: str
    quality: str  # "measured" | "modelled"
    zones: tuple[EnergyZone, ...]
    samples: tuple[EnergySample, ...]
    zone_reasons: Mapping[str, str]  # zone or sensor key -> why it cannot be read now
    delay_ns: int = 0  # a value is this much older than its reading
    sensors: tuple[PowerSensor, ...] = ()
    period_ns: int = 0  # how often it publishes or is read; 0: not known


class MigInstance(NamedTuple):
    """A part of a GPU that runs on its own (Multi-Instance GPU)."""

    uuid: str
    gpu_instance: int
    slices: int  # compute slices that it has
    memory_bytes: int | None
    profile: str  # as 1g.10gb; empty: not told


class GpuDevice(NamedTuple):
    """One GPU, as its driver describes it."""

    uuid: str  # "GPU-..."; stable over boots
    number: int  # as the driver counts them in this boot
    name: str
    pci: str
    max_power_w: float  # no real load exceeds this
    average_s: float  # what its averaged field is the mean over; 0: it has no such field
    sensor_s: float  # how much of the time before an update its momentary field saw; 0: not known
    period_s: float  # how often it publishes, as learned; 0: not known yet
    delay_s: float  # by which a value is older than its publication
    slices: int = 0  # compute slices of the whole device; 0: it is not divided
    instances: tuple[MigInstance, ...] = ()


class GpuSample(NamedTuple):
    """One published update of one GPU; None: the field does not exist or could not be read."""

    t_ns: int  # monotonic, of the reading; strictly increasing over all devices
    device: str  # uuid
    published_ns: int  # estimate of when the driver published it, inside the bracket of readings
    sd_ns: int  # its standard deviation
    energy_uj: int | None  # native counter, millijoules made microjoules
    instant_uw: int | None  # mean over ``sensor_s`` before the update
    average_uw: int | None  # mean over ``average_s`` before the update
    pstate: int | None = None  # performance state, 0 the fastest
    sm_percent: int | None = None  # share of time with work on the GPU, of the driver's own period
    memory_percent: int | None = None  # share of time with memory traffic
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    celsius: int | None = None
    missed: int = 0  # updates between this sample and the one before that nobody saw


class GpuProcess(NamedTuple):
    """One process on one GPU."""

    pid: int
    cgroups: tuple[str | None, str | None]  # its path in the v2 hierarchy and in v1's cpuacct
    key: int | None = None  # of its cgroup, as in CpuSample; None: not known
    sm_percent: float | None = None  # None: the driver does not tell
    memory_percent: float | None = None
    encoder_percent: float | None = None
    decoder_percent: float | None = None
    memory_bytes: int | None = None
    gpu_instance: int | None = None  # of a divided GPU


class GpuUse(NamedTuple):
    """Who was on one GPU: the processes at a moment, their use since the moment before."""

    t_ns: int  # monotonic
    device: str  # uuid
    since_ns: int  # the percentages are means from then on
    processes: tuple[GpuProcess, ...]
    activity: tuple[tuple[int, float], ...] = ()  # (GPU instance, busy share 0..1) where told
    reason: str | None = None  # why processes or their use are not told; None: they are


@dataclass(frozen=True, slots=True)
class GpuSeries:
    """The GPUs in one window, with a margin before and after it."""

    source: str
    devices: tuple[GpuDevice, ...]
    samples: tuple[GpuSample, ...]  # of all devices, in the order of reading
    uses: tuple[GpuUse, ...]  # of all devices, in the order of reading
    reasons: Mapping[str, str]  # uuid -> why it cannot be read now


class CgroupRef(NamedTuple):
    """A cgroup directory; the inode tells a re-created directory of the same path apart."""

    path: str  # below the hierarchy's root, "/" is the root
    inode: int


class CpuSample(NamedTuple):
    """Cumulative CPU time of every cgroup's own tasks (its children's not included).

    All arrays have shape ``(n,)`` and are read-only; ``keys`` is sorted.  A key never comes back
    once it is gone.  A key that is absent from an earlier sample had used 0 ns by then.
    """

    t_ns: int
    keys: Int64s
    own_ns: Int64s
    total_ns: Int64s  # native counters, as the method has them; kept for restarts
    idle_ns: int
    busy_ns: int = 0  # task and irq time of the node by /proc/stat: bridges a change of method
    package_ns: Int64s | None = None
    """Shape (packages, n): what of the own time ran on each package's CPUs, cumulative since the
    series began.  It says where, never how much; None: not known."""


class CounterSample(NamedTuple):
    """Hardware counters while each cgroup's tasks ran, cumulative, scaled for multiplexing.

    ``value`` and ``covered_ns`` have shape ``(len(names), len(keys))``; no covered time: no value.
    """

    stamp: int  # of the kernel's maps
    names: tuple[str, ...]
    keys: Int64s  # sorted
    value: Int64s
    covered_ns: Int64s
    t_ns: int = 0  # of the reading: with the CPU samples, a little after the newest of them


@dataclass(frozen=True, slots=True)
class CpuSeries:
    """The CPU samples that a window needs, and which cgroup each key stands for."""

    method: str  # "bpf-core" | "bpf-bcc" | "cgroup-v2" | "cgroup-v1"
    samples: tuple[CpuSample, ...]
    cgroups: Mapping[int, CgroupRef]
    run: int = 0  # another number: opened anew, and keys and own times began again
    stamp: int = 0  # which life of the native counters
    counters: CounterSample | None = None  # as last read; None: there are none
    away: Set[int] = frozenset()  # keys of an earlier collector that may come back
    packages: tuple[int, ...] = ()  # socket number of each row of ``package_ns``
    package_cpus: tuple[int, ...] = ()  # CPUs online in each


class VmUse(NamedTuple):
    """CPU time of one hypervisor process since it began, all its threads together.

    ``vm_key`` stands for the machine where a cgroup key would: it is negative, never used twice,
    and ``CpuSeries.cgroups`` and the identities know it.  None: the machine has a cgroup of its
    own, so only ``vcpu_ns`` matters.
    """

    pid: int
    start_ticks: int  # 10 ms since boot; with the pid it names a process for ever
    vm_key: int | None
    key: int  # of the cgroup that the process is in
    cpu_ns: int
    vcpu_ns: int | None  # part of it that guests' CPUs used; None: threads cannot be told apart


@dataclass(frozen=True, slots=True)
class VmSeries:
    """The hypervisors at one moment, normally the window's end."""

    t_ns: int
    uses: tuple[VmUse, ...]
    suspended_ns: int = 0  # CLOCK_BOOTTIME minus CLOCK_MONOTONIC: start ticks are in the former


class ProcessUse(NamedTuple):
    """What one process has used in one cgroup; one that moved has a row for each."""

    pid: int
    start_ns: int  # since boot, suspended time included; with the pid it names a process for ever
    comm: str
    key: int | None  # of its cgroup, as in CpuSample; None: it is not known yet, so book nothing
    cpu_ns: int  # cumulative
    exited: bool
    cgroup: int = 0  # id of the one cgroup that ``cpu_ns`` is counted in; 0: of all it was in


@dataclass(frozen=True, slots=True)
class ProcessSeries:
    """The processes at one moment; lossy by design, so no total is ever made of it."""

    t_ns: int
    method: str  # "bpf" | "procfs"
    uses: tuple[ProcessUse, ...]

"""Results: what the daemon publishes, as plain immutable data (no numpy, no I/O).

Energy is integer microjoules.  ``None`` means "not observed" or "does not apply", never zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

LeafKind = Literal["container", "vm", "unit", "kernel", "system", "past", "unattributed"]
Quality = Literal["measured", "modelled", "stale", "unavailable"]
IdlePolicy = Literal["system", "reserved", "proportional", "equal"]
GpuIdlePolicy = Literal["system", "allocated"]
SourceState = Literal["ok", "stalled", "unavailable", "off"]

KERNEL_ID: Final = "kernel"
SYSTEM_ID: Final = "system"
PAST_ID: Final = "past"
UNATTRIBUTED_ID: Final = "unattributed"

TOTAL_DOMAINS: Final = ("package", "dram", "gpu")
"""A workload's total; ``core`` and ``uncore`` are parts of ``package`` (design.md 6)."""


class Window(NamedTuple):
    """A half-open stretch ``(start, end]`` of the monotonic clock, in nanoseconds."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


class Energy(NamedTuple):
    """Idle and dynamic energy of one domain, cumulative, in microjoules."""

    idle_uj: int = 0
    dynamic_uj: int = 0

    @property
    def total_uj(self) -> int:
        """Idle plus dynamic, in microjoules."""
        return self.idle_uj + self.dynamic_uj


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a cgroup's energy belongs to; ``id`` and ``kind`` never change, names may come later."""

    kind: LeafKind
    id: str
    name: str
    namespace: str | None = None
    pod: str | None = None
    pod_uid: str | None = None
    runtime: str | None = None
    cgroup: str | None = None
    parent: str | None = None
    sandbox: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    names_from: str = "path"
    stale: bool = False
    reason: str | None = None
    owner: str | None = None
    qos: str | None = None
    tenant: str | None = None  # cgroup whose owner can make cgroups like this one; None: root's
    requests: Mapping[str, int] = field(default_factory=dict)  # cpu_millicores, memory_bytes
    description: str | None = None  # of a unit, as systemd tells it
    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by resource name
    pid: int | None = None  # of a virtual machine's hypervisor


@dataclass(frozen=True, slots=True)
class Leaf:
    """One workload with its cumulative energy by domain."""

    identity: Identity
    state: Literal["running", "terminated"]
    first_seen_ns: int  # wall clock, nanoseconds since 1970
    cpu_ns: int
    energy: Mapping[str, Energy]
    power_w: Mapping[str, float | None]
    counters: Mapping[str, int] = field(default_factory=dict)  # of the last window; absent: unknown
    sd_uj: Mapping[str, float] = field(default_factory=dict)  # of ``energy``, by domain
    window_sd_uj: Mapping[str, float] = field(default_factory=dict)  # of the last window's part
    intensity: Mapping[str, float] = field(default_factory=dict)  # joules per CPU second
    flags: tuple[str, ...] = ()  # of tychod.flags.LEAF_FLAGS
    ended_ns: int | None = None  # wall clock; None: running
    ended_sequence: int | None = None  # of the first snapshot that shows it as terminated
    vcpu_ns: int | None = None  # part of ``cpu_ns`` that a VM's vCPU threads used; None: not known

    @property
    def total(self) -> Energy:
        """Energy over the domains that make up a workload's total (psys without package)."""
        parts = [e for name, e in self.energy.items() if name in total_domains(self.energy)]
        return Energy(sum(e.idle_uj for e in parts), sum(e.dynamic_uj for e in parts))

    @property
    def total_power_w(self) -> float | None:
        """Mean power of the last window over the same domains; None when none is known."""
        return total_power_w(self.power_w)


def total_domains(names: Mapping[str, object]) -> tuple[str, ...]:
    """Return the domains that add up to a total: psys stands in where package is absent."""
    return TOTAL_DOMAINS if "package" in names or "psys" not in names else ("psys",)


def total_power_w(power_w: Mapping[str, float | None]) -> float | None:
    """Return the power over the domains that add up to a total; None when none is known."""
    known = [
        power
        for name, power in power_w.items()
        if power is not None and name in total_domains(power_w)
    ]
    return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class Process:
    """One process in one workload, cumulative since it was first seen there."""

    pid: int
    start_ns: int  # wall clock
    comm: str
    workload: str  # id of its leaf
    state: Literal["running", "terminated"]
    cpu_ns: int
    energy: Mapping[str, Energy]  # dynamic alone: idle energy is given to no process
    total_power_w: float | None


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of one window; a part of each leaf's energy may be with none of them."""

    method: str | None  # "bpf" | "procfs"; None: not read yet
    reason: str | None  # which processes are not listed and why
    entries: tuple[Process, ...]


ZoneMethod = Literal["counter", "power", "average"]
"""What a zone's energy is from: the meter's own counter, or readings of power that are added up:
momentary ones, or means over a time."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One meter of a domain: a socket's package, a die, a DRAM controller."""

    name: str
    socket: int | None
    energy_uj: int
    power_w: float | None
    quality: Quality
    reason: str | None = None
    uuid: str | None = None
    method: ZoneMethod = "counter"
    interval_s: float | None = None  # how far apart the added-up readings are; None: a counter


class IdleFloor(NamedTuple):
    """The power of a domain when nothing runs, as learned."""

    power_w: float
    sd_w: float
    age_s: float  # since the newest observation that went into it
    confidence: float  # 0: the guess it began with, to 1: the data alone


@dataclass(frozen=True, slots=True)
class Domain:
    """One hardware domain of the node, cumulative; idle/dynamic None where not attributed."""

    source: str
    quality: Quality
    reason: str | None
    through_ns: int | None  # monotonic: energy is known up to here
    energy_uj: int
    idle_uj: int | None
    dynamic_uj: int | None
    power_w: float | None
    zones: tuple[Zone, ...]
    idle_floor: IdleFloor | None = None  # None: not attributed, or the source itself knows it
    coverage: float | None = None  # 0..1, share of the last window with energy and CPU time seen
    flags: tuple[str, ...] = ()  # of tychod.flags.DOMAIN_FLAGS, of the last window


class Coefficient(NamedTuple):
    """How many watts of the whole machine come with a watt of one part, and how sure that is."""

    value: float
    sd: float


@dataclass(frozen=True, slots=True)
class PlatformFit:
    """How the machine's power is put together from its parts and the late readings of a meter."""

    method: Literal["hold", "fused"]  # the last reading held, or parts x coefficients + base
    reason: str | None  # why not fused, or what is wrong; None: nothing
    centroid_s: float | None  # delay + lag + half of the averaging: what the data can tell
    centroid_sd_s: float | None
    delay_s: float | None  # the most likely way to split the centroid up
    lag_s: float | None
    boxcar_s: float | None
    base_w: float | None
    base_sd_w: float | None
    coefficients: Mapping[str, Coefficient]  # by domain
    period_s: float | None  # between two readings of the meter
    readings: int  # that went into it
    rejected: int  # impossible or stuck ones that did not


@dataclass(frozen=True, slots=True)
class Residual:
    """What the platform used beyond its measured parts; all signed, cumulative microjoules.

    ``energy_uj = platform_uj - parts_uj = idle_uj + dynamic_uj``, over the time that both cover.
    """

    energy_uj: int
    idle_uj: int
    dynamic_uj: int
    platform_uj: int
    parts_uj: int
    power_w: float | None  # mean of the last window
    idle_w: float | None  # the quiet level, as learned; it moves both ways
    usable: bool  # the last window's figures may be believed
    reason: str | None  # why not
    through_ns: int | None  # monotonic: the ledger is closed up to here


GpuMethod = Literal["counter", "sampled-counter", "averages", "instants", "unknown"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of the node; energy cumulative, the rest of the last window or update."""

    uuid: str
    number: int  # as the driver counts them in this boot
    name: str
    pci: str
    quality: Quality
    reason: str | None
    energy: Energy
    power_w: float | None
    sd_w: float | None  # standard deviation of ``power_w``
    idle_w: float | None  # at the present performance state, as learned
    method: GpuMethod  # what its energy is made of
    period_s: float | None  # between two updates, as learned
    pstate: int | None
    sm_percent: int | None
    memory_percent: int | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    sm_mhz: int | None
    memory_mhz: int | None
    celsius: int | None
    workloads: Mapping[str, float]  # leaf id -> mean dynamic power of the last window, W
    allocated: tuple[str, ...]  # leaf ids that it, or a part of it, is assigned to
    instances: tuple[str, ...] = ()  # MIG profiles in use


class Usage(NamedTuple):
    """What evicted leaves had that belonged to one namespace or slice, cumulative."""

    cpu_ns: int
    energy: Mapping[str, Energy]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything known at the end of one window; immutable once published."""

    sequence: int
    window: Window
    since_ns: int  # wall clock: when the counters began
    wall_offset_ns: int  # wall = monotonic + offset, one for the whole window
    gap: bool  # this window spans a restart of the daemon
    domains: Mapping[str, Domain]
    leaves: tuple[Leaf, ...]
    conservation_violations: int = 0
    processes: Processes | None = None  # None: not accounted
    idle_policy: IdlePolicy = "system"
    gpu_idle_policy: GpuIdlePolicy = "system"
    views: tuple[Leaf, ...] = ()  # VMs whose energy another leaf holds; in no sum
    folded: Mapping[str, Usage] = field(default_factory=dict)  # of evicted leaves, by view key
    gpus: tuple[Gpu, ...] = ()
    fit: PlatformFit | None = None  # None: nothing measures the platform
    residual: Residual | None = None


class SourceDevice(NamedTuple):
    """When one device of a source publishes, as learned or calibrated."""

    name: str
    fingerprint: str  # device, driver and firmware
    period_s: float | None
    period_sd_s: float | None
    delay_s: float | None
    delay_sd_s: float | None
    origin: str  # "calibrated 2026-01-02", "learned" or "default"
    updates: int = 0  # how many it was followed for in this life of its source


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """Health of one source, as `tychoctl sources` shows it."""

    name: str
    enabled: bool | str
    state: SourceState
    quality: Quality
    reason: str | None
    remedy: str | None
    interval_s: float
    delay_s: float
    samples: int
    errors: int
    last_sample_ns: int | None  # monotonic
    late: int = 0
    absent: bool = False  # this host has no such thing: no fault, so not among the problems
    devices: tuple[SourceDevice, ...] = ()
    notes: tuple[str, ...] = ()  # what an operator should know, as that TLS is not verified


class AccountingFigures(NamedTuple):
    """What the accounting tells of its own quality, cumulative since it was opened."""

    late_ns: int = 0  # CPU time that is in the totals and whose bin is not known
    dropped: int = 0  # cgroups and records that found no room
    exhausted: int = 0  # readings that never found all CPUs at rest
    stalls: int = 0  # readings so late that their bins were lost


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Who answers and how CPU time is accounted: the head of every answer."""

    node: str
    boot_id: str
    version: str
    commit: str
    accounting_method: str
    accounting_reason: str
    hierarchy: str
    hierarchy_reason: str
    built: str = "unknown"  # when; RFC 3339
    accounting: AccountingFigures = field(default_factory=AccountingFigures)
    accounting_remedy: str | None = None  # what would let the kernel count where it does not


class Trouble(NamedTuple):
    """Something an operator may want to mend that is no source's own state."""

    source: str
    reason: str
    remedy: str | None


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The daemon's own state at the moment it is asked."""

    uptime_s: float
    state: Literal["starting", "running", "degraded"]
    since_ns: int | None  # wall clock; None before the first window
    cpu_percent: float  # of one core, since start
    rss_bytes: int
    conservation_violations: int
    config_rejected: str | None  # why the last reload was refused
    identity_routes: Mapping[str, str]  # route -> "ok" or the reason it is not used
    sources: tuple[SourceStatus, ...]
    troubles: tuple[Trouble, ...] = ()
    endpoint: Mapping[str, int] | None = None  # what came of requests for metrics; None: off
    state_directory: str | None = None  # where state is kept over restarts

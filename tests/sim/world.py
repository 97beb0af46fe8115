"""A simulated node with known truth: cgroups that run, counters that count, samples of both.

Everything follows from the description alone, so that two runs see the same world.  Times are
monotonic nanoseconds, energies microjoules.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, State
from tychod.model import Identity, Snapshot, Window
from tychod.samples import (
    KERNEL_KEY,
    OUTSIDE_KEY,
    ROOT_KEY,
    CgroupRef,
    CpuSample,
    CpuSeries,
    EnergySample,
    EnergySeries,
    EnergyZone,
    VmSeries,
    VmUse,
)
from tychod.views import PROCESS_MARK

MS = 1_000_000
RESERVED = {
    KERNEL_KEY: Identity("kernel", "kernel", "kernel"),
    OUTSIDE_KEY: Identity(
        "unattributed", "unattributed", "unattributed", reason="outside the visible cgroup tree"
    ),
    ROOT_KEY: Identity(
        "unattributed", "unattributed", "unattributed", reason="processes in the root cgroup"
    ),
}


@dataclass(frozen=True)
class Load:
    """One cgroup that uses a constant share of a CPU from birth to death."""

    key: int
    identity: Identity
    share: float
    born_ns: int = 0
    dies_ns: int = 1 << 62
    inode: int = 0
    path: str | None = None  # None: the workload's own cgroup

    @property
    def ref(self) -> CgroupRef:
        """The cgroup directory."""
        return CgroupRef(self.path or self.identity.cgroup or "/", self.inode or self.key + 1000)

    def own_ns(self, t_ns: int) -> int:
        """CPU time used until ``t_ns``."""
        lived = min(t_ns, self.dies_ns) - self.born_ns
        return max(0, int(lived * self.share))


@dataclass(frozen=True)
class Hypervisor:
    """A process that uses a part of its cgroup's time, while it lives; vCPUs have a part of that.

    ``vm_key`` None: the cgroup is the machine's own.
    """

    pid: int
    load: Load
    part: float
    vm_key: int | None = None
    vm_id: str = ""
    born_ns: int = 0
    dies_ns: int = 1 << 62
    vcpu_part: float | None = 0.9
    tenant: str | None = None  # None: its cgroup's path

    @property
    def start_ticks(self) -> int:
        """When it began, in units of 10 ms."""
        return self.born_ns // (10 * MS)

    @property
    def identity(self) -> Identity:
        """Who the machine is, where it has no cgroup."""
        path = self.load.ref.path
        return Identity(
            "vm",
            self.vm_id or f"qemu-{self.pid}-{self.start_ticks}",
            f"m{self.pid}",
            runtime="qemu",
            cgroup=f"{path}{PROCESS_MARK}{self.pid}-{self.start_ticks}",
            parent=self.load.identity.id,
            tenant=self.tenant or path,
            pid=self.pid,
        )

    @property
    def inode(self) -> int:
        """Stands for the process where a cgroup has its inode: it grows with the start."""
        return (self.start_ticks << 22) + self.pid

    def cpu_ns(self, t_ns: int) -> int:
        """CPU time used until ``t_ns``."""
        lived = self.load.own_ns(min(t_ns, self.dies_ns)) - self.load.own_ns(self.born_ns)
        return max(0, int(lived * self.part))

    def use(self, t_ns: int) -> VmUse:
        """What a reading shows."""
        cpu_ns = self.cpu_ns(t_ns)
        vcpu_ns = None if self.vcpu_part is None else int(cpu_ns * self.vcpu_part)
        return VmUse(self.pid, self.start_ticks, self.vm_key, self.load.key, cpu_ns, vcpu_ns)


@dataclass(frozen=True)
class Meter:
    """One energy counter: idle watts, watts per busy CPU, a range, and readings that fail."""

    zone: EnergyZone
    idle_w: float
    busy_w: float
    offset_uj: int = 0
    fails: tuple[tuple[int, int], ...] = ()  # stretches of time without a reading


@dataclass(frozen=True)
class World:
    """Loads and meters, sampled at given times."""

    loads: tuple[Load, ...]
    sources: Mapping[str, tuple[Meter, ...]]
    energy_times: tuple[int, ...]
    cpu_times: tuple[int, ...]
    hypervisors: tuple[Hypervisor, ...] = ()
    vms_late_ns: int = 0  # how long after a window's end they are read

    def energy_uj(self, meter: Meter, t_ns: int) -> int:
        """True energy since time 0, before wrapping."""
        busy_ns = sum(load.own_ns(t_ns) for load in self.loads)
        return int((meter.idle_w * t_ns + meter.busy_w * busy_ns) / 1_000)

    def reading(self, meter: Meter, t_ns: int) -> int | None:
        """What the counter shows; None while it cannot be read."""
        if any(a <= t_ns <= b for a, b in meter.fails):
            return None
        raw = self.energy_uj(meter, t_ns) + meter.offset_uj
        limit = meter.zone.max_range_uj
        return raw % limit if limit else raw

    def series(self, window: Window) -> tuple[EnergySeries, ...]:
        """The energy samples of a window."""
        times = cut(self.energy_times, window)
        return tuple(
            EnergySeries(
                name,
                "measured",
                tuple(m.zone for m in meters),
                tuple(EnergySample(t, tuple(self.reading(m, t) for m in meters)) for t in times),
                {},
            )
            for name, meters in self.sources.items()
        )

    def cpu_sample(self, t_ns: int) -> CpuSample:
        """CPU time of the cgroups that are there."""
        there = [load for load in self.loads if load.born_ns <= t_ns < load.dies_ns]
        there.sort(key=lambda load: load.key)
        keys = np.array([load.key for load in there], np.int64)
        own = np.array([load.own_ns(t_ns) for load in there], np.int64)
        return CpuSample(t_ns, keys, own, own, 0)

    def observe(self, window: Window) -> Observations:
        """Everything that is seen of a window."""
        cpu = CpuSeries(
            "cgroup-v2",
            tuple(self.cpu_sample(t) for t in cut(self.cpu_times, window)),
            {load.key: load.ref for load in self.loads if load.key >= 0},
        )
        identities = RESERVED | {load.key: load.identity for load in self.loads}
        seen = Observations(self.series(window), cpu, identities, wall_offset_ns=10**18)
        return self.with_vms(seen, window.end_ns + self.vms_late_ns) if self.hypervisors else seen

    def with_vms(self, seen: Observations, t_ns: int) -> Observations:
        """Add the hypervisors, read at a moment, as the daemon tells analysis of them."""
        there = [h for h in self.hypervisors if h.born_ns <= t_ns < h.dies_ns]
        known = {h.vm_key: h for h in there if h.vm_key is not None}
        cgroups = dict(seen.cpu.cgroups) if seen.cpu else {}
        for key, h in known.items():
            cgroups[key] = CgroupRef(h.identity.cgroup or "", h.inode)
        return replace(
            seen,
            cpu=replace(seen.cpu, cgroups=cgroups) if seen.cpu else None,
            identities={**seen.identities, **{key: h.identity for key, h in known.items()}},
            vms=VmSeries(t_ns, tuple(h.use(t_ns) for h in there)),
        )

    def run(
        self, edges: Sequence[int], params: Params, state: State | None = None
    ) -> list[Snapshot]:
        """Analyse the windows between consecutive edges; return their snapshots."""
        return [snapshot for snapshot, _ in self.steps(edges, params, state)]

    def steps(
        self, edges: Sequence[int], params: Params, state: State | None = None
    ) -> Iterable[tuple[Snapshot, State]]:
        """Analyse window by window, with the state after each."""
        now = state or State()
        for start, end in pairwise(edges):
            window = Window(start, end)
            snapshot, now = analyse(self.observe(window), window, now, params)
            yield snapshot, now

    def without(self, *sources: str) -> "World":
        """The same world with some energy sources taken away."""
        return replace(self, sources={k: v for k, v in self.sources.items() if k not in sources})


def cut(times: Sequence[int], window: Window) -> tuple[int, ...]:
    """Return the times in the window, the last before it and the first after it."""
    before = [t for t in times if t <= window.start_ns][-1:]
    inside = [t for t in times if window.start_ns < t < window.end_ns]
    after = [t for t in times if t >= window.end_ns and t > window.start_ns][:1]
    return (*before, *inside, *after)


def container(number: int, pod: int | None = None) -> Identity:
    """A container of a pod."""
    uid = None if pod is None else f"uid-{pod}"
    container_id = f"{number:064x}"
    return Identity(
        "container",
        container_id,
        f"c{number}",
        namespace="default" if uid else None,
        pod=f"pod-{pod}" if uid else None,
        pod_uid=uid,
        cgroup=f"/kubepods/pod{uid}/{container_id}",
    )


def unit(name: str) -> Identity:
    """A systemd unit."""
    return Identity("unit", name, name, cgroup=f"/system.slice/{name}")


def zone(
    name: str = "package-0", limit_uj: int = 262_143_328_850, max_w: float = 1000.0
) -> EnergyZone:
    """A RAPL zone."""
    domain = name.partition("-")[0]
    return EnergyZone(f"rapl:{name}", domain, name, 0, limit_uj, max_w)

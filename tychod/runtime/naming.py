"""Wires the finding of names together: host files, kubelet, systemd, hypervisors, registry."""

import itertools
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tychod.clock import Clock
from tychod.config import Config
from tychod.hostfs import Host, node_name
from tychod.model import Identity, Snapshot, SourceStatus
from tychod.runtime.metadata import Cgroups, Hierarchy, Metadata, Sources
from tychod.runtime.problems import SETTLED_NS
from tychod.runtime.sources import switched_off
from tychod.runtime.vms import VmSampler
from tychod.samples import CgroupRef
from tychod.workloads.asked import Others
from tychod.workloads.births import Births
from tychod.workloads.devices import DeviceRoutes
from tychod.workloads.firework import Firework
from tychod.workloads.kubelet import Kubelet
from tychod.workloads.machines import FIRST_KEY
from tychod.workloads.nurseries import Nurseries
from tychod.workloads.paths import identify
from tychod.workloads.registry import Registry
from tychod.workloads.units import Units
from tychod.workloads.vmprocs import ThreadTimes, VmFinder

MOST_AT_ONCE: Final = 1_000
"""Paths that analysis looks at itself, a twentieth of a second: it may not wait for a tenant."""
NAMELESS: Final = "no way gives the names of {} containers of pods, and {}"
OPTIONAL: Final = (
    "it is optional: on a Kubernetes node it alone tells owners, labels and requests of pods"
)


class Naming(NamedTuple):
    """What finds names, and what reads the CPU time of machines; not started."""

    metadata: Metadata
    kubelet: Kubelet | None
    machines: VmSampler | None


def build_naming(
    host: Host,
    config: Config,
    read_cgroups: Callable[[], Cgroups],
    clock: Clock,
    crashed: Callable[[str], None],
) -> Naming:
    """Return the threads that find out who workloads are, as the settings want them."""
    sources = _sources(host, config)
    machine_keys = itertools.count(FIRST_KEY, -1)

    def hierarchy_at(cgroups: Cgroups) -> Hierarchy:
        others = Others(sources.units, sources.devices, sources.agent, machine_keys)
        registry = Registry(host, cgroups.root, sources.kubelet, others)
        births = Births(host, cgroups.root)
        if not config.workloads.vms:
            return Hierarchy(cgroups.root, registry, births)
        finder = VmFinder(host, cgroups.version)
        return Hierarchy(cgroups.root, registry, births, finder, Nurseries(host, cgroups.root))

    machines = VmSampler(ThreadTimes(host), clock, crashed) if config.workloads.vms else None
    metadata = Metadata(hierarchy_at, sources, read_cgroups, clock, crashed, machines)
    return Naming(metadata, sources.kubelet, machines)


def _sources(host: Host, config: Config) -> Sources:
    kubelet = config.kubelet
    address = config.workloads.firework_status
    return Sources(
        None if kubelet.enabled is False else Kubelet(kubelet, host, node_name()),
        Units(config.workloads.units),
        None if kubelet.enabled is False else DeviceRoutes(kubelet, host),
        Firework(address) if address else None,
    )


def complete(
    identities: Mapping[int, Identity], cgroups: Mapping[int, CgroupRef]
) -> Mapping[int, Identity]:
    """Return the identities with those of brand-new cgroups added, from their paths alone.

    A machine's id is not in its path: it stays unknown until its hypervisor has been found.
    """
    missing = [key for key in cgroups if key not in identities]
    if not missing:
        return identities
    del missing[MOST_AT_ONCE:]  # the rest is named when the identity thread has got there
    found = ((key, identify(cgroups[key].path)) for key in missing)
    return {**identities, **{key: who for key, who in found if who and who.kind != "vm"}}


def count_nameless(snapshot: Snapshot | None) -> int:
    """Return how many containers of pods nobody has given a name, though there was time to."""
    if snapshot is None:
        return 0
    settled_ns = snapshot.window.end_ns + snapshot.wall_offset_ns - SETTLED_NS
    return sum(
        leaf.state == "running"
        and leaf.first_seen_ns <= settled_ns
        and leaf.identity.pod_uid is not None
        and leaf.identity.pod is None
        for leaf in snapshot.leaves
    )


def kubelet_status(kubelet: Kubelet | None, config: Config, *, nameless: int) -> SourceStatus:
    """Return the kubelet's row for ``tychoctl sources``; ``nameless``: containers without a name.

    Its credential is optional: without one it counts as absent as long as other ways give every
    pod its name, as on a host that is no Kubernetes node.
    """
    settings = config.kubelet
    if kubelet is None:
        return switched_off("kubelet", settings.interval)
    status = kubelet.status()
    problem = status.problem
    good = problem is None and status.answers > 0
    is_unasked = problem is not None and problem == kubelet.probe()
    reason = problem.reason if problem else None if good else "not asked yet"
    if is_unasked and nameless:
        reason = NAMELESS.format(nameless, reason)
    return SourceStatus(
        name="kubelet",
        enabled=settings.enabled,
        state="ok" if good else "stalled" if status.answers else "unavailable",
        quality="measured" if good else "stale" if status.answers else "unavailable",
        reason=reason,
        remedy=problem.remedy if problem else None,
        interval_s=settings.interval,
        delay_s=0.0,
        samples=status.answers,
        errors=status.errors,
        last_sample_ns=status.last_good_ns,
        absent=is_unasked and not nameless,
        notes=(OPTIONAL,) if is_unasked and not nameless else (),
    )

"""Wires the finding of names together: host files, kubelet, registry."""

from collections.abc import Callable, Mapping

from tychod.clock import Clock
from tychod.config import Config
from tychod.hostfs import Host, node_name
from tychod.model import Identity, SourceStatus
from tychod.runtime.metadata import Cgroups, Metadata
from tychod.runtime.sources import switched_off
from tychod.samples import CgroupRef
from tychod.workloads.kubelet import Kubelet
from tychod.workloads.paths import identify
from tychod.workloads.registry import Registry


def build_metadata(
    host: Host,
    config: Config,
    read_cgroups: Callable[[], Cgroups],
    clock: Clock,
    crashed: Callable[[str], None],
) -> tuple[Metadata, Kubelet | None]:
    """Return the identity thread, not started, and the kubelet client it owns, if enabled."""
    kubelet = (
        None if config.kubelet.enabled is False else Kubelet(config.kubelet, host, node_name())
    )

    def registry_at(root: str) -> Registry:
        return Registry(host, root, kubelet)

    return Metadata(registry_at, kubelet, read_cgroups, clock, crashed), kubelet


def complete(
    identities: Mapping[int, Identity], cgroups: Mapping[int, CgroupRef]
) -> Mapping[int, Identity]:
    """Return the identities with those of brand-new cgroups added, from their paths alone."""
    missing = [key for key in cgroups if key not in identities]
    if not missing:
        return identities
    found = ((key, identify(cgroups[key].path)) for key in missing)
    return {**identities, **{key: identity for key, identity in found if identity}}


def kubelet_status(kubelet: Kubelet | None, config: Config, *, pods_seen: bool) -> SourceStatus:
    """Return the kubelet's row for ``tychoctl sources``.

    Where no pod was ever seen there is nothing to remedy: not every host is a Kubernetes node.
    """
    settings = config.kubelet
    if kubelet is None:
        return switched_off("kubelet", settings.interval)
    status = kubelet.status()
    problem = status.problem
    good = problem is None and status.answers > 0
    wanted = pods_seen or settings.enabled is True or status.errors > 0
    return SourceStatus(
        name="kubelet",
        enabled=settings.enabled,
        state="ok" if good else "stalled" if status.answers else "unavailable",
        quality="measured" if good else "stale" if status.answers else "unavailable",
        reason=problem.reason if problem else None if good else "not asked yet",
        remedy=problem.remedy if problem and wanted else None,
        interval_s=settings.interval,
        delay_s=0.0,
        samples=status.answers,
        errors=status.errors,
        last_sample_ns=status.last_good_ns,
    )

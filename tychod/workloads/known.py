"""What is known of one named cgroup, and the identity that follows from it; nothing is read.

The path's facts come first, then the host's files, then the kubelet's, then systemd's: a later
source adds what the earlier ones did not say and never takes anything back, but for a name that a
command line or a log link alone gave.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

from tychod.model import Identity
from tychod.views import pod_key
from tychod.workloads.hostfiles import PAUSE, Names
from tychod.workloads.pods import Container, Pod

SECOND_NS: Final = 1_000_000_000
ATTEMPTS_NS: Final = tuple(round(s * SECOND_NS) for s in (0, 0.1, 0.5, 1, 3))
"""When a container's host files are read, after its cgroup was first seen (log links come late)."""
LATER_NS: Final = 30 * SECOND_NS

GUESSES: Final = ("cmdline", "path")
"""Sources of a name outside of pods, which the kubelet's own name replaces."""

Devices = Mapping[str, tuple[str, ...]]


class UnitFacts(Protocol):
    """What systemd tells of a unit."""

    @property
    def description(self) -> str:
        """Its title; empty: none."""


@dataclass(slots=True, eq=False)
class Known:
    """One named cgroup: what its path says, and what has been learned of it since."""

    base: Identity
    identity: Identity
    first_ns: int
    keys: set[int] = field(default_factory=set)
    attempts: int = 0
    attempt_ns: int = 0  # when its host files are read next
    names: Names | None = None
    listed: tuple[Container, Pod] | None = None  # by the kubelet, under this container's id
    sandbox_by_exclusion: bool = False
    unit: UnitFacts | None = None

    @property
    def is_named(self) -> bool:
        """Whether the container's own name is known."""
        return self.names is not None or self.listed is not None or self.sandbox_by_exclusion

    @property
    def is_sandbox(self) -> bool:
        """Whether it is a pod's pause container."""
        if self.names is not None:
            return self.names.sandbox
        return self.base.sandbox or (self.listed is None and self.sandbox_by_exclusion)

    @property
    def is_hosts(self) -> bool:
        """Whether the host's own runtime made it: only then do host files and kubelet mean it."""
        return self.base.tenant is None

    @property
    def pod_uid(self) -> str | None:
        """The path's pod uid, which nothing overrides, else what was learned."""
        learned = self.names.pod_uid if self.names else None
        return self.base.pod_uid or learned or (self.listed[1].uid if self.listed else None)

    @property
    def hosts_pod(self) -> str | None:
        """The uid of the host's own pod that it is in; pods of clusters inside have none here."""
        uid = self.pod_uid
        return uid if self.is_hosts or pod_key(self.base) == uid else None

    @property
    def told(self) -> Names | None:
        """What the host says of it: a command line counts only while the kubelet says nothing."""
        is_guess = self.names is not None and self.names.source in GUESSES
        return None if is_guess and self.listed else self.names

    @property
    def own_name(self) -> str:
        """The name of the container, or of what else it is."""
        if self.listed and self.names and self.names.source == "log-link":
            return self.listed[0].name
        if self.told:
            return self.told.container
        if self.listed:
            return self.listed[0].name
        return PAUSE if self.is_sandbox else self.base.name

    def postpone(self, now_ns: int) -> None:
        """Set when its host files are read next: soon after its birth, then rarely."""
        self.attempts += 1
        if self.attempts < len(ATTEMPTS_NS):
            pauses = [later - earlier for earlier, later in pairwise(ATTEMPTS_NS)]
            self.attempt_ns = now_ns + pauses[self.attempts - 1]
        else:
            self.attempt_ns = now_ns + LATER_NS


class PodFacts(NamedTuple):
    """What is known of the pod that a workload is in."""

    pod: Pod | None
    others: Iterable[Known]  # what else is in it: one that has the pod's names gives them
    is_stale: bool


def merge(known: Known, facts: PodFacts) -> Identity:
    """Return who it is, of all that is known."""
    base, names, pod = known.base, known.told, facts.pod
    if base.kind == "unit" and base.pod_uid is None:
        title = known.unit.description if known.unit else ""
        return replace(base, description=title, names_from="systemd") if title else base
    pod_name, namespace = _pod_names(known, facts)
    return replace(
        base,
        name=known.own_name,
        namespace=namespace,
        pod=pod_name,
        pod_uid=known.pod_uid,
        runtime=_runtime(known),
        sandbox=known.is_sandbox,
        labels=pod.labels if pod else names.labels if names else base.labels,
        names_from=names.source if names else "kubelet" if pod else base.names_from,
        stale=pod is not None and facts.is_stale,
        owner=pod.owner if pod else None,
        qos=base.qos or (pod.qos if pod else None),
        requests=_requests(known, pod) or base.requests,
    )


def _pod_names(known: Known, facts: PodFacts) -> tuple[str | None, str | None]:
    """Return pod and namespace: its own files', the kubelet's, those of the pod's others."""
    if facts.pod and not (known.names and known.names.source == "bundle"):
        return facts.pod.name, facts.pod.namespace  # who can write a log link can be anybody
    if known.names and known.names.pod:
        return known.names.pod, known.names.namespace
    if facts.pod:
        return facts.pod.name, facts.pod.namespace
    for other in facts.others:
        if other.names and other.names.pod:
            return other.names.pod, other.names.namespace
    return None, None


def _requests(known: Known, pod: Pod | None) -> dict[str, int]:
    """Return what the kubelet says that a container asked for; empty where it says nothing."""
    if pod is None or not known.is_hosts or known.is_sandbox or known.base.kind != "container":
        return {}
    asked = pod.requests.get(known.own_name)
    if asked is None:
        return {}
    named = {"cpu_millicores": asked.cpu_millicores, "memory_bytes": asked.memory_bytes}
    return {name: amount for name, amount in named.items() if amount is not None}


def _runtime(known: Known) -> str | None:
    """Return the runtime; the path of a pod under cgroupfs does not tell it, the others do."""
    if known.base.runtime not in {"kubernetes", None}:
        return known.base.runtime
    if known.names and known.names.source == "bundle":
        return known.names.runtime or "containerd"
    if known.names and known.names.runtime:
        return known.names.runtime
    listed = known.listed[0].runtime if known.listed else None
    return listed or known.base.runtime

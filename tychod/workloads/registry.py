"""Which workload each cgroup is, kept as long as the cgroup: paths first, then names as they come.

Kind and id are fixed by the path at first sight; pod, namespace, container name and labels arrive
from the host's files and the kubelet, and what was learned is never taken back by a later answer.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Protocol

from tychod.hostfs import Host
from tychod.model import KERNEL_ID, Identity
from tychod.samples import KERNEL_KEY, LOST_KEY, OUTSIDE_KEY, ROOT_KEY, CgroupRef
from tychod.workloads.hostfiles import PAUSE, Bundles, CommandLines, LogLinks, Names
from tychod.workloads.paths import identify, name_from_cmdline, unattributed, unnamed_reason
from tychod.workloads.pods import Container, Pod, PodView

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
ATTEMPTS_NS: Final = tuple(round(s * SECOND_NS) for s in (0, 0.1, 0.5, 1, 3))
"""When a container's host files are read, after its cgroup was first seen (log links come late)."""
LATER_NS: Final = 30 * SECOND_NS
QUESTIONS_NS: Final = tuple(round(s * SECOND_NS) for s in (0.05, 1, 3))
"""When the kubelet is asked about an unknown container; its list lags 0.03-2.6 s (measured)."""
SETTLED_NS: Final = 3 * SECOND_NS
"""A child of a pod that the kubelet still does not list after this long is the pod's sandbox."""

CLAIMS_PAUSE_NS: Final = 60 * SECOND_NS
"""Anybody with a cgroup of his own can claim ids at any rate; the log hears of it this often."""

_OUTSIDE_KUBERNETES: Final = ("docker", "podman")
_ROOT: Final = "processes in the root cgroup"


class PodSource(Protocol):
    """What the registry sees of the kubelet client."""

    @property
    def view(self) -> PodView | None:
        """The last good answer; replaced, never changed."""

    @property
    def asked_ns(self) -> int | None:
        """When the last question began."""

    @property
    def route(self) -> str:
        """How names come this way: ok, or why they do not, and what to do."""

    def is_stale(self, now_ns: int) -> bool:
        """Say whether what it told may have changed meanwhile."""


@dataclass(slots=True, eq=False)
class _Workload:
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

    @property
    def is_named(self) -> bool:
        """Whether the container's own name is known."""
        return self.names is not None or self.listed is not None or self.sandbox_by_exclusion

    @property
    def is_sandbox(self) -> bool:
        """Whether it is a pod's pause container."""
        if self.names is not None:
            return self.names.sandbox
        return self.listed is None and self.sandbox_by_exclusion

    @property
    def is_hosts(self) -> bool:
        """Whether the host's own runtime made it: only then do host files and kubelet mean it."""
        return self.base.tenant is None

    @property
    def pod_uid(self) -> str | None:
        """The path's pod uid, which nothing overrides, else what was learned."""
        learned = self.names.pod_uid if self.names else None
        return self.base.pod_uid or learned or (self.listed[1].uid if self.listed else None)


class Registry:
    """The mapping from cgroup keys to identities; owned by one thread."""

    def __init__(self, host: Host, cgroup_root: str, kubelet: PodSource | None = None) -> None:
        self._bundles = Bundles(host)
        self._links = LogLinks(host)
        self._cmdlines = CommandLines(host, cgroup_root)
        self._kubelet = kubelet
        self._workloads: dict[str, _Workload] = {}  # by the workload's own cgroup path
        self._of_key: dict[int, _Workload | None] = {}  # None: nobody's
        self._of_pod: dict[str, set[_Workload]] = {}
        self._of_id: dict[str, set[_Workload]] = {}  # containers; more than one: a false claim
        self._contested: set[str] = set()  # ids of such, to be told in the log
        self._told_ns: int | None = None
        self._nameless: set[_Workload] = set()  # whose host files are still to be read
        self._unknown: set[_Workload] = set()  # whom the kubelet has not told us about
        self._pods: dict[str, Pod] = {}
        self._listed: dict[str, tuple[Container, Pod]] = {}  # by container id, last answer
        self._view: PodView | None = None
        self._stale = False
        self._result: dict[int, Identity] = {
            KERNEL_KEY: Identity("kernel", KERNEL_ID, KERNEL_ID),
            OUTSIDE_KEY: unattributed("outside the visible cgroup tree"),
            ROOT_KEY: unattributed(_ROOT),
            LOST_KEY: unattributed("CPU time while accounting was detached"),
        }
        self.wants_kubelet = False

    @property
    def routes(self) -> Mapping[str, str]:
        """Each way to names: "ok", or why it gives none and what to do."""
        return {
            "bundle": self._bundles.route,
            "log-link": self._links.route,
            "kubelet": self._kubelet.route if self._kubelet else "off in the configuration",
        }

    def update(self, cgroups: Mapping[int, CgroupRef], now_ns: int) -> Mapping[int, Identity]:
        """Return who each cgroup is, reserved keys included; a new mapping only after a change.

        ``cgroups`` holds recently ended ones too: a workload is forgotten with its last key.
        """
        changed: set[_Workload] = set()
        if cgroups.keys() != self._of_key.keys():
            self._result = dict(self._result)
            self._forget(self._of_key.keys() - cgroups.keys())
            for key in cgroups.keys() - self._of_key.keys():
                changed |= self._add(key, cgroups[key].path, now_ns)
        changed |= self._ask_host(now_ns)
        changed |= self._listen(now_ns)
        self._tell_claims(now_ns)
        self._publish(changed)
        self.wants_kubelet = self._is_question_due(now_ns)
        return self._result

    def _add(self, key: int, path: str, now_ns: int) -> set[_Workload]:
        base = identify(path)
        if base is None:
            reason = unnamed_reason(path) if path.strip("/") else _ROOT
            self._of_key[key] = None
            self._result[key] = unattributed(reason)
            return set()
        cgroup = base.cgroup or path
        workload = self._workloads.get(cgroup)
        if workload is None:
            workload = self._workloads[cgroup] = _Workload(base, base, now_ns)
            self._welcome(workload, now_ns)
        workload.keys.add(key)
        self._of_key[key] = workload
        self._result[key] = workload.identity
        return {workload}

    def _welcome(self, workload: _Workload, now_ns: int) -> None:
        base = workload.base
        if base.pod_uid:
            self._of_pod.setdefault(base.pod_uid, set()).add(workload)
        if base.kind == "container":
            workload.attempt_ns = now_ns
            self._nameless.add(workload)
            self._claim(workload)
            if workload.is_hosts:
                workload.listed = self._listed.get(base.id)
                if base.pod_uid:
                    self._unknown.add(workload)

    def _claim(self, workload: _Workload) -> None:
        claimants = self._of_id.setdefault(workload.base.id, set())
        claimants.add(workload)
        if len(claimants) > 1:
            self._contested.add(workload.base.id)

    def _tell_claims(self, now_ns: int) -> None:
        """Say which container ids came to be claimed by several cgroups."""
        is_early = self._told_ns is not None and now_ns - self._told_ns < CLAIMS_PAUSE_NS
        if not self._contested or is_early:
            return
        example = min(self._contested)
        log.warning(
            "two cgroups claim container %s (%d such since the last line): the energy of one"
            " stays with what encloses it; cgroups: %s",
            example,
            len(self._contested),
            " and ".join(sorted(repr(w.base.cgroup) for w in self._of_id[example])),
        )
        self._contested, self._told_ns = set(), now_ns

    def _forget(self, keys: Iterable[int]) -> None:
        for key in keys:
            workload = self._of_key.pop(key)
            del self._result[key]
            if workload is None:
                continue
            workload.keys.discard(key)
            if not workload.keys:
                del self._workloads[workload.base.cgroup or ""]
                self._dismiss(workload)

    def _dismiss(self, workload: _Workload) -> None:
        self._nameless.discard(workload)
        self._unknown.discard(workload)
        base = workload.base
        if base.kind == "container":
            _take_out(self._of_id, base.id, workload)
            if len(self._of_id.get(base.id, ())) < 2:
                self._contested.discard(base.id)
        if base.pod_uid is not None:
            _take_out(self._of_pod, base.pod_uid, workload)

    def _ask_host(self, now_ns: int) -> set[_Workload]:
        """Read the files of containers without a name whose time has come; return who gained."""
        changed: set[_Workload] = set()
        for workload in [w for w in self._nameless if now_ns >= w.attempt_ns]:
            if not workload.is_named:
                workload.names = self._read_names(workload, now_ns)
            if workload.is_named:
                self._nameless.discard(workload)
            else:
                _schedule(workload, now_ns)
            if workload.names is not None:
                changed |= {workload} | self._of_pod.get(workload.pod_uid or "", set())
        return changed

    def _read_names(self, workload: _Workload, now_ns: int) -> Names | None:
        base = workload.base
        names = None
        if workload.is_hosts and (base.pod_uid or base.runtime not in _OUTSIDE_KUBERNETES):
            names = self._bundles.read(base.id) or self._links.read(base.id, now_ns)
        if names is None and base.pod_uid is None:
            argv = self._cmdlines.read(base.cgroup or "")
            if argv:  # asked once: a later process of the container says nothing about its name
                name = name_from_cmdline(argv)
                return Names("cmdline", name) if name else Names("path", base.name)
        return names

    def _listen(self, now_ns: int) -> set[_Workload]:
        """Take over a new answer of the kubelet, or the news that its answers have become old."""
        if self._kubelet is None:
            return set()
        view, stale = self._kubelet.view, self._kubelet.is_stale(now_ns)
        if view is self._view and stale == self._stale:
            return set()
        fresh, self._view, self._stale = view is not self._view, view, stale
        if fresh and view is not None:
            self._absorb(view)
        return set(self._workloads.values())

    def _absorb(self, view: PodView) -> None:
        # A pod that the answer lacks is kept while it has a cgroup: a removed static pod leaves the
        # list at once and runs on for its whole grace period (observed with kubelet v1.36).
        kept = {uid: pod for uid, pod in self._pods.items() if uid in self._of_pod}
        self._pods = kept | {pod.uid: pod for pod in view.pods}
        self._listed = {c.id: (c, pod) for pod in view.pods for c in pod.containers}
        for workload in (w for w in self._workloads.values() if w.is_hosts):
            workload.listed = self._listed.get(workload.base.id, workload.listed)
        for pod in view.pods:
            self._find_sandbox(pod.uid, view.asked_ns)

    def _find_sandbox(self, uid: str, asked_ns: int) -> None:
        """Mark the one child of a pod that the kubelet does not list: it never lists sandboxes."""
        members = (w for w in self._of_pod.get(uid, ()) if w.base.kind == "container")
        children = [w for w in members if w.is_hosts]
        unlisted = [w for w in children if not w.is_named]
        if len(unlisted) != 1 or any(w.is_sandbox for w in children):
            return
        if unlisted[0].first_ns + SETTLED_NS <= asked_ns:
            unlisted[0].sandbox_by_exclusion = True

    def _publish(self, changed: set[_Workload]) -> None:
        merged = [(w, new) for w in changed if (new := self._merge(w)) != w.identity]
        if not merged:
            return
        self._result = dict(self._result)
        for workload, identity in merged:
            workload.identity = identity
            self._result.update(dict.fromkeys(workload.keys, identity))

    def _merge(self, workload: _Workload) -> Identity:
        """Return what is known: the path's facts, then the host's files, then the kubelet's."""
        base, names = workload.base, workload.names
        if base.kind == "unit" and base.pod_uid is None:
            return base
        uid = workload.pod_uid
        pod = self._pods.get(workload.listed[1].uid if workload.listed else uid or "")
        pod = pod or (workload.listed[1] if workload.listed else None)
        pod_name, namespace = self._pod_names(workload, pod)
        return replace(
            base,
            name=_own_name(workload),
            namespace=namespace,
            pod=pod_name,
            pod_uid=uid,
            runtime=_runtime(workload),
            sandbox=workload.is_sandbox,
            labels=pod.labels if pod else {},
            names_from=names.source if names else "kubelet" if pod else "path",
            stale=pod is not None and self._stale,
            owner=pod.owner if pod else None,
            qos=base.qos or (pod.qos if pod else None),
            requests=_requests(workload, pod),
        )

    def _pod_names(self, workload: _Workload, pod: Pod | None) -> tuple[str | None, str | None]:
        """Return pod and namespace: its own files', the kubelet's, those of the pod's others."""
        if workload.names and workload.names.pod:
            return workload.names.pod, workload.names.namespace
        if pod:
            return pod.name, pod.namespace
        for other in self._of_pod.get(workload.pod_uid or "", ()):
            if other.names and other.names.pod:
                return other.names.pod, other.names.namespace
        return None, None

    def _is_question_due(self, now_ns: int) -> bool:
        """Say whether an unknown container is a reason to ask the kubelet out of turn."""
        if self._kubelet is None:
            return False
        self._unknown = {
            w for w in self._unknown if not (w.is_named and w.base.pod_uid in self._pods)
        }
        asked_ns = self._kubelet.asked_ns
        for workload in self._unknown:
            due = [d for q in QUESTIONS_NS if (d := workload.first_ns + q) <= now_ns]
            if due and (asked_ns is None or asked_ns < due[-1]):
                return True
        return False


def _take_out(groups: dict[str, set[_Workload]], key: str, workload: _Workload) -> None:
    members = groups[key]
    members.discard(workload)
    if not members:
        del groups[key]


def _requests(workload: _Workload, pod: Pod | None) -> dict[str, int]:
    """Return what the kubelet says that a container asked for; empty where it says nothing."""
    if pod is None or not workload.is_hosts or workload.is_sandbox:
        return {}
    asked = pod.requests.get(_own_name(workload)) if workload.base.kind == "container" else None
    if asked is None:
        return {}
    named = {"cpu_millicores": asked.cpu_millicores, "memory_bytes": asked.memory_bytes}
    return {name: amount for name, amount in named.items() if amount is not None}


def _schedule(workload: _Workload, now_ns: int) -> None:
    """Set when a container's host files are read next: soon after its birth, then rarely."""
    workload.attempts += 1
    if workload.attempts < len(ATTEMPTS_NS):
        pauses = [later - earlier for earlier, later in pairwise(ATTEMPTS_NS)]
        workload.attempt_ns = now_ns + pauses[workload.attempts - 1]
    else:
        workload.attempt_ns = now_ns + LATER_NS


def _own_name(workload: _Workload) -> str:
    if workload.names:
        return workload.names.container
    if workload.listed:
        return workload.listed[0].name
    return PAUSE if workload.is_sandbox else workload.base.name


def _runtime(workload: _Workload) -> str | None:
    """Return the runtime; the path of a pod under cgroupfs does not tell it, the others do."""
    if workload.base.runtime not in {"kubernetes", None}:
        return workload.base.runtime
    if workload.names and workload.names.source == "bundle":
        return "containerd"
    listed = workload.listed[0].runtime if workload.listed else None
    return listed or workload.base.runtime

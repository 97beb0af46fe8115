"""Which workload each cgroup is, kept as long as the cgroup: paths first, then names as they come.

Kind and id are fixed by the path at first sight, a machine's by its hypervisor; pod, namespace,
container name and labels arrive from the host's files and the kubelet, and what was learned is
never taken back by a later answer.
"""

import logging
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from tychod.hostfs import Host
from tychod.model import KERNEL_ID, Identity
from tychod.samples import KERNEL_KEY, LOST_KEY, OUTSIDE_KEY, ROOT_KEY, CgroupRef
from tychod.workloads.asked import Others, PodSource
from tychod.workloads.claimed import Claims
from tychod.workloads.hostfiles import Names
from tychod.workloads.hostnames import HostNames
from tychod.workloads.known import SECOND_NS, Known, PodFacts, merge
from tychod.workloads.listing import Listing
from tychod.workloads.machines import Machines, Place, Watched
from tychod.workloads.ownmachines import OwnMachines
from tychod.workloads.paths import (
    DETACHED,
    IN_ROOT,
    OUTSIDE,
    identify,
    unattributed,
    unnamed_reason,
)
from tychod.workloads.pods import PodView, is_same_uid
from tychod.workloads.vmprocs import VmProcess

log = logging.getLogger(__name__)

QUESTIONS_NS: Final = tuple(round(s * SECOND_NS) for s in (0.05, 0.2, 1, 3))
"""When the kubelet is asked about an unknown container; its list lags 0.03-2.6 s (measured)."""
SETTLED_NS: Final = 3 * SECOND_NS
"""A child of a pod that the kubelet still does not list after this long is the pod's sandbox."""
FORESEEN_NS: Final = 30 * SECOND_NS
"""How long a cgroup that was seen being made is waited for in the accounting."""
MOST_FORESEEN: Final = 10_000


class Registry:
    """The mapping from cgroup keys to identities; owned by one thread."""

    def __init__(
        self,
        host: Host,
        cgroup_root: str,
        kubelet: PodSource | None = None,
        others: Others = Others(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self._files = HostNames(host, cgroup_root)
        self._kubelet = kubelet
        self._others = others
        self._machines = Machines(others.agent, others.machine_keys)
        self._own = OwnMachines(self._machines)
        self._workloads: dict[str, Known] = {}  # by the workload's own cgroup path
        self._of_key: dict[int, Known | None] = {}  # None: nobody's
        self._paths: dict[str, int] = {}  # live key by path
        self._of_pod: dict[str, set[Known]] = {}  # the host's pods, by uid
        self._claims = Claims()
        self._foreseen: dict[str, int] = {}  # workloads without a key yet, and since when
        self._read: dict[str, Identity | None] = {}  # paths that were foreseen: who they are
        self._nameless: set[Known] = set()  # whose host files are still to be read
        self._unknown: set[Known] = set()  # whom the kubelet has not told us about
        self._listing = Listing()
        self._view: PodView | None = None
        self._units_told = 0
        self._devices_told: tuple[object, ...] = ()
        self._stale = False
        self._result: dict[int, Identity] = {
            KERNEL_KEY: Identity("kernel", KERNEL_ID, KERNEL_ID),
            OUTSIDE_KEY: unattributed(OUTSIDE),
            ROOT_KEY: unattributed(IN_ROOT),
            LOST_KEY: unattributed(DETACHED),
        }
        self.wants_kubelet = False

    @property
    def routes(self) -> Mapping[str, str]:
        """Each way to names: "ok", or why it gives none and what to do."""
        off = "off in the configuration"
        kubelet = self._kubelet
        units, devices, agent, _ = self._others
        return {
            **self._files.routes,
            "kubelet": kubelet.route if kubelet else off,
            "systemd": units.route if units else off,
            "firework": agent.route if agent else "not configured; set [workloads] firework_status",
            **(devices.routes if devices else {}),
        }

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with what others say of workloads, at present."""
        return self._claims.problems

    @property
    def machine_refs(self) -> Mapping[int, CgroupRef]:
        """The machines without a cgroup of their own as if they had one, by key."""
        return self._machines.refs

    @property
    def watched(self) -> tuple[Watched, ...]:
        """The hypervisors whose threads' CPU time is wanted."""
        return self._machines.watched

    @property
    def wants_agent(self) -> bool:
        """Whether a machine waits for its agent to tell its name."""
        return self._machines.wants_agent

    @property
    def awaits_machine(self) -> bool:
        """Whether a cgroup waits for its hypervisor to be found."""
        return bool(self._own.pending)

    def due_ns(self, now_ns: int) -> int | None:
        """Return when something is to be read or asked next; None: time alone brings nothing."""
        if self._own.pending or self.wants_agent:
            return now_ns
        reads = (known.attempt_ns for known in self._nameless)
        asks = (
            known.first_ns + pause_ns
            for known in self._unknown
            if known.first_ns + QUESTIONS_NS[-1] > now_ns
            for pause_ns in QUESTIONS_NS
            if known.first_ns + pause_ns > now_ns
        )
        return min((*reads, *asks), default=None)

    def foresee(self, paths: Iterable[str], now_ns: int) -> None:
        """Read the names of cgroups that were just made: the files may be gone with them."""
        for path in paths:
            if len(self._read) < MOST_FORESEEN:
                self._read[path] = identify(path)
            base = self._read.get(path)
            if base is None or base.kind != "container" or base.cgroup is None or base.tenant:
                continue  # of others the host's files say nothing
            if base.cgroup not in self._workloads:
                self._foreseen[base.cgroup] = now_ns
                self._welcome(base.cgroup, base, now_ns)
        self._publish(self._ask_host(now_ns))

    def update(
        self,
        cgroups: Mapping[int, CgroupRef],
        now_ns: int,
        processes: Collection[VmProcess] = (),
    ) -> Mapping[int, Identity]:
        """Return who each cgroup is, reserved keys included; a new mapping only after a change.

        ``cgroups`` holds recently ended ones too: a workload is forgotten with its last key.
        ``processes`` are the hypervisors' of the host.
        """
        changed: set[Known] = set()
        if cgroups.keys() != self._of_key.keys():
            self._result = dict(self._result)
            self._forget(self._of_key.keys() - cgroups.keys(), cgroups)
            for key in sorted(cgroups.keys() - self._of_key.keys()):
                changed |= self._add(key, cgroups[key].path, now_ns)
            self._want_units()
        self._forget_foreseen(now_ns)
        changed |= self._settle_machines(processes, now_ns)
        changed |= self._ask_host(now_ns)
        changed |= self._listen(now_ns)
        changed |= self._listen_to_others()
        self._claims.tell(now_ns)
        self._publish(changed)
        self._follow(processes, now_ns)
        self.wants_kubelet = self._is_question_due(now_ns)
        return self._result

    def _add(self, key: int, path: str, now_ns: int) -> set[Known]:
        self._paths[path] = key
        base = self._read.pop(path) if path in self._read else identify(path)
        if base is None:
            reason = unnamed_reason(path) if path.strip("/") else IN_ROOT
            self._of_key[key] = None
            self._result[key] = unattributed(reason)
            return set()
        cgroup = base.cgroup or path
        known = self._workloads.get(cgroup) or self._welcome(cgroup, base, now_ns)
        self._foreseen.pop(cgroup, None)
        known.keys.add(key)
        self._of_key[key] = known
        if known not in self._own.pending:
            self._result[key] = known.identity
        return {known}

    def _welcome(self, cgroup: str, base: Identity, now_ns: int) -> Known:
        known = self._workloads[cgroup] = Known(base, base, now_ns)
        if known.hosts_pod:
            self._of_pod.setdefault(known.hosts_pod, set()).add(known)
        if base.kind == "container":
            known.attempt_ns = now_ns
            self._nameless.add(known)
            self._claims.add(known)
            if known.is_hosts:
                known.listed = self._listing.entry_of(known)
                if base.pod_uid:
                    self._unknown.add(known)
        elif base.kind == "vm":
            self._own.add(known)
        elif base.kind == "unit" and known.is_hosts:
            known.unit = self._others.units.view.get(base.id) if self._others.units else None
        return known

    def _forget(self, keys: Iterable[int], cgroups: Mapping[int, CgroupRef]) -> None:
        for key in keys:
            known = self._of_key.pop(key)
            self._result.pop(key, None)
            if known is None:
                continue
            known.keys.discard(key)
            if not known.keys:
                self._dismiss(known)
        self._paths = {ref.path: key for key, ref in sorted(cgroups.items())}

    def _forget_foreseen(self, now_ns: int) -> None:
        """Forget what was made and never came to the accounting: it used no CPU time."""
        for cgroup in [c for c, t in self._foreseen.items() if now_ns - t > FORESEEN_NS]:
            del self._foreseen[cgroup]
            self._dismiss(self._workloads[cgroup])
        if not self._foreseen:
            self._read.clear()

    def _dismiss(self, known: Known) -> None:
        base = known.base
        self._workloads.pop(base.cgroup or "", None)
        self._nameless.discard(known)
        self._unknown.discard(known)
        self._own.remove(known)
        if base.kind == "container":
            self._claims.remove(known)
        members = self._of_pod.get(base.pod_uid or "", set())
        members.discard(known)
        if not members:
            self._of_pod.pop(base.pod_uid or "", None)

    def _settle_machines(self, processes: Collection[VmProcess], now_ns: int) -> set[Known]:
        """Give machines with a cgroup of their own the id that their hypervisor was given."""
        settled = self._own.update(processes, now_ns)
        if settled:
            self._result = dict(self._result)
            self._result.update({key: known.base for known in settled for key in known.keys})
        return settled | set(self._own.renamed(processes))

    def _follow(self, processes: Collection[VmProcess], now_ns: int) -> None:
        """Take the machines that run in other workloads' cgroups into the result."""
        before = self._machines.identities
        if not self._machines.update(processes, self._place_of, now_ns):
            return
        kept = {key: who for key, who in self._result.items() if key not in before}
        self._result = kept | dict(self._machines.identities)
        running = {watched.vm_key for watched in self.watched}
        found = [who for key, who in self._machines.identities.items() if key in running]
        self._claims.machines([*found, *self._own.identities()])

    def _place_of(self, path: str) -> Place | None:
        key = self._paths.get(path) if path != "/" else ROOT_KEY
        holder = None if key is None else self._result.get(key)
        return None if key is None or holder is None else (key, holder)

    def _ask_host(self, now_ns: int) -> set[Known]:
        """Read the files of containers without a name whose time has come; return who gained."""
        changed: set[Known] = set()
        for known in [k for k in self._nameless if now_ns >= k.attempt_ns]:
            if not known.is_named:
                known.names = self._read_names(known, now_ns)
            if known.is_named:
                self._nameless.discard(known)
            else:
                known.postpone(now_ns)
            if known.names is not None:
                changed |= {known} | self._of_pod.get(known.hosts_pod or "", set())
        return changed

    def _read_names(self, known: Known, now_ns: int) -> Names | None:
        names, path_uid = self._files.read(known, now_ns), known.base.pod_uid
        if names is not None and not (
            path_uid is None or names.pod_uid is None or is_same_uid(names.pod_uid, path_uid)
        ):
            self._claims.mismatch(known, names)
            names = None
        return names or self._files.read_cmdline(known)

    def _listen(self, now_ns: int) -> set[Known]:
        """Take over a new answer of the kubelet, or the news that its answers have become old."""
        if self._kubelet is None:
            return set()
        view, stale = self._kubelet.view, self._kubelet.is_stale(now_ns)
        if view is self._view and stale == self._stale:
            return set()
        changed: set[Known] = set()
        if view is not self._view and view is not None:
            changed = self._absorb(view)
        if stale != self._stale:
            changed = set(self._workloads.values())
        self._view, self._stale = view, stale
        return changed

    def _absorb(self, view: PodView) -> set[Known]:
        """Take over an answer; return whom it says something new about."""
        news = self._listing.absorb(view.pods, self._of_pod)
        changed: set[Known] = set()
        for known in self._workloads.values():
            listed = known.listed
            if known.is_hosts and known.base.kind == "container":
                known.listed = self._listing.entry_of(known) or listed
            if known.listed != listed or (known.pod_uid in news and known.hosts_pod):
                changed.add(known)
        for uid in self._of_pod.keys() & self._listing.pods.keys():
            changed |= self._find_sandbox(uid, view.asked_ns)
        return changed

    def _find_sandbox(self, uid: str, asked_ns: int) -> set[Known]:
        """Mark the one child of a pod that the kubelet does not list: it never lists sandboxes."""
        members = self._of_pod.get(uid, ())
        children = [k for k in members if k.is_hosts and k.base.kind == "container"]
        unlisted = [k for k in children if not k.is_named]
        if len(unlisted) != 1 or any(k.is_sandbox for k in children):
            return set()
        if unlisted[0].first_ns + SETTLED_NS > asked_ns:
            return set()
        unlisted[0].sandbox_by_exclusion = True
        return {unlisted[0]}

    def _listen_to_others(self) -> set[Known]:
        """Take over what systemd and the kubelet's device plug-ins have told meanwhile."""
        changed: set[Known] = set()
        units, devices = self._others.units, self._others.devices
        if units is not None and units.told != self._units_told:
            self._units_told = units.told
            for known in self._host_units():
                known.unit = units.view.get(known.base.id)
                changed.add(known)
        if devices is not None and devices.told != self._devices_told:
            self._devices_told = devices.told
            changed |= {k for k in self._workloads.values() if k.base.kind == "container"}
        return changed

    def _host_units(self) -> list[Known]:
        return [k for k in self._workloads.values() if k.base.kind == "unit" and k.is_hosts]

    def _want_units(self) -> None:
        if self._others.units is not None:
            self._others.units.want(k.base.id for k in self._host_units())

    def _publish(self, changed: set[Known]) -> None:
        merged = [
            (k, new) for k in changed - self._own.pending if (new := self._merge(k)) != k.identity
        ]
        if not merged:
            return
        self._result = dict(self._result)
        for known, identity in merged:
            known.identity = identity
            self._result.update(dict.fromkeys(known.keys, identity))

    def _merge(self, known: Known) -> Identity:
        uid = known.hosts_pod
        pod = self._listing.pod_of(known)
        found = merge(known, PodFacts(pod, self._of_pod.get(uid or "", ()), self._stale))
        devices = self._others.devices
        if devices is None or uid is None or found.kind != "container":
            return found
        own = devices.devices_of(uid, found.namespace, found.pod, found.name)
        return replace(found, devices=own) if own else found

    def _is_question_due(self, now_ns: int) -> bool:
        """Say whether an unknown container is a reason to ask the kubelet out of turn."""
        if self._kubelet is None:
            return False
        listed = self._listing.pods
        self._unknown -= {k for k in self._unknown if k.base.pod_uid in listed and k.is_named}
        asked_ns = self._kubelet.asked_ns
        for known in self._unknown:
            first_ns = known.first_ns
            if asked_ns is not None and asked_ns >= first_ns + QUESTIONS_NS[-1]:
                continue
            due = bisect_right(QUESTIONS_NS, now_ns - first_ns)
            if due and (asked_ns is None or asked_ns < first_ns + QUESTIONS_NS[due - 1]):
                return True
        return False

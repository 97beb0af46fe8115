"""Virtual machines by their hypervisors' processes: which have a cgroup of their own, which not.

A machine without one gets a key and a path that no cgroup can have, so that everything after can
treat it as a cgroup: who may claim its id, and when it is another machine.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from tychod.model import Identity
from tychod.samples import CgroupRef
from tychod.views import PROCESS_MARK
from tychod.workloads.asked import Agent
from tychod.workloads.firework import Service
from tychod.workloads.hypervisors import fallback_id
from tychod.workloads.vmprocs import VmProcess

FIRST_KEY: Final = -1_000
"""Keys of machines go down from here: cgroups and reserved keys are above."""
AGENT_PATIENCE_NS: Final = 2_000_000_000
"""How long a new machine waits for its agent to tell its name: an id is for ever."""
LINGER_NS: Final = 10_000_000_000
"""How long a machine that is gone is known: its last CPU time may be told after its end."""
PID_BITS: Final = 22  # PID_MAX_LIMIT is 2^22
TOLD: Final = ("state", "health", "restarts", "node", "revision")
HOLDERS: Final = ("container", "vm")
"""Leaves that own the energy of the machines inside them."""


class Watched(NamedTuple):
    """One hypervisor whose threads' CPU time is wanted."""

    process: VmProcess
    vm_key: int | None  # None: the machine has a cgroup of its own
    key: int  # of the cgroup that the process is in


Place = tuple[int, Identity]
"""Key of a cgroup and the workload that it belongs to."""


@dataclass(slots=True, eq=False)
class _Known:
    """One hypervisor's process."""

    first_ns: int
    last_ns: int  # when it was seen last
    vm_key: int | None = None
    identity: Identity | None = None
    ref: CgroupRef | None = None
    seen: tuple[VmProcess, Identity, Service | None] | None = None  # what the identity is made of


class Machines:
    """The hypervisors seen at the last look; owned by one thread."""

    def __init__(self, agent: Agent | None = None, keys: Iterator[int] | None = None) -> None:
        """``keys`` are those of machines; one that outlives this, since none is used twice."""
        self._agent = agent
        self._known: dict[tuple[int, int], _Known] = {}
        self._keys = keys or itertools.count(FIRST_KEY, -1)
        self.watched: tuple[Watched, ...] = ()
        self.identities: Mapping[int, Identity] = {}
        self.refs: Mapping[int, CgroupRef] = {}
        self.wants_agent = False

    def update(
        self,
        processes: Iterable[VmProcess],
        place_of: Callable[[str], Place | None],
        now_ns: int,
    ) -> bool:
        """Take in the processes of a look; True where an identity came, went or changed."""
        known = {w: k for w, k in self._known.items() if now_ns - k.last_ns < LINGER_NS}
        watched = []
        self.wants_agent = False
        for process in processes:
            place = place_of(process.cgroup)
            who = (process.pid, process.start_ticks)
            each = known.setdefault(who, _Known(now_ns, now_ns))
            each.last_ns = now_ns
            if place is not None:
                self._settle(each, process, place, now_ns)
                watched += self._watch(each, process, place)
        self._known, self.watched = known, tuple(watched)
        settled = [k for k in known.values() if k.vm_key and k.ref and k.identity]
        identities = {k.vm_key: k.identity for k in settled if k.vm_key and k.identity}
        if identities == self.identities:
            return False
        self.identities = identities
        self.refs = {k.vm_key: k.ref for k in settled if k.vm_key and k.ref}
        return True

    def service_of(self, process: VmProcess) -> Service | None:
        """Return what the agent says that a machine is for."""
        return self._agent.service_of(process) if self._agent else None

    def _settle(self, known: _Known, process: VmProcess, place: Place, now_ns: int) -> None:
        """Give a machine without a cgroup of its own its key and identity, and refresh names."""
        holder = place[1]
        if _owns(holder):
            return
        service = self.service_of(process)
        seen = (process, holder, service)
        if known.seen == seen:
            return
        if known.identity is None:
            if service is None and self.waits(process, now_ns - known.first_ns):
                return
            known.vm_key = next(self._keys)
        base = _identity(process, holder, service)
        if known.identity is not None:
            base = replace(base, id=known.identity.id)
            if service is None and known.identity.names_from == "agent":
                base = replace(base, name=known.identity.name, names_from="agent")
                base = replace(base, labels=known.identity.labels)
        known.identity, known.seen = base, seen
        inode = process.start_ticks << PID_BITS | process.pid
        known.ref = CgroupRef(base.cgroup or "", inode)

    def _watch(self, known: _Known, process: VmProcess, place: Place) -> list[Watched]:
        key, holder = place
        if _owns(holder):
            return [Watched(process, None, key)]
        return [Watched(process, known.vm_key, key)] if known.vm_key is not None else []

    def waits(self, process: VmProcess, age_ns: int) -> bool:
        """Say whether its agent may still tell a machine's name; it is asked then."""
        if self._agent is None or process.machine.hypervisor != "firecracker":
            return False
        self.wants_agent |= age_ns < AGENT_PATIENCE_NS
        return age_ns < AGENT_PATIENCE_NS


def _owns(holder: Identity) -> bool:
    """Say whether a process's cgroup is its machine's own."""
    return holder.kind == "vm"


def described(base: Identity, process: VmProcess, service: Service | None) -> Identity:
    """Return an identity with what a machine's command line and its agent tell.

    What it was given is a label: whoever starts a process chooses its arguments, and nobody gets
    idle energy of others by his own word.  The host's own machines have it as requests, too.
    """
    machine = process.machine
    given = {"vcpus": machine.vcpus, "memory_bytes": machine.memory_bytes}
    told = {name: getattr(service, name) for name in TOLD} if service else {}
    asked = {
        "cpu_millicores": machine.vcpus * 1000 if machine.vcpus else None,
        "memory_bytes": machine.memory_bytes,
    }
    rule = "agent" if service else machine.identified_by or "process"
    labels = {k: str(v) for k, v in {**given, **told}.items() if v is not None}
    return replace(
        base,
        name=(service.name if service else None) or machine.name or base.name,
        runtime=machine.hypervisor,
        requests={k: v for k, v in asked.items() if v and base.tenant is None},
        names_from="agent" if service else "cmdline",
        labels={"identified_by": rule, **labels},
        pid=process.pid,
    )


def _identity(process: VmProcess, holder: Identity, service: Service | None) -> Identity:
    """Return who a machine is that runs in another workload's cgroup."""
    machine = process.machine
    own = (service.name if service else None) or machine.id
    ident = own or fallback_id(machine.hypervisor, process.pid, process.start_ticks)
    within = process.cgroup.rstrip("/")
    named = Identity(
        kind="vm",
        id=ident,
        name=ident,
        namespace=holder.namespace,
        pod=holder.pod,
        pod_uid=holder.pod_uid if holder.kind in HOLDERS else None,
        cgroup=f"{within}{PROCESS_MARK}{process.pid}-{process.start_ticks}",
        parent=holder.id if holder.kind in (*HOLDERS, "unit") else None,
        tenant=holder.tenant or process.cgroup,
    )
    return described(named, process, service)

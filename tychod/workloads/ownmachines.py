"""Machines whose cgroup is their own: an id is settled once, names follow who tells them."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Final

from tychod.model import Identity
from tychod.workloads.known import SECOND_NS, Known
from tychod.workloads.machines import Machines, described
from tychod.workloads.vmprocs import VmProcess

PATIENCE_NS: Final = SECOND_NS
"""How long a machine's cgroup waits for its hypervisor to be found: its id is for ever."""


class OwnMachines:
    """The cgroups that a path says are machines; ``pending`` are those without an id yet."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._settled: set[Known] = set()
        self.pending: set[Known] = set()

    def add(self, known: Known) -> None:
        """Take in a cgroup."""
        self.pending.add(known)

    def remove(self, known: Known) -> None:
        """Forget a cgroup that is gone."""
        self.pending.discard(known)
        self._settled.discard(known)

    def identities(self) -> Iterator[Identity]:
        """Yield who they are."""
        return (known.base for known in self._settled)

    def update(self, processes: Collection[VmProcess], now_ns: int) -> set[Known]:
        """Take in the hypervisors of a look; return whose id was settled just now.

        One whose hypervisor is not found, or whose agent is silent, is called by its path or by its
        command line in the end; its leaf stays the same whatever is told later.
        """
        fresh = {k for k in self.pending if self._is_settled(k, processes, now_ns)}
        self.pending -= fresh
        self._settled |= fresh
        return fresh

    def renamed(self, processes: Collection[VmProcess]) -> Iterator[Known]:
        """Yield those that somebody calls otherwise now."""
        for known in self._settled if processes else ():
            process = _process_in(processes, known)
            if process is None:
                continue
            service = self._machines.service_of(process)
            if service is None and known.base.names_from == "agent":
                continue  # what it told holds
            base = described(known.base, process, service)
            if base != known.base:
                known.base = base
                yield known

    def _is_settled(self, known: Known, processes: Collection[VmProcess], now_ns: int) -> bool:
        process = _process_in(processes, known)
        age_ns = now_ns - known.first_ns
        if process is None:
            return age_ns >= PATIENCE_NS
        service = self._machines.service_of(process)
        if service is None and self._machines.waits(process, age_ns):
            return False
        ident = (service.name if service else None) or process.machine.id or known.base.id
        known.base = described(replace(known.base, id=ident), process, service)
        return True


def _process_in(processes: Collection[VmProcess], known: Known) -> VmProcess | None:
    """Return the hypervisor in a cgroup or below it."""
    cgroup = known.base.cgroup or ""
    below = cgroup + "/"
    return next((p for p in processes if p.cgroup == cgroup or p.cgroup.startswith(below)), None)

"""The identity thread: which workload each cgroup is, kept fresh without polling processes."""

import logging
import os
import select
import threading
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

from tychod.buffer import Latest
from tychod.clock import Clock
from tychod.model import Identity
from tychod.runtime.vms import VmSampler
from tychod.samples import CgroupRef
from tychod.workloads.births import Births
from tychod.workloads.devices import DeviceRoutes
from tychod.workloads.firework import Firework
from tychod.workloads.kubelet import Kubelet
from tychod.workloads.machines import Watched
from tychod.workloads.nurseries import Nurseries
from tychod.workloads.registry import Registry
from tychod.workloads.units import Units
from tychod.workloads.vmprocs import VmFinder

log = logging.getLogger(__name__)

LOOK_NS: Final = 250_000_000
"""How soon a question that is due is asked; a new cgroup is looked up at once."""
REST_NS: Final = 1_000_000_000
"""The same where nothing is to be found out."""
SETTLE_S: Final = 0.02
"""Cgroups are made in groups: those of a few containers are looked up together.  Waiting for more
would lose the names of those that live for less than a tenth of a second."""
FILE_ROUTES: Final = ("bundle", "runtime-file", "log-link")
SOON_NS: Final = 50_000_000
"""When the kubelet may be asked about one that was just made (see the registry's questions)."""


class Cgroups(NamedTuple):
    """The cgroups that accounting sees, by key; their paths begin below ``root``."""

    root: str
    refs: Mapping[int, CgroupRef]
    version: Literal["v2", "v1"] = "v2"


class Found(NamedTuple):
    """What one look came to."""

    identities: Mapping[int, Identity]
    machines: Mapping[int, CgroupRef]  # those without a cgroup of their own, by key


NOTHING: Final = Found({}, {})


class Sources(NamedTuple):
    """Whom names come from beside the host's own files; None: switched off."""

    kubelet: Kubelet | None = None
    units: Units | None = None
    devices: DeviceRoutes | None = None
    agent: Firework | None = None


class Hierarchy(NamedTuple):
    """What belongs to one root of cgroups."""

    root: str
    registry: Registry
    births: Births | None = None
    finder: VmFinder | None = None
    nurseries: Nurseries | None = None

    def rest_ns(self, now_ns: int) -> int:
        """Return how long nothing need be looked at, births aside."""
        due_ns = now_ns if self.nurseries else self.registry.due_ns(now_ns)
        left_ns = REST_NS if due_ns is None else due_ns - now_ns
        return min(max(left_ns, LOOK_NS), REST_NS)


class Metadata:
    """Owns the registry of workloads and those who are asked about them."""

    def __init__(
        self,
        hierarchy_at: Callable[[Cgroups], Hierarchy],
        sources: Sources,
        cgroups: Callable[[], Cgroups],
        clock: Clock,
        crashed: Callable[[str], None],
        machines: VmSampler | None = None,
    ) -> None:
        """``hierarchy_at`` makes what belongs to a root of cgroups, anew when that changes.

        ``machines`` is told whose CPU time to read.
        """
        self._machines = machines
        self._hierarchy_at = hierarchy_at
        self._hierarchy: Hierarchy | None = None
        self._sources = sources
        self._cgroups = cgroups
        self._clock = clock
        self._crashed = crashed
        self._stop = threading.Event()
        self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Lock()  # held by who uses the descriptor in another thread
        self._is_closed = False
        self._found: Latest[Found] = Latest()
        self._looked: Latest[int] = Latest()
        self._routes: Latest[Mapping[str, str]] = Latest()
        self._problems: Latest[tuple[str, ...]] = Latest()
        self._thread = threading.Thread(target=self._run, name="identify", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def ask_stop(self) -> None:
        """Tell the thread to end."""
        self._stop.set()
        self._wake()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def wait_scanned(self, timeout_s: float) -> bool:
        """Wait until every cgroup has been looked at once."""
        return self._found.wait_newer(0, timeout_s)

    def found(self) -> Found:
        """Return what the newest look came to."""
        return self._found.get() or NOTHING

    def catch_up(self, keys: Mapping[int, object], patience_s: float) -> Found:
        """Return what is found once all of these keys were looked at, or it took too long."""
        for _ in range(2):  # the look in progress may have begun before these keys were there
            if keys.keys() <= self.found().identities.keys():
                break
            looks = self._looked.count()
            self._wake()
            self._looked.wait_newer(looks, patience_s)
        return self.found()

    def routes(self) -> Mapping[str, str]:
        """Return how names are found: route -> ``ok`` or why it is not used."""
        return self._routes.get() or {}

    def problems(self) -> tuple[str, ...]:
        """Return what is wrong with what others say of workloads."""
        return self._problems.get() or ()

    def _wake(self) -> None:
        with self._closing:
            if not self._is_closed:
                os.eventfd_write(self._waker, 1)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                now_ns = self._clock.now_ns()
                self._look(now_ns)
                self._wait(now_ns)
        except Exception:  # the outermost frame of the thread: a fault of ours ends the daemon
            log.critical("identity of workloads failed", exc_info=True)
            self._crashed("identity of workloads failed")
        finally:
            self._close()

    def _wait(self, looked_ns: int) -> None:
        """Wait for the next look; meanwhile read the files of containers as they are made."""
        rest_ns = self._hierarchy.rest_ns(looked_ns) if self._hierarchy else LOOK_NS
        due_ns = looked_ns + rest_ns
        while (left_ns := due_ns - self._clock.now_ns()) > 0:
            births = self._hierarchy.births if self._hierarchy else None
            readable = self._readable(left_ns / 1e9, births.fileno() if births else None)
            if self._waker in readable:
                os.eventfd_read(self._waker)
            if self._waker in readable or not readable or births is None:
                return
            self._stop.wait(SETTLE_S)
            now_ns = self._clock.now_ns()
            self._foresee(births.look(now_ns), now_ns)
            due_ns = min(due_ns, max(now_ns + SOON_NS, looked_ns + LOOK_NS))

    def _readable(self, seconds: float, births_fd: int | None) -> set[int]:
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        if births_fd is not None:
            poll.register(births_fd, select.POLLIN)
        return {fd for fd, _ in poll.poll(seconds * 1e3)}

    def _foresee(self, paths: tuple[str, ...], now_ns: int) -> None:
        if self._hierarchy is not None:
            self._hierarchy.registry.foresee(paths, now_ns)

    def _look(self, now_ns: int) -> None:
        cgroups = self._cgroups()
        hierarchy = self._hierarchy_of(cgroups)
        registry = hierarchy.registry
        if hierarchy.births is not None:
            self._foresee(hierarchy.births.look(now_ns), now_ns)
        finder = hierarchy.finder
        processes = finder.look(now_ns, soon=registry.awaits_machine) if finder else ()
        if finder is not None and hierarchy.nurseries:
            processes = finder.look_at(hierarchy.nurseries.pids(now_ns), now_ns)
        identities = registry.update(cgroups.refs, now_ns, processes)
        found = Found(identities, registry.machine_refs)
        if found != self._found.get():
            self._found.publish(found)
        self._follow(hierarchy, registry.watched, now_ns)
        self._looked.publish(now_ns)
        self._ask(registry, now_ns)
        self._publish_health(registry)

    def _follow(self, hierarchy: Hierarchy, watched: tuple[Watched, ...], now_ns: int) -> None:
        if self._machines is None:
            return
        for each in watched:
            if each.vm_key is not None and hierarchy.nurseries is not None:
                hierarchy.nurseries.note(each.process.cgroup, now_ns)
        self._machines.follow(watched, now_ns)

    def _ask(self, registry: Registry, now_ns: int) -> None:
        kubelet, units, devices, agent = self._sources
        if kubelet is not None:
            kubelet.poll(now_ns, soon=registry.wants_kubelet)
        if units is not None:
            units.poll(now_ns)
        if devices is not None:
            devices.poll(now_ns, soon=registry.wants_kubelet)
        if agent is not None:
            agent.poll(now_ns, soon=registry.wants_agent)

    def _publish_health(self, registry: Registry) -> None:
        routes = dict(registry.routes)
        before = self._routes.get()
        if routes != before:
            self._tell(before or {}, routes)
            self._routes.publish(routes)
        if registry.problems != self.problems():
            self._problems.publish(registry.problems)

    def _hierarchy_of(self, cgroups: Cgroups) -> Hierarchy:
        """Return what belongs to a root; anew where accounting came late, or chose another."""
        if self._hierarchy is None or cgroups.root != self._hierarchy.root:
            if self._hierarchy is not None and self._hierarchy.births is not None:
                self._hierarchy.births.close()
            self._hierarchy = self._hierarchy_at(cgroups)
        return self._hierarchy

    def _tell(self, before: Mapping[str, str], routes: Mapping[str, str]) -> None:
        """Log a change of a way by files; whoever asks others logs what comes of it himself."""
        for name in FILE_ROUTES:
            state = routes.get(name, "")
            if before.get(name, "") != state and not state.startswith("not used yet"):
                log.info("names by %s: %s", name, state, extra={"event": "route", "source": name})

    def _close(self) -> None:
        for source in self._sources:
            if source is not None:
                source.close()
        if self._hierarchy is not None and self._hierarchy.births is not None:
            self._hierarchy.births.close()
        with self._closing:
            self._is_closed = True
            os.close(self._waker)

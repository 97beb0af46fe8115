"""The identity thread: which workload each cgroup is, kept fresh without polling processes."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tychod.buffer import Latest
from tychod.clock import Clock
from tychod.model import Identity
from tychod.samples import CgroupRef
from tychod.workloads.kubelet import Kubelet
from tychod.workloads.registry import Registry

log = logging.getLogger(__name__)

LOOK_S: Final = 0.2
"""How soon a new cgroup is looked up: its runtime's files may be gone after it ends."""


class Cgroups(NamedTuple):
    """The cgroups that accounting sees, by key; their paths begin below ``root``."""

    root: str
    refs: Mapping[int, CgroupRef]


class Metadata:
    """Owns the registry of workloads and the kubelet client."""

    def __init__(
        self,
        registry_at: Callable[[str], Registry],
        kubelet: Kubelet | None,
        cgroups: Callable[[], Cgroups],
        clock: Clock,
        crashed: Callable[[str], None],
    ) -> None:
        """``registry_at`` makes the registry of the hierarchy at a root, anew when that changes."""
        self._registry_at = registry_at
        self._registry: Registry | None = None
        self._root: str | None = None
        self._kubelet = kubelet
        self._cgroups = cgroups
        self._clock = clock
        self._crashed = crashed
        self._stop = threading.Event()
        self._identities: Latest[Mapping[int, Identity]] = Latest()
        self._routes: Latest[Mapping[str, str]] = Latest()
        self._thread = threading.Thread(target=self._run, name="identify", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def ask_stop(self) -> None:
        """Tell the thread to end."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def wait_scanned(self, timeout_s: float) -> bool:
        """Wait until every cgroup has been looked at once."""
        return self._identities.wait_newer(0, timeout_s)

    def identities(self) -> Mapping[int, Identity]:
        """Return the newest mapping from cgroup key to workload."""
        return self._identities.get() or {}

    def routes(self) -> Mapping[str, str]:
        """Return how names are found: route -> ``ok`` or why it is not used."""
        return self._routes.get() or {}

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._look()
                self._stop.wait(LOOK_S)
        except Exception:  # the outermost frame of the thread: a fault of ours ends the daemon
            log.critical("identity of workloads failed", exc_info=True)
            self._crashed("identity of workloads failed")
        finally:
            if self._kubelet is not None:
                self._kubelet.close()

    def _look(self) -> None:
        now_ns = self._clock.now_ns()
        root, cgroups = self._cgroups()
        registry = self._registry_of(root)
        found = registry.update(cgroups, now_ns)
        if found is not self._identities.get():
            self._identities.publish(found)
        if self._kubelet is not None:
            self._kubelet.poll(now_ns, soon=registry.wants_kubelet)
        routes = dict(registry.routes)
        before = self._routes.get()
        if routes != before:
            self._tell(before or {}, routes)
            self._routes.publish(routes)

    def _registry_of(self, root: str) -> Registry:
        """Return the registry; a new one where accounting came late, or chose another root."""
        if self._registry is None or root != self._root:
            self._registry, self._root = self._registry_at(root), root
        return self._registry

    def _tell(self, before: Mapping[str, str], routes: Mapping[str, str]) -> None:
        for name, state in routes.items():
            if before.get(name) != state:
                log.info("names by %s: %s", name, state, extra={"event": "route", "source": name})

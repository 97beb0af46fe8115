"""The identity of workloads alone: a thread feeds it cgroups as the accounting would."""

import threading
import time
from pathlib import Path
from typing import Final

from tychod.clock import SystemClock
from tychod.hostfs import Host
from tychod.kernel.tree import CgroupTree
from tychod.runtime.metadata import Cgroups
from tychod.runtime.naming import build_naming
from tychod.samples import CgroupRef
from tychod.settings import Arguments, load_settings

INTERVAL_S: Final = 1.0
GRACE: Final = 4  # readings for which the accounting still shows a cgroup that is gone


class Alone:
    """Starts it; ``feeding_s`` is CPU time that is not its own."""

    def __init__(self, config_file: Path) -> None:
        config = load_settings(Arguments(config=str(config_file)), {}).config
        self._host = Host(config.host)
        self._root = config.host.cgroupfs
        self._refs: dict[int, CgroupRef] = {}
        self._fed_s = 0.0
        self._ever: dict[str, bool] = {}
        self._feed_once = CgroupTree(self._host, self._root, None, may_rename=False)
        self._feed()
        naming = build_naming(
            self._host, config, lambda: Cgroups(self._root, self._refs), SystemClock(), print
        )
        self._metadata = naming.metadata
        self._metadata.start()
        if naming.machines is not None:
            naming.machines.start()
        threading.Thread(target=self._run, daemon=True).start()

    def feeding_s(self) -> float:
        """CPU time of the feeding thread and of this call's own counting, in seconds."""
        return self._fed_s

    def nameless(self) -> int:
        """Containers seen so far that had no name at any reading."""
        return sum(not named for named in self._ever.values())

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL_S)
            self._feed()
            self._note()
            self._fed_s = time.thread_time()

    def _feed(self) -> None:
        self._feed_once.refresh(time.monotonic_ns())
        nodes = self._feed_once.nodes
        self._refs = {node.key: CgroupRef(node.path, node.inode) for node in nodes}

    def _note(self) -> None:
        for who in self._metadata.found().identities.values():
            if who.kind == "container":
                is_named = who.names_from != "path"
                self._ever[who.id] = self._ever.get(who.id, False) or is_named

"""Recordings that run: windows handed over by analysis, taken by clients' threads.

Analysis only leaves references to what never changes; encoding is done in the thread of the client
that asked.  Who is too slow loses its recording, not the daemon its time.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from tychod.codec.arrays import numpy_build
from tychod.frames import ProtocolError
from tychod.hostfs import Host
from tychod.model import NodeFacts
from tychod.runtime.recording import Analysed
from tychod.runtime.rights import gid_of, how_to_get_rights
from tychod.schema import to_plain
from tychod.version import render_time

MOST: Final = 2
"""Recordings at once."""
WAITING: Final = 8
"""Windows that may wait to be encoded."""

About = Mapping[str, object]


class Recorder:
    """The windows that wait for one recording."""

    def __init__(self, capacity: int = WAITING) -> None:
        self._capacity = capacity
        self._waiting: deque[Analysed] = deque()
        self._changed = threading.Condition()
        self._overrun = False

    def offer(self, analysed: Analysed) -> None:
        """Leave a window here; never waits.  After one that finds no room none is taken."""
        with self._changed:
            self._overrun = self._overrun or len(self._waiting) >= self._capacity
            if not self._overrun:
                self._waiting.append(analysed)
                self._changed.notify()

    def take(self, timeout_s: float) -> Analysed | None:
        """Return the oldest window; None when there is none in time, or never will be one."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._overrun, timeout_s)
            return self._waiting.popleft() if self._waiting else None

    @property
    def overrun(self) -> bool:
        """Whether windows came faster than they were taken, and all that waited are taken."""
        with self._changed:
            return self._overrun and not self._waiting


class Recorders:
    """All recordings that run; analysis offers to them, sessions attach and leave."""

    def __init__(
        self, describe: Callable[[], About], admin_group: Callable[[], str], most: int = MOST
    ) -> None:
        """``describe`` gives the header's facts; ``admin_group`` the setting in force."""
        self.describe: Final = describe
        self._admin_group = admin_group
        self._most = most
        self._open: tuple[Recorder, ...] = ()
        self._lock = threading.Lock()

    def offer(self, analysed: Analysed) -> None:
        """Leave a window with every recording."""
        for recorder in self._open:
            recorder.offer(analysed)

    @contextlib.contextmanager
    def attached(self) -> Iterator[Recorder]:
        """Take part until the end of the block; raise ``ProtocolError`` (busy) if too many do."""
        recorder = Recorder()
        with self._lock:
            if len(self._open) >= self._most:
                message = f"{self._most} recordings run already; try again when one has ended"
                raise ProtocolError("busy", message)
            self._open = (*self._open, recorder)
        try:
            yield recorder
        finally:
            with self._lock:
                self._open = tuple(other for other in self._open if other is not recorder)

    def refuse(self, uid: int, groups: Callable[[], frozenset[int]]) -> None:
        """Raise ``ProtocolError`` (forbidden) unless this user may have more than windows."""
        name = self._admin_group()
        if uid == 0 or (name and gid_of(name) in groups()):
            return
        message = "recordings are for root and for members of [control] admin_group"
        raise ProtocolError("forbidden", f"{message}: {how_to_get_rights(name)}")


def describe(
    host: Host, facts: NodeFacts, settings: Callable[[], Mapping[str, object]]
) -> dict[str, object]:
    """Return what a recording says of where it was made; no setting holds a secret."""
    return {
        "tychod": facts.version,
        "commit": facts.commit,
        "numpy": numpy_build(),
        "cpu": cpu_model(host),
        "node": facts.node,
        "boot_id": facts.boot_id,
        "time": render_time(int(time.time())),
        "settings": to_plain(settings()),
    }


def cpu_model(host: Host) -> str:
    """Return the CPU's name; ``unknown`` where the kernel tells none."""
    try:
        text = host.read_text(f"{host.procfs}/cpuinfo") or ""
    except OSError:
        return "unknown"
    lines = (line.partition(":") for line in text.splitlines())
    return next(
        (value.strip() for key, _, value in lines if key.strip() == "model name"), "unknown"
    )

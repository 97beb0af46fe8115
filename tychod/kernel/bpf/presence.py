"""Which CPUs are there: those that are offline spend no time."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import numpy as np

from tychod.hostfs import Host, KeptFile, parse_cpu_numbers
from tychod.kernel.bpf import abi

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tychod.kernel.bpf.snapshot import Snapshot
    from tychod.samples import Int64s

ONLINE_BYTES: Final = 4096


def has_started(cpu: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which CPUs count: each begins at its first switch."""
    started: NDArray[np.bool_] = cpu["ts"] != 0
    return started


class Presence:
    """Keeps the time that a CPU was offline out of its idle time, which the kernel adds it to."""

    def __init__(self, host: Host, ncpu: int) -> None:
        self.absent_ns = 0
        self.missing: tuple[int, ...] = ()  # online, and nothing has run on them yet
        self._before: NDArray[np.bool_] | None = None
        self._idle_ns: Int64s = np.zeros(ncpu, np.int64)
        self._t_ns = 0
        self._file: KeptFile | None = None
        with suppress(OSError):  # a partial tree: those that have started count as online
            self._file = host.open_kept(f"{host.sysfs}/devices/system/cpu/online")

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def online(self, started: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which CPUs are online now; where that cannot be read, those that have started."""
        if self._file:
            with suppress(OSError, ValueError):
                numbers = parse_cpu_numbers(self._file.read(ONLINE_BYTES).decode())
                online = np.zeros(len(started), bool)
                online[[n for n in numbers if n < len(started)]] = True
                return online
        return started

    def update(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """Return which CPUs are online and count; take in how long others were not."""
        cpu = snapshot.cpu
        started = has_started(cpu)
        online = self.online(started)
        self.missing = tuple(np.flatnonzero(online & ~started).tolist())
        online = online & started
        waiting = np.where(cpu["tgid"] == 0, cpu["acc"][:, abi.TASK], 0)
        idle_ns = (cpu["idle"][:, abi.TASK] + waiting).astype(np.int64)
        if self._before is not None:
            came = online & ~self._before
            excess = idle_ns - self._idle_ns - (snapshot.t_ns - self._t_ns)
            self.absent_ns += int(np.maximum(excess[came], 0).sum())
        self._before, self._idle_ns, self._t_ns = online, idle_ns, snapshot.t_ns
        return online

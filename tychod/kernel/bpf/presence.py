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
        self._counted: NDArray[np.bool_] | None = None  # at the last reading
        self._none = np.zeros(ncpu, bool)
        self._idle_ns: Int64s = np.zeros(ncpu, np.int64)  # then, of those not counted
        self._ts = np.zeros(ncpu, np.uint64)
        self._t_ns = 0
        self._text, self._listed = b"", np.zeros(ncpu, bool)
        self._file: KeptFile | None = None
        with suppress(OSError):  # a partial tree: those that have started count as online
            self._file = host.open_kept(f"{host.sysfs}/devices/system/cpu/online")

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Which CPUs were online and counted at the last reading; before the first, none."""
        return self._none if self._counted is None else self._counted

    def online(self, started: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which CPUs are online now; where that cannot be read, those that have started."""
        if self._file:
            with suppress(OSError, ValueError):
                text = self._file.read(ONLINE_BYTES)
                if text != self._text:
                    numbers = parse_cpu_numbers(text.decode())
                    self._listed = np.zeros(len(started), bool)
                    self._listed[[n for n in numbers if n < len(started)]] = True
                    self._text = text
                return self._listed
        return started

    def update(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """Return which CPUs are online and count; take in how long others were not.

        A CPU is listed before its first event.  Until then its state is of the time before it left,
        so it counts from the first event after a reading that went without it.
        """
        cpu, before = snapshot.cpu, self._counted
        ts = cpu["ts"]
        started = ts != 0
        listed = self.online(started)
        counted: NDArray[np.bool_] = listed & started
        came = np.zeros(0, np.intp)
        if before is not None and not np.array_equal(counted, before):
            counted &= before | (ts != self._ts)
            came = np.flatnonzero(counted & ~before)
        if len(came):
            excess = _idle_ns(cpu)[came] - self._idle_ns[came] - (snapshot.t_ns - self._t_ns)
            self.absent_ns += int(np.maximum(excess, 0).sum())
        self.missing = ()
        if not counted.all():
            self.missing = tuple(np.flatnonzero(listed & ~started).tolist())
            self._idle_ns, self._ts = _idle_ns(cpu), ts.copy()
        self._counted, self._t_ns = counted, snapshot.t_ns
        return counted


def _idle_ns(cpu: NDArray[np.void]) -> Int64s:
    waiting = np.where(cpu["tgid"] == 0, cpu["acc"][:, abi.TASK], 0)
    idle_ns: Int64s = (cpu["idle"][:, abi.TASK] + waiting).astype(np.int64)
    return idle_ns

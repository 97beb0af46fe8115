"""Busy time of the whole node by /proc/stat: it bridges what no map has counted."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from tychod.kernel.procstat import STAT_BYTES, parse_cpu_times, tick_hz

if TYPE_CHECKING:
    from tychod.hostfs import Host
    from tychod.samples import Int64s


class NodeBusy:
    """The newest readings, and the values between them."""

    def __init__(self, host: Host) -> None:
        self._file = host.open_kept(f"{host.procfs}/stat")
        self._tick_hz = tick_hz()
        self._points: list[tuple[int, int]] = []  # time, busy time

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def go_on(self, t_ns: int, busy_ns: int) -> None:
        """Begin with a reading that was saved."""
        self._points = [(t_ns, busy_ns)]

    def read_ns(self) -> int:
        """Return the task and irq time now, at least what it was."""
        last_ns = self._points[-1][1] if self._points else 0
        with suppress(OSError, ValueError):  # it is needed after a restart only
            times = parse_cpu_times(self._file.read(STAT_BYTES), self._tick_hz)
            return max(last_ns, times.tasks_ns + times.irq_ns)
        return last_ns

    def at(self, edges: Int64s, now_ns: int) -> list[int]:
        """Read, and return the busy time at each of the edges, which lie before now."""
        self._points = [*self._points[-2:], (now_ns, self.read_ns())]
        times, values = zip(*self._points, strict=True)
        return [int(v) for v in np.interp(edges, times, values)]

"""Cgroups that hold machines beside other processes: whoever starts one there starts the next.

A process makes no event that an unprivileged daemon hears of, and all processes are listed every
two seconds only; these few cgroups are looked into at every look.
"""

import re
from collections.abc import Iterator
from typing import Final

from tychod.hostfs import Host

KEPT_NS: Final = 600_000_000_000
"""How long a cgroup is remembered after the last machine in it."""
MOST: Final = 64
LIMIT: Final = 16 << 10
_PID: Final = re.compile(rb"[1-9][0-9]{0,9}")


class Nurseries:
    """The cgroups below a hierarchy's root in which machines were seen; owned by one thread."""

    def __init__(self, host: Host, root: str) -> None:
        self._host = host
        self._root = root.rstrip("/")
        self._seen_ns: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._seen_ns)

    def note(self, cgroup: str, now_ns: int) -> None:
        """Remember that a machine is in a cgroup; of too many those seen last stay."""
        self._seen_ns.pop(cgroup, None)
        self._seen_ns[cgroup] = now_ns
        if len(self._seen_ns) > MOST:
            del self._seen_ns[next(iter(self._seen_ns))]

    def pids(self, now_ns: int) -> Iterator[int]:
        """Yield the processes that are in them."""
        for cgroup in [c for c, t in self._seen_ns.items() if now_ns - t > KEPT_NS]:
            del self._seen_ns[cgroup]
        for cgroup in self._seen_ns:
            yield from self._pids_in(cgroup)

    def _pids_in(self, cgroup: str) -> Iterator[int]:
        try:
            data = self._host.read_bytes(f"{self._root}{cgroup}/cgroup.procs", LIMIT)
        except OSError:
            return
        # A process of a pid namespace that we cannot see into is listed as 0.
        yield from (int(line) for line in (data or b"").split(b"\n") if _PID.fullmatch(line))

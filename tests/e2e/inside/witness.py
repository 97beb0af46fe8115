"""What the energy counters really counted until when, by the simulator's own ledger."""

import json
import threading
import time
from bisect import bisect_left
from pathlib import Path
from typing import Final

from tests.e2e.inside.machine import wait_until
from tests.e2e.steps import require

INTERVAL_S: Final = 0.05


class Witness:
    """Follows the ledger of one kind of zone from the moment it is made until close()."""

    def __init__(self, ledger: Path, name: str = "package") -> None:
        """Watch the zones whose name begins with `name`."""
        self._ledger = ledger
        self._name = name
        self._points: list[tuple[float, int]] = []  # seconds since 1970, microjoules
        self._read()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()

    def energy_uj(self, start_s: float, end_s: float) -> float:
        """Return what the zones used between two times (seconds since 1970)."""
        wait_until("the ledger gets there", lambda: self._points[-1][0] >= end_s, 5)
        return self._total_uj(end_s) - self._total_uj(start_s)

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._read()

    def _read(self) -> None:
        """Take one entry; its time is that of the monotonic clock, as the daemon's."""
        entry = json.loads(self._ledger.read_text(encoding="utf-8"))
        wall_s = time.time() - time.monotonic() + entry["t_ns"] / 1e9
        zones = [z for z in entry["zones"].values() if z["name"].startswith(self._name)]
        require(zones, f"no zone {self._name} in the ledger")
        self._points.append((wall_s, sum(zone["energy_uj"] for zone in zones)))

    def _total_uj(self, at_s: float) -> float:
        points = sorted(set(self._points))
        known = f"{points[0][0]:.3f} to {points[-1][0]:.3f}"
        require(points[0][0] <= at_s <= points[-1][0], f"ledger {known}, asked for {at_s:.3f}")
        i = max(1, bisect_left(points, (at_s, 0)))
        (start_s, start_uj), (end_s, end_uj) = points[i - 1], points[i]
        return start_uj + (at_s - start_s) / (end_s - start_s) * (end_uj - start_uj)

"""Which results a reader may see: every window's, or no more often than `[control] min_interval`.

Fast readings of energy tell secrets of other programs (docs/security.md), so readers who are
neither root nor in the admin group share one slot that moves no faster than the setting says.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from tychod.buffer import Latest
from tychod.kernel.bpf.abi import BUCKET_NS
from tychod.model import Snapshot

Pair = tuple[Snapshot | None, Snapshot | None]


class Slot(Protocol):
    """A place that holds the newest snapshot that its readers may see."""

    def get(self) -> Snapshot | None:
        """Return it, or None before the first."""

    def pair(self) -> Pair:
        """Return it and the one of the window before it."""

    def count(self) -> int:
        """Return how many it has held."""

    def wait_newer(self, count: int, timeout_s: float) -> bool:
        """Wait until it has held more than ``count``; False on time-out."""


class View(NamedTuple):
    """What one reader sees at one moment; both are None before the first window."""

    newest: Snapshot | None
    before: Snapshot | None
    """That of the window just before: for differences over the newest, not to be shown itself."""
    step_s: float
    """Least seconds between two results, also between those of a stretch of time; 0: any."""


class Access(NamedTuple):
    """Which results a reader may see from now on."""

    slot: Slot
    step_s: float

    def view(self) -> View:
        """Return what the reader sees now."""
        return View(*self.slot.pair(), self.step_s)


class Coarse:
    """A slot that follows the newest snapshot in steps of ``interval_s`` or more.

    It moves when somebody looks and everybody sees it move, so all its readers see the same.
    """

    def __init__(self, latest: Latest[Snapshot], interval_s: Callable[[], float]) -> None:
        """``interval_s`` gives the setting in force."""
        self._latest: Final = latest
        self._interval_s = interval_s
        self._held: Pair = (None, None)
        self._count = 0
        self._lock = threading.Lock()

    def get(self) -> Snapshot | None:
        """Return the snapshot held, after a move where one is due."""
        return self.pair()[0]

    def pair(self) -> Pair:
        """Return the snapshot held and the one of the window just before it."""
        with self._lock:
            self._move()
            return self._held

    def count(self) -> int:
        """Return how many snapshots it has held."""
        with self._lock:
            self._move()
            return self._count

    def wait_newer(self, count: int, timeout_s: float) -> bool:
        """Wait until it has held more than ``count``; False on time-out."""
        deadline = time.monotonic() + timeout_s
        while True:
            published = self._latest.count()  # before the look, so that none is slept through
            if self.count() > count:
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._latest.wait_newer(published, left_s):
                return self.count() > count

    def _move(self) -> None:
        newest, before = self._latest.pair()
        held = self._held[0]
        if newest is None or newest is held:
            return
        # Windows end with bins: one that ends a bin early is not put off to the next.
        least_ns = round(self._interval_s() * 1e9) - BUCKET_NS
        if held is None or newest.window.end_ns - held.window.end_ns >= least_ns:
            self._held = (newest, before)
            self._count += 1

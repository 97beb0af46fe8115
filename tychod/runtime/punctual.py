"""A thread that reads something when a window ends."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from tychod.clock import Clock

log = logging.getLogger(__name__)

WAIT_S: Final = 0.5


class Punctual:
    """Calls ``read`` with the end of each window that it is told of, as soon as that is over."""

    def __init__(
        self,
        name: str,
        read: Callable[[int], None],
        clock: Clock,
        crashed: Callable[[str], None],
        close: Callable[[], None],
    ) -> None:
        """``close`` is called at the end, in the thread too."""
        self._name = name
        self._read = read
        self._clock = clock
        self._crashed = crashed
        self._close = close
        self._changed = threading.Condition()
        self._due_ns: int | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ask_stop(self) -> None:
        """Tell the thread to end after the reading in progress."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; False when it hangs."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def expect(self, end_ns: int) -> None:
        """Read at this moment, the end of the window in progress."""
        with self._changed:
            self._due_ns = end_ns
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (due_ns := self._wait_due()) is not None:
                self._read(due_ns)
        except Exception:  # the outermost frame of the thread: a fault of ours ends the daemon
            log.critical("the thread that reads %s failed", self._name, exc_info=True)
            self._crashed(f"reading {self._name} failed")
        finally:
            self._close()

    def _wait_due(self) -> int | None:
        """Wait until a reading is due and return when it was; None: asked to stop."""
        with self._changed:
            while not self._stopping:
                left_s = WAIT_S
                if self._due_ns is not None:
                    left_s = (self._due_ns - self._clock.now_ns()) / 1e9
                    if left_s <= 0:
                        due_ns, self._due_ns = self._due_ns, None
                        return due_ns
                self._changed.wait(min(left_s, WAIT_S))
        return None

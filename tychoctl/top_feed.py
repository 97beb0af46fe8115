"""The answers for `tychoctl top`, asked for beside the loop that reads keys."""

import queue
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from tychoctl.client import Connection, Failure, Reply

RETRY_S: Final = 0.5
HOPELESS: Final = ("forbidden", "version", "bad-request")
"""Why asking again helps nobody."""


class News(NamedTuple):
    """Two answers of one window; the node's is None where only the other came."""

    workloads: Reply
    node: Reply | None
    trend: Reply | None


class Lost(NamedTuple):
    """There are no answers now."""

    failure: Failure


class Feed:
    """Follows the daemon's windows in a thread of its own, and comes back when it went away."""

    def __init__(self, path: str, interval_s: float | None, wake: Callable[[], None]) -> None:
        self.news: queue.SimpleQueue[News | Lost] = queue.SimpleQueue()
        self._path = path
        self._interval_s = interval_s
        self._wake = wake
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._open: list[Connection] = []
        self._asking: Connection | None = None
        self._wants_trend = True
        # Not waited for at exit: a connection may hang, but never the user.
        self._thread = threading.Thread(target=self._run, name="top-feed", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End, also what is being waited for."""
        self._stop.set()
        with self._lock:
            for connection in self._open:
                connection.break_off()
        if self._thread.is_alive():  # it may never have been started
            self._thread.join(timeout=0.2)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow(self._connect())
            except Failure as failure:
                self._tell(Lost(failure))
                if failure.code in HOPELESS:
                    break
            self._hang_up()
            self._stop.wait(RETRY_S)
        self._hang_up()

    def _connect(self) -> Connection:
        connection = Connection(self._path)
        with self._lock:
            self._open.append(connection)
        if self._stop.is_set():  # stop came while we connected, and did not see this one
            connection.break_off()
        return connection

    def _hang_up(self) -> None:
        with self._lock:
            while self._open:
                self._open.pop().close()
        self._asking = None

    def _follow(self, stream: Connection) -> None:
        for workloads in stream.stream("workloads", self._interval_s):
            if self._stop.is_set():
                return
            self._tell(News(workloads, self._ask("node"), self._trend()))
        raise Failure("not-running", "tychod ended the stream: it stops or restarts")

    def _ask(self, op: str) -> Reply | None:
        """Return an answer; None where there is no place for a second connection."""
        for _ in range(2):  # the first may have been closed while a long window went by
            try:
                if self._asking is None:
                    self._asking = self._connect()
                return self._asking.call(op)
            except Failure as failure:
                if failure.code == "closed":
                    self._asking = None
                elif failure.code == "busy":
                    break
                else:
                    raise
        return None

    def _trend(self) -> Reply | None:
        """Return the last minutes, once; None where the daemon does not offer them."""
        if not self._wants_trend:
            return None
        self._wants_trend = False
        try:
            return self._ask("trend")
        except Failure as failure:
            if failure.code not in ("bad-request", "not-ready", "unavailable", "not-found"):
                raise
            return None

    def _tell(self, news: News | Lost) -> None:
        self.news.put(news)
        self._wake()

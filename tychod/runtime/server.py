"""The control socket: accepts clients, bounds what each may take, and answers them.

Each client has a thread of its own that may wait for that client only.  Whatever a client does
wrong costs it its connection; samplers and other clients do not notice.
"""

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tychod import frames
from tychod.frames import ProtocolError
from tychod.runtime.answers import Answers
from tychod.runtime.faults import Faults
from tychod.runtime.listener import Peer, read_peer
from tychod.runtime.recorder import Recorders
from tychod.runtime.session import Gone, Limits, Served, Session, Times

log = logging.getLogger(__name__)

CLOSE_POLITELY_S: Final = 0.5
CLOSE_S: Final = 0.9
ACCEPT_RETRY_S: Final = 0.1  # pause when the process or machine is out of descriptors


class _Client(NamedTuple):
    peer: Peer
    connection: socket.socket
    thread: threading.Thread


class ControlServer:
    """Serves one listening socket until closed.

    ``path`` is the socket file where it is ours to remove (None for one that systemd passed).
    """

    def __init__(
        self,
        listener: socket.socket,
        answers: Answers,
        *,
        path: Path | None = None,
        recorders: Recorders | None = None,
        limits: Limits = Limits(),  # noqa: B008 - immutable
        times: Times = Times(),  # noqa: B008 - immutable
    ) -> None:
        self._listener = listener
        self._limits = limits
        self._path = path
        self._inode = path.lstat().st_ino if path else None
        self._clients: dict[int, _Client] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        self._totals = dict.fromkeys(("accepted", "refused", "killed", "faults"), 0)
        self._faults = Faults(log, "cannot answer a client")
        self._served = Served(answers, self._stop, self.counts, limits, times, recorders)
        self._arrivals = Arrivals(times.now_s)
        self._thread = threading.Thread(target=self._accept_all, name="control", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self._thread.start()

    def counts(self) -> Mapping[str, int]:
        """Return connections open now; accepted, refused, killed and our own faults since start."""
        with self._lock:
            return {"open": len(self._clients), **self._totals}

    def close(self) -> None:
        """Stop within a second, whatever the clients do; streams end with a last frame."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._wake_out.send(b"x")
        deadline = time.monotonic() + CLOSE_S
        if self._thread.is_alive():
            self._thread.join(CLOSE_POLITELY_S)
        self._end_clients(socket.SHUT_RD, deadline - (CLOSE_S - CLOSE_POLITELY_S))
        self._end_clients(socket.SHUT_RDWR, deadline)
        self._remove_file()
        for end in (self._listener, self._wake_in, self._wake_out):
            end.close()

    def _end_clients(self, how: int, deadline: float) -> None:
        with self._lock:
            clients = list(self._clients.values())
        for client in clients:
            try:
                client.connection.shutdown(how)
            except OSError:
                continue  # it ended meanwhile
        for client in clients:
            client.thread.join(max(deadline - time.monotonic(), 0.0))

    def _remove_file(self) -> None:
        if self._path is None:
            return
        try:
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        except OSError as exc:
            log.info("socket file stays, the next start replaces it: %s", exc)

    def _accept_all(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_in, select.POLLIN)
        while not self._stop.is_set():
            poll.poll()
            while not self._stop.is_set() and self._accept_one():
                pass  # the queue is emptied as fast as we can: who waits in it waits for all before

    def _accept_one(self) -> bool:
        """Take the next client out of the queue; False when nobody waits there."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return False
        except ConnectionAbortedError:
            return True  # it left before we came
        except OSError as exc:
            log.warning("cannot accept a client: %s", exc.strerror)
            self._stop.wait(ACCEPT_RETRY_S)
            return False
        try:
            self._admit(connection)
        except (OSError, RuntimeError) as exc:  # RuntimeError: no thread can be started
            connection.close()
            log.warning("cannot serve a client: %s", exc)
        return True

    def _admit(self, connection: socket.socket) -> None:
        """Give a client its thread, or say that it has to come later; never wait for it."""
        peer = read_peer(connection)
        arrival = self._arrivals.count(peer.uid)
        with self._lock:
            others = [client.peer for client in self._clients.values()]
            refusal = refuse(peer, others, self._limits, arrival)
            if refusal is None:
                self._start_client(peer, connection)
                return
            self._totals["refused"] += 1
        if arrival <= self._limits.new_per_s + self._limits.refusals_per_s:
            self._send_refusal(connection, refusal)
        connection.close()

    def _start_client(self, peer: Peer, connection: socket.socket) -> None:
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="control-client", daemon=True
        )
        key = connection.fileno()
        self._clients[key] = _Client(peer, connection, thread)
        try:
            thread.start()
        except RuntimeError:
            del self._clients[key]
            raise
        self._totals["accepted"] += 1

    def _send_refusal(self, connection: socket.socket, refusal: ProtocolError) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # it did not wait for the answer
            connection.send(frames.encode_error(0, refusal))

    def _serve(self, connection: socket.socket) -> None:
        key = connection.fileno()
        session = Session(connection, self._served)
        ends = []
        try:
            session.run()
        except Gone as gone:
            ends = ["killed"] if gone.killed else []
        except Exception as exc:  # noqa: BLE001 - the thread's outermost frame; it is logged
            ends = ["faults"]
            self._faults.tell(exc)
            with contextlib.suppress(Gone):
                session.tell_fault()
        with self._lock:
            for end in ends:
                self._totals[end] += 1
            del self._clients[key]
            connection.close()


class Arrivals:
    """Counts each user's connections in the second that runs; the accepting thread's own."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._second = now_s()
        self._counts: dict[int, int] = {}

    def count(self, uid: int) -> int:
        """Return how many of this user came in this second, this one included."""
        now = self._now_s()
        if now - self._second >= 1.0:
            self._second, self._counts = now, {}
        self._counts[uid] = self._counts.get(uid, 0) + 1
        return self._counts[uid]


def refuse(
    peer: Peer, others: list[Peer], limits: Limits, arrival: int = 1
) -> ProtocolError | None:
    """Return why a client may not connect now; the last places are kept for root.

    ``arrival``: the how manieth of its user this connection is in this second.
    """
    if arrival > limits.new_per_s:
        message = f"user {peer.uid} made {limits.new_per_s} connections within a second"
        return ProtocolError("busy", f"{message}; keep one open")
    if sum(other.uid == peer.uid for other in others) >= limits.connections_per_uid:
        message = f"user {peer.uid} has {limits.connections_per_uid} connections open already"
        return ProtocolError("busy", f"{message}; close one")
    places = limits.connections - (limits.reserved_for_root if peer.uid else 0)
    if len(others) >= places:
        return ProtocolError("busy", f"{len(others)} clients are connected; try again later")
    return None

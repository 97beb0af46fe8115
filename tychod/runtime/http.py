"""HTTP for the metrics endpoint: few clients at once, each with a time for everything.

Each client has a thread of its own that waits for that client only; who is slow is hung up on, and
before its time where another one needs its place.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from collections import Counter, deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.runtime.faults import Faults
from tychod.runtime.http_exchange import Exchange, Gone, HttpLimits
from tychod.runtime.http_message import (
    BadRequest,
    Request,
    Response,
    come_again,
    encode,
    plain,
)
from tychod.runtime.http_peers import MOST_REST_S, PAUSE_S, REST, Peers, Shares

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

BACKLOG: Final = 1024  # clients that the kernel keeps for us
WAITING: Final = struct.Struct("24xI")  # in tcp_info of a listener: how many are in its queue
ACCEPT_RETRY_S: Final = 0.1  # pause when the process or machine is out of descriptors
COUNTED: Final = ("requests", "refused", "unauthorized", "late", "broken", "faults")


class Client(NamedTuple):
    """Who has a place."""

    name: str  # whom it counts as
    thread: threading.Thread
    exchange: Exchange


class HttpServer:
    """Serves listening sockets until stopped."""

    def __init__(
        self,
        answer: Callable[[Request], Response],
        context: Callable[[], ssl.SSLContext | None],
        limits: HttpLimits,
    ) -> None:
        """``context`` gives that of TLS for the next client, None for plain HTTP.

        It is called in the thread that accepts, one call at a time.
        """
        self._answer = answer
        self._context = context
        self._limits = limits
        self._stop = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        self._lock = threading.Lock()
        self._open: dict[socket.socket, Client] = {}  # by a second descriptor
        self._leaving: set[socket.socket] = set()  # hung up on, their threads not yet at the end
        self._parting: deque[tuple[float, socket.socket]] = deque()
        self._counts = dict.fromkeys(COUNTED, 0)
        self._peers = Peers()
        self._shares = Shares(limits.new_per_s, limits.all_per_s)
        self._is_crowded = False
        self._spent_s = 0.0  # of CPU time, by the thread that accepts, until this round
        self._faults = Faults(log, "metrics: cannot answer")

    def counts(self) -> Mapping[str, int]:
        """Return connections open now, and what came of all since the start."""
        with self._lock:
            return {"open": len(self._open), **self._counts}

    def stop(self) -> None:
        """Make ``serve`` return and end all connections."""
        self._stop.set()
        self._wake_out.send(b"x")

    def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Accept until stopped, then end who is connected."""
        poll = select.poll()
        for listener in (*listeners, self._wake_in):
            poll.register(listener, select.POLLIN)
        while not self._stop.is_set():
            poll.poll(self._next_end_ms())
            self._end_parted(time.monotonic())
            is_crowded = self._rest()
            for listener in listeners:
                for _ in range(_waiting_at(listener) if is_crowded else BACKLOG):
                    if self._stop.is_set() or not self._accept_one(listener):
                        break
        self._end_parted(float("inf"))
        with self._lock:
            ends = list(self._open)
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self, deadline: float) -> None:
        """After ``serve``: wait until all clients' threads have ended or this time has come."""
        with self._lock:
            clients = list(self._open.values())
        for client in clients:
            client.thread.join(max(deadline - time.monotonic(), 0.0))
        self._wake_in.close()
        self._wake_out.close()

    def _rest(self) -> bool:
        """Let clients gather where somebody asks too often, and say so: it bounds a flood's cost.

        One look at the table of connections then tells whose all of them are; who comes after it
        has to wait for the next one.
        """
        is_crowded, self._is_crowded = self._is_crowded, False
        if is_crowded:
            spent_s = time.thread_time() - self._spent_s
            self._stop.wait(max(self._peers.rest_s(), PAUSE_S, min(REST * spent_s, MOST_REST_S)))
        self._spent_s = time.thread_time()
        return is_crowded

    def _next_end_ms(self) -> float | None:
        if not self._parting:
            return None
        return max(self._parting[0][0] - time.monotonic(), 0.0) * 1000 + 1

    def _end_parted(self, now: float) -> None:
        while self._parting and self._parting[0][0] <= now:
            self._parting.popleft()[1].close()

    def _accept_one(self, listener: socket.socket) -> bool:
        """Take the next client out of the queue; False when nobody waits there."""
        try:
            connection, peer = listener.accept()
        except BlockingIOError:
            return False
        except ConnectionError:
            return True  # it left before we came
        except OSError as exc:
            log.warning("metrics: cannot accept a client: %s", exc.strerror)
            self._stop.wait(ACCEPT_RETRY_S)
            return False
        try:
            self._admit(connection, peer[:2])
        except (OSError, RuntimeError) as exc:  # RuntimeError: no thread can be started
            connection.close()
            log.warning("metrics: cannot serve a client: %s", exc)
        return True

    def _admit(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        """Give a client its thread, or say that it has to come later; never wait for it."""
        context, now_s = self._context(), time.monotonic()
        name = self._peers.name(peer, connection.getsockname()[:2])
        is_welcome = self._shares.take(name, now_s)
        self._is_crowded = self._is_crowded or not is_welcome
        with self._lock:
            if is_welcome and self._make_room(name, now_s):
                self._start(connection, context, name)
                return
            self._counts["refused"] += 1
        self._refuse(connection, now_s, context)

    def _make_room(self, name: str, now_s: float) -> bool:
        """Say whether there is a place for this client, hanging up on another one if need be.

        That is who keeps us waiting: of the clients with most places the one that does so longest,
        and none of a client with fewer than the newcomer has.
        """
        staying = {end: one for end, one in self._open.items() if end not in self._leaving}
        if len(staying) < self._limits.connections:
            return True
        places = Counter(one.name for one in staying.values())
        idle = [
            (-places[one.name], one.exchange.idle_from_s, end)
            for end, one in staying.items()
            if one.exchange.idle_from_s <= now_s and places[one.name] >= places[name]
        ]
        if not idle or len(self._open) >= 2 * self._limits.connections:
            return False
        _, _, end = min(idle, key=lambda found: found[:2])
        self._leaving.add(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        return True

    def _start(self, connection: socket.socket, context: ssl.SSLContext | None, name: str) -> None:
        # The small records of TLS would wait for the client's delayed acknowledgement: 40 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end, exchange = connection.dup(), Exchange(connection, self._limits)
        thread = threading.Thread(
            target=self._converse, args=(end, context), name="metrics-client", daemon=True
        )
        self._open[end] = Client(name, thread, exchange)
        try:
            thread.start()
        except RuntimeError:
            del self._open[end]
            end.close()
            raise

    def _refuse(
        self, connection: socket.socket, now_s: float, context: ssl.SSLContext | None
    ) -> None:
        """Say it where that needs no handshake; close when the client had time to read it."""
        if context is not None or len(self._parting) >= self._limits.refusals_per_s:
            connection.close()
            return
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.send(encode(come_again("too many clients; come again")))
            connection.shutdown(socket.SHUT_WR)
        self._parting.append((now_s + self._limits.part_s, connection))

    def _converse(self, end: socket.socket, context: ssl.SSLContext | None) -> None:
        with self._lock:  # held until our place is noted
            client = self._open[end]
        try:
            if context is not None:
                client.exchange.secure(context)
            self._exchange(client)
        except Gone as gone:
            self._count("late" if end in self._leaving else gone.counted)
        finally:
            client.exchange.close()
            with self._lock:
                del self._open[end]
                self._leaving.discard(end)
                end.close()

    def _exchange(self, client: Client) -> None:
        method, exchange = "GET", client.exchange
        try:
            request = exchange.read()._replace(peer=client.name)
            method = request.method
            response = self._try_answer(request)
        except BadRequest as bad:
            response = bad.response
        self._count("requests")
        if response.status is HTTPStatus.UNAUTHORIZED:
            self._count("unauthorized")
        exchange.send(encode(response, method))
        exchange.part()

    def _try_answer(self, request: Request) -> Response:
        try:
            return self._answer(request)
        except BadRequest:
            raise
        except Exception as exc:  # noqa: BLE001 - the outermost frame of pages; it is logged
            self._count("faults")
            self._faults.tell(exc)
            text = "tychod failed to answer; its log says why"
            return plain(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def _waiting_at(listener: socket.socket) -> int:
    """Return how many clients are in a listener's queue."""
    told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, WAITING.size)
    return int(WAITING.unpack(told)[0])

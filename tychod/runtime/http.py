"""HTTP for the metrics endpoint: few clients at once, each with a time for everything.

Each client has a thread of its own that waits for that client only; who is slow is hung up on.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.runtime.http_message import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    BadRequest,
    Request,
    Response,
    come_again,
    encode,
    parse_head,
    plain,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

RECEIVE_BYTES: Final = 4096
SEND_BYTES: Final = 64 * 1024
BACKLOG: Final = 64
ACCEPT_RETRY_S: Final = 0.1  # pause when the process or machine is out of descriptors
MAX_FAULTS_LOGGED: Final = 32  # different ones
COUNTED: Final = ("requests", "refused", "unauthorized", "late", "broken", "faults")


class HttpLimits(NamedTuple):
    """What clients may take; times in seconds."""

    connections: int = 8
    new_per_s: int = 20  # served; a handshake of TLS costs a millisecond or two
    refusals_per_s: int = 100  # told; then nobody is accepted until the second is over
    request_s: float = 5.0  # handshake, request line and headers together
    send_s: float = 10.0
    part_s: float = 1.0  # for the client to close after the answer


class Gone(Exception):  # noqa: N818 - an outcome, not a fault
    """The client left, or its time was over; ``counted`` as what."""

    def __init__(self, counted: str) -> None:
        super().__init__(counted)
        self.counted = counted


class Exchange:
    """One connection: a request, its response, the end."""

    def __init__(self, connection: socket.socket, limits: HttpLimits) -> None:
        self._connection = connection
        self._secured: ssl.SSLSocket | None = None
        self._limits = limits
        self._until = time.monotonic() + limits.request_s

    def secure(self, context: ssl.SSLContext) -> None:
        """Do the handshake of TLS within the time for the request."""
        try:
            self._wait()
            self._secured = context.wrap_socket(self._connection, server_side=True)
        except (OSError, ValueError) as exc:
            raise Gone("late" if isinstance(exc, TimeoutError) else "broken") from exc
        self._connection = self._secured

    def read(self) -> Request:
        """Return the request; raise ``BadRequest`` for one that can be answered all the same."""
        head = b""
        while END_OF_HEAD not in head:
            if len(head) > MAX_HEAD_BYTES:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                raise BadRequest(plain(status, f"more than {MAX_HEAD_BYTES} bytes of headers"))
            try:
                self._wait()
                data = self._connection.recv(RECEIVE_BYTES)
            except TimeoutError as exc:
                raise Gone("late") from exc
            except OSError as exc:
                raise Gone("broken") from exc
            if not data:
                raise Gone("broken")
            head += data
        return parse_head(head[: head.index(END_OF_HEAD) + len(END_OF_HEAD)])

    def send(self, data: bytes) -> None:
        """Send all of it within the time for sending, however the client takes it."""
        self._until = time.monotonic() + self._limits.send_s
        left = memoryview(data)
        try:
            while left:
                self._wait()
                left = left[self._connection.send(left[:SEND_BYTES]) :]
        except TimeoutError as exc:
            raise Gone("late") from exc
        except OSError as exc:
            raise Gone("broken") from exc

    def part(self) -> None:
        """Let the client close first: what it may have sent beside would make it lose the end."""
        self._until = time.monotonic() + self._limits.part_s
        with contextlib.suppress(OSError, ValueError):
            if self._secured is not None:
                self._wait()
                self._connection = self._secured.unwrap()
            self._connection.shutdown(socket.SHUT_WR)
            while True:
                self._wait()
                if not self._connection.recv(RECEIVE_BYTES):
                    return

    def close(self) -> None:
        """Give the descriptor back."""
        self._connection.close()

    def _wait(self) -> None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)


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
        self._open: dict[socket.socket, threading.Thread] = {}  # by a second descriptor
        self._parting: deque[tuple[float, socket.socket]] = deque()
        self._counts = dict.fromkeys(COUNTED, 0)
        self._second, self._arrived = time.monotonic(), 0
        self._logged: set[str] = set()

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
            for listener in listeners:
                while not self._stop.is_set() and self._accept_one(listener):
                    pass
        self._end_parted(float("inf"))
        with self._lock:
            ends = list(self._open)
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self, deadline: float) -> None:
        """After ``serve``: wait until all clients' threads have ended or this time has come."""
        with self._lock:
            threads = list(self._open.values())
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        self._wake_in.close()
        self._wake_out.close()

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
            connection, _ = listener.accept()
        except BlockingIOError:
            return False
        except ConnectionError:
            return True  # it left before we came
        except OSError as exc:
            log.warning("metrics: cannot accept a client: %s", exc.strerror)
            self._stop.wait(ACCEPT_RETRY_S)
            return False
        try:
            self._admit(connection)
        except (OSError, RuntimeError) as exc:  # RuntimeError: no thread can be started
            connection.close()
            log.warning("metrics: cannot serve a client: %s", exc)
        return True

    def _admit(self, connection: socket.socket) -> None:
        """Give a client its thread, or say that it has to come later; never wait for it."""
        now, context = time.monotonic(), self._context()
        if now - self._second >= 1.0:
            self._second, self._arrived = now, 0
        self._arrived += 1
        with self._lock:
            has_place = len(self._open) < self._limits.connections
            if self._arrived <= self._limits.new_per_s and has_place:
                self._start(connection, context)
                return
            self._counts["refused"] += 1
        self._refuse(connection, now, context)
        if self._arrived > self._limits.new_per_s + self._limits.refusals_per_s:
            self._stop.wait(self._second + 1.0 - now)

    def _start(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        # The small records of TLS would wait for the client's delayed acknowledgement: 40 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = connection.dup()
        told = (connection, end, context)
        thread = threading.Thread(
            target=self._converse, args=told, name="metrics-client", daemon=True
        )
        self._open[end] = thread
        try:
            thread.start()
        except RuntimeError:
            del self._open[end]
            end.close()
            raise

    def _refuse(
        self, connection: socket.socket, now: float, context: ssl.SSLContext | None
    ) -> None:
        """Say it where that needs no handshake; close when the client had time to read it."""
        connection.setblocking(False)
        if context is None:
            with contextlib.suppress(OSError):
                connection.send(encode(come_again("too many clients; come again")))
                connection.shutdown(socket.SHUT_WR)
        if len(self._parting) >= self._limits.refusals_per_s:
            self._parting.popleft()[1].close()
        self._parting.append((now + self._limits.part_s, connection))

    def _converse(
        self, connection: socket.socket, end: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        exchange = Exchange(connection, self._limits)
        try:
            if context is not None:
                exchange.secure(context)
            self._exchange(exchange)
        except Gone as gone:
            self._count(gone.counted)
        finally:
            exchange.close()
            with self._lock:
                del self._open[end]
                end.close()

    def _exchange(self, exchange: Exchange) -> None:
        method = "GET"
        try:
            request = exchange.read()
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
            self._log_fault(exc)
            text = "tychod failed to answer; its log says why"
            return plain(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _log_fault(self, exc: Exception) -> None:
        """Log a fault's traceback once: who repeats the question must not fill the log."""
        name = repr(exc)
        with self._lock:
            is_new = name not in self._logged and len(self._logged) < MAX_FAULTS_LOGGED
            if is_new:
                self._logged.add(name)
        if is_new:
            log.error("metrics: cannot answer (logged once): %s", name, exc_info=exc)

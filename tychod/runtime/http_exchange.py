"""One connection to the metrics endpoint: a request, its response, and a time for each."""

from __future__ import annotations

import contextlib
import math
import socket
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.runtime.http_message import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    BadRequest,
    Request,
    parse_head,
    plain,
)

if TYPE_CHECKING:
    import ssl

RECEIVE_BYTES: Final = 4096
SEND_BYTES: Final = 64 * 1024


class HttpLimits(NamedTuple):
    """What clients may take; times in seconds."""

    connections: int = 8
    new_per_s: int = 20  # served of one client; a handshake of TLS costs a millisecond or two
    all_per_s: int = 60  # served of all
    refusals_per_s: int = 100  # told; others are hung up on without a word
    request_s: float = 5.0  # handshake, request line and headers together
    send_s: float = 10.0
    part_s: float = 1.0  # for the client to close after the answer
    slow_s: float = 1.0  # of sending, after which a client gives way to others


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
        now_s = time.monotonic()
        self._until = now_s + limits.request_s
        self._idle_from_s = now_s

    @property
    def idle_from_s(self) -> float:
        """Monotonic seconds from which we do nothing but wait for the client; inf: we work.

        Who is waited for gives way to a newcomer, as nothing is lost but its own time.
        """
        return self._idle_from_s

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
        self._idle_from_s = math.inf
        return parse_head(head[: head.index(END_OF_HEAD) + len(END_OF_HEAD)])

    def send(self, data: bytes) -> None:
        """Send all of it within the time for sending, however the client takes it."""
        now_s = time.monotonic()
        self._until = now_s + self._limits.send_s
        self._idle_from_s = now_s + self._limits.slow_s
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
        self._idle_from_s = time.monotonic()
        self._until = self._idle_from_s + self._limits.part_s
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

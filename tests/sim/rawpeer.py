"""A hostile peer on a loopback port: sends what it is told, whatever it was asked, or over TLS."""

import contextlib
import socket
import ssl
import threading
from typing import Final, Self

from tests.sim.kubelet import Pair

REDIRECT: Final = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"


class RawPeer:
    """Answers every connection with ``opening``, then with ``more`` again and again.

    ``pause_s`` is between two of ``more``; at most ``most`` of them are sent.
    """

    def __init__(
        self,
        opening: bytes,
        more: bytes = b"",
        *,
        pause_s: float = 0.0,
        most: int = 0,
        pair: Pair | None = None,
    ) -> None:
        self.opening = opening
        self._more, self._pause_s, self._most = more, pause_s, most
        self.released = threading.Event()
        self.sent = 0  # bytes after the opening
        self.connections = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if pair else None
        if pair and self._context:
            self._context.load_cert_chain(pair.cert, pair.key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in tuple(self._threads):
            thread.join()

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._speak, args=(connection,)))
            self._threads[-1].start()

    def _speak(self, connection: socket.socket) -> None:
        # One that goes away in the middle is what the tests are about.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10.0)
            if self._context is None:
                self._send(connection)
                return
            with self._context.wrap_socket(connection, server_side=True) as secured:
                self._send(secured)

    def _send(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(self.opening)
        for _ in range(self._most):
            if self.released.wait(self._pause_s):
                break
            connection.sendall(self._more)
            self.sent += len(self._more)

"""What systemd is told: ready, status, reloading, stopping, and that analysis still advances."""

import logging
import time
from collections.abc import Mapping
from typing import Final

import sdnotify

log = logging.getLogger(__name__)

SEND_TIMEOUT_S: Final = 0.5


class Notifier:
    """Speaks to the service manager that started us; silent where none did.

    Safe to call from any thread: each call is one datagram.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        """Connect to $NOTIFY_SOCKET; ``environ`` is os.environ, where sdnotify looks as well."""
        self.watchdog_timeout_s: Final = parse_watchdog_timeout_s(environ, pid)
        # Without the variable sdnotify would make a socket and drop it unclosed.
        self._connection = sdnotify.SystemdNotifier() if environ.get("NOTIFY_SOCKET") else None
        if self._connection is None:
            return
        if self._connection.socket is None:
            log.warning(
                "cannot reach $NOTIFY_SOCKET, so the service manager will not know that tychod is "
                "ready; start it as a systemd service or unset the variable"
            )
            return
        # A service manager that hangs must not hold up analysis.
        self._connection.socket.settimeout(SEND_TIMEOUT_S)

    def ready(self, status: str) -> None:
        """Say that start or reload is complete, and how it went."""
        self._send("READY=1", render_status(status))

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(render_status(text))

    def reloading(self) -> None:
        """Say that a reload began; `ready` ends it."""
        # systemd 253 and later compare this with the time of their own SIGHUP (notify-reload).
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "stopping") -> None:
        """Say that the daemon is on its way out."""
        self._send("STOPPING=1", render_status(status))

    def watchdog(self) -> None:
        """Feed the watchdog; only analysis may call this, each time it has advanced."""
        if self.watchdog_timeout_s is not None:
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the connection; later calls are silent."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.socket is not None:
            connection.socket.close()

    def _send(self, *lines: str) -> None:
        if self._connection is not None:
            # sdnotify encodes as Latin-1 and drops what does not fit; systemd expects UTF-8.
            self._connection.notify("\n".join(lines).encode("utf-8").decode("latin-1"))


def render_status(text: str) -> str:
    """Return the STATUS= line; what would end the line is replaced."""
    return "STATUS=" + " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def parse_watchdog_timeout_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds without `watchdog` after which systemd ends us, or None: no watchdog."""
    try:
        timeout_us = int(environ.get("WATCHDOG_USEC", "0"))
        meant_for = int(environ.get("WATCHDOG_PID", pid))
    except ValueError:
        return None
    return timeout_us / 1e6 if timeout_us > 0 and meant_for == pid else None

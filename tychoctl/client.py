"""One connection to tychod: hello, questions, streams, and what each failure means."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tychod import frames
from tychod.frames import Decoder, ProtocolError

DEFAULT_SOCKET: Final = "/run/tychod/tychod.sock"
TIMEOUT_S: Final = 5.0
WINDOW_TIMEOUT_S: Final = 70.0
"""Longest wait for a window: [window] length may be 60 s."""
RECEIVE_BYTES: Final = 256 * 1024
CHECK: Final = "does another program listen there? See --socket and journalctl -u tychod"

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_PERMITTED: Final = 3
EXIT_NOT_FOUND: Final = 4
EXIT_NOT_RUNNING: Final = 5
EXITS: Final[Mapping[str, int]] = {
    "bad-request": EXIT_USAGE,
    "usage": EXIT_USAGE,
    "forbidden": EXIT_NOT_PERMITTED,
    "not-found": EXIT_NOT_FOUND,
    "not-running": EXIT_NOT_RUNNING,
}

Reply = dict[str, object]


class Failure(Exception):  # noqa: N818 - what the user is told, not only errors of ours
    """Why there is no answer: a code for programs, a sentence for people.

    ``seconds`` until it may work, where the daemon says so.
    """

    def __init__(self, code: str, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.seconds = seconds

    @property
    def exit_code(self) -> int:
        """The exit code of the command that met it."""
        return EXITS.get(self.code, EXIT_FAILED)


class Welcome(NamedTuple):
    """What the daemon says of itself."""

    daemon: str
    commit: str
    built: str = "unknown"


class Connection:
    """Asks one daemon; every wait ends."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._decoder = Decoder(frames.MAX_REPLY_BYTES)
        self._messages: list[object] = []
        self._id = 0
        self._socket = _connect(path, timeout_s)
        try:
            self.welcome = self._greet()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Connection":
        """Return itself, connected."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def break_off(self) -> None:
        """End what another thread waits for; the connection is still to be closed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def call(self, op: str, args: Mapping[str, object] | None = None) -> Reply:
        """Return the answer to one operation; raise ``Failure`` for the daemon's error."""
        self._ask(op, args)
        ok, _ = self._answer(self._timeout_s)
        return _as_map(ok)

    def stream(self, op: str, interval_s: float | None) -> Iterator[Reply]:
        """Yield an operation's answer for every window, or every ``interval_s`` seconds."""
        self._ask("watch", {"op": op, "interval": interval_s})
        timeout_s = self._timeout_s
        more = True
        while more:
            ok, more = self._stream_answer(timeout_s)
            if more:
                yield _as_map(ok)
            timeout_s = interval_s + self._timeout_s if interval_s else WINDOW_TIMEOUT_S

    def record(self, seconds: float) -> Iterator[Reply]:
        """Yield the parts of a recording as they come."""
        self._ask("record", {"seconds": seconds})
        more = True
        while more:
            ok, more = self._stream_answer(WINDOW_TIMEOUT_S)
            if more:
                yield _as_map(ok)

    def end_stream(self) -> None:
        """Ask for the end of a stream; what comes until then is still to be read."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _stream_answer(self, timeout_s: float) -> tuple[object, bool]:
        """Return a stream's next answer; the end between two without good-bye is the daemon's."""
        try:
            return self._answer(timeout_s)
        except Failure as failure:
            if failure.code != "closed" or self._decoder.partial:
                raise
            message = "tychod went away: it was killed or crashed; see journalctl -u tychod"
            raise Failure("not-running", message) from failure

    def _greet(self) -> Welcome:
        reply = self.call("hello", {"version": frames.VERSION, "client": "tychoctl"})
        try:
            frames.check_version(reply.get("version"), "tychod", "tychoctl")
        except ProtocolError as exc:
            raise Failure(exc.code, exc.message) from exc
        return Welcome(
            str(reply.get("daemon")), str(reply.get("commit")), str(reply.get("built", "unknown"))
        )

    def _ask(self, op: str, args: Mapping[str, object] | None) -> None:
        self._id += 1
        request = {"id": self._id, "op": op, "args": dict(args or {})}
        self._socket.settimeout(self._timeout_s)
        # A daemon that refuses us answers and hangs up, perhaps before it reads: its answer counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(frames.encode_frame(request, frames.MAX_REQUEST_BYTES))

    def _answer(self, timeout_s: float) -> tuple[object, bool]:
        """Return what is in ``ok`` and whether more will follow."""
        reply = _as_map(self._next_message(timeout_s))
        error = reply.get("error")
        if error is not None:
            raise _as_failure(_as_map(error))
        if reply.get("id") != self._id or "ok" not in reply:
            raise Failure("protocol", f"tychod answered something else than was asked; {CHECK}")
        return reply["ok"], reply.get("more") is True

    def _next_message(self, timeout_s: float) -> object:
        deadline = time.monotonic() + timeout_s
        while not self._messages:
            data = self._receive(deadline - time.monotonic(), timeout_s)
            try:
                self._messages.extend(self._decoder.feed(data))
            except ProtocolError as exc:
                message = f"tychod sent what is no answer: {exc.message}; {CHECK}"
                raise Failure("protocol", message) from exc
        return self._messages.pop(0)

    def _receive(self, left_s: float, timeout_s: float) -> bytes:
        try:
            self._socket.settimeout(max(left_s, 0.001))
            data = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError as exc:
            message = f"tychod did not answer within {timeout_s:g} s; see journalctl -u tychod"
            raise Failure("timeout", message) from exc
        except ConnectionResetError:
            data = b""
        if not data:
            raise Failure("closed", "tychod closed the connection; see journalctl -u tychod")
        return data


def _connect(path: str, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # With a time-out of Python's a full queue fails at once; the kernel waits for a place.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval(timeout_s))
        connection.connect(path)
    except OSError as exc:
        connection.close()
        raise _connect_failure(path, exc) from exc
    return connection


def timeval(seconds: float) -> bytes:
    """Return a time as the kernel's struct timeval."""
    whole, part = divmod(round(seconds * 1e6), 1_000_000)
    return struct.pack("@ll", whole, part)


def _connect_failure(path: str, exc: OSError) -> Failure:
    if isinstance(exc, FileNotFoundError | ConnectionRefusedError):
        return Failure("not-running", f"nothing answers on {path}")
    if isinstance(exc, PermissionError):
        from tychoctl.advice import render_not_permitted

        return Failure("forbidden", render_not_permitted(path))
    if isinstance(exc, BlockingIOError | TimeoutError):
        return Failure(
            "busy", f"tychod does not take connections on {path}; try again, or --wait 10"
        )
    why = f"cannot connect to {path}: {exc.strerror or exc}"
    return Failure("connect", f"{why}; name tychod's socket with --socket or TYCHOD_SOCKET")


def _as_map(value: object) -> Reply:
    if not isinstance(value, dict):
        raise Failure("protocol", f"tychod sent what is no answer: a map was expected; {CHECK}")
    return value


def _as_failure(error: Reply) -> Failure:
    seconds = error.get("seconds")
    known_s = float(seconds) if isinstance(seconds, int | float) else None
    message = str(error.get("message"))
    if message.startswith("unknown operation"):  # of a daemon from before this command
        message += "; upgrade tychod, and restart it (tychoctl version tells both versions)"
    return Failure(str(error.get("code")), message, known_s)


def socket_path(option: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the daemon's socket: the option, the environment, the usual place."""
    return option or environ.get("TYCHOD_SOCKET") or DEFAULT_SOCKET

"""One client's conversation: its limits in time and size, its requests, its streams."""

import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tychod import frames, protocol
from tychod.buffer import Latest
from tychod.frames import Decoder, ProtocolError
from tychod.model import Snapshot
from tychod.protocol import Request, Watch
from tychod.runtime.answers import Answers

RECEIVE_BYTES: Final = 64 * 1024
JOINED_BYTES: Final = 64 * 1024  # longer answers are sent as they are instead of copied
POLL_S: Final = 0.25  # how soon a stream notices that its client left or the server stops
NIL: Final = b"\xc0"  # msgpack's null: the last answer of a stream


class Limits(NamedTuple):
    """What a client may take; times in seconds."""

    connections: int = frames.MAX_CONNECTIONS
    connections_per_uid: int = frames.MAX_CONNECTIONS_PER_UID
    reserved_for_root: int = frames.RESERVED_FOR_ROOT
    idle_s: float = frames.IDLE_TIMEOUT_S
    frame_s: float = frames.FRAME_TIMEOUT_S
    send_s: float = frames.FRAME_TIMEOUT_S
    requests_per_s: int = frames.MAX_REQUESTS_PER_S
    new_per_s: int = frames.MAX_NEW_PER_S  # connections, of one user
    refusals_per_s: int = frames.MAX_REFUSALS_PER_S  # told to one user


class Times(NamedTuple):
    """The clock that floods are counted by, and how one waits; both in seconds."""

    now_s: Callable[[], float] = time.monotonic
    pause: Callable[[float], object] | None = None  # None: until the time is over or we stop


class Served(NamedTuple):
    """What all conversations share."""

    answers: Answers
    latest: Latest[Snapshot]
    stop: threading.Event
    read_counts: Callable[[], Mapping[str, int]]
    limits: Limits
    times: Times = Times()


class Gone(Exception):  # noqa: N818 - an outcome, not a fault
    """The conversation is over; ``killed`` when it is the client's fault."""

    def __init__(self, *, killed: bool) -> None:
        super().__init__()
        self.killed = killed


class Session:
    """Answers one client's requests, in order, until it leaves or breaks the rules."""

    def __init__(self, connection: socket.socket, served: Served) -> None:
        self._connection = connection
        self._served = served
        self._limits = served.limits
        self._decoder = Decoder(frames.MAX_REQUEST_BYTES)
        self._greeted = False
        self._id = 0
        self._frame_until = 0.0
        self._second = 0.0
        self._requests = 0

    def run(self) -> None:
        """Serve; end by raising ``Gone``.  Anything else that is raised is a fault of ours."""
        while not self._served.stop.is_set():
            data = self._receive()
            was_partial = self._decoder.partial
            try:
                for message in self._decoder.feed(data):
                    was_partial = False
                    self._take(message)
            except ProtocolError as error:  # no frame boundary can be trusted any more
                self._send(frames.encode_error(0, error))
                raise Gone(killed=True) from error
            if self._decoder.partial and not was_partial:
                self._frame_until = time.monotonic() + self._limits.frame_s
        raise Gone(killed=False)

    def tell_fault(self) -> None:
        """Tell the client that the daemon failed it."""
        error = ProtocolError("internal", "tychod failed to answer; its log says why")
        self._send(frames.encode_error(self._id, error))

    def _take(self, message: object) -> None:
        """Answer one message; a request that is wrong in itself costs only its own answer."""
        self._pace()
        self._id = protocol.request_id(message)
        try:
            request = self._parse(message)
            HANDLERS[request.op](self, request)
        except ProtocolError as error:
            self._send(frames.encode_error(self._id, error))
            if not self._greeted or not isinstance(message, Mapping):
                raise Gone(killed=True) from error

    def _parse(self, message: object) -> Request:
        request = protocol.parse_request(message)
        if not self._greeted and request.op != "hello":
            raise ProtocolError("bad-request", "the first request has to be hello")
        return request

    def _pace(self) -> None:
        """Let a flood of requests wait in its own thread."""
        now_s, pause = self._served.times
        now = now_s()
        if now - self._second >= 1.0:
            self._second, self._requests = now, 0
        self._requests += 1
        if self._requests > self._limits.requests_per_s:
            (pause or self._served.stop.wait)(self._second + 1.0 - now)

    def hello(self, request: Request) -> None:
        """Welcome a client; that its version fits has been checked with the request."""
        self._greeted = True
        self._reply(request.id, self._served.answers.welcome())

    def tell(self, request: Request) -> None:
        """Answer an operation once."""
        self._reply(request.id, self._packed(request.op))

    def watch(self, request: Request) -> None:
        """Repeat an operation's answer until the client says something, leaves, or we stop."""
        args = request.args
        if not isinstance(args, Watch) or HANDLERS.get(args.op) is not Session.tell:
            raise ProtocolError("bad-request", "watch: op names no operation that can be repeated")
        due = None if args.interval is None else time.monotonic()
        going = True
        while going:
            count = self._served.latest.count()
            self._reply(request.id, self._packed(args.op), more=True)
            if due is not None and args.interval is not None:
                due = max(due + args.interval, time.monotonic())
            going = self._wait_turn(count, due)
        self._reply(request.id, NIL)

    def _wait_turn(self, count: int, due: float | None) -> bool:
        """Wait for a newer window, or until ``due``; False when the stream shall end."""
        while not self._served.stop.is_set() and not self._has_input():
            if due is None:
                if self._served.latest.wait_newer(count, POLL_S):
                    return True
            elif (left_s := due - time.monotonic()) <= 0:
                return True
            else:
                self._served.stop.wait(min(left_s, POLL_S))
        return False

    def _has_input(self) -> bool:
        """Say whether the client sent something more or left."""
        if self._decoder.partial:
            return True
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(0))

    def _packed(self, op: str) -> bytes:
        answers = self._served.answers
        if op == "status":
            return answers.status(self._served.read_counts())
        live = {"sources": answers.sources, "config": answers.config}.get(op)
        return live() if live else answers.packed(op)

    def _reply(self, request_id: int, packed: bytes, *, more: bool = False) -> None:
        start = frames.encode_reply_start(request_id, len(packed), more=more)
        if len(packed) <= JOINED_BYTES:
            self._send(start + packed)
        else:
            self._send(start)
            self._send(packed)

    def _send(self, data: bytes) -> None:
        try:
            self._connection.settimeout(self._limits.send_s)
            self._connection.sendall(data)  # the time-out is for all of it
        except OSError as exc:
            raise Gone(killed=isinstance(exc, TimeoutError)) from exc

    def _receive(self) -> bytes:
        """Return what the client sends next, within the time for a frame or between requests."""
        timeout_s = self._limits.idle_s
        if self._decoder.partial:
            timeout_s = max(self._frame_until - time.monotonic(), 0.001)
        try:
            self._connection.settimeout(timeout_s)
            data = self._connection.recv(RECEIVE_BYTES)
        except OSError as exc:
            raise Gone(killed=isinstance(exc, TimeoutError)) from exc
        if not data:
            raise Gone(killed=False)
        return data


HANDLERS: Final[Mapping[str, Callable[[Session, Request], None]]] = {
    "hello": Session.hello,
    "status": Session.tell,
    "sources": Session.tell,
    "config": Session.tell,
    "node": Session.tell,
    "workloads": Session.tell,
    "pods": Session.tell,
    "containers": Session.tell,
    "units": Session.tell,
    "processes": Session.tell,
    "watch": Session.watch,
}
"""How each operation of the protocol is answered; a test holds the keys equal to its OPS."""

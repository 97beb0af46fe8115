"""One client's conversation: its limits in time and size, its requests, its streams."""

import fcntl
import select
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tychod import frames, protocol
from tychod.frames import Decoder, ProtocolError
from tychod.protocol import Record, Request, Watch
from tychod.runtime.answers import Answers, pack
from tychod.runtime.listener import read_groups, read_peer
from tychod.runtime.recorder import Recorder, Recorders
from tychod.runtime.recording import COMPLETE, RecordingError, RecordingWriter
from tychod.runtime.rights import Rights, too_often
from tychod.runtime.slots import Access, Slot

RECEIVE_BYTES: Final = 64 * 1024
JOINED_BYTES: Final = 64 * 1024  # longer answers are sent as they are instead of copied
POLL_S: Final = 0.25  # how soon a stream notices that its client left or the server stops
CHUNK_BYTES: Final = 1024 * 1024  # of a recording in one frame
CUT: Final = "cut off:"
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
    stop: threading.Event
    read_counts: Callable[[], Mapping[str, int]]
    limits: Limits
    times: Times = Times()
    recorders: Recorders | None = None


class Gone(Exception):  # noqa: N818 - an outcome, not a fault
    """The conversation is over; ``killed`` when it is the client's fault."""

    def __init__(self, *, killed: bool) -> None:
        super().__init__()
        self.killed = killed


class Stall:
    """Ends the conversation with who leaves untaken what was sent to it."""

    def __init__(self, connection: socket.socket, limit_s: float) -> None:
        self._connection = connection
        self._limit_s = limit_s
        self._left = 0
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise ``Gone`` when nothing of what waits in the socket was taken for too long."""
        answer = fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4))  # unix(7): SIOCOUTQ
        left = int.from_bytes(answer, sys.byteorder)
        if left == 0 or left < self._left:
            self._since = time.monotonic()
        self._left = left
        if time.monotonic() - self._since > self._limit_s:
            raise Gone(killed=True)


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
        self._rights = Rights(connection)

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

    def ask(self, request: Request) -> None:
        """Answer an operation that has arguments."""
        self._reply(request.id, self._served.answers.ask(request.op, request.args, self._access()))

    def _access(self) -> Access:
        """Return which results this client may see, by the settings in force."""
        answers = self._served.answers
        admin_group = answers.control.admin_group
        return answers.access(everything=self._rights.are_all(admin_group))

    def watch(self, request: Request) -> None:
        """Repeat an operation's answer until the client says something, leaves, or we stop."""
        args = request.args
        if not isinstance(args, Watch) or HANDLERS.get(args.op) is not Session.tell:
            raise ProtocolError("bad-request", "watch: op names no operation that can be repeated")
        slot, step_s = self._access()
        if args.interval is not None and args.interval < step_s:
            raise ProtocolError("forbidden", too_often(args.interval, self._served.answers.control))
        due = None if args.interval is None else time.monotonic()
        going = True
        while going:
            count = slot.count()
            self._reply(request.id, self._packed(args.op), more=True)
            if due is not None and args.interval is not None:
                due = max(due + args.interval, time.monotonic())
            going = self._wait_turn(slot, count, due)
        self._reply(request.id, NIL)

    def _wait_turn(self, slot: Slot, count: int, due: float | None) -> bool:
        """Wait for a newer window, or until ``due``; False when the stream shall end."""
        while not self._served.stop.is_set() and not self._has_input():
            if due is None:
                if slot.wait_newer(count, POLL_S):
                    return True
            elif (left_s := due - time.monotonic()) <= 0:
                return True
            else:
                self._served.stop.wait(min(left_s, POLL_S))
        return False

    def record(self, request: Request) -> None:
        """Send what analysis is given until the time is over, the client speaks, or we stop."""
        recorders, args = self._served.recorders, request.args
        if recorders is None or not isinstance(args, Record):
            raise ProtocolError("unavailable", "this tychod makes no recordings")
        peer = read_peer(self._connection)
        recorders.refuse(peer.uid, lambda: read_groups(self._connection))
        with recorders.attached() as recorder:
            writer = RecordingWriter(recorders.describe())
            self._send_chunk(request.id, writer.start(), 0, 0.0)
            reason = self._record_windows(request.id, recorder, writer, args.seconds)
            self._send_chunk(request.id, writer.end(reason), writer.windows, None)
        if reason.startswith(CUT):
            raise ProtocolError("busy", reason)
        self._reply(request.id, NIL)

    def _record_windows(
        self, number: int, recorder: Recorder, writer: RecordingWriter, seconds: float
    ) -> str:
        """Send one window after the other; return why there are no more."""
        stall = Stall(self._connection, self._limits.send_s)
        begin_ns: int | None = None
        while not self._served.stop.is_set():
            if self._has_input():
                return "ended by the client"
            if recorder.overrun:
                return f"{CUT} windows came faster than they were taken"
            stall.check()
            analysed = recorder.take(min(POLL_S, self._limits.send_s / 4))
            if analysed is None:
                continue
            begin_ns = analysed.window.start_ns if begin_ns is None else begin_ns
            so_far_s = (analysed.window.end_ns - begin_ns) / 1e9
            try:
                chunk = writer.add(analysed)
            except RecordingError as exc:
                return f"{CUT} {exc}"
            self._send_chunk(number, chunk, writer.windows, so_far_s)
            if so_far_s >= seconds:
                return COMPLETE
        return "tychod stopped"

    def _send_chunk(self, number: int, data: bytes, windows: int, seconds: float | None) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            told = {"chunk": data[start : start + CHUNK_BYTES], "windows": windows}
            self._reply(number, pack({**told, "seconds": seconds}), more=True)

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
            return answers.status(self._served.read_counts(), self._access())
        live = {"sources": answers.sources, "config": answers.config}.get(op)
        return live() if live else answers.packed(op, self._access())

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
    "vms": Session.tell,
    "units": Session.tell,
    "gpus": Session.tell,
    "processes": Session.tell,
    "explain": Session.ask,
    "metrics": Session.ask,
    "report": Session.ask,
    "trend": Session.ask,
    "watch": Session.watch,
    "record": Session.record,
}
"""How each operation of the protocol is answered; a test holds the keys equal to its OPS."""

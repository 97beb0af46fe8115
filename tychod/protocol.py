"""Frames, operations and error codes of the control socket; no I/O.

A frame is a 4-byte big-endian length, then one msgpack map: ``{id, op, args}`` asks,
``{id, ok}`` or ``{id, error: {code, message}}`` answers; a stream answers
``{id, more: true, ok}`` until one without ``more``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

import msgpack

from tychod.schema import Dataclass, Doc, Range, load

VERSION: Final = 1
"""Raised when a request or reply changes its meaning; additions do not raise it."""
MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_REPLY_BYTES: Final = 8 * 1024 * 1024
MAX_CONNECTIONS: Final = 32
MAX_CONNECTIONS_PER_UID: Final = 8
RESERVED_FOR_ROOT: Final = 2
MAX_REQUESTS_PER_S: Final = 100
"""Of one connection; the rest wait, so that nobody's flood takes the daemon's time."""
MAX_ARGS: Final = 32
MAX_COMPLAINT: Final = 500  # characters of a foreign value that a reply repeats
IDLE_TIMEOUT_S: Final = 60.0
FRAME_TIMEOUT_S: Final = 5.0

ErrorCode = Literal[
    "bad-request",  # 2: the request does not fit the operation's declaration
    "forbidden",  # 3
    "not-found",  # 4
    "not-ready",  # 1: before the first window
    "busy",  # 1: too many connections
    "version",  # 1: client and daemon do not speak the same version
    "internal",  # 1: a fault of the daemon, see its log
]
LENGTH: Final = struct.Struct(">I")


class ProtocolError(Exception):
    """Something the peer is told: a code for programs and a sentence for people."""

    def __init__(self, code: ErrorCode, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.seconds = seconds  # not-ready: seconds left until the first window


@dataclass(frozen=True, slots=True)
class Nothing:
    """An operation without arguments."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the client says first."""

    version: Annotated[int, Range(0, 1_000_000), Doc("Protocol version of the client.")]
    client: Annotated[str, Doc("Name and version of the client, for the log.")] = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask for an operation's answer again and again."""

    op: Annotated[str, Doc("The operation to repeat.")]
    interval: Annotated[
        float | None, Range(0.1, 86400.0), Doc("Seconds between answers; null: every new window.")
    ] = None


class Op(NamedTuple):
    """One operation: its arguments, whether it streams and needs a first window."""

    request: type[Dataclass]
    doc: str
    stream: bool = False
    needs_window: bool = False


OPS: Final[Mapping[str, Op]] = {
    "hello": Op(Hello, "Agree on a version; answers with the daemon's."),
    "status": Op(Nothing, "Health of the daemon: accounting, counts, its own cost, problems."),
    "sources": Op(Nothing, "Health of every source, with reason and remedy where it is missing."),
    "config": Op(Nothing, "The settings in force, each with its origin."),
    "node": Op(Nothing, "Energy and power of the node by domain.", needs_window=True),
    "workloads": Op(Nothing, "Every leaf workload.", needs_window=True),
    "pods": Op(Nothing, "Pods: sums over the leaves of each.", needs_window=True),
    "containers": Op(Nothing, "The workloads of kind container.", needs_window=True),
    "units": Op(Nothing, "The workloads of kind unit.", needs_window=True),
    "watch": Op(Watch, "Another operation's answer, once per window or interval.", stream=True),
}


class Request(NamedTuple):
    """A checked request."""

    id: int
    op: str
    args: Dataclass


def encode_frame(message: Mapping[str, object], limit: int) -> bytes:
    """Return one frame; raise ``ProtocolError`` when the message exceeds ``limit`` bytes."""
    body: bytes = msgpack.packb(message, use_bin_type=True)
    if len(body) > limit:
        raise ProtocolError(
            "internal", f"message of {len(body)} bytes exceeds the limit of {limit}"
        )
    return LENGTH.pack(len(body)) + body


def encode_reply_start(request_id: int, packed_bytes: int, *, more: bool = False) -> bytes:
    """Return the start of the frame ``{id, ok}``, up to the answer, which is msgpack already.

    An answer goes to many clients; it is sent after this as it is, never copied for each.
    """
    head = msgpack.Packer()
    start = b"".join(
        (
            head.pack_map_header(3 if more else 2),
            head.pack("id"),
            head.pack(request_id),
            head.pack("more") + head.pack(True) if more else b"",
            head.pack("ok"),
        )
    )
    length = len(start) + packed_bytes
    if length > MAX_REPLY_BYTES:
        raise ProtocolError("internal", f"answer of {length} bytes exceeds {MAX_REPLY_BYTES}")
    return LENGTH.pack(length) + start


def encode_error(request_id: int, error: ProtocolError) -> bytes:
    """Return the frame ``{id, error}``."""
    told: dict[str, object] = {"code": error.code, "message": error.message}
    if error.seconds is not None:
        told["seconds"] = error.seconds
    return encode_frame({"id": request_id, "error": told}, MAX_REPLY_BYTES)


class Decoder:
    """Cuts a byte stream into messages; serves both ends."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._data)

    def feed(self, data: bytes) -> Iterator[object]:
        """Yield each message completed by ``data``; raise ``ProtocolError`` on garbage."""
        self._data += data
        while len(self._data) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._data)
            if length > self._limit:
                raise ProtocolError(
                    "bad-request", f"frame of {length} bytes exceeds the limit of {self._limit}"
                )
            if len(self._data) < LENGTH.size + length:
                return
            body = bytes(self._data[LENGTH.size : LENGTH.size + length])
            del self._data[: LENGTH.size + length]
            yield _unpack(body)


def _unpack(body: bytes) -> object:
    try:
        message: object = msgpack.unpackb(body, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as exc:
        raise ProtocolError("bad-request", f"frame is not msgpack: {exc}") from exc
    return message


def request_id(message: object) -> int:
    """Return the id of a message, or 0 when it has none that can be echoed."""
    found = message.get("id") if isinstance(message, Mapping) else None
    return found if type(found) is int and 0 <= found < 2**63 else 0


def parse_request(message: object) -> Request:
    """Check a request strictly; raise ``ProtocolError`` (bad-request) that names what is wrong."""
    if not isinstance(message, Mapping):
        raise ProtocolError("bad-request", "a request is a map of id, op and args")
    extra = set(message) - {"id", "op", "args"}
    if extra:
        raise ProtocolError(
            "bad-request", f"unknown key in request: {str(next(iter(extra)))[:80]!r}"
        )
    if type(message.get("id")) is not int or request_id(message) != message["id"]:
        raise ProtocolError("bad-request", "id must be a whole number, 0 or more")
    op = message.get("op")
    if not isinstance(op, str) or op not in OPS:
        raise ProtocolError("bad-request", f"unknown operation {str(op)[:80]!r}")
    return Request(request_id(message), op, _parse_args(op, message.get("args")))


def _parse_args(op: str, told: object) -> Dataclass:
    told = {} if told is None else told
    if isinstance(told, Mapping):
        if op == "hello":  # before the rest: another version may have other arguments
            check_version(told.get("version"), "tychoctl", "tychod")
        if len(told) > MAX_ARGS:  # each unknown one costs a search
            raise ProtocolError("bad-request", f"{op}: more than {MAX_ARGS} arguments")
    args, problems = load(OPS[op].request, told)
    if args is None:
        raise ProtocolError("bad-request", f"{op}: {problems[0]}"[:MAX_COMPLAINT])
    return args


def check_version(other: object, theirs: str, ours: str) -> None:
    """Raise ``ProtocolError`` (version) that says which of two programs is to be upgraded."""
    if type(other) is not int or other == VERSION:
        return
    older = theirs if other < VERSION else ours
    raise ProtocolError(
        "version",
        f"{ours} speaks version {VERSION} of the protocol and {theirs} version {other}: "
        f"upgrade {older}",
    )

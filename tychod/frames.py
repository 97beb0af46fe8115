"""Frames and error codes of the control socket; no I/O and nothing that is slow to import.

A frame is a 4-byte big-endian length, then one msgpack map: ``{id, op, args}`` asks,
``{id, ok}`` or ``{id, error: {code, message}}`` answers; a stream answers
``{id, more: true, ok}`` until one without ``more``.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgpack

VERSION: Final = 1
"""Raised when a request or reply changes its meaning; additions do not raise it."""
MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_REPLY_BYTES: Final = 8 * 1024 * 1024
MAX_CONNECTIONS: Final = 32
MAX_CONNECTIONS_PER_UID: Final = 8
RESERVED_FOR_ROOT: Final = 2
MAX_REQUESTS_PER_S: Final = 100
"""Of one connection; the rest wait, so that nobody's flood takes the daemon's time."""
MAX_NEW_PER_S: Final = 100
"""New connections of one user: each costs the start of a thread."""
MAX_REFUSALS_PER_S: Final = 100
"""Refusals that one user is told of; what he tries beyond is closed without a word."""
MAX_ARGS: Final = 32
MAX_COMPLAINT: Final = 500  # characters of a foreign value that a reply repeats
IDLE_TIMEOUT_S: Final = 60.0
FRAME_TIMEOUT_S: Final = 5.0

ErrorCode = Literal[
    "bad-request",  # 2: the request does not fit the operation's declaration
    "forbidden",  # 3
    "not-found",  # 4
    "not-ready",  # 1: before the first window
    "unavailable",  # 1: what is asked for is switched off; the message says how to have it
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

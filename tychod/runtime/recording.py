"""The form of a recording: what analysis was given, window after window, and what came out.

A file is ``MAGIC``, then records: kind, length and CRC-32 (9 bytes), then that many bytes.  First
the header ``H`` (msgpack): who wrote it, on what, with which settings, the names of all fields.
Then ``S``, the state before the first window, and ``W``, one for each window, which are one zlib
stream together, flushed after each.  Last the end ``E`` (msgpack): how many windows, why it ends.
A reader takes memory for one record at a time, whatever the file says.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple

import msgpack

from tychod.analysis.state import Observations, Params, State
from tychod.codec.declared import Codec, Fields
from tychod.codec.stream import NAMES, CodecError, Reader, Writer
from tychod.model import Energy, Snapshot, Window
from tychod.schema import show

NAME: Final = b"tychod recording "
FORMAT: Final = 1
MAGIC: Final = NAME + b"%d\n" % FORMAT
HEAD: Final = struct.Struct(">cII")
HEADER, STATE, WINDOW, END = b"H", b"S", b"W", b"E"
MAX_RECORD_BYTES: Final = 64 * 1024 * 1024
"""Of one record, packed or not: a window of a minute with a thousand active cgroups."""
LEVEL: Final = 6
COMPLETE: Final = "complete"


class RecordingError(Exception):
    """Why a file cannot be read, or not beyond some window."""


class DamagedError(RecordingError):
    """A record whose checksum does not match; what follows it can still be looked at."""


class Analysed(NamedTuple):
    """One window: what analysis was given and what it returned; nothing of it ever changes."""

    window: Window
    observations: Observations
    before: State
    params: Params
    snapshot: Snapshot


class Result(NamedTuple):
    """What came out of a window, as far as it takes to compare."""

    digest: bytes  # SHA-256 of the snapshot's canonical form
    domains: Mapping[str, int]  # cumulative microjoules
    leaves: Mapping[str, Mapping[str, Energy]]  # leaf id -> domain -> cumulative energy


class Step(NamedTuple):
    """One window of a recording."""

    window: Window
    observations: Observations
    params: Params
    result: Result


def result_of(snapshot: Snapshot, codec: Codec) -> Result:
    """Return what a replay of the same window has to come to."""
    return Result(
        hashlib.sha256(codec.canonical(Snapshot, snapshot)).digest(),
        {name: domain.energy_uj for name, domain in snapshot.domains.items()},
        {leaf.identity.id: leaf.energy for leaf in snapshot.leaves},
    )


class RecordingWriter:
    """Turns windows into the bytes of a file, which are to be written one after the other."""

    def __init__(self, about: Mapping[str, object]) -> None:
        """``about``: plain data for the header."""
        self._codec = Codec(State, Step)
        self._snapshots = Codec(Snapshot)
        self._writer = Writer()
        self._zlib = zlib.compressobj(LEVEL)
        self._about = about
        self.windows = 0

    def start(self) -> bytes:
        """Return the start of the file."""
        fields = {name: list(names) for name, names in self._codec.fields.items()}
        return MAGIC + _record(HEADER, _pack({**self._about, "fields": fields}))

    def add(self, analysed: Analysed) -> bytes:
        """Return one more window, the first one with the state before it."""
        state = b"" if self.windows else self._compress(STATE, State, analysed.before)
        result = result_of(analysed.snapshot, self._snapshots)
        step = Step(analysed.window, analysed.observations, analysed.params, result)
        window = self._compress(WINDOW, Step, step)
        self.windows += 1
        return state + window

    def _compress(self, kind: bytes, cls: type, value: object) -> bytes:
        data = self._codec.write(cls, value, self._writer)
        if len(data) > MAX_RECORD_BYTES:
            raise RecordingError(
                f"a window of {len(data) >> 20} MiB is too large to record; "
                "make [window] length shorter"
            )
        packed = self._zlib.compress(data) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        return _record(kind, packed)

    def end(self, reason: str) -> bytes:
        """Return the end of the file."""
        return _record(END, _pack({"windows": self.windows, "reason": reason}))


def _pack(plain: Mapping[str, object]) -> bytes:
    packed: bytes = msgpack.packb(plain, use_bin_type=True, unicode_errors=NAMES)
    return packed


def _record(kind: bytes, body: bytes) -> bytes:
    return HEAD.pack(kind, len(body), zlib.crc32(kind + body)) + body


class RecordingReader:
    """Reads one file; what is wrong with it is a ``RecordingError``, and nothing else is."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the header; raise where this is no recording, or not one for this version."""
        self._file = file
        self._zlib = zlib.decompressobj()
        self._reader = Reader()
        self.windows = 0
        self.reason: str | None = None  # why the recording ended; None: not known yet
        self.about = self._read_header()
        told = f"was written by tychod {show(self.about.get('tychod'))}"
        try:
            self._codec = Codec(State, Step, fields=_fields(self.about.get("fields")))
        except CodecError as exc:
            raise RecordingError(f"{told} and {exc}: replay it with that version") from exc

    def _read_header(self) -> dict[str, Any]:
        magic = self._read(len(MAGIC))
        if magic != MAGIC:
            raise RecordingError(_why_foreign(magic))
        kind, body = self._next()
        if kind != HEADER:
            raise RecordingError("is damaged: it does not begin with a header")
        return _unpack(body)

    def state(self) -> State | None:
        """Return the state before the first window; None where there is no window."""
        kind, body = self._next()
        if kind == END:
            self._finish(body)
            return None
        return self._decode(STATE, kind, State, body)  # type: ignore[no-any-return]

    def steps(self) -> Iterator[Step]:
        """Yield the windows in order; raise after the last one that can be read."""
        while True:
            kind, body = self._next()
            if kind == END:
                self._finish(body)
                return
            yield self._decode(WINDOW, kind, Step, body)
            self.windows += 1

    def _decode(self, wanted: bytes, kind: bytes, cls: type, body: bytes) -> Any:
        if kind != wanted:
            raise RecordingError(f"has a record of kind {kind!r} in place of {wanted!r}")
        try:
            data = self._zlib.decompress(body, MAX_RECORD_BYTES)
        except zlib.error as exc:
            raise RecordingError(f"cannot be unpacked: {exc}") from exc
        if self._zlib.unconsumed_tail:
            raise RecordingError(f"is larger than {MAX_RECORD_BYTES >> 20} MiB when unpacked")
        try:
            return self._codec.read(cls, data, self._reader)
        except CodecError as exc:
            raise RecordingError(f"does not fit: {exc}") from exc

    def _finish(self, body: bytes) -> None:
        told = _unpack(body)
        if told.get("windows") != self.windows:
            raise RecordingError(f"should hold {show(told.get('windows'))} windows")
        self.reason = str(told.get("reason"))
        if self._file.read(1):
            raise RecordingError("goes on after its end")

    def _next(self) -> tuple[bytes, bytes]:
        """Return the next record; raise where the file is cut or a byte of it is not as written."""
        head = self._read(HEAD.size)
        if not head:
            raise RecordingError("is cut off: its end is missing")
        kind, length, checksum = HEAD.unpack(head) if len(head) == HEAD.size else (b"", 0, 0)
        body = self._read(length) if length <= MAX_RECORD_BYTES else None
        if body is None:
            raise RecordingError(f"is damaged: a record of {length} bytes is longer than any")
        if len(head) < HEAD.size or len(body) < length:
            raise RecordingError("is cut off in the middle of a record")
        if zlib.crc32(kind + body) != checksum:
            raise DamagedError("is damaged: a checksum does not match")
        return kind, body

    def _read(self, length: int) -> bytes:
        try:
            return self._file.read(length)
        except OSError as exc:
            raise RecordingError(f"cannot be read: {exc.strerror}") from exc

    def total(self) -> int | None:
        """Return how many windows were written, from the end after a damage; None: not told."""
        while True:
            try:
                kind, body = self._next()
                told = _unpack(body).get("windows") if kind == END else None
            except DamagedError:
                continue  # its length was right, or nothing that follows will be a record
            except RecordingError:
                return None
            if kind == END:
                return told if type(told) is int else None


def _why_foreign(magic: bytes) -> str:
    if not magic:
        return "is empty"
    if MAGIC.startswith(magic):
        return "is cut off: not even its header is there"
    if magic.startswith(NAME):
        return f"is of another format than {FORMAT}, which this version reads: {magic!r}"
    return "is no recording of tychod"


def _unpack(body: bytes) -> dict[str, Any]:
    try:
        plain = msgpack.unpackb(body, raw=False, strict_map_key=True, unicode_errors=NAMES)
    except (ValueError, RecursionError, msgpack.UnpackException) as exc:
        raise RecordingError(f"is damaged: {exc}") from exc
    if not isinstance(plain, dict):
        raise RecordingError(f"is damaged: {show(plain)} is no table")
    return plain


def _fields(told: object) -> Fields:
    if not isinstance(told, dict) or not all(
        isinstance(names, list) and all(isinstance(n, str) for n in names)
        for names in told.values()
    ):
        raise RecordingError("is damaged: its header does not name the fields")
    return told

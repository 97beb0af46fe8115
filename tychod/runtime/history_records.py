"""Records of the history: running totals as framed bytes; pure.

A record holds totals since the counters began, never differences: one that is lost costs a point in
time, not energy.  Three kinds of frames make a log: HEAD says whose counters follow, FULL holds
every row, CHANGES those that changed since the record before; GONE, just before the CHANGES of its
record, holds the last totals of what is listed no more, so that a report need not read what is in
between.  A log begins with HEAD and FULL, and so does each part of it that can be read alone.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from tychod.model import Identity, Snapshot, total_domains
from tychod.runtime.rollup import pod_of
from tychod.views import NAMESPACE, view_keys

MAGIC: Final = b"TyH1"
HEAD, FULL, CHANGES, GONE = range(4)
_FRAME: Final = struct.Struct("<4sBQqII")  # magic, kind, end, wall offset, bytes, their CRC
_CRC: Final = struct.Struct("<I")  # of what stands before it
HEADER_BYTES: Final = _FRAME.size + _CRC.size
MOST_BYTES: Final = 64 * 1024 * 1024  # of one frame, packed or not; more is damage
FORMAT: Final = 1  # of what frames hold; told by HEAD, and logs of another are passed over
BLOCK_BYTES: Final = 1 << 16  # read at once to find the frame after damage
LEVEL: Final = 6  # of zlib: 9 makes 1 % less of twice the time
NAME_CHARS: Final = 256
"""Who may choose a name must not fill the disk with it; those of Kubernetes are no longer."""
FOLDED: Final = "\n"
"""Begins the key of what evicted leaves of a namespace had; no leaf's id can hold a line feed."""

Values = tuple[int, ...]
"""CPU time in nanoseconds, then idle and dynamic microjoules of each domain."""


class Who(NamedTuple):
    """What a row is of."""

    kind: str  # of a leaf; "folded": of what a namespace's evicted leaves had
    id: str
    name: str
    namespace: str | None  # of the host's own cluster
    pod: str | None  # key that tells it from all others
    pod_name: str | None
    owner: str | None
    nested: bool  # when it goes, a leaf around it may get what it had
    parent: str | None = None  # id of the leaf around it


class Row(NamedTuple):
    """One leaf's totals."""

    who: Who
    values: Values


class Node(NamedTuple):
    """The node's own totals."""

    energy: Mapping[str, tuple[int, int | None, int | None]]  # total, idle and dynamic uJ by domain
    residual_uj: int | None
    cpu_ns: int
    modelled_uj: int  # of the energy that makes up totals; since it was first looked at


class Totals(NamedTuple):
    """All counters at the end of a window."""

    t_ns: int  # monotonic
    offset_ns: int  # to the wall clock
    domains: tuple[str, ...]  # whose energy rows have
    node: Node
    rows: Mapping[str, Row]  # by leaf id, or FOLDED and a namespace


class Life(NamedTuple):
    """Whose counters: they began once, in one boot."""

    boot: str
    since_ns: int  # wall clock


class Head(NamedTuple):
    """What each part of a log begins with."""

    life: Life
    begin_ns: int  # when the counters began, on the monotonic clock: that is never set


class Gone(NamedTuple):
    """The last totals of leaves and pods that are listed no more."""

    domains: tuple[str, ...]
    leaves: tuple[Row, ...]
    pods: tuple[Row, ...]  # the id is the pod's key


class Frame(NamedTuple):
    """Where a frame is and what its header says."""

    kind: int
    t_ns: int
    offset_ns: int
    start: int  # of what follows the header
    length: int
    crc: int


class Log(Protocol):
    """Bytes that can be read anywhere."""

    def read(self, start: int, count: int) -> bytes:
        """Return this many bytes, fewer at the end."""


def totals_of(snapshot: Snapshot, before: Totals | None) -> Totals:
    """Return a snapshot's counters; ``before``: the totals that were recorded last."""
    attributed = {n: d for n, d in snapshot.domains.items() if d.idle_uj is not None}
    domains = tuple(name for name in total_domains(attributed) if name in attributed)
    rows = {
        leaf.identity.id: Row(who_of(leaf.identity), _values(leaf.cpu_ns, leaf.energy, domains))
        for leaf in snapshot.leaves
    }
    for key, usage in snapshot.folded.items():
        if key.startswith(NAMESPACE):
            name = key.removeprefix(NAMESPACE)
            who = Who("folded", name, name, name, None, None, None, nested=False)
            rows[FOLDED + name] = Row(who, _values(usage.cpu_ns, usage.energy, domains))
    return Totals(
        snapshot.window.end_ns,
        snapshot.wall_offset_ns,
        domains,
        _node(snapshot, domains, before),
        rows,
    )


def who_of(identity: Identity) -> Who:
    """Return what the history keeps of an identity."""
    keys = [key for key in view_keys(identity) if key.startswith(NAMESPACE)]
    return Who(
        identity.kind,
        identity.id,
        identity.name[:NAME_CHARS],
        keys[0].removeprefix(NAMESPACE) if keys else None,
        pod_of(identity),
        identity.pod[:NAME_CHARS] if identity.pod else None,
        identity.owner[:NAME_CHARS] if identity.owner else None,
        nested=identity.tenant is not None,
        parent=identity.parent if identity.tenant is not None else None,
    )


def _values(cpu_ns: int, energy: Mapping[str, Any], domains: Sequence[str]) -> Values:
    found = [cpu_ns]
    for name in domains:
        found += energy.get(name, (0, 0))
    return tuple(found)


def _node(snapshot: Snapshot, domains: Sequence[str], before: Totals | None) -> Node:
    energy = {n: (d.energy_uj, d.idle_uj, d.dynamic_uj) for n, d in snapshot.domains.items()}
    modelled_uj = before.node.modelled_uj if before else 0
    for name in domains:
        known_uj = before.node.energy.get(name, (0,))[0] if before else 0
        if snapshot.domains[name].quality == "modelled":
            modelled_uj += max(energy[name][0] - known_uj, 0)
    residual_uj = snapshot.residual.energy_uj if snapshot.residual else None
    return Node(energy, residual_uj, sum(leaf.cpu_ns for leaf in snapshot.leaves), modelled_uj)


def gone_between(before: Totals, now: Totals) -> Gone:
    """Return the last totals of what is listed no more."""
    leaves = tuple(row for key, row in before.rows.items() if key not in now.rows)
    missing = {row.who.pod for row in leaves} - {None}
    if missing:
        missing -= {row.who.pod for row in now.rows.values()}
    pods = tuple(row for key, row in pod_rows(before.rows).items() if key in missing)
    return Gone(before.domains, leaves, pods)


def pod_rows(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Return the pods: each the sum over its rows, by its key."""
    found: dict[str, list[Row]] = {}
    for row in rows.values():
        if row.who.pod is not None:
            found.setdefault(row.who.pod, []).append(row)
    return {key: Row(pod_who(key, rows), sum_values(rows)) for key, rows in found.items()}


def pod_who(key: str, rows: Sequence[Row]) -> Who:
    """Return what is known of a pod by any of its rows."""
    who = [row.who for row in rows]
    name = next((one.pod_name for one in who if one.pod_name), None)
    namespace = next((one.namespace for one in who if one.namespace), None)
    owner = next((one.owner for one in who if one.owner), None)
    nested = any(one.nested for one in who)
    return Who("pod", key, name or "", namespace, key, name, owner, nested)


def sum_values(rows: Sequence[Row]) -> Values:
    """Return the sums, place by place."""
    return tuple(map(sum, zip(*(row.values for row in rows), strict=True)))


class Encoder:
    """Turns totals into the bytes of a log; knows what was recorded last."""

    def __init__(self, head: Head, last: Totals | None, full_every: int) -> None:
        """``last``: the totals recorded last by an earlier run, if any."""
        self.head = head
        self.last = last
        self._full_every = full_every
        self._records = 0  # since the last full one; 0: the next is one
        self._numbers: dict[str, int] = {}

    def begin(self) -> None:
        """Let the next record stand alone."""
        self._records = 0

    def encode(self, now: Totals) -> tuple[bytes, bool]:
        """Return the frames of one record, and whether it stands alone."""
        before, self.last = self.last, now
        parts = []
        if before is None or before.domains != now.domains or self._records >= self._full_every:
            self._records = 0
        is_full = self._records == 0
        if is_full:
            parts.append(frame(HEAD, now, [FORMAT, *self.head.life, self.head.begin_ns]))
        gone = gone_between(before, now) if before else None
        if gone and gone.leaves:
            parts.append(frame(GONE, now, gone))
        if is_full or before is None:
            self._numbers = {key: number for number, key in enumerate(now.rows)}
            rows = [[key, list(row.who), row.values] for key, row in now.rows.items()]
            parts.append(frame(FULL, now, [now.domains, now.node, rows]))
        else:
            parts.append(frame(CHANGES, now, self._changes(before, now)))
        self._records += 1
        return b"".join(parts), is_full

    def _changes(self, before: Totals, now: Totals) -> list[object]:
        numbers = self._numbers
        fresh, changed = [], {}
        for key, row in now.rows.items():
            had = before.rows.get(key)
            if had is None or had.who != row.who:
                number = numbers.setdefault(key, len(numbers))
                fresh.append([number, key, list(row.who), row.values])
            elif had.values != row.values:
                changed[numbers[key]] = row.values
        gone = [numbers[key] for key in before.rows if key not in now.rows]
        return [now.node, fresh, changed, gone]


def frame(kind: int, at: Totals, plain: object) -> bytes:
    """Return one frame."""
    packed = msgpack.packb(plain, use_bin_type=True, unicode_errors="surrogateescape")
    body = zlib.compress(packed, LEVEL)
    start = _FRAME.pack(MAGIC, kind, at.t_ns, at.offset_ns, len(body), zlib.crc32(body))
    return start + _CRC.pack(zlib.crc32(start)) + body


def scan(log: Log, size: int) -> Iterator[Frame | None]:
    """Yield the frames of a log; None where something damaged was passed over or ends it."""
    at = 0
    while at < size:
        found = _parse_header(log.read(at, HEADER_BYTES), at, size)
        if found is None:
            yield None
            at = _find_next(log, at + 1, size)
            continue
        yield found
        at = found.start + found.length


def _parse_header(data: bytes, at: int, size: int) -> Frame | None:
    """Return the frame whose header these bytes begin with; None where there is none in whole."""
    if len(data) < HEADER_BYTES or data[len(MAGIC)] > GONE:
        return None
    if _CRC.unpack_from(data, _FRAME.size)[0] != zlib.crc32(data[: _FRAME.size]):
        return None
    magic, kind, t_ns, offset_ns, length, crc = _FRAME.unpack_from(data)
    start = at + HEADER_BYTES
    if magic != MAGIC or length > MOST_BYTES or start + length > size:
        return None
    return Frame(kind, t_ns, offset_ns, start, length, crc)


def _find_next(log: Log, at: int, size: int) -> int:
    """Return where the next frame begins: each block is read once, whatever is in it."""
    while at < size:
        data = log.read(at, BLOCK_BYTES + HEADER_BYTES - 1)
        place = data.find(MAGIC, 0, BLOCK_BYTES + len(MAGIC) - 1)
        while place >= 0:
            if _parse_header(data[place : place + HEADER_BYTES], at + place, size):
                return at + place
            place = data.find(MAGIC, place + 1, BLOCK_BYTES + len(MAGIC) - 1)
        at += BLOCK_BYTES
    return size

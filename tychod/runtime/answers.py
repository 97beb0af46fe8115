"""Answers of the daemon, encoded: what depends on a snapshot alone is encoded once for it."""

import threading
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from tychod import frames
from tychod.buffer import Latest
from tychod.clock import Clock
from tychod.frames import ProtocolError
from tychod.model import DaemonStatus, NodeFacts, Snapshot
from tychod.protocol import OPS
from tychod.runtime import replies

Setting = Mapping[str, object]
Question = Callable[[Any], Mapping[str, object]]
"""Answers one operation to its checked arguments, of the class that the protocol declares."""
LABELLED: Final = frozenset({"workloads", "pods", "containers"})
"""Answers that tell whether the kubelet, which alone knows labels, could be asked."""


class Told(NamedTuple):
    """One operation's answer to the snapshot it was made from."""

    snapshot: Snapshot
    packed: bytes


class Readers(NamedTuple):
    """How to learn what no snapshot holds; each is called from any thread and must be quick."""

    facts: Callable[[], NodeFacts]  # accounting may begin late
    status: Callable[[], DaemonStatus]
    settings: Callable[[], Sequence[Setting]]  # those in force, as tychod.settings.plain lists them
    wait_s: Callable[[], float]  # seconds until the first window is expected
    questions: Mapping[str, Question] = types.MappingProxyType({})  # operations with arguments


class Answers:
    """Turns what the daemon knows into msgpack, on demand; callable from any thread."""

    def __init__(self, latest: Latest[Snapshot], clock: Clock, readers: Readers) -> None:
        self._latest = latest
        self._clock = clock
        self._readers = readers
        self._told: dict[str, Told] = {}
        self._locks = {op: threading.Lock() for op in replies.SNAPSHOT_BODIES}

    @property
    def facts(self) -> NodeFacts:
        """What the daemon knows about its node now."""
        return self._readers.facts()

    def packed(self, op: str) -> bytes:
        """Return an operation's answer about the newest snapshot; raise when there is none yet."""
        snapshot = self._latest.get()
        if snapshot is None:
            raise self._not_ready()
        with self._locks[op]:
            told = self._told.get(op)
            # A snapshot older than the one told about lost the race for the lock: answer the newer.
            if told is None or told.snapshot.sequence < snapshot.sequence:
                told = Told(snapshot, self._pack_snapshot(op, snapshot))
                self._told[op] = told
        return told.packed

    def _pack_snapshot(self, op: str, snapshot: Snapshot) -> bytes:
        plain = {**replies.head(self.facts, snapshot), **replies.SNAPSHOT_BODIES[op](snapshot)}
        if op in LABELLED:
            told = self._readers.status().identity_routes.get("kubelet")
            plain["labels_from"] = None if told is None else replies.route_state(told)
        return pack(plain)

    def _not_ready(self) -> ProtocolError:
        wait_s = max(self._readers.wait_s(), 0.0)
        message = f"the first window is not complete; {wait_s:.1f} s left"
        return ProtocolError("not-ready", message, seconds=round(wait_s, 3))

    def ask(self, op: str, args: object) -> bytes:
        """Return the answer to a question; raise ``ProtocolError`` where there is none."""
        snapshot = self._latest.get()
        if snapshot is None and OPS[op].needs_window:
            raise self._not_ready()
        return pack({**replies.head(self.facts, snapshot), **self._readers.questions[op](args)})

    def status(self, connections: Mapping[str, int]) -> bytes:
        """Return the daemon's health; ``connections`` are the server's own counts."""
        status, snapshot = self._readers.status(), self._latest.get()
        body = replies.status_body(self.facts, status, snapshot, self._offset_ns(snapshot))
        head = replies.head(self.facts, snapshot, status.since_ns)
        return pack({**head, **body, "connections": dict(connections)})

    def sources(self) -> bytes:
        """Return the health of every source."""
        status, snapshot = self._readers.status(), self._latest.get()
        body = replies.sources_body(status.sources, self._offset_ns(snapshot))
        routes = replies.routes_body(status.identity_routes)
        return pack({**replies.head(self.facts, snapshot, status.since_ns), **body, **routes})

    def config(self) -> bytes:
        """Return the settings in force, each with its origin."""
        snapshot = self._latest.get()
        since_ns = snapshot.since_ns if snapshot else self._readers.status().since_ns
        settings = [dict(setting) for setting in self._readers.settings()]
        return pack({**replies.head(self.facts, snapshot, since_ns), "config": settings})

    def welcome(self) -> bytes:
        """Return the answer to ``hello``."""
        facts = self.facts
        return pack(
            {
                "version": frames.VERSION,
                "schema": replies.SCHEMA,
                "daemon": f"tychod {facts.version}",
                "commit": facts.commit,
                "built": facts.built,
            }
        )

    def _offset_ns(self, snapshot: Snapshot | None) -> int:
        return snapshot.wall_offset_ns if snapshot else self._clock.wall_offset_ns()


def pack(plain: Mapping[str, object]) -> bytes:
    """Return msgpack; bytes of a host's names that are no UTF-8 become visible escapes."""
    packed: bytes = msgpack.packb(plain, use_bin_type=True, unicode_errors="backslashreplace")
    return packed

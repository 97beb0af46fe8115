"""Answers of the daemon, encoded: what depends on a snapshot alone is encoded once for it."""

import threading
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from tychod import frames
from tychod.buffer import Latest
from tychod.clock import Clock
from tychod.config_results import Control
from tychod.frames import ProtocolError
from tychod.model import DaemonStatus, NodeFacts, Snapshot
from tychod.protocol import OPS
from tychod.runtime import replies
from tychod.runtime.slots import Access, Coarse, View

Setting = Mapping[str, object]
Question = Callable[[Any, View], Mapping[str, object]]
"""Answers one operation to its checked arguments, of the class that the protocol declares.

All results come from the view, which is the asker's: who has no rights sees no more often.
"""
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
    control: Callable[[], Control] = Control  # the settings in force of who may see what


class Answers:
    """Turns what the daemon knows into msgpack, on demand; callable from any thread."""

    def __init__(
        self,
        latest: Latest[Snapshot],
        clock: Clock,
        readers: Readers,
        coarse: Coarse | None = None,
    ) -> None:
        """``coarse``: the slot of readers without rights, where others look at it, too."""
        self._latest = latest
        self._clock = clock
        self._readers = readers
        self._coarse = coarse or Coarse(latest, lambda: readers.control().min_interval)
        self._told: dict[str, tuple[Told, ...]] = {}
        self._locks = {op: threading.Lock() for op in replies.SNAPSHOT_BODIES}

    @property
    def facts(self) -> NodeFacts:
        """What the daemon knows about its node now."""
        return self._readers.facts()

    @property
    def control(self) -> Control:
        """The settings in force of who may see what."""
        return self._readers.control()

    def access(self, *, everything: bool) -> Access:
        """Return what a reader may see: every window, or the slot that all others share."""
        if everything:
            return Access(self._latest, 0.0)
        return Access(self._coarse, self.control.min_interval)

    def packed(self, op: str, access: Access) -> bytes:
        """Return an operation's answer about a reader's newest snapshot; raise when there is none.

        Most often all readers see the same snapshot, and share what is encoded.
        """
        with self._locks[op]:
            snapshot = access.slot.get()
            if snapshot is None:
                raise self._not_ready()
            kept = self._told.get(op, ())
            for told in kept:
                if told.snapshot is snapshot:
                    return told.packed
            told = Told(snapshot, self._pack_snapshot(op, snapshot))
            self._told[op] = (told, *(other for other in kept if self._is_shown(other.snapshot)))
        return told.packed

    def _is_shown(self, snapshot: Snapshot) -> bool:
        return snapshot is self._latest.get() or snapshot is self._coarse.get()

    def _pack_snapshot(self, op: str, snapshot: Snapshot) -> bytes:
        plain = {**replies.head(self.facts, snapshot), **replies.SNAPSHOT_BODIES[op](snapshot)}
        if op in LABELLED:
            told = self._readers.status().identity_routes.get("kubelet")
            plain["labels_from"] = None if told is None else replies.route_state(told)
        return pack(plain)

    def wait_s(self) -> float:
        """Return the seconds until the first window is expected."""
        return self._readers.wait_s()

    def _not_ready(self) -> ProtocolError:
        wait_s = max(self._readers.wait_s(), 0.0)
        message = f"the first window is not complete; {wait_s:.1f} s left"
        return ProtocolError("not-ready", message, seconds=round(wait_s, 3))

    def ask(self, op: str, args: object, access: Access) -> bytes:
        """Return the answer to a question; raise ``ProtocolError`` where there is none."""
        view = access.view()
        if view.newest is None and OPS[op].needs_window:
            raise self._not_ready()
        body = self._readers.questions[op](args, view)
        return pack({**replies.head(self.facts, view.newest), **body})

    def status(self, connections: Mapping[str, int], access: Access) -> bytes:
        """Return the daemon's health; ``connections`` are the server's own counts.

        It tells the domains' energy, too: as often as the reader may see it.
        """
        status, snapshot = self._readers.status(), access.slot.get()
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

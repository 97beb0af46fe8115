"""The operations that have arguments: each a question to what the daemon knows."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tychod.config import Config
from tychod.frames import ProtocolError
from tychod.model import DaemonStatus, NodeFacts, Snapshot
from tychod.protocol import Explain, Report
from tychod.runtime.answers import Question
from tychod.runtime.explain import Whole, explain_in
from tychod.runtime.history import History
from tychod.runtime.scrapes import metrics_question
from tychod.runtime.slots import View

EXPLAINED_PER_S: Final = 100.0
"""Explanations for all readers without rights together: at 0.3 ms each a thirtieth of a core."""
EXPLAINED_AT_ONCE: Final = 400.0
"""So many may come in a row, as from a script that asks about each pod of a full node."""


class Asked(NamedTuple):
    """What questions are answered from, beside the asker's view; callable from any thread."""

    config: Callable[[], Config]  # as it is in force
    facts: Callable[[], NodeFacts]
    status: Callable[[], DaemonStatus]


class Wholes:
    """What explanations have in common, of the newest windows: all of them take it from here."""

    def __init__(self) -> None:
        self._kept: tuple[Whole, ...] = ()
        self._lock = threading.Lock()

    def of(self, newest: Snapshot, before: Snapshot | None) -> Whole:
        """Return that of a window; who asks meanwhile waits for it instead of doing it again."""
        with self._lock:
            for whole in self._kept:
                if whole.newest is newest and whole.before is before:
                    return whole
            made = Whole(newest, before)
            # One for readers of every window, one for the slot that all others share.
            self._kept = (made, *self._kept[:1])
            return made


class Pace:
    """Lets questions pass as fast as they may come in the long run; callable from any thread."""

    def __init__(self, per_s: float, at_once: float, now_s: Callable[[], float]) -> None:
        self._per_s: Final = per_s
        self._at_once: Final = at_once
        self._now_s = now_s
        self._left = at_once
        self._at_s = now_s()
        self._lock = threading.Lock()

    def take(self, what: str) -> None:
        """Let one pass; raise ``ProtocolError`` where there were too many."""
        with self._lock:
            before_s, self._at_s = self._at_s, self._now_s()
            grown = (self._at_s - before_s) * self._per_s
            self._left = min(self._left + grown, self._at_once)
            if self._left < 1.0:
                message = f"{what}: too many were asked for just now; try again in 1 s"
                raise ProtocolError("busy", message, 1.0)
            self._left -= 1.0


def build_questions(asked: Asked, history: History) -> Mapping[str, Question]:
    """Return how each such operation is answered."""

    wholes, pace = Wholes(), Pace(EXPLAINED_PER_S, EXPLAINED_AT_ONCE, time.monotonic)

    def explain_workload(args: Explain, view: View) -> Mapping[str, object]:
        if view.newest is None:  # there is one: the operation needs a window
            return {}
        if view.step_s > 0:  # a reader without rights
            pace.take("explain")
        whole = wholes.of(view.newest, view.before)
        return explain_in(whole, args, asked.facts(), asked.status())

    def report(args: Report, view: View) -> Mapping[str, object]:
        return history.report(args, view, asked.config().report)

    return {
        "explain": explain_workload,
        "metrics": metrics_question(*asked),
        "report": report,
        "trend": history.trend,
    }

"""The operations that have arguments: each a question to what the daemon knows."""

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tychod.config import Config
from tychod.model import DaemonStatus, NodeFacts, Snapshot
from tychod.protocol import Explain, Report
from tychod.runtime.answers import Question
from tychod.runtime.explain import Whole, explain_in
from tychod.runtime.history import History
from tychod.runtime.scrapes import metrics_question
from tychod.runtime.slots import View


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


def build_questions(asked: Asked, history: History) -> Mapping[str, Question]:
    """Return how each such operation is answered."""

    wholes = Wholes()

    def explain_workload(args: Explain, view: View) -> Mapping[str, object]:
        if view.newest is None:  # there is one: the operation needs a window
            return {}
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

"""The operations that have arguments: each a question to what the daemon knows."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tychod.config import Config
from tychod.model import DaemonStatus, NodeFacts
from tychod.protocol import Explain, Report
from tychod.runtime.answers import Question
from tychod.runtime.explain import explain
from tychod.runtime.history import History
from tychod.runtime.scrapes import metrics_question
from tychod.runtime.slots import View


class Asked(NamedTuple):
    """What questions are answered from, beside the asker's view; callable from any thread."""

    config: Callable[[], Config]  # as it is in force
    facts: Callable[[], NodeFacts]
    status: Callable[[], DaemonStatus]


def build_questions(asked: Asked, history: History) -> Mapping[str, Question]:
    """Return how each such operation is answered."""

    def explain_workload(args: Explain, view: View) -> Mapping[str, object]:
        if view.newest is None:  # there is one: the operation needs a window
            return {}
        return explain(args, view.newest, view.before, asked.facts(), asked.status())

    def report(args: Report, view: View) -> Mapping[str, object]:
        return history.report(args, view, asked.config().report)

    return {
        "explain": explain_workload,
        "metrics": metrics_question(*asked),
        "report": report,
        "trend": history.trend,
    }

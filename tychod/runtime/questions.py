"""The operations that have arguments: each a question to what the daemon knows."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tychod.config import Config
from tychod.model import DaemonStatus, NodeFacts
from tychod.runtime.answers import Question


class Asked(NamedTuple):
    """What questions are answered from, beside the asker's view; callable from any thread."""

    config: Callable[[], Config]  # as it is in force
    facts: Callable[[], NodeFacts]
    status: Callable[[], DaemonStatus]


def build_questions(asked: Asked) -> Mapping[str, Question]:  # noqa: ARG001 - see the next commits
    """Return how each such operation is answered."""
    return {}

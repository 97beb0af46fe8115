"""What the metrics are made from, and their text as an answer of the control socket."""

from collections.abc import Callable, Mapping
from typing import Final

from tychod.config import Config
from tychod.exposition import NO_LIBRARY, Exposition, Scrape, has_library
from tychod.exposition.render import OPENMETRICS, TEXT
from tychod.frames import MAX_REPLY_BYTES, ProtocolError
from tychod.model import DaemonStatus, NodeFacts
from tychod.protocol import MetricsText
from tychod.runtime.answers import Question
from tychod.runtime.slots import View

MAX_TEXT_BYTES: Final = MAX_REPLY_BYTES - 64 * 1024
"""The head of an answer needs a part of its bytes."""


def scrape_of(
    view: View,
    config: Callable[[], Config],
    facts: Callable[[], NodeFacts],
    status: Callable[[], DaemonStatus],
) -> Scrape | None:
    """Return what the metrics of a reader's view are made from; None before the first window."""
    if view.newest is None:
        return None
    return Scrape(view.newest, facts(), status(), config().metrics, view.before)


def metrics_question(
    config: Callable[[], Config],
    facts: Callable[[], NodeFacts],
    status: Callable[[], DaemonStatus],
) -> Question:
    """Return how the operation ``metrics`` is answered."""
    exposition = Exposition(lambda: None)  # each asker has a view of its own

    def ask(args: MetricsText, view: View) -> Mapping[str, object]:
        scrape = scrape_of(view, config, facts, status)
        return {} if scrape is None else answer(args, scrape, exposition)

    return ask


def answer(args: MetricsText, scrape: Scrape, exposition: Exposition) -> Mapping[str, object]:
    """Return the text that the endpoint would serve; raise where no answer can hold it."""
    if not has_library():
        raise ProtocolError("unavailable", "; ".join(NO_LIBRARY))
    names = args.names or scrape.metrics.names
    body = exposition.text_of(scrape, names, is_open=args.openmetrics)
    if len(body) > MAX_TEXT_BYTES:
        raise ProtocolError(
            "unavailable",
            f"the metrics are {len(body)} bytes long, and an answer holds {MAX_TEXT_BYTES}: take "
            "some of [metrics] levels away or lower [metrics] max_series",
        )
    content_type = OPENMETRICS if args.openmetrics else TEXT
    return {"content_type": content_type, "text": body.decode()}

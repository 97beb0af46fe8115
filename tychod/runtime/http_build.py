"""The metrics endpoint of a daemon, where the settings ask for one."""

from collections.abc import Callable, Mapping

from tychod.exposition import Exposition
from tychod.runtime.answers import Answers
from tychod.runtime.http_endpoint import Endpoint
from tychod.runtime.http_pages import Known
from tychod.runtime.questions import Asked
from tychod.runtime.scrapes import scrape_of


def build_endpoint(
    asked: Asked,
    answers: Answers,
    credentials: str,
    counts: Callable[[], Mapping[str, int]],
    quiet: tuple[Callable[[], float], float],
) -> Endpoint:
    """Return the endpoint, not started; it sees what readers without rights see.

    ``counts`` are the control socket's own, for ``/status``; ``quiet`` tells for how many seconds
    analysis has not advanced, and how long it may.
    """
    access = answers.access(everything=False)
    exposition = Exposition(lambda: scrape_of(access.view(), *asked))
    quiet_s, quiet_limit_s = quiet
    known = Known(
        exposition.render,
        lambda: answers.status(counts(), access),
        lambda: access.slot.get() is not None,
        answers.wait_s,
        quiet_s,
        quiet_limit_s,
    )
    return Endpoint(asked.config().metrics, credentials, known)

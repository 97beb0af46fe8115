"""The metrics endpoint of a daemon, where the settings ask for one."""

from collections.abc import Callable, Mapping

from tychod.exposition import Exposition
from tychod.runtime.answers import Answers
from tychod.runtime.http_cap import Cap
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
    """Return the endpoint, not started.

    ``credentials``: the directory in which systemd put those of this service.  ``counts`` are the
    control socket's own, for ``/status``; ``quiet`` tells for how many seconds analysis has not
    advanced, and how long it may.
    """
    known = build_known(asked, answers, counts, quiet)
    return Endpoint(asked.config().metrics, credentials, known)


def build_known(
    asked: Asked,
    answers: Answers,
    counts: Callable[[], Mapping[str, int]],
    quiet: tuple[Callable[[], float], float],
) -> Known:
    """Return what the pages are made from: what readers without rights see."""
    access = answers.access(everything=False)
    cap = Cap()
    exposition = Exposition(lambda: scrape_of(access.view(), *asked), cap.note)
    return Known(
        exposition.render,
        lambda: answers.status(counts(), access),
        lambda: access.slot.get() is not None,
        answers.wait_s,
        *quiet,
        cap.troubles,
    )

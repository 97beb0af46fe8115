"""A cap on series is said aloud: how many of which level is a problem, and a line per change."""

import dataclasses
import logging

import pytest

from tests.fixtures import snapshots as made
from tychod.config_results import Metrics
from tychod.exposition import Exposition, Scrape
from tychod.runtime.http_cap import CAP_REMEDY, Cap
from tychod.runtime.http_endpoint import Endpoint
from tychod.runtime.http_pages import Known


def test_what_a_text_leaves_out_is_a_problem() -> None:
    """Who set too low a cap reads how many series of which level are missing, and what to do."""
    cap = Cap()
    metrics = dataclasses.replace(Metrics(), max_series=200)
    scrape = Scrape(made.make_snapshot(), made.FACTS, made.STATUS, metrics, None)

    rendered = Exposition(lambda: scrape, cap.note).render("")

    (trouble,) = cap.troubles()
    assert rendered is not None
    text = rendered[1].decode()
    served = [line for line in text.splitlines() if "_series_dropped{" in line]
    dropped = {line.split('"')[1]: int(float(line.split()[-1])) for line in served}
    assert trouble.source == "metrics"
    assert trouble.reason.startswith("[metrics] max_series = 200 leaves out")
    assert str(sum(dropped.values())) in trouble.reason
    assert all(f"{n} of level {level}" in trouble.reason for level, n in dropped.items() if n)
    assert trouble.remedy == CAP_REMEDY


def test_the_log_hears_of_changes_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The number changes with every window; who is left out, and that nobody is, is told once."""
    cap = Cap()
    with caplog.at_level(logging.INFO):
        for dropped in ({}, {"unit": 3}, {"unit": 4, "pod": 0}, {"unit": 4, "pod": 9}, {}, {}):
            cap.note(dropped, 100)

    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]
    assert caplog.messages[1] == (
        f"metrics: [metrics] max_series = 100 leaves out 13 series: 4 of level unit, "
        f"9 of level pod; {CAP_REMEDY}"
    )
    assert list(cap.troubles()) == []


def test_the_endpoint_hands_it_on() -> None:
    """The daemon asks its endpoint for troubles, and has these among them."""
    cap = Cap()
    cap.note({"unit": 3}, 100)
    known = Known(
        lambda _: None, lambda: b"", lambda: True, lambda: 0.0, lambda: 0.0, 1.0, cap.troubles
    )

    endpoint = Endpoint(Metrics(), "", known)

    assert list(endpoint.troubles()) == list(cap.troubles()) != []
    endpoint.close()

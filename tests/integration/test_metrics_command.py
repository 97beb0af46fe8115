"""`tychoctl metrics` and the operation behind it, against a real server."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.scrapes import families_of, make_node, text_of, values_of
from tychoctl.client import Connection, Failure
from tychod.buffer import Latest
from tychod.config import Config
from tychod.config_results import Metrics
from tychod.exposition import Scrape
from tychod.model import Leaf, Snapshot
from tychod.runtime.answers import Answers, Readers
from tychod.runtime.scrapes import MAX_TEXT_BYTES, metrics_question

ROOT: Final = Path(__file__).resolve().parents[2]
NODE: Final = make_node()


@contextmanager
def serving(path: Path, snapshot: Snapshot | None, settings: Metrics) -> Iterator[None]:
    """Run a server that knows one snapshot, or none yet."""
    latest: Latest[Snapshot] = Latest()
    if snapshot is not None:
        latest.publish(snapshot)
    config = dataclasses.replace(Config(), metrics=settings)
    asked = (lambda: config, lambda: made.FACTS, lambda: made.STATUS)
    readers = Readers(
        facts=lambda: made.FACTS,
        status=lambda: made.STATUS,
        settings=lambda: made.SETTINGS,
        wait_s=lambda: 1.5,
        questions={"metrics": metrics_question(*asked)},
    )
    with made.serving(path, latest, Answers(latest, made.StillClock(), readers)):
        yield


def tychoctl(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tychoctl", *arguments],
        cwd=ROOT,
        env={**os.environ, "TYCHOD_SOCKET": str(path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_without_the_library_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon answers with reason and remedy, not with a fault of its own."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)  # as the import system sees it
    with serving(tmp_path / "sock", NODE, Metrics()):
        told = tychoctl(tmp_path / "sock", "metrics")

    assert told.returncode == 1
    assert "prometheus_client is not installed; apt-get install" in told.stderr


def test_the_command_prints_what_the_endpoint_would_serve(tmp_path: Path) -> None:
    """Raw, to the byte, under the settings' names or those that are asked for."""
    path, settings = tmp_path / "sock", Metrics(names="kepler", levels=("node", "pod"))
    scrape = Scrape(NODE, made.FACTS, made.STATUS, settings)
    with serving(path, NODE, settings):
        plain = tychoctl(path, "metrics")
        opened = tychoctl(path, "metrics", "--names", "tycho", "--openmetrics")

    assert (plain.returncode, plain.stderr, opened.stderr) == (0, "", "")
    assert plain.stdout == text_of(scrape, "kepler")
    assert values_of(opened.stdout, "tycho_pod_joules_total", uid=made.JOB_UID)
    assert opened.stdout.endswith("# EOF\n")
    assert not [f for f in families_of(plain.stdout) if f.name.startswith("kepler_container")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("metrics", "-w"), "cannot be watched"),
        (("-w", "2", "metrics"), "cannot be watched"),
        (("metrics", "-o", "json"), "-o"),
        (("metrics", "--names", "cadvisor"), "cadvisor"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    """A raw text has no other form, and watching it is what Prometheus is for."""
    done = tychoctl(tmp_path / "sock", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_before_the_first_window_there_are_no_metrics(tmp_path: Path) -> None:
    """An empty text would end every series in the data base; this is an error."""
    path = tmp_path / "sock"
    with serving(path, None, Metrics()):
        done = tychoctl(path, "metrics", "--wait", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "first window" in done.stderr


def test_a_text_that_no_answer_can_hold_names_the_settings(tmp_path: Path) -> None:
    """With more series than fit into an answer, the error says what to change."""
    snapshot = dataclasses.replace(NODE, leaves=tuple(many()))
    path = tmp_path / "sock"
    with serving(path, snapshot, Metrics(max_series=1_000_000)), Connection(str(path)) as peer:
        with pytest.raises(Failure) as told:
            peer.call("metrics", {"names": "tycho"})
        assert peer.call("metrics", {"names": "kepler"})["content_type"].startswith("text/plain")
    assert told.value.code == "unavailable"
    assert "levels" in str(told.value)
    assert "max_series" in str(told.value)
    assert str(MAX_TEXT_BYTES) in str(told.value)


def many() -> Iterator[Leaf]:
    """Yield units with long names, which Kepler does not know."""
    for number in range(5_000):
        name = f"unit-{number:05d}-{'x' * 200}.service"
        who = dataclasses.replace(made.LEAVES[8].identity, id=name, name=name)
        yield dataclasses.replace(made.LEAVES[8], identity=who)
    yield from made.LEAVES

"""What metrics, record and replay print, as agreed: a text and the messages around files."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.scrapes import OPEN, before_of, make_node, scrape_of, text_of
from tests.unit.test_replay import FROM_THE_MIDDLE, SMALL
from tychoctl.client import Failure
from tychoctl.options import Options, parse_options
from tychoctl.recordings import PART, Written, finish, save, tell
from tychoctl.run import main, render_failure
from tychod.buffer import Latest
from tychod.model import Snapshot
from tychod.protocol import MetricsText
from tychod.runtime.answers import Answers
from tychod.runtime.slots import View as Seen

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
UPDATE = "TYCHOD_UPDATE_GOLDEN"  # set it to write the files anew, then read the difference
LINES = (
    "replay cut.rec node --no-headers -n shop",
    "replay cut.rec node",
    "replay whole.rec --verify",
    "replay none.rec",
    "replay whole.rec status",
    "replay whole.rec --verify --limit 3",
    "record whole.rec",
    "record running.rec",
    "record new.rec",
    "record new.rec --for 2h",
    "record new.rec -w",
    "record",
)


def hold(name: str, text: str) -> None:
    """Compare a text with what was agreed."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get(UPDATE):
        path.write_text(text)
    assert text == path.read_text()


def metrics_of(latest: Latest[Snapshot]) -> Answers:
    """Return the answers of a daemon whose metrics can be read."""

    def question(args: MetricsText, _: Seen) -> Mapping[str, object]:
        node = make_node()
        scrape = scrape_of(node, before=before_of(node))
        return {"text": text_of(scrape, args.names or "tycho", OPEN if args.openmetrics else "")}

    plain = made.make_answers(latest)
    return Answers(
        latest, made.StillClock(), plain._readers._replace(questions={"metrics": question})
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("metrics.tycho", ["--names", "tycho"]),
        ("metrics.kepler", ["--names", "kepler"]),
    ],
)
def test_metrics_are_as_agreed(
    name: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, labels and figures that dashboards are built on change only on purpose."""
    latest: Latest[Snapshot] = Latest()
    latest.publish(made.make_snapshot())
    with made.serving(tmp_path / "control.sock", latest, metrics_of(latest)):
        assert main(["metrics", *words, "--socket", str(tmp_path / "control.sock")]) == 0

    hold(name, capsys.readouterr().out)


def test_messages_of_record_and_replay_are_as_agreed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands on standard output, what beside it, and the exit code of each command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TYCHOD_SOCKET", "none.sock")
    Path("whole.rec").write_bytes(FROM_THE_MIDDLE)
    Path("cut.rec").write_bytes(SMALL[:-1])
    Path("running.rec.part").write_bytes(b"")
    told = []
    for line in LINES:
        code = main(line.split())
        out, err = capsys.readouterr()
        told += [f"$ tychoctl {line}", *out.splitlines(), *(f"2> {e}" for e in err.splitlines())]
        told += [f"exit {code}", ""]

    hold("recordings", "\n".join(told))


def test_messages_of_a_recording_that_ends_are_as_agreed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How much there is, in words and in JSON; what happened where there is nothing."""
    monkeypatch.chdir(tmp_path)
    part, target = Path(f"today.rec{PART}"), Path("today.rec")
    options = parse_options(["record", "today.rec", "--for", "5m"])
    some = {"chunk": b"x" * 12_345, "windows": 40, "seconds": 120.04}
    written = save(part, [some], options)
    finish(part, target, written)
    tell(target, written, options)
    tell(target, written, parse_options(["record", "today.rec", "-o", "json"]))
    with pytest.raises(Failure) as nothing:
        finish(_emptied(part, options), target, Written())
    told = capsys.readouterr().out + render_failure(nothing.value, as_json=False) + "\n"

    hold("record", told)


def _emptied(part: Path, options: Options) -> Path:
    save(part, [], options)
    return part

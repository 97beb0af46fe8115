"""tychoctl record and replay: names, modes, what is left when something goes wrong, exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_replay import FROM_THE_MIDDLE, SMALL
from tychoctl import recordings
from tychoctl.client import Failure
from tychoctl.options import Options, parse_options
from tychoctl.recordings import PART, finish, refuse_existing, save
from tychoctl.run import main
from tychoctl.values import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1h", 3600.0), ("1.5m", 90.0), ("1", 1.0)],
)
def test_times_are_told_as_people_do(text: str, seconds: float) -> None:
    """Seconds, minutes, an hour."""
    assert parse_duration(text) == seconds
    assert parse_options(["record", "f", "--for", text]).seconds == seconds


@pytest.mark.parametrize("text", ["", "s", "0", "0.5s", "2h", "61m", "-5", "1d", "nan", "1e3", "٣"])
def test_other_times_are_refused_with_an_example(text: str) -> None:
    """Exit status 2 and what would be right."""
    with pytest.raises(Failure, match="no time such as 90s or 5m, from 1s to 1h") as caught:
        parse_options(["record", "f", f"--for={text}"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "arguments", [["record"], ["replay"], ["record", "f", "-w"], ["replay", "f", "status"]]
)
def test_wrong_command_lines_are_usage(arguments: list[str]) -> None:
    """Nothing is asked and nothing is written for them."""
    with pytest.raises(Failure) as caught:
        parse_options(arguments)
    assert caught.value.exit_code == 2


def reply(chunk: bytes, windows: int) -> dict[str, object]:
    """Return one part of a recording."""
    return {"chunk": chunk, "windows": windows, "seconds": float(windows)}


def breaks_after(windows: int) -> Iterator[dict[str, object]]:
    """Yield some windows, then fail as when the daemon is killed."""
    yield reply(b"header", 0)
    for number in range(windows):
        yield reply(b"window", number + 1)
    raise Failure("not-running", "tychod went away")


def test_what_came_before_a_failure_is_kept_and_named(tmp_path: Path) -> None:
    """The windows until then stay in FILE.part; without any, nothing stays."""
    part = tmp_path / "f.part"
    with pytest.raises(
        Failure, match=r"went away; .*f\.part holds 2 windows: tychoctl rep"
    ) as kept:
        save(part, breaks_after(2), Options("record"))
    assert part.read_bytes() == b"headerwindowwindow"
    with pytest.raises(Failure, match=r"went away$"):
        save(part, breaks_after(0), Options("record"))

    assert kept.value.exit_code == 5
    assert not part.exists()


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    """Written beside it, for us alone, then renamed; a recording without a window is none."""
    target, part = tmp_path / "f", tmp_path / f"f{PART}"
    written = save(part, [reply(b"header", 0), reply(b"window", 1)], Options("record"))
    assert part.stat().st_mode & 0o777 == 0o600
    finish(part, target, written)
    assert target.read_bytes() == b"headerwindow"

    empty = save(part, [reply(b"header", 0)], Options("record"))
    with pytest.raises(Failure, match="no window was over yet"):
        finish(part, tmp_path / "g", empty)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("name", ["f", "f.part"])
def test_no_file_is_overwritten_unasked(tmp_path: Path, name: str) -> None:
    """Neither a recording nor what is left of one."""
    (tmp_path / name).write_text("precious")
    with pytest.raises(Failure, match="--force overwrites it") as caught:
        refuse_existing(tmp_path / "f", tmp_path / "f.part")
    assert caught.value.exit_code == 2


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    """Root may record into a directory of somebody else's."""
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "f.part").symlink_to(tmp_path / "victim")
    save(tmp_path / "f.part", [reply(b"x", 1)], Options("record"))

    assert (tmp_path / "victim").read_text() == "precious"


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    """One line with the reason."""
    with pytest.raises(Failure, match=r"cannot write .*: No such file or directory"):
        save(tmp_path / "no" / "f.part", [reply(b"x", 1)], Options("record"))


def test_a_table_of_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tables are those of the live commands; the verdict stands beside them."""
    file = tmp_path / "f"
    file.write_bytes(FROM_THE_MIDDLE)
    code = main(["replay", str(file), "pods", "--verify"])
    out, err = capsys.readouterr()

    assert (code, err) == (0, f"{file}: identical to the bit in 4 windows\n")
    assert "pod-1" in out


def test_a_cut_recording_is_shown_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer after the last whole window on standard output, the trouble beside it, exit 1."""
    file = tmp_path / "f"
    file.write_bytes(SMALL[:-1])
    code = main(["replay", str(file), "node", "-o", "json"])
    out, err = capsys.readouterr()

    assert code == 1
    assert json.loads(out)["sequence"] == 2
    assert "2 windows could be read; then it is cut off" in json.loads(err)["error"]["message"]


def test_what_is_no_recording_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line from the replaying program, as if it were ours."""
    file = tmp_path / "f"
    file.write_text("hello")
    code = main(["replay", str(file)])

    assert code == 1
    assert capsys.readouterr() == ("", f"tychoctl: {file} is no recording of tychod\n")


def test_a_difference_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Scripts can rely on it."""
    told = {"answers": {}, "identical": False, "verdict": "1 of 2 windows differ", "problem": None}
    monkeypatch.setattr(recordings, "run_tychod", lambda _: told)

    assert main(["replay", "f", "--verify"]) == 1
    assert capsys.readouterr().out == "f: 1 of 2 windows differ\n"

"""The history's files: old ones go one by one, and what else lies there does no harm."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.histories import Recorded, later
from tychod.runtime.history_files import Limits, Writer, list_files

DAY_NS = 86400 * 10**9
FIRST = made.make_snapshot()


def test_old_files_go_one_by_one(tmp_path: Path) -> None:
    """By age and by bytes, oldest first; the one in use stays."""
    writer = Writer(tmp_path, Limits(2, 10_000))
    for day in range(6):
        write(writer, b"x" * 100, day)
    by_age = [file.day for file in list_files(tmp_path)]
    for _ in range(30):
        write(writer, b"x" * 1000, 5)
    writer.close()

    assert by_age == ["19700104", "19700105", "19700106"]
    assert sum(file.size() for file in list_files(tmp_path)) <= 10_000 + 1000


def write(writer: Writer, data: bytes, day: int) -> None:
    """What is done for each record."""
    writer.append(data, day * DAY_NS)
    writer.prune(day * DAY_NS)


def add_link(path: Path) -> None:
    """A link to nowhere."""
    path.symlink_to("nowhere")


@pytest.mark.parametrize("add", [add_link, Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["19700101-00000001", "20990101-99999999"])
def test_what_is_no_file_is_passed_over(
    tmp_path: Path, name: str, add: Callable[[Path], None]
) -> None:
    """A link, a directory or a pipe that is called like a file stops neither writing nor pruning
    nor reading."""
    directory = tmp_path / "history"
    directory.mkdir()
    add(directory / f"{name}.history")
    writer = Writer(directory, Limits(2, 10_000))
    for day in range(6):
        write(writer, b"x" * 100, day)
    writer.close()
    by_age = [file.day for file in list_files(directory)]
    recorded = Recorded(tmp_path)
    for number in range(3):
        recorded.record(later(FIRST, 10.0 * number + 1))
    report = recorded.report("node", later(FIRST, 1.0))
    recorded.close()

    assert recorded.history.problem is None
    assert report["covered"]["seconds"] == 20
    assert by_age == ["19700104", "19700105", "19700106"]
    assert (directory / f"{name}.history") in directory.iterdir()


def test_a_file_that_cannot_be_removed_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as what it is, and records are written nevertheless."""
    kept = tmp_path / "history" / "19700101-00000001.history"
    kept.parent.mkdir()
    kept.write_bytes(b"")
    (tmp_path / "history" / "19700102-00000002.history").write_bytes(b"")
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == kept:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    recorded = Recorded(tmp_path)
    recorded.record(FIRST)
    problem = recorded.history.problem
    recorded.close()

    assert problem == (
        f"no old file of the history can be removed in {kept.parent}: Operation not permitted"
    )
    assert [file.number for file in list_files(kept.parent)] == [1, 3]
    assert list_files(kept.parent)[1].size() > 0

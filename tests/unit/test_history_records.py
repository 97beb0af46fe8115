"""Frames of the history: what is damaged or of another shape is passed over, at a bounded cost."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.histories import BOOT, Recorded, later
from tychod.protocol import ReportBy
from tychod.runtime.history_parse import DamagedError, parse_gone, parse_head, read_frame, rebuild
from tychod.runtime.history_records import (
    BLOCK_BYTES,
    CHANGES,
    FORMAT,
    FULL,
    GONE,
    HEAD,
    HEADER_BYTES,
    MAGIC,
    Encoder,
    Frame,
    Head,
    Life,
    frame,
    scan,
    totals_of,
)

TOTALS = totals_of(made.make_snapshot(), None)


class Counting:
    """Bytes to read in, which counts how many are read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read_bytes = 0

    def read(self, start: int, count: int) -> bytes:
        """Return a part."""
        found = self.data[start : start + count]
        self.read_bytes += len(found)
        return found


def frames_in(log: Counting) -> list[Frame]:
    """The sound frames of a log."""
    return [found for found in scan(log, len(log.data)) if found]


SOUND = Encoder(Head(Life(BOOT, 1), 0), None, 60).encode(TOTALS)[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda: MAGIC * 100_000,
        lambda: (MAGIC + b"\0") * 80_000,
        lambda: frame(HEAD, TOTALS, [BOOT, 1])[: HEADER_BYTES - 1] * 10_000,
        lambda: os.urandom(400_000),
    ],
)
def test_damage_is_read_but_once(damage: Callable[[], bytes]) -> None:
    """Whatever it looks like: to find the next frame takes time in proportion to its bytes."""
    data = damage()
    log = Counting(data + SOUND)

    assert [each.kind for each in frames_in(log)] == [0, 1]
    assert log.read_bytes < 2 * len(log.data) + 2 * BLOCK_BYTES


@pytest.mark.parametrize("place", range(-HEADER_BYTES - 3, 5))
def test_a_frame_at_the_edge_of_a_block_is_found(place: int) -> None:
    """Wherever the blocks in which it is looked for end."""
    damage = b"x" * (BLOCK_BYTES + 1 + place)

    assert [each.kind for each in frames_in(Counting(damage + SOUND))] == [0, 1]


WHO = ["container", "a", "b", None, None, None, None, False, None]
NODE = [{"package": [1, None, None]}, None, 0, 0]
HEADS = [
    [FORMAT + 1, BOOT, 1, 0],
    [FORMAT, BOOT, 1],
    [FORMAT, BOOT, "1", 0],
    [FORMAT, 1, 1, 1],
    [BOOT, 1],
    {},
    {"boot": 1},
    [],
    7,
    None,
]
FULLS = [
    {"a": 1},
    [["package"], NODE, [["k", ["kind", "id"], [1, 2, 3]]]],
    [["package"], NODE, [["k", WHO, [1, 2]]]],
    [["package"], NODE, [["k", WHO, [1, 2, "3"]]]],
    [["package"], NODE, [["k", WHO, 7]]],
    [["package"], NODE, [["k", [*WHO[:-2], 0, None], [1, 2, 3]]]],
    [["package"], NODE, [[["k"], WHO, [1, 2, 3]]]],
    [["package"], NODE, [["k", [["x"], *WHO[1:]], [1, 2, 3]]]],
    [["package"], NODE[:3], []],
    [["package"], [{"package": [None, 1, 1]}, None, 0, 0], []],
    [["package"], [[], None, 0, 0], []],
    [[1], NODE, []],
    ["package", NODE, []],
    None,
]
CHANGED = [
    [NODE, [], {"x": 3}, []],
    [NODE, [], {9999: [1, 2, 3]}, []],
    [NODE, [], {0: [1]}, []],
    [NODE, [[0, "k", WHO]], {}, []],
    [NODE, [], {}, [{}]],
    [NODE, [], [], 7],
    [[], [], {}, []],
    7,
]
GONES = [
    [1],
    [["package"], [[WHO, [1]]], []],
    [["package"], [[WHO[:3], [1, 2, 3]]], []],
    [["package"], [], [[WHO, [1, 2, None]]]],
    [["package"], [7], []],
    [{}, [], []],
    "x",
]


def test_a_sound_frame_of_another_shape_ends_nothing(tmp_path: Path) -> None:
    """Each costs what it holds: tychod records, starts again and reports what it can read."""
    head, gone = frame(HEAD, TOTALS, [FORMAT, BOOT, 1, 0]), frame(GONE, TOTALS, GONES[0])
    logs = [frame(HEAD, TOTALS, plain) + SOUND for plain in HEADS]
    logs += [head + frame(FULL, TOTALS, plain) for plain in FULLS]
    logs += [SOUND + frame(CHANGES, TOTALS, plain) for plain in CHANGED]
    logs += [SOUND + frame(GONE, TOTALS, plain) + gone for plain in GONES]
    directory = tmp_path / "history"
    directory.mkdir()
    for number, data in enumerate(logs, start=1):
        (directory / f"20250615-{number:08d}.history").write_bytes(data)
    recorded = Recorded(tmp_path)
    for seconds in (10.0, 20.0):
        recorded.record(later(made.make_snapshot(), seconds))
    for by in get_args(ReportBy):
        assert recorded.report(by)["covered"] is not None
    recorded.close()


@pytest.mark.parametrize(
    ("kind", "plain"),
    [(FULL, each) for each in FULLS]
    + [(CHANGES, each) for each in CHANGED]
    + [(GONE, each) for each in GONES],
)
def test_what_has_another_shape_is_damaged(kind: int, plain: object) -> None:
    """To the type of each field, so that nothing later on meets what it does not expect."""
    log = Counting((b"" if kind == FULL else SOUND) + frame(kind, TOTALS, plain))
    frames = [each for each in frames_in(log) if each.kind != HEAD]
    if kind == GONE:
        with pytest.raises(DamagedError):
            parse_gone(read_frame(log, frames[-1]))
    else:
        with pytest.raises(DamagedError):
            rebuild(log, frames)


@pytest.mark.parametrize("plain", HEADS)
def test_a_head_of_another_format_is_not_guessed_at(plain: object) -> None:
    """Whose counters follow is told by a HEAD of this format alone."""
    log = Counting(frame(HEAD, TOTALS, plain))
    with pytest.raises(DamagedError):
        parse_head(read_frame(log, frames_in(log)[0]))

"""Frames of the history: what is damaged or of another shape is passed over, at a bounded cost."""

import os
from collections.abc import Callable

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.histories import BOOT
from tychod.runtime.history_records import (
    BLOCK_BYTES,
    HEAD,
    HEADER_BYTES,
    MAGIC,
    Encoder,
    Frame,
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


SOUND = Encoder(Life(BOOT, 1), None, 60).encode(TOTALS)[0]


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

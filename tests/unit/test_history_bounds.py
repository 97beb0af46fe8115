"""The history's bounds: on memory, and on what a report may take of the daemon's."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.histories import SETTINGS, Recorded, later
from tychod.runtime import history

FIRST = made.make_snapshot()


@pytest.mark.parametrize("days", [0, 7])
def test_memory_is_bounded_in_bytes(
    tmp_path: Path, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever memory and interval say; the newest records are there, and those on disk."""
    monkeypatch.setattr(history, "MOST_MEMORY_BYTES", 20_000)
    recorded = Recorded(tmp_path, replace(SETTINGS, memory=86400.0, days=days))
    snapshots = [later(FIRST, 10.0 * number) for number in range(1, 200)]
    for snapshot in snapshots:
        recorded.record(snapshot)
    held = sum(len(chunk.data) for chunk in recorded.history._chunks)
    seconds = recorded.report("node", snapshots[0])["covered"]["seconds"]
    recorded.close()

    assert 20_000 // 2 < held <= 20_000
    assert seconds == 1980 if days else 300 < seconds < 1980

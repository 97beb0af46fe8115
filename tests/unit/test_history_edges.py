"""Which records are edges of a report: for readers without rights no closer than their step."""

from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.histories import Recorded, later
from tychod.model import Snapshot
from tychod.runtime.slots import View

FIRST = made.make_snapshot()


def at_seconds(place: Path, seconds: list[float]) -> tuple[Recorded, list[Snapshot]]:
    """A history with a record at each of these seconds after the first."""
    recorded = Recorded(place)
    snapshots = [later(FIRST, each) for each in seconds]
    for snapshot in snapshots:
        recorded.record(snapshot)
    return recorded, snapshots


def covered(recorded: Recorded, step_s: float, *period: Snapshot | None) -> dict[str, Any] | None:
    """What a reader with such a step is told to be covered."""
    found: Any = recorded.report("node", *period, view=View(None, None, step_s))["covered"]
    return found


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_readers_without_rights_see_records_at_odd_and_at_even_seconds(
    tmp_path: Path, first: float
) -> None:
    """Records further apart than the step are edges, whatever second they fall on."""
    recorded, snapshots = at_seconds(tmp_path, [first + 10 * n for n in range(12)])
    found = covered(recorded, 1.0, snapshots[3], snapshots[8])
    recorded.close()
    again = covered(Recorded(tmp_path), 1.0, snapshots[3], snapshots[8])

    assert found == again
    assert found is not None
    assert found["seconds"] == 50


def test_sparse_records_among_dense_ones_are_edges(tmp_path: Path) -> None:
    """A setting that was changed, or a stop, hides no more than what is too close."""
    seconds = [1.0 + 10 * n for n in range(7)] + [200.0, 203.0, 400.0, 430.0, 500.0]
    recorded, snapshots = at_seconds(tmp_path, seconds)
    edges = set()
    for number, start in enumerate(snapshots):
        for end in snapshots[number + 1 :]:
            found = covered(recorded, 60.0, start, end)
            edges |= {found["start"], found["end"]} if found else set()
    recorded.close()
    times = sorted(datetime.fromisoformat(edge).timestamp() for edge in edges)
    apart = [round(later - sooner) for sooner, later in pairwise(times)]

    assert min(apart) >= 60
    assert apart[-2:] == [200, 100]

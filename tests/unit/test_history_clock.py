"""The history when somebody sets the clock: lengths and mean powers are those of real time."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.histories import NO_VIEW, Recorded, end_s
from tychod.model import Snapshot
from tychod.runtime.slots import View

S_NS = 10**9
DAY_S = 86400
FIRST = made.make_snapshot()


def at(seconds: float, off_s: int = 0, **changed: int) -> Snapshot:
    """The node so long after its counters began; ``off_s``: how wrong its clock is."""
    begin_ns = (FIRST.since_ns - FIRST.wall_offset_ns) // S_NS * S_NS
    end_ns = begin_ns + round(seconds * S_NS)
    window = FIRST.window._replace(start_ns=end_ns - S_NS, end_ns=end_ns)
    offset_ns = FIRST.wall_offset_ns + off_s * S_NS
    return replace(FIRST, window=window, wall_offset_ns=offset_ns, **changed)


@pytest.mark.parametrize("set_s", [30 * DAY_S, 2000, -2000, -DAY_S, -400 * DAY_S])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_clock_that_is_set_later_on_changes_no_length(
    tmp_path: Path, set_s: int, is_restarted: bool
) -> None:
    """Forward or back: what the counters hold is over as long as they ran."""
    recorded = Recorded(tmp_path)
    for number in range(1, 10):
        recorded.record(at(10.0 * number))
    if is_restarted:
        recorded.close()
        recorded = Recorded(tmp_path)
    for number in range(10, 20):
        recorded.record(at(10.0 * number, set_s))
    whole = recorded.report("node", None, at(190.0, set_s))
    part = recorded.report("node", at(120.0, set_s), at(190.0, set_s))
    recorded.close()
    joules = sum(whole["total"]["total"].values()) / 1e6

    assert whole["covered"]["seconds"] == pytest.approx(190, abs=1)
    assert whole["total"]["mean_power_w"] == pytest.approx(joules / 190, rel=0.01)
    assert part["covered"]["seconds"] == 70
    assert whole["gaps"] == part["gaps"] == []


def test_counters_begin_no_sooner_than_their_boot(tmp_path: Path) -> None:
    """A clock three hours behind, set right before the first record, adds no three hours."""
    recorded = Recorded(tmp_path)
    begun_ns = FIRST.since_ns - 3 * 3600 * S_NS
    snapshots = [at(10.0 * number, since_ns=begun_ns) for number in range(1, 4)]
    alone = recorded.report("node", view=View(snapshots[0], None, 0.0))
    for snapshot in snapshots:
        recorded.record(snapshot)
    whole = recorded.report("node", view=NO_VIEW)
    recorded.close()
    up_s = end_s(snapshots[-1]) - FIRST.wall_offset_ns / 1e9

    assert whole["covered"]["seconds"] == pytest.approx(up_s, abs=0.1)
    assert alone["covered"]["seconds"] == pytest.approx(up_s - 20, abs=0.1)

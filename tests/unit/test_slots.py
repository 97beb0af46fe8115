"""Readers without rights see results no more often than `[control] min_interval` says."""

import dataclasses
import threading
from pathlib import Path

import msgpack
import pytest

from tests.fixtures import snapshots as made
from tychod.buffer import Latest
from tychod.config_results import Control
from tychod.model import Snapshot, Window
from tychod.runtime.slots import Coarse
from tychod.settings import Arguments, check_config

SECOND_NS = 1_000_000_000


def snapshot_of(sequence: int, *, end_s: float) -> Snapshot:
    """Return the snapshot of a window of one second."""
    end_ns = round(end_s * 1e9)
    return dataclasses.replace(
        made.make_snapshot(sequence=sequence), window=Window(end_ns - SECOND_NS, end_ns)
    )


def test_the_slot_moves_by_the_interval_and_alike_for_all() -> None:
    """A window that ends a bin too early is not put off; whoever looks sees the same."""
    latest: Latest[Snapshot] = Latest()
    slot = Coarse(latest, lambda: 3.0)
    assert (slot.pair(), slot.count()) == ((None, None), 0)

    seen = []
    for sequence, end_s in enumerate((10.0, 11.0, 12.95, 15.0, 16.0, 20.0), 1):
        latest.publish(snapshot_of(sequence, end_s=end_s))
        held = [slot.get() for _ in range(3)]
        assert held[0] is held[1] is held[2]
        seen.append(held[0].sequence if held[0] else None)

    assert seen == [1, 1, 3, 3, 5, 6]
    assert slot.count() == 4
    newest, before = slot.pair()
    assert newest
    assert before
    assert (newest.sequence, before.sequence) == (6, 5)


def test_the_pair_stays_together() -> None:
    """What came before the snapshot held stays, whatever is published meanwhile."""
    latest: Latest[Snapshot] = Latest()
    slot = Coarse(latest, lambda: 100.0)
    for sequence in (1, 2):
        latest.publish(snapshot_of(sequence, end_s=float(sequence)))
    held = slot.pair()
    latest.publish(snapshot_of(3, end_s=3.0))

    assert slot.pair() == held
    assert [s.sequence for s in held if s] == [2, 1]


def test_the_interval_is_the_one_in_force() -> None:
    """A reload counts from the next look on."""
    interval_s = 100.0
    latest: Latest[Snapshot] = Latest()
    slot = Coarse(latest, lambda: interval_s)
    latest.publish(snapshot_of(1, end_s=1.0))
    slot.get()
    latest.publish(snapshot_of(2, end_s=2.0))
    assert slot.count() == 1
    interval_s = 1.0
    assert slot.count() == 2


def test_who_waits_is_woken_when_the_slot_moves_and_not_before() -> None:
    """A window that is not shown wakes nobody up."""
    latest: Latest[Snapshot] = Latest()
    slot = Coarse(latest, lambda: 5.0)
    latest.publish(snapshot_of(1, end_s=1.0))
    count = slot.count()
    latest.publish(snapshot_of(2, end_s=2.0))
    assert not slot.wait_newer(count, 0.01)
    threading.Timer(0.02, latest.publish, [snapshot_of(3, end_s=6.0)]).start()
    assert slot.wait_newer(count, 10.0)
    assert not slot.wait_newer(slot.count(), 0.0)


def test_both_slots_share_what_is_encoded() -> None:
    """One snapshot is encoded once for all; where readers see different ones, each once."""
    latest: Latest[Snapshot] = Latest()
    answers = made.make_answers(latest, control=Control(min_interval=10.0))
    root, other = answers.access(everything=True), answers.access(everything=False)
    latest.publish(snapshot_of(1, end_s=1.0))
    assert answers.packed("node", root) is answers.packed("node", other)
    latest.publish(snapshot_of(2, end_s=2.0))

    packed = [answers.packed("node", access) for access in (root, other, root, other)]

    assert [msgpack.unpackb(one)["sequence"] for one in packed] == [2, 1, 2, 1]
    assert packed[0] is packed[2]
    assert packed[1] is packed[3]
    assert other.step_s == 10.0


@pytest.mark.parametrize(("value", "code"), [("0.99", 2), ("0.1", 2), ("1.0", 0)])
def test_the_interval_has_a_floor(tmp_path: Path, value: str, code: int) -> None:
    """No setting gives readers without rights more than one result a second."""
    settings = tmp_path / "tychod.toml"
    settings.write_text(f"[control]\nmin_interval = {value}\n")
    folder = tmp_path / "conf.d"
    folder.mkdir()

    found, text = check_config(Arguments(str(settings), str(folder)), {})

    assert found == code
    assert text.startswith("configuration is invalid") == bool(code)

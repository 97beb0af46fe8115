"""Idle power of a GPU: learned from quiet moments, both ways, by performance state."""

import random

import pytest

from tychod.analysis.gpuidle import (
    KEPT,
    UNTOLD,
    IdleMemory,
    Piece,
    Tail,
    from_plain,
    idle_j,
    learned,
    level,
    to_plain,
)

S = 1_000_000_000
STEP_NS = S // 2


def run(
    memory: IdleMemory,
    seconds: float,
    power_w: float,
    *,
    pstate: int = 0,
    quiet: bool = True,
    start_s: float = 0.0,
    noise: random.Random | None = None,
) -> IdleMemory:
    """Let windows of 3 s pass in which a device drew that power."""
    for first in range(0, round(seconds), 3):
        pieces = []
        for step in range(6):
            start_ns = round((start_s + first) * S) + step * STEP_NS
            told_w = power_w + (noise.gauss(0.0, 1.0) if noise else 0.0)
            pieces.append(Piece(start_ns, start_ns + STEP_NS, told_w / 2, pstate, quiet))
        memory = learned(memory, pieces)
    return memory


def test_each_state_has_its_level() -> None:
    """An unused device draws less in a deeper state; each state's level is its own."""
    memory = run(IdleMemory(), 30, 62.0, start_s=1)
    memory = run(memory, 30, 21.0, pstate=8, start_s=31)

    assert level(memory, 0).power_w == pytest.approx(62.0)
    assert level(memory, 8).power_w == pytest.approx(21.0)


def test_an_unknown_state_takes_the_nearest_deeper_one() -> None:
    """A deeper state draws less, so nothing is called idle that may be use; a shallower never."""
    memory = IdleMemory({0: (62.0,), 5: (30.0,), 8: (21.0,)})

    assert level(memory, 2).power_w == 30.0
    assert level(memory, 12).means == 0
    assert level(memory, UNTOLD).power_w == 21.0


def test_nothing_known_is_nothing_idle() -> None:
    """Invariant 51: without any knowledge all energy is dynamic."""
    assert idle_j([Piece(0, S, 50.0, 0, True)], IdleMemory()) == [0.0]


def test_the_level_comes_up_again() -> None:
    """Invariant 55: a lasting rise of the quiet floor is followed (91.0 W stayed for ever)."""
    memory = run(IdleMemory(), 300, 30.0, start_s=1)
    memory = run(memory, 60, 91.0, start_s=301)
    assert level(memory, 0).power_w == pytest.approx(91.0)

    memory = run(memory, 60, 30.0, start_s=361)
    assert level(memory, 0).power_w == pytest.approx(30.0)


@pytest.mark.parametrize("stuck_w", [0.0, 0.21])
def test_a_glitching_meter_does_not_collapse_the_level(stuck_w: float) -> None:
    """Invariant 55: 24 s of a meter that tells nothing do not move the level towards 0.21 W."""
    memory = run(IdleMemory(), 300, 30.0, start_s=1)
    memory = run(memory, 24, stuck_w, start_s=301)

    assert level(memory, 0).power_w == pytest.approx(30.0)


def test_use_never_raises_the_level() -> None:
    """An hour of steady load leaves the level where the quiet moments put it."""
    memory = run(IdleMemory(), 30, 30.0, start_s=1)
    memory = run(memory, 3600, 250.0, quiet=False, start_s=31)

    assert level(memory, 0).power_w == pytest.approx(30.0)


def test_work_with_less_than_idle_power_lowers_the_level() -> None:
    """A level that was learned wrong is given up though the device is never quiet again."""
    memory = run(IdleMemory(), 90, 91.0, start_s=1)
    memory = run(memory, 90, 50.0, quiet=False, start_s=91)

    assert level(memory, 0).power_w == pytest.approx(50.0)


def test_the_first_moments_after_use_teach_nothing() -> None:
    """Averages still hold what was used before: short pauses of a busy device are no evidence."""
    memory = IdleMemory()
    for second in range(100):
        start_ns = 4 * second * S
        memory = learned(memory, [Piece(start_ns, start_ns + 2 * S, 500.0, 0, False)])
        memory = learned(memory, [Piece(start_ns + 2 * S, start_ns + 4 * S, 200.0, 0, True)])

    assert not memory.seen_w


def test_a_gap_in_time_begins_anew() -> None:
    """What happened while nobody looked is not known to have been quiet."""
    memory = learned(IdleMemory(), [Piece(S, 4 * S, 60.0, 0, True)])
    memory = learned(
        memory, [Piece(4 * S, 5 * S, 20.0, 0, True), Piece(60 * S, 61 * S, 900.0, 0, True)]
    )

    assert max(memory.seen_w.get(0, (0.0,))) < 900.0


def test_the_noise_of_an_unused_device_is_nobodys_use() -> None:
    """Readings that scatter by 1 W around the idle power leave nothing to anybody."""
    noise = random.Random(5)
    memory = run(IdleMemory(), 90, 60.0, start_s=1, noise=noise)
    for _ in range(200):
        energy_j = [30.0 + noise.gauss(0.0, 0.5) for _ in range(6)]
        pieces = [
            Piece(i * STEP_NS, (i + 1) * STEP_NS, used_j, 0, True)
            for i, used_j in enumerate(energy_j)
        ]

        assert idle_j(pieces, memory) == energy_j


def test_idle_is_at_most_the_power() -> None:
    """Invariant 50: a used device that draws less than the level has no dynamic energy."""
    memory = IdleMemory({0: (100.0,)})

    assert idle_j([Piece(0, S, 80.0, 0, False), Piece(S, 2 * S, 0.0, 0, False)], memory) == [80, 0]


def test_memory_survives_as_plain_data() -> None:
    """What is saved is what is read again."""
    levels = {0: (62.0, 61.5), UNTOLD: (3.0,)}
    tail = (Tail(1, 2, 0.5), Tail(2, 4, 0.0))
    memory = IdleMemory(levels, 7, 5, ("a", "b"), 11, 13, tail, {"a": 0.5})

    assert from_plain(to_plain(memory)) == memory


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"seen_w": [[0, float("nan")]]},
        {"seen_w": [[0, -1.0]]},
        {"seen_w": [[0]]},
        {"seen_w": [["0", 1.0]]},
        {"seen_w": [[99, 1.0]]},
        {"seen_w": [[0, *([1.0] * (KEPT + 1))]]},
        {"seen_w": 5},
        {"idle_uj": -1},
        {"dynamic_uj": 1.5},
        {"quiet_ns": None},
        {"allocated": [1]},
        {"allocated": None},
        {"tail": [[1, 2]]},
        {"tail": [[1, 2, float("inf")]]},
        {"given_j": {"a": -1.0}},
        {"given_j": {1: 1.0}},
    ],
)
def test_bad_memory_is_refused(change: dict[str, object]) -> None:
    """Saved state of another form is an error that is told, not a number to go on with."""
    with pytest.raises(ValueError, match=r".+"):
        from_plain(to_plain(IdleMemory({0: (1.0,)})) | change)

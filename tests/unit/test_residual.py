"""The ledger of what nobody measures: signed, closed where all is known, exact."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tychod.analysis.platform_memory import (
    Hole,
    Ledger,
    PartTrack,
    PlatformMemory,
    Stretch,
    from_plain,
    to_plain,
)
from tychod.analysis.residual import LEVELS, PATIENCE_NS, close, quiet_w, with_level

S = 1_000_000_000
J = 1_000_000


def track(domain: str, *told: tuple[int, int]) -> PartTrack:
    """A zone's energy ``(nanoseconds, microjoules)``."""
    times, energy = (np.array(x, np.int64) for x in zip(*told, strict=True))
    return PartTrack(domain, times, energy, int(times[0]), int(times[0]))


def adds_up(ledger: Ledger) -> bool:
    """Whether the identities hold."""
    rest = ledger.platform_uj - ledger.parts_uj
    return ledger.energy_uj == rest == ledger.idle_uj + ledger.dynamic_uj


def test_it_is_closed_over_what_both_cover() -> None:
    """A part that is a little late is waited for; the rest of the stretch stays open (46)."""
    tracks = {"a": track("package", (0, 0), (4 * S, 40 * J))}
    ledger, closed = close(Ledger(), [Stretch(0, 6 * S, 120 * J)], tracks, 6 * S)
    assert (closed.energy_uj, closed.seconds, closed.without) == (40 * J, 4.0, ())
    assert ledger.open == (Stretch(4 * S, 6 * S, 40 * J),)
    tracks = {"a": track("package", (0, 0), (4 * S, 40 * J), (9 * S, 50 * J))}
    ledger, closed = close(ledger, [Stretch(6 * S, 9 * S, 3 * J)], tracks, 9 * S)
    assert (ledger.platform_uj, ledger.parts_uj) == (123 * J, 50 * J)
    assert (ledger.through_ns, ledger.open, adds_up(ledger)) == (9 * S, (), True)


def test_before_a_part_was_known_there_is_no_rest() -> None:
    """The platform alone, before the first reading of its parts, is not called a rest."""
    tracks = {"a": track("package", (2 * S, 0), (6 * S, 40 * J))}
    ledger, closed = close(Ledger(), [Stretch(0, 6 * S, 120 * J)], tracks, 6 * S)
    assert (ledger.platform_uj, closed.seconds) == (80 * J, 4.0)
    ledger, closed = close(Ledger(), [Stretch(0, 6 * S, 120 * J)], {}, 6 * S)
    assert (ledger, closed.seconds) == (Ledger(), 0.0)


def test_a_part_that_stays_away_is_taken_off_later() -> None:
    """The ledger does not wait for ever; what was owed is paid when it is known, and once."""
    end_ns = PATIENCE_NS + 10 * S
    tracks = {
        "a": track("package", (0, 0), (end_ns, 40 * J)),
        "g": track("gpu", (0, 0), (5 * S, 50 * J)),
    }
    ledger, closed = close(Ledger(), [Stretch(0, end_ns, 400 * J)], tracks, end_ns)
    assert closed.without == ("gpu",)
    assert (ledger.through_ns, ledger.parts_uj) == (10 * S, 70 * J)
    tracks["g"] = track("gpu", (0, 0), (5 * S, 50 * J), (end_ns, 200 * J))
    for _ in range(2):
        ledger, _ = close(ledger, [], tracks, end_ns)
        assert (ledger.platform_uj, ledger.parts_uj) == (400 * J, 240 * J)
        assert adds_up(ledger)
        assert not ledger.owed


def test_a_part_that_is_gone_is_owed_nothing() -> None:
    """A device that was taken out will never tell what it used."""
    tracks = {"a": track("package", (0, 0), (9 * S, 0)), "g": track("gpu", (0, 0), (S, 0))}
    ledger = replace(Ledger(), owed={"g": ((S, 2 * S),)})
    assert close(ledger, [], {"a": tracks["a"]}, 9 * S)[0].owed == {}
    assert close(ledger, [], tracks, 9 * S)[0].owed == ledger.owed


def test_the_quiet_level_moves_both_ways() -> None:
    """A quantile of the newest levels: only lasting ones move it (48 otherwise)."""
    ledger = Ledger()
    assert quiet_w(ledger.levels_w) is None
    told = []
    for level_w in [100.0] * LEVELS + [20.0, 400.0] + [150.0] * LEVELS + [100.0] * LEVELS:
        ledger = with_level(ledger, level_w)
        told.append(quiet_w(ledger.levels_w))
    assert told[LEVELS + 1] == 100.0
    assert (told[2 * LEVELS + 1], told[-1]) == (150.0, 100.0)


def test_dynamic_may_be_negative() -> None:
    """A window below its quiet level is told as it is."""
    tracks = {"a": track("package", (0, 0), (S, 0))}
    ledger, _ = close(Ledger(levels_w=(120.0,)), [Stretch(0, S, 100 * J)], tracks, S)
    assert (ledger.idle_uj, ledger.dynamic_uj) == (120 * J, -20 * J)


class World:
    """Zones that are read when they like, a platform with gaps; the truth is known."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tracks: dict[str, PartTrack] = {}
        self.booked: list[Stretch] = []

    def read(self, end_ns: int, keys: tuple[str, ...]) -> Mapping[str, PartTrack]:
        """Add a node to the tracks of some zones."""
        for key in keys:
            old = self.tracks.get(key) or track(key, (0, 0))
            at_ns = end_ns - int(self.rng.integers(0, S))
            if at_ns <= old.through_ns:
                continue
            energy = int(old.energy_uj[-1]) + int(self.rng.integers(0, 10**9))
            self.tracks[key] = replace(
                old,
                times_ns=np.append(old.times_ns, at_ns),
                energy_uj=np.append(old.energy_uj, energy),
            )
        return self.tracks

    def used_uj(self) -> int:
        """What all zones used while the platform was booked."""
        return sum(
            _at(one, s.to_ns) - _at(one, s.from_ns)
            for one in self.tracks.values()
            for s in self.booked
        )


def _at(one: PartTrack, t_ns: int) -> int:
    """Linear between nodes, rounded down."""
    after = int(np.searchsorted(one.times_ns, t_ns))
    if after in (0, len(one.times_ns)):
        return int(one.energy_uj[min(after, len(one.times_ns) - 1)])
    (t0, t1), (e0, e1) = (x[after - 1 : after + 1].tolist() for x in (one.times_ns, one.energy_uj))
    return int(e0 + (e1 - e0) * (t_ns - t0) // (t1 - t0))


@pytest.mark.parametrize("seed", range(20))
def test_it_closes_whatever_happens(seed: int) -> None:
    """Gaps, parts that stay away and come back, restarts: in the end nothing is lost (47)."""
    world = World(seed)
    rng, ledger, end_ns, at_ns = world.rng, Ledger(), 0, 0
    world.read(0, ())
    world.tracks = {"package": track("package", (0, 0)), "gpu": track("gpu", (0, 0))}
    for _ in range(60):
        end_ns += int(rng.integers(S, 8 * S))
        present = tuple(key for key in ("package", "gpu") if rng.uniform() < 0.6)
        tracks = world.read(end_ns, present)
        stretches = []
        if rng.uniform() < 0.8:
            from_ns = at_ns if rng.uniform() < 0.7 else int(rng.integers(at_ns, end_ns))
            stretches = [Stretch(from_ns, end_ns, int(rng.integers(0, 10**9)))]
            at_ns = end_ns
            world.booked += stretches
        ledger, _ = close(ledger, stretches, tracks, end_ns)
        ledger = with_level(ledger, float(rng.uniform(0, 200)))
        assert adds_up(ledger)
        ledger = from_plain(to_plain(PlatformMemory(ledger=ledger))).ledger
    end_ns += 20 * S
    world.tracks = {k: track_to(t, end_ns) for k, t in world.tracks.items()}
    ledger, _ = close(ledger, [], world.tracks, end_ns)
    assert (ledger.open, ledger.owed) == ((), {})
    assert ledger.platform_uj == sum(s.energy_uj for s in world.booked)
    assert ledger.parts_uj == world.used_uj()


def track_to(one: PartTrack, end_ns: int) -> PartTrack:
    """The same zone, read once more."""
    return replace(
        one,
        times_ns=np.append(one.times_ns, end_ns),
        energy_uj=np.append(one.energy_uj, one.energy_uj[-1] + 12345678),
    )


def test_a_part_of_unknown_energy_is_named() -> None:
    """A counter that was reset leaves its part's energy in the rest: exact still, and said."""
    known = track("gpu", (0, 0), (3 * S, 30 * J), (6 * S, 30 * J), (9 * S, 60 * J))
    tracks = {"a": replace(known, holes=(Hole(3 * S, 6 * S, 10.0, "its counter was reset"),))}
    told = []
    ledger = Ledger()
    for end in (3, 6, 9):
        booked = [Stretch((end - 3) * S, end * S, 60 * J)]
        ledger, closed = close(ledger, booked, tracks, end * S)
        told.append(closed.unknown)
    assert told == [(), ("gpu: its counter was reset",), ()]
    assert (ledger.platform_uj, ledger.parts_uj, adds_up(ledger)) == (180 * J, 60 * J, True)


def test_what_was_only_late_is_known() -> None:
    """A part that was away and is back has told its energy: nothing of it is unknown."""
    known = track("gpu", (0, 0), (3 * S, 30 * J), (9 * S, 90 * J))
    tracks = {"a": replace(known, holes=(Hole(3 * S, 9 * S, 10.0, ""),))}
    _, closed = close(Ledger(), [Stretch(0, 9 * S, 200 * J)], tracks, 9 * S)
    assert (closed.unknown, closed.energy_uj) == ((), 110 * J)

"""What a GPU draws when nobody uses it, for each of its performance states.

Learned from quiet moments: no utilisation by the device's own word, no process that used it, and
long enough after the last use that averages and utilisation have forgotten it.  The level is the
median of the newest such means, so that it follows a lasting change both ways within a minute of
quiet, while neither a stalled nor a glitching meter moves it.  Nothing else than power that was
seen while quiet can become a level, so it never falls below the quiet minimum; only a device that
is seen to do its work with less proves a level too high.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import isfinite
from statistics import median
from typing import Any, Final, NamedTuple

VERSION: Final = 1
UNTOLD: Final = -1
"""Stands for the performance state where the driver tells none."""
KEPT: Final = 21
"""Means that a level is the median of: with windows of 3 s half of them is half a minute."""
SETTLE_NS: Final = 2_000_000_000
"""How long after its last use a device shows what it draws unused: readings may be means over 1 s,
and utilisation is of the driver's last period, 1 s at most (NVML, nvmlUtilization_t)."""
LEAST_NS: Final = 500_000_000
"""A mean over less is no evidence."""
SURE: Final = 3.0
LEAST_SPREAD: Final = 0.01
"""Relative; means over a second of an unused device wander by so much with its temperature."""
MAD_SD: Final = 1.4826
"""Standard deviations in a median absolute deviation of a normal distribution."""
STATES: Final = range(UNTOLD, 33)
"""NVML knows P0 to P15, and 32 for unknown."""

Plain = dict[str, Any]


class Tail(NamedTuple):
    """A part of the last window that was given away before a look told who used it."""

    start_ns: int
    end_ns: int
    energy_j: float  # above idle


@dataclass(frozen=True, slots=True)
class IdleMemory:
    """Memory about one GPU's idle power, its users and its totals; survives a restart."""

    seen_w: Mapping[int, tuple[float, ...]] = field(default_factory=dict)  # by state, newest last
    updated_ns: int = 0  # monotonic, when something was learned last
    quiet_ns: int = 0  # monotonic, since when nobody has used it; 0: somebody does
    allocated: tuple[str, ...] = ()  # leaves that it was assigned to at the last window's end
    idle_uj: int = 0  # cumulative
    dynamic_uj: int = 0
    tail: tuple[Tail, ...] = ()
    given_j: Mapping[str, float] = field(default_factory=dict)  # of the tail, by leaf


class Level(NamedTuple):
    """Idle power at one performance state."""

    power_w: float = 0.0
    spread_w: float = 0.0  # standard deviation of a quiet mean
    means: int = 0  # that it is made of; 0: nothing is known


class Piece(NamedTuple):
    """A part of a window with one state and one mean power."""

    start_ns: int
    end_ns: int
    energy_j: float
    pstate: int
    is_quiet: bool


def level(memory: IdleMemory, pstate: int) -> Level:
    """Return the idle power at a state; not known: that of the nearest deeper state that is.

    A deeper state draws less, so nothing is called idle that may be use.
    """
    known = sorted(memory.seen_w)
    if pstate not in memory.seen_w:
        deeper = [state for state in known if state > pstate]
        if not deeper:
            return Level()
        pstate = deeper[-1] if pstate == UNTOLD else deeper[0]
    return _level(memory.seen_w[pstate])


def _level(seen_w: Sequence[float]) -> Level:
    if not seen_w:
        return Level()
    power_w = median(seen_w)
    spread_w = MAD_SD * median(abs(x - power_w) for x in seen_w)
    return Level(power_w, max(spread_w, LEAST_SPREAD * power_w), len(seen_w))


def idle_j(pieces: Sequence[Piece], memory: IdleMemory) -> list[float]:
    """Return the idle energy in each piece: at most the idle power of its state, and at most all.

    While nobody uses the device, what its noise adds to the idle power is idle, too; cut off
    reading by reading, half of the noise would be somebody's use.
    """
    found: list[float] = []
    levels = {state: level(memory, state) for state in {piece.pstate for piece in pieces}}
    for _, run in groupby(enumerate(pieces), _one_for_quiet):
        parts = [piece for _, piece in run]
        known, energy_j = levels[parts[0].pstate], sum(part.energy_j for part in parts)
        most_w = known.power_w + (SURE * known.spread_w if parts[0].is_quiet else 0.0)
        most_j = most_w * sum(part.end_ns - part.start_ns for part in parts) / 1e9
        share = min(most_j / energy_j, 1.0) if energy_j > 0.0 else 0.0
        found += [share * max(part.energy_j, 0.0) for part in parts]
    return found


def _one_for_quiet(numbered: tuple[int, Piece]) -> tuple[int, int]:
    """Return the same for the neighbours of one quiet state, another for each other piece."""
    number, piece = numbered
    return piece.pstate, -1 if piece.is_quiet else number


def learned(memory: IdleMemory, pieces: Sequence[Piece]) -> IdleMemory:
    """Return the memory after a window in which the meter was read without fault."""
    quiet: dict[int, list[Piece]] = {}
    used: dict[int, list[Piece]] = {}
    quiet_ns, last_ns = memory.quiet_ns, None
    for piece in pieces:
        if not piece.is_quiet or (last_ns is not None and piece.start_ns > last_ns):
            quiet_ns = 0
        elif not quiet_ns:
            quiet_ns = piece.start_ns
        last_ns = piece.end_ns
        if not piece.is_quiet:
            used.setdefault(piece.pstate, []).append(piece)
        elif piece.start_ns >= quiet_ns + SETTLE_NS:
            quiet.setdefault(piece.pstate, []).append(piece)
    seen = dict(memory.seen_w)
    for state, power_w in [*_means(quiet), *_below(_means(used), memory)]:
        seen[state] = (*seen.get(state, ()), power_w)[-KEPT:]
    is_new = any(seen.get(state) is not memory.seen_w.get(state) for state in seen)
    updated_ns = last_ns if is_new and last_ns is not None else memory.updated_ns
    return replace(memory, seen_w=seen, quiet_ns=quiet_ns, updated_ns=updated_ns)


def _means(by_state: Mapping[int, Sequence[Piece]]) -> list[tuple[int, float]]:
    """Return the mean power at each state that lasted; a device that draws nothing is not read."""
    found = []
    for state, pieces in sorted(by_state.items()):
        length_ns = sum(p.end_ns - p.start_ns for p in pieces)
        energy_j = sum(p.energy_j for p in pieces)
        if length_ns >= LEAST_NS and energy_j > 0.0:
            found.append((state, 1e9 * energy_j / length_ns))
    return found


def _below(means: Iterable[tuple[int, float]], memory: IdleMemory) -> list[tuple[int, float]]:
    """Return the means of a used device that are surely below the idle level of that state."""
    known = {state: _level(seen_w) for state, seen_w in memory.seen_w.items()}
    return [
        (state, power_w)
        for state, power_w in means
        if state in known and power_w < known[state].power_w - SURE * known[state].spread_w
    ]


def to_plain(memory: IdleMemory) -> Plain:
    """Return plain lists and numbers."""
    return {
        "version": VERSION,
        "seen_w": [[state, *seen] for state, seen in sorted(memory.seen_w.items())],
        "updated_ns": memory.updated_ns,
        "quiet_ns": memory.quiet_ns,
        "allocated": list(memory.allocated),
        "idle_uj": memory.idle_uj,
        "dynamic_uj": memory.dynamic_uj,
        "tail": [list(part) for part in memory.tail],
        "given_j": dict(memory.given_j),
    }


def from_plain(plain: Mapping[str, Any]) -> IdleMemory:
    """Return what ``to_plain`` was given; raise ``ValueError`` for anything else."""
    try:
        if plain["version"] != VERSION:
            raise ValueError(f"idle power of a GPU of version {plain['version']!r}, not {VERSION}")
        times = [_whole(plain[n]) for n in ("updated_ns", "quiet_ns")]
        totals = [_whole(plain[n]) for n in ("idle_uj", "dynamic_uj")]
        seen = {_state(state): _powers(powers) for state, *powers in plain["seen_w"]}
        names = tuple(plain["allocated"])
        tail = tuple(Tail(_whole(a), _whole(b), _energy(e)) for a, b, e in plain["tail"])
        given = {leaf: _energy(energy_j) for leaf, energy_j in dict(plain["given_j"]).items()}
    except (LookupError, TypeError, OverflowError) as exc:
        raise ValueError(f"not the idle power of a GPU: {exc!r}") from None
    if not all(isinstance(name, str) for name in (*names, *given)):
        raise ValueError("a leaf's id is no text")
    return IdleMemory(seen, times[0], times[1], names, totals[0], totals[1], tail, given)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _energy(value: Any) -> float:
    found = float(value)
    if not isfinite(found) or found < 0.0:
        raise ValueError(f"{value!r} is no energy")
    return found


def _state(value: Any) -> int:
    if type(value) is not int or value not in STATES:
        raise ValueError(f"{value!r} is no performance state")
    return value


def _powers(values: Sequence[Any]) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if not 0 < len(found) <= KEPT or not all(isfinite(x) and x > 0.0 for x in found):
        raise ValueError("a power is missing or none")
    return found

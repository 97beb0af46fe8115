"""What is remembered of one GPU from window to window: how far its counter can be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Literal, NamedTuple, get_args

from tychod.analysis import gpuidle
from tychod.analysis.gpuidle import IdleMemory

VERSION: Final = 1
Plain = dict[str, Any]

Meter = Literal["", "counter", "series"]
"""What a GPU's booked energy is counted by: nothing yet, its own counter, or ours."""
Origin = Literal["", "true", "sampled"]
"""What an energy counter is fed by: not known, a real integrator, or the part-time sensor."""


class Agreement(NamedTuple):
    """Leaky sums over updates: the counter against the momentary readings."""

    updates: float = 0.0
    counter_j: float = 0.0
    power_j: float = 0.0  # the readings' integral
    variance_j2: float = 0.0  # of that integral
    backwards: float = 0.0  # updates at which the counter went back


class Likeness(NamedTuple):
    """Leaky sums over updates of windows with a changing load: is the counter made of readings?"""

    updates: float = 0.0
    counter_j: float = 0.0
    square_j2: float = 0.0  # of counter minus reading times length, stamp errors taken off
    change_j2: float = 0.0  # of the reading's change times length
    change_j4: float = 0.0  # of its fourth power: tells how few changes the sum is made of


class Variogram(NamedTuple):
    """Leaky sums over updates: readings against the last and the last but one."""

    updates: float = 0.0
    one_w2: float = 0.0
    two_w2: float = 0.0


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory about one GPU; survives a restart."""

    meter: Meter = ""
    origin: Origin = ""
    agreement: Agreement = field(default_factory=Agreement)
    likeness: Likeness = field(default_factory=Likeness)
    variogram: Variogram = field(default_factory=Variogram)
    idle: IdleMemory = field(default_factory=IdleMemory)


def to_plain(memory: GpuMemory) -> Plain:
    """Return plain lists and numbers for one GPU."""
    return {
        "version": VERSION,
        "meter": memory.meter,
        "origin": memory.origin,
        "agreement": list(memory.agreement),
        "likeness": list(memory.likeness),
        "variogram": list(memory.variogram),
        "idle": gpuidle.to_plain(memory.idle),
    }


def from_plain(plain: Mapping[str, Any]) -> GpuMemory:
    """Return what ``to_plain`` was given; raise ``ValueError`` for anything else."""
    try:
        if plain["version"] != VERSION:
            raise ValueError(f"memory of a GPU of version {plain['version']!r}, not {VERSION}")
        return GpuMemory(
            _choice(plain["meter"], get_args(Meter)),
            _choice(plain["origin"], get_args(Origin)),
            Agreement(*_sums(plain["agreement"], len(Agreement._fields))),
            Likeness(*_sums(plain["likeness"], len(Likeness._fields))),
            Variogram(*_sums(plain["variogram"], len(Variogram._fields))),
            gpuidle.from_plain(plain["idle"]),
        )
    except (LookupError, TypeError, OverflowError) as exc:
        raise ValueError(f"not the memory of a GPU: {exc!r}") from None


def _choice(plain: Any, known: tuple[str, ...]) -> Any:
    if plain not in known:
        raise ValueError(f"{plain!r} is none of {known}")
    return plain


def _sums(plain: Any, count: int) -> list[float]:
    found = [float(value) for value in plain]
    if len(found) != count or not all(isfinite(value) for value in found):
        raise ValueError("a number is missing or none")
    return found

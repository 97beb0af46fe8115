"""What is remembered of the whole machine's power from one window to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from tychod.analysis import bank as banks
from tychod.analysis.bank import Bank
from tychod.samples import Int64s

VERSION: Final = 1
Plain = dict[str, Any]
Span = tuple[int, int]
"""From when to when, monotonic nanoseconds."""


class Reading(NamedTuple):
    """What all sensors of the platform say together."""

    t_ns: int
    half_ns: int
    power_uw: int
    newest_ns: int  # of its values: each of the next reading's is newer


class Seen(NamedTuple):
    """The newest value of one sensor."""

    t_ns: int
    half_ns: int
    power_uw: int


class CounterPoint(NamedTuple):
    """How far a true counter of the platform has been booked."""

    t_ns: int
    native_uj: int | None
    booked_uj: int


class Stretch(NamedTuple):
    """Energy of the platform, booked over a stretch of time."""

    from_ns: int
    to_ns: int
    energy_uj: int


class Hole(NamedTuple):
    """A stretch in which a part was not read well, and the power that is taken for it."""

    from_ns: int
    to_ns: int
    power_w: float
    reason: str  # why its energy will never be known; empty: it is, though not when it was used


@dataclass(frozen=True, slots=True)
class PartTrack:
    """Energy of one zone that is a part of the platform: whole microjoules at rising times.

    What it says of a moment never changes: later readings only add nodes behind it.
    """

    domain: str
    times_ns: Int64s  # edges of bins, and where each window's energy ends
    energy_uj: Int64s  # cumulative since it began
    begun_ns: int  # nothing is known of the time before
    solid_ns: int  # from here on it was read often enough to show when power changed
    is_modelled: bool = False
    holes: tuple[Hole, ...] = ()

    @property
    def through_ns(self) -> int:
        """Energy is known up to here."""
        return int(self.times_ns[-1])


@dataclass(frozen=True, slots=True)
class Ledger:
    """Signed and cumulative: ``energy = platform - parts = idle + dynamic``, in microjoules."""

    energy_uj: int = 0
    idle_uj: int = 0
    dynamic_uj: int = 0
    platform_uj: int = 0
    parts_uj: int = 0
    through_ns: int | None = None  # closed up to here
    open: tuple[Stretch, ...] = ()  # of the platform, the parts' energy is not known yet
    owed: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    """By zone: closed without it; its energy is taken off when it is known."""
    levels_w: tuple[float, ...] = ()  # base of the newest windows, for the quiet level


@dataclass(frozen=True, slots=True)
class PlatformMemory:
    """Everything about the platform; arrays are never changed in place."""

    key: str = ""  # of the source that is followed; empty: none yet
    bank: Bank | None = None  # None: no part is known, or nothing was read
    parts: tuple[str, ...] = ()  # domains, in the bank's order
    is_taken_over: bool = False  # the bank has been sure of itself once
    through_ns: int | None = None  # energy is booked up to here
    energy_uj: int = 0  # cumulative, over all sources
    by_sensor: Mapping[str, int] = field(default_factory=dict)  # its parts, by sensor or zone
    carry: int = 0  # microwatt nanoseconds that the hold has not booked yet
    seen: Mapping[str, Seen] = field(default_factory=dict)  # newest of each sensor
    readings: tuple[Reading, ...] = ()  # those that are still needed, in order
    taken_ns: int = 0  # the newest that the bank was given
    good_ns: int | None = None  # the newest that it believed
    gaps_ns: tuple[int, ...] = ()  # between the newest readings
    is_stopped: bool = True  # nothing is booked until there is a new reading
    base_w: float | None = None  # of the bank, one window ago
    is_sure: bool = False  # the base is, since it was last lost sight of
    unread: tuple[str, ...] = ()  # zones that were not waited for any more, one window ago
    base_before_w: float | None = None  # when the first of them fell silent
    tracks: Mapping[str, PartTrack] = field(default_factory=dict)  # by zone
    points: Mapping[str, CounterPoint] = field(default_factory=dict)  # of true counters, by zone
    ledger: Ledger = field(default_factory=Ledger)


def to_plain(memory: PlatformMemory) -> Plain:
    """Return plain lists and numbers; the history and the readings are left out."""
    return {
        "version": VERSION,
        "key": memory.key,
        "bank": None if memory.bank is None else banks.to_plain(memory.bank),
        "is_taken_over": memory.is_taken_over,
        "through_ns": memory.through_ns,
        "energy_uj": memory.energy_uj,
        "by_sensor": dict(memory.by_sensor),
        "carry": memory.carry,
        "gaps_ns": list(memory.gaps_ns),
        "tracks": {
            key: [track.domain, track.through_ns, track.is_modelled]
            for key, track in memory.tracks.items()
        },
        "points": {key: list(point) for key, point in memory.points.items()},
        "ledger": _plain_ledger(memory.ledger),
    }


def _plain_ledger(ledger: Ledger) -> Plain:
    return {
        "idle_uj": ledger.idle_uj,
        "dynamic_uj": ledger.dynamic_uj,
        "platform_uj": ledger.platform_uj,
        "through_ns": ledger.through_ns,
        "open": [list(stretch) for stretch in ledger.open],
        "owed": {key: [list(span) for span in spans] for key, spans in ledger.owed.items()},
        "levels_w": list(ledger.levels_w),
    }


def from_plain(plain: Mapping[str, Any]) -> PlatformMemory:
    """Return what ``to_plain`` was given, as far as it is kept; raise ``ValueError`` for else."""
    try:
        return _parsed(plain)
    except (LookupError, TypeError, AttributeError, OverflowError) as exc:
        raise ValueError(f"not a platform's memory: {exc!r}") from None


def _parsed(plain: Mapping[str, Any]) -> PlatformMemory:
    if plain["version"] != VERSION:
        raise ValueError(f"platform's memory of version {plain['version']!r}, not {VERSION}")
    bank = None if plain["bank"] is None else banks.from_plain(plain["bank"])
    if not isinstance(plain["is_taken_over"], bool):
        raise TypeError("neither true nor false")
    return PlatformMemory(
        key=_text(plain["key"]),
        bank=bank,
        parts=() if bank is None else bank.parts,
        is_taken_over=plain["is_taken_over"] and bank is not None,
        through_ns=_whole_or_none(plain["through_ns"]),
        energy_uj=_whole(plain["energy_uj"]),
        by_sensor={_text(key): _whole(uj) for key, uj in plain["by_sensor"].items()},
        carry=_whole(plain["carry"]),
        gaps_ns=tuple(_whole(gap) for gap in plain["gaps_ns"]),
        is_stopped=True,
        tracks={_text(key): _track(*entry) for key, entry in plain["tracks"].items()},
        points={
            _text(key): CounterPoint(_whole(t_ns), _whole_or_none(native), _whole(booked))
            for key, (t_ns, native, booked) in plain["points"].items()
        },
        ledger=_ledger(plain["ledger"]),
    )


def _track(domain: object, through_ns: object, is_modelled: object) -> PartTrack:
    """Its history begins anew: all that is kept is where it ended."""
    at = _whole(through_ns)
    return PartTrack(
        _text(domain), np.array([at], np.int64), np.zeros(1, np.int64), at, at, bool(is_modelled)
    )


def _ledger(plain: Mapping[str, Any]) -> Ledger:
    idle, dynamic = _whole(plain["idle_uj"]), _whole(plain["dynamic_uj"])
    platform = _whole(plain["platform_uj"])
    levels = np.array(plain["levels_w"], np.float64)
    if levels.ndim != 1 or not np.isfinite(levels).all():
        raise ValueError("a level is missing or none")
    return Ledger(
        energy_uj=idle + dynamic,
        idle_uj=idle,
        dynamic_uj=dynamic,
        platform_uj=platform,
        parts_uj=platform - idle - dynamic,
        through_ns=_whole_or_none(plain["through_ns"]),
        open=tuple(Stretch(_whole(a), _whole(b), _whole(uj)) for a, b, uj in plain["open"]),
        owed={
            _text(key): tuple((_whole(a), _whole(b)) for a, b in spans)
            for key, spans in plain["owed"].items()
        },
        levels_w=tuple(levels.tolist()),
    )


def _text(plain: object) -> str:
    if not isinstance(plain, str):
        raise TypeError(f"{plain!r} is no name")
    return plain


def _whole(plain: object) -> int:
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise TypeError(f"{plain!r} is no whole number")
    return plain


def _whole_or_none(plain: object) -> int | None:
    return None if plain is None else _whole(plain)

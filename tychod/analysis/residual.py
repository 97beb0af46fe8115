"""What the platform uses beyond its measured parts: signed, and it adds up to the microjoule.

The ledger is closed over exactly the time in which both the platform and all parts are known.  A
part that is not read for long is not waited for: the ledger closes without it, says so, and takes
its energy off when it is known.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from tychod.analysis.platform_memory import Ledger, PartTrack, Span, Stretch
from tychod.analysis.platform_parts import Tracks, energy_uj, holed, through_ns

PATIENCE_NS: Final = 10_000_000_000
"""A part is waited for so long behind the window's end."""
LEVELS: Final = 16
QUIET: Final = 0.25
"""The quiet level is this quantile of so many levels: a rise or fall is followed in a minute."""
SPANS: Final = 256


class Closed(NamedTuple):
    """What was closed in one window."""

    energy_uj: int = 0
    seconds: float = 0.0
    without: tuple[str, ...] = ()  # domains of which a part is not known yet
    unknown: tuple[str, ...] = ()  # and of which one never will be, each with the reason

    @property
    def power_w(self) -> float | None:
        """Mean of what was closed."""
        return self.energy_uj / 1e6 / self.seconds if self.seconds else None


def quiet_w(levels_w: Sequence[float]) -> float | None:
    """Return the quiet level, which moves both ways; None: nothing was learned yet."""
    return float(np.quantile(levels_w, QUIET)) if levels_w else None


def with_level(ledger: Ledger, level_w: float) -> Ledger:
    """Return the ledger with one more window's level."""
    return replace(ledger, levels_w=(*ledger.levels_w, level_w)[-LEVELS:])


def close(
    ledger: Ledger, booked: Iterable[Stretch], tracks: Tracks, end_ns: int
) -> tuple[Ledger, Closed]:
    """Close the ledger as far as it can be, with what was booked of the platform now."""
    ledger = _paid(ledger, tracks)
    until_ns = through_ns(tracks.values())
    if until_ns is None:  # nothing to take off: the whole would be called a rest
        return replace(ledger, open=()), Closed()
    begun_ns = max(track.begun_ns for track in tracks.values())
    until_ns = max(until_ns, end_ns - PATIENCE_NS)
    now, later = [], []
    for stretch in (*ledger.open, *booked):
        known = _cut(stretch, begun_ns, stretch.to_ns)
        now.append(_cut(known, known.from_ns, until_ns))
        later.append(_cut(known, until_ns, known.to_ns))
    ledger = replace(ledger, open=tuple(s for s in later if s.to_ns > s.from_ns))
    return _booked(ledger, [s for s in now if s.to_ns > s.from_ns], tracks)


def _cut(stretch: Stretch, from_ns: int, to_ns: int) -> Stretch:
    """Return the part between two moments; parts that meet add up to the whole."""
    a, b, uj = stretch
    from_ns, to_ns = min(max(from_ns, a), b), max(min(to_ns, b), a)
    if to_ns <= from_ns:
        return Stretch(from_ns, from_ns, 0)
    before = uj * (from_ns - a) // (b - a)
    return Stretch(from_ns, to_ns, uj * (to_ns - a) // (b - a) - before)


def _booked(ledger: Ledger, stretches: Sequence[Stretch], tracks: Tracks) -> tuple[Ledger, Closed]:
    if not stretches:
        return ledger, Closed()
    platform = sum(stretch.energy_uj for stretch in stretches)
    parts = sum(
        energy_uj(track, s.from_ns, s.to_ns) for track in tracks.values() for s in stretches
    )
    length_ns = sum(s.to_ns - s.from_ns for s in stretches)
    level_w = quiet_w(ledger.levels_w)
    idle = 0 if level_w is None else round(level_w * length_ns / 1_000)
    owed = dict(ledger.owed)
    without: dict[str, None] = {}
    for key, track in tracks.items():
        spans = [
            (max(s.from_ns, track.through_ns), s.to_ns)
            for s in stretches
            if s.to_ns > track.through_ns
        ]
        if spans:
            owed[key] = _merged((*owed.get(key, ()), *spans))
            without[track.domain] = None
    added = _added(ledger, platform, parts, idle)
    added = replace(added, owed=owed, through_ns=stretches[-1].to_ns)
    lost = {k: v for s in stretches for k, v in holed(tracks, s.from_ns, s.to_ns).items()}
    unknown = tuple(f"{domain}: {reason}" for domain, reason in lost.items())
    return added, Closed(platform - parts, length_ns / 1e9, tuple(without), unknown)


def _added(ledger: Ledger, platform_uj: int, parts_uj: int, idle_uj: int) -> Ledger:
    """Return the ledger with more of everything; what is not idle is dynamic, of either sign."""
    rest = platform_uj - parts_uj
    return replace(
        ledger,
        energy_uj=ledger.energy_uj + rest,
        idle_uj=ledger.idle_uj + idle_uj,
        dynamic_uj=ledger.dynamic_uj + rest - idle_uj,
        platform_uj=ledger.platform_uj + platform_uj,
        parts_uj=ledger.parts_uj + parts_uj,
    )


def _paid(ledger: Ledger, tracks: Tracks) -> Ledger:
    """Take off what is known now of a part that the ledger was closed without."""
    owed: dict[str, tuple[Span, ...]] = {}
    paid = 0
    for key, spans in ledger.owed.items():
        track = tracks.get(key)
        if track is None:  # the device is gone, and its energy will never be known
            continue
        paid += sum(energy_uj(track, a, b) for a, b in spans)
        left = _left(spans, track)
        if left:
            owed[key] = left
    return replace(_added(ledger, 0, paid, 0), owed=owed)


def _left(spans: Iterable[Span], track: PartTrack) -> tuple[Span, ...]:
    return tuple((max(a, track.through_ns), b) for a, b in spans if b > track.through_ns)


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Join spans that meet; where there are too many, the oldest become one."""
    found: list[Span] = []
    for a, b in spans:
        if found and a <= found[-1][1]:
            found[-1] = (found[-1][0], max(b, found[-1][1]))
        else:
            found.append((a, b))
    while len(found) > SPANS:
        found[:2] = [(found[0][0], found[1][1])]
    return tuple(found)


def held_domains(tracks: Mapping[str, PartTrack], from_ns: int) -> tuple[str, ...]:
    """Return the domains of which a part is not known up to a moment."""
    return tuple(dict.fromkeys(t.domain for t in tracks.values() if t.through_ns < from_ns))

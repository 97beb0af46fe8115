"""What was given away too early: the end of a window, before a look told who used it.

Looks come about once a second, and a window does not wait for one.  Its end is given to whom the
last look names; when the next look tells better, the window then in the making evens it out.  No
counter ever falls: who had too much has less now, at least nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Final

from tychod.analysis.gpuidle import IdleMemory, Tail
from tychod.analysis.gpupieces import Looked, Seen, covering
from tychod.analysis.gpushare import Split

MOST_PARTS: Final = 200
"""A longer end is not remembered: whoever looks so seldom gets what the last look said."""


def tail_of(
    pieces: Sequence[Looked], above_j: Sequence[float], split_of: Callable[[int | None], Split]
) -> tuple[tuple[Tail, ...], dict[str, float]]:
    """Return the parts that were given away by a look of another time, and to whom, in joules."""
    held = [(each, energy) for each, energy in zip(pieces, above_j, strict=True) if each.is_held]
    if not 0 < len(held) <= MOST_PARTS:
        return (), {}
    tail = tuple(Tail(p.piece.start_ns, p.piece.end_ns, energy) for p, energy in held)
    given: dict[str, list[float]] = {}
    for each, energy in held:
        for leaf, share in split_of(each.look).parts.items():
            given.setdefault(leaf, []).append(share * energy)
    return tail, {leaf: fsum(found) for leaf, found in given.items()}


def owed_j(
    memory: IdleMemory, seen: Seen, split_of: Callable[[int | None], Split]
) -> dict[str, float]:
    """Return what each leaf has still to get of the last window's end; negative: it had too much.

    Nothing where the looks leave a part of it open still.
    """
    stops = [look.t_ns for look in seen.looks]
    owed = {leaf: [-energy_j] for leaf, energy_j in memory.given_j.items()}
    for part in memory.tail:
        at = covering(seen.looks, stops, part.start_ns, part.end_ns)
        if at is None:
            at = covering(seen.looks, stops, *[(part.start_ns + part.end_ns) // 2] * 2)
        if at is None:
            return {}
        for leaf, share in split_of(at).parts.items():
            owed.setdefault(leaf, []).append(share * part.energy_j)
    return {leaf: fsum(found) for leaf, found in owed.items()}


def evened(by_leaf: Mapping[str, float], owed: Mapping[str, float]) -> dict[str, float]:
    """Return the leaves' energy with what is owed, in the same sum; nobody has less than nothing.

    Leaves get more only as far as others can give it back.
    """
    debts = {leaf: -energy_j for leaf, energy_j in owed.items() if energy_j < 0.0}
    given_back = {leaf: min(debts[leaf], had) for leaf, had in by_leaf.items() if leaf in debts}
    back_j, wanted_j = fsum(given_back.values()), fsum(x for x in owed.values() if x > 0.0)
    moved_j = min(back_j, wanted_j)
    if moved_j <= 0.0:
        return dict(by_leaf)
    found = dict(by_leaf)
    for leaf, energy_j in given_back.items():
        found[leaf] -= energy_j * moved_j / back_j
    for leaf, energy_j in owed.items():
        if energy_j > 0.0:
            found[leaf] = found.get(leaf, 0.0) + energy_j * moved_j / wanted_j
    return found

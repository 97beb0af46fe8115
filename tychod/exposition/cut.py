"""Which series are left out where there are too many; pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from tychod.config_results import Level
from tychod.exposition.family import LEVELS, Shown
from tychod.exposition.text import Block

NEVER_CUT: Final = ("self", "node")


class Cut(NamedTuple):
    """What is shown, and how many series are and are not, by level."""

    blocks: Sequence[Block]
    shown: dict[Shown, int]
    dropped: dict[Shown, int]


def cut(blocks: Sequence[Block], levels: Sequence[Level], room: int) -> Cut:
    """Keep the chosen levels in ``room`` series.

    The finest level gives way first, and in it the owners with the least energy, so that who is
    shown changes seldom.
    """
    wanted = {"self", *levels}
    by_level: dict[Shown, list[Block]] = {level: [] for level in LEVELS}
    for block in blocks:
        if block.level in wanted:
            by_level[block.level].append(block)
    kept: list[Block] = []
    result = Cut(kept, dict.fromkeys(LEVELS, 0), dict.fromkeys(LEVELS, 0))
    is_full = False
    for level in LEVELS:
        ranked = sorted(by_level[level], key=lambda block: (-block.energy_uj, block.key))
        for block in ranked:
            count = len(block.lines)
            is_full = is_full or (count > room and level not in NEVER_CUT)
            if is_full and level not in NEVER_CUT:
                result.dropped[level] += count
                continue
            room -= count
            result.shown[level] += count
            kept.append(block)
    return result

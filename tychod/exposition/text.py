"""Label texts, and the lines of series before they are text; pure."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tychod.exposition.family import Shown

MAX_VALUE: Final = 256
"""Longest label value; no name that people give things is longer, but hosts' strings may be."""
_DIGEST: Final = 12  # hex digits that tell apart what was cut or cannot be shown
Line = tuple[str, str, float, int]
"""Family, label text, value, and when a counter began (wall clock in ns; 0: not told)."""


class Block(NamedTuple):
    """The series of one owner: they are shown or left out together."""

    level: Shown
    key: str  # unique in its level
    energy_uj: int  # who has least is left out first
    lines: Sequence[Line]


def value_text(value: str | None) -> str:
    """Return a label value, bounded and escaped; what cannot be shown is told apart by a digest."""
    if not value:
        return ""
    shown = value
    if len(value) > MAX_VALUE or not value.isprintable():
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
        visible = "".join(map(_visible, value[:MAX_VALUE]))
        shown = f"{visible[: MAX_VALUE - _DIGEST - 1]}\N{HORIZONTAL ELLIPSIS}{digest}"
    return shown.replace("\\", "\\\\").replace('"', '\\"')


def _visible(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def labels_text(names: Iterable[str], values: Iterable[str | None]) -> str:
    """Return ``name="value",...`` in the order of the table."""
    return ",".join(
        f'{name}="{value_text(value)}"' for name, value in zip(names, values, strict=True)
    )


def joined(first: str, second: str) -> str:
    """Return two label texts as one; either may be empty."""
    return f"{first},{second}" if first and second else first or second

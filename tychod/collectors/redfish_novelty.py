"""Whether a BMC's answer holds a new reading, or the one that was there before.

Three marks besides the value: the ETag, the reading's own time stamp, the Date of the answer.  None
is sure.  Many BMCs give every answer its own ETag, and most a Date that ticks with their clock: a
mark that is new with each of many answers while the value hardly changes says nothing, and is no
longer believed.  A Date is believed only once it has stood still for longer than a second, which
no clock does: then it is when the document was made, as Tycho's BMC has it.
"""

from typing import Final

STREAK: Final = 16
"""So many answers in a row with a new mark; who reads each value 1.5 times sees old ones, too."""
STILL_NS: Final = 1_500_000_000  # a Date has whole seconds

Marks = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
NAMES: Final = ("ETag", "reading time", "Date")
DATE: Final = 2


class Novelty:
    """What one chassis has shown so far."""

    def __init__(self) -> None:
        self._value: float | None = None
        self._marks: Marks = ((), (), ())
        self._since_ns = 0  # when this Date was first seen
        self._is_dated = False
        self._streaks = [0, 0, 0]
        self._changes = [0, 0, 0]  # of the value, within a streak
        self._doubted = [False, False, False]
        self._has_moved = [False, False, False]

    @property
    def tells(self) -> bool:
        """Whether some mark says that a value is new though it is the same as before."""
        usable = [moved and not d for moved, d in zip(self._has_moved, self._doubted, strict=True)]
        usable[DATE] = usable[DATE] and self._is_dated
        return any(usable)

    @property
    def doubted(self) -> tuple[str, ...]:
        """Marks that change with every answer, so that only the value tells."""
        return tuple(name for name, is_so in zip(NAMES, self._doubted, strict=True) if is_so)

    def is_new(self, value: float, marks: Marks, now_ns: int) -> bool:
        """Take an answer; say whether it holds another reading than the one before."""
        first, is_other = self._value is None, value != self._value
        changed = [bool(new) and new != old for new, old in zip(marks, self._marks, strict=True)]
        self._date(changed[DATE], now_ns)
        if not first:
            self._doubt(changed, is_other)
            self._has_moved = [a or b for a, b in zip(self._has_moved, changed, strict=True)]
        believed = [c and not d for c, d in zip(changed, self._doubted, strict=True)]
        believed[DATE] = believed[DATE] and self._is_dated
        self._value, self._marks = value, marks
        return first or is_other or any(believed)

    def _date(self, is_other: bool, now_ns: int) -> None:
        if is_other:
            self._since_ns = now_ns
        elif now_ns - self._since_ns >= STILL_NS and self._marks[DATE]:
            self._is_dated = True

    def _doubt(self, changed: list[bool], is_other: bool) -> None:
        for mark, is_changed in enumerate(changed):
            self._streaks[mark] = self._streaks[mark] + 1 if is_changed else 0
            self._changes[mark] = self._changes[mark] + is_other if is_changed else 0
            if not is_changed:
                self._doubted[mark] = False  # it can stand still
            if self._streaks[mark] >= STREAK:
                self._doubted[mark] = 2 * self._changes[mark] < self._streaks[mark]

"""One figure of the platform's and GPUs' rows: what was reached and what had to be."""

from math import isfinite
from typing import NamedTuple


class Figure(NamedTuple):
    """One line of the second table."""

    case: str  # as the issue names it, short
    what: str
    value: float
    unit: str
    target: float
    is_floor: bool = False  # the target is the least, not the most

    @property
    def is_ok(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.target if self.is_floor else self.value <= self.target

    def render(self) -> str:
        """As it is printed."""
        bound = ">=" if self.is_floor else "<="
        is_judged = isfinite(self.target)
        verdict = ("ok" if self.is_ok else "MISS") if is_judged else ""
        wanted = f"{bound} {self.target:g}" if is_judged else ""
        told = f"{self.value:>9.2f} {self.unit:<4} {wanted}"
        return f"{self.case:<26}{self.what:<44}{told:<28}{verdict}".rstrip()

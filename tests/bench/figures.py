"""One measured figure, as `make bench` prints it."""

from typing import NamedTuple


class Figure(NamedTuple):
    """What was measured and the target: at most this much; None: for information."""

    name: str
    value: float
    unit: str
    target: float | None

    @property
    def verdict(self) -> str:
        """Whether the target is reached."""
        if self.target is None:
            return "-"
        return "ok" if self.value <= self.target else "MISS"


def render(figure: Figure) -> str:
    """Return the line for one figure."""
    target = "" if figure.target is None else f"<= {figure.target:g}"
    shown = f"{figure.value:.3g}" if figure.value < 100 else f"{figure.value:.0f}"
    return f"{figure.name:<64} {shown:>8} {figure.unit:<12} {target:>8}  {figure.verdict}"

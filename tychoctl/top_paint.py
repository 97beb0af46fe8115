"""Lines of styled text as what a terminal is sent: colours by rich, only what has changed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tychoctl.client import Failure

Span = tuple[str, str]
Paint = Callable[[str, str], str]
"""Returns a text in a style."""
# ECMA-48: places are counted from 1; a line is cleared
# before it is written, as after a line as wide as the screen the cursor stands on its last cell.
PLACE: Final = "\x1b[{row};1H\x1b[K"
# What each style looks like; rich leaves out what a terminal cannot show.
STYLES: Final[Mapping[str, str]] = {
    "title": "bold",
    "power": "bold",
    "plain": "cyan",
    "idle": "blue",
    "dynamic": "green",
    "doubt": "yellow",
    "spark": "cyan",
    "bad": "bold red",
    "paused": "reverse bold yellow",
    "head": "underline",
    "sorted": "bold underline",
    "group": "bold",
    "chosen": "reverse",
    "detail": "",
    "dim": "dim",
}


def make_paint() -> Paint:
    """Return what styles a text for this terminal; NO_COLOR leaves weights, TERM=dumb nothing."""
    try:
        from rich.color import ColorSystem
        from rich.console import Console
        from rich.style import Style
    except ImportError as exc:
        advice = "install it (apt install python3-rich), or use tychoctl workloads -w"
        raise Failure("unavailable", f"top needs the Python library rich: {advice}") from exc

    console = Console(force_terminal=True)
    if console.color_system is None or console.is_dumb_terminal:
        return lambda text, _: text
    system = ColorSystem[{"256": "EIGHT_BIT"}.get(name := console.color_system, name.upper())]
    styles = {key: Style.parse(told or "none") for key, told in STYLES.items()}
    if console.no_color:
        styles = {key: style.without_color for key, style in styles.items()}
    plain = Style.null()
    return lambda text, style: styles.get(style, plain).render(text, color_system=system)


def join(line: Sequence[Span], paint: Paint) -> str:
    """Return a line as it is sent."""
    return "".join(paint(text, style) for text, style in line if text)


class Canvas:
    """What the terminal shows; sends no line that is there already."""

    def __init__(self, paint: Paint) -> None:
        self._paint = paint
        self._shown: list[str] = []
        self._width = 0

    def forget(self) -> None:
        """Take it that the terminal shows something else."""
        self._shown = []

    def update(self, lines: Sequence[Sequence[Span]], width: int) -> str:
        """Return what makes the terminal show these lines."""
        painted = [join(line, self._paint) for line in lines]
        is_new = len(painted) != len(self._shown) or width != self._width
        start = "\x1b[2J" if is_new else ""
        before = [""] * len(painted) if is_new else self._shown
        self._shown, self._width = painted, width
        changed = [
            f"{PLACE.format(row=row)}{new}"
            for row, (old, new) in enumerate(zip(before, painted, strict=True), 1)
            if old != new
        ]
        return start + "".join(changed)

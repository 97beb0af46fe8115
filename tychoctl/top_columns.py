"""The columns of the list of `tychoctl top`: which there is room for, and their cells; pure."""

from collections.abc import Callable, Sequence
from math import isnan
from typing import Final, NamedTuple

from tychoctl import render
from tychoctl.columns import NORMAL_95
from tychoctl.lists import add
from tychoctl.render import display_width
from tychoctl.top_model import Known
from tychoctl.top_rows import Row
from tychoctl.top_state import State

Span = tuple[str, str]
SPARKS: Final = "▁▂▃▄▅▆▇█"
SPARKS_ASCII: Final = "_.-=+*%#"
LEAST_NAME: Final = 12
MOST_NAME: Final = 64
SPARK_CELLS: Final = (20, 40)  # of a row's trend on a screen of 100 cells, and of 180


class Frame(NamedTuple):
    """What a row needs to know of its screen."""

    known: Known
    state: State
    width: int
    ascii: bool

    @property
    def spark_width(self) -> int:
        """Cells of a row's trend, 0 where there is no room for it."""
        return 0 if self.width < 100 else SPARK_CELLS[self.width >= 180]


class Cells(NamedTuple):
    """One column: its title, width, the text of a row, and the least screen that has it."""

    title: str
    width: int
    text: Callable[[Row, Frame], str]
    least: int
    style: str = ""


def energy(microjoules: float | None, unit: str) -> str:
    """Return energy in one unit, with the prefix that its size asks for."""
    if microjoules is None:
        return render.UNKNOWN
    value = microjoules / 1e6 if unit == "J" else microjoules / 1e6 / render.JOULES_PER_WH
    sign, value = "-" if value < 0 else "", abs(value)
    if value < 0.0005:  # too little to show is not shown as nothing
        return f"{'<0.001' if value else '0'} {unit}"
    for limit, size, prefix in ((999.5, 1.0, ""), (999_500.0, 1e3, "k"), (999.5e6, 1e6, "M")):
        if value < limit:
            return f"{sign}{render.three_digits(value / size)} {prefix}{unit}"
    return f"{sign}{render.three_digits(value / 1e9)} G{unit}"


def _amount(row: Row, frame: Frame) -> str:
    """Return the power or energy of a row, in the unit that is chosen."""
    if frame.state.unit == "W":
        return render.power(row.power_w)
    return energy(row.energy_uj, frame.state.unit)


def _share(row: Row, frame: Frame) -> str:
    """Return the part of the node's power or energy."""
    known, state = frame.known, frame.state
    in_watts = state.unit == "W"
    part = row.power_w if in_watts else row.energy_uj
    whole = known.node_w if in_watts else known.node_uj(whole=state.is_whole)
    return "-" if part is None or not whole else f"{100 * part / whole:.1f}"


def _cpu(row: Row, _: Frame) -> str:
    return "-" if row.cpu_share is None else f"{100 * row.cpu_share:.1f}"


def _margin(row: Row, frame: Frame) -> str:
    """Return half the width of the interval that holds the truth in 95 of 100 cases."""
    leaf = row.leaf
    if leaf is None:
        return ""
    if frame.state.unit == "W":
        return render.power(None if leaf.sd_w is None else NORMAL_95 * leaf.sd_w)
    if not frame.state.is_whole:
        return ""  # what is known is the error since tychod counts
    return energy(None if leaf.sd_uj is None else NORMAL_95 * leaf.sd_uj, frame.state.unit)


def _flags(row: Row, _: Frame) -> str:
    leaf = row.leaf
    if leaf is None:
        return ""
    return ", ".join((*([] if leaf.state == "running" else [leaf.state]), *leaf.flags))


def _domain(key: str) -> Cells:
    def text(row: Row, _: Frame) -> str:
        return render.power(add(leaf.domains_w.get(key) for leaf in row.leaves))

    return Cells(f"{key.upper()[:7]} W", 9, text, 120)


def columns(frame: Frame) -> list[Cells]:
    """Return the columns right of the name that the screen has room for."""
    state, known = frame.state, frame.known
    unit = "POWER" if state.unit == "W" else f"ENERGY {state.unit}"
    found = [
        Cells("KIND", 12, lambda row, _: row.kind, 72, "dim"),
        Cells(unit, 9, _amount, 0, "power"),
        Cells("SHARE %", 7, _share, 40),
        Cells("CPU %", 6, _cpu, 54),
        Cells("±", 9, _margin, 90),
        *(_domain(bar.name) for bar in known.bars if bar.in_total),
        Cells("FLAGS", 20, _flags, 150, "dim"),
    ]
    shown = [column for column in found if frame.width >= column.least]
    while len(shown) > 1 and _name_width(frame, shown) < LEAST_NAME:
        shown.pop()
    return shown


LEFT: Final = ("KIND", "FLAGS")


def _name_width(frame: Frame, shown: Sequence[Cells]) -> int:
    """Return the cells that are left for the name."""
    right = sum(column.width + 2 for column in shown)
    trend = frame.spark_width + 2 if frame.spark_width else 0
    return min(frame.width - 1 - right - trend, MOST_NAME)


def _placed(text: str, column: Cells) -> str:
    shown = render.cut(text, column.width)
    space = " " * (column.width - display_width(shown))
    return f"  {shown}{space}" if column.title in LEFT else f"  {space}{shown}"


def head_line(frame: Frame) -> list[Span]:
    """Return the titles of the columns, the one of the order marked."""
    shown = columns(frame)
    sorted_by = {"power": "POWER", "energy": "ENERGY", "cpu": "CPU %"}.get(frame.state.sort, "NAME")
    spans: list[Span] = [
        (f" {'NAME':<{max(_name_width(frame, shown), 1)}}", _style("NAME", sorted_by))
    ]
    spans += [(_placed(c.title, c), _style(c.title, sorted_by)) for c in shown]
    trend = f"  {'TREND':<{frame.spark_width}}" if frame.spark_width else ""
    return [*spans, (trend, "head")]


def _style(title: str, sorted_by: str) -> str:
    return "sorted" if title.startswith(sorted_by) else "head"


def row_line(row: Row, frame: Frame, points: Sequence[float], *, is_chosen: bool) -> list[Span]:
    """Return one row; ``points``: its power in the last windows."""
    shown = columns(frame)
    width = max(_name_width(frame, shown), 1)
    name = render.cut(_indented(row, frame), width)
    name += " " * (width - display_width(name))
    is_ended = row.leaf is not None and row.leaf.state != "running"
    base = "chosen" if is_chosen else "dim" if is_ended else "group" if row.leaf is None else ""
    spans: list[Span] = [((">" if is_chosen else " ") + name, base)]
    for column in shown:
        style = base if is_chosen or is_ended else column.style
        spans.append((_placed(column.text(row, frame), column), style))
    if frame.spark_width:
        known = [value for value in points if not isnan(value)]
        line = spark(points, 0.0, max(known, default=0.0), ascii=frame.ascii)
        spans.append((f"  {line}", base if is_chosen else "spark"))
    return spans


def _indented(row: Row, frame: Frame) -> str:
    if not frame.state.is_tree:
        return row.label
    marks = "-+" if frame.ascii else "▾▸"
    holds_rows = row.folded is not None and row.kind != "past"
    mark = marks[row.folded is True] if holds_rows else " "
    return f"{'  ' * row.depth}{mark} {row.label}"


def spark(values: Sequence[float], low: float, high: float, *, ascii: bool) -> str:  # noqa: A002
    """Return a line of small bars from ``low`` to ``high``; a space where nothing is known."""
    marks = SPARKS_ASCII if ascii else SPARKS
    top = len(marks) - 1
    span = high - low
    cells = []
    for value in values:
        if isnan(value):
            cells.append(" ")
        else:
            level = round(top * (value - low) / span) if span > 0 else 0
            cells.append(marks[min(max(level, 0), top)])
    return "".join(cells)

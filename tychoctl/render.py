"""Values and tables as text for people; pure."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

UNKNOWN: Final = "-"
GAP: Final = "  "
ELLIPSIS: Final = "…"
MORE: Final = f" {ELLIPSIS}"  # ends the rows of a table that leaves columns out
NAME_CHARS: Final = 100  # of a name; those of Kubernetes are rarely longer, and JSON has it whole
MOST_CHARS: Final = 512  # of a path or an id
LEAST_WIDTH: Final = 8  # of a column that gives way to a narrow terminal
JOULES_PER_WH: Final = 3600.0


class Column(NamedTuple):
    """One column: title, text of an entry; numbers stand right, names give way."""

    title: str
    text: Callable[[dict[str, object]], str]
    right: bool = False
    shrinks: bool = False
    least: int = LEAST_WIDTH  # cells that it keeps where it gives way


def escape(text: object) -> str:
    """Return a foreign name with whatever could steer a terminal made visible."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else _escaped(c) for c in plain)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def name(value: object, most: int = NAME_CHARS) -> str:
    """Return a name of at most ``most`` characters, or a dash where there is none.

    Who may choose a name must not be able to push everything else off the page.
    """
    if value in (None, ""):
        return "-"
    shown = escape(str(value)[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + ELLIPSIS


def number(value: object) -> float | None:
    """Return a finite number of an answer, or None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    found = float(value) if is_number else math.inf  # type: ignore[arg-type]
    return found if math.isfinite(found) else None


def three_digits(value: float) -> str:
    """Return a number of at least 0 with three digits that count, at most three decimals."""
    for limit, decimals in ((9.995, 2), (99.95, 1)):
        if 0.9995 <= value < limit:
            return f"{value:.{decimals}f}"
    return f"{value:.3f}" if value < 0.9995 else f"{value:.0f}"


def power(watts: object) -> str:
    """Return power in watts; a flow too small to show is not shown as none."""
    value = number(watts)
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 W"
    if 0 < value < 0.0005:
        return "<0.001 W"
    return f"{'-' if value < 0 else ''}{three_digits(abs(value))} W"


def energy(microjoules: object) -> str:
    """Return energy in J, kJ, Wh or kWh, by size."""
    value = number(microjoules)
    if value is None:
        return UNKNOWN
    joules = value / 1e6
    if joules == 0:
        return "0 J"
    if joules < 0:  # a residual may be
        return f"-{energy(-value)}"
    if joules < 0.0005:
        return "<0.001 J"
    for limit, size, unit in ((999.5, 1.0, "J"), (999_500.0, 1e3, "kJ")):
        if joules < limit:
            return f"{three_digits(joules / size)} {unit}"
    hours = joules / JOULES_PER_WH
    return f"{three_digits(hours)} Wh" if hours < 999.5 else f"{three_digits(hours / 1000)} kWh"


def percent(share: object) -> str:
    """Return a share in per cent."""
    value = number(share)
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def duration(seconds: object) -> str:
    """Return a length of time by size: 50 ms, 1.25 s, 4 min 10 s, 2 h 5 min, 3 d 4 h."""
    value = number(seconds)
    if value is None:
        return UNKNOWN
    if value < 0.9995:
        return f"{value * 1000:.0f} ms" if value >= 0.0005 else "<1 ms" if value else "0 s"
    if value < 59.95:
        return f"{three_digits(value)} s"
    whole = round(value)
    for limit, big, small in ((3600, 60, 1), (86400, 3600, 60)):
        if whole < limit:
            units = ("min", "s") if big == 60 else ("h", "min")
            return f"{whole // big} {units[0]} {whole % big // small} {units[1]}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(seconds: float) -> str:
    """Return how long ago something was, by its largest unit: 13 s ago, 4 min ago, 3 d ago."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds // unit_s:.0f} {unit} ago"
    return f"{max(seconds, 0.0) // 1:.0f} s ago"


def size(count: object) -> str:
    """Return a number of bytes in MB."""
    value = number(count)
    return UNKNOWN if value is None else f"{value / 1e6:.1f} MB"


def moment(time: object) -> str:
    """Return an RFC 3339 time without its fraction, for people."""
    if not isinstance(time, str):
        return UNKNOWN
    return f"{escape(time)[:19].replace('T', ' ')}Z"


def setting(value: object) -> str:
    """Return a setting's value as TOML writes it."""
    import json

    return escape(json.dumps(value, ensure_ascii=False))


def notes(source: dict[str, object]) -> list[str]:
    """Return what an operator should know of a source, a line each."""
    found = source.get("notes")
    told = found if isinstance(found, list) else []
    return [f"note: {name(note, MOST_CHARS)}" for note in told]


def display_width(text: str) -> int:
    """Return the cells that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    marks = sum(unicodedata.category(c) in ("Mn", "Me") for c in text)
    return len(text) + wide - marks


def cut(text: str, width: int) -> str:
    """Return a text of at most this many cells, its end replaced where it is longer."""
    if display_width(text) <= width:
        return text
    used, kept = 0, 0
    for char in text:
        used += display_width(char)
        if used > width - 1:
            break
        kept += 1
    return text[:kept] + ELLIPSIS


def table(
    columns: Sequence[Column],
    entries: Iterable[dict[str, object]],
    width: int | None,
    *,
    header: bool = True,
) -> list[str]:
    """Return header and rows; ``width``: of a terminal, None where nothing has to give way.

    First names give way, then whole columns from the right.
    """
    rows = [[column.title for column in columns]] if header else []
    rows += [[column.text(entry) for column in columns] for entry in entries]
    if not rows:
        return []
    widths = [max(map(display_width, cells)) for cells in zip(*rows, strict=True)]
    if width is not None:
        wanted, widths = widths, shrink(widths, columns, width)
        kept = count_fitting(widths, width)
        if kept < len(columns):  # those that stay have the room of those that go
            widths = shrink(wanted[:kept], columns, width - len(MORE))
            lines = [_line(row[:kept], widths[:kept], columns[:kept], pad=True) for row in rows]
            return [
                cut(line, width - 2) + MORE if width > 2 else cut(line, width) for line in lines
            ]
    return [_line(row, widths, columns) for row in rows]


def lines(found: Iterable[str]) -> str:
    """Return lines as a text; none are no empty line."""
    return "".join(f"{line}\n" for line in found)


def count_fitting(widths: Sequence[int], width: int) -> int:
    """Return how many columns fit, at least one; where not all do there is room for a mark."""
    if sum(widths) + len(GAP) * (len(widths) - 1) <= width:
        return len(widths)
    room, count = width - len(MORE), 0
    for column_width in widths:
        room -= column_width + (len(GAP) if count else 0)
        if room < 0:
            break
        count += 1
    return max(count, 1)


def shrink(widths: Sequence[int], columns: Sequence[Column], width: int) -> list[int]:
    """Return widths that fit, taken from the widest columns that give way."""
    fitted = list(widths)
    excess = sum(fitted) + len(GAP) * (len(fitted) - 1) - width
    while excess > 0:
        able = [i for i, w in enumerate(fitted) if columns[i].shrinks and w > columns[i].least]
        if not able:
            break
        fitted[max(able, key=fitted.__getitem__)] -= 1
        excess -= 1
    return fitted


def _line(
    row: Sequence[str], widths: Sequence[int], columns: Sequence[Column], *, pad: bool = False
) -> str:
    cells = []
    for text, width, column in zip(row, widths, columns, strict=True):
        space = width - display_width(text)
        shown = text
        if space < 0:
            shown = cut(text, width)
            space = width - display_width(shown)
        cells.append(" " * space + shown if column.right else shown + " " * space)
    line = GAP.join(cells)
    return line if pad else line.rstrip()


def fit(text: str, width: int) -> str:
    """Return a text whose lines are wrapped to a terminal's width."""
    return "".join(f"{part}\n" for line in text.splitlines() for part in wrap(line, width))


def wrap(line: str, width: int) -> list[str]:
    """Return a line in parts of at most this many cells, broken at spaces where there are any.

    What goes on stands further in than what began.
    """
    if display_width(line) <= width:
        return [line]
    rest = line.lstrip(" ")
    indent = " " * (len(line) - len(rest))
    parts = []
    while rest:
        if len(indent) > width // 2:
            indent = ""
        part = _first_part(rest, width - len(indent))
        parts.append(indent + part.rstrip(" "))
        if not parts[1:]:
            indent += GAP
        rest = rest[len(part) :].lstrip(" ")
    return parts


def _first_part(text: str, width: int) -> str:
    """Return as much of a text as fits, up to a space if there is one; never nothing."""
    if display_width(text) <= width:
        return text
    count = 1
    while display_width(text[: count + 1]) <= width:
        count += 1
    space = text.rfind(" ", 0, count + 1)
    return text[:space] if space > 0 else text[:count]

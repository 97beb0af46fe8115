"""The checks as text for people: grouped, at any width, coloured only where it is wanted."""

from collections.abc import Iterator, Sequence
from typing import Final

from tychoctl.doctor_options import GROUPS
from tychoctl.doctor_view import Check, summary
from tychoctl.render import escape, wrap

COLOURS: Final = {"ok": "32", "warn": "33", "fail": "1;31", "skip": "2"}
"""Of ECMA-48: green, yellow, bold red, faint."""
INDENT: Final = 8
LEAST_WIDTH: Final = 40


def render(checks: Sequence[Check], width: int, *, coloured: bool) -> str:
    """Return all checks and, last, what to do first."""
    width = max(width, LEAST_WIDTH)
    lines = [line for group in GROUPS for line in _group(group, checks, width, coloured=coloured)]
    found = summary(checks)
    lines += ["", f"{found.ok} ok, {found.warn} warn, {found.fail} fail, {found.skip} skipped"]
    if found.first:
        lines += wrapped(f"Do first: {escape(found.first)}", width, 2)
    elif checks:
        lines.append("Nothing to do.")
    return "".join(f"{line}\n" for line in lines)


def _group(group: str, checks: Sequence[Check], width: int, *, coloured: bool) -> Iterator[str]:
    own = [check for check in checks if check.group == group]
    if not own:
        return
    yield f"{GROUPS[group]}"
    for check in own:
        yield from _check(check, width, coloured=coloured)


def _check(check: Check, width: int, *, coloured: bool) -> Iterator[str]:
    text = f"{escape(check.title)}: {escape(check.evidence)}"
    first, *more = wrapped(text, width - INDENT, 0)
    state = f"{check.state:<4}"
    shown = f"\x1b[{COLOURS[check.state]}m{state}\x1b[0m" if coloured else state
    yield f"  {shown}  {first}"
    yield from (f"{'':{INDENT}}{line}" for line in more)
    if check.remedy and check.state != "ok":
        first, *more = wrapped(escape(check.remedy), width - INDENT - 3, 0)
        yield f"{'':{INDENT}}-> {first}"
        yield from (f"{'':{INDENT + 3}}{line}" for line in more)


def wrapped(text: str, width: int, indent: int) -> list[str]:
    """Return a text in lines of at most ``width`` cells, those after the first indented."""
    first, *more = [line.strip() for line in wrap(text, width - indent)] or [""]
    return [first, *(f"{'':{indent}}{line}" for line in more)]

"""Puts answers on standard output: once, line by line, or on a screen that is redrawn."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Final, NoReturn, TextIO

from tychoctl.client import Failure
from tychoctl.commands import Command
from tychoctl.lists import Reply, narrow
from tychoctl.render import cut, escape, fit
from tychoctl.view import View

# ECMA-48 and xterm: the other screen without cursor and back; home, end of line, end of screen.
ENTER_SCREEN: Final = "\x1b[?1049h\x1b[?25l"
LEAVE_SCREEN: Final = "\x1b[?25h\x1b[?1049l"
HOME: Final = "\x1b[H"
END_LINE: Final = "\x1b[K"
END_SCREEN: Final = "\x1b[J"
FORMULA: Final = ("=", "+", "-", "@")
"""A cell that begins so is worked out by spreadsheets, also where it may reach other programs."""


def terminal_size() -> os.terminal_size | None:
    """Return the size of the terminal that shows standard output; None where it is none."""
    if sys.stdout is None:  # closed before we started
        return None
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return None
    # A terminal that was never told its size (a container's, a serial line) says 0.
    return os.terminal_size((size.columns or 80, size.lines or 24))


def render_json(reply: Reply) -> str:
    """Return an answer as one line of JSON, in ASCII: no name can steer a terminal."""
    import json

    return json.dumps(reply) + "\n"


def render_csv(command: Command, reply: Reply, view: View, *, header: bool) -> str:
    """Return an answer as CSV; unknown values are empty, control characters escaped.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    import csv
    import io

    names, rows = command.rows(reply, view)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header and view.headers:
        writer.writerow(map(_csv_value, names))
    writer.writerows([_csv_value(value) for value in row] for row in rows)
    return text.getvalue()


def _csv_value(value: object) -> object:
    if isinstance(value, str):
        text = escape(value)
        return f"'{text}" if text.startswith(FORMULA) else text
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def render(command: Command, reply: Reply, output: str, view: View, *, first: bool = True) -> str:
    """Return an answer in a format; ``first``: nothing was printed before it."""
    if output == "json":
        return render_json(narrow(command.name, reply, view) if command.is_list else reply)
    if output == "csv":
        return render_csv(command, reply, view, header=first)
    size = terminal_size()
    text = command.text(reply, view._replace(width=size.columns if size else None))
    if size:
        text = fit(text, size.columns)
    return text if first or not view.headers else f"\n{text}"


def write(text: str) -> None:
    """Print now, not when the buffer is full; raise ``Failure`` where it cannot be written."""
    if sys.stdout is None:
        raise Failure("output", "standard output is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # whoever read us has enough: no failure
    except OSError as exc:
        raise Failure("output", f"cannot write to standard output: {exc.strerror}") from exc


def discard(stream: TextIO) -> None:
    """Let what is left in a stream's buffer go nowhere: it could only fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_stream(command: Command, replies: Iterable[Reply], output: str, view: View) -> None:
    """Print answers as they come."""
    if output in ("table", "wide") and terminal_size():
        draw_stream(command, replies, output, view)
        return
    names: list[str] | None = None
    for number, reply in enumerate(replies):
        first = number == 0
        if output == "csv":  # a domain may come or go, and with it its columns
            before, names = names, command.rows(reply, view)[0]
            first = names != before
        write(render(command, reply, output, view, first=first))


def draw_stream(command: Command, replies: Iterable[Reply], output: str, view: View) -> None:
    """Show the newest answer on a screen of its own; the last one stays when it is left."""
    text = ""
    try:
        with _screen():
            for reply in replies:
                text = render(command, reply, output, view._replace(watched=True))
                write(draw(text, terminal_size(), hint_for(command)))
    finally:
        write(text)


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    import signal

    before = signal.signal(signal.SIGTERM, end_by_signal)
    try:
        write(ENTER_SCREEN)
        yield
    finally:
        write(LEAVE_SCREEN)
        signal.signal(signal.SIGTERM, before)


def end_by_signal(number: int, _: FrameType | None) -> NoReturn:
    """End as the signal would, but not before the terminal is as it was."""
    raise SystemExit(128 + number)  # as a shell reports it


def hint_for(command: Command) -> str:
    """Return how to see what a screen has no room for."""
    return "--limit N shows fewer" if command.is_list else "without -w all are printed"


def draw(text: str, size: os.terminal_size | None, hint: str) -> str:
    """Return what puts a text on the screen over the one before, cut to the screen's size."""
    lines = text.splitlines()
    if size is not None and len(lines) > size.lines - 1:
        left_out = len(lines) - size.lines + 2
        lines = [*lines[: size.lines - 2], f"... {left_out} more lines ({hint})"]
    if size is not None:
        lines = [cut(line, size.columns) for line in lines]
    # After a line as wide as the screen the cursor stands on its last character: clear before.
    return HOME + "".join(f"{END_LINE}{line}\n" for line in lines) + END_SCREEN

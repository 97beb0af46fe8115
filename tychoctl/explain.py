"""`tychoctl explain`: how one workload's energy of the last window came about, step by step."""

import argparse
import gc
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final

from tychoctl import output
from tychoctl.client import Connection, Reply, socket_path
from tychoctl.commands import Command, Rows
from tychoctl.options import Options
from tychoctl.run import first_of, patiently, stream_ended, view_of
from tychoctl.values import EVERY_WINDOW, parse_namespace
from tychoctl.view import View

KINDS: Final = ("pod", "container", "vm", "unit", "workload")
TICK: Final = "gpus"
"""The operation whose stream tells of new windows: its answer is the smallest."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what is explained."""
    parser.add_argument(
        "what",
        nargs="?",
        default="workload",
        choices=KINDS,
        metavar="KIND",
        help=f"what the name means: {', '.join(KINDS)} (default: workload, which is any of them)",
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help="NAMESPACE/NAME of a pod, a name, an id or its first characters, kernel, system",
    )

    parser.add_argument(
        "-n",
        "--namespace",
        metavar="NS",
        type=parse_namespace,
        help="namespace of a NAME without one",
    )


def _text(reply: Mapping[str, object], view: View) -> str:
    from tychoctl.explain_text import render_explain  # every --help imports this module

    return render_explain(reply, view)


def _no_rows(_: Mapping[str, object], __: View) -> Rows:
    return [], []


COMMAND: Final = Command("explain", "", "", "explain", _text, _no_rows)


def run(options: Options) -> int:
    """Print one explanation, or one for every window; return the exit code."""
    if options.watch is not None:
        return watch(options)
    path = socket_path(options.socket)

    def once() -> Reply:
        with Connection(path) as connection:
            return ask(connection, options)

    reply = patiently(once, path, options.wait)
    output.write(output.render(COMMAND, reply, options.output, view_of(options)))
    return 0


def ask(connection: Connection, options: Options) -> Reply:
    """Return the daemon's explanation."""
    name = f"{options.namespace}/{options.name}" if options.namespace else options.name
    return connection.call("explain", {"name": name, "kind": options.what})


def watch(options: Options) -> int:
    """Print explanations until the user has enough (0) or the daemon stops."""
    gc.enable()  # a watch may run for days
    path = socket_path(options.socket)

    def begin() -> tuple[Connection, Reply, Iterator[Reply]]:
        connection = Connection(path)
        replies = answers(path, connection, options)
        try:
            return connection, first_of(replies), replies
        except BaseException:
            connection.close()
            raise

    try:
        connection, first, more = patiently(begin, path, options.wait)
        with connection:
            replies = chain([first], more)
            output.write_stream(COMMAND, replies, options.output, view_of(options))
    except KeyboardInterrupt:
        return 0
    raise stream_ended()


def answers(path: str, ticker: Connection, options: Options) -> Iterator[Reply]:
    """Yield an explanation whenever one connection tells of a window; the other one asks."""
    interval_s = None if options.watch == EVERY_WINDOW else options.watch
    with Connection(path) as asker:
        for _ in ticker.stream(TICK, interval_s):
            yield ask(asker, options)

"""`tychoctl explain`: how one workload's energy of the last window came about, step by step."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Final

from tychoctl import output
from tychoctl.client import Connection, Reply, socket_path
from tychoctl.commands import Command, Rows
from tychoctl.options import Options
from tychoctl.run import interval_of, patiently, show_stream, view_of
from tychoctl.values import parse_namespace
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
    path = socket_path(options.socket)
    return show_stream(COMMAND, options, lambda ticker: answers(path, ticker, options))


def answers(path: str, ticker: Connection, options: Options) -> Iterator[Reply]:
    """Yield an explanation whenever one connection tells of a window; the other one asks."""
    with Connection(path) as asker:
        for _ in ticker.stream(TICK, interval_of(options)):
            yield ask(asker, options)

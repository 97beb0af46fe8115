"""`tychoctl report`: energy of a stretch of time, with its cost where a price is set."""

import argparse
from collections.abc import Mapping
from typing import Final

from tychoctl import output
from tychoctl.client import Connection, Reply, socket_path
from tychoctl.commands import Command, Rows
from tychoctl.options import Options, add_namespaces, add_order
from tychoctl.run import patiently, view_of
from tychoctl.view import View

TIMEOUT_S: Final = 60.0
"""tychod reads its files first; months of them take seconds."""
BY: Final = ("namespace", "pod", "unit", "workload", "node")
"""As tychod.protocol.ReportBy has them; to import that takes as long as all the rest."""
SORTS: Final = ("energy", "cpu", "name")


def _text(reply: Mapping[str, object], view: View) -> str:
    from tychoctl.report_text import render_report  # every --help imports this module

    return render_report(reply, view)


def _rows(reply: Mapping[str, object], view: View) -> Rows:
    from tychoctl.report_text import report_rows

    return report_rows(reply, view)


COMMAND: Final = Command("report", "", "", "report", _text, _rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what is reported, of when, and how it is shown."""
    _add_periods(parser)
    _add_rows(parser)


def _add_periods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by",
        choices=BY,
        metavar="WHAT",
        help=f"what it is summed by: {', '.join(BY)} (default: namespace); labels are not kept",
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="from when: a time, a day, 3h (ago), yesterday, today (the default; where --until is "
        "before today: as far back as is known)",
    )
    parser.add_argument("--until", metavar="TIME", help="until when (default: now)")
    parser.add_argument(
        "--last", metavar="TIME", help="instead of both: 24h, 7d, today, yesterday (the whole day)"
    )


def _add_rows(parser: argparse.ArgumentParser) -> None:
    add_namespaces(parser, "only rows of this namespace")
    add_order(parser, SORTS, "energy")
    parser.add_argument(
        "--no-headers",
        dest="no_headers",
        action="store_true",
        help="rows alone (table, wide, csv)",
    )


def run(options: Options) -> int:
    """Print one report; return the exit code."""
    from datetime import datetime

    from tychoctl.moments import parse_period

    now = datetime.now().astimezone()
    asked = parse_period(options.since, options.until, options.last, now)
    path = socket_path(options.socket)

    def once() -> Reply:
        with Connection(path, TIMEOUT_S) as connection:
            args = {"by": options.by, "start": asked.start, "end": asked.end}
            return connection.call("report", args)

    reply = patiently(once, path, options.wait)
    view = view_of(options)
    if options.sort not in SORTS:
        view = view._replace(sort="energy")
    if options.output in ("json", "csv"):
        view = view._replace(everything=True)
    if options.output == "json":
        reply = narrowed(reply, view)
    output.write(output.render(COMMAND, reply, options.output, view))
    return 0


def narrowed(reply: Reply, view: View) -> Reply:
    """Return the answer with the rows that are wanted."""
    from tychoctl.report_text import choose_rows

    report = reply.get("report")
    if not isinstance(report, dict):
        return reply
    return {**reply, "report": {**report, "rows": choose_rows(report, view).rows}}

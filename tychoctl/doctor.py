"""`tychoctl doctor`: what this host has and what the daemon sees of it, each check once.

The host's half is `tychod --doctor`, run as the user who calls; the daemon's is its own `status`,
as it sees the host from its sandbox.  Where the two disagree the daemon, who measures, decides.
"""

import contextlib
import json
import os
import threading
from collections.abc import Sequence
from typing import Final

from tychoctl import output
from tychoctl.client import Connection, Failure, Reply, socket_path
from tychoctl.doctor_host import read_host, start_host
from tychoctl.doctor_text import render
from tychoctl.doctor_view import Check, Told, files_of, merge, seen_by_daemon, summary
from tychoctl.options import Options

SCHEMA: Final = 1
WIDTH: Final = 80
"""Cells of a line where it goes to no terminal."""
ALL_GROUPS: Final = ("settings", "host")
"""What goes wrong in these makes every other check doubtful."""
DAEMON_S: Final = 2.2


def run(options: Options) -> int:
    """Print every check; 1 if one failed."""
    half = start_host(options)
    told = ask_daemon(socket_path(options.socket))
    daemon = seen_by_daemon(told)
    checks = of_group(merge(read_host(half), daemon), options.group)
    if options.output == "json":
        output.write(json.dumps(to_plain(checks)) + "\n")
    else:
        size = output.terminal_size()
        is_coloured = size is not None and not os.environ.get("NO_COLOR")
        output.write(render(checks, size.columns if size else WIDTH, coloured=is_coloured))
    return 1 if any(check.state == "fail" for check in checks) else 0


def of_group(checks: list[Check], group: str | None) -> list[Check]:
    """Return the checks of a group, None: all, and what keeps the others from being right."""
    return [
        check
        for check in checks
        if group in (None, check.group) or (check.id in ALL_GROUPS and check.state == "fail")
    ]


def to_plain(checks: Sequence[Check]) -> dict[str, object]:
    """Return the checks and how many came out how, as plain data."""
    return {
        "schema": SCHEMA,
        "checks": [check._asdict() for check in checks],
        "summary": summary(checks)._asdict(),
    }


def ask_daemon(path: str) -> Told:
    """Return what the daemon says of itself, or why it says nothing; never waits for long."""
    answers: list[Told] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(path)), daemon=True)
    thread.start()
    thread.join(DAEMON_S)
    late = Failure("timeout", f"no answer within {DAEMON_S:g} s on {path}")
    return answers[0] if answers else Told(None, "", late)


def _ask(path: str) -> Told:
    try:
        with Connection(path, DAEMON_S / 2) as connection:
            reply: Reply = connection.call("status")
            told = Told(reply, connection.welcome.daemon, None)
            with contextlib.suppress(Failure):  # what it said already counts
                told = told._replace(files=files_of(connection.call("config")))
            return told
    except Failure as failure:
        return Told(None, "", failure)

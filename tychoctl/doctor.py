"""`tychoctl doctor`: what this host has and what the daemon sees of it, each check once.

The host's half is `tychod --doctor`, run as the user who calls; the daemon's is its own `status`,
as it sees the host from its sandbox.  Where the two disagree the daemon, who measures, decides.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tychoctl import output
from tychoctl.client import DEFAULT_SOCKET, Connection, Failure, Reply, socket_path
from tychoctl.doctor_text import render
from tychoctl.doctor_view import Check, Told, files_of, host_fault, merge, seen_by_daemon, summary
from tychoctl.options import Options
from tychoctl.recordings import RUN_TYCHOD

SCHEMA: Final = 1
WIDTH: Final = 80
"""Cells of a line where it goes to no terminal."""
HOST_S: Final = 20.0
"""Seconds until the host's half is given up.

It gives each check 2.2 s itself; only where the machine has no time for it at all it takes so long.
"""
DAEMON_S: Final = 2.2


class Half(NamedTuple):
    """The process that looks at the host."""

    child: "subprocess.Popen[bytes]"
    begun_s: float


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
    """Return the checks of a group; None: all."""
    return [check for check in checks if group in (None, check.group)]


def to_plain(checks: Sequence[Check]) -> dict[str, object]:
    """Return the checks and how many came out how, as plain data."""
    return {
        "schema": SCHEMA,
        "checks": [check._asdict() for check in checks],
        "summary": summary(checks)._asdict(),
    }


def start_host(options: Options) -> Half:
    """Start ``tychod --doctor`` of the same installation; it looks while we ask the daemon."""
    root = str(Path(__file__).resolve().parent.parent)
    flags = ["--doctor", "--json"]
    flags += ["--config", options.config] if options.config else []
    flags += ["--config-dir", options.config_dir] if options.config_dir else []
    environ = dict(os.environ)
    path = socket_path(options.socket)
    if path != DEFAULT_SOCKET:  # the socket that was named is the one to look at
        environ["TYCHOD_CONTROL_SOCKET"] = str(Path(path).absolute())
    begun_s = time.monotonic()
    environ["DOCTOR_SINCE"] = f"{begun_s:.3f}"  # its start is to count, too
    child = subprocess.Popen(
        # -I: the caller's PYTHON* variables must not decide which tychod that is.
        [sys.executable, "-I", "-c", RUN_TYCHOD, root, *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
    )
    return Half(child, begun_s)


def read_host(half: Half) -> list[Check]:
    """Return the host's checks; one that says why, where there are none."""
    child = half.child
    left_s = max(half.begun_s + HOST_S - time.monotonic(), 0.05)
    try:
        told, errors = child.communicate(timeout=left_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return [host_fault(f"tychod --doctor did not end within {HOST_S:g} s", "late")]
    try:
        found = json.loads(told)["checks"]
        return [Check(**{name: check[name] for name in Check._fields}) for check in found]
    except (ValueError, KeyError, TypeError):
        lines = errors.decode(errors="backslashreplace").strip().splitlines()
        why = lines[-1] if lines else f"tychod --doctor ended with status {child.returncode}"
        return [host_fault(why)]


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

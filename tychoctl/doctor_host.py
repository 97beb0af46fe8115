"""The process that looks at the host, `tychod --doctor`: started, listened to, never waited for.

It tells its deadline, each check as it comes, and all of them at the end.  What hangs in the
kernel cannot be killed and may hold its output open, so neither its end nor that of its output is
waited for: the line that has all checks is enough.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from tychoctl.client import DEFAULT_SOCKET, socket_path
from tychoctl.doctor_view import Check, host_fault
from tychoctl.options import Options
from tychoctl.recordings import RUN_TYCHOD

GRACE_S: Final = 2.6
"""Seconds that it has in any case; it gives its checks 2.2 itself."""
MARGIN_S: Final = 0.4
"""Seconds from the deadline that it told until its answer is late."""
QUIET_S: Final = 0.3
"""After that: seconds without a sign that it runs, after which it is taken to hang."""
HOST_S: Final = 20.0
"""Seconds until it is given up though it runs: so long only where the machine has no time."""
TICK_S: Final = 0.05
ENDING_S: Final = 0.3
"""Seconds from the end of its answer to its own; what hangs in the kernel has none."""
READ_BYTES: Final = 1 << 16


class Half(NamedTuple):
    """The process, when the client began, and the descriptor of its standard error."""

    child: "subprocess.Popen[bytes]"
    begun_s: float
    errors: int


class Heard:
    """What it said so far."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.is_whole = False
        self.has_ended = False
        self.deadline_s = 0.0
        """Its own, in seconds of CLOCK_MONOTONIC."""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            # Whatever else it prints is no check.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                self._take(json.loads(line))

    def _take(self, told: dict[str, object]) -> None:
        plain = told.get("checks")
        if isinstance(plain, list):
            self.checks, self.is_whole = [_check_of(check) for check in plain], True
        elif "check" in told:
            self.checks.append(_check_of(told["check"]))
        elif isinstance(deadline_s := told.get("deadline"), float):
            self.deadline_s = deadline_s


class Pulse:
    """Whether a process runs, or would if a CPU were free."""

    def __init__(self, pid: int) -> None:
        self._path: Final = Path(f"/proc/{pid}/stat")
        self._used: list[bytes] = []
        self._felt_s = 0.0

    def is_felt(self, now_s: float) -> bool:
        """Say whether it did so within the last ``QUIET_S`` seconds."""
        try:
            fields = self._path.read_bytes().rpartition(b")")[2].split()
        except OSError:
            return False
        used = fields[11:13]  # CPU time in user and kernel mode; proc(5), from the name on
        if fields[0] == b"R" or used != self._used:
            self._used, self._felt_s = used, now_s
        return now_s - self._felt_s < QUIET_S


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
    errors = os.memfd_create("errors")  # a pipe might fill up, or never end
    child = subprocess.Popen(
        # -I: the caller's PYTHON* variables must not decide which tychod that is.
        [sys.executable, "-I", "-c", RUN_TYCHOD, root, *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environ,
    )
    return Half(child, begun_s, errors)


def read_host(half: Half) -> list[Check]:
    """Return the host's checks; where some did not come, a last one says why."""
    heard = listen(half)
    with contextlib.suppress(subprocess.TimeoutExpired):  # most often it ends at once
        half.child.wait(ENDING_S if heard.is_whole or heard.has_ended else 0.0)
    if heard.is_whole:
        return heard.checks
    if half.child.poll() is None:
        half.child.kill()  # it need not obey; nobody waits for it
        waited_s = time.monotonic() - half.begun_s
        count = len(heard.checks)
        came = f", after {count} check{'s' if count > 1 else ''}" if count else ""
        fault = host_fault(f"tychod --doctor did not end within {waited_s:.1f} s{came}", "late")
    else:
        fault = host_fault(_last_words(half))
    return [*heard.checks, fault]


def listen(half: Half) -> Heard:
    """Take what it says until that is all, until it ends, or is taken to hang."""
    heard, pulse = Heard(), Pulse(half.child.pid)
    pipe = half.child.stdout
    fd = pipe.fileno() if pipe else -1
    while not (heard.is_whole or heard.has_ended) and _is_awaited(half, heard, pulse):
        has_ended = half.child.poll() is not None  # before the look: then all of it is there
        if select.select([fd], [], [], TICK_S)[0]:
            data = os.read(fd, READ_BYTES)
            heard.feed(data)
            heard.has_ended = not data
        else:
            heard.has_ended = has_ended
    return heard


def _is_awaited(half: Half, heard: Heard, pulse: Pulse) -> bool:
    now_s = time.monotonic()
    if now_s >= half.begun_s + HOST_S:
        return False
    is_early = now_s < max(half.begun_s + GRACE_S, heard.deadline_s + MARGIN_S)
    return is_early or pulse.is_felt(now_s)


def _last_words(half: Half) -> str:
    """Return the last line of its standard error, else its status."""
    size = os.fstat(half.errors).st_size
    told = os.pread(half.errors, READ_BYTES, max(size - READ_BYTES, 0))
    lines = told.decode(errors="backslashreplace").strip().splitlines()
    return lines[-1] if lines else f"tychod --doctor ended with status {half.child.returncode}"


def _check_of(plain: object) -> Check:
    if not isinstance(plain, dict):
        raise TypeError(plain)
    return Check(**{name: plain[name] for name in Check._fields})

"""Work for a guest's CPUs, in processes that run in a cgroup of their own."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

Work = Callable[[float], int]
TRUE: Final = "/usr/bin/true"


class Running:
    """A process that does some work in a cgroup."""

    def __init__(self, directory: Path, work: Work, seconds: float) -> None:
        self._answer, told = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            _run_child(directory, work, seconds, told)
        os.close(told)

    def wait(self) -> int:
        """Wait for its end; return how often it did what it does."""
        with os.fdopen(self._answer, "rb") as answer:
            said = answer.read()
        _, status = os.waitpid(self._pid, 0)
        if status or not said:
            raise RuntimeError(f"a load ended with status {status:#x}")
        return int(said)


def _run_child(directory: Path, work: Work, seconds: float, told: int) -> None:
    code = 1
    try:
        (directory / "cgroup.procs").write_text("0", encoding="ascii")
        os.write(told, b"%d" % work(time.monotonic() + seconds))
        code = 0
    finally:
        os._exit(code)


@contextmanager
def cgroup(root: Path, name: str) -> Iterator[Path]:
    """Make a cgroup, and remove it once it is empty: a process leaves a moment after its end."""
    directory = root / name
    directory.mkdir()
    try:
        yield directory
    finally:
        remove(directory)


def remove(directory: Path) -> None:
    """Remove a cgroup; for a second it may still be busy with the end of its processes."""
    until = time.monotonic() + 1
    while True:
        try:
            directory.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def spin(until_s: float) -> int:
    """Never sleep."""
    count = 0
    while time.monotonic() < until_s:
        count += 1
    return count


def start_programs(until_s: float) -> int:
    """Start one short program after the other."""
    count = 0
    while time.monotonic() < until_s:
        os.waitpid(os.posix_spawn(TRUE, [TRUE], {}), 0)
        count += 1
    return count


def play_ping_pong(until_s: float) -> int:
    """Two processes on one CPU that wake each other through pipes, each for a moment only."""
    os.sched_setaffinity(0, {0})
    (here, away), (there, back) = os.pipe(), os.pipe()
    if not os.fork():
        os.close(away)
        while os.read(here, 1):
            os.write(back, b"x")
        os._exit(0)
    count = 0
    while time.monotonic() < until_s:
        os.write(away, b"x")
        os.read(there, 1)
        count += 1
    os.close(away)
    os.wait()
    return count

"""Processes that are seen to use the simulated GPUs: real ones, with a little real CPU use."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

CODE: Final = """
import os, select, sys, time
name, directory = sys.argv[1:3]
if directory:
    with open(directory + "/cgroup.procs", "w") as procs:
        procs.write("0")
with open("/proc/self/comm", "w") as comm:
    comm.write(name)
print("ready", flush=True)
is_busy = False
while True:
    if select.select([0], [], [], 0.018 if is_busy else None)[0]:
        words = os.read(0, 64)
        if not words:
            break
        is_busy = words.endswith(b"1")
    end = time.perf_counter() + 0.006
    while is_busy and time.perf_counter() < end:
        pass
"""
"""Its input says 1 and 0: busy with a quarter of a CPU, or not; at its end the process ends."""


class User:
    """One such process, in a cgroup of its own if there is one; a context manager."""

    def __init__(self, name: str, cgroup: Path | None) -> None:
        """It has joined its cgroup when this returns."""
        self.name: Final = name
        self._child = subprocess.Popen(
            [sys.executable, "-S", "-c", CODE, name, str(cgroup or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for who started it
        )
        assert self._child.stdout
        if self._child.stdout.readline() != b"ready\n":
            self.__exit__()
            raise RuntimeError(f"the process {name} did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def tell(self, is_busy: bool) -> None:
        """Let it be busy or idle; one that has ended is not told."""
        assert self._child.stdin
        with contextlib.suppress(OSError):
            self._child.stdin.write(b"1" if is_busy else b"0")
            self._child.stdin.flush()

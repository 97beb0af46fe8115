"""Loads that come and go: each runs and rests for random stretches, in a cgroup of its own.

They go before what else runs on the machine, so that they are what they are meant to be.
Needs the standard library only, and the right to do that.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BURSTS = """
import os, random, sys, time
directory, seconds, rest, seed = sys.argv[1], *map(float, sys.argv[2:5])
with open(directory + "/cgroup.procs", "w") as procs:
    procs.write("0")
os.nice(-15)
chance = random.Random(seed)
print("ready", flush=True)
sys.stdin.readline()
now = time.perf_counter()
end = now + seconds
while now < end:
    until = min(now + chance.uniform(0.05, 0.4), end)
    while time.perf_counter() < until:
        pass
    until = min(until + rest * chance.uniform(0.05, 0.4), end)
    time.sleep(max(until - time.perf_counter(), 0.0))
    now = time.perf_counter()
"""


class Bursts:
    """One such load; a context manager that leaves nothing running.

    It is in its cgroup and waits when this is made; ``go`` lets it run, ``finish`` waits for it.
    """

    def __init__(self, cgroup: Path, seconds: float, *, rest: float, seed: int) -> None:
        """``rest``: how many times longer it rests than it runs, on the average."""
        words = (str(cgroup), str(seconds), str(rest), str(seed))
        self._child = subprocess.Popen(
            [sys.executable, "-S", "-c", BURSTS, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout
        if self._child.stdout.readline() != "ready\n":
            self.__exit__()
            raise RuntimeError(f"no load in {cgroup}")

    def __enter__(self) -> Bursts:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    def go(self) -> None:
        """Let it run."""
        assert self._child.stdin
        self._child.stdin.write("\n")
        self._child.stdin.flush()

    def finish(self) -> None:
        """Wait until it has ended."""
        self._child.communicate()
        if self._child.returncode:
            raise RuntimeError(f"a load failed with status {self._child.returncode}")

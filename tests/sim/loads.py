"""Loads with a known shape in cgroups of their own (load.c, compiled when it is first needed)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("load.c")


class NoCompilerError(Exception):
    """There is nothing to compile the loads with."""


def compile_load(directory: Path) -> Path:
    """Compile the program into a directory; linked statically where that is possible."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompilerError("no C compiler (cc, gcc or clang) for tests/sim/load.c")
    program = directory / "load"
    command = [compiler, "-O2", "-o", str(program), str(SOURCE)]
    if subprocess.run([*command, "-static"], capture_output=True, check=False).returncode:
        subprocess.run(command, check=True)
    return program


class Load:
    """One running load; a context manager that leaves nothing running.

    It is in its cgroup and waits when this is made; ``go`` lets it run and ``finish`` waits for it.
    """

    def __init__(
        self, program: Path, cgroup: Path | None, seconds: float, *words: object, cpu: int = -1
    ) -> None:
        """``words``: the kind of load and its arguments; ``cpu``: where it stays, -1: anywhere."""
        procs = "-" if cgroup is None else str(cgroup / "cgroup.procs")
        self._child = subprocess.Popen(
            [str(program), procs, str(cpu), str(seconds), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._line() != "ready":
            self.__exit__()
            raise RuntimeError(f"load {words} did not start")

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    @property
    def pid(self) -> int:
        """Process id of its first process."""
        return self._child.pid

    def go(self) -> None:
        """Let it run."""
        assert self._child.stdin
        self._child.stdin.write("\n")
        self._child.stdin.flush()

    def finish(self) -> int:
        """Wait until it is done and has ended; return how often it did its thing."""
        said = self._line()
        self._child.communicate()
        if not said.startswith("done ") or self._child.returncode:
            raise RuntimeError(f"a load failed with status {self._child.returncode}: {said}")
        return int(said.removeprefix("done "))

    def _line(self) -> str:
        assert self._child.stdout
        return self._child.stdout.readline().strip()

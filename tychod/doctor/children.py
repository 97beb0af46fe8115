"""Programs that a check asks: they end with the doctor, whatever they hang in."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Final

from tychod.config import Host as Roots
from tychod.hostfs import Host

if TYPE_CHECKING:
    from collections.abc import Sequence

GUARD: Final = ("--pdeathsig", "KILL")
"""setpriv(1) of util-linux: the kernel ends the program with the thread that started it.

The doctor ends at its deadline with its checks' threads running, so nobody else would.
"""
KILLED_S: Final = 0.2
NS_PER_S: Final = 1e9


class Late(subprocess.TimeoutExpired):
    """A program did not answer; ``own_s`` are its seconds but those that it waited for a CPU."""

    def __init__(self, command: Sequence[str], wait_s: float, own_s: float) -> None:
        super().__init__(command, wait_s)
        self.own_s = own_s


def ask(command: Sequence[str], wait_s: float, told: bytes = b"") -> tuple[int, bytes]:
    """Run a program with ``told`` on its standard input; return its status and its answer.

    Late after ``wait_s`` seconds: then it is killed.
    """
    guard = shutil.which("setpriv")
    begun_s = time.monotonic()
    child = subprocess.Popen(
        [guard, *GUARD, *command] if guard else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        answer, _ = child.communicate(told, wait_s)
    except subprocess.TimeoutExpired as exc:
        waited_s = waited_for_cpu_s(child.pid)
        end(child)
        raise Late(command, wait_s, time.monotonic() - begun_s - waited_s) from exc
    return child.returncode, answer


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill a program; one that hangs in the kernel ends when it gets out, waited for by nobody."""
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(KILLED_S)


def waited_for_cpu_s(task: int | str) -> float:
    """Return for how many seconds a task could run and no CPU was free; 0 where nobody knows."""
    try:
        # Documentation/scheduler/sched-stats.rst: time on a CPU, time waiting for one, in ns.
        host = Host(Roots())
        text = host.read_text(f"{host.procfs}/{task}/schedstat") or ""
        return int(text.split()[1]) / NS_PER_S
    except (OSError, IndexError, ValueError):
        return 0.0

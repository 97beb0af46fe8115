"""Checks that did not come in time: nobody answered, or a busy machine left no time to look."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.config import Host as Roots
from tychod.doctor.children import waited_for_cpu_s
from tychod.doctor.model import Finding
from tychod.doctor.remedies import remedy
from tychod.hostfs import Host

if TYPE_CHECKING:
    from tychod.doctor.model import Check

PATIENCE_S: Final = 2.2
"""Seconds that each check has; with two interpreters' starts the client is to end in three."""
LATE: Final = f"no answer within {PATIENCE_S:g} s"
NO_TIME: Final = "not looked at: the machine was too busy"
ENOUGH_S: Final = 0.8
"""Seconds of its own in which a check has an answer where nothing hangs."""


class Begun(NamedTuple):
    """When a check began to look, and the thread that does."""

    at_s: float
    task: int


def begin() -> Begun:
    """Return that the calling thread begins to look now."""
    return Begun(time.monotonic(), threading.get_native_id())


def judge_late(check: Check, begun: Begun | None) -> Finding:
    """Judge a check that has no answer at the deadline; ``begun``: None if it has not begun."""
    if begun is None:
        return judge_own(check, 0.0)
    return judge_own(check, time.monotonic() - begun.at_s - _lost_s(begun.task))


def judge_own(check: Check, own_s: float) -> Finding:
    """Judge by the seconds that a check had, less those in which it waited for a CPU."""
    if own_s < ENOUGH_S:
        return Finding("warn", NO_TIME, remedy("busy"))
    return Finding("fail", LATE, check.slow)


def _lost_s(task: int) -> float:
    """Return the seconds in which a thread, its programs or who held Python's lock had no CPU."""
    host = Host(Roots())
    tasks = f"{host.procfs}/self/task"
    try:
        threads: tuple[str, ...] = host.list_dir(tasks) or ()
        children = (host.read_text(f"{tasks}/{task}/children") or "").split()
    except OSError:
        return 0.0
    held_s = max((waited_for_cpu_s(f"self/task/{name}") for name in threads), default=0.0)
    return held_s + sum(waited_for_cpu_s(name) for name in children)

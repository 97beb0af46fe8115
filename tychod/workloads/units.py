"""What systemd says of units: description, slice, load state; asked once when a unit appears.

The questions go through a child process that lives while there is something to ask (unit_child.py
tells why), fed and read through pipes that never block, so whoever polls never waits.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.workloads.kubelet import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
BATCH: Final = 50
"""Units asked about in a second."""
PATIENCE_NS: Final = 2 * SECOND_NS
START_NS: Final = 10 * SECOND_NS
"""Longest that the child's Python may take to start; 40 ms of CPU, but the machine may be full."""
IDLE_NS: Final = 10 * SECOND_NS
"""The child ends when it had nothing to do for so long: it holds 8 MB, and starting costs 40 ms."""
RETRY_MOST_NS: Final = 60 * SECOND_NS
MOST_UNITS: Final = 4096
"""Units that are waited for or remembered; a host has some hundred."""
LINE_LIMIT: Final = 1 << 16

_UNIT: Final = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.(service|slice|scope|socket|mount|swap)")
"""Names that systemd itself allows (systemd.unit(5)), of the kinds that have a cgroup."""


class UnitFacts(NamedTuple):
    """What systemd knows of a unit.

    The description is as its author wrote it, cut at 256 characters: control characters in it are
    shown escaped, as in every other name from outside.
    """

    description: str  # empty: none
    slice: str
    load_state: str


class _Child:
    """The process that asks, and what it owes; its pipes never block."""

    def __init__(self, now_ns: int) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-I", str(Path(__file__).with_name("unit_child.py"))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            bufsize=0,
        )
        assert self._process.stdin is not None  # noqa: S101 - both were asked for
        assert self._process.stdout is not None  # noqa: S101
        self._pipes = (self._process.stdin, self._process.stdout)
        self._input, self._output = (pipe.fileno() for pipe in self._pipes)
        for number in (self._input, self._output):
            os.set_blocking(number, False)
        self._buffer = b""
        self.is_ready = False
        self.owed: dict[str, None] = {}  # units it was asked about, in order
        self.waiting_since_ns = now_ns  # for its start, or for its next answer
        self.idle_since_ns = now_ns

    def ask(self, units: Iterable[str], now_ns: int) -> None:
        """Ask about units; a batch fits into an empty pipe, else OSError."""
        units = tuple(units)
        lines = "".join(json.dumps(unit) + "\n" for unit in units).encode()
        with contextlib.suppress(BrokenPipeError):  # it has ended: its last words are read next
            if os.write(self._input, lines) != len(lines):
                raise BlockingIOError(errno.EAGAIN, "its pipe is full")
        self.owed.update(dict.fromkeys(units))
        self.waiting_since_ns = self.idle_since_ns = now_ns

    def read(self) -> list[dict[str, object]] | None:
        """Return what it has said since; None once it has said all that it ever will."""
        try:
            data = os.read(self._output, LINE_LIMIT)
        except BlockingIOError:
            return []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        answers = [json.loads(line) for line in lines if line]
        return answers if data or answers else None

    def is_late(self, now_ns: int) -> bool:
        """Say whether it owes something for too long."""
        patience_ns = PATIENCE_NS if self.is_ready else START_NS
        owes = bool(self.owed) or not self.is_ready
        return owes and now_ns - self.waiting_since_ns > patience_ns

    def end(self) -> None:
        """Kill it and give its pipes back; ``has_ended`` takes it off the process table."""
        self._process.kill()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()

    def has_ended(self, wait_s: float = 0.0) -> bool:
        """Say whether the process is gone."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True


class Units:
    """Descriptions of the system's units, as far as systemd gave them; owned by one thread."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._present: frozenset[str] = frozenset()
        self._queue: dict[str, None] = {}  # units to be asked about, in order
        self._view: dict[str, UnitFacts] = {}
        self._child: _Child | None = None
        self._ending: _Child | None = None
        self._problem: Unavailable | None = None
        self._failures = 0  # since the last answer
        self._asked_ns: int | None = None
        self._has_answer = False
        self.asked = 0
        """How many units systemd was asked about."""
        self.told = 0
        """How many answers there have been."""

    @property
    def view(self) -> Mapping[str, UnitFacts]:
        """What systemd told, by unit; changes while questions are answered."""
        return self._view

    @property
    def route(self) -> str:
        """Return ok, or why descriptions do not come and what to do."""
        if not self._enabled:
            return "off in the configuration; set [workloads] units = true"
        if self._problem:
            return f"stale: {self._problem}" if self._has_answer else str(self._problem)
        return "ok" if self._has_answer else "not asked yet"

    def want(self, unit_ids: Iterable[str]) -> None:
        """Say which units there are now: each one that was not there before is asked about.

        Those of a user's systemd (a path as id) are not on the system's bus and are left out.
        """
        if not self._enabled:
            return
        present = frozenset(unit for unit in unit_ids if _UNIT.fullmatch(unit))
        if present == self._present:
            return
        for unit in sorted(present - self._present):
            if len(self._queue) < MOST_UNITS:
                self._queue[unit] = None
        for unit in self._queue.keys() - present:
            del self._queue[unit]
        self._present = present
        self._forget()

    def poll(self, now_ns: int) -> None:
        """Take in answers and ask what is still to be asked; never waits."""
        if self._ending is not None and self._ending.has_ended():
            self._ending = None
        if self._child is not None:
            self._hear(self._child, now_ns)
        if self._queue and self._is_due(now_ns):
            self._ask(now_ns)

    def close(self) -> None:
        """End the child."""
        self._retire()
        if self._ending is not None and self._ending.has_ended(wait_s=1.0):
            self._ending = None

    def _is_due(self, now_ns: int) -> bool:
        if self._asked_ns is None:
            return True
        if self._child is not None and self._child.owed:
            return False  # the pipe has room for one batch
        pause_ns = SECOND_NS
        if self._failures:
            pause_ns = min(SECOND_NS << min(self._failures - 1, 6), RETRY_MOST_NS)
        return now_ns - self._asked_ns >= pause_ns

    def _ask(self, now_ns: int) -> None:
        if self._ending is not None:
            return  # one process is enough
        self._asked_ns = now_ns
        batch = tuple(self._queue)[:BATCH]
        try:
            if self._child is None:
                self._child = _Child(now_ns)
            self._child.ask(batch, now_ns)
        except OSError as exc:
            reason = f"the process that asks systemd does not start: {exc.strerror}"
            self._failed(reason, "see whether memory or processes are short; it is tried again")
            return
        for unit in batch:
            del self._queue[unit]
        self.asked += len(batch)

    def _hear(self, child: _Child, now_ns: int) -> None:
        try:
            answers = child.read()
        except ValueError:
            self._failed("the process that asks systemd talks nonsense", "report this")
            return
        for answer in answers or ():
            child.waiting_since_ns = child.idle_since_ns = now_ns
            self._take(child, answer)
            if self._child is None:
                return
        if answers is None:
            self._failed("the process that asks systemd ended early", "report this")
        elif child.is_late(now_ns):
            self._failed(
                f"no answer from systemd in {PATIENCE_NS / SECOND_NS:g} s",
                "see whether D-Bus hangs: busctl status org.freedesktop.systemd1",
            )
        elif not child.owed and not self._queue and now_ns - child.idle_since_ns > IDLE_NS:
            self._retire()

    def _take(self, child: _Child, answer: dict[str, object]) -> None:
        unit = answer.get("unit")
        if "ready" in answer:
            child.is_ready = True
        elif "reason" in answer:
            self._failed(str(answer["reason"]), str(answer["remedy"]))
        elif isinstance(unit, str) and unit in child.owed:
            del child.owed[unit]
            self._learn(unit, answer)

    def _learn(self, unit: str, answer: dict[str, object]) -> None:
        if self._problem or not self._has_answer:
            again = " again" if self._problem else ""
            log.info("systemd tells the descriptions of units%s", again, extra={"source": "units"})
        self._problem, self._failures, self._has_answer = None, 0, True
        self.told += 1
        if "description" in answer:
            self._view[unit] = UnitFacts(*(str(answer[name]) for name in UnitFacts._fields))
        else:
            self._view.pop(unit, None)  # it is no longer there

    def _failed(self, reason: str, remedy: str) -> None:
        """Give this child up; what it was asked is asked again, the one it stuck at as the last."""
        if self._child is not None:
            stuck, *others = self._child.owed or ("",)
            again = [unit for unit in (*others, *self._queue, stuck) if unit in self._present]
            self._queue = dict.fromkeys(again)
        self._retire()
        self._failures += 1
        problem = Unavailable(reason, remedy)
        if problem != self._problem:
            log.warning(
                "units have no descriptions: %s. %s", reason, remedy, extra={"source": "units"}
            )
        self._problem = problem

    def _retire(self) -> None:
        if self._child is not None:
            self._child.end()
            self._ending, self._child = self._child, None
            if self._ending.has_ended():
                self._ending = None

    def _forget(self) -> None:
        """Keep the memory of units that are gone bounded; the oldest go first."""
        surplus = len(self._view) - MOST_UNITS
        if surplus > 0:
            for unit in [unit for unit in self._view if unit not in self._present][:surplus]:
                del self._view[unit]

"""The thread that listens to taskstats: losses are told for a while, its faults are not hidden."""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tychod import config
from tychod.hostfs import Host
from tychod.kernel import taskstats
from tychod.kernel.taskstats import Exit, ExitListener

PATIENCE_S = 20.0
END = Exit(7, 1, 1_000, b"x", 5)
Answer = list[Exit | Exception]


class Kernel:
    """Ends as the test has them told: what each receive gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[Answer] = []
        monkeypatch.setattr(taskstats, "parse_messages", self.parse)
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.listener = ExitListener(Host(config.Host()), theirs, 31)

    def parse(self, *_: object) -> Iterator[Exit]:
        """Yield what the next receive is to give."""
        for one in self.answers.pop(0):
            if isinstance(one, Exception):
                raise one
            yield one

    def tell(self, *answer: Exit | Exception) -> None:
        """Let one receive give this; return when it was taken."""
        self.answers.append(list(answer))
        self.ours.send(b"x")
        wait_for(lambda: not self.answers)

    def close(self) -> None:
        """End."""
        self.listener.close()
        self.ours.close()


def wait_for(found: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Return a kernel with a listener."""
    made = Kernel(monkeypatch)
    yield made
    made.close()


def test_a_fault_of_ours_reaches_who_drains(kernel: Kernel) -> None:
    """An error that nobody foresaw ends neither silently nor as a reading that failed."""
    kernel.tell(ValueError("a fault"))
    listener = kernel.listener

    def raises() -> bool:
        try:
            listener.drain()
        except ValueError as exc:
            return str(exc) == "a fault"
        return False

    wait_for(raises)


def test_what_the_kernel_refuses_is_a_reason(kernel: Kernel) -> None:
    """An error of the socket is told and ends the listening, not the daemon."""
    kernel.tell(OSError(errno.EIO, os.strerror(errno.EIO)))
    wait_for(lambda: "Input/output error" in (kernel.listener.reason or ""))

    assert kernel.listener.drain() == ()


def test_losses_are_told_while_they_are_recent(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of long ago is no reason any more, and does not count with a new one."""
    monkeypatch.setattr(taskstats, "MOST_KEPT", 1)
    full = OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
    for _ in range(2):
        kernel.tell(END, END, full)
    listener = kernel.listener
    wait_for(lambda: "exit records 2 times; 3 exits too many" in (listener.reason or ""))
    monkeypatch.setattr(taskstats, "RECENT_S", 0.0)

    assert listener.reason is None
    kernel.tell(END)
    monkeypatch.setattr(taskstats, "RECENT_S", PATIENCE_S)
    wait_for(lambda: "1 exits too many" in (listener.reason or ""))

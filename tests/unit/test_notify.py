"""systemd notification against a real datagram socket."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tychod.runtime.notify import Notifier, parse_watchdog_timeout_s, render_status


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, run_name: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Return a datagram socket that stands where systemd's would, named in $NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@{run_name}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name.replace("@", "\0"))
        server.settimeout(5.0)
        yield server


def received(manager: socket.socket) -> list[str]:
    """Return the lines of the next message."""
    return manager.recv(4096).decode().split("\n")


def open_notifier() -> contextlib.closing[Notifier]:
    """Return a notifier on this process's environment."""
    return contextlib.closing(Notifier(os.environ, os.getpid()))


def test_the_life_of_a_service(manager: socket.socket) -> None:
    """Ready, status and stopping arrive as systemd documents them (sd_notify(3))."""
    with open_notifier() as notifier:
        notifier.ready("sources: rapl, cpu")
        notifier.status("Zürich: 2 problems\nREADY=1")
        notifier.stopping()

    assert received(manager) == ["READY=1", "STATUS=sources: rapl, cpu"]
    assert received(manager) == ["STATUS=Zürich: 2 problems READY=1"]
    assert received(manager) == ["STOPPING=1", "STATUS=stopping"]


def test_a_reload_carries_the_monotonic_time(manager: socket.socket) -> None:
    """systemd pairs the reload with its signal by CLOCK_MONOTONIC."""
    with open_notifier() as notifier:
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        after = time.monotonic_ns() // 1000

    state, when = received(manager)
    assert state == "RELOADING=1"
    assert before <= int(when.removeprefix("MONOTONIC_USEC=")) <= after


def test_the_watchdog_is_fed_when_systemd_watches(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WATCHDOG=1 goes out only where somebody waits for it."""
    with open_notifier() as unwatched:
        unwatched.watchdog()
        unwatched.status("first")
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with open_notifier() as watched:
        watched.watchdog()

    assert received(manager) == ["STATUS=first"]
    assert received(manager) == ["WATCHDOG=1"]


def test_a_stuck_manager_does_not_stop_us(manager: socket.socket) -> None:
    """When its queue is full, messages are dropped and the daemon goes on."""
    with open_notifier() as notifier:
        manager.setblocking(False)
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with probe, contextlib.suppress(BlockingIOError):
            probe.setblocking(False)
            while True:
                probe.sendto(b"x", manager.getsockname())
        notifier.status("dropped")

        assert manager.recv(10) == b"x"


def test_nothing_happens_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by hand, every call is silent."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with open_notifier() as notifier:
        notifier.ready("x")
        notifier.reloading()
        notifier.watchdog()
        notifier.stopping()

        assert notifier.watchdog_timeout_s is None


# sdnotify drops the socket that it could not connect without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_manager_that_is_gone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket that cannot be reached is one warning, and the daemon runs."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    with open_notifier() as notifier:
        notifier.ready("x")

    assert ["cannot reach $NOTIFY_SOCKET" in line for line in caplog.messages] == [True]


def test_after_close_nothing_is_sent(manager: socket.socket) -> None:
    """A late call from another thread is harmless."""
    with open_notifier() as notifier:
        notifier.status("last")
    notifier.status("late")
    manager.setblocking(False)

    assert received(manager) == ["STATUS=last"]
    with pytest.raises(BlockingIOError):
        manager.recv(10)


@pytest.mark.parametrize(
    ("environ", "timeout_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_the_watchdog_is_ours_only_when_meant_for_us(
    environ: dict[str, str], timeout_s: float | None
) -> None:
    """A child inherits the variables; the pid says whom systemd watches."""
    assert parse_watchdog_timeout_s(environ, 7) == timeout_s


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a  b", "STATUS=a b"),
        ("", "STATUS="),
        ("a\r\nb\tc", "STATUS=a b c"),
        ("\udcff", "STATUS=?"),
    ],
)
def test_a_status_is_one_line(text: str, line: str) -> None:
    """Nothing in a status can become a message of its own."""
    assert render_status(text) == line

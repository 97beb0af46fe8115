"""tychoctl top in a real terminal: what it shows, what keys do, and how it leaves the terminal."""

import contextlib
import dataclasses
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import snapshots as made
from tychod.buffer import Latest
from tychod.model import Snapshot, Window
from tychod.runtime.answers import Answers, Readers
from tychod.runtime.server import ControlServer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20.0
TOP = f"{shlex.quote(sys.executable)} -m tychoctl top"
# The number of the shell that becomes top; what comes after is seen when top has ended or stopped.
SCRIPT = (
    f"stty -g >before; sh -c 'echo $$ >pid; PYTHONPATH={ROOT} exec {TOP}'; "
    "echo ENDED=$?; stty -g >after; exec cat"
)
STOPPED = f"set -m; {TOP}; stty -g >stopped; fg; echo ENDED=$?; exec cat"


class Pane:
    """A shell in a terminal of tmux's that runs a script in a directory."""

    def __init__(self, place: Path, script: str) -> None:
        self.place = place
        environ = {**os.environ, "TYCHOD_SOCKET": str(place / "control.sock")}
        environ = {k: v for k, v in environ.items() if k not in ("TMUX", "TMUX_PANE", "NO_COLOR")}
        self._environ = {**environ, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)}
        size = ("-x", "80", "-y", "24")
        self.tmux("new-session", "-d", *size, "-c", str(place), "bash", "--norc", "-c", script)

    def tmux(self, *words: str) -> str:
        """Tell tmux something; its server is this test's own."""
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self.place / "tmux"), "-f", os.devnull, *words],
            env=self._environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def keys(self, *names: str) -> None:
        """Press keys, as tmux names them."""
        self.tmux("send-keys", *names)

    def text(self) -> str:
        """Return what the terminal shows."""
        return self.tmux("capture-pane", "-p")

    def fact(self, name: str) -> str:
        """Return what tmux knows of the terminal."""
        return self.tmux("display-message", "-p", f"#{{{name}}}").strip()

    def wait(self, *wanted: str, gone: str = "") -> str:
        """Wait until the terminal shows all this, and what is gone no more."""
        return wait_for(
            self.text,
            lambda text: all(w in text for w in wanted) and (not gone or gone not in text),
        )


def wait_for(read: Callable[[], str], is_wanted: Callable[[str], bool]) -> str:
    """Return what is read once it is what is wanted; fail with what it was at last."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = read()
        if is_wanted(found):
            return found
        time.sleep(0.03)
    raise AssertionError(f"not shown within {PATIENCE_S:g} s:\n{found}")


def make_answers(latest: Latest[Snapshot]) -> Answers:
    """Return the answers of a daemon that remembers two windows before the newest."""
    points = [[1_750_000_057.0, {"package": 40.0}], [1_750_000_060.0, {"package": 50.0}]]
    readers = Readers(
        facts=lambda: made.FACTS,
        status=lambda: made.STATUS,
        settings=lambda: made.SETTINGS,
        wait_s=lambda: 1.5,
        questions={"trend": lambda _args, _view: {"points": points}},
    )
    return Answers(latest, made.StillClock(), readers)


def serving(place: Path, latest: Latest[Snapshot]) -> AbstractContextManager[ControlServer]:
    """Run a daemon's socket until the block ends."""
    return made.serving(place / "control.sock", latest, make_answers(latest))


@pytest.fixture
def place(run_name: str) -> Iterator[Path]:
    """Return a directory of a short name: it holds sockets."""
    with tempfile.TemporaryDirectory(prefix=run_name) as directory:
        yield Path(directory)


@pytest.fixture
def open_pane(place: Path) -> Iterator[Callable[[str], Pane]]:
    """Return what opens a terminal; tmux and all in it end with the test."""
    if not (shutil.which("tmux") and shutil.which("bash")):
        pytest.skip("a terminal to look at needs tmux and bash")
    with ExitStack() as undo:

        def run(script: str) -> Pane:
            pane = Pane(place, script)
            undo.callback(pane.tmux, "kill-server")
            return pane

        yield run


def publish(latest: Latest[Snapshot], sequence: int) -> None:
    """Let there be another window; number 20 ends at 15:07:43."""
    snapshot = made.make_snapshot(sequence=sequence)
    later_ns = (sequence - 20) * 3 * made.SECOND_NS
    window = Window(*(at_ns + later_ns for at_ns in snapshot.window))
    latest.publish(dataclasses.replace(snapshot, window=window))


def is_restored(pane: Pane) -> bool:
    """Say whether screen, cursor and modes are those from before top."""
    modes = [(pane.place / name).read_text() for name in ("before", "after")]
    flags = [pane.fact(name) for name in ("alternate_on", "cursor_flag", "wrap_flag")]
    return modes[0] == modes[1] and flags == ["0", "1", "1"]


def rows(text: str) -> list[str]:
    """Return the names of the rows that a screen shows."""
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith(" NAME"))
    return [line[1:].strip(" ▾▸").split("  ")[0] for line in lines[head + 1 : -2] if line.strip()]


def test_a_user_looks_orders_pauses_and_leaves(
    place: Path, open_pane: Callable[[str], Pane]
) -> None:
    """The rows are there, keys change them, a pause holds them, and q leaves all as it was."""
    latest: Latest[Snapshot] = Latest()
    publish(latest, 20)
    with serving(place, latest):
        pane = open_pane(SCRIPT)
        first = pane.wait("tree by power", "nginx")
        assert "15.2 W to 50.0 W in 9.00 s" in first
        assert rows(first)[:4] == ["system", "shop", "web", "nginx"]
        assert pane.fact("alternate_on") == "1"

        pane.keys("N")
        assert rows(pane.wait("tree by name"))[:2] == ["containers", "kind-worker"]
        pane.keys("p")
        pane.wait("PAUSED", "15:07:43Z")
        publish(latest, 21)
        pane.keys("t")
        assert "15:07:43Z" in pane.wait("flat by name")
        pane.keys("p")
        pane.wait("15:07:46Z", gone="PAUSED")

        pane.tmux("resize-window", "-x", "200", "-y", "40")
        assert "pooled" in pane.wait("FLAGS", "TREND")
        pane.keys("q")
        pane.wait("ENDED=0", gone="NAME")

    assert is_restored(pane)


def test_tychod_goes_and_comes_back_and_a_signal_ends_it(
    place: Path, open_pane: Callable[[str], Pane]
) -> None:
    """A first window is waited for, a restart outlived; SIGTERM leaves the terminal as it was."""
    latest: Latest[Snapshot] = Latest()
    with serving(place, latest):
        pane = open_pane(SCRIPT)
        pane.wait("first window")
        publish(latest, 20)
        pane.wait("nginx")
    assert "nginx" in pane.wait("tychod went away, reconnecting")
    publish(latest, 21)
    with serving(place, latest):
        pane.wait("15:07:46Z", gone="went away")
        os.kill(int((place / "pid").read_text()), signal.SIGTERM)
        pane.wait("ENDED=143", gone="NAME")

    assert is_restored(pane)


def test_it_stops_and_goes_on_like_any_program(
    place: Path, open_pane: Callable[[str], Pane]
) -> None:
    """Ctrl-Z gives the terminal back, fg brings the view again, Ctrl-C ends it."""
    latest: Latest[Snapshot] = Latest()
    publish(latest, 20)
    with serving(place, latest):
        pane = open_pane(STOPPED)
        pane.wait("nginx")
        pane.keys("C-z")
        wait_for(lambda: (place / "stopped").read_text() if stopped(place) else "", bool)
        modes = (place / "stopped").read_text()
        pane.wait("nginx")
        pane.keys("C-c")
        pane.wait("ENDED=0", gone="NAME")

    assert icanon(modes)
    assert pane.fact("alternate_on") == "0"


def stopped(place: Path) -> bool:
    """Say whether top has been stopped by now."""
    return (place / "stopped").is_file() and bool((place / "stopped").read_text())


def icanon(modes: str) -> bool:
    """Say whether `stty -g`'s modes are those of a shell: whole lines, echoed."""
    return int(modes.split(":")[3], 16) & 0o12 == 0o12  # ICANON and ECHO of <asm/termbits.h>


def test_a_terminal_that_nobody_reads_holds_no_one(place: Path) -> None:
    """Where output is stuck, a signal still ends it, and the modes are put back."""
    latest: Latest[Snapshot] = Latest()
    publish(latest, 20)
    master, slave = pty.openpty()
    fill(slave)
    before = termios.tcgetattr(slave)
    environ = {**os.environ, "TYCHOD_SOCKET": str(place / "control.sock"), "TERM": "xterm"}
    with serving(place, latest):
        child = subprocess.Popen(
            [sys.executable, "-m", "tychoctl", "top"],
            cwd=ROOT,
            env=environ,
            stdin=slave,
            stdout=slave,
            start_new_session=True,
        )
        try:
            wait_for(lambda: str(termios.tcgetattr(slave) != before), lambda told: told == "True")
            child.terminate()
            code = child.wait(PATIENCE_S)
        finally:
            child.kill()
            child.wait()
    after = termios.tcgetattr(slave)
    os.close(slave)
    os.close(master)

    assert code == 143
    assert after == before


def fill(slave: int) -> None:
    """Write to a terminal until it takes no more."""
    writing = os.open(os.ttyname(slave), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
    finally:
        os.close(writing)


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_what_is_no_terminal_is_refused(stream: str) -> None:
    """In a pipe there is nothing to draw on: the error names what to use instead."""
    options: dict[str, Any] = {stream: subprocess.DEVNULL}
    done = subprocess.run(
        [sys.executable, "-m", "tychoctl", "top"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )

    assert done.returncode == 2
    assert "tychoctl workloads -w" in done.stderr

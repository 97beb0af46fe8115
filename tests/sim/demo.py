"""`make demo`: a simulated machine, tychod on it, and a live view beside the truth, until Ctrl-C.

A BMC over HTTPS, RAPL and hwmon trees, and a driver's library with two GPUs show one known world;
/proc and cgroups are this machine's.  Everything lives in one directory of a random name.
"""

import argparse
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from tests.sim.cgrouptree import RealCgroups
from tests.sim.demo_users import User
from tests.sim.demo_view import Feed, view
from tests.sim.demo_world import World
from tests.sim.loads import NoCompilerError
from tests.sim.node import Node
from tests.sim.nvml.world import Process
from tests.sim.platformrig import Ground, find_ground, run_simulators

LOOK_S: Final = 0.1
PATIENCE_S: Final = 20.0
"""So long may a window be late before the demo gives up."""
TRAIN, SERVE = "demo-train", "demo-serve"


class FailedError(Exception):
    """A part has failed; the message says which."""


class Parts(NamedTuple):
    """Everything that runs."""

    world: World
    node: Node
    users: tuple[User, ...]

    def check(self) -> None:
        """Raise ``FailedError`` if one of them has ended."""
        if self.world.failure:
            raise FailedError(self.world.failure)
        for user in self.users:
            if not user.is_running:
                raise FailedError(f"the process {user.name} has ended")
        if self.node.child.poll() is not None:
            last = "\n".join(self.node.read_log().splitlines()[-8:])
            raise FailedError(f"tychod has ended with status {self.node.child.returncode}:\n{last}")


@contextmanager
def signals_asking(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP ask for the end, and nothing else, in here."""

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    asking = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in asking}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def start(undo: ExitStack, window_s: float) -> Parts:
    """Start everything; ``undo`` ends and removes it, the last one first."""
    place = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tychod-demo-")))
    ground = find_ground()
    users = start_users(undo, ground)
    train, serve = users
    uses = {
        0: (Process(train.pid, 70, 40), Process(serve.pid, 20, 20)),
        1: (Process(serve.pid, 50, 30),),
    }
    rig = run_simulators(undo, place, uses, lambda gpu, is_on: users[gpu].tell(is_on))
    node = Node(place, rig.settings(window_s))
    undo.callback(end, node)
    node.start(**rig.environment)
    return Parts(rig.world, node, users)


def end(node: Node) -> None:
    """Stop the daemon, and kill it where that does not help."""
    if node.is_started and node.child.poll() is None:
        try:
            node.stop()
        except subprocess.TimeoutExpired:
            node.kill()


def start_users(undo: ExitStack, ground: Ground) -> tuple[User, User]:
    """Start the GPUs' two users, in cgroups of their own where these can be made."""
    if ground.base is None:
        say("not root, or no cgroup can be made here: both GPU users share this session's cgroup")
    if ground.readable is None:
        say("no cgroup tells this machine's CPU use: the package stays idle")
    places: list[Path | None] = [None, None]
    if ground.base is not None:
        top = f"tychod-demo-{secrets.token_hex(4)}.slice"
        cgroups = undo.enter_context(RealCgroups(ground.base, top))
        places = [cgroups.make(f"{name}.service") for name in (TRAIN, SERVE)]
    train, serve = (
        undo.enter_context(User(name, place))
        for name, place in zip((TRAIN, SERVE), places, strict=True)
    )
    return train, serve


def say(text: str) -> None:
    """Tell what is going on."""
    print(f"demo: {text}", flush=True)


def watch(parts: Parts, stop: threading.Event, until_s: float) -> None:
    """Show window after window until asked to stop, or until then."""
    is_terminal = sys.stdout.isatty()
    with Feed(parts.node.socket) as feed:
        late_s = time.monotonic() + PATIENCE_S
        while not stop.wait(LOOK_S) and time.monotonic() < until_s:
            parts.check()
            answer = feed.newest()
            if answer is not None:
                late_s = time.monotonic() + PATIENCE_S
                show(view(answer, parts.world, parts.node), is_terminal)
            if time.monotonic() > late_s:
                raise FailedError(f"no window of tychod for {PATIENCE_S:.0f} s")


def show(text: str, is_terminal: bool) -> None:
    """Print a view: over the last one on a terminal, cut to its size; elsewhere below it."""
    if is_terminal:
        columns, lines = shutil.get_terminal_size()
        text = "\n".join(line[:columns] for line in text.splitlines()[: lines - 1])
        text = f"\x1b[H\x1b[2J{text}"
    print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 also when it was interrupted, 1 when a part of it failed."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.0, help="end by itself; 0: do not")
    parser.add_argument("--window", type=float, default=3.0, help="length of a window, seconds")
    options = parser.parse_args(argv)
    began_s = time.monotonic()
    stop = threading.Event()
    with signals_asking(stop):
        try:
            with ExitStack() as undo:
                say("starting a BMC, RAPL, hwmon, two GPUs, two processes, and tychod on them")
                parts = start(undo, options.window)
                say(f"ready after {time.monotonic() - began_s:.1f} s; Ctrl-C ends it")
                say("the BMC is 1.75 s late: about a minute passes until tychod has learned that")
                say(f"also: export TYCHOD_SOCKET={parts.node.socket}")
                watch(parts, stop, time.monotonic() + (options.seconds or 1e9))
        except (FailedError, NoCompilerError, OSError, RuntimeError) as exc:
            return failed(str(exc), stop)
        except subprocess.CalledProcessError as exc:
            return failed(f"{exc}: {(exc.stderr or b'').decode(errors='replace')}", stop)
    say("ended, and removed what it made")
    return 0


def failed(why: str, stop: threading.Event) -> int:
    """Say what failed, unless it was asked to stop: then the parts may have heard it first."""
    if stop.is_set():
        say("ended, and removed what it made")
        return 0
    print(f"demo: failed, and removed what it made: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

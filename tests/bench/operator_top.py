"""What `tychoctl top` costs: CPU and memory of the real program on a terminal, 250 containers.

Once on a node on which nothing comes or goes, once where containers live for seconds.
The daemon's socket is real, its results are made by hand: new ones every window, with other power.
"""

import dataclasses
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Final

from tests.bench.client import make_client, make_container, make_leaves
from tests.bench.figures import Figure
from tests.bench.interpreter import daemon_python
from tests.fixtures import snapshots as made
from tychod.buffer import Latest
from tychod.model import Identity, Leaf, Snapshot, Window
from tychod.runtime.answers import Answers, Readers

WINDOW_S: Final = 3.0
WINDOWS: Final = 6
WARM_S: Final = 1.5
PATIENCE_S: Final = 20.0
SIZE: Final = (60, 200)  # lines and cells: a large terminal, with every column
TARGET_CPU_PERCENT: Final = 3.0  # of a core, the issue's
TARGET_RSS_MB: Final = 40.0
ENDED: Final = 100
"""Containers that have ended and are still listed, other ones in every window."""
EVICTED: Final = 600
"""Pods that nothing is left of but their energy."""
TICK_HZ: Final = os.sysconf("SC_CLK_TCK")


def make_churn(number: int) -> tuple[Leaf, ...]:
    """Return what is left of containers that lived for seconds; a third of it is new."""
    first = number * ENDED // 3
    ended = [
        made.make_leaf(
            make_container(1000 + first + i), 500 + i, cpu_s=0.5, power_w=0.0, ended=True
        )
        for i in range(ENDED)
    ]
    gone = (f"00000000-0000-4000-9000-{i + first:012d}" for i in range(EVICTED))
    past = [
        made.make_leaf(
            Identity(kind="past", id=f"past:{uid}", name="past", pod_uid=uid), 500, power_w=0.0
        )
        for uid in gone
    ]
    return (*ended, *past)


def make_window(number: int, *, churns: bool = False) -> Snapshot:
    """Return a window in which every workload's power is another than before."""
    gone = make_churn(number) if churns else ()
    leaves = tuple(
        dataclasses.replace(
            leaf,
            power_w=dict.fromkeys(leaf.power_w, 0.1 + (place * 7 + number * 13) % 50 / 10),
        )
        for place, leaf in enumerate(make_leaves())
    )
    snapshot = made.make_snapshot((*leaves, *gone), sequence=20 + number)
    later_ns = round(number * WINDOW_S * made.SECOND_NS)
    window = Window(*(at_ns + later_ns for at_ns in snapshot.window))
    return dataclasses.replace(snapshot, window=window)


def make_answers(latest: Latest[Snapshot]) -> Answers:
    """Return the answers of a daemon that remembers ten minutes."""
    wall_s = made.BOOT_WALL_NS / made.SECOND_NS
    points = [[wall_s - 600 + 3 * i, {"package": 40.0 + i % 9, "dram": 2.0}] for i in range(200)]
    readers = Readers(
        facts=lambda: made.FACTS,
        status=lambda: made.STATUS,
        settings=lambda: made.SETTINGS,
        wait_s=lambda: 1.5,
        questions={"trend": lambda _args, _view: {"points": points}},
    )
    return Answers(latest, made.StillClock(), readers)


def measure() -> list[Figure]:
    """Return what top takes on a quiet node and on one on which containers come and go."""
    return [*measure_one(churns=False), *measure_one(churns=True)]


def measure_one(*, churns: bool) -> list[Figure]:
    """Return CPU and memory of top over some windows, its start not counted in the CPU."""
    latest: Latest[Snapshot] = Latest()
    latest.publish(make_window(0, churns=churns))
    with tempfile.TemporaryDirectory(prefix="tychod-bench-") as name:
        path = Path(name) / "control.sock"
        _, *client = make_client(Path(name))
        argv = [python_with_rich(), *client, "--socket", str(path), "top"]
        with made.serving(path, latest, make_answers(latest)):
            pid, screen_fd = start(argv)
            try:
                return follow(pid, screen_fd, latest, churns=churns)
            finally:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(screen_fd)


def python_with_rich() -> str:
    """Return the distribution's interpreter where it has rich, else the virtual environment's."""
    asked = [daemon_python()[0], "-c", "import rich"]
    done = subprocess.run(asked, capture_output=True, check=False)
    return sys.executable if done.returncode else asked[0]


def start(argv: list[str]) -> tuple[int, int]:
    """Start a program on a terminal of its own; return its process and the terminal's other end."""
    pid, screen_fd = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, {**os.environ, "TERM": "xterm-256color"})  # noqa: S606
    fcntl.ioctl(screen_fd, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    return pid, screen_fd


def follow(pid: int, screen_fd: int, latest: Latest[Snapshot], *, churns: bool) -> list[Figure]:
    """Let windows come; return what was used meanwhile."""
    drawn, deadline = b"", time.monotonic() + PATIENCE_S
    while b"deployment-" not in drawn:
        if time.monotonic() > deadline:
            raise RuntimeError(f"top shows no workloads: {drawn[-500:]!r}")
        drawn += look(screen_fd, WARM_S)
    before_s, began_s = cpu_s(pid), time.monotonic()
    sent = 0
    for number in range(1, WINDOWS + 1):
        latest.publish(make_window(number, churns=churns))
        sent += len(look(screen_fd, WINDOW_S))
    used_s, taken_s = cpu_s(pid) - before_s, time.monotonic() - began_s
    node = f"250 containers, {ENDED + EVICTED} gone" if churns else "250 containers"
    what = f"tychoctl top, {node}, {SIZE[1]}x{SIZE[0]}"
    return [
        Figure(f"{what}: CPU", 100 * used_s / taken_s, "% of a core", TARGET_CPU_PERCENT),
        Figure(f"{what}: most memory", rss_mb(pid), "MB", TARGET_RSS_MB),
        Figure(f"{what}: sent to the terminal", sent / 1000 / WINDOWS, "kB/window", None),
    ]


def look(screen_fd: int, seconds: float) -> bytes:
    """Read what is drawn for so long, as a terminal does."""
    drawn = b""
    deadline = time.monotonic() + seconds
    while (left_s := deadline - time.monotonic()) > 0:
        if select.select([screen_fd], [], [], left_s)[0]:
            try:
                drawn += os.read(screen_fd, 65536)
            except OSError as exc:  # the terminal has nobody left on it
                raise RuntimeError(f"top ended by itself: {drawn[-500:]!r}") from exc
    return drawn


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_HZ


def rss_mb(pid: int) -> float:
    """Return the most memory that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError("the kernel tells no VmHWM")


if __name__ == "__main__":
    from tests.bench.figures import render

    for figure in measure():
        print(render(figure))
    sys.exit(0)

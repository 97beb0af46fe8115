"""What `tychoctl doctor` takes: time where everything fails slowly, and all of it on this machine.

It is two processes: the client, and `tychod --doctor`, which looks at the host beside it.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure
from tests.sim.silent import SILENT, SilentHost

WALL_TARGET_S: Final = 3.0
ENDED_S: Final = 30.0
MEMORY_TARGET_MB: Final = 40.0
"""The client's; the other process is no client, but the command is what an operator runs."""
LOOK_S: Final = 0.005


def run(command: Sequence[str], environ: Mapping[str, str] | None) -> tuple[float, float, bytes]:
    """Return wall and CPU seconds of a command with its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun_s = time.monotonic()
    done = subprocess.run(
        command, env=environ, capture_output=True, check=False, timeout=ENDED_S, cwd=Path.cwd()
    )
    wall_s = time.monotonic() - begun_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, cpu_s, done.stdout


def peaks_mb(command: Sequence[str]) -> tuple[float, float]:
    """Return the most memory that a command and a process that it starts had, in MB."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    own, started = 0.0, 0.0
    while child.poll() is None:
        own = max(own, most_mb(child.pid))
        started = max(started, *(most_mb(pid) for pid in (0, *children(child.pid))))
        time.sleep(LOOK_S)
    return own, started


def children(pid: int) -> list[int]:
    """Return the processes that one has started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return []


def most_mb(pid: int) -> float:
    """Return the most memory that a process has had so far; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return found[0] / 1000 if found else 0.0


def measure() -> list[Figure]:
    """Return the time of a doctor that nobody answers, and of one on this machine."""
    with tempfile.TemporaryDirectory() as name, SilentHost(Path(name)) as host:
        slow_s, _, told = run(host.command("-o", "json"), host.environment())
    states = {check["id"]: check["state"] for check in json.loads(told)["checks"]}
    unanswered = sum(states.get(ident) == "fail" for ident in SILENT)
    plain = [sys.executable, "-m", "tychoctl", "doctor"]
    client_mb, host_mb = peaks_mb(plain)
    runs = [run(plain, None)[:2] for _ in range(3)]
    return [
        Figure("doctor: wall, everything fails slowly", slow_s, "s", WALL_TARGET_S),
        Figure(f"doctor: silent peers told as failed, of {len(SILENT)}", unanswered, "", None),
        Figure("doctor: wall on this machine", min(wall for wall, _ in runs), "s", WALL_TARGET_S),
        Figure("doctor: CPU on this machine", min(cpu for _, cpu in runs), "s", None),
        Figure("doctor: most memory of the client", client_mb, "MB", MEMORY_TARGET_MB),
        Figure("doctor: most memory of tychod --doctor", host_mb, "MB", MEMORY_TARGET_MB),
    ]

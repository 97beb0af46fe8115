"""How long `tychoctl doctor` takes where everything fails slowly, and on this machine as it is."""

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


def measure() -> list[Figure]:
    """Return the time of a doctor that nobody answers, and of one on this machine."""
    with tempfile.TemporaryDirectory() as name, SilentHost(Path(name)) as host:
        slow_s, _, told = run(host.command("-o", "json"), host.environment())
    states = {check["id"]: check["state"] for check in json.loads(told)["checks"]}
    unanswered = sum(states.get(ident) == "fail" for ident in SILENT)
    plain = [sys.executable, "-m", "tychoctl", "doctor"]
    runs = [run(plain, None)[:2] for _ in range(3)]
    return [
        Figure("doctor: wall, everything fails slowly", slow_s, "s", WALL_TARGET_S),
        Figure(f"doctor: silent peers told as failed, of {len(SILENT)}", unanswered, "", None),
        Figure("doctor: wall on this machine", min(wall for wall, _ in runs), "s", WALL_TARGET_S),
        Figure("doctor: CPU on this machine", min(cpu for _, cpu in runs), "s", None),
    ]

"""What `make demo` shows: the truth of a window beside what tychod says of it, and its tables."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from tests.sim.demo_world import World
from tests.sim.node import Node

ROWS: Final = 12
"""Of a table, heading included."""
CHUNK: Final = 1 << 20


class Feed:
    """One `tychoctl node -o json -w`: an answer for each window; a context manager."""

    def __init__(self, socket: Path) -> None:
        command = [sys.executable, "-m", "tychoctl", "--socket", str(socket), "--wait", "20"]
        self._child = subprocess.Popen(
            [*command, "node", "-o", "json", "-w"],
            stdout=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for who started it
        )
        self._text = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    def newest(self) -> dict[str, Any] | None:
        """Return the newest answer that was not seen yet, if there is one."""
        assert self._child.stdout
        while select.select([self._child.stdout], [], [], 0)[0]:
            read = os.read(self._child.stdout.fileno(), CHUNK)
            if not read:
                break
            self._text += read
        *whole, self._text = self._text.split(b"\n")
        return json.loads(whole[-1]) if whole else None


def view(answer: Mapping[str, Any], world: World, node: Node) -> str:
    """Return all there is to show of a window."""
    tables = (table(node, name) for name in ("node", "gpus", "workloads"))
    return "\n".join([*compared(answer, world), *tables])


def table(node: Node, name: str) -> str:
    """Return the first rows of one of tychoctl's tables, or why there is none."""
    done = node.tychoctl(name, wait_s=0)
    lines = (done.stdout or done.stderr).splitlines()
    more = [f"... {len(lines) - ROWS} more"] if len(lines) > ROWS else []
    return "\n".join(["", f"$ tychoctl {name}", *lines[:ROWS], *more])


def compared(answer: Mapping[str, Any], world: World) -> Iterator[str]:
    """Yield the lines that compare the truth with an answer of `tychoctl node`, in watts."""
    window = answer["window"]
    ahead_ns = time.time_ns() - time.monotonic_ns()
    start_ns, end_ns = (unix_ns(window[edge]) - ahead_ns for edge in ("start", "end"))
    true = world.watts(start_ns, end_ns)
    yield f"window {answer['sequence']}, {window['seconds']:.1f} s {'truth':>22} {'tychod':>10}"
    domains = answer["domains"]
    yield row("platform", true.platform, domains.get("platform"))
    yield row("package", true.package, domains.get("package"))
    yield row("gpu", sum(true.gpus), domains.get("gpu"))
    zones = {zone["uuid"]: zone for zone in domains.get("gpu", {}).get("zones", ())}
    for uuid, watts in zip(sorted(zones), true.gpus, strict=False):
        yield row(f"  {uuid[-4:]}", watts, zones[uuid])
    yield row("residual", true.residual, answer.get("residual"))


def row(name: str, true_w: float, told: Mapping[str, Any] | None) -> str:
    """Return one line; a dash where tychod does not say."""
    power_w = (told or {}).get("power_w")
    shown = "-" if power_w is None else f"{power_w:.1f} W"
    quality = (told or {}).get("quality", "")
    if told and not told.get("usable", True):
        quality = "not usable yet"
    return f"{name:<20} {true_w:18.1f} W {shown:>10}  {quality}".rstrip()


def unix_ns(text: str) -> int:
    """Return nanoseconds since 1970."""
    return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000

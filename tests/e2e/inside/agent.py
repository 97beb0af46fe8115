"""A fake Firework agent with fake Firecrackers below it: `python3 -m tests.e2e.inside.agent STATE`.

It works a little itself. On its standard input, one a line:

    start NAME laid     starts a microVM as Firework does; `/status` does not tell of it
    start NAME told     starts one whose command line says nothing; `/status` tells of it
    stop NAME           ends it
    fault KIND          how `/status` answers from now on (tests/sim/firework.py); "none": well

It answers each with a line: the address of `/status`, or the microVM's process id.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.sim.firework import SimFirework, service, status

BUSY: Final = 0.04  # of each of the two vCPUs
OWN_PERCENT: Final = "3"
SIZE: Final = {"vcpu_count": 2, "mem_size_mib": 128}


class Machines:
    """The microVMs that run, by their services."""

    def __init__(self, state: Path, programs: Path) -> None:
        self._state = state
        self._programs = programs
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._told: set[str] = set()

    def start(self, name: str, how: str) -> str:
        """Start a service's microVM."""
        place = self._state / "vms" / name if how == "laid" else self._state
        place.mkdir(parents=True, exist_ok=True)
        config = place / f"{name}.json"
        config.write_text(json.dumps({"machine-config": SIZE}), encoding="utf-8")
        socket = place / ("firecracker.sock" if how == "laid" else f"{name}.sock")
        self._running[name] = subprocess.Popen(
            ("firecracker", "--api-sock", str(socket), "--config-file", str(config)),
            executable=self._programs / "firecracker",
            env={"SIM_VMM_VCPUS": "2", "SIM_VMM_BUSY": str(BUSY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        if how == "told":
            self._told.add(name)
        return str(self._running[name].pid)

    def stop(self, name: str) -> str:
        """End a service's microVM."""
        machine = self._running.pop(name)
        self._told.discard(name)
        machine.kill()
        machine.wait()
        return str(machine.pid)

    def told(self) -> bytes:
        """Return what `/status` says."""
        return status(*(service(name, self._running[name].pid) for name in sorted(self._told)))


def obey(words: Mapping[int, str], machines: Machines, agent: SimFirework) -> str:
    """Do as a line says; return the answer."""
    if words[0] == "fault":
        agent.fault = "" if words[1] == "none" else words[1]
        return agent.url
    pid = machines.start(words[1], words[2]) if words[0] == "start" else machines.stop(words[1])
    agent.answer = machines.told()
    return pid


def main() -> None:
    """Serve until standard input ends."""
    state, programs = Path(sys.argv[1]), Path(sys.argv[2])
    machines = Machines(state, programs)
    own = subprocess.Popen((programs / "work", OWN_PERCENT))
    with contextlib.ExitStack() as stack:
        stack.callback(own.kill)
        agent = stack.enter_context(SimFirework(machines.told()))
        os.write(1, f"{agent.url}\n".encode())
        for line in sys.stdin:
            os.write(1, f"{obey(dict(enumerate(line.split())), machines, agent)}\n".encode())


if __name__ == "__main__":
    main()

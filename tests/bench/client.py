"""CPU time of one-shot client commands against a real server with 250 containers."""

import dataclasses
import os
import secrets
import statistics
import tempfile
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure
from tests.bench.interpreter import daemon_python
from tests.fixtures import snapshots as made
from tychod.buffer import Latest
from tychod.model import Identity, Leaf, Snapshot

PODS: Final = 120
CONTAINERS: Final = 250
UNITS: Final = 60
RUNS: Final = 11
TARGET_CPU_MS: Final = 70.0  # issue "1 of 6": one-shot client commands
COMMANDS: Final = (
    ("status",),
    ("pods",),
    ("workloads",),
    ("workloads", "-o", "json"),
    ("containers", "-o", "csv"),
)


def make_leaves() -> tuple[Leaf, ...]:
    """Return a full node's leaves: 250 containers in 120 pods, 60 units and the fixed ones."""
    containers = [
        made.make_leaf(make_container(number), 1_000_000 + number, cpu_s=number, power_w=0.1)
        for number in range(CONTAINERS)
    ]
    units = [
        made.make_leaf(
            Identity(kind="unit", id=f"unit-{number}.service", name=f"unit-{number}.service"),
            1_000 + number,
            power_w=0.001,
        )
        for number in range(UNITS)
    ]
    fixed = [leaf for leaf in made.LEAVES if leaf.identity.kind in ("kernel", "system")]
    return (*containers, *units, *fixed)


def make_container(number: int) -> Identity:
    """Return the identity of one of the containers, spread over the pods."""
    pod = number % PODS
    uid = f"00000000-0000-4000-8000-{pod:012d}"
    template = made.container(f"{number:064x}", "main", f"deployment-{pod}", uid)
    return dataclasses.replace(template, labels={"app": f"app-{pod}", "tier": "backend"})


def measure() -> list[Figure]:
    """Return the median CPU time of each command, interpreter start included."""
    latest: Latest[Snapshot] = Latest()
    latest.publish(made.make_snapshot(make_leaves()))
    with tempfile.TemporaryDirectory(prefix=f"tychod-bench-{secrets.token_hex(4)}") as directory:
        path = Path(directory) / "control.sock"
        client = [*make_client(Path(directory)), "--socket", str(path)]
        with made.serving(path, latest):
            return [measure_command(client, command) for command in COMMANDS]


def make_client(directory: Path) -> list[str]:
    """Return the installed client's command line: its launcher, isolated, with byte code kept.

    The byte code is written below the directory, by the first run.
    """
    checkout = Path(__file__).parents[2]
    text = (checkout / "packaging" / "launchers" / "tychoctl").read_text()
    launcher = directory / "tychoctl"
    launcher.write_text(text.replace("/usr/lib/tychod", str(checkout)))
    return [daemon_python()[0], "-I", "-X", f"pycache_prefix={directory}/bytecode", str(launcher)]


def measure_command(client: list[str], command: tuple[str, ...]) -> Figure:
    """Return the median CPU time of a command that has been run before."""
    argv = [*client, *command]
    run_ms(argv)
    times_ms = [run_ms(argv) for _ in range(RUNS)]
    name = f"tychoctl {' '.join(command)}, {CONTAINERS} containers"
    return Figure(name, statistics.median(times_ms), "ms CPU", TARGET_CPU_MS)


def run_ms(argv: list[str]) -> float:
    """Run a command to its end; return its user and system time in milliseconds."""
    null = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(argv[0], argv, dict(os.environ), file_actions=null)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{' '.join(argv)} failed with status {status}")
    return (usage.ru_utime + usage.ru_stime) * 1000

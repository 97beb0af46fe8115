"""A full node of 250 containers for clients to ask about, and the installed client itself."""

import dataclasses
from pathlib import Path
from typing import Final

from tests.bench.interpreter import daemon_python
from tests.fixtures import snapshots as made
from tychod.model import Identity, Leaf

PODS: Final = 120
CONTAINERS: Final = 250
UNITS: Final = 60


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


def make_client(directory: Path) -> list[str]:
    """Return the installed client's command line: its launcher, isolated, with byte code kept.

    The byte code is written below the directory, by the first run.
    """
    checkout = Path(__file__).parents[2]
    text = (checkout / "packaging" / "launchers" / "tychoctl").read_text()
    launcher = directory / "tychoctl"
    launcher.write_text(text.replace("/usr/lib/tychod", str(checkout)))
    return [daemon_python()[0], "-I", "-X", f"pycache_prefix={directory}/bytecode", str(launcher)]

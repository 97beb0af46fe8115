"""The whole daemon on simulated meters of one world: a BMC, RAPL, and a driver with two GPUs."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.test_daemon import both, check_sums
from tests.sim.bmccadence import Cadence
from tests.sim.cgrouptree import RealCgroups
from tests.sim.demo_users import User
from tests.sim.demo_world import PACKAGE
from tests.sim.node import Node
from tests.sim.nvml.world import NS, Process
from tests.sim.platformrig import Rig, find_ground, run_simulators

WINDOW_S = 1.0
BLOCK_S = 60.0
HANG_S = 30.0
IMPORTED = {"PYTHONPROFILEIMPORTTIME": "1"}
"""Lets the interpreter write a line into the log for everything that is imported."""


class Bench(NamedTuple):
    """The simulators, whose package stands still at first, and the GPUs' user in its cgroup."""

    rig: Rig
    unit: str
    start_uj: int


@pytest.fixture
def bench(tmp_path: Path, run_name: str) -> Iterator[Bench]:
    """Start the simulators; a process in a cgroup of its own is the only user of both GPUs."""
    if not (shutil.which("openssl") and any(map(shutil.which, ("cc", "gcc", "clang")))):
        pytest.skip("the simulators need a C compiler and openssl")
    ground = find_ground()
    if ground.base is None:
        pytest.skip("no cgroup hierarchy can be written here (needs root)")
    with ExitStack() as undo:
        cgroups = undo.enter_context(RealCgroups(ground.base, f"{run_name}.slice"))
        unit = f"{run_name}.service"
        user = undo.enter_context(User("gpu-user", cgroups.make(unit)))
        users = {number: (Process(user.pid, 60, 30),) for number in range(2)}
        rig = run_simulators(undo, tmp_path, users, cadence=Cadence(period_s=0.5))
        machine = rig.world.package.machine
        machine.set_paused(True)
        yield Bench(rig, unit, machine.ledger_uj()[PACKAGE])


def wait_for_leaf(node: Node, unit: str) -> dict[str, Any]:
    """Wait until a unit has energy of a GPU; return its leaf."""
    end_s = time.monotonic() + HANG_S
    while time.monotonic() < end_s:
        for leaf in node.ask("workloads")["workloads"]:
            if leaf["id"] == unit and leaf["energy"].get("gpu", {}).get("dynamic_uj"):
                found: dict[str, Any] = leaf
                return found
        time.sleep(0.2)
    raise AssertionError(f"no energy of a GPU for {unit}: {node.ask('workloads')}")


def wait_for_state(node: Node, names: set[str], state: str) -> None:
    """Wait until these sources are in a state."""
    end_s = time.monotonic() + HANG_S
    while time.monotonic() < end_s:
        states = {s["name"]: s["state"] for s in node.ask("sources")["sources"]}
        if {states[name] for name in names} == {state}:
            return
        time.sleep(0.2)
    raise AssertionError(f"not {state}: {states}")


@pytest.mark.root
def test_what_hangs_costs_only_itself(bench: Bench, tmp_path: Path) -> None:
    """Platform and GPUs are there, and a process has its GPUs' energy; then BMC and driver hang.

    The package's energy is its counter's to the microjoule all the same, sums stay exact, and the
    daemon stops.
    """
    machine = bench.rig.world.package.machine
    node = Node(tmp_path, bench.rig.settings(WINDOW_S))
    with ExitStack() as undo:
        undo.push(node)
        node.start(**bench.rig.environment, **IMPORTED)
        leaf = wait_for_leaf(node, bench.unit)
        seen = node.ask("node")
        machine.set_paused(False)
        bench.rig.world.nvml.device(0).block_ns = round(BLOCK_S * NS)
        bench.rig.bmc.fault = "hang"
        wait_for_state(node, {"nvml"}, "stalled")
        machine.set_paused(True)
        node.wait_windows(2)
        answer, leaves = both(node)
        status = node.stop()
        log = node.read_log()

    assert seen["domains"]["platform"]["source"] == "redfish"
    assert seen["domains"]["platform"]["energy_uj"] > 0
    assert len(seen["domains"]["gpu"]["zones"]) == 2
    assert leaf["total"]["dynamic_uj"] >= leaf["energy"]["gpu"]["dynamic_uj"]
    assert seen["residual"]["through"]
    grown_uj = machine.ledger_uj()[PACKAGE] - bench.start_uj
    assert answer["domains"]["package"]["energy_uj"] == grown_uj > 0
    for name in ("platform", "other"):  # facts of the node: no leaf has a part of them
        answer["domains"].pop(name, None)
    check_sums(answer, leaves)
    assert status == 0
    assert {"pynvml", "requests"} <= imported(log)


def test_nothing_is_imported_for_what_is_not_there(tmp_path: Path) -> None:
    """Without a driver and without credentials neither pynvml nor requests costs anything."""
    settings = f'[kubelet]\nenabled = false\n[nvml]\nlibrary = "{tmp_path / "none.so"}"\n'
    node = Node(tmp_path, settings)
    with ExitStack() as undo:
        undo.push(node)
        node.start(**IMPORTED)
    seen = imported(node.read_log())

    assert "tychod.runtime.daemon" in seen
    assert not {"pynvml", "requests"} & seen


def imported(log: str) -> set[str]:
    """Return the modules that were imported."""
    lines = [line for line in log.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}

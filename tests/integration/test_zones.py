"""A whole daemon and zones that come late or cannot be told apart: no energy lost or doubled."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.sim.cgrouptree import FakeTree
from tests.sim.node import Node
from tests.sim.powercap import LAYOUTS, Driver, Machine, Power, SimZone
from tychod.collectors import rapl
from tychod.runtime.daemon import Daemon
from tychod.runtime.listener import bind_control_socket
from tychod.runtime.store import Store
from tychod.settings import Arguments, load_settings

PATIENCE_S = 30.0
POWER = Power(100.0, {})
FIRST, SECOND = LAYOUTS["intel-2s"][:3], LAYOUTS["intel-2s"][3:]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A machine of plain files with windows of a second; the daemon is not started."""
    tree = FakeTree(tmp_path)
    made = Node(
        tmp_path,
        f'[host]\nprocfs = "{tree.procfs}"\nsysfs = "{tmp_path}/sys"\n'
        f'cgroupfs = "{tree.cgroupfs}"\nrun = "{tmp_path}/none"\nlog = "{tmp_path}/none"\n'
        "[window]\nlength = 1.0\n[kubelet]\nenabled = false\n",
    )
    with ExitStack() as stack:
        stack.callback(tree.close)
        stack.callback(made.__exit__)
        yield made


def wait_for(met: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def package(node: Node) -> dict[str, Any]:
    """Return the package domain of the newest window."""
    found: dict[str, Any] = node.ask("node")["domains"]["package"]
    return found


def run_machine(stack: ExitStack, sysfs: Path, zones: Sequence[SimZone]) -> Machine:
    """Let zones count from now on, paused at first."""
    machine = Machine(sysfs, zones, POWER, start_uj=5_000_000)
    machine.set_paused(True)
    stack.enter_context(Driver(machine))
    return machine


def test_zones_that_come_late_are_read_and_cost_the_others_nothing(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second socket appears under load: both meters are in the node to the microjoule."""
    monkeypatch.setattr(rapl, "LOOK_INTERVAL_NS", 300_000_000)
    with ExitStack() as stack:
        first = run_machine(stack, tmp_path / "sys", FIRST)
        unseen_first = first.ledger_uj()
        settings = load_settings(Arguments(str(node.config), None), {})
        store = Store(tmp_path / "state")
        stack.callback(store.close)
        crashes: list[str] = []
        listener = bind_control_socket(node.socket, gid=None)
        daemon = Daemon(settings, store, listener, node.socket, crashes.append)
        stack.callback(daemon.stop)
        daemon.start(PATIENCE_S, lambda: False)
        node.wait_windows(1)
        first.set_paused(False)
        node.wait_windows(2)
        second = run_machine(stack, tmp_path / "sys", SECOND)
        # Both stand still until the daemon has seen them: what they count later is all its own.
        unseen = {**unseen_first, **second.ledger_uj()}
        wait_for(lambda: len(package(node)["zones"]) == 2)
        node.wait_windows(1)
        second.set_paused(False)
        node.wait_windows(3)
        first.set_paused(True)
        second.set_paused(True)
        node.wait_windows(2)
        domains = node.ask("node")["domains"]
        leaves = {leaf["id"]: leaf for leaf in node.ask("workloads")["workloads"]}
        status = node.ask("status")

    ledgers = {d: uj - unseen[d] for m in (first, second) for d, uj in m.ledger_uj().items()}
    truth = dict.fromkeys(("package", "core", "dram"), 0)
    for zone in (*FIRST, *SECOND):
        truth[zone.name.partition("-")[0]] += ledgers[zone.directory]
    assert {name: domains[name]["energy_uj"] for name in truth} == truth
    assert all(min(m.ledger_uj().values()) > 10_000_000 for m in (first, second))
    assert domains["package"]["quality"] == "measured"
    assert "could not be read" not in (leaves["unattributed"]["reason"] or "")
    assert status["conservation_violations"] == 0
    assert not crashes


def test_ready_when_every_source_has_answered(node: Node, tmp_path: Path) -> None:
    """Without a meter the model has been read when the daemon says that it is ready."""
    node.start()
    ready = next(line for line in node.read_log().splitlines() if "ready:" in line)

    assert "rapl unavailable" in ready
    assert "model ok" in ready
    assert "model off" not in ready
    assert (tmp_path / "run" / "tychod.sock").exists()


def test_a_zone_without_a_name_is_told_of(node: Node, tmp_path: Path) -> None:
    """A directory in the place of a zone's name costs that zone, is a problem, and ends nothing."""
    with ExitStack() as stack:
        run_machine(stack, tmp_path / "sys", LAYOUTS["intel-2s"])
        name = tmp_path / "sys" / "class" / "powercap" / "intel-rapl:1" / "name"
        name.unlink()
        name.mkdir()
        node.start()
        node.wait_windows(1)
        zones = package(node)["zones"]
        problems = node.ask("status")["problems"]
        code = node.stop()

    assert [zone["name"] for zone in zones] == ["package-0"]
    (problem,) = [p for p in problems if p["source"] == "rapl"]
    assert "intel-rapl:1/name: Is a directory" in problem["reason"]
    assert code == 0

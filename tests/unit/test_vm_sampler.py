"""Machines that live for less than a window: seen where others were, read before they end."""

from pathlib import Path

import pytest

from tests.sim.vmm import FakeProcess
from tychod import config
from tychod.clock import SystemClock
from tychod.hostfs import Host
from tychod.model import Identity
from tychod.runtime.vms import YOUNG_NS, VmSampler
from tychod.samples import VmSeries
from tychod.workloads.machines import Machines
from tychod.workloads.nurseries import KEPT_NS, MOST, Nurseries
from tychod.workloads.vmprocs import ThreadTimes, VmFinder

SECOND = 1_000_000_000
AGENT = "/system.slice/agent.service"
UNIT = Identity("unit", "agent.service", "agent.service", cgroup=AGENT)


class Node:
    """A host of files with one service that starts machines, and who looks at it."""

    def __init__(self, place: Path) -> None:
        self.host = Host(config.Host(procfs=str(place / "proc"), cgroupfs=str(place / "cgroup")))
        self.procs = place / "cgroup" / AGENT.lstrip("/") / "cgroup.procs"
        self.procs.parent.mkdir(parents=True)
        self.procs.write_text("")
        Path(self.host.procfs).mkdir()
        self.finder = VmFinder(self.host, "v2")
        self.nurseries = Nurseries(self.host, self.host.cgroupfs)
        self.machines = Machines()
        self.crashes: list[str] = []
        self.sampler = VmSampler(ThreadTimes(self.host), SystemClock(), self.crashes.append)

    def start(self, pid: int, ident: str) -> FakeProcess:
        """Start a machine in the service."""
        argv = ("./firecracker", "--id", ident)
        made = FakeProcess(Path(self.host.procfs), pid, argv, cgroup=AGENT)
        made.write()
        self.procs.write_text(f"{self.procs.read_text()}{pid}\n")
        return made

    def look(self, now_ns: int) -> list[str]:
        """Look as the identity thread does; return the ids of the machines that are there."""
        self.finder.look(now_ns)
        processes = self.finder.look_at(self.nurseries.pids(now_ns), now_ns)
        self.machines.update(processes, {AGENT: (7, UNIT)}.get, now_ns)
        for each in self.machines.watched:
            self.nurseries.note(each.process.cgroup, now_ns)
        self.sampler.follow(self.machines.watched, now_ns)
        running = {each.vm_key for each in self.machines.watched}
        return [who.id for key, who in self.machines.identities.items() if key in running]

    def end_window(self) -> VmSeries:
        """Read as at a window's end."""
        self.sampler._read(0)
        series = self.sampler.seen()
        assert series is not None
        return series


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return one whose service has had a machine."""
    made = Node(tmp_path)
    made.start(5, "first")
    assert made.look(0) == ["first"]
    return made


def test_where_one_was_the_next_is_seen_at_once(node: Node) -> None:
    """All processes are listed every two seconds; this cgroup is looked into at every look."""
    node.start(6, "brief")
    assert node.look(SECOND // 5) == ["first", "brief"]


def test_one_that_ended_before_the_windows_end_is_told_once(node: Node) -> None:
    """Its last reading is what is known of it; afterwards it is gone."""
    brief = node.start(6, "brief")
    node.look(SECOND // 5)
    brief.remove()
    node.look(2 * SECOND // 5)

    assert {use.pid for use in node.end_window().uses} == {5, 6}
    assert {use.pid for use in node.end_window().uses} == {5}
    node.look(3 * SECOND)
    assert {use.pid for use in node.end_window().uses} == {5}


def test_an_old_one_is_read_at_windows_ends_only(node: Node) -> None:
    """After five seconds its last part is the kernel programs' to tell."""
    node.look(YOUNG_NS + SECOND)
    FakeProcess(Path(node.host.procfs), 5, ("./firecracker",), cgroup=AGENT).remove()

    assert node.end_window().uses == ()


def test_cgroups_are_forgotten_and_bounded(node: Node) -> None:
    """A service that starts no more machines costs nothing after ten minutes."""
    assert list(node.nurseries.pids(KEPT_NS)) == [5]
    assert list(node.nurseries.pids(KEPT_NS + 1)) == []
    assert not node.nurseries
    for number in range(2 * MOST):
        node.nurseries.note(f"/{number}", 0)
    assert len(node.nurseries) == MOST

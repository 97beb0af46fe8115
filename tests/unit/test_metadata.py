"""The identity thread: names of what lives briefly, and of what was made at a window's end."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.podnode import PARENT, PodNode
from tests.unit.test_sampler import PATIENCE_S, wait_for
from tychod import config
from tychod.clock import SystemClock
from tychod.hostfs import Host
from tychod.model import Identity
from tychod.runtime.metadata import Cgroups, Hierarchy, Metadata, Sources
from tychod.runtime.naming import complete
from tychod.samples import CgroupRef
from tychod.workloads.births import Births
from tychod.workloads.registry import Registry


class Bench:
    """An identity thread on a simulated node, and the accounting that tells it of cgroups."""

    def __init__(self, place: Path) -> None:
        self.root = place / "cgroup"
        (self.root / PARENT).mkdir(parents=True)
        self.node = PodNode(place, self.make, self.remove)
        self.refs: dict[int, CgroupRef] = {}
        self.crashes: list[str] = []
        self.host = Host(
            config.Host(cgroupfs=str(self.root), run=str(place / "run"), log=str(place / "log"))
        )
        self.metadata = Metadata(
            self.hierarchy, Sources(), self.cgroups, SystemClock(), self.crashes.append
        )

    def make(self, path: str) -> None:
        """Make a cgroup."""
        (self.root / path.lstrip("/")).mkdir()

    def remove(self, path: str) -> None:
        """Remove a cgroup."""
        shutil.rmtree(self.root / path.lstrip("/"))

    def hierarchy(self, cgroups: Cgroups) -> Hierarchy:
        """Return what belongs to a root."""
        registry = Registry(self.host, cgroups.root)
        return Hierarchy(cgroups.root, registry, Births(self.host, cgroups.root), None)

    def cgroups(self) -> Cgroups:
        """Return what the accounting sees."""
        return Cgroups(str(self.root), self.refs)

    def move(self, place: Path) -> None:
        """Let the accounting follow another hierarchy."""
        self.root = place
        (place / PARENT).mkdir(parents=True)

    def see(self, path: str) -> int:
        """Let the accounting see one more cgroup; return its key."""
        key = len(self.refs) + 1
        self.refs = {**self.refs, key: CgroupRef(path, 1000 + key)}
        return key


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return a running one."""
    made = Bench(tmp_path)
    made.metadata.start()
    assert made.metadata.wait_scanned(PATIENCE_S)
    yield made
    made.metadata.ask_stop()
    assert made.metadata.join(PATIENCE_S)
    assert made.crashes == []


def test_a_container_that_is_gone_before_it_is_accounted_has_its_name(bench: Bench) -> None:
    """Its bundle is read when its cgroup is made: the accounting looks once a second."""
    pod = bench.node.start("server")
    server = f"{pod.cgroup}/cri-containerd-{pod.containers['server']}.scope"
    time.sleep(0.25)  # it lives that long
    bench.node.stop(pod)
    key = bench.see(server)
    found = bench.metadata.catch_up({key: None}, PATIENCE_S).identities[key]

    assert (found.name, found.pod, found.names_from) == ("server", pod.name, "bundle")


def test_a_window_waits_for_the_names_of_what_was_just_made(bench: Bench) -> None:
    """Who closes a window has them looked up at once; nothing is asked for twice."""
    keys = dict.fromkeys(bench.see(f"/system.slice/a{n}.service") for n in range(3))
    found = bench.metadata.catch_up(keys, PATIENCE_S)

    assert [found.identities[key].id for key in keys] == [f"a{n}.service" for n in range(3)]
    assert bench.metadata.catch_up(keys, 0.0) is found


def test_nobody_waits_long_for_a_machine_that_is_not_found(bench: Bench) -> None:
    """Its id is its hypervisor's to tell; for a second it has none, then the one of its path."""
    key = bench.see("/machine.slice/machine-qemu\\x2d1\\x2dweb.scope")
    assert key not in bench.metadata.catch_up({key: None}, 0.2).identities

    wait_for(lambda: key in bench.metadata.found().identities)
    found = bench.metadata.found().identities[key]
    assert (found.kind, found.id, found.name) == ("vm", "qemu-1-web", "web")


def test_a_change_of_a_way_to_names_is_one_line_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks the kubelet or systemd says himself what came of it; nobody says it again."""
    caplog.set_level(logging.INFO)
    before = {"bundle": "not used yet: none", "log-link": "ok", "kubelet": "ok", "systemd": "ok"}
    after = {"bundle": "ok", "log-link": "ok", "kubelet": "stale: 401; a", "systemd": "gone; b"}
    bench.metadata._tell({}, before)
    bench.metadata._tell(before, after)

    told = [record.getMessage() for record in caplog.records]
    assert told == ["names by log-link: ok", "names by bundle: ok"]


def watches() -> list[str]:
    """Return this process's inotify descriptors."""
    fds = Path("/proc/self/fd").iterdir()
    return [fd.name for fd in fds if os.path.realpath(fd).endswith("anon_inode:inotify")]


def test_a_hierarchy_that_is_left_is_no_longer_watched(bench: Bench, tmp_path: Path) -> None:
    """Accounting that comes late, or chooses another root, costs one descriptor, not two."""
    wait_for(lambda: bool(watches()))
    before = len(watches())
    for number in range(3):
        bench.move(tmp_path / f"other-{number}")
        key = bench.see(f"/system.slice/b{number}.service")
        assert key in bench.metadata.catch_up({key: None}, PATIENCE_S).identities
    assert len(watches()) == before


def test_analysis_names_no_machine_by_its_path() -> None:
    """What was made just now has the name of its path; a machine's id is its hypervisor's."""
    refs = {
        1: CgroupRef("/machine.slice/machine-qemu\\x2d1\\x2dweb.scope", 1),
        2: CgroupRef("/system.slice/a.service", 2),
        3: CgroupRef("/odd", 3),
    }
    known = Identity("unit", "k.service", "k")

    assert complete({2: known}, {2: refs[2]}) == {2: known}
    found = complete({4: known}, refs)
    assert {key: who.id for key, who in found.items()} == {2: "a.service", 4: "k.service"}

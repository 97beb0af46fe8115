"""The daemon's parts together: a start that fails is no start, late accounting shows, stop ends."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fixtures.hosts.trees import SetClock, host_at
from tests.sim.cgrouptree import FakeTree
from tests.unit.test_sampler import PATIENCE_S, wait_for
from tychod.model import Identity
from tychod.runtime import sampler
from tychod.runtime.daemon import STOP_S, Daemon
from tychod.runtime.facts import stop_all
from tychod.runtime.listener import bind_control_socket
from tychod.runtime.metadata import Cgroups, Hierarchy, Metadata, Sources
from tychod.runtime.store import Store
from tychod.samples import CgroupRef
from tychod.settings import Arguments, load_settings
from tychod.workloads.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
CRASHING = """
import dataclasses, os, sys
from tychod.runtime import sources
from tychod.runtime.supervisor import run
from tychod.settings import Arguments

def probe(*_):
    raise RuntimeError("a fault")

name = sys.argv[2]
broken = lambda spec: dataclasses.replace(spec, probe=probe) if spec.name == name else spec
sources.CPU_COLLECTOR = broken(sources.CPU_COLLECTOR)
sources.ENERGY_COLLECTORS = tuple(map(broken, sources.ENERGY_COLLECTORS))
sys.exit(run(Arguments(sys.argv[1], None), os.environ))
"""


def write_settings(base: Path) -> Path:
    """Settings of a machine below a directory, without a kubelet."""
    path = base / "tychod.toml"
    path.write_text(
        f'[host]\nprocfs = "{base}/proc"\nsysfs = "{base}/sys"\ncgroupfs = "{base}/cgroup"\n'
        f'run = "{base}/none"\nlog = "{base}/none"\n'
        f'[kubelet]\nenabled = false\n[control]\nsocket = "{base}/tychod.sock"\n'
    )
    return path


@pytest.mark.parametrize("name", ["cpu", "rapl", "model"])
def test_a_thread_that_fails_before_ready_fails_the_start(tmp_path: Path, name: str) -> None:
    """Exit 1 at once, everything rolled back, and nobody was told that the daemon is ready."""
    with ExitStack() as stack:
        stack.callback(FakeTree(tmp_path).close)
        done = subprocess.run(
            [sys.executable, "-c", CRASHING, str(write_settings(tmp_path)), name],
            cwd=ROOT,
            env={"STATE_DIRECTORY": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert done.returncode == 1
    assert f"reading {name} failed: this is a fault of tychod" in done.stderr
    assert "ready:" not in done.stderr
    assert not (tmp_path / "tychod.sock").exists()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon on a machine without cgroups yet, not started."""
    monkeypatch.setattr(sampler, "REPROBE_S", 0.02)
    settings = load_settings(Arguments(str(write_settings(tmp_path)), None), {})
    store = Store(tmp_path / "state")
    path = tmp_path / "tychod.sock"
    crashes: list[str] = []
    made = Daemon(settings, store, bind_control_socket(path, gid=None), path, crashes.append)
    yield made
    made.stop()
    store.close()
    assert not crashes


def test_accounting_that_comes_late_shows(daemon: Daemon, tmp_path: Path) -> None:
    """Facts of accounting and hierarchy are those of now, not those of the start."""
    daemon.start(PATIENCE_S, lambda: False)
    before = daemon.facts()
    tree = FakeTree(tmp_path)
    try:
        wait_for(lambda: daemon.facts().accounting_method != "none")
        after = daemon.facts()
        problems = [t.reason for t in daemon.status().troubles if t.source == "rapl"]
    finally:
        tree.close()

    assert (before.accounting_method, before.hierarchy) == ("none", "none")
    assert "no cgroup hierarchy" in before.accounting_reason
    assert before.accounting_remedy
    assert "[host] procfs" in (after.accounting_remedy or "")
    assert after.accounting_method == "cgroup-v2"
    assert after.hierarchy == f"v2 at {tree.cgroupfs}"
    assert after.hierarchy_reason != before.hierarchy_reason
    assert not problems


def test_the_registry_follows_the_hierarchy(tmp_path: Path) -> None:
    """A hierarchy that is found later, elsewhere, gets a registry of its root; one for each."""
    roots: list[str] = []
    seen = Cgroups("/sys/fs/cgroup", {})

    def hierarchy_at(cgroups: Cgroups) -> Hierarchy:
        roots.append(cgroups.root)
        return Hierarchy(cgroups.root, Registry(host_at(tmp_path), cgroups.root), None, None)

    metadata = Metadata(hierarchy_at, Sources(), lambda: seen, SetClock(), list[str]().append)
    metadata.start()
    assert metadata.wait_scanned(PATIENCE_S)
    seen = Cgroups("/sys/fs/cgroup/unified", {7: CgroupRef("/system.slice/a.service", 70)})

    def named() -> Identity | None:
        return metadata.found().identities.get(7)

    wait_for(lambda: named() is not None)
    metadata.ask_stop()
    assert metadata.join(PATIENCE_S)
    found = named()

    assert found is not None
    assert found.id == "a.service"
    assert roots == ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]


class Hung:
    """A part whose thread hangs, as in a driver; waiting for it moves the test's clock on."""

    def __init__(self, clock: SetClock, release: threading.Event, *, hangs: bool = True) -> None:
        self._clock = clock
        self._stop = release if hangs else threading.Event()
        self._thread = threading.Thread(target=self._stop.wait, args=(PATIENCE_S,), daemon=True)
        self._hangs = hangs
        self._thread.start()
        self.waited_s = 0.0
        self.asked_ns: int | None = None

    def ask_stop(self) -> None:
        """Told to end; a hung one does not listen."""
        self.asked_ns = self._clock.now_ns()
        if not self._hangs:
            self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait as long as one may, by the test's clock."""
        if not self._hangs:
            self._thread.join(PATIENCE_S)
            return True
        self.waited_s += timeout_s
        self._clock.t_ns += round(timeout_s * 1e9)
        assert self._thread.is_alive()
        return False


def test_stop_gives_up_on_what_hangs() -> None:
    """However many parts hang, stopping waits for all of them together no longer than STOP_S."""
    clock, release = SetClock(), threading.Event()
    begun_ns = clock.now_ns()
    parts = [Hung(clock, release, hangs=number % 2 == 0) for number in range(6)]
    try:
        stop_all(parts, clock, begun_ns + round(STOP_S * 1e9))
    finally:
        release.set()

    assert sum(part.waited_s for part in parts) <= STOP_S
    assert clock.now_ns() - begun_ns <= STOP_S * 1e9
    assert {part.asked_ns for part in parts} == {begun_ns}  # nobody waits for another's end

"""The accounting against this machine's own kernel: real cgroups, real load, real events."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.hosts.trees import no_inotify_left
from tests.sim.cgrouptree import RealCgroups, real_base
from tests.sim.powercap import LAYOUTS, CpuMeter, Driver, Machine, Power
from tychod import config
from tychod.clock import SystemClock
from tychod.collectors import cpu
from tychod.collectors.base import CpuCollector, Ready
from tychod.config import Config
from tychod.hostfs import Host
from tychod.kernel.cgroups import baseline_of
from tychod.samples import KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY, CpuSample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@pytest.fixture(params=["v1", "v2"])
def version(request: pytest.FixtureRequest) -> str:
    """Return each hierarchy that this machine lets us make cgroups in."""
    found = str(request.param)
    if real_base(found) is None:
        pytest.skip(f"no writable cgroup {found} hierarchy below /sys/fs/cgroup")
    return found


@pytest.fixture
def cgroups(version: str, run_name: str) -> Iterator[RealCgroups]:
    """Return a place for cgroups of this run, removed at the end."""
    base = real_base(version)
    assert base is not None
    with RealCgroups(base, run_name) as made:
        yield made


@pytest.fixture
def collector(version: str) -> Iterator[CpuCollector]:
    """Return the collector of the real machine, in the hierarchy of the test."""
    found = probe(version)
    yield found
    found.close()


def probe(version: str) -> CpuCollector:
    """Probe the real machine."""
    settings = Config(
        host=config.Host(hierarchy=version),  # type: ignore[arg-type]
        accounting=config.Accounting(loader="off"),
    )
    found = cpu.probe(Host(settings.host), settings, SystemClock())
    assert isinstance(found, Ready), found
    return found.collector


def read(collector: CpuCollector) -> CpuSample:
    """Read once."""
    (sample,) = collector.read()
    return sample


def own_ns(collector: CpuCollector, sample: CpuSample, cgroup: Path) -> int | None:
    """Return a cgroup's published own time, None if it is not in the sample."""
    inode = cgroup.stat().st_ino
    for key, own in zip(sample.keys.tolist(), sample.own_ns.tolist(), strict=True):
        ref = collector.cgroups.get(key)
        if ref and ref.inode == inode and str(cgroup).endswith(ref.path):
            return int(own)
    return None


def usage_ns(cgroup: Path) -> int:
    """Return the kernel's own counter of a cgroup, children included."""
    meter = CpuMeter(str(cgroup))
    meter.close()
    return meter.last_ns


def test_load_is_the_kernels_count(cgroups: RealCgroups, collector: CpuCollector) -> None:
    """A new cgroup's own time lies between the kernel's counts before and after the reading."""
    read(collector)
    leaf = cgroups.make("pod/container")
    cgroups.load(leaf, 0.5)
    time.sleep(0.3)
    before = usage_ns(leaf)
    sample = read(collector)
    after = usage_ns(leaf)

    own = own_ns(collector, sample, leaf)

    assert own is not None
    assert before <= own <= after
    assert own > 0
    # Nobody runs in the pod itself; what shows there is the time between two readings in a row.
    between = own_ns(collector, sample, cgroups.top / "pod")
    assert between is not None
    assert between <= after - before


def test_nested_own_times_add_up(cgroups: RealCgroups, collector: CpuCollector) -> None:
    """Over many readings, a tree's own times together are what the kernel says of its top."""
    for path, duty in (("a", 0.2), ("a/b", 0.2), ("a/b/c", 0.2)):
        cgroups.load(cgroups.make(path), duty)
    read(collector)
    start = usage_ns(cgroups.top)
    first = read(collector)
    for _ in range(5):
        time.sleep(0.1)
        before = usage_ns(cgroups.top)
        sample = read(collector)
        after = usage_ns(cgroups.top)
    paths = [cgroups.top, *(cgroups.top / p for p in ("a", "a/b", "a/b/c"))]
    grown = [
        (own_ns(collector, sample, p) or 0) - (own_ns(collector, first, p) or 0) for p in paths
    ]
    # Each reading of the tree takes a moment in which its counters move; that is the error.
    slack = 2 * (after - before) + (usage_ns(cgroups.top) - after) + TICK_NS

    assert before - start - slack <= sum(grown) <= after - start + slack
    assert all(g > 0 for g in grown[1:])


def test_cgroups_come_and_go(cgroups: RealCgroups, collector: CpuCollector) -> None:
    """The kernel tells of directories made and removed, nested ones too; none is missed."""
    read(collector)
    deep = cgroups.make("pod/container/init")
    sample = read(collector)
    inodes = {p: p.stat().st_ino for p in (deep, deep.parent)}
    found = {ref.inode for k, ref in collector.cgroups.items() if k in sample.keys}
    deep.rmdir()
    deep.parent.rmdir()
    again = read(collector)
    left = {ref.inode for k, ref in collector.cgroups.items() if k in again.keys}

    assert set(inodes.values()) <= found
    assert not set(inodes.values()) & left
    assert not collector.problems


def test_last_moments_are_the_parents(cgroups: RealCgroups, collector: CpuCollector) -> None:
    """What a cgroup used between its last reading and its end lands in its parent."""
    pod, leaf = cgroups.make("pod"), cgroups.make("pod/leaf")
    load = cgroups.load(leaf, 1.0)
    low = usage_ns(leaf)
    first = own_ns(collector, read(collector), pod)
    high = usage_ns(leaf)
    time.sleep(0.2)
    cgroups.stop(load)
    leaf.rmdir()
    last = own_ns(collector, read(collector), pod)
    used = usage_ns(pod)

    assert first is not None
    assert last is not None
    assert used - high <= last
    assert last - first <= used - low


def test_a_cgroup_that_was_never_seen_is_in_its_parent(
    cgroups: RealCgroups, collector: CpuCollector
) -> None:
    """A cgroup that lives and dies between two readings has all its time in its parent's own."""
    pod = cgroups.make("pod")
    low = own_ns(collector, read(collector), pod)
    leaf = cgroups.make("pod/short")
    load = cgroups.load(leaf, 1.0)
    time.sleep(0.2)
    cgroups.stop(load)
    used = usage_ns(leaf)
    leaf.rmdir()
    high = own_ns(collector, read(collector), pod)

    assert low is not None
    assert high is not None
    assert used > 0
    assert high - low >= used
    assert high <= usage_ns(pod)


def test_cgroup_that_is_gone_while_nobody_tells(cgroups: RealCgroups, version: str) -> None:
    """Without inotify, a counter that the kernel no longer answers for is dropped at once."""
    gone, stays = cgroups.make("gone"), cgroups.make("stays")
    inode = gone.stat().st_ino
    with no_inotify_left():
        collector = probe(version)
    try:
        before = read(collector)
        known = {ref.inode for k, ref in collector.cgroups.items() if k in before.keys}
        gone.rmdir()
        after = read(collector)
        left = {ref.inode for k, ref in collector.cgroups.items() if k in after.keys}
    finally:
        collector.close()

    assert inode in known
    assert inode not in left
    assert stays.stat().st_ino in left


def test_restart_keeps_the_gap(cgroups: RealCgroups, version: str) -> None:
    """What ran while no daemon was there is in the first sample after the saved one."""
    leaf = cgroups.make("leaf")
    cgroups.load(leaf, 0.5)
    first = probe(version)
    read(first)
    last = read(first)
    saved = baseline_of(first.method, last, first.cgroups)
    first.close()
    time.sleep(0.3)
    second = probe(version)
    try:
        assert second.resume(saved)
        synthetic, sample = read(second), read(second)
        own = own_ns(second, sample, leaf)
        total = next(t for ref, t in saved.totals.items() if ref.inode == leaf.stat().st_ino)

        assert own_ns(second, synthetic, leaf) == 0
        assert synthetic.t_ns == last.t_ns
        assert own is not None
        assert 0 < own <= usage_ns(leaf) - total
    finally:
        second.close()


def test_whole_machine_adds_up(collector: CpuCollector) -> None:
    """Own times together with idle time are the CPUs' time, within the ticks they come in."""
    first = read(collector)
    started = time.monotonic_ns()
    time.sleep(0.5)
    sample = read(collector)
    elapsed = time.monotonic_ns() - started

    grown = int(sample.own_ns.sum()) - int(first.own_ns.sum())
    idle = sample.idle_ns - first.idle_ns
    cpus = os.cpu_count() or 1

    assert {KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY} <= set(sample.keys.tolist())
    assert grown >= 0
    # Stolen time and each CPU's tick at either end are missing on the left.
    assert grown + idle <= cpus * elapsed + 8 * cpus * TICK_NS


def test_simulated_energy_follows_the_real_load(cgroups: RealCgroups, tmp_path: Path) -> None:
    """The simulated meter's energy is what its own record of the kernel's counters gives."""
    leaf = cgroups.make("leaf")
    cgroups.load(leaf, 0.5)
    start = usage_ns(leaf)
    machine = Machine(tmp_path, LAYOUTS["amd"], Power(0.0, {str(leaf): 20.0}))
    with Driver(machine):
        time.sleep(0.3)
    recorded = machine.cpu_ns()[str(leaf)]

    assert 0 < recorded <= usage_ns(leaf) - start
    assert machine.ledger_uj()["intel-rapl:0"] == recorded * 20 // 1000

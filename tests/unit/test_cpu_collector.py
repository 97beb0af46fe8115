"""The collector of CPU time: what it opens is given back, whatever happens and whoever asks."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fixtures.hosts.trees import host_at, write_files
from tests.sim.accounting import Machine
from tychod import config
from tychod.clock import EndingClock, SystemClock
from tychod.collectors import cpu
from tychod.collectors.base import Pace, Ready
from tychod.collectors.cpu import KernelMaps
from tychod.config import Config
from tychod.kernel.bpf import abi, opening
from tychod.kernel.bpf.opening import OpenMaps
from tychod.kernel.bpf.plan import Loaded, LoadError
from tychod.kernel.bpf.processes import ExitRing
from tychod.kernel.hierarchy import Hierarchy
from tychod.runtime.processes import open_processes

NO_FILE = OSError(errno.ENOENT, "No such file or directory", "proc/stat")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a simulated machine."""
    made = Machine(tmp_path, ncpu=2, npkg=1)
    yield made
    made.close()


def hierarchy(machine: Machine) -> Hierarchy:
    """Return the machine's hierarchy."""
    return Hierarchy("v2", str(machine.base / "cgroup"), "a test", true_root=True)


def opened_by(machine: Machine) -> OpenMaps:
    """Return open maps: the machine's memory, and a pipe's end for each descriptor."""
    fds = {name: os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for name in abi.MAPS}

    def close() -> None:
        for fd in fds.values():
            os.close(fd)

    return OpenMaps(fds, machine.kernel.views, "loaded by a test", (), lambda: False, close)


def collector_of(machine: Machine) -> KernelMaps:
    """Return a collector on the machine's maps."""
    clock = EndingClock(machine.clock)
    return KernelMaps(opened_by(machine), machine.open(), clock, Pace(1.0, 10.0))


def test_maps_that_cannot_be_read_are_closed_and_the_files_read(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that cannot begin leaves no descriptor open; the reason goes with the files."""
    opened, closed = opened_by(machine), []

    def close() -> None:
        closed.append(True)
        opened.close()

    def fail(*_: object) -> None:
        raise NO_FILE

    machine.kernel.views.ctl["hierarchy"] = 2
    monkeypatch.setattr(cpu, "choose_hierarchy", lambda *_: hierarchy(machine))
    monkeypatch.setattr(cpu, "open_maps", lambda *_: opened._replace(close=close))
    monkeypatch.setattr(cpu, "BpfReader", fail)
    found = cpu.probe(host_at(machine.base), Config(), SystemClock())

    assert isinstance(found, Ready)
    assert found.collector.method == "cgroup-v2"
    assert "proc/stat: No such file" in found.collector.method_reason
    assert closed == [True]
    found.collector.close()


def test_programs_whose_maps_cannot_be_mapped_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that fails at its last step leaves neither links nor maps."""
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]

    def fail(_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(opening, "view_maps", fail)
    loaded = Loaded({"ty_ctl": fds[0]}, {"ty_switch": fds[1]})
    monkeypatch.setattr(opening.attach, "load", lambda *_: loaded)
    with pytest.raises(LoadError, match="Cannot allocate memory"):
        opening._load(SimpleNamespace(), Config())  # type: ignore[arg-type]

    assert [fd for fd in fds if is_open(fd)] == []


def test_a_copy_of_a_descriptor_outlives_the_collector(machine: Machine) -> None:
    """Another thread's copy stays; after the end there is none to be had, nor a stranger's."""
    collector = collector_of(machine)
    copy = collector.share("ty_proc")
    collector.close()
    collector.close()

    assert is_open(copy)
    os.close(copy)
    strangers = [os.open(os.devnull, os.O_RDONLY) for _ in abi.MAPS]  # the same numbers again
    with pytest.raises(OSError, match="closed"):
        collector.share("ty_proc")
    for fd in strangers:
        os.close(fd)


def test_closing_waits_for_who_copies(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking up a number and copying it nobody can close what it is of."""
    collector = collector_of(machine)
    original, seen = os.dup, []

    def slow(fd: int) -> int:
        closer.start()
        closer.join(0.1)
        seen.append(is_open(fd))
        return original(fd)

    closer = threading.Thread(target=collector.close)
    monkeypatch.setattr(os, "dup", slow)
    os.close(collector.share("ty_proc"))
    closer.join(20.0)

    assert seen == [True]
    assert not closer.is_alive()
    assert not is_open(collector.opened.fds["ty_proc"])


def test_what_is_no_ring_is_an_error_of_the_kernel(machine: Machine, tmp_path: Path) -> None:
    """A descriptor of something else is a reading that failed, never the daemon's end."""
    short = tmp_path / "short"
    short.write_bytes(b"x")
    with short.open("r+b") as file, pytest.raises(OSError, match="no ring"):
        ExitRing(file.fileno())
    machine.kernel.views.ctl["flags"] |= abi.FLAG_PROCESSES
    collector = collector_of(machine)
    before = open_files()
    with pytest.raises(OSError, match=r"."):
        open_processes(host_at(tmp_path), SystemClock(), collector)

    assert open_files() == before
    collector.close()


def is_open(fd: int) -> bool:
    """Say whether a descriptor is open."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def open_files() -> int:
    """Return how many descriptors this process has."""
    return sum(1 for _ in Path(f"/proc/{os.getpid()}/fd").iterdir())


@pytest.mark.parametrize("irq", ["kernel", "interrupted"])
def test_files_say_that_interrupts_are_the_kernels_matter(tmp_path: Path, irq: str) -> None:
    """A setting that the cgroup files cannot follow is named where the method is explained."""
    write_files(
        tmp_path, {"proc/stat": "cpu  1 0 0 1 0 0 0 0 0 0\n", "cg/cpu.stat": "usage_usec 1\n"}
    )
    settings = Config(attribution=config.Attribution(irq=irq))  # type: ignore[arg-type]
    tree = Hierarchy("v2", str(tmp_path / "cg"), "a test", true_root=True)
    found = cpu._files(host_at(tmp_path), settings, SystemClock(), tree, "off")
    found.collector.close()

    assert found.collector.method_remedy is None
    assert ("[attribution] irq" in found.collector.method_reason) == (irq == "interrupted")
    assert found.collector.packages == found.collector.package_cpus == ()


@pytest.mark.parametrize(
    ("loader", "reason", "remedy"),
    [
        ("off", "kernel accounting is off in the settings", 'set [accounting] loader = "auto"'),
        ("auto", "are not this kernel's", "point [host] procfs and cgroupfs"),
    ],
)
def test_files_say_what_would_let_the_kernel_count(
    loader: Any, reason: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy is that of the reason: a setting is changed, another kernel's cgroups are not."""
    write_files(
        tmp_path, {"proc/stat": "cpu  1 0 0 1 0 0 0 0 0 0\n", "cg/cpu.stat": "usage_usec 1\n"}
    )
    tree = Hierarchy("v2", str(tmp_path / "cg"), "a test", true_root=True)
    monkeypatch.setattr(cpu, "choose_hierarchy", lambda *_: tree)
    settings = Config(accounting=config.Accounting(loader=loader))
    found = cpu.probe(host_at(tmp_path), settings, SystemClock())
    assert isinstance(found, Ready)
    found.collector.close()

    assert reason in found.collector.method_reason
    assert remedy in (found.collector.method_remedy or "")

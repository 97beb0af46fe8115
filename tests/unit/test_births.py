"""Cgroups are seen as they are made, so that the files that name a container are read in time."""

import select
from pathlib import Path

import pytest

from tychod import config
from tychod.hostfs import Host
from tychod.workloads.births import Births


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a hierarchy with one cgroup."""
    (tmp_path / "system.slice").mkdir()
    return tmp_path


@pytest.fixture
def births(root: Path) -> Births:
    """Return a watch on it."""
    return Births(Host(config.Host(cgroupfs=str(root))), f"{root}/")


def test_each_birth_is_told_once_parents_first(births: Births, root: Path) -> None:
    """What was there before is no birth; a subtree made at once is told from the top."""
    assert births.look(0) == ()

    (root / "system.slice" / "a.service" / "worker").mkdir(parents=True)
    assert births.look(1) == ("/system.slice/a.service", "/system.slice/a.service/worker")
    assert births.look(2) == ()
    births.close()


def test_a_cgroup_made_anew_is_another_birth(births: Births, root: Path) -> None:
    """It has another inode, and may be another container's."""
    place = root / "system.slice" / "a.service"
    place.mkdir()
    assert births.look(0) == ("/system.slice/a.service",)
    place.rmdir()
    (root / "x").mkdir()  # so that the inode is not given out again
    place.mkdir()

    assert "/system.slice/a.service" in births.look(1)
    births.close()


def test_a_birth_wakes_who_waits(births: Births, root: Path) -> None:
    """The descriptor is readable after a birth and quiet after a look."""
    fileno = births.fileno()
    assert fileno is not None
    poll = select.poll()
    poll.register(fileno, select.POLLIN)

    assert poll.poll(0) == []
    (root / "b.service").mkdir()
    assert poll.poll(5_000)
    births.look(0)
    assert poll.poll(0) == []
    births.close()

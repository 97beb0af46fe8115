"""Slots and their owners by themselves: what is remembered, in which order, and what it costs."""

from itertools import count

import numpy as np
import pytest

from tychod.kernel.bpf import abi, slots
from tychod.kernel.bpf.columns import Columns
from tychod.kernel.bpf.slots import Places, Slots
from tychod.kernel.tree import Node, Origin
from tychod.samples import OUTSIDE_KEY, CgroupRef

ROOT = 1


class Table:
    """A table of the kernel's that nobody but a test writes to."""

    def __init__(self, nslot: int) -> None:
        self.views = abi.Views(
            np.zeros(1, abi.CTL),
            np.zeros(2, abi.CPU),
            np.zeros(nslot, abi.INFO),
            np.zeros((1, nslot), abi.TOTAL),
            np.zeros((abi.BUCKETS, 1, nslot), np.uint64),
            np.zeros((2, abi.BUCKETS), np.uint64),
        )
        self.places = Places()
        self.places.roots = frozenset({ROOT})
        self.slots = Slots(self.views, self, self.places)
        self.freed: list[int] = []

    def delete_slot(self, cgid: int) -> None:
        """Remove a cgroup from ty_slot_of."""

    def push_free(self, slot: int) -> None:
        """Put a slot into ty_free."""
        self.freed.append(slot)

    def grow(self, *inodes: int) -> None:
        """Let the tree have these cgroups and no others."""
        keys = count(1)
        nodes = [Node(next(keys), f"/{i}", i, Origin.NEW, None, None) for i in inodes]
        self.places.replace(ROOT, nodes)
        self.refresh(tree_changed=True)

    def refresh(self, *, tree_changed: bool = False) -> None:
        """Look at the table."""
        self.slots.refresh(len(self.views.info), tree_changed=tree_changed)


def test_the_place_of_an_owner_is_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many cgroups go at once, one whose slot is still owned keeps key and path."""
    monkeypatch.setattr(slots, "REMEMBERED", 10)
    table = Table(64)
    table.views.info[5] = (500, ROOT, 1, 0, b"x")
    table.grow(500, *range(1000, 1300))
    table.views.info["gone"][5] = 7
    table.grow()

    assert table.slots.owner[5] == 500
    assert table.slots.refs() == {500: CgroupRef("/500", 500)}
    forgotten = [i for i in range(1000, 1300) if table.places.find(i) is None]
    assert len(forgotten) == 301 - 2 * 64


def test_an_owner_without_a_key_is_outside() -> None:
    """Time is never counted with whatever key happens to be the next larger one, or none."""
    columns = Columns()
    owner = np.array([700, 500, 900], np.int64)

    columns.arrange([500, 800], owner)

    folded = columns.fold(np.array([1, 20, 300, 0]), 0)
    assert folded[columns.column(500)] == 20
    assert folded[columns.column(800)] == 0
    assert folded[columns.column(OUTSIDE_KEY)] == 301


def test_a_child_whose_slot_lies_below_its_parents_has_its_path() -> None:
    """Slots come in any order, parents from anywhere in the table; a late parent is no loss."""
    table = Table(64)
    table.views.info[20] = (501, ROOT, 1, 0, b"pod")
    table.views.info[10] = (502, 501, 1, 0, b"container")
    table.views.info[5] = (504, 503, 1, 0, b"b")
    table.refresh()

    assert table.slots.owner[[10, 20, 5]].tolist() == [502, 501, OUTSIDE_KEY]
    assert table.slots.refs()[502].path == "/pod/container"

    table.views.info[30] = (503, ROOT, 1, 0, b"a")
    table.refresh()

    assert table.slots.refs()[504].path == "/a/b"


def test_a_circle_of_parents_ends() -> None:
    """Whatever the table says, a reading comes to its end."""
    table = Table(64)
    table.views.info[5] = (500, 501, 1, 0, b"a")
    table.views.info[6] = (501, 500, 1, 0, b"b")
    table.refresh()

    assert table.slots.owner[[5, 6]].tolist() == [OUTSIDE_KEY, OUTSIDE_KEY]


def test_a_name_ends_where_the_kernel_ended_it() -> None:
    """What another cgroup's longer name left behind in a slot is no part of a path."""
    table = Table(64)
    table.views.info[5] = (600, ROOT, 1, 0, b"x\0ger-name.service")
    table.refresh()

    assert table.slots.refs()[600].path == "/x"


class Counted(dict[int, object]):
    """A dictionary that counts how often it is looked through."""

    def values(self):  # type: ignore[no-untyped-def,override]
        """Count, and return the values."""
        self.looked = getattr(self, "looked", 0) + 1
        return super().values()


def test_many_that_leave_and_many_that_come_cost_no_product() -> None:
    """A thousand new slots do not look through a thousand leaving ones each."""
    table = Table(2002)
    info = table.views.info
    info["cgid"][2:1002], info["gone"][2:1002] = np.arange(5000, 6000), 5
    info["parent"] = ROOT
    table.refresh()
    leaving = table.slots._leaving = Counted(table.slots._leaving)
    assert len(leaving) == 1000
    info["cgid"][1002:] = np.arange(10**6, 10**6 + 1000)

    table.refresh()

    assert getattr(leaving, "looked", 0) <= 1

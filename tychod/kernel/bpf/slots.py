"""Whose time each slot of the kernel's table holds, and how a slot is given back.

A cgroup's key is its id, the inode of its directory: 64 bits, never used twice in a boot.  A slot
of a removed cgroup goes through the stages of ``Stage``; its key leaves only when no more time
can come, and its memory is emptied only when that time has long been saved.
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np

from tychod.kernel.bpf import abi
from tychod.samples import KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY, CgroupRef

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from numpy.typing import NDArray

    from tychod.kernel.bpf.snapshot import Seen
    from tychod.kernel.tree import Node
    from tychod.samples import Int64s

NOBODY: Final = -(1 << 62)
"""Owner of a slot that is free, or whose time has been published for good."""

REMEMBERED: Final = 20_000
"""Removed cgroups whose path and parent are kept, and more of those that have a slot."""

DRAINS_AFTER_RMDIR: Final = 2
"""The last tasks of a removed cgroup are still on their way out."""

ABSENT_NS: Final = 5_000_000_000
"""(bcc) A cgroup that the tree has lacked for so long is removed: nobody tells of it there."""

KEPT_NS: Final = 10_000_000_000
"""The least that a slot is kept, so that its last time has been saved with the state."""


class Device(Protocol):
    """What is done to maps that cannot be mapped; OSError where the kernel refuses."""

    def delete_slot(self, cgid: int) -> None:
        """Remove a cgroup from ``ty_slot_of``; one that is not there is fine."""

    def push_free(self, slot: int) -> None:
        """Put a slot into ``ty_free``."""


class Place(NamedTuple):
    """Where a cgroup is, or was."""

    path: str
    parent: int  # its inode


class Places:
    """Paths of the cgroups by inode: the living, and those that are gone."""

    def __init__(self) -> None:
        self.living: dict[int, Place] = {}
        self._dead: dict[int, Place] = {}  # in the order of their removal
        self._retired: dict[int, None] = {}
        self.roots: frozenset[int] = frozenset()

    def replace(self, root: int, nodes: Iterable[Node]) -> None:
        """Take in what the tree has now."""
        living = {
            n.inode: Place(n.path, n.parent.inode if n.parent else root)
            for n in nodes
            if n.inode not in self._retired
        }
        for inode, place in self.living.items():
            if inode not in living:
                self.remember(inode, place)
        self.living = living

    def remember(self, inode: int, place: Place) -> None:
        """Keep the place of a cgroup that is not in the tree."""
        self._dead[inode] = place

    def retire(self, inode: int) -> None:
        """Never give this cgroup a key again."""
        self._retired[inode] = None

    def trim(self, most: int, held: Callable[[], Iterable[int]]) -> None:
        """Forget the oldest of the removed beyond ``most``, never a held one nor what is above."""
        if max(len(self._dead), len(self._retired)) <= most:
            return
        kept = set(held())
        for inode in tuple(kept):
            place = self._dead.get(inode)
            while place is not None and place.parent not in kept:
                kept.add(place.parent)
                place = self._dead.get(place.parent)
        for table in (self._dead, self._retired):
            free = [inode for inode in table if inode not in kept]
            for inode in free[: max(len(table) - most, 0)]:
                del table[inode]

    def is_retired(self, inode: int) -> bool:
        """Say whether the cgroup had a key once and lost it."""
        return inode in self._retired

    def find(self, inode: int) -> Place | None:
        """Return where a cgroup is or was."""
        if inode in self.roots:
            return Place("", 0)
        return self.living.get(inode) or self._dead.get(inode)

    def owner(self, inode: int, parent: int, name: bytes) -> int:
        """Return the key that the time of a cgroup belongs to."""
        if inode in self.roots:
            return ROOT_KEY
        if self.is_retired(inode):
            return self._ancestor(inode, parent)
        if self.find(inode) is None:
            above = self.find(parent)
            if above is None:
                return OUTSIDE_KEY
            self.remember(inode, Place(f"{above.path}/{os.fsdecode(name)}", parent))
        return inode

    def _ancestor(self, inode: int, parent: int) -> int:
        """Return the key of the nearest cgroup above that lives."""
        place = self.find(inode)
        above = place.parent if place else parent
        while above not in self.roots:
            if above in self.living:
                return above
            place = self.find(above)
            if place is None or place.parent == above:
                return OUTSIDE_KEY
            above = place.parent
        return ROOT_KEY


class Stage(IntEnum):
    """How far a slot of a removed cgroup is."""

    GONE = 0  # removed
    UNLISTED = 1  # its id leads to no slot any more, but a CPU may have it in mind
    QUIET = 2  # nobody can charge to it
    FINAL = 3  # the last sample held all of it
    KEPT = 4  # its key is gone; the memory is kept until the state has been saved


class _Leaving:
    def __init__(self, cgid: int) -> None:
        self.cgid = cgid
        self.stage = Stage.GONE
        self.drains = 0
        self.since_ns = 0
        self.waits_for = -1  # a bit for each CPU that may have it in mind; at first all


class Slots:
    """Owner of each slot, and the slots on their way back."""

    def __init__(
        self, views: abi.Views, device: Device, places: Places, window_ns: int = 0
    ) -> None:
        """``window_ns``: after so long the window that a moment lies in has been saved."""
        nslot = len(views.info)
        self._window_ns = window_ns
        self._views, self._device, self._places = views, device, places
        self.owner: Int64s = np.full(nslot, NOBODY, np.int64)
        self.owner[abi.SLOT_OVERFLOW] = OUTSIDE_KEY
        self.owner[abi.SLOT_KERNEL] = KERNEL_KEY
        self._cgid = np.zeros(nslot, np.int64)
        self._absent_ns: dict[int, int] = {}  # slot -> since when
        self._leaving: dict[int, _Leaving] = {}
        self.unlisted = 0  # cgroups that have no slot and for which there is no key
        self.failure = ""

    def refresh(self, used: int, *, tree_changed: bool) -> dict[int, tuple[int, int]]:
        """Look at the table; return slot -> (owner before, owner now) of what changed."""
        info = self._views.info[:used]
        cgid = info["cgid"].astype(np.int64)
        cgid[: abi.SLOT_FIRST] = 0
        is_new = cgid != self._cgid[:used]
        is_new |= self.owner[:used] == OUTSIDE_KEY  # its parent may be known by now
        self._cgid[:used] = cgid
        changed: dict[int, tuple[int, int]] = {}
        self._assign_all(np.flatnonzero(is_new & (cgid != 0)), changed)
        for slot in np.flatnonzero((info["gone"] != 0) & (cgid != 0)).tolist():
            self._leave(slot)
        if tree_changed:
            self._move_from_dead(changed)
        self._places.trim(max(REMEMBERED, 2 * len(self.owner)), self._held)
        return changed

    def _assign_all(self, slots: NDArray[np.intp], changed: dict[int, tuple[int, int]]) -> None:
        """Say whose these slots are, each one's parent first: slots lie in any order."""
        parents = self._views.info["parent"][slots].tolist()
        waiting = dict(
            zip(self._cgid[slots].tolist(), zip(slots.tolist(), parents, strict=True), strict=True)
        )
        late = {x.cgid for x in self._leaving.values() if x.stage >= Stage.UNLISTED}
        while waiting:
            _, (slot, parent) = waiting.popitem()
            chain = [slot]
            while parent in waiting:
                inode_above, parent = parent, waiting[parent][1]
                chain.append(waiting.pop(inode_above)[0])
            for slot in reversed(chain):
                self._assign(slot, late, changed)

    def _held(self) -> list[int]:
        """Return the cgroups whose place and past must be known: those in the table, and owners."""
        return [*self._cgid.tolist(), *self.owner.tolist()]

    def _assign(self, slot: int, late: Container[int], changed: dict[int, tuple[int, int]]) -> None:
        entry = self._views.info[slot]
        inode = int(self._cgid[slot])
        owner = self._places.owner(
            inode, int(entry["parent"]), bytes(entry["name"]).split(b"\0")[0]
        )
        if owner != self.owner[slot]:
            changed[slot] = (int(self.owner[slot]), owner)
            self.owner[slot] = owner
        # A task on its way out of a removed cgroup was given another slot for it.
        if self._places.is_retired(inode) or inode in late:
            self._leave(slot)

    def _move_from_dead(self, changed: dict[int, tuple[int, int]]) -> None:
        """Slots counted with an ancestor go on with the next when that one's key is gone."""
        for slot, leaving in self._leaving.items():
            owner = int(self.owner[slot])
            if owner > 0 and owner != leaving.cgid and self._places.is_retired(owner):
                self._assign(slot, (), changed)

    def note_absent(self, now_ns: int, *, knows_all: bool, is_changed: bool) -> None:
        """Take cgroups as removed that the tree has lacked for long.

        Under bcc nobody tells of removals; else they are those that had no slot at that time, but
        a task that was on its way out.
        """
        if is_changed:
            find, living, roots = self._places.find, self._places.living, self._places.roots
            absent = [
                slot
                for slot, inode in enumerate(self._cgid.tolist())
                if inode and inode not in living and inode not in roots
                if slot not in self._leaving and (knows_all or find(inode))
            ]
            self._absent_ns = {slot: self._absent_ns.get(slot, now_ns) for slot in absent}
        for slot, since_ns in self._absent_ns.items():
            if now_ns - since_ns >= ABSENT_NS and slot not in self._leaving:
                self._views.info["gone"][slot] = now_ns  # a restart looks for it
                self._leave(slot)

    def forget(self, dead: Mapping[int, int]) -> None:
        """Take slots (slot -> cgroup) as published for good: by the life of the daemon before."""
        for slot, cgid in dead.items():
            self._leave(slot)
            self.owner[slot] = NOBODY
            self._places.retire(cgid)

    def _leave(self, slot: int) -> None:
        if slot not in self._leaving and self.owner[slot] != ROOT_KEY:
            self._leaving[slot] = _Leaving(int(self._cgid[slot]))

    def drop_final(self, now_ns: int) -> dict[int, tuple[int, int]]:
        """Take the keys away whose time is all published; return what changed, as refresh does."""
        waiting = {int(self.owner[s]) for s, x in self._leaving.items() if x.stage < Stage.FINAL}
        changed = {}
        for slot, leaving in self._leaving.items():
            owner = int(self.owner[slot])
            if leaving.stage is not Stage.FINAL or (owner == leaving.cgid and owner in waiting):
                continue
            leaving.stage, leaving.since_ns = Stage.KEPT, now_ns
            if owner == leaving.cgid:
                self._places.retire(owner)
                place = self._places.living.pop(owner, None)
                if place is not None:
                    self._places.remember(owner, place)
            changed[slot] = (owner, NOBODY)
            self.owner[slot] = NOBODY
        return changed

    def advance(self, seen: Seen, edge_ns: int, now_ns: int) -> None:
        """Bring the slots of removed cgroups a stage on; ``edge_ns``: the newest sample's time."""
        self.failure = ""
        unlisted = {x for x in self._leaving.values() if x.stage is Stage.GONE and self._unlist(x)}
        minded = self._minded(seen) if len(unlisted) < len(self._leaving) else {}
        if unlisted:
            # After the deletions: who sees the new number finds no removed cgroup any more.
            self._views.ctl["epoch"] += 1
        for slot, leaving in tuple(self._leaving.items()):
            # The CPUs' states are older than what was unlisted just now.
            if leaving.stage is Stage.UNLISTED and leaving not in unlisted:
                leaving.waits_for &= seen.unseen | minded.get(slot, 0)
                if not leaving.waits_for:
                    leaving.stage, leaving.since_ns = Stage.QUIET, seen.t_ns
            elif leaving.stage is Stage.QUIET and edge_ns >= leaving.since_ns:
                leaving.stage = Stage.FINAL
            elif leaving.stage is Stage.KEPT and self._is_saved(slot, now_ns - leaving.since_ns):
                self._give_back(slot)

    def _is_saved(self, slot: int, passed_ns: int) -> bool:
        """Say whether no restart will ask for the slot's time; nobody asks where there is none."""
        if passed_ns >= max(KEPT_NS, self._window_ns):
            return True
        return not self._views.total["ns"][:, slot].any()

    def _minded(self, seen: Seen) -> dict[int, int]:
        """Return slot -> bits of the CPUs that may charge to it.

        An idle CPU with an old epoch looks up first.  So a CPU once seen without an unlisted slot
        never has it again, whatever the others do meanwhile.
        """
        cpu, found = seen.cpu, dict[int, int]()
        may_charge = (cpu["tgid"] != 0) | (cpu["epoch"] == self._views.ctl["epoch"][0])
        for name, which in (("slot", may_charge), ("pend_slot", cpu["pend"] != 0)):
            for at, slot in zip(
                np.flatnonzero(which).tolist(), cpu[name][which].tolist(), strict=True
            ):
                found[slot] = found.get(slot, 0) | 1 << at
        return found

    def _unlist(self, leaving: _Leaving) -> bool:
        leaving.drains += 1
        if leaving.drains < DRAINS_AFTER_RMDIR:
            return False
        try:
            self._device.delete_slot(leaving.cgid)
        except OSError as exc:
            self.failure = f"a removed cgroup stays in the kernel's table: {exc.strerror}"
            return False
        leaving.stage = Stage.UNLISTED
        return True

    def _give_back(self, slot: int) -> None:
        # A crash after any line: at worst the slot is lost, or its time of interrupts, and of that
        # a restart misses what came since the saved state.  The other way round all of it would be
        # told again; a slot that is free before it is empty would be emptied under its new owner.
        irq_ns = self._views.total["ns"][:, slot, abi.SOFTIRQ :].sum()
        self._views.total[:, slot] = 0
        self._views.ctl["retired"] += irq_ns  # the pooled time of interrupts never falls
        if self._views.pmu is not None:
            self._views.pmu[:, slot] = 0
        self._views.info[slot] = 0
        self._cgid[slot] = 0
        self._absent_ns.pop(slot, None)
        try:
            self._device.push_free(slot)
        except OSError as exc:
            self.failure = f"a slot of the kernel's table is lost: {exc.strerror}"
        del self._leaving[slot]

    def refs(self) -> dict[int, CgroupRef]:
        """Return every key and what it stands for: owners of slots, and cgroups of the tree.

        Of those without a slot, which have used nothing, only the oldest, as many as there are
        slots: none leaves this list while it lives, and memory has a bound.
        """
        owners = dict.fromkeys(np.unique(self.owner[self.owner > 0]).tolist())
        living = self._places.living
        idle = [inode for inode in living if inode not in owners]
        listed = [*owners, *idle[: len(self.owner)]]
        self.unlisted = max(len(idle) - len(self.owner), 0)
        places = ((inode, self._places.find(inode)) for inode in listed)
        return {inode: CgroupRef(place.path, inode) for inode, place in places if place}

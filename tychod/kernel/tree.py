"""The directories of a cgroup hierarchy, kept up to date without walking them at every reading.

inotify tells of new and removed directories.  A directory is watched first and listed once after,
so nothing made in between is missed.  Where watches cannot be had the tree is walked every 2 s.
"""

from __future__ import annotations

import errno
import resource
from dataclasses import dataclass, field
from enum import Enum
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from tychod.hostfs import GONE, Host, KeptFile
from tychod.kernel.inotify import DirectoryEvent, Inotify, Overflow
from tychod.samples import ROOT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

WALK_INTERVAL_NS: Final = 2_000_000_000
KEPT_FREE_FILES: Final = 128
"""Descriptors left for the rest of the daemon: sockets, sensors, state."""


class Origin(Enum):
    """What is known of a cgroup's age when it is found."""

    START = "it was there at the start"
    NEW = "made since the last refresh"
    LATE = "made at an unknown time: what it used so far was counted in its parent"


@dataclass(slots=True, eq=False)
class Node:
    """One cgroup directory."""

    key: int
    path: str  # below the root; the root's own is ""
    inode: int
    origin: Origin
    parent: Node | None
    file: KeptFile | None  # its usage counter, if wanted; the root's is not kept here
    watch: int = -1
    children: dict[str, Node] = field(default_factory=dict)


class CgroupTree:
    """All cgroups below a directory, each with its usage file open if one is wanted."""

    def __init__(
        self, host: Host, root: str, usage_file: str | None, *, may_rename: bool, first_key: int = 0
    ) -> None:
        """``first_key``: the smallest key given; one never given before, keys are for ever.

        ``usage_file``: None opens nothing, so no limit of open files applies.
        """
        self._host = host
        self._root_dir = root
        self._usage_file = usage_file
        self._may_rename = may_rename  # v1 lets cgroups change their name
        self._by_key: dict[int, Node] = {}
        self._by_watch: dict[int, Node] = {}
        self._next_key = first_key
        self._next_walk_ns = 0
        self._refused: dict[str, str] = {}  # path -> why its file could not be opened
        self._watch_error: str | None = None
        self._room = _room_for_files()
        self._inotify = self._start_inotify()
        self.root: Final = Node(ROOT_KEY, "", host.inode(root) or 0, Origin.START, None, None)
        self._watch(self.root)
        self._add_below(self.root, Origin.START)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All cgroups but the root by key; a parent has a smaller key than its children."""
        return tuple(self._by_key.values())

    @property
    def problems(self) -> tuple[str, ...]:
        """What is degraded at present."""
        found = []
        if self._watch_error:
            found.append(f"cgroups are looked for every 2 s only: {self._watch_error}")
        if self._refused:
            path, reason = next(iter(self._refused.items()))
            count = len(self._refused)
            found.append(f"{count} cgroups are counted in their parents, e.g. {path}: {reason}")
        return tuple(found)

    def fileno(self) -> int | None:
        """Return the descriptor that becomes readable with every change; None: there is none."""
        return self._inotify.fileno() if self._inotify else None

    def newer_than(self, key: int) -> tuple[Node, ...]:
        """Return the cgroups whose key is larger, youngest first: those added since it was."""
        return tuple(takewhile(lambda node: node.key > key, reversed(self._by_key.values())))

    def refresh(self, now_ns: int) -> bool:
        """Take in what changed since the last call; True if anything did."""
        changed = False
        events = self._inotify.read_events() if self._inotify else []
        if any(isinstance(event, Overflow) for event in events):
            changed = self._walk(Origin.NEW)
        for event in dict.fromkeys(events):
            if isinstance(event, DirectoryEvent) and event.watch in self._by_watch:
                changed |= self._recheck(self._by_watch[event.watch], event.name, Origin.NEW)
        if (self._refused or self._watch_error) and now_ns >= self._next_walk_ns:
            self._next_walk_ns = now_ns + WALK_INTERVAL_NS
            changed |= self._walk(Origin.LATE)
        return changed

    def drop(self, node: Node) -> None:
        """Forget a cgroup that is gone, and what was below it."""
        if node.parent is not None:
            name = node.path.rpartition("/")[2]
            if node.parent.children.get(name) is node:
                del node.parent.children[name]
        for gone in tuple(_subtree(node)):
            self._by_key.pop(gone.key, None)
            self._by_watch.pop(gone.watch, None)
            if self._inotify and gone.watch >= 0:
                self._inotify.unwatch(gone.watch)
            if gone.file:
                gone.file.close()

    def close(self) -> None:
        """Close every file."""
        self.drop(self.root)
        if self._inotify:
            self._inotify.close()

    def _start_inotify(self) -> Inotify | None:
        try:
            return Inotify()
        except OSError as exc:
            self._watch_error = (
                f"no inotify instance ({exc.strerror}; fs.inotify.max_user_instances)"
            )
            return None

    def _watch(self, node: Node) -> None:
        if self._inotify is None or node.watch >= 0:
            return
        try:
            node.watch = self._inotify.watch(self._root_dir + node.path)
        except OSError as exc:
            if exc.errno not in GONE:  # gone: its parent's watch tells
                self._watch_error = (
                    f"no inotify watch ({exc.strerror}; fs.inotify.max_user_watches)"
                )
        else:
            self._by_watch[node.watch] = node

    def _add_below(self, top: Node, origin: Origin) -> None:
        """Add all cgroups below a new one; a loop, for a tenant may nest cgroups without limit."""
        pending = [top]
        while pending:
            parent = pending.pop()
            for name, inode in self._subdirs(parent) or ():
                child = self._add(parent, name, inode, origin)
                pending.extend(() if child is None else (child,))

    def _add(self, parent: Node, name: str, inode: int, origin: Origin) -> Node | None:
        """Open and watch one cgroup; None when that fails: its time stays in its parent."""
        path = f"{parent.path}/{name}"
        try:
            file = (
                self._open(f"{self._root_dir}{path}/{self._usage_file}")
                if self._usage_file
                else None
            )
        except OSError as exc:
            if exc.errno not in GONE:
                self._refused[path] = exc.strerror or str(exc)
            return None
        node = Node(self._next_key, path, inode, origin, parent, file)
        self._next_key += 1
        self._by_key[node.key] = parent.children[name] = node
        self._watch(node)
        return node

    def _open(self, path: str) -> KeptFile:
        if len(self._by_key) >= self._room:
            raise OSError(
                errno.EMFILE, f"the limit of open files is reached at {self._room} cgroups"
            )
        return self._host.open_kept(path)

    def _subdirs(self, node: Node) -> tuple[tuple[str, int], ...] | None:
        """List a cgroup's children, None if it is gone or cannot be listed now."""
        path = node.path or "/"
        try:
            return self._host.list_subdirs(self._root_dir + node.path)
        except OSError as exc:
            self._refused[path] = f"cannot be listed ({exc.strerror})"
            return None

    def _recheck(self, parent: Node, name: str, origin: Origin) -> bool:
        """Make one entry of a directory agree with what is there now; True if it did not."""
        try:
            inode = self._host.inode(f"{self._root_dir}{parent.path}/{name}")
        except OSError:
            return False  # not allowed to look: nothing is known to have changed
        known = parent.children.get(name)
        if (known.inode if known else None) == inode:
            return False
        if known and not self._follow_rename(known):
            self.drop(known)
        if inode is not None:
            node = self._add(parent, name, inode, origin)
            if node is not None:
                self._add_below(node, origin)
        return True

    def _follow_rename(self, node: Node) -> bool:
        """Give a cgroup its new name if it still lives beside its old place (v1 only)."""
        parent = node.parent
        if not self._may_rename or parent is None:
            return False
        names = [n for n, inode in self._subdirs(parent) or () if inode == node.inode]
        if not names:
            return False
        del parent.children[node.path.rpartition("/")[2]]
        parent.children[names[0]] = node
        old, new = node.path, f"{parent.path}/{names[0]}"
        for moved in _subtree(node):
            moved.path = new + moved.path[len(old) :]
        return True

    def _walk(self, origin: Origin) -> bool:
        """Compare the whole tree with the directories; True if they differed."""
        self._refused.clear()
        self._watch_error = None if self._inotify else self._watch_error
        changed = False
        for node in (self.root, *self.nodes):
            if node.key != ROOT_KEY and node.key not in self._by_key:
                continue  # dropped on the way
            self._watch(node)
            listed = self._subdirs(node)
            if listed is None:
                continue
            known = {(name, child.inode) for name, child in node.children.items()}
            for name in dict.fromkeys(name for name, _ in known.symmetric_difference(listed)):
                changed |= self._recheck(node, name, origin)
        return changed


def _subtree(top: Node) -> Iterator[Node]:
    """Yield a node and all below it."""
    pending = [top]
    while pending:
        node = pending.pop()
        pending.extend(node.children.values())
        yield node


def _room_for_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - KEPT_FREE_FILES, 0) if soft != resource.RLIM_INFINITY else 1 << 20

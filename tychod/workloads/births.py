"""Cgroups as they are made: the files that name a container may be gone when it is.

The accounting looks once a second; a container's bundle is removed as soon as it has ended.
"""

from tychod.hostfs import Host
from tychod.kernel.tree import CgroupTree


class Births:
    """Watches one hierarchy; owned by one thread."""

    def __init__(self, host: Host, root: str) -> None:
        self._tree = CgroupTree(host, root.rstrip("/"), None, may_rename=False)
        self._newest = max((node.key for node in self._tree.nodes), default=-1)

    def fileno(self) -> int | None:
        """Return the descriptor that becomes readable with every birth; None: there is none."""
        return self._tree.fileno()

    def look(self, now_ns: int) -> tuple[str, ...]:
        """Return the paths, below the root, of the cgroups made since the last look."""
        self._tree.refresh(now_ns)
        born = self._tree.newer_than(self._newest)
        if born:
            self._newest = born[0].key
        return tuple(node.path for node in reversed(born))

    def close(self) -> None:
        """Give the watches back."""
        self._tree.close()

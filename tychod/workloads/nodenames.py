"""Which pods of a list are this node's, by the node that each pod says it runs on.

A kubelet's node name is lower case and need not be the host's: cloud providers and the kubelet's
``--hostname-override`` choose another.  So unless it is configured, the name is learned, once.
"""

from collections.abc import Sequence
from typing import Final

from tychod.workloads.pods import Pod

NODE_REMEDY: Final = "set [kubelet] node_name to this node's name, or see [kubelet] endpoint"


def is_same_node(name: str, other: str) -> bool:
    """Say whether two names are one node's: case, and a domain that one of them lacks, aside."""
    one, two = sorted((_plain(name), _plain(other)), key=len)
    return one == two or (one != "" and two.startswith(f"{one}."))


def _plain(name: str) -> str:
    return name.casefold().rstrip(".")


class NodeName:
    """This node's name in Kubernetes: as configured, else the host's, else what its pods say."""

    def __init__(self, configured: str, host_name: str, may_learn: bool) -> None:
        """``may_learn``: whoever answers is known to be this node's own kubelet."""
        self.name: str | None = configured or None
        self._host_name = host_name
        self._may_learn = may_learn
        self.note = ""
        self.complaint = ""

    def own(self, pods: Sequence[Pod]) -> tuple[Pod, ...]:
        """Return the pods that are this node's, and those that name no node.

        ``complaint`` says afterwards whose the others are.
        """
        named = [pod.node for pod in pods if pod.node is not None]
        if self.name is None and named:
            self._settle(named)
        name = self.name or self._host_name
        own = tuple(p for p in pods if p.node is None or is_same_node(p.node, name))
        others = sorted({node for node in named if not is_same_node(node, name)})
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            self.complaint = f"they are of node {others[0]!r}{more}, this one is {name!r}"
        return own

    def _settle(self, named: Sequence[str]) -> None:
        """Fix the name by the first list that holds it, or that is all of one other node."""
        self.name = next((n for n in named if is_same_node(n, self._host_name)), None)
        is_one = all(is_same_node(node, named[0]) for node in named)
        if self.name is None and is_one and self._may_learn:
            self.name = named[0]
            self.note = (
                f"this node is {named[0]!r} to its pods and {self._host_name!r} to itself;"
                " [kubelet] node_name would settle it"
            )

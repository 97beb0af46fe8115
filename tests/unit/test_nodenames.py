"""Whose pods a list holds: this node's, by whatever name it has in Kubernetes."""

import pytest

from tychod import config
from tychod.hostfs import Host
from tychod.workloads.kubelet import Kubelet, _is_own
from tychod.workloads.nodenames import NodeName, is_same_node
from tychod.workloads.pods import Pod


def pods(*nodes: str | None) -> tuple[Pod, ...]:
    """Return a pod of each node."""
    return tuple(
        Pod(f"uid-{n}", f"p{n}", "shop", {}, None, None, (), {}, node)
        for n, node in enumerate(nodes)
    )


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("node-a", "node-a", True),
        ("Node-A", "node-a", True),
        ("node-a.example.org", "node-a", True),
        ("node-a", "NODE-A.example.org.", True),
        ("node-a.example.org", "node-a.example.com", False),
        ("node-a", "node-ab", False),
        ("node-a", "node", False),
        ("", "node-a", False),
        (".", "node-a", False),
    ],
)
def test_names_differ_by_more_than_case_and_a_missing_domain(
    name: str, other: str, same: bool
) -> None:
    """A kubelet's name is lower case and may be short where the host's is not, or the reverse."""
    assert (is_same_node(name, other), is_same_node(other, name)) == (same, same)


@pytest.mark.parametrize(
    ("configured", "host", "nodes", "own", "name"),
    [
        ("", "node-a", ["node-a", None], 2, "node-a"),
        ("", "Node-A.example.org", ["node-a", "node-a"], 2, "node-a"),
        ("", "node-a", ["node-a", "node-b"], 1, "node-a"),
        ("", "box", ["ip-10-0-0-1.ec2.internal"] * 3, 3, "ip-10-0-0-1.ec2.internal"),
        ("", "box", ["node-a", "node-b"], 0, None),
        ("", "box", [None, None], 2, None),
        ("", "box", [], 0, None),
        ("node-a", "box", ["node-b"] * 3, 0, "node-a"),
        ("node-a", "node-b", ["node-a", "node-b"], 1, "node-a"),
    ],
)
def test_own_pods_are_those_of_the_nodes_name(
    configured: str, host: str, nodes: list[str | None], own: int, name: str | None
) -> None:
    """The configured name holds; else the host's if any pod has it; else the one all pods have."""
    node = NodeName(configured, host, may_learn=True)

    assert len(node.own(pods(*nodes))) == own
    assert node.name == name


def test_a_learned_name_stays() -> None:
    """What all pods said once is the node's name; a later list of another node is not believed."""
    node = NodeName("", "box", may_learn=True)
    node.own(pods(None))
    node.own(pods("node-a", "node-a"))

    assert node.own(pods("node-b", "node-b")) == ()
    assert "this node is 'node-a' to its pods and 'box' to itself" in node.note
    assert "'node-b'" in node.complaint


def test_nothing_is_learned_from_a_stranger() -> None:
    """A plain port on another machine proves nothing: its pods need this node's name."""
    assert NodeName("", "box", may_learn=False).own(pods("node-a", "node-a")) == ()


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        (config.Kubelet(), True),
        (config.Kubelet(endpoint="https://[::1]:10250"), True),
        (config.Kubelet(endpoint="https://10.0.0.1:10250"), True),
        (config.Kubelet(read_only_port=10255), True),
        (config.Kubelet(endpoint="https://10.0.0.1:10250", read_only_port=10255), False),
    ],
)
def test_loopback_or_a_certificate_make_a_kubelet_ours(settings: config.Kubelet, own: bool) -> None:
    """Whoever answers on loopback, or has the certificate for our name, is this node's kubelet."""
    assert _is_own(settings) is own
    assert Kubelet(settings, Host(config.Host()), "box").status().node_name is None

"""The kubelet's pods against gathered cases: another program's rules and its own faults.

Rows of faults say what that program does; ours does the same and says so, which is asserted on the
client that asks a simulated kubelet.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.sim.kubelet import SimKubelet
from tychod import config
from tychod.hostfs import Host
from tychod.workloads.kubelet import Kubelet
from tychod.workloads.pods import claim_of, claims, parse_pods

SECOND = 1_000_000_000
WAIT_S = 20.0


def read_document(folder: Path) -> dict[str, Any]:
    """Read the case file."""
    document: dict[str, Any] = json.loads((folder / "kubelet_pods.json").read_text())
    return document


def body(items: object) -> bytes:
    """Return a PodList."""
    return json.dumps({"kind": "PodList", "items": items}).encode()


def ask(kubelet: Kubelet, now_ns: int) -> None:
    """Ask once and take the answer in."""
    kubelet.poll(now_ns)
    deadline_s = time.monotonic() + WAIT_S
    while any(t.name == "kubelet-question" for t in threading.enumerate()):
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    kubelet.poll(now_ns)


def test_container_ids_map_to_pod_and_container(cases_dir: Path) -> None:
    """Ids of all three arrays; a pending container's empty one maps to nothing."""
    rows = read_document(cases_dir)["cases"]
    for row in rows:
        claimed = claims(parse_pods(body(row["items"])))
        found = {
            ident: {
                "pod_id": pod.uid,
                "pod_name": pod.name,
                "namespace": pod.namespace,
                "container_name": container.name,
            }
            for ident, claimants in claimed.items()
            for container, pod in claimants
        }
        assert found == row["expect"]
    assert len(rows) == 4


def test_an_id_in_two_pods_is_neither_an_error_nor_the_last_ones(cases_dir: Path) -> None:
    """The other program takes the last pod or gives up; here the cgroup's path decides."""
    assert "same id in two pods" in read_document(cases_dir)["about"]
    container = {"name": "app", "containerID": "containerd://abc"}
    items = [
        {"metadata": {"uid": uid, "name": uid, "namespace": "n"},
         "status": {"containerStatuses": [container]}}
        for uid in ("u1", "u2")
    ]  # fmt: skip
    claimed = claims(parse_pods(body(items)))

    for uid in ("u1", "u2"):
        claim = claim_of(claimed, "abc", uid)
        assert claim is not None
        assert claim[1].uid == uid
    assert claim_of(claimed, "abc", None) is None


def test_endpoint_needs_no_api_server(cases_dir: Path) -> None:
    """The other program asks the API server for the node's address; ours is on the node.

    The port is the one of its rows, and there is always an address.
    """
    rows = read_document(cases_dir)["endpoint_cases"]

    assert config.Kubelet().endpoint == "https://127.0.0.1:10250"
    assert {row["url"].rpartition(":")[2] for row in rows if "url" in row} == {"10250/pods"}


@pytest.mark.parametrize("number", range(3))
def test_faults_keep_the_old_map(cases_dir: Path, number: int) -> None:
    """401 and nonsense change nothing that is known; an unknown id is asked for at once."""
    row = read_document(cases_dir)["fault_cases"][number]
    good = read_document(cases_dir)["cases"][0]
    with SimKubelet(body(good["items"])) as server:
        settings = config.Kubelet(read_only_port=server.port)
        kubelet = Kubelet(settings, Host(config.Host()), "node-a")
        ask(kubelet, 0)
        before = kubelet.view
        if "lookup" in row:
            kubelet.poll(SECOND, soon=True)
            ask(kubelet, SECOND)
        else:
            server.fault = str(row.get("status", ""))
            server.pods = row.get("body", "").encode()
            ask(kubelet, 30 * SECOND)
        kubelet.close()

    assert before is not None
    assert kubelet.view is not None
    assert kubelet.view.pods == before.pods
    assert len(server.requests) == 2
    assert kubelet.is_stale(30 * SECOND) is ("lookup" not in row)

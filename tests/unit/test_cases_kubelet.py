"""The kubelet's pods against gathered cases: another program's rules and its own faults.

All rows of endpoints and faults run on the client that asks a simulated kubelet.  Where we rightly
differ the reason is beside the row.
"""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.sim.kubelet import SimKubelet, issue, make_ca
from tychod import config
from tychod.hostfs import Host
from tychod.samples import CgroupRef
from tychod.workloads.kubelet import Kubelet
from tychod.workloads.pods import claim_of, claims, parse_pods
from tychod.workloads.registry import Registry

SECOND = 1_000_000_000
WAIT_S = 20.0
UNKNOWN, UNKNOWN_POD = "d4" * 32, "0f3a5b1c-1111-4222-8333-444455556666"


def read_document(folder: Path) -> dict[str, Any]:
    """Read the case file."""
    document: dict[str, Any] = json.loads((folder / "kubelet_pods.json").read_text())
    return document


def body(items: object) -> bytes:
    """Return a PodList."""
    return json.dumps({"kind": "PodList", "items": items}).encode()


def ask(kubelet: Kubelet, now_ns: int, *, soon: bool = False) -> None:
    """Ask once, if it is time, and take the answer in."""
    kubelet.poll(now_ns, soon=soon)
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


Addresses = tuple[tuple[tuple[str, str], ...], int]

THEIRS: dict[Addresses, str] = {
    ((("InternalIP", "10.0.0.1"),), 10250): "https://10.0.0.1:10250/pods",
    ((("Hostname", "h"), ("InternalIP", "10.0.0.1")), 0): "https://10.0.0.1:10250/pods",
    ((("ExternalIP", "1.2.3.4"),), 10250): "no InternalIP",
}
"""Where the other program asks, by what the API server tells of the node.

Ours runs on the node and asks no API server: with any addresses, or none that will do, it is on
loopback, and never "no InternalIP".  An address may be set, with the kubelet's port or without.
"""


class Resolver:
    """Sends whoever connects to the simulated kubelet, and notes where it wanted to go."""

    def __init__(self, server: SimKubelet) -> None:
        self._server = server
        self.asked: list[tuple[str, int]] = []

    def getaddrinfo(self, host: str, port: int, *_: object, **__: object) -> list[Any]:
        """Stand for the resolver of the C library."""
        self.asked.append((host, int(port)))
        there = ("127.0.0.1", self._server.port)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", there)]


def asked_where(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    """Return the address that a client with such settings asks; it must get the pods."""
    ca = make_ca(folder, "ca")
    token = folder / "token"
    token.write_text("t0ken")
    items = [{"metadata": {"uid": "u1", "name": "p1", "namespace": "n"}}]
    with SimKubelet(body(items), issue(folder, ca, "node-a"), token="t0ken") as server:
        resolver = Resolver(server)
        monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
        full = config.Kubelet(ca_file=str(ca.cert), token_file=str(token), **settings)  # type: ignore[arg-type]
        kubelet = Kubelet(full, Host(config.Host()), "node-a")
        ask(kubelet, 0)
        kubelet.close()
        monkeypatch.undo()
    assert kubelet.view is not None, kubelet.route
    assert [pod.name for pod in kubelet.view.pods] == ["p1"]
    ((host, port),) = resolver.asked
    ((path, _),) = server.requests
    return f"https://{host}:{port}{path}"


def test_all_endpoint_rows_are_known(cases_dir: Path) -> None:
    """A row that is not in the table above, or says something else by now, fails."""
    rows = read_document(cases_dir)["endpoint_cases"]
    told = {
        (tuple(tuple(a) for a in row["addresses"]), row["port"]): row.get("url") or row["error"]
        for row in rows
    }

    assert len(told) == len(rows)
    assert told == THEIRS


@pytest.mark.parametrize("addresses", THEIRS)
def test_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addresses: Addresses) -> None:
    """Without a setting the node's own, over TLS; where one is set the row's URL."""
    named, port = addresses
    address = dict(named).get("InternalIP")
    by_default = asked_where(tmp_path, monkeypatch)

    assert by_default == "https://127.0.0.1:10250/pods"
    assert (address is None) == (THEIRS[addresses] == "no InternalIP")
    if address is not None:
        endpoint = f"https://{address}:{port}" if port else f"https://{address}"
        assert asked_where(tmp_path, monkeypatch, endpoint=endpoint) == THEIRS[addresses]


OLD_MAP = "refresh fails, old map kept"
EFFECTS = {"401": OLD_MAP, "not json": OLD_MAP}


def fault_of(row: dict[str, Any]) -> str:
    """Return what a row is about."""
    fields = {name: value for name, value in row.items() if name != "effect"}
    ((name, value),) = fields.items()
    assert name in {"status", "body", "lookup"}, row
    return str(value)


def test_all_faults_are_known(cases_dir: Path) -> None:
    """A fault that no test here shows, or another effect of one, fails."""
    rows = read_document(cases_dir)["fault_cases"]

    assert {fault_of(row): row["effect"] for row in rows} == EFFECTS | {
        "unknown id": "one immediate refresh, then not found without error"
    }


@pytest.mark.parametrize("fault", EFFECTS)
def test_faults_keep_the_old_map(cases_dir: Path, fault: str) -> None:
    """401 and nonsense change nothing that is known, and show as stale with the reason."""
    good = read_document(cases_dir)["cases"][0]
    with SimKubelet(body(good["items"])) as server:
        settings = config.Kubelet(read_only_port=server.port)
        kubelet = Kubelet(settings, Host(config.Host()), "node-a")
        ask(kubelet, 0)
        before, route = kubelet.view, kubelet.route
        if fault.isdigit():
            server.fault = fault
        else:
            server.pods = fault.encode()
        ask(kubelet, 30 * SECOND)
        kubelet.close()

    assert before is not None
    assert len(before.pods) == 1
    assert kubelet.view is before
    assert len(server.requests) == 2
    assert kubelet.is_stale(30 * SECOND)
    assert route == "ok" != kubelet.route


def test_an_unknown_id_is_asked_for_at_once(
    cases_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first question comes within 100 ms, and who is never listed is no error.

    The other program asks once; ours up to four times in 3 s and no more, because a real kubelet's
    list was seen to lag up to 2.6 s behind the cgroup.
    """
    good = read_document(cases_dir)["cases"][0]
    names = ("procfs", "cgroupfs", "run", "log", "var")
    host = Host(config.Host(**{n: str(tmp_path / n) for n in names}))
    cgroups = {1: CgroupRef(f"/kubepods/burstable/pod{UNKNOWN_POD}/{UNKNOWN}", 101)}
    with SimKubelet(body(good["items"])) as server:
        kubelet = Kubelet(config.Kubelet(read_only_port=server.port), host, "node-a")
        registry = Registry(host, host.cgroupfs, kubelet)
        ask(kubelet, 0)
        asked = []
        for now_ns in range(10 * SECOND, 20 * SECOND, SECOND // 20):
            found = registry.update(cgroups, now_ns)[1]
            ask(kubelet, now_ns, soon=registry.wants_kubelet)
            asked.append(len(server.requests) - 1)
        kubelet.close()

    assert asked[2] == 1
    assert 1 <= asked[-1] <= 4
    assert not registry.wants_kubelet
    assert (found.kind, found.id, found.name) == ("container", UNKNOWN, UNKNOWN[:12])
    assert kubelet.route == "ok"
    assert caplog.records == []

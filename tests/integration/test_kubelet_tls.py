"""The kubelet over real TLS: every fault has its reason, costs no name, and passes."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.kubelet import (
    EMPTY,
    NODE,
    Pair,
    SimKubelet,
    issue,
    issue_dated,
    make_ca,
    pod,
    pod_list,
)
from tests.sim.rawpeer import REDIRECT, RawPeer
from tychod import config
from tychod.hostfs import Host
from tychod.samples import CgroupRef
from tychod.workloads.kubelet import Kubelet
from tychod.workloads.registry import Registry

A = "a1" * 32
UID = "0f3a5b1c-1111-4222-8333-444455556666"
PODS = pod_list(pod("api-1", UID, {"server": A}, labels={"team": "\x1b[31mred\x07"}))
CGROUPS = {1: CgroupRef(f"/kubepods/burstable/pod{UID}/{A}", 11)}
SECOND = 1_000_000_000
WAIT_S = 20.0
SETTLE_S = 2.0  # one that hangs is left to be given up


class Pki:
    """The certificates of a node: its CA, the kubelet's serving pair, a client's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = make_ca(folder, "node-ca")
        self.foreign_ca = make_ca(folder, "foreign-ca")
        self.serving = issue(folder, self.ca, NODE)
        self.client = issue(folder, self.ca, "meter", "clientAuth")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Return certificates, made once for this file."""
    return Pki(tmp_path_factory.mktemp("pki"))


class Node:
    """tychod's side of a node: kubelet client and registry on a made-up clock."""

    def __init__(self, settings: config.Kubelet, folder: Path) -> None:
        roots = {name: str(folder / name) for name in ("run", "log", "var")}
        host = Host(config.Host(**roots))
        self.kubelet = Kubelet(settings, host, NODE)
        self.registry = Registry(host, str(folder), self.kubelet)
        self.now_ns = 0

    def ask(self) -> None:
        """Let the interval pass, ask once, and wait for what comes of it."""
        self.settle()
        self.now_ns += 30 * SECOND
        status = self.kubelet.status()
        before = status.answers + status.errors
        deadline_s = time.monotonic() + WAIT_S
        asked_ns = self.now_ns
        while status.answers + status.errors == before:
            assert time.monotonic() < deadline_s, "the question never ended"
            self.kubelet.poll(self.now_ns)
            self.now_ns = min(self.now_ns + SECOND // 100, asked_ns + 20 * SECOND)
            time.sleep(0.01)
            status = self.kubelet.status()

    def settle(self) -> None:
        """Take in a question that is still under way: after a failure the next one comes soon.

        The made-up clock must not jump while it runs, or it would be given up for the jump.
        """
        deadline_s = time.monotonic() + SETTLE_S
        while self.kubelet._question is not None and time.monotonic() < deadline_s:
            self.kubelet.poll(self.now_ns)
            time.sleep(0.01)

    @property
    def reason(self) -> str:
        """Why the last answer was no good, with the remedy; empty if it was good."""
        problem = self.kubelet.status().problem
        return str(problem) if problem else ""

    @property
    def name(self) -> tuple[str, str | None, bool]:
        """Name, pod and staleness of the one container on the node."""
        found = self.registry.update(CGROUPS, self.now_ns)[1]
        return found.name, found.pod, found.stale


MakeNode = Callable[..., Node]


@pytest.fixture
def make_node(pki: Pki, tmp_path: Path) -> Iterator[MakeNode]:
    """Return a maker of nodes that trust the node's CA; closes their connections afterwards."""
    made = []

    def make(endpoint: str, **settings: object) -> Node:
        defaults = config.Kubelet(
            enabled=True, endpoint=endpoint, ca_file=str(pki.ca.cert), node_name=NODE, timeout=1.0
        )
        node = Node(replace(defaults, **settings), tmp_path)  # type: ignore[arg-type]
        made.append(node)
        return node

    yield make
    for node in made:
        node.kubelet.close()


@pytest.fixture
def server(pki: Pki) -> Iterator[SimKubelet]:
    """Return a kubelet that asks for no credential."""
    with SimKubelet(PODS, pki.serving) as kubelet:
        yield kubelet


def test_pods_come_over_verified_tls_and_one_kept_connection(
    server: SimKubelet, make_node: MakeNode
) -> None:
    """Dialled by address, verified by the node's name; control characters in labels are data."""
    node = make_node(server.url)
    node.ask()
    node.ask()

    assert node.reason == ""
    assert node.name == ("server", "api-1", False)
    labels = node.registry.update(CGROUPS, node.now_ns)[1].labels
    assert labels == {"team": "\x1b[31mred\x07"}
    assert server.connections == 1


FAULTS = [
    ("401", "credential refused (HTTP 401)"),
    ("403", "grant meter `get` on `nodes/pods`"),
    ("500", "the kubelet failed (HTTP 500)"),
    ("redirect", "unexpected answer (HTTP 307)"),
    ("slow", "timed out after 1 s"),
    ("half", ""),
    ("half-chunked", "broke off"),
    ("huge", "the answer is longer than 8 MiB"),
    ("hang-up", ""),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_fault_has_a_reason_keeps_the_names_and_passes(
    server: SimKubelet, make_node: MakeNode, fault: str, reason: str
) -> None:
    """A bad answer is told in a few words; names stay, stale, until the next good one."""
    node = make_node(server.url, timeout=1.0 if fault == "slow" else 5.0)
    node.ask()
    server.fault = fault
    node.ask()
    during, told = node.name, node.reason
    server.fault = ""
    server.released.set()
    node.ask()

    assert reason in told
    assert told
    assert during == ("server", "api-1", True)
    assert (node.name, node.reason) == (("server", "api-1", False), "")
    assert node.kubelet.status().errors == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (EMPTY, "it lists no pods (1 were known)"),
        (pod_list(), "it lists no pods (1 were known)"),
        (PODS[:-30], "is not JSON"),
        (b"", "is not JSON"),
        (b"[]", "JSON but not a list of pods"),
        (b'{"kind":"Status","message":"x"}', "JSON but not a list of pods"),
        (b'{"items":{}}', "items are not a list"),
    ],
)
def test_bad_body_is_no_news(
    server: SimKubelet, make_node: MakeNode, body: bytes, reason: str
) -> None:
    """Null, empty, cut off or foreign: told, and the names stay until the next good answer."""
    node = make_node(server.url)
    node.ask()
    server.pods = body
    node.ask()
    during, told = node.name, node.reason
    server.pods = PODS
    node.ask()

    assert reason in told
    assert during == ("server", "api-1", True)
    assert (node.name, node.reason) == (("server", "api-1", False), "")


def test_node_without_pods_is_no_fault(pki: Pki, make_node: MakeNode) -> None:
    """`items: null` from a kubelet that never listed a pod is simply an empty node."""
    with SimKubelet(EMPTY, pki.serving) as server:
        node = make_node(server.url)
        node.ask()

        assert (node.reason, node.kubelet.route) == ("", "ok")


def test_refused_connection_keeps_the_names_and_passes(pki: Pki, make_node: MakeNode) -> None:
    """A kubelet that restarts is refused for seconds; afterwards all is as before."""
    with SimKubelet(PODS, pki.serving) as server:
        node = make_node(server.url)
        node.ask()
    node.ask()
    during, told = node.name, node.reason
    with SimKubelet(PODS, pki.serving, port=server.port):
        node.ask()

        assert "connection refused by 127.0.0.1:" in told
        assert during == ("server", "api-1", True)
        assert (node.name, node.reason) == (("server", "api-1", False), "")


def test_answer_that_never_ends_is_given_up(server: SimKubelet, make_node: MakeNode) -> None:
    """A byte now and then keeps every wait short; the whole is bounded, and it is asked again."""
    node = make_node(server.url, timeout=0.3)
    server.fault = "drip"
    node.ask()
    told = node.reason
    server.fault = ""  # the drip itself goes on
    node.ask()

    assert "no whole answer in 1.6 s" in told
    assert node.name == ("server", "api-1", False)


def test_rotated_token_is_read_again(pki: Pki, make_node: MakeNode, tmp_path: Path) -> None:
    """A token file that is replaced takes effect with the next question, without a restart."""
    token_file = tmp_path / "token"
    token_file.write_text("first\n")
    with SimKubelet(PODS, pki.serving, token="first") as server:
        node = make_node(server.url, token_file=str(token_file))
        node.ask()
        server.token = "second"
        node.ask()
        during, told = node.name, node.reason
        replacement = tmp_path / "token.new"
        replacement.write_text("second")
        replacement.rename(token_file)
        node.ask()

        assert "credential refused (HTTP 401)" in told
        assert during == ("server", "api-1", True)
        assert (node.name, node.reason) == (("server", "api-1", False), "")
        assert [sent for _, sent in server.requests] == [
            "Bearer first", "Bearer first", "Bearer second",
        ]  # fmt: skip


@pytest.mark.parametrize("content", [None, b"", b"two words", b"line\r\nX-Evil: 1", b"\xff\xfe"])
def test_file_without_a_token_is_told_and_nothing_of_it_is_sent(
    server: SimKubelet, make_node: MakeNode, tmp_path: Path, content: bytes | None
) -> None:
    """A missing, empty or malformed token file is a reason; its content is in no text."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    node = make_node(server.url, token_file=str(path))
    node.ask()

    assert f"token_file {path} holds no token" in node.reason
    assert server.requests == []


def test_replaced_serving_certificate_of_the_same_ca_goes_on(
    pki: Pki, server: SimKubelet, make_node: MakeNode, tmp_path: Path
) -> None:
    """The kubelet renews its certificate; the kept session shakes hands anew."""
    node = make_node(server.url)
    node.ask()
    server.replace_certificate(issue(tmp_path, pki.ca, NODE))
    node.ask()
    if node.reason:  # the old connection may break off first
        node.ask()

    assert (node.name, node.reason) == (("server", "api-1", False), "")


def test_replaced_ca_is_read_again(
    pki: Pki, server: SimKubelet, make_node: MakeNode, tmp_path: Path
) -> None:
    """A kubelet with a new self-made CA is untrusted until our CA file is replaced too."""
    ca_file = tmp_path / "kubelet.crt"
    ca_file.write_bytes(pki.ca.cert.read_bytes())
    node = make_node(server.url, ca_file=str(ca_file))
    node.ask()
    server.replace_certificate(issue(tmp_path, pki.foreign_ca, NODE))
    node.ask()
    if "broke off" in node.reason or "no connection" in node.reason:
        node.ask()
    during, told = node.name, node.reason
    replacement = tmp_path / "new.crt"
    replacement.write_bytes(pki.foreign_ca.cert.read_bytes())
    replacement.rename(ca_file)
    node.ask()

    assert "certificate is not trusted" in told
    assert "ca_file" in told
    assert during == ("server", "api-1", True)
    assert (node.name, node.reason) == (("server", "api-1", False), "")


def test_certificate_of_another_name_is_refused(pki: Pki, make_node: MakeNode) -> None:
    """The right CA is not enough: another node's certificate is another node."""
    with SimKubelet(PODS, pki.serving) as server:
        node = make_node(server.url, node_name="node-b")
        node.ask()

        assert "certificate is not for the name 'node-b'" in node.reason
        assert "node_name" in node.reason
        assert server.requests == []
        assert node.name == (A[:12], None, False)


def test_certificate_of_a_foreign_ca_is_refused(
    pki: Pki, make_node: MakeNode, tmp_path: Path
) -> None:
    """Nothing is sent to a server whose certificate our CA did not sign."""
    with SimKubelet(PODS, issue(tmp_path, pki.foreign_ca, NODE)) as server:
        node = make_node(server.url)
        node.ask()

        assert "certificate is not trusted" in node.reason
        assert server.requests == []


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [("20400101", "20410101", "not yet valid"), ("20200101", "20210101", "has expired")],
)
def test_certificate_out_of_its_time_points_to_the_clock(
    pki: Pki, make_node: MakeNode, tmp_path: Path, first: str, last: str, why: str
) -> None:
    """After the wall clock was set back, the kubelet's own certificate is one of the future."""
    with SimKubelet(PODS, pki.serving) as server:
        node = make_node(server.url)
        node.ask()
        server.replace_certificate(issue_dated(tmp_path, pki.ca, NODE, first, last))
        for _ in range(2):  # the old connection may break off first
            node.ask()
        during, told = node.name, node.reason
        server.replace_certificate(pki.serving)
        for _ in range(2):
            node.ask()

    assert "certificate is out of date" in told
    assert why in told
    assert "clock" in told
    assert during == ("server", "api-1", True)
    assert (node.name, node.reason) == (("server", "api-1", False), "")


@pytest.mark.parametrize(
    "place",
    [
        "lib/kubelet/pki/kubelet.crt",
        "lib/rancher/k3s/agent/server-ca.crt",
        "lib/rancher/rke2/agent/server-ca.crt",
        "snap/microk8s/current/certs/ca.crt",
    ],
)
def test_ca_is_found_where_each_distribution_has_it(
    pki: Pki, server: SimKubelet, make_node: MakeNode, tmp_path: Path, place: str
) -> None:
    """Without `ca_file` the kubelet's own certificate, or its distribution's CA, is trusted."""
    path = tmp_path / "var" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(pki.ca.cert.read_bytes())
    node = make_node(server.url, ca_file="")
    node.ask()

    assert (node.name, node.reason) == (("server", "api-1", False), "")


def test_serving_certificate_itself_may_be_trusted(
    pki: Pki, server: SimKubelet, make_node: MakeNode
) -> None:
    """`ca_file` may be the kubelet's own certificate, without the CA that signed it."""
    node = make_node(server.url, ca_file=str(pki.serving.cert))
    node.ask()

    assert node.reason == ""


def test_unverified_tls_is_possible_on_request(
    pki: Pki, make_node: MakeNode, tmp_path: Path
) -> None:
    """`verify_tls = false` accepts any certificate (the settings allow it on loopback only)."""
    with SimKubelet(PODS, issue(tmp_path, pki.foreign_ca, "whoever")) as server:
        node = make_node(server.url, verify_tls=False)
        node.ask()

        assert (node.name, node.reason) == (("server", "api-1", False), "")


def test_client_certificate_opens_what_is_closed_without_it(pki: Pki, make_node: MakeNode) -> None:
    """A kubelet that demands a client certificate answers 401 without, and pods with it."""
    cert, key = str(pki.client.cert), str(pki.client.key)
    with SimKubelet(PODS, pki.serving, client_ca=pki.ca.cert) as server:
        without = make_node(server.url)
        without.ask()
        with_it = make_node(server.url, client_cert_file=cert, client_key_file=key)
        with_it.ask()

        assert "HTTP 401" in without.reason
        assert (with_it.name, with_it.reason) == (("server", "api-1", False), "")


def test_replaced_client_certificate_is_used(pki: Pki, make_node: MakeNode, tmp_path: Path) -> None:
    """A certificate of a CA the kubelet does not know is refused; the renewed one is taken up."""
    foreign = issue(tmp_path, pki.foreign_ca, "meter", "clientAuth")
    cert, key = tmp_path / "client.crt", tmp_path / "client.key"
    _install(foreign, cert, key)
    with SimKubelet(PODS, pki.serving, client_ca=pki.ca.cert) as server:
        node = make_node(server.url, client_cert_file=str(cert), client_key_file=str(key))
        node.ask()
        told = node.reason
        _install(pki.client, cert, key)
        node.ask()

        assert told
        assert "client certificate refused" in told or "broke off" in told
        assert (node.name, node.reason) == (("server", "api-1", False), "")


def _install(pair: Pair, cert: Path, key: Path) -> None:
    for source, target in ((pair.cert, cert), (pair.key, key)):
        new = target.with_suffix(".new")
        new.write_bytes(source.read_bytes())
        new.rename(target)


def test_unusable_certificate_files_are_told_by_name(
    pki: Pki, server: SimKubelet, make_node: MakeNode, tmp_path: Path
) -> None:
    """A missing CA, a file that is no certificate and a key that does not fit name the setting."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    cases = {
        f"ca_file {tmp_path / 'none'}: No such file": {"ca_file": str(tmp_path / "none")},
        f"ca_file {junk}: not usable": {"ca_file": str(junk)},
        "its key does not fit": {
            "client_cert_file": str(pki.client.cert),
            "client_key_file": str(pki.ca.key),
        },
    }
    for reason, settings in cases.items():
        node = make_node(server.url, **settings)
        node.ask()
        assert reason in node.reason
    assert server.requests == []


def test_read_only_port_is_asked_in_the_clear_and_gets_no_token(
    make_node: MakeNode, tmp_path: Path
) -> None:
    """The plain port is used only when configured, and a token never crosses it."""
    (tmp_path / "token").write_text("secret")
    with SimKubelet(PODS) as server:
        node = make_node(
            "https://127.0.0.1:1",
            read_only_port=server.port,
            token_file=str(tmp_path / "token"),
        )
        node.ask()

        assert (node.name, node.reason) == (("server", "api-1", False), "")
        assert server.requests == [("/pods", None)]


@pytest.mark.parametrize("location", [b"http://[", b"\xff\xfe"])
@pytest.mark.parametrize("secured", [False, True])
def test_redirect_to_nowhere_is_an_answer_like_any_other(
    pki: Pki, make_node: MakeNode, location: bytes, secured: bool
) -> None:
    """Whoever has bound the kubelet's port while it was away ends no thread of the daemon."""
    with RawPeer(REDIRECT % location, pair=pki.serving if secured else None) as peer:
        own = {} if secured else {"read_only_port": peer.port}
        node = make_node(peer.url if secured else "https://127.0.0.1:1", **own)
        node.ask()

        assert node.reason.startswith("unexpected answer (HTTP 302)")


def test_body_of_a_redirect_is_not_read(pki: Pki, make_node: MakeNode) -> None:
    """It has no limit of its own, and nobody needs it."""
    opening = b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"
    with RawPeer(opening, b"x" * (1 << 20), most=64, pair=pki.serving) as peer:
        node = make_node(peer.url)
        node.ask()

    assert node.reason.startswith("unexpected answer (HTTP 302)")
    assert peer.sent < 32 << 20  # what the kernel took before the connection was closed


def test_tls_to_a_plain_port_is_told(make_node: MakeNode) -> None:
    """An endpoint that speaks no TLS is said to."""
    with SimKubelet(PODS) as server:
        node = make_node(server.url.replace("http:", "https:"))
        node.ask()

        assert "no TLS with it" in node.reason


def test_environment_proxies_and_netrc_are_ignored(
    server: SimKubelet, make_node: MakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a proxy nor a password of the environment ever takes part."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login meter password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    node = make_node(server.url)
    node.ask()

    assert node.reason == ""
    assert server.requests == [("/pods", None)]


def test_pipe_in_the_tokens_place_is_not_read(
    server: SimKubelet, make_node: MakeNode, tmp_path: Path
) -> None:
    """It is told like any file without a token, and what the pipe holds stays in it."""
    os.mkfifo(tmp_path / "token")
    pipe = os.open(tmp_path / "token", os.O_RDWR | os.O_NONBLOCK)
    os.write(pipe, b"s3cret")
    node = make_node(server.url, token_file=str(tmp_path / "token"))
    node.ask()

    assert "token holds no token" in node.reason
    assert os.read(pipe, 64) == b"s3cret"
    assert server.requests == []
    os.close(pipe)


def test_no_text_holds_the_token(
    pki: Pki, make_node: MakeNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reasons, logs and representations of a refused question are free of the credential."""
    secret = "sekret-token-0815"
    (tmp_path / "token").write_text(secret)
    caplog.set_level(logging.DEBUG)
    with SimKubelet(PODS, pki.serving, token="another") as server:
        node = make_node(server.url, token_file=str(tmp_path / "token"))
        node.ask()
        server.fault = "half-chunked"
        server.token = secret
        node.ask()

        texts = (node.reason, repr(node.kubelet), repr(node.kubelet.status()), caplog.text)
        assert server.requests[0][1] == f"Bearer {secret}"
        assert "401" in caplog.text
        assert not any(secret in text for text in texts)


def test_log_tells_changes_only(
    server: SimKubelet, make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    """The first answer is one line, ten equal failures are another, the recovery a third."""
    caplog.set_level(logging.INFO, logger="tychod")
    node = make_node(server.url)
    node.ask()
    server.fault = "500"
    for _ in range(10):
        node.ask()
    server.fault = ""
    node.ask()

    assert [(r.levelname, "500" in r.getMessage()) for r in caplog.records] == [
        ("INFO", False),
        ("WARNING", True),
        ("INFO", False),
    ]


def of_node(name: str, node: str, ident: str = A) -> dict[str, object]:
    """Return the pod as another node's kubelet would list it."""
    listed = pod(name, UID, {"server": ident})
    listed["spec"]["nodeName"] = node  # type: ignore[index]
    return listed


def test_another_nodes_pods_name_nothing_here(server: SimKubelet, make_node: MakeNode) -> None:
    """An endpoint that turns out to be another node's kubelet: no name changes hands, and why."""
    server.pods = pod_list(of_node("api-1", NODE))
    node = make_node(server.url)
    node.ask()
    server.pods = pod_list(of_node("thief", "node-b"))
    node.ask()
    during, told = node.name, node.reason
    server.pods = pod_list(of_node("thief", "node-b"), of_node("api-1", NODE))
    node.ask()

    assert told.startswith("none of its pods is this node's: they are of node 'node-b'")
    assert "[kubelet] node_name" in told
    assert during == ("server", "api-1", True)
    assert (node.name, node.reason) == (("server", "api-1", False), "")
    assert node.kubelet.status().foreign == 1


def test_node_that_kubernetes_calls_otherwise_is_taken_at_its_word(
    server: SimKubelet, make_node: MakeNode
) -> None:
    """`--hostname-override`: all pods agree on a name that is not the host's, and none is lost."""
    server.pods = pod_list(of_node("api-1", "ip-10-0-0-1.ec2.internal"))
    node = make_node(server.url, node_name="")
    node.ask()

    assert (node.name, node.reason) == (("server", "api-1", False), "")
    assert node.kubelet.status().node_name == "ip-10-0-0-1.ec2.internal"
    assert "[kubelet] node_name would settle it" in node.kubelet.route


def test_answer_that_the_wall_clock_cut_short_is_none(
    server: SimKubelet, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock steps while an answer is under way: time-outs and ages are not the wall's."""
    node = make_node(server.url)
    node.ask()
    steps = iter(range(0, 10**9, 3600))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - next(steps))
    node.ask()
    node.ask()

    assert (node.name, node.reason) == (("server", "api-1", False), "")
    assert node.kubelet.status().errors == 0


def test_restart_of_a_real_kubelet_costs_no_name(
    pki: Pki, make_node: MakeNode, kubelet_captures_dir: Path
) -> None:
    """As captured: the whole list, refused, null, then 4, 9 and 10 pods; names stay throughout."""
    folder = kubelet_captures_dir / "14_kubelet_restart_bodies"
    bodies = [path.read_bytes() for path in sorted(folder.glob("*.json"))]
    known: list[dict[int, str]] = []
    with SimKubelet(bodies[0], pki.serving) as server:
        node = make_node(server.url)
        node.ask()
        assert node.kubelet.view is not None
        cgroups = {
            key: CgroupRef(f"/kubepods/burstable/pod{listed.uid}/{ident}", key)
            for key, (listed, ident) in enumerate(
                ((p, c.id) for p in node.kubelet.view.pods for c in p.containers), 1
            )
        }
        known.append(names_of(node, cgroups))
    node.ask()
    assert "connection refused" in node.reason
    known.append(names_of(node, cgroups))
    with SimKubelet(bodies[1], pki.serving, port=server.port) as server:
        for body in bodies[1:]:
            server.pods = body
            node.ask()
            known.append(names_of(node, cgroups))

    assert len(known[0]) >= 10
    assert all(later == known[0] for later in known)
    assert (node.reason, node.kubelet.status().errors) == ("", 2)


def names_of(node: Node, cgroups: dict[int, CgroupRef]) -> dict[int, str]:
    """Return pod and name of each container."""
    found = node.registry.update(cgroups, node.now_ns)
    return {key: f"{found[key].pod}/{found[key].name}" for key in cgroups}

"""The metrics endpoint against good, slow and unwelcome clients, over real sockets."""

import base64
import dataclasses
import gzip
import http.client
import json
import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fixtures import snapshots as made
from tests.sim.kubelet import Pair, issue, make_ca
from tests.sim.node import Node
from tychod.buffer import Latest
from tychod.config import Config
from tychod.config_results import Control, Metrics
from tychod.model import Snapshot, Window
from tychod.runtime.http_auth import hash_text
from tychod.runtime.http_build import build_known
from tychod.runtime.http_endpoint import Endpoint
from tychod.runtime.http_exchange import HttpLimits
from tychod.runtime.http_pages import Known
from tychod.runtime.questions import Asked

PATIENCE_S = 10.0  # how long a test waits for what must come; nothing is measured by it
LIMITS = HttpLimits(new_per_s=1000, all_per_s=1000)
QUICK = LIMITS._replace(request_s=0.3, send_s=0.5, part_s=0.2)
HALF = b"GET /metrics HTTP/1.1\r\nHost: n"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
COUNTS = {"open": 1, "accepted": 3, "refused": 0, "killed": 0, "faults": 0}
LARGE = b"x" * 16_000_000  # more than sockets hold


class Answer(NamedTuple):
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Site:
    """An endpoint and what its pages are made from."""

    def __init__(self, metrics: Metrics, control: Control = Control()) -> None:  # noqa: B008
        self.latest: Latest[Snapshot] = Latest()
        self.quiet_s = 0.0
        self.config = dataclasses.replace(
            Config(), metrics=dataclasses.replace(metrics, enabled=True), control=control
        )
        answers = made.make_answers(self.latest, control=control)
        asked = Asked(lambda: self.config, lambda: made.FACTS, lambda: made.STATUS)
        self.known = build_known(asked, answers, lambda: COUNTS, (lambda: self.quiet_s, 4.0))

    def publish(self, sequence: int = 20, seconds: int = 0) -> None:
        """Publish a window that ends so long after the example's."""
        snapshot = made.make_snapshot(sequence=sequence)
        later = Window(*(t_ns + seconds * 1_000_000_000 for t_ns in snapshot.window))
        self.latest.publish(dataclasses.replace(snapshot, window=later))


@contextmanager
def serving(
    metrics: Metrics,
    known: Known,
    limits: HttpLimits = LIMITS,
    credentials: str = "",
    retry_s: float = 0.05,
) -> Iterator[Endpoint]:
    """Run an endpoint until the block ends; it may be one that cannot be opened."""
    endpoint = Endpoint(metrics, credentials, known, limits, retry_s)
    endpoint.start()
    try:
        until(lambda: bool(endpoint.addresses or [*endpoint.troubles()]))
        yield endpoint
    finally:
        endpoint.close()
    assert endpoint.counts()["open"] == 0


@pytest.fixture
def metrics() -> Metrics:
    """Return settings of an endpoint on a port that is free."""
    return Metrics(listen="127.0.0.1:0")


@pytest.fixture
def site(metrics: Metrics) -> Site:
    """Return a site with results."""
    found = Site(metrics)
    found.publish()
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.005)


def get(
    endpoint: Endpoint,
    path: str = "/metrics",
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Ask for one page."""
    port = endpoint.addresses[0][1]
    line: http.client.HTTPConnection
    if context:
        line = http.client.HTTPSConnection("localhost", port, timeout=PATIENCE_S, context=context)
    else:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        line.request(method, path, headers=headers or {})
        response = line.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        line.close()


def connect(endpoint: Endpoint, sent: bytes = b"") -> socket.socket:
    """Return a raw connection that has sent this."""
    client = socket.create_connection(endpoint.addresses[0], timeout=PATIENCE_S)
    client.sendall(sent)
    return client


def read_all(client: socket.socket) -> bytes:
    """Return what comes until the other end hangs up."""
    found = b""
    try:
        while data := client.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of basic authentication."""
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def trusting(ca: Pair, client: Pair | None = None) -> ssl.SSLContext:
    """Return how a scraper speaks TLS that knows this CA."""
    context = ssl.create_default_context(cafile=str(ca.cert))
    if client:
        context.load_cert_chain(client.cert, client.key)
    return context


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair, Pair]:
    """Return a CA, a server's certificate and a scraper's."""
    folder = tmp_path_factory.mktemp("tls")
    ca = make_ca(folder, "ca")
    return ca, issue(folder, ca, "localhost"), issue(folder, ca, "scraper", "clientAuth")


def secured(metrics: Metrics, pair: Pair) -> Metrics:
    """Return settings with this certificate."""
    return dataclasses.replace(metrics, tls_cert_file=str(pair.cert), tls_key_file=str(pair.key))


def with_users(metrics: Metrics, folder: Path) -> Metrics:
    """Return settings with a file of one user, a, whose password is b."""
    path = folder / "users"
    path.write_text(f"a:{hash_text(b'b')}\n")
    path.chmod(0o600)
    return dataclasses.replace(metrics, users_file=str(path))


def test_pages(site: Site, metrics: Metrics) -> None:
    """Each path answers; HEAD with the same length and no body; nothing else is there."""
    with serving(metrics, site.known) as endpoint:
        found = {path: get(endpoint, path) for path in ("/metrics", "/status", "/", "/healthz")}
        head = get(endpoint, "/metrics", method="HEAD")
        ready, nowhere = get(endpoint, "/readyz"), get(endpoint, "/metric")
        posted = get(endpoint, "/metrics", method="POST")

    assert {answer.status for answer in found.values()} == {200}
    assert found["/metrics"].headers["Content-Type"].startswith("text/plain; version=")
    assert b"\ntycho_" in found["/metrics"].body
    assert (head.headers["Content-Length"], head.body) == (str(len(found["/metrics"].body)), b"")
    status = json.loads(found["/status"].body)
    assert (status["sequence"], status["connections"]) == (20, COUNTS)
    assert found["/"].headers["Content-Type"].startswith("text/html")
    assert (found["/healthz"].body, ready.body) == (b"ok\n", b"ok\n")
    assert (nowhere.status, posted.status, posted.headers["Allow"]) == (404, 405, "GET, HEAD")


def test_two_scrapers_see_the_same(site: Site, metrics: Metrics) -> None:
    """The same bytes, compressed or not, until there is another window."""
    packed = {"Accept-Encoding": "gzip"}
    with serving(metrics, site.known) as endpoint:
        plain, small = get(endpoint), get(endpoint, headers=packed)
        assert get(endpoint).body == plain.body
        assert get(endpoint, headers=packed).body == small.body
        other = get(endpoint, headers=OPENMETRICS)
        site.publish(21, 3)
        later = get(endpoint)

    assert small.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small.body) == plain.body
    assert len(small.body) < len(plain.body) / 2
    assert other.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert other.body.endswith(b"# EOF\n")
    assert later.body != plain.body


def test_before_the_first_window_nothing_is_made_up(metrics: Metrics) -> None:
    """503 with the time after which there will be something; the daemon is healthy meanwhile."""
    site = Site(metrics)
    with serving(metrics, site.known) as endpoint:
        for path in ("/metrics", "/readyz"):
            answer = get(endpoint, path)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
            assert b"1.5 s left" in answer.body
        assert get(endpoint, "/healthz").status == 200
        site.publish()
        assert [get(endpoint, path).status for path in ("/metrics", "/readyz")] == [200, 200]
        site.quiet_s = 5.0
        assert get(endpoint, "/healthz").status == 503


def test_the_endpoint_moves_by_the_interval_in_steps_of_the_quantum(metrics: Metrics) -> None:
    """No scraper sees more often or more finely than is set, on any page."""
    coarse = dataclasses.replace(metrics, energy_quantum=0.5)
    site = Site(coarse, Control(min_interval=6.0))
    seen = []
    with serving(coarse, site.known) as endpoint:
        for step in range(4):
            site.publish(20 + step, 3 * step)
            text = get(endpoint).body.decode()
            status = json.loads(get(endpoint, "/status").body)
            told = re.search(r"^tycho_windows_total (\d+)", text, re.MULTILINE)
            assert told
            seen.append((int(told[1]), status["sequence"]))
    joules = re.findall(r"^tycho_\w+_joules_total\S* (\S+)", text, re.MULTILINE)

    assert seen == [(20, 20), (20, 20), (22, 22), (22, 22)]
    assert len(joules) > 10
    assert {float(value) % 0.5 for value in joules} == {0.0}


def test_a_foreign_name_for_this_host_is_not_served(
    site: Site, metrics: Metrics, pairs: tuple[Pair, Pair, Pair], tmp_path: Path
) -> None:
    """A web page whose name is made to lead to loopback reads nothing; with users it may."""
    ours = ["127.0.0.1:9102", "[::1]:9102", "[::1]", "localhost", "LOCALHOST.:80", "10.0.0.1", ""]
    foreign = ["evil.example", "evil.example:9102", "localhost.evil.example", "127.0.0.1.evil", "["]
    with serving(metrics, site.known) as endpoint:
        for path in ("/metrics", "/status", "/healthz"):
            told = {host: get(endpoint, path, {"Host": host}).status for host in ours + foreign}
            assert told == {**dict.fromkeys(ours, 200), **dict.fromkeys(foreign, 421)}
        assert b"users_file" in get(endpoint, headers={"Host": "evil.example"}).body
    ca, server, _ = pairs
    with serving(secured(metrics, server), site.known) as endpoint:
        named = get(endpoint, headers={"Host": "node.example"}, context=trusting(ca))
    with serving(with_users(metrics, tmp_path), site.known) as endpoint:
        known = get(endpoint, headers={"Host": "node.example", **basic("a", "b")})
    reachable = dataclasses.replace(metrics, listen="0.0.0.0:0", insecure=True)
    with serving(reachable, site.known) as endpoint:
        remote = get(endpoint, headers={"Host": "node.example"})
    assert (named.status, known.status, remote.status) == (200, 200, 200)


FINE = re.compile(r"uj|joules?|_w$|watts?|power|energy")


def figures_in(plain: object, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number of energy or power in an answer, by its key."""
    if isinstance(plain, dict):
        for name, value in plain.items():
            yield from figures_in(value, name)
    elif isinstance(plain, list):
        for value in plain:
            yield from figures_in(value, key)
    elif isinstance(plain, int | float) and FINE.search(key):
        yield key, plain


def test_no_page_beside_metrics_tells_energy(site: Site, metrics: Metrics) -> None:
    """Whatever else is served is not rounded to the quantum, so it holds none."""
    pages = ("/status", "/", "/healthz", "/readyz", "/none")
    with serving(metrics, site.known) as endpoint:
        found = {path: get(endpoint, path).body for path in pages}
    status = json.loads(found.pop("/status"))

    assert [*figures_in(status)] == []
    assert status["domains"]["dram"]["quality"] == "measured"
    assert not [path for path, body in found.items() if re.search(rb"[0-9.]+ ?[JW]\b", body)]


def test_tls_and_certificates_of_clients(
    site: Site, metrics: Metrics, pairs: tuple[Pair, Pair, Pair]
) -> None:
    """Without the scraper's own certificate nothing is answered, nor to plain HTTP."""
    ca, server, scraper = pairs
    both = dataclasses.replace(secured(metrics, server), client_ca_file=str(ca.cert))
    with serving(secured(metrics, server), site.known) as endpoint:
        assert get(endpoint, context=trusting(ca)).status == 200
        with connect(endpoint, b"GET / HTTP/1.1\r\n\r\n") as client:
            assert read_all(client) == b""
    with serving(both, site.known) as endpoint:
        assert get(endpoint, context=trusting(ca, scraper)).status == 200
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            get(endpoint, "/healthz", context=trusting(ca))
        assert endpoint.counts()["requests"] == 1


def test_a_renewed_certificate_is_taken_up(
    site: Site, metrics: Metrics, pairs: tuple[Pair, Pair, Pair], tmp_path: Path
) -> None:
    """A half-written one leaves the last in use and is told; the whole one needs no restart."""
    ca, first, _ = pairs
    pair = Pair(tmp_path / "cert", tmp_path / "key")
    for old, new in zip(first, pair, strict=True):
        shutil.copy(old, new)
    with serving(secured(metrics, pair), site.known) as endpoint:
        assert get(endpoint, context=trusting(ca)).status == 200
        other_ca = make_ca(tmp_path, "other")
        second = issue(tmp_path, other_ca, "localhost")
        shutil.copy(second.cert, pair.cert)
        time.sleep(0.06)  # the interval of looking, not a time that anything takes
        assert get(endpoint, context=trusting(ca)).status == 200
        assert "not the key of" in next(endpoint.troubles()).reason
        shutil.copy(second.key, pair.key)
        time.sleep(0.06)
        assert get(endpoint, context=trusting(other_ca)).status == 200
        assert [*endpoint.troubles()] == []


def test_only_users_are_let_in(
    site: Site, metrics: Metrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the daemon is well is told to all; as long as the file is wrong, nobody is let in."""
    caplog.set_level(logging.DEBUG)
    metrics = with_users(metrics, tmp_path)
    with serving(metrics, site.known) as endpoint:
        for path in ("/metrics", "/status", "/", "/none"):
            refused = get(endpoint, path)
            assert (refused.status, refused.headers["WWW-Authenticate"][:5]) == (401, "Basic")
        assert [get(endpoint, path).status for path in ("/healthz", "/readyz")] == [200, 200]
        assert get(endpoint, headers=basic("a", "wrong")).status == 401
        assert get(endpoint, headers=basic("a", "b")).status == 200
        assert endpoint.counts()["unauthorized"] == 5
        Path(metrics.users_file).chmod(0o644)
        Path(metrics.users_file).write_text("a:b\n")
        time.sleep(0.06)
        assert get(endpoint, headers=basic("a", "b")).status == 401
        assert "nobody is let in" in next(endpoint.troubles()).reason
    assert "Basic" not in caplog.text
    assert "wrong" not in caplog.text


def test_guessing_is_put_off_and_known_users_are_not(
    site: Site, metrics: Metrics, tmp_path: Path
) -> None:
    """After a few tries 429, whoever asks; who was right before is served on."""
    with serving(with_users(metrics, tmp_path), site.known) as endpoint:
        assert get(endpoint, headers=basic("a", "b")).status == 200
        found = [get(endpoint, headers=basic("a", f"b{n}")).status for n in range(12)]
        assert get(endpoint, headers=basic("a", "b")).status == 200

    assert set(found) == {401, 429}
    assert found[:2] == [401, 401]


def test_slow_clients_lose_only_their_own_connections(site: Site, metrics: Metrics) -> None:
    """Half a head, a byte now and then, nothing at all: cut off; meanwhile others are served."""
    with serving(metrics, site.known, QUICK) as endpoint, ExitStack() as stack:
        half, silent, drip = (stack.enter_context(connect(endpoint, d)) for d in (HALF, b"", b"G"))
        deadline = time.monotonic() + PATIENCE_S
        with pytest.raises(OSError, match=r"Broken pipe|reset"):  # noqa: PT012 - which byte?
            while time.monotonic() < deadline:
                drip.sendall(b"E")
                assert get(endpoint).status == 200
        assert (read_all(half), read_all(silent)) == (b"", b"")
        until(lambda: endpoint.counts()["open"] == 0)
        assert endpoint.counts()["late"] == 3


def test_a_handshake_that_stalls_is_cut_off(
    site: Site, metrics: Metrics, pairs: tuple[Pair, Pair, Pair]
) -> None:
    """The handshake counts to the time for the request, and holds up nobody else's."""
    ca, server, _ = pairs
    with (
        serving(secured(metrics, server), site.known, QUICK) as endpoint,
        connect(endpoint, b"\x16\x03\x01\x02") as stalled,
        connect(endpoint) as silent,
    ):
        assert get(endpoint, context=trusting(ca)).status == 200
        assert (read_all(stalled), read_all(silent)) == (b"", b"")
        until(lambda: endpoint.counts()["late"] == 2)


def test_who_does_not_take_the_answer_is_cut_off(site: Site, metrics: Metrics) -> None:
    """The time for sending is for all of it: a byte now and then does not renew it."""
    known = site.known._replace(render=lambda _: ("text/plain", LARGE))
    with serving(metrics, known, QUICK) as endpoint:
        with connect(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n") as slow:
            until(lambda: endpoint.counts()["requests"] == 1)
            taken = 0
            while endpoint.counts()["late"] == 0:
                taken += len(slow.recv(1))
                assert get(endpoint, "/healthz").status == 200
                time.sleep(0.02)
            assert 0 < taken + len(read_all(slow)) < len(LARGE)
        assert get(endpoint).body == LARGE


GET = b"GET /metrics HTTP/1.1\r\n\r\n"


def test_who_keeps_us_waiting_gives_way(site: Site, metrics: Metrics) -> None:
    """Without a whole request, or with an answer that is not taken: the oldest goes, late."""
    known = site.known._replace(render=lambda _: ("text/plain", LARGE))
    with serving(metrics, known, LIMITS._replace(slow_s=0.0)) as endpoint, ExitStack() as stack:
        for sent, kept in ((HALF, 8), (b"", 8), (GET, 8)):
            held = [stack.enter_context(connect(endpoint, sent)) for _ in range(kept)]
            until(lambda: endpoint.counts()["open"] == 8)
            until(lambda: sent != GET or endpoint.counts()["requests"] >= 10)  # noqa: B023
            assert get(endpoint, "/healthz").status == 200
            read_all(held[0])
        assert endpoint.counts()["refused"] == 0
        assert endpoint.counts()["late"] >= 3


def test_who_finds_no_place_is_told_to_come_again(site: Site, metrics: Metrics) -> None:
    """A ninth client gets 503 at once while eight are being served; then there is a place again."""
    served = threading.Event()
    slow = ("text/plain", b"x")
    known = site.known._replace(render=lambda _: slow if served.wait(PATIENCE_S) else None)
    with serving(metrics, known) as endpoint, ExitStack() as stack:
        stack.callback(served.set)
        held = [stack.enter_context(connect(endpoint, GET)) for _ in range(8)]
        until(lambda: endpoint.counts()["open"] == 8)
        until(lambda: get(endpoint, "/healthz").status == 503)
        assert get(endpoint).headers["Retry-After"] == "1"
        served.set()
        assert all(read_all(client).endswith(b"\r\n\r\nx") for client in held)
        assert get(endpoint).status == 200


def test_a_flood_of_connections_is_put_off(site: Site, metrics: Metrics) -> None:
    """More than so many a second of one client are refused, however short each is."""
    with serving(metrics, site.known, LIMITS._replace(new_per_s=5)) as endpoint:
        found = [get(endpoint, "/healthz").status for _ in range(15)]

    assert set(found) == {200, 503}


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="only root can start another user's program")
def test_a_user_who_floods_the_endpoint_blinds_nobody_else(site: Site, metrics: Metrics) -> None:
    """By loopback all come from one address; whose a connection is tells the kernel."""
    program = (
        "import socket, sys, time\nwhile True:\n"
        " socket.create_connection(('127.0.0.1', int(sys.argv[1]))).close()\n time.sleep(0.002)\n"
    )
    with serving(metrics, site.known, HttpLimits()) as endpoint:
        port = str(endpoint.addresses[0][1])
        flood = subprocess.Popen([sys.executable, "-c", program, port], user=65534, cwd="/")
        try:
            until(lambda: endpoint.counts()["refused"] > 100)
            served = 0
            for _ in range(5):
                with suppress(OSError, http.client.HTTPException):
                    served += get(endpoint, "/healthz").status == 200
        finally:
            flood.kill()
            flood.wait()

    assert served >= 4


GARBAGE = {
    "no HTTP": (b"\x16\x03\x01\x00\xff\r\n\r\n", b"HTTP/1.1 400 "),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 400 "),
    "endless head": (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 3000, b"HTTP/1.1 431 "),
    "left": (b"", b""),
}


@pytest.mark.parametrize(("sent", "told"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_costs_only_its_own_connection(
    site: Site, metrics: Metrics, sent: bytes, told: bytes
) -> None:
    """It is answered where it can be, and no fault of ours."""
    with serving(metrics, site.known) as endpoint:
        with connect(endpoint, sent) as client:
            client.shutdown(socket.SHUT_WR)
            assert read_all(client).startswith(told)
        assert get(endpoint).status == 200
        assert endpoint.counts()["faults"] == 0


def test_a_fault_of_ours_is_told_and_logged_once(
    site: Site, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """500, one traceback, and the next page is served."""
    known = site.known._replace(render=lambda _: ("text/plain", b"" + None))  # type: ignore[operator]
    with serving(metrics, known) as endpoint:
        assert [get(endpoint).status for _ in range(3)] == [500, 500, 500]
        assert get(endpoint, "/healthz").status == 200
        assert endpoint.counts()["faults"] == 3
    assert caplog.text.count("Traceback") == 1


def test_a_port_that_is_taken_is_a_problem_until_it_is_free(
    site: Site, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, with what to do, and tried again by itself."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        metrics = dataclasses.replace(metrics, listen=f"127.0.0.1:{port}")
        with serving(metrics, site.known) as endpoint:
            (trouble,) = endpoint.troubles()
            assert f"port {port}: Address already in use: the endpoint is closed" in trouble.reason
            assert "ss -ltnp" in (trouble.remedy or "")
            time.sleep(0.12)  # two more tries
            assert caplog.text.count("Address already in use") == 1
            taken.close()
            until(lambda: bool(endpoint.addresses))
            assert get(endpoint).status == 200
            assert [*endpoint.troubles()] == []


UNFIT = {
    "no such address": ({"listen": "192.0.2.1:0", "insecure": True}, "Cannot assign", "no such"),
    "no such name": ({"listen": "no..name:0", "insecure": True}, "no name of a host", "/etc/hosts"),
    "others reach it": ({"listen": "0.0.0.0:0"}, "others can reach", "tls_cert_file"),
    "no certificate": ({"tls_cert_file": "/none", "tls_key_file": "/none"}, "No such", "tls_cert"),
    "no users": ({"users_file": "/none"}, "No such file", "users_file"),
}


@pytest.mark.parametrize(("change", "reason", "remedy"), UNFIT.values(), ids=UNFIT)
def test_what_cannot_be_served_as_set_is_not_served(
    site: Site, metrics: Metrics, change: dict[str, Any], reason: str, remedy: str
) -> None:
    """The endpoint stays closed rather than be less protected; the problem has a remedy."""
    with serving(dataclasses.replace(metrics, **change), site.known) as endpoint:
        (trouble,) = endpoint.troubles()
        assert endpoint.addresses == ()
        assert reason in trouble.reason
        assert remedy in (trouble.remedy or "")


def test_without_the_library_the_endpoint_says_what_to_install(
    site: Site, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring goes on; the endpoint opens as soon as the library is there."""
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "prometheus_client", None)  # as the import system sees it
        with serving(metrics, site.known) as endpoint:
            (trouble,) = endpoint.troubles()
            assert "prometheus_client is not installed" in trouble.reason
            assert "python3-prometheus-client" in (trouble.remedy or "")
            without.undo()
            until(lambda: bool(endpoint.addresses))


@pytest.mark.parametrize("listen", ["[::1]:0", "localhost:0", "127.0.0.1:0"])
def test_it_listens_where_it_is_told(site: Site, metrics: Metrics, listen: str) -> None:
    """On literals of both kinds and on the addresses of a name."""
    with serving(dataclasses.replace(metrics, listen=listen), site.known) as endpoint:
        if not endpoint.addresses and listen.startswith("["):
            pytest.skip(f"this machine has no IPv6: {next(endpoint.troubles()).reason}")
        host, port = endpoint.addresses[0]
        with socket.create_connection((host, port), timeout=PATIENCE_S) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_closing_does_not_wait_for_clients(site: Site, metrics: Metrics) -> None:
    """Who holds the line is hung up on; no thread stays behind (see ``serving``)."""
    known = site.known._replace(render=lambda _: ("text/plain", LARGE))
    with ExitStack() as stack, serving(metrics, known) as endpoint:
        for sent in (HALF, b"", b"GET /metrics HTTP/1.1\r\n\r\n"):
            stack.enter_context(connect(endpoint, sent))
        until(lambda: endpoint.counts()["open"] == 3)
        until(lambda: endpoint.counts()["requests"] == 1)


def test_the_daemon_serves_and_measures_on_without_its_port(tmp_path: Path) -> None:
    """From start to stop; a port that is taken stops nothing and shows in `tychoctl status`."""
    settings = (
        f'[host]\nsysfs = "{tmp_path}"\n[window]\nlength = 1.0\n[kubelet]\nenabled = false\n'
        '[metrics]\nenabled = true\nlisten = "127.0.0.1:{port}"\n'
    )
    with ExitStack() as stack, ThreadPoolExecutor(2) as threads:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        nodes = []
        for name, port in (("good", 0), ("bad", taken.getsockname()[1])):
            (tmp_path / name).mkdir()
            nodes.append(Node(tmp_path / name, settings.replace("{port}", str(port))))
            stack.push(nodes[-1])
        list(threads.map(Node.start, nodes))
        good, bad = nodes
        for node in nodes:
            assert node.ask("node")["sequence"] >= 1
        until(lambda: "metrics are served" in good.read_log())
        found = re.search(r"served by http on 127\.0\.0\.1 port (\d+)", good.read_log())
        assert found
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=PATIENCE_S) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 200 OK\r\n")
        assert good.ask("status")["endpoint"]["requests"] == 1
        (problem,) = (p for p in bad.ask("status")["problems"] if p["source"] == "metrics")
        assert "Address already in use" in problem["reason"]
        assert good.stop() == 0


def test_a_daemon_without_an_endpoint_loads_nothing_of_it() -> None:
    """Neither TLS nor HTTP nor the library of metrics costs memory where nobody asked for them."""
    program = "import sys, tychod.runtime.daemon; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = done.stdout.split()

    assert "tychod.runtime.daemon" in loaded
    assert not {"ssl", "http.client", "http.server", "prometheus_client"} & set(loaded)
    assert [name for name in loaded if name.startswith("tychod.runtime.http")] == []

"""What a Firework agent says: when it is asked, what is believed of it, and each of its faults."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.sim.firework import SimFirework, service, status
from tests.sim.rawpeer import REDIRECT, RawPeer
from tychod.workloads.firework import (
    INTERVAL_NS,
    Firework,
    FireworkError,
    Service,
    parse_status,
    status_url,
)
from tychod.workloads.hypervisors import parse_machine
from tychod.workloads.vmprocs import VmProcess

SECOND = 1_000_000_000
TICK = SECOND // os.sysconf("SC_CLK_TCK")
WAIT_S = 20.0
ANSWER = status(service("web", 200), service("db", 300, restart_count=3, health="unhealthy"))


@pytest.fixture
def agent() -> Iterator[SimFirework]:
    """Return an agent with two services."""
    with SimFirework(ANSWER) as sim:
        yield sim


@pytest.fixture
def firework(agent: SimFirework) -> Iterator[Firework]:
    """Return a client of it."""
    client = Firework(agent.url)
    yield client
    client.close()


def settle(firework: Firework) -> None:
    """Wait until the question under way has its outcome."""
    deadline_s = time.monotonic() + WAIT_S
    while any(t.name == "firework-question" for t in threading.enumerate()):
        assert time.monotonic() < deadline_s, f"hangs: {firework.status()}"
        time.sleep(0.002)


def ask(firework: Firework, now_ns: int, *, soon: bool = False) -> bool:
    """Poll, wait for the answer and take it in; say whether it was asked at all."""
    before = firework.asked_ns
    firework.poll(now_ns, soon=soon)
    if firework.asked_ns == before:
        return False
    settle(firework)
    firework.poll(now_ns)
    return True


def vm(pid: int, start_ticks: int, *argv: str) -> VmProcess:
    """Return a hypervisor's process with this command line."""
    machine = parse_machine(argv or ("firecracker",))
    assert machine is not None
    return VmProcess(pid, start_ticks, "/", machine)


def test_services_by_process(firework: Firework, agent: SimFirework) -> None:
    """What the agent tells of each; a zero that it leaves out is zero."""
    ask(firework, 0)

    web, db = firework.services[200], firework.services[300]
    assert web[:2] == ("web", 200)
    assert web[3:] == ("running", "healthy", 0, "node-a", "rev-7")
    assert db[3:] == ("running", "unhealthy", 3, "node-a", "rev-7")
    assert firework.route == "ok"
    assert agent.requests == ["/status"]
    assert firework.status()[:3] == (None, 1, 0)


def test_asked_every_15_s_and_sooner_at_most_once_a_second(firework: Firework) -> None:
    """An unknown microVM may ask out of turn, and no more often than that."""
    asked = [second for second in range(40) if ask(firework, second * SECOND)]
    soon = [t for t in range(400, 430) if ask(firework, t * SECOND // 10, soon=True)]

    assert asked == [0, 15, 30]
    assert soon == [400, 410, 420]


def test_polling_never_waits(firework: Firework, agent: SimFirework) -> None:
    """An agent that never answers is given up, its connection cut, and it is asked again."""
    agent.fault = "slow"
    firework.poll(0)
    firework.poll(5 * SECOND)
    assert firework.route == "not asked yet"
    firework.poll(7 * SECOND)
    assert firework.route.startswith("no whole answer in 5 s")

    agent.fault = ""
    deadline_s = time.monotonic() + WAIT_S
    while firework.asked_ns == 0 and time.monotonic() < deadline_s:
        firework.poll(61 * SECOND)  # the first question ends though nothing released it
    settle(firework)
    firework.poll(61 * SECOND)
    assert firework.route == "ok"


def test_an_agent_that_fails_is_asked_ever_more_rarely(
    firework: Firework, agent: SimFirework, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last good answer stays; why is logged once, and that it is over."""
    caplog.set_level(logging.INFO)
    ask(firework, 0)
    agent.fault = "500"
    asked = [t for t in range(1, 70) if ask(firework, t * SECOND, soon=True)]
    assert asked == [1, 2, 4, 8, 16, 31, 46, 61]
    assert set(firework.services) == {200, 300}
    assert firework.route == "stale: the agent failed (HTTP 500); see its log; it is asked again"

    agent.fault = ""
    ask(firework, 80 * SECOND)
    assert [r.levelname for r in caplog.records] == ["INFO", "WARNING", "INFO"]


FAULTS = {
    "404": "nothing at that address (HTTP 404)",
    "500": "the agent failed (HTTP 500)",
    "redirect": "unexpected answer (HTTP 302)",
    "half": "the answer broke off",
    "half-chunked": "the answer broke off",
    "hang-up": "the answer broke off",
    "huge": "the answer is longer than 1 MiB",
    "html": "the answer is not JSON",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_have_a_reason_and_a_remedy(
    firework: Firework, agent: SimFirework, fault: str
) -> None:
    """Each is one clear sentence, and nothing is believed."""
    agent.fault = fault
    ask(firework, 0)

    reason, _, remedy = firework.route.partition("; ")
    assert reason == FAULTS[fault]
    assert remedy
    assert firework.services == {}
    assert firework.status()[1:3] == (0, 1)
    assert len(agent.requests) == 1


@pytest.mark.parametrize("location", [b"http://[", b"\xff\xfe", b"http://a:b/", b"\x00"])
def test_a_redirect_to_nowhere_is_an_answer_like_any_other(location: bytes) -> None:
    """Whoever has bound the agent's port while it was away ends no thread of the daemon."""
    with RawPeer(REDIRECT % location) as peer:
        client = Firework(peer.url)
        ask(client, 0)

    assert client.route.startswith("unexpected answer (HTTP 302); ")


def test_the_body_of_a_redirect_is_not_read() -> None:
    """It has no limit of its own, and nobody needs it."""
    opening = b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"
    with RawPeer(opening, b"x" * (1 << 20), most=64) as peer:
        client = Firework(peer.url)
        ask(client, 0)

    assert client.route.startswith("unexpected answer (HTTP 302); ")
    assert peer.sent < 32 << 20  # what the kernel took before the connection was closed


def test_the_line_before_a_chunk_has_a_limit() -> None:
    """It may not be what the body may not: as long as the peer likes."""
    opening = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with RawPeer(opening, b"1" * (1 << 20), most=64) as peer:
        client = Firework(peer.url)
        ask(client, 0)

    assert client.route.startswith("the answer broke off")
    assert peer.sent < 32 << 20  # what the kernel took before the connection was closed


def test_a_fault_of_ours_costs_the_answer_only(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is told once, without the text that the peer may have chosen."""
    length = b"9" * 5000  # Python makes no number of so many digits
    opening = b"HTTP/1.1 200 OK\r\nX-Own: pa55\r\nContent-Length: %s\r\n\r\n" % length
    with RawPeer(opening) as peer:
        client = Firework(peer.url)
        ask(client, 0)
        ask(client, 20 * SECOND)

    assert client.route.startswith("the answer led to a fault in tychod (ValueError in ")
    assert client.status().errors == 2
    assert len(caplog.records) == 1
    assert "pa55" not in caplog.text


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    """A refused connection says which address and setting; a password in it is not shown."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        client = Firework(f"http://me:pa55@127.0.0.1:{port}")
        ask(client, 0)

    assert client.route.startswith(f"no connection to 127.0.0.1:{port}; ")
    assert "firework_status" in client.route
    assert "pa55" not in client.route + caplog.text


def test_proxies_are_not_used(firework: Firework, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment has no say in a conversation on this host."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    ask(firework, 0)

    assert firework.route == "ok"


def test_without_an_agent_nothing_is_asked() -> None:
    """An empty setting is off, and says how to turn it on."""
    client = Firework("")
    client.poll(0, soon=True)

    assert client.asked_ns is None
    assert "firework_status" in client.route
    assert client.service_of(vm(200, 1)) is None


def test_an_answer_from_before_the_process_is_of_another(firework: Firework) -> None:
    """A pid that came back is not the agent's until it was asked after the process began."""
    ask(firework, 0)
    asked_ns = firework.services[200].asked_boot_ns
    before, after = asked_ns // TICK - 1, asked_ns // TICK + 1

    found = firework.service_of(vm(200, before))
    assert found is not None
    assert found.name == "web"
    assert firework.service_of(vm(200, after)) is None
    assert firework.service_of(vm(201, before)) is None
    assert asked_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_the_command_line_is_believed_against_the_agent(firework: Firework) -> None:
    """An agent in another pid namespace tells of other processes than ours."""
    ask(firework, 0)
    socket_of = "--api-sock=/var/lib/firework/vms/{}/firecracker.sock"
    web, other = socket_of.format("web"), socket_of.format("other")

    assert firework.service_of(vm(200, 1, "firecracker", web)) is not None
    assert firework.service_of(vm(200, 1, "firecracker", "--id", "0a1b")) is not None
    assert firework.service_of(vm(200, 1, "firecracker", other)) is None
    assert firework.service_of(vm(200, 1, "qemu-kvm", "-name", "web")) is None


def parsed(**changes: object) -> list[Service]:
    """Parse one service with these fields changed."""
    return list(parse_status(status({**service("web", 200), **changes}), 7))


def test_what_is_told_in_older_and_newer_words() -> None:
    """An unknown version and unknown fields are no fault, nor are the names of older agents."""
    old = {
        "last_revision": "r1",
        "services": [{"name": "a", "pid": 5, "state": "running", "restarts": 2, "new": [1]}],
    }
    new = status(service("a", 5), schema_version=99, more={"x": 1})

    assert parse_status(json.dumps(old).encode(), 7) == (
        Service("a", 5, 7, "running", None, 2, None, "r1"),
    )
    assert [s.name for s in parse_status(new, 7)] == ["a"]
    assert parse_status(status(), 7) == ()


IMPOSSIBLE: tuple[dict[str, object], ...] = (
    *({"pid": 0}, {"pid": -1}, {"pid": True}, {"pid": "200"}, {"pid": 2**40}, {"pid": None}),
    *({"name": ""}, {"name": "kernel"}, {"name": "a.service"}, {"name": 5}, {"name": "x" * 65}),
    {"name": "a\x1b[31m"},
)


def test_services_that_cannot_be_are_left_out() -> None:
    """One without a process that can be, or called like something else, is not there."""
    assert [changes for changes in IMPOSSIBLE if parsed(**changes)] == []
    assert len(parsed()) == 1


def test_odd_fields_count_as_absent() -> None:
    """Names are bounded and visible, and what is not of its type is not known."""
    (found,) = parsed(vm_state="\x1b[2J" + "y" * 1000, health=["x"], restart_count="3")

    assert found.state is not None
    assert found.state.startswith(r"\x1b[2Jyyy")
    assert len(found.state) == 128
    assert (found.health, found.restarts) == (None, None)


def test_two_services_of_one_process_are_both_not_believed() -> None:
    """One of them is wrong, and nobody knows which."""
    body = status(service("a", 5), service("b", 5), service("c", 6))

    assert [s.name for s in parse_status(body, 7)] == ["c"]


def test_what_is_no_status() -> None:
    """Anything else that may answer at that address is refused, not taken for an empty list."""
    for body in (
        *(b"", b"null", b"[]", b"7", b"{}", b'{"services": {}}', b'{"services": 5}', b"\xff\xfe"),
        *(b"[" * 200_000, b'{"schema_version": 1, "services": "x"}', b"9" * 5000),
    ):
        with pytest.raises(FireworkError):
            parse_status(body, 7)


def test_odd_entries_do_not_hide_the_others() -> None:
    """A list may hold anything beside services."""
    document = json.loads(status(service("a", 5)))
    document["services"] = [None, 7, [], "x", {}, *document["services"]]

    assert [s.name for s in parse_status(json.dumps(document).encode(), 7)] == ["a"]


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "head": (b"", b"x"),
    "body": (HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "body to the end": (HEAD + b"Connection: close\r\n\r\n", b" "),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "goes on": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("drip", DRIPS)
def test_a_slow_drip_holds_no_thread(drip: str) -> None:
    """However slowly an answer comes, and whichever part of it, the agent is asked again."""
    opening, more = DRIPS[drip]
    with RawPeer(opening, more, pause_s=0.1, most=10_000) as peer:
        client = Firework(peer.url)
        client.poll(0)
        deadline_s = time.monotonic() + WAIT_S
        while peer.sent == 0 and time.monotonic() < deadline_s:
            time.sleep(0.002)
        client.poll(INTERVAL_NS)
        told = client.route
        peer.opening = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        while client.asked_ns == 0 and time.monotonic() < deadline_s:
            client.poll(2 * INTERVAL_NS, soon=True)
            time.sleep(0.002)
        settle(client)
        client.poll(2 * INTERVAL_NS)

    assert told.startswith("no whole answer")
    assert client.route.startswith("nothing at that address (HTTP 404)")


def test_addresses() -> None:
    """The setting may end with a slash, with the path, or without."""
    urls = ("http://h:1", "http://h:1/", "http://h:1/status")

    assert {status_url(url) for url in urls} == {"http://h:1/status"}


def test_a_drip_is_given_up(firework: Firework, agent: SimFirework) -> None:
    """An answer that comes byte by byte has no more time than any other."""
    agent.fault = "drip"
    firework.poll(0)
    firework.poll(INTERVAL_NS)
    assert firework.route.startswith("no whole answer")
    agent.released.set()
    settle(firework)

"""Devices from the pod-resources socket: the right ones, or the reason why there are none."""

import base64
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim import podresources as sim
from tests.sim.podresources import SimPodResources, frame, says, says_for_ever
from tychod import config
from tychod.hostfs import Host
from tychod.workloads import grpc_unary, podresources
from tychod.workloads.grpc_unary import CallError, call
from tychod.workloads.podresources import MessageError, PodResources, parse_answer

SECOND = 1_000_000_000
WAIT_S = 20.0
LIMIT = 1 << 20
LISTING = {
    ("ml", "train-0", "train"): {"nvidia.com/gpu": ("GPU-1", "GPU-2")},
    ("default", "infer", "main"): {"nvidia.com/mig-1g.18gb": ("MIG-a", "MIG-b")},
}
# Encoded by google.protobuf 7.36.2 from kubelet's v1 interface: one entry per device id with NUMA
# nodes, one entry with many ids, a container without devices, and CPUs, memory and a claim.
GOLDEN = base64.b64decode(
    "CoMBCgd0cmFpbi0wEgJtbBppCgV0cmFpbhIdCg5udmlkaWEuY29tL2dwdRIFR1BVLTIaBAoCCAESGwoObnZpZGlhLmNv"
    "bS9ncHUSBUdQVS0xGgIKABoEAgOCASIVCgZtZW1vcnkQgICAgIAgGgQKAggBKgcSBWNsYWltGgkKB3NpZGVjYXIKQwoF"
    "aW5mZXISB2RlZmF1bHQaLgoEbWFpbhImChZudmlkaWEuY29tL21pZy0xZy4xOGdiEgVNSUctYhIFTUlHLWEiAQc="
)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[sim.Script], str]]:
    """Return a function that serves a script and returns the socket's path."""
    servers: list[SimPodResources] = []

    def start(script: sim.Script) -> str:
        path = tmp_path / f"s{len(servers)}"
        servers.append(SimPodResources(path, script))
        return str(path)

    yield start
    for server in servers:
        server.__exit__()


def ask(path: str, timeout_s: float = WAIT_S) -> bytes:
    """Ask once."""
    return call(path, podresources.METHOD, b"", timeout_s, LIMIT)


def test_both_shapes_of_an_answer_are_read() -> None:
    """As a foreign encoder wrote it: devices by container, what is not asked for passed over."""
    assert parse_answer(GOLDEN) == LISTING
    assert parse_answer(b"") == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a", "number that goes beyond"),
        (b"\x0a\x05a", "field that goes beyond"),
        (b"\x0b", "field of kind 3"),
        (b"\x08" + b"\xff" * 10, "more than 64 bits"),
        (sim.field(1, sim.field(1, b"\xff")), "not UTF-8"),
        (sim.field(1, sim.field(1, "x" * 2000)), "name of more than 1024"),
        (
            sim.render_listing({("a", "b", "c"): {"r": tuple(str(n) for n in range(70_000))}}),
            "more than 65536 device ids",
        ),
        (
            sim.render_listing(
                {("a", "b", str(k)): {"r": tuple(map(str, range(7000)))} for k in range(10)}
            ),
            "more than 65536 device ids",
        ),
    ],
)
def test_answer_of_another_form_is_refused(data: bytes, reason: str) -> None:
    """Half a message, another interface, or more than a node can have: no devices, and why."""
    with pytest.raises(MessageError, match=reason):
        parse_answer(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    """No bytes do anything else to the reader."""
    for tried in (data, sim.field(1, data), sim.field(1, sim.field(3, sim.field(2, data)))):
        try:
            parse_answer(tried)
        except MessageError:
            continue


def test_good_answer_arrives_whole(serve: Callable[[sim.Script], str]) -> None:
    """Many frames, acknowledgements between them, padding: the message is what was sent."""
    data = bytes(range(256)) * 1000
    padded = frame(sim.DATA, sim.PADDED, 1, b"\x03" + sim.message(b"ab") + b"\0\0\0")
    plain = ask(serve(says(sim.answer(data))))
    odd = ask(
        serve(
            says(
                frame(sim.SETTINGS, 0, 0)
                + frame(sim.PING, 0, 0, b"12345678")
                + frame(sim.GOAWAY, 0, 0, struct.pack(">II", 1, 0))
                + frame(sim.HEADERS, 0, 1, sim.OK)
                + frame(sim.CONTINUATION, sim.END_HEADERS, 1)
                + padded
                + frame(sim.DATA, sim.END_STREAM, 1)
            )
        )
    )

    assert plain == data
    assert odd == b"ab"


OPEN = frame(sim.SETTINGS, 0, 0) + frame(sim.HEADERS, sim.END_HEADERS, 1, sim.OK)
END = frame(sim.HEADERS, sim.END_HEADERS | sim.END_STREAM, 1, sim.OK)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak HTTP/2"),
        (END, "refused the call"),
        (frame(sim.GOAWAY, 0, 0, bytes(8)), "takes no calls"),
        (frame(sim.RST_STREAM, 0, 1, struct.pack(">I", 11)), "RST_STREAM 11"),
        (frame(sim.RST_STREAM, 0, 1), "RST_STREAM"),
        (OPEN + frame(sim.DATA, 0, 1, b"\x01\0\0\0\x01x") + END, "compressed"),
        (OPEN + frame(sim.DATA, 0, 1, b"\0\0\0\0\x09x") + END, "not one whole message"),
        (OPEN + frame(sim.DATA, 0, 1, sim.message(b"a") * 2) + END, "not one whole message"),
        (OPEN + frame(sim.DATA, sim.PADDED, 1, b"\x05ab"), "padding alone"),
        (OPEN + frame(sim.DATA, sim.PADDED, 1, b""), "padding alone"),
        (frame(sim.HEADERS, 0, 1) + frame(sim.PING, 0, 0, bytes(8)), "broke off its headers"),
        (OPEN + frame(sim.DATA, 0, 1, bytes(16384)) * 66, "longer than 1048576 bytes"),
    ],
)
def test_every_bad_answer_has_its_reason(
    serve: Callable[[sim.Script], str], data: bytes, reason: str
) -> None:
    """What a broken or foreign server says ends the call with a text a person can act on."""
    with pytest.raises(CallError, match=reason):
        ask(serve(says(data)))


def test_server_that_goes_away_has_its_reason(serve: Callable[[sim.Script], str]) -> None:
    """A kubelet that is stopped in the middle."""
    with pytest.raises((CallError, ConnectionError)):
        ask(serve(lambda client: client.sendall(OPEN)))


@pytest.mark.parametrize(
    "script",
    [
        says(b""),
        says(OPEN + frame(sim.DATA, 0, 1, b"\0\0")),
        says_for_ever(frame(sim.PING, 0, 0, bytes(8))),
        says_for_ever(frame(sim.DATA, 0, 1), OPEN),
        says_for_ever(frame(sim.CONTINUATION, 0, 1, bytes(100)), frame(sim.HEADERS, 0, 1)),
        says_for_ever(frame(sim.SETTINGS, sim.ACK, 0)),
    ],
    ids=["silent", "half", "pings", "nothing", "headers", "settings"],
)
def test_server_that_never_ends_is_left_in_time(
    serve: Callable[[sim.Script], str], script: sim.Script
) -> None:
    """Silence and endless talk alike: the call ends at its own time-out."""
    with pytest.raises(CallError, match=r"no whole answer in 0\.1 s"):
        ask(serve(script), timeout_s=0.1)


def test_what_the_client_opens_bounds_what_may_come() -> None:
    """The windows that it grants are the limit and one frame: HTTP/2 itself bounds the memory."""
    opening = grpc_unary.render_opening("/s/m", b"", LIMIT)
    settings = opening[len(grpc_unary.PREFACE) :]

    assert struct.unpack_from(">HIHI", settings, 9) == (2, 0, 4, LIMIT + 5 + 16384)
    assert struct.unpack_from(">I", settings, 9 + 12 + 9) == (LIMIT + 5 + 16384 - 65535,)


# ---- when it is asked ----


def settle(client: PodResources, now_ns: int) -> None:
    """Wait for the question under way and take its outcome in."""
    deadline_s = time.monotonic() + WAIT_S
    while any(thread.name == "pod-resources-question" for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s, client.route
        time.sleep(0.001)
    if client._question:
        client._collect(client._question, now_ns)


def run(client: PodResources, start_s: int, end_s: int, *, soon: bool = False) -> list[int]:
    """Poll once a second of a made-up clock; return the seconds at which questions began."""
    asked = []
    for second in range(start_s, end_s):
        before = client.asked_ns
        client.poll(second * SECOND, soon=soon)
        if client.asked_ns != before:
            asked.append(second)
            settle(client, second * SECOND)
    return asked


def make_client(*paths: str) -> PodResources:
    """Return a client of sockets at these paths."""
    return PodResources(Host(config.Host()), paths)


def test_asked_once_a_minute_and_out_of_turn_once_a_second(
    serve: Callable[[sim.Script], str],
) -> None:
    """A container that has just started is asked for at once, within limits."""
    client = make_client(serve(says(sim.answer(sim.render_listing(LISTING)))))
    before = client.route

    assert run(client, 0, 130) == [0, 60, 120]
    assert run(client, 130, 133, soon=True) == [130, 131, 132]
    assert (before, client.route) == ("not asked yet", "ok")
    assert client.view == LISTING
    assert client.is_current


def test_bad_answers_leave_the_last_good_one_and_are_asked_for_ever_more_rarely(
    tmp_path: Path,
) -> None:
    """A kubelet that is away is back soon or late; its devices are kept and not current."""
    good = says(sim.answer(sim.render_listing(LISTING)))
    with SimPodResources(tmp_path / "s", good) as server:
        client = make_client(str(tmp_path / "s"))
        run(client, 0, 1)
        server.script = says(END)
        asked = run(client, 60, 200, soon=True)
        refused = (client.is_current, client.route)
        server.script = good
        run(client, 300, 301)

    assert asked == [60, 61, 63, 67, 75, 91, 123, 183]
    assert client.view == LISTING
    assert refused[0] is False
    assert "refused the call" in refused[1]
    assert client.is_current


def test_without_a_socket_nothing_is_asked_and_the_route_says_where_it_looked() -> None:
    """A host without a kubelet starts no thread."""
    client = make_client("/nowhere/a.sock", "/nowhere/b.sock")
    client.poll(0)

    assert client._question is None
    assert client.route.startswith("not used yet: there is no /nowhere/a.sock, nor where")


def test_socket_that_nobody_serves_has_its_reason(tmp_path: Path) -> None:
    """A kubelet that died leaves its socket file."""
    with SimPodResources(tmp_path / "s", says(b"")):
        pass
    client = make_client(str(tmp_path / "s"))
    run(client, 0, 1)

    assert "Connection refused" in client.route
    assert "see whether the kubelet runs" in client.route


def test_polling_never_waits_and_closing_hardly(tmp_path: Path) -> None:
    """While the kubelet hangs polls return, and no second question is begun."""
    with SimPodResources(tmp_path / "s", says(b"")):
        client = make_client(str(tmp_path / "s"))
        client.poll(0)
        thread = client._question.thread if client._question else None
        client.poll(SECOND, soon=True)
        client.poll(5 * SECOND, soon=True)
        client.poll(6 * SECOND, soon=True)
        client.close()

    assert "no answer in 2 s" in client.route
    assert client.asked_ns == 0
    assert thread is not None
    thread.join(WAIT_S)

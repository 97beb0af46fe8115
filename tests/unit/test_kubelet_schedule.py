"""When the kubelet is asked: its interval, sooner for the unknown, gently when it fails."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.sim.kubelet import EMPTY, SimKubelet, pod, pod_list
from tychod import config
from tychod.hostfs import Host
from tychod.workloads.kubelet import Kubelet

SECOND = 1_000_000_000
PODS = pod_list(pod("api-1", "0f3a5b1c-1111-4222-8333-444455556666", {"server": "a1" * 32}))
WAIT_S = 20.0


@pytest.fixture
def server() -> Iterator[SimKubelet]:
    """Return a kubelet's read-only port: the schedule does not depend on TLS."""
    with SimKubelet(PODS) as kubelet:
        yield kubelet


@pytest.fixture
def kubelet(server: SimKubelet) -> Iterator[Kubelet]:
    """Return a client of that kubelet that asks every 30 s."""
    settings = config.Kubelet(read_only_port=server.port, interval=30.0)
    client = Kubelet(settings, Host(config.Host()), "node-a")
    yield client
    client.close()


def run(kubelet: Kubelet, start_s: float, end_s: float, *, soon: bool = False) -> list[float]:
    """Poll every 0.1 s of a made-up clock; return the seconds at which questions began.

    Each question is waited for, so that a slow machine changes nothing.
    """
    asked = []
    for tenth in range(round(start_s * 10), round(end_s * 10)):
        before = kubelet.asked_ns
        kubelet.poll(tenth * SECOND // 10, soon=soon)
        if kubelet.asked_ns != before:
            asked.append(tenth / 10)
            settle(kubelet)
    return asked


def settle(kubelet: Kubelet) -> None:
    """Wait until the question under way has its outcome."""
    deadline_s = time.monotonic() + WAIT_S
    while any(t.name == "kubelet-question" for t in threading.enumerate()):
        assert time.monotonic() < deadline_s, f"hangs: {kubelet.status()}"
        time.sleep(0.002)


def test_asked_at_once_and_then_at_the_interval(kubelet: Kubelet, server: SimKubelet) -> None:
    """Two minutes with nothing unknown are four questions."""
    assert run(kubelet, 0, 119) == [0, 30, 60, 90]
    assert len(server.requests) == 4
    assert kubelet.route == "ok"


def test_unknown_containers_never_cause_more_than_a_question_a_second(kubelet: Kubelet) -> None:
    """However long something stays unknown, once a second is the most."""
    asked = run(kubelet, 0, 5, soon=True)

    assert asked == [0, 1, 2, 3, 4]


def test_failing_kubelet_is_asked_again_soon_then_ever_more_rarely(
    kubelet: Kubelet, server: SimKubelet
) -> None:
    """1, 2, 4, 8, 16 s apart and then at the interval, wanted or not; a good answer resets it."""
    server.fault = "500"
    asked = run(kubelet, 0, 100, soon=True)
    server.fault = ""
    recovered = run(kubelet, 100, 180)

    assert asked == [0, 1, 3, 7, 15, 31, 61, 91]
    assert recovered == [121, 151]


def test_answers_go_stale_after_three_intervals_or_one_failure(
    kubelet: Kubelet, server: SimKubelet
) -> None:
    """No answer yet is not stale; an old one and one followed by a failure are."""
    before = kubelet.is_stale(0)
    run(kubelet, 0, 1)
    good = [kubelet.is_stale(second * SECOND) for second in (1, 89, 92)]
    server.fault = "401"
    run(kubelet, 30, 31)

    assert before is False
    assert good == [False, False, True]
    assert kubelet.is_stale(31 * SECOND)


def test_last_good_answer_stays_through_bad_ones(kubelet: Kubelet, server: SimKubelet) -> None:
    """The view is replaced by good answers only; an empty list counts once it has lasted."""
    run(kubelet, 0, 1)
    view = kubelet.view
    server.pods = EMPTY
    run(kubelet, 30, 60)
    kept = kubelet.view
    run(kubelet, 60, 200)

    assert view is not None
    assert kept is view
    assert kubelet.view is not None
    assert kubelet.view.pods == ()
    assert kubelet.status().problem is None


def test_polling_never_waits_for_a_hung_kubelet(server: SimKubelet) -> None:
    """While a question hangs, polls return, no second one is begun, and closing does not wait."""
    server.fault = "slow"
    settings = config.Kubelet(read_only_port=server.port, timeout=20.0)
    kubelet = Kubelet(settings, Host(config.Host()), "node-a")
    for tenth in range(300):
        kubelet.poll(tenth * SECOND // 10, soon=True)
    hanging = sum(t.name == "kubelet-question" for t in threading.enumerate())
    kubelet.close()

    assert hanging == 1
    assert kubelet.asked_ns == 0
    server.released.set()
    settle(kubelet)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (config.Kubelet(), "no kubelet credential is configured"),
        (config.Kubelet(enabled=False, read_only_port=10255), "off in the configuration"),
    ],
)
def test_kubelet_that_is_not_to_be_asked_is_not(settings: config.Kubelet, reason: str) -> None:
    """Without a credential, or switched off, there is a reason, a remedy and no question."""
    kubelet = Kubelet(settings, Host(config.Host()), "node-a")
    kubelet.poll(0, soon=True)
    problem = kubelet.probe()

    assert problem is not None
    assert problem.reason == reason
    assert "[kubelet]" in problem.remedy
    assert kubelet.asked_ns is None
    assert kubelet.route == f"{problem.reason}; {problem.remedy}"


@pytest.mark.parametrize(
    "settings",
    [
        {"read_only_port": 10255},
        {"token_file": "/t"},
        {"client_cert_file": "/c", "client_key_file": "/k"},
        {"enabled": True},
    ],
)
def test_any_credential_or_a_plain_wish_makes_it_worth_asking(settings: dict[str, object]) -> None:
    """Each kind of credential, or `enabled = true`, is enough for a question."""
    kubelet = Kubelet(
        replace(config.Kubelet(), **settings),  # type: ignore[arg-type]
        Host(config.Host()),
        "node-a",
    )

    assert kubelet.probe() is None
    assert kubelet.route == "not asked yet"


def test_address_that_cannot_be_reached_is_told() -> None:
    """An address the network refuses outright is a reason like any other (no name is looked up)."""
    settings = config.Kubelet(enabled=True, endpoint="https://255.255.255.255:10250")
    kubelet = Kubelet(settings, Host(config.Host()), "node-a")
    run(kubelet, 0, 1)
    kubelet.close()

    assert "no connection to 255.255.255.255:10250 (" in kubelet.route


def test_ipv6_endpoint_keeps_its_brackets() -> None:
    """The read-only port of an endpoint that is an IPv6 address is asked at that address."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 loopback here")
        port = probe.getsockname()[1]
        settings = config.Kubelet(endpoint="https://[::1]:10250", read_only_port=port)
        kubelet = Kubelet(settings, Host(config.Host()), "node-a")
        run(kubelet, 0, 1)
        kubelet.close()

    assert f"connection refused by [::1]:{port}" in kubelet.route

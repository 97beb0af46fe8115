"""When the kubelet is asked: its interval, sooner for the unknown, gently when it fails."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.sim.kubelet import EMPTY, SimKubelet, pod, pod_list
from tychod import config
from tychod.hostfs import Host
from tychod.workloads.kubelet import REST_MOST_NS, RESTING, SOON_NS, Kubelet

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


def run(
    kubelet: Kubelet, start_s: float, end_s: float, *, soon: bool = False, every_s: float = 0.1
) -> list[float]:
    """Poll every so often by a made-up clock; return the seconds at which questions began.

    Each question is waited for, so that a slow machine changes nothing.
    """
    asked = []
    for tick in range(round(start_s / every_s), round(end_s / every_s)):
        before = kubelet.asked_ns
        kubelet.poll(round(tick * every_s * SECOND), soon=soon)
        if kubelet.asked_ns != before:
            asked.append(round(tick * every_s, 3))
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


@pytest.mark.parametrize("every_s", [0.05, 0.2])
def test_unknown_containers_cause_three_questions_a_second_at_most(
    kubelet: Kubelet, every_s: float
) -> None:
    """Fifty containers start each second, so that something always is unknown: 3 in any second."""
    asked_ms = [round(1000 * s) for s in run(kubelet, 0, 4, soon=True, every_s=every_s)]

    assert len(asked_ms) >= 8
    assert all(later - earlier >= 250 for earlier, later in pairwise(asked_ms))
    assert all(asked_ms[n + 3] - asked_ms[n] >= 1000 for n in range(len(asked_ms) - 3))


def test_one_unknown_container_is_asked_about_within_a_quarter_second(kubelet: Kubelet) -> None:
    """After a quiet time the first question comes at once, and the next ones soon."""
    run(kubelet, 0, 10)

    assert run(kubelet, 10, 10.1, soon=True) == [10]
    assert run(kubelet, 10.1, 10.6, soon=True) == [10.3]


def test_a_long_list_is_asked_for_so_rarely_that_it_costs_one_percent(
    kubelet: Kubelet, server: SimKubelet
) -> None:
    """The pause grows with the CPU time of the last answer: 100 times as long, or 2 s."""
    server.pods = pod_list(
        *(pod(f"p{n}", f"uid-{n}", {f"c{k}": f"{n:060x}{k:04x}" for k in range(3)})
          for n in range(1500))
    )  # fmt: skip
    run(kubelet, 0, 0.1)
    kubelet.poll(SECOND // 10)
    cost_ns = kubelet._cost_ns
    pause_ns = min(RESTING * cost_ns, REST_MOST_NS)
    kubelet.poll(pause_ns - 1, soon=True)
    early = kubelet.asked_ns
    kubelet.poll(pause_ns, soon=True)
    due = kubelet.asked_ns
    settle(kubelet)

    assert pause_ns > SOON_NS
    assert (early, due) == (0, pause_ns)


def test_wall_clock_that_steps_changes_nothing(
    kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's clock goes back six hours, then forward by a day: same questions, not stale."""
    run(kubelet, 0, 1)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 6 * 3600)
    back = run(kubelet, 1, 61)
    monkeypatch.setattr(time, "time", lambda: real() + 86400)
    forward = run(kubelet, 61, 121)

    assert (back, forward) == ([30, 60], [90, 120])
    assert kubelet.status().errors == 0
    assert not kubelet.is_stale(121 * SECOND)


def test_failing_kubelet_is_asked_again_soon_then_ever_more_rarely(
    kubelet: Kubelet, server: SimKubelet
) -> None:
    """1, 2, 4, 8, 16 s apart and then at the interval, every 2 s while somebody is unknown.

    A good answer resets it.
    """
    server.fault = "500"
    asked = run(kubelet, 0, 100)
    wanted = run(kubelet, 100, 107, soon=True)
    server.fault = ""
    recovered = run(kubelet, 107, 180)

    assert asked == [0, 1, 3, 7, 15, 31, 61, 91]
    assert wanted == [100, 102, 104, 106]
    assert recovered == [136, 166]


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


def test_a_refusal_is_never_taken_for_good(kubelet: Kubelet, server: SimKubelet) -> None:
    """With webhook authentication 401 is what a token gets while the API server is away."""
    server.fault = "401"
    refused = run(kubelet, 0, 20)
    route = kubelet.route
    server.fault = ""
    run(kubelet, 20, 40)

    assert refused == [0, 1, 3, 7, 15]
    assert route.startswith("credential refused (HTTP 401); it is asked again")
    assert (kubelet.route, kubelet.is_stale(40 * SECOND)) == ("ok", False)


def of_nodes(*nodes: str | None) -> bytes:
    """Return a list with a pod of each of these nodes."""
    pods = [pod(f"p{n}", f"uid-{n}", {"c": f"{n:064x}"}) for n in range(len(nodes))]
    for listed, node in zip(pods, nodes, strict=True):
        listed["spec"]["nodeName"] = node  # type: ignore[index]
    return pod_list(*pods)


def names(kubelet: Kubelet) -> list[str]:
    """Return the names of the pods that are believed."""
    return [listed.name for listed in kubelet.view.pods] if kubelet.view else []


def test_pods_of_another_node_are_left_out_counted_and_told_once(
    kubelet: Kubelet, server: SimKubelet, caplog: pytest.LogCaptureFixture
) -> None:
    """Only pods of this node, and those that name none, are believed; the log hears of a change."""
    server.pods = of_nodes("node-a", "node-b\x1b[31m", None, "node-c")
    run(kubelet, 0, 91)
    kubelet.poll(92 * SECOND)
    status, route = kubelet.status(), kubelet.route
    server.pods = of_nodes("node-a", "node-a")
    run(kubelet, 92, 122)

    assert (status.answers, status.foreign, status.problem) == (4, 2, None)
    assert route == (
        "ok; pods of other nodes are left out:"
        r" they are of node 'node-b\x1b[31m' and 1 more, this one is 'node-a'"
    )
    assert [r.levelname for r in caplog.records if "of other nodes" in r.message] == ["WARNING"]
    assert (kubelet.route, kubelet.status().foreign) == ("ok", 0)


def test_an_answer_of_another_node_altogether_is_no_news(
    kubelet: Kubelet, server: SimKubelet
) -> None:
    """A kubelet that turns out to be another node's costs no name: what was known stays, stale."""
    server.pods = of_nodes("node-a", "node-a")
    run(kubelet, 0, 1)
    server.pods = of_nodes("node-b", "node-b", "node-b")
    run(kubelet, 30, 31)
    kubelet.poll(31 * SECOND)

    assert names(kubelet) == ["p0", "p1"]
    assert kubelet.is_stale(31 * SECOND)
    assert kubelet.status().foreign == 3
    assert kubelet.route == (
        "stale: none of its pods is this node's: they are of node 'node-b', this one is 'node-a';"
        " set [kubelet] node_name to this node's name, or see [kubelet] endpoint"
    )


def test_one_container_in_two_pods_is_counted_and_told_once(
    kubelet: Kubelet, server: SimKubelet, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose it is only the cgroup's path can tell; both pods stay in the view for that."""
    ident = "c3" * 32
    server.pods = pod_list(pod("p0", "uid-0", {"c": ident}), pod("p1", "uid-1", {"c": ident}))
    run(kubelet, 0, 61)
    kubelet.poll(61 * SECOND)

    assert kubelet.status().contested == 1
    assert names(kubelet) == ["p0", "p1"]
    assert "several pods name one container" in kubelet.route
    assert len([r for r in caplog.records if "several pods" in r.message]) == 1

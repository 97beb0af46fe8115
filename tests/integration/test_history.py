"""The history of a real daemon: it survives kill -9, and its reports add up to the node."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.sim.node import Node
from tychoctl.client import Connection, Failure


@pytest.fixture
def settings(tmp_path: Path) -> str:
    """A machine whose energy is modelled; nothing of this one is needed but /proc."""
    (tmp_path / "sys").mkdir()
    return (
        f'[host]\nsysfs = "{tmp_path / "sys"}"\n[window]\nlength = 1.0\n'
        "[kubelet]\nenabled = false\n[history]\ninterval = 10.0\n"
        '[report]\nprice_per_kwh = 0.25\nprice_origin = "a contract"\nprice_date = "2026-01-31"\n'
    )


def ask(node: Node, op: str, **args: Any) -> dict[str, Any]:
    """An operation's answer, as soon as there is a first window."""
    until = time.monotonic() + 15
    with Connection(str(node.socket)) as connection:
        while True:
            try:
                connection.call("node")
                return connection.call(op, args)
            except Failure:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)


def check(node: Node) -> dict[str, Any]:
    """Rows add up to the total, and the total to the node's own counters of that moment."""
    found: dict[str, Any] = ask(node, "report", by="workload")["report"]
    for kind in ("idle_uj", "dynamic_uj"):
        assert sum(r["total"][kind] for r in found["rows"]) == found["total"]["total"][kind]
    assert sum(found["total"]["total"].values()) > 0
    return found


def check_questions(node: Node) -> None:
    """Every operation with arguments is answered from the daemon's own state, not a test's."""
    told = ask(node, "explain", name="system", kind="workload")
    text = ask(node, "metrics", names="tycho", openmetrics=False)["text"]
    accounting = ask(node, "status")["accounting"]
    domain = told["domains"]["package"]
    hints = {hint["about"]: hint for hint in told["improve"]}

    assert told["accounting"] == {key: accounting[key] for key in ("method", "reason")}
    assert domain["shared_uj"] == sum(domain["by_whom_uj"].values()) > 0
    assert "idle_w_per_cpu" in hints["package"]["remedy"]  # there is no meter, and it knows why
    assert "no reason given" not in hints["package"]["reason"]
    assert told["domains"]["package"]["own"]["sd_uj"] is None  # a model's error is not known
    assert "tycho_node_joules_total" in text
    assert set(ask(node, "trend")["points"][-1][1]) == {"package"}


def test_reports_go_on_over_a_kill(settings: str, tmp_path: Path) -> None:
    """No record is lost that was made, nothing is counted twice, and the files are the daemon's."""
    with Node(tmp_path, settings) as node:
        before = check(node)
        node.kill()
        node.start()
        answer = ask(node, "node")
        after = check(node)
        points = ask(node, "trend")["points"]
        text = node.tychoctl("report", "--by", "namespace", "-o", "table").stdout
        check_questions(node)
        assert node.stop() == 0
    files = sorted((tmp_path / "state" / "history").iterdir())
    package = answer["domains"]["package"]

    assert after["covered"]["start"] == before["covered"]["start"]
    assert sum(after["total"]["total"].values()) >= package["energy_uj"] > 0
    assert after["modelled_uj"] == sum(after["total"]["total"].values())
    assert isinstance(points, list)
    assert abs(points[-1][0] - time.time()) < 60
    assert "a contract" in text
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert "damaged" not in node.read_log()

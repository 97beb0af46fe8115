"""`tychoctl doctor` beside a real daemon on a simulated node, beside a dead one, and unanswered."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim.cgrouptree import real_base
from tests.sim.node import Node
from tests.sim.powercap import LAYOUTS, build_tree
from tests.sim.silent import SECRETS, SILENT, SilentHost
from tychod.doctor.lateness import LATE, NO_TIME

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = '[host]\nsysfs = "{base}/sys"\n[kubelet]\nenabled = false\n[ipmi]\nenabled = false\n'


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon on this machine's cgroups and a simulated powercap tree."""
    if real_base("v1") is None and real_base("v2") is None:
        pytest.skip("no cgroup hierarchy can be read here (needs root)")
    base = tmp_path_factory.mktemp("doctor")
    build_tree(base / "sys", LAYOUTS["intel-2s"], mode=0o440)
    with Node(base, SETTINGS.format(base=base)) as found:
        yield found


def of_nobody() -> dict[str, str]:
    """Return this environment without settings of tychod, or what looks like some."""
    return {k: v for k, v in os.environ.items() if not k.startswith("TYCHOD_")}


def run(
    command: list[str], environ: dict[str, str], where: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a doctor to its end, in a directory."""
    return subprocess.run(
        command,
        env={**environ, "PYTHONPATH": str(ROOT)},
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def left_in(directory: Path) -> list[str]:
    """Return the processes that work in a directory, which children inherit, and run still."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # not ours, or gone
            if (process / "cwd").readlink() == directory:
                found.append((process / "cmdline").read_text())
    return [line for line in found if line]


def examine(node: Node, *words: str) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the checks of a node by id, and the exit status."""
    environ = {**of_nobody(), "STATE_DIRECTORY": str(node.directory / "state")}
    silent = SilentHost(node.directory)
    command = [*silent.command("-o", "json", *words)]
    command[command.index("--socket") + 1] = str(node.socket)
    done = run(command, environ)
    plain = json.loads(done.stdout)
    assert plain["schema"] == 1
    assert set(plain["summary"]) == {"ok", "warn", "fail", "skip", "first"}
    return {check["id"]: check for check in plain["checks"]}, done.returncode


def test_a_daemon_that_is_well_is_told_so(node: Node) -> None:
    """Socket, process, state and sources are seen from both sides, each check once; exit 0."""
    checks, code = examine(node)

    well = ("settings", "socket", "daemon", "state", "cost", "rapl", "hierarchy")
    assert {name: checks[name]["state"] for name in well} == dict.fromkeys(well, "ok")
    assert f"process {node.pid} " in checks["capability"]["evidence"]
    assert "rapl measures it" in checks["model"]["evidence"]
    assert (code, [c["id"] for c in checks.values() if c["state"] == "fail"]) == (0, [])


def test_a_daemon_that_is_down_leaves_the_host_s_half(node: Node) -> None:
    """Killed: socket and daemon fail and say what to do; the sources are looked at still."""
    node.kill()

    checks, code = examine(node)

    assert code == 1
    assert [checks[name]["state"] for name in ("socket", "daemon", "rapl")] == [
        "fail",
        "fail",
        "ok",
    ]
    assert checks["socket"]["remedy"].startswith("systemctl restart tychod")
    assert checks["daemon"]["remedy"].startswith("systemctl start tychod")


def test_nobody_answers_and_it_ends_nevertheless(tmp_path: Path) -> None:
    """Peers that never answer fail with a remedy, in time; no secret of theirs is told.

    The driver and systemctl hang still when the doctor ends: it leaves none of them behind.
    """
    with SilentHost(tmp_path) as host:
        done = run(host.command("-o", "json"), dict(host.environment()), tmp_path)
        deadline_s = time.monotonic() + 2.0
        while left_in(tmp_path) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        left = left_in(tmp_path)

    checks = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    # A machine that had no time for a check says so; the client's own never do.
    late = {name: checks[name]["state"] for name in SILENT if checks[name]["evidence"] != NO_TIME}
    assert late == dict.fromkeys(late, "fail")
    assert "daemon" in late
    assert all(checks[name]["remedy"] for name in SILENT)
    assert checks["bmc"]["evidence"] in (LATE, NO_TIME)
    assert left == []
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)


def test_the_client_is_told_as_it_goes(tmp_path: Path) -> None:
    """Deadline first, then each check as it comes, then all; by hand there is the whole alone."""
    command = [sys.executable, "-m", "tychod", "--doctor", "--json", "--config", "/dev/null"]
    environ = {**of_nobody(), "STATE_DIRECTORY": str(tmp_path)}

    told = run(command, {**environ, "DOCTOR_SINCE": f"{time.monotonic()}"}).stdout.splitlines()
    whole = run(command, environ).stdout.splitlines()

    first, *each, last = (json.loads(line) for line in told)
    assert time.monotonic() - 30 < first["deadline"] < time.monotonic() + 30
    assert {one["check"]["id"] for one in each} == {check["id"] for check in last["checks"]}
    assert [list(json.loads(line)) for line in whole] == [["schema", "checks", "summary"]]

"""What it costs to know who workloads are, and how soon they are known.

A simulated node (cgroup directories, bundles, a kubelet over real TLS) with 500 containers, beside
3000 real processes.  The identity of workloads runs alone in a process of its own, so that its
CPU time is all that is counted.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench.daemon import Running, end, say
from tests.bench.figures import Figure
from tests.bench.interpreter import daemon_python
from tests.sim.cgrouptree import FakeTree
from tests.sim.kubelet import NODE, SimKubelet, issue, make_ca
from tests.sim.podnode import PARENT, PodNode, SimPod

PODS: Final = 250
PROCESSES: Final = 3_000
STEADY_S: Final = 60.0
CHURN_S: Final = 30.0
STARTS_PER_S: Final = 50.0
LIFE_S: Final = 5.0
ROWS: Final = 24
WINDOW_S: Final = 3.0
SLEEPERS: Final = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        import ctypes
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        signal.pause()
print("ready", flush=True)
signal.pause()
"""


def measure() -> list[Figure]:
    """Measure the steady cost, the cost of starts, and how soon a row is named."""
    memory = "/dev/shm"  # noqa: S108 - a directory of a random name is made in it
    base = memory if Path(memory).is_dir() else None
    with tempfile.TemporaryDirectory(prefix="tychod-bench-", dir=base) as name:
        return [*_measure_cost(Path(name) / "a"), *_measure_delay(Path(name) / "b")]


def _measure_cost(place: Path) -> list[Figure]:
    say(f"identity of {2 * PODS} containers and {PROCESSES} processes, {STEADY_S + CHURN_S:g} s")
    with _node(place) as (node, kubelet), ExitStack() as undo:
        for _ in range(PODS):
            node.start("server")
        kubelet.pods = node.listed()
        undo.callback(end, _sleepers())
        with _child(place, kubelet) as ask:
            time.sleep(5)  # everything is new at first, and the kubelet's library is imported
            before = ask()
            time.sleep(STEADY_S)
            steady = ask()
            _churn(node, kubelet)
            after = ask()
    ratio = _ratio(before, steady)
    busy = _ratio(steady, after)
    return [
        Figure("identity, steady: CPU of a core", 100 * ratio, "%", 0.3),
        Figure(f"identity, {STARTS_PER_S:g} container starts a second", 100 * busy, "%", 3.0),
        Figure("containers that never had their name", after["nameless"], "", 0),
        Figure("questions to the kubelet during the starts", len(kubelet.requests), "", None),
    ]


def _ratio(before: dict[str, float], after: dict[str, float]) -> float:
    return (after["cpu_s"] - before["cpu_s"]) / (after["wall_s"] - before["wall_s"])


def _churn(node: PodNode, kubelet: SimKubelet) -> None:
    """Start pods of two containers, pause included, at the rate that is asked for."""
    kubelet.requests.clear()
    began, started, alive = time.monotonic(), 0, list[tuple[float, SimPod]]()
    while (elapsed := time.monotonic() - began) < CHURN_S:
        while started < elapsed * STARTS_PER_S:
            alive.append((elapsed, node.start("server")))
            started += 2
        while alive and elapsed - alive[0][0] > LIFE_S:
            node.stop(alive.pop(0)[1])
        kubelet.pods = node.listed()
        time.sleep(0.05)


@contextlib.contextmanager
def _node(place: Path) -> Iterator[tuple[PodNode, SimKubelet]]:
    place.mkdir()
    tree = FakeTree(place)
    for path in ("/system.slice", "/kubepods.slice", f"/{PARENT}"):
        tree.make(path)
    node = PodNode(place, tree.make, tree.remove)
    pair = issue(place, make_ca(place, "ca"), NODE)
    try:
        with SimKubelet(node.listed(), pair, token="t") as kubelet:
            yield node, kubelet
    finally:
        tree.close()


def _sleepers() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLEEPERS, str(PROCESSES)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if child.stdout is None or child.stdout.readline().strip() != "ready":
        raise RuntimeError(f"{PROCESSES} processes could not be started")
    return child


def _settings(place: Path, kubelet: SimKubelet, procfs: str) -> str:
    (place / "token").write_text("t")
    return (
        f'[host]\ncgroupfs = "{place / "cgroup"}"\nprocfs = "{procfs}"\nhierarchy = "v2"\n'
        f'sysfs = "{place / "sys"}"\nrun = "{place / "run"}"\nlog = "{place / "log"}"\n'
        f'var = "{place / "var"}"\n[kubelet]\nendpoint = "{kubelet.url}"\n'
        f'node_name = "{NODE}"\nca_file = "{place / "ca.crt"}"\n'
        f'token_file = "{place / "token"}"\n[accounting]\nloader = "off"\n'
        f'[window]\nlength = {WINDOW_S}\n[log]\ntarget = "stderr"\nlevel = "warning"\n'
    )


@contextlib.contextmanager
def _child(place: Path, kubelet: SimKubelet) -> Iterator["_Asker"]:
    config = place / "tychod.toml"
    config.write_text(_settings(place, kubelet, "/proc"))
    child = subprocess.Popen(
        [daemon_python()[0], "-m", "tests.bench.identity", str(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        yield _Asker(child)
    finally:
        end(child)


class _Asker:
    """Asks the child for its figures."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def __call__(self) -> dict[str, float]:
        if self._child.stdin is None or self._child.stdout is None:
            raise RuntimeError("the child has no pipes")
        print("?", file=self._child.stdin, flush=True)
        found: dict[str, float] = json.loads(self._child.stdout.readline())
        return found


def _measure_delay(place: Path) -> list[Figure]:
    """Start pods at all phases of a window, without bundles, and wait for their rows' names."""
    say(f"from cgroup to named row, {ROWS} pods")
    with _node(place) as (node, kubelet):
        kubelet.pods = node.listed()
        daemon = Running(place, _settings(place, kubelet, str(place / "proc")))
        try:
            seen = _Rows(place / "tychod.sock")
            time.sleep(2 * WINDOW_S)
            for number in range(ROWS):
                node.start("server", bundle=False)
                kubelet.pods = node.listed()
                time.sleep(WINDOW_S * 0.31 + 0.003 * number)
            time.sleep(2 * WINDOW_S + 2)
            seen.stop()
        finally:
            daemon.kill()
    delays = [
        seen.named_s[pod.containers["server"]] - node.made_s[pod.containers["server"]]
        for pod in node.pods.values()
        if pod.containers["server"] in seen.named_s
    ]
    return [
        Figure("rows that never had their name", ROWS - len(delays), "", 0),
        Figure("cgroup made to named row, worst", max(delays, default=1e9), "s", WINDOW_S + 1),
        Figure("cgroup made to named row, mean", sum(delays) / max(len(delays), 1), "s", None),
    ]


class _Rows:
    """Follows a daemon's containers, and notes when each had its name first."""

    def __init__(self, socket: Path) -> None:
        self.named_s: dict[str, float] = {}
        self._child = subprocess.Popen(
            [
                *(sys.executable, "-m", "tychoctl", "--socket", str(socket), "--wait", "20"),
                *("containers", "-a", "-o", "json", "-w"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        for line in self._child.stdout or ():
            now = time.monotonic()
            for row in json.loads(line)["workloads"]:
                if row["name"] == "server" and row["pod"]:
                    self.named_s.setdefault(row["id"], now)

    def stop(self) -> None:
        """End it."""
        end(self._child)
        self._thread.join()


def run_child(config_file: str) -> None:
    """Find out who workloads are until told to end; tell CPU time for each line read."""
    from tests.bench.identity_node import Alone

    alone = Alone(Path(config_file))
    for _ in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = used.ru_utime + used.ru_stime - alone.feeding_s()
        told = {"cpu_s": cpu_s, "wall_s": time.monotonic(), "nameless": alone.nameless()}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    run_child(sys.argv[1])

"""What the daemon costs: CPU, memory, time to start and to stop, on a generated node.

250 containers in 120 pods and 60 units on a simulated cgroup tree that moves and churns, six RAPL
zones at 50 ms.  The simulators are other processes; only the daemon's own cost is counted.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure
from tests.bench.interpreter import daemon_python

SHAPE: Final = ("--pods", "120", "--containers", "250", "--units", "60")
CPU_S: Final = 90.0
CHURN_WINDOWS: Final = 200
SHORT_WINDOW_S: Final = 1.0
STARTS: Final = 5
TICK_HZ: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def say(text: str) -> None:
    """Tell what takes time."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def spawn(*words: str) -> subprocess.Popen[bytes]:
    """Start a simulator."""
    return subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.DEVNULL)


def end(child: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Stop a process for certain."""
    child.terminate()
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def simulated_node(churn_per_s: float) -> Iterator[Path]:
    """Run the simulators below a directory in memory."""
    memory = "/dev/shm"  # noqa: S108 - a directory of a random name is made in it
    base = memory if Path(memory).is_dir() else None
    with tempfile.TemporaryDirectory(prefix="tychod-bench-", dir=base) as name, ExitStack() as undo:
        place = Path(name)
        tree = ("tests.sim.cgrouptree", "--tree", str(place), *SHAPE)
        undo.callback(end, spawn(*tree, "--churn-per-s", str(churn_per_s)))
        meters = ("tests.sim.powercap", "--tree", str(place / "sys"), "--layout", "intel-2s")
        undo.callback(end, spawn(*meters, "--mode", "0444"))
        wait_for_tree(place)
        yield place


def wait_for_tree(place: Path) -> None:
    """Wait until all cgroups and meters are there."""
    for _ in range(200):
        names = [name for _, found, files in os.walk(place) for name in (*found, *files)]
        scopes = sum(name.startswith("cri-containerd-") for name in names)
        if scopes >= 250 and "energy_uj" in names:
            return
        time.sleep(0.05)
    raise RuntimeError("the simulated node did not come up")


class Running:
    """A daemon on the packaged interpreter, told ready by sd_notify like under systemd."""

    def __init__(self, place: Path, settings: str, **environment: str) -> None:
        """Start it and wait for READY=1; ``ready_s`` is the time that took."""
        config = place / "tychod.toml"
        config.write_text(settings)
        notify = place / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(notify))
            listener.settimeout(20)
            self.log = (place / "daemon.log").open("wb")
            began = time.monotonic()
            self.child = subprocess.Popen(
                [daemon_python()[0], "-m", "tychod", "--config", str(config)],
                stdout=self.log,
                stderr=self.log,
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith("TYCHOD_")},
                    "STATE_DIRECTORY": str(place / "state"),
                    "RUNTIME_DIRECTORY": str(place),
                    "NOTIFY_SOCKET": str(notify),
                    "OPENBLAS_NUM_THREADS": "1",
                    "OMP_NUM_THREADS": "1",
                    "MALLOC_ARENA_MAX": "2",
                    **environment,
                },
            )
            while b"READY=1" not in listener.recv(4096):
                pass
            self.ready_s = time.monotonic() - began

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK_HZ

    def rss_mb(self) -> float:
        """Resident memory in megabytes (10^6)."""
        return int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]) * PAGE / 1e6

    def stop_s(self) -> float:
        """Stop it as systemd does; return how long that took."""
        began = time.monotonic()
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(timeout=20)
        self.log.close()
        return time.monotonic() - began

    def kill(self) -> None:
        """End it for certain."""
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        self.log.close()


def settings(place: Path, *, window_s: float = 3.0) -> str:
    """Return settings that point a daemon at a simulated node; all else are defaults."""
    return (
        f'[host]\ncgroupfs = "{place / "cgroup"}"\nprocfs = "{place / "proc"}"\n'
        f'sysfs = "{place / "sys"}"\nhierarchy = "v2"\n[window]\nlength = {window_s}\n'
    )


def measure_cpu() -> list[Figure]:
    """CPU of the daemon at default settings."""
    say(f"CPU at default settings, {CPU_S:.0f} s")
    with simulated_node(churn_per_s=1.0) as place:
        daemon = Running(place, settings(place))
        try:
            time.sleep(6.0)
            began, used = time.monotonic(), daemon.cpu_s()
            time.sleep(CPU_S)
            percent = 100.0 * (daemon.cpu_s() - used) / (time.monotonic() - began)
        finally:
            daemon.kill()
    return [
        Figure(
            "daemon CPU, 250 containers (simulated files), RAPL at 50 ms",
            percent,
            "% of a core",
            2.0,
        )
    ]


def measure_memory() -> list[Figure]:
    """Resident memory after 200 windows of churn; windows of 1 s, three new containers each."""
    say(f"memory after {CHURN_WINDOWS} windows of churn, {CHURN_WINDOWS * SHORT_WINDOW_S:.0f} s")
    with simulated_node(churn_per_s=3.0 / SHORT_WINDOW_S) as place:
        daemon = Running(place, settings(place, window_s=SHORT_WINDOW_S))
        try:
            time.sleep(120.0)
            early = daemon.rss_mb()
            time.sleep(max(CHURN_WINDOWS * SHORT_WINDOW_S - 120.0, 0.0) + 5.0)
            late = daemon.rss_mb()
        finally:
            daemon.kill()
    return [
        Figure("daemon RSS at minute 2 of it (360 containers replaced)", early, "MB", 80.0),
        Figure("daemon RSS after 200 windows (of 1 s) of churn", late, "MB", 80.0),
    ]


def measure_start() -> list[Figure]:
    """Time from exec to READY=1 and from SIGTERM to the end, median of a few."""
    say(f"start and stop, {STARTS} times")
    ready, stop = [], []
    with simulated_node(churn_per_s=0.0) as place:
        for _ in range(STARTS):
            daemon = Running(place, settings(place))
            try:
                ready.append(daemon.ready_s)
                stop.append(daemon.stop_s())
            finally:
                daemon.kill()
        hung = measure_hung_stop(place)
    return [
        Figure("ready after exec, median", statistics.median(ready), "s", 1.5),
        Figure("stop after SIGTERM, median", statistics.median(stop), "s", 2.0),
        *hung,
    ]


def measure_hung_stop(place: Path) -> list[Figure]:
    """Time to stop while a meter's driver hangs."""
    library, flag = place / "hang.so", place / "hang-now"
    source = Path(__file__).parents[1] / "sim" / "hang.c"
    compiled = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    try:
        subprocess.run(compiled, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        say(f"stop with a hung source: not measured, no C compiler ({exc})")
        return []
    daemon = Running(
        place,
        settings(place),
        LD_PRELOAD=str(library),
        HANG_PATH="intel-rapl:0/energy_uj",
        HANG_WHILE=str(flag),
    )
    try:
        flag.touch()
        time.sleep(1.0)
        took = daemon.stop_s()
    finally:
        flag.unlink()
        daemon.kill()
    return [Figure("stop after SIGTERM with a hung meter", took, "s", 2.0)]


def measure() -> list[Figure]:
    """Everything about the daemon as a process."""
    return [*measure_start(), *measure_cpu(), *measure_memory()]

"""What GPUs and a BMC cost the daemon, and that one of them that hangs costs nobody anything.

The simulators (tests/sim/platformrig.py) run in this process; only the daemons' cost is counted.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.bench.daemon import Running, say
from tests.bench.figures import Figure
from tests.bench.interpreter import daemon_python
from tests.sim.bmccadence import Cadence
from tests.sim.demo_users import User
from tests.sim.demo_world import PACKAGE
from tests.sim.loads import NoCompilerError
from tests.sim.nvml.world import NS, Process
from tests.sim.platformrig import Rig, run_simulators

SETTLE_S: Final = 45.0
"""Until the publish times are learned and the fusion knows how long the BMC averages."""
RUN_S: Final = 60.0
HANG_S: Final = 10.0
WAKES: Final = 30.0
"""A little over 1.4 readings for each of 20 updates, and a look at the processes."""
WHERE: Final = "two GPUs at 100 ms, a BMC at 1 s"
EVERY_SECOND: Final = Cadence(1.0, 0.02, delay_s=1.75, boxcar_s=1.0, noise_w=2.0, quantum_w=1.0)


def measure() -> list[Figure]:
    """Everything about platform power and GPUs; nothing where the simulators cannot be made."""
    try:
        return [*measure_cost(), *measure_hang(), *measure_parts()]
    except (NoCompilerError, OSError, subprocess.CalledProcessError) as exc:
        say(f"platform: not measured, {exc}")
        return []


def simulators(undo: ExitStack, place: Path) -> Rig:
    """Start a machine whose GPUs have two users."""
    first, second = (undo.enter_context(User(f"user-{n}", None)) for n in range(2))
    users = {
        0: (Process(first.pid, 70, 40), Process(second.pid, 20, 20)),
        1: (Process(second.pid, 50, 30),),
    }
    return run_simulators(undo, place, users, cadence=EVERY_SECOND)


def daemon(undo: ExitStack, rig: Rig, name: str, settings: str) -> Running:
    """Start a daemon on the simulators; it is ended with them."""
    place = rig.place / name
    place.mkdir()
    environment = {
        **rig.environment,
        "TYCHOD_ACCOUNTING_LOADER": "off",
        "TYCHOD_HWMON_ENABLED": "false",
        "PYTHONPATH": str(pynvml_alone(rig.place)),
    }
    running = Running(place, settings, **environment)
    undo.callback(running.kill)
    return running


def pynvml_alone(place: Path) -> Path:
    """Return a directory with this environment's pynvml: the distribution has none."""
    import pynvml

    library = place / "library"
    library.mkdir(exist_ok=True)
    link = library / "pynvml.py"
    if not link.exists():
        link.symlink_to(pynvml.__file__)
    return library


def measure_cost() -> list[Figure]:
    """CPU of two daemons side by side: one with the sources, one without."""
    say(f"platform: daemons with and without {WHERE}, {SETTLE_S + RUN_S:.0f} s")
    with ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tychod-bench-")))
        rig = simulators(undo, place)
        daemons = (
            daemon(undo, rig, "with", rig.settings(3.0)),
            daemon(undo, rig, "without", rig.settings(3.0, bmc=False, gpus=False)),
        )
        time.sleep(SETTLE_S)
        before_s = [each.cpu_s() for each in daemons]
        began_s = time.monotonic()
        time.sleep(RUN_S)
        passed_s = time.monotonic() - began_s
        empty = wake_up(10.0)
        full, bare = (
            100.0 * (each.cpu_s() - used_s) / passed_s
            for each, used_s in zip(daemons, before_s, strict=True)
        )
    return [
        Figure(f"sources' own CPU: {WHERE}", full - bare, "% of a core", 1.0),
        Figure("daemon CPU with them, RAPL at 50 ms", full, "% of a core", None),
        Figure(
            f"the same {WAKES:g} wake-ups a second and nothing else", empty, "% of a core", None
        ),
    ]


def wake_up(seconds: float) -> float:
    """Return what a thread costs that wakes as often as two GPUs ask for, in % of a core.

    That much of the figure is the machine's: a timer and a switch, whatever is done then.
    """
    never, used_s = threading.Event(), []

    def run() -> None:
        began_s = time.thread_time()
        for _ in range(round(seconds * WAKES)):
            never.wait(1.0 / WAKES)
        used_s.append(time.thread_time() - began_s)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return 100.0 * used_s[0] / seconds


def measure_hang() -> list[Figure]:
    """The package's energy by a daemon whose BMC and GPU driver hang, and how long it then stops.

    The meter stands still while the daemon starts and before it is compared: then both must be
    equal to the microjoule.
    """
    say(f"platform: a BMC that hangs and a driver that blocks for {HANG_S:.0f} s")
    with ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tychod-bench-")))
        rig = simulators(undo, place)
        machine = rig.world.package.machine
        machine.set_paused(True)
        start_uj = machine.ledger_uj()[PACKAGE]
        running = daemon(undo, rig, "hang", rig.settings(1.0))
        wait_windows(place / "hang", 2)
        machine.set_paused(False)
        rig.bmc.fault = "hang"
        rig.world.nvml.device(0).block_ns = round(HANG_S * NS)
        time.sleep(HANG_S + 2.0)
        machine.set_paused(True)
        wait_windows(place / "hang", 3)
        told_uj = asked(place / "hang")["domains"]["package"]["energy_uj"]
        true_uj = machine.ledger_uj()[PACKAGE] - start_uj
        rig.world.nvml.device(0).block_ns = round(HANG_S * NS)
        time.sleep(0.5)
        stop_s = running.stop_s()
    return [
        Figure("package energy off while BMC and driver hang", abs(told_uj - true_uj), "uJ", 0.0),
        Figure("stop after SIGTERM with a hung BMC and driver", stop_s, "s", 2.0),
    ]


def measure_parts() -> list[Figure]:
    """Return the time of the two computations, on the interpreter that the daemon runs on."""
    done = subprocess.run(
        [daemon_python()[0], "-m", "tests.bench.platform_parts"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    reading_ms, window_ms = (float(line) for line in done.stdout.split())
    return [
        Figure("one BMC reading in the bank of filters, median", reading_ms, "ms", None),
        Figure("one window of two GPUs at 100 ms, median", window_ms, "ms", None),
    ]


def asked(place: Path) -> dict[str, Any]:
    """Return the answer of `tychoctl node`."""
    client = (sys.executable, "-m", "tychoctl", "--socket", str(place / "tychod.sock"))
    done = subprocess.run(
        [*client, "--wait", "20", "node", "-o", "json"], capture_output=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def wait_windows(place: Path, count: int) -> None:
    """Wait until so many further windows are complete."""
    goal = asked(place)["sequence"] + count
    while asked(place)["sequence"] < goal:
        time.sleep(0.2)

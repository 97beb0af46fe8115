"""Time of one `analyse` at 250 containers in 120 pods, 60 units, six RAPL zones, 50 ms bins.

Run as a module it prints the median in milliseconds; `measure` runs that on the daemon's Python.
"""

import statistics
import subprocess
import time
from typing import Final

from tests.bench.figures import Figure
from tests.bench.interpreter import daemon_python

WINDOWS: Final = 21


def measure() -> list[Figure]:
    """Median time of one window on the interpreter that the daemon runs on."""
    done = subprocess.run(
        [daemon_python()[0], "-m", "tests.bench.analyse"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [Figure("analyse one window, median", float(done.stdout), "ms", 15.0)]


def median_ms() -> float:
    """Analyse windows of a simulated node; return the median time of one in milliseconds."""
    from tests.sim.world import MS, Load, Meter, World, container, unit, zone
    from tychod.analysis.pipeline import analyse
    from tychod.analysis.state import Params, State
    from tychod.model import Window

    loads = [Load(k, container(k, k % 120), 0.001 * (k % 40)) for k in range(250)]
    loads += [Load(250 + k, unit(f"unit-{k}.service"), 0.0005 * (k % 7)) for k in range(60)]
    names = ("package-0", "package-1", "core-0", "core-1", "dram-0", "dram-1")
    meters = tuple(Meter(zone(name), 20.0, 10.0) for name in names)
    until = (WINDOWS + 1) * 3_000 * MS
    world = World(
        tuple(loads),
        {"rapl": meters},
        tuple(range(0, until, 50 * MS)),
        tuple(range(0, until + 100 * MS, 50 * MS)),
    )
    state, took = State(), []
    for index in range(WINDOWS):
        window = Window(index * 3_000 * MS, (index + 1) * 3_000 * MS)
        seen = world.observe(window)
        began = time.perf_counter()
        _, state = analyse(seen, window, state, Params(cpus=64))
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


if __name__ == "__main__":
    print(median_ms())

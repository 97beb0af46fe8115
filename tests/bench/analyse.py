"""Time of one `analyse` of 60 bins of 50 ms, for one domain and for three.

One: 250 containers in 120 pods, all of them active, and one package.  Three: 60 units beside them
and six RAPL zones.  Run as a module it prints both medians in milliseconds; `measure` runs that on
the daemon's Python.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from tests.bench.figures import Figure
from tests.bench.interpreter import daemon_python

WINDOWS: Final = 21


def measure() -> list[Figure]:
    """Median times of one window on the interpreter that the daemon runs on, with BLAS as there."""
    done = subprocess.run(
        [daemon_python()[0], "-m", "tests.bench.analyse"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    one, three = (float(line) for line in done.stdout.split())
    return [
        Figure("analyse one window, median", one, "ms", 10.0),
        Figure("analyse one window of three domains, median", three, "ms", 30.0),
    ]


def median_ms(names: Sequence[str], units: int) -> float:
    """Analyse windows of a simulated node; return the median time of one in milliseconds."""
    from tests.sim.world import MS, Load, Meter, World, container, unit, zone
    from tychod.analysis.pipeline import analyse
    from tychod.analysis.state import Params, State
    from tychod.model import Window

    loads = [Load(k, container(k, k % 120), 0.001 * (1 + k % 40)) for k in range(250)]
    loads += [Load(250 + k, unit(f"unit-{k}.service"), 0.0005 * (k % 7)) for k in range(units)]
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
    print(median_ms(("package-0",), 0))
    print(median_ms(("package-0", "package-1", "core-0", "core-1", "dram-0", "dram-1"), 60))

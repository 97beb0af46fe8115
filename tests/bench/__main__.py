"""`make bench`: name, figure, target, ok or MISS.  Having measured is success, whatever it is."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.bench import (
    accounting,
    analyse,
    churn,
    daemon,
    footprint,
    identity,
    operator,
    platform,
)
from tests.bench.figures import Figure, render
from tests.bench.interpreter import daemon_python

PARTS: Mapping[str, Callable[[], list[Figure]]] = {
    "analyse": analyse.measure,
    "churn": churn.measure,
    "start": daemon.measure_start,
    "cpu": daemon.measure_cpu,
    "memory": daemon.measure_memory,
    "accounting": accounting.measure,
    "identity": identity.measure,
    "footprint": footprint.measure,
    "platform": platform.measure,
    "operator": operator.measure,
}


def read_machine() -> str:
    """Return the processor, its count, memory and kernel, in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "?")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{model}, {os.cpu_count()} CPUs, {memory:.0f} GiB, {os.uname().release}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"which to run: {', '.join(PARTS)}; none: all")
    names = parser.parse_args(argv).parts or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    print(f"machine      {read_machine()}")
    print(f"interpreter  {daemon_python()[1]}")
    missed = 0
    for name in names:
        load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
        for figure in PARTS[name]():
            missed += figure.verdict == "MISS"
            print(f"{render(figure)}  (load {load})", flush=True)
    print(f"{missed} missed" if missed else "all targets reached")
    return 0


if __name__ == "__main__":
    sys.exit(main())

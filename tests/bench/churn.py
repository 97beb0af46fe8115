"""An hour of short lives: 10 new containers a second, each of 5 s, through `analyse`.

Every window must keep every microjoule, and nothing may grow once the list of ended workloads is
full.  Run as a module it prints its figures as JSON; `measure` does so on the daemon's Python.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.figures import Figure
from tests.bench.interpreter import daemon_python

if TYPE_CHECKING:
    from tychod.analysis.state import State
    from tychod.model import Snapshot

LENGTH_S: Final = 3
MINUTES: Final = 60
SETTLED_MINUTES: Final = 10
"""The age at which ended workloads leave the list: from then on nothing grows."""
PER_MINUTE: Final = 60 // LENGTH_S
ROUNDS: Final = 21


BOUNDS: Final[Mapping[str, float | None]] = {
    "accounts": None,
    "folded_views": 1000.0,  # names of namespaces that are gone are kept up to this
    "learned_columns": None,
    "cgroup_keys": None,
}
"""Limits of their own; what has none must not grow once the hour is under way."""


def measure() -> list[Figure]:
    """Run the hour on the interpreter that the daemon runs on."""
    done = subprocess.run(
        [daemon_python()[0], "-m", "tests.bench.churn"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout)
    most, grown = found["most"], found["grown"]
    return [
        Figure("churn, 36 000 containers in an hour: sums that are off", found["off"], "", 0.0),
        *(Figure(f"churn: most {_words(name)}", most[name], "", BOUNDS[name]) for name in most),
        *(
            Figure(f"churn: more {_words(name)} after 10 min", grown[name], "", 0.0)
            for name in grown
            if BOUNDS[name] is None
        ),
        Figure("churn: memory, 60 min against 10 min", found["grown_kib"], "KiB", None),
        Figure("churn: saved state", found["saved_kib"], "KiB", None),
        Figure("churn: one window, CPU time, median", found["window_ms"], "ms", None),
        Figure("churn: evicting 30 of 530 ended, CPU time, median", found["evict_ms"], "ms", 1.0),
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")


class Sizes(NamedTuple):
    """How much is kept after a window."""

    accounts: int
    folded_views: int
    learned_columns: int
    cgroup_keys: int

    def most(self, other: "Sizes") -> "Sizes":
        """Return the larger of each."""
        return Sizes(*map(max, self, other))


def run(minutes: int) -> Mapping[str, object]:
    """Analyse so many minutes; return the most that was kept, what was lost, and how long it took.

    Imports are here: what `make bench` itself runs on needs none of them.
    """
    from tests.sim.churn import Churn
    from tychod.analysis.pipeline import analyse
    from tychod.analysis.state import Params, State
    from tychod.model import Window
    from tychod.runtime.saved import pack

    node, params, state = Churn((minutes + 1) * 600), Params(cpus=8), State()
    off, took, most, settled, rss = 0, [], Sizes(0, 0, 0, 0), Sizes(0, 0, 0, 0), 0
    for index in range(minutes * PER_MINUTE):
        window = Window(index * LENGTH_S * 10**9, (index + 1) * LENGTH_S * 10**9)
        seen = node.observe(window)
        began = time.process_time()
        snapshot, state = analyse(seen, window, state, params)
        took.append((time.process_time() - began) * 1e3)
        off += sums_off(snapshot)
        most = most.most(sizes(state))
        if index + 1 == SETTLED_MINUTES * PER_MINUTE:
            settled, rss = most, rss_kib()
    return {
        "off": off,
        "most": most._asdict(),
        "grown": {name: getattr(most, name) - getattr(settled, name) for name in Sizes._fields},
        "grown_kib": rss_kib() - rss,
        "saved_kib": len(pack("boot", state, None)) / 1024,
        "window_ms": statistics.median(took),
        "evict_ms": evict_ms(),
    }


def sums_off(snapshot: "Snapshot") -> int:
    """Count domains and kinds whose leaves do not add up to the node, to the microjoule."""
    found = snapshot.conservation_violations
    for name, domain in snapshot.domains.items():
        energies = [leaf.energy[name] for leaf in snapshot.leaves]
        idle_uj = sum(energy.idle_uj for energy in energies)
        dynamic_uj = sum(energy.dynamic_uj for energy in energies)
        found += (idle_uj, dynamic_uj) != (domain.idle_uj, domain.dynamic_uj)
        found += idle_uj + dynamic_uj != domain.energy_uj
    return found


def sizes(state: "State") -> Sizes:
    """Return what is kept."""
    columns = sum(len(model.columns) + len(model.young) for model in state.learned.values())
    return Sizes(len(state.accounts), len(state.folded), columns, len(state.consumed_ns))


def evict_ms() -> float:
    """Return the median time of a window's evictions: 30 more have ended than may be listed."""
    from tests.sim.churn import Churn
    from tychod.analysis import ledger
    from tychod.analysis.folded import Folded
    from tychod.analysis.state import Account, Params
    from tychod.model import Energy

    node, params, took = Churn(1000), Params(cpus=8), []
    full = ledger.with_fixed({}, 0)
    for number in range(params.terminated_max + 30 + 250):
        ended_ns = None if number < 250 else number
        energy = {name: Energy(0, number * 7919 % 1009) for name in ("package", "core", "dram")}
        who = node.member(number)
        full[who.id] = Account(who, 1, 1, number, energy, ended_ns, ended_sequence=ended_ns)
    for _ in range(ROUNDS):
        accounts, folded = dict(full), Folded()
        began = time.process_time()
        ledger.evict_old(accounts, folded, 10**9, 10**6, params)
        took.append((time.process_time() - began) * 1e3)
    return statistics.median(took)


def rss_kib() -> int:
    """Return this process's resident memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]) if sys.argv[1:] else MINUTES)))

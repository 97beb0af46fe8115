"""What the history costs: bytes and CPU of a record, memory, and the time of a report.

250 containers in 120 pods and 60 units, every one of them active in every minute, which is the
worst case: what did not change takes no room.  Every tenth minute a container goes and another
comes.
"""

import dataclasses
import random
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Final

from tests.bench.client import make_leaves
from tests.bench.figures import Figure
from tests.fixtures import snapshots as made
from tests.fixtures.histories import Recorded, later
from tychod.config_results import History as Settings
from tychod.model import Energy, Leaf, Snapshot

RECORDS: Final = 120  # hours of records, after which memory holds as much as it ever does
A_DAY: Final = 1440
TARGET_CPU_PERCENT: Final = 0.1  # of a core
TARGET_MB: Final = 5.0
SETTINGS: Final = Settings()


class Node:
    """A node whose workloads use energy in every minute, by chance."""

    def __init__(self) -> None:
        self._random = random.Random(7)
        self.snapshot = made.make_snapshot(make_leaves())
        self._count = 0

    def next(self) -> Snapshot:
        """Return the node a minute later."""
        self._count += 1
        leaves = list(map(self._used, self.snapshot.leaves))
        if self._count % 10 == 0:
            leaves[self._count % 250] = self._born(leaves[self._count % 250])
        domains = made.make_domains(tuple(leaves))
        self.snapshot = later(
            self.snapshot, SETTINGS.interval, leaves=tuple(leaves), domains=domains
        )
        return self.snapshot

    def _used(self, leaf: Leaf) -> Leaf:
        much = self._random.randrange(1_000_000, 50_000_000)
        energy = {
            name: Energy(e.idle_uj, e.dynamic_uj + (much if name == "package" else much // 9))
            for name, e in leaf.energy.items()
        }
        return dataclasses.replace(leaf, energy=energy, cpu_ns=leaf.cpu_ns + much * 97)

    def _born(self, leaf: Leaf) -> Leaf:
        fresh = f"{self._random.randrange(16**64):064x}"
        nothing = {name: Energy() for name in leaf.energy}
        identity = dataclasses.replace(leaf.identity, id=fresh)
        return dataclasses.replace(leaf, identity=identity, energy=nothing, cpu_ns=0)


def figures() -> list[Figure]:
    """Everything about the history."""
    with tempfile.TemporaryDirectory() as place:
        return measure_records(Path(place), RECORDS)


def measure_records(place: Path, count: int) -> list[Figure]:
    """Record for as many minutes, then ask."""
    recorded, node = Recorded(place, SETTINGS), Node()
    took = [record(recorded, node.next()) for _ in range(count)]
    size = sum(path.stat().st_size for path in (place / "history").iterdir()) / count
    held_mb = measure_memory(place, node)
    spent_s = time.process_time()
    recorded.report("pod")
    spent_s = time.process_time() - spent_s
    recorded.close()
    cpu_s = sum(took) / count
    percent = 100 * cpu_s / SETTINGS.interval
    return [
        Figure("history: bytes of a record, 310 active workloads", size, "B", None),
        Figure("history: bytes of a day", size * A_DAY / 1e6, "MB", None),
        Figure("history: CPU of a record", cpu_s * 1e3, "ms", None),
        Figure("history: CPU, a record a minute", percent, "% of a core", TARGET_CPU_PERCENT),
        Figure("history: memory", held_mb, "MB", TARGET_MB),
        Figure(f"history: CPU of a report, {count / 60:g} h", spent_s * 1e3, "ms", None),
    ]


def record(recorded: Recorded, snapshot: Snapshot) -> float:
    """Make a record; return the CPU time that it took in seconds."""
    began = time.thread_time()
    recorded.record(snapshot)
    return time.thread_time() - began


def measure_memory(place: Path, node: Node) -> float:
    """Return the megabytes that a history holds when it has forgotten its first records."""
    count = round(1.6 * SETTINGS.memory / SETTINGS.interval)
    snapshots = [node.next() for _ in range(count)]
    tracemalloc.start()
    recorded = Recorded(place / "other", dataclasses.replace(SETTINGS, days=0))
    while snapshots:
        recorded.record(snapshots.pop(0))
    held_mb = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    return held_mb

"""CPU time of a scrape: 120 pods of two containers on the average, pause included, and 40 units."""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Final, get_args

from tests.bench.figures import Figure
from tests.fixtures import snapshots as made
from tychod.config_results import MetricNames, Metrics
from tychod.exposition import Exposition, Scrape
from tychod.model import Energy, Identity, Leaf, Snapshot

PODS: Final = 120
UNITS: Final = 40
RUNS: Final = 21
TARGET_CPU_MS: Final = 40.0  # issue "6 of 6": a scrape of 120 pods x 4 domains
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
PARTS: Final = ("core", "uncore")


def make_leaf(identity: Identity, dynamic_uj: int, power_w: float, idle_uj: int = 0) -> Leaf:
    """Return a leaf with energy of four domains."""
    leaf = made.make_leaf(
        identity, dynamic_uj, cpu_s=dynamic_uj / 1e6, power_w=power_w, idle_uj=idle_uj
    )
    parts = {name: Energy(idle_uj // 4, dynamic_uj // 4) for name in PARTS}
    powers = dict.fromkeys(PARTS, power_w / 4)
    return dataclasses.replace(
        leaf, energy={**leaf.energy, **parts}, power_w={**leaf.power_w, **powers}
    )


def make_leaves() -> Iterator[Leaf]:
    """Yield the leaves of a full node."""
    for pod in range(PODS):
        uid = f"00000000-0000-4000-8000-{pod:012d}"
        name = f"deployment-{pod}-7d9f8b6c5-x{pod:04d}"
        for number in range(1 + pod % 2):
            who = made.container(f"{pod * 10 + number:064x}", f"app-{number}", name, uid)
            yield make_leaf(who, 1_000_000 * (pod + 1) + number, 0.5)
        pause = made.container(f"{pod * 10 + 9:064x}", "pause", name, uid, sandbox=True)
        yield make_leaf(pause, pod, 0.0)
    for number in range(UNITS):
        unit = f"unit-{number}.service"
        who = Identity(kind="unit", id=unit, name=unit, cgroup=f"/system.slice/{unit}")
        yield make_leaf(who, 9_001 * number, 0.01)
    yield make_leaf(made.fixed("kernel"), 1_000_003, 0.5)
    yield make_leaf(made.fixed("system"), 0, 10.0, idle_uj=9_000_000_011)
    yield make_leaf(made.fixed("past"), 100, 0.0)
    yield make_leaf(made.fixed("unattributed"), 0, 0.0)


def make_snapshot(sequence: int = 20) -> Snapshot:
    """Return a full node with package, DRAM, core and uncore."""
    leaves = tuple(make_leaves())
    snapshot = made.make_snapshot(leaves, sequence=sequence)
    domains = dict(snapshot.domains)
    for name in PARTS:
        whole = made.summed(leaves, name)
        domains[name] = dataclasses.replace(
            domains["dram"],
            energy_uj=whole.total_uj,
            idle_uj=whole.idle_uj,
            dynamic_uj=whole.dynamic_uj,
            zones=(),
        )
    return dataclasses.replace(snapshot, domains=domains, processes=None, gpus=())


def measure() -> list[Figure]:
    """Return the CPU time of making the text, which happens once a window, and its series."""
    return [
        figure
        for names in get_args(MetricNames)
        for accept in ("", OPENMETRICS)
        for figure in measure_one(names, accept)
    ]


def measure_one(names: MetricNames, accept: str) -> Iterator[Figure]:
    """Yield the figures of one set of names and format."""
    first = make_snapshot()
    snapshots = [dataclasses.replace(first, sequence=20 + run) for run in range(RUNS + 1)]
    shown: list[Snapshot] = snapshots[:2]
    settings = Metrics()
    exposition = Exposition(
        lambda: Scrape(shown[1], made.FACTS, made.STATUS, settings, before=shown[0])
    )
    exposition.render(accept, names)
    spent, body = [], b""
    for before, newest in itertools.pairwise(snapshots):
        shown[:] = before, newest
        begun = time.process_time()
        _, body = exposition.render(accept, names) or ("", b"")
        spent.append((time.process_time() - begun) * 1e3)
    what = f"scrape, names of {names}, {'OpenMetrics' if accept else 'text'}"
    yield Figure(f"{what}: CPU, median", statistics.median(spent), "ms", TARGET_CPU_MS)
    if accept:
        return
    count = sum(not line.startswith(b"#") for line in body.splitlines())
    yield Figure(f"{what}: series", count, "", None)

"""The whole daemon with kernel accounting on real loads whose watts differ, against the ledger.

Three loads come and go in cgroups of their own; a simulated meter is driven from what the kernel
says that each used, with other watts for each.  The ledger of that meter is the truth.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from tests.integration.test_daemon import both, check_sums
from tests.sim.bpf import bpf_lock, require_bpf
from tests.sim.bursts import Bursts
from tests.sim.cgrouptree import RealCgroups, real_base
from tests.sim.node import Node
from tests.sim.powercap import STEP_S, Driver, Machine, Power, SimZone

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.bpf]

RUN_S = 10.0
REST = 2.0
READ_S = 0.05
IDLE_W = 30.0
OTHERS_W = 6.0
WATTS = (4.0, 8.0, 12.0)
"""Of one CPU in use, by load; whatever else runs on this machine has ``OTHERS_W``."""
SIGMAS = 4.0
TICK_S = time.clock_getres(6)  # CLOCK_MONOTONIC_COARSE: a tick of this kernel


class Bench(NamedTuple):
    """The loads, waiting, and the meter that follows them."""

    machine: Machine
    units: tuple[str, ...]
    places: tuple[Path, ...]
    settings: str


@pytest.fixture
def bench(tmp_path: Path, run_name: str) -> Iterator[Bench]:
    """Three cgroups, and a package whose meter follows them and the rest of the machine."""
    require_bpf()
    version = next((v for v in ("v2", "v1") if real_base(v)), None)
    if version is None:
        pytest.skip("no cgroup hierarchy can be written here (needs root)")
    base = real_base(version)
    assert base is not None
    units = tuple(f"{run_name}-{k}.service" for k in range(len(WATTS)))
    with RealCgroups(base, f"{run_name}.slice") as cgroups:
        places = tuple(cgroups.make(name) for name in units)
        # Of the machine's time each load has its own watts: what is above or below the others'.
        more = {str(p): w - OTHERS_W for p, w in zip(places, WATTS, strict=True)}
        power = Power(IDLE_W, {**more, str(base): OTHERS_W})
        zones = [SimZone("intel-rapl:0", "package-0", 1000, 1000)]
        machine = Machine(tmp_path / "sys", zones, power)
        for name in ("kernel", "devices/system"):  # all but the meters is this machine's
            (tmp_path / "sys" / name).symlink_to(f"/sys/{name}")
        settings = (
            f'[host]\nsysfs = "{tmp_path / "sys"}"\nhierarchy = "{version}"\n'
            "[window]\nlength = 1.0\n[kubelet]\nenabled = false\n"
        )
        with Driver(machine):
            yield Bench(machine, units, places, settings)


class Ledger(NamedTuple):
    """The meter's ledger at many moments."""

    wall_s: list[float]
    energy_uj: list[int]

    def at(self, wall_s: float) -> tuple[float, float]:
        """Return the energy at a moment and how long it was between the moments around it."""
        after = int(np.searchsorted(self.wall_s, wall_s))
        gap_s = self.wall_s[after] - self.wall_s[after - 1]
        return float(np.interp(wall_s, self.wall_s, self.energy_uj)), gap_s


def until_first_window(bench: Bench, node: Node) -> Ledger:
    """Follow the ledger until the daemon has a window."""
    found = Ledger([], [])
    while len(found.wall_s) % 20 or node.tychoctl("node", wait_s=0).returncode:
        found.wall_s.append(time.time())
        found.energy_uj.append(bench.machine.ledger_uj()["intel-rapl:0"])
        time.sleep(0.01)
    return found


class Outcome(NamedTuple):
    """A load in joules: by the ledger, by the daemon with its error, and by CPU time alone."""

    true: float
    told: float
    sd: float
    pooled: float
    witness: float  # how far the ledger itself may be off


def outcomes(bench: Bench, leaves: dict[str, Any], used_s: Sequence[float]) -> list[Outcome]:
    """Compare each load with the ledger, which may lack what was used since a tick and a step."""
    true = [watts * used for watts, used in zip(WATTS, used_s, strict=True)]
    pooled = [sum(true) * used / sum(used_s) for used in used_s]
    found = {leaf["id"]: leaf for leaf in leaves["workloads"]}
    mine = [found[unit] for unit in bench.units]
    return [
        Outcome(
            true[k],
            leaf["energy"]["package"]["dynamic_uj"] / 1e6,
            leaf["uncertainty"]["package"]["sd_uj"] / 1e6,
            pooled[k],
            2 * (TICK_S + STEP_S) * WATTS[k],
        )
        for k, leaf in enumerate(mine)
    ]


def check_total(bench: Bench, answer: dict[str, Any], ledger: Ledger) -> None:
    """The node has what the meter counted from the first window's start to its standstill.

    Where the first window began between two readings, the power may have changed by what ran.
    """
    begun = datetime.fromisoformat(answer["since"]).timestamp()
    start_uj, gap_s = ledger.at(begun)
    counted_uj = bench.machine.ledger_uj()["intel-rapl:0"] - start_uj
    cpus = os.cpu_count() or 1
    allowed_j = OTHERS_W * cpus * (gap_s + READ_S) + (IDLE_W + OTHERS_W * cpus) * STEP_S

    assert abs(answer["domains"]["package"]["energy_uj"] - counted_uj) <= 1e6 * allowed_j


def test_watts_of_three_loads_are_told_apart_where_the_pooled_share_cannot(
    bench: Bench, tmp_path: Path
) -> None:
    """[70] Each load has what the ledger says, within the error told; by CPU time it had not.

    All sums are exact to the microjoule, and the node has what its meter counted.
    """
    machine = bench.machine
    with bpf_lock(), ExitStack() as running:
        loads = [
            running.enter_context(Bursts(place, RUN_S, rest=REST, seed=k))
            for k, place in enumerate(bench.places)
        ]
        node = Node(tmp_path, bench.settings)
        running.push(node)
        node.start(TYCHOD_ACCOUNTING_LOADER="core")
        ledger = until_first_window(bench, node)
        before = machine.cpu_ns()
        for load in loads:
            load.go()
        for load in loads:
            load.finish()
        node.wait_windows(1)
        machine.set_paused(True)
        node.wait_windows(2)
        answer, leaves = both(node)
        violations = node.ask("status")["conservation_violations"]

    used_ns = machine.cpu_ns()
    used_s = [(used_ns[str(place)] - before[str(place)]) / 1e9 for place in bench.places]
    found = outcomes(bench, leaves, used_s)
    check_sums(answer, leaves)
    check_total(bench, answer, ledger)
    assert violations == 0
    for outcome in found:
        assert abs(outcome.told - outcome.true) <= SIGMAS * outcome.sd + outcome.witness
    # By CPU time all three would have the same joules for a CPU second: no difference at all.
    ours, pooled = (
        [joules / used for joules, used in zip(rule, used_s, strict=True)]
        for rule in ([x.told for x in found], [x.pooled for x in found])
    )
    assert ours == sorted(ours)
    for rule, is_close in ((ours, True), (pooled, False)):
        missed = abs((rule[-1] - rule[0]) - (WATTS[-1] - WATTS[0]))
        assert (missed < 0.5 * (WATTS[-1] - WATTS[0])) == is_close

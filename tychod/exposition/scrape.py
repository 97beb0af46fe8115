"""What one text is made from, and how coarse its figures are; pure."""

import math
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tychod.config_results import Metrics
from tychod.model import DaemonStatus, Domain, NodeFacts, Snapshot, total_domains

SECOND_NS: Final = 1_000_000_000
PARTS: Final = ("core", "uncore")
"""Parts of the package."""
WHOLE: Final = ("platform", "psys")
"""What holds other domains; psys is a total where there is no package."""


class Scrape(NamedTuple):
    """What is known at one moment."""

    snapshot: Snapshot
    facts: NodeFacts
    status: DaemonStatus
    metrics: Metrics
    before: Snapshot | None = None  # the one before it; power that no snapshot tells needs it


class Rounding(NamedTuple):
    """How energy and power are made coarse: see docs/security.md on fast readings."""

    quantum_uj: int
    step_w: float  # the quantum in a window

    def joules(self, energy_uj: int) -> float:
        """Round microjoules down to the quantum; what never falls never falls rounded."""
        return energy_uj // self.quantum_uj * self.quantum_uj / 1e6

    def watts(self, power_w: float) -> float:
        """Round watts to the nearest step; what is no number is NaN, which is not shown."""
        if not math.isfinite(power_w):
            return math.nan
        return round(round(power_w / self.step_w) * self.step_w, 6)


def rounding_of(scrape: Scrape) -> Rounding:
    """Return the rounding that the settings ask for."""
    quantum_uj = max(round(scrape.metrics.energy_quantum * 1e6), 1)
    seconds = max(scrape.snapshot.window.seconds, 1e-3)
    return Rounding(quantum_uj, quantum_uj / 1e6 / seconds)


def known_domains(snapshot: Snapshot) -> Mapping[str, Domain]:
    """Return the domains that were ever read: what was not has no energy, rather than 0."""
    return {
        name: domain
        for name, domain in snapshot.domains.items()
        if domain.quality != "unavailable" or domain.energy_uj
    }


def role_of(name: str, snapshot: Snapshot) -> str:
    """Return how a domain stands to the others: total, part, whole or other."""
    if name in PARTS:
        return "part"
    if name in total_domains(snapshot.domains):
        return "total"
    return "whole" if name in WHOLE else "other"


def shared_domains(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Yield the domains whose energy is shared by workloads, each with its role."""
    for name, domain in known_domains(snapshot).items():
        if domain.idle_uj is not None:
            yield name, role_of(name, snapshot)

"""What each row of the table must reach, and how the targets widen for fewer seeds.

A median over n seeds scatters.  With fewer than forty seeds the targets of the median and of the
95th percentile both rise by ``2.5 s sqrt(1/n - 1/40)``, where s = (p95 target - median target) /
1.645 is the spread of the row's seeds that the targets themselves imply.  The limits of the share
of intervals that hold the truth move by two standard deviations, ``2 sqrt(0.95 0.05 / m (1/n -
1/40))``, taking the pairs of one run for m = min(pairs, 5) independent ones.  With forty seeds
nothing moves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, sqrt

FULL = 40
"""Seeds of the whole table."""


@dataclass(frozen=True)
class Target:
    """Greatest median and 95th percentile in per cent."""

    median: float
    p95: float


ERROR: Mapping[str, Target] = {
    "equal": Target(1.3, 2.0),
    "tenants": Target(0.5, 1.1),
    "mixed": Target(4.2, 6.0),
    "mixed-4cpu": Target(6.0, 11.5),
    "mixed-200": Target(8.5, 10.3),
    "concave": Target(5.2, 10.5),
    "steady": Target(7.5, 10.0),
    "blips": Target(0.8, 1.2),
    "change": Target(4.3, 8.0),
    "churn": Target(6.5, 16.0),
}
IDLE: Mapping[str, Target] = {"drift": Target(3.0, 8.0)}
INSIDE = (90.0, 99.0)
PAIR_SPLIT = 0.02
PAIR_INSIDE = 80.0
DELAY_POINTS = 0.5
SCALE_POINTS = 0.2

ORDER = (
    *("equal", "tenants", "mixed", "mixed-4cpu", "mixed-200", "concave", "steady", "blips"),
    *("change", "churn", "drift", "pair", "delay", "scale"),
)
"""Rows of the whole table; others run only when they are named."""
BASIS: Mapping[str, str] = {"delay": "mixed", "scale": "mixed"}
"""Rows that are compared with another one on the same seeds."""
FEW: Mapping[str, int] = {"scale": 5}
"""Rows that need fewer seeds."""


def scarcity(seeds: int) -> float:
    """How much more a mean over the seeds scatters than one over forty, in units of one seed."""
    return sqrt(max(1.0 / seeds - 1.0 / FULL, 0.0))


def widened(target: Target, seeds: int) -> Target:
    """The target for this many seeds."""
    more = 2.5 * (target.p95 - target.median) / 1.645 * scarcity(seeds)
    return Target(target.median + more, target.p95 + more)


def inside_limits(pairs: int, seeds: int) -> tuple[float, float]:
    """Least and greatest share of intervals in per cent; a share of n pairs is known to 1/n only,
    so the limits are rounded outwards to whole pairs."""
    alike = min(pairs / seeds, 5.0)
    move = 2.0 * sqrt(0.95 * 0.05 / alike) * 100.0 * scarcity(seeds)
    low, high = max(INSIDE[0] - move, 0.0), min(INSIDE[1] + move, 100.0)
    return 100.0 * floor(low / 100.0 * pairs) / pairs, 100.0 * ceil(high / 100.0 * pairs) / pairs


def pair_limit(seeds: int) -> float:
    """Least share in per cent of the runs in which both intervals of the pair hold the truth."""
    return PAIR_INSIDE - 200.0 * sqrt(0.8 * 0.2) * scarcity(seeds)

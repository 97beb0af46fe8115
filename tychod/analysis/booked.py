"""What a window adds to a domain, between attribution and publication."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tychod.model import IdleFloor


class Doubt(NamedTuple):
    """How far a leaf's energy of one window may be off, as variances in J^2."""

    window_var: float
    added_var: float | None  # what the running total's grows by; None: its errors all add up


@dataclass(frozen=True, slots=True)
class Booked:
    """What one window adds in one domain, in microjoules."""

    idle_uj: int
    dynamic_uj: int
    by_leaf: Mapping[str, int]  # dynamic; adds up to ``dynamic_uj``
    unused_uj: int = 0  # part of it that no CPU time explains
    lost_uj: int = 0  # part of it that was given to `unattributed` without regard to CPU time
    idle_by_leaf: Mapping[str, int] = field(default_factory=dict)  # adds up to ``idle_uj``
    doubts: Mapping[str, Doubt] = field(default_factory=dict)
    intensity: Mapping[str, float] = field(default_factory=dict)  # J per CPU second
    leaf_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    floor: IdleFloor | None = None
    coverage: float | None = None

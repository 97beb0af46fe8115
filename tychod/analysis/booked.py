"""What a window adds to a domain, between attribution and publication."""

from collections.abc import Mapping
from typing import NamedTuple


class Booked(NamedTuple):
    """What one window adds in one domain, in microjoules."""

    idle_uj: int
    dynamic_uj: int
    by_leaf: Mapping[str, int]  # dynamic; adds up to ``dynamic_uj``
    unused_uj: int  # part of it that no CPU time explains
    lost_uj: int = 0  # part of it that was given to `unattributed` without regard to CPU time

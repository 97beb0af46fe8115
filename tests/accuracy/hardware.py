"""The second table of `make accuracy`: platform power, GPUs and when devices publish.

Targets are the greatest (or least) figure over all seeds, or over all their windows, as each line
says; a line without a target is there to be looked at.
"""

from collections.abc import Callable, Mapping, Sequence

from tests.accuracy import gpu, gpushare, platform, publish
from tests.accuracy.figure import Figure

PARTS: Mapping[str, Callable[[Sequence[int]], list[Figure]]] = {
    "platform": platform.figures,
    "gpu": gpu.figures,
    "gpu-shared": gpushare.figures,
    "publishers": publish.figures,
}
MOST_SEEDS = 20
"""As many as the prototype's study had; more change no figure that matters."""


def run_part(job: tuple[str, Sequence[int]]) -> tuple[str, list[Figure]]:
    """One part, in a process of its own."""
    name, seeds = job
    return name, PARTS[name](seeds[:MOST_SEEDS])

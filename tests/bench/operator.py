"""What an operator's tools cost: each figure function is in a file of its own."""

from collections.abc import Callable
from typing import Final

from tests.bench import exposition, operator_client, operator_doctor, operator_history, operator_top
from tests.bench.figures import Figure

FIGURES: Final[tuple[Callable[[], list[Figure]], ...]] = (
    exposition.measure,
    operator_client.measure,
    operator_doctor.measure,
    operator_history.figures,
    operator_top.measure,
)


def measure() -> list[Figure]:
    """Return all figures, in this order."""
    return [figure for function in FIGURES for figure in function()]

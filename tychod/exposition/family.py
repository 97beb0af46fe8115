"""What one family of metrics is: a row of the table; no values."""

from typing import Final, Literal, NamedTuple

from tychod.config_results import Level, MetricNames

Shown = Literal[Level, "self"]
"""Which level of ``[metrics] levels`` a family belongs to; ``self`` is always there."""
MetricType = Literal["counter", "gauge", "info"]
LEVELS: Final[tuple[Shown, ...]] = (
    *("self", "node", "gpu", "pod", "vm", "container", "unit", "process"),
)
"""Coarse to fine: what there are too many series for is left out from the end."""


class Family(NamedTuple):
    """One family: what it is called, what its series tell apart, and where its values are from."""

    name: str  # as it stands in the text, with _total and _info
    type: MetricType
    labels: tuple[str, ...]
    help: str
    level: Shown
    unit: str  # base unit, "" where there is none
    names: MetricNames
    source: str  # of the value: a field of tychod.model, or what is made of which

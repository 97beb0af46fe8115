"""The tables of docs/metrics.md, from the table of metrics."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from tychod.config_results import MetricNames
from tychod.exposition.family import LEVELS, Family, Shown
from tychod.exposition.table import METRICS

TITLES: Final[Mapping[Shown, str]] = MappingProxyType(
    {
        "self": "The daemon and its sources",
        "node": "The node",
        "gpu": "GPUs",
        "pod": "Pods",
        "vm": "Virtual machines",
        "container": "Containers",
        "unit": "Units",
        "process": "Processes",
    }
)
ALWAYS: Final = "Always there"


def render_metrics(names: MetricNames) -> str:
    """Return a table for each level of one set of names."""
    rows = [row for row in METRICS if row.names == names]
    return "\n".join(line for level in LEVELS for line in _level(level, rows))


def _level(level: Shown, rows: list[Family]) -> Iterator[str]:
    """Yield a level's heading and table."""
    found = [row for row in rows if row.level == level]
    if not found:
        return
    when = ALWAYS if level == "self" else f'With `"{level}"` in `[metrics] levels`'
    yield from ("", f"### {TITLES[level]}, names of {found[0].names}", "", f"{when}.", "")
    yield from ("| metric | type | labels | what it is |", "|---|---|---|---|")
    for row in found:
        labels = ", ".join(f"`{label}`" for label in row.labels) or "none"
        yield f"| `{row.name}` | {row.type} | {labels} | {row.help} |"

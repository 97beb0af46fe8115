"""The text of `tychoctl --help`: what it is for, and its commands in groups."""

from collections.abc import Iterator, Mapping
from typing import Final

from tychoctl.render import wrap

PURPOSE: Final = (
    "Shows what tychod measures: energy of this node by pod, container, virtual machine and unit."
)
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "What uses energy": (
        *("node", "gpus", "pods", "containers", "vms", "units", "workloads", "processes"),
        *("top", "report"),
    ),
    "How tychod is, and why a number is what it is": (
        *("status", "sources", "doctor", "explain", "config", "version"),
    ),
    "For other programs and other days": ("metrics", "record", "replay", "completion"),
}
OTHERS: Final = "Other commands"
NAME_WIDTH: Final = 12


def grouped() -> Mapping[str, list[str]]:
    """Return the commands that there are by group, those of no group at the end."""
    from tychoctl.options import ALL

    known = {name for names in GROUPS.values() for name in names}
    found = {title: [name for name in names if name in ALL] for title, names in GROUPS.items()}
    found[OTHERS] = [name for name in ALL if name not in known]
    return {title: names for title, names in found.items() if names}


def render_groups(width: int) -> str:
    """Return what stands between usage and options."""
    return "\n".join([*wrap(PURPOSE, width), *_lines(width)])


def _lines(width: int) -> Iterator[str]:
    from tychoctl.options import ALL

    for title, names in grouped().items():
        yield from ("", f"{title}:")
        for name in names:
            first, *more = wrap(ALL[name].doc, max(width - NAME_WIDTH - 2, NAME_WIDTH))
            yield f"  {name:<{NAME_WIDTH}}{first}"
            yield from (f"  {'':<{NAME_WIDTH}}{line.strip()}" for line in more)

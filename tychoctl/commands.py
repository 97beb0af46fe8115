"""The commands: what each asks the daemon, and how its answer becomes text."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from tychoctl import facts, lists
from tychoctl.lists import Reply
from tychoctl.view import View

Rows = tuple[list[str], list[list[object]]]


class Command(NamedTuple):
    """One command; ``op`` is None where it is not just one operation of the daemon."""

    name: str
    doc: str
    example: str
    op: str | None
    text: Callable[[Reply, View], str]
    rows: Callable[[Reply, View], Rows]
    is_list: bool = False
    has_namespaces: bool = False


class Task(NamedTuple):
    """A command that is more than a question to the daemon."""

    name: str
    doc: str
    example: str


def _list(op: str, doc: str, example: str, *, has_namespaces: bool = True) -> Command:
    text, rows = partial(lists.render_list, op), partial(lists.rows_of_list, op)
    return Command(op, doc, example, op, text, rows, True, has_namespaces)


_ALL: Final = (
    Command(
        "status",
        "whether tychod is well: accounting, sources, its own cost, problems and remedies",
        "tychoctl status",
        "status",
        facts.render_status,
        facts.rows_of_status,
    ),
    Command(
        "sources",
        "every source of energy and names: its health, and why one is missing",
        "tychoctl sources -o wide",
        "sources",
        facts.render_sources,
        facts.rows_of_sources,
    ),
    Command(
        "node",
        "energy and power of the node by hardware domain",
        "tychoctl node -w",
        "node",
        facts.render_node,
        facts.rows_of_node,
    ),
    _list(
        "workloads",
        "everything that used energy: containers, units, the kernel, the system",
        "tychoctl workloads --sort energy --limit 20",
    ),
    _list("pods", "pods, each the sum of its containers", "tychoctl pods -n shop -w 5"),
    _list("containers", "containers", "tychoctl containers -o wide"),
    _list("units", "systemd units", "tychoctl units -o csv", has_namespaces=False),
    _list(
        "processes",
        "processes, each with its workload; needs [accounting] processes = true",
        "tychoctl processes --sort cpu --limit 20",
    ),
    Command(
        "config",
        "settings in force with their origin, or the commented default file",
        "tychoctl config show rapl.interval",
        "config",
        facts.render_config,
        facts.rows_of_config,
    ),
    Command(
        "version",
        "versions of tychoctl and of the tychod that answers",
        "tychoctl version",
        None,
        facts.render_versions,
        facts.rows_of_versions,
    ),
)
COMMANDS: Final[Mapping[str, Command]] = {command.name: command for command in _ALL}

_TASKS: Final = (
    Task(
        "record",
        "write the raw samples of some windows to a file, for root and [control] admin_group",
        "tychoctl record today.rec --for 5m",
    ),
    Task(
        "replay",
        "analyse a recorded file and print its last window, or compare with what was recorded",
        "tychoctl replay today.rec pods --sort energy",
    ),
)
TASKS: Final[Mapping[str, Task]] = {task.name: task for task in _TASKS}
REPLAYED: Final = tuple(c.name for c in _ALL if c.is_list or c.name == "node")
"""The commands whose answer follows from the samples alone."""

"""The commands: what each asks the daemon, and how its answer becomes text."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal, NamedTuple, get_args

from tychoctl import lists
from tychoctl.lists import Reply
from tychoctl.view import View

Rows = tuple[list[str], list[list[object]]]
Output = Literal["table", "wide", "json", "csv"]
OUTPUTS: Final[tuple[Output, ...]] = get_args(Output)


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
    has_labels: bool = False
    sums: str | None = None  # what its answer has sums by, beside the list
    has_headers: bool = True  # its table is one; else a text to read
    common: tuple[str, ...] = ("socket", "output", "watch", "wait")  # of options.COMMON
    outputs: tuple[Output, ...] = OUTPUTS


class Task(NamedTuple):
    """A command that is more than a question to the daemon."""

    name: str
    doc: str
    example: str
    common: tuple[str, ...] = ("socket", "output", "wait")  # of options.COMMON
    outputs: tuple[Output, ...] = OUTPUTS


def _fact(name: str, doc: str, example: str, *, is_op: bool = True) -> Command:
    """Return a command about the node or the daemon; its module is imported when it is run."""

    def text(reply: Reply, view: View) -> str:
        from tychoctl import facts

        return facts.TEXTS[name](reply, view)

    def rows(reply: Reply, view: View) -> Rows:
        from tychoctl import facts

        return facts.ROWS[name](reply, view)

    command = Command(name, doc, example, name if is_op else None, text, rows)
    if not is_op:
        command = command._replace(common=("socket", "output"))
    return command._replace(has_headers=name not in ("status", "version"))


def _list(op: str, doc: str, example: str, *has: str, sums: str | None = None) -> Command:
    """Return a command that lists workloads, which have namespaces, labels or neither."""
    text, rows = partial(lists.render_list, op), partial(lists.rows_of_list, op)
    names, labels = "namespaces" in has, "labels" in has
    return Command(op, doc, example, op, text, rows, True, names, labels, sums)


_POD_FACTS: Final = ("namespaces", "labels")
_ALL: Final = (
    _fact(
        "status",
        "whether tychod is well: accounting, sources, its own cost, problems and remedies",
        "tychoctl status",
    ),
    _fact(
        "sources",
        "every source of energy and names: its health, and why one is missing",
        "tychoctl sources -o wide",
    ),
    _fact(
        "node",
        "energy and power of the node by hardware domain",
        "tychoctl node -w",
    ),
    _fact(
        "gpus",
        "GPUs: power, use, how their energy is known, and the workloads on each",
        "tychoctl gpus -o wide",
    ),
    _list(
        "workloads",
        "everything that used energy: containers, virtual machines, units, the kernel, the system",
        "tychoctl workloads --sort energy --limit 20",
        *_POD_FACTS,
    ),
    _list(
        "pods",
        "pods, each the sum of its containers",
        "tychoctl pods -n shop -l 'app=web,tier in (front,back)' -w 5",
        *_POD_FACTS,
        sums="namespaces",
    ),
    _list("containers", "containers", "tychoctl containers -o wide", *_POD_FACTS),
    _list(
        "vms",
        "virtual machines, and for those in a pod who has their energy",
        "tychoctl vms --sort energy",
        "namespaces",
    ),
    _list(
        "units",
        "systemd units, with the sums of their slices",
        "tychoctl units -o csv",
        sums="slices",
    ),
    _list(
        "processes",
        "processes, each with its workload; needs [accounting] processes = true",
        "tychoctl processes --sort cpu --limit 20",
        "namespaces",
    ),
    _fact(
        "config",
        "settings in force with their origin, or the commented default file",
        "tychoctl config show rapl.interval",
    ),
    _fact(
        "version",
        "versions of tychoctl and of the tychod that answers; tychoctl --version is the same",
        "tychoctl version",
        is_op=False,
    ),
)
COMMANDS: Final[Mapping[str, Command]] = {command.name: command for command in _ALL}

_TASKS: Final = (
    Task(
        "doctor",
        "what is in place on this host and what the daemon sees of it, with remedies; exit 1: "
        "a check failed",
        "tychoctl doctor --group energy",
        common=("socket", "output"),
        outputs=("table", "json"),
    ),
    Task(
        "top",
        "live view of the node and its workloads on a terminal; ? shows the keys",
        "tychoctl top -n shop --sort cpu",
        common=("socket", "wait"),
    ),
    Task(
        "explain",
        "how the watts of one pod or workload came about, and what would make them surer",
        "tychoctl explain pod shop/web",
        common=("socket", "output", "watch", "wait"),
        outputs=("table", "wide", "json"),
    ),
    Task(
        "report",
        "energy of a stretch of time by namespace, pod, unit or workload, and what it cost",
        "tychoctl report --by pod --since yesterday --until today",
    ),
    Task(
        "metrics",
        "the text that the metrics endpoint would serve, raw; no port is needed",
        "tychoctl metrics --names kepler",
        common=("socket", "wait"),
    ),
    Task(
        "record",
        "write the raw samples of some windows to a file, for root and [control] admin_group",
        "tychoctl record today.rec --for 5m",
        outputs=("table", "json"),
    ),
    Task(
        "replay",
        "analyse a recorded file and print its last window, or compare with what was recorded",
        "tychoctl replay today.rec pods --sort energy",
        common=("output",),
    ),
    Task(
        "completion",
        "print the script that completes tychoctl's commands, options and names in a shell",
        'eval "$(tychoctl completion bash)"',
        common=("socket",),
    ),
)
TASKS: Final[Mapping[str, Task]] = {task.name: task for task in _TASKS}
REPLAYED: Final = tuple(c.name for c in _ALL if c.is_list or c.name in ("node", "gpus"))
"""The commands whose answer follows from the samples alone."""

"""`tychoctl` alone: the node's power, who uses it, the sources and the next thing to do."""

from collections.abc import Callable, Mapping
from typing import Final

from tychoctl import output, render
from tychoctl.client import Connection, Failure, Reply, socket_path
from tychoctl.columns import place
from tychoctl.lists import placed_rows, render_qualities, render_window
from tychoctl.options import Options
from tychoctl.render import Column, number
from tychoctl.run import patiently
from tychoctl.view import Entry, View, choose, entries, room, section, total_uj

SHOWN: Final = 5
"""Rows of the most power: the screen has room for them beside the rest at 24 lines."""
LABEL_WIDTH: Final = 10


def _name(entry: Entry) -> str:
    """Return what people call a workload: of a pod its name, else kind and name."""
    if entry.get("pod_uid"):
        pod = entry.get("pod") or f"uid {entry.get('pod_uid')}"
        return f"{render.name(entry.get('namespace'))}/{render.name(pod)}{place(entry)}"
    kind, name = render.name(entry.get("kind")), render.name(entry.get("name"))
    return name if kind == name else f"{kind} {name}"


WORKLOAD_COLUMNS: Final = (
    Column("WORKLOAD", _name, shrinks=True),
    Column("POWER", lambda e: render.power(e.get("total_power_w")), right=True),
    Column("ENERGY", lambda e: render.energy(total_uj(e)), right=True),
)


def show(options: Options) -> int:
    """Print the node on one screen; return the exit code."""
    path = socket_path(options.socket)
    try:
        status, used = patiently(lambda: ask(path), path, options.wait)
    except Failure as failure:
        if failure.code != "not-running":
            raise
        message = f"{failure.message}; tychoctl --help lists the commands"
        raise Failure(failure.code, message) from failure
    size = output.terminal_size()
    text = render_overview(status, used, View(width=size.columns if size else None))
    output.write(render.fit(text, size.columns) if size else text)
    return 0


def ask(path: str) -> tuple[Reply, Reply]:
    """Return status and workloads; the second is empty before the first window."""
    with Connection(path) as connection:
        status = connection.call("status")
        try:
            return status, connection.call("workloads")
        except Failure as failure:
            if failure.code != "not-ready":
                raise
        return status, {}


def render_overview(status: Reply, used: Reply, view: View) -> str:
    """Return the screen: at most 24 lines where not much is wrong."""
    facts = [
        ("power", _power(used)),
        ("energy", _energy(used)),
        *(("", line) for line in render_qualities(_counted(used))),
        ("sources", _sources(status)),
        ("own cost", _cost(status)),
        *_next_steps(status),
    ]
    lines = [f"{label:<{LABEL_WIDTH}}{text}" for label, text in facts]
    title = (
        f"{render.name(status.get('node'))}: tychod {render.name(status.get('state'))},"
        f" up {render.duration(status.get('uptime_s'))}"
    )
    return render.lines([title, "", *lines, *_most(used, view)])


def _most(used: Reply, view: View) -> list[str]:
    """Return the table of what uses most power, of pods one row each."""
    whole = [*entries(used, "workloads")]
    if not whole:
        return []
    chosen = choose(_by_pod(whole), view._replace(limit=SHOWN))
    rows = placed_rows("workloads", chosen.rows, used)
    table = render.table(WORKLOAD_COLUMNS, rows, room(view))
    more = f"{chosen.cut_off} more: tychoctl workloads" if chosen.cut_off else ""
    return ["", *table, "", *([more] if more else []), render_window(used)]


def _by_pod(leaves: list[Entry]) -> list[Entry]:
    """Return the workloads, those of a pod added up."""
    rows: dict[str, Entry] = {}
    for leaf in leaves:
        pod = leaf.get("pod_uid")
        inside = leaf.get("parent") if leaf.get("nested") is True else None
        key = f"pod {pod} {inside}" if pod else f"{leaf.get('kind')} {leaf.get('id')}"
        rows[key] = _added(rows[key], leaf) if key in rows else leaf
    return list(rows.values())


def _added(one: Entry, other: Entry) -> Entry:
    """Return the sum of two workloads; what is not known of one is not known of both."""
    powers = [number(e.get("total_power_w")) for e in (one, other)]
    watts = None if None in powers else sum(power or 0.0 for power in powers)
    both = {"idle_uj": 0.0, "dynamic_uj": total_uj(one), "more": total_uj(other)}
    if both["dynamic_uj"] is None or both["more"] is None:
        return {**one, "total_power_w": watts, "total": {}}
    total = {"idle_uj": both["dynamic_uj"], "dynamic_uj": both["more"]}
    return {**one, "total_power_w": watts, "total": total}


def _counted(used: Reply) -> dict[str, Entry]:
    """Return the domains that make up a workload's total."""
    domains = section(used, "domains")
    found = {name: section(domains, name) for name in domains}
    return {name: domain for name, domain in found.items() if domain.get("in_total") is True}


def _power(used: Reply) -> str:
    if not used:
        return "the first window is not over yet"
    if not _counted(used):
        return "no source of energy: tychoctl sources says why"
    return _with_whole(used, "power_w", render.power)


def _energy(used: Reply) -> str:
    if not _counted(used):
        return render.UNKNOWN
    return (
        f"{_with_whole(used, 'energy_uj', render.energy)} since {render.moment(used.get('since'))}"
    )


def _with_whole(used: Reply, key: str, text: Callable[[object], str]) -> str:
    """Return the sum of what is counted with its parts, and that of the whole machine."""
    counted = _counted(used)
    values = [number(domain.get(key)) for domain in counted.values()]
    known = [value for value in values if value is not None]
    parts = [f"{render.escape(name)} {text(domain.get(key))}" for name, domain in counted.items()]
    whole = section(section(used, "domains"), "platform")
    machine = f"; whole machine {text(whole.get(key))}" if whole else ""
    return f"{text(sum(known) if known else None)} ({', '.join(parts)}){machine}"


def _sources(status: Mapping[str, object]) -> str:
    told = [
        f"{render.name(source.get('name'))} {render.name(source.get('state'))}"
        for source in entries(status, "sources")
        if source.get("state") != "off"
    ]
    return ", ".join(told) or "none"


def _cost(status: Mapping[str, object]) -> str:
    from tychoctl.facts import render_cost

    return render_cost(section(status, "self"))


def _next_steps(status: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return what is wrong, worst as the daemon has it, and what to do about it."""
    problems = entries(status, "problems")
    if not problems:
        return [("problems", "none")]
    first = problems[0]
    reason = render.name(first.get("reason"), render.MOST_CHARS)
    told = [("problems", f"{render.name(first.get('source'))}: {reason}")]
    if first.get("remedy"):
        told.append(("", f"next: {render.name(first['remedy'], render.MOST_CHARS)}"))
    if len(problems) > 1:
        told.append(("", f"{len(problems) - 1} more: tychoctl status"))
    return told

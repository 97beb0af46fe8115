"""Text and CSV of the answers about the daemon; those about the node have modules of their own."""

from collections.abc import Callable, Mapping
from typing import Final

from tychoctl import render
from tychoctl.lists import Reply, render_qualities
from tychoctl.render import Column, number
from tychoctl.view import Entry, View, entries, section

Rows = tuple[list[str], list[list[object]]]
LABEL_WIDTH: Final = 13
ALWAYS_THERE: Final = frozenset({"kernel", "system", "past", "unattributed"})


SETTING_COLUMNS: Final = (
    Column("SETTING", lambda e: render.name(e.get("key"))),
    Column("VALUE", lambda e: render.setting(e.get("value")), shrinks=True),
    Column("ORIGIN", lambda e: render.name(e.get("origin")), shrinks=True),
)
SETTING_WIDE: Final = (
    Column("DEFAULT", lambda e: render.setting(e.get("default")), shrinks=True),
    Column("MEANING", lambda e: render.name(e.get("doc")), shrinks=True),
)


def render_config(reply: Reply, view: View) -> str:
    """Return the settings in force, each with its origin; wide: default and meaning, too."""
    columns = SETTING_COLUMNS + (SETTING_WIDE if view.wide else ())
    settings = entries(reply, "config")
    return render.lines(render.table(columns, settings, view.width, header=view.headers))


def rows_of_config(reply: Reply, _: View) -> Rows:
    """Return header and rows of the settings for CSV; values as TOML writes them."""
    rows: list[list[object]] = [
        [
            e.get("key"),
            render.setting(e.get("value")),
            e.get("origin"),
            render.setting(e.get("default")),
        ]
        for e in entries(reply, "config")
    ]
    return ["key", "value", "origin", "default"], rows


def render_status(reply: Reply, view: View) -> str:
    """Return the daemon's health as a block to read: what it is, what it sees, what is wrong.

    On a watched screen what is wrong comes first: the end may not be seen.
    """
    lines, problems = [_render_title(reply), ""], _render_problems(reply)
    if view.watched:
        lines, problems = [*lines, *problems, ""], []
    for label, text in _status_facts(reply, view):
        lines.append(f"{label:<{LABEL_WIDTH}}{text}")
    lines += ["", "sources"]
    for source in entries(reply, "sources"):
        head = f"  {render.name(source.get('name')):<{LABEL_WIDTH - 2}}"
        lines.append(f"{head}{render.name(source.get('state'))}, {_source_words(source)}")
        lines += [f"    {note}" for note in render.notes(source)]
    return "\n".join([*lines, *(["", *problems] if problems else [])]) + "\n"


def _render_title(reply: Reply) -> str:
    return (
        f"tychod {render.name(reply.get('version'))} (commit {render.name(reply.get('commit'))})"
        f" on {render.name(reply.get('node'))}: {render.name(reply.get('state'))},"
        f" up {render.duration(reply.get('uptime_s'))}"
    )


def _source_words(source: Entry) -> str:
    if source.get("state") == "ok":
        words = f"{render.name(source.get('quality'))} every "
        return words + render.duration(source.get("interval_s"))
    return render.escape(source.get("reason") or "no reason given")


def _status_facts(reply: Reply, view: View) -> list[tuple[str, str]]:
    from tychoctl import routes
    from tychoctl.node import idle_policies

    accounting, own = section(reply, "accounting"), section(reply, "self")
    facts = [
        ("accounting", _with_reason(accounting.get("method"), accounting.get("reason"))),
        *_render_quality(accounting),
        ("hierarchy", _with_reason(reply.get("hierarchy"), reply.get("hierarchy_reason"))),
        ("workloads", _render_counts(reply)),
        ("names", routes.render_ways(section(reply, "identity"))),
        *(("", line) for line in routes.render_reasons(section(reply, "identity")) if view.wide),
        ("last window", _render_last_window(reply)),
        ("counting", f"since {render.moment(reply.get('since'))}"),
        ("conservation", _render_conservation(reply.get("conservation_violations"))),
        *(("idle energy", line) for line in idle_policies(reply)),
        ("own cost", render_cost(own)),
    ]
    if view.wide:
        facts += [("connections", _render_map(section(reply, "connections")))]
        if reply.get("endpoint"):
            facts += [("metrics endpoint", _render_map(section(reply, "endpoint")))]
    qualities = render_qualities(section(reply, "domains"))
    return facts + [("energy", line) for line in qualities]


QUALITY: Final = {
    "late_s": "s of CPU time without a bin",
    "dropped": "records or cgroups without room",
    "exhausted": "readings of CPUs that never rested",
    "stalls": "readings too late for bins",
}
"""What an accounting that is not perfect has to tell; none of it loses a total."""


def _render_quality(accounting: Entry) -> list[tuple[str, str]]:
    """Return one line where there is anything to tell."""
    told = [
        f"{value:.6f} {words}" if isinstance(value, float) else f"{value} {words}"
        for name, words in QUALITY.items()
        if isinstance(value := accounting.get(name), int | float) and value
    ]
    return [("", ", ".join(told))] if told else []


def _with_reason(value: object, reason: object) -> str:
    return render.name(value) + (f" ({render.escape(reason)})" if reason else "")


def _render_last_window(reply: Reply) -> str:
    window = section(reply, "window")
    if not window:
        return "none yet"
    length = render.duration(window.get("seconds"))
    number_text = render.name(reply.get("sequence"))
    return f"{length} to {render.moment(window.get('end'))}, number {number_text}"


def _render_counts(reply: Reply) -> str:
    """Return how many workloads there are; the kinds that are always there are no news."""
    counts = section(reply, "workloads")
    if not counts:
        return "none yet"
    told = [
        f"{render.name(n)} {render.escape(kind)}{'' if n == 1 else 's'}"
        for kind, n in counts.items()
        if kind not in ALWAYS_THERE
    ]
    ended = render.name(reply.get("terminated"))
    return f"{', '.join(told) or 'none'}; {ended} of them ended"


def _render_conservation(violations: object) -> str:
    if violations == 0:
        return "exact: workloads add up to the node in every window"
    return f"VIOLATED {render.name(violations)} times: please report this with journalctl -u tychod"


def render_cost(own: Entry) -> str:
    """Return the daemon's own share of a core and its memory."""
    percent = number(own.get("cpu_percent"))
    share = render.UNKNOWN if percent is None else f"{percent:.2f} % of one core"
    return f"{share}, {render.size(own.get('rss_bytes'))}"


def _render_map(found: Mapping[str, object]) -> str:
    return ", ".join(f"{render.escape(k)}: {render.name(v)}" for k, v in found.items()) or "-"


def _render_problems(reply: Reply) -> list[str]:
    problems = entries(reply, "problems")
    if not problems:
        return ["no problems"]
    lines = ["problems"]
    for problem in problems:
        lines.append(
            f"  {render.name(problem.get('source'))}: {render.name(problem.get('reason'))}"
        )
        if problem.get("remedy"):
            lines.append(f"    remedy: {render.escape(problem['remedy'])}")
    return lines


def rows_of_status(reply: Reply, _: View) -> Rows:
    """Return one row for CSV: the scalars of the status, and how many problems there are."""
    accounting, own = section(reply, "accounting"), section(reply, "self")
    keys = ["node", "version", "state", "uptime_s", "sequence", "hierarchy"]
    row = [reply.get(key) for key in keys]
    row += [accounting.get("method"), own.get("cpu_percent"), own.get("rss_bytes")]
    row += [reply.get("conservation_violations"), len(entries(reply, "problems"))]
    more = ["accounting", "cpu_percent", "rss_bytes", "conservation_violations", "problems"]
    return [*keys, *more], [row]


def render_versions(reply: Reply, _: View) -> str:
    """Return a line for tychoctl and one for tychod, as each prints its own."""
    lines = [_version_line(name, section(reply, name)) for name in ("tychoctl", "tychod")]
    return "\n".join(lines) + "\n"


def _version_line(program: str, told: Entry) -> str:
    from tychod.version import Build, render_version

    if not told:
        return f"{program} is not running"
    return render_version(program, Build(*(render.name(told.get(key)) for key in Build._fields)))


def rows_of_versions(reply: Reply, _: View) -> Rows:
    """Return a row for tychoctl and, when it answers, one for tychod."""
    keys = ["version", "commit", "built"]
    found = [(name, section(reply, name)) for name in ("tychoctl", "tychod")]
    rows = [[name, *(build.get(key) for key in keys)] for name, build in found if build]
    return ["program", *keys], rows


def _node(reply: Reply, view: View) -> str:
    from tychoctl.node import render_node

    return render_node(reply, view)


def _rows_of_node(reply: Reply, view: View) -> Rows:
    from tychoctl.node import rows_of_node

    return rows_of_node(reply, view)


def _gpus(reply: Reply, view: View) -> str:
    from tychoctl.gpus import render_gpus

    return render_gpus(reply, view)


def _rows_of_gpus(reply: Reply, view: View) -> Rows:
    from tychoctl.gpus import rows_of_gpus

    return rows_of_gpus(reply, view)


def _sources(reply: Reply, view: View) -> str:
    from tychoctl.sources import render_sources

    return render_sources(reply, view)


def _rows_of_sources(reply: Reply, view: View) -> Rows:
    from tychoctl.sources import rows_of_sources

    return rows_of_sources(reply, view)


TEXTS: Final[Mapping[str, Callable[[Reply, View], str]]] = {
    "status": render_status,
    "sources": _sources,
    "node": _node,
    "gpus": _gpus,
    "config": render_config,
    "version": render_versions,
}
ROWS: Final[Mapping[str, Callable[[Reply, View], Rows]]] = {
    "status": rows_of_status,
    "sources": _rows_of_sources,
    "node": _rows_of_node,
    "gpus": _rows_of_gpus,
    "config": rows_of_config,
    "version": rows_of_versions,
}
"""The commands whose answers these are; a module is imported when its answer is asked for."""

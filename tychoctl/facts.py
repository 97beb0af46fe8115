"""Text and CSV of the answers about the node and the daemon: node, sources, status, config."""

from collections.abc import Callable, Mapping
from typing import Final

from tychoctl import render
from tychoctl.columns import NORMAL_95, flags_of
from tychoctl.lists import Reply, render_qualities, render_window
from tychoctl.render import Column, number
from tychoctl.view import Entry, View, entries, section

Rows = tuple[list[str], list[list[object]]]
LABEL_WIDTH: Final = 13
ALWAYS_THERE: Final = frozenset({"kernel", "system", "past", "unattributed"})


def _counted(entry: Entry) -> str:
    """Return the energy of a meter; one that was never read has none to show."""
    energy = entry.get("energy_uj")
    is_unknown = energy == 0 and entry.get("quality") == "unavailable"
    return render.UNKNOWN if is_unknown else render.energy(energy)


def _floor(entry: Entry) -> Entry:
    return section(entry, "idle_floor")


def _margin_w(entry: Entry) -> float | None:
    """Return half the width of the idle floor's 95 % interval, in watts."""
    deviation = number(_floor(entry).get("sd_w"))
    return None if deviation is None else NORMAL_95 * deviation


def _percent(share: object) -> str:
    value = number(share)
    return render.UNKNOWN if value is None else f"{100 * value:.1f} %"


DOMAIN_COLUMNS: Final = (
    Column("DOMAIN", lambda e: render.name(e.get("name")), shrinks=True),
    Column("QUALITY", lambda e: render.name(e.get("quality"))),
    Column("POWER", lambda e: render.power(e.get("power_w")), right=True),
    Column("ENERGY", _counted, right=True),
    Column("IDLE", lambda e: render.energy(e.get("idle_uj")), right=True),
    Column("DYNAMIC", lambda e: render.energy(e.get("dynamic_uj")), right=True),
    Column("SOURCE", lambda e: render.name(e.get("source"))),
)
DOMAIN_WIDE: Final = (
    Column("IDLE FLOOR", lambda e: render.power(_floor(e).get("power_w")), right=True),
    Column("FLOOR ±", lambda e: render.power(_margin_w(e)), right=True),
    Column("FLOOR AGE", lambda e: render.duration(_floor(e).get("age_s")), right=True),
    Column("TRUST", lambda e: _percent(_floor(e).get("confidence")), right=True),
    Column("COVERAGE", lambda e: _percent(e.get("coverage")), right=True),
    Column("THROUGH", lambda e: render.moment(e.get("through"))),
)
ZONE_COLUMNS: Final = (
    Column("ZONE", lambda e: render.name(e.get("name")), shrinks=True),
    Column("SOCKET", lambda e: render.name(e.get("socket")), right=True),
    Column("QUALITY", lambda e: render.name(e.get("quality"))),
    Column("POWER", lambda e: render.power(e.get("power_w")), right=True),
    Column("ENERGY", _counted, right=True),
    Column("UUID", lambda e: render.name(e.get("uuid")), shrinks=True),
)
SOURCE_COLUMNS: Final = (
    Column("SOURCE", lambda e: render.name(e.get("name"))),
    Column("STATE", lambda e: render.name(e.get("state"))),
    Column("QUALITY", lambda e: render.name(e.get("quality"))),
    Column("INTERVAL", lambda e: render.duration(e.get("interval_s")), right=True),
    Column("SAMPLES", lambda e: render.name(e.get("samples")), right=True),
    Column("ERRORS", lambda e: render.name(e.get("errors")), right=True),
    Column("LAST SAMPLE", lambda e: _last(e.get("last_sample"))),
)
SOURCE_WIDE: Final = (
    Column("ENABLED", lambda e: _value(e.get("enabled"))),
    Column("DELAY", lambda e: render.duration(e.get("delay_s")), right=True),
    Column("LATE", lambda e: render.name(e.get("late")), right=True),
)
SETTING_COLUMNS: Final = (
    Column("SETTING", lambda e: render.name(e.get("key"))),
    Column("VALUE", lambda e: _value(e.get("value")), shrinks=True),
    Column("ORIGIN", lambda e: render.name(e.get("origin")), shrinks=True),
)
SETTING_WIDE: Final = (
    Column("DEFAULT", lambda e: _value(e.get("default")), shrinks=True),
    Column("MEANING", lambda e: render.name(e.get("doc")), shrinks=True),
)


def _last(time: object) -> str:
    return "never" if time is None else render.moment(time)


def _value(value: object) -> str:
    """Return a setting's value as TOML writes it."""
    import json

    return render.escape(json.dumps(value, ensure_ascii=False))


def _domains(reply: Reply) -> list[Entry]:
    domains = section(reply, "domains")
    return [{**section(domains, name), "name": name} for name in domains]


def _zones(reply: Reply) -> list[Entry]:
    return [{**z, "domain": d["name"]} for d in _domains(reply) for z in entries(d, "zones")]


def render_node(reply: Reply, view: View) -> str:
    """Return the node's domains; wide: its zones, too."""
    domains, zones = _domains(reply), _zones(reply)
    columns = DOMAIN_COLUMNS + (DOMAIN_WIDE if view.wide else ())
    lines = render.table(columns, domains, view.width)
    if not domains:
        lines = ["no source of energy: tychoctl sources says why"]
    if view.wide and zones:
        lines += ["", *render.table(ZONE_COLUMNS, zones, view.width)]
    lines += ["", render_window(reply), f"idle energy: {_idle_policy(reply)}"]
    lines += [*render_qualities(section(reply, "domains")), *_flags(domains)]
    lines += [
        f"{render.escape(z.get('name'))}: {render.name(z.get('quality'))}"
        f" ({render.escape(z.get('reason'))})"
        for z in zones
        if z.get("reason") and z.get("quality") != "modelled"
    ]
    return "\n".join(lines) + "\n"


IDLE_WORDS: Final = {
    "system": "no workload's, booked to system",
    "reserved": "shared by requests, the rest by activity of workloads without one",
    "proportional": "shared by activity",
    "equal": "shared in equal parts",
}


def _idle_policy(reply: Reply) -> str:
    """Return who gets idle energy, in words, and the setting that says so."""
    policy = section(reply, "attribution").get("idle")
    if not isinstance(policy, str):
        return render.UNKNOWN
    setting = f"[attribution] idle = {render.escape(policy)}"
    return f"{IDLE_WORDS[policy]} ({setting})" if policy in IDLE_WORDS else setting


def _flags(domains: list[Entry]) -> list[str]:
    """Return a line for each flag of a domain; a newer daemon's may have no explanation here."""
    flagged = [(d.get("name"), flag) for d in domains for flag in flags_of(d)]
    if not flagged:
        return []
    from tychod.flags import DOMAIN_FLAGS  # most answers need none

    return [
        f"{render.name(name)}: {render.escape(flag)}"
        + (f" ({DOMAIN_FLAGS[flag]})" if flag in DOMAIN_FLAGS else "")
        for name, flag in flagged
    ]


def rows_of_node(reply: Reply, _: View) -> Rows:
    """Return header and rows of the domains for CSV."""
    keys = ["source", "quality", "reason", "through"]
    numbers = ["energy_uj", "idle_uj", "dynamic_uj", "power_w", "coverage"]
    floor = ["power_w", "sd_w", "age_s", "confidence"]
    end = section(reply, "window").get("end")
    rows = [
        [end, d["name"], *(d.get(key) for key in (*keys, *numbers)), *map(_floor(d).get, floor)]
        for d in _domains(reply)
    ]
    return ["window_end", "domain", *keys, *numbers, *(f"idle_floor_{key}" for key in floor)], rows


def render_sources(reply: Reply, view: View) -> str:
    """Return the health of every source, with reason and remedy below those that need it."""
    sources = entries(reply, "sources")
    columns = SOURCE_COLUMNS + (SOURCE_WIDE if view.wide else ())
    lines = render.table(columns, sources, view.width)
    for source in sources:
        lines += [f"\n{render.name(source.get('name'))}: {line}" for line in _reasons(source)[:1]]
        lines += [f"  {line}" for line in _reasons(source)[1:]]
    if entries(reply, "identity"):
        from tychoctl import routes

        lines += ["", *routes.render_routes(entries(reply, "identity"), view)]
    return "\n".join(lines) + "\n"


def _reasons(source: Entry) -> list[str]:
    """Return reason and remedy of a source that has a reason to be otherwise than ok."""
    if not source.get("reason"):
        return []
    remedy = source.get("remedy")
    return [
        render.escape(source["reason"]),
        *([f"remedy: {render.escape(remedy)}"] if remedy else []),
    ]


def rows_of_sources(reply: Reply, _: View) -> Rows:
    """Return header and rows of the sources for CSV."""
    keys = ["name", "enabled", "state", "quality", "reason", "remedy", "interval_s", "delay_s"]
    keys += ["samples", "errors", "late", "last_sample"]
    return keys, [[source.get(key) for key in keys] for source in entries(reply, "sources")]


def render_config(reply: Reply, view: View) -> str:
    """Return the settings in force, each with its origin; wide: default and meaning, too."""
    columns = SETTING_COLUMNS + (SETTING_WIDE if view.wide else ())
    return "\n".join(render.table(columns, entries(reply, "config"), view.width)) + "\n"


def rows_of_config(reply: Reply, _: View) -> Rows:
    """Return header and rows of the settings for CSV; values as TOML writes them."""
    rows: list[list[object]] = [
        [e.get("key"), _value(e.get("value")), e.get("origin"), _value(e.get("default"))]
        for e in entries(reply, "config")
    ]
    return ["key", "value", "origin", "default"], rows


def render_status(reply: Reply, view: View) -> str:
    """Return the daemon's health as a block to read: what it is, what it sees, what is wrong."""
    lines = [_render_title(reply), ""]
    for label, text in _status_facts(reply, view):
        lines.append(f"{label:<{LABEL_WIDTH}}{text}")
    lines += ["", "sources"]
    for source in entries(reply, "sources"):
        head = f"  {render.name(source.get('name')):<{LABEL_WIDTH - 2}}"
        lines.append(f"{head}{render.name(source.get('state'))}, {_source_words(source)}")
    return "\n".join([*lines, "", *_render_problems(reply)]) + "\n"


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
        ("idle energy", _idle_policy(reply)),
        ("own cost", _render_cost(own)),
    ]
    if view.wide:
        facts += [("connections", _render_map(section(reply, "connections")))]
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
    return f"{length} to {render.moment(window.get('end'))}, number {reply.get('sequence')}"


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


def _render_cost(own: Entry) -> str:
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


TEXTS: Final[Mapping[str, Callable[[Reply, View], str]]] = {
    "status": render_status,
    "sources": render_sources,
    "node": render_node,
    "config": render_config,
    "version": render_versions,
}
ROWS: Final[Mapping[str, Callable[[Reply, View], Rows]]] = {
    "status": rows_of_status,
    "sources": rows_of_sources,
    "node": rows_of_node,
    "config": rows_of_config,
    "version": rows_of_versions,
}
"""The commands whose answers these are."""

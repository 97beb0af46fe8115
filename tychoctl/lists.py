"""Tables and CSV of the answers that are lists of workloads: pods, workloads and their kinds."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tychoctl import render
from tychoctl.render import Column, number
from tychoctl.view import Chosen, Entry, View, choose, entries, section, total_uj

Reply = Mapping[str, object]


def _energy_part(part: str) -> Column:
    return Column(
        part.upper(), lambda e: render.energy(section(e, "total").get(f"{part}_uj")), right=True
    )


def _text(title: str, key: str) -> Column:
    return Column(title, lambda e: render.name(e.get(key)), shrinks=True)


def _pod(name_key: str, uid_key: str) -> Column:
    def text(entry: Entry) -> str:
        """Without a name the uid tells one pod from another, and finds it in the kubelet's log."""
        uid = entry.get(uid_key)
        return render.name(entry.get(name_key) or (f"uid {uid}" if uid else None))

    return Column("POD", text, shrinks=True)


def _names_from(entry: Entry) -> str:
    stale = " (stale)" if entry.get("stale") is True else ""
    return render.name(entry.get("names_from")) + stale


def _workload(entry: Entry) -> str:
    """Return a workload's name as people know it; its id where it is not listed any more."""
    parts = (entry.get("pod"), entry.get("name"))
    return render.name("/".join(str(part) for part in parts if part) or entry.get("workload"))


def _count(key: str) -> Column:
    def text(entry: Entry) -> str:
        found = entry.get(key)
        return str(len(found)) if isinstance(found, list) else render.UNKNOWN

    return Column(key.upper(), text, right=True)


def _margin(text: Callable[[object], str], key: str, scale: float = 1.0) -> Callable[[Entry], str]:
    """Return the text of a standard deviation as half the width of the 95 % interval."""

    def shown(entry: Entry) -> str:
        deviation = number(entry.get(key))
        return text(None if deviation is None else deviation * scale * NORMAL_95)

    return shown


def _intensity(entry: Entry) -> str:
    known = section(entry, "intensity_j_per_cpu_s")
    value = number(known.get("package", known.get("psys")))
    return render.UNKNOWN if value is None else render.three_digits(max(value, 0.0))


def flags_of(entry: Entry) -> list[str]:
    """Return what is special about an entry."""
    flags = entry.get("flags")
    return [str(flag) for flag in flags] if isinstance(flags, list) else []


NORMAL_95: Final = 1.96
"""Standard deviations to each side that hold 95 % of a normal distribution."""
WELL_COVERED: Final = 0.9
"""A window with less of it observed than this is told; one lost reading leaves more."""
NAMESPACE: Final = _text("NAMESPACE", "namespace")
POD: Final = _pod("pod", "pod_uid")
STATE: Final = Column("STATE", lambda e: render.name(e.get("state")))
NUMBERS: Final = (
    Column("POWER", lambda e: render.power(e.get("total_power_w")), right=True),
    Column("ENERGY", lambda e: render.energy(total_uj(e)), right=True),
    Column("CPU", lambda e: render.duration(e.get("cpu_seconds")), right=True),
)
PARTS: Final = (_energy_part("idle"), _energy_part("dynamic"))
MARGINS: Final = (
    Column("POWER ±", _margin(render.power, "total_power_sd_w"), right=True),
    Column("ENERGY ±", _margin(render.energy, "total_sd_uj"), right=True),
)
LEARNED: Final = (
    Column("J/CPU-S", _intensity, right=True),
    Column("FLAGS", lambda e: render.name(", ".join(flags_of(e)))),
)
MARGINS_TOLD: Final = "±: the truth lies within for about 95 of 100 workloads"
ORIGIN: Final = (
    _text("RUNTIME", "runtime"),
    Column("NAMES FROM", _names_from),
    _text("ID", "id"),
    _text("CGROUP", "cgroup"),
)
COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "pods": (NAMESPACE, _pod("name", "uid"), *NUMBERS, _count("containers"), STATE),
    "workloads": (
        _text("KIND", "kind"),
        NAMESPACE,
        POD,
        _text("NAME", "name"),
        *NUMBERS,
        STATE,
    ),
    "containers": (NAMESPACE, POD, _text("CONTAINER", "name"), *NUMBERS, STATE),
    "units": (_text("UNIT", "name"), *NUMBERS, STATE),
    "processes": (
        Column("PID", lambda e: render.name(e.get("pid")), right=True),
        _text("COMM", "comm"),
        Column("WORKLOAD", _workload, shrinks=True),
        Column("CPU TIME", lambda e: render.duration(e.get("cpu_seconds")), right=True),
        *NUMBERS[:2],
        STATE,
    ),
}
WIDE: Final[Mapping[str, tuple[Column, ...]]] = {
    "pods": (*MARGINS, *PARTS, _text("QOS", "qos"), _text("OWNER", "owner"), _text("UID", "uid")),
    "workloads": (*MARGINS, *PARTS, *LEARNED, *ORIGIN),
    "containers": (*MARGINS, *PARTS, *LEARNED, *ORIGIN),
    "units": (*MARGINS, *PARTS, *LEARNED, _text("PARENT", "parent"), _text("CGROUP", "cgroup")),
    "processes": (
        Column("STARTED", lambda e: render.moment(e.get("start_time"))),
        NAMESPACE,
        _text("POD", "pod"),
        _text("KIND", "kind"),
        _text("WORKLOAD ID", "workload"),
    ),
}
CSV_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "pods": ("namespace", "name", "uid", "owner", "qos", "state"),
    "workloads": (
        *("kind", "namespace", "pod", "pod_uid", "name", "id", "runtime", "cgroup", "parent"),
        *("sandbox", "names_from", "stale", "state", "first_seen", "reason"),
    ),
    "processes": (
        *("pid", "start_time", "comm", "state", "workload"),
        *("kind", "namespace", "pod", "name"),
    ),
}
CSV_NUMBERS: Final = ("cpu_seconds", "power_w", "energy_uj", "idle_uj", "dynamic_uj")
CSV_ERRORS: Final[Mapping[str, str]] = {
    "power_sd_w": "total_power_sd_w",
    "energy_sd_uj": "total_sd_uj",
}
"""Columns of standard deviations, and what they are called in an answer."""


def rows_of(op: str, reply: Reply) -> list[Entry]:
    """Return the rows of an answer: those of one kind come as the workloads that they are."""
    return entries(reply, op if op in ("pods", "processes") else "workloads")


def render_list(op: str, reply: Reply, view: View) -> str:
    """Return the table of a list, with what stands behind it below."""
    chosen = choose(rows_of(op, reply), view)
    columns = COLUMNS[op] + (WIDE[op] if view.wide else ())
    lines = render.table(columns, chosen.rows, view.width)
    if not chosen.rows:
        place = f" in namespace {render.escape(view.namespace)}" if view.namespace else ""
        lines = [f"no {op}{place}"]
    told = [MARGINS_TOLD] if view.wide and MARGINS[0] in columns else []
    return "\n".join([*lines, "", *render_footer(reply, chosen), *told]) + "\n"


def render_footer(reply: Reply, chosen: Chosen) -> list[str]:
    """Return the lines below a list: when, how much of the node, what is left out, estimates."""
    lines = [render_window(reply), _render_sums(reply, chosen)]
    if chosen.empty:
        lines.append(f"{chosen.empty} that used no energy not shown (--all shows them)")
    if chosen.cut_off:
        lines.append(f"{chosen.cut_off} more not shown (--limit)")
    return lines + _render_reasons(reply, chosen) + render_qualities(_totalled(reply))


def _render_reasons(reply: Reply, chosen: Chosen) -> list[str]:
    """Return a line for each row whose energy has no known user, and one for what no row has."""
    missing = [f"incomplete: {render.escape(reply['reason'])}"] if reply.get("reason") else []
    return missing + [
        f"{render.name(entry.get('name'))}: {render.escape(entry['reason'])}"
        for entry in chosen.rows
        if entry.get("reason")
    ]


def render_window(reply: Reply) -> str:
    """Return the line about the window and the time since which energy counts."""
    window = section(reply, "window")
    since = render.moment(reply.get("since"))
    if not window:
        return "no window yet"
    gap = ", spans a restart of tychod" if window.get("gap") is True else ""
    return (
        f"power: {render.duration(window.get('seconds'))} to {render.moment(window.get('end'))}"
        f"{gap}; energy and CPU time: since {since}"
    )


def _render_sums(reply: Reply, chosen: Chosen) -> str:
    watts = render.power(_sum(number(e.get("total_power_w")) for e in chosen.rows))
    joules = render.energy(_sum(total_uj(e) for e in chosen.rows))
    node = list(_totalled(reply).values())
    if not node:
        return "no source of energy: tychoctl sources says why"
    node_watts = render.power(_sum(number(d.get("power_w")) for d in node))
    node_joules = render.energy(_sum(number(d.get("energy_uj")) for d in node))
    return f"shown: {watts}, {joules}; node: {node_watts}, {node_joules}"


def _totalled(reply: Reply) -> dict[str, Entry]:
    """Return the domains that make up a workload's total."""
    domains = section(reply, "domains")
    found = {name: section(domains, name) for name in domains}
    return {name: domain for name, domain in found.items() if domain.get("in_total") is True}


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def render_qualities(domains: Reply) -> list[str]:
    """Return a line for each domain that is not plainly and wholly measured, with the reason."""
    lines = []
    for name in domains:
        domain = section(domains, name)
        quality, reason = domain.get("quality"), domain.get("reason")
        if quality != "measured":
            words = "modelled, not measured" if quality == "modelled" else render.name(quality)
            why = f" ({render.escape(reason)})" if reason else ""
            lines.append(f"{render.escape(name)}: {words}{why}")
        coverage = number(domain.get("coverage"))
        if coverage is not None and coverage < WELL_COVERED:
            seen = f"only {100 * coverage:.0f} % of this window was observed"
            lines.append(f"{render.escape(name)}: {seen}")
    return lines


def rows_of_list(op: str, reply: Reply, view: View) -> tuple[list[str], list[list[object]]]:
    """Return header and rows for CSV: raw numbers, every entry, units in the names."""
    texts = CSV_TEXTS.get(op, CSV_TEXTS["workloads"])
    known = section(reply, "domains")
    apart = ("psys", "platform") if "package" in known else ("platform",)
    domains = [name for name in known if name not in apart]  # the others are no workload's
    errors = {} if op == "processes" else CSV_ERRORS
    parts = [(domain, part) for domain in domains for part in ("idle_uj", "dynamic_uj")]
    header = ["window_end", *texts, *CSV_NUMBERS, *errors]
    header += [f"{domain}_{part}" for domain, part in parts]
    end = section(reply, "window").get("end")
    everything = view._replace(everything=True)
    rows = []
    for entry in choose(rows_of(op, reply), everything).rows:
        energy = section(entry, "energy")
        row = [end, *(entry.get(key) for key in texts), *_numbers(entry)]
        row += [entry.get(key) for key in errors.values()]
        rows.append(row + [section(energy, domain).get(part) for domain, part in parts])
    return header, rows


def _numbers(entry: Entry) -> list[object]:
    """Return the values of ``CSV_NUMBERS``."""
    total = section(entry, "total")
    whole = total_uj(entry)
    return [
        entry.get("cpu_seconds"),
        entry.get("total_power_w"),
        None if whole is None else int(whole),
        total.get("idle_uj"),
        total.get("dynamic_uj"),
    ]

"""Tables and CSV of the answers that are lists of workloads: pods, workloads and their kinds."""

from collections.abc import Iterable, Mapping
from typing import Final

from tychoctl import render
from tychoctl.columns import (
    COLUMNS,
    CSV_ERRORS,
    CSV_NUMBERS,
    CSV_TEXTS,
    ENDED_AGO,
    MARGINS,
    WIDE,
)
from tychoctl.render import number
from tychoctl.view import Chosen, Entry, View, choose, entries, room, section, total_uj

Reply = Mapping[str, object]


WELL_COVERED: Final = 0.9
"""A window with less of it observed than this is told; one lost reading leaves more."""
MARGINS_TOLD: Final = "±: the truth lies within for about 95 of 100 workloads"


def rows_of(op: str, reply: Reply) -> list[Entry]:
    """Return the rows of an answer: those of one kind come as the workloads that they are."""
    return entries(reply, rows_key(op))


def rows_key(op: str) -> str:
    """Return under which key an answer has its list."""
    return op if op in ("pods", "processes") else "workloads"


def render_list(op: str, reply: Reply, view: View) -> str:
    """Return the table of a list, with what stands behind it below."""
    if view.sums is not None:
        return _render_sums_alone(view.sums, reply, view)
    chosen = choose(rows_of(op, reply), view)
    columns = COLUMNS[op] + (WIDE[op] if view.wide else ())
    placed = placed_rows(op, chosen.rows, reply)
    lines = render.table(columns, placed, room(view), header=view.headers)
    if not view.headers:
        return render.lines(lines)
    if not chosen.rows:
        lines = [_nothing(op, view)]
    if op == "units":
        from tychoctl import sums

        found = sums.table("slices", sums.choose_sums("slices", reply, view), view)
        lines += ["", *found] if found else []
    told = [MARGINS_TOLD] if view.wide and MARGINS[0] in columns else []
    lines += ["", *render_footer(reply, chosen), *_render_views(op, chosen), *told]
    return "\n".join([*lines, *unlabelled_note(op, reply, chosen)]) + "\n"


def _render_sums_alone(name: str, reply: Reply, view: View) -> str:
    """Return the table of the sums by namespace, or of the slices."""
    from tychoctl import sums

    chosen = sums.choose_sums(name, reply, view)
    lines = sums.table(name, chosen, view)
    if not view.headers:
        return render.lines(lines)
    lines = lines or [_nothing(name, view)]
    footer = render_footer(reply, chosen, adds_up=name == "namespaces")
    footer += unnamed_note(reply) if name == "namespaces" else []
    return "\n".join([*lines, "", *footer, *([MARGINS_TOLD] if view.wide else [])]) + "\n"


def _nothing(what: str, view: View) -> str:
    """Return the sentence that stands where there is no row to show."""
    place = f" in namespace {render.name(view.namespace)}" if view.namespace else ""
    return f"no {what}{place}{' with such labels' if view.selector else ''}"


def placed_rows(op: str, rows: list[Entry], reply: Reply) -> list[Entry]:
    """Return entries with what follows from the rest of the answer.

    That is how long ago an ended one ended, and the name of what a nested one runs in.
    """
    end = section(reply, "window").get("end")
    names: dict[object, object] = {}
    if any(entry.get("nested") is True for entry in rows):
        names = {str(entry.get("id")): entry.get("name") for entry in rows_of(op, reply)}
    return [_with_place(entry, names, end) for entry in rows]


def _with_place(entry: Entry, names: Mapping[object, object], end: object) -> Entry:
    told: Entry = {}
    if entry.get("nested") is True:
        told["parent_name"] = names.get(str(entry.get("parent")))
    if entry.get("ended"):
        told[ENDED_AGO] = seconds_between(entry["ended"], end)
    return {**told, **entry}


def seconds_between(start: object, end: object) -> float | None:
    """Return the seconds from one RFC 3339 time to another, None where either is none."""
    if not isinstance(start, str) or not isinstance(end, str):
        return None
    from datetime import datetime  # msgpack has imported it already

    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return None


def _render_views(op: str, chosen: Chosen) -> list[str]:
    """Return a line about the virtual machines whose energy is another workload's."""
    count = sum(entry.get("view") is True for entry in chosen.rows) if op == "vms" else 0
    if not count:
        return []
    of_them = "1 is a view" if count == 1 else f"{count} are views"
    return [f"{of_them}: in no sum, the workload named has this energy"]


def unlabelled_note(op: str, reply: Reply, chosen: Chosen) -> list[str]:
    """Return a line about the rows that a selector could not judge, and why it could not."""
    if not chosen.unlabelled:
        return []
    noun = op.removesuffix("s") if chosen.unlabelled == 1 else op
    return [f"{chosen.unlabelled} {noun} not shown, labels not known: {_why_untold(reply)}"]


def unnamed_note(reply: Reply) -> list[str]:
    """Return a line about the host's pods that are in no sum by namespace, and why they are not."""
    pods = [pod for pod in entries(reply, "pods") if pod.get("nested") is not True]
    count = sum(not pod.get("namespace") for pod in pods)
    if not count:
        return []
    noun = "pod is" if count == 1 else "pods are"
    return [f"{count} {noun} in no sum, namespace not known: {_why_untold(reply)}"]


def _why_untold(reply: Reply) -> str:
    """Return why the kubelet has not told of a pod, and what to do."""
    source = section(reply, "labels_from")
    reason, remedy = source.get("reason"), source.get("remedy")
    if source.get("state") == "ok":
        return "the kubelet has not told of them"
    if not reason:
        return "tychoctl sources says why"
    why = f"kubelet: {render.escape(reason)}"
    return f"{why}; remedy: {render.escape(remedy)}" if remedy else why


def narrow(op: str, reply: Reply, view: View) -> Reply:
    """Return an answer without what a namespace, selector or limit leaves out, in an order.

    Of an answer that is asked for its sums alone the sums are left.
    """
    asked = (view.namespace, view.selector, view.limit, view.sums)
    if asked == (None,) * len(asked) and not view.ordered:
        return reply
    everything = view._replace(everything=True)
    if view.sums is not None:
        from tychoctl import sums

        rest = {key: value for key, value in reply.items() if key != rows_key(op)}
        return {**rest, view.sums: sums.choose_sums(view.sums, reply, everything).rows}
    narrowed = {**reply, rows_key(op): choose(rows_of(op, reply), everything).rows}
    if view.namespace is not None and "namespaces" in reply:
        alone = View(sort=None, namespace=view.namespace, everything=True)
        narrowed["namespaces"] = choose(entries(reply, "namespaces"), alone).rows
    return narrowed


def render_footer(reply: Reply, chosen: Chosen, *, adds_up: bool = True) -> list[str]:
    """Return the lines below a list: when, how much of the node, what is left out, estimates.

    ``adds_up``: no row holds the energy of another one.
    """
    lines = [render_window(reply), *([_render_sums(reply, chosen)] if adds_up else [])]
    if chosen.empty:
        lines.append(f"{chosen.empty} that used no energy not shown (--all shows them)")
    if chosen.cut_off:
        lines.append(f"{chosen.cut_off} more not shown (--limit)")
    return lines + _render_reasons(reply, chosen) + render_qualities(_totalled(reply))


def _render_reasons(reply: Reply, chosen: Chosen) -> list[str]:
    """Return a line for each row whose energy has no known user, and one for what no row has."""
    missing = [f"incomplete: {render.escape(reply['reason'])}"] if reply.get("reason") else []
    return missing + [
        f"{render.name(entry.get('name'))}: {render.name(entry['reason'], render.MOST_CHARS)}"
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
    rows = [entry for entry in chosen.rows if entry.get("view") is not True]
    watts = render.power(add(number(e.get("total_power_w")) for e in rows))
    joules = render.energy(add(total_uj(e) for e in rows))
    node = list(_totalled(reply).values())
    if not node:
        return "no source of energy: tychoctl sources says why"
    node_watts = render.power(add(number(d.get("power_w")) for d in node))
    node_joules = render.energy(add(number(d.get("energy_uj")) for d in node))
    return f"shown: {watts}, {joules}; node: {node_watts}, {node_joules}"


def _totalled(reply: Reply) -> dict[str, Entry]:
    """Return the domains that make up a workload's total."""
    domains = section(reply, "domains")
    found = {name: section(domains, name) for name in domains}
    return {name: domain for name, domain in found.items() if domain.get("in_total") is True}


def add(values: Iterable[float | None]) -> float | None:
    """Return the sum of what is known; None where nothing is."""
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
    view = view._replace(everything=True)
    texts = CSV_TEXTS.get(op, CSV_TEXTS["workloads"])
    if view.sums is None:
        found = choose(rows_of(op, reply), view).rows
    else:
        from tychoctl import sums

        texts = sums.CSV_TEXTS[view.sums]
        found = sums.choose_sums(view.sums, reply, view).rows
    known = section(reply, "domains")
    apart = ("psys", "platform") if "package" in known else ("platform",)
    domains = [name for name in known if name not in apart]  # the others are no workload's
    errors = {} if op == "processes" else CSV_ERRORS
    parts = [(domain, part) for domain in domains for part in ("idle_uj", "dynamic_uj")]
    header = ["window_end", *texts, *CSV_NUMBERS, *errors]
    header += [f"{domain}_{part}" for domain, part in parts]
    end = section(reply, "window").get("end")
    rows = []
    for entry in found:
        energy = section(entry, "energy")
        row = [end, *(_text(entry, key) for key in texts), *_numbers(entry)]
        row += [entry.get(key) for key in errors.values()]
        rows.append(row + [section(energy, domain).get(part) for domain, part in parts])
    return header, rows


def _text(entry: Entry, key: str) -> object:
    """Return a cell; of who has a view's energy it is the id."""
    value = entry.get(key)
    return value.get("id") if isinstance(value, dict) else value


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

"""Text and CSV of the graphics processors, and of who used each."""

from typing import Final

from tychoctl import render
from tychoctl.columns import margin, text_column
from tychoctl.lists import Reply, render_window
from tychoctl.render import Column, number
from tychoctl.view import Entry, View, entries, room, section

Rows = tuple[list[str], list[list[object]]]
GIB: Final = 1 << 30
MOST_NAMED: Final = 3
"""Workloads that a row names; the others are counted."""
METHOD_WORDS: Final = {
    "counter": "the GPU's own energy counter",
    "sampled-counter": "an energy counter that its part-time power sensor feeds",
    "averages": "averages of power, undone",
    "instants": "momentary readings of a sensor that sees a part of the time",
    "unknown": "an energy counter of which it is not known yet what feeds it",
}


def _percent(key: str, title: str) -> Column:
    def text(entry: Entry) -> str:
        value = number(entry.get(key))
        return render.UNKNOWN if value is None else f"{value:.0f} %"

    return Column(title, text, right=True)


def _whole(key: str, title: str, unit: str) -> Column:
    def text(entry: Entry) -> str:
        value = number(entry.get(key))
        return render.UNKNOWN if value is None else f"{value:.0f} {unit}"

    return Column(title, text, right=True)


def model(entry: Entry) -> str:
    """Return a GPU's name without its maker, which all of them have in front."""
    return render.name(entry.get("name")).removeprefix("NVIDIA ")


def _memory(entry: Entry) -> str:
    used, total = number(entry.get("memory_used_bytes")), number(entry.get("memory_total_bytes"))
    if used is None:
        return render.UNKNOWN
    return f"{used / GIB:.1f}" + (" GiB" if total is None else f" of {total / GIB:.1f} GiB")


def _pstate(entry: Entry) -> str:
    value = number(entry.get("pstate"))
    return render.UNKNOWN if value is None else f"P{value:.0f}"


def _workload(entry: Entry) -> str:
    """Return what people call a workload: in a pod by the pod, too."""
    parts = [entry.get(key) for key in ("namespace", "pod", "name")]
    return "/".join(render.name(part) for part in parts if part) or render.name(entry.get("id"))


def _workloads(entry: Entry) -> str:
    """Return who used it most; if nobody did, whom it is assigned to."""
    used, held = entries(entry, "workloads"), entries(entry, "allocated")
    told = [f"{_workload(one)} {render.power(one.get('power_w'))}" for one in used]
    if not told:
        told = [f"({_workload(one)})" for one in held]
    more = [f"{len(told) - MOST_NAMED} more"] if len(told) > MOST_NAMED else []
    return ", ".join([*told[:MOST_NAMED], *more]) or "-"


def _energy(part: str, title: str) -> Column:
    def text(entry: Entry) -> str:
        """A GPU that was never read has no energy to show."""
        energy = section(entry, "energy").get(part)
        is_unknown = energy == 0 and entry.get("quality") == "unavailable"
        return render.UNKNOWN if is_unknown else render.energy(energy)

    return Column(title, text, right=True)


def _instances(entry: Entry) -> str:
    found = entry.get("instances")
    return render.name(", ".join(map(str, found)) if isinstance(found, list) else None)


COLUMNS: Final = (
    Column("GPU", lambda e: render.name(e.get("number")), right=True),
    Column("NAME", model, shrinks=True, least=14),
    Column("POWER", lambda e: render.power(e.get("power_w")), right=True),
    _percent("sm_percent", "SM"),
    Column("WORKLOADS", _workloads, shrinks=True, least=32),
    Column("POWER ±", margin(render.power, "power_sd_w"), right=True),
    Column("IDLE", lambda e: render.power(e.get("idle_w")), right=True),
    Column("MEMORY", _memory, right=True),
    Column("STATE", _pstate),
    Column("QUALITY", lambda e: render.name(e.get("quality"))),
    Column("METHOD", lambda e: render.name(e.get("method"))),
)
"""On a narrow terminal columns go from the right: who uses a GPU stays."""
WIDE: Final = (
    _energy("idle_uj", "IDLE ENERGY"),
    _energy("dynamic_uj", "DYNAMIC"),
    Column("UPDATED EVERY", lambda e: render.duration(e.get("period_s")), right=True),
    _percent("memory_percent", "MEMORY BUSY"),
    _whole("sm_mhz", "SM CLOCK", "MHz"),
    _whole("memory_mhz", "MEMORY CLOCK", "MHz"),
    _whole("celsius", "TEMP", "°C"),
    Column("PARTS", _instances, shrinks=True),
    text_column("PCI", "pci"),
    text_column("UUID", "uuid"),
)
USER_COLUMNS: Final = (
    Column("GPU", lambda e: render.name(e.get("number")), right=True),
    text_column("KIND", "kind"),
    text_column("NAMESPACE", "namespace"),
    text_column("POD", "pod"),
    text_column("NAME", "name"),
    Column("POWER", lambda e: render.power(e.get("power_w")), right=True),
    Column("ASSIGNED", lambda e: "yes" if e.get("assigned") is True else "no"),
)


def render_gpus(reply: Reply, view: View) -> str:
    """Return the table of GPUs; wide: who used each and whom it is assigned to, too."""
    found = entries(reply, "gpus")
    columns = COLUMNS + (WIDE if view.wide else ())
    lines = render.table(columns, found, room(view), header=view.headers)
    if not view.headers:
        return render.lines(lines)
    if not found:
        lines = ["no GPU was read: tychoctl sources says why"]
    if view.wide and (users := users_of(found)):
        lines += ["", *render.table(USER_COLUMNS, users, room(view))]
    lines += ["", render_window(reply), *_render_methods(found), *_render_reasons(found)]
    return "\n".join([*lines, *([MARGIN_TOLD] if found else [])]) + "\n"


MARGIN_TOLD: Final = "±: the true mean of the window lies within, in about 95 of 100 windows"


def users_of(found: list[Entry]) -> list[Entry]:
    """Return a row for each GPU and workload that used it or has it assigned."""
    rows: list[Entry] = []
    for gpu in found:
        held = {str(one.get("id")): one for one in entries(gpu, "allocated")}
        used = {str(one.get("id")): one for one in entries(gpu, "workloads")}
        for ident, one in {**held, **used}.items():
            rows.append({**one, "number": gpu.get("number"), "assigned": ident in held})
    return rows


def _render_methods(found: list[Entry]) -> list[str]:
    """Return a line for each method in use: what the energy is made of."""
    methods = dict.fromkeys(str(gpu.get("method")) for gpu in found)
    return [f"{name}: {METHOD_WORDS[name]}" for name in methods if name in METHOD_WORDS]


def _render_reasons(found: list[Entry]) -> list[str]:
    return [
        f"GPU {render.name(gpu.get('number'))}: {render.name(gpu['reason'], render.MOST_CHARS)}"
        for gpu in found
        if gpu.get("reason")
    ]


CSV_KEYS: Final = (
    *("number", "uuid", "name", "pci", "quality", "reason", "method"),
    *("power_w", "power_sd_w", "idle_w", "period_s", "pstate", "sm_percent", "memory_percent"),
    *("memory_used_bytes", "memory_total_bytes", "sm_mhz", "memory_mhz", "celsius"),
)


def rows_of_gpus(reply: Reply, _: View) -> Rows:
    """Return header and rows for CSV; several workloads or parts are joined by semicolons."""
    end = section(reply, "window").get("end")
    rows: list[list[object]] = []
    for gpu in entries(reply, "gpus"):
        energy, used = section(gpu, "energy"), entries(gpu, "workloads")
        row = [end, *map(gpu.get, CSV_KEYS), energy.get("idle_uj"), energy.get("dynamic_uj")]
        row += [_joined(used, "id"), _joined(used, "power_w")]
        parts = gpu.get("instances")
        row += [_joined(entries(gpu, "allocated"), "id")]
        rows.append([*row, ";".join(map(str, parts)) if isinstance(parts, list) else None])
    more = ["idle_uj", "dynamic_uj", "workloads", "workloads_power_w", "allocated", "instances"]
    return ["window_end", *CSV_KEYS, *more], rows


def _joined(found: list[Entry], key: str) -> str:
    return ";".join(str(one.get(key)) for one in found)

"""Text and CSV of the node: its domains, their meters, the whole machine and the residual."""

from collections.abc import Callable, Mapping
from typing import Final

from tychoctl import render
from tychoctl.columns import flags_of, margin
from tychoctl.lists import Reply, render_qualities, render_window
from tychoctl.render import Column, number
from tychoctl.view import Entry, View, entries, section

Rows = tuple[list[str], list[list[object]]]


def _counted(entry: Entry) -> str:
    """Return the energy of a meter; one that was never read has none to show."""
    energy = entry.get("energy_uj")
    is_unknown = energy == 0 and entry.get("quality") == "unavailable"
    return render.UNKNOWN if is_unknown else render.energy(energy)


def _floor(entry: Entry) -> Entry:
    return section(entry, "idle_floor")


def _floor_margin(entry: Entry) -> str:
    return margin(render.power, "sd_w")(_floor(entry))


def _method(entry: Entry) -> str:
    """Return what a meter's energy is from, and how far apart its readings are."""
    if entry.get("quality") == "modelled":
        return render.UNKNOWN
    apart = entry.get("interval_s")
    every = f" each {render.duration(apart)}" if apart is not None else ""
    return f"{render.name(entry.get('method'))}{every}"


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
    Column("FLOOR ±", _floor_margin, right=True),
    Column("FLOOR AGE", lambda e: render.duration(_floor(e).get("age_s")), right=True),
    Column("TRUST", lambda e: render.percent(_floor(e).get("confidence")), right=True),
    Column("COVERAGE", lambda e: render.percent(e.get("coverage")), right=True),
    Column("THROUGH", lambda e: render.moment(e.get("through"))),
)
ZONE_COLUMNS: Final = (
    Column("ZONE", lambda e: render.name(e.get("name")), shrinks=True),
    Column("SOCKET", lambda e: render.name(e.get("socket")), right=True),
    Column("QUALITY", lambda e: render.name(e.get("quality"))),
    Column("POWER", lambda e: render.power(e.get("power_w")), right=True),
    Column("ENERGY", _counted, right=True),
    Column("FROM", _method),
    Column("UUID", lambda e: render.name(e.get("uuid")), shrinks=True),
)


def _plain(value: object) -> str:
    """Return a number without a unit."""
    found = number(value)
    return render.UNKNOWN if found is None else f"{found:.3f}"


COEFFICIENT_COLUMNS: Final = (
    Column("PART", lambda e: render.name(e.get("name")), shrinks=True),
    Column("COEFFICIENT", lambda e: _plain(e.get("value")), right=True),
    Column("COEFFICIENT ±", margin(_plain, "sd"), right=True),
)


METHOD_WORDS: Final = {
    "fused": "fused from its parts and the late readings",
    "hold": "each reading held until the next",
}


def _domains(reply: Reply) -> list[Entry]:
    domains = section(reply, "domains")
    return [{**section(domains, name), "name": name} for name in domains]


def _zones(reply: Reply) -> list[Entry]:
    return [{**z, "domain": d["name"]} for d in _domains(reply) for z in entries(d, "zones")]


def render_node(reply: Reply, view: View) -> str:
    """Return the node's domains; wide: its zones, too."""
    domains, zones = _domains(reply), _zones(reply)
    columns = DOMAIN_COLUMNS + (DOMAIN_WIDE if view.wide else ())
    lines = render.table(columns, domains, view.width, header=view.headers)
    if not view.headers:
        return render.lines(lines)
    if not domains:
        lines = ["no source of energy: tychoctl sources says why"]
    if view.wide and zones:
        lines += ["", *render.table(ZONE_COLUMNS, zones, view.width)]
    lines += _render_coefficients(reply, view) if view.wide else []
    lines += ["", render_window(reply)]
    lines += [f"idle energy: {line}" for line in idle_policies(reply)]
    lines += [*_render_platform(reply, view), *_render_residual(reply, view)]
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


GPU_IDLE_WORDS: Final = {
    "system": "no workload's, booked to system",
    "allocated": "of whom each is assigned to",
}


def idle_policies(reply: Reply) -> list[str]:
    """Return who gets idle energy, in words, and the setting that says so; of GPUs where any is."""
    rule = section(reply, "attribution")
    told = [_policy(rule.get("idle"), "idle", IDLE_WORDS)]
    if "gpu" in section(reply, "domains"):
        told.append(f"of GPUs: {_policy(rule.get('gpu_idle'), 'gpu_idle', GPU_IDLE_WORDS)}")
    return told


def _policy(policy: object, key: str, words: Mapping[str, str]) -> str:
    if not isinstance(policy, str):
        return render.UNKNOWN
    setting = f"[attribution] {key} = {render.escape(policy)}"
    return f"{words[policy]} ({setting})" if policy in words else setting


def _render_platform(reply: Reply, view: View) -> list[str]:
    """Return how the whole machine's power is put together, and why not better."""
    fit = section(reply, "platform")
    if not fit:
        return []
    how = METHOD_WORDS.get(str(fit.get("method")), render.name(fit.get("method")))
    reason = f" ({render.name(fit['reason'], render.MOST_CHARS)})" if fit.get("reason") else ""
    lines = [f"platform: {how}{reason}"]
    if fit.get("centroid_s") is not None:
        late = _with_margin(render.duration, fit, "centroid_s", "centroid_sd_s")
        base = _with_margin(render.power, fit, "base_w", "base_sd_w")
        lines.append(f"  readings are {late} late; base {base}")
    if view.wide:
        parts = (("delay", "delay_s"), ("lag", "lag_s"), ("averaged over", "boxcar_s"))
        told = [f"{word} {render.duration(fit.get(key))}" for word, key in parts]
        told.append(f"a reading every {render.duration(fit.get('period_s'))}")
        told.append(f"{render.name(fit.get('readings'))} used")
        told.append(f"{render.name(fit.get('rejected'))} rejected")
        lines.append(f"  {', '.join(told)}")
    return lines


def _with_margin(text: Callable[[object], str], entry: Entry, key: str, sd_key: str) -> str:
    """Return a value with half the width of its 95 % interval."""
    shown = text(entry.get(key))
    return f"{shown} ± {margin(text, sd_key)(entry)}" if shown != render.UNKNOWN else shown


def _render_coefficients(reply: Reply, view: View) -> list[str]:
    """Return how many watts of the whole machine come with a watt of each part."""
    found = section(section(reply, "platform"), "coefficients")
    rows = [{**section(found, name), "name": name} for name in found]
    return ["", *render.table(COEFFICIENT_COLUMNS, rows, view.width)] if rows else []


def _render_residual(reply: Reply, view: View) -> list[str]:
    """Return what the machine used beyond its measured parts, and whether to believe it."""
    rest = section(reply, "residual")
    if not rest:
        return []
    sums = (render.energy(rest.get(key)) for key in ("energy_uj", "platform_uj", "parts_uj"))
    whole = "residual: {}; {} = platform {} - parts {}"
    idle = render.power(rest.get("idle_w"))
    lines = [whole.format(f"{render.power(rest.get('power_w'))} (idle {idle})", *sums)]
    if view.wide:
        parts = (f"{part} {render.energy(rest.get(f'{part}_uj'))}" for part in ("idle", "dynamic"))
        lines.append(f"  {', '.join(parts)}; through {render.moment(rest.get('through'))}")
    if rest.get("usable") is not True:
        why = rest.get("reason") or "no reason given"
        lines.append(f"  not to be believed now: {render.name(why, render.MOST_CHARS)}")
    return lines


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


FIT_KEYS: Final = ("method", "centroid_s", "centroid_sd_s", "base_w", "base_sd_w", "period_s")


def rows_of_node(reply: Reply, _: View) -> Rows:
    """Return header and rows of the domains for CSV; the residual is the last row."""
    keys = ["source", "quality", "reason", "through"]
    numbers = ["energy_uj", "idle_uj", "dynamic_uj", "power_w", "coverage"]
    floor = ["power_w", "sd_w", "age_s", "confidence"]
    end, fit = section(reply, "window").get("end"), section(reply, "platform")
    rest = section(reply, "residual")
    found = [*_domains(reply), *([{**rest, "name": "residual"}] if rest else [])]
    rows = []
    for d in found:
        own = fit if d["name"] == "platform" else {}
        row = [end, d["name"], *(d.get(key) for key in (*keys, *numbers))]
        row += [*map(_floor(d).get, floor), d.get("usable"), *map(own.get, FIT_KEYS)]
        rows.append(row)
    header = ["window_end", "domain", *keys, *numbers, *(f"idle_floor_{key}" for key in floor)]
    return [*header, "usable", *(f"platform_{key}" for key in FIT_KEYS)], rows

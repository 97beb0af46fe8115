"""Text and CSV of the sources: their health, and when each of their devices publishes."""

from typing import Final

from tychoctl import render
from tychoctl.columns import margin
from tychoctl.lists import Reply
from tychoctl.render import Column
from tychoctl.view import Entry, View, entries

Rows = tuple[list[str], list[list[object]]]


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
    Column("ENABLED", lambda e: render.setting(e.get("enabled"))),
    Column("DELAY", lambda e: render.duration(e.get("delay_s")), right=True),
    Column("LATE", lambda e: render.name(e.get("late")), right=True),
)
DEVICE_COLUMNS: Final = (
    Column("SOURCE", lambda e: render.name(e.get("source"))),
    Column("DEVICE", lambda e: render.name(e.get("name")), shrinks=True),
    Column("PERIOD", lambda e: render.duration(e.get("period_s")), right=True),
    Column("PERIOD ±", margin(render.duration, "period_sd_s"), right=True),
    Column("DELAY", lambda e: render.duration(e.get("delay_s")), right=True),
    Column("DELAY ±", margin(render.duration, "delay_sd_s"), right=True),
    Column("FROM", lambda e: render.name(e.get("origin"))),
)
DEVICE_WIDE: Final = (
    Column("FINGERPRINT", lambda e: render.name(e.get("fingerprint")), shrinks=True),
)


def _last(time: object) -> str:
    return "never" if time is None else render.moment(time)


def render_sources(reply: Reply, view: View) -> str:
    """Return the health of every source, with reason and remedy below those that need it."""
    sources = entries(reply, "sources")
    columns = SOURCE_COLUMNS + (SOURCE_WIDE if view.wide else ())
    lines = render.table(columns, sources, view.width, header=view.headers)
    if not view.headers:
        return render.lines(lines)
    for source in sources:
        told = [*_reasons(source), *render.notes(source)]
        lines += [f"\n{render.name(source.get('name'))}: {line}" for line in told[:1]]
        lines += [f"  {line}" for line in told[1:]]
    lines += _render_devices(sources, view)
    if entries(reply, "identity"):
        from tychoctl import routes

        lines += ["", *routes.render_routes(entries(reply, "identity"), view)]
    return "\n".join(lines) + "\n"


def _render_devices(sources: list[Entry], view: View) -> list[str]:
    """Return when each device publishes, with what the doubt about it is."""
    devices = devices_of(sources)
    columns = DEVICE_COLUMNS + (DEVICE_WIDE if view.wide else ())
    return ["", *render.table(columns, devices, view.width)] if devices else []


def devices_of(sources: list[Entry]) -> list[Entry]:
    """Return the devices of all sources, each with the name of its source."""
    return [{**d, "source": s.get("name")} for s in sources for d in entries(s, "devices")]


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
    """Return header and rows of the sources for CSV; devices are in JSON alone."""
    keys = ["name", "enabled", "state", "quality", "reason", "remedy", "interval_s", "delay_s"]
    keys += ["samples", "errors", "late", "last_sample"]
    rows = []
    for source in entries(reply, "sources"):
        notes = "; ".join(note.removeprefix("note: ") for note in render.notes(source))
        rows.append([*(source.get(key) for key in keys), notes])
    return [*keys, "notes"], rows

"""Which ways to names are in use, why others are not, and what to do about it."""

from collections.abc import Mapping
from typing import Final

from tychoctl import render
from tychoctl.render import Column
from tychoctl.view import Entry, View

OK: Final = "ok"
COLUMNS: Final = (
    Column("NAMES FROM", lambda e: render.name(e.get("route"))),
    Column("STATE", lambda e: render.name(e.get("state"))),
)


def render_routes(routes: list[Entry], view: View) -> list[str]:
    """Return a table of the ways, with reason and remedy below those that have one."""
    lines = render.table(COLUMNS, routes, view.width)
    for route in routes:
        if route.get("reason"):
            way = f"names by {render.name(route.get('route'))}"
            lines += ["", f"{way}: {render.escape(route['reason'])}"]
        if route.get("remedy"):
            lines.append(f"  remedy: {render.escape(route['remedy'])}")
    return lines


def render_ways(found: Mapping[str, object]) -> str:
    """Return one line: the ways in use, and which others there are."""
    used = [render.name(name) for name, told in found.items() if told == OK]
    others = [render.name(name) for name, told in found.items() if told != OK]
    line = f"by {', '.join(used)}" if used else "from cgroup paths alone"
    return f"{line}; not by {', '.join(others)} (tychoctl sources says why)" if others else line


def render_reasons(found: Mapping[str, object]) -> list[str]:
    """Return a line for each way that is not in use."""
    return [
        f"{render.name(name)}: {render.escape(told)}" for name, told in found.items() if told != OK
    ]

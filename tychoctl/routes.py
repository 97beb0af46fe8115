"""Which ways to names are in use, why others are not, and what to do about it."""

from collections.abc import Mapping
from typing import Final

from tychoctl import render
from tychoctl.render import Column
from tychoctl.view import Entry, View

OK: Final = "ok"
STALE: Final = "stale: "
WHY: Final = "tychoctl sources says why"
QUIET: Final = ("off", "not configured", "not used yet", "not asked yet", "not read yet")
COLUMNS: Final = (
    Column("NAMES FROM", lambda e: render.name(e.get("route"))),
    Column("STATE", lambda e: render.name(e.get("state"))),
)


def render_routes(routes: list[Entry], view: View) -> list[str]:
    """Return a table of the ways, with reason and remedy below those that have one.

    What nothing has needed so far has nothing to be mended either.
    """
    lines = render.table(COLUMNS, routes, view.width)
    for route in routes:
        if route.get("reason"):
            way = f"names by {render.name(route.get('route'))}"
            lines += ["", f"{way}: {render.escape(route['reason'])}"]
        if route.get("remedy") and route.get("state") != "unused":
            lines.append(f"  remedy: {render.escape(route['remedy'])}")
    return lines


def render_ways(found: Mapping[str, object]) -> str:
    """Return one line: the ways in use, and those that somebody may have expected to be."""
    used = [_named(name, told) for name, told in found.items() if is_used(told)]
    amiss = [render.name(name) for name, told in found.items() if is_amiss(told)]
    line = f"by {', '.join(used)}" if used else "from cgroup paths alone"
    if amiss:
        return f"{line}; not by {', '.join(amiss)} ({WHY})"
    return f"{line}; {WHY}" if any(is_stale(told) for told in found.values()) else line


def _named(name: str, told: object) -> str:
    return f"{render.name(name)} (stale)" if is_stale(told) else render.name(name)


def is_used(told: object) -> bool:
    """Say whether a way is in use; what follows ``ok`` is what is odd about it."""
    is_ok = isinstance(told, str) and (told == OK or told.startswith(f"{OK}; "))
    return is_ok or is_stale(told)


def is_stale(told: object) -> bool:
    """Say whether what a way told is in use, but not refreshed now."""
    return isinstance(told, str) and told.startswith(STALE)


def is_amiss(told: object) -> bool:
    """Say whether a way fails: one that is off, or that nothing has needed so far, does not."""
    return isinstance(told, str) and not is_used(told) and not told.startswith(QUIET)


def render_reasons(found: Mapping[str, object]) -> list[str]:
    """Return a line for each way that has more to say than that it is in use."""
    return [
        f"{render.name(name)}: {render.escape(told)}" for name, told in found.items() if told != OK
    ]

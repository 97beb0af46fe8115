"""Sums that an answer has beside its list: pods' namespaces, and the slices of units."""

from collections.abc import Mapping
from typing import Final

from tychoctl import render
from tychoctl.columns import CGROUP, MARGINS, NAMESPACE, NUMBERS, PARTS, text_column
from tychoctl.render import Column, number
from tychoctl.view import Chosen, Entry, View, choose, entries, in_order, room

DEEPEST: Final = 20
"""Slices are indented no further than this."""


def _count(title: str, key: str) -> Column:
    return Column(title, lambda e: render.name(e.get(key)), right=True)


def _indented(entry: Entry) -> str:
    depth = number(entry.get("depth")) or 0.0
    return "  " * round(min(max(depth, 0.0), DEEPEST)) + render.name(entry.get("id"))


COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "namespaces": (NAMESPACE, *NUMBERS, _count("PODS", "pods")),
    "slices": (
        Column("SLICE, WITH ALL IN IT", _indented, shrinks=True),
        *NUMBERS,
        _count("WORKLOADS", "leaves"),
    ),
}
WIDE: Final[Mapping[str, tuple[Column, ...]]] = {
    "namespaces": (*MARGINS, *PARTS),
    "slices": (*MARGINS, *PARTS, text_column("DESCRIPTION", "description"), CGROUP),
}
CSV_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "namespaces": ("namespace", "pods"),
    "slices": ("id", "cgroup", "depth", "description", "leaves"),
}


def choose_sums(name: str, reply: Mapping[str, object], view: View) -> Chosen:
    """Return the sums to show; slices stay a tree, in which the order is among neighbours."""
    found = entries(reply, name)
    if name == "namespaces":
        return choose(found, view)
    return choose(in_tree(found, view), view._replace(sort=None))


def in_tree(slices: list[Entry], view: View) -> list[Entry]:
    """Return slices, each before those in it, neighbours in the order of the view."""
    inside: dict[str, list[Entry]] = {}
    known = {str(entry.get("cgroup")) for entry in slices}
    for entry in in_order(slices, view.sort or "name", reverse=view.reverse):
        place = str(entry.get("cgroup")).rpartition("/")[0]
        inside.setdefault(place if place in known else "", []).append(entry)
    ordered: list[Entry] = []
    rest = list(reversed(inside.pop("", [])))
    while rest:
        entry = rest.pop()
        ordered.append(entry)
        rest += reversed(inside.pop(str(entry.get("cgroup")), []))
    return ordered


def table(name: str, chosen: Chosen, view: View) -> list[str]:
    """Return the lines of a table of sums, none where there is nothing to show."""
    if not chosen.rows:
        return []
    columns = COLUMNS[name] + (WIDE[name] if view.wide else ())
    return render.table(columns, chosen.rows, room(view), header=view.headers)

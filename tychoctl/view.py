"""What the user wants to see of an answer, and its rows chosen and ordered; pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from tychoctl.render import number

Entry = dict[str, object]
Selector = Callable[[Mapping[str, object]], bool]
SORTS: Final = ("power", "energy", "cpu", "name")
DEFAULT_SORT: Final = "power"
WIDEST: Final = 200
"""Cells of a table in a file or pipe; the names of Kubernetes fit as a rule."""
NAMES: Final = ("namespace", "pod", "name", "kind", "comm", "id")


class View(NamedTuple):
    """Options of a table; ``width`` in cells of a terminal, None elsewhere."""

    wide: bool = False
    width: int | None = None
    namespace: str | None = None
    sort: str | None = DEFAULT_SORT  # None: as they come, and nothing turns them round
    limit: int | None = None
    everything: bool = False
    selector: Selector | None = None
    sums: str | None = None  # "namespaces" or "slices" instead of the list itself
    reverse: bool = False
    ordered: bool = False  # JSON, too, is in the order of ``sort``
    headers: bool = True  # without: rows alone, and nothing below them
    watched: bool = False  # on a screen, which may have no room for the end


class Chosen(NamedTuple):
    """Rows to show, and how many are not shown and why."""

    rows: list[Entry]
    empty: int
    cut_off: int
    unlabelled: int = 0  # in pods whose labels are not known


def room(view: View) -> int | None:
    """Return the cells that a table may take; None: as many as it needs.

    Where no terminal sets a bound, who chooses long names must not make lines of any length.
    """
    return view.width or (None if view.wide else WIDEST)


def entries(reply: Mapping[str, object], key: str) -> list[Entry]:
    """Return the list of maps under a key; what a newer daemon may put there else is left out."""
    found = reply.get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def section(reply: Mapping[str, object], key: str) -> Entry:
    """Return the map under a key, empty where there is none."""
    found = reply.get(key)
    return found if isinstance(found, dict) else {}


def total_uj(entry: Mapping[str, object]) -> float | None:
    """Return idle plus dynamic energy in microjoules; None where either is not known."""
    total = section(entry, "total")
    idle, dynamic = number(total.get("idle_uj")), number(total.get("dynamic_uj"))
    return None if idle is None or dynamic is None else idle + dynamic


def is_empty(entry: Mapping[str, object]) -> bool:
    """Say whether an entry is known to have used no energy; one that is not known is not empty."""
    return total_uj(entry) == 0 and not number(entry.get("total_power_w"))


def choose(found: Iterable[Entry], view: View) -> Chosen:
    """Return the entries to show, in order, without those that used nothing."""
    wanted = [e for e in found if view.namespace in (None, e.get("namespace"))]
    unlabelled = 0
    if view.selector is not None:
        unlabelled = sum(is_unlabelled(entry) for entry in wanted)
        wanted = [e for e in wanted if are_labels_known(e) and view.selector(section(e, "labels"))]
    shown = [e for e in wanted if view.everything or not is_empty(e)]
    if view.sort is not None:
        shown = in_order(shown, view.sort, reverse=view.reverse)
    limit = len(shown) if view.limit is None else view.limit
    cut_off = max(len(shown) - limit, 0)
    return Chosen(shown[:limit], len(wanted) - len(shown), cut_off, unlabelled)


def in_order(found: Iterable[Entry], sort: str, *, reverse: bool) -> list[Entry]:
    """Return entries in an order or the other way round; what is not known is last in both."""
    key = SORT_KEYS[sort]
    ordered = sorted(found, key=key, reverse=reverse)
    if reverse and sort != "name":
        ordered.sort(key=lambda entry: key(entry)[0] is True)
    return ordered


def are_labels_known(entry: Entry) -> bool:
    """Say whether an entry's labels are all that it has; without the kubelet there are none."""
    return entry.get("labels_known") is True or bool(section(entry, "labels"))


def is_unlabelled(entry: Entry) -> bool:
    """Say whether an entry ought to have labels that nobody told: it is of a pod."""
    in_pod = entry.get("uid") or entry.get("pod_uid")
    return bool(in_pod) and entry.get("kind") != "past" and not are_labels_known(entry)


def _names(entry: Entry) -> tuple[str, ...]:
    return tuple(str(entry.get(key) or "") for key in NAMES)


def _falling(read: Callable[[Entry], float | None]) -> Callable[[Entry], tuple[object, ...]]:
    """Return a sort key: largest first, unknown last, equals by energy and name."""

    def key(entry: Entry) -> tuple[object, ...]:
        value = read(entry)
        return (value is None, -(value or 0.0), -(total_uj(entry) or 0.0), _names(entry))

    return key


SORT_KEYS: Final[Mapping[str, Callable[[Entry], tuple[object, ...]]]] = {
    "power": _falling(lambda entry: number(entry.get("total_power_w"))),
    "energy": _falling(total_uj),
    "cpu": _falling(lambda entry: number(entry.get("cpu_seconds"))),
    "name": _names,
}

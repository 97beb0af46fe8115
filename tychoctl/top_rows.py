"""The rows of `tychoctl top`: leaves filtered, put in a tree or a list, summed, ordered; pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from tychoctl.lists import add
from tychoctl.top_model import Known, Leaf
from tychoctl.top_state import State

DEEPEST: Final = 8
"""Slices below that are shown in the last one."""
Place = tuple[str, str, str]
"""Key, label and kind of a group."""


GONE: Final[Place] = ("gone:", "ended before", "past")
"""Where the energy of workloads is of which nobody knows more than that they were here."""


class Row(NamedTuple):
    """One line of the list; ``folded`` is None for what holds nothing."""

    key: str
    label: str
    kind: str
    depth: int
    leaves: tuple[Leaf, ...]
    folded: bool | None
    power_w: float | None
    energy_uj: float | None
    cpu_share: float | None
    cpu_s: float | None

    @property
    def leaf(self) -> Leaf | None:
        """The workload it is, None for a group."""
        return self.leaves[0] if self.folded is None else None

    @property
    def name(self) -> str:
        """What it is ordered by in the order of names."""
        return self.label.lower()


class _Group:
    """A place in the tree while it grows; its leaves are those of everything below."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.groups: dict[str, _Group] = {}
        self.own: list[Leaf] = []
        self.leaves: list[Leaf] = []


def make_rows(known: Known, state: State) -> list[Row]:
    """Return the rows that can be scrolled through, in order."""
    leaves = [leaf for leaf in known.leaves if is_wanted(leaf, known, state)]
    if not state.is_tree:
        return _ordered(_flat(leaves, known, state), state)
    return list(_walk(_grow(leaves, state), 0, known, state))


def is_wanted(leaf: Leaf, known: Known, state: State) -> bool:
    """Say whether the filters let a leaf through."""
    return (
        (state.everything or not _is_idle(leaf, known, state))
        and state.kind in (None, leaf.kind)
        and _is_in(leaf, state)
        and (not state.text or state.text.lower() in leaf.text)
    )


def _is_idle(leaf: Leaf, known: Known, state: State) -> bool:
    """Say whether a leaf has nothing to show now: no power and, in joules, no energy either."""
    is_told = leaf.power_w is not None or leaf.is_ended
    if leaf.is_empty or not is_told or leaf.power_w or leaf.cpu_share:
        return leaf.is_empty
    return state.unit == "W" or known.energy_uj(leaf, whole=state.is_whole) == 0


def _is_folded(leaf: Leaf, state: State) -> bool:
    """Say whether a leaf is only part of its group's sum: what evicted workloads have left."""
    return leaf.kind == "past" and not state.everything and state.kind is None


def _flat(leaves: Sequence[Leaf], known: Known, state: State) -> list[Row]:
    """Return a row for each leaf; what has no name any more is in one."""
    rows, gone = [], _Group(GONE)
    for leaf in leaves:
        if _is_folded(leaf, state) and leaf.pod == "-":
            gone.leaves.append(leaf)
        else:
            rows.append(_leaf_row(leaf, _path(leaf), 0, known, state))
    return [*rows, _group_row(gone, 0, known, state)] if gone.leaves else rows


def _is_in(leaf: Leaf, state: State) -> bool:
    """Say whether a leaf is in the namespace; while that is typed its beginning is enough."""
    if state.namespace is None:
        return True
    if state.mode == "namespace":
        return leaf.namespace.startswith(state.namespace)
    return leaf.namespace == state.namespace


def _path(leaf: Leaf) -> str:
    """Return the name of a leaf that stands alone."""
    parts = [part for part in (leaf.namespace, leaf.pod) if part != "-"]
    inside = f" (in {leaf.inside})" if leaf.inside else ""
    return "/".join([*parts, leaf.name]) + inside + _mark(leaf)


def _mark(leaf: Leaf) -> str:
    return " (ended)" if leaf.is_ended and leaf.kind != "past" else ""


def _places(leaf: Leaf) -> list[Place]:
    """Return the groups that a leaf is in, the widest first."""
    inside = f" (in {leaf.inside})" if leaf.inside else ""
    if leaf.kind == "past" and leaf.pod == "-":
        return [GONE]
    if leaf.pod != "-" or leaf.pod_uid != "-":
        namespace = leaf.namespace if leaf.namespace != "-" else "namespace not known"
        pod = leaf.pod if leaf.pod != "-" else f"uid {leaf.pod_uid}"
        top = (f"namespace:{namespace}:{leaf.inside}", namespace + inside, "namespace")
        return [top, (f"pod:{leaf.pod_uid}:{leaf.inside}", pod, "pod")]
    if leaf.kind == "container":
        return [(f"containers:{leaf.inside}", f"containers{inside}", "group")]
    if leaf.kind == "vm":
        return [("vms:", "virtual machines", "group")]
    return _slices(leaf.cgroup) if leaf.kind == "unit" else []


def _slices(cgroup: str) -> list[Place]:
    """Return the slices that a unit's cgroup is in; of a slice, itself too."""
    parts = cgroup.split("/")
    count = next((i for i, part in enumerate(parts[1:], 1) if not part.endswith(".slice")), None)
    names = parts[1:count][:DEEPEST]
    found: list[Place] = []
    for depth, label in enumerate(names):
        found.append((f"slice:{'/'.join(names[: depth + 1])}", label, "slice"))
    return found or [("units:", "units in no slice", "group")]


def _grow(leaves: Iterable[Leaf], state: State) -> _Group:
    root = _Group(("", "", ""))
    for leaf in leaves:
        group = root
        for place in _places(leaf):
            group = group.groups.setdefault(place[0], _Group(place))
            group.leaves.append(leaf)
        if not _is_folded(leaf, state):
            group.own.append(leaf)
    return root


def _walk(group: _Group, depth: int, known: Known, state: State) -> Iterator[Row]:
    """Yield the rows below a group, each group's followed by what is in it."""
    rows = [_leaf_row(leaf, _label(leaf, group), depth, known, state) for leaf in group.own]
    rows += [_group_row(inner, depth, known, state) for inner in group.groups.values()]
    for row in _ordered(rows, state):
        yield row
        if row.folded is False:
            yield from _walk(group.groups[row.key], depth + 1, known, state)


def _label(leaf: Leaf, group: _Group) -> str:
    """Return the name of a leaf in its group; of a slice that this is what it used itself."""
    _, name, kind = group.place
    is_itself = kind == "slice" and leaf.name == name
    return (f"{leaf.name} (itself)" if is_itself else leaf.name) + _mark(leaf)


def _leaf_row(leaf: Leaf, label: str, depth: int, known: Known, state: State) -> Row:
    return Row(
        key=leaf.key,
        label=label,
        kind=leaf.kind,
        depth=depth,
        leaves=(leaf,),
        folded=None,
        power_w=leaf.power_w,
        energy_uj=known.energy_uj(leaf, whole=state.is_whole),
        cpu_share=leaf.cpu_share,
        cpu_s=leaf.cpu_s,
    )


def _group_row(group: _Group, depth: int, known: Known, state: State) -> Row:
    key, label, kind = group.place
    return Row(
        key=key,
        label=label,
        kind=kind,
        depth=depth,
        leaves=tuple(group.leaves),
        folded=key in state.folded,
        power_w=add(leaf.power_w for leaf in group.leaves),
        energy_uj=add(known.energy_uj(leaf, whole=state.is_whole) for leaf in group.leaves),
        cpu_share=add(leaf.cpu_share for leaf in group.leaves),
        cpu_s=add(leaf.cpu_s for leaf in group.leaves),
    )


def _falling(value: float | None) -> tuple[bool, float]:
    """Return a sort key: largest first, unknown last."""
    return (value is None, -(value or 0.0))


SORT_KEYS: Final[dict[str, Callable[[Row], tuple[object, ...]]]] = {
    "power": lambda row: (*_falling(row.power_w), *_falling(row.energy_uj), row.name, row.key),
    "energy": lambda row: (*_falling(row.energy_uj), *_falling(row.power_w), row.name, row.key),
    "cpu": lambda row: (*_falling(row.cpu_share), *_falling(row.cpu_s), row.name, row.key),
    "name": lambda row: (row.name, row.key),
}


def _ordered(rows: Sequence[Row], state: State) -> list[Row]:
    return sorted(rows, key=SORT_KEYS[state.sort], reverse=state.reverse)

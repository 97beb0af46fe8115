"""What the user of `tychoctl top` has chosen, and what each key makes of it; pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

from tychoctl.top_options import KINDS, UNITS, Unit
from tychoctl.view import DEFAULT_SORT, SORTS

Mode = Literal["list", "help", "text", "namespace"]
MOST_TYPED: Final = 100
AMOUNTS: Final = ("power", "energy")
ALL_ROWS: Final = 1_000_000_000


class State(NamedTuple):
    """Everything a key can change; ``cursor`` is the key of the chosen row, None: the first."""

    sort: str = DEFAULT_SORT
    reverse: bool = False
    is_tree: bool = True
    unit: Unit = "W"
    is_whole: bool = False  # energy since tychod counts, not since the view began
    namespace: str | None = None
    kind: str | None = None
    text: str = ""
    everything: bool = False
    paused: bool = False
    mode: Mode = "list"
    typed: str = ""
    cursor: str | None = None
    at: int = 0  # the chosen row's place
    offset: int = 0
    help_offset: int = 0
    folded: frozenset[str] = frozenset()
    zeros: int = 0  # how often energy was to be counted from now
    redraws: int = 0
    is_leaving: bool = False


class Foldable(Protocol):
    """What of a row the keys need to know."""

    @property
    def key(self) -> str:
        """Tells it from the others."""

    @property
    def depth(self) -> int:
        """How many groups it is in."""

    @property
    def folded(self) -> bool | None:
        """Whether a group's rows are hidden; None: it is no group."""


Rows = Sequence[Foldable]


def choice_of(state: State) -> State:
    """Return of a state only what decides which rows there are."""
    mode: Mode = "namespace" if state.mode == "namespace" else "list"
    return State(
        sort=state.sort,
        reverse=state.reverse,
        is_tree=state.is_tree,
        unit="W" if state.unit == "W" else "J",  # decides what has nothing to show
        is_whole=state.is_whole,
        namespace=state.namespace,
        kind=state.kind,
        text=state.text,
        everything=state.everything,
        mode=mode,
        folded=state.folded,
    )


def settle(state: State, rows: Rows, page: int) -> State:
    """Return the state with the cursor on a row that is there, on the page that is shown."""
    if state.cursor is None:
        return state._replace(at=0, offset=0)
    at = next((i for i, row in enumerate(rows) if row.key == state.cursor), None)
    index = min(state.at, max(len(rows) - 1, 0)) if at is None else at
    last = max(len(rows) - page, 0)
    offset = min(max(min(state.offset, index), index - page + 1), last)
    cursor = rows[index].key if rows else None
    return state._replace(cursor=cursor, at=index, offset=max(offset, 0))


def press(state: State, key: str, rows: Rows, page: int) -> State:
    """Return the state after a key; one that means nothing changes nothing."""
    if state.mode in ("text", "namespace"):
        return _type(state, key)
    if state.mode == "help":
        return _leaf_through(state, key, page)
    if key in MOVES:
        return _move(state, _target(key, state.at, page), rows, page)
    if key in FOLDS:
        return settle(FOLDS[key](state, rows), rows, page)
    return CHOICES[key](state) if key in CHOICES else state


def _type(state: State, key: str) -> State:
    """Return the state after a key of a line that is typed; the list follows each letter."""
    if key == "enter":
        return state._replace(mode="list")
    if key == "esc":
        return _with_typed(state, "")._replace(mode="list")
    typed = state.typed
    if key == "backspace":
        typed = typed[:-1]
    elif key == "ctrl-u":
        typed = ""
    elif len(key) == 1 and key.isprintable():
        typed = (typed + key)[:MOST_TYPED]
    return _with_typed(state, typed)


def _with_typed(state: State, typed: str) -> State:
    if state.mode == "namespace":
        return state._replace(typed=typed, namespace=typed or None)
    return state._replace(typed=typed, text=typed)


def _leaf_through(state: State, key: str, page: int) -> State:
    """Return the state after a key on the help page."""
    if key == "q":
        return state._replace(is_leaving=True)
    if key in MOVES:
        at = _target(key, state.help_offset, page)
        return state._replace(help_offset=max(min(at, len(HELP) - page), 0))
    return state._replace(mode="list", help_offset=0)


def _target(key: str, at: int, page: int) -> int:
    """Return where a key leads to, which may be beyond both ends."""
    own, pages, rows = MOVES[key]
    return own * at + pages * page + rows


def _move(state: State, index: int, rows: Rows, page: int) -> State:
    if not rows:
        return state
    index = min(max(index, 0), len(rows) - 1)
    # On the first row the cursor stays there, whatever comes first.
    cursor = rows[index].key if index else None
    return settle(state._replace(cursor=cursor, at=index), rows, page)


def _chosen(state: State, rows: Rows) -> Foldable | None:
    return rows[state.at] if 0 <= state.at < len(rows) else None


def _parent(state: State, rows: Rows) -> str | None:
    """Return the group that the chosen row is in."""
    chosen = _chosen(state, rows)
    if chosen is None:
        return None
    above = (row.key for row in reversed(rows[: state.at]) if row.depth < chosen.depth)
    return next(above, None)


def _toggle(state: State, rows: Rows) -> State:
    row = _chosen(state, rows)
    if row is None or row.folded is None:
        return state
    return state._replace(cursor=row.key, folded=state.folded ^ {row.key})


def _fold(state: State, rows: Rows) -> State:
    """Fold the chosen group; of what is none, or is folded, go to the group it is in."""
    row = _chosen(state, rows)
    if row is not None and row.folded is False:
        return _toggle(state, rows)
    parent = _parent(state, rows)
    return state if parent is None else state._replace(cursor=parent)


def _unfold(state: State, rows: Rows) -> State:
    row = _chosen(state, rows)
    return _toggle(state, rows) if row is not None and row.folded is True else state


def _fold_all(state: State, rows: Rows) -> State:
    """Fold every group, and stay in the widest group of the chosen row."""
    tops = [row.key for row in rows[: state.at + 1] if row.depth == 0]
    groups = {row.key for row in rows if row.folded is not None}
    cursor = tops[-1] if tops and state.cursor is not None else None
    return state._replace(folded=state.folded | groups, cursor=cursor)


def _unfold_all(state: State, _: Rows) -> State:
    return state._replace(folded=frozenset())


def _next(options: Sequence[str], now: str) -> str:
    return options[(options.index(now) + 1) % len(options)]


def _next_kind(state: State) -> State:
    chosen = _next(("", *KINDS), state.kind or "")
    return state._replace(kind=chosen or None)


def _next_unit(state: State) -> State:
    """Show the next unit; who orders by what is shown goes on to do so."""
    unit = UNITS[(UNITS.index(state.unit) + 1) % len(UNITS)]
    sort = state.sort if state.sort not in AMOUNTS else AMOUNTS[unit != "W"]
    return state._replace(unit=unit, sort=sort)


def _sort_by(sort: str) -> Callable[[State], State]:
    return lambda state: state._replace(sort=sort, reverse=False)


def _clear(state: State) -> State:
    return state._replace(namespace=None, kind=None, text="", typed="")


MOVES: Final[Mapping[str, tuple[int, int, int]]] = {
    "up": (1, 0, -1),
    "k": (1, 0, -1),
    "down": (1, 0, 1),
    "j": (1, 0, 1),
    "pageup": (1, -1, 1),
    "ctrl-b": (1, -1, 1),
    "pagedown": (1, 1, -1),
    "ctrl-f": (1, 1, -1),
    "home": (0, 0, 0),
    "g": (0, 0, 0),
    "end": (0, 0, ALL_ROWS),
    "G": (0, 0, ALL_ROWS),
}
"""How many of where the cursor is, of the pages, and of rows lead to where it goes."""
FOLDS: Final[Mapping[str, Callable[[State, Rows], State]]] = {
    "enter": _toggle,
    " ": _toggle,
    "left": _fold,
    "right": _unfold,
    "[": _fold_all,
    "]": _unfold_all,
}
CHOICES: Final[Mapping[str, Callable[[State], State]]] = {
    "q": lambda state: state._replace(is_leaving=True),
    "?": lambda state: state._replace(mode="help", help_offset=0),
    "h": lambda state: state._replace(mode="help", help_offset=0),
    "t": lambda state: state._replace(is_tree=not state.is_tree),
    "s": lambda state: state._replace(sort=_next(SORTS, state.sort), reverse=False),
    "P": _sort_by("power"),
    "E": _sort_by("energy"),
    "C": _sort_by("cpu"),
    "N": _sort_by("name"),
    "r": lambda state: state._replace(reverse=not state.reverse),
    "u": _next_unit,
    "b": lambda state: state._replace(is_whole=not state.is_whole),
    "z": lambda state: state._replace(is_whole=False, zeros=state.zeros + 1),
    "f": _next_kind,
    "n": lambda state: state._replace(mode="namespace", typed=state.namespace or ""),
    "/": lambda state: state._replace(mode="text", typed=state.text),
    "esc": _clear,
    "a": lambda state: state._replace(everything=not state.everything),
    "p": lambda state: state._replace(paused=not state.paused),
    "ctrl-l": lambda state: state._replace(redraws=state.redraws + 1),
}
HELP: Final = (
    ("q", "quit (also Ctrl-C)"),
    ("p", "pause: the list stands still, tychod is still listened to"),
    ("up down j k", "choose a row"),
    ("PgUp PgDn", "a page up or down"),
    ("Home End g G", "the first, the last row"),
    ("Enter Space", "fold or unfold a group"),
    ("left right", "fold and go out, unfold"),
    ("[ ]", "fold all, unfold all"),
    ("t", "tree or flat list"),
    ("s or P E C N", "next order; by power, energy, cpu, name"),
    ("r", "reverse the order"),
    ("u", "next unit: W, J, Wh"),
    ("b", "energy since the view began, or since tychod counts"),
    ("z", "count energy from now"),
    ("/", "only rows with a text in names, kind, id or cgroup"),
    ("n", "only one namespace"),
    ("f", "only one kind: container, vm, unit, ..."),
    ("Esc", "drop all filters"),
    ("a", "also what has no power now, or in J and Wh no energy"),
    ("Ctrl-L", "draw anew"),
    ("bars", "first the idle part, then the dynamic one"),
    ("±", "the truth lies within for about 95 of 100 workloads"),
    ("? h", "this help; any other key leaves it"),
)

"""Which workload or pod a name means: exact ids before names, the host's own before nested ones."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tychod.frames import ProtocolError
from tychod.model import Identity, Leaf, Snapshot
from tychod.protocol import Explain
from tychod.runtime.rollup import pod_of
from tychod.views import pod_key

LEAST_PREFIX: Final = 4
"""Characters of an id that may stand for it."""
ID_CHARS: Final = 12
NAME_CHARS: Final = 100
MOST_TOLD: Final = 8
MOST_COMPARED: Final = 1000
"""Names that an unknown one is compared with: each takes the daemon's time."""
MOST_HINTS: Final = 20
"""Unknown names that are compared with others in one window: who guesses does not get more."""
ID, NAME, NESTED_NAME, PREFIX = range(4)
"""How a name was met, the surest first."""


class Found(NamedTuple):
    """What a name means: one leaf, one view, or the leaves of one pod."""

    kind: str  # "pod" or the kind of the leaf
    leaves: tuple[Leaf, ...]
    pod: str | None = None  # the key of a pod
    is_view: bool = False


class _Candidate(NamedTuple):
    found: Found
    label: str  # how people know it
    ids: tuple[str, ...]
    names: tuple[str, ...]
    is_nested: bool


class Names:
    """All names in one snapshot; each is worked out once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.leaves: Final = _Index(
            [
                *(_leaf(leaf, is_view=False) for leaf in snapshot.leaves),
                *(_leaf(view, is_view=True) for view in snapshot.views),
            ]
        )
        self.pods: Final = _Index(_pods(snapshot))
        self.hints_left = MOST_HINTS


class _Index:
    """Candidates by what they may be called."""

    def __init__(self, candidates: Sequence[_Candidate]) -> None:
        self.all: Final = candidates
        self._exact: dict[str, list[tuple[int, _Candidate]]] = {}
        for one in candidates:
            how = NESTED_NAME if one.is_nested else NAME
            called = {**dict.fromkeys(one.names, how), **dict.fromkeys(one.ids, ID)}
            for name, rank in called.items():
                self._exact.setdefault(name, []).append((rank, one))

    def met(self, name: str, kind: str | None) -> list[tuple[int, _Candidate]]:
        """Return who of a kind may be meant (None: of any), each with how it was met."""
        found = [(how, one) for how, one in self._exact.get(name, ()) if _is_of(one, kind)]
        if found or len(name) < LEAST_PREFIX:
            return found
        begun = (one for one in self.all if any(i.startswith(name) for i in one.ids))
        return [(PREFIX, one) for one in begun if _is_of(one, kind)]


def _is_of(candidate: _Candidate, kind: str | None) -> bool:
    return kind in (None, candidate.found.kind)


def find(asked: Explain, names: Names) -> Found:
    """Return what is meant; raise ``ProtocolError`` where that is nothing or not just one."""
    kind = None if asked.kind in ("workload", "pod") else asked.kind
    parts = {"pod": [names.pods], "workload": [names.leaves, names.pods]}
    parts_asked = parts.get(asked.kind, [names.leaves])
    best: list[_Candidate] = []
    for part in parts_asked:
        best = best or _best(part.met(asked.name, kind))
    if not best:
        known = [one for part in parts_asked for one in part.all if _is_of(one, kind)]
        raise ProtocolError("not-found", _unknown(asked, known, names))
    if len(best) > 1:
        raise ProtocolError("bad-request", _ambiguous(asked, best))
    return best[0].found


def _leaf(leaf: Leaf, *, is_view: bool) -> _Candidate:
    who = leaf.identity
    names = [who.name.removesuffix(".service"), who.name]  # as systemctl takes them
    if who.kind == "past" and who.id != who.kind:
        names = []  # a pod's past is called as the node's
    if who.pod:
        names += [f"{who.pod}/{who.name}", f"{who.namespace}/{who.name}"]
        names.append(f"{who.namespace}/{who.pod}/{who.name}")
    return _Candidate(
        Found(who.kind, (leaf,), is_view=is_view),
        f"{who.kind} {'/'.join(p for p in (who.namespace, who.pod, who.name) if p)}",
        (who.id,),
        tuple(dict.fromkeys(names)),
        who.tenant is not None,
    )


def _pods(snapshot: Snapshot) -> list[_Candidate]:
    found: dict[str, list[Leaf]] = {}
    for leaf in snapshot.leaves:
        key = pod_of(leaf.identity)
        if key is not None:
            found.setdefault(key, []).append(leaf)
    return [_pod(key, leaves) for key, leaves in found.items()]


def _pod(key: str, leaves: Sequence[Leaf]) -> _Candidate:
    named = [leaf.identity for leaf in leaves if leaf.identity.pod] or [leaves[0].identity]
    who: Identity = named[0]
    names = (who.pod, f"{who.namespace}/{who.pod}") if who.pod else ()
    label = f"pod {names[1]}" if names else "pod"
    is_nested = "@" in key or pod_key(who) != who.pod_uid
    uids = (key,) if is_nested else (key, who.pod_uid or key)
    return _Candidate(Found("pod", tuple(leaves), key), label, uids, names, is_nested)


def _best(met: Sequence[tuple[int, _Candidate]]) -> list[_Candidate]:
    """Return who is met most surely; of several those that run, if any does."""
    surest = min((how for how, _ in met), default=ID)
    best = [candidate for how, candidate in met if how == surest]
    running = [c for c in best if any(leaf.state == "running" for leaf in c.found.leaves)]
    return running or best


def _ambiguous(asked: Explain, found: Sequence[_Candidate]) -> str:
    shown = found[:MOST_TOLD]
    told = [f"{c.label[:NAME_CHARS]} (id {shortest_id(c.ids[0], found)})" for c in shown]
    more = f" and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
    what = f"{asked.name[:NAME_CHARS]!r} is the name of {len(found)}"
    return f"{what}: {'; '.join(told)}{more}; give an id instead"


def shortest_id(wanted: str, found: Iterable[_Candidate]) -> str:
    """Return as much of an id as tells it from the others."""
    others = [c.ids[0] for c in found if c.ids[0] != wanted]
    is_random = re.fullmatch(r"[0-9a-f-]{32,}", wanted) is not None
    length = ID_CHARS if is_random else len(wanted)
    while length < len(wanted) and any(o.startswith(wanted[:length]) for o in others):
        length += ID_CHARS
    is_whole = any(wanted[:length] == other for other in others)
    return wanted if is_whole else wanted[:length]


def _unknown(asked: Explain, candidates: Sequence[_Candidate], names: Names) -> str:
    what = f"no {asked.kind} {asked.name[:NAME_CHARS]!r}"
    names.hints_left -= 1
    near = nearest(asked.name, _labels(candidates)) if names.hints_left >= 0 else []
    if near:
        return f"{what}; did you mean {', '.join(near)}?"
    begun = any(i.startswith(asked.name) for c in candidates for i in c.ids)
    if len(asked.name) < LEAST_PREFIX and begun:
        return f"{what}; an id may be cut, but not below {LEAST_PREFIX} characters"
    lists: Mapping[str, str] = {"workload": "workloads", "pod": "pods"}
    return f"{what}; tychoctl {lists.get(asked.kind, f'{asked.kind}s')} --all lists them"


def _labels(candidates: Iterable[_Candidate]) -> list[str]:
    """Return the longest name of each, which says most, of those that run first."""
    order = sorted(candidates, key=lambda c: all(x.state != "running" for x in c.found.leaves))
    return list(dict.fromkeys(c.names[-1] for c in order if c.names))[:MOST_COMPARED]


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """Return at most three names that are like one: its end, its beginning, or spelled so."""
    import difflib

    asked = name[:NAME_CHARS].lower()
    holds = [n for n in names if len(asked) >= LEAST_PREFIX and asked in n[:NAME_CHARS].lower()]
    if holds:
        return holds[:3]
    whole = "/" in asked
    ends: dict[str, str] = {}
    for one in names:
        end = one if whole else one.rpartition("/")[2].removesuffix(".service")
        ends.setdefault(end[:NAME_CHARS], one)
    return [ends[end] for end in difflib.get_close_matches(asked, ends, n=3)]

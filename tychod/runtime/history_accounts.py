"""Energy of a period by namespace, pod, unit or workload, from totals at its edges; pure.

The rows add up to the node's energy to the microjoule: what no row can be given, since its leaf
ended between two records, is in the row ``past``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tychod.model import PAST_ID
from tychod.protocol import ReportBy
from tychod.runtime.history_records import (
    Gone,
    Node,
    Row,
    Totals,
    Values,
    Who,
    pod_rows,
)

FIXED: Final = frozenset({"kernel", "system", "unattributed"})
WORKLOADS: Final = frozenset({"container", "vm", "unit"})


class Stretch(NamedTuple):
    """Totals at both edges of a stretch of one life, and what was listed no more in between."""

    base: Totals | None  # None: the counters began within the period
    gone: Sequence[Gone]
    final: Totals


class Line(NamedTuple):
    """One row of a report; the values are of the stretch's domains."""

    who: Who
    values: Values


class Known(NamedTuple):
    """Everything that was listed at any time, under the name it had last, on the same domains."""

    who: Mapping[str, Who]
    base: Mapping[str, Values]
    gone: Sequence[tuple[str, Values]]  # leaves; those of tenants without values: see _leaf_gains
    gone_pods: Sequence[Row]
    final: Mapping[str, Values]


def account(stretch: Stretch, by: ReportBy) -> list[Line]:
    """Return the rows of a stretch, the last of them ``past``; they add up to the node's."""
    known = _known(stretch)
    lines = [line for line in LINES[by](known) if any(line.values)]
    total = node_gain(stretch)
    lines, rest = _shortened(lines, total)
    who = Who(PAST_ID, PAST_ID, PAST_ID, None, None, None, None, nested=False)
    return [*lines, Line(who, rest)]


def node_gain(stretch: Stretch) -> Values:
    """Return what the node had: CPU time, then idle and dynamic energy of each domain."""
    final, base = stretch.final, stretch.base
    had = _node_values(base.node, final.domains) if base else None
    return _growth(_node_values(final.node, final.domains), had)


def _node_values(node: Node, domains: Sequence[str]) -> Values:
    found = [node.cpu_ns]
    for name in domains:
        _, idle_uj, dynamic_uj = node.energy.get(name, (0, 0, 0))
        found += (idle_uj or 0, dynamic_uj or 0)
    return tuple(found)


def _shortened(lines: list[Line], total: Values) -> tuple[list[Line], Values]:
    """Return the rows and what is left for ``past``, which is never less than nothing.

    What a tenant's leaf had goes to the leaf around it when it is listed no more; what it had
    before the period would be counted there again.  The largest row gives that back.
    """
    sums = [sum(column) for column in zip(*(line.values for line in lines), strict=True)]
    rest = [all_ - shown for all_, shown in zip(total, sums or [0] * len(total), strict=True)]
    if min(rest) >= 0:
        return lines, tuple(rest)
    table = [list(line.values) for line in lines]
    for place, left in enumerate(rest):
        if left < 0:
            _take_back(table, place, -left)
    shortened = [Line(x.who, tuple(v)) for x, v in zip(lines, table, strict=True)]
    return shortened, tuple(max(left, 0) for left in rest)


def _take_back(table: list[list[int]], place: int, much: int) -> None:
    """Lessen the largest values at a place."""
    for values in sorted(table, key=lambda one: -one[place]):
        taken = min(much, values[place])
        values[place] -= taken
        much -= taken


def _known(stretch: Stretch) -> Known:
    base, final = stretch.base, stretch.final
    who: dict[str, Who] = {}
    gone: list[tuple[str, Values]] = []
    gone_pods: list[Row] = []
    if base:
        who.update((key, row.who) for key, row in base.rows.items())
    for each in stretch.gone:
        for row in each.leaves:
            key = row.who.id
            if row.who.kind == "folded":
                continue
            who[key] = row.who
            gone.append((key, _project(row.values, each.domains, final.domains)))
        gone_pods += [
            Row(row.who, _project(row.values, each.domains, final.domains)) for row in each.pods
        ]
    who.update((key, row.who) for key, row in final.rows.items())
    now = {key: row.values for key, row in final.rows.items()}
    had = (
        {k: _project(r.values, base.domains, final.domains) for k, r in base.rows.items()}
        if base
        else {}
    )
    return Known(who, _handed_over(who, had, now), gone, gone_pods, now)


def _handed_over(
    who: Mapping[str, Who], base: dict[str, Values], final: Mapping[str, Values]
) -> dict[str, Values]:
    """Return the base with what tenants' leaves had that are gone under who has it now."""
    pods = {who[key].pod for key in final} - {None}
    parents = {one.pod: one.parent for one in who.values() if one.parent}
    gone = [key for key in base if key not in final and who[key].nested]
    for key in gone:
        one = who[key]
        heir = one.parent or parents.get(one.pod)
        if one.pod in pods or heir is None or heir not in final:
            continue
        sums = _add(base[key], base.get(heir))
        if all(had <= now for had, now in zip(sums, final[heir], strict=True)):
            base[heir] = sums
            del base[key]
    return base


def _project(values: Values, have: Sequence[str], want: Sequence[str]) -> Values:
    """Return values on other domains; what there is none of is zero."""
    if have == want:
        return values
    cells = {name: values[1 + 2 * n : 3 + 2 * n] for n, name in enumerate(have)}
    return (values[0], *(cell for name in want for cell in cells.get(name, (0, 0))))


def _growth(values: Values, base: Values | None) -> Values:
    """Return how far counters went; those that are less than before began anew."""
    if base is None:
        return values
    gains = tuple(now - had for now, had in zip(values, base, strict=True))
    return values if min(gains) < 0 else gains


def _add(values: Values, others: Values | None) -> Values:
    return values if others is None else tuple(map(sum, zip(values, others, strict=True)))


def _gains(
    base: Mapping[str, Values], gone: Iterable[tuple[str, Values]], final: Mapping[str, Values]
) -> dict[str, Values]:
    """Return what each key had, over all its lives: one ends with each time it is gone."""
    left, found = dict(base), dict[str, Values]()
    for key, values in (*gone, *final.items()):
        found[key] = _add(_growth(values, left.pop(key, None)), found.get(key))
    return found


def _leaf_lines(known: Known, keys: Callable[[str, Who], bool]) -> Iterator[Line]:
    """Yield the leaves that are wanted; what a tenant's had that is gone is with another leaf."""
    wanted = {key for key, who in known.who.items() if keys(key, who)}
    base = {key: values for key, values in known.base.items() if key in wanted}
    gone = [(k, v) for k, v in known.gone if k in wanted and not known.who[k].nested]
    final = {key: values for key, values in known.final.items() if key in wanted}
    for key, values in _gains(base, gone, final).items():
        yield Line(known.who[key], values)


def _lump(kind: str, lines: Iterable[Line]) -> Iterator[Line]:
    """Yield one row for many."""
    values: Values | None = None
    for line in lines:
        values = _add(line.values, values)
    if values is not None:
        yield Line(Who(kind, kind, kind, None, None, None, None, nested=False), values)


def _fixed(known: Known) -> Iterator[Line]:
    yield from _leaf_lines(known, lambda _, who: who.kind in FIXED)


def _workload_lines(known: Known) -> Iterator[Line]:
    yield from _leaf_lines(known, lambda _, who: who.kind in WORKLOADS)
    yield from _fixed(known)


def _namespace_lines(known: Known) -> Iterator[Line]:
    base, final = (_by_namespace(known, values) for values in (known.base, known.final))
    for name, values in _gains(base, (), final).items():
        yield Line(Who("namespace", name, name, name, None, None, None, nested=False), values)
    outside = _leaf_lines(known, lambda _, who: who.kind in WORKLOADS and who.namespace is None)
    yield from _lump("no-namespace", outside)
    yield from _fixed(known)


def _by_namespace(known: Known, values: Mapping[str, Values]) -> dict[str, Values]:
    """Return the sums by namespace; a leaf is in the one that it was told to be in last."""
    found: dict[str, Values] = {}
    for key, each in values.items():
        namespace = known.who[key].namespace
        if namespace is not None:
            found[namespace] = _add(each, found.get(namespace))
    return found


def _pods(known: Known) -> Iterator[Line]:
    base, final = (
        pod_rows({key: Row(known.who[key], each) for key, each in values.items()})
        for values in (known.base, known.final)
    )
    gone = [(row.who.id, row.values) for row in known.gone_pods if not row.who.nested]
    who = {row.who.id: row.who for row in (*base.values(), *known.gone_pods, *final.values())}
    gains = _gains(
        {key: row.values for key, row in base.items()},
        gone,
        {key: row.values for key, row in final.items()},
    )
    for key, values in gains.items():
        yield Line(who[key], values)


def _outside_pods(who: Who) -> bool:
    return who.kind in WORKLOADS and who.pod is None


def _pod_lines(known: Known) -> Iterator[Line]:
    yield from _pods(known)
    yield from _lump("no-pod", _leaf_lines(known, lambda _, who: _outside_pods(who)))
    yield from _fixed(known)


def _unit_lines(known: Known) -> Iterator[Line]:
    yield from _leaf_lines(known, lambda _, who: _outside_pods(who) and who.kind == "unit")
    others = _leaf_lines(known, lambda _, who: _outside_pods(who) and who.kind != "unit")
    yield from _lump("no-unit", (*_pods(known), *others))
    yield from _fixed(known)


LINES: Final[Mapping[ReportBy, Callable[[Known], Iterator[Line]]]] = {
    "namespace": _namespace_lines,
    "pod": _pod_lines,
    "unit": _unit_lines,
    "workload": _workload_lines,
    "node": _fixed,
}

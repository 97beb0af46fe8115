"""Energy of a period by namespace, pod, unit or workload, from totals at its edges; pure.

The rows add up to the node's energy to the microjoule: what no row can be given, since its leaf
ended between two records, is in the row ``past``.  What was listed no more is read frame by frame
and added at once: a node where thousands of workloads end has no more rows than another.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
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
OTHERS: Final = "others"
LUMPS: Final = frozenset({"no-namespace", "no-pod", "no-unit", PAST_ID, OTHERS})


class Stretch(NamedTuple):
    """Totals at both edges of a stretch of one life, and what was listed no more in between."""

    base: Totals | None  # None: the counters began within the period
    gone: Iterable[Gone]  # read once
    final: Totals


class Line(NamedTuple):
    """One row of a report; the values are of the stretch's domains."""

    who: Who
    values: Values


class Table:
    """Sums by row: when there are twice as many as wanted, the smallest become one row, others.

    A row that goes on after that begins anew, so that it has less than it had: the sum of all rows
    stays what it is.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[tuple[str, str], Line] = {}
        self.left_out = 0

    def __len__(self) -> int:
        """Return how many rows there are now."""
        return len(self._rows)

    def add(self, who: Who, values: Values) -> None:
        """Add to a row, under this name from now on."""
        key = (who.kind, who.id)
        had = self._rows.get(key)
        if had is None:
            self._rows[key] = Line(_slim(who), values)
            if len(self._rows) > 2 * self._most:
                self.shrink()
        else:
            told = had.who if had.who == who else _slim(who)
            self._rows[key] = Line(told, _add(values, had.values))

    def add_all(self, other: "Table") -> None:
        """Add every row of another table."""
        self.left_out += other.left_out
        for line in other.lines():
            self.add(*line)

    def map(self, change: Callable[[Values], Values]) -> None:
        """Change the values of every row."""
        self._rows = {key: Line(who, change(v)) for key, (who, v) in self._rows.items()}

    def shrink(self) -> None:
        """Leave no more than the largest rows, and what is always one."""
        always = [line for line in self._rows.values() if line.who.kind in FIXED | LUMPS]
        rows = [line for line in self._rows.values() if line.who.kind not in FIXED | LUMPS]
        rows.sort(key=_order)
        self._rows = {(who.kind, who.id): Line(who, v) for who, v in (*rows[: self._most], *always)}
        small = [line.values for line in rows[self._most :]]
        self.left_out += len(small)
        if small:
            self.add(lump(OTHERS), tuple(map(sum, zip(*small, strict=True))))

    def lines(self) -> list[Line]:
        """Return the rows, the largest first and ``others`` last."""
        return sorted(self._rows.values(), key=lambda one: (one.who.kind == OTHERS, *_order(one)))


def _order(line: Line) -> tuple[int, str, str]:
    return (-sum(line.values[1:]), line.who.kind, line.who.id)


def _slim(who: Who) -> Who:
    """Return the same with texts that others have, too: there may be thousands of each."""
    kind, key, name, namespace, pod, pod_name, owner, nested, parent = who
    return Who(
        sys.intern(kind),
        key,
        name,
        namespace and sys.intern(namespace),
        key if pod == key else pod,
        name if pod_name == name else pod_name,
        owner and sys.intern(owner),
        nested,
        parent,
    )


def lump(kind: str) -> Who:
    """Return whose a row is that is one for many."""
    return Who(kind, kind, kind, None, None, None, None, nested=False)


def account(stretch: Stretch, by: ReportBy, most: int) -> Table:
    """Return the rows of a stretch, ``past`` among them; they add up to the node's."""
    fold = _Fold(stretch.base, stretch.final, by, most)
    for each in stretch.gone:
        fold.take(each)
    fold.finish()
    total = node_gain(stretch)
    lines, rest = _shortened(fold.table.lines(), total)
    found = Table(most)
    found.left_out = fold.table.left_out
    for line in lines:
        found.add(*line)
    found.add(lump(PAST_ID), rest)
    return found


class _Fold:
    """Adds up one stretch: what was listed no more in the order in which it went, then the rest."""

    def __init__(self, base: Totals | None, final: Totals, by: ReportBy, most: int) -> None:
        self.table: Final = Table(most)
        self._final = final
        self._by: Final = by
        rows = base.rows if base else {}
        self._who = {key: row.who for key, row in rows.items()}  # under the name it had last
        self._base = {
            key: project(row.values, base.domains if base else (), final.domains)
            for key, row in rows.items()
        }
        self._pods = self._base_pods()
        self._taken: set[str] = set()  # pods of the base that have gone
        self._parents: dict[str | None, str] = {}

    def _base_pods(self) -> dict[str, Values]:
        rows = {key: Row(self._who[key], values) for key, values in self._base.items()}
        return {key: row.values for key, row in pod_rows(rows).items()}

    def take(self, each: Gone) -> None:
        """Add what one record listed no more."""
        for row in each.leaves:
            self._take_leaf(row, each.domains)
        if self._by not in POD_GROUPS:
            return
        for who, values in each.pods:
            if not who.nested:
                had = self._pods.pop(who.id, None)
                self._taken.add(who.id) if had else None
                self._add(
                    self._pod_group(who), project(values, each.domains, self._final.domains), had
                )

    def _take_leaf(self, row: Row, domains: Sequence[str]) -> None:
        who = row.who
        if who.kind == "folded":
            return
        if who.id in self._who:
            self._who[who.id] = who
        if who.parent and who.pod in self._pods:
            self._parents[who.pod] = who.parent
        group = GROUPS[self._by](who)
        if group and not who.nested:
            values = project(row.values, domains, self._final.domains)
            self._add(group, values, self._base.pop(who.id, None))

    def finish(self) -> None:
        """Add what is listed at the end."""
        final = {key: row.values for key, row in self._final.rows.items()}
        self._who.update((key, row.who) for key, row in self._final.rows.items())
        base = _handed_over(self._who, self._base, final, self._parents)
        for key, values in final.items():
            group = GROUPS[self._by](self._who[key])
            if group:
                self._add(group, values, base.get(key))
        if self._by == "namespace":
            self._add_namespaces(base, final)
        if self._by in POD_GROUPS:
            self._add_pods(base)

    def _add_namespaces(self, base: Mapping[str, Values], final: Mapping[str, Values]) -> None:
        had, now = (_by_namespace(self._who, values) for values in (base, final))
        for name, values in now.items():
            who = Who("namespace", name, name, name, None, None, None, nested=False)
            self._add(who, values, had.get(name))

    def _add_pods(self, base: Mapping[str, Values]) -> None:
        had = pod_rows({key: Row(self._who[key], values) for key, values in base.items()})
        for key, (who, values) in pod_rows(self._final.rows).items():
            start = had[key].values if key in had and key not in self._taken else None
            self._add(self._pod_group(who), values, start)

    def _pod_group(self, who: Who) -> Who:
        return who if self._by == "pod" else lump(POD_GROUPS[self._by])

    def _add(self, who: Who, values: Values, had: Values | None) -> None:
        gained = _growth(values, had)
        if any(gained):
            self.table.add(who, gained)


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


def _handed_over(
    who: Mapping[str, Who],
    base: dict[str, Values],
    final: Mapping[str, Values],
    gone_parents: Mapping[str | None, str],
) -> dict[str, Values]:
    """Return the base with what tenants' leaves had that are gone under who has it now."""
    pods = {who[key].pod for key in final} - {None}
    parents = {**gone_parents, **{one.pod: one.parent for one in who.values() if one.parent}}
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


def project(values: Values, have: Sequence[str], want: Sequence[str]) -> Values:
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


def _by_namespace(who: Mapping[str, Who], values: Mapping[str, Values]) -> dict[str, Values]:
    """Return the sums by namespace; a leaf is in the one that it was told to be in last."""
    found: dict[str, Values] = {}
    for key, each in values.items():
        namespace = who[key].namespace
        if namespace is not None:
            found[namespace] = _add(each, found.get(namespace))
    return found


def _fixed(who: Who) -> Who | None:
    return who if who.kind in FIXED else None


def _is_outside_pods(who: Who) -> bool:
    return who.kind in WORKLOADS and who.pod is None


def _workload(who: Who) -> Who | None:
    return who if who.kind in WORKLOADS else _fixed(who)


def _without_namespace(who: Who) -> Who | None:
    if who.kind in WORKLOADS and who.namespace is None:
        return lump("no-namespace")
    return _fixed(who)


def _without_pod(who: Who) -> Who | None:
    return lump("no-pod") if _is_outside_pods(who) else _fixed(who)


def _unit(who: Who) -> Who | None:
    if not _is_outside_pods(who):
        return _fixed(who)
    return who if who.kind == "unit" else lump("no-unit")


GROUPS: Final[Mapping[ReportBy, Callable[[Who], Who | None]]] = {
    "namespace": _without_namespace,
    "pod": _without_pod,
    "unit": _unit,
    "workload": _workload,
    "node": _fixed,
}
"""The row that a leaf is in; None: it is in a pod's or a namespace's."""
POD_GROUPS: Final[Mapping[ReportBy, str]] = {"pod": "pod", "unit": "no-unit"}
"""Where pods are added up, and the kind of the rows that they are in."""

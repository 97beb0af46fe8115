"""What a window added to each workload, from the snapshots at its two ends; pure, exact integers.

The counter after the window less the counter before it is what the workload gained, but where it
also took over the counters of one that ended.  What was booked to it is told apart by its mean
power, which is exact: booked energy / length of the window.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, NamedTuple

from tychod.model import Energy, Leaf, Snapshot, Window

NOTHING: Final = Energy()
Basis = Literal["counters", "first", "power"]
"""Both snapshots; the counters began within the window; the one before is not there (a restart)."""


class Gain(NamedTuple):
    """What one workload gained in a window; None: not to be told from what it took over."""

    cpu_ns: int | None
    total_uj: Mapping[str, int]  # booked to it, by domain
    split: Mapping[str, Energy | None]  # the same, idle and dynamic apart
    taken_uj: Mapping[str, int]  # counters of ended workloads that it took over, by domain


class Sum(NamedTuple):
    """What a window added to all leaves of a domain."""

    energy: Energy | None  # None: idle and dynamic are not told apart
    uj: int
    by_kind: Mapping[str, int]  # booked, by the kind of workload


@dataclass(frozen=True)
class Span:
    """The window that is explained; what is the same for all of its workloads is summed once."""

    newest: Snapshot
    before: Mapping[str, Leaf]  # by id; what the counters were, of leaves that are still the same
    gone: tuple[Leaf, ...]  # of before, whose counters another leaf has now
    basis: Basis
    counted_uj: Mapping[str, int]  # what the domains' own counters were before

    @property
    def window(self) -> Window:
        """The stretch of time."""
        return self.newest.window

    @cached_property
    def sums(self) -> Mapping[str, Sum]:
        """The sum of every domain."""
        return {name: _sum_of(name, self) for name in self.newest.domains}

    @cached_property
    def cpu_ns(self) -> int | None:
        """The CPU time that everything used in the window, in nanoseconds; None: not known."""
        if self.basis == "power":
            return None
        had = sum(leaf.cpu_ns for leaf in (*self.before.values(), *self.gone))
        return sum(leaf.cpu_ns for leaf in self.newest.leaves) - had


def span_of(newest: Snapshot, before: Snapshot | None) -> Span:
    """Return the newest window with what was known before it."""
    if before is not None and is_next(newest, before):
        now = {leaf.identity.id: leaf for leaf in newest.leaves}
        had = {leaf.identity.id: leaf for leaf in before.leaves}
        kept = {i: leaf for i, leaf in had.items() if i in now and is_same(now[i], leaf)}
        gone = tuple(leaf for i, leaf in had.items() if i not in kept)
        counted = {name: domain.energy_uj for name, domain in before.domains.items()}
        return Span(newest, kept, gone, "counters", counted)
    return Span(newest, {}, (), "first" if newest.sequence <= 1 else "power", {})


def is_next(newest: Snapshot, before: Snapshot) -> bool:
    """Say whether one snapshot is of the window just before the other's, of the same counters."""
    return newest.sequence == before.sequence + 1 and newest.since_ns == before.since_ns


def is_same(now: Leaf, had: Leaf) -> bool:
    """Say whether counters went on: another container may have an id that was used before."""
    if now.identity.kind != had.identity.kind:
        return False
    if now.identity.kind != "past" and now.first_seen_ns != had.first_seen_ns:
        return False
    parts = ((now.energy.get(name, NOTHING), energy) for name, energy in had.energy.items())
    return now.cpu_ns >= had.cpu_ns and all(
        one.idle_uj >= other.idle_uj and one.dynamic_uj >= other.dynamic_uj for one, other in parts
    )


def booked_uj(leaf: Leaf, name: str, window: Window) -> int:
    """Return what was booked to a leaf in the last window, in whole microjoules."""
    return round((leaf.power_w.get(name) or 0.0) * window.seconds * 1e6)


def gain_of(leaf: Leaf, span: Span) -> Gain:
    """Return what the window added to one leaf or view of the newest snapshot."""
    totals = {name: booked_uj(leaf, name, span.window) for name in leaf.energy}
    if span.basis == "power":
        return Gain(None, totals, dict.fromkeys(totals), {})
    had = span.before.get(leaf.identity.id)
    more = {name: less(leaf.energy[name], had.energy.get(name) if had else None) for name in totals}
    taken = {n: more[n].total_uj - totals[n] for n in totals if more[n].total_uj != totals[n]}
    split = {name: None if name in taken else more[name] for name in totals}
    cpu_ns = None if taken else leaf.cpu_ns - (had.cpu_ns if had else 0)
    return Gain(cpu_ns, totals, split, taken)


def gain_of_view(view: Leaf, span: Span, before: Snapshot | None) -> Gain:
    """Return what the window added to a machine whose energy another workload holds."""
    found = (v for v in (before.views if before else ()) if v.identity.id == view.identity.id)
    had = next((v for v in found if is_same(view, v)), None)
    totals = {name: booked_uj(view, name, span.window) for name in view.energy}
    cpu_ns = None if span.basis == "power" else view.cpu_ns - (had.cpu_ns if had else 0)
    return Gain(cpu_ns, totals, {n: Energy(0, uj) for n, uj in totals.items()}, {})


def gain_of_group(leaves: Iterable[Leaf], gone: Iterable[Leaf], span: Span) -> Gain:
    """Return what the window added to leaves, of which those of ``gone`` ended and left theirs."""
    members, ended = list(leaves), list(gone)
    each = [gain_of(leaf, span) for leaf in members]
    names = list(dict.fromkeys(name for leaf in members for name in leaf.energy))
    totals = {n: sum(gain.total_uj.get(n, 0) for gain in each) for n in names}
    if span.basis == "power":
        return Gain(None, totals, dict.fromkeys(names), {})
    had = [*(span.before[i] for leaf in members if (i := leaf.identity.id) in span.before), *ended]
    more = {n: less(summed(members, n), summed(had, n)) for n in names}
    taken = {n: e.total_uj - totals[n] for n, e in more.items() if e.total_uj != totals[n]}
    cpu_ns = sum(leaf.cpu_ns for leaf in members) - sum(leaf.cpu_ns for leaf in had)
    split = {n: None if n in taken else energy for n, energy in more.items()}
    return Gain(None if taken or cpu_ns < 0 else cpu_ns, totals, split, taken)


def summed(leaves: Iterable[Leaf], name: str) -> Energy:
    """Return the energy of a domain over leaves."""
    parts = [leaf.energy.get(name, NOTHING) for leaf in leaves]
    return Energy(sum(e.idle_uj for e in parts), sum(e.dynamic_uj for e in parts))


def less(now: Energy, had: Energy | None) -> Energy:
    """Return a difference."""
    before = had or NOTHING
    return Energy(now.idle_uj - before.idle_uj, now.dynamic_uj - before.dynamic_uj)


def _sum_of(name: str, span: Span) -> Sum:
    kinds: Counter[str] = Counter()
    for leaf in span.newest.leaves:
        kinds[leaf.identity.kind] += booked_uj(leaf, name, span.window)
    if span.basis == "power":
        return Sum(None, kinds.total(), kinds)
    known = less(
        summed(span.newest.leaves, name), summed((*span.before.values(), *span.gone), name)
    )
    return Sum(known, known.total_uj, kinds)


def counted_uj(name: str, span: Span) -> int | None:
    """Return what a domain's own counter counted in the window; None: not known."""
    if span.basis == "power":
        return None
    return span.newest.domains[name].energy_uj - span.counted_uj.get(name, 0)


def by_whom_uj(name: str, span: Span, own_uj: int, members: Iterable[Leaf]) -> dict[str, int]:
    """Return who has a domain's energy of the window; the parts add up to all of it exactly.

    ``members``: what is explained; what is left over had ended when the window did.
    """
    kinds = ("container", "vm", "unit", "kernel", "system", "unattributed", "past")
    whole = span.sums[name]
    found = {"this": own_uj, **dict.fromkeys(kinds, 0), **whole.by_kind}
    for leaf in members:
        found[leaf.identity.kind] -= booked_uj(leaf, name, span.window)
    found["past"] += whole.uj - sum(found.values())
    return found

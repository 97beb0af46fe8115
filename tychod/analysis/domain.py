"""One hardware domain in one window: from its meters and who ran, to who used how much.

Where the window was seen whole, the model of ``intensity`` learns from it and says what each
workload used in each row.  Where it was not (a restart, a source that came back, CPU time that
nothing saw), nothing is learned: each row's energy above the idle floor is shared by CPU time and
what is known of intensities, and what nobody was seen to use is lost to ``unattributed``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from tychod.analysis.attribution import allocate
from tychod.analysis.bins import Block, joined, part_rows, stretches
from tychod.analysis.bins import rows as rows_of
from tychod.analysis.booked import Booked, Doubt
from tychod.analysis.columns import Rows
from tychod.analysis.energy import DomainWindow, ZoneWindow
from tychod.analysis.intensity import Estimate, learn, present
from tychod.analysis.learned import Float64s, Learned
from tychod.analysis.models import (
    MAIN,
    Activity,
    features_of,
    is_recent,
    likeness,
    model_for,
    shaped,
    weight_of,
)
from tychod.model import UNATTRIBUTED_ID, IdleFloor, Window

LEAST_ROWS: Final = 3
MOST_ROWS: Final = 130
"""Rows that are taken in at once: their covariance costs the cube of it."""
LEAST_WORK: Final = 1e-4
"""A model begins only where this share of the CPUs' time was used: on less nothing can be based."""
STRETCH_NS: Final = 250_000_000
SURE_SD: Final = 4.0
"""Energy without any CPU time is called unexplained only beyond so many standard deviations."""


class Split(NamedTuple):
    """A domain's energy of one window, by whom, in joules."""

    by_leaf_j: Float64s  # (leaves,)
    lost_j: float  # while nothing says what ran
    unused_j: float  # while nothing ran
    doubts: Mapping[str, Doubt]
    intensity: Mapping[str, float]
    leaf_flags: Mapping[str, tuple[str, ...]]
    floor: IdleFloor | None


def attribute(
    domain: DomainWindow, activity: Activity, learned: Mapping[str, Learned]
) -> tuple[Booked, dict[str, Learned]]:
    """Split one domain's energy of the window; the parts add up to it exactly."""
    key, weight, flags = weight_of(domain.name, activity)
    groups, blocks = _blocks(domain, activity, weight)
    told = features_of(activity) if domain.name in MAIN else likeness(activity, learned)
    before, stand_in = model_for(key, groups, learned)
    features = shaped(told, len(before.features), len(activity.owned.leaves))
    is_told = domain.idle_w is not None
    rows = rows_of(activity.cpu.edges_ns, blocks, features, to_readings=not is_told)
    after = before
    may_learn = not is_told and (stand_in is None or not is_recent(stand_in, activity.window))
    if rows is None:
        split = Split(np.zeros(len(activity.owned.leaves)), 0.0, 0.0, {}, {}, {}, None)
    elif may_learn and _is_whole(domain, activity, rows):
        after, split = _try_to_learn(before, rows, blocks, domain, activity)
    else:
        split = _plain_split(stand_in or before, rows, domain, activity)
    booked = _booked(domain, activity, split, flags + _seen_flags(domain, activity, rows, after))
    return booked, ({key: after} if after is not before else {})


def _try_to_learn(
    before: Learned,
    rows: Rows,
    blocks: Sequence[Block],
    domain: DomainWindow,
    activity: Activity,
) -> tuple[Learned, Split]:
    """Learn from a window; numbers that nobody foresaw must not end the daemon: begin anew."""
    try:
        return _learned_split(before, rows, blocks, activity, is_main=domain.name in MAIN)
    except (ArithmeticError, np.linalg.LinAlgError):
        fresh = Learned(zones=before.zones, features=before.features)
        return fresh, _plain_split(fresh, rows, domain, activity)


def _blocks(
    domain: DomainWindow, activity: Activity, weight: Float64s | None
) -> tuple[tuple[str, ...], list[Block]]:
    """Return one block for each package, or one of everything where packages are not told apart."""
    owned, series = activity.owned, activity.series
    work = owned.used_ns / 1e9
    if weight is not None:
        work = work * weight
    packages = series.packages if series else ()
    sockets = sorted({z.zone.socket for z in domain.zones if z.zone.socket is not None})
    known = owned.package_ns is not None and set(sockets) <= set(packages) and sockets
    if not known or any(z.zone.socket is None for z in domain.zones) or series is None:
        meter = joined([z.meter for z in domain.zones])
        return ("node",), [Block(meter, work, float(activity.cpus))]
    where = owned.package_ns
    total = where.sum(axis=1) if where is not None else np.zeros(work.shape, np.int64)
    names, blocks = [], []
    for socket in sockets:
        at = packages.index(socket)
        mine = where[:, at] if where is not None else total
        share = np.where(total > 0, mine / np.maximum(total, 1), 1.0 / len(packages))
        meter = joined([z.meter for z in domain.zones if z.zone.socket == socket])
        names.append(f"socket-{socket}")
        blocks.append(Block(meter, work * share, float(max(series.package_cpus[at], 1))))
    return tuple(names), blocks


def _is_whole(domain: DomainWindow, activity: Activity, rows: Rows) -> bool:
    window = activity.window
    if not activity.is_known or not all(activity.cpu.seen) or len(rows.t_s) < LEAST_ROWS:
        return False
    if rows.work_s.sum() < LEAST_WORK * activity.cpus * window.seconds:
        return False
    return all(_covers(zone, window) for zone in domain.zones)


def _covers(zone: ZoneWindow, window: Window) -> bool:
    first, last = zone.meter.times_ns[0], zone.meter.times_ns[-1]
    return (
        not zone.broken
        and abs(int(first) - window.start_ns) <= STRETCH_NS
        and window.end_ns - int(last) <= STRETCH_NS
        and not zone.late_uj
    )


def _learned_split(
    before: Learned, whole: Rows, blocks: Sequence[Block], activity: Activity, *, is_main: bool
) -> tuple[Learned, Split]:
    """Learn from a window, a bounded number of rows at a time."""
    leaves, edges_ns = activity.owned.leaves, activity.cpu.edges_ns
    after, by_leaf, unused_j = before, np.zeros(len(leaves)), 0.0
    doubts: dict[str, Doubt] = {}
    rates: dict[str, float] = {}
    flags: dict[str, tuple[str, ...]] = {}
    size = max(MOST_ROWS // len(blocks), LEAST_ROWS)
    parts = stretches(len(edges_ns) - 1, size)
    for first, last in parts:
        part = part_rows(edges_ns, blocks, whole.features, first, last) if parts[1:] else whole
        active = np.flatnonzero(part.work_s.sum(axis=0) > 0.0)
        names = [leaves[i].id for i in active.tolist()]
        mine = part._replace(work_s=part.work_s[:, active], features=part.features[active])
        span = Window(int(edges_ns[first]), int(edges_ns[last]))
        after, found = learn(after, mine, names, span, own=is_main)
        by_leaf[active] += found.energy_j.sum(axis=0)
        unused_j += _unused_j(mine, found)
        _add_doubts(doubts, names, found, max(after.noise.excess, 1.0))
        rates |= dict(zip(names, found.intensity.tolist(), strict=True))
        flags |= _leaf_flags(names, found, after) if is_main else {}
    if not (np.isfinite(by_leaf).all() and np.isfinite(after.beta).all()):
        raise ArithmeticError("a model whose numbers are none")
    floor = _floor(after, activity.window)
    return after, Split(by_leaf, 0.0, unused_j, doubts, rates, flags, floor)


def _add_doubts(
    doubts: dict[str, Doubt], names: Sequence[str], found: Estimate, excess: float
) -> None:
    """Add one part's variances to the window's; the parts' own errors may well be the same."""
    here = [excess * var for var in found.window_var.tolist()]
    told = zip(found.added_var.tolist(), found.own.tolist(), strict=True)
    more = [excess * var if own else None for var, own in told]
    for name, doubt in zip(names, map(Doubt, here, more), strict=True):
        had = doubts.get(name)
        doubts[name] = doubt if had is None else _both(had, doubt)


def _both(one: Doubt, other: Doubt) -> Doubt:
    window_var = (math.sqrt(other.window_var) + math.sqrt(one.window_var)) ** 2
    if one.added_var is None or other.added_var is None:
        return Doubt(window_var, None)
    return Doubt(window_var, other.added_var + one.added_var)


def _unused_j(rows: Rows, found: Estimate) -> float:
    """Return the energy, far above the idle floor, of rows in which nothing ran at all."""
    silent = rows.work_s.sum(axis=1) <= 0.0
    idle_j = found.idle_w[rows.zone] * rows.seconds
    above = rows.energy_j - idle_j - SURE_SD * found.row_sd_j
    return float(np.maximum(above, 0.0)[silent].sum())


def _leaf_flags(
    names: Sequence[str], found: Estimate, after: Learned
) -> dict[str, tuple[str, ...]]:
    told: dict[str, tuple[str, ...]] = {}
    for name, own, surety in zip(names, found.own.tolist(), found.surety.tolist(), strict=True):
        if not own:
            told[name] = ("new",) if name in after.young else ("pooled",)
        elif surety < 0.5:
            told[name] = ("pooled",)
    return told


def _floor(learned: Learned, window: Window) -> IdleFloor | None:
    if not learned.windows:
        return None
    idle_w, sd_w, confidence = present(learned)
    age_s = max(window.end_ns - learned.updated_ns, 0) / 1e9
    return IdleFloor(idle_w, sd_w, age_s, confidence)


def _plain_split(learned: Learned, rows: Rows, domain: DomainWindow, activity: Activity) -> Split:
    """Share each row's energy above the idle floor by CPU time and known intensity."""
    leaves = activity.owned.leaves
    idle_w = _idle_w(learned, domain)
    position = {leaf: learned.fixed + i for i, leaf in enumerate(learned.columns)}
    mean = float(learned.beta[learned.mean_at]) if learned.windows else 1.0
    rates = np.array(
        [mean + (learned.beta[position[x.id]] if x.id in position else 0.0) for x in leaves]
    )
    rates = np.maximum(rates, 0.05 * mean)
    above = np.maximum(rows.energy_j - idle_w[rows.zone] * rows.seconds, 0.0)
    weights = rows.work_s * rates
    total = weights.sum(axis=1)
    share = np.where(total > 0.0, above / np.where(total > 0.0, total, 1.0), 0.0)
    by_leaf = (weights * share[:, None]).sum(axis=0)
    rest = float(above[total <= 0.0].sum())
    is_seen = all(activity.cpu.seen)
    doubts = {}
    spread = learned.tau if learned.windows else 1.0
    for leaf, energy in zip(leaves, by_leaf.tolist(), strict=True):
        if energy > 0.0 and domain.idle_w is None:
            doubts[leaf.id] = Doubt((max(spread, 0.1) * energy) ** 2, None)
    floor = _floor(learned, activity.window) if domain.idle_w is None else None
    return Split(by_leaf, 0.0 if is_seen else rest, rest if is_seen else 0.0, doubts, {}, {}, floor)


def _idle_w(learned: Learned, domain: DomainWindow) -> Float64s:
    count = len(learned.zones)
    if domain.idle_w is not None:
        return _told_w(domain) if count > 1 else np.array([domain.idle_w])
    if not learned.windows:
        return np.zeros(count)  # nothing is called idle on a guess
    known = np.maximum(learned.beta[:count], 0.0)
    return known if count > 1 else known * _share_read(domain)


def _told_w(domain: DomainWindow) -> Float64s:
    """Return the idle power that is known of each socket, in the order of the blocks."""
    sockets = sorted({z.zone.socket for z in domain.zones if z.zone.socket is not None})
    told = [[z.zone.idle_w or 0.0 for z in domain.zones if z.zone.socket == s] for s in sockets]
    return np.array([sum(parts) for parts in told])


def _share_read(domain: DomainWindow) -> float:
    """Return how much of its zones' idle energy a domain shows: one that is not read shows none."""
    spans = [int(z.meter.times_ns[-1] - z.meter.times_ns[0]) for z in domain.zones]
    return sum(spans) / (len(spans) * max(*spans, 1))


def _booked(
    domain: DomainWindow, activity: Activity, split: Split, flags: tuple[str, ...]
) -> Booked:
    lost_j, unused_j = split.lost_j, split.unused_j
    weights = [*split.by_leaf_j.tolist(), lost_j + unused_j]
    dynamic_uj = min(domain.energy_uj, round(1e6 * float(sum(weights))))
    parts = allocate(dynamic_uj, weights)
    leaves = activity.owned.leaves
    by_leaf = {leaf.id: part for leaf, part in zip(leaves, parts[:-1], strict=True) if part}
    dynamic_uj = sum(parts)
    lost_uj = parts[-1] + domain.late_uj
    if lost_uj:
        by_leaf[UNATTRIBUTED_ID] = by_leaf.get(UNATTRIBUTED_ID, 0) + lost_uj
    return Booked(
        domain.energy_uj - dynamic_uj,
        dynamic_uj + domain.late_uj,
        by_leaf,
        parts[-1],
        lost_uj,
        doubts=split.doubts,
        intensity=split.intensity,
        leaf_flags=split.leaf_flags,
        flags=flags,
        floor=split.floor,
        coverage=_coverage(domain, activity),
    )


def _coverage(domain: DomainWindow, activity: Activity) -> float:
    """Return the share of the window in which both energy and CPU time were seen."""
    window = activity.window
    length_ns = max(window.end_ns - window.start_ns, 1)
    ends = [(int(z.meter.times_ns[0]), int(z.meter.times_ns[-1])) for z in domain.zones]
    seen_ns = [max(b - max(a, window.start_ns), 0) for a, b in ends]
    energy = sum(seen_ns) / (len(seen_ns) * length_ns) if seen_ns else 0.0
    lengths = np.diff(activity.cpu.edges_ns)
    cpu = float(lengths[np.array(activity.cpu.seen, bool)].sum()) / length_ns
    return min(energy, cpu, 1.0)


def _seen_flags(
    domain: DomainWindow, activity: Activity, rows: Rows | None, learned: Learned
) -> tuple[str, ...]:
    found = []
    if not all(activity.cpu.seen):
        found.append("missing-cpu")
    if domain.late_uj or not all(_covers(z, activity.window) for z in domain.zones):
        found.append("missing-energy")
    bins = (len(activity.cpu.edges_ns) - 1) * len(set(rows.zone.tolist()) if rows else ())
    if rows is not None and len(rows.t_s) < 0.9 * bins:
        found.append("coarse-bins")
    if domain.idle_w is None and (not learned.windows or present(learned)[2] < 0.5):
        found.append("learning")
    return tuple(found)

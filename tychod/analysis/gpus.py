"""GPU energy of one window: idle and dynamic, by device, by leaf; exact to the microjoule.

Each device is split on its own, so what happens on one changes nothing on another.  Its idle part
is what it draws unused in the state that it is in; the rest goes to who used it, look by look with
the energy of each.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cache
from typing import Final, NamedTuple

from tychod.analysis.allocations import Claim, claims, instances
from tychod.analysis.attribution import allocate
from tychod.analysis.booked import Booked, Doubt
from tychod.analysis.energy import ZoneWindow
from tychod.analysis.gpuidle import UNTOLD, IdleMemory, Level, Tail, idle_j, learned, level
from tychod.analysis.gpumemory import GpuMemory
from tychod.analysis.gpupieces import Looked, Seen, pieces_of
from tychod.analysis.gpureadings import by_device
from tychod.analysis.gpuseries import DeviceWindow
from tychod.analysis.gpushare import Holders, Split, claims_on, holders, looked
from tychod.analysis.gputail import evened, owed_j, tail_of
from tychod.analysis.state import Params
from tychod.model import SYSTEM_ID, UNATTRIBUTED_ID, Identity, IdleFloor, Window
from tychod.samples import GpuDevice, GpuSample, GpuSeries, GpuUse

LATE: Final = "it is from before the window, and who used it then is not known"
UNREAD_USERS: Final = "which processes use this GPU is not known"
NOT_TOLD: Final = "its use is not told"
NO_LEVEL: Final = "it was never seen unused: its idle power is not known, all is dynamic"
TOLD_SD: Final = 0.1
"""Relative error of a share by utilisation: it is time on the processors, in whole percent of a
fraction of the time, and says nothing of how hard they worked."""
PRIOR_MEANS: Final = 3
"""A level of so many quiet means is half as sure as one of very many."""


class Tenants(NamedTuple):
    """Who there is in a window."""

    identities: Mapping[int, Identity]  # by key of a cgroup, as settled
    live: Set[str]  # leaves that are there at its end


class GpuShare(NamedTuple):
    """What one GPU used in one window, and who used it."""

    uuid: str
    idle_uj: int
    dynamic_uj: int
    by_leaf: Mapping[str, int]  # adds up to ``dynamic_uj``
    idle_by_leaf: Mapping[str, int]  # adds up to ``idle_uj``
    power_w: Mapping[str, float]  # leaf -> mean dynamic power
    allocated: tuple[str, ...]  # leaves that it, or a part of it, is assigned to
    idle_w: float | None  # in its present state; None: not learned yet
    reasons: Mapping[str, int]  # why energy has no known user -> microjoules
    reason: str | None  # what is not known about its use; None: nothing


class GpuWindow(NamedTuple):
    """What a window adds to the domain ``gpu``."""

    booked: Booked
    shares: tuple[GpuShare, ...]  # in the order of the devices
    memory: Mapping[str, GpuMemory]
    reasons: Mapping[str, int]  # why energy has no known user -> microjoules


class _Used(NamedTuple):
    """Energy of one device as it is known in joules, by the meter's series."""

    total_j: float
    idle_j: float
    by_leaf: Mapping[str, float]  # above idle
    blind_j: Mapping[str, float]  # part of it by equal parts
    reasons: Mapping[str, float]  # why a part of it has no known user
    lost_j: float  # part of it from before the window
    tail: tuple[Tail, ...]
    given_j: Mapping[str, float]


class _Part(NamedTuple):
    """One device in one window."""

    share: GpuShare
    memory: GpuMemory
    doubts: Mapping[str, Doubt]
    level: Level
    lost_uj: int


def gpu_window(
    devices: Sequence[DeviceWindow],
    series: GpuSeries | None,
    tenants: Tenants,
    window: Window,
    memory: Mapping[str, GpuMemory],
    params: Params,
    others: Sequence[ZoneWindow] = (),
) -> GpuWindow:
    """Split the energy of all GPUs among the leaves; the parts add up to it exactly.

    ``others`` are meters of GPUs of which nothing else is known.
    """
    claimed = claims(tenants.identities.values(), [d.device for d in devices])
    samples = by_device(series.samples) if series else {}
    uses = by_device(series.uses) if series else {}
    parts = []
    for one in devices:
        mine = claimed.get(one.device.uuid, ())
        before = memory.get(one.device.uuid, GpuMemory())
        uuid = one.device.uuid
        seen = _seen(one.device, samples.get(uuid, ()), uses.get(uuid, ()))
        parts.append(_part(one, seen, tenants, window, mine, before, params))
    unknown_uj = sum(zone.energy_uj + zone.late_uj for zone in others)
    reasons = _summed([*(p.share.reasons for p in parts), {UNREAD_USERS: unknown_uj}])
    zones = [*(d.zone for d in devices), *others]
    after = {p.share.uuid: p.memory for p in parts}
    return GpuWindow(
        _booked(parts, unknown_uj, zones, window),
        tuple(p.share for p in parts),
        {**memory, **after},
        {reason: uj for reason, uj in reasons.items() if uj},
    )


def _part(
    one: DeviceWindow,
    seen: Seen,
    tenants: Tenants,
    window: Window,
    claimed: Sequence[Claim],
    before: GpuMemory,
    params: Params,
) -> _Part:
    held = holders(claimed, tenants.live, before.idle.allocated)
    seen = seen._replace(is_assigned=bool(held.claims))
    pieces = pieces_of(one.zone, seen)
    inside = [each.piece for each in pieces if not each.is_late]
    idle = before.idle if one.zone.broken else learned(before.idle, inside)
    used = _used(one, pieces, seen, held, tenants.identities, idle)
    assigned = [c for c in claimed if c.leaf_id in tenants.live]
    known = level(idle, _pstate(one.newest))
    share = _share(one, used, assigned, known, window, params)
    if share.reason is None and any(look.reason for look in seen.looks[-1:]):
        share = share._replace(reason=seen.looks[-1].reason)
    idle = replace(
        idle,
        allocated=share.allocated,
        tail=used.tail,
        given_j=used.given_j,
        idle_uj=idle.idle_uj + share.idle_uj,
        dynamic_uj=idle.dynamic_uj + share.dynamic_uj,
    )
    lost_uj = min(round(1e6 * used.lost_j), share.by_leaf.get(UNATTRIBUTED_ID, 0))
    doubts = _doubts(one, share, used, known, window)
    return _Part(share, replace(before, idle=idle), doubts, known, lost_uj)


def _seen(device: GpuDevice, samples: Iterable[GpuSample], uses: Iterable[GpuUse]) -> Seen:
    parts = frozenset(part.number for part in instances(device))
    looks = sorted(uses, key=lambda use: use.t_ns)
    return Seen(sorted(samples, key=_published), looks, is_assigned=False, instances=parts)


def _published(sample: GpuSample) -> int:
    return sample.published_ns


def _pstate(newest: GpuSample | None) -> int:
    return UNTOLD if newest is None or newest.pstate is None else newest.pstate


def _used(
    one: DeviceWindow,
    pieces: Sequence[Looked],
    seen: Seen,
    held: Holders,
    identities: Mapping[int, Identity],
    memory: IdleMemory,
) -> _Used:
    """Return who used how much, look by look with the energy of each."""
    idle = idle_j([each.piece for each in pieces], memory)
    above = [
        max(each.piece.energy_j - quiet, 0.0) for each, quiet in zip(pieces, idle, strict=True)
    ]

    @cache
    def split_of(at: int | None) -> Split:
        look = None if at is None else seen.looks[at]
        return looked(one.device, look, held, identities)

    by_look: dict[int | None, list[float]] = {}
    lost: list[float] = []
    for each, energy_j in zip(pieces, above, strict=True):
        is_lost = each.is_late and each.look is None
        (lost if is_lost else by_look.setdefault(each.look, [])).append(energy_j)
    total_j, lost_j = math.fsum(each.piece.energy_j for each in pieces), math.fsum(lost)
    if one.zone.late_uj and not any(each.is_late for each in pieces):  # its time is not known
        lost_j = one.zone.late_uj / 1e6
        total_j += lost_j
    found = [(split_of(at), math.fsum(energies)) for at, energies in by_look.items()]
    nobody = Split({UNATTRIBUTED_ID: 1.0}, is_told=True, reason=LATE)
    used = _by_leaf([*found, (nobody, lost_j)], total_j, math.fsum(idle), lost_j)
    tail, given_j = tail_of(pieces, above, split_of)
    by_leaf = evened(used.by_leaf, owed_j(memory, seen, split_of))
    return used._replace(by_leaf=by_leaf, tail=tail, given_j=given_j)


def _by_leaf(
    used_j: Sequence[tuple[Split, float]], total_j: float, quiet_j: float, lost_j: float
) -> _Used:
    sums: dict[str, list[float]] = {}
    blind: dict[str, list[float]] = {}
    reasons: dict[str, float] = {}
    for split, energy_j in used_j:
        for leaf, share in split.parts.items():
            sums.setdefault(leaf, []).append(share * energy_j)
            if not split.is_told:
                blind.setdefault(leaf, []).append(share * energy_j)
        unknown_j = split.parts.get(UNATTRIBUTED_ID, 0.0) * energy_j
        if unknown_j:
            reason = split.reason or NOT_TOLD
            reasons[reason] = reasons.get(reason, 0.0) + unknown_j
    return _Used(
        total_j,
        quiet_j,
        {leaf: math.fsum(found) for leaf, found in sums.items()},
        {leaf: math.fsum(found) for leaf, found in blind.items()},
        reasons,
        lost_j,
        (),
        {},
    )


def _share(
    one: DeviceWindow,
    used: _Used,
    assigned: Sequence[Claim],
    known: Level,
    window: Window,
    params: Params,
) -> GpuShare:
    """Return a device's energy in whole microjoules: exactly what its meter counted."""
    idle_uj, by_leaf = _exact(one.zone.energy_uj + one.zone.late_uj, used)
    unknown_uj = by_leaf.get(UNATTRIBUTED_ID, 0)
    why = sorted(used.reasons) or [NOT_TOLD]
    parts = allocate(unknown_uj, [used.reasons.get(reason, 1.0) for reason in why])
    reasons = {reason: uj for reason, uj in zip(why, parts, strict=True) if uj}
    seconds = max(window.seconds, 1e-9)
    return GpuShare(
        one.device.uuid,
        idle_uj,
        sum(by_leaf.values()),
        by_leaf,
        _idle_parts(one.device, idle_uj, assigned, params),
        {leaf: uj / 1e6 / seconds for leaf, uj in by_leaf.items()},
        tuple(sorted({claim.leaf_id for claim in assigned})),
        known.power_w if known.means else None,
        reasons,
        next(iter(reasons), None if known.means else NO_LEVEL),
    )


def _exact(energy_uj: int, used: _Used) -> tuple[int, dict[str, int]]:
    """Return the idle part and each leaf's; what the series says only tells how to divide."""
    scale = energy_uj / used.total_j if used.total_j > 0.0 else 0.0
    idle_uj = min(max(round(used.idle_j * scale), 0), energy_uj)
    leaves = sorted(leaf for leaf, energy_j in used.by_leaf.items() if energy_j > 0.0)
    dynamic_uj = energy_uj - idle_uj
    if not leaves:
        return idle_uj, {UNATTRIBUTED_ID: dynamic_uj} if dynamic_uj else {}
    parts = allocate(dynamic_uj, [used.by_leaf[leaf] for leaf in leaves])
    return idle_uj, {leaf: uj for leaf, uj in zip(leaves, parts, strict=True) if uj}


def _idle_parts(
    device: GpuDevice, idle_uj: int, assigned: Sequence[Claim], params: Params
) -> dict[str, int]:
    """Return who gets a device's idle energy; what is assigned to nobody is the system's."""
    weights = {SYSTEM_ID: 0.0}
    if params.gpu_idle == "allocated" and assigned:
        parts = [(part.slices, claims_on(part, assigned)) for part in instances(device)]
        parts = parts or [(1, tuple(assigned))]
        whole = max(device.slices, sum(slices for slices, _ in parts)) if device.instances else 1
        for slices, found in parts:
            replicas = sum(claim.replicas for claim in found)
            for claim in found:
                part = slices / whole * claim.replicas / replicas
                weights[claim.leaf_id] = weights.get(claim.leaf_id, 0.0) + part
        weights[SYSTEM_ID] = max(1.0 - math.fsum(weights.values()), 0.0)
    else:
        weights[SYSTEM_ID] = 1.0
    leaves = sorted(weights)
    given = allocate(idle_uj, [weights[leaf] for leaf in leaves])
    return {leaf: uj for leaf, uj in zip(leaves, given, strict=True) if uj}


def _doubts(
    one: DeviceWindow, share: GpuShare, used: _Used, known: Level, window: Window
) -> dict[str, Doubt]:
    """Return how far each leaf's part may be off; errors of a split come again, so they add up."""
    if not share.dynamic_uj:
        return {}
    level_j = known.spread_w * window.seconds
    scale = (share.idle_uj + share.dynamic_uj) / 1e6 / used.total_j if used.total_j > 0.0 else 0.0
    found = {}
    for leaf, part_uj in share.by_leaf.items():
        part = part_uj / share.dynamic_uj
        blind_j = min(used.blind_j.get(leaf, 0.0) * scale, part_uj / 1e6)
        split_j = (1.0 - part) * (blind_j + TOLD_SD * (part_uj / 1e6 - blind_j))
        found[leaf] = Doubt(part**2 * (one.sd_j**2 + level_j**2) + split_j**2, None)
    return found


def _booked(
    parts: Sequence[_Part], unknown_uj: int, zones: Sequence[ZoneWindow], window: Window
) -> Booked:
    unknown = {UNATTRIBUTED_ID: unknown_uj} if unknown_uj else {}
    by_leaf = _summed([*(p.share.by_leaf for p in parts), unknown])
    return Booked(
        sum(p.share.idle_uj for p in parts),
        sum(by_leaf.values()),
        by_leaf,
        lost_uj=sum(p.lost_uj for p in parts) + unknown_uj,
        idle_by_leaf=_summed([p.share.idle_by_leaf for p in parts]),
        doubts=_all_doubts(parts),
        flags=_flags(parts, zones),
        floor=_floor(parts, window),
        coverage=_coverage(zones, window),
    )


def _all_doubts(parts: Sequence[_Part]) -> dict[str, Doubt]:
    found: dict[str, Doubt] = {}
    for part in parts:
        for leaf, doubt in part.doubts.items():
            had = found[leaf].window_var if leaf in found else 0.0
            found[leaf] = Doubt(had + doubt.window_var, None)
    return found


def _summed(found: Sequence[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for one in found:
        for name, value in one.items():
            sums[name] = sums.get(name, 0) + value
    return sums


def _flags(parts: Sequence[_Part], zones: Sequence[ZoneWindow]) -> tuple[str, ...]:
    is_missing = any(zone.late_uj or zone.broken for zone in zones)
    is_learning = any(not part.level.means for part in parts)
    return ("missing-energy",) * is_missing + ("learning",) * is_learning


def _floor(parts: Sequence[_Part], window: Window) -> IdleFloor | None:
    """Return the idle power of all devices together, in the states that they are in."""
    if not any(part.level.means for part in parts):
        return None
    sure = [part.level.means / (part.level.means + PRIOR_MEANS) for part in parts]
    newest_ns = [part.memory.idle.updated_ns for part in parts if part.level.means]
    return IdleFloor(
        sum(part.level.power_w for part in parts),
        math.sqrt(sum(part.level.spread_w**2 for part in parts)),
        max(window.end_ns - min(newest_ns), 0) / 1e9,
        min(sure),
    )


def _coverage(zones: Sequence[ZoneWindow], window: Window) -> float | None:
    """Return the share of the window in which the meters were read; None: there is none."""
    if not zones:
        return None
    spans = [z.meter.times_ns for z in zones]
    seen_ns = [max(int(t[-1]) - max(int(t[0]), window.start_ns), 0) for t in spans if len(t)]
    return min(sum(seen_ns) / (len(zones) * max(window.end_ns - window.start_ns, 1)), 1.0)

"""Who used a GPU while it was looked at: by utilisation, by instance, or by allocation.

A process that is seen gets what it used.  Where no use is told, the processes seen share equally.
Where the device worked and nobody of those it was assigned to is seen on it (their processes are
in a pid namespace that is not ours), it is theirs, equally by what they were assigned.  What cannot
be known is ``unattributed``: nobody pays for what we fail to see of others.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from math import fsum, isfinite
from typing import Final, NamedTuple

from tychod.analysis.allocations import Claim, Instance, instances
from tychod.model import UNATTRIBUTED_ID, Identity
from tychod.samples import GpuDevice, GpuProcess, GpuUse

NOBODY: Final = "no process that uses it is visible, and it is assigned to no container"
CHANGED: Final = "its processes are not visible, and it changed hands within the window"
UNKNOWN_PROCESS: Final = "it is used by a process whose cgroup is not known"
HOLD_NS: Final = 5_000_000_000
"""A look at the processes says nothing about later than this."""
UNLOOKED: Final = f"its processes were not looked at for {HOLD_NS // 1_000_000_000} s"


class Holders(NamedTuple):
    """The leaves that a device is assigned to, in whole or in part."""

    claims: tuple[Claim, ...] = ()  # of leaves that are there, or were until within the window
    changing: frozenset[str] = frozenset()  # leaves that came or went within the window

    @property
    def leaves(self) -> frozenset[str]:
        """Ids of the leaves."""
        return frozenset(claim.leaf_id for claim in self.claims)


class Split(NamedTuple):
    """Who gets which part of the energy above idle."""

    parts: Mapping[str, float]  # leaf id -> share; they add up to 1
    is_told: bool = False  # by use that the driver told, not by equal parts
    reason: str | None = None  # why some of it is unattributed


def holders(claims: Sequence[Claim], live: Set[str], before: Sequence[str]) -> Holders:
    """Return who had a device in a window, from who has it at its end and who had it before."""
    had = frozenset(before)
    kept = tuple(c for c in claims if c.leaf_id in live or c.leaf_id in had)
    there = frozenset(c.leaf_id for c in kept if c.leaf_id in live)
    return Holders(kept, (there ^ had) if had else frozenset())


def looked(
    device: GpuDevice,
    look: GpuUse | None,
    held: Holders,
    identities: Mapping[int, Identity],
) -> Split:
    """Return the shares by one look at a device's processes; None: nobody looked."""
    if look is None:
        return _unseen(held.claims, held.changing, UNLOOKED)
    processes = merged(look.processes)
    parts = instances(device)
    if not parts:
        return _shared(processes, held.claims, held.changing, identities, look.reason)
    return _divided(parts, processes, look, held, identities)


def merged(processes: Iterable[GpuProcess]) -> tuple[GpuProcess, ...]:
    """Return each process once: one that computes and draws is listed twice."""
    found: dict[tuple[int, int | None], GpuProcess] = {}
    for one in processes:
        key = (one.pid, one.gpu_instance)
        found[key] = _joined(found[key], one) if key in found else one
    return tuple(
        found[key] for key in sorted(found, key=lambda k: (k[0], -1 if k[1] is None else k[1]))
    )


def _joined(one: GpuProcess, other: GpuProcess) -> GpuProcess:
    return one._replace(
        key=other.key if one.key is None else one.key,
        sm_percent=_most(one.sm_percent, other.sm_percent),
        memory_percent=_most(one.memory_percent, other.memory_percent),
        encoder_percent=_most(one.encoder_percent, other.encoder_percent),
        decoder_percent=_most(one.decoder_percent, other.decoder_percent),
    )


def _most(one: float | None, other: float | None) -> float | None:
    told = [x for x in (one, other) if x is not None]
    return max(told, key=percent, default=None)


def percent(value: float | None) -> float:
    """Return a utilisation as 0 to 100; drivers were seen to tell more, and 999 for unknown."""
    return min(max(value, 0.0), 100.0) if value is not None and isfinite(value) else 0.0


def is_used(process: GpuProcess) -> bool:
    """Say whether a process was told to have used anything of its device."""
    return any(percent(value) > 0.0 for value in _told(process))


def is_told(process: GpuProcess) -> bool:
    """Say whether the driver told anything about a process's use."""
    return any(value is not None for value in _told(process))


def _told(process: GpuProcess) -> tuple[float | None, ...]:
    return (
        process.sm_percent,
        process.memory_percent,
        process.encoder_percent,
        process.decoder_percent,
    )


def _weights(processes: Sequence[GpuProcess]) -> tuple[list[float], bool]:
    """Return each process's part, and whether it is by use.

    By the share of time on the processors; where there is none, by memory traffic, by video
    engines.  Those of which nothing is told come in only where nobody is known to have used it.
    """
    for weights in (
        [percent(p.sm_percent) for p in processes],
        [percent(p.memory_percent) for p in processes],
        [percent(p.encoder_percent) + percent(p.decoder_percent) for p in processes],
    ):
        if any(weights):
            return weights, True
    return [0.0 if is_told(p) else 1.0 for p in processes], False


def _shared(
    processes: Sequence[GpuProcess],
    claims: Sequence[Claim],
    changing: Set[str],
    identities: Mapping[int, Identity],
    reason: str | None,
    *,
    is_instance: bool = False,
) -> Split:
    """Return the shares within one device that is not divided, or within one instance.

    Who is in an instance has it to himself, so there it suffices to be seen.
    """
    weights, is_by_use = _weights(processes)
    if is_instance and not any(weights):
        weights = [1.0] * len(processes)
    total = fsum(weights)
    if not total:
        return _unseen(claims, changing, reason or NOBODY)
    by_leaf: dict[str | None, list[float]] = {}
    reasons: list[str] = []
    for process, weight in zip(processes, weights, strict=True):
        who = identities.get(process.key) if process.key is not None else None
        by_leaf.setdefault(who.id if who else None, []).append(weight / total)
        if weight and who and who.id == UNATTRIBUTED_ID and who.reason:
            reasons.append(who.reason)
    parts = {leaf: fsum(found) for leaf, found in by_leaf.items() if leaf is not None}
    unknown = fsum(by_leaf.get(None, ()))
    parts = {leaf: part for leaf, part in parts.items() if part}
    if not unknown:
        return Split(parts, is_by_use, min(reasons, default=None))
    # Pids of another namespace are listed and cannot be found.  That one of those whom the device
    # is assigned to is seen shows that theirs can: then the process is somebody else's.
    is_hidden = not any(c.leaf_id in by_leaf for c in claims)
    rest = _unseen(claims if is_hidden else (), changing, UNKNOWN_PROCESS)
    return _mixed([(1.0, Split(parts, is_by_use, min(reasons, default=None))), (unknown, rest)])


def _unseen(claims: Sequence[Claim], changing: Set[str], reason: str) -> Split:
    """Return the shares where no user is seen: equal by what was assigned."""
    leaves = {claim.leaf_id for claim in claims}
    if not claims or (len(leaves) > 1 and leaves & changing):
        return Split({UNATTRIBUTED_ID: 1.0}, False, CHANGED if claims else reason)
    total = sum(claim.replicas for claim in claims)
    parts: dict[str, float] = {}
    for claim in claims:
        parts[claim.leaf_id] = parts.get(claim.leaf_id, 0.0) + claim.replicas / total
    return Split(parts, False)


def _divided(
    parts: Sequence[Instance],
    processes: Sequence[GpuProcess],
    look: GpuUse,
    held: Holders,
    identities: Mapping[int, Identity],
) -> Split:
    """Return the shares on a divided device: slices x activity, normalised to what was measured.

    A process in an instance that is not listed counts as one slice: there are no smaller ones.
    """
    listed = {part.number for part in parts}
    strays = [p for p in processes if p.gpu_instance not in listed]
    groups = [(part, [p for p in processes if p.gpu_instance == part.number]) for part in parts]
    if strays:
        groups.append((Instance(-1, 1, frozenset()), strays))
    told = dict(look.activity)
    weights = [p.slices * _activity(p, found, told) for p, found in groups]
    if not any(weights):  # nobody is seen: the instances that are assigned, by their size
        weights = [float(p.slices) if claims_on(p, held.claims) else 0.0 for p, _ in groups]
    if not any(weights):
        return _unseen((), held.changing, look.reason or NOBODY)
    total = fsum(weights)
    found = []
    for (part, inside), weight in zip(groups, weights, strict=True):
        if weight:
            claims = claims_on(part, held.claims)
            who = _shared(inside, claims, held.changing, identities, look.reason, is_instance=True)
            found.append((weight / total, who))
    return _mixed(found)


def _activity(part: Instance, found: Sequence[GpuProcess], told: Mapping[int, float]) -> float:
    if part.number in told:
        return percent(100.0 * told[part.number]) / 100.0
    return 1.0 if found else 0.0


def claims_on(part: Instance, claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """Return the claims to an instance; who has the whole device has each of its instances."""
    return tuple(c for c in claims if c.instance is None or c.instance in part.uuids)


def _mixed(found: Sequence[tuple[float, Split]]) -> Split:
    """Return the weighted sum of splits."""
    parts: dict[str, list[float]] = {}
    for weight, split in found:
        for leaf, part in split.parts.items():
            parts.setdefault(leaf, []).append(weight * part)
    reasons = [split.reason for _, split in found if split.reason]
    return Split(
        {leaf: fsum(values) for leaf, values in parts.items()},
        all(split.is_told for _, split in found),
        reasons[0] if reasons else None,
    )

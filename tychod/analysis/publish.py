"""State after a window -> the immutable snapshot that everything downstream sees."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from tychod.analysis.booked import Booked
from tychod.analysis.energy import GPU, PLATFORM, UnreadZone, ZoneWindow
from tychod.analysis.hardware import Hardware, gpu_rows, platform_domain, uuid_of
from tychod.analysis.machines import Machines
from tychod.analysis.pmu import Counts
from tychod.analysis.processes import Processed, list_processes
from tychod.analysis.state import Account, DomainAccount, Observations, Params, State
from tychod.model import (
    Domain,
    Energy,
    Leaf,
    Processes,
    Quality,
    Snapshot,
    Window,
    Zone,
)
from tychod.samples import EnergyZone
from tychod.views import PROCESS_MARK

NONE: Final = Energy()
NO_COUNTS: Final[Mapping[str, int]] = MappingProxyType({})


class Shown(NamedTuple):
    """What was made of one window."""

    zones: Sequence[ZoneWindow]
    unread: Sequence[UnreadZone]
    booked: Mapping[str, Booked]
    processed: Processed
    counts: Counts  # hardware counters
    machines: Machines


class Seen(NamedTuple):
    """One window, and what it showed."""

    window: Window
    observations: Observations
    gap: bool  # it spans a restart
    shown: Shown
    hardware: Hardware


def snapshot(state: State, seen: Seen, params: Params) -> Snapshot:
    """Build the snapshot of a window from the state after it."""
    names = dict.fromkeys([*state.domains, *(zone.zone.domain for zone in seen.shown.unread)])
    domains = {name: _domain(name, state, seen, params) for name in names}
    platform = seen.hardware.platform
    return Snapshot(
        sequence=state.sequence,
        window=seen.window,
        since_ns=state.since_ns or 0,
        wall_offset_ns=seen.observations.wall_offset_ns,
        gap=seen.gap,
        domains=domains,
        leaves=_leaves(state, seen),
        conservation_violations=state.violations,
        processes=_processes(state, seen),
        idle_policy=params.idle_policy,
        gpu_idle_policy=params.gpu_idle,
        views=_views(state, seen),
        folded=state.folded,
        gpus=gpu_rows(seen.hardware, domains[GPU].zones if GPU in domains else (), seen.window),
        fit=platform.fit if platform else None,
        residual=platform.residual if platform else None,
    )


def _processes(state: State, seen: Seen) -> Processes | None:
    told = seen.observations.processes
    if told is None:
        return None
    names, booked = _attributed(state), list(seen.shown.booked)
    return list_processes(told, seen.shown.processed, names, booked, seen.window)


def _attributed(state: State) -> list[str]:
    return [name for name, total in state.domains.items() if total.attributed]


def _domain(name: str, state: State, seen: Seen, params: Params) -> Domain:
    total = state.domains.get(name, DomainAccount())
    if name == PLATFORM and seen.hardware.platform is not None:
        return platform_domain(seen.hardware.platform, total)
    zones = [zone for zone in seen.shown.zones if zone.zone.domain == name]
    unread = [zone for zone in seen.shown.unread if zone.zone.domain == name]
    shown = (*(_zone(z, seen.window, params) for z in zones), *(_unread(z) for z in unread))
    powers = [zone.power_w for zone in shown if zone.power_w is not None]
    reasons = [f"{zone.name}: {zone.reason}" for zone in shown if zone.reason]
    sources = [*(zone.source for zone in zones), *(zone.source for zone in unread)]
    part = seen.shown.booked.get(name)
    return Domain(
        source=sources[0] if sources else "none",
        quality=_quality_of([zone.quality for zone in shown]),
        reason="; ".join(reasons) or (None if shown else "no source reads it now"),
        through_ns=min((zone.point.t_ns for zone in zones), default=None),
        energy_uj=total.energy_uj,
        idle_uj=total.split.idle_uj if total.attributed else None,
        dynamic_uj=total.split.dynamic_uj if total.attributed else None,
        power_w=sum(powers) if powers else None,
        zones=shown,
        idle_floor=part.floor if part else None,
        coverage=part.coverage if part else None,
        flags=part.flags if part else (),
    )


def _unread(zone: UnreadZone) -> Zone:
    name, socket, uuid = zone.zone.name, zone.zone.socket, _uuid(zone.zone)
    return Zone(name, socket, 0, None, "unavailable", zone.reason, uuid, zone.method)


def _uuid(zone: EnergyZone) -> str | None:
    return uuid_of(zone.key) if zone.domain == GPU else None


def _zone(zone: ZoneWindow, window: Window, params: Params) -> Zone:
    fresh = zone.point.t_ns >= window.end_ns - params.stale_ns
    moved_uj = zone.energy_uj + zone.late_uj
    quality: Quality = "modelled" if zone.quality == "modelled" else "measured"
    return Zone(
        name=zone.zone.name,
        socket=zone.zone.socket,
        energy_uj=zone.point.booked_uj,
        power_w=moved_uj * 1_000 / zone.covered_ns if fresh and zone.covered_ns else None,
        quality=quality if fresh else "stale",
        reason=zone.reason or (None if fresh else "no new reading in this window"),
        uuid=_uuid(zone.zone),
        method=zone.method,
        interval_s=zone.interval_ns / 1e9 if zone.interval_ns else None,
    )


def _quality_of(zones: Sequence[Quality]) -> Quality:
    """Return a domain's quality; one that lacks a part of its zones is not whole: ``stale``."""
    present: set[Quality] = set(zones)
    if not present or present == {"unavailable"}:
        return "unavailable"
    if present & {"unavailable", "stale"}:
        return "stale"
    return "modelled" if "modelled" in present else "measured"


class _Part(NamedTuple):
    """One domain of all leaves in one window."""

    name: str
    booked: Booked | None  # None: nothing was booked in it


def _leaves(state: State, seen: Seen) -> tuple[Leaf, ...]:
    parts = [_Part(name, seen.shown.booked.get(name)) for name in _attributed(state)]
    return tuple(_leaf(i, account, parts, seen) for i, account in sorted(state.accounts.items()))


def _leaf(leaf_id: str, account: Account, parts: Sequence[_Part], seen: Seen) -> Leaf:
    had, spread, seconds = account.energy, account.spread, seen.window.seconds
    energy, sd_uj, window_sd_uj, intensity = {}, {}, {}, {}
    power_w: dict[str, float | None] = {}
    flags: tuple[str, ...] = ("carved",) if PROCESS_MARK in (account.identity.cgroup or "") else ()
    for name, part in parts:  # for hundreds of leaves in a window: no calls
        energy[name] = had.get(name, NONE)
        sd_uj[name] = 1e6 * math.sqrt(spread.get(name, 0.0))
        if part is None:
            power_w[name] = None
            continue
        moved_uj = part.by_leaf.get(leaf_id, 0) + part.idle_by_leaf.get(leaf_id, 0)
        power_w[name] = moved_uj / 1e6 / seconds
        flags += part.leaf_flags.get(leaf_id, ())
        doubt = part.doubts.get(leaf_id)
        window_sd_uj[name] = 0.0 if doubt is None else 1e6 * math.sqrt(doubt.window_var)
        if leaf_id in part.intensity:
            intensity[name] = part.intensity[leaf_id]
    return Leaf(
        account.identity,
        _state_of(account),
        account.first_seen_ns,
        account.cpu_ns,
        energy,
        power_w,
        seen.shown.counts.get(leaf_id, NO_COUNTS),
        sd_uj,
        window_sd_uj,
        intensity,
        tuple(dict.fromkeys(flags)) if flags else (),
        _ended_wall_ns(account, seen),
        account.ended_sequence,
        account.vcpu_ns,
    )


def _state_of(account: Account) -> Literal["running", "terminated"]:
    return "running" if account.ended_ns is None else "terminated"


def _ended_wall_ns(account: Account, seen: Seen) -> int | None:
    if account.ended_ns is None:
        return None
    return account.ended_ns + seen.observations.wall_offset_ns


def _views(state: State, seen: Seen) -> tuple[Leaf, ...]:
    names = _attributed(state)
    return tuple(
        _view(view_id, account, names, seen) for view_id, account in sorted(state.views.items())
    )


def _view(view_id: str, account: Account, names: Sequence[str], seen: Seen) -> Leaf:
    """Return a machine inside another leaf: how far its part may be off, nobody has worked out."""
    won_uj, seconds = seen.shown.machines.won_uj.get(view_id, {}), seen.window.seconds
    return Leaf(
        account.identity,
        _state_of(account),
        account.first_seen_ns,
        account.cpu_ns,
        {name: account.energy.get(name, NONE) for name in names},
        {n: won_uj.get(n, 0) / 1e6 / seconds if n in seen.shown.booked else None for n in names},
        ended_ns=_ended_wall_ns(account, seen),
        vcpu_ns=account.vcpu_ns,
    )

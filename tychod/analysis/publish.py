"""State after a window -> the immutable snapshot that everything downstream sees."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from tychod.analysis.energy import ZoneWindow
from tychod.analysis.state import Account, DomainAccount, Observations, Params, State
from tychod.model import (
    SYSTEM_ID,
    Domain,
    Energy,
    Leaf,
    Quality,
    Snapshot,
    Window,
    Zone,
)

NONE: Final = Energy()


class Booked(NamedTuple):
    """What one window adds in one domain, in microjoules."""

    idle_uj: int
    dynamic_uj: int
    by_leaf: Mapping[str, int]  # dynamic; adds up to ``dynamic_uj``
    unused_uj: int  # part of it that no CPU time explains


def snapshot(
    state: State,
    window: Window,
    observations: Observations,
    zones: Sequence[ZoneWindow],
    booked: Mapping[str, Booked],
    params: Params,
    *,
    gap: bool,
) -> Snapshot:
    """Build the snapshot of ``window`` from the state after it."""
    by_domain: dict[str, list[ZoneWindow]] = {}
    for zone in zones:
        by_domain.setdefault(zone.zone.domain, []).append(zone)
    domains = {
        name: _domain(total, by_domain.get(name, []), window, params)
        for name, total in state.domains.items()
    }
    return Snapshot(
        sequence=state.sequence,
        window=window,
        since_ns=state.since_ns or 0,
        wall_offset_ns=observations.wall_offset_ns,
        gap=gap,
        domains=domains,
        leaves=_leaves(state, window, booked),
        conservation_violations=state.violations,
    )


def _domain(
    total: DomainAccount, zones: Sequence[ZoneWindow], window: Window, params: Params
) -> Domain:
    shown = tuple(_zone(zone, window, params) for zone in zones)
    powers = [zone.power_w for zone in shown if zone.power_w is not None]
    quality = _worst([zone.quality for zone in shown])
    reasons = [f"{zone.name}: {zone.reason}" for zone in shown if zone.reason]
    attributed = total.attributed
    return Domain(
        source=zones[0].source if zones else "none",
        quality=quality,
        reason="; ".join(reasons) or (None if zones else "no source reads it now"),
        through_ns=min((zone.point.t_ns for zone in zones), default=None),
        energy_uj=total.energy_uj,
        idle_uj=total.split.idle_uj if attributed else None,
        dynamic_uj=total.split.dynamic_uj if attributed else None,
        power_w=sum(powers) if powers else None,
        zones=shown,
    )


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
    )


def _worst(qualities: Sequence[Quality]) -> Quality:
    order: tuple[Quality, ...] = ("unavailable", "stale", "modelled", "measured")
    return next((q for q in order if q in qualities), "unavailable")


def _leaves(state: State, window: Window, booked: Mapping[str, Booked]) -> tuple[Leaf, ...]:
    names = [name for name, total in state.domains.items() if total.attributed]
    return tuple(
        _leaf(leaf_id, account, names, window, booked)
        for leaf_id, account in sorted(state.accounts.items())
    )


def _leaf(
    leaf_id: str,
    account: Account,
    names: Sequence[str],
    window: Window,
    booked: Mapping[str, Booked],
) -> Leaf:
    had, seconds = account.energy, window.seconds
    energy, power_w = {}, {}
    for name in names:
        energy[name] = had.get(name, NONE)
        part = booked.get(name)
        power_w[name] = _window_uj(leaf_id, part) / 1e6 / seconds if part else None
    state: Literal["running", "terminated"] = (
        "running" if account.ended_ns is None else "terminated"
    )
    return Leaf(account.identity, state, account.first_seen_ns, account.cpu_ns, energy, power_w)


def _window_uj(leaf_id: str, part: Booked) -> int:
    return part.by_leaf.get(leaf_id, 0) + (part.idle_uj if leaf_id == SYSTEM_ID else 0)

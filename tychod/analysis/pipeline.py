"""One window: observations and state in, snapshot and state out (design.md 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from tychod.analysis import ledger
from tychod.analysis.attribution import allocate, dynamic_bins, weights
from tychod.analysis.booked import Booked
from tychod.analysis.cpu import CpuWindow, cpu_window
from tychod.analysis.energy import (
    DomainWindow,
    ZoneWindow,
    attributed_domains,
    chosen_series,
    domain_windows,
    unread_zones,
    zone_windows,
)
from tychod.analysis.idle import floor_w, observe
from tychod.analysis.owners import Owners, owners
from tychod.analysis.pmu import leaf_counts
from tychod.analysis.processes import book_processes, leaf_windows
from tychod.analysis.publish import Seen, snapshot
from tychod.analysis.state import (
    Account,
    DomainAccount,
    IdlePoint,
    Observations,
    Params,
    State,
    ZonePoint,
)
from tychod.model import SYSTEM_ID, UNATTRIBUTED_ID, Energy, Identity, Snapshot, Window
from tychod.samples import Int64s

SHORTEST_BIN_S: Final = 0.1
"""The idle floor learns nothing from slivers between a sample and a window's end."""
NO_ACTIVITY = "energy was used while no CPU time was observed"


def analyse(
    observations: Observations, window: Window, state: State, params: Params
) -> tuple[Snapshot, State]:
    """Book one window.  Pure: the same arguments give the same result."""
    cpu = cpu_window(observations.cpu, window, state)
    chosen = chosen_series(observations.energy)
    edges_ns = cpu.edges_ns
    zones = [z for s in chosen for z in zone_windows(s, window, edges_ns, state, params)]
    unread = [zone for series in chosen for zone in unread_zones(series, state)]
    known = {zone.domain for series in chosen for zone in series.zones}
    domains = domain_windows(zones)
    idle = _observe_idle(domains, cpu, window, state, params)
    owned = owners(cpu, observations, state.accounts)
    booked = {
        name: _attribute(domains[name], _idle_w(domains[name], idle), owned, edges_ns)
        for name in attributed_domains(domains, known)
    }
    reason = _unattributed_reason(domains, owned, booked)
    accounts = _book(state, window, observations, params, owned, booked, reason)
    totals = _domain_totals(state, domains, booked)
    used = leaf_windows(owned, booked)
    processed = book_processes(observations, window, state, params, accounts, used)
    after = State(
        sequence=state.sequence + 1,
        since_ns=state.since_ns or window.start_ns + observations.wall_offset_ns,
        end_ns=window.end_ns,
        zones=_zone_points(state, zones),
        domains=totals,
        accounts=accounts,
        idle=idle,
        consumed_ns=cpu.consumed_ns,
        cpu_run=cpu.run,
        cpu_end=cpu.at_end or (state.cpu_end if cpu.run == state.cpu_run else None),
        violations=state.violations + _violations(accounts, totals),
        processes=processed.state,
        counters=observations.cpu.counters if observations.cpu else None,
    )
    counts = leaf_counts(state.counters, after.counters, owned.leaf_of)
    seen = Seen(window, observations, zones, unread, booked, state.restarted, processed, counts)
    return snapshot(after, seen, params), after


def _observe_idle(
    domains: Mapping[str, DomainWindow],
    cpu: CpuWindow,
    window: Window,
    state: State,
    params: Params,
) -> dict[str, IdlePoint]:
    """Teach the idle floor of each measured domain what this window showed."""
    found = dict(state.idle)
    if not _is_busy_known(cpu, window, state, params):
        return found
    lengths_s = np.diff(cpu.edges_ns) / 1e9
    busy = np.minimum(cpu.used_ns.sum(axis=1) / 1e9 / (params.cpus * lengths_s), 1.0).tolist()
    for name, domain in domains.items():
        whole_ns = window.end_ns - window.start_ns  # no more and no less, or bins show no power
        whole = all((z.point.t_ns, z.covered_ns) == (window.end_ns, whole_ns) for z in domain.zones)
        if domain.idle_w is not None or not whole:
            continue
        bins = zip(busy, domain.bins_uj.tolist(), lengths_s.tolist(), strict=True)
        for share, energy_uj, seconds in bins:
            if seconds >= SHORTEST_BIN_S:
                point = found.get(name, IdlePoint())
                found[name] = observe(point, share, energy_uj / 1e6 / seconds, seconds)
    return found


def _is_busy_known(cpu: CpuWindow, window: Window, state: State, params: Params) -> bool:
    """Say whether this window's CPU time is all that was used in it, and nothing from before it.

    Without this a node whose CPU time cannot be read would look idle at whatever power it draws.
    """
    if state.restarted or state.cpu_end is None or cpu.at_end is None:
        return False
    return (
        state.cpu_end.t_ns >= window.start_ns - params.late_tolerance_ns
        and cpu.at_end.t_ns >= window.end_ns - params.late_tolerance_ns
        and cpu.run == state.cpu_run
    )


def _idle_w(domain: DomainWindow, idle: Mapping[str, IdlePoint]) -> float:
    if domain.idle_w is not None:
        return domain.idle_w
    return floor_w(idle[domain.name]) if domain.name in idle else 0.0


def _attribute(domain: DomainWindow, idle_w: float, owned: Owners, edges_ns: Int64s) -> Booked:
    """Split one domain's energy of the window; the parts add up to it exactly."""
    covered_ns = [min(z.covered_ns, int(edges_ns[-1] - edges_ns[0])) for z in domain.zones]
    zone_idle_w = idle_w / len(covered_ns)  # a zone that was not read has no idle energy either
    idle_uj = min(domain.energy_uj, int(zone_idle_w * sum(covered_ns) / 1_000))
    dynamic_uj = domain.energy_uj - idle_uj
    seen_idle_w = zone_idle_w * sum(1 for ns in covered_ns if ns)
    bins = dynamic_bins(domain.bins_uj, seen_idle_w, edges_ns)
    shares, unused = weights(bins, owned.used_ns)
    if not shares.any() and not unused:  # no bin shows energy: share by the whole window's time
        shares = owned.used_ns.sum(axis=0).astype(float)
    parts = allocate(dynamic_uj, [*shares.tolist(), unused])
    by_leaf = {leaf.id: part for leaf, part in zip(owned.leaves, parts[:-1], strict=True) if part}
    rest = dynamic_uj - sum(by_leaf.values())
    lost = rest + domain.late_uj
    if lost:
        by_leaf[UNATTRIBUTED_ID] = by_leaf.get(UNATTRIBUTED_ID, 0) + lost
    return Booked(idle_uj, dynamic_uj + domain.late_uj, by_leaf, rest, lost)


def _unattributed_reason(
    domains: Mapping[str, DomainWindow], owned: Owners, booked: Mapping[str, Booked]
) -> str | None:
    """Say why energy of this window has no known user, the weightiest cause first."""
    late = [
        f"{zone.zone.name} could not be read for {zone.covered_ns / 1e9:.0f} s"
        for name in booked
        for zone in domains[name].zones
        if zone.late_uj
    ]
    unused = [NO_ACTIVITY] if any(b.unused_uj for b in booked.values()) else []
    by_time = sorted(owned.unattributed_reasons.items(), key=lambda item: (-item[1], item[0]))
    found = [*late, *(reason for reason, _ in by_time), *unused]
    return "; ".join(found[:3]) or None


def _book(
    state: State,
    window: Window,
    observations: Observations,
    params: Params,
    owned: Owners,
    booked: Mapping[str, Booked],
    reason: str | None,
) -> dict[str, Account]:
    """Return the accounts after this window: opened, booked, ended and evicted."""
    now_wall_ns = window.start_ns + observations.wall_offset_ns
    accounts = ledger.with_fixed(state.accounts, now_wall_ns)
    used = owned.used_ns.sum(axis=0).tolist()
    present = [
        ledger.Seen(leaf, owned.inodes.get(leaf.id), leaf.id in owned.live)
        for leaf, spent in zip(owned.leaves, used, strict=True)
        if spent or leaf.id in accounts or (leaf.id in owned.live and _is_listed_idle(leaf))
    ]
    ledger.admit(accounts, present, now_wall_ns)
    spent_ns = {leaf.id: ns for leaf, ns in zip(owned.leaves, used, strict=True) if ns}
    for leaf_id, more in _gains(booked).items():
        accounts[leaf_id] = ledger.add(accounts[leaf_id], more, spent_ns.pop(leaf_id, 0))
    for leaf_id, ns in spent_ns.items():  # CPU time without energy
        accounts[leaf_id] = ledger.add(accounts[leaf_id], {}, ns)
    unknown = accounts[UNATTRIBUTED_ID]
    told = replace(unknown.identity, reason=reason or state_reason(state))
    accounts[UNATTRIBUTED_ID] = replace(unknown, identity=told)
    ledger.end_absent(accounts, owned.live, window.end_ns)
    ledger.evict_old(accounts, window.end_ns, params)
    return accounts


def _gains(booked: Mapping[str, Booked]) -> dict[str, dict[str, Energy]]:
    """Return what each leaf gains in this window, by domain: ``system`` the idle energy alone."""
    gains: dict[str, dict[str, Energy]] = {}
    for domain, part in booked.items():
        gains.setdefault(SYSTEM_ID, {})[domain] = Energy(part.idle_uj)
        for leaf_id, dynamic_uj in part.by_leaf.items():
            gains.setdefault(leaf_id, {})[domain] = Energy(0, dynamic_uj)
    return gains


def state_reason(state: State) -> str | None:
    """Return the reason that ``unattributed`` showed last."""
    known = state.accounts.get(UNATTRIBUTED_ID)
    return known.identity.reason if known else None


def _is_listed_idle(leaf: Identity) -> bool:
    """Slices and pod cgroups only group others: they are listed once they used something."""
    return leaf.kind in ledger.ENDING_KINDS and not leaf.name.endswith(".slice")


def _domain_totals(
    state: State, domains: Mapping[str, DomainWindow], booked: Mapping[str, Booked]
) -> dict[str, DomainAccount]:
    found = dict(state.domains)
    for name, domain in domains.items():
        had = found.get(name, DomainAccount())
        part = booked.get(name)
        split = had.split
        if part:
            split = Energy(split.idle_uj + part.idle_uj, split.dynamic_uj + part.dynamic_uj)
        energy_uj = had.energy_uj + domain.energy_uj + domain.late_uj
        found[name] = DomainAccount(energy_uj, split, had.attributed or part is not None)
    return found


def _zone_points(state: State, zones: Sequence[ZoneWindow]) -> dict[str, ZonePoint]:
    """Return all points; one whose domain something else has counted begins anew when it is back.

    A model counts its whole domain, so it takes over from another model too (other settings).
    """
    sources: dict[str, set[str]] = {}
    for zone in zones:
        sources.setdefault(zone.zone.domain, set()).add(zone.source)
    if "psys" in sources:  # no model of the package runs beside it
        sources.setdefault("package", sources["psys"])
    models = {zone.source for zone in zones if zone.quality == "modelled"}
    found = {}
    for key, point in state.zones.items():
        now, own = sources.get(point.domain, set()), key.partition(":")[0]
        is_over = bool(now) and (own not in now or own in models)
        found[key] = point._replace(native_uj=None) if is_over else point
    return found | {zone.zone.key: zone.point for zone in zones}


def _violations(accounts: dict[str, Account], totals: Mapping[str, DomainAccount]) -> int:
    """Check promise 1 in every window; anything but 0 is a fault of ours and is shown."""
    split = {name: total.split for name, total in totals.items() if total.attributed}
    return ledger.violations(accounts, split)

"""One window: observations and state in, snapshot and state out (design.md 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tychod.analysis import ledger
from tychod.analysis.booked import Booked, Doubt
from tychod.analysis.carve import Carved, carve
from tychod.analysis.cpu import CpuWindow, cpu_window
from tychod.analysis.domain import attribute
from tychod.analysis.energy import (
    GPU,
    OTHER,
    PLATFORM,
    Chosen,
    DomainWindow,
    UnreadZone,
    ZoneWindow,
    attributed_domains,
    chosen_series,
    domain_windows,
    unread_zones,
    zone_windows,
)
from tychod.analysis.folded import Folded
from tychod.analysis.gpus import GpuWindow
from tychod.analysis.hardware import Devices, Hardware, devices_of, platform_series, share_gpus
from tychod.analysis.learned import Learned
from tychod.analysis.machines import book_machines, leaf_of_process
from tychod.analysis.models import Activity
from tychod.analysis.owners import Owners, owners
from tychod.analysis.platform import platform_window
from tychod.analysis.platform_shown import PlatformWindow
from tychod.analysis.pmu import leaf_counts
from tychod.analysis.policy import idle_parts
from tychod.analysis.processes import LeafWindows, book_processes, leaf_windows
from tychod.analysis.publish import Seen, Shown, snapshot
from tychod.analysis.state import (
    Account,
    DomainAccount,
    Observations,
    Params,
    State,
    ZonePoint,
)
from tychod.model import UNATTRIBUTED_ID, Energy, Identity, Snapshot, Window

SHARED = frozenset({GPU, OTHER})
"""Domains that several sources have at one time: none of them takes another's place."""
NO_ACTIVITY = "energy was used while no CPU time was observed"


class _Split(NamedTuple):
    """Everybody's part of a window's energy, before idle energy is shared."""

    owned: Owners
    activity: Activity
    booked: dict[str, Booked]
    learned: dict[str, Learned]
    used: LeafWindows
    gpus: GpuWindow | None


def analyse(
    observations: Observations, window: Window, state: State, params: Params
) -> tuple[Snapshot, State]:
    """Book one window.  Pure: the same arguments give the same result."""
    carved = carve(cpu_window(observations.cpu, window, state), observations, window, state)
    cpu, observations = carved.cpu, carved.observations
    chosen = chosen_series(observations.energy)
    devices = devices_of(observations, window, state, params)
    zones, unread, known = _metered(chosen, devices, window, state, params)
    domains = domain_windows(zones)
    split = _split(carved, domains, known, devices, window, state, params)
    owned, gpus, booked = split.owned, split.gpus, split.booked
    platform, after_platform = platform_window(
        platform_series(chosen), domains, window, state.platform, params
    )
    reason = _unattributed_reason(domains, owned, booked, gpus)
    accounts, folded, booked = _book(state, window, observations, params, owned, booked, reason)
    totals = _domain_totals(state, domains, booked, platform)
    vms = book_machines(carved, split.used, accounts, state, window, params)
    processed = book_processes(observations, window, state, params, accounts, split.used)
    after = replace(
        _advanced(state, window, observations, cpu),
        zones=_zone_points(state, zones),
        domains=totals,
        accounts=accounts,
        learned=split.learned,
        violations=state.violations + _violations(accounts, totals),
        processes=processed.state,
        folded=folded,
        vms=vms.points,
        views=vms.views,
        gpus=gpus.memory if gpus else devices.memory,
        platform=after_platform,
    )
    shown = Shown(zones, unread, booked, processed, split.activity.counts, vms)
    hardware = Hardware(devices, gpus, platform)
    seen = Seen(window, observations, state.restarted, shown, hardware)
    return snapshot(after, seen, params), after


def _advanced(state: State, window: Window, observations: Observations, cpu: CpuWindow) -> State:
    """Return the state at the window's end, with how far CPU time was credited."""
    return replace(
        state,
        sequence=state.sequence + 1,
        since_ns=state.since_ns or window.start_ns + observations.wall_offset_ns,
        end_ns=window.end_ns,
        restarted=False,
        consumed_ns=cpu.consumed_ns,
        cpu_run=cpu.run,
        cpu_end=cpu.at_end or (state.cpu_end if cpu.run == state.cpu_run else None),
        counters=observations.cpu.counters if observations.cpu else None,
    )


def _split(
    carved: Carved,
    domains: Mapping[str, DomainWindow],
    known: set[str],
    devices: Devices,
    window: Window,
    state: State,
    params: Params,
) -> _Split:
    """Say who used how much of each domain.

    Who used a GPU is not told by CPU time, so no process and no machine in a leaf shares that.
    """
    observations = carved.observations
    owned = owners(carved.cpu, observations, state.accounts)
    activity = _activity_of(carved, owned, window, state, params)
    booked, learned = _attributed(domains, known, activity, state)
    used = leaf_windows(owned, booked, leaf_of_process(carved, owned.leaf_of))
    gpus = share_gpus(devices, domains, observations, owned, window, params)
    if gpus is not None:
        booked[GPU] = gpus.booked
    return _Split(owned, activity, booked, learned, used, gpus)


def _metered(
    chosen: Sequence[Chosen], devices: Devices, window: Window, state: State, params: Params
) -> tuple[list[ZoneWindow], list[UnreadZone], set[str]]:
    """Return what the meters show, which cannot be read, and the domains that have any.

    The platform is none of them: it is put together from late readings and the others.
    """
    parts = [(series, domains - {PLATFORM}) for series, domains in chosen]
    zones = [z for s, own in parts for z in zone_windows(s, window, state, params, own)]
    unread = [zone for s, own in parts for zone in unread_zones(s, state, own)]
    known = {name for _, own in parts for name in own}
    return [*zones, *(d.zone for d in devices.read)], [*unread, *devices.unread], known


def _activity_of(
    carved: Carved, owned: Owners, window: Window, state: State, params: Params
) -> Activity:
    cpu, observations = carved.cpu, carved.observations
    counters = observations.cpu.counters if observations.cpu else None
    return Activity(
        window,
        cpu,
        owned,
        observations.cpu,
        leaf_counts(state.counters, counters, owned.leaf_of, carved.shares),
        params.cpus,
        _is_busy_known(observations, cpu, window, state, params),
    )


def _attributed(
    domains: Mapping[str, DomainWindow], known: set[str], activity: Activity, state: State
) -> tuple[dict[str, Booked], dict[str, Learned]]:
    """Split each domain among the leaves, and return what was learned by it."""
    learned = dict(state.learned)
    booked: dict[str, Booked] = {}
    for name in attributed_domains(domains, known):
        booked[name], more = attribute(domains[name], activity, learned)
        learned |= more
    return booked, learned


def _is_busy_known(
    observations: Observations, cpu: CpuWindow, window: Window, state: State, params: Params
) -> bool:
    """Say whether this window's CPU time is all that was used in it, and nothing from before it.

    Without this a node whose CPU time cannot be read would look idle at whatever power it draws.
    """
    if state.restarted or observations.cpu is None or cpu.at_end is None:
        return False
    if state.end_ns is None:  # the first window of all: nothing from before is in it
        return observations.cpu.samples[0].t_ns <= window.start_ns and all(cpu.seen)
    return (
        state.cpu_end is not None
        and state.cpu_end.t_ns >= window.start_ns - params.late_tolerance_ns
        and cpu.at_end.t_ns >= window.end_ns - params.late_tolerance_ns
        and cpu.run == state.cpu_run
    )


def _unattributed_reason(
    domains: Mapping[str, DomainWindow],
    owned: Owners,
    booked: Mapping[str, Booked],
    gpus: GpuWindow | None,
) -> str | None:
    """Say why energy of this window has no known user, the weightiest cause first."""
    by_energy = sorted(gpus.reasons.items(), key=lambda item: (-item[1], item[0])) if gpus else ()
    late = [
        f"{zone.zone.name} could not be read for {zone.covered_ns / 1e9:.0f} s"
        for name in booked
        if name != GPU
        for zone in domains[name].zones
        if zone.late_uj
    ]
    unused = [NO_ACTIVITY] if any(b.unused_uj for b in booked.values()) else []
    by_time = sorted(owned.unattributed_reasons.items(), key=lambda item: (-item[1], item[0]))
    on_gpus = (f"on a GPU: {reason}" for reason, _ in by_energy)
    found = [*late, *(reason for reason, _ in by_time), *unused, *on_gpus]
    return "; ".join(found[:3]) or None


def _book(
    state: State,
    window: Window,
    observations: Observations,
    params: Params,
    owned: Owners,
    booked: Mapping[str, Booked],
    reason: str | None,
) -> tuple[ledger.Accounts, Folded, dict[str, Booked]]:
    """Return the accounts after this window: opened, booked, ended and evicted.

    Who gets the idle energy is decided here, when the accounts know who asked for what.
    """
    now_wall_ns = window.start_ns + observations.wall_offset_ns
    accounts, folded = ledger.with_fixed(state.accounts, now_wall_ns), dict(state.folded)
    used = owned.used_ns.sum(axis=0).tolist()
    on_gpus = _on_gpus(booked)
    present = [
        ledger.Seen(leaf, owned.inodes.get(leaf.id), leaf.id in owned.live)
        for leaf, spent in zip(owned.leaves, used, strict=True)
        if spent
        or leaf.id in accounts
        or leaf.id in on_gpus
        or (leaf.id in owned.live and _is_listed_idle(leaf))
    ]
    ledger.admit(accounts, folded, present, now_wall_ns)
    booked = _with_idle(booked, accounts, owned, params)
    _add(accounts, booked, {leaf.id: ns for leaf, ns in zip(owned.leaves, used, strict=True) if ns})
    unknown = accounts[UNATTRIBUTED_ID]
    told = replace(unknown.identity, reason=reason or state_reason(state))
    accounts[UNATTRIBUTED_ID] = replace(unknown, identity=told)
    sequence = state.sequence + 1
    ledger.end_absent(accounts, owned.live, window.end_ns, sequence)
    ledger.evict_old(accounts, folded, window.end_ns, sequence, params)
    return accounts, folded, booked


def _on_gpus(booked: Mapping[str, Booked]) -> set[str]:
    """Return who has a part of the GPUs' energy, with or without any CPU time."""
    part = booked.get(GPU)
    return {*part.by_leaf, *part.idle_by_leaf} if part else set()


def _add(accounts: ledger.Accounts, booked: Mapping[str, Booked], spent_ns: dict[str, int]) -> None:
    """Add what each leaf used and was given."""
    doubts = _doubts(booked)
    for leaf_id, more in _gains(booked).items():
        accounts[leaf_id] = ledger.add(
            accounts[leaf_id], more, spent_ns.pop(leaf_id, 0), doubts.get(leaf_id, ledger.NO_DOUBTS)
        )
    for leaf_id, ns in spent_ns.items():  # CPU time without energy
        accounts[leaf_id] = ledger.add(accounts[leaf_id], {}, ns)


def _with_idle(
    booked: Mapping[str, Booked], accounts: ledger.Accounts, owned: Owners, params: Params
) -> dict[str, Booked]:
    """Return each domain's part with its idle energy shared by policy; a GPU's has been already."""
    return {
        name: part
        if name == GPU
        else replace(
            part,
            idle_by_leaf=idle_parts(
                name, part.idle_uj, _activity(part), accounts, owned.live, params
            ),
        )
        for name, part in booked.items()
    }


def _activity(part: Booked) -> dict[str, float]:
    """Return what each leaf used, without what was lost before the window."""
    found = {leaf: float(uj) for leaf, uj in part.by_leaf.items()}
    if UNATTRIBUTED_ID in found:
        found[UNATTRIBUTED_ID] -= part.lost_uj - part.unused_uj
    return found


def _doubts(booked: Mapping[str, Booked]) -> dict[str, dict[str, Doubt]]:
    """Return how far each leaf's gain may be off, by leaf and domain."""
    found: dict[str, dict[str, Doubt]] = {}
    for domain, part in booked.items():
        for leaf_id, doubt in part.doubts.items():
            found.setdefault(leaf_id, {})[domain] = doubt
    return found


def _gains(booked: Mapping[str, Booked]) -> dict[str, dict[str, Energy]]:
    """Return what each leaf gains in this window, by domain."""
    gains: dict[str, dict[str, Energy]] = {}
    for domain, part in booked.items():
        idle = part.idle_by_leaf
        for leaf_id in dict.fromkeys([*idle, *part.by_leaf]):
            gain = Energy(idle.get(leaf_id, 0), part.by_leaf.get(leaf_id, 0))
            gains.setdefault(leaf_id, {})[domain] = gain
    return gains


def state_reason(state: State) -> str | None:
    """Return the reason that ``unattributed`` showed last."""
    known = state.accounts.get(UNATTRIBUTED_ID)
    return known.identity.reason if known else None


def _is_listed_idle(leaf: Identity) -> bool:
    """Slices and pod cgroups only group others: they are listed once they used something."""
    return leaf.kind in ledger.ENDING_KINDS and not leaf.name.endswith(".slice")


def _domain_totals(
    state: State,
    domains: Mapping[str, DomainWindow],
    booked: Mapping[str, Booked],
    platform: PlatformWindow | None,
) -> dict[str, DomainAccount]:
    found = dict(state.domains)
    if platform is not None:
        had = found.get(PLATFORM, DomainAccount())
        found[PLATFORM] = DomainAccount(had.energy_uj + platform.energy_uj)
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
        if point.domain in SHARED:
            now = set()
        is_over = bool(now) and (own not in now or own in models)
        found[key] = point._replace(native_uj=None) if is_over else point
    return found | {zone.zone.key: zone.point for zone in zones}


def _violations(accounts: dict[str, Account], totals: Mapping[str, DomainAccount]) -> int:
    """Check promise 1 in every window; anything but 0 is a fault of ours and is shown."""
    split = {name: total.split for name, total in totals.items() if total.attributed}
    return ledger.violations(accounts, split)

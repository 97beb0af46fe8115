"""Power of the whole machine in one window: late readings held, or put together from its parts.

Until the delay of the readings is known, each is held until the next.  From then on the parts'
energy says when power was used, and the readings how much: coefficients and base follow them.
A true counter needs none of this.  Our own counter is one, whatever it is made of, and no stretch
of time is ever booked twice; what nobody read is not made up for long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from tychod.analysis import bank as banks
from tychod.analysis import residual as ledgers
from tychod.analysis.bank import Fit
from tychod.analysis.energy import PLATFORM, DomainWindow, method_of
from tychod.analysis.platform_bank import disbelief, informed, model_w, with_parts
from tychod.analysis.platform_counter import counted
from tychod.analysis.platform_memory import PlatformMemory, Stretch
from tychod.analysis.platform_parts import (
    KEPT_NS,
    WAIT_NS,
    holed,
    power_w,
    read,
    through_ns,
)
from tychod.analysis.platform_readings import (
    heartbeat_ns,
    hold,
    kept_readings,
    silent_keys,
    with_readings,
)
from tychod.analysis.platform_shown import (
    Booked,
    PlatformWindow,
    fit_of,
    mean_power_w,
    quality_of,
    residual_of,
)
from tychod.analysis.residual import Closed
from tychod.analysis.state import Params
from tychod.model import Quality, Window, Zone
from tychod.samples import EnergySeries

CARRY_NS: Final = 120_000_000_000
"""Without readings that can be believed, the model alone is trusted for so long."""


def platform_window(
    series: EnergySeries | None,
    domains: Mapping[str, DomainWindow],
    window: Window,
    memory: PlatformMemory,
    params: Params,
) -> tuple[PlatformWindow | None, PlatformMemory]:
    """Book the platform's power of one window; None where no source has ever measured it."""
    if series is None and not memory.key:
        return None, memory
    memory = with_parts(memory, domains, window.end_ns)
    memory, booked, zones = _booked(series, window, memory, params)
    fit = banks.fit(memory.bank) if memory.bank is not None else None
    memory, closed, level_w = _closed(memory, booked, window, fit)
    found = PlatformWindow(
        source=memory.key.partition(":")[0],
        total_uj=memory.energy_uj,
        energy_uj=booked.energy_uj,
        from_ns=booked.stretches[0].from_ns if booked.stretches else None,
        through_ns=memory.through_ns,
        power_w=mean_power_w(booked),
        quality=quality_of(booked),
        reason=booked.reason,
        flags=("missing-energy",) if booked.has_gap or booked.method == "none" else (),
        zones=zones,
        fit=None if booked.method == "counter" else fit_of(memory, booked, fit),
        residual=residual_of(memory, booked, closed, level_w, fit),
    )
    return found, replace(memory, base_w=fit.base_w if fit else None)


def _booked(
    series: EnergySeries | None, window: Window, memory: PlatformMemory, params: Params
) -> tuple[PlatformMemory, Booked, tuple[Zone, ...]]:
    if series is None:
        gone = Booked((), "none", "unavailable", "no source reads it now")
        return replace(memory, is_stopped=True), gone, ()
    memory = _of_source(memory, series)
    if any(zone.domain == PLATFORM for zone in series.zones):
        return counted(memory, series, window, params)
    memory, resumed_ns = informed(with_readings(memory, series), series, window.end_ns)
    booked = _from_readings(memory, series, window, resumed_ns)
    memory = _added(memory, booked, series, window)
    return memory, booked, _sensor_zones(memory, series, window)


def _of_source(memory: PlatformMemory, series: EnergySeries) -> PlatformMemory:
    """Begin anew with another source; the counter goes on."""
    keys = [zone.key for zone in series.zones if zone.domain == PLATFORM]
    keys += [sensor.key for sensor in series.sensors if sensor.domain == PLATFORM]
    key = f"{series.source}:{','.join(keys)}"
    if key == memory.key:
        return memory
    return PlatformMemory(
        key=key,
        through_ns=memory.through_ns,
        energy_uj=memory.energy_uj,
        by_sensor=memory.by_sensor,
        is_stopped=True,
        tracks=memory.tracks,
        unread=memory.unread,
        points={k: point._replace(native_uj=None) for k, point in memory.points.items()},
        ledger=replace(memory.ledger, levels_w=()),
    )


def _from_readings(
    memory: PlatformMemory, series: EnergySeries, window: Window, resumed_ns: int | None
) -> Booked:
    """Book what the readings, or the parts in their place, tell of the time up to now."""
    if not memory.readings:
        silent = [s.name for s in series.sensors if s.key in silent_keys(memory, series, 0)]
        told = "; ".join(series.zone_reasons.values()) or f"{', '.join(silent)}: not read yet"
        return Booked((), "none", "unavailable", told)
    beat_ns, end_ns = heartbeat_ns(memory.gaps_ns), window.end_ns
    is_fresh = memory.readings[-1].t_ns + beat_ns >= end_ns
    silence = _silence(memory, series, end_ns)
    if memory.is_taken_over and memory.bank is not None and memory.good_ns is not None:
        believed_ns = memory.good_ns + beat_ns
        if believed_ns + CARRY_NS > (memory.through_ns or 0) and (
            end_ns <= believed_ns + CARRY_NS or not is_fresh or banks.fit(memory.bank).is_stuck
        ):
            return _fused(memory, window, believed_ns, resumed_ns, silence)
        if not is_fresh or banks.fit(memory.bank).is_stuck:
            return Booked((), "none", "stale", silence)
    held = hold(memory, _begin_ns(memory, window), end_ns, series.delay_ns)
    live_w = memory.readings[-1].power_uw / 1e6 if is_fresh else None
    has_gap = _has_gap(held.stretches, memory.through_ns)
    quality: Quality = "measured" if is_fresh else "stale"
    reason = None if is_fresh else silence
    if memory.is_taken_over and is_fresh:
        reason = f"{silence}; each is held until the next"
    return Booked(held.stretches, "hold", quality, reason, has_gap, live_w)


def _begin_ns(memory: PlatformMemory, window: Window) -> int:
    return window.start_ns if memory.through_ns is None else memory.through_ns


def _silence(memory: PlatformMemory, series: EnergySeries, end_ns: int) -> str:
    """Say what is wrong with the readings, should anything be."""
    if memory.bank is not None and banks.fit(memory.bank).is_stuck:
        watts = memory.readings[-1].power_uw / 1e6
        return f"the meter says {watts:.0f} W again and again while its parts changed"
    names = {s.key: s.name for s in series.sensors}
    silent = silent_keys(memory, series, end_ns)
    told = [f"{names[k]}: {series.zone_reasons[k]}" for k in silent if k in series.zone_reasons]
    if told:
        return "; ".join(told)
    since_s = (end_ns - memory.readings[-1].t_ns) / 1e9
    if silent:
        return f"no reading of {', '.join(names[k] for k in silent)} for {since_s:.0f} s"
    return disbelief(memory, end_ns)


def _has_gap(stretches: Sequence[Stretch], through: int | None) -> bool:
    ends = [through, *(s.to_ns for s in stretches)]
    return any(end is not None and s.from_ns > end for end, s in zip(ends, stretches, strict=False))


def _fused(
    memory: PlatformMemory,
    window: Window,
    believed_ns: int,
    resumed_ns: int | None,
    silence: str,
) -> Booked:
    """Book coefficients x parts + base over the time that the parts are known."""
    end_ns, bank = window.end_ns, memory.bank
    tracks = read(memory)
    known = through_ns(tracks.values()) or end_ns
    until_ns = min(max(known, end_ns - WAIT_NS), end_ns, believed_ns + CARRY_NS)
    begin = _begin_ns(memory, window)
    if memory.is_stopped:
        begin = max(begin, resumed_ns if resumed_ns is not None else until_ns)
    from_ns = max(begin, end_ns - KEPT_NS)
    has_gap = memory.through_ns is not None and from_ns > memory.through_ns
    reason = _guessed(memory, (from_ns, until_ns), believed_ns, end_ns, silence)
    is_modelled = reason is not None or any(t.is_modelled for t in memory.tracks.values())
    quality: Quality = "modelled" if is_modelled else "measured"
    if bank is None or until_ns <= from_ns:
        return Booked((), "fused", quality, reason, False, model_w(memory))
    parts_w, seconds = power_w(tracks, memory.parts, from_ns, until_ns)
    joules = float(np.sum(np.maximum(banks.fused_w(bank, parts_w), 0.0) * seconds))
    stretch = Stretch(from_ns, until_ns, round(joules * 1e6))
    return Booked((stretch,), "fused", quality, reason, has_gap)


def _guessed(
    memory: PlatformMemory, span: tuple[int, int], believed_ns: int, end_ns: int, silence: str
) -> str | None:
    """Say what of the model's window is a guess; None: nothing.

    A single reading that was not believed is none: the next may be.
    """
    beat_ns = heartbeat_ns(memory.gaps_ns)
    is_read = memory.readings[-1].t_ns + beat_ns >= end_ns
    held = ledgers.held_domains(memory.tracks, span[1])
    if held and is_read:
        instead = "the base has its power" if memory.unread else "held at the last mean power"
        return f"{', '.join(held)}: not read in time, {instead} meanwhile"
    if end_ns > believed_ns + (beat_ns if is_read else 0):
        return silence
    lost = holed(memory.tracks, *span)
    if lost:
        told = "; ".join(f"{domain}: {reason}" for domain, reason in lost.items())
        return f"{told}; held at the last mean power meanwhile"
    if not memory.is_sure:
        return "the base is looked for again, and not enough readings agree on it yet"
    return None


def _added(
    memory: PlatformMemory, booked: Booked, series: EnergySeries, window: Window
) -> PlatformMemory:
    """Return the memory with what was booked; the hold's fraction stays with the hold."""
    carry = memory.carry
    if booked.method == "hold":
        begin_ns = _begin_ns(memory, window)
        carry = hold(memory, begin_ns, window.end_ns, series.delay_ns).carry
    through = booked.stretches[-1].to_ns if booked.stretches else memory.through_ns
    if through is None and booked.method == "hold":
        first_ns = memory.readings[0].t_ns - series.delay_ns
        through = max(first_ns, window.start_ns) if first_ns <= window.end_ns else None
    found = replace(
        memory,
        carry=carry,
        through_ns=through,
        energy_uj=memory.energy_uj + booked.energy_uj,
        by_sensor=_by_sensor(memory, booked.energy_uj),
        is_stopped=booked.method == "none" or (memory.is_stopped and not booked.stretches),
    )
    return kept_readings(found)


def _by_sensor(memory: PlatformMemory, energy_uj: int) -> Mapping[str, int]:
    """Share what was booked by the sensors' newest values; the last has what is left over."""
    values = {key: seen.power_uw for key, seen in memory.seen.items()}
    whole, left, found = sum(values.values()), energy_uj, dict(memory.by_sensor)
    for at, (key, power_uw) in enumerate(values.items()):
        part = energy_uj * power_uw // whole if whole else 0
        part = left if at == len(values) - 1 else part
        found[key] = found.get(key, 0) + part
        left -= part
    return found


def _sensor_zones(memory: PlatformMemory, series: EnergySeries, window: Window) -> tuple[Zone, ...]:
    """Return a row for each sensor with its own newest power."""
    silent = set(silent_keys(memory, series, window.end_ns))
    rows = []
    for sensor in series.sensors:
        if sensor.domain != PLATFORM:
            continue
        newest, reason = memory.seen.get(sensor.key), series.zone_reasons.get(sensor.key)
        quality: Quality = "stale" if sensor.key in silent else "measured"
        rows.append(
            Zone(
                sensor.name,
                sensor.socket,
                memory.by_sensor.get(sensor.key, 0),
                newest.power_uw / 1e6 if newest and sensor.key not in silent else None,
                quality if newest else "unavailable",
                reason or ("no new reading" if sensor.key in silent else None),
                method=method_of(sensor),
                interval_s=series.period_ns / 1e9 or None,
            )
        )
    return tuple(rows)


def _closed(
    memory: PlatformMemory, booked: Booked, window: Window, fit: Fit | None
) -> tuple[PlatformMemory, Closed, float | None]:
    """Close the ledger with what was booked, and learn its quiet level."""
    ledger = memory.ledger
    if booked.method == "fused" and booked.quality == "measured" and fit is not None:
        ledger = ledgers.with_level(ledger, fit.base_w)
    ledger, closed = ledgers.close(ledger, booked.stretches, memory.tracks, window.end_ns)
    if booked.method == "counter" and closed.power_w is not None and not closed.without:
        ledger = ledgers.with_level(ledger, closed.power_w)
    return replace(memory, ledger=ledger), closed, ledgers.quiet_w(ledger.levels_w)

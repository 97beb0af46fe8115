"""The bank's side of the platform: which readings it is shown, and how far it may be believed."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from tychod.analysis import bank as banks
from tychod.analysis.bank import Bank
from tychod.analysis.bank_features import Kernel
from tychod.analysis.energy import PLATFORM, DomainWindow
from tychod.analysis.learned import Float64s
from tychod.analysis.platform_memory import Hole, PartTrack, PlatformMemory
from tychod.analysis.platform_parts import (
    BIN_NS,
    WAIT_NS,
    followed,
    history,
    mean_w,
    part_names,
    read,
    solid_since_ns,
    unread,
)
from tychod.analysis.platform_readings import heartbeat_ns
from tychod.samples import EnergySeries

PAUSE_BEATS: Final = 4
"""After so many heartbeats without a reading the base may be anything."""
SURE, SURE_W = 0.02, 5.0
"""A base is known well enough within so much of the power, or so many watts."""
LEAST_TIMES: Final = 0.1
"""A coefficient below this says nothing of a part's power."""
LEARNED_S: Final = 12.0
"""All delays and short averages look no further back."""


def informed(
    memory: PlatformMemory, series: EnergySeries, end_ns: int
) -> tuple[PlatformMemory, int | None]:
    """Show the bank every reading that the parts' history has come to, once and in order.

    Also return the first that it believed now.
    """
    parts = part_names(memory.tracks)
    bank = _bank_of(memory, parts, banks.kernels_of(_average_s(series)))
    if bank is None:
        newest = memory.readings[-1].t_ns if memory.readings else memory.taken_ns
        return replace(memory, bank=None, parts=(), taken_ns=newest, is_sure=False), None
    past = history(read(memory), parts, end_ns)
    past_ns = past.start_ns + (past.energy_j.shape[1] - 1) * BIN_NS if past else 0
    is_unread, pause_ns = bool(memory.unread), PAUSE_BEATS * heartbeat_ns(memory.gaps_ns)
    taken_ns, good_ns, first_ns = memory.taken_ns, memory.good_ns, None
    for reading in memory.readings:
        if reading.t_ns <= taken_ns:
            continue
        if taken_ns and reading.t_ns - taken_ns > pause_ns:
            bank = banks.unplaced(bank)
        if past is not None and reading.t_ns <= past_ns:
            before = bank.readings
            watts, half_ns = reading.power_uw / 1e6, reading.half_ns
            bank = banks.take(bank, past, reading.t_ns, half_ns, watts, is_unread=is_unread)
            if bank.readings > before:
                good_ns, first_ns = reading.t_ns, first_ns or reading.t_ns
        elif reading.t_ns >= end_ns - WAIT_NS:
            break  # the parts may still come
        taken_ns = reading.t_ns
    sure = memory.is_taken_over or banks.fit(bank).is_ready
    found = replace(
        memory, bank=bank, parts=parts, taken_ns=taken_ns, good_ns=good_ns, is_taken_over=sure
    )
    return replace(found, is_sure=_is_sure(found, bank)), first_ns


def _is_sure(memory: PlatformMemory, bank: Bank) -> bool:
    """Whether the model may be called a measurement, since its base was last lost sight of."""
    if memory.is_sure or not banks.is_settled(bank):
        return banks.is_settled(bank)
    parts_w = _newest_w(memory)
    enough_w = max(SURE_W, SURE * float(banks.fused_w(bank, parts_w)[0]), math.sqrt(bank.noise_w2))
    return banks.doubt_w(bank, parts_w[:, 0]) < enough_w


def _bank_of(
    memory: PlatformMemory, parts: tuple[str, ...], kernels: tuple[Kernel, ...]
) -> Bank | None:
    if not parts or not (memory.readings or memory.bank is not None):
        return None
    if memory.bank is None:
        parts_w = sum(mean_w(track) for track in read(memory).values())
        return banks.fresh(parts, memory.readings[-1].power_uw / 1e6 - parts_w, kernels)
    return memory.bank if memory.parts == parts else banks.with_parts(memory.bank, parts)


def disbelief(memory: PlatformMemory, end_ns: int) -> str:
    """Say why readings that are there are of no use."""
    if not memory.parts:
        return "no part of the machine is measured"
    known_s = (end_ns - solid_since_ns(read(memory))) / 1e9
    if known_s < LEARNED_S:
        return f"all parts are read for {known_s:.0f} s only, the readings tell of before"
    if memory.bank is not None and memory.bank.repeats:
        return "the last readings are the same again, though the parts changed"
    since_s = (end_ns - (memory.good_ns or memory.readings[0].t_ns)) / 1e9
    return f"no reading could be believed for {since_s:.0f} s"


def model_w(memory: PlatformMemory) -> float | None:
    """Return what the model says of the parts' newest power."""
    if memory.bank is None:
        return None
    return float(banks.fused_w(memory.bank, _newest_w(memory))[0])


def _newest_w(memory: PlatformMemory) -> Float64s:
    """Return each part's newest mean power, shape (parts, 1), watts."""
    by_part = dict.fromkeys(memory.parts, 0.0)
    for track in read(memory).values():
        by_part[track.domain] += mean_w(track)
    return np.array([list(by_part.values())]).T


def with_parts(
    memory: PlatformMemory, domains: Mapping[str, DomainWindow], end_ns: int
) -> PlatformMemory:
    """Return the memory with the parts' energy, and note which are silent, came or went."""
    tracks = followed(memory.tracks, domains, end_ns)
    gone = unread(tracks, end_ns)
    found = replace(memory, tracks=tracks, unread=gone)
    bank = memory.bank
    if bank is None:
        return found
    if tracks.keys() != memory.tracks.keys():
        bank = banks.unplaced(bank)
    if gone == memory.unread:
        return replace(found, bank=bank)
    before_w = memory.base_before_w if memory.unread else banks.fit(bank).base_w
    silent = {key: memory.tracks[key].through_ns for key in memory.unread}
    found = _rebased(replace(found, bank=bank, base_before_w=before_w), bank, silent)
    return replace(found, base_before_w=before_w if gone else None)


def _rebased(memory: PlatformMemory, bank: Bank, before: Mapping[str, int]) -> PlatformMemory:
    """Return the memory with what silent parts use in the base, and without that of others.

    ``before``: those that were silent, and since when.  When all are back, the base is what it was
    before until readings say more; they are asked as if it were not known.
    """
    tracks = dict(memory.tracks)
    back = [key for key in before if key in tracks and key not in memory.unread]
    if back and not memory.unread and memory.base_before_w is not None:
        rest_w = banks.fit(bank).base_w - memory.base_before_w
        bank = banks.shifted(bank, -rest_w)
        for key in back:
            tracks[key] = _stood_in(tracks[key], bank, before[key], rest_w / len(back))
        return replace(memory, bank=banks.unplaced(bank), tracks=tracks)
    for key, track in memory.tracks.items():
        if track.domain in bank.parts and (key in memory.unread) != (key in before):
            sign = 1.0 if key in memory.unread else -1.0
            bank = banks.unread(bank, track.domain, sign * mean_w(track))
    return replace(memory, bank=banks.unplaced(bank) if back else bank)


def _stood_in(track: PartTrack, bank: Bank, from_ns: int, rest_w: float) -> PartTrack:
    """Return the track of a part that is back with the power that the base had for it last."""
    if track.domain not in bank.parts:
        return track
    times = banks.fit(bank).coefficients[bank.parts.index(track.domain)]
    power_w = max(rest_w, 0.0) / times if times > LEAST_TIMES else 0.0
    earlier = tuple(hole for hole in track.holes if hole.to_ns <= from_ns)
    reason = "".join(hole.reason for hole in track.holes[len(earlier) :])
    return replace(track, holes=(*earlier, Hole(from_ns, track.solid_ns, power_w, reason)))


def _average_s(series: EnergySeries) -> float:
    """Return over how long the source's values are averaged, seconds; 0: not told."""
    told = {s.average_s for s in series.sensors if s.domain == PLATFORM}
    return told.pop() if len(told) == 1 else 0.0

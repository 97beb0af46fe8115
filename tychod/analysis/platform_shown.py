"""What is shown of the whole machine's power in one window, and how far it may be believed."""

import math
from statistics import median
from typing import Final, NamedTuple

from tychod.analysis.bank import BASE_WALK, READY_AFTER, READY_SD_S, UNREAD_WALK, Fit
from tychod.analysis.platform_memory import PlatformMemory, Stretch
from tychod.analysis.residual import Closed
from tychod.model import Coefficient, PlatformFit, Quality, Residual, Zone

TRANSIENT_W: Final = 10.0
"""The base does not move faster in a window unless something that nobody measures has changed."""


class PlatformWindow(NamedTuple):
    """The whole machine in one window."""

    source: str
    total_uj: int  # cumulative since the counters began
    energy_uj: int  # booked in this window
    from_ns: int | None  # of what was booked; None: nothing was
    through_ns: int | None  # energy is booked up to here
    power_w: float | None
    quality: Quality
    reason: str | None
    flags: tuple[str, ...]  # of tychod.flags.DOMAIN_FLAGS
    zones: tuple[Zone, ...]
    fit: PlatformFit | None  # None: a true counter, which needs none
    residual: Residual | None  # None: no part was ever known


class Booked(NamedTuple):
    """What one window adds, and how much it can be believed."""

    stretches: tuple[Stretch, ...]
    method: str  # "hold" | "fused" | "counter" | "none"
    quality: Quality
    reason: str | None = None
    has_gap: bool = False  # some time before it was left out for good
    live_w: float | None = None  # the best guess where nothing is booked

    @property
    def energy_uj(self) -> int:
        """All of it."""
        return sum(stretch.energy_uj for stretch in self.stretches)


def mean_power_w(booked: Booked) -> float | None:
    """Return the mean power of what was booked in watts, or the best guess where nothing was."""
    length_ns = sum(s.to_ns - s.from_ns for s in booked.stretches)
    return booked.energy_uj * 1_000 / length_ns if length_ns else booked.live_w


def quality_of(booked: Booked) -> Quality:
    """A guess that stands where nothing is booked yet is no measurement."""
    is_live = not booked.stretches and booked.live_w is not None
    return "modelled" if is_live and booked.quality == "measured" else booked.quality


def fit_of(memory: PlatformMemory, booked: Booked, fit: Fit | None) -> PlatformFit:
    """Return how the platform's power is made, and how sure that is."""
    gaps = memory.gaps_ns
    period_s = median(gaps) / 1e9 if gaps else None
    if fit is None:
        why = "no reading yet" if memory.tracks else "no part of the machine is measured"
        none = (None,) * 7
        return PlatformFit("hold", booked.reason or why, *none, {}, period_s, 0, 0)
    why_held = _why_held(fit) if booked.method == "hold" else None
    # A reading tells of the time before it, and the base has walked since.
    walk = UNREAD_WALK if memory.unread else BASE_WALK
    base_sd = math.sqrt(fit.base_sd_w**2 + walk * (fit.centroid_s + (period_s or 0.0)))
    pairs = zip(fit.coefficients, fit.coefficient_sd, strict=True)
    return PlatformFit(
        "fused" if booked.method == "fused" else "hold",
        booked.reason or why_held,
        fit.centroid_s,
        fit.centroid_sd_s,
        fit.delay_s,
        fit.lag_s,
        fit.boxcar_s,
        fit.base_w,
        base_sd,
        {name: Coefficient(*pair) for name, pair in zip(memory.parts, pairs, strict=True)},
        period_s,
        fit.readings,
        fit.rejected,
    )


def _why_held(fit: Fit) -> str:
    if fit.judged < READY_AFTER:
        told = f"{fit.judged} of {READY_AFTER} readings that every long averaging can be held to"
        return f"what the readings average over is being found out: {told}"
    return (
        f"the readings' delay is not sure enough yet: {fit.centroid_sd_s:.1f} s of standard "
        f"deviation, {READY_SD_S:g} s is enough; it shows when load changes"
    )


def residual_of(
    memory: PlatformMemory,
    booked: Booked,
    closed: Closed,
    level_w: float | None,
    fit: Fit | None,
) -> Residual | None:
    """Return the ledger with what is to be said of this window."""
    ledger = memory.ledger
    if ledger.through_ns is None:
        return None
    reason = _doubt(memory, booked, closed, fit)
    return Residual(
        ledger.energy_uj,
        ledger.idle_uj,
        ledger.dynamic_uj,
        ledger.platform_uj,
        ledger.parts_uj,
        closed.power_w,
        level_w,
        reason is None,
        reason,
        ledger.through_ns,
    )


def _doubt(memory: PlatformMemory, booked: Booked, closed: Closed, fit: Fit | None) -> str | None:
    """Say why this window's residual should not be believed; None: it may be."""
    return (
        _doubt_of_parts(memory, closed)
        or _doubt_of_platform(booked)
        or (None if closed.seconds else "nothing was closed in this window")
        or _doubt_of_base(memory, fit)
    )


def _doubt_of_parts(memory: PlatformMemory, closed: Closed) -> str | None:
    package = [track for track in memory.tracks.values() if track.domain == "package"]
    if not package:
        return "nothing measures the package, so its power is in here"
    if any(track.is_modelled for track in package):
        return "the package's power is modelled, not measured"
    if closed.without:
        return f"{', '.join(closed.without)}: not read, so its power is in here"
    if closed.unknown:
        return f"{'; '.join(closed.unknown)}, so its power is in here"
    return None


def _doubt_of_platform(booked: Booked) -> str | None:
    if booked.method == "hold":
        return "the readings are late, and by how much is not known yet"
    if booked.quality != "measured":
        return booked.reason or "the platform's power is not measured now"
    return None


def _doubt_of_base(memory: PlatformMemory, fit: Fit | None) -> str | None:
    if fit is None or memory.base_w is None:
        return None
    moved = fit.base_w - memory.base_w
    if abs(moved) <= max(TRANSIENT_W, 4.0 * fit.base_sd_w):
        return None
    return f"something that nobody measures has changed by {moved:+.0f} W"

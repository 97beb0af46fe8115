"""What the samples of one GPU say, on the axis of its load, without what cannot be."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple, Protocol, TypeVar

from tychod.analysis.counters import COUNTER_END
from tychod.samples import GpuDevice, GpuSample

PERIOD_S: Final = 0.1
"""Of a device whose period is not known: the most common one (measurement.md 5.4.8)."""
MOST_W: Final = 10_000.0
"""No device draws more; for those whose utmost power is not known."""
ALL_ONES_UJ: Final = frozenset({(2**32 - 1) * 1_000, (2**64 - 1) * 1_000})
"""What drivers say in place of millijoules that they do not have."""

GAP_PERIODS: Final = 4
"""One period is normal and three more are bridged; what is longer is a gap."""


class Reading(NamedTuple):
    """One update; times are of the load, not of its publication."""

    t_ns: int
    sd_ns: int
    energy_uj: int | None
    instant_w: float | None
    average_w: float | None


class Readings(NamedTuple):
    """The updates of one device, in increasing time."""

    found: tuple[Reading, ...]
    period_ns: int
    sensor_ns: int  # how much of the time before an update its momentary value saw
    is_whole: bool  # the sensor is known to see all of the time
    average_ns: int  # 0: there is no averaged field
    max_w: float
    rejected_ns: tuple[int, ...]  # when values were read that cannot be
    newest: GpuSample | None


class _OfDevice(Protocol):
    @property
    def device(self) -> str: ...


T = TypeVar("T", bound=_OfDevice)


def by_device(found: Iterable[T]) -> dict[str, list[T]]:
    """Return what belongs to each device, by its uuid."""
    groups: dict[str, list[T]] = {}
    for one in found:
        groups.setdefault(one.device, []).append(one)
    return groups


def readings_of(device: GpuDevice, samples: Iterable[GpuSample]) -> Readings:
    """Return what a device's own samples say; values that cannot be are left out and counted."""
    max_w = device.max_power_w if device.max_power_w > 0 else MOST_W
    delay_ns, most_uw = round(device.delay_s * 1e9), max_w * 1e6
    found: list[Reading] = []
    rejected: list[int] = []
    newest = last_ns = None
    for sample in samples:
        newest, t_ns = sample, sample.published_ns - delay_ns
        if last_ns is not None and t_ns <= last_ns:
            continue
        last_ns = t_ns
        found.append(reading := _reading(sample, t_ns, most_uw))
        told = (sample.energy_uj, sample.instant_uw, sample.average_uw)
        rejected += [sample.t_ns] * (reading[2:].count(None) - told.count(None))
    period_ns = _period_ns(device, found)
    sensor_ns = round(device.sensor_s * 1e9) or period_ns // 4
    return Readings(
        tuple(found),
        period_ns,
        min(sensor_ns, period_ns),
        device.sensor_s >= 0.9 * period_ns / 1e9,
        round(device.average_s * 1e9),
        max_w,
        tuple(rejected),
        newest,
    )


def _reading(sample: GpuSample, t_ns: int, most_uw: float) -> Reading:
    energy, instant, average = sample.energy_uj, sample.instant_uw, sample.average_uw
    counts = energy is not None and 0 <= energy < COUNTER_END and energy not in ALL_ONES_UJ
    return Reading(
        t_ns,
        sample.sd_ns,
        energy if counts else None,
        instant / 1e6 if instant is not None and 0 <= instant <= most_uw else None,
        average / 1e6 if average is not None and 0 <= average <= most_uw else None,
    )


def _period_ns(device: GpuDevice, found: Sequence[Reading]) -> int:
    if device.period_s > 0:
        return round(device.period_s * 1e9)
    gaps = [after.t_ns - before.t_ns for before, after in pairwise(found)]
    return round(median(gaps)) if len(gaps) > 2 else round(PERIOD_S * 1e9)


def segments(found: Sequence[Reading], longest_ns: int) -> list[list[Reading]]:
    """Return the readings, cut where two are further apart than that."""
    cut: list[list[Reading]] = []
    for reading in found:
        if not cut or reading.t_ns - cut[-1][-1].t_ns > longest_ns:
            cut.append([])
        cut[-1].append(reading)
    return cut

"""How sure a GPU's energy of a window is, from how its readings change."""

from typing import Final, NamedTuple

import numpy as np

from tychod.analysis.bins import Meter
from tychod.analysis.gpucounter import bridge_factor
from tychod.analysis.gpumemory import GpuMemory, Variogram
from tychod.analysis.gpureadings import Readings
from tychod.analysis.learned import Float64s
from tychod.model import GpuMethod

PRIOR_UPDATES: Final = 10.0
"""How many updates the past counts for in a window's own mean square change."""
AVERAGED: Final = 0.35
"""Intervals at each end of a window that averages leave to the momentary readings."""


def spread_j(method: GpuMethod, readings: Readings, memory: GpuMemory, meter: Meter) -> float:
    """Return the standard deviation of the energy of a meter's whole stretch, in joules.

    The sensor's own gain and offset (about 5 % on real boards) are not in it.
    """
    length_s = int(meter.times_ns[-1] - meter.times_ns[0]) / 1e9
    t_s, watts = _powers(readings, meter)
    if len(t_s) < 2 or length_s <= 0.0:
        return 0.0
    period_s = readings.period_ns / 1e9
    beside_s = readings.average_ns / 1e9 if method == "averages" else period_s
    inside = (t_s[1:] > -beside_s) & (t_s[:-1] < length_s + beside_s)
    change_w2 = _change_w2(np.diff(watts)[inside], memory.variogram)
    factor = bridge_factor(memory.variogram)
    if method == "averages":
        return float((2 * AVERAGED * factor * change_w2) ** 0.5 * period_s)
    bridged_j2 = factor * change_w2 * period_s * length_s
    if method == "instants":
        return float(bridged_j2**0.5)
    stamp_s = float(np.mean([r.sd_ns for r in readings.found])) / 1e9 if readings.found else 0.0
    ends = [_end(t_s, watts, at_s) for at_s in (0.0, length_s)]
    variance_j2 = sum(end.stamped_j2(stamp_s) for end in ends)
    inside_j2 = sum(end.inside_j2(change_w2) for end in ends)
    variance_j2 += inside_j2 if method == "counter" else bridged_j2
    return float(variance_j2**0.5)


def _powers(readings: Readings, meter: Meter) -> tuple[Float64s, Float64s]:
    """Return when after the meter's begin power was read and what; else the meter's own power."""
    start = int(meter.times_ns[0])
    found = [(r.t_ns - start, r.instant_w) for r in readings.found if r.instant_w is not None]
    scale = 1.0
    if len(found) < 2 and readings.average_ns:
        # An average changes by what came in and what fell out: differences are all that is used.
        found = [(r.t_ns - start, r.average_w) for r in readings.found if r.average_w is not None]
        scale = max(readings.average_ns / readings.period_ns, 1.0)
    if len(found) > 1:
        return np.array([t for t, _ in found]) / 1e9, scale * np.array([w for _, w in found])
    at = np.arange(0, int(meter.times_ns[-1]) - start + 1, readings.period_ns)
    energy = np.interp(at, meter.times_ns - start, meter.energy_j)
    return at[1:] / 1e9, np.diff(energy) / readings.period_ns * 1e9


def _change_w2(change_w: Float64s, past: Variogram) -> float:
    """Return the mean square change between readings, of the window with a little of the past."""
    weight = min(PRIOR_UPDATES, past.updates)
    mean_w2 = past.one_w2 / past.updates if past.updates else 0.0
    count = len(change_w) + weight
    return float(((change_w**2).sum() + weight * mean_w2) / count) if count else 0.0


class _End(NamedTuple):
    """Where in the time between two readings an end of the stretch is."""

    share: float
    length_s: float
    watts: float

    def inside_j2(self, change_w2: float) -> float:
        """Return the variance of what a true counter counted on this side of the end.

        A power that steps once, anywhere between two readings, leaves the line between them by
        (change x length) f (1 - f) / sqrt 3 at the share ``f``.
        """
        return change_w2 * (self.length_s * self.share * (1.0 - self.share)) ** 2 / 3.0

    def stamped_j2(self, stamp_s: float) -> float:
        """Return the variance that the error of the stamps leaves: it costs the power itself."""
        return (self.watts * stamp_s) ** 2 * (self.share**2 + (1.0 - self.share) ** 2)


def _end(t_s: Float64s, watts: Float64s, at_s: float) -> _End:
    after = int(np.clip(np.searchsorted(t_s, at_s), 1, len(t_s) - 1))
    length_s = float(t_s[after] - t_s[after - 1])
    share = float(np.clip((at_s - t_s[after - 1]) / length_s, 0.0, 1.0))
    return _End(share, length_s, float(watts[after - 1 : after + 1].mean()))

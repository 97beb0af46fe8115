"""A GPU's energy counter: what it says between updates, and how far it can be trusted.

Some counters integrate the power; others add up what a sensor says that sees a quarter of the
time.  The second kind agrees with the readings far better than a true one could.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tychod.analysis.counters import Track
from tychod.analysis.gpumemory import Agreement, GpuMemory, Likeness, Origin, Variogram
from tychod.analysis.gpureadings import GAP_PERIODS, Reading, Readings
from tychod.analysis.learned import Float64s
from tychod.model import GpuMethod

RESET: Final = "its counter was reset; counting goes on from the new value"
JUMPED: Final = "its counter rose by more than it can draw; counting goes on from the new value"

MEMORY_UPDATES: Final = 600
"""Sums forget with this many updates: a minute of the common period."""
ENOUGH_UPDATES: Final = 30
REFUSE_UPDATES: Final = 100
TOLERANCE: Final = 0.15
"""Counter against integral (measurement.md 5.4.5)."""
MOST_BACKWARDS: Final = 2.5
LEAST_CHANGE: Final = 0.1
"""Root mean square change of readings, of their mean, below which nothing can be told apart."""
SAMPLED_BELOW: Final = 0.25
TRUE_ABOVE: Final = 0.35
"""Root mean square of counter minus reading x length, of the change x length.  A true counter
has at least 0.5, as a power that changes steadily between two readings; one made of the
readings has the stamps' error only, which is taken off."""
ENOUGH_CHANGES: Final = 8
"""So many changes of one size must have been seen: where in its step a single one falls is luck."""


class Entry(NamedTuple):
    """One reading of the counter that is believed."""

    reading: Reading
    energy_uj: int
    problem: str | None  # nothing is booked for the time before it


def counter_track(readings: Readings, t_ns: int, native_uj: int) -> Track:
    """Follow a counter from a point, each step split at the sensor's part of it.

    What the sensor saw at the end of a step is there, what else the counter rose by is spread
    over the rest: exact in sum, never negative.
    """
    found = Track([t_ns], [0], [native_uj], [])
    begin_ns, begin_uj = _begin(readings.found, t_ns, native_uj)
    for entry in _believed(readings, t_ns, native_uj):
        if entry.problem:
            found.problems.append(entry.problem)
            _append(found, entry.reading.t_ns, entry.energy_uj, rise_uj=0)
        else:
            knot = _split(entry, begin_ns, begin_uj, readings.sensor_ns)
            for at_ns, value_uj in (knot, (entry.reading.t_ns, entry.energy_uj)):
                rise_uj = max(value_uj - found.native_uj[-1], 0)
                if at_ns > found.times_ns[-1]:
                    _append(found, at_ns, found.native_uj[-1] + rise_uj, rise_uj=rise_uj)
        begin_ns, begin_uj = entry.reading.t_ns, entry.energy_uj
    return found


def _append(found: Track, t_ns: int, native_uj: int, *, rise_uj: int) -> None:
    found.times_ns.append(t_ns)
    found.energy_uj.append(found.energy_uj[-1] + rise_uj)
    found.native_uj.append(native_uj)


def _begin(found: Sequence[Reading], t_ns: int, native_uj: int) -> tuple[int, int]:
    """Return where the step began that the point is in: the reading before it, or the point."""
    before = [(r.t_ns, r.energy_uj) for r in found if r.t_ns <= t_ns and r.energy_uj is not None]
    return before[-1] if before and before[-1][1] <= native_uj else (t_ns, native_uj)


def _split(entry: Entry, begin_ns: int, begin_uj: int, sensor_ns: int) -> tuple[int, int]:
    """Return the knot of a step: when the sensor began to look, and the counter at that time."""
    instant_w = entry.reading.instant_w
    if instant_w is None:
        return begin_ns, begin_uj
    return entry.reading.t_ns - sensor_ns, entry.energy_uj - round(instant_w * sensor_ns / 1e3)


def _believed(readings: Readings, t_ns: int, native_uj: int) -> list[Entry]:
    """Return the readings after a point that can be.

    One that does not follow from the last is believed if the next does not follow from the last
    either: else it was a slip.  At the end of the series it waits for that next one.
    """
    values = [(r, e) for r in readings.found if r.t_ns > t_ns and (e := r.energy_uj) is not None]
    entries: list[Entry] = []
    at_ns, at_uj = t_ns, native_uj
    for index, (reading, energy_uj) in enumerate(values):
        problem = None
        if not _follows(readings, reading.t_ns - at_ns, energy_uj - at_uj):
            if index + 1 == len(values):
                break
            then, then_uj = values[index + 1]
            if _follows(readings, then.t_ns - at_ns, then_uj - at_uj):
                continue
            problem = RESET if energy_uj < at_uj else JUMPED
        entries.append(Entry(reading, energy_uj, problem))
        at_ns, at_uj = reading.t_ns, energy_uj
    return entries


def _follows(readings: Readings, elapsed_ns: int, rise_uj: int) -> bool:
    return 0 <= rise_uj <= readings.max_w * (elapsed_ns + readings.period_ns) / 1e3


def method_of(memory: GpuMemory, readings: Readings) -> GpuMethod:
    """Return what a counter's energy is made of, as far as it is known."""
    if not is_validated(memory.agreement):
        return "unknown"
    if readings.is_whole:
        return "counter"
    known: dict[Origin, GpuMethod] = {"true": "counter", "sampled": "sampled-counter"}
    return known.get(memory.origin, "unknown")


def is_validated(sums: Agreement) -> bool:
    """Tell whether counter and readings are known to agree."""
    margin_j = TOLERANCE * sums.counter_j
    off_j = abs(sums.power_j - sums.counter_j)
    sure = 2 * sums.variance_j2**0.5 <= margin_j
    return sums.updates >= ENOUGH_UPDATES and sure and off_j <= margin_j and not is_refused(sums)


def is_refused(sums: Agreement) -> bool:
    """Tell whether a counter is known to be wrong: it goes back, or the readings belie it."""
    if sums.backwards > MOST_BACKWARDS:
        return True
    off_j = abs(sums.power_j - sums.counter_j) - 2 * sums.variance_j2**0.5
    return sums.updates >= REFUSE_UPDATES and off_j > TOLERANCE * max(sums.counter_j, sums.power_j)


class _Steps(NamedTuple):
    """The steps between updates, as arrays of one length."""

    seconds: Float64s
    rise_j: Float64s  # NaN: not known
    instant_w: Float64s
    one_w: Float64s  # change of the reading since the last
    two_w: Float64s  # and since the last but one
    stamp_s2: Float64s  # variance of the length


def learn(memory: GpuMemory, readings: Readings, from_ns: int, until_ns: int) -> GpuMemory:
    """Return the memory with what the updates in a stretch of time teach."""
    steps = _steps(readings, from_ns, until_ns)
    if not len(steps.seconds):
        return memory
    variogram = _variogram(memory.variogram, steps)
    memory = replace(memory, variogram=variogram)
    known = ~np.isnan(steps.rise_j) & ~np.isnan(steps.instant_w)
    if not known.any():
        return memory
    agreement = _agreement(memory.agreement, steps, known, bridge_factor(variogram))
    known &= (steps.rise_j >= 0) & ~np.isnan(steps.one_w)
    likeness = _likeness(memory.likeness, steps, known)
    return replace(
        memory, agreement=agreement, likeness=likeness, origin=_origin(likeness, memory.origin)
    )


def _steps(readings: Readings, from_ns: int, until_ns: int) -> _Steps:
    found = [r for r in readings.found if r.t_ns <= until_ns]
    t_s = np.array([(r.t_ns - from_ns) / 1e9 for r in found])
    energy_j = np.array([np.nan if r.energy_uj is None else r.energy_uj / 1e6 for r in found])
    instant_w = np.array([np.nan if r.instant_w is None else r.instant_w for r in found])
    var_s2 = np.array([(r.sd_ns / 1e9) ** 2 for r in found])
    seconds = _change(t_s, 1)
    limit_s = GAP_PERIODS * readings.period_ns / 1e9
    most_j = readings.max_w * (seconds + readings.period_ns / 1e9)
    rise_j = _change(energy_j, 1)
    used = (t_s > 0) & (seconds <= limit_s) & ~(rise_j > most_j)
    return _Steps(
        seconds[used],
        rise_j[used],
        instant_w[used],
        _change(instant_w, 1)[used],
        _change(instant_w, 2)[used],
        (var_s2 + np.concatenate([[0.0], var_s2[:-1]]))[used] if found else var_s2,
    )


def _change(values: Float64s, back: int) -> Float64s:
    found = np.full(len(values), np.nan)
    found[back:] = values[back:] - values[:-back]
    return found


def _keep(count: float) -> float:
    """Return how much of a sum is kept after so many more updates."""
    return float(np.exp(-count / MEMORY_UPDATES))


def _variogram(sums: Variogram, steps: _Steps) -> Variogram:
    known = ~np.isnan(steps.one_w) & ~np.isnan(steps.two_w)
    keep = _keep(float(known.sum()))
    return Variogram(
        sums.updates * keep + float(known.sum()),
        sums.one_w2 * keep + float((steps.one_w[known] ** 2).sum()),
        sums.two_w2 * keep + float((steps.two_w[known] ** 2).sum()),
    )


def _agreement(
    sums: Agreement, steps: _Steps, known: NDArray[np.bool_], factor: float
) -> Agreement:
    rise_j, seconds = steps.rise_j[known], steps.seconds[known]
    up, keep = rise_j >= 0, _keep(len(rise_j))
    change_j = np.nan_to_num(steps.one_w[known]) * seconds
    power_j = steps.instant_w[known] * seconds
    return Agreement(
        sums.updates * keep + float(up.sum()),
        sums.counter_j * keep + float(rise_j[up].sum()),
        sums.power_j * keep + float(power_j[up].sum()),
        sums.variance_j2 * keep + factor * float((change_j[up] ** 2).sum()),
        sums.backwards * keep + float((~up).sum()),
    )


def _likeness(sums: Likeness, steps: _Steps, known: NDArray[np.bool_]) -> Likeness:
    """Learn of windows in which the load changed: at rest both kinds look the same."""
    instant_w, one_w = steps.instant_w[known], steps.one_w[known]
    seconds, rise_j = steps.seconds[known], steps.rise_j[known]
    if not len(one_w) or (one_w**2).mean() <= (LEAST_CHANGE * instant_w.mean()) ** 2:
        return sums
    keep = _keep(len(one_w))
    square_j2 = (rise_j - instant_w * seconds) ** 2 - instant_w**2 * steps.stamp_s2[known]
    return Likeness(
        sums.updates * keep + len(one_w),
        sums.counter_j * keep + float(rise_j.sum()),
        sums.square_j2 * keep + float(square_j2.sum()),
        sums.change_j2 * keep + float(((one_w * seconds) ** 2).sum()),
        sums.change_j4 * keep + float(((one_w * seconds) ** 4).sum()),
    )


def _origin(sums: Likeness, before: Origin) -> Origin:
    """Return what a counter is fed by; between the two limits what was thought before stays."""
    if sums.updates < ENOUGH_UPDATES or sums.change_j2**2 < ENOUGH_CHANGES * sums.change_j4:
        return before
    if sums.square_j2 < SAMPLED_BELOW**2 * sums.change_j2:
        return "sampled"
    return "true" if sums.square_j2 > TRUE_ABOVE**2 * sums.change_j2 else before


def bridge_factor(sums: Variogram) -> float:
    """Return the variance of what readings leave out of an interval, of (change x length) squared.

    For a power whose correlation falls by ``rho`` from one reading to the next the sum of readings
    x length misses its integral by (coth(u/2) - 2/u) variances an interval, u = -ln(rho), and
    readings differ by 2 (1 - rho) variances: 1/12 for a slow power, 1/2 for one that is faster
    than its readings.  ``rho`` is told by how much more readings differ at twice the distance.
    """
    ratio = sums.two_w2 / sums.one_w2 if sums.updates >= ENOUGH_UPDATES and sums.one_w2 else 1.0
    rho = min(max(ratio - 1.0, 0.01), 0.99)
    u = -float(np.log(rho))
    return float((1.0 / np.tanh(u / 2.0) - 2.0 / u) / (2.0 * (1.0 - rho)))

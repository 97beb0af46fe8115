"""A machine with known power and a BMC that tells it late: parts that step, a base, a slow sensor.

Everything is made beforehand from a seed, on a grid of 10 ms in which power is constant.  The
sensor sees system power through a first-order lag and a trailing mean; what it holds ``delay_s``
before a publication is published, with noise and in steps.  Nothing of the product is used here.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID_NS: Final = 10_000_000
GRID_S: Final = GRID_NS / 1e9
BEGIN_NS: Final = 1_000_000_000_000
"""Monotonic time of the world's second 0; the load runs since ``lead_s`` before."""
LOWEST_W, HIGHEST_W = 20.0, 380.0
NOISE_BINS: Final = 5
"""The load's own noise is constant over so many bins: 50 ms."""

Span = tuple[float, float]
"""From when to when, seconds of the world."""


class Reading(NamedTuple):
    """What the BMC published, and what a reader knows of when."""

    published_ns: int  # the truth
    t_ns: int  # the stamp: the publication lies within half_ns of it
    half_ns: int
    power_w: float


@dataclass(frozen=True)
class PlatformSettings:
    """The world; every time is in seconds since its beginning, every span half-open."""

    seconds: float = 600.0
    lead_s: float = 80.0  # of load before second 0, so that a history is there at once
    parts: tuple[str, ...] = ("package", "gpu")
    coefficients: tuple[float, ...] = (1.25, 0.92)
    dwell_s: tuple[float, ...] = (10.0, 20.0)  # mean time between two steps of a part
    step_w: Span = (60.0, 60.0)  # smallest and largest step, of either sign
    together: bool = False  # all parts step as the first does
    load_noise_w: float = 1.0
    base_w: float = 120.0
    base_steps: tuple[Span, ...] = ()  # (at, by how many watts)
    hidden_w: float = 0.0  # a part that nobody measures: 0 .. this
    hidden_dwell_s: float = 30.0
    quiet: tuple[Span, ...] = ()  # nothing steps in these
    delay_s: float = 1.75
    delay_steps: tuple[Span, ...] = ()  # (at, new delay)
    lag_s: float = 0.0
    boxcar_s: float = 1.0
    late_s: float = 0.0  # every reading is published this much later, else unchanged
    noise_w: float = 2.0
    quantum_w: float = 1.0
    period_s: float = 2.0
    jitter_s: float = 0.1
    half_s: float = 0.1  # of the stamps
    spikes: float = 0.0  # share of the readings that are 300 W off
    lost: float = 0.0  # share of the readings that never arrive
    stuck: tuple[Span, ...] = ()  # old value, fresh stamps
    off: tuple[tuple[str, float, float], ...] = ()  # a part uses nothing between two seconds


class PlatformWorld:
    """The truth and the readings of one seed."""

    def __init__(self, settings: PlatformSettings, seed: int) -> None:
        """Make everything; one hour takes a fraction of a second."""
        self.settings = settings
        self.start_ns = BEGIN_NS - round(settings.lead_s * 1e9)
        self.end_ns = BEGIN_NS + round(settings.seconds * 1e9)
        # Each kind of chance has its own numbers: what is late is otherwise the same world.
        seeds = np.random.SeedSequence(seed).spawn(4)  # Generator.spawn came with numpy 1.25
        load, hidden, publish, sensor = map(np.random.default_rng, seeds)
        self._bins = math.ceil((self.end_ns - self.start_ns) / GRID_NS)
        self.steps_ns: list[int] = []
        """When a measured part stepped, in order."""
        parts_w = self._parts_w(load)
        system_w = np.array(settings.coefficients) @ parts_w + self._base_w(hidden)
        self._parts_j = np.array([_cumulative(row) for row in parts_w])
        self._system_j = _cumulative(system_w)
        self.readings = self._readings(system_w, publish, sensor)

    def parts_j(self, t_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return energy of each part since the start, shape (parts, n), joules."""
        return np.array([self._at(row, t_ns) for row in self._parts_j])

    def system_j(self, t_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return energy of the whole machine since the start, shape (n,), joules."""
        return self._at(self._system_j, t_ns)

    def grid_ns(self, end_ns: int, seconds: float, bin_ns: int = 50_000_000) -> NDArray[np.int64]:
        """Return edges of bins up to the first at or after a moment, so many seconds back."""
        last = -(-end_ns // bin_ns)
        first = max(last - math.ceil(seconds * 1e9 / bin_ns), -(-self.start_ns // bin_ns))
        return np.arange(first, last + 1, dtype=np.int64) * bin_ns

    def base_at_w(self, t_ns: int) -> float:
        """Return the base's level, without hidden load, watts."""
        t_s = (t_ns - BEGIN_NS) / 1e9
        return self.settings.base_w + sum(w for at, w in self.settings.base_steps if at <= t_s)

    def centroid_at_s(self, t_ns: int) -> float:
        """Return how old on average is what a reading published then tells, seconds."""
        s = self.settings
        t_s = (t_ns - BEGIN_NS) / 1e9 - s.late_s
        return s.late_s + self._delay_s(t_s) + s.lag_s + s.boxcar_s / 2

    def _at(self, cumulative: NDArray[np.float64], t_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        at = np.clip((t_ns - self.start_ns) / GRID_NS, 0.0, self._bins)
        left = np.minimum(at.astype(np.int64), self._bins - 1)
        part = at - left
        found: NDArray[np.float64] = cumulative[left] * (1.0 - part) + cumulative[left + 1] * part
        return found

    def _parts_w(self, rng: np.random.Generator) -> NDArray[np.float64]:
        s = self.settings
        first: NDArray[np.float64] | None = None
        rows = []
        for dwell in s.dwell_s:
            own = self._stepping_w(rng, dwell)
            first = own if first is None else first
            level = first if s.together else own
            noise = rng.normal(0.0, s.load_noise_w, -(-self._bins // NOISE_BINS))
            rows.append(np.maximum(level + np.repeat(noise, NOISE_BINS)[: self._bins], 0.0))
        for name, from_s, to_s in s.off:
            rows[s.parts.index(name)][self._bin(from_s) : self._bin(to_s)] = 0.0
        self.steps_ns.sort()
        return np.array(rows)

    def _stepping_w(self, rng: np.random.Generator, dwell_s: float) -> NDArray[np.float64]:
        s = self.settings
        level = 140.0
        held = [(0, level)]
        t = -s.lead_s + rng.exponential(dwell_s)
        while t < s.seconds:
            step = rng.uniform(*s.step_w) * rng.choice((-1.0, 1.0))
            if not _inside(t, s.quiet):
                level += step if LOWEST_W <= level + step <= HIGHEST_W else -step
                level = float(np.clip(level, LOWEST_W, HIGHEST_W))
                held.append((self._bin(t), level))
                self.steps_ns.append(BEGIN_NS + round(t * 1e9))
            t += rng.exponential(dwell_s)
        return self._held_w(held)

    def _base_w(self, rng: np.random.Generator) -> NDArray[np.float64]:
        s = self.settings
        watts = np.full(self._bins, s.base_w)
        for at, by_w in s.base_steps:
            watts[self._bin(at) :] += by_w
        if s.hidden_w > 0.0:
            held, t = [(0, 0.0)], -s.lead_s
            while t < s.seconds:
                level = rng.uniform(0.0, s.hidden_w)
                if not _inside(t, s.quiet):
                    held.append((self._bin(t), level))
                t += rng.exponential(s.hidden_dwell_s)
            watts += self._held_w(held)
        return watts

    def _held_w(self, held: list[tuple[int, float]]) -> NDArray[np.float64]:
        """Return the power of every bin from what begins at some of them, in order."""
        begins = [at for at, _ in held]
        watts = np.repeat([w for _, w in held], np.diff([*begins, self._bins]))
        return np.asarray(watts, np.float64)

    def _bin(self, t_s: float) -> int:
        return min(max(int((t_s + self.settings.lead_s) / GRID_S), 0), self._bins)

    def _delay_s(self, t_s: float) -> float:
        delay = self.settings.delay_s
        for at, new in self.settings.delay_steps:
            delay = new if at <= t_s else delay
        return delay

    def _readings(
        self,
        system_w: NDArray[np.float64],
        publish: np.random.Generator,
        sensor: np.random.Generator,
    ) -> tuple[Reading, ...]:
        """Publish until the end; what is late is published at other times, but the same."""
        s = self.settings
        seen_j = _cumulative(_lagged(system_w, s.lag_s))
        found: list[Reading] = []
        shown, t = 0.0, publish.uniform(0.0, s.period_s)
        while t + s.late_s + s.half_s < s.seconds:
            end_s = t - self._delay_s(t)
            ends_ns = BEGIN_NS + np.array([(end_s - s.boxcar_s) * 1e9, end_s * 1e9]).astype(
                np.int64
            )
            before_j, after_j = self._at(seen_j, ends_ns)
            seen_w = (after_j - before_j) / s.boxcar_s + sensor.normal(0.0, s.noise_w)
            spike = 300.0 * sensor.choice((-1.0, 1.0)) if sensor.uniform() < s.spikes else 0.0
            if not _inside(t, s.stuck):
                shown = seen_w + spike
                if s.quantum_w > 0.0:
                    shown = s.quantum_w * round(shown / s.quantum_w)
            published = BEGIN_NS + round((t + s.late_s) * 1e9)
            off, half_ns = round(publish.uniform(-s.half_s, s.half_s) * 1e9), round(s.half_s * 1e9)
            if publish.uniform() >= s.lost:
                found.append(Reading(published, published + off, half_ns, float(shown)))
            t += s.period_s + publish.uniform(-s.jitter_s, s.jitter_s)
        return tuple(found)


def _cumulative(watts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(watts * GRID_S)])


def _lagged(watts: NDArray[np.float64], lag_s: float) -> NDArray[np.float64]:
    if lag_s <= 0.0:
        return watts
    keep = math.exp(-GRID_S / lag_s)
    values = itertools.accumulate(watts.tolist(), lambda y, w: keep * y + (1.0 - keep) * w)
    return np.fromiter(values, np.float64, len(watts))


def _inside(t_s: float, spans: tuple[Span, ...]) -> bool:
    return any(begin <= t_s < end for begin, end in spans)

"""The energy counter of a package and its reader (``tests/sim/generator.py`` has the equations)."""

from dataclasses import dataclass

import numpy as np

from tests.sim.activity import CELL, Floats, Ints
from tests.sim.settings import Settings

LOST = -1
"""Stands where a read returned nothing."""


@dataclass(frozen=True)
class Reads:
    """The reads of one package's counter."""

    t_ns: Ints  # (r,) midpoint of each read; the same for all packages
    native_uj: Ints  # (r,) LOST: not read


def readings(
    s: Settings, rng: np.random.Generator, energy: Floats
) -> tuple[tuple[Reads, ...], int]:
    """The reads of each package, given its energy (cells, packages) in joules, and the range of
    the counter in microjoules."""
    moments = _moments(s, rng)
    seen = moments - s.delay_s
    least = float(energy.sum(axis=0).min())
    whole = int(least * 1e6 / (s.wraps + 0.5)) if s.wraps else 0
    max_range = whole // s.quantum_uj * s.quantum_uj
    t_ns = np.rint(moments * 1e9).astype(np.int64)
    reads = []
    for p in range(s.packages):
        count = _updated(s, rng, energy[:, p], seen) // s.quantum_uj
        native = count * s.quantum_uj
        start = int(rng.uniform(0.3, 0.7) * max_range) // s.quantum_uj * s.quantum_uj
        native = (native + start) % max_range if max_range else native + s.quantum_uj * 1_000_000
        lost = rng.uniform(size=len(native)) < 1.0 / s.lost_every if s.lost_every else False
        reads.append(Reads(t_ns, np.where(lost, LOST, native)))
    return tuple(reads), max_range


def _moments(s: Settings, rng: np.random.Generator) -> Floats:
    """When the reads happen, in seconds: the first tells of before 0, the last of after the end."""
    first = int(s.delay_s // s.read_s) - 2
    steps = round(s.seconds / s.read_s) + 5
    planned = (first + np.arange(steps)) * s.read_s + s.delay_s % s.read_s
    moments = planned + s.read_jitter_s * rng.standard_normal(steps)
    if s.late_every:
        late = rng.uniform(size=steps) < 1.0 / s.late_every
        late[:2] = late[-3:] = False  # both ends of the run stay covered
        moments += np.where(late, rng.uniform(0.02, 0.08, steps), 0.0)
    before = np.maximum.accumulate(moments)
    happens = np.concatenate(([True], moments[1:] > before[:-1] + 0.001))
    return moments[happens]


def _updated(s: Settings, rng: np.random.Generator, energy: Floats, seen: Floats) -> Ints:
    """Energy in microjoules at the counter's last update before each moment."""
    phase = rng.uniform(0.0, s.update_s)
    k = np.floor((seen - phase) / s.update_s)
    spread = s.update_s / 4
    jitter = np.clip(s.update_jitter_s * rng.standard_normal((2, len(k))), -spread, spread)
    update = phase + k * s.update_s + jitter[0]
    before = phase + (k - 1) * s.update_s + jitter[1]
    update = np.where(update > seen, before, update)
    cells = len(energy)
    total = np.concatenate(([0.0], np.cumsum(energy)))
    inside = np.interp(update, np.arange(cells + 1) * CELL, total)
    inside += np.minimum(update, 0.0) * energy[0] / CELL
    inside += np.maximum(update - cells * CELL, 0.0) * energy[-1] / CELL
    counted: Ints = np.floor(inside * 1e6).astype(np.int64)
    return counted

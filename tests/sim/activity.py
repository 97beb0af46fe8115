"""Who runs when: the activity of the generator's workloads (``tests/sim/generator.py``).

Residents live all the time and follow one of four patterns; their size is the CPUs used while
running:

    bursts  on and off for 0.2 to 5 s each, log-uniform
    blips   on for 20 to 200 ms, off for 0.1 to 0.8 s, uniform
    square  a period of 0.5 to 4 s, on for half of it
    steady  always on, size (1 + 0.15 a(t)), a(t) AR(1) that forgets in 2 s

Sizes are uniform in 0.5 to 1.5 of what gives the node its expected load with these duties (0.5,
0.2, 0.5, 1).  Switching falls anywhere within a 10 ms cell.  Where a least
load is asked for, all who run in a cell below it are raised to it by one factor.  A pair (residents
0 and 1) shares activity and package, not size.
Visitors are born at ``visitors`` per second at uniform moments, live 0.1 to 1 s and use 0.1 to 0.5
CPU all the time, on one package.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.sim.settings import Settings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CELL = 0.01
"""Seconds of a cell."""
BIN = 5
"""Cells of a bin."""
DUTY = {"bursts": 0.5, "blips": 0.2, "square": 0.5, "steady": 1.0}
LONGEST = 101  # cells that a life of up to 1 s touches


@dataclass(frozen=True)
class Residents:
    """CPUs asked for, and where: the share away from home is the same on all other packages."""

    demand: Floats  # (n, cells)
    home: Ints  # (n,)
    away: Floats  # (n, cells) share on all the other packages together
    packages: int

    def share(self, package: int) -> Floats:
        """Share of each workload's time that it asks of this package, (n, cells)."""
        if self.packages == 1:
            return np.ones_like(self.away)
        at_home = (self.home == package)[:, None]
        return np.where(at_home, 1.0 - self.away, self.away / (self.packages - 1))

    def per_cell(self) -> Floats:
        """CPUs asked of each package, (cells, packages)."""
        totals = [np.einsum("nc,nc->c", self.demand, self.share(p)) for p in range(self.packages)]
        return np.stack(totals, axis=1)


@dataclass(frozen=True)
class Visitors:
    """Short lives; column j is the j-th cell of a life."""

    demand: Floats  # (m, LONGEST) CPUs, 0 after the end
    cell: Ints  # (m, LONGEST) where on the grid
    alive: Ints  # (m, 2) bins
    home: Ints  # (m,)
    packages: int

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.home)

    def per_cell(self, values: Floats, cells: int) -> Floats:
        """The sum of ``values`` (m, LONGEST) in each cell of each package, (cells, packages)."""
        if not self.n:
            return np.zeros((cells, self.packages))
        where = (self.cell * self.packages + self.home[:, None]).ravel()
        summed: Floats = np.bincount(where, values.ravel(), cells * self.packages).astype(
            np.float64
        )
        return summed.reshape(cells, self.packages)

    def binned(self, values: Floats) -> tuple[Ints, Floats]:
        """``values`` summed by bin, visitor after visitor: package and sum of each row."""
        lengths = self.alive[:, 1] - self.alive[:, 0]
        begin = np.concatenate(([0], np.cumsum(lengths)))
        row = begin[:-1, None] + self.cell // BIN - self.alive[:, :1]
        real = self.demand > 0.0
        summed: Floats = np.bincount(row[real], values[real], int(begin[-1])).astype(np.float64)
        return np.repeat(self.home, lengths), summed


def residents(s: Settings, rng: np.random.Generator, cells: int) -> Residents:
    """The workloads that live all the time."""
    names = [s.patterns[i % len(s.patterns)] for i in range(s.workloads)]
    size = _sizes(s, names, rng)
    shape = np.stack([_on_time(name, s.seconds, cells, rng) for name in names])
    steady = np.array([name == "steady" for name in names])
    modulation = 1.0 + 0.15 * wandering(rng, int(steady.sum()), cells, 2.0)
    shape[steady] *= np.maximum(modulation, 0.0)
    away = np.stack([_away(cells, rng) for _ in names])
    home = rng.permutation(np.arange(s.workloads) % s.packages).astype(np.int64)
    if s.pair:
        shape[1], away[1], home[1] = shape[0], away[0], home[0]
    demand = shape * size[:, None]
    if s.min_load > 0.0:
        least = s.min_load * s.packages * s.cpus
        demand *= np.maximum(1.0, least / np.maximum(demand.sum(axis=0), 1e-9))
    return Residents(demand, home, away, s.packages)


def _sizes(s: Settings, names: list[str], rng: np.random.Generator) -> Floats:
    drawn = rng.uniform(0.5, 1.5, len(names))
    if s.sizes:
        return np.array(s.sizes, np.float64)
    duty = np.array([DUTY[name] for name in names])
    size: Floats = drawn * s.load * s.packages * s.cpus / duty.sum()
    return size


def _on_time(name: str, seconds: float, cells: int, rng: np.random.Generator) -> Floats:
    """The share of each cell in which the pattern is on."""
    if name == "steady":
        return np.ones(cells)
    if name == "square":
        period = rng.uniform(0.5, 4.0)
        phases = int(2 * seconds / period) + 4
        on, off = np.full(phases, period / 2), np.full(phases, period / 2)
    elif name == "blips":
        phases = int(seconds / 0.12) + 2
        on, off = rng.uniform(0.02, 0.2, phases), rng.uniform(0.1, 0.8, phases)
    else:
        phases = int(seconds / 0.4) + 2
        on, off = np.exp(rng.uniform(np.log(0.2), np.log(5.0), (2, phases)))
    times = np.empty(2 * phases + 1)
    times[0] = 0.0
    times[1::2], times[2::2] = off, on
    times = np.cumsum(times)
    times -= rng.uniform(0.0, times[2])
    run = np.zeros(2 * phases + 1)
    run[2::2] = np.cumsum(on)
    run[1:-1:2] = run[:-2:2]
    on_until = np.interp(np.arange(cells + 1) * CELL, times, run)
    shares: Floats = np.diff(on_until) / CELL
    return shares


def _away(cells: int, rng: np.random.Generator) -> Floats:
    spells = cells * CELL / 2.0
    lengths = rng.uniform(2.0, 6.0, int(spells) + 2)
    share = rng.uniform(0.0, 0.4, len(lengths))
    counts = np.diff(np.concatenate(([0], np.rint(np.cumsum(lengths) / CELL).astype(np.int64))))
    return np.repeat(share, counts)[:cells]


def visitors(s: Settings, rng: np.random.Generator, cells: int) -> Visitors:
    """The workloads that come and go."""
    many = round(s.visitors * s.seconds)
    life = rng.uniform(0.1, 1.0, many)
    birth = np.sort(rng.uniform(0.0, s.seconds - 1.0 - CELL, many)) if many else np.empty(0)
    size = rng.uniform(0.1, 0.5, many)
    home = rng.integers(0, s.packages, many)
    first = np.floor(birth / CELL).astype(np.int64)
    cell = first[:, None] + np.arange(LONGEST)
    begin, end = birth[:, None], (birth + life)[:, None]
    on = np.minimum(end, (cell + 1) * CELL) - np.maximum(begin, cell * CELL)
    demand = size[:, None] * np.clip(on, 0.0, None) / CELL
    last = np.where(demand > 0.0, cell, -1).max(axis=1, initial=-1)
    alive = np.stack([first // BIN, last // BIN + 1], axis=1)
    return Visitors(demand, np.minimum(cell, cells - 1), alive, home, s.packages)


def wandering(rng: np.random.Generator, rows: int, cells: int, forget_s: float) -> Floats:
    """AR(1) of unit variance that forgets in ``forget_s``, (rows, cells)."""
    block = 100
    blocks = -(-cells // block)
    rho = float(np.exp(-CELL / forget_s))
    lag = np.arange(block)[None, :] - np.arange(block)[:, None]
    weight = np.where(lag >= 0, rho ** np.maximum(lag, 0), 0.0) * np.sqrt(1.0 - rho**2)
    out = rng.standard_normal((rows * blocks, block)) @ weight
    out = out.reshape(rows, blocks, block)
    carry, decay = rng.standard_normal(rows), rho ** np.arange(1, block + 1)
    for k in range(blocks):
        out[:, k] += carry[:, None] * decay
        carry = out[:, k, -1]
    whole: Floats = out.reshape(rows, blocks * block)[:, :cells]
    return whole

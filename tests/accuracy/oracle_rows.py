"""What the oracle sees of a run: the energy between readings, and who ran from one to the next.

A row is what one package's counter gained from one reading to the next. Readings are those nearest
to the bin edges, if within 8 ms; energy is never interpolated, because that smears a burst into
the neighbour bin and books it too low. CPU time is known by bin instead, so it is carried to the
moment of the reading, up to 8 ms before or after the edge: for this alone, a window's last rows
look at the bin after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.sim.generator import Run, Settings

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

BINS = 60
BIN_S = 0.05
NEAR_S = 0.008


@dataclass(frozen=True)
class Meter:
    """One package's readings, for each bin edge the nearest: joules, seconds after the edge, the
    variance of the joules, and whether it is near enough to be used."""

    joules: Floats
    off_s: Floats
    end_var: Floats
    good: Bools


@dataclass(frozen=True)
class Block:
    """The rows of a window, those of one package after those of another.

    CPU seconds are weighed by the power curve: ``x`` those of ``who`` in each row, ``whole`` the
    sum over the window's bins, whether a row covers them or not.
    """

    who: Ints
    y: Floats
    dt: Floats
    mid_s: Floats
    end_var: Floats
    package: Ints
    x: Floats
    whole: Floats
    span_s: float

    @property
    def begins(self) -> Bools:
        """Which rows are the first of their package."""
        return np.append(True, np.diff(self.package) != 0)[: len(self.y)]

    @property
    def ends(self) -> Bools:
        """Which rows are the last of their package."""
        return np.append(np.diff(self.package) != 0, True)[-len(self.y) :][: len(self.y)]


def meter_of(run: Run, package: int) -> Meter:
    """The reading nearest to each bin edge."""
    reads = run.reads[package]
    seen = reads.native_uj >= 0
    t_ns: Ints = reads.t_ns[seen] - round(run.settings.delay_s * 1e9)
    steps = np.diff(reads.native_uj[seen])
    steps = steps % run.max_range_uj if run.max_range_uj else steps
    joules = np.append(0.0, np.cumsum(steps) * 1e-6)
    after = np.clip(np.searchsorted(t_ns, run.edges_ns), 1, len(t_ns) - 1)
    nearer = t_ns[after] - run.edges_ns < run.edges_ns - t_ns[after - 1]
    nearest = after - ~nearer
    off_s = (t_ns[nearest] - run.edges_ns) * 1e-9
    watts = np.diff(joules[nearest]) / np.maximum(np.diff(t_ns[nearest]) * 1e-9, BIN_S / 5)
    left, right = np.append(watts[:1], watts), np.append(watts, watts[-1:])
    update_j = (left + right) / 2 * run.settings.update_s
    quantum_j = run.settings.quantum_uj * 1e-6
    # the last term is what carrying CPU time to the reading leaves: small, and not critical
    var: Floats = (update_j**2 + quantum_j**2) / 12.0 + 0.1 * ((right - left) * off_s) ** 2
    return Meter(joules[nearest], off_s.astype(np.float64), var, np.abs(off_s) <= NEAR_S)


def _curve(s: Settings, u: Floats) -> Floats:
    """Power per joule of c x at busy share u."""
    u = np.maximum(u, 1e-9)
    if s.curve == "sqrt":
        return 0.75 + 0.25 / np.sqrt(u)
    if s.curve == "exp":
        return -np.expm1(-u) / u
    return np.ones_like(u)


def windows_of(run: Run, meters: list[Meter]) -> list[tuple[int, int]]:
    """First and last + 1 bin of each window; it ends at the next edge that all packages have."""
    good = np.logical_and.reduce([meter.good for meter in meters])
    nominal = np.arange(BINS, run.bins + BINS, BINS)
    ends = [run.bins if end >= run.bins else _next(good, int(end)) for end in nominal]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _next(good: Bools, edge: int) -> int:
    later = np.flatnonzero(good[edge:])
    return edge + (int(later[0]) if len(later) else 0)


def block_of(run: Run, meters: list[Meter], idle_given: bool, span: tuple[int, int]) -> Block:
    """The rows of a window, every package's after one another, and who ran in them."""
    first, last = max(span[0] - 1, 0), min(span[1] + 1, run.bins)
    around, cpu_ns, _ = run.block(first, last)
    here = (run.alive[around, 0] < span[1]) & (run.alive[around, 1] > span[0])
    x = cpu_ns[:, :, here] * 1e-9 * _curve(run.settings, run.busy[first:last])[:, :, None]
    inner = slice(span[0] - first, span[1] - first)
    parts = [
        _package_rows(meter, run.idle_j[span[0] : span[1], p] * idle_given, x[:, p], span)
        for p, meter in enumerate(meters)
    ]
    y, dt, mid_s, end_var, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    package = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    return Block(
        who=around[here],
        y=y,
        dt=dt,
        mid_s=mid_s,
        end_var=end_var,
        package=package,
        x=rows,
        whole=x[inner].sum(axis=(0, 1)),
        span_s=(span[1] - span[0]) * BIN_S,
    )


def _package_rows(
    meter: Meter, idle_j: Floats, x: Floats, span: tuple[int, int]
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Energy, length, middle, end variance and CPU seconds of one package's rows."""
    edges = np.flatnonzero(meter.good[span[0] : span[1] + 1])
    at = edges + span[0]
    summed = np.append(0.0, np.cumsum(idle_j))[edges] + meter.off_s[at] * idle_j.mean() / BIN_S
    energy = np.diff(meter.joules[at] - summed)
    t_s = edges * BIN_S + meter.off_s[at]
    rows = np.diff(_at_reads(x, meter.off_s, span)[edges], axis=0)
    return energy, np.diff(t_s), (t_s[1:] + t_s[:-1]) / 2, meter.end_var[at[1:]], rows


def _at_reads(x: Floats, off_s: Floats, span: tuple[int, int]) -> Floats:
    """CPU seconds from the window's start to the reading of each of its edges.

    ``x`` has a bin more on both sides.  Near an edge a workload runs as in the busier of the two
    bins, or not at all where it is idle in one of them: it switches on or off within a bin.
    """
    bins = span[1] - span[0]
    before = x[:1] if span[0] == 0 else x[:0]
    after = x[-1:] if len(x) + len(before) < bins + 2 else x[:0]
    wide = np.concatenate((before, x, after))
    left, right = wide[:-1], wide[1:]
    summed = np.concatenate((np.zeros((1, x.shape[1])), np.cumsum(wide[1:-1], axis=0)))
    shift = off_s[span[0] : span[1] + 1, None] / BIN_S
    least, most = np.minimum(left, right), np.maximum(left, right)
    level = np.where(shift > 0, right, left)
    local = np.where(least > most / 2, level, np.where(least > 0, most, 0.0))
    return summed + shift * local

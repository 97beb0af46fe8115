"""A node with known truth: what every workload used, what its sensors said, and nothing of tychod.

Time runs from 0 to ``seconds`` on a grid of 10 ms cells; results stand in bins of 50 ms.  For
workload w, package p and cell t (dt = 10 ms):

    CPU time    x_wp(t) = d_w(t) f_wp(t) k_p(t) dt
                d_w     CPUs that w asks for, ``tests/sim/activity.py`` says how
                f_wp    its share on package p: a home package, and 0 to 40 % elsewhere, drawn anew
                        every 2 to 6 s; a visitor stays where it was born
                k_p     = min(1, cpus / sum_w d_w f_wp): the package has no more CPUs than it has
    load        u_p(t)  = sum_w x_wp(t) / (cpus dt)
    curve       s(u)    = 1 | (0.75 u + 0.25 sqrt u) / u | (1 - exp(-u)) / u
    intensity   c_w(t)  = b_w(t) max(0.05, 1 + wander a_w(t)), the same on all packages;
                b_w     = mean_j exp(sigma z_w - sigma^2 / 2), or as listed in ``intensities``;
                        from ``seconds / 2`` on times ``change`` for ``changed`` of the workloads
                a_w     AR(1) of unit variance that forgets in ``wander_s``
    dynamic     D_wp(t) = s(u_p) c_w x_wp
    idle        I_p(t)  = idle_w (1 + g drift t / seconds) dt, g = 1 or -1 by the seed
    noise       N_p(t)  white; its sum over a 50 ms bin has sd
                        ``node_noise_w`` 0.05 s / sqrt(packages)
    energy      P_p(t)  = scale (I_p + N_p + sum_w D_wp), spread evenly over its cell; E_p is its
                integral, continued before 0 and after the end with the power of the edge cell

The sensor: E_p is copied into the counter every ``update_s`` (each moment +- ``update_jitter_s``)
and cut to multiples of the quantum; the counter begins anywhere and returns to 0 where it would
reach ``max_range_uj``.  A read planned for ``k read_s + (delay_s mod read_s)`` happens with normal
jitter, one in ``late_every`` 20 to 80 ms late (a read whose moment has passed by then does not
happen), one in ``lost_every`` returns nothing.  A read at t tells the counter as it was at
t - ``delay_s``.

Activity, intensity, noise and sensor have random streams of their own: the same seed with another
delay, scale or sigma is the same node.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.sim import activity, sensor
from tests.sim.activity import BIN, CELL, Floats, Ints
from tests.sim.settings import Settings

__all__ = ["BIN_NS", "Run", "Settings", "world"]

BIN_NS = 50_000_000


@dataclass(frozen=True)
class Run:
    """What a world gave.  Workload i lived in the bins ``alive[i, 0] .. alive[i, 1] - 1``; its rows
    stand one bin after the other in ``flat_*`` from ``offset[i]`` on."""

    settings: Settings
    seed: int
    edges_ns: Ints  # (nb + 1,)
    alive: Ints  # (n, 2)
    offset: Ints  # (n,)
    flat_cpu_ns: Ints  # (rows, packages)
    flat_dynamic_j: Floats  # (rows, packages)
    idle_j: Floats  # (nb, packages)
    noise_j: Floats  # (nb, packages)
    busy: Floats  # (nb, packages) busy share
    intensity_j: Floats  # (n, 2) base in the first and second half of the run, without scale
    reads: tuple[sensor.Reads, ...]  # of each package
    max_range_uj: int  # the counter returns to 0 after this value; 0: never

    @property
    def bins(self) -> int:
        """Number of 50 ms bins."""
        return len(self.edges_ns) - 1

    @property
    def n(self) -> int:
        """Number of workloads, visitors included."""
        return len(self.alive)

    @property
    def cpu_ns(self) -> Ints:
        """CPU time (nb, packages, n): for worlds without visitors; it would be too large there."""
        return self.block(0, self.bins)[1]

    @property
    def dynamic_j(self) -> Floats:
        """True dynamic energy (nb, packages, n): for worlds without visitors."""
        return self.block(0, self.bins)[2]

    def block(self, first: int, last: int) -> tuple[Ints, Ints, Floats]:
        """Who lived in the bins ``first .. last - 1``: workloads (k,), their CPU time in ns and
        their dynamic energy in joules, both (last - first, packages, k)."""
        who = np.flatnonzero((self.alive[:, 0] < last) & (self.alive[:, 1] > first))
        born, gone = self.alive[who, 0], self.alive[who, 1]
        at = np.arange(first, last)[:, None]
        living = (at >= born) & (at < gone)
        rows = np.where(living, self.offset[who] + at - born, 0)
        cpu = np.where(living[:, :, None], self.flat_cpu_ns[rows], 0).transpose(0, 2, 1)
        joules = np.where(living[:, :, None], self.flat_dynamic_j[rows], 0.0).transpose(0, 2, 1)
        return who, cpu, joules

    def total_dynamic_j(self, first: int = 0) -> Floats:
        """True dynamic energy (n,) in joules of each workload from bin ``first`` on."""
        lengths = self.alive[:, 1] - self.alive[:, 0]
        skip = np.clip(first - self.alive[:, 0], 0, lengths)
        summed = np.concatenate(([0.0], np.cumsum(self.flat_dynamic_j.sum(axis=1))))
        total: Floats = summed[self.offset + lengths] - summed[self.offset + skip]
        return total


def world(settings: Settings, seed: int) -> Run:
    """The run of one seed."""
    cells = round(settings.seconds / CELL)
    streams = [np.random.default_rng([seed, k]) for k in range(6)]
    asked = activity.residents(settings, streams[0], cells)
    guests = activity.visitors(settings, streams[1], cells)
    cap = _caps(settings, asked, guests, cells)
    base = _base(settings, streams[2], len(asked.demand) + guests.n)
    node = _Node(settings, cap * _curve(settings, asked, guests, cap), cap, base)
    cpu, joules = _resident_rows(node, asked, streams[3])
    guest_cpu, guest_joules = _visitor_rows(node, guests, streams[3], len(asked.demand))
    alive, offset = _lives(len(asked.demand), cells // BIN, guests)
    dynamic = np.stack([j.reshape(-1, cells).sum(axis=0) for j in joules], axis=1)
    dynamic += guests.per_cell(guest_joules, cells)
    idle, noise = _idle(settings, streams[4], cells)
    energy = settings.scale * (idle + noise + dynamic)
    reads, max_range = sensor.readings(settings, streams[5], energy)
    load = cap * (asked.per_cell() + guests.per_cell(guests.demand, cells)) / settings.cpus
    return Run(
        settings=settings,
        seed=seed,
        edges_ns=np.arange(cells // BIN + 1, dtype=np.int64) * BIN_NS,
        alive=alive,
        offset=offset,
        flat_cpu_ns=_nanoseconds(cpu, guests.binned(guest_cpu)),
        flat_dynamic_j=settings.scale * _rows(joules, guests.binned(guest_joules)),
        idle_j=settings.scale * _bins(idle),
        noise_j=settings.scale * _bins(noise),
        busy=_bins(load) / BIN,
        intensity_j=base,
        reads=reads,
        max_range_uj=max_range,
    )


@dataclass(frozen=True)
class _Node:
    settings: Settings
    power: Floats  # (cells, packages) what a joule of c x becomes: cap times curve
    cap: Floats  # (cells, packages)
    base: Floats  # (n, 2)


def _caps(s: Settings, asked: activity.Residents, guests: activity.Visitors, cells: int) -> Floats:
    total = asked.per_cell() + guests.per_cell(guests.demand, cells)
    cap: Floats = np.minimum(1.0, s.cpus / np.maximum(total, 1e-9))
    return cap


def _curve(
    s: Settings, asked: activity.Residents, guests: activity.Visitors, cap: Floats
) -> Floats:
    total = asked.per_cell() + guests.per_cell(guests.demand, len(cap))
    u = np.maximum(cap * total / s.cpus, 1e-9)
    if s.curve == "sqrt":
        factor = 0.75 + 0.25 / np.sqrt(u)
    elif s.curve == "exp":
        factor = -np.expm1(-u) / u
    else:
        factor = np.ones_like(u)
    return factor


def _base(s: Settings, rng: np.random.Generator, n: int) -> Floats:
    drawn = s.mean_j * np.exp(s.sigma * rng.standard_normal(n) - s.sigma**2 / 2)
    if s.equal:
        drawn[:] = s.mean_j
    drawn[: len(s.intensities)] = s.intensities
    base = np.repeat(drawn[:, None], 2, axis=1)
    changed = rng.permutation(s.workloads)[: round(s.changed * s.workloads)]
    base[changed, 1] *= s.change
    return base


def _resident_rows(
    node: _Node, asked: activity.Residents, rng: np.random.Generator
) -> tuple[list[Floats], list[Floats]]:
    """CPU seconds and dynamic joules (before scale) of each package, (workloads, cells)."""
    s, (n, cells) = node.settings, asked.demand.shape
    intensity = 1.0 + s.wander * activity.wandering(rng, n, cells, s.wander_s)
    np.maximum(intensity, 0.05, out=intensity)
    half = cells // 2
    intensity[:, :half] *= node.base[:n, :1]
    intensity[:, half:] *= node.base[:n, 1:]
    cpu, joules = [], []
    for p in range(s.packages):
        used = asked.demand * asked.share(p)
        used *= CELL
        joules.append(used * intensity * node.power[:, p])
        cpu.append(used * node.cap[:, p])
    return cpu, joules


def _visitor_rows(
    node: _Node, guests: activity.Visitors, rng: np.random.Generator, residents: int
) -> tuple[Floats, Floats]:
    """CPU seconds and dynamic joules (before scale) of visitors, (visitors, cells of a life)."""
    s = node.settings
    intensity = 1.0 + s.wander * activity.wandering(rng, guests.n, activity.LONGEST, s.wander_s)
    late = guests.cell >= len(node.cap) // 2
    base = node.base[residents:]
    intensity = np.maximum(intensity, 0.05) * np.where(late, base[:, 1:], base[:, :1])
    used = guests.demand * CELL
    home = guests.home[:, None]
    cap, power = node.cap[guests.cell, home], node.power[guests.cell, home]
    return used * cap, used * power * intensity


def _idle(s: Settings, rng: np.random.Generator, cells: int) -> tuple[Floats, Floats]:
    """Idle and noise energy (cells, packages) in joules, before scale."""
    way = rng.choice([-1.0, 1.0])
    ramp = 1.0 + way * s.idle_drift * (np.arange(cells) + 0.5) / cells
    idle = np.repeat(s.idle_w * CELL * ramp[:, None], s.packages, axis=1)
    sd = s.node_noise_w * (BIN * CELL) / np.sqrt(BIN * s.packages)
    return idle, sd * rng.standard_normal((cells, s.packages))


def _lives(residents: int, bins: int, guests: activity.Visitors) -> tuple[Ints, Ints]:
    alive = np.zeros((residents + guests.n, 2), np.int64)
    alive[:residents, 1] = bins
    alive[residents:] = guests.alive
    lengths = alive[:, 1] - alive[:, 0]
    return alive, np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)


def _bins(cells: Floats) -> Floats:
    summed: Floats = cells.reshape(-1, BIN, cells.shape[1]).sum(axis=1)
    return summed


def _rows(packages: list[Floats], guests: tuple[NDArray[np.int64], Floats]) -> Floats:
    """Cells to bins, workload after workload: (rows, packages)."""
    binned = [np.add.reduceat(c, np.arange(0, c.shape[1], BIN), axis=1).ravel() for c in packages]
    home, values = guests
    visitors = np.zeros((len(home), len(packages)))
    visitors[np.arange(len(home)), home] = values
    return np.concatenate([np.stack(binned, axis=1), visitors])


def _nanoseconds(packages: list[Floats], guests: tuple[NDArray[np.int64], Floats]) -> Ints:
    return np.rint(_rows(packages, guests) * 1e9).astype(np.int64)

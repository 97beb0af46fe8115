"""How well the whole machine's power is known from a late, slow BMC and prompt parts.

Run ``python -m tests.accuracy.platform [SEEDS]``.  Every figure is of a cold start, window by
window through the analysis' own code; the world's own power and delay are the judge.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.accuracy.figure import Figure
from tests.sim.bmcpower import BEGIN_NS, PlatformSettings, PlatformWorld
from tests.sim.platformnode import Faults, Row, rows
from tychod.analysis.learned import Float64s
from tychod.samples import Int64s

NS: Final = 1_000_000_000
Bools = NDArray[np.bool_]
PLAIN: Final = PlatformSettings(seconds=780.0)
HIDDEN: Final = replace(PLAIN, hidden_w=40.0)
SETTLED_S: Final = 120.0
"""Windows count from then on; before, the coefficients are still being learned."""
NEAR_S: Final = 0.15
COLD_S: Final = 10.0
"""The first step counts from here: nobody knows the parts from before the start, and no reading
can be laid against an earlier one.
"""
CHANGE_S, RISE_S, FALL_S = 300.0, 300.0, 900.0
STEPPED_W, MADE, HALF = 50.0, 0.8, 0.5
LATE: Final = replace(PLAIN, seconds=600.0, delay_steps=((CHANGE_S, 3.75),))
BASED: Final = replace(
    PLAIN, seconds=1100.0, base_steps=((RISE_S, STEPPED_W), (FALL_S, -STEPPED_W))
)
LOST_S, BACK_S, AGAIN_S = 300.0, 600.0, 660.0
LOST: Final = replace(PLAIN, seconds=AGAIN_S)
OFF: Final = replace(LOST, off=(("gpu", LOST_S, BACK_S),))
SIGMAS: Final = 3.0
QUIET: Final = replace(PLAIN, seconds=4200.0, quiet=((300.0, 3900.0),))


class Run(NamedTuple):
    """A world and what was made of it."""

    world: PlatformWorld
    rows: tuple[Row, ...]

    @property
    def end_s(self) -> Float64s:
        """End of each window, seconds of the world."""
        return np.array([(row.window.end_ns - BEGIN_NS) / NS for row in self.rows])

    @property
    def centroid_off_s(self) -> Float64s:
        """Error of the delay's centroid at the end of each window, by its size."""
        found = [
            abs((row.seen.fit.centroid_s if row.seen.fit else None) or 0.0)
            - self.world.centroid_at_s(row.window.end_ns)
            for row in self.rows
        ]
        return np.abs(found)


def run(settings: PlatformSettings, seed: int, faults: Faults | None = None) -> Run:
    """Follow one world from a cold start to its end."""
    world = PlatformWorld(settings, seed)
    return Run(world, tuple(rows(world, faults=faults)))


def figures(seeds: Sequence[int]) -> list[Figure]:
    """Return every row about the BMC."""
    plain = [run(PLAIN, seed) for seed in seeds]
    return [
        *_alignment(plain),
        *_windows("BMC, 3 s windows", plain, 0.5, 1.5),
        *_windows("BMC, 40 W hidden", [run(HIDDEN, seed) for seed in seeds], 1.0, 3.0),
        *_integral(plain),
        *_change(seeds),
        *_all_late(plain, seeds),
        *_quiet(seeds),
        *_base(seeds),
        *_lost("GPU lost, still drawing", LOST, seeds),
        *_lost("GPU lost and off", OFF, seeds),
    ]


def _alignment(runs: Sequence[Run]) -> list[Figure]:
    entered = [
        _followed_s(r.end_s, r.centroid_off_s <= NEAR_S, _first_step_s(r, COLD_S)) for r in runs
    ]
    late = [float(r.centroid_off_s[r.end_s >= _first_step_s(r, COLD_S) + 60.0].max()) for r in runs]
    off = [_coefficients_off(r) for r in runs]
    case = "BMC, 1.75 s late"
    return [
        Figure(case, "150 ms for good after 1st step from 10 s", max(entered), "s", 60.0),
        Figure(case, "centroid off 60 s after that step, worst", 1e3 * max(late), "ms", 150.0),
        Figure(case, "coefficients off after 180 s, worst", 100.0 * max(off), "%", 5.0),
    ]


def _first_step_s(one: Run, after_s: float) -> float:
    steps = [(t - BEGIN_NS) / NS for t in one.world.steps_ns]
    return next(t for t in steps if t >= after_s)


def _followed_s(end_s: Float64s, is_near: Bools, since_s: float) -> float:
    """Return how long after a moment it was near and stayed so; windows are all there is."""
    away = end_s[(end_s > since_s) & ~is_near]
    later = end_s[end_s > (away[-1] if len(away) else since_s)]
    return float(later[0] - since_s) if len(later) else np.inf


def _coefficients_off(one: Run) -> float:
    """Return the largest relative error from 180 s on."""
    truth = dict(zip(one.world.settings.parts, one.world.settings.coefficients, strict=True))
    return max(
        abs(found.value / truth[name] - 1.0)
        for row in one.rows
        if row.window.end_ns >= BEGIN_NS + 180 * NS and row.seen.fit
        for name, found in row.seen.fit.coefficients.items()
    )


def _errors(one: Run, from_s: float = SETTLED_S) -> Float64s:
    """Return each window's error, relative to what the machine used."""
    spans = _spans(one, from_s)
    truth = np.diff(one.world.system_j(spans.ravel()).reshape(-1, 2), axis=1)[:, 0]
    found = [row.seen.energy_uj / 1e6 for row in _booked(one, from_s)]
    return np.abs(np.array(found) / truth - 1.0)


def _booked(one: Run, from_s: float) -> list[Row]:
    return [
        row
        for row in one.rows
        if row.seen.from_ns is not None and row.seen.from_ns >= BEGIN_NS + from_s * NS
    ]


def _spans(one: Run, from_s: float) -> Int64s:
    return np.array([(r.seen.from_ns, r.seen.through_ns) for r in _booked(one, from_s)], np.int64)


def _windows(case: str, runs: Sequence[Run], mean: float, p95: float) -> list[Figure]:
    errors = 100.0 * np.concatenate([_errors(one) for one in runs])
    bias = [abs(_residual_bias_w(one)) for one in runs]
    return [
        Figure(case, "error of a window, mean", float(errors.mean()), "%", mean),
        Figure(case, "error of a window, p95", float(np.quantile(errors, 0.95)), "%", p95),
        Figure(case, "residual's bias over 11 min, worst", max(bias), "W", 1.0),
    ]


def _residual_bias_w(one: Run) -> float:
    """Return how far the ledger's growth is from the truth, as power."""
    first, last = _booked(one, SETTLED_S)[0], one.rows[-1]
    begin, end = first.seen.residual, last.seen.residual
    if begin is None or end is None or not (begin.through_ns and end.through_ns):
        return np.inf
    at = np.array([begin.through_ns, end.through_ns], np.int64)
    rest = np.diff(one.world.system_j(at)) - np.diff(one.world.parts_j(at).sum(axis=0))
    grown = (end.energy_uj - begin.energy_uj) / 1e6
    return float(grown - rest[0]) / (int(at[1] - at[0]) / NS)


def _integral(runs: Sequence[Run]) -> list[Figure]:
    off = [abs(_closure(one)) for one in runs]
    told = "integral against the BMC's own, 10 min, worst"
    return [Figure("BMC, 3 s windows", told, 100.0 * max(off), "%", 0.5)]


def _closure(one: Run) -> float:
    """Compare ten minutes with the trapezoid through the middles of what the readings saw."""
    booked = [r for r in _booked(one, SETTLED_S) if r.window.end_ns <= BEGIN_NS + 720 * NS]
    at = np.array([booked[0].seen.from_ns, booked[-1].seen.through_ns])
    times = np.array(
        [r.published_ns - one.world.centroid_at_s(r.published_ns) * NS for r in one.world.readings]
    )
    watts = np.array([r.power_w for r in one.world.readings])
    seconds = np.diff(times) / NS
    joules = np.concatenate([[0.0], np.cumsum((watts[1:] + watts[:-1]) / 2.0 * seconds)])
    own = float(np.diff(np.interp(at, times, joules))[0])
    return sum(row.seen.energy_uj for row in booked) / 1e6 / own - 1.0


def _change(seeds: Sequence[int]) -> list[Figure]:
    took = []
    for seed in seeds:
        one = run(LATE, seed)
        took.append(_followed_s(one.end_s, one.centroid_off_s <= 0.25, CHANGE_S))
    told = "followed to within 250 ms, worst"
    return [Figure("BMC, +2 s in the middle", told, max(took), "s", 60.0)]


def _all_late(plain: Sequence[Run], seeds: Sequence[int]) -> list[Figure]:
    shifts, differs = [], []
    for one, seed in zip(plain, seeds, strict=True):
        late = run(replace(PLAIN, late_s=2.0), seed)
        known = [r.rows[-1].seen.fit for r in (one, late)]
        early_s, late_s = (f.centroid_s if f and f.centroid_s else 0.0 for f in known)
        shifts.append(abs(late_s - early_s - 2.0))
        pairs = [_by_end(r) for r in (one, late)]
        both = sorted(set(pairs[0]) & set(pairs[1]))
        differs.append([abs(pairs[1][t] / pairs[0][t] - 1.0) for t in both])
    means = [float(np.mean(one)) for one in differs]
    case = "BMC, every reading +2 s"
    return [
        Figure(case, "estimate shifts by 2 s, off, worst", 1e3 * max(shifts), "ms", 250.0),
        Figure(case, "series unchanged, mean", 100.0 * float(np.mean(means)), "%", 0.5),
        Figure(case, "series unchanged, worst seed's mean", 100.0 * max(means), "%", np.inf),
    ]


def _by_end(one: Run) -> dict[int, int]:
    return {row.window.end_ns: row.seen.energy_uj for row in _booked(one, SETTLED_S)}


def _quiet(seeds: Sequence[int]) -> list[Figure]:
    drift, growth, back = [], [], []
    some = seeds[: max(len(seeds) // 2, 1)]
    for seed in some:
        one = run(QUIET, seed)
        at = np.searchsorted(one.end_s, [300.0, 3890.0])
        before, after = (one.rows[int(i)].seen.fit for i in at)
        if not before or not after:
            continue
        drift.append(float(one.centroid_off_s[at[0] : at[1]].max()))
        growth.append((after.centroid_sd_s or 0.0) / (before.centroid_sd_s or np.inf))
        first = _first_step_s(one, 3900.0)
        back.append(_followed_s(one.end_s, one.centroid_off_s <= NEAR_S, first))
    case = "BMC, hour without steps"
    return [
        Figure(
            case, f"centroid off meanwhile, worst of {len(some)}", 1e3 * max(drift), "ms", 250.0
        ),
        Figure(
            case,
            f"its deviation grows by, least of {len(some)}",
            min(growth),
            "",
            1.5,
            is_floor=True,
        ),
        Figure(case, f"150 ms again after a step, worst of {len(some)}", max(back), "s", 60.0),
    ]


def _base(seeds: Sequence[int]) -> list[Figure]:
    runs = [run(BASED, seed) for seed in seeds]
    up = [_level_s(one, RISE_S, FALL_S) for one in runs]
    down = [_level_s(one, FALL_S, 1100.0) for one in runs]
    case = "residual's base +-50 W"
    return [
        Figure(case, "idle level follows up, worst", max(up), "s", 60.0),
        Figure(case, "idle level follows down, worst", max(down), "s", 60.0),
    ]


def _lost(case: str, settings: PlatformSettings, seeds: Sequence[int]) -> list[Figure]:
    """Five minutes without a GPU, and one with it again; the BMC is well all the time."""
    lost = Faults(blind=("gpu", LOST_S, BACK_S))
    runs = [run(settings, seed, lost) for seed in seeds]
    errors = 100.0 * np.concatenate([_errors(one, LOST_S) for one in runs])
    doubts = [_in_doubts(one) for one in runs]
    said = np.concatenate([_errors(one, LOST_S)[_is_measured(one, LOST_S)] for one in runs])
    return [
        Figure(case, "error of a window, mean", float(errors.mean()), "%", 2.0),
        Figure(case, "error of a window, p95", float(np.quantile(errors, 0.95)), "%", np.inf),
        Figure(case, "of those called measured, worst", 100.0 * float(said.max()), "%", np.inf),
        Figure(case, "the same, in stated doubts of the base", max(doubts), "", SIGMAS),
    ]


def _is_measured(one: Run, from_s: float) -> Bools:
    return np.array([row.seen.quality == "measured" for row in _booked(one, from_s)])


def _in_doubts(one: Run) -> float:
    """Return the worst error of a window called measured, relative to its base's deviation."""
    found = _booked(one, LOST_S)
    spans = _spans(one, LOST_S)
    seconds = (spans[:, 1] - spans[:, 0]) / NS
    used = np.diff(one.world.system_j(spans.ravel()).reshape(-1, 2), axis=1)[:, 0]
    off_w = np.abs([r.seen.energy_uj / 1e6 for r in found] - used) / seconds
    doubt_w = np.array([(r.seen.fit.base_sd_w if r.seen.fit else None) or 0.0 for r in found])
    return float((off_w / doubt_w)[_is_measured(one, LOST_S)].max(initial=0.0))


def _level_s(one: Run, from_s: float, to_s: float) -> float:
    """Return how long after a step the idle level had made four fifths of it, and half for good.

    By change: how power is split between base and coefficients is uncertain by some watts.
    """
    levels = [row.seen.residual.idle_w if row.seen.residual else None for row in one.rows]
    watts = np.array([np.nan if level is None else level for level in levels])
    before = watts[one.end_s <= from_s][-1]
    inside = (one.end_s > from_s) & (one.end_s < to_s)
    by_w = one.world.base_at_w(BEGIN_NS + round((from_s + 1.0) * NS))
    by_w -= one.world.base_at_w(BEGIN_NS + round((from_s - 1.0) * NS))
    made, end_s = (watts[inside] - before) / by_w, one.end_s[inside]
    first = float(end_s[made >= MADE][0] - from_s) if (made >= MADE).any() else np.inf
    return max(first, _followed_s(end_s, made >= HALF, from_s))


def main(seeds: int) -> int:
    """Print the table; 1: a target is missed."""
    found = figures(range(1000, 1000 + seeds))
    print("\n".join(figure.render() for figure in found))
    return int(not all(figure.is_ok for figure in found))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8))

"""The outcomes of the seeds -> the lines of the table."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tests.accuracy import targets
from tests.accuracy.outcome import Outcome
from tests.accuracy.targets import Target

HEADER = (
    f"{'row':<11}{'per cent of':<17}{'pooled':>7}{'pooled':>8}{'tychod':>8}{'':>7}{'after':>7}"
    f"{'oracle':>8}{'worst':>9}{'its':>7}{'s a':>7}\n"
    f"{'':<11}{'':<17}{'5 s':>7}{'3 s':>8}{'median':>8}{'p95':>7}{'60 s':>7}"
    f"{'':>8}{'one':>9}{'sd':>7}{'run':>7}  target"
)


class Line(NamedTuple):
    """One figure of one row; ``None`` where it does not apply."""

    row: str
    what: str
    cells: Sequence[float | None]  # in the order of the header
    target: str
    is_ok: bool

    def render(self) -> str:
        """As it is printed."""
        widths = (7, 8, 8, 7, 7, 8, 9, 7, 7)
        shown = "".join(_cell(c, w) for c, w in zip(self.cells, widths, strict=True))
        verdict = "ok" if self.is_ok else "MISS"
        return f"{self.row:<11}{self.what:<17}{shown}  {self.target}  {verdict}"


def _cell(value: float | None, width: int) -> str:
    return f"{value:>{width}.2f}" if value is not None and np.isfinite(value) else " " * width


def lines(row: str, found: Sequence[Outcome], basis: Sequence[Outcome]) -> list[Line]:
    """All lines of one row; ``basis`` has the outcomes of the row that it is compared with."""
    if row == "scale":
        return [_scale(found, basis)]
    out = [_delay(found, basis)] if row == "delay" else [_error(row, found)]
    if row in targets.IDLE:
        out.append(_idle(row, found))
    if found[0].row == "pair":
        out += _pair(found)
    return [*out, _inside(row, found)]


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _error_cells(found: Sequence[Outcome]) -> list[float | None]:
    ours = [o.whole["tychod"] for o in found]
    return [
        _median([o.whole["pooled 5 s"] for o in found]),
        _median([o.whole["pooled 3 s"] for o in found]),
        _median(ours),
        float(np.percentile(ours, 95)),
        _median([o.later["tychod"] for o in found]),
        _median([o.whole["oracle"] for o in found]),
        _median([o.worst for o in found]),
        _median([o.worst_sd for o in found]),
        _median([sum(o.seconds.values()) for o in found]),
    ]


def _judged(row: str, what: str, cells: Sequence[float | None], target: Target, seeds: int) -> Line:
    wide = targets.widened(target, seeds)
    median, p95 = cells[2], cells[3]
    is_ok = median is not None and p95 is not None and median <= wide.median and p95 <= wide.p95
    return Line(row, what, cells, f"<= {wide.median:.2f}, p95 <= {wide.p95:.2f}", is_ok)


def _error(row: str, found: Sequence[Outcome]) -> Line:
    what = "tenants' energy" if row == "churn" else "dynamic energy"
    cells = _error_cells(found)
    if row not in targets.ERROR:
        return Line(row, what, cells, "no target", True)
    return _judged(row, what, cells, targets.ERROR[row], len(found))


def _idle(row: str, found: Sequence[Outcome]) -> Line:
    ours = [o.idle["tychod"] for o in found]
    cells: list[float | None] = [None] * 9
    cells[1] = _median([o.idle["envelope"] for o in found])
    cells[2], cells[3] = _median(ours), float(np.percentile(ours, 95))
    cells[5] = _median([o.idle["oracle"] for o in found]) if "oracle" in found[0].idle else None
    return _judged(row, "idle power *", cells, targets.IDLE[row], len(found))


def _inside(row: str, found: Sequence[Outcome]) -> Line:
    pairs = sum(o.pairs for o in found)
    share = 100.0 * sum(o.inside for o in found) / pairs
    low, high = targets.inside_limits(pairs, len(found))
    return Line(
        row,
        "in 95 % interval",
        [None, None, share, *[None] * 6],
        f"{low:.1f} to {high:.1f} of {pairs} pairs",
        low - 1e-9 <= share <= high + 1e-9,
    )


def _pair(found: Sequence[Outcome]) -> list[Line]:
    split = 100.0 * max(o.split for o in found)
    both = 100.0 * sum(o.both for o in found) / len(found)
    least = targets.pair_limit(len(found))
    most = 100.0 * targets.PAIR_SPLIT
    return [
        Line(
            "pair",
            "split - pooled",
            [None, None, split, *[None] * 6],
            f"<= {most:.1f} in every run",
            split <= most,
        ),
        Line(
            "pair",
            "both intervals",
            [None, None, both, *[None] * 6],
            f">= {least:.0f} of the runs",
            both >= least,
        ),
    ]


def _delay(found: Sequence[Outcome], basis: Sequence[Outcome]) -> Line:
    cells = _error_cells(found)
    without = _median([o.whole["tychod"] for o in basis])
    limit = without + targets.DELAY_POINTS
    is_ok = cells[2] is not None and cells[2] <= limit
    return Line("delay", "dynamic energy", cells, f"<= {limit:.2f} = row mixed + 0.5", is_ok)


def _scale(found: Sequence[Outcome], basis: Sequence[Outcome]) -> Line:
    by_seed: Mapping[int, float] = {o.seed: o.whole["tychod"] for o in basis}
    apart = max(abs(o.whole["tychod"] - by_seed[o.seed]) for o in found)
    return Line(
        "scale",
        "all powers x 3",
        [None, None, apart, *[None] * 6],
        f"<= {targets.SCALE_POINTS} from row mixed in every run",
        apart <= targets.SCALE_POINTS,
    )

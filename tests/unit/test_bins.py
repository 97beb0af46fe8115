"""Rows of a window: between which edges energy is known, and that none of it is lost."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tychod.analysis.bins import Block, Meter, kept_edges, rows

MS = 1_000_000
EDGES = np.arange(0, 3_001 * MS, 50 * MS)


def meter(reads_ms: Sequence[float], watts: float = 40.0, start_ms: float = 0.0) -> Meter:
    """A window of 3 s of a counter that is read at these moments, some outside of it."""
    marks = np.array([round(t * MS) for t in reads_ms], np.int64)
    ends = np.array([round(start_ms * MS), min(3_000 * MS, int(marks[-1]))], np.int64)
    times = np.unique(np.concatenate([ends, marks[(marks > ends[0]) & (marks < ends[1])]]))
    return Meter(times, watts * (times - times[0]) / 1e9, marks)


def every(step_ms: float, phase_ms: float = 0.0, but: Sequence[int] = ()) -> list[float]:
    """Readings from before the window to after it, without some."""
    count = round(3_200 / step_ms)
    return [phase_ms + k * step_ms for k in range(-1, count + 2) if k not in but]


def work(watts: int = 1) -> NDArray[np.float64]:
    """Two leaves, of which each runs in every other bin."""
    found = np.zeros((len(EDGES) - 1, 2))
    found[::2, 0] = found[1::2, 1] = 0.05 * watts
    return found


@pytest.mark.parametrize("phase_ms", [0, 5, 20])
def test_reads_beside_the_edges_keep_all_bins(phase_ms: float) -> None:
    """What counts is that readings keep their distance, not that it is nothing."""
    assert kept_edges(EDGES, meter(every(50, phase_ms))).tolist() == list(range(len(EDGES)))


@pytest.mark.parametrize("phase_ms", [0, 5, 20])
def test_a_lost_read_joins_two_bins(phase_ms: float) -> None:
    """One edge lacks its reading: its two bins are one row, and no others."""
    kept = kept_edges(EDGES, meter(every(50, phase_ms, but=[20]))).tolist()

    assert kept == [k for k in range(len(EDGES)) if k != 20]


def test_a_late_read_joins_two_bins() -> None:
    """A reading 30 ms after its edge does not say what the counter was at the edge."""
    reads = sorted([*every(50, but=[20]), 20 * 50 + 30])

    assert kept_edges(EDGES, meter(reads)).tolist() == [k for k in range(len(EDGES)) if k != 20]


def test_a_slow_sensor_has_slow_rows() -> None:
    """A counter that moves once a second has a row a second, at whatever phase it does."""
    for phase_ms, lengths in ((0, [1, 1, 1]), (330, [0.33, 1, 1, 0.67])):
        found = rows(EDGES, [Block(meter(every(1_000, phase_ms)), work(), 4.0)])

        assert found is not None
        assert found.seconds.tolist() == pytest.approx(lengths)


def test_a_counter_that_stands_still_is_one_row() -> None:
    """Nothing is known of when its energy was used, were there any."""
    stuck = meter([-50, 0, 3_000])._replace(marks_ns=np.array([-5_000 * MS]))
    found = rows(EDGES, [Block(stuck, work(), 4.0)])

    assert kept_edges(EDGES, stuck).tolist() == [0, len(EDGES) - 1]
    assert found is not None
    assert found.work_s.tolist() == [pytest.approx([1.5, 1.5])]


@pytest.mark.parametrize(
    "reads",
    [
        every(50),
        every(50, 7),
        every(50, 20, but=[3, 4, 5, 59]),
        every(61),
        every(700, 13),
        [-50, *np.cumsum(np.random.default_rng(1).uniform(5, 95, 62)), 3_400.0],
    ],
)
@pytest.mark.parametrize("start_ms", [0.0, -40.0, 33.0])
def test_rows_have_all_energy(reads: Sequence[float], start_ms: float) -> None:
    """Whatever is read when: each row has a length, and together they have what was measured.

    To rounding of doubles; a meter that knows more than the bins stretches the rows at its ends.
    """
    known = meter(reads, start_ms=start_ms)
    found = rows(EDGES, [Block(known, work(), 4.0)])

    assert found is not None
    assert (found.seconds > 0.0).all()
    assert float(found.energy_j.sum()) == pytest.approx(float(known.energy_j[-1]), rel=1e-12)
    whole_s = (int(known.times_ns[-1]) - int(known.times_ns[0])) / 1e9
    assert float(found.seconds.sum()) == pytest.approx(whole_s, rel=1e-12)
    assert (found.work_s >= 0.0).all()
    assert np.isfinite(found.timing).all()


def test_an_edge_near_another_makes_no_empty_row() -> None:
    """A window that ends just after a bin: two edges have one reading, and one row is left out."""
    edges = np.concatenate([EDGES[:-1], [2_953 * MS]])
    known = meter(every(50, 2))._replace(
        times_ns=np.array([0, 2_953 * MS]), energy_j=np.array([0.0, 2.0])
    )
    found = rows(edges, [Block(known, work(), 4.0)])

    assert found is not None
    assert (found.seconds > 0.0).all()
    assert float(found.energy_j.sum()) == pytest.approx(2.0, rel=1e-12)


def test_each_zone_has_rows_of_its_own() -> None:
    """Rows of one zone stand below the other's, and errors of edges join no two zones."""
    one, two = (Block(meter(every(50), watts), work(), 4.0) for watts in (10.0, 70.0))
    found = rows(EDGES, [one, two])

    assert found is not None
    count = len(EDGES) - 1
    assert found.zone.tolist() == [0] * count + [1] * count
    assert found.energy_j[:count].sum() == pytest.approx(30.0)
    assert not found.timing[:count, count:].any()
    assert rows(EDGES, [one._replace(meter=one.meter._replace(times_ns=EDGES[[0, 0]]))]) is None


def test_the_error_of_an_edge_is_in_both_of_its_rows() -> None:
    """What one row has too much, its neighbour lacks: rows of the timing covariance add up."""
    steep = meter(every(50))
    steep = steep._replace(energy_j=np.cumsum(np.arange(len(steep.times_ns)) % 5.0))
    found = rows(EDGES, [Block(steep, work(), 4.0)])

    assert found is not None
    inner = found.timing[1:-1].sum(axis=1)
    assert inner == pytest.approx(np.zeros(len(inner)), abs=1e-12 * found.timing.max())

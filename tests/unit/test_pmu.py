"""Hardware counters by leaf: of one window, and absent where nothing was counted."""

import numpy as np

from tychod.analysis.pmu import leaf_counts
from tychod.samples import KERNEL_KEY, CounterSample

NAMES = ("cycles", "llc_misses")
LEAF_OF = {KERNEL_KEY: "kernel", 40: "web", 41: "web", 42: "db"}


def reading(
    rows: dict[int, tuple[tuple[int, int], tuple[int, int]]], stamp: int = 7
) -> CounterSample:
    """Key -> ((value, covered time) of cycles, the same of misses)."""
    keys = np.array(sorted(rows), np.int64)
    cells = np.array([rows[key] for key in sorted(rows)], np.int64)
    return CounterSample(stamp, NAMES, keys, cells[:, :, 0].T, cells[:, :, 1].T)


def test_a_leaf_counts_what_its_cgroups_gained() -> None:
    """Differences of two readings are summed by leaf; a cgroup that is new began at 0."""
    before = reading({40: ((100, 10), (5, 10))})
    now = reading({40: ((130, 20), (6, 20)), 41: ((1000, 5), (0, 5)), 42: ((7, 1), (2, 1))})

    assert leaf_counts(before, now, LEAF_OF) == {
        "web": {"cycles": 1030, "llc_misses": 1},
        "db": {"cycles": 7, "llc_misses": 2},
    }


def test_a_counter_that_did_not_run_is_absent() -> None:
    """No covered time, no value: a counter without its turn on the hardware is not 0."""
    before = reading({40: ((100, 10), (5, 10)), 42: ((9, 3), (9, 3))})
    now = reading({40: ((130, 20), (5, 10)), 42: ((9, 3), (9, 3))})

    assert leaf_counts(before, now, LEAF_OF) == {"web": {"cycles": 30}}


def test_another_life_of_the_maps_begins_anew() -> None:
    """Readings of two stamps, and a first reading, say nothing of a window."""
    now = reading({40: ((130, 20), (5, 10))})

    assert leaf_counts(None, now, LEAF_OF) == {}
    assert leaf_counts(now, None, LEAF_OF) == {}
    assert leaf_counts(reading({40: ((1, 1), (1, 1))}, stamp=8), now, LEAF_OF) == {}


def test_a_slot_that_changed_hands_gives_no_negative_count() -> None:
    """A value that fell is not told; a key of no leaf is left out."""
    before = reading({40: ((100, 10), (5, 10))})
    now = reading({40: ((3, 20), (6, 20)), 99: ((1, 1), (1, 1))})

    assert leaf_counts(before, now, LEAF_OF) == {"web": {"llc_misses": 1}}

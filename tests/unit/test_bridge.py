"""A change of the way of accounting loses no CPU time."""

import numpy as np

from tychod.kernel.bridge import bridge
from tychod.kernel.cgroups import CpuBaseline
from tychod.samples import LOST_KEY, ROOT_KEY, CpuSample

SECOND = 1_000_000_000


def baseline(t_ns: int, busy_ns: int) -> CpuBaseline:
    """Where another method got to."""
    return CpuBaseline("bpf-core", t_ns, 0, 0, 0, 0, {}, stamp=7, busy_ns=busy_ns)


def sample(t_ns: int, busy_ns: int) -> CpuSample:
    """The first sample of the method that follows."""
    keys = np.array([ROOT_KEY, 40, 41], np.int64)
    return CpuSample(t_ns, keys, np.zeros(3, np.int64), np.array([5, 6, 7]), 9, busy_ns)


def test_what_the_node_used_in_between_is_lost_time() -> None:
    """What /proc/stat counted between the two methods is one key's, whatever cgroups there are."""
    first = sample(5 * SECOND, 12 * SECOND)
    before, after = bridge(baseline(3 * SECOND, 10 * SECOND), first)

    assert (before.t_ns, after.t_ns) == (3 * SECOND, 5 * SECOND)
    assert before.keys is after.keys
    assert after.keys.tolist() == [LOST_KEY, ROOT_KEY, 40, 41]
    assert (after.own_ns - before.own_ns).tolist() == [2 * SECOND, 0, 0, 0]
    assert after.total_ns[1:].tolist() == first.total_ns.tolist()
    assert not after.own_ns.flags.writeable


def test_no_time_in_between_needs_no_bridge() -> None:
    """A clock or a counter that did not advance gives the first sample alone."""
    for first in (sample(3 * SECOND, 12 * SECOND), sample(5 * SECOND, 10 * SECOND)):
        assert bridge(baseline(3 * SECOND, 10 * SECOND), first) == (first,)

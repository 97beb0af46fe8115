"""The programs charge the innermost cgroup alone; a workload has the time of all below it."""

from dataclasses import replace

import numpy as np

from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, State
from tychod.model import Identity, Window
from tychod.samples import CgroupRef, CpuSample, CpuSeries
from tychod.workloads.paths import identify

SECOND = 1_000_000_000
OUTER = "a" * 64
INNER = "b" * 64
PATHS = {
    10: f"/system.slice/docker-{OUTER}.scope",
    11: f"/system.slice/docker-{OUTER}.scope/init",
    12: f"/system.slice/docker-{OUTER}.scope/system.slice/cron.service/job",
    13: f"/system.slice/docker-{OUTER}.scope/docker/{INNER}",
    14: f"/system.slice/docker-{OUTER}.scope/docker/{INNER}/worker/deep",
}


def named(path: str) -> Identity:
    """Return the workload of a path."""
    found = identify(path)
    assert found is not None
    return found


def test_nested_cgroups_roll_up_along_paths() -> None:
    """Cgroups below a container count for it, those of a container within for that one."""
    keys = np.array(sorted(PATHS), np.int64)
    own = np.array([[0] * 5, [1, 2, 4, 8, 16]], np.int64) * SECOND
    samples = tuple(
        CpuSample(t * 3 * SECOND, keys, row, row, 0) for t, row in enumerate(own, start=1)
    )
    refs = {key: CgroupRef(path, key) for key, path in PATHS.items()}
    identities = {key: named(path) for key, path in PATHS.items()}
    window = Window(3 * SECOND, 6 * SECOND)
    seen = Observations((), CpuSeries("bpf-core", samples, refs), identities, 0)

    snapshot, _ = analyse(seen, window, replace(State(), end_ns=3 * SECOND), Params(cpus=16))

    used = {leaf.identity.id: leaf.cpu_ns for leaf in snapshot.leaves if leaf.cpu_ns}
    assert used[INNER] == 24 * SECOND
    assert used[OUTER] == 7 * SECOND
    assert set(used) == {INNER, OUTER}

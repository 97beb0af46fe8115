"""A node on which containers come and go all the time: many short lives, few at one moment.

Container n is born at ``n / per_second`` seconds, lives ``life_ns`` and uses a constant share of a
CPU.  Containers 2 k and 2 k + 1 are a pod, ten pods a namespace.  Beside them run a few units that
stay.  Everything is a function of time, so that an hour costs what its windows cost.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.sim.world import MS, RESERVED, container, cut, unit, zone
from tychod.analysis.state import Observations
from tychod.model import Identity, Window
from tychod.samples import (
    KERNEL_KEY,
    CgroupRef,
    CpuSample,
    CpuSeries,
    EnergySample,
    EnergySeries,
    EnergyZone,
)

Int64s = NDArray[np.int64]

FIRST_KEY: Final = 1_000
UNITS: Final = tuple(unit(f"steady-{k}.service") for k in range(10))
UNIT_PERMILLE: Final = 20
STEADY_KEYS: Final = (KERNEL_KEY, *range(len(UNITS)))
WALL_OFFSET_NS: Final = 10**18


@dataclass(frozen=True)
class Churn:
    """The node; ``count`` containers come in all."""

    count: int
    per_second: int = 10
    life_ns: int = 5_000 * MS
    step_ns: int = 50 * MS  # between two samples
    zones: tuple[EnergyZone, ...] = (zone("package-0"), zone("dram-0"))
    permille: Int64s = field(init=False)
    born_ns: Int64s = field(init=False)
    spent_ns: Int64s = field(init=False)  # by all containers before the n-th, in their whole lives

    def __post_init__(self) -> None:
        """Work out what does not change."""
        numbers = np.arange(self.count, dtype=np.int64)
        permille = 20 + 10 * (numbers * 7 % 11)
        spent = np.concatenate([[0], np.cumsum(permille * self.life_ns // 1000)])
        object.__setattr__(self, "permille", permille)
        object.__setattr__(self, "born_ns", numbers * (1_000 * MS // self.per_second))
        object.__setattr__(self, "spent_ns", spent)

    def between(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Return the first container that lives in a stretch of time, and the first after it."""
        first = int(np.searchsorted(self.born_ns, start_ns - self.life_ns, "right"))
        return first, int(np.searchsorted(self.born_ns, end_ns, "right"))

    def own_ns(self, first: int, last: int, t_ns: int) -> Int64s:
        """CPU time of some containers until a moment."""
        lived = np.clip(t_ns - self.born_ns[first:last], 0, self.life_ns)
        found: Int64s = lived * self.permille[first:last] // 1000
        return found

    def busy_ns(self, t_ns: int) -> int:
        """CPU time of all that ever ran until a moment."""
        first, last = self.between(t_ns, t_ns)
        steady = len(STEADY_KEYS) * (t_ns * UNIT_PERMILLE // 1000)
        return steady + int(self.spent_ns[first]) + int(self.own_ns(first, last, t_ns).sum())

    def energy_uj(self, t_ns: int) -> tuple[int, ...]:
        """What the counters of package and memory show."""
        busy_ns = self.busy_ns(t_ns)
        return (12 * t_ns + 9 * busy_ns) // 1000, (2 * t_ns + busy_ns) // 1000

    def cpu_sample(self, t_ns: int) -> CpuSample:
        """CPU time of the cgroups that are there."""
        first, last = self.between(t_ns, t_ns)
        steady = np.full(len(STEADY_KEYS), t_ns * UNIT_PERMILLE // 1000, np.int64)
        keys = np.concatenate([STEADY_KEYS, np.arange(first, last) + FIRST_KEY]).astype(np.int64)
        own = np.concatenate([steady, self.own_ns(first, last, t_ns)])
        return CpuSample(t_ns, keys, own, own, 0)

    def member(self, number: int) -> Identity:
        """Who a container is."""
        pod = number // 2
        return replace(container(number, pod), namespace=f"run-{pod // 10}")

    def observe(self, window: Window) -> Observations:
        """Everything that is seen of a window."""
        step = self.step_ns
        grid = range(max(window.start_ns // step - 2, 0) * step, window.end_ns + 2 * step, step)
        times = cut(grid, window)
        first, last = self.between(times[0], times[-1])
        found = {number + FIRST_KEY: self.member(number) for number in range(first, last)}
        named = RESERVED | dict(enumerate(UNITS)) | found
        refs = {k: CgroupRef(i.cgroup or "/", k + 1) for k, i in named.items() if k >= 0}
        cpu = CpuSeries("bpf-core", tuple(self.cpu_sample(t) for t in times), refs)
        samples = tuple(EnergySample(t, self.energy_uj(t)) for t in times)
        energy = EnergySeries("rapl", "measured", self.zones, samples, {})
        return Observations((energy,), cpu, named, WALL_OFFSET_NS)

"""CPU time by package: on which socket's CPUs each key used what it used."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.hosts.trees import host_at, write_files
from tests.sim.accounting import MS, Machine
from tests.sim.kernelmodel import IDLE, ROOT_CGID, Task
from tychod.kernel.bpf.cpus import package_numbers
from tychod.kernel.bridge import Splice
from tychod.samples import KERNEL_KEY, ROOT_KEY, CpuSample

Make = Callable[..., Machine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a maker of simulated machines that are closed at the end."""
    made: list[Machine] = []

    def build(**shape: int) -> Machine:
        made.append(Machine(tmp_path / str(len(made)), **{"ncpu": 4, "npkg": 2, **shape}))
        return made[-1]

    yield build
    for machine in made:
        machine.close()


def read(machine: Machine, ms: int = 1000) -> tuple[CpuSample, ...]:
    """Let time pass and return the samples."""
    machine.wait(ms * MS)
    machine.do_tick(0, 0)
    return machine.reader.read()


def where(sample: CpuSample, key: int) -> list[int]:
    """Return what a key used on each package."""
    assert sample.package_ns is not None
    placed: list[int] = sample.package_ns[:, np.searchsorted(sample.keys, key)].tolist()
    return placed


def test_each_bin_says_where_the_time_was_used(make: Make) -> None:
    """A cgroup on both sockets, another that moves, and interrupts: exact in every bin."""
    machine = make()
    both, moves = machine.mkdir(ROOT_CGID), machine.mkdir(ROOT_CGID)
    for cpu in (1, 2):
        machine.switch(cpu, Task(7, both))
    machine.switch(0, Task(8, moves))
    read(machine)
    machine.wait(325 * MS)
    machine.switch(0, IDLE)
    machine.switch(3, Task(8, moves))
    machine.do_soft_in(2, 0)
    machine.wait(1 * MS)
    machine.do_soft_out(2, 0)
    samples = read(machine)

    assert len(samples) > 20
    for before, after in pairwise(samples):
        used = dict(zip(after.keys.tolist(), (after.own_ns - before.own_ns).tolist(), strict=True))
        for key in (both, moves, KERNEL_KEY):
            placed = np.subtract(where(after, key), where(before, key)).tolist()
            assert sum(placed) == used[key]
            if key == both and used[key] == 100 * MS:
                assert placed == [50 * MS, 50 * MS]
    first, last = samples[0], samples[-1]
    assert np.subtract(where(last, KERNEL_KEY), where(first, KERNEL_KEY)).tolist()[1] == 1 * MS
    placed = np.subtract(where(last, moves), where(first, moves)).tolist()
    assert min(placed) > 200 * MS


def test_it_goes_on_when_cgroups_come_and_go(make: Make) -> None:
    """A key's place is its own: another column beside it changes nothing, and nothing falls."""
    machine = make()
    stays = machine.mkdir(ROOT_CGID)
    machine.switch(3, Task(7, stays))
    before = read(machine)[-1]
    comes = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(8, comes))
    after = read(machine)[-1]
    machine.switch(1, IDLE)
    machine.rmdir(comes)
    for _ in range(8):
        last = read(machine)[-1]

    assert np.subtract(where(after, stays), where(before, stays)).tolist() == [0, 1000 * MS]
    assert where(after, comes)[0] > 800 * MS
    assert comes not in last.keys
    assert where(last, stays) == [0, where(after, stays)[1] + 8 * 1000 * MS]


def test_after_a_silence_the_missing_part_is_nowhere(make: Make) -> None:
    """Buckets that were overwritten say nothing: the time is in the total, in no package."""
    machine = make()
    machine.switch(3, Task(7, ROOT_CGID))
    before = read(machine)[-1]
    (wide,) = read(machine, 60_000)
    after = read(machine)[-1]

    assert machine.reader.figures.stalls == 1
    assert where(wide, ROOT_KEY) == where(before, ROOT_KEY)
    grown = where(after, ROOT_KEY)[1] - where(wide, ROOT_KEY)[1]
    assert 700 * MS < grown <= after.t_ns - wide.t_ns


def test_one_package_costs_nothing(make: Make) -> None:
    """Where there is one answer it is not kept; how many CPUs it has is known all the same."""
    machine = make(npkg=1)

    assert all(s.package_ns is None for s in read(machine))
    assert machine.reader.packages == (-1,)  # this host has no topology to read
    assert machine.reader.package_cpus == (4,)


def test_cpus_that_are_offline_are_not_capacity(make: Make) -> None:
    """Each package's CPUs are counted as they are now."""
    machine = make()
    read(machine)
    assert machine.reader.package_cpus == (2, 2)
    machine.do_offline(3, 0)
    read(machine)

    assert machine.reader.package_cpus == (2, 1)


def test_rows_bear_the_sockets_numbers(tmp_path: Path) -> None:
    """As the hardware numbers them; what an offline CPU was taken for does not count."""
    told = {1: 3, 2: 3, 3: 7, 4: 7, 5: 7}  # CPU 0 is offline; 5 was when the programs were told
    place = "sys/devices/system/cpu/cpu{}/topology/physical_package_id"
    write_files(tmp_path, {place.format(cpu): f"{number}\n" for cpu, number in told.items()})

    found = package_numbers(host_at(tmp_path), (0, 0, 0, 1, 1, 0), 3)

    assert found == (3, 7, -1)


def sample(t_ns: int, keys: list[int], package_ns: list[list[int]] | None) -> CpuSample:
    """A sample that has used nothing, but somewhere."""
    rows = np.zeros(len(keys), np.int64)
    placed = None if package_ns is None else np.array(package_ns, np.int64)
    return CpuSample(t_ns, np.array(keys, np.int64), rows, rows, 0, 0, placed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([[1, 2], [3, 4]], [[12, 10], [14, 10]]),
        ([[1, 2]], [[10, 10], [10, 10]]),  # another number of packages
        (None, [[10, 10], [10, 10]]),  # cgroup files cannot say
    ],
)
def test_a_change_of_collector_goes_on(
    before: list[list[int]] | None, after: list[list[int]]
) -> None:
    """Places of keys that both know go on; where the rows differ they begin anew."""
    splice = Splice(sample(5, [3, 8], before))
    (found,) = splice.apply([sample(6, [8, 9], [[10, 10], [10, 10]])])

    assert found.package_ns is not None
    assert found.package_ns.tolist() == after


def test_what_has_no_packages_stays_so() -> None:
    """Nothing is made up for a collector that cannot say."""
    splice = Splice(sample(5, [3, 8], [[1, 2], [3, 4]]))

    assert splice.apply([sample(6, [8, 9], None)])[0].package_ns is None

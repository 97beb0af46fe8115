"""Softirq and irq time charged to the cgroup that was interrupted."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures.hosts.trees import write_files
from tests.sim.accounting import MS, Machine
from tests.sim.kernelmodel import IDLE, ROOT_CGID, Task
from tychod.kernel.bpf.buckets import Rows
from tychod.kernel.bpf.interrupts import spread
from tychod.kernel.cgroups import CpuBaseline, baseline_of
from tychod.samples import KERNEL_KEY, LOST_KEY, CpuSample

Make = Callable[..., Machine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a maker of simulated machines that are closed at the end."""
    made: list[Machine] = []

    def build(**shape: Any) -> Machine:
        shape = {"ncpu": 2, "npkg": 1, "irq": "interrupted", **shape}
        made.append(Machine(tmp_path / str(len(made)), **shape))
        return made[-1]

    yield build
    for machine in made:
        machine.close()


def softirq(machine: Machine, cpu: int, ms: int) -> None:
    """Let a softirq take a while."""
    machine.do_soft_in(cpu, 0)
    machine.wait(ms * MS)
    machine.do_soft_out(cpu, 0)


def a_second(machine: Machine) -> tuple[CpuSample, ...]:
    """Let a second pass without a timer interrupt, and return the samples."""
    machine.wait(1000 * MS)
    machine.switch(0, IDLE)
    samples = machine.reader.read()
    for sample in (samples[0], samples[-1]):
        machine.published = dict(zip(sample.keys.tolist(), sample.own_ns.tolist(), strict=True))
    return samples


def saved(machine: Machine) -> CpuBaseline:
    """Read, and return what a daemon would save."""
    sample = a_second(machine)[-1]
    return baseline_of("bpf-core", sample, machine.reader.cgroups, machine.reader.stamp)


@pytest.mark.parametrize(
    ("irq", "cgroup_ms", "kernel_ms"), [("interrupted", 40, 5), ("kernel", 10, 35)]
)
def test_who_was_interrupted_has_the_time(
    make: Make, irq: str, cgroup_ms: int, kernel_ms: int
) -> None:
    """Thirty milliseconds in a cgroup's ten are its own; what met the idle task is the kernel's."""
    machine = make(irq=irq)
    cgid = machine.mkdir(ROOT_CGID)
    a_second(machine)
    softirq(machine, 1, 5)
    machine.switch(1, Task(7, cgid))
    machine.wait(6 * MS)
    softirq(machine, 1, 30)
    machine.wait(4 * MS)
    machine.switch(1, IDLE)
    before = machine.published[KERNEL_KEY]
    a_second(machine)

    assert machine.published[cgid] == cgroup_ms * MS
    assert machine.published[KERNEL_KEY] - before == kernel_ms * MS


def test_it_is_in_the_bins_in_which_the_node_had_interrupts(make: Make) -> None:
    """The buckets of the node say when, whoever it was."""
    machine = make()
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, cgid))
    machine.wait(5 * MS)
    machine.switch(1, IDLE)
    first = a_second(machine)[-1]
    machine.switch(1, Task(7, cgid))
    for ms in (20, 10):
        softirq(machine, 1, ms)
        machine.switch(1, IDLE)
        machine.wait(200 * MS)
        machine.switch(1, Task(7, cgid))
    machine.switch(1, IDLE)
    samples = (first, *a_second(machine))

    own = np.array([s.own_ns[np.searchsorted(s.keys, cgid)] for s in samples])
    steps = np.diff(own)
    assert sorted(steps[steps > 0].tolist()) == [10 * MS, 20 * MS]
    for sample in samples:
        assert sample.idle_ns + int(sample.own_ns.sum()) - 2 * (sample.t_ns - first.t_ns) == (
            first.idle_ns + int(first.own_ns.sum())
        )


def test_open_buckets_wait_for_the_next_drain(make: Make) -> None:
    """Whose the newest time is is not known yet; the sum is exact, and later each has its own."""
    machine = make()
    one, two = machine.mkdir(ROOT_CGID), machine.mkdir(ROOT_CGID)
    a_second(machine)
    machine.wait(800 * MS)
    machine.switch(1, Task(7, one))
    softirq(machine, 1, 20)
    machine.switch(1, IDLE)
    machine.wait(120 * MS)
    machine.switch(1, Task(8, two))
    softirq(machine, 1, 40)
    machine.switch(1, IDLE)
    machine.wait(20 * MS)
    machine.switch(0, IDLE)
    (*_, last) = machine.reader.read()
    shown = dict(zip(last.keys.tolist(), last.own_ns.tolist(), strict=True))
    a_second(machine)

    assert 0 < shown[one] + shown[two] <= 30 * MS
    assert [machine.published[key] for key in (one, two)] == [20 * MS, 40 * MS]


def test_a_removed_cgroup_keeps_its_interrupts(make: Make) -> None:
    """Its slot is given back and used again: nothing falls, and the next owner begins with 0."""
    machine = make()
    gone = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, gone))
    softirq(machine, 1, 30)
    machine.switch(1, IDLE)
    machine.rmdir(gone)
    a_second(machine)
    assert machine.published[gone] == 30 * MS
    kernel_ns = machine.published[KERNEL_KEY]
    for _ in range(20):
        a_second(machine)
    assert len(machine.kernel.free) == 1
    comes = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, comes))
    softirq(machine, 1, 7)
    machine.switch(1, IDLE)
    a_second(machine)

    assert machine.published[comes] == 7 * MS
    assert machine.published[KERNEL_KEY] == kernel_ns


def test_a_restart_tells_nothing_twice(make: Make) -> None:
    """Interrupts of slots that were given back stay with keys of the life before."""
    machine = make()
    stays, gone = machine.mkdir(ROOT_CGID), machine.mkdir(ROOT_CGID)
    for cgid in (stays, gone):
        machine.switch(1, Task(7, cgid))
        softirq(machine, 1, 30)
        machine.switch(1, IDLE)
    machine.rmdir(gone)
    for _ in range(20):
        a_second(machine)
    assert len(machine.kernel.free) == 1
    baseline = saved(machine)
    machine.switch(1, Task(7, stays))
    softirq(machine, 1, 5)
    machine.switch(1, IDLE)

    machine.restart(baseline)

    used = {key: ns for key, ns in machine.published.items() if ns and key != KERNEL_KEY}
    assert used == {stays: 5 * MS}


@pytest.mark.parametrize("irq", ["kernel", "interrupted"])
def test_the_other_way_of_charging_is_another_account(make: Make, irq: str) -> None:
    """After a change of the setting only the gap is new: time that one told the other does not."""
    other = {"kernel": "interrupted", "interrupted": "kernel"}[irq]
    machine = make(irq=irq)
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, cgid))
    softirq(machine, 1, 30)
    baseline = saved(machine)._replace(busy_ns=1000 * MS)
    (machine.base / "proc/stat").unlink()
    write_files(machine.base, {"proc/stat": "cpu  103 0 0 1 0 0 0 0 0 0\n"})
    machine.irq = other  # type: ignore[assignment]
    machine.wait(1000 * MS)
    machine.do_tick(0, 0)
    reader = machine.open()
    assert reader.resume(baseline)
    last = reader.read()[-1]
    reader.close()

    used = {k: v for k, v in zip(last.keys.tolist(), last.own_ns.tolist(), strict=True) if v}
    assert used == {LOST_KEY: 30 * MS}


def test_no_bucket_no_bins() -> None:
    """Where no bucket holds interrupts, nothing is made up: the totals place them."""
    rows = Rows(0, np.zeros((2, 3), np.int64), np.zeros(2, np.int64))

    assert spread(rows, np.array([5, 0, 1])) is rows

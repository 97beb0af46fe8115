"""The kernel's account and its reader, against a plain list of who had each CPU when.

Everything happens in any order: switches, interrupts, moves, cgroups that come and go, CPUs that go
offline, readings in the middle of a program, and daemons that are killed and go on.  Every
nanosecond has to be where it belongs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sim.accounting import MS, Machine
from tests.sim.kernelmodel import IDLE, IDLE_KEY, ROOT_CGID, Task
from tychod.kernel.bpf import abi
from tychod.samples import KERNEL_KEY, LOST_KEY

SOON = st.integers(0, 3 * MS)
LATER = st.integers(0, 40 * MS)
LONG = st.integers(0, 3_500 * MS)
CPU = st.integers(0, 3)
PICK = st.integers(0, 1000)
EVENTS = (
    *("switch", "switch", "switch", "tick", "irq_in", "irq_out", "soft_in", "soft_out"),
    *("attach", "mkdir", "rmdir", "drain", "held", "offline", "online", "restart"),
)
ACTIONS = st.lists(
    st.tuples(st.sampled_from(EVENTS), CPU, PICK, st.one_of(SOON, SOON, LATER, LATER, LONG)),
    max_size=80,
)


def play(machine: Machine, actions: list[tuple[str, int, int, int]]) -> None:
    """Let the actions happen, with a reading about every second."""
    for name, cpu, pick, dt_ns in actions:
        machine.wait(dt_ns)
        machine.act(name, cpu % len(machine.kernel.cpus), pick)
        if machine.clock.t_ns - machine.drained_ns > 1000 * MS:
            machine.drain()
    machine.settle()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS, st.sampled_from(((1, 1), (2, 1), (4, 2))))
def test_every_nanosecond_has_its_owner(
    actions: list[tuple[str, int, int, int]], shape: tuple[int, int]
) -> None:
    """At every bin's end every key has what it used, to the nanosecond, and idle has the rest."""
    ncpu, npkg = shape
    with tempfile.TemporaryDirectory() as base:
        machine = Machine(Path(base), ncpu=ncpu, npkg=npkg)
        try:
            play(machine, actions)
        finally:
            machine.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS, st.sampled_from(((1, 1), (4, 2))))
def test_interrupts_charged_to_whom_they_interrupted(
    actions: list[tuple[str, int, int, int]], shape: tuple[int, int]
) -> None:
    """All time stays one sum to the nanosecond, and in the end each cgroup has its interrupts."""
    ncpu, npkg = shape
    with tempfile.TemporaryDirectory() as base:
        machine = Machine(Path(base), ncpu=ncpu, npkg=npkg, irq="interrupted")
        try:
            play(machine, actions)
            living = machine.published.keys() - {KERNEL_KEY, LOST_KEY}
            assert {k: machine.last[k] for k in living} == {k: machine.used_by(k) for k in living}
        finally:
            machine.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS)
def test_a_full_table_loses_no_time(actions: list[tuple[str, int, int, int]]) -> None:
    """Cgroups without a slot are counted together; the sum stays exact, and it is said."""
    with tempfile.TemporaryDirectory() as base:
        machine = Machine(Path(base), ncpu=2, npkg=1, nslot=abi.SLOT_FIRST + 2)
        try:
            play(machine, actions)
            full = int(machine.kernel.ctl["no_slot"])
            assert machine.reader.figures.dropped == full
        finally:
            machine.close()


def test_slots_are_used_again_and_lose_nothing(tmp_path: Path) -> None:
    """Far more cgroups than slots, one after the other: all accounted, none in another's name."""
    machine = Machine(tmp_path, ncpu=2, npkg=2, nslot=40)
    for _ in range(150):
        cgid = machine.mkdir(ROOT_CGID)
        machine.switch(0, Task(7, cgid))
        machine.wait(7 * MS)
        machine.act("tick", 0, 0)
        machine.wait(300 * MS)
        machine.switch(0, IDLE)
        machine.rmdir(cgid)
        machine.drain()
        machine.wait(200 * MS)
        machine.switch(1, Task(8, ROOT_CGID))
        machine.wait(500 * MS)
        machine.switch(1, IDLE)
    machine.settle()

    assert int(machine.kernel.ctl["no_slot"]) == 0
    used = int(machine.kernel.ctl["next_slot"]) - abi.SLOT_FIRST
    assert len(machine.kernel.free) == used - len(machine.kernel.slot_of)
    machine.close()


def test_a_task_on_its_way_out_of_a_removed_cgroup(tmp_path: Path) -> None:
    """What is charged after a cgroup's key is gone goes to the nearest cgroup above that lives."""
    machine = Machine(tmp_path, ncpu=2, npkg=1)
    pod = machine.mkdir(ROOT_CGID)
    leaf = machine.mkdir(pod)
    machine.switch(1, Task(7, leaf))
    machine.wait(100 * MS)
    machine.switch(1, IDLE)
    machine.rmdir(leaf)
    for _ in range(8):
        machine.wait(1000 * MS)
        machine.drain()
    assert leaf not in machine.published
    before = machine.published[pod]

    machine.switch(1, Task(7, leaf))
    machine.wait(100 * MS)
    machine.switch(1, IDLE)
    machine.retells[leaf] = pod
    for _ in range(20):
        machine.wait(1000 * MS)
        machine.drain()

    assert machine.published[pod] - before == machine.used_by(leaf) - machine.last[leaf]
    assert leaf not in machine.published
    assert len(machine.kernel.free) == 2  # both its slots came back
    before = machine.published[pod]
    machine.switch(1, Task(7, pod))
    machine.wait(50 * MS)
    machine.switch(1, IDLE)
    machine.wait(1000 * MS)
    machine.drain()
    assert machine.published[pod] == before + 50 * MS
    machine.close()


@pytest.mark.parametrize("back", [True, False])
def test_two_moves_between_two_events(tmp_path: Path, *, back: bool) -> None:
    """Who moves on before the CPU's next event leaves the cgroup in between its part."""
    machine = Machine(tmp_path, ncpu=1, npkg=1)
    one, two, three = (machine.mkdir(ROOT_CGID) for _ in range(3))
    machine.switch(0, Task(7, one))
    for number, cgid in enumerate((two, one if back else three)):
        machine.wait((3 + number) * MS)
        machine.do_attach(0, list(machine.paths).index(cgid))
    machine.wait(11 * MS)
    machine.switch(0, IDLE)
    machine.wait(700 * MS)
    machine.drain()

    shown = [machine.published.get(cgid, 0) for cgid in (one, two, three)]
    assert shown == ([14 * MS, 4 * MS, 0] if back else [3 * MS, 4 * MS, 11 * MS])
    machine.close()


def test_a_cgroup_without_a_slot_is_counted_with_the_one_above(tmp_path: Path) -> None:
    """In a full table a cgroup's time is its tenant's; with room again it is its own."""
    machine = Machine(tmp_path, ncpu=1, npkg=1, nslot=abi.SLOT_FIRST + 2)
    tenant, other = machine.mkdir(ROOT_CGID), machine.mkdir(ROOT_CGID)
    below = machine.mkdir(machine.mkdir(tenant))
    for cgid in (tenant, other, below):
        machine.switch(0, Task(7, cgid))
        machine.wait(20 * MS)
    machine.switch(0, IDLE)
    machine.wait(700 * MS)
    machine.drain()
    shown = [machine.published.get(cgid, 0) for cgid in (tenant, other, below)]
    machine.rmdir(other)
    for _ in range(20):
        machine.wait(1000 * MS)
        machine.drain()
    machine.switch(0, Task(7, below))
    machine.wait(20 * MS)
    machine.switch(0, IDLE)
    machine.wait(700 * MS)
    machine.drain()

    assert shown == [40 * MS, 20 * MS, 0]
    assert int(machine.kernel.ctl["no_slot"]) == 1
    assert [machine.published.get(cgid, 0) for cgid in (tenant, below)] == [40 * MS, 20 * MS]
    machine.close()


def test_the_witness_would_notice(tmp_path: Path) -> None:
    """A nanosecond in the wrong place fails the comparison that the tests above rest on."""
    machine = Machine(tmp_path, ncpu=1, npkg=1)
    machine.switch(0, Task(7, ROOT_CGID))
    machine.wait(500 * MS)
    machine.truth.set(0, machine.clock.t_ns, IDLE_KEY)
    machine.wait(1)
    machine.switch(0, Task(7, ROOT_CGID))
    machine.wait(700 * MS)

    with pytest.raises(AssertionError):
        machine.drain()
    machine.close()

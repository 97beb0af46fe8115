"""The reader of the kernel's account: bad input, restarts, names, and the arithmetic by itself."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.hosts.trees import write_files
from tests.sim.accounting import MS, Machine
from tests.sim.kernelmodel import IDLE, ROOT_CGID, Task
from tychod.kernel.bpf import abi
from tychod.kernel.bpf.buckets import cumulate
from tychod.kernel.cgroups import CpuBaseline, baseline_of
from tychod.samples import KERNEL_KEY, LOST_KEY, OUTSIDE_KEY, ROOT_KEY, CpuSample

USER = Task(7, ROOT_CGID)
Make = Callable[..., Machine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a maker of simulated machines that are closed at the end."""
    made: list[Machine] = []

    def build(**shape: int) -> Machine:
        made.append(Machine(tmp_path / str(len(made)), **{"ncpu": 2, "npkg": 1, **shape}))
        return made[-1]

    yield build
    for machine in made:
        machine.close()


def own(sample: CpuSample) -> dict[int, int]:
    """Return own times by key, without those that used nothing."""
    return {k: v for k, v in zip(sample.keys.tolist(), sample.own_ns.tolist(), strict=True) if v}


def a_second(machine: Machine) -> None:
    """Let a second pass and read."""
    machine.wait(1000 * MS)
    machine.drain()


def saved(machine: Machine, method: str = "bpf-core") -> CpuBaseline:
    """Read, and return the baseline that a daemon would save then."""
    machine.wait(1000 * MS)
    machine.do_tick(0, 0)
    sample = machine.reader.read()[-1]
    return baseline_of(method, sample, machine.reader.cgroups, machine.reader.stamp)


def test_a_state_that_is_never_consistent_is_counted_and_recovers(make: Make) -> None:
    """A CPU stuck in a program costs its tries, is said, and later readings are exact again."""
    machine = make()
    machine.switch(1, USER)
    machine.kernel.cpus[1].enter += 1
    machine.kernel.show(machine.kernel.cpus[1])
    a_second(machine)
    assert machine.reader.figures.exhausted == 1
    machine.kernel.cpus[1].leave += 1
    machine.kernel.show(machine.kernel.cpus[1])

    a_second(machine)

    assert machine.reader.figures.exhausted == 1


def test_only_the_package_in_motion_is_read_again(make: Make) -> None:
    """A stuck CPU of one package does not spoil what is read of another."""
    machine = make(ncpu=2, npkg=2)
    for cpu in (0, 1):
        machine.switch(cpu, USER)
    machine.kernel.cpus[1].enter += 1
    machine.kernel.show(machine.kernel.cpus[1])

    a_second(machine)
    machine.wait(300 * MS)

    assert machine.reader.figures.exhausted == 1
    assert machine.reader.figures.late_ns == 0


def test_a_clock_that_goes_back_gives_no_sample(make: Make) -> None:
    """Readings go on when time is where it was."""
    machine = make()
    a_second(machine)
    machine.clock.t_ns -= 500 * MS

    assert machine.reader.read() == ()
    assert "no bin" in machine.reader.failure

    machine.clock.t_ns += 500 * MS
    a_second(machine)
    assert machine.reader.failure == ""


def test_maps_set_up_anew_under_us_are_refused(make: Make) -> None:
    """Counters of another life are never taken for a continuation."""
    machine = make()
    machine.kernel.ctl["stamp"] += 1
    machine.wait(1000 * MS)

    assert machine.reader.read() == ()
    assert "anew" in machine.reader.failure


def test_programs_that_were_detached_are_noticed(make: Make) -> None:
    """Time without any event is not given to whoever ran last."""
    machine = make()
    machine.switch(0, USER)
    a_second(machine)
    for wait_ms in (1100, 4000):
        machine.wait(wait_ms * MS)

        assert machine.reader.read() == ()
        assert "detached" in machine.reader.failure
    a_second(machine)
    assert machine.published[ROOT_KEY] > 5000 * MS


def test_the_first_reading_waits_for_every_cpu(make: Make) -> None:
    """A CPU that has not switched yet is waited for, ten seconds at most, and then named."""
    machine = make()
    machine.kernel.cpus[1].ts = 0
    machine.kernel.show(machine.kernel.cpus[1])
    machine.kernel.ctl["created"] = machine.clock.t_ns
    reader = machine.open()

    assert reader.read() == ()
    assert "CPU 1" in reader.failure
    machine.wait(10_000 * MS)
    machine.do_tick(0, 0)
    another = machine.open()
    assert len(another.read()) == 1  # the maps are old: their CPUs were waited for already
    another.close()
    assert len(reader.read()) == 1
    assert any("CPU" in problem and "1" in problem for problem in reader.problems)
    reader.close()


def test_a_late_drain_takes_totals(make: Make) -> None:
    """After more than 2.5 s there is one sample, nothing is lost, and it is counted."""
    machine = make()
    machine.switch(1, USER)
    machine.wait(60_000 * MS)
    machine.drain()
    assert machine.reader.figures.stalls == 1
    assert machine.published[ROOT_KEY] > 59_000 * MS

    a_second(machine)

    assert machine.reader.figures.stalls == 1


def test_samples_share_one_array_of_keys(make: Make) -> None:
    """Twenty bins cost one array of keys and one block of values, all read-only."""
    machine = make()
    machine.wait(1000 * MS)
    machine.do_tick(0, 0)

    samples = machine.reader.read()

    assert len(samples) > 15
    assert all(s.keys is samples[0].keys for s in samples)
    assert all(s.own_ns.base is samples[0].own_ns.base for s in samples)
    for array in (samples[0].keys, samples[0].own_ns, samples[0].total_ns):
        assert not array.flags.writeable
    assert {b.t_ns - a.t_ns for a, b in pairwise(samples)} == {abi.BUCKET_NS}


def test_a_full_table_is_a_problem_with_a_remedy(make: Make) -> None:
    """Cgroups without a slot are unattributed, and the setting to raise is named."""
    machine = make(nslot=abi.SLOT_FIRST + 1)
    for _ in range(2):
        machine.switch(1, Task(7, machine.mkdir(ROOT_CGID)))
        machine.wait(100 * MS)
    a_second(machine)

    assert machine.published[OUTSIDE_KEY] > 1000 * MS
    assert any("[accounting] slots" in problem for problem in machine.reader.problems)


def test_a_cgroup_that_came_and_went_between_readings_has_its_path(make: Make) -> None:
    """The kernel keeps its name and its parent; below an unknown parent nobody can say."""
    machine = make()
    pod = machine.mkdir(ROOT_CGID)
    a_second(machine)
    leaf = machine.mkdir(pod)
    machine.switch(1, Task(7, leaf))
    machine.wait(10 * MS)
    machine.switch(1, IDLE)
    path = machine.paths[leaf].relative_to(machine.paths[ROOT_CGID])
    machine.rmdir(leaf)
    a_second(machine)

    assert machine.reader.cgroups[leaf].path == f"/{path}"
    assert machine.published[leaf] > 10 * MS - MS
    for _ in range(6):
        a_second(machine)
    assert leaf not in machine.published
    assert leaf in machine.reader.cgroups  # samples of a window may still mention it


def test_a_cgroup_below_an_unknown_parent_is_outside(make: Make) -> None:
    """Time of a cgroup that cannot be named is counted, as outside the visible tree."""
    machine = make()
    machine.retells[-99] = OUTSIDE_KEY
    unknown = machine.mkdir(ROOT_CGID)
    machine.kernel.cgroups[unknown] = machine.kernel.cgroups[unknown]._replace(parent=12345)
    path = machine.paths[unknown]
    path.rename(machine.base / "graveyard" / path.name)
    machine.switch(1, Task(7, unknown))
    a_second(machine)

    assert machine.published[OUTSIDE_KEY] > 800 * MS
    assert unknown not in machine.published
    outside_ns = machine.published[OUTSIDE_KEY]

    (machine.base / "graveyard" / path.name).rename(path)
    a_second(machine)

    # From here on it has a name, and what it used before stays where it was published.
    assert machine.published[OUTSIDE_KEY] == outside_ns
    assert machine.published[unknown] == 1000 * MS


def test_a_task_that_moved_and_never_switched_is_split_where_it_moved(make: Make) -> None:
    """No event has charged its time yet, and still each cgroup has its part of each bin."""
    machine = make()
    first, second = machine.mkdir(ROOT_CGID), machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, first))
    machine.wait(333 * MS)
    machine.do_attach(1, list(machine.paths).index(second))
    a_second(machine)

    assert machine.published[first] == 333 * MS
    assert machine.published[second] > 800 * MS


def test_a_removed_cgroup_with_a_running_task_keeps_its_slot(make: Make) -> None:
    """Its last task may take its time to go; no slot is taken from under it."""
    machine = make()
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, cgid))
    machine.rmdir(cgid)
    for _ in range(20):
        a_second(machine)
    assert machine.published[cgid] > 19_000 * MS
    machine.switch(1, IDLE)

    machine.settle()

    assert machine.last[cgid] == machine.used_by(cgid)
    assert len(machine.kernel.free) == 1


def test_a_program_that_runs_whole_during_the_copy_is_noticed(make: Make) -> None:
    """Before and after it enter equals leave; only the two copies differ."""
    machine = make()
    cgid = machine.mkdir(ROOT_CGID)
    tasks = [Task(7, cgid), USER] * 10

    def run_another() -> None:
        if tasks:
            machine.clock.t_ns += 10_000
            machine.switch(1, tasks.pop())

    for _ in range(3):
        machine.wait(1000 * MS)
        machine.do_tick(0, 0)
        machine.clock.on_look = run_another
        machine.drain(tick=False)
        machine.clock.on_look = lambda: None
        tasks += [Task(7, cgid), USER] * 10

    assert machine.reader.figures.exhausted == 0


def test_a_machine_that_never_rests_costs_its_tries(make: Make) -> None:
    """Something ran during every copy: the reading says that it is not consistent."""
    machine = make()
    machine.wait(1000 * MS)
    machine.do_tick(0, 0)
    machine.clock.on_look = lambda: machine.switch(1, IDLE)

    assert machine.reader.read()
    assert machine.reader.figures.exhausted == 1


def test_a_machine_that_never_rests_gives_slots_back(make: Make) -> None:
    """Each CPU by itself is seen between two programs; no reading has to be consistent for it."""
    machine = make(nslot=40)
    restless = machine.kernel.cpus[1]

    def write_all_the_time() -> None:
        restless.enter += 1
        restless.leave += 1
        machine.kernel.show(restless)

    machine.clock.on_look = write_all_the_time
    for _ in range(100):
        cgid = machine.mkdir(ROOT_CGID)
        machine.switch(0, Task(7, cgid))
        machine.wait(5 * MS)
        machine.switch(0, IDLE)
        machine.rmdir(cgid)
        machine.wait(995 * MS)
        machine.do_tick(0, 0)
        assert machine.reader.read()

    assert machine.reader.figures.exhausted == 100
    assert int(machine.kernel.ctl["no_slot"]) == 0
    assert machine.kernel.free


def test_a_cpu_in_the_middle_of_a_program_keeps_slots(make: Make) -> None:
    """It may be about to charge to one; those that it was seen without later come back."""
    machine = make()
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(0, Task(7, cgid))
    machine.wait(5 * MS)
    machine.switch(0, IDLE)
    machine.rmdir(cgid)
    stuck = machine.kernel.cpus[1]
    for in_program in (1, -1):
        stuck.enter += in_program
        machine.kernel.show(stuck)
        for _ in range(20):
            machine.wait(1000 * MS)
            machine.do_tick(0, 0)
            assert machine.reader.read()
        assert len(machine.kernel.free) == (in_program < 0)


def test_a_key_stays_until_its_last_bin_is_told(make: Make) -> None:
    """However fast readings follow each other, what was used last is in the samples."""
    machine = make()
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, cgid))
    machine.rmdir(cgid)
    for _ in range(4):
        a_second(machine)
    machine.wait(98 * MS)
    machine.switch(1, IDLE)
    for wait_ms in (1, 2, 50, 50, 50, 50, 50):
        machine.wait(wait_ms * MS)
        machine.drain()

    assert cgid not in machine.published
    assert machine.last[cgid] == machine.used_by(cgid)


def test_a_cpu_that_was_offline_was_not_idle(make: Make) -> None:
    """The kernel adds its absence to idle time when it comes back; no sample shows it."""
    machine = make()
    before = saved(machine)
    machine.do_offline(1, 0)
    for _ in range(10):
        a_second(machine)
    machine.do_online(1, 0)
    machine.switch(1, IDLE)
    a_second(machine)
    after = saved(machine)

    passed_ns = after.t_ns - before.t_ns
    # The first CPU idled all the time, the other at most in the seconds of its going and coming.
    assert passed_ns - MS < after.idle_ns - before.idle_ns <= passed_ns + 4000 * MS


def test_a_cpu_that_is_back_counts_from_its_first_event(make: Make) -> None:
    """It is listed as online a little before; its time offline is nobody's, and not idle."""
    machine = make()
    machine.switch(1, Task(21, 0))  # who stops a CPU is a kernel thread, and the last one seen
    machine.online = {0}
    machine._write_online()
    a_minute = [read_again(machine) for _ in range(60)]
    machine.online = {0, 1}
    machine._write_online()

    listed = read_again(machine)
    machine.kernel.cpus[1].tgid = 0  # as cross() does when it comes back in its idle task
    machine.switch(1, IDLE)
    back = [read_again(machine) for _ in range(3)][-1]

    for sample in (listed, back):
        before, now = own(a_minute[0]), own(sample)
        assert now[KERNEL_KEY] - before.get(KERNEL_KEY, 0) < MS
    passed_ns = back.t_ns - a_minute[0].t_ns
    # The first CPU idled all the time, the other three seconds and a part of one more.
    idle_ns = back.idle_ns - a_minute[0].idle_ns
    assert passed_ns + 2000 * MS < idle_ns <= passed_ns + 5000 * MS


def read_again(machine: Machine) -> CpuSample:
    """Let a second pass, and return the newest sample."""
    machine.wait(1000 * MS)
    machine.do_tick(0, 0)
    return machine.reader.read()[-1]


def test_bcc_takes_what_the_tree_lacks_for_long_as_removed(make: Make) -> None:
    """Without a program for rmdir the slots of removed cgroups come back too."""
    machine = make()
    machine.kernel.ctl["loader"] = abi.LOADER_BCC
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, cgid))
    a_second(machine)
    machine.switch(1, IDLE)
    machine.rmdir(cgid)
    machine.kernel.views.info["gone"] = 0
    for _ in range(25):
        a_second(machine)

    assert cgid not in machine.published
    assert len(machine.kernel.free) == 1


def test_a_restart_goes_on_with_the_same_maps(make: Make) -> None:
    """First comes the saved moment with nothing used, then what was used since, by key."""
    machine = make()
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, cgid))
    baseline = saved(machine)
    machine.wait(5000 * MS)

    machine.restart(baseline)

    assert machine.begun is not None
    assert machine.begun.t_ns == baseline.t_ns
    assert own(machine.begun) == {}
    assert machine.begun.idle_ns == baseline.idle_ns
    assert machine.published[cgid] == machine.used_by(cgid) > 5000 * MS
    totals = dict(zip(machine.begun.keys.tolist(), machine.begun.total_ns.tolist(), strict=True))
    assert totals[cgid] == next(t for ref, t in baseline.totals.items() if ref.inode == cgid)


def test_what_a_gone_cgroup_had_is_not_told_again(make: Make) -> None:
    """Its key left the samples before the state was saved; its slot is still in the table."""
    machine = make()
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, cgid))
    a_second(machine)
    machine.switch(1, IDLE)
    machine.rmdir(cgid)
    for _ in range(6):
        a_second(machine)
    assert cgid not in machine.published
    assert np.any(machine.kernel.views.info["cgid"] == cgid)

    machine.restart(saved(machine))

    assert cgid not in machine.published
    for _ in range(20):
        a_second(machine)
    assert len(machine.kernel.free) == 1


def test_a_kill_within_a_long_window_loses_no_cpu_time(tmp_path: Path) -> None:
    """A gone cgroup's time stays in the table until a state that has it must have been saved."""
    machine = Machine(tmp_path, ncpu=2, npkg=1, history_ns=124 * 1000 * MS)
    baseline = saved(machine)
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, cgid))
    for _ in range(5):
        read_again(machine)
    machine.switch(1, IDLE)
    machine.rmdir(cgid)
    for _ in range(60):
        read_again(machine)

    machine.restart(baseline)

    assert machine.published[cgid] == machine.used_by(cgid) > 5000 * MS
    for _ in range(130):
        a_second(machine)
    assert len(machine.kernel.free) == 1
    machine.close()


def test_a_slot_that_was_never_charged_is_not_kept(make: Make) -> None:
    """Nothing of it has to be saved: whoever makes and removes cgroups fills no table."""
    machine = make()
    cgid = machine.mkdir(ROOT_CGID)
    machine.kernel.find_slot(cgid)
    a_second(machine)
    machine.rmdir(cgid)
    for _ in range(6):
        a_second(machine)

    assert len(machine.kernel.free) == 1


def test_cgroups_without_a_slot_are_listed_up_to_a_bound(make: Make) -> None:
    """Those that never ran cost memory too; the oldest are listed, and any as soon as it runs."""
    machine = make(nslot=8)
    cgids = [machine.mkdir(ROOT_CGID) for _ in range(20)]
    a_second(machine)

    assert set(machine.published) & set(cgids) == set(cgids[:8])
    assert len(machine.reader.cgroups) == 8
    assert any("12 cgroups" in problem for problem in machine.reader.problems)

    machine.switch(1, Task(7, cgids[-1]))
    machine.wait(100 * MS)
    machine.switch(1, IDLE)
    machine.rmdir(cgids[0])
    a_second(machine)
    assert machine.published[cgids[-1]] == 100 * MS
    assert set(machine.published) & set(cgids) == {*cgids[1:9], cgids[-1]}
    assert any("10 cgroups" in problem for problem in machine.reader.problems)


def test_a_slot_made_after_its_cgroup_was_removed_comes_back(make: Make) -> None:
    """A task on its way out was charged: the kernel will tell of no removal, the tree does."""
    machine = make()
    cgid = machine.mkdir(ROOT_CGID)
    machine.rmdir(cgid)
    machine.switch(1, Task(7, cgid))
    machine.wait(3 * MS)
    machine.switch(1, IDLE)
    a_second(machine)
    assert machine.published[cgid] == 3 * MS
    for _ in range(10):
        a_second(machine)
    assert cgid not in machine.published

    machine.restart(saved(machine))
    assert cgid not in machine.published
    for _ in range(20):
        a_second(machine)
    assert len(machine.kernel.free) == 1


def stat(machine: Machine, busy_ns: int) -> None:
    """Let /proc/stat show so much busy time."""
    ticks = busy_ns // 10_000_000
    (machine.base / "proc/stat").unlink()
    write_files(machine.base, {"proc/stat": f"cpu  {ticks} 0 0 1 0 0 0 0 0 0\n"})


def resumed(machine: Machine, baseline: CpuBaseline) -> tuple[CpuSample, ...]:
    """Return what another reader says first."""
    machine.do_tick(0, 0)
    reader = machine.open()
    assert reader.resume(baseline)
    samples = reader.read()
    assert not reader.resume(baseline)
    reader.close()
    return samples


def test_new_maps_are_all_new_time_and_the_gap_is_named(make: Make) -> None:
    """What no map counted, though /proc/stat did, is CPU time that nobody accounted."""
    machine = make()
    machine.switch(1, USER)
    machine.wait(3000 * MS)
    t_ns = int(machine.kernel.ctl["created"]) - 2000 * MS
    baseline = CpuBaseline("bpf-core", t_ns, 9, 1, 2, 3, {}, 5, 1000 * MS)
    stat(machine, 6000 * MS)

    before, now = resumed(machine, baseline)

    in_maps = sum(v for k, v in own(now).items() if k != LOST_KEY)
    assert before.t_ns == t_ns
    assert own(before) == {}
    assert own(now)[ROOT_KEY] > 2900 * MS
    assert own(now)[LOST_KEY] == 6000 * MS - 1000 * MS - in_maps


def test_after_another_method_only_the_gap_is_new(make: Make) -> None:
    """Maps that were there all the time hold what the other method has told already."""
    machine = make()
    machine.switch(1, USER)
    machine.wait(3000 * MS)
    baseline = CpuBaseline("cgroup-v2", machine.clock.t_ns, 9, 1, 2, 3, {}, 0, 1000 * MS)
    machine.wait(1000 * MS)
    stat(machine, 1700 * MS)

    _, now = resumed(machine, baseline)

    assert own(now) == {LOST_KEY: 700 * MS}
    assert now.keys.tolist()[:4] == [LOST_KEY, ROOT_KEY, OUTSIDE_KEY, KERNEL_KEY]


def test_without_a_gap_there_is_no_key_for_it(make: Make) -> None:
    """What is not there is not listed."""
    machine = make()
    baseline = CpuBaseline("cgroup-v2", machine.clock.t_ns, 9, 1, 2, 3, {}, 0, 0)
    machine.wait(1000 * MS)

    _, now = resumed(machine, baseline)

    assert LOST_KEY not in now.keys


def test_a_baseline_of_the_future_is_refused(make: Make) -> None:
    """Its clock was another one."""
    machine = make()
    reader = machine.open()

    assert not reader.resume(CpuBaseline("bpf-core", machine.clock.t_ns * 2, 0, 0, 0, 0, {}))
    reader.close()


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=2, max_size=2), min_size=1, max_size=6),
    st.lists(st.integers(0, 400), min_size=2, max_size=2),
    st.booleans(),
)
def test_totals_have_the_last_word(
    steps: list[list[int]], after: list[int], is_first_open: bool
) -> None:
    """Whatever the buckets say, values never fall and end with the total."""
    before = np.array([100, 7])

    values, wrong_ns = cumulate(
        before, np.array(steps), np.array(after), is_first_open=is_first_open
    )

    end = np.maximum(before, after)
    assert values[-1].tolist() == end.tolist()
    assert (np.diff(np.vstack([before, values]), axis=0) >= 0).all()
    missing = end - before - np.sum(steps, axis=0)
    assert wrong_ns == np.abs(np.minimum(missing, 0) if is_first_open else missing).sum()

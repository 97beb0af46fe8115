"""Hardware counters by key, as they are read with each drain."""

from pathlib import Path

import numpy as np

from tests.sim.accounting import MS, Machine
from tests.sim.kernelmodel import IDLE, ROOT_CGID, Task
from tychod.kernel.bpf import abi


def test_each_drain_reads_them_and_says_when(tmp_path: Path) -> None:
    """After every reading they are newer than its last sample, and by key like the times."""
    machine = Machine(tmp_path, ncpu=2, npkg=2)
    pmu = np.zeros((2, machine.kernel.nslot), abi.PMU_TOTAL)
    machine.kernel.views = machine.kernel.views._replace(pmu=pmu)
    machine.kernel.ctl["flags"] = abi.FLAG_COUNTERS[0] | abi.FLAG_COUNTERS[2]
    cgid = machine.mkdir(ROOT_CGID)
    machine.switch(1, Task(7, cgid))
    machine.wait(MS)
    machine.switch(1, IDLE)
    machine.reader.close()
    machine.reader = machine.open()
    slot = machine.kernel.slot_of[cgid]
    times = []
    for turn in range(1, 4):
        pmu["value"][:, slot] = (turn * 100, 5, turn)
        pmu["ns"][:, slot] = (turn * 10, 5, turn * 10)
        machine.wait(1000 * MS)
        machine.do_tick(0, 0)
        last = machine.reader.read()[-1]
        found = machine.reader.counters

        assert found is not None
        assert found.names == ("cycles", "llc_misses")
        assert found.keys.tolist() == last.keys.tolist()
        at = found.keys.tolist().index(cgid)
        assert found.value[:, at].tolist() == [200 * turn, 2 * turn]  # of both packages
        assert found.covered_ns[:, at].tolist() == [20 * turn, 20 * turn]
        assert last.t_ns <= found.t_ns <= machine.clock.t_ns
        times.append(found.t_ns)
    assert times == sorted(set(times))
    machine.close()


def test_none_where_none_is_on(tmp_path: Path) -> None:
    """Nothing is read that is not there."""
    machine = Machine(tmp_path, ncpu=1, npkg=1)
    assert machine.reader.counters is None
    machine.close()

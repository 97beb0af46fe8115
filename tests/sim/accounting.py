"""A simulated machine whose CPU time is accounted by the model of the kernel programs and read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import numpy as np

from tests.fixtures.hosts.trees import host_at, write_files
from tests.sim.kernelmodel import IDLE, IDLE_KEY, ROOT_CGID, Cgroup, Clock, Kernel, Task, Truth
from tychod.kernel.bpf.reader import BpfReader
from tychod.kernel.cgroups import CpuBaseline, baseline_of
from tychod.kernel.hierarchy import Hierarchy
from tychod.samples import KERNEL_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tychod.samples import CpuSample

MS = 1_000_000
START_NS = 10_000_000_000_000


class Machine:
    """CPUs, cgroups as real directories, the maps, the reader, and the truth beside it."""

    def __init__(
        self,
        base: Path,
        *,
        ncpu: int,
        npkg: int,
        nslot: int = 64,
        history_ns: int = 10**10,
        irq: Literal["kernel", "interrupted"] = "kernel",
    ) -> None:
        """``irq``: who gets the time of interrupts."""
        self.irq = irq
        self.history_ns = history_ns
        self.base, self.clock = base, Clock(START_NS)
        self.kernel = Kernel(self.clock, ncpu=ncpu, npkg=npkg, nslot=nslot)
        self.truth = Truth(ncpu)
        self.online = set(range(ncpu))
        self.moved_cpus = False  # a CPU has been offline: idle is not exact any more
        (base / "cgroup").mkdir(parents=True)
        (base / "graveyard").mkdir()
        write_files(base, {"proc/stat": "cpu  1 0 0 1 0 0 0 0 0 0\n"})
        self._write_online()
        self.paths = {ROOT_CGID: base / "cgroup"}
        self.removed: list[int] = []
        for cpu in range(ncpu):
            self.switch(cpu, IDLE)
        self.published: dict[int, int] = {}  # the newest sample
        self.last: dict[int, int] = {}  # of every key ever published
        self.retells: dict[int, int] = {}  # key -> who has its time now
        self.begun: CpuSample | None = None
        self.recent: list[CpuBaseline] = []  # what a daemon would have saved lately
        self.newest_ns = self.drained_ns = 0
        self.walked_past = 0
        self.reader = self.open()
        self.drain()

    def open(self) -> BpfReader:
        """Return a reader of the maps as they are."""
        hierarchy = Hierarchy("v2", str(self.base / "cgroup"), "a test", true_root=True)
        host = host_at(self.base)
        views = self.kernel.views
        history_ns = self.history_ns
        return BpfReader(host, hierarchy, self.clock, views, self.kernel, history_ns, self.irq)

    def close(self) -> None:
        """Close the reader."""
        self.reader.close()

    def _write_online(self) -> None:
        cpus = ",".join(str(n) for n in sorted(self.online))
        write_files(self.base, {"sys/devices/system/cpu/online.new": cpus + "\n"})
        place = self.base / "sys/devices/system/cpu"
        # Written in place: the reader keeps the file open.
        (place / "online").write_text((place / "online.new").read_text())

    # ---- what happens ----

    def wait(self, ns: int) -> None:
        """Let time pass."""
        self.clock.t_ns += ns

    def run(self, cpu: int, body: Callable[..., Iterator[None]], *args: object) -> Iterator[None]:
        """Return a program on a CPU, which tells the truth what its time is from now on."""

        def seen(now_ns: int) -> None:
            times.append(now_ns)

        times: list[int] = []
        yield from self.kernel.program(cpu, body(cpu, *args, seen))
        for t_ns in times:
            self.truth.set(cpu, t_ns, self._key(cpu))

    def _key(self, cpu: int) -> int:
        state = self.kernel.cpus[cpu]
        if not (state.irq or state.soft):
            return state.current.key
        is_pooled = self.irq == "kernel" or not state.current.tgid
        return KERNEL_KEY if is_pooled else state.current.key

    def switch(self, cpu: int, task: Task) -> None:
        """Switch to a task."""
        finish(self.run(cpu, self.kernel.switch, task))

    def mkdir(self, parent: int) -> int:
        """Make a cgroup; its id is the directory's inode."""
        path = self.paths[parent] / f"c{len(self.paths) + len(self.removed)}"
        path.mkdir()
        cgid = path.stat().st_ino
        self.paths[cgid] = path
        above = parent if parent != ROOT_CGID else self.paths[ROOT_CGID].stat().st_ino
        self.kernel.cgroups[cgid] = Cgroup(cgid, above, path.name)
        return cgid

    def rmdir(self, cgid: int) -> None:
        """Remove a cgroup; the directory is kept elsewhere, so that no inode comes twice."""
        path = self.paths.pop(cgid)
        os.rename(path, self.base / "graveyard" / path.name)  # noqa: PTH104 - as the kernel
        self.kernel.rmdir(cgid)
        self.removed.append(cgid)

    def act(self, name: str, cpu: int, pick: int) -> None:
        """Do one thing, if it is possible now."""
        if cpu not in self.online and name != "online":
            return
        getattr(self, f"do_{name}")(cpu, pick)

    def _pick(self, pick: int) -> Task:
        cgids = [0, *self.paths]
        return IDLE if pick % 4 == 0 else Task(100 + pick, cgids[pick % len(cgids)])

    def do_switch(self, cpu: int, pick: int) -> None:
        """Another task comes to run."""
        self.switch(cpu, self._pick(pick))

    def do_tick(self, cpu: int, _pick: int) -> None:
        """A timer interrupt."""
        finish(self.run(cpu, self.kernel.irq_in))
        self.wait(2_000)
        finish(self.run(cpu, self.kernel.irq_out))

    def do_irq_in(self, cpu: int, _pick: int) -> None:
        """An interrupt begins, perhaps within another."""
        finish(self.run(cpu, self.kernel.irq_in))

    def do_irq_out(self, cpu: int, _pick: int) -> None:
        """An interrupt ends."""
        if self.kernel.cpus[cpu].irq:
            finish(self.run(cpu, self.kernel.irq_out))

    def do_soft_in(self, cpu: int, _pick: int) -> None:
        """A softirq begins."""
        finish(self.run(cpu, self.kernel.soft_in))

    def do_soft_out(self, cpu: int, _pick: int) -> None:
        """A softirq ends."""
        if self.kernel.cpus[cpu].soft:
            finish(self.run(cpu, self.kernel.soft_out))

    def do_attach(self, cpu: int, pick: int) -> None:
        """The running task moves to another cgroup, outside of interrupts."""
        state = self.kernel.cpus[cpu]
        cgid = list(self.paths)[pick % len(self.paths)]
        if state.current.tgid and state.current.cgid and not (state.irq or state.soft):
            self.kernel.moved(cpu, cgid)
            self.truth.set(cpu, self.clock.t_ns, self._key(cpu))

    def do_mkdir(self, _cpu: int, pick: int) -> None:
        """A cgroup is made somewhere."""
        self.mkdir(list(self.paths)[pick % len(self.paths)])

    def do_rmdir(self, _cpu: int, pick: int) -> None:
        """A cgroup without children and tasks is removed."""
        busy = {s.current.cgid for s in self.kernel.cpus if s.current.tgid} | {ROOT_CGID}
        empty = [
            cgid
            for cgid, path in self.paths.items()
            if cgid not in busy and path not in {p.parent for p in self.paths.values()}
        ]
        if empty:
            self.rmdir(empty[pick % len(empty)])

    def do_drain(self, _cpu: int, _pick: int) -> None:
        """A reading at an odd time."""
        self.drain()

    def do_held(self, cpu: int, pick: int) -> None:
        """A reading that begins in the middle of a program, which goes on meanwhile."""
        program = self.run(cpu, self.kernel.switch, self._pick(pick))
        for _ in range(1 + pick % 3):
            next(program, None)
        self.clock.on_look = lambda: next(program, None)
        self.drain(tick=cpu != 0)
        self.clock.on_look = lambda: None
        finish(program)

    def do_offline(self, cpu: int, _pick: int) -> None:
        """A CPU goes; the first one never does."""
        if cpu:
            self.switch(cpu, IDLE)
            self.online.discard(cpu)
            self.moved_cpus = True
            self._write_online()

    def do_online(self, cpu: int, _pick: int) -> None:
        """A CPU comes back, with something to do."""
        if cpu not in self.online:
            self.online.add(cpu)
            self._write_online()
            self.switch(cpu, Task(5, 0))

    def do_restart(self, _cpu: int, pick: int) -> None:
        """The daemon is killed and started again, from a state that is a while old."""
        if self.recent:
            self.restart(self.recent[pick % len(self.recent)])

    # ---- reading ----

    def restart(self, baseline: CpuBaseline) -> None:
        """Go on with another reader; it publishes what was used since the baseline."""
        self.reader.close()
        self.reader = self.open()
        assert self.reader.resume(baseline)
        self.begun, self.newest_ns, self.last, self.published = None, 0, {}, {}
        self.recent = []
        self.drain()

    def drain(self, *, tick: bool = True) -> None:
        """Read and compare; who reads has just been switched to, so there is an event."""
        if tick:
            self.do_tick(0, 0)
        stalls = self.reader.figures.stalls
        late_ns = int(self.kernel.ctl["late"])
        samples = self.reader.read()
        self.drained_ns = self.clock.t_ns
        # Between the closing of buckets and the copy a charge finds no bucket: exact in sum only.
        is_exact = self.kernel.walked_past == self.walked_past
        is_exact &= late_ns == int(self.kernel.ctl["late"])
        # Of interrupts it is known how much, and of the whole node when.
        is_exact &= self.irq == "kernel"
        self.walked_past = self.kernel.walked_past
        if not is_exact and len(samples) > 1:
            samples = (*samples[: self.begun is None], *samples[-1:])
        for sample in samples:
            self.compare(sample)
        names, stamp = self.reader.cgroups, self.reader.stamp
        saved = [baseline_of("bpf-core", sample, names, stamp) for sample in samples[::-5]]
        young_ns = self.clock.t_ns - 4000 * MS  # a window, and the time until it is closed
        self.recent = [b for b in [*self.recent, *saved] if b.t_ns > young_ns]
        assert self.reader.figures.stalls - stalls in (0, len(samples))

    def compare(self, sample: CpuSample) -> None:
        """Compare a sample with the truth, to the nanosecond."""
        self.begun = self.begun or sample
        assert sample.t_ns > self.newest_ns
        self.newest_ns = sample.t_ns
        shown = dict(zip(sample.keys.tolist(), sample.own_ns.tolist(), strict=True))
        for key, own_ns in shown.items():
            assert own_ns >= self.last.get(key, 0)
        came_back = (shown.keys() - self.published.keys()) & self.last.keys()
        assert not came_back
        assert not sample.own_ns.flags.writeable
        self.published = shown
        self.last |= shown
        used = self.truth.used(self.begun.t_ns, sample.t_ns)
        idle_ns = used.pop(IDLE_KEY, 0)
        assert sum(self.last.values()) == sum(used.values())
        if not self.moved_cpus:
            assert sample.idle_ns - self.begun.idle_ns == idle_ns
        is_pooled = self.irq == "kernel"
        if is_pooled and not int(self.kernel.ctl["no_slot"]) and not self.retells:
            assert {k: v for k, v in self.last.items() if v} == used

    def used_by(self, key: int) -> int:
        """Return what a key has used from the first to the newest sample."""
        assert self.begun
        return self.truth.used(self.begun.t_ns, self.newest_ns).get(key, 0)

    def settle(self) -> None:
        """Let every removed cgroup be given back, and read a last time."""
        for _ in range(20):
            self.wait(1000 * MS)
            self.drain()
        assert np.all(self.kernel.views.info["gone"] == 0)
        assert not set(self.removed) & self.published.keys()


def finish(program: Iterator[None]) -> None:
    """Run a program to its end."""
    for _ in program:
        pass

"""A load whose CPU time the kernel's own files tell: what the daemon counts is compared with it."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from tests.e2e.inside.machine import Answer, ask, run, wait_for_window, wait_until
from tests.e2e.inside.scene import Scene, cgroup_of
from tests.e2e.steps import require

# A switch moves up to so much between neighbours: the scheduler reads its clock at another place.
SWITCH_S: Final = 3e-6
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
# A switch that the kernel did not tell shows at the next tick; some virtual machines hide those of
# their agent.
ROUNDING_NS: Final = 2  # of seconds as a float
JIFFY_S: Final = time.clock_getres(6)  # CLOCK_MONOTONIC_COARSE

# Half of a CPU with short-lived children, until it is told to stop; then quiet, so that what is
# read afterwards, one after the other, is of one moment.
LOAD: Final = """
import os, resource, sys, time
stop, out = sys.argv[1:]
while not os.path.exists(stop):
    end = time.monotonic() + 0.02
    while time.monotonic() < end:
        pass
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    time.sleep(0.02)
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
with open(out, "w") as file:
    file.write(str(sum(one.ru_nvcsw + one.ru_nivcsw for one in used)))
while True:
    time.sleep(3600)
"""

# Reads the kernel's own account of cgroups from the pins, by the package's description of it.
PEEK: Final = """
import sys
sys.path.insert(0, "/usr/lib/tychod")
from tychod.kernel.bpf import abi, syscall
names = (*abi.MAPPED, "ty_pmu_total")
root = f"/sys/fs/bpf/tychod/v{abi.ABI}"
views = abi.view_maps({name: syscall.obj_get(f"{root}/{name}") for name in names})
wanted = set(map(int, sys.argv[1:]))
slots = [i for i, cgid in enumerate(views.info["cgid"].tolist()) if not wanted or cgid in wanted]
times = [views.total["ns"][:, i].sum(axis=0).tolist() for i in slots]
print([times, int(views.ctl["missed"][0])])
"""


def peek(*inodes: int) -> tuple[list[list[int]], int]:
    """Return task, softirq and irq time of the slots of cgroups (none given: of all).

    And how many switches the kernel has hidden so far.
    """
    text = run("/usr/bin/python3", "-I", "-c", PEEK, *map(str, inodes)).stdout
    times, missed = json.loads(text)
    return times, missed


class Unseen(NamedTuple):
    """What cpu.stat cannot have told since the machine, or the maps, began."""

    missed: int  # switches that the kernel has hidden
    stolen_s: float  # another machine had the CPU: in our time, outside of cpu.stat

    def since_s(self, before: "Unseen") -> float:
        """Return how far cpu.stat may be off for it; stolen time is told in whole ticks."""
        missed = self.missed - before.missed
        untold = missed if missed >= 0 else self.missed  # of other maps
        return JIFFY_S * untold + (self.stolen_s - before.stolen_s) + TICK_S


def unseen(missed: int | None = None) -> Unseen:
    """Return it as it is now; `missed` where the maps have just been read."""
    times = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    return Unseen(peek(0)[1] if missed is None else missed, int(times[8]) * TICK_S)


class Burnt(NamedTuple):
    """What a load used by the kernel's files, what the daemon counted, what may lie between."""

    witness_s: float  # cpu.stat
    counted_s: (
        float  # the daemon's leaf, and irq time in the cgroup that the daemon counts elsewhere
    )
    tolerance_s: float
    rate: float  # CPUs that it kept busy
    unattributed_s: float  # growth
    switches: int
    uncounted_s: float  # the kernel's maps have it, the leaf does not


class Burner:
    """A service that burns CPU until finish()."""

    def __init__(self, scene: Scene, name: str) -> None:
        """Start it."""
        self._unit = f"{scene.name}-{name}.service"
        self._stop = scene.directory / f"{name}.stop"
        self._out = scene.directory / f"{name}.switches"
        program = scene.directory / "burner.py"
        program.write_text(LOAD, encoding="utf-8")
        self._before = find_leaf("unattributed")["cpu_seconds"]
        self._unseen = unseen()
        self._began_s = time.monotonic()
        argv = (sys.executable, str(program), str(self._stop), str(self._out))
        run("systemd-run", "--collect", "--unit", self._unit, *argv)

    def finish(self) -> Burnt:
        """Stop burning, wait until all of it is counted, and compare."""
        self._stop.touch()
        wait_until("the load is quiet", lambda: self._out.exists() and self._out.read_text(), 10)
        lasted_s = time.monotonic() - self._began_s
        sequence = wait_for_window()["sequence"]
        wait_for_window(wait_for_window(sequence)["sequence"])
        leaf, unattributed = find_leaf(self._unit), find_leaf("unattributed")
        lines = (self._cgroup() / "cpu.stat").read_text(encoding="ascii").splitlines()
        used = dict(line.split() for line in lines)
        witness_s = int(used["usage_usec"]) / 1e6
        switches = int(self._out.read_text())
        times, missed = peek(self._cgroup().stat().st_ino)
        task_s, irq_s = sum(t[0] for t in times) / 1e9, sum(t[1] + t[2] for t in times) / 1e9
        return Burnt(
            witness_s=witness_s,
            counted_s=leaf["cpu_seconds"] + irq_s,
            tolerance_s=SWITCH_S * switches + TICK_S + unseen(missed).since_s(self._unseen),
            rate=witness_s / lasted_s,
            unattributed_s=unattributed["cpu_seconds"] - self._before,
            switches=switches,
            uncounted_s=task_s - leaf["cpu_seconds"],
        )

    def irq_s(self) -> float:
        """Return irq time while it ran: cpu.stat has it, its leaf does not, `kernel` does."""
        inode = self._cgroup().stat().st_ino
        return float(sum(softirq + irq for _, softirq, irq in peek(inode)[0])) / 1e9

    def _cgroup(self) -> Path:
        return Path(cgroup_of(self._unit) or "/nonexistent")

    def remove(self) -> None:
        """End it."""
        run("systemctl", "stop", self._unit, code=None)
        self._stop.unlink(missing_ok=True)
        self._out.unlink(missing_ok=True)


def require_all_counted(burnt: Burnt) -> str:
    """StepError unless the daemon has all that the maps have, and what cpu.stat tells.

    The maps to the nanosecond (they are quiet); cpu.stat within its own error.
    """
    off_s = burnt.counted_s - burnt.witness_s
    text = (
        f"{burnt.counted_s:.4f} s counted, cpu.stat {burnt.witness_s:.4f} s, "
        f"{burnt.switches} switches"
    )
    uncounted_ns = round(burnt.uncounted_s * 1e9)
    require(abs(uncounted_ns) <= ROUNDING_NS, f"{text}: {uncounted_ns} ns of the maps not counted")
    require(abs(off_s) <= burnt.tolerance_s, f"{text}: over {burnt.tolerance_s * 1e3:.1f} ms apart")
    return (
        f"{text}: {off_s * 1e3:+.2f} ms of {burnt.tolerance_s * 1e3:.1f} allowed; "
        f"{uncounted_ns} ns of the maps not counted"
    )


def find_leaf(id_: str) -> Answer:
    """Return the leaf with an id."""
    leaves: list[Answer] = ask("workloads")["workloads"]
    found = [leaf for leaf in leaves if leaf["id"] == id_]
    require(found, f"no leaf {id_}: {sorted(leaf['id'] for leaf in leaves)}")
    return found[0]

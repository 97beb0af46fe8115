"""Cgroup trees: simulated ones as files (any size, no rights needed) and real ones with real load.

Needs the standard library only.  Run by hand it keeps a simulated tree moving:
``python3 -m tests.sim.cgrouptree --tree DIR --pods 120 --containers 250 --units 60``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH = 20
TICK_NS = 10_000_000  # of /proc/stat: USER_HZ is 100 on every Linux we know

BUSY_LOOP = """
import sys, time
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write("0")
busy_s, period_s = float(sys.argv[2]) * 0.02, 0.02
print("ready", flush=True)
while True:
    end = time.perf_counter() + busy_s
    while time.perf_counter() < end:
        pass
    time.sleep(period_s - busy_s)
"""


class FakeTree:
    """A cgroup hierarchy of plain files below ``base``, and the /proc/stat that goes with it.

    A directory appears and leaves complete, by a rename, as a kernel makes it.  ``true_root``:
    the tree's root is the machine's; otherwise it is what a container sees of the machine.
    """

    def __init__(
        self,
        base: Path,
        *,
        version: str = "v2",
        true_root: bool = True,
        cpus: int = 64,
        seed: int = 1,
    ) -> None:
        self.cgroupfs = base / "cgroup"
        self.root = self.cgroupfs if version == "v2" else self.cgroupfs / "cpuacct"
        self.procfs = base / "proc"
        self._staging = base / "staging"
        self._v2 = version == "v2"
        self._random = random.Random(seed)
        self._cpus = cpus
        self._busy_ns = 0
        self._irq_ns = 0
        self._idle_ns = 0
        self._usage_ns: dict[str, int] = {}
        self._fds: dict[str, int] = {}
        self.containers: list[str] = []
        for directory in (self.root, self.procfs / "self", self._staging):
            directory.mkdir(parents=True)
        self._stat_fd = os.open(self.procfs / "stat", os.O_WRONLY | os.O_CREAT, 0o644)
        self._make_root(true_root=true_root)
        self._write_stat()

    def populate(self, *, pods: int, containers: int, units: int) -> None:
        """Make the usual shape: system services, and pods with containers in round robin."""
        self.make("/system.slice")
        for number in range(units):
            self.make(f"/system.slice/unit-{number}.service")
        self.make("/kubepods.slice")
        self.make("/kubepods.slice/kubepods-burstable.slice")
        parents = [self._make_pod() for _ in range(pods)]
        for number in range(containers):
            self.containers.append(self._make_container(parents[number % pods]))

    def make(self, path: str) -> str:
        """Make one cgroup and return its path."""
        staged = self._staging / uuid.UUID(int=self._random.getrandbits(128)).hex
        staged.mkdir()
        if self._v2:
            (staged / "cgroup.type").write_text("domain\n")
        self._open_usage(staged, path)
        staged.rename(f"{self.root}{path}")
        return path

    def remove(self, path: str) -> None:
        """Remove one cgroup without children; what it used stays in its ancestors."""
        place = Path(f"{self.root}{path}")
        gone = self._staging / f"gone-{uuid.UUID(int=self._random.getrandbits(128)).hex}"
        place.rename(gone)
        shutil.rmtree(gone)
        os.close(self._fds.pop(path))
        del self._usage_ns[path]

    def use(self, path: str, cpu_ns: int) -> None:
        """Let the tasks of a cgroup use CPU time; "" is the root."""
        self._busy_ns += cpu_ns
        self._write_stat()
        while True:
            if path in self._usage_ns:
                self._usage_ns[path] += cpu_ns
                self._write_usage(path)
            if not path:
                return
            path = path.rpartition("/")[0]

    def use_elsewhere(self, cpu_ns: int, irq_ns: int = 0, idle_ns: int = 0) -> None:
        """Let time pass that no cgroup of this tree has: of other tasks, interrupts, nobody."""
        self._busy_ns += cpu_ns
        self._irq_ns += irq_ns
        self._idle_ns += idle_ns
        self._write_stat()

    def usage_ns(self, path: str) -> int:
        """Return a cgroup's counter, its children's use included."""
        return self._usage_ns[path]

    @property
    def paths(self) -> tuple[str, ...]:
        """All cgroups below the root."""
        return tuple(path for path in self._usage_ns if path)

    @property
    def busy_ns(self) -> int:
        """CPU time of all tasks of the machine."""
        return self._busy_ns

    def advance(self, elapsed_ns: int, *, active: float = 0.3) -> None:
        """Let time pass: a share of the containers and some services are busy."""
        leaves = [*self.containers, *(p for p in self._usage_ns if p.endswith(".service"))]
        chosen = self._random.sample(leaves, max(1, int(len(leaves) * active)))
        share_ns = elapsed_ns * self._cpus // (2 * len(chosen))
        before_ns = self._busy_ns
        for path in chosen:
            self.use(path, self._random.randrange(share_ns))
        self._idle_ns += elapsed_ns * self._cpus - (self._busy_ns - before_ns)
        self._write_stat()

    def churn(self, count: int = 1) -> None:
        """Replace containers by new ones in the same pods."""
        for _ in range(count):
            old = self.containers.pop(self._random.randrange(len(self.containers)))
            self.remove(old)
            self.containers.append(self._make_container(old.rpartition("/")[0]))

    def close(self) -> None:
        """Close every file; the tree stays."""
        for fd in self._fds.values():
            os.close(fd)
        os.close(self._stat_fd)

    def _make_pod(self) -> str:
        pod = str(uuid.UUID(int=self._random.getrandbits(128), version=4)).replace("-", "_")
        parent = "/kubepods.slice/kubepods-burstable.slice"
        return self.make(f"{parent}/kubepods-burstable-pod{pod}.slice")

    def _make_container(self, pod: str) -> str:
        return self.make(f"{pod}/cri-containerd-{self._random.getrandbits(256):064x}.scope")

    def _make_root(self, *, true_root: bool) -> None:
        (self.root / "cgroup.procs").write_text("")
        if self._v2:
            (self.root / "cgroup.controllers").write_text("cpu memory\n")
        if self._v2 and not true_root:
            (self.root / "cgroup.type").write_text("domain\n")
        if not self._v2 and true_root:
            (self.root / "release_agent").write_text("\n")
        if not (self._v2 and true_root):
            self._open_usage(self.root, "")

    def _open_usage(self, directory: Path, path: str) -> None:
        name = "cpu.stat" if self._v2 else "cpuacct.usage"
        self._fds[path] = os.open(directory / name, os.O_WRONLY | os.O_CREAT, 0o644)
        self._usage_ns[path] = 0
        self._write_usage(path)

    def _write_usage(self, path: str) -> None:
        usage_ns = self._usage_ns[path]
        usec = f"{usage_ns // 1000:0{WIDTH}d}"
        text = f"usage_usec {usec}\nuser_usec {usec}\n" if self._v2 else f"{usage_ns:0{WIDTH}d}\n"
        os.pwrite(self._fds[path], text.encode(), 0)

    def _write_stat(self) -> None:
        ticks = (t // TICK_NS for t in (self._busy_ns, self._idle_ns, self._irq_ns))
        user, idle, irq = (f"{t:0{WIDTH}d}" for t in ticks)
        os.pwrite(self._stat_fd, f"cpu  {user} 0 0 {idle} 0 0 {irq} 0 0 0\n".encode(), 0)


class FakeTreeDriver:
    """Keeps a simulated tree moving in a thread; a context manager."""

    def __init__(self, tree: FakeTree, *, step_s: float = 0.1, churn_per_s: float = 1.0) -> None:
        self.tree = tree
        self._step_s = step_s
        self._churn_per_s = churn_per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, name="cgroup-sim", daemon=True)

    def __enter__(self) -> FakeTree:
        self._thread.start()
        return self.tree

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.tree.close()

    def run(self) -> None:
        """Advance and churn until told to stop."""
        last, owed = time.monotonic_ns(), 0.0
        while not self._stop.wait(self._step_s):
            now = time.monotonic_ns()
            self.tree.advance(now - last)
            owed += self._churn_per_s * (now - last) / 1e9
            self.tree.churn(int(owed))
            last, owed = now, owed % 1


def real_base(version: str) -> Path | None:
    """Return where cgroups of a hierarchy can be made on this machine: ``v1`` or ``v2``."""
    names = {"v1": ("cpuacct", "cpu,cpuacct"), "v2": ("unified", ".")}[version]
    marker = {"v1": "cpuacct.usage", "v2": "cgroup.controllers"}[version]
    for name in names:
        base = Path("/sys/fs/cgroup", name)
        if (base / marker).exists() and os.access(base, os.W_OK):
            return base
    return None


class RealCgroups:
    """Real cgroups below one directory of its own, with real loads; removed at the end."""

    def __init__(self, base: Path, prefix: str) -> None:
        self.top = base / prefix
        self._loads: list[subprocess.Popen[str]] = []

    def __enter__(self) -> RealCgroups:
        self.top.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        for load in self._loads:
            self.stop(load)
        remove_cgroups(self.top)

    def make(self, path: str) -> Path:
        """Make a cgroup below the top one, its parents too."""
        directory = self.top / path
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def load(self, directory: Path, duty: float) -> subprocess.Popen[str]:
        """Start a process in a cgroup that uses this share of one CPU; it runs on return."""
        load = subprocess.Popen(
            [sys.executable, "-S", "-c", BUSY_LOOP, str(directory), str(duty)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._loads.append(load)
        if load.stdout is None or load.stdout.readline() != "ready\n":
            raise RuntimeError(f"no load in {directory}")
        return load

    def stop(self, load: subprocess.Popen[str]) -> None:
        """End a load and wait for it."""
        load.kill()
        load.wait()
        if load.stdout:
            load.stdout.close()


def remove_cgroups(top: Path) -> None:
    """Remove a cgroup and all below it; the kernel may need a moment after its last process."""
    for directory, _, _ in os.walk(top, topdown=False):
        for _ in range(200):
            try:
                Path(directory).rmdir()
            except FileNotFoundError:
                break
            except OSError as exc:
                if exc.errno != errno.EBUSY:
                    raise
                time.sleep(0.01)
            else:
                break


@contextlib.contextmanager
def fake_tree(base: Path, *, pods: int, containers: int, units: int) -> Iterator[FakeTree]:
    """Make a populated simulated v2 tree and close it at the end."""
    tree = FakeTree(base)
    tree.populate(pods=pods, containers=containers, units=units)
    try:
        yield tree
    finally:
        tree.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a simulated tree and keep it moving until interrupted."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.sim.cgrouptree", description=__doc__)
    parser.add_argument(
        "--tree", type=Path, required=True, help="directory: gets cgroup/ and proc/"
    )
    parser.add_argument("--pods", type=int, default=120)
    parser.add_argument("--containers", type=int, default=250)
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--churn-per-s", type=float, default=1.0, help="containers replaced")
    options = parser.parse_args(arguments)
    tree = FakeTree(options.tree)
    tree.populate(pods=options.pods, containers=options.containers, units=options.units)
    print(f"cgrouptree: cgroups below {tree.cgroupfs}, /proc/stat below {tree.procfs}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        FakeTreeDriver(tree, churn_per_s=options.churn_per_s).run()
    tree.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

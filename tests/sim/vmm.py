"""Hypervisors for tests: a program with one's name, arguments and threads, or files of a procfs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Self

from tests.sim.loads import NoCompilerError

SOURCE: Final = Path(__file__).with_name("vmm.c")


def compile_vmm(directory: Path, name: str = "firecracker") -> Path:
    """Compile the program under a hypervisor's name; linked statically where that is possible."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompilerError("no C compiler (cc, gcc or clang) for tests/sim/vmm.c")
    program = directory / name
    command = [compiler, "-O2", "-pthread", "-o", str(program), str(SOURCE)]
    if subprocess.run([*command, "-static"], capture_output=True, check=False).returncode:
        subprocess.run(command, check=True)
    return program


class Used(NamedTuple):
    """CPU time that the program itself has read, by the kernel's clocks of threads."""

    vcpu_ns: int
    process_ns: int


class Vmm:
    """One running hypervisor; a context manager that leaves nothing running."""

    def __init__(
        self,
        program: Path,
        *arguments: str,
        called: str | None = None,
        vcpus: int = 2,
        busy: float = 0.0,
        named: bool = True,
    ) -> None:
        """``called``: its first argument, else its path; ``named``: its threads have names."""
        settings = {"SIM_VMM_VCPUS": str(vcpus), "SIM_VMM_BUSY": str(busy)}
        self._child = subprocess.Popen(
            [called or str(program), *arguments],
            executable=program,
            env={**settings, **({} if named else {"SIM_VMM_UNNAMED": "1"})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._line() != "ready":
            self.__exit__()
            raise RuntimeError(f"{program} did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def burn(self, vcpu_us: int, api_us: int = 0, main_us: int = 0) -> Used:
        """Let each vCPU, the API's and the main thread use that much."""
        return self._do(f"burn {vcpu_us} {api_us} {main_us}")

    def churn(self, count: int, each_us: int) -> Used:
        """Let threads come, use CPU time and end, one after another."""
        return self._do(f"churn {count} {each_us}")

    def tell(self) -> Used:
        """Return what was used so far."""
        return self._do("tell")

    def _do(self, command: str) -> Used:
        assert self._child.stdin
        self._child.stdin.write(command + "\n")
        self._child.stdin.flush()
        word, vcpu_ns, process_ns = self._line().split()
        assert word == "used"
        return Used(int(vcpu_ns), int(process_ns))

    def _line(self) -> str:
        assert self._child.stdout
        return self._child.stdout.readline().strip()


@dataclass
class FakeProcess:
    """One process of a procfs of plain files; what is changed counts from the next ``write``."""

    root: Path
    pid: int
    argv: tuple[str, ...] = ("/usr/bin/sleep", "9")
    cgroup: str = "/system.slice/agent.service"
    start_ticks: int = 1000
    cpu_ticks: int = 0
    state: str = "S"
    uid: int = 0
    threads: Mapping[int, tuple[int, str]] = field(default_factory=dict)  # tid: nanoseconds, name
    has_schedstat: bool = True

    def write(self) -> None:
        """Write its files anew."""
        self.remove()
        folder = self.root / str(self.pid)
        folder.mkdir(parents=True)
        arguments = b"".join(os.fsencode(a) + b"\0" for a in self.argv)
        (folder / "cmdline").write_bytes(arguments)
        (folder / "cgroup").write_text(f"4:cpu,cpuacct:/v1{self.cgroup}\n0::{self.cgroup}\n")
        (folder / "status").write_text("Name:\tx\nUid:" + f"\t{self.uid}" * 4 + "\n")
        threads = {self.pid: (0, "main"), **self.threads}
        (folder / "stat").write_text(
            f"{self.pid} (a) b) {self.state} 1 1 1 0 -1 0 1 2 3 4 "
            f"{self.cpu_ticks} 0 0 0 20 0 {len(threads)} 0 {self.start_ticks} 8 9\n"
        )
        for tid, (cpu_ns, comm) in threads.items():
            task = folder / "task" / str(tid)
            task.mkdir(parents=True)
            (task / "comm").write_text(comm + "\n")
            if self.has_schedstat:
                (task / "schedstat").write_text(f"{cpu_ns} 17 3\n")

    def remove(self) -> None:
        """Let it be gone."""
        shutil.rmtree(self.root / str(self.pid), ignore_errors=True)

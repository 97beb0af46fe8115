"""What kernel accounting adds to the daemon: memory and CPU, at 250 containers and 60 units.

Three daemons run side by side on this kernel and its real cgroups, with simulated meters: one reads
cgroup files, one has the compiled programs, one those of bcc.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.daemon import Running, end, say, spawn
from tests.bench.figures import Figure
from tests.sim.bpf import bpf_lock, why_not
from tests.sim.cgrouptree import RealCgroups, real_base
from tests.sim.loads import Load, NoCompilerError, compile_load

RUN_S: Final = 126.0
SETTLE_S: Final = 12.0
CONTAINERS: Final = 250
UNITS: Final = 60
METHODS: Final = {"off": "cgroup-v2", "core": "bpf-core", "bcc": "bpf-bcc"}
PASSED_ON: Final = ("kernel", "devices", "fs")
"""Directories of the real sysfs that the simulated one leads to."""


class Memory(NamedTuple):
    """Resident memory in megabytes (10^6)."""

    maps_mb: float  # of the kernel's maps
    rest_mb: float


def measure() -> list[Figure]:
    """Return memory and CPU of daemons with each accounting."""
    base, lacking = real_base("v2"), why_not()
    if lacking or base is None:
        say(f"footprint: not measured, {lacking or 'no cgroup2 can be written here'}")
        return []
    with ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tychod-bench-")))
        try:
            load = compile_load(place)
        except NoCompilerError as exc:
            say(f"footprint: not measured, {exc}")
            return []
        cgroups = RealCgroups(base, f"tychod-bench-{secrets.token_hex(4)}.slice")
        undo.enter_context(cgroups)
        paths = make_cgroups(cgroups)
        make_sysfs(place / "sys", undo)
        undo.enter_context(bpf_lock())
        daemons = {name: start(place, name, undo) for name in METHODS}
        for name, daemon in daemons.items():
            if (found := method(daemon.place)) != METHODS[name]:
                say(f"footprint: loader {name} gave {found}; see its log:")
                say((daemon.place / "daemon.log").read_text()[-1000:])
        return run(daemons, load, paths)


class Started(NamedTuple):
    """A running daemon and its directory."""

    running: Running
    place: Path


def start(place: Path, loader: str, undo: ExitStack) -> Started:
    """Start a daemon with a loader; it is ended with the rest."""
    own = place / loader
    own.mkdir()
    running = Running(
        own,
        f'[host]\nsysfs = "{place / "sys"}"\nhierarchy = "v2"\n[kubelet]\nenabled = false\n'
        f'[accounting]\nloader = "{loader}"\nbcc_headers = "any"\n',
    )
    undo.callback(running.kill)
    return Started(running, own)


def make_cgroups(cgroups: RealCgroups) -> list[Path]:
    """Make real cgroups that are named as a runtime and systemd name theirs."""
    containers = [f"cri-containerd-{secrets.token_hex(32)}.scope" for _ in range(CONTAINERS)]
    units = [f"unit-{number}.service" for number in range(UNITS)]
    return [cgroups.make(name) for name in (*containers, *units)]


def make_sysfs(sysfs: Path, undo: ExitStack) -> None:
    """Make a sysfs with simulated meters that leads to the real one for all else."""
    meters = ("tests.sim.powercap", "--tree", str(sysfs), "--layout", "intel-2s")
    undo.callback(end, spawn(*meters, "--mode", "0444"))
    for _ in range(200):
        if any("energy_uj" in files for _, _, files in os.walk(sysfs)):
            break
        time.sleep(0.05)
    for name in PASSED_ON:
        if not (sysfs / name).exists():
            (sysfs / name).symlink_to(Path("/sys", name))


def method(place: Path) -> str:
    """Return how a daemon accounts CPU time, as its status says."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tychoctl",
            "--socket",
            place / "tychod.sock",
            "status",
            "-o",
            "json",
        ],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return done.stderr.decode().strip()
    return str(json.loads(done.stdout)["accounting"]["method"])


def run(daemons: dict[str, Started], load: Path, paths: list[Path]) -> list[Figure]:
    """Let something run in every cgroup each second for a while, then look at the daemons."""
    say(f"daemons with each accounting, {RUN_S:.0f} s")
    keep_busy(load, paths, SETTLE_S)
    before = {name: daemon.running.cpu_s() for name, daemon in daemons.items()}
    began = time.monotonic()
    keep_busy(load, paths, RUN_S - SETTLE_S)
    passed_s = time.monotonic() - began
    percent = {
        name: 100 * (daemon.running.cpu_s() - before[name]) / passed_s
        for name, daemon in daemons.items()
    }
    memory = {name: read_memory(daemon.running.child.pid) for name, daemon in daemons.items()}
    off, core, bcc = (memory[name] for name in ("off", "core", "bcc"))
    where = f"{CONTAINERS} containers (real cgroups), RAPL at 50 ms"
    return [
        Figure(f"daemon CPU, kernel accounting, {where}", percent["core"], "% of a core", 2.0),
        Figure(f"daemon CPU, cgroup files, {where}", percent["off"], "% of a core", None),
        Figure("daemon RSS with cgroup files", off.rest_mb, "MB", None),
        Figure("daemon RSS with kernel accounting, maps left out", core.rest_mb, "MB", None),
        Figure("resident part of the maps", core.maps_mb, "MB", None),
        Figure("kernel accounting adds, maps left out", core.rest_mb - off.rest_mb, "MB", 2.0),
        Figure("bcc instead of core adds", bcc.rest_mb - core.rest_mb, "MB", 1.0),
    ]


def keep_busy(load: Path, paths: list[Path], seconds: float) -> None:
    """Run a process of 0.3 ms in each cgroup, once a second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        with Load(load, None, 1.0, "born", 300, *paths) as one:
            one.go()
            one.finish()
        time.sleep(max(0.0, began + 1.0 - time.monotonic()))


def read_memory(pid: int) -> Memory:
    """Read a process's resident memory, the kernel's maps apart."""
    maps_kb = rest_kb = 0
    is_map = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            is_map = "bpf-map" in line or "bpf_map" in line
        elif first == "Rss:":
            size_kb = int(line.split()[1])
            maps_kb, rest_kb = (
                (maps_kb + size_kb, rest_kb) if is_map else (maps_kb, rest_kb + size_kb)
            )
    return Memory(maps_kb * 1.024e-3, rest_kb * 1.024e-3)

"""A simulated powercap tree whose counters follow the true CPU use of real cgroups.

Needs the standard library only, so that it also runs on machines without the project's packages:
``python3 -m tests.sim.powercap --tree DIR --layout intel-2s --cgroup PATH...``.

Energy of the machine = idle watts x time + watts per busy CPU x CPU time of the given cgroups;
each zone shows its share.  All sums are integers (femtojoules), so the ledger is exact.

A reader that keeps ``energy_uj`` open sees everything, because each write is one ``pwrite`` of
fixed width to the same file: a failed zone holds the text ``ENODATA`` instead of a number (a real
kernel would fail the read), a paused machine's counters stand still.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import FrameType

WIDTH = 20
FEMTO_PER_MICRO = 1_000_000_000
INTEL_RANGE_UJ = 262_143_328_850
AMD_RANGE_UJ = 65_532_610_987
STEP_S = 0.005
LEDGER_INTERVAL_S = 0.1


class SimZone(NamedTuple):
    """One zone: its directory, its name, and its share of idle and busy power in thousandths."""

    directory: str
    name: str
    idle_permille: int
    busy_permille: int
    max_range_uj: int = INTEL_RANGE_UJ
    limit_w: int = 250


def _intel_socket(number: int) -> tuple[SimZone, ...]:
    top = f"intel-rapl:{number}"
    return (
        SimZone(top, f"package-{number}", 500, 500),
        SimZone(f"{top}:0", "core", 150, 350, limit_w=0),
        SimZone(f"{top}:1", "dram", 60, 40, limit_w=0),
    )


LAYOUTS: Mapping[str, tuple[SimZone, ...]] = {
    "intel-2s": (*_intel_socket(0), *_intel_socket(1)),
    "intel-2s-dies": tuple(
        SimZone(f"intel-rapl:{n}", f"package-{n // 2}-die-{n % 2}", 250, 250) for n in range(4)
    ),
    "amd": (
        SimZone("intel-rapl:0", "package-0", 1000, 1000, AMD_RANGE_UJ, 0),
        SimZone("intel-rapl:0:0", "core", 300, 700, AMD_RANGE_UJ, 0),
    ),
    "client": (
        SimZone("intel-rapl:0", "package-0", 1000, 1000, limit_w=28),
        SimZone("intel-rapl:0:0", "core", 300, 700, limit_w=0),
        SimZone("intel-rapl:0:1", "uncore", 100, 50, limit_w=0),
        SimZone("intel-rapl:1", "psys", 1600, 1200, limit_w=60),
        SimZone("intel-rapl-mmio:0", "package-0", 1000, 1000, limit_w=28),
    ),
    "none": (),
}


@dataclass(frozen=True)
class Power:
    """What the machine draws; the watts of a cgroup's CPU seconds may differ from the others'."""

    idle_w: float
    watts_per_cpu: Mapping[str, float]  # directory of a cgroup -> watts while it uses one CPU

    def energy_fj(self, zone: SimZone, elapsed_ns: int, cpu_ns: Mapping[str, int]) -> int:
        """Return a zone's energy of a step in femtojoules (microwatts x nanoseconds)."""
        idle_uw = round(self.idle_w * 1e3) * zone.idle_permille
        busy = sum(
            round(self.watts_per_cpu[path] * 1e3) * zone.busy_permille * used
            for path, used in cpu_ns.items()
        )
        return idle_uw * elapsed_ns + busy


def build_tree(
    sysfs: Path,
    zones: Iterable[SimZone],
    *,
    mode: int = 0o400,
    start_uj: int = 0,
    links: bool = True,
) -> dict[str, Path]:
    """Make a powercap tree below ``sysfs`` and return zone directory -> path of its energy_uj.

    ``links``: as kernels make it, nested below devices/ with links from class/powercap;
    otherwise plain directories in class/powercap.
    """
    listed = sysfs / "class" / "powercap"
    listed.mkdir(parents=True, exist_ok=True)
    files = {}
    for zone in zones:
        control, *_ = zone.directory.split(":")
        place = _device_dir(sysfs, zone.directory) if links else listed / zone.directory
        place.mkdir(parents=True, exist_ok=True)
        if links:
            _link(listed / control, _device_dir(sysfs, control))
            _link(listed / zone.directory, place)
        files[zone.directory] = _write_zone(place, zone, mode, start_uj)
    return files


def _device_dir(sysfs: Path, directory: str) -> Path:
    """Return the directory below devices/: each part of the name is one level."""
    control, *numbers = directory.split(":")
    levels = [":".join([control, *numbers[:count]]) for count in range(len(numbers) + 1)]
    return sysfs.joinpath("devices", "virtual", "powercap", *levels)


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(target, link.parent))


def _write_zone(place: Path, zone: SimZone, mode: int, start_uj: int) -> Path:
    texts = {
        "name": zone.name,
        "enabled": "1",
        "max_energy_range_uj": str(zone.max_range_uj),
        "energy_uj": f"{start_uj % zone.max_range_uj:0{WIDTH}d}",
    }
    if zone.limit_w:
        texts |= {
            "constraint_0_name": "long_term",
            "constraint_0_power_limit_uw": str(zone.limit_w * 1_000_000),
            "constraint_0_max_power_uw": str(zone.limit_w * 1_000_000),
        }
    for name, text in texts.items():
        (place / name).write_text(text + "\n")
    energy = place / "energy_uj"
    energy.chmod(mode)
    return energy


class CpuMeter:
    """CPU time of one cgroup, v2 or v1, its children's included."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        usage = Path(directory, "cpuacct.usage")
        self._v1 = usage.exists()
        self._fd = os.open(usage if self._v1 else Path(directory, "cpu.stat"), os.O_RDONLY)
        self.last_ns = self._read_ns()

    def grown_ns(self) -> int:
        """Return what it used since the last call; nothing more once the cgroup is gone."""
        try:
            now_ns = self._read_ns()
        except OSError:
            return 0
        grown, self.last_ns = now_ns - self.last_ns, now_ns
        return grown

    def close(self) -> None:
        """Close its file."""
        os.close(self._fd)

    def _read_ns(self) -> int:
        data = os.pread(self._fd, 64, 0)
        return int(data) if self._v1 else int(data.split(None, 2)[1]) * 1000


class Machine:
    """The simulated meters; ``step`` lets the time since the last step pass."""

    def __init__(
        self,
        sysfs: Path,
        zones: Sequence[SimZone],
        power: Power,
        *,
        mode: int = 0o400,
        start_uj: int = 0,
    ) -> None:
        self.zones = tuple(zones)
        self.power = power
        self.start_uj = start_uj
        self.files = build_tree(sysfs, zones, mode=mode, start_uj=start_uj)
        self._meters = [CpuMeter(path) for path in power.watts_per_cpu]
        self._fds = {d: os.open(path, os.O_WRONLY) for d, path in self.files.items()}
        self._energy_fj = dict.fromkeys(self.files, 0)
        self._cpu_ns = dict.fromkeys(power.watts_per_cpu, 0)
        self._last_ns = time.monotonic_ns()
        self._lock = threading.Lock()
        self._failed: frozenset[str] = frozenset()
        self._paused = False

    def step(self) -> None:
        """Add the energy since the last step to every counter and write them."""
        with self._lock:
            now_ns = time.monotonic_ns()
            used = {meter.directory: meter.grown_ns() for meter in self._meters}
            elapsed_ns, self._last_ns = now_ns - self._last_ns, now_ns
            if self._paused:
                return
            for path, grown in used.items():
                self._cpu_ns[path] += grown
            for zone in self.zones:
                self._energy_fj[zone.directory] += self.power.energy_fj(zone, elapsed_ns, used)
            self._write()

    def set_paused(self, paused: bool) -> None:
        """Let the counters stand still; neither time nor CPU use of a pause ever counts."""
        self.step()
        with self._lock:
            self._paused = paused

    def set_failed(self, directories: Iterable[str]) -> None:
        """Choose the zones that cannot be read; their energy goes on and shows when they return."""
        with self._lock:
            self._failed = frozenset(directories)
            self._write()

    def ledger_uj(self) -> dict[str, int]:
        """Return what each zone's counter grew by since the start, unwrapped, in microjoules."""
        with self._lock:
            return self._totals_uj()

    def cpu_ns(self) -> dict[str, int]:
        """Return what each cgroup has used since the start, as far as it was counted."""
        with self._lock:
            return dict(self._cpu_ns)

    def ledger(self) -> dict[str, object]:
        """Return everything a test compares with, as plain data from one moment."""
        with self._lock:
            totals = self._totals_uj()
            return {
                "t_ns": self._last_ns,
                "paused": self._paused,
                "start_uj": self.start_uj,
                "cpu_ns": dict(self._cpu_ns),
                "zones": {
                    z.directory: {
                        "name": z.name,
                        "energy_uj": totals[z.directory],
                        "max_range_uj": z.max_range_uj,
                        "failed": z.directory in self._failed,
                    }
                    for z in self.zones
                },
            }

    def close(self) -> None:
        """Close every file; the tree stays."""
        for meter in self._meters:
            meter.close()
        for fd in self._fds.values():
            os.close(fd)

    def _totals_uj(self) -> dict[str, int]:
        return {d: fj // FEMTO_PER_MICRO for d, fj in self._energy_fj.items()}

    def _write(self) -> None:
        totals = self._totals_uj()
        for zone in self.zones:
            value = (self.start_uj + totals[zone.directory]) % zone.max_range_uj
            failed = zone.directory in self._failed
            text = f"{'ENODATA':{WIDTH}}\n" if failed else f"{value:0{WIDTH}d}\n"
            os.pwrite(self._fds[zone.directory], text.encode(), 0)


class Driver:
    """Runs a machine in a thread of this process; a context manager."""

    def __init__(self, machine: Machine, step_s: float = STEP_S) -> None:
        self.machine = machine
        self._step_s = step_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="powercap-sim", daemon=True)

    def __enter__(self) -> Machine:
        self._thread.start()
        return self.machine

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.machine.close()

    def _run(self) -> None:
        while not self._stop.wait(self._step_s):
            self.machine.step()


def apply_control(machine: Machine, text: str) -> None:
    """Bring the machine into the state a control file describes: ``paused``, ``fail ZONE``."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    machine.set_failed(words[1] for words in lines if words[0] == "fail")
    machine.set_paused(["paused"] in lines)


def write_ledger(path: Path, machine: Machine) -> None:
    """Replace the ledger file in one move."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(machine.ledger()))
    part.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the tree and drive it until SIGTERM or SIGINT."""
    options = _parser().parse_args(arguments)
    zones = [
        zone._replace(max_range_uj=options.max_range_uj or zone.max_range_uj)
        for zone in LAYOUTS[options.layout]
    ]
    power = Power(options.idle_w, dict(_watts(c, options.watts_per_cpu) for c in options.cgroup))
    machine = Machine(options.tree, zones, power, mode=options.mode, start_uj=options.start_uj)
    print(f"powercap: {len(zones)} zones below {options.tree}", flush=True)
    _drive(machine, options)
    machine.close()
    return 0


def _drive(machine: Machine, options: argparse.Namespace) -> None:
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    next_report = time.monotonic()
    control = ""
    while not stop.wait(options.step_s):
        machine.step()
        if time.monotonic() >= next_report:
            next_report = time.monotonic() + LEDGER_INTERVAL_S
            control = _follow_control(machine, options.control, control)
            if options.ledger:
                write_ledger(options.ledger, machine)
    machine.step()
    if options.ledger:
        write_ledger(options.ledger, machine)


def _follow_control(machine: Machine, path: Path | None, last: str) -> str:
    try:
        text = path.read_text() if path else ""
    except FileNotFoundError:
        text = ""
    if text != last:
        apply_control(machine, text)
    return text


def _watts(cgroup: str, default_w: float) -> tuple[str, float]:
    path, separator, watts = cgroup.rpartition("=")
    return (path, float(watts)) if separator else (cgroup, default_w)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.sim.powercap",
        description="Simulate a powercap tree that follows the CPU use of real cgroups.",
        epilog="The control file holds lines: 'paused' (counters stand still), 'fail intel-rapl:0' "
        "(that zone's energy_uj holds ENODATA); an empty or absent file is normal running.",
    )
    parser.add_argument("--tree", type=Path, required=True, help="sysfs root to make the tree in")
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="intel-2s")
    parser.add_argument("--idle-w", type=float, default=40.0, help="watts of the idle machine")
    parser.add_argument("--watts-per-cpu", type=float, default=20.0, help="of each busy CPU")
    parser.add_argument(
        "--cgroup", nargs="*", default=[], metavar="DIR[=WATTS]", help="cgroups that cost energy"
    )
    parser.add_argument("--ledger", type=Path, help="file for the exact sums (JSON)")
    parser.add_argument("--control", type=Path, help="file to pause it or fail zones by")
    parser.add_argument(
        "--mode", type=lambda text: int(text, 8), default=0o400, help="of energy_uj (octal)"
    )
    parser.add_argument("--start-uj", type=int, default=0, help="first value of every counter")
    parser.add_argument("--max-range-uj", type=int, help="let counters wrap after this value")
    parser.add_argument("--step-s", type=float, default=STEP_S, help="seconds between two writes")
    return parser


if __name__ == "__main__":
    sys.exit(main())

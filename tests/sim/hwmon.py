"""A simulated hwmon tree whose sensors show the power of a machine that is known exactly.

Needs the standard library only.  What a sensor measures is given as its energy since any moment,
in joules by monotonic time: counters show it, averages its mean over their interval, and momentary
values its mean over the millisecond before.  ``python3 -m tests.sim.hwmon --tree DIR`` runs one.

A reader that keeps the files open sees everything, because each write is one ``pwrite`` of fixed
width to the same file.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from types import FrameType

WIDTH: Final = 20
MOMENT_NS: Final = 1_000_000
STEP_S: Final = 0.05
S: Final = 1_000_000_000

EnergyJ = Callable[[int], float]


class SimSensor(NamedTuple):
    """One sensor; ``stem`` is as the kernel numbers it: power1, energy1, in1 (with curr1)."""

    stem: str
    energy_j: EnergyJ
    label: str = ""
    average_ms: int = 0  # power: a mean over so long; 0: momentary
    millivolts: int = 12_000  # of a pair


@dataclass(frozen=True)
class SimChip:
    """One chip, on a device or on none, with files that do not change."""

    name: str
    sensors: Sequence[SimSensor]
    device: str = ""  # path below devices/
    files: Mapping[str, str] = field(default_factory=dict)
    is_old: bool = False  # its driver puts the files beside the device, and none beside hwmonN


def growing(idle_w: float, swing_w: float, period_s: float) -> EnergyJ:
    """Return the energy of a power of ``idle_w`` plus a wave between 0 and ``swing_w``."""

    def energy_j(t_ns: int) -> float:
        t_s = t_ns / S
        turn = 2 * math.pi / period_s
        return idle_w * t_s + swing_w / 2 * (t_s - math.sin(turn * t_s) / turn)

    return energy_j


def typical(total: EnergyJ) -> tuple[SimChip, ...]:
    """Return a server's chips: an ACPI meter of the whole machine, and one rail of its board."""

    def rail_j(t_ns: int) -> float:
        return 0.1 * total(t_ns)

    return (
        SimChip("nvme", (), "pci0000:00/0000:01:00.0", {"temp1_input": "40850"}),
        SimChip(
            "power_meter",
            (SimSensor("power1", total, average_ms=1000),),
            "LNXSYSTM:00/ACPI000D:00",
            {"power1_is_battery": "0", "power1_oem_info": ""},
        ),
        SimChip("ina3221", (SimSensor("in1", rail_j, "VDD_SOC"),), "platform/i2c-1/1-0040"),
    )


class Tree:
    """The chips on disk; ``step`` writes what they show at a moment."""

    def __init__(self, sysfs: Path, chips: Sequence[SimChip]) -> None:
        self.sysfs = sysfs
        self._files: dict[str, int] = {}  # path below class/hwmon -> descriptor
        self._sensors: dict[str, SimSensor] = {}
        self._paths: dict[str, Path] = {}
        self._faults: dict[str, str] = {}
        self._next = 0
        self._lock = threading.Lock()
        for chip in chips:
            self.add(chip)

    def add(self, chip: SimChip) -> str:
        """Let a chip appear and return its directory; numbers are never used twice."""
        with self._lock:
            directory, self._next = f"hwmon{self._next}", self._next + 1
            place = self._make(directory, chip)
            for sensor in chip.sensors:
                for name in value_files(sensor):
                    path = place / name
                    path.write_text("0" * WIDTH + "\n")
                    self._files[f"{directory}/{name}"] = os.open(path, os.O_WRONLY)
                    self._sensors[f"{directory}/{name}"] = sensor
        return directory

    def remove(self, directory: str) -> None:
        """Let a chip go: its files stay with those who have them open, and say nothing new."""
        with self._lock:
            for name in [n for n in self._files if n.startswith(f"{directory}/")]:
                os.close(self._files.pop(name))
                del self._sensors[name]
            link = self.sysfs / "class" / "hwmon" / directory
            place = self._paths.pop(directory)
            for path in [*place.iterdir()]:
                path.unlink()
            link.unlink()
            place.rmdir()

    def set_faults(self, faults: Mapping[str, str]) -> None:
        """Let files (as ``hwmon0/power1_average``) hold these texts instead of their values."""
        with self._lock:
            self._faults = dict(faults)

    def step(self, t_ns: int) -> None:
        """Write what every sensor shows at a moment."""
        with self._lock:
            for name, fd in self._files.items():
                value = shown(self._sensors[name], name.rpartition("/")[2], t_ns)
                text = self._faults.get(name, f"{value:0{WIDTH}d}")
                os.pwrite(fd, f"{text:{WIDTH}.{WIDTH}}\n".encode(), 0)

    def close(self) -> None:
        """Close every file; the tree stays."""
        for fd in self._files.values():
            os.close(fd)
        self._files = {}

    def _make(self, directory: str, chip: SimChip) -> Path:
        """Make the directories and links as kernels do, and the files that do not change."""
        listed = self.sysfs / "class" / "hwmon"
        listed.mkdir(parents=True, exist_ok=True)
        device = self.sysfs / "devices" / (chip.device or "virtual")
        own = device / "hwmon" / directory
        own.mkdir(parents=True)
        (listed / directory).symlink_to(os.path.relpath(own, listed))
        if chip.device:
            (own / "device").symlink_to(f"../../../{device.name}")
        place = device if chip.is_old else own
        self._paths[directory] = own
        (place / "name").write_text(chip.name + "\n")
        for name, text in (*chip.files.items(), *_fixed_files(chip.sensors)):
            (place / name).write_text(text + "\n")
        return place


def value_files(sensor: SimSensor) -> tuple[str, ...]:
    """Return the files of a sensor's values."""
    if sensor.stem.startswith("in"):
        return (f"{sensor.stem}_input", f"curr{sensor.stem[2:]}_input")
    return (f"{sensor.stem}_{'average' if sensor.average_ms else 'input'}",)


def shown(sensor: SimSensor, file: str, t_ns: int) -> int:
    """Return what a file shows at a moment, in its own unit."""
    if file.startswith("energy"):
        return round(sensor.energy_j(t_ns) * 1e6)
    if file.startswith("in"):
        return sensor.millivolts
    over_ns = sensor.average_ms * 1_000_000 or MOMENT_NS
    joules = sensor.energy_j(t_ns) - sensor.energy_j(t_ns - over_ns)
    watts = joules / over_ns * S
    return round(watts * 1e6 / sensor.millivolts) if file.startswith("curr") else round(watts * 1e6)


def _fixed_files(sensors: Iterable[SimSensor]) -> list[tuple[str, str]]:
    labels = [(f"{s.stem}_label", s.label) for s in sensors if s.label]
    intervals = [(f"{s.stem}_average_interval", str(s.average_ms)) for s in sensors if s.average_ms]
    return [*labels, *intervals]


class Driver:
    """Runs a tree in a thread of this process; a context manager."""

    def __init__(self, tree: Tree, step_s: float = STEP_S) -> None:
        self.tree = tree
        self._step_s = step_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hwmon-sim", daemon=True)

    def __enter__(self) -> Tree:
        self.tree.step(time.monotonic_ns())
        self._thread.start()
        return self.tree

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.tree.close()

    def _run(self) -> None:
        while not self._stop.wait(self._step_s):
            self.tree.step(time.monotonic_ns())


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a server's tree and drive it until SIGTERM or SIGINT."""
    options = _parser().parse_args(arguments)
    total = growing(options.idle_w, options.swing_w, options.period_s)
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    with Driver(Tree(options.tree, typical(total)), options.step_s):
        print(f"hwmon: a tree below {options.tree}", flush=True)
        stop.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.sim.hwmon", description="Simulate a server's hwmon tree."
    )
    parser.add_argument("--tree", type=Path, required=True, help="sysfs root to make the tree in")
    parser.add_argument("--idle-w", type=float, default=120.0, help="least power of the machine")
    parser.add_argument("--swing-w", type=float, default=60.0, help="how much it rises and falls")
    parser.add_argument("--period-s", type=float, default=20.0, help="seconds of one rise and fall")
    parser.add_argument("--step-s", type=float, default=STEP_S, help="seconds between two writes")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""GPUs whose truth is known: the file that the stub library answers from (world.h)."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from tests.sim.loads import NoCompilerError

HERE: Final = Path(__file__).parent
SONAME: Final = "libnvidia-ml.so.1"
VARIABLE: Final = "TYCHOD_SIM_NVML"
MAGIC: Final = 0x4C4D564E
NAME_BYTES: Final = 96
MAX_DEVICES: Final = 8
MAX_STEPS: Final = 4096
NOBODY: Final = 0xFFFF_FFFF
FOREVER_NS: Final = 1 << 62
NS: Final = 1_000_000_000

COUNTER_NONE, COUNTER_TRUE, COUNTER_SAMPLED = range(3)
LIST_COMPUTE, LIST_GRAPHICS, LIST_MPS, LIST_HIDDEN = range(4)
LACKS_INSTANT, LACKS_AVERAGE, LACKS_USAGE, LACKS_UTILISATION = 1, 2, 4, 8
LACKS_PROCESS_USE, LACKS_PARENT_LISTS, LACKS_GPM, TELLS_ALL_ONES = 16, 32, 64, 128

AMPERE, HOPPER = 7, 9
GA100_PCI, GH100_PCI = 0x20B0, 0x2330

_I64, _U64, _U32 = ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint32
_TEXT = ctypes.c_char * NAME_BYTES


class _Step(ctypes.Structure):
    _fields_ = (("from_ns", _I64), ("power_mw", _U64))


class _Pace(ctypes.Structure):
    _fields_ = (("from_ns", _I64), ("period_ns", _I64))


class _Process(ctypes.Structure):
    _fields_ = (
        *(("from_ns", _I64), ("until_ns", _I64), ("memory_bytes", _U64)),
        *(("pid", _U32), ("list", _U32), ("gpu_instance", _U32), ("sm", _U32)),
        *(("memory", _U32), ("encoder", _U32), ("decoder", _U32), ("reserved", _U32)),
    )


class _Instance(ctypes.Structure):
    _fields_ = (
        *(("uuid", _TEXT), ("profile", _TEXT), ("memory_mib", _U64)),
        *(("activity", ctypes.c_double), ("gpu_instance", _U32), ("slices", _U32)),
    )


class _Device(ctypes.Structure):
    _fields_ = (
        *((name, _TEXT) for name in ("uuid", "name", "pci", "vbios")),
        *((name, _I64) for name in ("sensor_ns", "average_ns")),
        *((name, _I64) for name in ("frozen_from_ns", "frozen_until_ns")),
        *((name, _I64) for name in ("counter_from_ns", "block_ns")),
        *((name, _U64) for name in ("seed", "memory_total_bytes", "calls", "counter_calls")),
        *((name, _U32) for name in ("present", "lost", "architecture", "pci_device")),
        *((name, _U32) for name in ("counter", "lacks", "max_power_mw", "jitter_ppm")),
        *((name, _U32) for name in ("mig", "pstate", "step_count", "pace_count")),
        *((name, _U32) for name in ("process_count", "instance_count")),
        *(("paces", _Pace * 4), ("processes", _Process * 32), ("instances", _Instance * 7)),
        ("steps", _Step * MAX_STEPS),
    )


class _World(ctypes.Structure):
    _fields_ = (
        *((name, _U32) for name in ("magic", "size", "device_count", "generation")),
        *(("init_error", _U32), ("reserved", _U32), ("clock_ns", _I64), ("wall_offset_ns", _I64)),
        *(("driver_version", _TEXT), ("devices", _Device * MAX_DEVICES)),
    )


class _Publish(ctypes.Structure):
    _fields_ = (("index", _I64), ("t_ns", _I64), ("before_ns", _I64))


class Publish(NamedTuple):
    """One update of a device: its number and when it was published."""

    number: int  # -1: none
    t_ns: int


class Process(NamedTuple):
    """Who uses a device, from when to when, with which shares in percent."""

    pid: int
    sm: int
    memory: int = 0
    memory_bytes: int = 1 << 30
    from_ns: int = 0
    until_ns: int = FOREVER_NS
    gpu_instance: int = NOBODY
    list: int = LIST_COMPUTE


class Instance(NamedTuple):
    """A part of a divided GPU."""

    uuid: str
    gpu_instance: int
    slices: int
    activity: float = 0.0
    profile: str = "1g.10gb"
    memory_mib: int = 9856


@dataclass(frozen=True)
class Gpu:
    """A device as it begins; times in seconds."""

    uuid: str = "GPU-00000000-0000-0000-0000-000000000001"
    name: str = "NVIDIA H100 80GB HBM3"
    period_s: float = 0.1
    jitter: float = 0.05  # of the period, either way
    sensor_s: float = 0.025
    average_s: float = 1.0
    architecture: int = HOPPER
    pci_device: int = GH100_PCI
    counter: int = COUNTER_TRUE
    lacks: int = 0
    max_power_w: float = 700.0
    steps: Sequence[tuple[float, float]] = ((0.0, 80.0),)  # (seconds since the start, watts)
    processes: Sequence[Process] = ()
    instances: Sequence[Instance] = ()
    present: bool = True
    seed: int = 1
    pstate: int = 0
    vbios: str = field(default="96.00.61.00.01")


def compile_stub(directory: Path) -> Path:
    """Compile the library under the name that the driver's has; it is loaded by its path."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompilerError("no C compiler (cc, gcc or clang) for tests/sim/nvml/stub.c")
    library = directory / SONAME
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    sources = [str(HERE / name) for name in ("stub.c", "world.c")]
    made = [f"-Wl,-soname,{SONAME}", "-o", str(library), *sources]
    subprocess.run([compiler, *flags, *made], check=True)
    return library


class NvmlWorld:
    """The file, its devices' truth, and a clock for those who simulate time as well.

    ``library`` is the compiled stub: it knows when a device publishes.  Energy is computed here.
    """

    def __init__(
        self,
        path: Path,
        library: Path,
        gpus: Sequence[Gpu],
        *,
        start_ns: int = 1000 * NS,
        simulated: bool = True,
    ) -> None:
        """``simulated``: time stands still except by ``set_now``; else it is CLOCK_MONOTONIC."""
        self.path: Final = path
        self.start_ns: Final = start_ns
        path.write_bytes(bytes(ctypes.sizeof(_World)))
        with path.open("r+b") as file:
            self._map: Final = mmap.mmap(file.fileno(), 0)
        self.raw = _World.from_buffer(self._map)
        self._truth: Final = ctypes.CDLL(str(library))
        self._truth.tychod_sim_world_size.restype = _U64
        assert self._truth.tychod_sim_world_size() == ctypes.sizeof(_World)
        self._truth.last_publish.restype = _Publish
        self.raw.clock_ns = start_ns if simulated else 0
        self.raw.wall_offset_ns = 1_700_000_000 * NS
        self.raw.driver_version = b"550.54.15"
        self.raw.generation = 1
        for number, gpu in enumerate(gpus):
            self._fill(number, gpu)
        self.raw.device_count = len(gpus)
        self.raw.size = ctypes.sizeof(_World)
        self.raw.magic = MAGIC

    def close(self) -> None:
        """Remove the file and let go of its memory; no field of a device may be in use."""
        self.path.unlink()
        del self.raw
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The clock, as tychod.clock.Clock has it.
    def now_ns(self) -> int:
        """Return the simulated time."""
        return int(self.raw.clock_ns)

    def wall_offset_ns(self) -> int:
        """Return what to add to it for the wall clock."""
        return int(self.raw.wall_offset_ns)

    def set_now(self, t_ns: int) -> None:
        """Let time pass up to then."""
        self.raw.clock_ns = max(t_ns, self.raw.clock_ns)

    # What happens to the devices.
    def device(self, number: int) -> Any:
        """Return the fields of a device (world.h), to be read and written."""
        return self.raw.devices[number]

    def restart_driver(self, t_ns: int) -> None:
        """Restart it: whoever has the library open must open it again; counters begin anew."""
        for number in range(self.raw.device_count):
            self.device(number).counter_from_ns = t_ns
        self.raw.generation += 1

    def set_steps(self, number: int, steps: Sequence[tuple[float, float]]) -> None:
        """Set a device's true power from (seconds since the start, watts)."""
        device = self.device(number)
        for i, (seconds, watts) in enumerate(steps):
            device.steps[i] = _Step(self.start_ns + round(seconds * NS), round(watts * 1000))
        device.step_count = len(steps)

    def add_step(self, number: int, t_ns: int, watts: float) -> None:
        """Let a device draw this from then on; the past stays, and so do the counters."""
        device = self.device(number)
        device.steps[device.step_count] = _Step(t_ns, round(watts * 1000))
        device.step_count += 1

    def set_paces(self, number: int, paces: Sequence[tuple[float, float]]) -> None:
        """Set how often it publishes from (seconds since the start, period in seconds)."""
        device = self.device(number)
        for i, (seconds, period_s) in enumerate(paces):
            begin_ns = self.start_ns + round(seconds * NS)
            device.paces[i] = _Pace(begin_ns, round(period_s * NS))
        device.pace_count = len(paces)

    def set_processes(self, number: int, processes: Sequence[Process]) -> None:
        """Say who uses a device."""
        device = self.device(number)
        for i, p in enumerate(processes):
            device.processes[i] = _Process(
                from_ns=p.from_ns,
                until_ns=p.until_ns,
                memory_bytes=p.memory_bytes,
                pid=p.pid,
                list=p.list,
                gpu_instance=p.gpu_instance,
                sm=p.sm,
                memory=p.memory,
            )
        device.process_count = len(processes)

    def set_instances(self, number: int, instances: Sequence[Instance]) -> None:
        """Divide a device; none: it is whole."""
        device = self.device(number)
        for i, part in enumerate(instances):
            device.instances[i] = _Instance(
                uuid=part.uuid.encode(),
                profile=part.profile.encode(),
                memory_mib=part.memory_mib,
                activity=part.activity,
                gpu_instance=part.gpu_instance,
                slices=part.slices,
            )
        device.instance_count = len(instances)
        device.mig = 1 if instances else 0

    # What is true.
    def last_publish(self, number: int, t_ns: int) -> Publish:
        """Return the last update that was published by then."""
        pointer = ctypes.byref(self.device(number))
        found = self._truth.last_publish(pointer, _I64(t_ns))
        return Publish(found.index, found.t_ns)

    def publishes(self, number: int, from_ns: int, until_ns: int) -> list[Publish]:
        """Return the updates published in (from, until], oldest first."""
        found: list[Publish] = []
        at = self.last_publish(number, until_ns)
        while at.number >= 0 and at.t_ns > from_ns:
            found.append(at)
            at = self.last_publish(number, at.t_ns - 1)
        return found[::-1]

    def energy_pj(self, number: int, from_ns: int, until_ns: int) -> int:
        """Return the true energy between two times in picojoules, exactly."""
        device = self.device(number)
        steps = [(s.from_ns, s.power_mw) for s in device.steps[: device.step_count]]
        ends = [*(begin for begin, _ in steps[1:]), FOREVER_NS]
        pairs = zip(steps, ends, strict=True)
        return sum(
            power_mw * max(0, min(end, until_ns) - max(begin, from_ns))
            for (begin, power_mw), end in pairs
        )

    def counter_mj(self, number: int, t_ns: int) -> int:
        """Return what a true counter stands at, at a time of publishing, in millijoules."""
        return self.energy_pj(number, self.device(number).counter_from_ns, t_ns) // NS

    def sampled_counter_mj(self, number: int, t_ns: int) -> int:
        """Return what a counter that its sensor feeds stands at, at a time of publishing."""
        device = self.device(number)
        total_pj, before_ns = 0, device.counter_from_ns
        for at in self.publishes(number, before_ns, t_ns):
            seen_pj = self.energy_pj(number, at.t_ns - device.sensor_ns, at.t_ns)
            total_pj += seen_pj * (at.t_ns - before_ns) // device.sensor_ns
            before_ns = at.t_ns
        return total_pj // NS

    def _fill(self, number: int, gpu: Gpu) -> None:
        device = self.device(number)
        texts = {"uuid": gpu.uuid, "name": gpu.name, "vbios": gpu.vbios}
        for name, text in texts.items():
            setattr(device, name, text.encode())
        device.pci = f"00000000:{number + 1:02X}:00.0".encode()
        device.sensor_ns, device.average_ns = round(gpu.sensor_s * NS), round(gpu.average_s * NS)
        device.counter_from_ns = self.start_ns
        device.seed, device.memory_total_bytes = gpu.seed, 80 << 30
        device.present, device.architecture = int(gpu.present), gpu.architecture
        device.pci_device, device.counter, device.lacks = gpu.pci_device, gpu.counter, gpu.lacks
        device.max_power_mw = round(gpu.max_power_w * 1000)
        device.jitter_ppm, device.pstate = round(gpu.jitter * 1e6), gpu.pstate
        self.set_steps(number, gpu.steps)
        self.set_paces(number, ((0.0, gpu.period_s),))
        self.set_processes(number, gpu.processes)
        self.set_instances(number, gpu.instances)

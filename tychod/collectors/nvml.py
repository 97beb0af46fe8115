"""NVIDIA GPUs by the driver's library (NVML): energy, power, use and processes of each.

Each GPU is read when it has just published, as its own lock predicts.  The driver may block, vanish
or be replaced; this collector has a thread of its own, and it tries again by itself.
"""

from __future__ import annotations

from collections import deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from tychod.collectors.base import CollectorSpec, GpuCollector, Ready, Unavailable
from tychod.collectors.nvml_device import Device, Locks, read_facts
from tychod.collectors.nvml_library import (
    DRIVER_NOT_LOADED,
    OTHER_REMEDY,
    Advice,
    Calls,
    DeviceLostError,
    DriverDownError,
    advice,
    bounded,
    has_driver,
    initialise,
    load,
    shut_down,
)
from tychod.collectors.nvml_processes import Cgroups, Processes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from tychod.clock import Clock
    from tychod.collectors.base import Timings
    from tychod.config import Config
    from tychod.hostfs import Host
    from tychod.model import SourceDevice
    from tychod.samples import GpuDevice, GpuSample, GpuUse

NS: Final = 1_000_000_000
LOOK_NS: Final = 30 * NS
"""How often GPUs and their parts are looked for that came, went or are divided anew."""
MOST_LOOK_NS: Final = 480 * NS  # while one stays lost: asking for it disturbs the others
FIRST_RETRY_NS: Final = 1 * NS
MOST_RETRY_NS: Final = 30 * NS
MOST_DEVICES: Final = 64
MOST_USES: Final = 256
"""Looks at processes that are kept until somebody takes them: 4 minutes of one GPU."""

IS_LOST: Final = "the GPU is lost: unplugged, or fallen off the bus"
NO_DEVICES: Final = Advice(
    "the NVIDIA driver has no GPU that can be read",
    "look into the kernel log (journalctl -k, lines with NVRM)",
)


class Nvml:
    """All GPUs of the driver.  ``read`` never waits for a time; it may wait for the driver."""

    name: Final = "nvml"
    quality: Final[Literal["measured", "modelled"]] = "measured"
    delay_s: Final = 0.0  # each device tells its own
    outdated: Final = False  # it opens the library anew by itself
    notes: Final = ()

    def __init__(
        self, host: Host, config: Config, clock: Clock, pynvml: ModuleType, locks: Locks
    ) -> None:
        self._host = host
        self._clock = clock
        self._pynvml = pynvml
        self._locks = locks
        self._process_ns: Final = round(config.nvml.process_interval * NS)
        self._cgroups = Cgroups(host)
        self._uses: deque[GpuUse] = deque(maxlen=MOST_USES)
        self._members: list[tuple[Device, Processes]] = []
        self._earlier: dict[str, Device] = {}  # each as it was when last found
        self._lost: dict[str, GpuDevice] = {}
        self._twins: dict[str, str] = {}  # uuid -> where a second GPU of that name is
        self._listing: tuple[str, ...] = ()
        self._is_open = False
        self._retry_ns = FIRST_RETRY_NS
        self._look_every_ns = LOOK_NS
        self._open_due_ns = self._look_due_ns = self._process_due_ns = clock.now_ns()
        self._last_ns = 0
        self.advice: Advice | None = None  # while no device can be read
        self.devices: tuple[GpuDevice, ...] = ()  # those that were found, lost ones too
        self.reasons: Mapping[str, str] = MappingProxyType({})  # uuid -> why not read; replaced
        self.problems: tuple[str, ...] = ()

    @property
    def failure(self) -> str:
        """Why no device can be read now; empty if one can."""
        return self.advice.reason if self.advice else ""

    @property
    def rejected(self) -> int:
        """Values since the driver was opened that could not be true."""
        return sum(device.rejected for device, _ in self._members)

    @property
    def reads(self) -> int:
        """How often the devices were asked whether they have published."""
        return sum(device.lock.reads for device, _ in self._members)

    def due_ns(self, now_ns: int) -> int:
        """Return when to read next."""
        if not self._is_open:
            return max(self._open_due_ns, now_ns)
        locks = (device.lock.due_ns(now_ns) for device, _ in self._members)
        return max(now_ns, min(self._look_due_ns, self._process_due_ns, *locks))

    def read(self) -> tuple[GpuSample, ...]:
        """Read what is due; return the updates that are new, in the order of reading."""
        try:
            return self._read_due()
        except DriverDownError as exc:
            self._go_down(exc.advice)
            return ()

    def uses(self) -> tuple[GpuUse, ...]:
        """Return the looks at processes since the last call."""
        found = []
        while self._uses:
            found.append(self._uses.popleft())
        return tuple(found)

    def calibrate(self, timings: Timings) -> None:
        """Begin with what is known of each device, those that are found later too."""
        self._locks.calibrate(timings, [device.facts for device, _ in self._members])
        self._tell()

    def published(self) -> tuple[SourceDevice, ...]:
        """Return when each device publishes, as known at present."""
        return tuple(device.published() for device, _ in self._members)

    def close(self) -> None:
        """Close the library."""
        if self._is_open:
            for device, _ in self._members:
                device.mig.close()
            shut_down(self._pynvml)
        self._is_open, self._members = False, []

    def open(self) -> None:
        """Initialise the library and find the devices; DriverDownError where that fails."""
        initialise(self._pynvml)
        self._is_open = True
        self._listing = self._list_gpus()
        now_ns = self._clock.now_ns()
        self._look_due_ns = now_ns + self._look_every_ns
        self._process_due_ns = now_ns
        self._members = []
        known = {device.uuid: device for device in self.devices}
        self._find_members()
        present = {device.facts.uuid for device, _ in self._members}
        self._lost = {uuid: device for uuid, device in known.items() if uuid not in present}
        self._retry_ns = FIRST_RETRY_NS
        if not self._lost:
            self._look_every_ns = LOOK_NS
        self.advice = None if self._members else NO_DEVICES
        self._tell()

    def _find_members(self) -> None:
        try:
            count = self._pynvml.nvmlDeviceGetCount()
            version = bounded(self._pynvml.nvmlSystemGetDriverVersion())
        except self._pynvml.NVMLError as exc:
            raise DriverDownError(advice(exc.value)) from exc
        self._twins = {}
        for number in range(min(count, MOST_DEVICES)):
            member = self._find_member(number, version)
            if member is not None:
                self._members.append(member)

    def _find_member(self, number: int, version: str) -> tuple[Device, Processes] | None:
        """Return one device; None where it is lost, unseen (a device cgroup) or known."""
        try:
            handle = self._pynvml.nvmlDeviceGetHandleByIndex(number)
        except self._pynvml.NVMLError:
            return None
        calls = Calls(self._pynvml, handle)
        try:
            facts = read_facts(calls, number, version)
            if any(facts.uuid == device.facts.uuid for device, _ in self._members):
                self._twins[facts.uuid] = facts.pci or f"number {number}"
                return None
            device = Device(calls, facts, self._locks, self._clock)
            device.mig.look()
        except DeviceLostError:
            return None
        if facts.uuid in self._earlier:
            device.resume(self._earlier[facts.uuid])
        self._earlier[facts.uuid] = device
        return device, Processes(calls, device.mig, self._cgroups, self._clock)

    def _read_due(self) -> tuple[GpuSample, ...]:
        now_ns = self._clock.now_ns()
        if not self._is_open:
            if now_ns < self._open_due_ns:
                return ()
            self.open()
        samples = self._read_devices(now_ns)
        if now_ns >= self._process_due_ns:
            self._look_at_processes(now_ns)
        if now_ns >= self._look_due_ns:
            self._look_at_devices(now_ns)
        return samples

    def _read_devices(self, now_ns: int) -> tuple[GpuSample, ...]:
        samples = []
        for device, processes in tuple(self._members):
            if device.lock.due_ns(now_ns) > now_ns:
                continue
            try:
                sample = device.read()
            except DeviceLostError:
                self._lose(device, processes)
                continue
            if sample is not None:
                self._last_ns = max(sample.t_ns, self._last_ns + 1)
                samples.append(sample._replace(t_ns=self._last_ns))
            if device.has_news():
                self._tell()
        return tuple(samples)

    def _look_at_processes(self, now_ns: int) -> None:
        late_ns = max(0, now_ns - self._process_due_ns)
        self._process_due_ns = now_ns + self._process_ns - min(late_ns, self._process_ns // 2)
        for device, processes in tuple(self._members):
            try:
                self._uses.append(processes.look(device.facts.uuid))
            except DeviceLostError:
                self._lose(device, processes)
        self._cgroups.tick()
        self._tell()  # the periods, as learned by now

    def _look_at_devices(self, now_ns: int) -> None:
        """Open the library anew where GPUs came or one is lost: it sees them only when it opens."""
        self._look_due_ns = now_ns + self._look_every_ns
        if self._lost:
            self._look_every_ns = min(2 * self._look_every_ns, MOST_LOOK_NS)
        if self._lost or self._has_changed():
            self._reopen()
            return
        for device, processes in tuple(self._members):
            try:
                device.mig.look()
            except DeviceLostError:
                self._lose(device, processes)
        self._tell()

    def _has_changed(self) -> bool:
        try:
            count = self._pynvml.nvmlDeviceGetCount()
        except self._pynvml.NVMLError as exc:
            raise DriverDownError(advice(exc.value)) from exc
        return self._list_gpus() != self._listing or (not self._members and count > 0)

    def _list_gpus(self) -> tuple[str, ...]:
        """Return the places on the bus of the GPUs that the driver in the kernel has."""
        try:
            return self._host.list_dir(f"{self._host.procfs}/driver/nvidia/gpus") or ()
        except OSError:
            return ()

    def _reopen(self) -> None:
        self.close()
        self.open()

    def _lose(self, device: Device, processes: Processes) -> None:
        if (device, processes) in self._members:
            self._members.remove((device, processes))
        self._lost[device.facts.uuid] = device.describe()
        if not self._members:
            self.advice = Advice(IS_LOST, OTHER_REMEDY)
        self._tell()

    def _go_down(self, why: Advice) -> None:
        """Close, and try again by and by; the devices stay known, each with the reason."""
        self.close()
        self.advice = why
        self._open_due_ns = self._clock.now_ns() + self._retry_ns
        self._retry_ns = min(2 * self._retry_ns, MOST_RETRY_NS)
        self.reasons = MappingProxyType({device.uuid: why.reason for device in self.devices})

    def _tell(self) -> None:
        """Show what is known now; each of these is replaced as a whole, for other threads."""
        found = [device.describe() for device, _ in self._members]
        self.devices = tuple(sorted((*found, *self._lost.values()), key=lambda d: d.number))
        reasons = dict.fromkeys(self._lost, IS_LOST)
        reasons |= {d.facts.uuid: d.reason for d, _ in self._members if d.reason is not None}
        self.reasons = MappingProxyType(reasons)
        told = [d.problem for d, _ in self._members if d.problem is not None]
        twins = [
            f"{pci}: a second GPU with the uuid {uuid}: it is not read"
            for uuid, pci in self._twins.items()
        ]
        self.problems = (*told, *twins)


def probe(host: Host, config: Config, clock: Clock) -> Ready[GpuCollector] | Unavailable:
    """Open the driver's library if there is one; nothing of it is imported where there is none."""
    pynvml = load(host, config.nvml.library)
    if isinstance(pynvml, Unavailable):
        return pynvml
    collector = Nvml(host, config, clock, pynvml, Locks(config.nvml.interval))
    try:
        collector.open()
    except DriverDownError as exc:
        collector.close()
        absent = exc.advice == advice(DRIVER_NOT_LOADED) and not has_driver(host)
        return Unavailable(*exc.advice, absent=absent and not config.nvml.library)
    return Ready(collector)


SPEC: Final[CollectorSpec[GpuCollector]] = CollectorSpec(
    name=Nvml.name,
    quality="measured",
    enabled=lambda config: config.nvml.enabled,
    interval_s=lambda config: config.nvml.interval,
    probe=probe,
    measures_cpu=False,
)

"""One GPU: what it is, and its samples, one for each update that it publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.collectors.nvml_fields import (
    AVERAGE_S,
    Fields,
    max_power_w,
    power_rule,
)
from tychod.collectors.nvml_library import Calls, bounded
from tychod.collectors.nvml_mig import Mig
from tychod.collectors.publishlock import PublishLock
from tychod.model import SourceDevice
from tychod.samples import GpuDevice, GpuSample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tychod.clock import Clock
    from tychod.collectors.base import Timing, Timings

LEAST_RETRY_S: Final = 0.001
"""A call into the driver takes about so long; asking again sooner finds nothing new."""
FASTEST_S: Final = 0.01
"""No driver publishes more often; of a counter that moves at every call so much is enough."""


class Facts(NamedTuple):
    """What a device says of itself once."""

    uuid: str
    number: int
    name: str
    pci: str
    fingerprint: str  # device, driver and firmware
    architecture: int | None
    pci_device: int


class Locks:
    """The publish lock of each device; they outlive a restart of the driver."""

    def __init__(self, period_s: float) -> None:
        """``period_s``: guess for a device of which nothing is known."""
        self._period_s = period_s
        self._timings: Timings = lambda _name, _fingerprint: None
        self._locks: dict[str, PublishLock] = {}
        self._known: dict[str, Timing] = {}

    def calibrate(self, timings: Timings, found: Iterable[Facts]) -> None:
        """Begin with what is known of the devices found so far, and of those that come."""
        self._timings = timings
        for facts in found:
            self._look_up(facts)

    def get(self, facts: Facts) -> PublishLock:
        """Return a device's lock."""
        if facts.uuid not in self._locks:
            seed = len(self._locks) + 1  # so that two devices are not read off phase together
            self._locks[facts.uuid] = PublishLock(
                self._period_s,
                least_retry_s=LEAST_RETRY_S,
                least_period_s=FASTEST_S,
                seed=seed,
            )
            self._look_up(facts)
        return self._locks[facts.uuid]

    def _look_up(self, facts: Facts) -> None:
        known = self._timings(facts.uuid, facts.fingerprint)
        if known is None:
            return
        self._known[facts.uuid] = known
        if known.period_s is not None and known.period_sd_s is not None:
            self._locks[facts.uuid].know(known.period_s, known.period_sd_s)

    def delay_s(self, uuid: str) -> float:
        """Return by how much a device's values are older than their publication, in seconds."""
        known = self._known.get(uuid)
        return (known.delay_s or 0.0) if known else 0.0

    def origin(self, uuid: str) -> str:
        """Say where a device's period comes from."""
        if self._locks[uuid].is_locked:
            return "learned"
        return "calibrated" if uuid in self._known else "default"


class Device:
    """One GPU in one life of the driver."""

    def __init__(self, calls: Calls, facts: Facts, locks: Locks, clock: Clock) -> None:
        self.facts: Final = facts
        self.lock: Final = locks.get(facts)
        self._locks = locks
        self.mig: Final = Mig(calls)
        self.calls: Final = calls
        self._clock = clock
        self._rule = power_rule(facts.architecture, facts.pci_device)
        limits = calls.ask("nvmlDeviceGetPowerManagementLimitConstraints")
        self._fields = Fields(calls, self._rule, max_power_w(limits))
        self.reason: str | None = None  # why it cannot be read now
        self._published_ns = 0
        self._told: tuple[object, ...] = ()

    @property
    def rejected(self) -> int:
        """Values that could not be true."""
        return self._fields.plausible.rejected

    def has_news(self) -> bool:
        """Say whether something that shows elsewhere has changed since the last call."""
        state = (self.reason, self._fields.plausible.kinds, self.lock.is_locked)
        told, self._told = self._told, state
        return state != told

    @property
    def problem(self) -> str | None:
        """What is degraded, in one line that stays the same while it is."""
        kinds = ", ".join(sorted(self._fields.plausible.kinds))
        if kinds:
            return f"{self.facts.name} {self.facts.pci}: impossible values were rejected: {kinds}"
        return None

    def resume(self, before: Device) -> None:
        """Go on from the same device in an earlier life of the library."""
        self._fields.resume(before._fields)
        self._published_ns = before._published_ns

    def describe(self) -> GpuDevice:
        """Return the device as it is known at present."""
        return GpuDevice(
            uuid=self.facts.uuid,
            number=self.facts.number,
            name=self.facts.name,
            pci=self.facts.pci,
            max_power_w=self._fields.plausible.max_w,
            average_s=AVERAGE_S if self._fields.has_average else 0.0,
            sensor_s=self._rule.sensor_s,
            period_s=self.lock.period_s if self.lock.is_locked else 0.0,
            delay_s=self._locks.delay_s(self.facts.uuid),
            slices=self.mig.slices,
            instances=self.mig.instances,
        )

    def read(self) -> GpuSample | None:
        """Ask whether something new was published, and if so for all of it."""
        before_ns = self._clock.now_ns()
        is_new = self._fields.look(before_ns)
        after_ns = self._clock.now_ns()
        if is_new is None:
            self.lock.failed(after_ns)
            self.reason = "it tells neither energy nor power nor utilisation"
            return None
        self.reason = None
        stamp = self.lock.saw(before_ns, after_ns, is_new)
        if stamp is None:
            return None
        values = self._fields.read(after_ns)
        # An estimate may not come before the one of the update before.
        self._published_ns = max(stamp.t_ns, self._published_ns + 1)
        return GpuSample(
            t_ns=after_ns,
            device=self.facts.uuid,
            published_ns=self._published_ns,
            sd_ns=stamp.sd_ns,
            energy_uj=self._fields.energy_uj,
            instant_uw=values.instant_uw,
            average_uw=values.average_uw,
            **values.rates._asdict(),
            **values.slow._asdict(),
            missed=stamp.missed,
        )

    def published(self) -> SourceDevice:
        """Return when it publishes, as known at present."""
        return SourceDevice(
            name=self.facts.uuid,
            fingerprint=self.facts.fingerprint,
            period_s=self.lock.period_s,
            period_sd_s=self.lock.period_sd_s,
            delay_s=None,
            delay_sd_s=None,
            origin=self._locks.origin(self.facts.uuid),
            updates=self.lock.updates,
        )


def read_facts(calls: Calls, number: int, driver: str) -> Facts:
    """Ask a device who it is; one without a uuid goes by its place on the bus."""
    info = calls.ask("nvmlDeviceGetPciInfo_v3")
    pci = bounded(info.busId) if info else ""
    name = calls.ask_text("nvmlDeviceGetName") or "NVIDIA GPU"
    firmware = calls.ask_text("nvmlDeviceGetVbiosVersion")
    return Facts(
        uuid=calls.ask_text("nvmlDeviceGetUUID") or f"GPU-{pci or number}",
        number=number,
        name=name,
        pci=pci,
        fingerprint=f"{name}; driver {driver or 'unknown'}; firmware {firmware or 'unknown'}",
        architecture=calls.ask("nvmlDeviceGetArchitecture"),
        pci_device=info.pciDeviceId >> 16 if info else 0,
    )

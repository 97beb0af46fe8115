"""The machine's power by IPMI DCMI: from the BMC, through the kernel, without a password."""

from __future__ import annotations

import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tychod.collectors.base import CollectorSpec, EnergyCollector, Ready, Unavailable
from tychod.hostfs import GONE, render_error
from tychod.kernel.ipmi_device import IpmiDevice
from tychod.samples import EnergySample, PowerSensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tychod.clock import Clock
    from tychod.config import Config
    from tychod.hostfs import Host

# DCMI 1.5, 6.6.1: Get Power Reading.
GROUP_EXTENSION: Final = 0x2C  # NetFn
DCMI: Final = 0xDC  # the group's number, first byte of each question and answer
GET_POWER_READING: Final = 0x02
SYSTEM_POWER: Final = bytes((DCMI, 0x01, 0x00, 0x00))
# Completion code, group, watts: now, least, most, mean; time stamp, period in ms, state.
_READING: Final = struct.Struct("<BB4HIIB")
IS_ACTIVE: Final = 0x40
NO_WATTS: Final = 0xFFFF

CEILING_W: Final = 25_000.0
"""No machine draws more: one with eight of the largest GPUs takes under 15 kW."""

TIMEOUT_S: Final = 2.0
"""A BMC's system interface takes 5 to 100 ms for an answer; a busy one more."""
REOPEN_INTERVAL_NS: Final = 5_000_000_000
LONGEST_REST_NS: Final = 30_000_000_000
"""A BMC that does not answer is asked less and less often, at least so often."""

CODES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0xC0: "the BMC is busy",
        0xC1: "the BMC knows no such command: it has no DCMI power reading",
        0xC3: "the BMC took too long itself",
        0xC7: "the BMC expects a question of another length",
        0xC9: "the BMC knows no such reading",
        0xCB: "the BMC has no power sensor",
        0xCC: "the BMC takes no such question",
        0xD2: "the BMC is starting",
        0xD4: "the BMC does not allow it over this interface",
        0xD5: "the BMC cannot do it in its present state",
        0xFF: "the BMC does not say why",
    }
)
"""Completion codes (IPMI 2.0, table 5-2)."""

ROOT_ONLY_REMEDY: Final = (
    "the device is root's, and whoever may write to it controls the BMC: prefer [redfish] with a "
    "user that may only read; or see ipmi-access.conf among the examples; or [ipmi] enabled = false"
)


class Reading(NamedTuple):
    """What the BMC says of the machine's power."""

    watts: int
    period_s: float  # over so long its least, most and mean watts are
    is_active: bool


class Ipmi:
    """The one power reading of the machine."""

    name: Final = "ipmi"
    quality: Final[Literal["measured", "modelled"]] = "measured"
    delay_s: Final = 0.0
    outdated: Final = False
    zones: Final = ()

    def __init__(self, host: Host, path: str, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._host = host
        self._path = path
        self._clock = clock
        self._device: IpmiDevice | None = None
        self._next_ns = 0
        self._rest_ns = 0
        self._rejected = 0
        self._key: Final = f"ipmi:{path.rpartition('/')[2]}:dcmi"
        self.sensors: Final = (PowerSensor(self._key, "platform", "dcmi", None, CEILING_W),)
        self.last: Reading | None = None
        self.failure = ""

    def read(self) -> EnergySample | None:
        """Ask once; None with ``failure`` set where no usable value came, or it is too early."""
        if self._clock.now_ns() < self._next_ns:
            return None
        try:
            return self._ask()
        except OSError as exc:
            self._failed(f"{self._path}: {exc.strerror or exc}", exc)
        except ValueError as exc:
            self.failure = str(exc)
        return None

    @property
    def zone_reasons(self) -> Mapping[str, str]:
        """Why the sensor cannot be read now."""
        return MappingProxyType({self._key: self.failure} if self.failure else {})

    @property
    def problems(self) -> tuple[str, ...]:
        """How many implausible values were rejected."""
        count = self._rejected
        return (f"{self._key}: {count} implausible values rejected",) if count else ()

    def open(self) -> IpmiDevice:
        """Open the device; OSError where that fails."""
        self._device = IpmiDevice(self._host, self._path, self._clock)
        return self._device

    def close(self) -> None:
        """Give the device back."""
        if self._device:
            self._device.close()
            self._device = None

    def _ask(self) -> EnergySample:
        device = self._device or self.open()
        before_ns = self._clock.now_ns()
        answer = device.ask(GROUP_EXTENSION, GET_POWER_READING, SYSTEM_POWER, self._timeout_s)
        t_ns = (before_ns + self._clock.now_ns()) // 2
        self._rest_ns = 0
        self.last = parse_reading(answer)
        fault = find_fault(self.last)
        if fault:
            self._rejected += 1
            raise ValueError(f"rejected: {fault}")
        self.failure = ""
        return EnergySample(t_ns, (), (self.last.watts * 1_000_000,))

    def _failed(self, reason: str, exc: OSError) -> None:
        """Ask again after a rest that doubles; what is gone or refused is opened anew then."""
        self.failure = reason
        if exc.errno is not None:
            self.close()
        rest_ns = max(2 * self._rest_ns, REOPEN_INTERVAL_NS)
        self._rest_ns = min(rest_ns, LONGEST_REST_NS)
        self._next_ns = self._clock.now_ns() + self._rest_ns


def probe(host: Host, config: Config, clock: Clock) -> Ready[EnergyCollector] | Unavailable:
    """Open the device and ask once."""
    path = config.ipmi.device
    collector = Ipmi(host, path, clock)
    try:
        collector.open()
    except PermissionError as exc:
        return Unavailable(render_error(exc), ROOT_ONLY_REMEDY)
    except OSError as exc:
        return Unavailable(
            render_error(exc),
            "normal without a BMC; with one load ipmi_si (or ipmi_ssif) and ipmi_devintf",
            absent=exc.errno in GONE,
        )
    if collector.read() is None:
        collector.close()
        return Unavailable(
            collector.failure,
            "compare with: ipmitool dcmi power reading; without DCMI use [redfish]",
        )
    last = collector.last
    over = f"; its statistics are over {last.period_s:g} s" if last and last.period_s else ""
    return Ready(collector, (f"{path}: the BMC tells the machine's power{over}",))


def parse_reading(answer: bytes) -> Reading:
    """Return the reading; ValueError says why there is none."""
    code = answer[0] if answer else None
    if code is None:
        raise ValueError("the BMC's answer is empty")
    if code:
        raise ValueError(f"{CODES.get(code, 'the BMC refused')} (completion code 0x{code:02X})")
    if len(answer) < _READING.size or answer[1] != DCMI:
        raise ValueError(f"the BMC's answer is no power reading: {answer[:24].hex(' ')}")
    _, _, watts, _, _, _, _, period_ms, state = _READING.unpack_from(answer)
    return Reading(watts, period_ms / 1000, bool(state & IS_ACTIVE))


def find_fault(reading: Reading) -> str | None:
    """Return why a reading cannot be true; None where it can."""
    if not reading.is_active:
        return "the BMC says that it does not measure power now"
    if reading.watts == NO_WATTS:
        return "all bits are set, which means no value"
    if not reading.watts:
        return "a machine that runs draws more than 0 W"
    if reading.watts > CEILING_W:
        return f"it is over the most that is possible, {CEILING_W:g} W"
    return None


SPEC: Final[CollectorSpec[EnergyCollector]] = CollectorSpec(
    name="ipmi",
    quality="measured",
    enabled=lambda config: config.ipmi.enabled,
    interval_s=lambda config: config.ipmi.interval,
    probe=probe,
    measures_cpu=False,
)

"""One sensor of hwmon: its files, kept open, and whether what they say can be true."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from tychod.hostfs import render_error
from tychod.samples import EnergyZone, PowerSensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tychod.hostfs import Host, KeptFile

READ_BYTES: Final = 128
"""One raw read of so much is all: reading on would not end with a driver that answers EAGAIN."""

REJECTED_SHOWN_NS: Final = 600_000_000_000
"""How long after the last implausible reading of a sensor their number is shown."""

ALL_ONES: Final = frozenset(
    (2**bits - 1) * scale for bits in (31, 32, 63, 64) for scale in (1, 1000)
)
"""What a driver passes on where the chip or the firmware knows no value; ACPI's is in mW."""

COUNTER_END: Final = 2**62
"""A counter gets there in 146 years at 1 GW; what is above is a negative number read unsigned."""

SLACK_NS: Final = 2_000_000_000
"""A driver may count so late and then make up for it: amd_energy adds up by a thread of its own."""

LEAPT: Final = "rejected: its counter leapt; it is believed once the next values follow it"

ROOT_ONLY: Final = "readable by root only"

REOPEN_INTERVAL_NS: Final = 1_000_000_000


class Gauge:
    """One sensor's files, kept open; opened again, at most once a second, after one failed."""

    def __init__(self, host: Host, paths: Sequence[str]) -> None:
        self._host = host
        self._paths = tuple(paths)
        self._files: tuple[KeptFile, ...] = ()
        self._next_open_ns: int | None = None
        self.reason: str | None = None

    def read(self, now_ns: int) -> int | None:
        """Return the value in micro-units, or None with ``reason`` set."""
        if not self._files and not self._may_open(now_ns):
            return None
        try:
            self._open()
            value = 1
            for file in self._files:
                value *= parse_number(file.read(READ_BYTES))
        except PermissionError:
            self._fail(ROOT_ONLY)
        except OSError as exc:
            self._fail(render_error(exc), keep=exc.errno == errno.EAGAIN)
        except ValueError as exc:
            self._fail(str(exc))
        else:
            self.reason = None
            return value
        return None

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files = ()

    def _open(self) -> None:
        for path in self._paths[len(self._files) :]:
            self._files = (*self._files, self._host.open_kept(path))

    def _may_open(self, now_ns: int) -> bool:
        if self._next_open_ns is not None and now_ns < self._next_open_ns:
            return False
        self._next_open_ns = now_ns + REOPEN_INTERVAL_NS
        return True

    def _fail(self, reason: str, *, keep: bool = False) -> None:
        """``keep``: only its driver was busy; else a device may have gone, and with it the file."""
        if not keep:
            self.close()
        self.reason = reason


class Level:
    """Where a counter is: one that leaps is believed once the next value follows from there."""

    def __init__(self, max_power_w: float) -> None:
        self._max_power_w: Final = max_power_w
        self._last: tuple[int, int] | None = None  # when it was believed, and the value in uJ
        self._doubtful: tuple[int, int] | None = None

    def takes(self, now_ns: int, value: int) -> bool:
        """Say whether a value (uJ) follows from the last one, or from the one rejected last."""
        seen = (now_ns, value)
        known = [before for before in (self._last, self._doubtful) if before]
        if not known or any(self._follows(before, seen) for before in known):
            self._last, self._doubtful = seen, None
        else:
            self._doubtful = seen
        return self._doubtful is None

    def _follows(self, before: tuple[int, int], after: tuple[int, int]) -> bool:
        elapsed_ns = after[0] - before[0] + SLACK_NS
        return 0 <= after[1] - before[1] <= self._max_power_w * elapsed_ns / 1_000


class Meter:
    """One sensor with its gauge, and how many implausible values were rejected."""

    def __init__(self, host: Host, known: EnergyZone | PowerSensor, paths: Sequence[str]) -> None:
        self.known: Final = known
        self._gauge = Gauge(host, paths)
        self._level = Level(known.max_power_w) if isinstance(known, EnergyZone) else None
        self._rejected = 0
        self._last_ns = 0
        self.reason: str | None = None

    def read(self, now_ns: int) -> int | None:
        """Return the value in uJ or uW, or None with ``reason`` set."""
        value = self._gauge.read(now_ns)
        self.reason = self._gauge.reason
        if value is None or not (fault := self._fault(value, now_ns)):
            return value
        self._rejected += 1
        self._last_ns = now_ns
        self.reason = fault
        return None

    def _fault(self, value: int, now_ns: int) -> str | None:
        fault = find_fault(self.known, value)
        if fault is None and self._level and not self._level.takes(now_ns, value):
            return LEAPT
        return fault

    def problem(self, now_ns: int) -> str | None:
        """Return how many values were rejected; None where none was in the last ten minutes."""
        if not self._rejected or now_ns - self._last_ns > REJECTED_SHOWN_NS:
            return None
        return f"{self.known.key}: {self._rejected} implausible values rejected"

    def close(self) -> None:
        """Close its files."""
        self._gauge.close()


def find_fault(meter: EnergyZone | PowerSensor, value: int) -> str | None:
    """Return why a value (uJ or uW) cannot be true; None where it can.

    The value itself is left out: a reason that is another one each time would be told each time.
    """
    is_power = isinstance(meter, PowerSensor)
    if value in ALL_ONES:
        return "rejected: all bits are set, which means no value"
    if value < 0:
        return "rejected: it is negative"
    if not is_power and value >= COUNTER_END:
        return "rejected: no counter gets so far: a negative number without its sign"
    if is_power and value > meter.max_power_w * 1e6:
        return f"rejected: it is over the most that is possible, {meter.max_power_w:g} W"
    if is_power and not value and meter.domain == "platform":
        return "rejected: a machine that runs draws more than 0 W"
    return None


def parse_number(data: bytes) -> int:
    """Return what a file of hwmon holds; ValueError says what stood there instead."""
    try:
        return int(data)
    except ValueError:
        raise ValueError(f"no number: {data[:24]!r}") from None

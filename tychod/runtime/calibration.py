"""Publish period and delay of each device, kept from one life of the daemon to the next."""

import logging
import math
import os
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from tychod.model import SourceDevice

log = logging.getLogger(__name__)

FILE_NAME: Final = "calibration.toml"
VERSION: Final = 1
MOST_BYTES: Final = 1 << 18
MOST_TEXT: Final = 256
MOST_DEVICES: Final = 256
LONGEST_S: Final = 3600.0
WRITE_EVERY_S: Final = 60.0
DRIFT_SDS: Final = 3.0
DRIFT_SHARE: Final = 0.02
SURER: Final = 0.5  # of the standard deviation that is kept: what is so much surer replaces it
# A period is kept once it is as sure as this share of it, after so many updates.
SURE: Final = (0.01, 50)
SURE_SLOW: Final = (0.05, 10)
SLOW_S: Final = 0.25  # a BMC and not a GPU: fifty updates may take minutes


class Entry(NamedTuple):
    """What is known of one device; None: not measured."""

    fingerprint: str
    period_s: float | None
    period_sd_s: float | None
    delay_s: float | None
    delay_sd_s: float | None
    date: str  # when it was measured, as 2026-01-02


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is known of all devices, by name."""

    devices: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))

    def entry(self, device: str, fingerprint: str) -> Entry | None:
        """Return what is known of a device as it is now; None after a change of it."""
        entry = self.devices.get(_bounded(device))
        return entry if entry and entry.fingerprint == _bounded(fingerprint) else None

    def period(self, device: str, fingerprint: str) -> tuple[float, float] | None:
        """Return period and standard deviation in seconds; None where they are not known."""
        entry = self.entry(device, fingerprint)
        if entry is None or entry.period_s is None or entry.period_sd_s is None:
            return None
        return entry.period_s, entry.period_sd_s

    def delay(self, device: str, fingerprint: str) -> tuple[float, float] | None:
        """Return delay and standard deviation in seconds; None where they are not known."""
        entry = self.entry(device, fingerprint)
        if entry is None or entry.delay_s is None or entry.delay_sd_s is None:
            return None
        return entry.delay_s, entry.delay_sd_s

    def refusal(self, device: str, fingerprint: str) -> str | None:
        """Say why what is kept of a device is not used; None if it is, or if nothing is kept."""
        kept = self.devices.get(_bounded(device))
        if kept is None or kept.fingerprint == _bounded(fingerprint):
            return None
        return (
            f"the calibration of {_bounded(device)} is of {kept.fingerprint!r} and it is now "
            f"{_bounded(fingerprint)!r}: it is not used, the period is learned anew"
        )

    def known(self, device: SourceDevice) -> SourceDevice:
        """Return a device with what its collector does not know itself: its delay, its date."""
        entry = self.entry(device.name, device.fingerprint)
        if entry is None:
            return device
        if device.delay_s is None:
            device = device._replace(delay_s=entry.delay_s, delay_sd_s=entry.delay_sd_s)
        is_ours = device.origin == "calibrated"
        return device._replace(origin=f"calibrated {entry.date}") if is_ours else device


def load(path: Path) -> Calibration:
    """Read the file; a damaged one is kept aside and told once, and nothing is known."""
    try:
        with path.open("rb") as file:
            return parse(file.read(MOST_BYTES + 1))
    except FileNotFoundError:
        return Calibration()
    except OSError as exc:
        log.error("%s cannot be read: %s; periods are learned anew", path, exc.strerror)  # noqa: TRY400
    except (ValueError, RecursionError) as exc:
        _set_aside(path, _bounded(str(exc)))
    return Calibration()


def parse(data: bytes) -> Calibration:
    """Return what a file says; ValueError with the place for anything that cannot be."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES} bytes")
    plain = tomllib.loads(data.decode())
    if plain.get("version") != VERSION:
        raise ValueError(f"its version is {plain.get('version')!r} and not {VERSION}")
    devices = plain.get("devices", {})
    if not isinstance(devices, dict) or len(devices) > MOST_DEVICES:
        raise ValueError(f"devices is no table of at most {MOST_DEVICES}")
    found = {_bounded(name): _entry(_bounded(name), value) for name, value in devices.items()}
    return Calibration(MappingProxyType(found))


def _entry(name: str, value: object) -> Entry:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no table")  # noqa: TRY004 - the file is bad, not our code
    texts = [value.get(key, "") for key in ("fingerprint", "date")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"fingerprint or date of {name} is no text")
    entry = Entry(
        fingerprint=_bounded(texts[0]),
        period_s=_number(name, "period_s", value),
        period_sd_s=_number(name, "period_sd_s", value),
        delay_s=_number(name, "delay_s", value),
        delay_sd_s=_number(name, "delay_sd_s", value),
        date=_bounded(texts[1]),
    )
    if entry.period_s == 0:
        raise ValueError(f"period_s of {name} is 0")
    return entry


def _number(name: str, key: str, plain: dict[str, object]) -> float | None:
    value = plain.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} of {name} is no number")  # noqa: TRY004 - the file is bad
    if not 0 <= value <= LONGEST_S:  # not a number fails too
        raise ValueError(f"{key} of {name} is {value} and not 0 to {LONGEST_S:g}")
    return float(value)


def render(calibration: Calibration) -> str:
    """Return the file's text."""
    import tomli_w  # only where something is stored

    devices = {
        name: {key: value for key, value in entry._asdict().items() if value is not None}
        for name, entry in sorted(calibration.devices.items())
    }
    return tomli_w.dumps({"version": VERSION, "devices": devices})


def save(path: Path, calibration: Calibration) -> None:
    """Write the file whole or not at all, for its owner only; raise OSError."""
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(render(calibration).encode())
        file.flush()
        os.fsync(fd)
    scratch.rename(path)


def updated(
    calibration: Calibration, devices: Iterable[SourceDevice], date: str
) -> Calibration | None:
    """Return it with what has been learned or has drifted; None where that is nothing."""
    found = dict(calibration.devices)
    for device in devices:
        known = calibration.entry(device.name, device.fingerprint)
        entry = _learned(known, device, date)
        if entry is not None and (_bounded(device.name) in found or len(found) < MOST_DEVICES):
            found[_bounded(device.name)] = entry
    return Calibration(MappingProxyType(found)) if found != calibration.devices else None


def _learned(known: Entry | None, device: SourceDevice, date: str) -> Entry | None:
    """Return a device's new entry; None where what is kept is good enough."""
    base = known or Entry(_bounded(device.fingerprint), None, None, None, None, date)
    period, delay = base[1:3], base[3:5]
    if is_settled(device) and is_better(period, (device.period_s, device.period_sd_s)):
        period = (device.period_s, device.period_sd_s)
    if is_better(delay, (device.delay_s, device.delay_sd_s)):
        delay = (device.delay_s, device.delay_sd_s)
    entry = Entry(base.fingerprint, *period, *delay, date)
    return entry if entry[1:5] != base[1:5] else None


def is_settled(device: SourceDevice) -> bool:
    """Whether a device was followed for long enough that its period is worth keeping."""
    if device.origin != "learned" or device.period_s is None or device.period_sd_s is None:
        return False
    share, updates = SURE_SLOW if device.period_s >= SLOW_S else SURE
    return device.updates >= updates and device.period_sd_s <= share * device.period_s


def is_better(
    kept: tuple[float | None, float | None], now: tuple[float | None, float | None]
) -> bool:
    """Whether a value is half as unsure as the one kept, or differs from it.

    That is by more than both are unsure, and by 2 %.
    """
    if now[0] is None or now[1] is None:
        return False
    if kept[0] is None or kept[1] is None:
        return True
    if now[1] < SURER * kept[1]:
        return True
    away = abs(now[0] - kept[0])
    return away > DRIFT_SDS * math.hypot(kept[1], now[1]) and away > DRIFT_SHARE * kept[0]


class CalibrationFile:
    """The file of one state directory, which the daemon's lock on that protects."""

    def __init__(self, directory: Path) -> None:
        self.path: Final = directory / FILE_NAME
        self.calibration = load(self.path)
        self.problem: str | None = None  # why the last write failed
        self._written_s = -math.inf

    def learn(self, devices: Iterable[SourceDevice], now_s: float, date: str) -> bool:
        """Write what has drifted, at most once a minute; False: nothing was written.

        ``now_s`` is monotonic; ``date`` is of the wall clock, as 2026-01-02.
        """
        if now_s - self._written_s < WRITE_EVERY_S:
            return False
        changed = updated(self.calibration, devices, date)
        if changed is None:
            return False
        self._written_s = now_s
        try:
            save(self.path, changed)
        except OSError as exc:
            problem = f"{self.path} cannot be written: {exc.strerror}; free space or set its owner"
            if problem != self.problem:
                log.error("%s", problem)  # noqa: TRY400
            self.problem = problem
            return False
        self.calibration, self.problem = changed, None
        return True


def _set_aside(path: Path, why: str) -> None:
    kept = path.with_suffix(f".damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    try:
        path.rename(kept)
    except OSError as exc:
        log.error("%s is damaged: %s; cannot set it aside: %s", path, why, exc.strerror)  # noqa: TRY400
        return
    log.error("%s is damaged: %s; kept as %s, periods are learned anew", path, why, kept.name)


def _bounded(text: str) -> str:
    """Return text from outside, printable and not endless."""
    return "".join(c if c.isprintable() else "?" for c in text[:MOST_TEXT])

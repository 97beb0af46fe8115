"""Energy counters and power sensors of the kernel's hwmon class (/sys/class/hwmon).

Of each chip the best kind it has: energy, else power, else voltage times current.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tychod.collectors.base import CollectorSpec, EnergyCollector, Ready, Unavailable, failure_of
from tychod.collectors.hwmon_meter import READ_BYTES, ROOT_ONLY, Meter, parse_number
from tychod.collectors.hwmon_rules import CEILINGS_W, OTHER, Measured, pair, place
from tychod.collectors.hwmon_tree import Channel, Chip, Listing, hwmon_dir, list_chips
from tychod.samples import EnergySample, EnergyZone, PowerSensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tychod.clock import Clock
    from tychod.config import Config
    from tychod.hostfs import Host

LOOK_INTERVAL_NS: Final = 30_000_000_000
"""How often chips are looked for that came, went or have switched a channel on or off."""

ROOT_ONLY_REMEDY: Final = (
    "let the group tychod-data read the file (a udev rule for SUBSYSTEM hwmon; amd_energy gives "
    "its counters to root alone), or leave the chip out by [hwmon] sensors"
)

SHORT_PEAK: Final = 2.0
"""A sensor may read so many times its rated maximum: supplies carry short peaks of twice it."""


class Found(NamedTuple):
    """A sensor and where its values are; the product of two files where it is volts x amperes."""

    meter: EnergyZone | PowerSensor
    paths: tuple[str, ...]


class Hwmon:
    """All sensors of the machine, or those the filter names."""

    name: Final = "hwmon"
    quality: Final[Literal["measured", "modelled"]] = "measured"
    delay_s: Final = 0.0

    def __init__(self, host: Host, listing: Listing, found: Sequence[Found], clock: Clock) -> None:
        self._host = host
        self._listing = listing
        self._clock = clock
        self._next_look_ns = clock.now_ns() + LOOK_INTERVAL_NS
        self.outdated = False
        meters = [Meter(host, f.meter, f.paths) for f in found]
        self._counters = [m for m in meters if isinstance(m.known, EnergyZone)]
        self._sensors = [m for m in meters if isinstance(m.known, PowerSensor)]
        self._meters = (*self._counters, *self._sensors)
        self.zones: Final = tuple(f.meter for f in found if isinstance(f.meter, EnergyZone))
        self.sensors: Final = tuple(f.meter for f in found if isinstance(f.meter, PowerSensor))
        self.zone_reasons: Mapping[str, str] = MappingProxyType({})

    def read(self) -> EnergySample | None:
        """Read every sensor; one that fails is None and has a reason; all failed: None."""
        self.outdated = self._look()
        before_ns = self._clock.now_ns()
        energy_uj = tuple(meter.read(before_ns) for meter in self._counters)
        power_uw = tuple(meter.read(before_ns) for meter in self._sensors)
        t_ns = (before_ns + self._clock.now_ns()) // 2
        reasons = {m.known.key: m.reason for m in self._meters if m.reason is not None}
        if reasons != self.zone_reasons:
            self.zone_reasons = MappingProxyType(reasons)
        if all(value is None for value in (*energy_uj, *power_uw)):
            return None
        return EnergySample(t_ns, energy_uj, power_uw)

    @property
    def failure(self) -> str:
        """Why the last reading gave no sample; empty if it gave one."""
        return failure_of(self.zone_reasons, len(self._meters))

    @property
    def problems(self) -> tuple[str, ...]:
        """Chips that cannot be looked at, and sensors whose values were rejected of late."""
        now_ns = self._clock.now_ns()
        told = (meter.problem(now_ns) for meter in self._meters)
        return (*_refusals(self._listing), *(line for line in told if line))

    def _look(self) -> bool:
        """Say whether the chips are others than at the probe; False when it is no time to look."""
        now_ns = self._clock.now_ns()
        if now_ns < self._next_look_ns:
            return False
        self._next_look_ns = now_ns + LOOK_INTERVAL_NS
        try:
            return list_chips(self._host) != self._listing
        except OSError:
            return False  # the files stay open; the next look tells

    def close(self) -> None:
        """Close every file."""
        for meter in self._meters:
            meter.close()


def probe(host: Host, config: Config, clock: Clock) -> Ready[EnergyCollector] | Unavailable:
    """Find the sensors, apply the filter and read each once."""
    listing = list_chips(host)
    everything = list(find_sensors(listing))
    if not everything:
        told = "; ".join(_refusals(listing))
        return Unavailable(
            told or f"no energy, power or known current sensor below {hwmon_dir(host)}",
            "normal in virtual machines; on bare metal load the chip's driver (acpi_power_meter; "
            "sensors-detect names others)",
            absent=not told,
        )
    wanted = config.hwmon.sensors
    known = {word for sensor in everything for word in sensor.words}
    chosen = [s for s in everything if not wanted or not s.words.isdisjoint(wanted)]
    unknown = [word for word in wanted if word not in known]
    if not chosen:
        return Unavailable(
            f"[hwmon] sensors = {', '.join(unknown)}: no such sensor here",
            f"name some of {', '.join(sorted(known))}; or none, for all of them",
        )
    found, notes = _meters(host, chosen, named=bool(wanted))
    collector = Hwmon(host, listing, found, clock)
    if collector.read() is None:
        collector.close()
        return _unreadable(collector.zone_reasons)
    notes += [f"[hwmon] sensors: nothing here is called {word!r}" for word in unknown]
    notes += [f"{key}: {reason}" for key, reason in collector.zone_reasons.items()]
    notes += _refusals(listing)
    return Ready(collector, tuple(notes))


class Sensor(NamedTuple):
    """A sensor before it is known what it measures."""

    chip: Chip
    kind: str  # energy or power
    stem: str  # power1; in1 of a pair
    label: str  # cleaned; empty: it has none
    values: tuple[str, ...]  # files
    average_of: str  # the file that tells over how long its average is; empty: it is none
    is_battery: bool

    @property
    def name(self) -> str:
        """What it is called in results."""
        kind = self.stem.replace("in", "power") if self.stem.startswith("in") else self.stem
        return self.label or f"{self.chip.name}_{kind}"

    @property
    def key(self) -> str:
        """What it is called for good: not by its chip's number, which another boot changes."""
        where = f"{self.chip.name}@{self.chip.device}" if self.chip.device else self.chip.name
        return f"hwmon:{where}:{self.stem}" + (f":{self.label}" if self.label else "")

    @property
    def words(self) -> set[str]:
        """What a filter may call it."""
        return {self.chip.name, self.name, self.key}


def find_sensors(listing: Listing) -> Iterator[Sensor]:
    """Yield the sensors of every chip, of its best kind only; keys are unique."""
    taken: set[str] = set()
    for chip in listing.chips:
        for sensor in _of_chip(chip):
            if sensor.key in taken:  # two chips of one name and no device
                twin = chip._replace(device=f"{chip.device}{chip.directory}")
                yield sensor._replace(chip=twin)
            else:
                yield sensor
            taken.add(sensor.key)


def _of_chip(chip: Chip) -> list[Sensor]:
    for kind in ("energy", "power"):
        channels = [c for c in chip.of_kind(kind) if kind == "power" or "input" in c.values]
        if channels:
            return [_sensor(chip, kind, channel) for channel in channels]
    voltages = {channel.number: channel for channel in chip.of_kind("in")}
    currents = {channel.number: channel for channel in chip.of_kind("curr")}
    pairs = pair(chip.name, _labels(voltages), _labels(currents))
    return [_product(chip, voltages[v], currents[c]) for v, c in pairs]


def _labels(channels: Mapping[int, Channel]) -> dict[int, str]:
    return {index: channel.label for index, channel in channels.items()}


def _sensor(chip: Chip, kind: str, channel: Channel) -> Sensor:
    """An average is preferred: what the power was between two readings is in it."""
    stem = f"{kind}{channel.number}"
    which = "average" if kind == "power" and "average" in channel.values else "input"
    interval = f"{chip.path}/{stem}_average_interval" if which == "average" else ""
    values = (f"{chip.path}/{stem}_{which}",)
    return Sensor(chip, kind, stem, channel.label, values, interval, channel.is_battery)


def _product(chip: Chip, voltage: Channel, current: Channel) -> Sensor:
    """Millivolts x milliamperes are microwatts; averages only where both sides have one."""
    both = set(voltage.values) & set(current.values)
    values = tuple(
        f"{chip.path}/{kind}{channel.number}_"
        + (min(both) if both else channel.values[0])  # average comes before input
        for kind, channel in (("in", voltage), ("curr", current))
    )
    label = voltage.label or current.label
    return Sensor(chip, "power", f"in{voltage.number}", label, values, "", is_battery=False)


def _meters(host: Host, sensors: Sequence[Sensor], *, named: bool) -> tuple[list[Found], list[str]]:
    """Return the sensors with what each measures; parts of others only where they are named."""
    placed, notes = place(
        [
            Measured(
                s.chip.name,
                s.chip.device,
                s.label,
                s.chip.files,
                [channel.label for channel in s.chip.channels],
                s.is_battery,
            )
            for s in sensors
        ]
    )
    found = [
        Found(_known(host, sensor, domain or OTHER, socket), sensor.values)
        for sensor, (domain, socket) in zip(sensors, placed, strict=True)
        if domain or named
    ]
    return found, notes


def _known(host: Host, sensor: Sensor, domain: str, socket: int | None) -> EnergyZone | PowerSensor:
    max_w = CEILINGS_W[domain]
    if sensor.kind == "energy":
        # The drivers add up in 64 bits: no wrap.
        return EnergyZone(sensor.key, domain, sensor.name, socket, 0, max_w)
    rated_uw = _number(host, f"{sensor.chip.path}/{sensor.stem}_rated_max")
    if rated_uw > 0:
        max_w = min(max_w, SHORT_PEAK * rated_uw / 1e6)
    average_s = _number(host, sensor.average_of) / 1000 if sensor.average_of else 0.0
    return PowerSensor(sensor.key, domain, sensor.name, socket, max_w, average_s)


def _number(host: Host, path: str) -> int:
    """Return a non-negative number that is optional, 0 where there is none."""
    try:
        return max(parse_number(host.read_bytes(path, READ_BYTES) or b"0"), 0)
    except (OSError, ValueError):
        return 0


def _refusals(listing: Listing) -> list[str]:
    return [f"chip {name} is not read: {why}" for name, why in listing.refused.items()]


def _unreadable(reasons: Mapping[str, str]) -> Unavailable:
    key, reason = next(iter(reasons.items()), ("", "only parts of others"))
    remedy = ROOT_ONLY_REMEDY if ROOT_ONLY in reasons.values() else "see dmesg for its driver"
    return Unavailable(f"no sensor can be read, e.g. {key}: {reason}", remedy)


SPEC: Final[CollectorSpec[EnergyCollector]] = CollectorSpec(
    name="hwmon",
    quality="measured",
    enabled=lambda config: config.hwmon.enabled,
    interval_s=lambda config: config.hwmon.interval,
    probe=probe,
)

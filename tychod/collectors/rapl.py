"""Energy counters of CPU and memory that the kernel shows below /sys/class/powercap (RAPL).

Intel and AMD processors appear under the same control type, ``intel-rapl``.
"""

from __future__ import annotations

import errno
import os
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tychod.collectors.base import CollectorSpec, EnergyCollector, Ready, Unavailable, failure_of
from tychod.hostfs import render_error
from tychod.samples import EnergySample, EnergyZone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tychod.clock import Clock
    from tychod.config import Config
    from tychod.hostfs import Host, KeptFile

DOMAINS: Final = ("package", "core", "uncore", "dram", "psys")

CEILING_W: Final = 1000.0
"""No processor socket draws more (the largest are specified for 500 W); tells a wrap from a reset.

The power limits that powercap shows beside the counter say nothing about it: root may change them
at any time, and they count while switched off, too.
"""
CEILINGS_W: Final[Mapping[str, float]] = MappingProxyType({"psys": 5000.0})  # a whole machine

REOPEN_INTERVAL_NS: Final = 1_000_000_000
LOOK_INTERVAL_NS: Final = 30_000_000_000
"""How often zones are looked for that came, went or can be told apart now (a module loaded)."""

ROOT_ONLY: Final = "energy_uj is readable by root only"
ROOT_ONLY_REMEDY: Final = (
    "start tychod by its systemd unit, or load its udev rule: both make energy_uj 0440 "
    "root:tychod-data; tychod must run in the group tychod-data"
)

NAMES_REMEDY: Final = (
    "let the daemon's user read the file name of each zone (in the kernel's own tree all may)"
)

# intel-rapl:0 is a package, intel-rapl:0:1 a part of it; intel-rapl alone is the control type.
_ZONE_DIR: Final = re.compile(r"intel-rapl(?:-[a-z]+)?(?::[0-9a-f]+)+")
_CONTROL_DIR: Final = re.compile(r"intel-rapl(?:-[a-z]+)?")
_PACKAGE: Final = re.compile(r"package-(\d+)(?:-die-\d+)?")


class FoundZone(NamedTuple):
    """A zone and where its counter is."""

    zone: EnergyZone
    path: str


class Listing(NamedTuple):
    """The zone directories that there are."""

    paths: Mapping[str, str]  # directory name -> path
    names: Mapping[str, str]  # directory name -> what the zone calls itself
    refused: Mapping[str, str]  # directory name -> why its name cannot be read


class Counter:
    """One energy_uj file, kept open; opened again, at most once a second, after it failed."""

    def __init__(self, host: Host, path: str) -> None:
        self._host = host
        self._path = path
        self._file: KeptFile | None = None
        self._next_open_ns: int | None = None
        self.reason: str | None = None

    def read_uj(self, now_ns: int) -> int | None:
        """Return the counter, or None with ``reason`` set."""
        if self._file is None and not self._may_open(now_ns):
            return None
        try:
            if self._file is None:
                self._file = self._host.open_kept(self._path)
            value_uj = parse_energy_uj(self._file.read())
        except PermissionError:
            self._fail(ROOT_ONLY)
        except OSError as exc:
            self._fail(f"energy_uj: {exc.strerror}")
        except ValueError as exc:
            self._fail(str(exc))
        else:
            self.reason = None
            return value_uj
        return None

    def fileno(self) -> int | None:
        """Return the descriptor of the file; None while it is not open."""
        return self._file.fileno() if self._file else None

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None

    def _may_open(self, now_ns: int) -> bool:
        if self._next_open_ns is not None and now_ns < self._next_open_ns:
            return False
        self._next_open_ns = now_ns + REOPEN_INTERVAL_NS
        return True

    def _fail(self, reason: str) -> None:
        """A device that went and came back has a new file: the old descriptor stays dead."""
        self.close()
        self.reason = reason


class Rapl:
    """All zones of the machine, or those the filter names."""

    name: Final = "rapl"
    quality: Final[Literal["measured", "modelled"]] = "measured"
    delay_s: Final = 0.0
    sensors: Final = ()

    def __init__(
        self, host: Host, listing: Listing, found: Sequence[FoundZone], clock: Clock
    ) -> None:
        self._host = host
        self._listing = listing
        self._clock = clock
        self._next_look_ns = clock.now_ns() + LOOK_INTERVAL_NS
        self.outdated = False
        self.problems: Final = tuple(
            f"zone {directory} is not read: {reason}"
            for directory, reason in listing.refused.items()
        )
        self._counters = [Counter(host, f.path) for f in found]
        self._fds: tuple[int, ...] = ()  # of all counters after all were read; else none
        self.zones: Final = tuple(f.zone for f in found)
        self.zone_reasons: Mapping[str, str] = MappingProxyType({})

    def read(self) -> EnergySample | None:
        """Read every counter; one that fails is None and has a reason; all failed: None."""
        self.outdated = self._look()
        before_ns = self._clock.now_ns()
        energy_uj = self._read_all() or self._read_each(before_ns)
        t_ns = (before_ns + self._clock.now_ns()) // 2
        if None in energy_uj or self.zone_reasons:
            self._note_reasons()
            if not any(e is not None for e in energy_uj):
                return None
        return EnergySample(t_ns, energy_uj)

    def _read_all(self) -> tuple[int, ...]:
        """Return all counters, or nothing where one is not as it should be: no calls for each."""
        pread = os.pread
        try:
            values = tuple([int(pread(fd, 64, 0)) for fd in self._fds])
        except (OSError, ValueError):
            return ()
        return values if values and min(values) >= 0 else ()

    def _read_each(self, now_ns: int) -> tuple[int | None, ...]:
        values = tuple([counter.read_uj(now_ns) for counter in self._counters])
        fds = [fd for counter in self._counters if (fd := counter.fileno()) is not None]
        self._fds = () if None in values else tuple(fds)
        return values

    def _note_reasons(self) -> None:
        """Every counter that was not read has a reason, no other has one."""
        reasons = {
            zone.key: counter.reason
            for zone, counter in zip(self.zones, self._counters, strict=True)
            if counter.reason is not None
        }
        if reasons != self.zone_reasons:
            self.zone_reasons = MappingProxyType(reasons)

    @property
    def failure(self) -> str:
        """Why the last reading gave no sample; empty if it gave one."""
        return failure_of(self.zone_reasons, len(self.zones))

    def _look(self) -> bool:
        """Say whether the zones are others than at the probe; False when it is not time to look."""
        now_ns = self._clock.now_ns()
        if now_ns < self._next_look_ns:
            return False
        self._next_look_ns = now_ns + LOOK_INTERVAL_NS
        try:
            return list_zones(self._host) != self._listing
        except OSError:
            return False  # the counters stay open; the next look tells

    def close(self) -> None:
        """Close every counter."""
        self._fds = ()
        for counter in self._counters:
            counter.close()


def probe(host: Host, config: Config, clock: Clock) -> Ready[EnergyCollector] | Unavailable:
    """Find the zones, apply the filter and read each counter once."""
    listing = list_zones(host)
    found = find_zones(host, listing)
    if not found and listing.refused:
        directory, reason = next(iter(listing.refused.items()))
        return Unavailable(f"no zone can be told apart, e.g. {directory}: {reason}", NAMES_REMEDY)
    if not found:
        return Unavailable(
            f"no powercap zones below {powercap_dir(host)}",
            "normal in most virtual machines; load intel_rapl_msr / intel_rapl_common on bare "
            "metal; the modelled source is used instead",
            absent=True,
        )
    chosen, unknown = filter_zones(found, config.rapl.zones)
    if not chosen:
        return Unavailable(
            f"[rapl] zones = {', '.join(unknown)}: no such zone here",
            f"name some of {', '.join(sorted(_filter_names(found)))}; or none, for all of them",
        )
    collector = Rapl(host, listing, chosen, clock)
    if collector.read() is None:
        collector.close()
        return _unreadable(collector.zone_reasons)
    notes = [f"[rapl] zones: nothing here is called {name!r}" for name in unknown]
    notes += [f"{key}: {reason}" for key, reason in collector.zone_reasons.items()]
    notes += collector.problems
    return Ready(collector, tuple(notes))


def parse_energy_uj(data: bytes) -> int:
    """Return the counter in microjoules; ValueError says what stood there instead."""
    try:
        value_uj = int(data)
    except ValueError:
        raise ValueError(f"energy_uj holds no number: {data[:24]!r}") from None
    if value_uj < 0:
        raise ValueError(f"energy_uj is negative: {value_uj}")
    return value_uj


def powercap_dir(host: Host) -> str:
    """Return the class directory that lists every zone."""
    return f"{host.sysfs}/class/powercap"


def list_zones(host: Host) -> Listing:
    """Return the zones' directories and names; OSError only where powercap cannot be listed."""
    paths = _zone_dirs(host)
    names: dict[str, str] = {}
    refused: dict[str, str] = {}
    for directory in sorted(paths, key=_directory_order):
        try:
            names[directory] = (host.read_text(f"{paths[directory]}/name") or "").strip()
        except OSError as exc:
            refused[directory] = render_error(exc)
    return Listing(paths, names, refused)


def find_zones(host: Host, listing: Listing) -> list[FoundZone]:
    """Return every known zone once, without the MMIO copies of zones that MSRs show, too."""
    found = [
        FoundZone(zone, f"{listing.paths[directory]}/energy_uj")
        for directory in listing.names
        if (zone := _zone(host, directory, listing.paths[directory], listing.names))
    ]
    # Some boards show package-0 twice, by MSR and by MMIO; both count the same joules.
    by_msr = {_identity(f.zone) for f in found if not _is_copy(f.zone)}
    return [f for f in found if not _is_copy(f.zone) or _identity(f.zone) not in by_msr]


def filter_zones(
    found: Sequence[FoundZone], wanted: Sequence[str]
) -> tuple[list[FoundZone], list[str]]:
    """Return the zones that the filter names by domain or name, and the words that name none."""
    if not wanted:
        return list(found), []
    chosen = [f for f in found if f.zone.domain in wanted or f.zone.name in wanted]
    known = _filter_names(found)
    return chosen, [word for word in wanted if word not in known]


def parse_domain(name: str) -> str | None:
    """Return the domain of a zone's name, None for a zone that is none of RAPL's."""
    if _PACKAGE.fullmatch(name):
        return "package"
    return name if name in DOMAINS else None


def parse_socket(name: str) -> int | None:
    """Return the socket of a package's name: 1 for ``package-1`` and ``package-1-die-0``."""
    match = _PACKAGE.fullmatch(name)
    return int(match[1]) if match else None


def _zone_dirs(host: Host) -> dict[str, str]:
    """Return zone directory name -> path; the class lists all zones, flat, as links.

    A tree that was copied from below devices/ nests them; each name is taken once.
    """
    paths: dict[str, str] = {}
    pending = [powercap_dir(host)]
    while pending:
        below = pending.pop(0)
        for entry in _list_zone_dir(host, below):
            path = f"{below}/{entry}"
            if _ZONE_DIR.fullmatch(entry) and entry not in paths:
                paths[entry] = path
                pending.append(path)
            elif _CONTROL_DIR.fullmatch(entry) and below == powercap_dir(host):
                pending.append(path)
    return paths


def _list_zone_dir(host: Host, path: str) -> tuple[str, ...]:
    """List a directory of zones; one zone that may not be searched hides nothing but itself."""
    try:
        return host.list_dir(path) or ()
    except OSError:
        if path == powercap_dir(host):
            raise
        return ()


def _zone(host: Host, directory: str, path: str, names: Mapping[str, str]) -> EnergyZone | None:
    name = names[directory]
    domain = parse_domain(name)
    if domain is None:
        return None
    parent = names.get(directory.rpartition(":")[0], "")
    return EnergyZone(
        key=f"rapl:{directory}:{name}",
        domain=domain,
        name=name,
        socket=parse_socket(name if domain == "package" else parent),
        max_range_uj=_read_number(host, f"{path}/max_energy_range_uj"),
        max_power_w=CEILINGS_W.get(domain, CEILING_W),
    )


def _read_number(host: Host, path: str) -> int:
    """Return a non-negative number, 0 where there is none: reading a limit may fail (ENODATA)."""
    try:
        return max(int(host.read_bytes(path, 64) or b"0"), 0)
    except (OSError, ValueError):
        return 0


def _directory_order(directory: str) -> tuple[str, list[int]]:
    control, *numbers = directory.split(":")
    return control, [int(n, 16) for n in numbers]


def _is_copy(zone: EnergyZone) -> bool:
    return zone.key.startswith("rapl:intel-rapl-mmio:")


def _identity(zone: EnergyZone) -> tuple[str, int | None]:
    return zone.name, zone.socket


def _filter_names(found: Iterable[FoundZone]) -> set[str]:
    return {name for f in found for name in (f.zone.domain, f.zone.name)}


def _unreadable(reasons: Mapping[str, str]) -> Unavailable:
    if ROOT_ONLY in reasons.values():
        return Unavailable(ROOT_ONLY, ROOT_ONLY_REMEDY)
    key, reason = next(iter(reasons.items()))
    return Unavailable(
        f"no zone can be read, e.g. {key}: {reason}",
        f"see dmesg for intel_rapl; error {errno.errorcode[errno.ENODATA]} means that the "
        "processor does not answer",
    )


SPEC: Final[CollectorSpec[EnergyCollector]] = CollectorSpec(
    name="rapl",
    quality="measured",
    enabled=lambda config: config.rapl.enabled,
    interval_s=lambda config: config.rapl.interval,
    probe=probe,
)

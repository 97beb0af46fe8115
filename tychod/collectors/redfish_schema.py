"""What a BMC's documents say of power: which chassis count, where each tells its power, and watts.

Vendors fill in different parts of two schemas.  The first of these that has a plausible value is
used for a chassis: ``EnvironmentMetrics.PowerWatts``; the older ``Power`` document's
``PowerControl``; a sensor of total power; the sum of the power supplies.  A figure for the whole
chassis comes before a sum over supplies: it is one question, of one moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.collectors.redfish_chassis import (
    Candidate,
    Document,
    last_part,
    outermost,
    preferred,
    shown,
    told_apart,
)
from tychod.collectors.redfish_client import ROOT, Answer, Client
from tychod.collectors.redfish_errors import RedfishError

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_CHASSIS: Final = 64
MOST_PARTS: Final = 32
MOST_QUESTIONS: Final = 200  # of one search
LEAST_W: Final = 3.0
"""A BMC alone draws about as much; what is said to be less is in kilowatts, or no reading."""
ALL_ONES: Final = frozenset({float((1 << bits) - 1) for bits in (15, 16, 31, 32, 63, 64)})
"""What a sensor that cannot be read looks like, wherever nobody checked."""
UNITS: Final = frozenset({"W", "Watts", "watts", "Watt"})
CONTEXTS: Final = ("Chassis", "SystemBoard", "")
"""Of several power controls the first of the whole: others are its parts (processors, memory)."""
ABSENT: Final = frozenset({"Absent", "Disabled", "UnavailableOffline"})
INPUT: Final = ("PowerInputWatts", "InputPowerWatts")
OUTPUT: Final = ("PowerOutputWatts", "OutputPowerWatts")
NEED: Final = "see [redfish] chassis, or whether the BMC has a power sensor at all"


class Part(NamedTuple):
    """One place where power is told."""

    path: str
    field: str


class Chassis(NamedTuple):
    """One chassis that counts, and the parts whose sum is its power."""

    ident: str
    path: str
    way: str  # "EnvironmentMetrics", "Power", "Sensor" or "PowerSupplies"
    parts: tuple[Part, ...]
    fingerprint: str = ""  # maker, model, firmware


class Found(NamedTuple):
    """What a search found."""

    chassis: tuple[Chassis, ...]
    notes: tuple[str, ...]


class Reading(NamedTuple):
    """Power of one chassis, and all that tells whether it is a new one."""

    power_w: float
    marks: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # ETags, reading times, Dates
    sent_ns: int
    got_ns: int


class Search:
    """Looks through one BMC's tree, with a bounded number of questions."""

    def __init__(self, client: Client, max_power_w: float) -> None:
        self._client = client
        self._max_power_w = max_power_w
        self._left = MOST_QUESTIONS
        self.reasons: list[str] = []

    def run(self, wanted: Sequence[str]) -> Found:
        """Return the chassis that count; RedfishError where there are none."""
        root = self._get(ROOT)
        sessions = _inside(root, "Links").get("Sessions")
        self._client.sessions_at(self._link(sessions))
        collection = self._link(root.get("Chassis"))
        if collection is None:
            raise RedfishError("the service root has no chassis", NEED)
        present = [self._candidate(path) for path in self._members(collection)[:MOST_CHASSIS]]
        looked_at, notes = preferred(told_apart([c for c in present if c]), wanted)
        found = {
            c.path: made for c in looked_at if (made := self.find(c.ident, c.path, c.document))
        }
        if not found:
            told = "; ".join(self.reasons[:4]) or "no chassis"
            raise RedfishError(f"no chassis tells its power ({told})", NEED)
        chosen = [c for c in looked_at if c.path in found]
        if not wanted:
            chosen = outermost(chosen, present)
            notes += [
                f"chassis {c.ident} holds {c.systems} systems: its power is not this one's alone;"
                " see [redfish] chassis"
                for c in chosen
                if c.systems > 1
            ]
        firmware = self._firmware(chosen[0].document)
        return Found(
            tuple(
                found[c.path]._replace(fingerprint=_fingerprint(c.document, firmware))
                for c in chosen
            ),
            tuple(notes),
        )

    def find(self, ident: str, path: str, document: Document | None = None) -> Chassis | None:
        """Return where a chassis tells its power, None with ``reasons`` if nowhere."""
        try:
            document = self._get(path) if document is None else document
        except RedfishError as exc:
            if not exc.is_missing:
                raise
            self.reasons.append(f"{ident}: {exc.reason}")
            return None
        for way, look in (
            ("EnvironmentMetrics", self._environment),
            ("Power", self._power),
            ("Sensor", self._sensor),
            ("PowerSupplies", self._supplies),
        ):
            try:
                parts = look(document)
                if parts:
                    return Chassis(ident, path, way, parts)
            except ValueError as exc:
                self.reasons.append(f"{ident}: {way}: {exc}")
            except RedfishError as exc:
                if not exc.is_missing:
                    raise
                self.reasons.append(f"{ident}: {exc.reason}")
        return None

    def _environment(self, chassis: Document) -> tuple[Part, ...]:
        return self._whole(self._link(chassis.get("EnvironmentMetrics")), "PowerWatts")

    def _power(self, chassis: Document) -> tuple[Part, ...]:
        return self._whole(self._link(chassis.get("Power")), "PowerControl")

    def _sensor(self, chassis: Document) -> tuple[Part, ...]:
        """Find the sensor of total power; by its name first, for there may be hundreds."""
        collection = self._link(chassis.get("Sensors"))
        paths = self._members(collection) if collection else []
        names = {path: path.rpartition("/")[2].lower() for path in paths}
        for path in (p for p, name in names.items() if "total" in name and "power" in name):
            return self._whole(path, "Reading")
        return ()

    def _whole(self, path: str | None, field: str) -> tuple[Part, ...]:
        """Return the one part that is there; ValueError where its value cannot be power."""
        if path is None:
            return ()
        value = power_in(self._get(path), field)
        if value is None:
            return ()
        check_w(value, self._max_power_w)
        return (Part(path, field),)

    def _supplies(self, chassis: Document) -> tuple[Part, ...]:
        """Find the supplies' input, or output if not all tell their input; those in place only."""
        subsystem = self._link(chassis.get("PowerSubsystem"))
        collection = self._link(self._get(subsystem).get("PowerSupplies")) if subsystem else None
        paths = self._members(collection)[:MOST_PARTS] if collection else []
        told = [self._supply(path) for path in paths]
        for fields in (INPUT, OUTPUT):
            found = [(p, v) for one in told for p, v in one if p.field in fields]
            if len(found) == len([one for one in told if one]) and found:
                for _, value in found:
                    check_part_w(value, self._max_power_w)
                check_w(math.fsum(value for _, value in found), self._max_power_w)
                return tuple(part for part, _ in found)
        return ()

    def _supply(self, path: str) -> list[tuple[Part, float]]:
        """Return what a supply tells, at most one of input and of output."""
        supply = self._get(path)
        metrics = self._link(supply.get("Metrics"))
        documents = [(path, supply)]
        if metrics and all(supply.get(f) is None for f in (*INPUT, *OUTPUT)):
            documents.append((metrics, self._get(metrics)))
        found: dict[bool, tuple[Part, float]] = {}
        for at, document in documents:
            for field in (*INPUT, *OUTPUT):
                value = power_in(document, field)
                if value is not None:
                    found.setdefault(field in INPUT, (Part(at, field), value))
        return list(found.values())

    def _candidate(self, path: str) -> Candidate | None:
        try:
            document = self._get(path)
        except RedfishError as exc:
            if not exc.is_missing:
                raise
            self.reasons.append(exc.reason)
            return None
        links = _inside(document, "Links")
        parent = self._link(links.get("ContainedBy"))
        systems = links.get("ComputerSystems")
        name = document.get("Id")
        return Candidate(
            shown(name) if isinstance(name, str) and name else last_part(path),
            path,
            document,
            (parent.rstrip("/"),) if parent else (),
            len(systems) if isinstance(systems, list) else 0,
        )

    def _firmware(self, chassis: Document) -> str:
        """Return the version of the firmware that publishes, as far as it is told."""
        managers = _inside(chassis, "Links").get("ManagedBy")
        path = self._link(managers[0]) if isinstance(managers, list) and managers else None
        try:
            version = self._get(path).get("FirmwareVersion") if path else None
        except RedfishError:
            return ""
        return shown(version) if isinstance(version, str) else ""

    def _members(self, collection: str) -> list[str]:
        members = self._get(collection).get("Members")
        links = members if isinstance(members, list) else []
        paths = (self._link(link) for link in links[:MOST_QUESTIONS])
        return list(dict.fromkeys(path.rstrip("/") for path in paths if path))

    def _link(self, value: object) -> str | None:
        link = value.get("@odata.id") if isinstance(value, Mapping) else None
        return self._client.path_of(link)

    def _get(self, path: str) -> Document:
        self._left -= 1
        if self._left < 0:
            raise RedfishError(f"no power found in {MOST_QUESTIONS} questions", NEED)
        return self._client.get(path).document


def read_chassis(get: Callable[[str], Answer], chassis: Chassis, max_power_w: float) -> Reading:
    """Read the parts of a chassis and add them up; ValueError where that cannot be its power."""
    answers = {path: get(path) for path in dict.fromkeys(part.path for part in chassis.parts)}
    values: list[float] = []
    for part in chassis.parts:
        value = power_in(answers[part.path].document, part.field)
        if value is None:
            raise ValueError("no reading at present")
        check_part_w(value, max_power_w)
        values.append(value)
    power_w = math.fsum(values)
    check_w(power_w, max_power_w)
    all_of = tuple(answers.values())
    times = tuple(t for a in all_of if isinstance(t := a.document.get("ReadingTime"), str))
    marks = (tuple(a.etag for a in all_of if a.etag), times, tuple(a.date for a in all_of))
    return Reading(power_w, marks, min(a.sent_ns for a in all_of), max(a.got_ns for a in all_of))


def power_in(document: Document, field: str) -> float | None:
    """Return watts that a document holds, None where it tells none; ValueError: no number."""
    if field == "PowerControl":
        return _controlled_w(document)
    if field == "Reading":
        kind = document.get("ReadingType")
        if kind not in (None, "Power"):
            raise ValueError(f"a reading of {shown(kind)}, not of power")
        return _reading_w(document)
    state = _inside(document, "Status").get("State")
    if isinstance(state, str) and state in ABSENT:
        return None
    value = document.get(field)
    return _reading_w(value) if isinstance(value, Mapping) else _number(value)


def check_w(value: float, max_power_w: float) -> None:
    """Raise ValueError where no chassis can draw so much, or so little while a BMC answers."""
    check_part_w(value, max_power_w)
    if value < LEAST_W:
        raise ValueError(f"{value:g} W is less than a BMC draws: no reading, or other units")


def check_part_w(value: float, max_power_w: float) -> None:
    """Raise ValueError where no part can draw that: a supply in reserve may draw nothing at all."""
    if value in ALL_ONES:
        raise ValueError(f"{value:g} W: all bits are one")
    if value < 0:
        raise ValueError(f"{value:g} W is negative")
    if not value <= max_power_w:
        raise ValueError(f"{value:g} W is more than [redfish] max_power, {max_power_w:g} W")


def _controlled_w(document: Document) -> float | None:
    controls = document.get("PowerControl")
    entries = [c for c in controls if isinstance(c, Mapping)] if isinstance(controls, list) else []
    told = [(c, v) for c in entries if (v := _number(c.get("PowerConsumedWatts"))) is not None]
    for context in CONTEXTS:
        for control, value in told:
            if (control.get("PhysicalContext") or "") == context:
                return value
    return told[0][1] if told else None


def _reading_w(excerpt: Document) -> float | None:
    units = excerpt.get("ReadingUnits")
    if units is not None and not (isinstance(units, str) and units in UNITS):
        raise ValueError(f"the unit is {shown(units)}, not W")
    return _number(excerpt.get("Reading"))


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is no number")  # noqa: TRY004 - of the BMC, not of ours
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number


def _inside(document: Document, key: str) -> Document:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}


def _fingerprint(chassis: Document, firmware: str) -> str:
    texts = [v for key in ("Manufacturer", "Model") if isinstance(v := chassis.get(key), str)]
    return ", ".join([*map(shown, texts), *([f"firmware {firmware}"] if firmware else [])])

"""What is known of hwmon chips: which current belongs to which voltage, and what a sensor measures.

Whatever no rule knows is of the domain ``other``: it is shown and is in no total.
"""

from __future__ import annotations

import re
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OTHER: Final = "other"

CEILINGS_W: Final[Mapping[str, float]] = MappingProxyType(
    {
        "package": 1000.0,  # the largest sockets are specified for 500 W
        "core": 1000.0,
        "uncore": 1000.0,
        "gpu": 2000.0,  # the largest modules are specified for 1400 W
        "platform": 25_000.0,  # a machine with eight of them draws under 15 kW
        OTHER: 25_000.0,
    }
)
"""No real load of a domain exceeds this; tells a counter's reset and an absurd reading."""


class Pairing(NamedTuple):
    """Which current of a chip flows at which voltage, where labels do not say it."""

    currents: Mapping[int, int] | None = None  # voltage -> current; None: those of equal number
    not_voltages: frozenset[int] = frozenset()  # shunts, sums and auxiliary inputs
    not_currents: frozenset[int] = frozenset()

    def current_of(self, voltage: int) -> int | None:
        """Return the number of the current that flows at a voltage."""
        if voltage in self.not_voltages:
            return None
        current = voltage if self.currents is None else self.currents.get(voltage)
        return None if current in self.not_currents else current


_BUS: Final = Pairing({1: 1})  # in0 is the shunt's voltage, in1 the bus
_EQUAL: Final = Pairing()

# Each from Documentation/hwmon/<chip>.rst of the kernel.
PAIRINGS: Final[Mapping[str, Pairing]] = MappingProxyType(
    {
        **dict.fromkeys(("ina209", "ina219", "ina226", "ina233", "ina238", "ina260"), _BUS),
        # in1 to in3 are the buses, in4 to in6 their shunts, in7 the sum of the shunts.
        "ina3221": Pairing(not_voltages=frozenset({4, 5, 6, 7})),
        # in1 is the source side, in2 ADIN or the output.
        **dict.fromkeys(("ltc2945", "ltc4260", "ltc4261", "ltc4282"), Pairing({1: 1})),
        "ltc2947": Pairing({0: 1}),
        "ltc2992": Pairing({0: 1, 2: 2}),  # in0 and in2 are the senses, the others auxiliary
        # One current; in1 is the input voltage.
        **dict.fromkeys(("adm1275", "adm1276", "adm1278", "adm1293", "mp2975"), Pairing({1: 1})),
        # in1 is the input, the one current is the output's: in2.
        **dict.fromkeys(("max20730", "max20751"), Pairing({2: 1})),
        "max34440": Pairing(not_currents=frozenset({7, 8})),  # those two have no voltage
        **dict.fromkeys(("max34451", "pmbus", "tps40422", "tps53679", "tps546d24"), _EQUAL),
        **dict.fromkeys(("ir35221", "ucd9000", "ucd90320", "xdpe12284"), _EQUAL),
    }
)

# The names of the PMBus core: vin and iin, vout1 and iout1 (Documentation/hwmon/pmbus.rst).
_PMBUS_RAIL: Final = re.compile(r"[vi](in\d*|out\d+[a-z]?)")


def pair(
    chip: str, voltages: Mapping[int, str], currents: Mapping[int, str]
) -> list[tuple[int, int]]:
    """Return which voltage goes with which current, by number; both are given number -> label.

    Equal labels pair; else the chip's rule, unless both are labelled, and then as other rails.
    Without a rule nothing pairs: equal numbers of an unknown chip say nothing.
    """
    rule = PAIRINGS.get(chip.lower())
    by_rail = _unique_rails(currents)
    rails = _unique_rails(voltages)
    found: dict[int, int] = {}
    for voltage, label in sorted(voltages.items()):
        current = by_rail.get(_rail(label)) if rails.get(_rail(label)) == voltage else None
        if current is None and rule is not None:
            current = rule.current_of(voltage)
            if current is not None and label and currents.get(current):
                continue
        if current is not None and current in currents and current not in found:
            found[current] = voltage
    return [(voltage, current) for current, voltage in found.items()]


def _unique_rails(labels: Mapping[int, str]) -> dict[str, int]:
    counts = Counter(_rail(label) for label in labels.values())
    return {r: n for n, label in labels.items() if (r := _rail(label)) and counts[r] == 1}


def _rail(label: str) -> str:
    match = _PMBUS_RAIL.fullmatch(label)
    return match[1] if match else label


class Measured(NamedTuple):
    """A sensor as far as the rules ask about it."""

    chip: str
    device: str
    label: str
    files: Sequence[str]  # beside it
    labels: Sequence[str]  # of all the chip's channels
    is_battery: bool = False


class DomainRule(NamedTuple):
    """What sensors with such labels on such chips measure."""

    domain: str  # empty: part of something that is read, too; not worth the reading
    chips: str  # regular expression
    labels: str  # the same; a group in it is the socket's number
    is_alone: bool = False  # several of them would be the same watts twice, or might be
    needs: str = ""  # a file without which it does not hold
    without: str = ""  # a label with which it does not hold

    def match(self, sensor: Measured) -> re.Match[str] | None:
        """Return the match of the sensor's label; None where the rule does not hold."""
        if not re.fullmatch(self.chips, sensor.chip) or sensor.is_battery:
            return None
        if self.needs and self.needs not in sensor.files:
            return None
        if self.without and self.without in sensor.labels:
            return None
        return re.fullmatch(self.labels, sensor.label)


_GRACE: Final = r"_power_socket_(\d+)"

# Power supplies among the PMBus drivers (drivers/hwmon/pmbus); the others are regulators of rails.
_SUPPLIES: Final = (
    r"acbel_fsg032|cffps[12]?|dps(?:650ab|800|920ab|1900)|intel_crps185|ipsps1|pfe(?:1100|3000)"
    r"|yh5151e|ym2151e"
)

DOMAIN_RULES: Final = (
    # The whole machine.  ACPI 4.0, 10.4: a meter measures what its _PMD names, and firmware often
    # names nothing; one alone is the machine's (Documentation/hwmon/acpi_power_meter.rst).
    DomainRule("platform", "power_meter", rf"(?!(?:module|grace|cpu|sysio){_GRACE}).*", True),
    # PMBus supplies call the power that they draw pin (Documentation/hwmon/pmbus.rst): one each.
    DomainRule("platform", _SUPPLIES, r"pin\d*"),
    # Documentation/hwmon/corsair-psu.rst: the sum of its outputs.
    DomainRule("platform", "corsairpsu", "power_total"),
    # drivers/hwmon/ibmpowernv.c takes labels from the firmware (OPAL).
    DomainRule("platform", "ibmpowernv", "system(_power)?", True),
    # Jetson Linux guide: the module's input, by the label in the device tree.
    DomainRule("platform", r"ina\d+x?|ltc\d+", "vdd_in|pom_5v_in", True),
    # Grace performance guide: superchip with GPU, HBM and regulators; no fans, disks and supplies.
    DomainRule("platform", "power_meter", f"module{_GRACE}"),
    # Documentation/hwmon/amd_energy.rst; zenergy is its successor outside the kernel.
    DomainRule("package", "amd_energy|zenergy", r"esocket(\d+)"),
    # Grace performance guide: the socket with its DRAM and regulators.
    DomainRule("package", "power_meter", f"grace{_GRACE}"),
    # Documentation/arch/x86/amd_hsmp.rst: one chip for each socket.
    DomainRule("package", "amd_hsmp_hwmon", ""),
    # Documentation/hwmon/fam15h_power.rst: the processor.
    DomainRule("package", "fam15h_power", ""),
    DomainRule("package", "k10temp", "package"),
    # Documentation/hwmon/xgene-hwmon.rst.
    DomainRule("package", "apm_xgene", "cpu_power"),
    DomainRule("core", "power_meter", f"cpu{_GRACE}"),
    DomainRule("uncore", "power_meter", f"sysio{_GRACE}"),
    # The two rails of the processor's regulator (SVI2).
    DomainRule("core", "zenpower", "svi2_p_core"),
    DomainRule("uncore", "zenpower", "svi2_p_soc"),
    # Documentation/ABI/testing/sysfs-driver-intel-{i915,xe}-hwmon: discrete cards only; i915_gtN
    # are parts of a device, pkg is a part of card.
    DomainRule("gpu", "i915|xe", "|card"),
    DomainRule("gpu", "xe", "pkg"),
    # Documentation/gpu/amdgpu/thermal.rst: with an APU the power has the CPU in it, and in1 is
    # vddnb; a discrete card has power1_cap.
    DomainRule("gpu", "amdgpu", "|ppt", needs="power1_cap", without="vddnb"),
    DomainRule("gpu", "nouveau", ""),
    DomainRule("", "amd_energy|zenergy", r"ecore\d+"),
)
"""In order of preference: of each domain only the first rule that finds something holds.

Two sorts of sensors would count the same watts twice.  For GPUs that is so on each device.
"""


class Placed(NamedTuple):
    """What a sensor measures."""

    domain: str  # empty: not worth the reading
    socket: int | None = None


def place(sensors: Sequence[Measured]) -> tuple[list[Placed], list[str]]:
    """Return what each sensor measures, and what a person should know about it."""
    found = [_first(sensor) for sensor in sensors]
    best: dict[tuple[str, str], int] = {}
    for sensor, (rank, _) in zip(sensors, found, strict=True):
        scope = _scope(rank, sensor)
        best[scope] = min(rank, best.get(scope, rank))
    counts = Counter(rank for rank, _ in found)
    placed, notes = [], dict[str, None]()
    for sensor, (rank, socket) in zip(sensors, found, strict=True):
        rule = _rule(rank)
        is_best = best[_scope(rank, sensor)] == rank
        if is_best and rule.is_alone and counts[rank] > 1:
            notes[_doubtful(sensor.chip, counts[rank], rule.domain)] = None
            is_best = False
        placed.append(Placed(rule.domain, socket) if is_best else Placed(OTHER))
    return placed, list(notes)


def _first(sensor: Measured) -> tuple[int, int | None]:
    for rank, rule in enumerate(DOMAIN_RULES):
        match = rule.match(sensor)
        if match:
            return rank, int(match[1]) if match.lastindex else None
    return len(DOMAIN_RULES), None


def _rule(rank: int) -> DomainRule:
    return DOMAIN_RULES[rank] if rank < len(DOMAIN_RULES) else DomainRule(OTHER, "", "")


def _scope(rank: int, sensor: Measured) -> tuple[str, str]:
    """Return what no two rules may claim: a domain of the machine, or of one GPU's device."""
    domain = _rule(rank).domain
    return domain, sensor.device if domain == "gpu" else ""


def _doubtful(chip: str, count: int, domain: str) -> str:
    return (
        f"{count} sensors of {chip} could each be the {domain}'s: none is taken for it; name "
        "the one that is in [hwmon] sensors"
    )

"""What a GPU tells of itself: which power field means what, and which values can be true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tychod.collectors.nvml_library import SUCCESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tychod.collectors.nvml_library import Calls

NS: Final = 1_000_000_000
ALL_ONES_32: Final = 0xFFFF_FFFF
ALL_ONES_64: Final = 0xFFFF_FFFF_FFFF_FFFF

# nvml.h: field ids, architectures, clocks, sensors.
FI_POWER_AVERAGE: Final = 185
FI_POWER_INSTANT: Final = 186
ARCH_AMPERE: Final = 7
ARCH_HOPPER: Final = 9
ARCH_UNKNOWN: Final = ALL_ONES_32
CLOCK_SM: Final = 1
CLOCK_MEMORY: Final = 2
TEMPERATURE_GPU: Final = 0
PSTATE_MOST: Final = 15
VALUE_TYPES: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")

GA100_PCI: Final = range(0x2080, 0x2100)
"""PCI device ids of GA100 (A100, A800, A30), the Ampere chip whose power reading is momentary."""
AVERAGE_S: Final = 1.0
"""What averaged power is the mean over (nvml.h on NVML_FI_DEV_POWER_AVERAGE)."""
PART_TIME_S: Final = 0.025
"""A100 and H100 see 25 ms of each 100 ms (Yang, Adamek, Armour: Part-time Power Measurements)."""

MAX_POWER_W: Final = 2000.0
"""Of a GPU whose limit nobody tells; the largest are specified for 1400 W."""
TRANSIENT: Final = 2.0
"""A card may exceed its limit by so much for a moment (ATX 3.0 grants 100 us of it)."""
COUNTER_SLACK_S: Final = 2.0  # a counter may be this late, and then make up for it
POWER_EPSILON_MW: Final = 2
STUCK_NS: Final = 10 * NS
"""A counter that stands still for so long while power is told counts nothing."""
RATES_NS: Final = NS // 6
"""The driver measures utilisation over 1/6 s to 1 s (nvml.h on nvmlUtilization_t)."""
SLOW_NS: Final = 1 * NS
"""How often memory, clocks and temperature are asked for: each is a call into the driver."""
CELSIUS: Final = range(1, 200)
ENERGY: Final = "nvmlDeviceGetTotalEnergyConsumption"
MHZ_MOST: Final = 20_000


class PowerRule(NamedTuple):
    """How to understand the power readings of one model."""

    usage_is_average: bool  # nvmlDeviceGetPowerUsage is a mean over a second, not momentary
    sensor_s: float  # how much of the time before an update a momentary value saw; 0: not known


class Slow(NamedTuple):
    """What changes slowly or matters little."""

    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    celsius: int | None = None


class Rates(NamedTuple):
    """How busy the device was, by its own measure, and how fast it is set to be."""

    pstate: int | None = None
    sm_percent: int | None = None
    memory_percent: int | None = None


class Values(NamedTuple):
    """What was read of one published update, the energy counter apart."""

    instant_uw: int | None
    average_uw: int | None
    rates: Rates
    slow: Slow


def power_rule(architecture: int | None, pci_device: int) -> PowerRule:
    """Return how a model's power is read, by nvml.h: averaged since Ampere, but not on GA100.

    Which sensors see only a part of the time is known for two chips; of the others nobody says.
    """
    is_ga100 = pci_device in GA100_PCI
    known = architecture is not None and architecture != ARCH_UNKNOWN
    is_new = known and architecture is not None and architecture >= ARCH_AMPERE
    part_time = is_ga100 or architecture == ARCH_HOPPER
    return PowerRule(is_new and not is_ga100, PART_TIME_S if part_time else 0.0)


def max_power_w(constraints: Sequence[int] | None) -> float:
    """Return what no real load exceeds, from the least and greatest power limit in milliwatts."""
    if not constraints or constraints[1] in (0, ALL_ONES_32):
        return MAX_POWER_W
    return min(constraints[1] / 1000 * TRANSIENT, 2 * MAX_POWER_W)


class Plausible:
    """Lets through what can be true; counts and names what is not."""

    def __init__(self, max_w: float) -> None:
        self.max_w: Final = max_w
        self.rejected = 0
        self.kinds: frozenset[str] = frozenset()
        self._energy: tuple[int, int] | None = None  # last believed: time, millijoules
        self._doubtful_mj: int | None = None

    def power_uw(self, value_mw: float | None, kind: str) -> int | None:
        """Return milliwatts as microwatts."""
        if value_mw is None:
            return None
        if not 0 <= value_mw <= self.max_w * 1000:  # all ones are more than that
            self._reject(kind)
            return None
        return round(value_mw * 1000)

    def energy_mj(self, value_mj: int | None, now_ns: int) -> int | None:
        """Return the counter unless it leapt; where it stays, it did leap."""
        if value_mj is None:
            return None
        if value_mj >= ALL_ONES_64 or value_mj < 0:
            self._reject("energy")
            return None
        if self._energy and not self._may_follow(value_mj, now_ns):
            doubtful, self._doubtful_mj = self._doubtful_mj, value_mj
            most_mj = round(self.max_w * 1000 * COUNTER_SLACK_S)
            if doubtful is None or not 0 <= value_mj - doubtful <= most_mj:
                self._reject("energy")
                return None
        self._energy, self._doubtful_mj = (now_ns, value_mj), None
        return value_mj

    def within(self, value: int | None, most: int, kind: str) -> int | None:
        """Return a value of at least 0 and at most ``most``."""
        if value is None or 0 <= value <= most:
            return value
        self._reject(kind)
        return None

    def _may_follow(self, value_mj: int, now_ns: int) -> bool:
        """Say whether a counter can have come so far; one that began anew can."""
        assert self._energy is not None  # noqa: S101 - its only caller asked
        then_ns, before_mj = self._energy
        seconds = (now_ns - then_ns) / NS + COUNTER_SLACK_S
        return value_mj - before_mj <= self.max_w * 1000 * seconds

    def _reject(self, kind: str) -> None:
        self.rejected += 1
        if kind not in self.kinds:
            self.kinds |= {kind}


class Fields:
    """Reads one device: first what tells whether it has published, then the rest."""

    def __init__(self, calls: Calls, rule: PowerRule, max_w: float) -> None:
        self._calls = calls
        self._rule = rule
        self.plausible: Final = Plausible(max_w)
        self.counts = True  # whether the counter does count
        self._energy_mj: int | None = None
        self._moved_ns: int | None = None
        self._power_mw: float | None = None  # of the newest update
        self._utilisation: tuple[int, int] | None = None
        self._ids = [FI_POWER_INSTANT, FI_POWER_AVERAGE]
        self._rates = Rates()
        self._rates_ns: int | None = None
        self._slow = Slow()
        self._slow_ns: int | None = None

    def resume(self, before: Fields) -> None:
        """Go on from an earlier life of the library: what it knew already is not new."""
        self.counts = before.counts
        self._energy_mj, self._moved_ns = before._energy_mj, before._moved_ns
        self._power_mw, self._utilisation = before._power_mw, before._utilisation

    @property
    def energy_uj(self) -> int | None:
        """The counter as last read; None where there is none, or one that does not count."""
        if self._energy_mj is None or not self.counts:
            return None
        return self._energy_mj * 1000

    @property
    def has_average(self) -> bool:
        """Whether the model has an averaged power, as far as is known."""
        return FI_POWER_AVERAGE in self._ids or self._rule.usage_is_average

    def look(self, now_ns: int) -> bool | None:
        """Say whether something new was published; None where nothing can be read.

        The counter alone where it counts; else the power by more than its noise; else utilisation.
        """
        energy_mj = self.plausible.energy_mj(self._calls.ask(ENERGY), now_ns)
        moved = energy_mj is not None and energy_mj != self._energy_mj
        if moved:
            self._energy_mj, self._moved_ns, self.counts = energy_mj, now_ns, True
        elif ENERGY in self._calls.refused:
            self._energy_mj, self.counts = None, False
        elif energy_mj is None:
            return None
        if self._moved_ns is not None and now_ns - self._moved_ns > STUCK_NS:
            self.counts = False
        return moved or (False if self.counts else self._look_at_power())

    def _look_at_power(self) -> bool | None:
        instant, average = self._powers()
        power_mw = average if instant is None else instant
        if power_mw is None:
            return self._look_at_utilisation()
        before, self._power_mw = self._power_mw, power_mw
        if before is None or abs(power_mw - before) > POWER_EPSILON_MW:
            return before is not None
        self._power_mw = before  # or many small steps would never be one
        return False

    def _look_at_utilisation(self) -> bool | None:
        rates = self._calls.ask("nvmlDeviceGetUtilizationRates")
        if rates is None:
            return None
        before, self._utilisation = self._utilisation, (rates.gpu, rates.memory)
        return before not in (None, self._utilisation)

    def read(self, now_ns: int) -> Values:
        """Read what belongs to an update that ``look`` has just seen."""
        instant, average = self._powers()
        self._power_mw = average if instant is None else instant
        return Values(
            instant_uw=self.plausible.power_uw(instant, "momentary power"),
            average_uw=self.plausible.power_uw(average, "averaged power"),
            rates=self._read_rates(now_ns),
            slow=self._read_slow(now_ns),
        )

    def _powers(self) -> tuple[float | None, float | None]:
        """Return momentary and averaged power in milliwatts, each by the field that means it."""
        found = self._field_values()
        instant, average = found.get(FI_POWER_INSTANT), found.get(FI_POWER_AVERAGE)
        if self._rule.usage_is_average and average is None:
            average = self._calls.ask("nvmlDeviceGetPowerUsage")
        elif not self._rule.usage_is_average and instant is None:
            instant = self._calls.ask("nvmlDeviceGetPowerUsage")
        return instant, average

    def _field_values(self) -> dict[int, float]:
        values = self._calls.ask("nvmlDeviceGetFieldValues", self._ids) if self._ids else None
        if values is None:
            return {}
        found, refused = {}, set()
        for number, field in zip(self._ids, values, strict=True):
            code = field.nvmlReturn  # each look into a structure of pynvml costs a microsecond
            if code in FIELD_REFUSED:
                refused.add(number)
            elif code == SUCCESS and (value := field_value(field)) is not None:
                found[number] = value
        # What a device has no field for now it will not have later, in this life of the driver.
        if refused:
            self._ids = [number for number in self._ids if number not in refused]
        return found

    def _read_rates(self, now_ns: int) -> Rates:
        if self._rates_ns is not None and 0 <= now_ns - self._rates_ns < RATES_NS:
            return self._rates
        self._rates_ns = now_ns
        rates = self._calls.ask("nvmlDeviceGetUtilizationRates")
        pstate = self._calls.ask("nvmlDeviceGetPerformanceState")
        within = self.plausible.within
        self._rates = Rates(
            # 32 says that it is not known (NVML_PSTATE_UNKNOWN)
            pstate=pstate if pstate is not None and 0 <= pstate <= PSTATE_MOST else None,
            sm_percent=within(rates.gpu, 100, "utilisation") if rates else None,
            memory_percent=within(rates.memory, 100, "utilisation") if rates else None,
        )
        return self._rates

    def _read_slow(self, now_ns: int) -> Slow:
        if self._slow_ns is not None and 0 <= now_ns - self._slow_ns < SLOW_NS:
            return self._slow
        self._slow_ns = now_ns
        ask, within = self._calls.ask, self.plausible.within
        memory = ask("nvmlDeviceGetMemoryInfo")
        total = memory.total if memory else None
        celsius = ask("nvmlDeviceGetTemperature", TEMPERATURE_GPU)
        self._slow = Slow(
            within(memory.used, memory.total, "memory") if memory else None,
            total if total != ALL_ONES_64 else None,
            within(ask("nvmlDeviceGetClockInfo", CLOCK_SM), MHZ_MOST, "clock"),
            within(ask("nvmlDeviceGetClockInfo", CLOCK_MEMORY), MHZ_MOST, "clock"),
            celsius if celsius in CELSIUS else None,
        )
        return self._slow


FIELD_REFUSED: Final = frozenset({2, 3, 4})
"""nvmlReturn of one field: it is not known to the driver, not supported, or not permitted."""


def field_value(field: Any) -> float | None:
    """Return the value of one good answer of nvmlDeviceGetFieldValues; None: of no known type."""
    kind = field.valueType
    if not 0 <= kind < len(VALUE_TYPES):
        return None
    value: float = getattr(field.value, VALUE_TYPES[kind])
    return value

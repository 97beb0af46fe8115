"""The kernel's hwmon class: which sensor measures what, and what happens when one lies or fails."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.hosts.trees import SECOND, SetClock, host_config, write_files
from tests.sim.hwmon import SimChip, SimSensor, Tree, growing, typical
from tychod.collectors import hwmon
from tychod.collectors.base import EnergyCollector, Ready, Unavailable
from tychod.collectors.hwmon_rules import CEILINGS_W, DOMAIN_RULES, Measured, pair, place
from tychod.collectors.hwmon_tree import NAME_CHARS, clean_name
from tychod.config import Config, Hwmon
from tychod.hostfs import Host

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tychod.samples import EnergyZone, PowerSensor

NOBODY = 65534

GRACE = {
    f"hwmon{number}/{name}": text
    for number, label in enumerate(("Module", "Grace", "CPU", "SysIO"))
    for name, text in {
        "device/name": "power_meter\n",
        "device/power1_average": f"{(4 - number) * 100_000_000}\n",
        "device/power1_oem_info": f"{label} Power Socket 1\n",
        "device/power1_average_interval": "50\n",
        "device/power1_is_battery": "0\n",
    }.items()
}


def probe(
    base: Path, *sensors: str, clock: SetClock | None = None
) -> Ready[EnergyCollector] | Unavailable:
    """Probe a machine below a directory, with a filter."""
    config = Config(host=host_config(base), hwmon=Hwmon(sensors=sensors))
    return hwmon.probe(Host(config.host), config, clock or SetClock())


@contextlib.contextmanager
def ready(base: Path, *sensors: str, clock: SetClock | None = None) -> Iterator[EnergyCollector]:
    """Return the collector of a machine that has one, and close it at the end."""
    found = probe(base, *sensors, clock=clock)
    assert isinstance(found, Ready), found
    try:
        yield found.collector
    finally:
        found.collector.close()


def write(base: Path, files: Mapping[str, str]) -> Path:
    """Write files below class/hwmon and return that directory."""
    listed = base / "sys" / "class" / "hwmon"
    write_files(listed, files)
    return listed


def values(collector: EnergyCollector) -> dict[str, int | None]:
    """Read once and return the values by name of the sensor."""
    sample = collector.read()
    assert sample is not None
    meters: tuple[EnergyZone | PowerSensor, ...] = (*collector.zones, *collector.sensors)
    assert len(meters) == len({meter.key for meter in meters}), "keys are unique"
    read = (*sample.energy_uj, *sample.power_uw)
    return {meter.name: value for meter, value in zip(meters, read, strict=True)}


def domains(collector: EnergyCollector) -> dict[str, tuple[str, int | None]]:
    """Return domain and socket by name of the sensor."""
    meters: tuple[EnergyZone | PowerSensor, ...] = (*collector.zones, *collector.sensors)
    return {meter.name: (meter.domain, meter.socket) for meter in meters}


def test_absent_is_normal(tmp_path: Path) -> None:
    """A machine without such sensors is as it should be: absent, not broken."""
    found = probe(tmp_path)
    assert isinstance(found, Unavailable)
    assert found.absent


def test_grace_counts_nothing_twice(tmp_path: Path) -> None:
    """Of a Grace superchip each meter has its place: the module holds the socket, and it the rails.

    Its driver puts the files beside the device, and says what they are in oem_info.
    """
    write(tmp_path, GRACE)
    with ready(tmp_path) as collector:
        assert domains(collector) == {
            "module_power_socket_1": ("platform", 1),
            "grace_power_socket_1": ("package", 1),
            "cpu_power_socket_1": ("core", 1),
            "sysio_power_socket_1": ("uncore", 1),
        }
        assert values(collector)["grace_power_socket_1"] == 300_000_000
        assert {s.average_s for s in collector.sensors} == {0.05}
        assert collector.zones == ()


def test_machines_meter_is_preferred_to_the_modules(tmp_path: Path) -> None:
    """With a meter of the whole machine the module's is shown, and in no total."""
    write(tmp_path, {**GRACE, "hwmon9/name": "power_meter\n", "hwmon9/power1_average": "9000000\n"})
    with ready(tmp_path) as collector:
        assert domains(collector)["power_meter_power1"] == ("platform", None)
        assert domains(collector)["module_power_socket_1"] == ("other", None)


def test_two_meters_of_unknown_extent_are_not_summed(tmp_path: Path) -> None:
    """Two ACPI meters that do not say what they measure are no total until one is named."""
    for number in (0, 1):
        write(
            tmp_path,
            {
                f"hwmon{number}/name": "power_meter\n",
                f"hwmon{number}/power1_average": "200000000\n",
                f"hwmon{number}/power1_oem_info": f"meter {number}\n",
            },
        )
    found = probe(tmp_path)
    assert isinstance(found, Ready)
    found.collector.close()
    assert {s.domain for s in found.collector.sensors} == {"other"}
    assert any("[hwmon] sensors" in note for note in found.notes), found.notes
    with ready(tmp_path, "meter_1") as collector:
        assert domains(collector) == {"meter_1": ("platform", None)}


def test_supplies_are_summed_by_their_inputs(tmp_path: Path) -> None:
    """Each supply's input counts for the machine, its output and a regulator's rails do not."""
    supply = {"name": "pfe1100\n", "power1_input": "1\n", "power1_label": "pin\n"}
    supply |= {"power2_input": "1\n", "power2_label": "pout1\n"}
    regulator = {"name": "tps53679\n", "power1_input": "1\n", "power1_label": "pin\n"}
    for number, files in enumerate((supply, supply, regulator)):
        write(tmp_path, {f"hwmon{number}/{name}": text for name, text in files.items()})
    with ready(tmp_path) as collector:
        found = [(s.key, s.domain) for s in collector.sensors]
    assert [key for key, domain in found if domain == "platform"] == [
        "hwmon:pfe1100:power1:pin",
        "hwmon:pfe1100@hwmon1:power1:pin",
    ]


def test_energy_is_preferred_and_parts_are_left_out(tmp_path: Path) -> None:
    """amd_energy's sockets are packages; its 64 cores are parts of them, read only when named."""
    files = {"hwmon0/name": "amd_energy\n", "hwmon0/power1_input": "5\n"}
    for number, label in enumerate(("Ecore000", "Ecore001", "Esocket0", "Esocket1"), start=1):
        files[f"hwmon0/energy{number}_input"] = f"{number}000000\n"
        files[f"hwmon0/energy{number}_label"] = f"{label}\n"
    write(tmp_path, files)
    with ready(tmp_path) as collector:
        assert domains(collector) == {"esocket0": ("package", 0), "esocket1": ("package", 1)}
        assert values(collector) == {"esocket0": 3_000_000, "esocket1": 4_000_000}
        assert [zone.max_range_uj for zone in collector.zones] == [0, 0]
        assert collector.sensors == ()
    with ready(tmp_path, "ecore000") as collector:
        assert domains(collector) == {"ecore000": ("other", None)}


def measured(chip: str, label: str, *files: str, labels: tuple[str, ...] = ()) -> Measured:
    """Return a sensor as the rules see it."""
    return Measured(chip, "0000:03:00.0", label, files, labels or (label,))


@pytest.mark.parametrize(
    ("sensor", "domain"),
    [
        (measured("amdgpu", "ppt", "power1_cap"), "gpu"),
        (measured("amdgpu", "ppt", "power1_cap", labels=("ppt", "vddnb")), "other"),
        (measured("amdgpu", "ppt"), "other"),
        (measured("i915", ""), "gpu"),
        (measured("i915_gt0", ""), "other"),
        (measured("ina3221", "vdd_in"), "platform"),
        (measured("ina3221", "vdd_cpu_gpu_cv"), "other"),
        (measured("zenpower", "svi2_p_core"), "core"),
        (measured("k10temp", "package"), "package"),
        (measured("multi_sensor", "package"), "other"),
        (measured("bat0", ""), "other"),
        (measured("power_meter", "")._replace(is_battery=True), "other"),
    ],
    ids=lambda value: "-".join((value.chip, *value.labels)) if isinstance(value, Measured) else "",
)
def test_only_what_is_known_is_in_a_total(sensor: Measured, domain: str) -> None:
    """A GPU is no CPU, an APU no GPU, a label alone says nothing, and a battery is no machine."""
    placed, _ = place([sensor])
    assert placed[0].domain == domain


def test_rules_compete_for_each_device(tmp_path: Path) -> None:
    """A card that shows itself whole and its chip counts once; another card by what it has."""
    del tmp_path
    both = ("card", "pkg")
    sensors = [
        measured("xe", "card", labels=both),
        measured("xe", "pkg", labels=both),
        measured("xe", "pkg")._replace(device="0000:76:00.0"),
    ]
    assert [p.domain for p in place(sensors)[0]] == ["gpu", "other", "gpu"]


def test_every_rule_names_a_known_domain() -> None:
    """A rule's domain has a ceiling, or is left out on purpose."""
    assert {rule.domain for rule in DOMAIN_RULES} - {""} <= set(CEILINGS_W)


def test_pmbus_names_pair_by_rail() -> None:
    """An input voltage never goes with an output current, though both are number 1."""
    assert pair("pmbus", {1: "vin", 2: "vout1"}, {1: "iout1"}) == [(2, 1)]
    assert pair("pmbus", {1: "", 2: ""}, {1: "", 2: ""}) == [(1, 1), (2, 2)]
    assert pair("nobody", {1: ""}, {1: ""}) == []
    assert pair("nobody", {1: "a", 2: "a"}, {1: "a"}) == [], "two of one name tell nothing"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("4294967295000", "all bits"),  # ACPI's unknown power, in mW
        ("-5000000", "negative"),
        ("0", "more than 0 W"),
        ("90000000000", "over the most"),
        ("nonsense", "no number"),
        ("", "no number"),
        ("\x1b[31m" * 40, "no number"),
    ],
)
def test_implausible_values_are_rejected_and_counted(tmp_path: Path, text: str, why: str) -> None:
    """A value that cannot be is not passed on; it has a bounded reason, and rejections a number."""
    clock = SetClock()
    listed = write(
        tmp_path, {"hwmon0/name": "power_meter\n", "hwmon0/power1_average": "120000000\n"}
    )
    with ready(tmp_path, clock=clock) as collector:
        (listed / "hwmon0" / "power1_average").write_text(text)
        for _ in range(3):
            clock.t_ns += SECOND
            assert collector.read() is None
        assert why in collector.failure
        assert len(collector.failure) < 250
        assert collector.failure.isprintable()
        counted = why != "no number"
        assert any("3 implausible" in line for line in collector.problems) == counted
        (listed / "hwmon0" / "power1_average").write_text("120000000\n")
        clock.t_ns += SECOND
        assert values(collector) == {"power_meter_power1": 120_000_000}
        assert collector.failure == ""
        clock.t_ns += 601 * SECOND
        assert collector.problems == ()


def test_rated_maximum_bounds_a_reading(tmp_path: Path) -> None:
    """Over twice what the chip says it is rated for is no reading; a short peak is one."""
    listed = write(
        tmp_path,
        {
            "hwmon0/name": "pfe1100\n",
            "hwmon0/power1_input": "300000000\n",
            "hwmon0/power1_rated_max": "400000000\n",
        },
    )
    with ready(tmp_path) as collector:
        (listed / "hwmon0" / "power1_input").write_text("790000000")
        assert values(collector) == {"pfe1100_power1": 790_000_000}
        (listed / "hwmon0" / "power1_input").write_text("810000000")
        assert collector.read() is None


def test_one_bad_sensor_hides_no_other(tmp_path: Path) -> None:
    """A chip that fails or goes has a reason, the others go on, and it is back when it is back."""
    tree = Tree(tmp_path / "sys", typical(growing(100, 0, 1)))
    tree.step(10 * SECOND)
    clock = SetClock()
    try:
        with ready(tmp_path, clock=clock) as collector:
            tree.set_faults({"hwmon1/power1_average": "ENODATA"})
            tree.step(10 * SECOND)
            assert values(collector) == {"power_meter_power1": None, "vdd_soc": 9_996_000}
            assert list(collector.zone_reasons) == ["hwmon:power_meter@acpi000d:00:power1"]
            tree.set_faults({})
            tree.step(10 * SECOND)
            clock.t_ns += SECOND
            assert values(collector)["power_meter_power1"] == 100_000_000
    finally:
        tree.close()


def test_chips_that_come_and_go_are_noticed(tmp_path: Path) -> None:
    """A look each 30 s finds a chip that came or went, or a channel switched off."""
    tree = Tree(tmp_path / "sys", typical(growing(100, 0, 1)))
    tree.step(10 * SECOND)
    clock = SetClock()
    changes = (
        lambda: tree.add(SimChip("power_meter", (SimSensor("power1", growing(1, 0, 1)),))),
        lambda: tree.remove("hwmon2"),
        lambda: (tmp_path / "sys/class/hwmon/hwmon1/power1_enable").write_text("0\n"),
    )
    try:
        for change in changes:
            with ready(tmp_path, clock=clock) as collector:
                clock.t_ns += 31 * SECOND
                collector.read()
                assert not collector.outdated
                change()
                clock.t_ns += 29 * SECOND
                collector.read()
                assert not collector.outdated, "not yet time to look"
                clock.t_ns += 2 * SECOND
                collector.read()
                assert collector.outdated
            tree.step(10 * SECOND)
    finally:
        tree.close()


def test_a_chip_without_a_place_to_list_is_told(tmp_path: Path) -> None:
    """A filter that names nothing here is refused with what it could have named."""
    write(tmp_path, {"hwmon0/name": "power_meter\n", "hwmon0/power1_average": "5\n"})
    found = probe(tmp_path, "powermeter")
    assert isinstance(found, Unavailable)
    assert "powermeter" in found.reason
    assert "power_meter" in found.remedy
    assert not found.absent
    partly = probe(tmp_path, "power_meter", "gone")
    assert isinstance(partly, Ready)
    partly.collector.close()
    assert any("'gone'" in note for note in partly.notes)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may read less")
def test_root_only_counters_have_a_remedy(tmp_path: Path) -> None:
    """Counters that only root may read make the source unavailable, with what to do."""
    files = {"name": "amd_energy\n", "energy1_input": "5\n", "energy1_label": "Esocket0\n"}
    listed = write(tmp_path, {f"hwmon0/{name}": text for name, text in files.items()})
    (listed / "hwmon0" / "energy1_input").chmod(0o400)
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        found = probe(tmp_path)
    finally:
        os.seteuid(0)
    assert isinstance(found, Unavailable)
    assert "root only" in found.reason
    assert "tychod-data" in found.remedy


def test_names_are_bounded() -> None:
    """A label of 10 000 characters with escapes becomes 64 harmless ones."""
    name = clean_name("\x1b[2J" + "Ä💥" * 5000 + "end")
    assert len(name) <= NAME_CHARS
    assert name.isascii()
    assert name.isprintable()


def test_keys_outlive_a_boot(tmp_path: Path) -> None:
    """Chips that the next boot numbers otherwise keep their sensors' keys."""
    first, second = typical(growing(100, 0, 1))[1:]
    keys = []
    for base, chips in ((tmp_path / "a", (first, second)), (tmp_path / "b", (second, first))):
        tree = Tree(base / "sys", chips)
        tree.step(10 * SECOND)
        with ready(base) as collector:
            keys.append({sensor.key for sensor in collector.sensors})
        tree.close()
    assert keys[0] == keys[1]
    assert len(keys[0]) == 2


def test_values_follow_the_machine(tmp_path: Path) -> None:
    """Counters show the energy, averages its mean over their interval, products of volts and amps
    the power to within what milliamperes can say."""
    total = growing(80, 60, 4)
    chips = (
        SimChip("energy_meter", (SimSensor("energy1", total, "total"),)),
        SimChip("power_meter", (SimSensor("power1", total, average_ms=500),), "acpi", is_old=True),
        SimChip("ina226", (SimSensor("in1", total, "rail"),), "i2c-1"),
    )
    tree = Tree(tmp_path / "sys", chips)
    tree.step(SECOND)
    with ready(tmp_path) as collector:
        for t_ns in range(5 * SECOND, 9 * SECOND, SECOND // 4):
            tree.step(t_ns)
            read = values(collector)
            mean_uw = round((total(t_ns) - total(t_ns - SECOND // 2)) * 2e6)
            moment_uw = (total(t_ns) - total(t_ns - 1_000_000)) * 1e9
            assert read["total"] == round(total(t_ns) * 1e6)
            assert read["power_meter_power1"] == mean_uw
            assert abs((read["rail"] or 0) - moment_uw) <= 6_000, "half a milliampere at 12 V"
        assert [sensor.average_s for sensor in collector.sensors] == [0.5, 0.0]
    tree.close()

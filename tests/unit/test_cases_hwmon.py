"""Hwmon trees and chip rules gathered from Kepler's (TYCHOD_CASES), read by ours.

Kepler sums sensors of one name over all chips into zones and picks a "primary" one as the CPU's.
We keep every sensor, with its own key and with a domain by rules; so from its rows we take the
sensors, files and values, and never the zones.  What ours does otherwise:

=========================  ====================================================================
row                        why
=========================  ====================================================================
hwmon_same_index           an unknown chip's voltage 1 and current 1 need not be of one rail
config-rule-new-chip       rules for further chips are no setting of ours, so nothing pairs
config-rule-overrides      the same result by the built-in rule
all-fixtures(-filter...)   as above, without the unknown chip; three sensors called "package" stay
                           three and are in no total, but for the processor's own (k10temp)
=========================  ====================================================================
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.fixtures.hosts.trees import SetClock, host_config, write_files
from tychod.collectors import hwmon
from tychod.collectors.base import Ready, Unavailable
from tychod.collectors.hwmon_meter import parse_number
from tychod.collectors.hwmon_rules import PAIRINGS, pair
from tychod.collectors.hwmon_tree import clean_name
from tychod.config import Config, Hwmon
from tychod.hostfs import Host

if TYPE_CHECKING:
    from pathlib import Path

NO_PAIRS = {"hwmon_same_index", "config-rule-new-chip"}
UNKNOWN_CHIP = "unknown_chip_power"
ROWS = 36

Told = tuple[str, str, int]


@pytest.fixture
def data(cases_dir: Path) -> dict[str, Any]:
    """Return the file's content."""
    content: dict[str, Any] = json.loads((cases_dir / "hwmon_trees.json").read_text())
    return content


def build(base: Path, row: dict[str, Any]) -> None:
    """Write a row's tree; links point below sysfs, mostly to nothing."""
    listed = base / "sys" / "class" / "hwmon"
    listed.mkdir(parents=True)
    write_files(listed, row["files"])
    for name, target in row["links"].items():
        (listed / name).symlink_to(f"../../../{target}")


def expected(row: dict[str, Any]) -> list[Told]:
    """Return kind, name and value of each sensor that we should find."""
    if row["id"] in NO_PAIRS:
        return []
    return sorted(
        (
            "energy" if sensor["kind"] == "energy" else "power",
            sensor["name"],
            sensor["microjoules"] if sensor["kind"] == "energy" else sensor["microwatts"],
        )
        for sensor in row["expect"].get("sensors", ())
        if not sensor["name"].startswith(UNKNOWN_CHIP)
    )


def found_in(base: Path, words: tuple[str, ...] = ()) -> list[Told]:
    """Return the same of what our collector finds; nothing where it is unavailable."""
    config = Config(host=host_config(base), hwmon=Hwmon(sensors=words))
    found = hwmon.probe(Host(config.host), config, SetClock())
    if isinstance(found, Unavailable):
        return []
    assert isinstance(found, Ready)
    sample = found.collector.read()
    found.collector.close()
    assert sample is not None
    keys = [meter.key for meter in (*found.collector.zones, *found.collector.sensors)]
    assert len(keys) == len(set(keys))
    energy = zip(found.collector.zones, sample.energy_uj, strict=True)
    power = zip(found.collector.sensors, sample.power_uw, strict=True)
    told = [("energy", zone.name, value or 0) for zone, value in energy]
    told += [("power", sensor.name, value or 0) for sensor, value in power]
    return sorted(told)


def test_every_row(tmp_path: Path, data: dict[str, Any]) -> None:
    """Each tree gives the sensors and values that our rules promise."""
    rows = {row["id"]: row for row in data["cases"]}
    assert len(rows) == ROWS
    for name, row in rows.items():
        if not isinstance(row["files"], dict):
            continue  # "same as": below
        build(tmp_path / name, row)
        assert found_in(tmp_path / name, tuple(row["zone_filter"])) == expected(row), name
    filtered = rows["all-fixtures-filter-package"]
    packages = found_in(tmp_path / "all-fixtures", tuple(filtered["zone_filter"]))
    (zone,) = filtered["expect"]["zones"]
    assert [name for _, name, _ in packages] == ["package"] * zone["members"]
    assert sum(value for *_, value in packages) == zone["watts"] * 1e6


def test_only_the_processors_package_is_one(tmp_path: Path, data: dict[str, Any]) -> None:
    """Of all these chips no label makes a CPU of a GPU or of a board's sensor."""
    build(tmp_path, data["cases"][0])
    config = Config(host=host_config(tmp_path))
    found = hwmon.probe(Host(config.host), config, SetClock())
    assert isinstance(found, Ready)
    found.collector.close()
    meters = (*found.collector.zones, *found.collector.sensors)
    counted = [(meter.domain, meter.key) for meter in meters if meter.domain != "other"]
    assert counted == [("package", "hwmon:k10temp:power1:package")]


def test_chip_rules(data: dict[str, Any]) -> None:
    """Every chip's voltages and currents, unlabelled, pair as its rule says."""
    rules = data["known_chip_rules"]
    assert set(rules) == set(PAIRINGS)
    numbers = range(9)
    unlabelled = dict.fromkeys(numbers, "")
    for chip, rule in rules.items():
        pairs = {int(v): c for v, c in rule["pairings"].items()}
        theirs = {
            (v, c)
            for v in numbers
            for c in ([v] if rule["same_index"] else [pairs[v]] if v in pairs else [])
            if v not in rule["skip_voltages"] and c not in rule["skip_currents"]
        }
        assert set(pair(chip, unlabelled, unlabelled)) == theirs, chip
    for row in data["rule_lookup_cases"]:
        assert bool(pair(row["chip"], unlabelled, unlabelled)) == row["found"]


def test_names_and_values(data: dict[str, Any]) -> None:
    """Names are cleaned and numbers read as theirs are."""
    for row in data["name_cleaning_cases"]:
        assert clean_name(row["in"]) == row["out"]
    for row in data["value_error_cases"]:
        content = row["content"].encode()
        if row.get("error"):
            with pytest.raises(ValueError, match="no number"):
                parse_number(content)
        else:
            assert parse_number(content) == row["microwatts"]

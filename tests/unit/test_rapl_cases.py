"""Powercap trees gathered from Kepler's rules (TYCHOD_CASES), read by ours.

Kepler sums zones of one domain and stops at the first fault.  We keep every zone with its socket,
so where its rows expect an aggregate we expect the members, and where they expect an error for
one zone's sake we expect the others.  Its "primary zone" is a matter of our analysis.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.fixtures.hosts.trees import SetClock, host_config, write_files
from tychod.collectors import rapl
from tychod.collectors.base import Ready, Unavailable
from tychod.config import Config, Rapl
from tychod.hostfs import Host

if TYPE_CHECKING:
    from pathlib import Path

OURS: dict[str, list[tuple[str, str, int | None]]] = {
    # An MMIO dram zone is the same memory as the MSR one: theirs sums both (marked HAZARD there).
    "mmio-dram-double-count": [("intel-rapl:0", "package", 1000), ("intel-rapl:0:0", "dram", 500)],
    # Theirs adds up two packages; ours keeps them.
    "kepler-fixture": [
        ("intel-rapl:0", "package", 240422366267),
        ("intel-rapl:0:0", "core", 118821284256),
        ("intel-rapl:a", "package", 240422366267),
    ],
    # Without a range ours counts on and takes a step back as a reset; theirs gives up.
    "max-range-missing": [("intel-rapl:0", "package", 1)],
}
UNAVAILABLE = {
    "empty": "no powercap zones",
    "unknown-names": "no powercap zones",  # theirs takes any name; ours knows RAPL's domains
    "energy-unreadable-first": "no zone can be read",
}


def load(cases_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of the file."""
    rows: list[dict[str, Any]] = json.loads((cases_dir / "rapl_trees.json").read_text())["cases"]
    return rows


def build(base: Path, row: dict[str, Any]) -> None:
    """Write a row's tree; a counter that cannot be read is a directory, for root may read all."""
    powercap = base / "sys" / "class" / "powercap"
    powercap.mkdir(parents=True)
    write_files(powercap, {k: v for k, v in row["files"].items() if v is not None})
    for name in (k for k, v in row["files"].items() if v is None):
        (powercap / name).mkdir(parents=True)


def expected(row: dict[str, Any]) -> list[tuple[str, str, int | None]]:
    """Return directory, domain and first value of each zone that we should find."""
    if row["id"] in OURS:
        return OURS[row["id"]]
    zones = [(z["members"][0], z["name"], z["first_energy_uj"]) for z in row["expect"]["zones"]]
    return sorted(zones)


def test_every_row(tmp_path: Path, cases_dir: Path) -> None:
    """Each tree gives the zones and values that our rules promise."""
    rows = load(cases_dir)
    for row in rows:
        base = tmp_path / row["id"]
        build(base, row)
        config = Config(host=host_config(base), rapl=Rapl(zones=tuple(row["zone_filter"])))
        found = rapl.probe(Host(config.host), config, SetClock())
        if row["id"] in UNAVAILABLE:
            assert isinstance(found, Unavailable), row["id"]
            assert UNAVAILABLE[row["id"]] in found.reason, row["id"]
            continue
        assert isinstance(found, Ready), row["id"]
        sample = found.collector.read()
        zones = found.collector.zones
        found.collector.close()
        assert sample is not None, row["id"]
        got = [
            (zone.key.removeprefix("rapl:").rpartition(":")[0], zone.domain, value)
            for zone, value in zip(zones, sample.energy_uj, strict=True)
        ]
        assert got == expected(row), row["id"]
    assert {row["id"] for row in rows} >= set(OURS) | set(UNAVAILABLE)


def test_names_and_sockets(cases_dir: Path) -> None:
    """Names give their domain, packages their socket; theirs numbers the others from 0."""
    data = json.loads((cases_dir / "rapl_trees.json").read_text())
    for row in data["name_index_cases"]:
        for name, (domain, index) in zip(row["names_in_order"], row["expect"], strict=True):
            assert rapl.parse_domain(name) == domain
            assert rapl.parse_socket(name) == (index if domain == "package" else None)

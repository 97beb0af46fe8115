"""Twenty-four BMCs of Kepler's tests and DMTF's mock-ups, read by the real collector over HTTPS."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.sim.bmc import SimBmc, fingerprint, make_certificate
from tychod.clock import SystemClock
from tychod.collectors import redfish
from tychod.collectors.base import Ready
from tychod.config import Config
from tychod.config import Host as Roots
from tychod.hostfs import Host

FILE: Final = "redfish_power.json"

WHOLE: Final = "the chassis' own figure (Power) comes before a sum of supplies; both are there"
INPUT: Final = "what supplies draw is the machine's power, not what they deliver"
PARTS: Final = "several controls: the first of the whole; others may be its parts (Lenovo)"
EACH: Final = "each chassis is read by the schema that it has"
OTHERWISE: Final[dict[str, tuple[dict[str, float], str]]] = {
    "subsystem-100w": ({"1": 100.0}, WHOLE),
    "subsystem-150w": ({"1": 150.0}, WHOLE),
    "subsystem-590w": ({"1": 590.0}, WHOLE),
    "subsystem-175w": ({"1": 175.0}, WHOLE),
    "standby-supply": ({"1": 272.222}, INPUT),
    "null-supply": ({"1": 272.222}, INPUT),
    "two-chassis": ({"1": 222.222, "2": 111.112}, INPUT),
    "two-chassis-mixed": ({"1": 222.222, "2": 80.0}, f"{EACH}; {INPUT}"),
    "two-chassis-mixed-reversed": ({"1": 222.222, "2": 80.0}, f"{EACH}; {INPUT}"),
    "several-controls": ({"1": 344.0}, PARTS),
    "dmtf-public-rackmount": ({"1U": 344.0, "2U": 450.0, "4U": 750.0}, f"{WHOLE}; {PARTS}"),
    "dmtf-public-rackmount-power-only": ({"1U": 344.0, "2U": 450.0, "4U": 750.0}, PARTS),
}
"""Rows that we read otherwise than Kepler: watts of each chassis, and why."""


def read_all(folder: Path, rows: list[dict[str, Any]]) -> dict[str, dict[str, float] | None]:
    """Return what one collector after another reads of each row's BMC: watts of each chassis."""
    pair = make_certificate(folder)
    found: dict[str, dict[str, float] | None] = {}
    with SimBmc(pair, login=None) as bmc:
        file = folder / "bmc.toml"
        file.write_text(f'endpoint = "{bmc.url}"\n')
        file.chmod(0o600)
        settings = replace(
            Config().redfish, credentials=str(file), fingerprint=fingerprint(pair), timeout=5.0
        )
        for row in rows:
            bmc.resources = row["resources"]
            outcome = redfish.probe(
                Host(Roots()), replace(Config(), redfish=settings), SystemClock()
            )
            assert isinstance(outcome, Ready)
            collector = outcome.collector
            sample = collector.read()
            found[row["id"]] = sample and {
                sensor.name: value / 1e6
                for sensor, value in zip(collector.sensors, sample.power_uw, strict=True)
                if value is not None
            }
            assert bool(collector.failure) == (sample is None)
            collector.close()
    return found


def expected(row: dict[str, Any]) -> dict[str, float] | None:
    """Return watts of each chassis as the row has them, supplies added up; None: no reading."""
    if row["expect"].get("init_error"):
        return None
    return {
        chassis["chassis_id"]: sum(reading["watts"] for reading in chassis["readings"])
        for chassis in row["expect"]["chassis"]
    }


def test_every_bmc_is_read_as_kepler_or_otherwise_with_a_reason(
    cases_dir: Path, tmp_path: Path
) -> None:
    """Same watts, or those of the table; each row of the table is needed."""
    rows = json.loads((cases_dir / FILE).read_text())["cases"]
    found = read_all(tmp_path, rows)

    assert len(found) == len(rows) > 0
    for row in rows:
        theirs, ours = expected(row), found[row["id"]]
        if row["id"] in OTHERWISE:
            watts, why = OTHERWISE[row["id"]]
            assert ours == pytest.approx(watts), f"{row['id']}: {why}"
            assert ours != theirs, row["id"]
        else:
            assert (row["id"], ours) == (row["id"], theirs)
    assert OTHERWISE.keys() <= found.keys()


def test_the_node_is_named_by_the_settings_then_kubernetes_then_the_host(cases_dir: Path) -> None:
    """Blank names do not count."""
    rows = json.loads((cases_dir / "bmc_config.json").read_text())["node_name_precedence_cases"]

    assert rows
    for row in rows:
        names = (row["flag_or_yaml"], row["kube_node"], row["hostname"])
        assert redfish.first_named(*names) == row["expect"]

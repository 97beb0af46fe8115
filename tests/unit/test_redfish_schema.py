"""Watts in a BMC's documents: what is power, what cannot be, and which figure counts."""

from dataclasses import replace

import pytest

from tychod.collectors.redfish_chassis import Candidate, told_apart
from tychod.collectors.redfish_client import Answer
from tychod.collectors.redfish_schema import Chassis, Part, check_w, power_in, read_chassis
from tychod.config import Config
from tychod.conflicts import problems_between

IMPLAUSIBLE = (
    (0.0, "less than a BMC draws"),
    (0.25, "less than a BMC draws"),  # kilowatts
    (-4.0, "negative"),
    (250_000.0, "more than [redfish] max_power"),  # milliwatts
    (65535.0, "all bits are one"),
    (4294967295.0, "all bits are one"),
)


@pytest.mark.parametrize(("value", "reason"), IMPLAUSIBLE)
def test_what_no_chassis_draws_is_rejected(value: float, reason: str) -> None:
    """Zero, kilowatts, milliwatts, negative, all ones: no reading, never 0 W."""
    with pytest.raises(ValueError, match="W") as caught:
        check_w(value, 20000.0)

    assert reason in str(caught.value)


def test_all_ones_are_rejected_below_the_ceiling_too() -> None:
    """A ceiling may be set higher than 65535 W."""
    with pytest.raises(ValueError, match="all bits"):
        check_w(65535.0, 1e6)


SUPPLIES = (
    ((1e308, 1e308), "more than [redfish] max_power"),
    ((-500.0, 800.0), "negative"),
    ((65535.0, 100.0), "all bits are one"),
    ((19_000.0, 19_000.0), "more than [redfish] max_power"),
    ((0.0, 0.0), "less than a BMC draws"),
)


def supplied(watts: tuple[float, ...], max_power_w: float = 20000.0) -> float:
    """Return the power of a chassis that tells it by its supplies."""
    answers = {f"/{n}": Answer({"PowerInputWatts": w}, "", "", 0, 1) for n, w in enumerate(watts)}
    parts = tuple(Part(path, "PowerInputWatts") for path in answers)
    chassis = Chassis("1", "/x", "PowerSupplies", parts)
    return read_chassis(answers.__getitem__, chassis, max_power_w).power_w


@pytest.mark.parametrize(("watts", "reason"), SUPPLIES)
def test_each_supply_has_to_be_plausible(watts: tuple[float, ...], reason: str) -> None:
    """What is wrong with one may not be made up for by another."""
    with pytest.raises(ValueError, match="W") as caught:
        supplied(watts, 1e6 if 65535.0 in watts else 20000.0)

    assert reason in str(caught.value)


def test_a_supply_in_reserve_may_draw_nothing() -> None:
    """Half of a redundant pair often does."""
    assert supplied((400.0, 0.0)) == 400.0


def candidate(ident: str, path: str) -> Candidate:
    """Return a chassis that is there."""
    return Candidate(ident, path, {}, (), 0)


def test_chassis_of_one_id_have_names_of_their_own() -> None:
    """The last part of their paths, in any order; a digest where that is no other."""
    present = [
        candidate("1", "/redfish/v1/Chassis/Left"),
        candidate("2", "/redfish/v1/Chassis/Two"),
        candidate("1", "/redfish/v1/Chassis/Right"),
        candidate("x", "/redfish/v1/Chassis/A/S"),
        candidate("x", "/redfish/v1/Chassis/B/S"),
    ]

    named = {c.path: c.ident for c in told_apart(present)}
    turned = {c.path: c.ident for c in told_apart(present[::-1])}

    assert turned == named
    assert len(set(named.values())) == 5
    assert named["/redfish/v1/Chassis/Left"] == "Left"
    assert named["/redfish/v1/Chassis/Two"] == "2"
    assert all(len(name) <= 64 for name in named.values())


BAD = (
    ({"PowerWatts": {"Reading": "250"}}, "is no number"),
    ({"PowerWatts": {"Reading": True}}, "is no number"),
    ({"PowerWatts": {"Reading": float("nan")}}, "no finite number"),
    ({"PowerWatts": {"Reading": 10**400}}, "no finite number"),
    ({"PowerWatts": {"Reading": 250, "ReadingUnits": "mW"}}, "the unit is mW, not W"),
    ({"PowerWatts": {"Reading": 250, "ReadingUnits": ["\x1b" * 999]}}, "not W"),
    ({"PowerWatts": "\x1b[2J" * 999}, "is no number"),
    ({"Status": {"State": []}, "PowerWatts": []}, "is no number"),
)


@pytest.mark.parametrize(("document", "reason"), BAD)
def test_what_is_no_number_of_watts_is_told_shortly(
    document: dict[str, object], reason: str
) -> None:
    """Whatever a BMC writes there, the message is short and printable."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        power_in(document, "PowerWatts")

    text = str(caught.value)
    assert reason in text
    assert text.isprintable()
    assert len(text) < 120


def test_absence_is_none() -> None:
    """Null, a missing field, a supply that is not there: not observed, not 0."""
    assert power_in({"PowerWatts": {"Reading": None}}, "PowerWatts") is None
    assert power_in({}, "PowerWatts") is None
    absent = {"Status": {"State": "Absent"}, "PowerInputWatts": 0}
    assert power_in(absent, "PowerInputWatts") is None


def test_of_several_power_controls_the_one_of_the_whole_counts() -> None:
    """Those of processors and memory are parts of it (Lenovo): a sum would count them twice."""
    controls = [
        {"PhysicalContext": "CPU", "PowerConsumedWatts": 90},
        {"PowerConsumedWatts": 240},
        {"PhysicalContext": "Chassis", "PowerConsumedWatts": 300},
    ]

    assert power_in({"PowerControl": controls}, "PowerControl") == 300
    assert power_in({"PowerControl": controls[:2]}, "PowerControl") == 240
    assert power_in({"PowerControl": controls[:1]}, "PowerControl") == 90
    assert power_in({"PowerControl": [{"PowerConsumedWatts": None}]}, "PowerControl") is None


def test_a_sensor_of_something_else_is_no_power() -> None:
    """Its name alone is no proof."""
    with pytest.raises(ValueError, match="Temperature"):
        power_in({"ReadingType": "Temperature", "Reading": 40}, "Reading")


PRINT = "AB:" * 31 + "AB"
SETTINGS: tuple[tuple[dict[str, object], list[str]], ...] = (
    ({"fingerprint": PRINT}, []),
    ({"fingerprint": "ab" * 32}, []),
    ({"fingerprint": "ab" * 31}, ["redfish.fingerprint"]),
    ({"fingerprint": "SHA256:" + PRINT}, ["redfish.fingerprint"]),
    ({"fingerprint": PRINT, "ca_file": "/etc/ca"}, ["redfish.ca_file"]),
    ({"insecure": True}, []),
    ({"insecure": True, "ca_file": "/etc/ca"}, ["redfish.insecure"]),
    ({"insecure": True, "fingerprint": PRINT}, ["redfish.insecure"]),
)


@pytest.mark.parametrize(("settings", "paths"), SETTINGS)
def test_only_one_way_to_know_the_bmc_can_be_set(
    settings: dict[str, object], paths: list[str]
) -> None:
    """A fingerprint beside `insecure` would look as if it were compared."""
    config = Config()
    config = replace(config, redfish=replace(config.redfish, **settings))  # type: ignore[arg-type]

    assert [conflict.path for conflict in problems_between(config)] == paths

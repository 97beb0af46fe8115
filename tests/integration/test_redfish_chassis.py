"""Which chassis of a BMC count, over HTTPS: nothing twice, nothing of others."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.bmc import SimBmc, fingerprint, make_certificate
from tychod.clock import SystemClock
from tychod.collectors import redfish
from tychod.collectors.base import Ready, Unavailable
from tychod.collectors.redfish import Redfish
from tychod.config import Config
from tychod.config import Host as Roots
from tychod.hostfs import Host

ROOT = "/redfish/v1/"
Read = Callable[..., Redfish]


def chassis(name: str, watts: float | None, **links: object) -> dict[str, object]:
    """Return the documents of one chassis; `inside` names what it is in, `systems` how many."""
    path = f"{ROOT}Chassis/{name}"
    made: dict[str, object] = {}
    if "inside" in links:
        made["ContainedBy"] = {"@odata.id": f"{ROOT}Chassis/{links['inside']}"}
    if "systems" in links:
        made["ComputerSystems"] = [{"@odata.id": f"{ROOT}Systems/{i}"} for i in range(9)][
            : int(str(links["systems"]))
        ]
    power = {} if watts is None else {"Power": {"@odata.id": links.get("power", f"{path}/Power")}}
    return {
        path: {"Id": name, "Links": made, **power},
        f"{path}/Power": {"PowerControl": [{"PowerConsumedWatts": watts}]},
    }


def tree(*parts: Mapping[str, object]) -> dict[str, object]:
    """Return the documents of a BMC with some chassis."""
    documents = {path: document for part in parts for path, document in part.items()}
    paths = [p for p in documents if p.count("/") == 4]
    members = [{"@odata.id": path} for path in paths]
    root = {"Chassis": {"@odata.id": f"{ROOT}Chassis"}}
    return {ROOT: root, f"{ROOT}Chassis": {"Members": members}, **documents}


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Return what reads a BMC with some documents once."""
    pair = make_certificate(tmp_path)
    file = tmp_path / "bmc.toml"
    found: list[Redfish] = []
    with SimBmc(pair, login=None) as bmc:
        file.write_text(f'endpoint = "{bmc.url}"\n')
        file.chmod(0o600)

        def do(documents: Mapping[str, object], **settings: object) -> Redfish:
            bmc.resources = documents
            chosen = replace(
                Config().redfish,
                credentials=str(file),
                fingerprint=fingerprint(pair),
                **settings,  # type: ignore[arg-type]
            )
            outcome = redfish.probe(Host(Roots()), replace(Config(), redfish=chosen), SystemClock())
            assert isinstance(outcome, Ready)
            assert isinstance(outcome.collector, Redfish)
            outcome.collector.read()
            found.append(outcome.collector)
            return outcome.collector

        yield do
        for collector in found:
            collector.close()


def names(collector: Redfish) -> list[str]:
    """Return the names of the chassis that count."""
    return [sensor.name for sensor in collector.sensors]


def test_what_is_inside_another_chassis_is_not_added_to_it(read: Read) -> None:
    """However deep, and also where what lies between tells no power; a ring does no harm."""
    nested = tree(
        chassis("Outer", 500.0, systems=1),
        chassis("Tray", None, inside="Outer"),
        chassis("Blade", 200.0, inside="Tray", systems=1),
    )
    ring = tree(chassis("A", 100.0, inside="B"), chassis("B", None, inside="A"))

    assert names(read(nested)) == ["Outer"]
    assert names(read(ring)) == ["A"]


def test_an_enclosure_without_power_leaves_it_to_what_it_holds(read: Read) -> None:
    """The outermost chassis that has a reading counts."""
    documents = tree(
        chassis("Enclosure", None),
        chassis("Node", 200.0, inside="Enclosure", systems=1),
    )

    assert names(read(documents)) == ["Node"]


def test_chassis_with_a_system_come_before_shelves_without(read: Read) -> None:
    """A shelf of disks or a power bay is not this machine."""
    assert names(read(tree(chassis("Shelf", 90.0), chassis("1", 300.0, systems=1)))) == ["1"]


def test_several_systems_in_one_chassis_are_told(read: Read) -> None:
    """Then its power is not this node's alone."""
    notes = read(tree(chassis("1", 900.0, systems=4))).notes

    assert any("chassis 1 holds 4 systems" in note for note in notes)


def test_the_settings_choose_and_what_is_not_there_is_told(read: Read) -> None:
    """Named chassis count, whatever they are in."""
    documents = tree(chassis("Self", 300.0), chassis("Bay", 100.0, inside="Self"))

    found = read(documents, chassis=("Bay", "Nowhere"))
    none = read(documents, chassis=("Nowhere",))

    assert names(found) == ["Bay"]
    assert "[redfish] chassis: there is no Nowhere" in found.notes
    assert "none of [redfish] chassis is there; name some of Bay, Self" in none.failure


FOREIGN = (
    "https://example.invalid/redfish/v1/Chassis/1/Power",
    "//example.invalid/redfish/v1/Chassis/1/Power",
    "/etc/passwd",
    "/redfish//example.invalid/",
    "/redfish/v1/\r\nX-Evil: 1",
    "/redfish/" + "x" * 9999,
    "http://127.0.0.1/redfish/v1/Chassis/1/Power",
    17,
)


@pytest.mark.parametrize("link", FOREIGN, ids=range(len(FOREIGN)))
def test_a_link_to_elsewhere_is_not_followed(read: Read, link: object) -> None:
    """The password and the questions stay with the BMC."""
    found = read(tree(chassis("1", 200.0, power=link)))

    assert found.sensors == ()
    assert "no chassis tells its power" in found.failure


def test_a_tree_without_end_is_given_up(read: Read) -> None:
    """So many questions, and not one more."""
    documents = tree(*(chassis(f"c{i}", 0.0) for i in range(150)))

    found = read(documents)

    assert "no chassis tells its power" in found.failure
    assert len(found.failure) < 1000


def test_without_credentials_the_source_is_absent() -> None:
    """Most machines have none; nothing is imported, nobody is asked."""
    outcome = redfish.probe(Host(Roots()), Config(), SystemClock())

    assert isinstance(outcome, Unavailable)
    assert outcome.absent


def test_credentials_that_may_not_be_used_are_told_with_the_remedy(tmp_path: Path) -> None:
    """The probe's answer is what `sources` and `doctor` show."""
    file = tmp_path / "bmc.csv"
    file.write_text("node,user,password,https://192.0.2.1\n")
    file.chmod(0o644)
    config = replace(Config(), redfish=replace(Config().redfish, credentials=str(file)))

    outcome = redfish.probe(Host(Roots()), config, SystemClock())

    assert isinstance(outcome, Unavailable)
    assert not outcome.absent
    assert outcome.remedy == f"chmod 0600 {file}"

"""RAPL by powercap: which zones, which socket, what happens when one of them fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.hosts.trees import SECOND, SetClock, host_config, write_files
from tests.sim.powercap import LAYOUTS, Machine, Power, SimZone, build_tree
from tychod.collectors import rapl
from tychod.collectors.base import UNREADABLE_REMEDY, EnergyCollector, Ready, Unavailable
from tychod.config import Config, Rapl
from tychod.hostfs import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


def probe(
    base: Path, *zones: str, clock: SetClock | None = None
) -> Ready[EnergyCollector] | Unavailable:
    """Probe a machine below a directory, with a filter."""
    config = Config(host=host_config(base), rapl=Rapl(zones=zones))
    return rapl.probe(Host(config.host), config, clock or SetClock())


@contextlib.contextmanager
def ready(base: Path, *zones: str, clock: SetClock | None = None) -> Iterator[EnergyCollector]:
    """Return the collector of a machine that has one, and close it at the end."""
    found = probe(base, *zones, clock=clock)
    assert isinstance(found, Ready), found
    try:
        yield found.collector
    finally:
        found.collector.close()


def values(collector: EnergyCollector) -> dict[str, int | None]:
    """Read once and return the counters by zone directory."""
    sample = collector.read()
    assert sample is not None
    names = [zone.key.removeprefix("rapl:").rpartition(":")[0] for zone in collector.zones]
    return dict(zip(names, sample.energy_uj, strict=True))


def described(collector: EnergyCollector) -> list[tuple[str, str, int | None]]:
    """Return domain, name and socket of each zone."""
    return [(z.domain, z.name, z.socket) for z in collector.zones]


INTEL_2S = [
    ("package", "package-0", 0),
    ("core", "core", 0),
    ("dram", "dram", 0),
    ("package", "package-1", 1),
    ("core", "core", 1),
    ("dram", "dram", 1),
]
LAYOUT_ZONES = {
    "intel-2s": INTEL_2S,
    "intel-2s-dies": [
        ("package", "package-0-die-0", 0),
        ("package", "package-0-die-1", 0),
        ("package", "package-1-die-0", 1),
        ("package", "package-1-die-1", 1),
    ],
    "amd": [("package", "package-0", 0), ("core", "core", 0)],
    "client": [
        ("package", "package-0", 0),
        ("core", "core", 0),
        ("uncore", "uncore", 0),
        ("psys", "psys", None),
    ],
}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("layout", LAYOUT_ZONES)
def test_zones_of_known_machines(tmp_path: Path, layout: str, links: bool) -> None:
    """Every zone appears once with its socket, in the kernel's shape of tree and in a flat one."""
    build_tree(tmp_path / "sys", LAYOUTS[layout], links=links)

    with ready(tmp_path) as collector:
        assert described(collector) == LAYOUT_ZONES[layout]
        assert len({zone.key for zone in collector.zones}) == len(collector.zones)
        assert collector.quality == "measured"
        assert not collector.zone_reasons


def test_tree_below_devices_only(tmp_path: Path) -> None:
    """A class directory that holds the nested device tree itself lists each zone once."""
    build_tree(tmp_path / "made", LAYOUTS["intel-2s"])
    powercap = tmp_path / "sys" / "class" / "powercap"
    powercap.parent.mkdir(parents=True)
    (tmp_path / "made" / "devices" / "virtual" / "powercap").rename(powercap)

    with ready(tmp_path) as collector:
        assert described(collector) == INTEL_2S


def test_range_and_ceiling(tmp_path: Path) -> None:
    """A zone knows where it wraps; the limits that root may set at any time do not matter."""
    zones = [
        SimZone("intel-rapl:0", "package-0", 1, 1, 5000, 28),
        SimZone("intel-rapl:1", "psys", 1, 1, 7, 0),
    ]
    build_tree(tmp_path / "sys", zones)
    place = tmp_path / "sys" / "class" / "powercap" / "intel-rapl:0"
    write_files(
        place,
        {
            "constraint_1_power_limit_uw": "64000000\n",
            "constraint_1_max_power_uw": "0\n",
            "constraint_2_power_limit_uw": "not a number\n",
        },
    )

    with ready(tmp_path) as collector:
        assert [(z.max_range_uj, z.max_power_w) for z in collector.zones] == [
            (5000, 1000.0),
            (7, 5000.0),
        ]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (("package",), ["package-0", "package-1"]),
        (("package-1", "dram"), ["dram", "package-1", "dram"]),
        (("core", "nonsense"), ["core", "core"]),
    ],
)
def test_filter(tmp_path: Path, wanted: tuple[str, ...], names: list[str]) -> None:
    """The filter takes domains and zone names; a word that names nothing is noted, once."""
    build_tree(tmp_path / "sys", LAYOUTS["intel-2s"])

    found = probe(tmp_path, *wanted)

    assert isinstance(found, Ready)
    found.collector.close()
    assert [z.name for z in found.collector.zones] == names
    assert [note for note in found.notes if "nonsense" in note] == list(found.notes)
    assert len(found.notes) == ("nonsense" in wanted)


def test_filter_that_matches_nothing(tmp_path: Path) -> None:
    """A filter that leaves no zone is unavailable and lists what there is."""
    build_tree(tmp_path / "sys", LAYOUTS["amd"])

    found = probe(tmp_path, "dram")

    assert isinstance(found, Unavailable)
    assert "dram" in found.reason
    assert "core, package, package-0" in found.remedy
    assert not found.absent


@pytest.mark.parametrize(
    "made", ["", "sys/class", "sys/class/powercap", "sys/class/powercap/dtpm:0"]
)
def test_machine_without_powercap(tmp_path: Path, made: str) -> None:
    """No zones at all is normal in virtual machines and says so."""
    (tmp_path / made).mkdir(parents=True, exist_ok=True)

    found = probe(tmp_path)

    assert isinstance(found, Unavailable)
    assert "no powercap zones below" in found.reason
    assert "virtual machines" in found.remedy
    assert "modelled" in found.remedy
    assert found.absent


def test_memory_mapped_copy_is_used_where_it_is_alone(tmp_path: Path) -> None:
    """The MMIO zone counts the same joules as the MSR zone of its name; alone it is the meter."""
    copy = SimZone("intel-rapl-mmio:0", "package-0", 1, 1)
    build_tree(tmp_path / "both" / "sys", [SimZone("intel-rapl:0", "package-0", 1, 1), copy])
    build_tree(tmp_path / "alone" / "sys", [copy])

    with ready(tmp_path / "both") as collector:
        assert [z.key for z in collector.zones] == ["rapl:intel-rapl:0:package-0"]
    with ready(tmp_path / "alone") as collector:
        assert [z.key for z in collector.zones] == ["rapl:intel-rapl-mmio:0:package-0"]


def test_one_failing_zone_loses_only_itself(tmp_path: Path) -> None:
    """While a zone fails the others go on; it says why; when it is back its counter has it all."""
    clock = SetClock()
    machine = Machine(tmp_path / "sys", LAYOUTS["intel-2s"], Power(100.0, {}))
    with contextlib.closing(machine), ready(tmp_path, clock=clock) as collector:
        machine.set_failed(["intel-rapl:1"])
        time.sleep(0.002)
        machine.step()
        during = values(collector)
        reasons = dict(collector.zone_reasons)
        machine.set_failed([])
        clock.t_ns += SECOND
        after = values(collector)

        assert during["intel-rapl:1"] is None
        assert reasons == {
            "rapl:intel-rapl:1:package-1": "energy_uj holds no number: b'ENODATA             \\n'"
        }
        assert {k: v for k, v in during.items() if v is not None} == {
            k: v for k, v in machine.ledger_uj().items() if k != "intel-rapl:1"
        }
        assert after == machine.ledger_uj()
        assert not collector.zone_reasons


def test_failed_zone_is_opened_again_once_a_second(tmp_path: Path) -> None:
    """A device that went and came back has a new file; it is looked for once a second, not more."""
    clock = SetClock()
    files = build_tree(tmp_path / "sys", LAYOUTS["amd"], start_uj=5)
    counter = files["intel-rapl:0"]
    with ready(tmp_path, clock=clock) as collector:
        counter.write_text("gone\n")
        assert values(collector)["intel-rapl:0"] is None
        counter.unlink()
        clock.t_ns += SECOND
        assert values(collector)["intel-rapl:0"] is None
        counter.write_text("77\n")
        clock.t_ns += SECOND // 2
        too_early = values(collector)["intel-rapl:0"]
        clock.t_ns += SECOND // 2
        assert (too_early, values(collector)["intel-rapl:0"]) == (None, 77)


def test_all_zones_failing_is_no_sample(tmp_path: Path) -> None:
    """When nothing can be read there is no sample, and each zone has its reason."""
    machine = Machine(tmp_path / "sys", LAYOUTS["amd"], Power(100.0, {}))
    with contextlib.closing(machine), ready(tmp_path) as collector:
        machine.set_failed(machine.files)

        assert collector.read() is None
        assert len(collector.zone_reasons) == 2
        assert collector.failure.startswith("rapl:intel-rapl:0:package-0, rapl:intel-rapl:0:0:core")
        assert "ENODATA" in collector.failure
        assert isinstance(probe(tmp_path), Unavailable)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """Return a temporary directory that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_zones_for_root_only(public_dir: Path) -> None:
    """Counters as kernels make them (0400 root) are unavailable with the way out."""
    files = build_tree(public_dir / "sys", LAYOUTS["intel-2s"], mode=0o400)
    if os.geteuid() != 0:
        for path in files.values():
            path.chmod(0)

    with as_nobody():
        found = probe(public_dir)

    assert found == Unavailable("energy_uj is readable by root only", rapl.ROOT_ONLY_REMEDY)
    assert "tychod-data" in rapl.ROOT_ONLY_REMEDY


def test_some_zones_for_root_only(public_dir: Path) -> None:
    """Readable zones are used; the others are listed and join when they become readable."""
    clock = SetClock()
    files = build_tree(public_dir / "sys", LAYOUTS["amd"], mode=0o444)
    files["intel-rapl:0:0"].chmod(0)
    with as_nobody(), ready(public_dir, clock=clock) as collector:
        before = values(collector)
        assert collector.zone_reasons == {"rapl:intel-rapl:0:0:core": rapl.ROOT_ONLY}
        with contextlib.ExitStack() as owner:
            if os.getuid() == 0:
                os.seteuid(0)
                owner.callback(os.seteuid, NOBODY)
            files["intel-rapl:0:0"].chmod(0o444)
        clock.t_ns += SECOND
        after = values(collector)

    assert (before["intel-rapl:0"], before["intel-rapl:0:0"]) == (0, None)
    assert after["intel-rapl:0:0"] == 0


def test_a_zone_whose_name_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    """A directory in the name's place: the other zones are read, this one is told of."""
    build_tree(tmp_path / "sys", LAYOUTS["intel-2s"])
    break_name(tmp_path, "intel-rapl:1")

    with ready(tmp_path) as collector:
        assert [z.name for z in collector.zones if z.domain == "package"] == ["package-0"]
        (problem,) = collector.problems
        assert problem.startswith("zone intel-rapl:1 is not read: ")
        assert problem.endswith("intel-rapl:1/name: Is a directory")


def break_name(base: Path, directory: str) -> Path:
    """Put a directory in the place of a zone's name."""
    name = base / "sys" / "class" / "powercap" / directory / "name"
    name.unlink()
    name.mkdir()
    return name


def test_no_zone_has_a_name(tmp_path: Path) -> None:
    """Zones are there but cannot be told apart: said with the file and what to do; not absent."""
    build_tree(tmp_path / "sys", [SimZone("intel-rapl:0", "package-0", 1, 1)])
    break_name(tmp_path, "intel-rapl:0")

    found = probe(tmp_path)

    assert isinstance(found, Unavailable)
    assert "intel-rapl:0/name: Is a directory" in found.reason
    assert found.remedy
    assert not found.absent


def test_a_zone_directory_that_may_not_be_entered(public_dir: Path) -> None:
    """Mode 000 of one zone hides that zone and no other."""
    build_tree(public_dir / "sys", LAYOUTS["intel-2s-dies"], mode=0o444)
    closed = public_dir / "sys" / "class" / "powercap" / "intel-rapl:2"
    closed.resolve().chmod(0)
    try:
        with as_nobody(), ready(public_dir) as collector:
            assert len(collector.zones) == 3
            assert "Permission denied" in collector.problems[0]
    finally:
        closed.resolve().chmod(0o755)


def test_powercap_that_may_not_be_listed(public_dir: Path) -> None:
    """A class directory for root only makes the source unavailable, with path and reason."""
    build_tree(public_dir / "sys", LAYOUTS["amd"], mode=0o444)
    powercap = public_dir / "sys" / "class" / "powercap"
    powercap.chmod(0)
    config = Config(host=host_config(public_dir))
    try:
        with as_nobody():
            found = rapl.SPEC.find(Host(config.host), config, SetClock())
    finally:
        powercap.chmod(0o755)

    assert found == Unavailable(f"{powercap}: Permission denied", UNREADABLE_REMEDY)


def test_zones_that_come_later_are_noticed(tmp_path: Path) -> None:
    """Half a minute after the last look a new, a renamed and a lost zone show, once each."""
    clock = SetClock()
    zones = LAYOUTS["intel-2s"]
    build_tree(tmp_path / "sys", zones[:3])
    name = tmp_path / "sys" / "class" / "powercap" / "intel-rapl:0:1" / "name"

    def noticed(seconds: float) -> bool:
        clock.t_ns += round(seconds * SECOND)
        collector.read()
        return collector.outdated

    with ready(tmp_path, clock=clock) as collector:
        assert not noticed(31)
        build_tree(tmp_path / "sys", zones[3:])
        assert not noticed(29)
        assert noticed(1)
        assert not noticed(0.05)
    with ready(tmp_path, clock=clock) as collector:
        assert len(collector.zones) == 6
        name.write_text("uncore\n")
        assert noticed(30)
    with ready(tmp_path, clock=clock) as collector:
        shutil.rmtree(name.parent.resolve())
        assert noticed(30)


@pytest.mark.parametrize("data", [b"", b"\n", b"x\n", b"-5\n", b"1.5\n"])
def test_not_a_counter(data: bytes) -> None:
    """What is no number is an error, never zero."""
    with pytest.raises(ValueError, match="energy_uj"):
        rapl.parse_energy_uj(data)


@pytest.mark.parametrize(
    ("name", "domain", "socket"),
    [
        ("package-0", "package", 0),
        ("package-10", "package", 10),
        ("package-1-die-3", "package", 1),
        ("core", "core", None),
        ("psys", "psys", None),
        ("package-x", None, None),
        ("long_term", None, None),
        ("", None, None),
    ],
)
def test_zone_names(name: str, domain: str | None, socket: int | None) -> None:
    """Names say domain and socket; names that are none of RAPL's say nothing."""
    assert (rapl.parse_domain(name), rapl.parse_socket(name)) == (domain, socket)


def test_simulated_counters_are_the_ledger(tmp_path: Path) -> None:
    """The simulator's counters are its ledger modulo the range, from the first value on; a pause
    adds nothing.
    """
    zones = [z._replace(max_range_uj=100) for z in LAYOUTS["intel-2s"]]
    machine = Machine(tmp_path / "sys", zones, Power(100.0, {}), start_uj=90)
    with contextlib.closing(machine), ready(tmp_path) as collector:
        for _ in range(3):
            time.sleep(0.001)
            machine.step()
            ledger = machine.ledger_uj()
            assert values(collector) == {k: (90 + v) % 100 for k, v in ledger.items()}
        machine.set_paused(True)
        paused = machine.ledger_uj()
        time.sleep(0.001)
        machine.step()
        machine.set_paused(False)
        assert all(v > 100 for v in ledger.values())
        assert values(collector) == {k: (90 + v) % 100 for k, v in paused.items()}

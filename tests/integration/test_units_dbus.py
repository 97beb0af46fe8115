"""Units over a system bus: what systemd tells, and every way in which it does not.

The bus and the systemd on it are simulated; pystemd, libsystemd and the wire between are real.
"""

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sim.systembus import SimBus, make_unit
from tychod.workloads.units import BATCH, IDLE_NS, UnitFacts, Units

if importlib.util.find_spec("pystemd") is None:
    pytest.skip("pystemd is not installed", allow_module_level=True)

SECOND = 1_000_000_000
WAIT_S = 30.0
KNOWN = {
    "web.service": make_unit("A web server"),
    "odd@1\\x2d2.service": make_unit("\x1b[31mred\x07 \N{SNOWMAN}"),
    "machine.slice": make_unit("Virtual Machines", "-.slice"),
}


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimBus]:
    """Return a system bus that children of this process find."""
    path = tmp_path / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    with SimBus(str(path), KNOWN) as server:
        yield server


@pytest.fixture
def units() -> Iterator[Units]:
    """Return a client, ended after the test."""
    client = Units(enabled=True)
    yield client
    client.close()


def poll_until(units: Units, done: Callable[[], bool], now_ns: int = 0) -> None:
    """Poll at one moment of a made-up clock until something has happened."""
    deadline_s = time.monotonic() + WAIT_S
    while not done():
        units.poll(now_ns)
        assert time.monotonic() < deadline_s, units.route
        time.sleep(0.002)


def test_systemd_tells_description_slice_and_state(bus: SimBus, units: Units) -> None:
    """Names with every kind of character arrive, descriptions as their author wrote them."""
    units.want(KNOWN)
    before = units.route
    poll_until(units, lambda: len(units.view) == 3)

    assert before == "not asked yet"
    assert units.route == "ok"
    assert units.view == {
        "web.service": UnitFacts("A web server", "system.slice", "loaded"),
        "odd@1\\x2d2.service": UnitFacts("\x1b[31mred\x07 \N{SNOWMAN}", "system.slice", "loaded"),
        "machine.slice": UnitFacts("Virtual Machines", "-.slice", "loaded"),
    }
    assert len(bus.asked) == 3 * len(KNOWN)


def test_each_unit_is_asked_about_once_and_again_when_it_is_back(bus: SimBus, units: Units) -> None:
    """However often it is wanted; a unit that was gone may have another description."""
    units.want(["web.service"])
    poll_until(units, lambda: bool(units.view))
    units.want(["web.service"])
    units.poll(5 * SECOND)
    once = units.asked
    units.want([])
    bus.units["web.service"] = make_unit("Another web server")
    units.want(["web.service"])
    poll_until(
        units, lambda: units.view["web.service"].description == "Another web server", 6 * SECOND
    )

    assert once == 1
    assert units.asked == 2
    assert bus.connections == 1


def test_what_is_not_on_the_systems_bus_is_not_asked_about(bus: SimBus, units: Units) -> None:
    """Units of users' own systemd, and names that systemd does not allow, cost nothing."""
    units.want(["user@1000.service/app.slice/foo.service", "a b.service", "x" * 300 + ".service"])
    units.poll(0)

    assert (units.asked, bus.connections) == (0, 0)


def test_unit_that_systemd_does_not_know_has_no_facts(bus: SimBus, units: Units) -> None:
    """It is no error, and it is not asked about again."""
    bus.units["gone.service"] = make_unit("gone.service", state="not-found")
    units.want(["never.service", "gone.service", "web.service"])
    poll_until(units, lambda: units.view.keys() == {"web.service"})
    units.poll(9 * SECOND)

    assert units.route == "ok"
    assert units.asked == 3


def test_long_descriptions_are_cut_and_a_name_is_none(bus: SimBus, units: Units) -> None:
    """10 000 characters become 256; where nobody described it systemd gives the name: no news."""
    bus.units["long.service"] = make_unit("x" * 10_000)
    bus.units["bare.service"] = make_unit("bare.service")
    units.want(["bare.service", "long.service"])
    poll_until(units, lambda: len(units.view) == 2)

    assert units.view["long.service"].description == "x" * 256
    assert units.view["bare.service"].description == ""


def test_many_units_are_asked_about_in_batches(bus: SimBus, units: Units) -> None:
    """At most one batch a second, whatever starts at once."""
    names = [f"u{number}.service" for number in range(BATCH + 20)]
    bus.units.update((name, make_unit(f"unit {name}")) for name in names)
    units.want(names)
    poll_until(units, lambda: len(units.view) == BATCH)
    units.poll(SECOND - 1)
    first = units.asked
    poll_until(units, lambda: len(units.view) == len(names), SECOND)

    assert first == BATCH
    assert units.asked == len(names)


def test_the_process_that_asks_ends_when_idle_and_comes_back(bus: SimBus, units: Units) -> None:
    """It holds memory only while units appear."""
    units.want(["web.service"])
    poll_until(units, lambda: bool(units.view))
    units.poll(IDLE_NS)
    kept = units._child
    units.poll(IDLE_NS + 1)
    ended = units._child
    units.want(["web.service", "machine.slice"])
    poll_until(units, lambda: len(units.view) == 2, IDLE_NS + 2 * SECOND)

    assert kept is not None
    assert ended is None
    assert bus.connections == 2


@pytest.mark.parametrize("fault", ["refuse", "die"])
def test_bus_that_refuses_or_dies_is_left_in_peace_and_used_again(
    bus: SimBus, units: Units, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason and what to do are said once, the pauses grow, and a cured bus is believed."""
    caplog.set_level(logging.INFO)
    units.want(["web.service"])
    bus.fault = fault
    tried = []
    for second in range(8):
        before = units.asked
        units.poll(second * SECOND)
        if units.asked != before:
            tried.append(second)
            count = units._failures
            poll_until(units, lambda c=count: units._failures > c, second * SECOND)  # type: ignore[misc]
            assert units._ending is None or units._ending.has_ended(WAIT_S)
    told, route = len(caplog.records), units.route
    bus.fault = ""
    poll_until(units, lambda: bool(units.view), 100 * SECOND)

    assert tried == [0, 1, 3, 7]
    assert told == 1
    assert "the system bus broke off" in route
    assert "systemctl status dbus" in route
    assert units.route == "ok"
    assert "again" in caplog.records[-1].getMessage()


def test_bus_that_hangs_is_given_up_and_polling_never_waits(bus: SimBus, units: Units) -> None:
    """An unanswered question ends after 2 s with its process; nothing waits for it meanwhile."""
    bus.fault = "hang"
    units.want(["web.service"])
    poll_until(units, lambda: units._child is not None and units._child.is_ready)
    units.poll(2 * SECOND)
    waiting = units.route
    units.poll(2 * SECOND + 1)

    assert waiting == "not asked yet"
    assert "no answer from systemd in 2 s" in units.route
    assert units._child is None


def test_a_unit_at_which_systemd_hangs_does_not_hide_the_others(bus: SimBus, units: Units) -> None:
    """What a question hung at is asked about last the next time."""
    bus.hang_on = "bad.service"
    units.want(["bad.service", "machine.slice", "web.service"])
    poll_until(units, lambda: units._child is not None and units._child.is_ready)
    units.poll(2 * SECOND + 1)
    hung = units.route
    poll_until(units, lambda: len(units.view) == 2, 4 * SECOND)

    assert "no answer" in hung
    assert units.view.keys() == {"machine.slice", "web.service"}

"""Descriptions of units without a bus: no question, a reason, and names from the path still."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tychod.workloads.units import MOST_UNITS, UnitFacts, Units, _Child

SECOND = 1_000_000_000
WAIT_S = 30.0


@pytest.fixture
def units() -> Iterator[Units]:
    """Return a client, ended after the test."""
    client = Units(enabled=True)
    yield client
    client.close()


def poll_until_failed(units: Units) -> None:
    """Poll at one moment until the question has failed."""
    deadline_s = time.monotonic() + WAIT_S
    while not units._failures:
        units.poll(0)
        assert time.monotonic() < deadline_s, units.route
        time.sleep(0.002)


def test_switched_off_asks_nothing() -> None:
    """No process is started, and the route says which setting it is."""
    units = Units(enabled=False)
    units.want(["web.service"])
    units.poll(0)

    assert units.asked == 0
    assert units.route == "off in the configuration; set [workloads] units = true"


def test_nothing_is_started_while_there_is_nothing_to_ask(units: Units) -> None:
    """A host without units pays nothing."""
    units.want([])
    units.poll(0)

    assert units.asked == 0
    assert units.route == "not asked yet"


def test_without_a_bus_the_route_says_so(
    units: Units, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without D-Bus has units by their names alone, and a reason."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    units.want(["web.service"])
    poll_until_failed(units)

    assert "there is no system bus" in units.route or "python3-pystemd" in units.route
    assert not units.view


def test_without_pystemd_the_route_names_the_package(
    units: Units, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child runs under a Python that has no libraries: the remedy is the package to install."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    units.want(["web.service"])
    poll_until_failed(units)

    assert "pystemd" in units.route
    assert "python3-pystemd" in units.route


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "ended early"),
        ("echo '{'; sleep 60", "nonsense"),
        (None, "does not start: No such file"),
    ],
)
def test_child_that_fails_is_no_harm(
    units: Units,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    reason: str,
) -> None:
    """However the process fares, polling goes on and the unit is still to be asked about."""
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    units.want(["web.service"])
    poll_until_failed(units)

    assert reason in units.route
    assert list(units._queue) == ["web.service"]


def test_no_second_process_starts_while_the_first_has_not_ended(
    units: Units, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be killed at once, stuck in the kernel, is waited for: one is enough."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    stuck = units._ending = _Child(0)
    units.want(["web.service"])
    for second in range(3):
        units.poll(second * SECOND)
    assert (units.asked, units._child) == (0, None)

    stuck.end()
    assert stuck.has_ended(wait_s=WAIT_S)
    units.poll(3 * SECOND)
    assert units.asked == 1


def test_memory_of_units_stays_bounded(units: Units) -> None:
    """Under churn, descriptions of units that are gone make room for those that are there."""
    units._view.update((f"{n}.scope", UnitFacts("", "", "loaded")) for n in range(MOST_UNITS + 10))
    units.want(f"{number}.scope" for number in range(5))

    assert len(units.view) == MOST_UNITS
    assert {f"{number}.scope" for number in range(5)} <= units.view.keys()

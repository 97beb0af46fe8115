"""What systemd says of tychod's units, asked by systemctl: its own time-out, no library of ours."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.doctor.children import ask
from tychod.doctor.model import Finding, ok, skip
from tychod.doctor.remedies import remedy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tychod.doctor.model import Place

SERVICE: Final = "tychod.service"
LOADER: Final = "tychod-bpf.service"
RUNS: Final = "systemd/system"
"""Below /run: systemd is the init here (sd_booted(3))."""
PROPERTIES: Final = (
    *("LoadState", "ActiveState", "SubState", "Result", "NRestarts", "MainPID"),
    *("ExecMainStatus", "ConditionResult"),
)
ASK_S: Final = 1.9
SOME_RESTARTS: Final = 3
NOT_BOOTED: Final = "systemd does not run here, so tychod is started by hand"


class Unit(NamedTuple):
    """A unit as ``systemctl show`` tells it."""

    load: str
    active: str
    result: str
    restarts: int
    pid: int
    status: str


def look_at_unit(name: str) -> Callable[[Place], Finding]:
    """Return the look at one of the units."""

    def look(place: Place) -> Finding:
        unit = read_unit(place, name)
        if unit is None:
            return skip(NOT_BOOTED)
        if name == LOADER and place.config.accounting.loader == "off":
            return skip('[accounting] loader = "off"')
        return judge_unit(name, unit)

    return look


def read_unit(place: Place, name: str) -> Unit | None:
    """Ask systemd for a unit; None where it does not run or does not tell."""
    if not place.host.exists(f"{place.host.run}/{RUNS}"):
        return None
    systemctl = shutil.which("systemctl", path=place.environ.get("PATH"))
    if systemctl is None:
        return None
    status, told = ask([systemctl, "show", f"--property={','.join(PROPERTIES)}", name], ASK_S)
    return None if status else parse_unit(told.decode(errors="replace"))


def parse_unit(text: str) -> Unit:
    """Return what lines of NAME=VALUE say."""
    lines = (line.partition("=") for line in text.splitlines())
    told: Mapping[str, str] = {name: value for name, _, value in lines}
    return Unit(
        load=told.get("LoadState", ""),
        active=told.get("ActiveState", ""),
        result=told.get("Result", ""),
        restarts=_number(told.get("NRestarts", "")),
        pid=_number(told.get("MainPID", "")),
        status=told.get("ExecMainStatus", ""),
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def judge_unit(name: str, unit: Unit) -> Finding:
    """Judge a unit's state: it should be installed and active."""
    unit_name = name.removesuffix(".service")
    text = f"{name} is {unit.active or 'unknown'}"
    if unit.load == "not-found":
        return Finding("fail", f"{name} is not installed here", remedy("not-installed"))
    if unit.active == "failed":
        text += f" (Result={unit.result}, status {unit.status})"
        return Finding("fail", text, remedy("service-failed", unit=unit_name))
    if unit.active in ("activating", "reloading", "deactivating"):
        return Finding("warn", text, remedy("service-starting", unit=unit_name))
    if unit.active != "active":
        return Finding("fail", text, remedy("service-stopped", unit=unit_name))
    if unit.restarts >= SOME_RESTARTS:
        text += f", and was restarted {unit.restarts} times"
        return Finding("warn", text, remedy("service-restarts", unit=unit_name))
    return ok(f"{text}, restarted {unit.restarts} times")

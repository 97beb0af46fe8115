"""Runs the checks side by side, each in a thread of its own, with one deadline for all."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.clock import SystemClock
from tychod.config import Config
from tychod.doctor import lateness
from tychod.doctor.children import Late
from tychod.doctor.lateness import PATIENCE_S
from tychod.doctor.model import Finding, Place, Result, ok
from tychod.doctor.remedies import remedy
from tychod.doctor.table import CHECKS
from tychod.hostfs import Host, may_read_everything, node_name, render_error
from tychod.settings import SettingsError, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tychod.doctor.model import Check
    from tychod.settings import Arguments

SCHEMA: Final = 1
MODULES: Final = (
    *("tychod.kernel.bpf.attached", "tychod.kernel.bpf.opening"),
    *("tychod.collectors", "tychod.workloads.devices", "tychod.workloads.runtimefiles"),
)
ASKING: Final = ("tychod.collectors.redfish_client", "tychod.workloads.kubelet_http")
"""What asks over HTTPS; the library for it takes a tenth of a second to load."""
SINCE: Final = "DOCTOR_SINCE"
"""Set by the client: seconds of CLOCK_MONOTONIC when it began, as two starts cost time, too."""
SOCKET: Final = "TYCHOD_CONTROL_SOCKET"
"""[control] socket in the environment, which the client sets where it was given another."""
LEAD_S: Final = 0.3
"""The most that a slow start takes from the checks."""
LEAST_S: Final = 1.0
"""Seconds that checks have in any case, where a busy machine was slow to load what they need."""
SETTINGS_S: Final = 1.0
"""Seconds that the settings may take to read: the checks need the rest."""
STATES: Final = ("ok", "warn", "fail", "skip")
EVIDENCE_MOST: Final = 1000
"""Characters of one finding: devices and peers may be wordy."""


class Outcome(NamedTuple):
    """What is printed, and the exit status: 1 if a check failed."""

    code: int
    text: str


class Read(NamedTuple):
    """Settings, and how reading them went."""

    config: Config
    finding: Finding


def doctor(args: Arguments, environ: Mapping[str, str], *, as_json: bool) -> Outcome:
    """Walk all checks on this host, as the user who calls."""
    begun_s = begin(environ, time.monotonic())
    place = find_place(args, environ)
    load_modules(place.config)
    deadline_s = max(begun_s + PATIENCE_S, time.monotonic() + LEAST_S)
    tell = write_line if as_json and SINCE in environ else tell_nobody
    tell({"deadline": deadline_s})
    results = look(CHECKS, place, deadline_s, lambda result: tell({"check": one_plain(result)}))
    code = 1 if any(result.finding.state == "fail" for result in results) else 0
    return Outcome(code, render_json(results) if as_json else render_plain(results))


def write_line(plain: Mapping[str, object]) -> None:
    """Tell the client so far: it keeps what came if this process hangs at its end."""
    with contextlib.suppress(OSError):  # it has gone: the end will say so
        sys.stdout.write(json.dumps(plain) + "\n")
        sys.stdout.flush()


def tell_nobody(_: object) -> None:
    """Stay silent: who started this by hand wants the whole."""


def begin(environ: Mapping[str, str], now_s: float) -> float:
    """Return when the look began: when the client did, where it says so, but little earlier."""
    try:
        since_s = float(environ.get(SINCE, ""))
    except ValueError:
        return now_s
    return max(since_s, now_s - LEAD_S) if since_s <= now_s else now_s


def find_place(args: Arguments, environ: Mapping[str, str]) -> Place:
    """Read the settings; with wrong ones the defaults tell where to look."""
    config, finding = within(SETTINGS_S, lambda: read_settings(args, environ))
    if config.control.socket == "" and (named := environ.get(SOCKET)):
        # Wrong settings leave the defaults, but where the daemon listens was named.
        config = replace(config, control=replace(config.control, socket=named))
    host = Host(config.host, environ.get("CREDENTIALS_DIRECTORY", ""))
    uid, reads_all = os.geteuid(), may_read_everything()
    return Place(host, config, SystemClock(), environ, uid, finding, node_name(), reads_all)


def within(wait_s: float, read: Callable[[], Read]) -> Read:
    """Read settings, or give up after ``wait_s`` seconds: their file system may hang."""
    found: list[Read] = []
    thread = threading.Thread(target=lambda: found.append(read()), name="settings", daemon=True)
    thread.start()
    thread.join(wait_s)
    if found:
        return found[0]
    if thread.is_alive():
        told = f"not read within {wait_s:g} s: the checks below take the defaults"
        return Read(Config(), Finding("fail", told, remedy("settings-late")))
    return Read(Config(), Finding("fail", "reading them failed", remedy("fault")))


def read_settings(args: Arguments, environ: Mapping[str, str]) -> Read:
    """Return the settings in force, the defaults where they are wrong."""
    try:
        settings = load_settings(args, environ)
    except SettingsError as exc:
        return Read(Config(), judge_settings(exc.problems, reads_all=may_read_everything()))
    files = ", ".join(settings.files) or "no file: defaults"
    finding = ok(f"valid ({files})")
    if settings.warnings:
        finding = Finding("warn", "; ".join(settings.warnings), remedy("settings"))
    return Read(settings.config, finding)


def load_modules(config: Config) -> None:
    """Import, in one thread, what several checks import: side by side they would meet halves.

    What is missing is told by each check that needs it.
    """
    kubelet = config.kubelet
    asks = config.redfish.credentials or kubelet.token_file or kubelet.client_cert_file
    for name in (*MODULES, *(ASKING if asks or kubelet.read_only_port else ())):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def judge_settings(problems: Sequence[str], *, reads_all: bool) -> Finding:
    """Judge settings that cannot be used; ``reads_all``: who asks may read every file."""
    told = "; ".join(problems)
    if not reads_all and "Permission denied" in told:
        return Finding("skip", told, remedy("settings-unreadable"))
    return Finding("fail", told, remedy("settings"))


def look(
    checks: Sequence[Check],
    place: Place,
    deadline_s: float,
    tell: Callable[[Result], None] = tell_nobody,
) -> list[Result]:
    """Return a finding for every check, told as it comes; one that is not in time failed.

    What hangs is left behind: its thread ends with the process.
    """
    told: SimpleQueue[Result] = SimpleQueue()
    begun: dict[str, lateness.Begun] = {}

    def look_at(check: Check) -> None:
        begun[check.id] = lateness.begin()
        told.put(Result(check, look_once(check, place)))

    for check in checks:
        thread = threading.Thread(
            target=look_at,
            args=(check,),
            name=f"doctor-{check.id}",
            daemon=True,
        )
        thread.start()
    found: dict[str, Finding] = {}
    while len(found) < len(checks):
        try:
            result = told.get(timeout=max(deadline_s - time.monotonic(), 0.0))
        except Empty:
            break
        found[result.check.id] = result.finding
        tell(result)
    return [Result(c, found.get(c.id) or lateness.judge_late(c, begun.get(c.id))) for c in checks]


def look_once(check: Check, place: Place) -> Finding:
    """Return what a check finds; whatever stops it is a finding, too."""
    try:
        return check.look(place)
    except ImportError as exc:
        name = (exc.name or "").partition(".")[0]
        text = f"cannot be looked at without {name or exc}"
        return Finding("fail", text, remedy("library", debian=f"python3-{name}", fedora=name))
    except Late as exc:
        return lateness.judge_own(check, exc.own_s)
    except OSError as exc:
        if isinstance(exc, PermissionError) and not place.reads_all:
            return Finding("skip", render_error(exc), remedy("as-root"))
        return Finding("fail", render_error(exc), check.slow)
    except Exception as exc:  # noqa: BLE001 - outermost frame of the thread: others go on
        # The text may hold what was read; where it was is enough for a report.
        at = exc.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = f" in {at.tb_frame.f_code.co_name}, line {at.tb_lineno}" if at else ""
        return Finding("fail", f"{type(exc).__name__}{where}", remedy("fault"))


def one_plain(result: Result) -> dict[str, str | None]:
    """Return a check and its finding as plain data."""
    check, finding = result
    return {
        "id": check.id,
        "title": check.title,
        "group": check.group,
        "state": finding.state,
        "evidence": finding.evidence[:EVIDENCE_MOST],
        "remedy": finding.remedy,
    }


def to_plain(results: Iterable[Result]) -> dict[str, object]:
    """Return the findings as plain data."""
    checks = [one_plain(result) for result in results]
    counts = {state: sum(check["state"] == state for check in checks) for state in STATES}
    return {"schema": SCHEMA, "checks": checks, "summary": counts}


def render_json(results: Iterable[Result]) -> str:
    """Return one JSON object."""
    return json.dumps(to_plain(results)) + "\n"


def render_plain(results: Iterable[Result]) -> str:
    """Return a line for each check, and one for its remedy; ``tychoctl doctor`` is for people."""
    lines = []
    for check, finding in results:
        lines.append(f"{finding.state:4}  {check.title}: {shown(finding.evidence)}")
        if finding.remedy and finding.state != "ok":
            lines.append(f"      -> {shown(finding.remedy)}")
    return "\n".join(lines) + "\n"


def shown(text: str) -> str:
    """Return a text without what a terminal would obey."""
    bounded = text[:EVIDENCE_MOST].encode(errors="replace").decode()
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in bounded)

"""From the host's findings and the daemon's view of the same things to one list; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tychoctl.client import Failure, Reply
from tychoctl.doctor_options import GROUPS
from tychod.version import read_build

STATES: Final = ("ok", "warn", "fail", "skip")
SOURCES: Final[Mapping[str, str]] = {
    "cpu": "hierarchy",
    "rapl": "rapl",
    "hwmon": "hwmon",
    "ipmi": "ipmi",
    "redfish": "bmc",
    "model": "model",
    "nvml": "nvml",
    "kubelet": "kubelet",
}
"""Source of the daemon -> the check that it decides."""
ROUTES: Final = (
    *("bundle", "runtime-file", "log-link", "device-plugin", "pod-resources", "systemd"),
    "firework",
)
"""Ways to names; each is a check of the same id."""
JOINED: Final = ("metrics",)
"""Sources of problems whose check of that id looks at their effect: it tells the cause."""
MOST_PROBLEMS: Final = 20
REMEDIES: Final[Mapping[str, str]] = {
    "not-running": "systemctl start tychod (log: journalctl -u tychod -b -n 50)",
    "hung": "systemctl restart tychod, and keep: journalctl -u tychod -b -n 200",
    "degraded": "tychoctl status says what is wrong; the checks below that failed say how to mend",
    "version": "systemctl restart tychod: it still runs what was installed before",
    "rejected": "mend the files named, then: systemctl reload tychod",
    "files": "tychoctl doctor --config {file}: look with the daemon's own settings",
    "host": "reinstall the package: apt install --reinstall tychod",
    "late": "run it alone and see what hangs: sudo tychod --doctor",
    "forbidden": "see the check of the socket, or: sudo tychoctl doctor",
}
"""What the client itself advises; a test holds that each is shown for its cause."""


class Check(NamedTuple):
    """One check with what was found."""

    id: str
    title: str
    group: str
    state: str
    evidence: str
    remedy: str | None = None


class Told(NamedTuple):
    """What the daemon answered to ``status``, who it is, or why there is no answer."""

    status: Reply | None
    daemon: str
    failure: Failure | None
    files: tuple[str, ...] = ()  # of its settings


class View(NamedTuple):
    """What the daemon knows of one check."""

    state: str
    evidence: str
    remedy: str | None = None


class Daemon(NamedTuple):
    """The checks that only the daemon's answer gives, and its view of the host's."""

    own: list[Check]
    views: Mapping[str, View]
    files: tuple[str, ...] = ()
    state_directory: str | None = None


class Summary(NamedTuple):
    """How many checks came out how, and what to do first."""

    ok: int
    warn: int
    fail: int
    skip: int
    first: str | None


def summary(checks: Sequence[Check]) -> Summary:
    """Count, and choose the first remedy: of a failure, else of a warning."""
    counts = {state: sum(check.state == state for check in checks) for state in STATES}
    bad = [c for state in ("fail", "warn") for c in checks if c.state == state and c.remedy]
    first = f"{bad[0].title}: {bad[0].remedy}" if bad else None
    return Summary(counts["ok"], counts["warn"], counts["fail"], counts["skip"], first)


def host_fault(why: str, remedy: str = "host") -> Check:
    """Return the only check of a host's half that did not work."""
    return Check("host", "tychod --doctor", "machine", "fail", why, REMEDIES[remedy])


def seen_by_daemon(told: Told) -> Daemon:
    """Return what the daemon's answer says."""
    if told.status is None:
        return Daemon([_silent(told.failure)], {})
    status = told.status
    views = dict(_views(status))
    own = [_well(status, told.daemon), *_problems(status)]
    return Daemon(own, views, told.files, _text(status.get("state_directory")))


def files_of(reply: Reply) -> tuple[str, ...]:
    """Return the files that the daemon's settings come from."""
    origins = {str(setting.get("origin")) for setting in _maps(reply.get("config"))}
    return tuple(sorted(o for o in origins if o.startswith("/") and o.endswith(".toml")))


def _daemon(state: str, evidence: str, remedy: str | None = None) -> Check:
    return Check("daemon", "Daemon", "service", state, evidence, remedy)


def _silent(failure: Failure | None) -> Check:
    """Return why the daemon says nothing."""
    code, message = (failure.code, failure.message) if failure else ("timeout", "no answer")
    if code == "forbidden":
        return _daemon("skip", message, REMEDIES["forbidden"])
    if code == "not-running":
        return _daemon("fail", message, REMEDIES["not-running"])
    return _daemon("fail", message, REMEDIES["hung"])


def _well(status: Reply, daemon: str) -> Check:
    version = daemon.removeprefix("tychod ")
    state = str(status.get("state"))
    text = f"answers: tychod {version}, {state}"
    own = read_build().version
    if version and version != own:
        return _daemon("warn", f"{text}; tychoctl is {own}", REMEDIES["version"])
    if state == "degraded":
        return _daemon("warn", text, REMEDIES["degraded"])
    return _daemon("ok", text)


def _maps(found: object) -> list[Reply]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _problems(status: Reply) -> list[Check]:
    """Return what the daemon complains of and no check of the host's is about."""
    known = {*SOURCES, *JOINED, "config"}
    found = [p for p in _maps(status.get("problems")) if str(p.get("source")) not in known]
    return [
        Check(
            f"problem-{number}",
            str(problem.get("source")),
            "service",
            "warn",
            str(problem.get("reason")),
            _text(problem.get("remedy")),
        )
        for number, problem in enumerate(found[:MOST_PROBLEMS], 1)
    ]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _views(status: Reply) -> Iterable[tuple[str, View]]:
    problems = {str(problem.get("source")) for problem in _maps(status.get("problems"))}
    for source in _maps(status.get("sources")):
        name = str(source.get("name"))
        if name in SOURCES:
            view = view_of_source(source, is_problem=name in problems)
            yield SOURCES[name], view
            if name == "redfish" and view.state == "ok":
                yield "redfish", view
    routes = status.get("identity")
    for name, told in (routes if isinstance(routes, dict) else {}).items():
        way = view_of_route(str(told))
        if name in ROUTES and way is not None:
            yield name, way
    accounting = status.get("accounting")
    if isinstance(accounting, dict):
        yield "programs", view_of_accounting(accounting)
    yield from _joined_problems(status)
    if status.get("config_rejected"):
        yield "settings", View("fail", str(status["config_rejected"]), REMEDIES["rejected"])


def _joined_problems(status: Reply) -> Iterable[tuple[str, View]]:
    """Yield what the daemon complains of where a check from here would see the effect alone."""
    for name in JOINED:
        found = [p for p in _maps(status.get("problems")) if p.get("source") == name]
        remedies = [str(p["remedy"]) for p in found if p.get("remedy")]
        if found:
            told = "; ".join(str(p.get("reason")) for p in found)
            yield name, View("warn", told, remedies[0] if remedies else None)


def view_of_source(source: Mapping[str, object], *, is_problem: bool) -> View:
    """Return the view of a source: what it cannot read is a failure if it is a problem, too."""
    state, reason = source.get("state"), _text(source.get("reason"))
    remedy = _text(source.get("remedy"))
    if state == "ok":
        return View("ok", reason or "reads it")
    if state == "off":
        return View("skip", reason or "off")
    if is_problem and _is_optional(source):
        return View("warn", reason or str(state), remedy)
    if state == "stalled" or is_problem:
        return View("fail", reason or str(state), remedy)
    return View("skip", reason or str(state))


def _is_optional(source: Mapping[str, object]) -> bool:
    """Say whether a source was never asked: without a credential names may come by other ways."""
    never = source.get("enabled") == "auto" and not source.get("errors")
    return source.get("name") == "kubelet" and never


def view_of_route(told: str) -> View | None:
    """Return the view of a way to names; None where nobody has needed it."""
    first, _, rest = told.partition("; ")
    if first == "ok":
        return View("ok", rest or "uses it")
    if first == "off" or first.startswith(("off ", "not configured")):
        return View("skip", first)
    if first.startswith("not "):
        return None
    return View("warn", first.removeprefix("stale: "), rest or None)


def view_of_accounting(accounting: Mapping[str, object]) -> View:
    """Return the view of the kernel programs: in use, not wanted, or why not used."""
    method, reason = str(accounting.get("method")), str(accounting.get("reason"))
    if method.startswith("bpf"):
        return View("ok", f"uses them ({method}: {reason})")
    if "off in the settings" in reason:
        return View("skip", f"{method}: {reason}")
    return View("warn", f"{method}: {reason}")


def merge(host: Sequence[Check], daemon: Daemon) -> list[Check]:
    """Return every check once, in groups; the daemon's view decides where there is one."""
    seen = [joined(check, daemon.views.get(check.id)) for check in host]
    seen = [_with_files(check, daemon.files) for check in seen]
    seen = [_with_state(check, daemon.state_directory) for check in seen]
    known = {check.id for check in host}
    if not known or "host" in known:  # what did not come from the host the daemon may have seen
        missing = [ident for ident in daemon.views if ident not in known]
        seen += [_alone(ident, daemon.views[ident]) for ident in missing]
    places = {group: place for place, group in enumerate(GROUPS)}
    return sorted([*seen, *daemon.own], key=lambda check: places.get(check.group, len(places)))


def _with_files(check: Check, files: tuple[str, ...]) -> Check:
    """Say where the daemon has other settings than those that were looked at from here."""
    others = [file for file in files if file not in check.evidence]
    if check.id != "settings" or check.state != "ok" or not others:
        return check
    text = f"{check.evidence}, but the daemon has others: {', '.join(others)}"
    first = next((file for file in others if file.endswith("/tychod.toml")), others[0])
    return check._replace(state="warn", evidence=text, remedy=REMEDIES["files"].format(file=first))


def _with_state(check: Check, directory: str | None) -> Check:
    """Say where the running daemon keeps its state, if it was another directory's turn."""
    if check.id != "state" or directory is None or check.evidence.startswith(f"{directory} "):
        return check
    text = f"the daemon keeps it in {directory}"
    return check._replace(state="ok", evidence=text, remedy=None)


def joined(check: Check, view: View | None) -> Check:
    """Return one check of both views."""
    if view is None:
        return check
    if check.id in JOINED and check.state == "fail":
        view = view._replace(state="fail")  # the same fault, and the daemon knows its cause
    if view.state == check.state:
        if view.state in ("ok", "skip"):
            return check
        return check._replace(evidence=view.evidence, remedy=view.remedy or check.remedy)
    remedy = view.remedy or (check.remedy if view.state in ("warn", "fail") else None)
    text = f"the daemon: {view.evidence}; from here ({check.state}): {check.evidence}"
    return check._replace(state=view.state, evidence=text, remedy=remedy)


def _alone(ident: str, view: View) -> Check:
    title, group = NAMED[ident]
    return Check(ident, title, group, view.state, f"the daemon: {view.evidence}", view.remedy)


NAMED: Final[Mapping[str, tuple[str, str]]] = {
    "settings": ("Settings", "service"),
    "metrics": ("Metrics endpoint", "service"),
    "programs": ("Kernel programs", "accounting"),
    "hierarchy": ("Cgroups", "accounting"),
    "rapl": ("RAPL", "energy"),
    "hwmon": ("hwmon", "energy"),
    "ipmi": ("IPMI", "energy"),
    "redfish": ("BMC credentials", "energy"),
    "bmc": ("BMC", "energy"),
    "model": ("CPU model", "energy"),
    "nvml": ("NVML", "gpu"),
    "kubelet": ("Kubelet", "names"),
    "bundle": ("Bundles", "names"),
    "runtime-file": ("Runtimes' files", "names"),
    "log-link": ("Log links", "names"),
    "device-plugin": ("Pods' devices", "names"),
    "pod-resources": ("Pod resources", "names"),
    "systemd": ("Units' texts", "names"),
    "firework": ("VM agent", "names"),
}
"""Title and group of what the daemon may tell alone, as in the table of the host's half."""

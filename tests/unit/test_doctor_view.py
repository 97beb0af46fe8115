"""`tychoctl doctor`: the host's half and the daemon's become one list, and text for people."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_doctor_host import Started
from tests.unit.test_render import GOLDEN, UPDATE, reply_for
from tychoctl import doctor, doctor_host, doctor_text, doctor_view
from tychoctl.client import Failure
from tychoctl.doctor_view import (
    Check,
    Told,
    View,
    joined,
    merge,
    seen_by_daemon,
    summary,
    view_of_source,
)
from tychoctl.render import display_width
from tychod.doctor.table import CHECKS
from tychod.version import read_build

OWN = f"tychod {read_build().version}"
HOST = (
    Check("kernel", "Kernel", "machine", "ok", "Linux 6.1.0 on x86_64"),
    Check("settings", "Settings", "service", "ok", "valid (/etc/tychod/tychod.toml)"),
    Check(
        *("socket", "Socket", "service", "warn", "/run/tychod/tychod.sock is 0666, group tychod"),
        "chmod 0660 /run/tychod/tychod.sock: everybody on this machine may ask the daemon",
    ),
    Check("programs", "Kernel programs", "accounting", "ok", "pinned, loader core"),
    Check("rapl", "RAPL", "energy", "skip", "user 1000: root only", "sudo tychoctl doctor"),
    Check("model", "CPU model", "energy", "ok", "1 found: cpu-model"),
    Check(
        *("bmc", "BMC", "energy", "fail", "no answer within 2.5 s"),
        "see whether it answers: curl -k --max-time 10 https://ADDRESS/redfish/v1/",
    ),
    Check("redfish", "BMC credentials", "energy", "skip", "no credentials for a BMC"),
    Check("nvml", "NVML", "gpu", "skip", "no NVIDIA driver on this host"),
    Check("kubelet", "Kubelet", "names", "ok", "https://127.0.0.1:10250 answered: 12 pods"),
    Check("bundle", "Bundles", "names", "warn", "bundles \x1b[2J are not readable", "be root"),
)


def joint() -> list[Check]:
    """Return the checks of a host by hand and of the daemon that the other tests have."""
    return merge(HOST, seen_by_daemon(Told(reply_for("status"), OWN, None)))


def state_of(checks: list[Check], ident: str) -> str:
    """Return how a check came out."""
    return next(check.state for check in checks if check.id == ident)


@pytest.mark.parametrize("form", ["table", "json"])
def test_output_is_as_agreed(form: str) -> None:
    """What people and programs read changes only on purpose."""
    path = GOLDEN / f"doctor.{form}.txt"
    checks = joint()
    text = doctor_text.render(checks, 80, coloured=False)
    if form == "json":
        text = json.dumps(doctor.to_plain(checks), indent=1) + "\n"
    text = text.replace(read_build().version, "VERSION")
    if os.environ.get(UPDATE):
        path.write_text(text)

    assert text == path.read_text()


@pytest.mark.parametrize(
    ("enabled", "errors", "state"),
    [("auto", 0, "warn"), ("auto", 2, "fail"), (True, 0, "fail")],
)
def test_a_kubelet_that_was_never_asked_only_warns(
    *, enabled: object, errors: int, state: str
) -> None:
    """Nobody gave a credential: names may come by other ways; one that is refused fails."""
    source = {"name": "kubelet", "enabled": enabled, "errors": errors, "state": "unavailable"}

    assert view_of_source(source, is_problem=True).state == state


def test_each_check_comes_once_and_the_daemon_decides() -> None:
    """Root can read it and the daemon cannot: both are said, and it fails; and the other way."""
    checks = joint()
    kubelet = next(check for check in checks if check.id == "kubelet")

    assert len({check.id for check in checks}) == len(checks)
    assert kubelet.state == "fail"
    assert "the daemon: 401 Unauthorized" in kubelet.evidence
    assert "from here (ok): https://127.0.0.1:10250 answered" in kubelet.evidence
    assert kubelet.remedy == "set [kubelet] token_file or client_cert_file"
    assert [state_of(checks, name) for name in ("rapl", "bmc", "bundle")] == ["ok"] * 3


@pytest.mark.parametrize(
    ("view", "state", "remedy"),
    [
        (None, "warn", "mend"),
        (View("warn", "text"), "warn", "mend"),
        (View("fail", "text", "do"), "fail", "do"),
        (View("ok", "text"), "ok", None),
        (View("skip", "text"), "skip", None),
    ],
)
def test_a_view_of_the_daemon_stands_over_the_host_s(
    view: View | None, state: str, remedy: str | None
) -> None:
    """No view leaves the host's; a good one takes the remedy away; a bad one brings its own."""
    found = joined(Check("x", "X", "names", "warn", "seen", "mend"), view)

    assert (found.state, found.remedy) == (state, remedy)


def told(**changes: Any) -> Told:
    """Return the daemon's answer with something changed."""
    return Told({"state": "running", **changes}, OWN, None)


def remedies_of(answer: Told) -> list[str | None]:
    """Return what the daemon's half advises, host's checks apart."""
    daemon = seen_by_daemon(answer)
    settings = Check("settings", "Settings", "service", "ok", "valid")
    return [check.remedy for check in merge([settings], daemon)]


def failed(code: str) -> Told:
    """Return that there was no answer."""
    return Told(None, "", Failure(code, "nothing answers on /run/x"))


def read_from(script: str) -> Check:
    """Return what the client makes of a host's half that a script stands for."""
    processes = Started()
    try:
        return doctor_host.read_host(processes.half(script, doctor_host.GRACE_S))[0]
    finally:
        processes.end()


CAUSES = {
    "not-running": lambda: remedies_of(failed("not-running")),
    "hung": lambda: remedies_of(failed("timeout")),
    "forbidden": lambda: remedies_of(failed("forbidden")),
    "degraded": lambda: remedies_of(told(state="degraded")),
    "version": lambda: remedies_of(Told({"state": "running"}, "tychod 99.0", None)),
    "files": lambda: remedies_of(told()._replace(files=("/x/tychod.toml",))),
    "rejected": lambda: remedies_of(told(config_rejected="window.length: is no number")),
    "late": lambda: [read_from("sleep 5").remedy],
    "host": lambda: [read_from("cat /nowhere").remedy],
}


@pytest.mark.parametrize("name", doctor_view.REMEDIES)
def test_each_remedy_is_shown_for_its_cause(name: str) -> None:
    """What the client itself advises is shown for what it is about."""
    assert doctor_view.REMEDIES[name].format(file="/x/tychod.toml") in CAUSES[name]()


def test_without_the_host_s_half_the_daemon_s_is_told() -> None:
    """Where `tychod --doctor` did not work, what the daemon sees is shown still."""
    daemon = seen_by_daemon(Told(reply_for("status"), OWN, None))

    checks = merge([doctor_view.host_fault("No module named numpy")], daemon)

    assert {"host", "rapl", "kubelet", "bundle", "daemon"} <= {check.id for check in checks}


def test_what_did_not_come_from_the_host_is_told_as_the_daemon_sees_it() -> None:
    """A half that hung half way: each check once, from whoever has it."""
    daemon = seen_by_daemon(Told(reply_for("status"), OWN, None))

    checks = merge([HOST[0], HOST[4], doctor_view.host_fault("hung", "late")], daemon)

    idents = [check.id for check in checks]
    assert {"kernel", "host", "rapl", "kubelet", "daemon"} <= set(idents)
    assert len(set(idents)) == len(idents)


def test_what_to_do_first_is_a_failure_before_a_warning() -> None:
    """The last line of the output names one thing: of the first failure that has a remedy."""
    checks = [
        Check("a", "A", "machine", "warn", "", "a"),
        Check("b", "B", "machine", "fail", ""),
        Check("c", "C", "machine", "fail", "", "c"),
    ]

    assert summary(checks) == (0, 1, 2, 0, "C: c")
    assert summary(checks[:1]).first == "A: a"
    assert summary([]).first is None


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Long evidence is wrapped; text from outside steers no terminal; 40 cells are the least."""
    text = doctor_text.render(joint(), width, coloured=False)

    assert max(display_width(line) for line in text.splitlines()) <= max(width, 40)
    assert "\x1b" not in text


def test_a_group_is_shown_alone() -> None:
    """`--group` shows its checks; without it all are shown."""
    checks = joint()

    assert {check.id for check in doctor.of_group(checks, "gpu")} == {"nvml"}
    assert doctor.of_group(checks, None) == checks


@pytest.mark.parametrize("ident", ["settings", "host"])
def test_what_makes_all_checks_doubtful_is_in_every_group(ident: str) -> None:
    """Settings that cannot be used leave the defaults, and no group of checks is to hide that."""
    bad = Check(ident, "X", "service", "fail", "there is no /nope.toml", "mend it")
    well = bad._replace(state="ok")
    energy = Check("rapl", "RAPL", "energy", "ok", "reads it")

    assert doctor.of_group([bad, energy], "energy") == [bad, energy]
    assert doctor.of_group([well, energy], "energy") == [energy]


def test_rows_of_the_daemon_alone_are_called_as_the_host_s() -> None:
    """Without the host's half the same check has the same title and group."""
    known = {check.id: (check.title, check.group) for check in CHECKS}
    idents = {*doctor_view.SOURCES.values(), *doctor_view.ROUTES, *doctor_view.JOINED}

    assert {ident: known[ident] for ident in doctor_view.NAMED} == doctor_view.NAMED
    assert idents | {"redfish", "programs", "settings"} == set(doctor_view.NAMED)


CLOSED = {"source": "metrics", "reason": "prometheus_client is missing: closed", "remedy": "get it"}
REFUSED = Check(
    *("metrics", "Metrics endpoint", "service", "fail", "127.0.0.1:9 : Connection refused"),
    "see who listens",
)


@pytest.mark.parametrize(
    ("check", "state"), [(REFUSED, "fail"), (REFUSED._replace(state="ok"), "warn")]
)
def test_a_closed_endpoint_has_the_daemon_s_cause(check: Check, state: str) -> None:
    """Refused from here is the effect; what the daemon complains of is what is to be mended."""
    status = {"state": "running", "problems": [CLOSED]}

    merged = merge([check], seen_by_daemon(Told(status, OWN, None)))
    found = next(c for c in merged if c.id == "metrics")

    assert [c.id for c in merged] == ["metrics", "daemon"]
    assert (found.state, found.remedy) == (state, "get it")
    assert CLOSED["reason"] in found.evidence


@pytest.mark.parametrize(
    ("directory", "state"),
    [("/srv/state", "ok"), ("/var/lib/tychod", "warn"), (None, "warn"), ("/var/lib", "ok")],
)
def test_the_state_directory_is_the_running_daemon_s(directory: str | None, state: str) -> None:
    """Nobody is told to make a directory that the daemon does not use."""
    text = "/var/lib/tychod does not exist; the daemon makes it at its start"
    check = Check("state", "State directory", "service", "warn", text, "install -d")
    status = {"state": "running", "state_directory": directory}

    found = merge([check], seen_by_daemon(Told(status, OWN, None)))[0]

    assert found.state == state
    assert (found.remedy is None) == (state == "ok")


def test_colours_are_for_states_alone() -> None:
    """A coloured text is the plain one, with each state in its colour."""
    plain, coloured = (doctor_text.render(joint(), 80, coloured=c) for c in (False, True))

    assert "\x1b[1;31mfail\x1b[0m" in coloured
    for code in doctor_text.COLOURS.values():
        coloured = coloured.replace(f"\x1b[{code}m", "")
    assert coloured.replace("\x1b[0m", "") == plain


def test_a_peer_that_never_answers_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that takes nobody: the question ends, and says what to do."""
    monkeypatch.setattr(doctor, "DAEMON_S", 0.1)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        answer = doctor.ask_daemon(path)

    assert answer.failure is not None
    assert answer.failure.code == "timeout"
    assert doctor_view.REMEDIES["hung"] in remedies_of(answer)

"""`tychod --doctor`: every remedy for its cause, one deadline for all, and no secret told."""

import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.hosts.trees import SetClock, host_config, write_files
from tests.sim.bmc import SimBmc, make_certificate
from tests.sim.powercap import LAYOUTS, build_tree
from tychod.config import Config
from tychod.doctor import (
    accounting,
    children,
    diagnose,
    energy,
    lateness,
    machine,
    names,
    remedies,
    service,
    systemd,
    table,
)
from tychod.doctor.model import Check, Finding, Place, ok
from tychod.hostfs import Host
from tychod.settings import Arguments

CONTAINER = "a1" * 32
PODS = "cgroup/kubepods.slice/kubepods-burstable.slice"
POD = "kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice"
CPUINFO = "processor\t: 0\nflags\t\t: fpu {}\n\nprocessor\t: 1\nflags\t\t: fpu other\n"


def place_at(base: Path, *, reads_all: bool = True, **sections: object) -> Place:
    """Return a machine below a directory; whole sections of the settings may be given."""
    roots = replace(host_config(base), var=str(base / "var"))
    config = replace(Config(), host=roots, **sections)  # type: ignore[arg-type]
    uid = 0 if reads_all else 4711
    environ = {"RUNTIME_DIRECTORY": str(base), "PATH": f"{base}/bin:{os.environ['PATH']}"}
    return Place(Host(roots), config, SetClock(), environ, uid, ok("valid"), "here", reads_all)


def settings_of(**values: object) -> dict[str, Any]:
    """Return sections with values set, written ``section__key``."""
    config = Config()
    found: dict[str, Any] = {}
    for name, value in values.items():
        section, _, key = name.partition("__")
        found[section] = replace(found.get(section, getattr(config, section)), **{key: value})
    return found


def unit_of(text: str) -> Finding:
    """Return what is found of a unit that systemctl shows so."""
    return systemd.judge_unit(systemd.SERVICE, systemd.parse_unit(text))


def settings_from(base: Path, text: str) -> Finding:
    """Return what is found of a settings file."""
    (base / "tychod.toml").write_text(text)
    return diagnose.find_place(Arguments(config_dir=str(base)), {}).settings


def two_drivers(base: Path) -> Finding:
    """Make pods of both cgroup drivers in one hierarchy."""
    write_files(base, {"cgroup/cgroup.controllers": "cpu"})
    (base / PODS).mkdir(parents=True)
    (base / "cgroup/kubepods").mkdir()
    return accounting.look_at_cgroup_driver(place_at(base))


def powercap(base: Path, mode: int) -> Finding:
    """Make counters of RAPL with a mode."""
    build_tree(base / "sys", LAYOUTS["intel-2s"], mode=mode)
    return energy.look_at_powercap(place_at(base))


def insecure(base: Path) -> Finding:
    """Reach a BMC whose certificate the settings do not check."""
    return at_bmc(base, settings_of(redfish__insecure=True))


def at_bmc(base: Path, sections: dict[str, Any], fault: str = "") -> Finding:
    """Look at a real server that speaks Redfish."""
    with SimBmc(make_certificate(base)) as bmc:
        bmc.fault = fault
        return energy.look_at_bmc(with_bmc(base, bmc.url, sections))


def with_bmc(base: Path, url: str, sections: dict[str, Any]) -> Place:
    """Return a machine with credentials for a BMC."""
    path = base / "bmc.csv"
    path.write_text(f"here,reader,s3cr3t-pass,{url}\n")
    path.chmod(0o600)
    redfish = replace(sections.get("redfish", Config().redfish), credentials=str(path))
    return place_at(base, **{**sections, "redfish": redfish})


def dead_endpoint(base: Path) -> Finding:
    """Look for the metrics endpoint where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listen = f"127.0.0.1:{port}"
    sections = settings_of(metrics__enabled=True, metrics__listen=listen)
    return service.look_at_metrics(place_at(base, **sections))


def at_socket(base: Path, mode: int = 0o660, *, listens: bool = True, **values: object) -> Finding:
    """Look at a control socket of a mode; ``listens``: somebody takes connections."""
    path = base / "tychod.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(mode)
        if listens:
            server.listen()
        return service.look_at_socket(place_at(base, **settings_of(**values)))


def at_state(base: Path, *, mode: int) -> Finding:
    """Look at a state directory of a mode."""
    (base / "var/lib/tychod").mkdir(parents=True)
    (base / "var/lib/tychod").chmod(mode)
    return service.look_at_state(place_at(base))


def of_state(*, room: int, is_writable: bool) -> Finding:
    """Judge a state directory with room in bytes."""
    return service.judge_state("text", Path("/s"), "tychod", room, is_writable=is_writable)


def late(check: Check) -> Finding:
    """Judge a check that had its time and no answer."""
    return lateness.judge_own(check, 2.0)


def once(look: Callable[[Place], Finding], base: Path) -> Finding:
    """Run one look as each check's thread does."""
    return diagnose.look_once(Check("x", "machine", "X", look, "wake it"), place_at(base))


RELEASED = threading.Event()


def hang(_: Place) -> Finding:
    """Take longer than anybody waits here."""
    RELEASED.wait(20.0)
    return ok("late")


def hang_settings() -> diagnose.Read:
    """Take longer than anybody waits here."""
    RELEASED.wait(20.0)
    return diagnose.Read(Config(), ok("late"))


def fail(exc: Exception) -> Callable[[Place], Finding]:
    """Return a look that raises."""

    def look(_: Place) -> Finding:
        raise exc

    return look


def not_a_member(_: Path) -> Finding:
    """Be refused by a socket of a group that one is no member of."""
    return service.judge_refused("permission denied", gid=1, uid=1)


def no_pod_logs(base: Path) -> Finding:
    """Have a loop of links where the pods' logs should be: the kernel refuses root, too."""
    (base / "log").mkdir()
    (base / "log/pods").symlink_to(base / "log/pods")
    return names.look_at_pod_logs(place_at(base))


def broken_child(base: Path, monkeypatch: pytest.MonkeyPatch) -> Finding:
    """Let the process that asks systemd say nothing and end."""
    silent = base / "silent.py"
    silent.write_text("")
    monkeypatch.setattr("tychod.workloads.unit_child.__file__", str(silent))
    return names.look_at_units(place_at(base))


SHOW = "LoadState=loaded\nActiveState={}\nResult=exit-code\nNRestarts={}\nMainPID=7\n"
CAUSES: Mapping[str, Callable[[Path], Finding]] = {
    "old-kernel": lambda _: machine.judge_kernel("5.4.0-150", "x86_64"),
    "clock-source": lambda _: machine.judge_clock("hpet", 1e-9),
    "clock-resolution": lambda _: machine.judge_clock("jiffies", 4e-3),
    "library": lambda _: machine.judge_libraries([machine.LIBRARIES[0]]),
    "settings": lambda base: settings_from(base, "[window]\nlenght = 3\n"),
    "settings-late": lambda _: diagnose.within(0.05, hang_settings)[1],
    "settings-unreadable": lambda _: diagnose.judge_settings(
        ["/etc/tychod/tychod.toml: cannot be read: Permission denied"], reads_all=False
    ),
    "as-root": lambda base: names.judge_route(
        "bundles below /run/x are not readable (Permission denied); do",
        place_at(base, reads_all=False),
    ),
    "cgroup-drivers": two_drivers,
    "powercap-open": lambda base: powercap(base, 0o444),
    "powercap-group": lambda base: powercap(base, 0o400),
    "rapl-filter": lambda _: energy.judge_filter(frozenset({"sgx"}), None),
    "insecure-bmc": insecure,
    "slow-bmc": lambda _: late(check_of("bmc")),
    "pod-logs": no_pod_logs,
    "not-installed": lambda _: unit_of("LoadState=not-found\nActiveState=inactive\n"),
    "service-failed": lambda _: unit_of(SHOW.format("failed", 10)),
    "service-stopped": lambda _: unit_of(SHOW.format("inactive", 0)),
    "service-starting": lambda _: unit_of(SHOW.format("activating", 0)),
    "service-restarts": lambda _: unit_of(SHOW.format("active", 5)),
    "capability": lambda _: service.judge_capabilities(7, 0x1),
    "cost": lambda _: service.judge_cost(300 << 20, 0.001, 900.0),
    "metrics": dead_endpoint,
    "socket-missing": lambda base: service.look_at_socket(place_at(base)),
    "socket-dead": lambda base: at_socket(base, listens=False),
    "socket-open": lambda base: at_socket(base, 0o666),
    "socket-group": lambda base: at_socket(base, control__group="no-such-group-here"),
    "socket-member": not_a_member,
    "state-missing": lambda base: service.look_at_state(
        place_at(base)._replace(environ={"STATE_DIRECTORY": f"{base}/none"})
    ),
    "state-mode": lambda base: at_state(base, mode=0o755),
    "state-unwritable": lambda _: of_state(room=1 << 30, is_writable=False),
    "state-space": lambda _: of_state(room=1000, is_writable=True),
    "busy": lambda _: lateness.judge_late(check_of("kubelet"), None),
    "hung": lambda _: late(check_of("kubelet")),
    "fault": lambda base: once(fail(KeyError("s3cr3t-pass")), base),
}


def check_of(ident: str) -> Check:
    """Return a check of the table."""
    return next(check for check in table.CHECKS if check.id == ident)


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Let what hangs end, as the process's end would."""
    RELEASED.clear()
    yield
    RELEASED.set()
    for thread in threading.enumerate():
        if thread.name.startswith("doctor-"):
            thread.join(2.0)


@pytest.mark.parametrize("name", CAUSES)
def test_each_remedy_is_shown_for_its_cause(name: str, tmp_path: Path) -> None:
    """Whoever has the fault reads the remedy for it, whole, and no placeholder."""
    finding = CAUSES[name](tmp_path)

    pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(remedies.REMEDIES[name]))
    assert finding.remedy is not None
    assert re.fullmatch(pattern, finding.remedy)
    assert finding.state in ("fail", "warn", "skip")
    assert finding.evidence


def test_the_process_that_asks_systemd_may_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that says nothing is told with what to do about it."""
    finding = broken_child(tmp_path, monkeypatch)

    assert (finding.state, finding.remedy) == ("warn", remedies.REMEDIES["units-child"])


def test_every_remedy_has_a_cause() -> None:
    """A new remedy comes with a test that produces its cause."""
    assert set(remedies.REMEDIES) - {"units-child"} == set(CAUSES)


def test_settings_that_hang_hold_up_nobody() -> None:
    """A dead file server below /etc: the defaults tell where to look, and that it hangs is told."""
    config, finding = diagnose.within(0.05, hang_settings)

    assert config == Config()
    assert finding.state == "fail"
    assert "0.05 s" in finding.evidence
    assert not RELEASED.is_set()  # it hangs still


def test_what_hangs_fails_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One deadline for all: those that answered are told, the others failed with their remedy."""
    monkeypatch.setattr(lateness, "ENOUGH_S", -math.inf)  # however busy this process has been
    checks = [
        Check("slow", "machine", "Slow", hang, "wake it"),
        Check("fast", "machine", "Fast", lambda _: ok("there"), "-"),
        Check("slower", "machine", "Slower", hang, "wake that"),
    ]

    told: list[str] = []

    found = diagnose.look(
        checks, place_at(tmp_path), time.monotonic() + 0.5, lambda r: told.append(r.check.id)
    )

    assert told == ["fast"]

    assert [r.finding.state for r in found] == ["fail", "ok", "fail"]
    assert found[0].finding == Finding("fail", lateness.LATE, "wake it")
    assert found[2].finding.remedy == "wake that"


@pytest.mark.parametrize(
    ("own_s", "state", "told"),
    [
        (0.0, "warn", lateness.NO_TIME),
        (0.7, "warn", lateness.NO_TIME),
        (1.0, "fail", lateness.LATE),
    ],
)
def test_a_busy_machine_is_no_hang(own_s: float, state: str, told: str) -> None:
    """What got no time to look is looked at again; what had its time hangs."""
    check = Check("x", "machine", "X", hang, "wake it")

    found = lateness.judge_own(check, own_s)

    assert (found.state, found.evidence) == (state, told)
    assert found.remedy == ("wake it" if state == "fail" else remedies.REMEDIES["busy"])


def test_a_check_that_waits_has_all_of_its_time() -> None:
    """A thread that has begun long ago and waits for nobody's CPU hangs."""
    begun = lateness.begin()._replace(at_s=time.monotonic() - 30.0)
    check = Check("x", "machine", "X", hang, "wake it")

    assert lateness.judge_late(check, begun).state == "fail"
    assert lateness.judge_late(check, lateness.begin()).state == "warn"


@pytest.mark.parametrize(
    ("exc", "state", "told"),
    [
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), "fail", "without numpy"),
        (OSError(5, "Input/output error", "/x/y"), "fail", "/x/y: Input/output error"),
        (children.Late(["systemctl"], 2.2, 1.9), "fail", lateness.LATE),
        (RuntimeError("token s3cr3t-pass"), "fail", "RuntimeError in look"),
    ],
)
def test_what_stops_a_check_is_its_finding(
    exc: Exception, state: str, told: str, tmp_path: Path
) -> None:
    """A missing library, a refused file or a fault of ours is told, and no text of it."""
    finding = once(fail(exc), tmp_path)

    assert finding.state == state
    assert told in finding.evidence
    assert "s3cr3t" not in finding.evidence
    assert finding.remedy


def test_who_may_not_look_is_told_so_and_fails_nothing(tmp_path: Path) -> None:
    """Without root's rights a refused file is no fault of the host's: skip, and how to see it."""
    place = place_at(tmp_path, reads_all=False)
    check = Check("x", "machine", "X", fail(PermissionError(13, "Permission denied", "/x")), "-")

    finding = diagnose.look_once(check, place)

    assert finding == Finding("skip", "/x: Permission denied", remedies.REMEDIES["as-root"])


def test_hardware_that_is_not_there_fails_nothing(tmp_path: Path) -> None:
    """An empty machine has no failing source, GPU or name; each says in words that it is absent."""
    write_files(
        tmp_path, {"cgroup/cgroup.controllers": "cpu", "proc/stat": "cpu 1 2 3 4 5 6 7 8\n"}
    )
    place = place_at(tmp_path, **settings_of(ipmi__device=f"{tmp_path}/ipmi0"))
    checks = [c for c in table.CHECKS if c.group in ("energy", "names") and c.id != "systemd"]

    found = diagnose.look(checks, place, time.monotonic() + 2.5)

    assert {r.check.id: r.finding for r in found if r.finding.state in ("warn", "fail")} == {}
    assert all(r.finding.evidence for r in found)


def test_a_source_that_is_asked_for_and_absent_fails(tmp_path: Path) -> None:
    """`enabled = true` means that it must be there: the collector's own words say what to do."""
    finding = energy.find_source("rapl")(place_at(tmp_path, **settings_of(rapl__enabled=True)))

    assert finding.state == "fail"
    assert "no powercap zones" in finding.evidence
    assert "intel_rapl" in str(finding.remedy)


def test_sources_are_found_by_their_collectors(tmp_path: Path) -> None:
    """What the daemon would read is what the doctor names."""
    build_tree(tmp_path / "sys", LAYOUTS["intel-2s"])
    write_files(tmp_path, {"sys/class/hwmon/hwmon0/name": "power_meter"})

    finding = energy.find_source("rapl")(place_at(tmp_path))

    assert finding.state == "ok"
    assert "package-0" in finding.evidence


def test_the_bmc_is_reached_without_a_login(tmp_path: Path) -> None:
    """Reachability and TLS are checked, no account is used, and no password is told."""
    with SimBmc(make_certificate(tmp_path)) as bmc:
        untrusted = energy.look_at_bmc(with_bmc(tmp_path, bmc.url, {}))
        sections = settings_of(redfish__insecure=True)
        reached = energy.look_at_bmc(with_bmc(tmp_path, bmc.url, sections))
        logins = bmc.logins

    assert (untrusted.state, reached.state, logins) == ("fail", "warn", 0)
    assert "certificate is not trusted" in untrusted.evidence
    assert "s3cr3t-pass" not in f"{untrusted}{reached}"


def test_a_container_s_bundle_and_log_link_are_tried(tmp_path: Path) -> None:
    """The ways to names are tried for containers that run here, by the code that uses them."""
    scope = f"{PODS}/{POD}/cri-containerd-{CONTAINER}.scope"
    bundle = f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{CONTAINER}/config.json"
    notes = '"io.kubernetes.cri.container-type": "container"'
    named = '"io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.sandbox-name": "shop"'
    write_files(
        tmp_path,
        {
            "cgroup/cgroup.controllers": "cpu",
            f"{scope}/cgroup.procs": "",
            bundle: f'{{"annotations": {{{notes}, {named}}}}}',
        },
    )
    place = place_at(tmp_path)

    assert names.find_route("bundle")(place).state == "ok"
    assert names.find_route("log-link")(place).state == "skip"
    assert accounting.look_at_cgroup_driver(place).evidence.startswith("systemd")


@pytest.mark.parametrize(
    ("flags", "is_on", "state", "told"),
    [
        ({"fpu"}, None, "ok", "no SGX"),
        ({"sgx"}, None, "warn", "cannot be read here"),
        ({"sgx"}, False, "ok", "filter is off"),
        ({"sgx"}, True, "warn", "filter is on"),
    ],
)
def test_the_filter_of_rapl_is_told_as_far_as_it_can_be_known(
    flags: set[str], is_on: bool | None, state: str, told: str
) -> None:
    """The register decides where it can be read; else SGX alone makes a doubt, and says so."""
    finding = energy.judge_filter(frozenset(flags), is_on)

    assert finding.state == state
    assert told in finding.evidence


def test_the_filter_s_bit_is_read_from_its_register(tmp_path: Path) -> None:
    """Bit 0 of register 0xBC; a file that is too short or not there tells nothing."""
    path = tmp_path / "msr"
    path.write_bytes(bytes(0xBC) + (5).to_bytes(8, "little"))

    assert energy.read_filter_bit(str(path)) is True
    assert energy.read_filter_bit(str(tmp_path / "none")) is None


@pytest.mark.parametrize(
    ("flags", "told"), [("hypervisor", "a virtual machine"), ("vme", "bare metal")]
)
def test_a_virtual_machine_explains_what_is_missing(flags: str, told: str, tmp_path: Path) -> None:
    """The hypervisor's flag of the first processor decides; it is no fault."""
    write_files(tmp_path, {"proc/cpuinfo": CPUINFO.format(flags)})

    finding = machine.look_at_virtualisation(place_at(tmp_path))

    assert finding.state == "ok"
    assert told in finding.evidence


def test_nobody_is_told_to_join_the_group_of_root() -> None:
    """A socket that only root may use leads to sudo, not to root's group."""
    found = service.judge_refused("permission denied", gid=0, uid=4712)

    assert found.remedy == remedies.REMEDIES["as-root"]


@pytest.mark.parametrize(("gid", "uid"), [(65534, 1), (1, 4_000_000), (4_000_000, 1)])
def test_nobody_is_told_to_use_a_name_that_is_none(gid: int, uid: int) -> None:
    """Ids without a name, as of another user namespace, make no command; root gets in."""
    found = service.judge_refused("permission denied", gid=gid, uid=uid)

    assert found.remedy == remedies.REMEDIES["as-root"]


def test_the_socket_that_was_named_is_looked_at_with_wrong_settings_too(tmp_path: Path) -> None:
    """What is wrong in a file takes nothing from what the caller named."""
    (tmp_path / "tychod.toml").write_text("[window]\nlenght = 3\n")
    environ = {"TYCHOD_CONTROL_SOCKET": f"{tmp_path}/named.sock"}

    place = diagnose.find_place(Arguments(config_dir=str(tmp_path)), environ)

    assert place.settings.state == "fail"
    assert str(service.socket_path(place)) == f"{tmp_path}/named.sock"


def test_a_user_s_own_state_is_looked_at_only_where_it_is(tmp_path: Path) -> None:
    """Who only asks keeps no state: nobody is told to make a directory in a home for it."""
    home = {"HOME": f"{tmp_path}/home"}
    place = place_at(tmp_path, reads_all=False)._replace(environ=home)
    own = tmp_path / "home/.local/state/tychod"

    before = service.state_path(place)
    own.mkdir(parents=True)
    there = service.state_path(place)
    (tmp_path / "var/lib/tychod").mkdir(parents=True)

    assert (before, there) == (tmp_path / "var/lib/tychod", own)
    assert service.state_path(place) == tmp_path / "var/lib/tychod"


@pytest.mark.parametrize(
    ("told", "begun_s"),
    [("99.9", 99.9), ("9.0", 99.7), ("101", 100.0), ("nan", 100.0), ("x", 100.0), ("", 100.0)],
)
def test_the_start_of_two_programs_counts(told: str, begun_s: float) -> None:
    """The client's start counts, boundedly; what cannot be true is not believed."""
    assert diagnose.begin({diagnose.SINCE: told}, 100.0) == begun_s


def test_systemctl_is_asked_and_may_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit's state is systemctl's; one that never answers is ended and fails the check."""
    program = tmp_path / "bin/systemctl"
    write_files(tmp_path, {"bin/systemctl": f"#!/bin/sh\necho '{SHOW.format('active', 0)}'\n"})
    program.chmod(0o755)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    check = check_of("service")

    well = diagnose.look_once(check, place_at(tmp_path))
    program.write_text("#!/bin/sh\nexec sleep 5\n")
    monkeypatch.setattr(systemd, "ASK_S", 0.05)
    busy = diagnose.look_once(check, place_at(tmp_path))
    monkeypatch.setattr(lateness, "ENOUGH_S", 0.0)
    hung = diagnose.look_once(check, place_at(tmp_path))

    assert well == ok("tychod.service is active, restarted 0 times")
    assert (hung.state, hung.evidence) == ("fail", lateness.LATE)
    assert (busy.state, busy.evidence) == ("warn", lateness.NO_TIME)


def test_the_metrics_endpoint_is_asked_whether_it_is_well(tmp_path: Path) -> None:
    """A status of 200 is well; anything else, but a question for a password, fails."""

    class Handler(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    found = []
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        listen = f"127.0.0.1:{server.server_port}"
        place = place_at(tmp_path, **settings_of(metrics__enabled=True, metrics__listen=listen))
        for status in (200, 401, 503):
            Handler.status = status
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            found.append(service.look_at_metrics(place).state)
            thread.join()

    assert found == ["ok", "ok", "fail"]


def test_the_doctor_starts_without_the_libraries_that_it_checks() -> None:
    """Without numpy, msgpack or requests it still says what is missing."""
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('numpy', 'msgpack', 'requests', 'pystemd')))\n"
        "from tychod.doctor.diagnose import doctor\n"
        "from tychod.settings import Arguments\n"
        "import os\n"
        "print(doctor(Arguments(), os.environ, as_json=False).text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert (
        "fail  Python libraries: cannot be imported: numpy (nothing works), msgpack" in done.stdout
    )
    assert "apt install python3-numpy python3-msgpack" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

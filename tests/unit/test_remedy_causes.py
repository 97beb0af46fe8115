"""Causes of remedies that no other test produces: each is made, and its remedy is read."""

import errno
import fcntl
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.hosts.trees import SetClock, host_at, write_files
from tests.sim.kubelet import SimKubelet
from tests.sim.podresources import answer, read_request, says
from tests.sim.powercap import LAYOUTS, build_tree
from tychod import config
from tychod.collectors import hwmon, ipmi, nvml_library, rapl, redfish_errors
from tychod.collectors.base import Unavailable
from tychod.collectors.redfish_client import Client
from tychod.collectors.redfish_credentials import Bmc, CredentialsError, Secret, read_bmc
from tychod.collectors.redfish_errors import Raw, RedfishError
from tychod.hostfs import KeptFile
from tychod.kernel import taskstats
from tychod.kernel.bpf import attached, bcc, child, core, opening, pins
from tychod.kernel.bpf.plan import LoadError, LoadPlan
from tychod.kernel.hierarchy import Hierarchy
from tychod.workloads import kubelet_http, podresources
from tychod.workloads.kubelet import Unavailable as NoAnswer

PLAN = LoadPlan("v2", 1, 0, (0,), 64)
CLOCK = SetClock()


def raised(act: Callable[[], object]) -> str:
    """Return the reason and the remedy of what is raised."""
    try:
        act()
    except (LoadError, RedfishError, CredentialsError, kubelet_http.KubeletError) as exc:
        return f"{exc.reason}; {exc.remedy}"
    return "nothing was raised"


def told(found: object) -> str:
    """Return the reason and the remedy of a source that is not there."""
    assert isinstance(found, Unavailable | NoAnswer | nvml_library.Advice)
    return f"{found.reason}; {found.remedy}"


def nameless_zone(base: Path) -> str:
    """Have a zone whose name leads nowhere but to itself: the kernel refuses root, too."""
    build_tree(base / "sys", LAYOUTS["intel-2s"][:1])
    name = next((base / "sys").rglob("intel-rapl:0/name"))
    name.unlink()
    name.symlink_to(name)
    return told(rapl.SPEC.find(host_at(base), config.Config(), CLOCK))


def no_meter(_: Path) -> str:
    """Have a device that can be opened and is no IPMI."""
    settings = replace(config.Config(), ipmi=replace(config.Ipmi(), device=os.devnull))
    return told(ipmi.SPEC.find(host_at(Path("/nowhere")), settings, CLOCK))


def deaf_sensor(base: Path) -> str:
    """Have a power meter whose file holds no number."""
    chip = "sys/class/hwmon/hwmon0"
    write_files(base, {f"{chip}/name": "power_meter\n", f"{chip}/power1_average": "none\n"})
    return told(hwmon.SPEC.find(host_at(base), config.Config(), CLOCK))


def no_ca(base: Path) -> str:
    """Ask a BMC with a file of CAs that holds none."""
    (base / "ca.pem").write_text("no certificate")
    settings = replace(config.Redfish(), ca_file=str(base / "ca.pem"))
    bmc = Bmc("https://127.0.0.1:1", "", Secret(""))
    return raised(lambda: Client(bmc, settings, host_at(base), CLOCK).get("/redfish/v1/"))


def stopped(base: Path) -> str:
    """Ask a BMC after the end."""
    client = Client(
        Bmc("https://127.0.0.1:1", "", Secret("")), config.Redfish(), host_at(base), CLOCK
    )
    client.cut()
    return raised(lambda: client.get("/redfish/v1/"))


def credentials(base: Path, name: str, text: str) -> str:
    """Read a file of credentials that says something else."""
    path = base / name
    path.write_text(text)
    path.chmod(0o600)
    return raised(lambda: read_bmc(host_at(base), str(path), "here"))


def status_of(status: int) -> str:
    """Return what a status of a BMC means."""
    raw = Raw(status, {}, b"", 0, 0)
    found = redfish_errors.bad_status(raw, "/redfish/v1/Chassis", "see it", is_login=False)
    return f"{found.reason}; {found.remedy}"


def irremovable(base: Path) -> str:
    """Have something in the root that is called like pins and is none."""
    (base / "root/v1/more").mkdir(parents=True)
    return raised(lambda: attached.detach_pinned(host_at(base), str(base / "root")))


def held(base: Path, act: Callable[[KeptFile], object]) -> str:
    """Lock a directory as somebody else would, then do something with it."""
    mine, other = (KeptFile(str(base)) for _ in range(2))
    fcntl.flock(other.fileno(), fcntl.LOCK_EX)
    try:
        return raised(lambda: act(mine))
    finally:
        mine.close()
        other.close()


def raise_it(exc: Exception) -> None:
    """Raise what a function returned."""
    raise exc


def foreign_cgroups(base: Path) -> str:
    """Have a copy of a tree of cgroups, which no program could count."""
    hierarchy = Hierarchy("v2", str(base), "only one", true_root=True)
    return raised(lambda: opening.open_maps(host_at(base), config.Config(), hierarchy))


def pem(base: Path) -> str:
    """Have a client certificate for the kubelet that is none."""
    (base / "cert.pem").write_text("no certificate")
    path = str(base / "cert.pem")
    settings = replace(config.Kubelet(), client_cert_file=path, client_key_file=path)
    exchange = kubelet_http.Exchange(settings, host_at(base), "here")
    return raised(exchange.read_pods)


def answered(base: Path, data: bytes) -> str:
    """Let a socket answer a question for pods' devices with something."""
    path = str(base / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                if data:
                    says(answer(data))(client)
                else:
                    read_request(client)

        thread = threading.Thread(target=serve)
        thread.start()
        found = podresources.read_pod_resources(path)
        thread.join()
    return told(found)


def no_access(base: Path) -> str:
    """Have a socket of the kubelet's whose path leads to itself."""
    path = base / "loop"
    path.symlink_to(path)
    asked = podresources.PodResources(host_at(base), (str(path),))
    asked.poll(0)
    return asked.route


def without_pyroute2(base: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Hide the library."""
    monkeypatch.setitem(sys.modules, "pyroute2.netlink.exceptions", None)
    found = taskstats.listen(host_at(base), -1)
    return str(getattr(found, "remedy", found))


CAUSES: Mapping[str, tuple[str, Callable[[Path], str]]] = {
    "ipmi": ("compare with: ipmitool dcmi power reading", no_meter),
    "no library": (
        "install the driver's library (Debian: libnvidia-ml1)",
        lambda _: told(nvml_library.advice(nvml_library.LIBRARY_NOT_FOUND)),
    ),
    "two versions": (
        "restart the machine, or load the new nvidia modules",
        lambda _: told(nvml_library.advice(nvml_library.LIB_RM_VERSION_MISMATCH)),
    ),
    "restarted": (
        "nothing: it is tried again by itself",
        lambda _: told(nvml_library.advice(nvml_library.UNINITIALIZED)),
    ),
    "other code": (
        nvml_library.OTHER_REMEDY,
        lambda _: told(nvml_library.advice(999)),
    ),
    "wrong library": (
        "in [nvml] library, or leave it empty",
        lambda base: told(nvml_library.load(host_at(base), f"{base}/none.so")),
    ),
    "zone": (rapl.NAMES_REMEDY, nameless_zone),
    "sensor": ("see dmesg for its driver", deaf_sensor),
    "ca": ("give [redfish] ca_file a PEM file that tychod's user may read", no_ca),
    "stopped": ("tychod ends", stopped),
    "toml": (
        "write endpoint, username and password into it",
        lambda base: credentials(base, "bmc.toml", "endpoint = 3\n"),
    ),
    "csv": (
        "write one line for each node: node,user,password,https://host",
        lambda base: credentials(base, "bmc.csv", "here,reader\n"),
    ),
    "redirect": ("tychod follows no redirect", lambda _: status_of(302)),
    "busy": ("it is asked again later", lambda _: status_of(503)),
    "forbidden": ("let the user read it", lambda _: status_of(403)),
    "irremovable": ("run as root, or as the user that attached", irremovable),
    "descriptors": (
        "the loader gave 0 descriptors, not what it named; report this",
        lambda _: raised(
            lambda: child.parse_answer(b'{"maps": ["a"], "links": [], "notes": []}', [])
        ),
    ),
    "no interpreter": (
        "cannot be started: No such file or directory; install the package again",
        lambda base: raised(
            lambda: child.load_in_child(PLAN, child.Backend("x", (f"{base}/none",)))
        ),
    ),
    "no object": (
        "make bpf, or install the package again",
        lambda base: raised(lambda: core.load_core(PLAN, base / "none.o")),
    ),
    "copy": ("point [host] procfs and cgroupfs to those of the kernel", foreign_cgroups),
    "reader": (
        "stop it (systemctl stop tychod), or give one of them another --pin-dir",
        lambda base: held(base, lambda mine: pins._lock_for_reading(host_at(base), mine)),
    ),
    "read-only": (
        "let the loader write there (ProtectKernelTunables=no)",
        lambda base: raised(
            lambda: raise_it(pins._unusable(OSError(errno.EROFS, "Read-only"), str(base)))
        ),
    ),
    "pem": ("give [kubelet] client_cert_file a PEM file", pem),
    "nonsense": ("report it with the kubelet's version", lambda b: answered(b, b"\x0a\xff")),
    "hang-up": ("see the kubelet's log", lambda base: answered(base, b"")),
    "socket": (podresources.FORBIDDEN, no_access),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_remedy_is_told_for_its_cause(name: str, tmp_path: Path) -> None:
    """Whoever has the fault reads what mends it."""
    remedy, make = CAUSES[name]

    assert remedy in make(tmp_path)


def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may read the root can hold it; the loader says who does."""
    monkeypatch.setattr(pins, "LOCK_S", 0.0)

    found = held(tmp_path, lambda mine: pins._lock(host_at(tmp_path), mine))

    assert "wait for it if it is another tychod-load, else end it; then try again" in found


def test_without_the_texts_of_the_programs_bcc_cannot_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A package that lacks its own files says so."""
    monkeypatch.setattr(bcc, "TEXTS", ("none.h",))

    assert "the text of the programs is not in" in raised(bcc.program_text)


def test_programs_of_another_layout_are_not_loaded(tmp_path: Path) -> None:
    """An object file that was built for another daemon is refused before it is loaded."""

    class Foreign:
        """An object file whose constants are others."""

        def constants(self) -> memoryview:
            return memoryview(bytearray(8))

        def constant_places(self) -> dict[str, tuple[int, int]]:
            return {"ty_abi": (0, 4)}

    opened = core.Opened(Foreign(), PLAN, host_at(tmp_path), ())  # type: ignore[arg-type]

    found = raised(lambda: core._set_constants(opened))

    assert found.endswith("; make bpf, or install the package again")
    assert "the compiled programs are of ABI 0, this is" in found


def test_another_server_at_the_kubelet_s_port_is_named(tmp_path: Path) -> None:
    """What is no list of pods leads to whoever answers there."""
    with SimKubelet(b"[]") as kubelet:
        settings = replace(config.Kubelet(), read_only_port=kubelet.port)
        exchange = kubelet_http.Exchange(settings, host_at(tmp_path), "here")
        found = raised(exchange.read_pods)
        exchange.close()

    assert "; see what answers at http://127.0.0.1" in found


def test_without_pyroute2_exits_are_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optional library is named."""
    assert without_pyroute2(tmp_path, monkeypatch) == taskstats.LIBRARY_REMEDY

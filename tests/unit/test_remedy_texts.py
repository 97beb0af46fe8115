"""Remedies whose texts no other test reads: each is read where its cause tells it."""

import ctypes.util
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.hosts.trees import host_at, host_config
from tests.unit.test_remedy_causes import CLOCK, raised, told
from tychod import config
from tychod.collectors import ipmi, nvml_library, redfish_errors
from tychod.collectors.redfish_client import Client
from tychod.collectors.redfish_credentials import Bmc, Secret
from tychod.kernel.bpf import attach, pins
from tychod.runtime import http_endpoint, http_files
from tychod.workloads import firework, kubelet_http, unit_child

EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""


def loader_off(base: Path) -> str:
    """Ask for the programs with the loader switched off."""
    accounting = replace(config.Config().accounting, loader="off")
    settings = replace(config.Config(), accounting=accounting)
    return raised(lambda: attach.load(host_at(base), settings))


def expired(_: Path) -> str:
    """Meet a certificate of another time."""
    cause = ssl.SSLCertVerificationError()
    cause.verify_code, cause.verify_message = EXPIRED, "certificate has expired"
    found = redfish_errors.unverified(cause, "https://bmc")
    return f"{found.reason}; {found.remedy}"


def ca_is_gone(base: Path) -> str:
    """Ask a BMC with a file of CAs that is not there."""
    settings = replace(config.Redfish(), ca_file=str(base / "none.pem"))
    bmc = Bmc("https://127.0.0.1:1", "", Secret(""))
    return raised(lambda: Client(bmc, settings, host_at(base), CLOCK).get("/redfish/v1/"))


def wrong_users(base: Path) -> str:
    """Have a line in the file of users that is none."""
    path = base / "users"
    path.write_text("no hash\n")
    path.chmod(0o600)
    return refused(lambda: http_files.load_users(str(path)))


def refused(act: Callable[[], object]) -> str:
    """Return the reason and the remedy of what keeps the endpoint closed."""
    with pytest.raises(http_files.EndpointError) as caught:
        act()
    return f"{caught.value.reason}; {caught.value.remedy}"


def no_pods_allowed(_: Path) -> str:
    """Be answered HTTPS's error on a plain port."""
    return str(kubelet_http.refusal_of_status(400, "", plain=True).remedy)


def no_pystemd(_: Path) -> str:
    """Start the process that asks systemd where Python has no libraries but its own."""
    command = [sys.executable, "-I", "-S", str(unit_child.__file__)]
    return subprocess.run(command, input=b"", capture_output=True, check=False).stdout.decode()


TEXTS: Mapping[str, tuple[str, Callable[[Path], str]]] = {
    "driver not loaded": (
        "load it (modprobe nvidia); nvidia-smi shows whether it works",
        lambda _: told(nvml_library.advice(nvml_library.DRIVER_NOT_LOADED)),
    ),
    "no permission": (
        "let the daemon's user open /dev/nvidiactl and /dev/nvidia0 and on",
        lambda _: told(nvml_library.advice(nvml_library.NO_PERMISSION)),
    ),
    "no driver": (
        " in [nvml] library if it is elsewhere",
        lambda base: told(nvml_library.load(host_at(base), "")),
    ),
    "loader off": (" to count CPU time in the kernel", loader_off),
    "pins": (
        "run as root or as a member of the group ",
        lambda _: pins._unusable(PermissionError(13, "Permission denied"), "/p").remedy,
    ),
    "expired": ("check this machine's clock; if it is right, renew the certificate", expired),
    "ca": ("see [redfish] ca_file", ca_is_gone),
    "users": ("write lines of USER:HASH, HASH as `tychod --hash-password` prints it", wrong_users),
    "name": (
        "write an address, or mend the name's entry in /etc/hosts; or ",
        lambda _: refused(lambda: http_endpoint._resolve("x" * 64, 80)),
    ),
    "no agent": (
        "set [workloads] firework_status to its address",
        lambda _: firework.Firework("").route,
    ),
    "plain": ("set [kubelet] read_only_port to 0", no_pods_allowed),
    "pystemd": ("install it (Debian, Ubuntu, Fedora: the package python3-pystemd)", no_pystemd),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_read_where_its_cause_is(name: str, tmp_path: Path) -> None:
    """Whoever has the fault reads what mends it, whole."""
    text, make = TEXTS[name]

    assert text in make(tmp_path)


def test_without_pynvml_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's library is there, and Python's way to it is not."""
    there = ctypes.util.find_library("c")
    assert there
    monkeypatch.setitem(sys.modules, "pynvml", None)

    found = nvml_library.load(host_at(tmp_path), there)

    assert "install nvidia-ml-py for the Python that runs tychod" in told(found)


def test_a_device_that_is_root_s_leads_to_redfish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses the BMC's device to who is not root: another way is safer."""
    device = str(tmp_path / "ipmi0")
    opened = os.open

    def refuse(path: str, *args: Any, **words: Any) -> int:
        if path == device:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *args, **words)

    monkeypatch.setattr(os, "open", refuse)
    settings = config.Config(host=host_config(tmp_path), ipmi=config.Ipmi(device=device))

    found = told(ipmi.probe(host_at(tmp_path), settings, CLOCK))

    assert "the device is root's, and whoever may write to it controls the BMC" in found
    assert "Permission denied" in found

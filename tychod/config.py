"""Every setting, declared once: type, range, default and one line of explanation.

The loader, ``etc/tychod.toml``, the table in the manual and ``tychoctl config`` all walk
these declarations.  Intervals are seconds.  ``Restart()`` marks what a reload cannot change.
"""

from __future__ import annotations

import ipaddress
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from tychod.schema import Doc, Range, Restart

Enabled = bool | Literal["auto"]
ENABLED_DOC: Final = (
    'true: its absence is a problem; "auto": used where it exists; false: never read.'
)


@dataclass(frozen=True, slots=True)
class Host:
    """Where the machine is found; other roots than the defaults serve containers and tests."""

    procfs: Annotated[str, Restart(), Doc("Root of procfs.")] = "/proc"
    sysfs: Annotated[str, Restart(), Doc("Root of sysfs.")] = "/sys"
    cgroupfs: Annotated[str, Restart(), Doc("Root of the cgroup file systems.")] = "/sys/fs/cgroup"
    run: Annotated[str, Restart(), Doc("Run-time state of other programs (containerd).")] = "/run"
    log: Annotated[str, Restart(), Doc("Root of the logs (containers, pods).")] = "/var/log"
    hierarchy: Annotated[
        Literal["auto", "v2", "v1"], Restart(), Doc("The one cgroup hierarchy that is believed.")
    ] = "auto"


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """The analysis window: results appear once per window."""

    length: Annotated[
        float, Range(1.0, 60.0), Restart(), Doc("Seconds in a window.")
    ] = 3.0
    history: Annotated[
        float, Range(10.0, 600.0), Restart(), Doc("Seconds of samples kept in memory.")
    ] = 90.0


@dataclass(frozen=True, slots=True)
class Accounting:
    """CPU time of every cgroup."""

    cgroup_interval: Annotated[
        float, Range(0.1, 2.0), Restart(), Doc("Seconds between two readings of the cgroup files.")
    ] = 0.5


@dataclass(frozen=True, slots=True)
class Rapl:
    """Energy counters of CPU and memory (Linux powercap)."""

    enabled: Annotated[Enabled, Restart(), Doc(ENABLED_DOC)] = "auto"
    interval: Annotated[
        float, Range(0.01, 1.0), Restart(), Doc("Seconds between two readings.")
    ] = 0.05
    zones: Annotated[
        tuple[str, ...],
        Restart(),
        Doc('Zones to read, by domain ("package") or zone name ("package-0"); empty: all.'),
    ] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """Modelled CPU power, used only where no meter can be read; labelled `modelled`.

    The defaults are the average minimum (0.74 W) and maximum (3.5 W) per virtual CPU of cloud
    servers in the Cloud Carbon Footprint methodology, appendix I (AWS), from SPECpower results.
    """

    enabled: Annotated[Enabled, Restart(), Doc(ENABLED_DOC)] = "auto"
    interval: Annotated[
        float, Range(0.1, 2.0), Restart(), Doc("Seconds between two readings.")
    ] = 0.5
    idle_w_per_cpu: Annotated[
        float, Range(0.0, 1000.0), Restart(), Doc("Watts of each online CPU when idle.")
    ] = 0.74
    busy_w_per_cpu: Annotated[
        float, Range(0.0, 1000.0), Restart(), Doc("Further watts of each busy CPU.")
    ] = 2.76


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Pod metadata from this node's kubelet (`/pods`); the API server is never asked."""

    enabled: Annotated[Enabled, Restart(), Doc(ENABLED_DOC)] = "auto"
    interval: Annotated[
        float, Range(1.0, 3600.0), Restart(), Doc("Seconds between two questions.")
    ] = 30.0
    endpoint: Annotated[str, Restart(), Doc("Address of the kubelet.")] = "https://127.0.0.1:10250"
    read_only_port: Annotated[
        int,
        Range(0, 65535),
        Restart(),
        Doc("Plain-HTTP port to ask instead (usually 10255); 0: not used."),
    ] = 0
    node_name: Annotated[
        str, Restart(), Doc("Name of this node in the cluster and in its certificate; empty: host name.")
    ] = ""
    ca_file: Annotated[
        str, Restart(), Doc("CA that signed the kubelet's certificate, or that certificate itself.")
    ] = ""
    client_cert_file: Annotated[str, Restart(), Doc("Client certificate (PEM).")] = ""
    client_key_file: Annotated[str, Restart(), Doc("Key of the client certificate (PEM).")] = ""
    token_file: Annotated[str, Restart(), Doc("File with a bearer token; re-read on change.")] = ""
    verify_tls: Annotated[
        bool, Restart(), Doc("Verify the kubelet's certificate; false only on a loopback endpoint.")
    ] = True
    timeout: Annotated[
        float, Range(0.1, 60.0), Restart(), Doc("Seconds to wait for an answer.")
    ] = 3.0


@dataclass(frozen=True, slots=True)
class Workloads:
    """How long ended workloads stay listed."""

    terminated_age: Annotated[
        float, Range(0.0, 86400.0), Doc("Seconds an ended workload stays listed.")
    ] = 600.0
    terminated_max: Annotated[
        int, Range(0, 100000), Doc("Ended workloads listed at most, the oldest leave first.")
    ] = 500


@dataclass(frozen=True, slots=True)
class Control:
    """The control socket."""

    socket: Annotated[
        str,
        Restart(),
        Doc("Path; empty: $RUNTIME_DIRECTORY/tychod.sock, else /run/tychod/tychod.sock."),
    ] = ""
    group: Annotated[
        str, Restart(), Doc("Group that may connect; empty: the daemon's own group.")
    ] = ""


@dataclass(frozen=True, slots=True)
class Log:
    """The log."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Doc("Least level that is written.")
    ] = "info"
    target: Annotated[
        Literal["auto", "journal", "stderr"],
        Restart(),
        Doc('"auto": the journal when systemd started us, else standard error.'),
    ] = "auto"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of tychod."""

    host: Host = field(default_factory=Host)
    window: WindowSettings = field(default_factory=WindowSettings)
    accounting: Accounting = field(default_factory=Accounting)
    rapl: Rapl = field(default_factory=Rapl)
    model: Model = field(default_factory=Model)
    kubelet: Kubelet = field(default_factory=Kubelet)
    workloads: Workloads = field(default_factory=Workloads)
    control: Control = field(default_factory=Control)
    log: Log = field(default_factory=Log)


def problems_between(config: Config) -> list[tuple[str, str]]:
    """Return ``(key path, message)`` for settings that are fine alone but not together."""
    found = []
    if config.window.history < 2 * config.window.length:
        found.append(("window.history", f"must be at least twice window.length ({config.window.length:g})"))
    if config.window.length < 2 * config.accounting.cgroup_interval:
        found.append(
            ("accounting.cgroup_interval", f"must be at most half of window.length ({config.window.length:g})")
        )
    return found + _kubelet_problems(config.kubelet)


def _kubelet_problems(kubelet: Kubelet) -> list[tuple[str, str]]:
    found = []
    url = urlsplit(kubelet.endpoint)
    if url.scheme != "https" or not url.hostname:
        found.append(("kubelet.endpoint", f"{kubelet.endpoint!r} is not an https:// address"))
    elif not kubelet.verify_tls and not is_loopback(url.hostname):
        found.append(("kubelet.verify_tls", "may be false only when kubelet.endpoint is a loopback address"))
    if bool(kubelet.client_cert_file) != bool(kubelet.client_key_file):
        found.append(
            ("kubelet.client_key_file", "client_cert_file and client_key_file must be set together")
        )
    return found


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"



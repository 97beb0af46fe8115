"""What settings may not be together, or of what form, beyond the type and range of each."""

import datetime as dt
import ipaddress
import re
import types
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tychod.config import Config, Kubelet, Redfish, Workloads
from tychod.config_results import Metrics, Report

PATHS: Final[Mapping[str, bool]] = types.MappingProxyType(
    {
        "host.procfs": False,
        "host.sysfs": False,
        "host.cgroupfs": False,
        "host.run": False,
        "host.log": False,
        "host.var": False,
        "kubelet.root_dir": True,
        "kubelet.ca_file": True,
        "kubelet.client_cert_file": True,
        "kubelet.client_key_file": True,
        "kubelet.token_file": True,
        "redfish.credentials": True,
        "redfish.ca_file": True,
        "ipmi.device": False,
        "nvml.library": True,
        "control.socket": True,
        "metrics.tls_cert_file": True,
        "metrics.tls_key_file": True,
        "metrics.client_ca_file": True,
        "metrics.users_file": True,
    }
)
"""Settings that are paths, and whether each may be empty."""


_FINGERPRINT: Final = re.compile(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){31}")


class Conflict(NamedTuple):
    """Settings that are fine alone but not together; ``path`` names the one to change first."""

    path: str
    message: str
    others: tuple[str, ...] = ()


def problems_between(config: Config) -> list[Conflict]:
    """Return what the type and range of a single setting cannot say."""
    return [
        *_window_problems(config),
        *_kubelet_problems(config.kubelet),
        *_workloads_problems(config.workloads),
        *_redfish_problems(config.redfish),
        *_metrics_problems(config.metrics),
        *_report_problems(config.report),
        *_path_problems(config),
    ]


def _window_problems(config: Config) -> Iterator[Conflict]:
    length, rest = config.window.length, ("window.length",)
    if config.window.history < 2 * length:
        yield Conflict(
            "window.history", f"must be at least twice window.length, which is {length:g}", rest
        )
    if length < 2 * config.accounting.cgroup_interval:
        yield Conflict(
            "accounting.cgroup_interval",
            f"must be at most half of window.length, which is {length:g}",
            rest,
        )


def _kubelet_problems(kubelet: Kubelet) -> Iterator[Conflict]:
    message = endpoint_problem(kubelet.endpoint)
    if message:
        yield Conflict("kubelet.endpoint", message)
    elif not kubelet.verify_tls and not is_loopback(urlsplit(kubelet.endpoint).hostname or ""):
        yield Conflict(
            "kubelet.verify_tls",
            "may be false only when kubelet.endpoint is a loopback address",
            ("kubelet.endpoint",),
        )
    if bool(kubelet.client_cert_file) != bool(kubelet.client_key_file):
        yield Conflict(
            "kubelet.client_key_file",
            "kubelet.client_cert_file and kubelet.client_key_file must be set together",
            ("kubelet.client_cert_file",),
        )


def _workloads_problems(workloads: Workloads) -> Iterator[Conflict]:
    address = workloads.firework_status
    if not address:
        return
    message = endpoint_problem(address, "http", "http://127.0.0.1:8080")
    if message and address.startswith("https:"):
        message = "must begin with http: the agent is on this host and HTTPS is not spoken to it"
    elif not message and urlsplit(address).path not in ("", "/"):
        message = "must be scheme, host and port only: /status is asked for by itself"
    elif not message and not is_loopback(urlsplit(address).hostname or ""):
        message = "must be a loopback address: the agent speaks plain HTTP"
    if message:
        yield Conflict("workloads.firework_status", message)


def _redfish_problems(redfish: Redfish) -> Iterator[Conflict]:
    """One way to know the BMC: what is set beside it would look as if it were checked, too."""
    if redfish.fingerprint and not _FINGERPRINT.fullmatch(redfish.fingerprint):
        yield Conflict(
            "redfish.fingerprint",
            "must be a SHA-256 of 64 hexadecimal digits, with or without colons between pairs",
        )
    if redfish.fingerprint and redfish.ca_file:
        yield Conflict(
            "redfish.ca_file",
            "cannot be set together with redfish.fingerprint",
            ("redfish.fingerprint",),
        )
    named = [key for key in ("ca_file", "fingerprint") if getattr(redfish, key)]
    if redfish.insecure and named:
        yield Conflict(
            "redfish.insecure",
            f"must be false where redfish.{named[0]} says how to verify the certificate",
            tuple(f"redfish.{key}" for key in named),
        )


def _metrics_problems(metrics: Metrics) -> Iterator[Conflict]:
    where = split_listen(metrics.listen)
    if where is None:
        yield Conflict("metrics.listen", 'is no address and port such as "127.0.0.1:9102"')
    elif not (metrics.tls_cert_file or metrics.insecure or is_loopback(where[0])):
        yield Conflict(
            "metrics.listen",
            "others can reach this address: set metrics.tls_cert_file, or metrics.insecure = true "
            "to serve it unprotected",
            ("metrics.tls_cert_file", "metrics.insecure"),
        )
    for key in ("tls_key_file", "client_ca_file"):
        if getattr(metrics, key) and not metrics.tls_cert_file:
            yield Conflict(
                f"metrics.{key}", "needs metrics.tls_cert_file", ("metrics.tls_cert_file",)
            )


def split_listen(text: str) -> tuple[str, int] | None:
    """Return the host and the port of ``host:port``; IPv6 in brackets, None where it is neither.

    Port 0 is any free one; the log says which.
    """
    try:
        url = urlsplit(f"//{text}")
        host, port = url.hostname, url.port
    except ValueError:
        return None
    if not host or port is None or url.path or url.query or url.fragment or "@" in text:
        return None
    return host, port


def _report_problems(report: Report) -> Iterator[Conflict]:
    """A factor without origin and date is one that nobody can check."""
    for name, factor in (("price", "price_per_kwh"), ("carbon", "carbon_g_per_kwh")):
        if not getattr(report, factor):
            continue
        if not getattr(report, f"{name}_origin"):
            message = f"must say where report.{factor} is from"
            yield Conflict(f"report.{name}_origin", message, (f"report.{factor}",))
        if not _is_date(getattr(report, f"{name}_date")):
            message = f"must be the date of report.{factor}, as 2026-01-31"
            yield Conflict(f"report.{name}_date", message, (f"report.{factor}",))


def _is_date(text: str) -> bool:
    try:
        return dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def endpoint_problem(
    endpoint: str, scheme: str = "https", example: str = "https://127.0.0.1:10250"
) -> str:
    """Return what is wrong with an address, or "".

    The address is not repeated: it may hold a password, and messages reach the log.
    """
    try:
        url = urlsplit(endpoint)
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if not host or url.scheme != scheme or port == 0:
        return f"is not an address such as {example}"
    if url.username is not None or url.query or url.fragment:
        return "must be scheme, host and port only; credentials have settings of their own"
    return ""


def _path_problems(config: Config) -> Iterator[Conflict]:
    """Relative paths: under systemd they would count from ``/``, by hand from anywhere."""
    for path, may_be_empty in PATHS.items():
        section, _, key = path.partition(".")
        value: str = getattr(getattr(config, section), key)
        if not value.startswith("/") and not (may_be_empty and not value):
            yield Conflict(path, "must be an absolute path (begin with '/')")


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

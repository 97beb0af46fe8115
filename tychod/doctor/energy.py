"""The sources of energy: each collector's own probe, and the files and devices behind them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tychod.doctor.machine import cpu_flags
from tychod.doctor.model import Finding, ok, skip
from tychod.doctor.remedies import remedy
from tychod.hostfs import render_error
from tychod.runtime.rights import group_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from tychod.collectors.base import (
        CollectorSpec,
        CpuCollector,
        EnergyCollector,
        GpuCollector,
        Unavailable,
    )
    from tychod.doctor.model import Place

    Spec = CollectorSpec[EnergyCollector] | CollectorSpec[GpuCollector]

MSR: Final = "/dev/cpu/0/msr"
MISC_PACKAGE_CTLS: Final = 0xBC
"""IA32_MISC_PACKAGE_CTLS; bit 0: the energy filter is on (Intel, "Running Average Power Limit
Energy Reporting")."""
FILTER_ON: Final = 1
REFUSALS: Final = ("Permission denied", "Operation not permitted", "root only")
INSECURE: Final = "[redfish] insecure = true: the BMC's certificate is not checked"
NO_LOGIN: Final = "doctor does not log in"


def find_source(name: str) -> Callable[[Place], Finding]:
    """Return the look at a collector: its own probe, closed again at once."""

    def look(place: Place) -> Finding:
        from tychod.collectors import ENERGY_COLLECTORS, GPU_COLLECTOR

        specs: dict[str, Spec] = {spec.name: spec for spec in (*ENERGY_COLLECTORS, GPU_COLLECTOR)}
        return probe(place, specs[name])

    return look


def probe(place: Place, spec: Spec) -> Finding:
    """Let a collector find its source; say what there is, or its own reason and remedy."""
    from tychod.collectors.base import Unavailable

    enabled = spec.enabled(place.config)
    if enabled is False:
        return skip("switched off by the settings")
    found = spec.find(place.host, place.config, place.clock)
    if isinstance(found, Unavailable):
        return judge_unavailable(found, place, is_wanted=enabled is True)
    try:
        notes = [*found.notes, *found.collector.problems]
        text = describe(found.collector)
    finally:
        found.collector.close()
    return Finding("warn" if notes else "ok", "; ".join([text, *notes]))


def judge_unavailable(found: Unavailable, place: Place, *, is_wanted: bool) -> Finding:
    """Judge a source that is not there: hardware that may be missing is no failure."""
    if found.absent and not is_wanted:
        return skip(found.reason)
    return not_for_us(place, found.reason) or Finding("fail", found.reason, found.remedy)


def not_for_us(place: Place, reason: str) -> Finding | None:
    """Return that whoever asks may not look, where root might; None: that is not what it is."""
    if place.reads_all or not is_refused(reason):
        return None
    return skip(f"user {place.uid}: {reason}", remedy("as-root"))


def is_refused(reason: str) -> bool:
    """Say whether a reason is one that root would not meet."""
    return any(text in reason for text in REFUSALS)


def describe(collector: EnergyCollector | GpuCollector | CpuCollector) -> str:
    """Return what a collector found: zones, sensors or devices, by name."""
    names = [part.name for part in getattr(collector, "zones", ())]
    names += [part.name for part in getattr(collector, "sensors", ())]
    names += [device.name for device in getattr(collector, "devices", ())]
    if not names:
        return "ready"
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{len(names)} found: {', '.join(names[:6])}{more}"


def look_at_powercap(place: Place) -> Finding:
    """Look who may read the energy counters of RAPL."""
    from tychod.collectors import rapl

    host = place.host
    try:
        found = rapl.find_zones(host, rapl.list_zones(host))
    except OSError as exc:
        told = render_error(exc)
        return not_for_us(place, told) or Finding("fail", told, rapl.ROOT_ONLY_REMEDY)
    if not found:
        return skip(f"no powercap zones below {rapl.powercap_dir(host)}")
    modes = {zone.path: os.stat(zone.path) for zone in found if host.exists(zone.path)}  # noqa: PTH116
    for path, status in modes.items():
        if status.st_mode & stat.S_IROTH:
            return Finding("warn", _mode_text(path, status), remedy("powercap-open", path=path))
    wrong = [path for path, s in modes.items() if not s.st_mode & stat.S_IRGRP]
    if wrong:
        text = f"{_mode_text(wrong[0], modes[wrong[0]])}: only root may read it"
        return Finding("warn", text, remedy("powercap-group"))
    path = next(iter(modes), "")
    return ok(f"{len(modes)} counters, {_mode_text(path, modes[path])}") if path else skip("gone")


def _mode_text(path: str, status: os.stat_result) -> str:
    return f"{path} is {stat.S_IMODE(status.st_mode):04o}, group {group_name(status.st_gid)}"


def look_at_filter(place: Place) -> Finding:
    """Say what can be known of the filter that distorts RAPL while SGX is in use."""
    flags = cpu_flags(place.host.read_text(f"{place.host.procfs}/cpuinfo") or "")
    return judge_filter(flags, read_filter_bit(MSR))


def read_filter_bit(path: str) -> bool | None:
    """Return whether the energy filter is on; None where the register cannot be read."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), 8, MISC_PACKAGE_CTLS)
    except OSError:
        return None
    return bool(int.from_bytes(data, "little") & FILTER_ON)


def judge_filter(flags: frozenset[str], is_on: bool | None) -> Finding:
    """Judge by the processor's flags and, where it can be read, the register."""
    if is_on:
        text = "the energy filter is on (MSR 0xBC, bit 0): readings of RAPL carry noise"
        return Finding("warn", text, remedy("rapl-filter"))
    if is_on is not None:
        return ok("the energy filter is off (MSR 0xBC, bit 0)")
    unknown = f"whether it is on cannot be read here ({MSR}: root and the module msr)"
    if "sgx" in flags:
        text = f"the processor has SGX, with which microcode may filter RAPL; {unknown}"
        return Finding("warn", text, remedy("rapl-filter"))
    return ok("the processor has no SGX, which is what switches the energy filter on")


def look_at_bmc(place: Place) -> Finding:
    """Reach the BMC and check its certificate; nobody logs in, so no account can be locked."""
    from tychod.collectors import redfish
    from tychod.collectors.redfish_credentials import CredentialsError, find_file, read_bmc

    config, host = place.config, place.host
    if config.redfish.enabled is False:
        return skip("switched off by the settings")
    path = find_file(host, config.redfish.credentials)
    if not path:
        return skip("no BMC configured: [redfish] credentials names no file")
    node = redfish.first_named(config.redfish.node, config.kubelet.node_name, place.node_name)
    try:
        bmc = read_bmc(host, path, node)
    except CredentialsError as exc:
        return not_for_us(place, exc.reason) or Finding("fail", exc.reason, exc.remedy)
    return _reach(place, bmc.endpoint)


def _reach(place: Place, endpoint: str) -> Finding:
    """Ask for the service root, which every BMC gives to everybody (DSP0266)."""
    from tychod.collectors.redfish_client import ROOT, Client
    from tychod.collectors.redfish_credentials import Bmc, Secret
    from tychod.collectors.redfish_errors import RedfishError

    client = Client(Bmc(endpoint, "", Secret("")), place.config.redfish, place.host, place.clock)
    try:
        client.get(ROOT)
    except RedfishError as exc:
        if not exc.is_login and exc.status not in (401, 403):
            return Finding("fail", exc.reason, exc.remedy)
    finally:
        client.close()
    if place.config.redfish.insecure:
        return Finding("warn", f"{endpoint} answers; {INSECURE}", remedy("insecure-bmc"))
    return ok(f"{endpoint} answers, its certificate is trusted; {NO_LOGIN}")

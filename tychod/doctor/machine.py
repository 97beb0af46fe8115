"""The machine and what is installed on it: kernel, virtualisation, clock, libraries."""

from __future__ import annotations

import importlib.util
import platform
import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.doctor.model import Finding, ok, skip
from tychod.doctor.remedies import remedy

if TYPE_CHECKING:
    from tychod.doctor.model import Place

OLDEST: Final = (5, 8)
"""CAP_BPF and the BPF features of the programs came with Linux 5.8 (capabilities(7))."""
OLDEST_ON_ARM: Final = (5, 18)
"""Before it arm64 compiles no atomic operation of the programs (commit 1902472b4fa9)."""
SLOW_CLOCKS: Final = frozenset({"hpet", "acpi_pm", "jiffies", "refined-jiffies"})
"""Clock sources that take a microsecond and more to read, or tick coarsely."""
COARSE_S: Final = 1e-6


class Library(NamedTuple):
    """A module that tychod imports, and what is lost without it."""

    module: str
    debian: str
    fedora: str
    use: str
    is_needed: bool = False


LIBRARIES: Final = (
    Library("numpy", "python3-numpy", "python3-numpy", "nothing works", True),
    Library("msgpack", "python3-msgpack", "python3-msgpack", "nothing works", True),
    Library("sdnotify", "python3-sdnotify", "python3-sdnotify", "nothing works", True),
    Library("tomli_w", "python3-tomli-w", "python3-tomli-w", "no calibration is stored", False),
    Library("requests", "python3-requests", "python3-requests", "no BMC, no kubelet"),
    Library("pystemd", "python3-pystemd", "python3-pystemd", "units have no descriptions"),
    Library("pyroute2", "python3-pyroute2", "python3-pyroute2", "no exits of processes by netlink"),
    Library("rich", "python3-rich", "python3-rich", "no tychoctl top"),
)
METRICS_LIBRARY: Final = Library(
    *("prometheus_client", "python3-prometheus-client", "python3-prometheus_client"),
    *("no metrics, which the settings ask for", True),
)


def look_at_kernel(place: Place) -> Finding:
    """Compare the kernel's version with what the programs need."""
    path = f"{place.host.procfs}/version"
    words = (place.host.read_text(path) or "").split()
    if len(words) < 3:
        return skip(f"{path} tells no version")
    return judge_kernel(words[2], platform.machine())


def judge_kernel(release: str, machine: str) -> Finding:
    """Judge a kernel's release on an architecture."""
    text = f"Linux {release} on {machine}"
    found = re.match(r"(\d+)\.(\d+)", release)
    oldest = OLDEST_ON_ARM if machine == "aarch64" else OLDEST
    if found and (int(found[1]), int(found[2])) < oldest:
        needed = ".".join(map(str, oldest))
        return Finding("warn", text, remedy("old-kernel", needed=needed))
    return ok(text)


def look_at_virtualisation(place: Place) -> Finding:
    """Say whether this is a virtual machine, which explains meters that are missing."""
    host = place.host
    flags = cpu_flags(host.read_text(f"{host.procfs}/cpuinfo") or "")
    if not flags:
        return skip(f"{host.procfs}/cpuinfo tells no flags of the processor")
    if "hypervisor" not in flags:
        return ok("bare metal: the processor tells of no hypervisor")
    named = (host.read_text(f"{host.sysfs}/class/dmi/id/sys_vendor") or "").strip()
    by = f" of {named[:60]}" if named else ""
    return ok(
        f"a virtual machine{by} (flag hypervisor): as a rule without RAPL, IPMI and BMC, so that "
        "the CPU's energy is modelled"
    )


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags (x86) or features (arm64) of the first processor."""
    for line in cpuinfo.splitlines():
        name, _, rest = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(rest.split())
    return frozenset()


def look_at_clock(place: Place) -> Finding:
    """Look what the monotonic clock is read from, and how fine it is."""
    host = place.host
    directory = f"{host.sysfs}/devices/system/clocksource/clocksource0"
    source = (host.read_text(f"{directory}/current_clocksource") or "").strip()
    return judge_clock(source, time.clock_getres(time.CLOCK_MONOTONIC))


def judge_clock(source: str, resolution_s: float) -> Finding:
    """Judge a clock source and the resolution of CLOCK_MONOTONIC in seconds."""
    text = f"source {source or 'unknown'}, resolution {resolution_s * 1e9:.0f} ns"
    if resolution_s > COARSE_S:
        return Finding("warn", text, remedy("clock-resolution"))
    if source in SLOW_CLOCKS:
        return Finding("warn", f"{text}: slow to read", remedy("clock-source"))
    return ok(text)


def look_at_libraries(place: Place) -> Finding:
    """Import what tychod imports."""
    wanted = (*LIBRARIES, METRICS_LIBRARY) if place.config.metrics.enabled else LIBRARIES
    missing = [
        library for library in wanted if not _imports(library.module, whole=library.is_needed)
    ]
    return judge_libraries(missing)


def judge_libraries(missing: list[Library]) -> Finding:
    """Say what is lost without some libraries."""
    if not missing:
        return ok("all Python libraries can be imported")
    told = ", ".join(f"{library.module} ({library.use})" for library in missing)
    return Finding(
        "fail" if any(library.is_needed for library in missing) else "warn",
        f"cannot be imported: {told}",
        remedy(
            "library",
            debian=" ".join(library.debian for library in missing),
            fedora=" ".join(library.fedora for library in missing),
        ),
    )


def _imports(module: str, *, whole: bool) -> bool:
    """Say whether a module is there; ``whole``: import it, too, and not only find it."""
    try:
        if whole:
            importlib.import_module(module)
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: somebody made it without a spec
        return False

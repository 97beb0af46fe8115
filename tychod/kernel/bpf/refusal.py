"""Why the kernel refused the programs, and what a person can do about it."""

from __future__ import annotations

import errno
import platform
import re
from typing import TYPE_CHECKING, Final

from tychod.kernel.bpf.plan import LoadError

if TYPE_CHECKING:
    from tychod.hostfs import Host

CAPABILITIES: Final = {"CAP_PERFMON": 38, "CAP_BPF": 39}
CAP_SYS_ADMIN: Final = 21
LOG_LINES: Final = 6
ARM: Final = "aarch64"
FIRST_ON_ARM: Final = (5, 18)


def explain(host: Host, exc: OSError, printed: str) -> LoadError:
    """Return what a failed load means; ``printed`` is what libbpf said meanwhile."""
    return (
        without_btf(host)
        or locked_down(host)
        or _not_allowed(host, exc)
        or _no_memory(exc)
        or old_arm()
        or _refused(exc, printed)
    )


def without_btf(host: Host) -> LoadError | None:
    """Return that the kernel does not describe its types, as an error; None: it does."""
    path = f"{host.sysfs}/kernel/btf/vmlinux"
    if host.exists(path):
        return None
    return LoadError(
        f"this kernel does not describe its types (no {path})",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (distributions since 2021), "
        'or [accounting] loader = "bcc" with kernel headers and python3-bpfcc',
    )


def locked_down(host: Host) -> LoadError | None:
    """Return that the kernel lets no program read its memory, as an error; None: it does."""
    try:
        text = host.read_text(f"{host.sysfs}/kernel/security/lockdown") or ""
    except OSError:
        return None
    if "[confidentiality]" not in text:
        return None
    return LoadError(
        "the kernel is locked down (confidentiality): programs may not read kernel memory",
        "boot without lockdown=confidentiality (lockdown=integrity is enough for Secure Boot)",
    )


def _not_allowed(host: Host, exc: OSError) -> LoadError | None:
    return not_permitted(host) if exc.errno in (errno.EPERM, errno.EACCES) else None


def not_permitted(host: Host) -> LoadError | None:
    """Return which rights this process lacks to load programs, as an error; None: it has them."""
    missing = missing_capabilities(host)
    if not missing:
        return None
    return LoadError(
        f"not permitted: missing {' and '.join(missing)}",
        "let systemd load them (systemctl start tychod-bpf), or run tychod-load as root",
    )


def missing_capabilities(host: Host) -> tuple[str, ...]:
    """Return which of the capabilities that loading takes this process does not have."""
    held = parse_capabilities(host.read_text(f"{host.procfs}/self/status") or "")
    if held >> CAP_SYS_ADMIN & 1:
        return ()
    return tuple(name for name, bit in sorted(CAPABILITIES.items()) if not held >> bit & 1)


def parse_capabilities(status: str) -> int:
    """Return the effective capabilities in a /proc/PID/status file as bits."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _no_memory(exc: OSError) -> LoadError | None:
    if exc.errno not in (errno.ENOMEM, errno.E2BIG):
        return None
    return LoadError(
        f"the kernel has no memory for the maps: {exc.strerror}",
        "lower [accounting] slots, or raise the memory limit of tychod-bpf.service (MemoryMax)",
    )


def old_arm() -> LoadError | None:
    """Before 5.18 arm64 compiles no atomic operation but an addition (commit 1902472b4fa9)."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    if platform.machine() != ARM or not found or tuple(map(int, found.groups())) >= FIRST_ON_ARM:
        return None
    return LoadError(
        f"Linux {found[0]} on arm64 cannot compile the programs' atomic operations",
        "use Linux 5.18 or later; the accounting by cgroup files goes on meanwhile",
    )


def _refused(exc: OSError, printed: str) -> LoadError:
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    log = "; ".join(lines[-LOG_LINES:]) or "libbpf says nothing more"
    return LoadError(
        f"the kernel refused the programs: {exc.strerror or exc} ({log})",
        "report this with the kernel's version; the accounting by cgroup files goes on meanwhile",
    )

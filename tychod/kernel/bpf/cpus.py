"""The machine's CPUs by number, and which package (socket) each is in."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from tychod.hostfs import parse_cpu_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tychod.hostfs import Host


def online(host: Host) -> tuple[int, ...]:
    """Return the CPUs that are online; where that cannot be read, those that we may use."""
    return _listed(host, "online") or tuple(sorted(os.sched_getaffinity(0)))


def package_rows(host: Host) -> tuple[int, ...]:
    """Return the row of the package of each possible CPU, rows counted from 0 without holes.

    An offline CPU has no topology and is counted to the first package until the next load.
    """
    possible = _listed(host, "possible") or online(host)
    ids = [_package(host, cpu) for cpu in range(max(possible) + 1)]
    rows = {package: row for row, package in enumerate(sorted({i for i in ids if i is not None}))}
    return tuple(0 if package is None else rows[package] for package in ids)


def package_numbers(host: Host, rows: Iterable[int], packages: int) -> tuple[int, ...]:
    """Return the socket number of each row of packages; -1: none of its CPUs can tell.

    ``rows`` has the row of each CPU as the programs were told.  A CPU that was offline then may
    be in a row that is not its own, so the most frequent answer counts.
    """
    told: list[Counter[int]] = [Counter() for _ in range(packages)]
    for cpu, row in enumerate(rows):
        number = _package(host, cpu)
        if number is not None:
            told[min(row, packages - 1)][number] += 1
    return tuple(row.most_common(1)[0][0] if row else -1 for row in told)


def _listed(host: Host, name: str) -> tuple[int, ...]:
    try:
        return parse_cpu_numbers(host.read_text(f"{host.sysfs}/devices/system/cpu/{name}") or "")
    except (OSError, ValueError):
        return ()


def _package(host: Host, cpu: int) -> int | None:
    path = f"{host.sysfs}/devices/system/cpu/cpu{cpu}/topology/physical_package_id"
    try:
        number = int(host.read_text(path) or "")
    except (OSError, ValueError):
        return None
    return max(number, 0)  # -1: the firmware does not say

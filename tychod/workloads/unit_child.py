"""Asks systemd about units, one line of JSON each, for as long as its standard input is open.

A process of its own, started as a file: pystemd holds Python's lock while it waits for D-Bus, so a
bus that does not answer would stop every thread of the daemon, for 25 seconds and more.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

DESTINATION: Final = b"org.freedesktop.systemd1"
PATH: Final = b"/org/freedesktop/systemd1/unit"
INTERFACE: Final = b"org.freedesktop.systemd1."
DESCRIPTION_LIMIT: Final = 256
NAME_LIMIT: Final = 256

LOST: Final = frozenset(
    {
        *(errno.ENOTCONN, errno.ECONNRESET, errno.ECONNREFUSED, errno.EPIPE, errno.ESHUTDOWN),
        *(errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENXIO, errno.EACCES, errno.EPERM),
        *(errno.ESTALE, errno.ECHILD, errno.EBADF),
    }
)
"""What concerns the bus or all of systemd; any other error concerns the one unit."""


def main() -> int:
    """Answer each line of standard input with one on standard output."""
    try:
        from pystemd import dbusexc, dbuslib
    except ImportError as exc:
        return _refuse(
            f"pystemd cannot be used ({exc.name or 'libsystemd'} is missing)",
            "install it (Debian, Ubuntu, Fedora: the package python3-pystemd)",
        )
    _say({"ready": True})
    bus = dbuslib.DBus()
    try:
        bus.open()
        answer_all(bus, dbuslib.path_encode, dbusexc.DBusBaseError)
    except dbusexc.DBusBaseError as exc:
        return _refuse(*explain(abs(int(exc.errno))))
    return 0


def explain(number: int) -> tuple[str, str]:
    """Return why there is no answer, and the remedy; one text for all ways of losing a peer."""
    if number in (errno.ENOENT, errno.ECONNREFUSED):
        return (
            "there is no system bus",
            "start it, if systemd runs on this host: systemctl start dbus.socket",
        )
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"the system bus refuses: {os.strerror(number)}",
            "let the daemon's user read properties of org.freedesktop.systemd1 (D-Bus policy)",
        )
    return (
        "the system bus broke off",
        "see whether D-Bus runs: systemctl status dbus; it is tried again",
    )


def answer_all(bus: Any, encode: Any, failure: type[Exception]) -> None:
    """Answer until standard input ends; raise what says that the bus is lost."""
    for line in sys.stdin:
        unit = json.loads(line)
        try:
            facts = read_facts(bus, encode(PATH, unit.encode()), unit)
        except failure as exc:
            if abs(int(getattr(exc, "errno", 0))) in LOST:
                raise
            facts = {}  # there is no such unit
        _say({"unit": unit, **facts})


def read_facts(bus: Any, path: bytes, unit: str) -> dict[str, str]:
    """Return a unit's description, load state and slice; nothing where it is not loaded."""
    load_state = read_text(bus, path, b"Unit", b"LoadState")
    if load_state == "not-found":
        return {}
    description = read_text(bus, path, b"Unit", b"Description")
    kind = unit.rpartition(".")[2]
    in_slice = kind in ("service", "scope", "socket", "mount", "swap", "slice")
    return {
        "load_state": load_state[:NAME_LIMIT],
        # systemd gives the unit's own name where nobody described it.
        "description": "" if description == unit else description[:DESCRIPTION_LIMIT],
        "slice": (
            read_text(bus, path, kind.capitalize().encode(), b"Slice")[:NAME_LIMIT]
            if in_slice
            else ""
        ),
    }


def read_text(bus: Any, path: bytes, interface: bytes, name: bytes) -> str:
    """Return one property: a raw read; looking at the interface first costs many times as much."""
    value = bus.get_property(DESTINATION, path, INTERFACE + interface, name, b"s")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _refuse(reason: str, remedy: str) -> int:
    _say({"reason": reason, "remedy": remedy})
    return 1


def _say(answer: dict[str, Any]) -> None:
    parts: Iterable[str] = (json.dumps(answer), "\n")
    sys.stdout.write("".join(parts))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

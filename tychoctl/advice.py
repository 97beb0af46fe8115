"""What to do when there is no connection: asked of the system only then."""

import os
from pathlib import Path
from typing import Final, NamedTuple

SYSTEMD_RUNS: Final = "/run/systemd/system"  # sd_booted(3)
UNIT: Final = "tychod.service"
NOBODY: Final = ("nogroup", "nobody")


class Service(NamedTuple):
    """systemd's view of tychod.service."""

    load: str
    active: str
    result: str


def read_service() -> Service | None:
    """Ask systemd; None where it does not run or cannot be asked."""
    if not Path(SYSTEMD_RUNS).is_dir():
        return None
    try:
        from pystemd.dbusexc import DBusBaseError
        from pystemd.systemd1 import Unit
    except ImportError:
        return None
    try:
        with Unit(UNIT) as unit:
            return Service(
                unit.Unit.LoadState.decode(),
                unit.Unit.ActiveState.decode(),
                unit.Service.Result.decode(),
            )
    except (DBusBaseError, OSError):
        return None


def render_not_running(path: str, service: Service | None) -> str:
    """Return one line: that nothing answers, why, and what to do."""
    nothing = f"nothing answers on {path}"
    if service is None:
        return (
            f"{nothing}; start tychod (systemctl start tychod), or name its socket "
            "with --socket or TYCHOD_SOCKET"
        )
    if service.load == "not-found":
        return f"{nothing}, and {UNIT} is not installed here; install the tychod package"
    if service.active == "failed":
        return f"{UNIT} is failed (Result={service.result}): see journalctl -u tychod"
    if service.active == "activating":
        return f"{UNIT} is starting: try again, or wait for it with --wait 10"
    if service.active == "active":
        return f"{UNIT} is active but {nothing}: see journalctl -u tychod, check [control] socket"
    return f"{UNIT} is {service.active}: start it with systemctl start tychod"


def render_not_permitted(path: str) -> str:
    """Return one line: who may connect to a socket, and how to become one who may."""
    user = _user_name(os.getuid())
    group = _group_of(path)
    if group is None or user is None:
        return f"permission denied on {path}; ask root, or run sudo tychoctl"
    if user in group.members:
        return f"{user} is a member of group {group.name} since after this login: log in again"
    return (
        f"you are not a member of group {group.name}: "
        f"sudo usermod -aG {group.name} {user}, then log in again"
    )


class Group(NamedTuple):
    """A group of users."""

    name: str
    members: tuple[str, ...]


def _group_of(path: str) -> Group | None:
    """Return the group that may use a socket; None where only root may, or nobody can say."""
    import grp

    for place in (Path(path), *Path(path).parents):
        try:
            gid = place.stat().st_gid
            found = grp.getgrgid(gid)
        except PermissionError:
            continue  # not ours to look at: the directory above has the same group
        except (OSError, KeyError):
            return None
        # The group of ids that this user namespace does not know has no members to be one of.
        is_real = gid != 0 and found.gr_name not in NOBODY
        return Group(found.gr_name, tuple(found.gr_mem)) if is_real else None
    return None


def _user_name(uid: int) -> str | None:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None

"""Who may have whatever is finer than a window: root and the members of `[control] admin_group`."""

import grp
import socket

from tychod.config_results import Control
from tychod.runtime.listener import read_groups, read_peer


class Rights:
    """The rights of the process at the other end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._answer: tuple[str, bool] | None = None

    def are_all(self, admin_group: str) -> bool:
        """Say whether the client is root or in this group ("": root alone).

        The answer is kept as long as the setting stays: a look into a directory of users may
        take its time, and the kernel does not change the groups that the client came with.
        """
        if self._answer is None or self._answer[0] != admin_group:
            self._answer = (admin_group, self._find(admin_group))
        return self._answer[1]

    def _find(self, admin_group: str) -> bool:
        if read_peer(self._connection).uid == 0:
            return True
        return bool(admin_group) and gid_of(admin_group) in read_groups(self._connection)


def gid_of(name: str) -> int | None:
    """Return a group's number; None where there is no such group, so nobody is in it."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def group_name(gid: int) -> str:
    """Return a group's name, its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def how_to_get_rights(admin_group: str) -> str:
    """Return what a user can do who was refused."""
    if admin_group:
        return f"run it with sudo, or ask root to add you to group {admin_group}"
    return "run it with sudo, or ask root to set [control] admin_group to a group that you are in"


def too_often(interval_s: float, control: Control) -> str:
    """Return why a client may not watch at this interval, and what to do."""
    least_s = control.min_interval
    return (
        f"watch: {interval_s:g} s is shorter than [control] min_interval, {least_s:g} s, which "
        "only root and members of [control] admin_group may go below: ask for "
        f"{least_s:g} s or more; or {how_to_get_rights(control.admin_group)}"
    )

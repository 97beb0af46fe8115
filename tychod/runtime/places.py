"""Where the daemon keeps its state and where it listens, by settings and environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tychod.config import Config

DEFAULT_SOCKET: Final = "/run/tychod/tychod.sock"
DEFAULT_STATE: Final = "/var/lib/tychod"


class StartError(Exception):
    """The daemon cannot start; the message says why and what to do."""


def state_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Return where state is kept: systemd's choice, else the system's, else the user's."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    if uid == 0:
        return Path(DEFAULT_STATE)
    base = environ.get("XDG_STATE_HOME")
    return Path(base) / "tychod" if base else _home(environ, uid) / ".local" / "state" / "tychod"


def _home(environ: Mapping[str, str], uid: int) -> Path:
    import pwd  # only for a user without systemd's or the desktop's choice

    if given := environ.get("HOME"):
        return Path(given)
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        raise StartError(
            f"user {uid} has no home directory to keep state in; "
            "set STATE_DIRECTORY to a directory of its own"
        ) from None


def socket_path(config: Config, environ: Mapping[str, str]) -> Path:
    """Return where the control socket is: the setting, else systemd's directory, else /run."""
    if config.control.socket:
        return Path(config.control.socket)
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(given) / "tychod.sock" if given else Path(DEFAULT_SOCKET)

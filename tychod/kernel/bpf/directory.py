"""Directories of pins: whose they are, and changes that nobody can lead elsewhere.

A BPF file system is open for everybody to write unless it is mounted otherwise (mode 1777).  So a
directory is believed only where root or the loader's user made it, and what is in it is reached by
descriptor: no symbolic link is followed.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from tychod.hostfs import fd_path
from tychod.kernel.bpf import syscall
from tychod.kernel.bpf.plan import LoadError

if TYPE_CHECKING:
    from collections.abc import Collection

    from tychod.hostfs import Host, KeptFile

LOADER: Final = "tychod-bpf"
"""The user that tychod-bpf.service attaches as."""
ROOT_UID: Final = 0
WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


def open_root(host: Host, root: str) -> KeptFile:
    """Open a root of pins; LoadError where others can put things there, OSError as by open(2)."""
    held = _open(host, root, None)
    try:
        status, above = os.fstat(held.fileno()), os.stat("..", dir_fd=held.fileno())
        if not is_believed(status, above, loaders()):
            raise _somebody_elses(root, status)
    except (OSError, LoadError):
        held.close()
        raise
    return held


def open_below(host: Host, root: KeptFile, name: str) -> KeptFile:
    """Open a directory of pins in a root; LoadError where it is of another owner than the root."""
    held = _open(host, f"{root.path}/{name}", root.fileno())
    status = os.fstat(held.fileno())
    if status.st_mode & WRITABLE or status.st_uid not in _owners(root):
        held.close()
        raise _somebody_elses(held.path, status)
    return held


def open_pin(directory: KeptFile, name: str) -> int:
    """Open a pinned map and return its descriptor; LoadError where somebody else pinned it."""
    path = f"{directory.path}/{name}"
    try:
        status = os.stat(name, dir_fd=directory.fileno(), follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in _owners(directory):
            raise _somebody_elses(path, status)
        return syscall.obj_get(f"{fd_path(directory.fileno())}/{name}")
    except OSError as exc:
        exc.filename = path
        raise


def remove(host: Host, parent: KeptFile, name: str) -> None:
    """Remove what has this name, if anything: a directory with its pins, else the name alone."""
    try:
        status = os.stat(name, dir_fd=parent.fileno(), follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=parent.fileno())
            return
        path = f"{parent.path}/{name}"
        with closing(host.open_directory(path, parent.fileno())) as held:
            for pin in os.listdir(held.fileno()):  # noqa: PTH208 - a descriptor
                os.unlink(pin, dir_fd=held.fileno())
        os.rmdir(name, dir_fd=parent.fileno())
    except FileNotFoundError:
        return
    except OSError as exc:
        exc.filename = f"{parent.path}/{name}"
        raise


def is_believed(status: os.stat_result, above: os.stat_result, users: Collection[int]) -> bool:
    """Say whether a directory is one of these users' alone; ``above`` is the one it lies in.

    Where only root can put things, it made this directory or gave it to who has it.
    """
    given_by_root = above.st_uid == ROOT_UID and not above.st_mode & WRITABLE
    return not status.st_mode & WRITABLE and (status.st_uid in users or given_by_root)


def loaders() -> frozenset[int]:
    """Return the users whose directories are believed: root, ourselves, the loader's user."""
    found = {ROOT_UID, os.geteuid()}
    with suppress(KeyError):  # not installed as a package
        found.add(pwd.getpwnam(LOADER).pw_uid)
    return frozenset(found)


def _owners(directory: KeptFile) -> tuple[int, int]:
    return ROOT_UID, os.fstat(directory.fileno()).st_uid


def _open(host: Host, path: str, parent: int | None) -> KeptFile:
    try:
        return host.open_directory(path, parent)
    except OSError as exc:
        if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
            exc.filename = path
            raise
        raise LoadError(f"{path} is no directory, or a symbolic link", _remedy(path)) from None


def _somebody_elses(path: str, status: os.stat_result) -> LoadError:
    mode = stat.S_IMODE(status.st_mode)
    return LoadError(
        f"{path} may be somebody else's work (user {status.st_uid}, mode {mode:04o})",
        _remedy(path),
    )


def _remedy(path: str) -> str:
    return f"look who made it, remove it (as root: rm -r {path}) and attach again"

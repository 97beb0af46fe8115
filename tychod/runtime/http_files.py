"""The files that protect the metrics endpoint: certificate, key, CA of clients, users.

What is wrong with one closes the endpoint; it is never served with less protection than is set.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.hostfs import fd_path
from tychod.runtime.http_auth import REMEDY, Users, UsersError, parse_users
from tychod.runtime.rights import group_name

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tychod.config_results import Metrics

KEY_CREDENTIAL: Final = "metrics-key"
USERS_CREDENTIAL: Final = "metrics-users"
KEY: Final = "tls_key_file"
MAX_FILE_BYTES: Final = 1 << 20
NEED_FILE: Final = "put the file there, or change [metrics] {setting}"

Seen = tuple[tuple[int, ...] | None, ...]
"""What tells that a file, or who may use it, is another than before."""


class EndpointError(Exception):
    """Why there is no endpoint, and what a person can do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class Files(NamedTuple):
    """Where they are; empty where there is none."""

    certificate: str
    key: str
    client_ca: str
    users: str

    def seen(self, *names: str) -> Seen:
        """Look at these files, by the names here."""
        return tuple(_seen(getattr(self, name)) for name in names)


def files_of(metrics: Metrics, credentials: str) -> Files:
    """Return the files that are set, or else are among the service's credentials."""
    key = users = ""
    if credentials and metrics.tls_cert_file:
        key = f"{credentials}/{KEY_CREDENTIAL}"
    if credentials and Path(credentials, USERS_CREDENTIAL).exists():
        users = f"{credentials}/{USERS_CREDENTIAL}"
    return Files(
        metrics.tls_cert_file,
        metrics.tls_key_file or key,
        metrics.client_ca_file,
        metrics.users_file or users,
    )


def load_users(path: str) -> Users:
    """Return the users of a private file; raise ``EndpointError``."""
    with _opened(path, "users_file") as fd:
        _check_private(path, os.fstat(fd))
        try:
            data = os.read(fd, MAX_FILE_BYTES + 1)
        except OSError as exc:
            raise EndpointError(*_unreadable(path, exc, "users_file")) from exc
    if len(data) > MAX_FILE_BYTES:
        raise EndpointError(f"{path}: larger than {MAX_FILE_BYTES} bytes", REMEDY)
    try:
        return parse_users(data)
    except UsersError as exc:
        raise EndpointError(f"{path}: {exc}", REMEDY) from exc


def load_context(files: Files) -> ssl.SSLContext | None:
    """Return how to speak TLS, None for plain HTTP; raise ``EndpointError``."""
    if not files.certificate:
        return None
    import ssl  # only where it is asked for

    if not files.key:
        raise EndpointError(
            "[metrics] tls_cert_file is set, its private key is not",
            f"set [metrics] tls_key_file, or give the service the credential {KEY_CREDENTIAL}",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    with _opened(files.certificate, "tls_cert_file") as chain, _opened(files.key, KEY) as key:
        _check_private(files.key, os.fstat(key))
        try:
            context.load_cert_chain(fd_path(chain), fd_path(key), password=_no_password)
        except (OSError, ValueError) as exc:
            raise EndpointError(*_unfit(files, exc)) from exc
    if files.client_ca:
        _load_ca(context, files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    with _opened(path, "client_ca_file") as fd:
        try:
            context.load_verify_locations(fd_path(fd))
        except (OSError, ValueError) as exc:
            remedy = "put certificates in PEM form into it"
            raise EndpointError(f"{path}: no certificate is in it", remedy) from exc


def _no_password() -> str:
    """Stand in for the library's question on the terminal."""
    raise ValueError("the key is encrypted")


def _unfit(files: Files, exc: Exception) -> tuple[str, str]:
    reason = str(getattr(exc, "reason", None) or "")
    if isinstance(exc, ValueError):
        return f"{files.key}: the key is encrypted", "store it unencrypted in a private file"
    if reason == "KEY_VALUES_MISMATCH":
        remedy = "name the key that the certificate was made for in [metrics] tls_key_file"
        return f"{files.key}: not the key of {files.certificate}", remedy
    remedy = "put a certificate chain and its private key there, both in PEM form"
    return f"{files.certificate} and {files.key} cannot be used ({reason or exc})", remedy


@contextlib.contextmanager
def _opened(path: str, setting: str) -> Iterator[int]:
    """Open a regular file; raise ``EndpointError`` for anything else.

    What is looked at is the descriptor: another file may come to the path at any time.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe has no writer
    except OSError as exc:
        raise EndpointError(*_unreadable(path, exc, setting)) from exc
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise EndpointError(f"{path}: no regular file", NEED_FILE.format(setting=setting))
        yield fd
    finally:
        os.close(fd)


def _check_private(path: str, found: os.stat_result) -> None:
    """Raise ``EndpointError`` for a file of secrets that others may read or change.

    It has to be root's or the daemon's own; of root's, a group of the daemon's may read, as
    systemd leaves credentials to be read.
    """
    why = "; ".join(_openings(found))
    if why:
        quoted = shlex.quote(path)
        raise EndpointError(
            f"{path}: {why}",
            f"chown root:{group_name(os.getegid())} {quoted} && chmod 0640 {quoted}",
        )


def _openings(found: os.stat_result) -> Iterator[str]:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in {0, os.geteuid()}:
        yield f"it belongs to user {found.st_uid}"
    if mode & 0o007:
        yield f"everybody may use it (mode {mode:04o})"
    elif mode & 0o030:
        yield f"its group may change it (mode {mode:04o})"
    elif mode & 0o040 and not (found.st_uid == 0 and found.st_gid in _own_groups()):
        yield f"group {found.st_gid} may read it (mode {mode:04o})"


def _own_groups() -> set[int]:
    """Return whose members may know our secrets: those of root's group can, anyway."""
    return {0, os.getegid()}


def _unreadable(path: str, exc: OSError, setting: str) -> tuple[str, str]:
    return f"{path}: {exc.strerror}", NEED_FILE.format(setting=setting)


def _seen(path: str) -> tuple[int, ...] | None:
    try:
        s = os.stat(path)  # noqa: PTH116 - nothing but the numbers
    except OSError:
        return None
    times = (s.st_mtime_ns, s.st_ctime_ns)
    return (s.st_dev, s.st_ino, s.st_size, *times, s.st_mode, s.st_uid, s.st_gid)

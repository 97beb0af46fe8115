"""The listening end of the control socket: handed over by systemd, or bound by ourselves."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Final, NamedTuple

FIRST_PASSED_FD: Final = 3  # SD_LISTEN_FDS_START
BACKLOG: Final = 4096
"""Who connects while the queue is full is turned away by the kernel; net.core.somaxconn caps it."""
PROBE_TIMEOUT_S: Final = 2.0
LOCK_TIMEOUT_S: Final = 2.0
MAX_PATH_BYTES: Final = 107  # unix(7): sun_path with its final zero
UCRED: Final = struct.Struct("3i")
SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; Python does not name it
MOST_GROUPS: Final = 256
"""Python passes 1024 bytes at most; of who is in more groups only the primary one is known."""


class ListenError(Exception):
    """Why there can be no control socket, with what to do; ``pid`` of the daemon that has it."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class Peer(NamedTuple):
    """Who is at the other end, as the kernel recorded it when the socket was made."""

    pid: int
    uid: int
    gid: int


def read_peer(connection: socket.socket) -> Peer:
    """Ask the kernel for the process at the other end (SO_PEERCRED)."""
    return Peer(
        *UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    )


def read_groups(connection: socket.socket) -> frozenset[int]:
    """Ask the kernel for the groups of the process at the other end, as they were when it came."""
    primary = read_peer(connection).gid
    try:
        listed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * MOST_GROUPS)
    except OSError:
        listed = b""
    return frozenset({primary, *(gid for (gid,) in struct.iter_unpack("I", listed))})


def adopt_listener(
    environ: MutableMapping[str, str], first_fd: int = FIRST_PASSED_FD
) -> socket.socket | None:
    """Return the listener that systemd passed (sd_listen_fds(3)), or None when it passed none.

    The variables are removed: they are not for our children.
    """
    pid, count, _ = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit() or count == "0":
        return None
    if count != "1":
        raise ListenError(
            f"systemd passed {count} sockets; tychod.socket must have one ListenStream"
        )
    try:
        listener = socket.socket(fileno=first_fd)
    except OSError as exc:
        raise ListenError(
            f"descriptor {first_fd} from systemd is no socket: {exc.strerror}"
        ) from exc
    if not _is_unix_listener(listener):
        listener.detach()  # not ours to close
        raise ListenError("the socket from systemd is no listening Unix stream socket")
    listener.set_inheritable(False)
    return listener


def _is_unix_listener(sock: socket.socket) -> bool:
    is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    is_stream = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    return sock.family == socket.AF_UNIX and is_stream and bool(is_listening)


def bind_control_socket(path: Path, mode: int = 0o660, gid: int | None = None) -> socket.socket:
    """Return a listener on ``path`` that only owner and group may connect to.

    A socket file that nobody listens on is replaced; a live daemon's is not.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ListenError(f"{path}: longer than {MAX_PATH_BYTES} bytes; set [control] socket")
    with _locked(path.parent):
        _remove_stale(path)
        return _listen(path, mode, gid)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep two daemons that start together from replacing each other's socket."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise ListenError(
            f"{directory}: {exc.strerror}; create it (systemd does by RuntimeDirectory=tychod) "
            "or set [control] socket"
        ) from exc
    try:
        _lock(fd)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    """Lock, but give up soon: whoever may read the directory could hold the lock for ever."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        else:
            return


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody listens on; raise ``ListenError`` for anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ListenError(f"{path}: {exc.strerror}") from exc
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(f"{path} exists and is no socket; remove it or set [control] socket")
    pid = _read_owner(path)
    if pid is not None:
        raise ListenError(f"tychod is already running on {path} (pid {pid})", pid)
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise ListenError(f"{path}: stale socket cannot be removed: {exc.strerror}") from exc


def _read_owner(path: Path) -> int | None:
    """Return the pid of the process that listens on a socket file, or None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except (TimeoutError, BlockingIOError) as exc:
            raise ListenError(
                f"{path}: somebody listens and does not answer; stop it first"
            ) from exc
        except OSError as exc:
            raise ListenError(f"{path}: cannot tell whether it is in use: {exc.strerror}") from exc
        return read_peer(probe).pid


def _listen(path: Path, mode: int, gid: int | None) -> socket.socket:
    """Bind, set group and mode, and only then listen: until then nobody can connect."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        listener.bind(os.fspath(path))
        bound = True
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(mode)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        if bound:
            path.unlink(missing_ok=True)
        raise ListenError(f"{path}: {exc.strerror}{_hint(exc, bound)}") from exc
    return listener


def _hint(exc: OSError, bound: bool) -> str:
    if bound and exc.errno == errno.EPERM:
        return "; run tychod as root or as a member of [control] group"
    return "; set [control] socket to a directory that tychod may write"

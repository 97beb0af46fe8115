"""The only code that opens files below /proc, /sys, the cgroup file systems, /run and /var.

What vanished while we looked is normal and is ``None``; what may not be read raises ``OSError``.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import sys
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tychod import config

GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESRCH})
"""What the kernel says of a process, a cgroup or a device that is no longer there."""

READ_LIMIT_BYTES: Final = 1 << 20

UNKNOWN_BOOT: Final = "unknown"

_FORBIDDEN_NAME: Final = "environ"


class FileIdentity(NamedTuple):
    """Differs whenever a file's content has been replaced or rewritten."""

    mtime_ns: int
    inode: int
    size: int


class PrivateFile(NamedTuple):
    """A file that should be private, and what says whether it is."""

    is_regular: bool  # no link, pipe, device or directory
    is_ours: bool  # owned by root or by this process's user
    mode: int  # permission bits
    data: bytes  # b"" where it is not regular


class KeptFile:
    """A file opened once and read again from its start; the kernel answers anew each time."""

    def __init__(self, path: str, fd: int | None = None) -> None:
        self._fd = _open(path) if fd is None else fd
        self.path: Final = path

    def fileno(self) -> int:
        """Return the descriptor, for loops that call ``os.pread`` themselves."""
        return self._fd

    def read(self, size: int = 64) -> bytes:
        """Return the first ``size`` bytes as they are now; OSError where the kernel refuses."""
        try:
            return os.pread(self._fd, size, 0)
        except OSError as exc:
            exc.filename = self.path  # as in Host.read_bytes
            raise

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Host:
    """A machine below its roots: the real one, another one seen from a container, or a fixture."""

    def __init__(self, roots: config.Host, credentials: str = "") -> None:
        """``credentials``: the directory that systemd made for this service, if it did."""
        self.credentials: Final = _trimmed(credentials)
        self.procfs: Final = _trimmed(roots.procfs)
        self.sysfs: Final = _trimmed(roots.sysfs)
        self.cgroupfs: Final = _trimmed(roots.cgroupfs)
        self.run: Final = _trimmed(roots.run)
        self.log: Final = _trimmed(roots.log)
        self.var: Final = _trimmed(roots.var)

    def read_text(self, path: str) -> str | None:
        """Return a file's text, None if it is gone; bytes that are not UTF-8 are replaced."""
        data = self.read_bytes(path)
        return None if data is None else data.decode(errors="replace")

    def read_bytes(self, path: str, limit: int = READ_LIMIT_BYTES) -> bytes | None:
        """Return at most the first ``limit`` bytes of a file, None if it is gone."""
        try:
            fd = _open(path)
        except OSError as exc:
            _raise_unless_gone(exc)
            return None
        try:
            return _read_up_to(fd, limit)
        except OSError as exc:
            exc.filename = path  # a descriptor alone tells nobody which file it was
            _raise_unless_gone(exc)
            return None
        finally:
            os.close(fd)

    def read_link(self, path: str) -> str | None:
        """Return where a symbolic link points, None if it is gone."""
        try:
            return os.readlink(path)  # noqa: PTH115 - a target, not a path
        except OSError as exc:
            _raise_unless_gone(exc)
            return None

    def list_dir(self, path: str) -> tuple[str, ...] | None:
        """Return the sorted names in a directory, None if it is gone."""
        try:
            return tuple(sorted(os.listdir(path)))  # noqa: PTH208 - called often, Path is slow
        except OSError as exc:
            _raise_unless_gone(exc)
            return None

    def list_subdirs(self, path: str) -> tuple[tuple[str, int], ...] | None:
        """Return name and inode of each directory in a directory, None if it is gone."""
        try:
            with os.scandir(path) as entries:
                return tuple(
                    (e.name, e.inode()) for e in entries if e.is_dir(follow_symlinks=False)
                )
        except OSError as exc:
            _raise_unless_gone(exc)
            return None

    def list_links(self, path: str, most: int) -> tuple[str, ...] | None:
        """Return the names of the symbolic links in a directory, None if it is gone.

        ``OverflowError``: it has more than ``most`` entries.  Whoever may write there makes them.
        """
        try:
            with os.scandir(path) as entries:
                found = list(islice(entries, most + 1))
                names = tuple(e.name for e in found if e.is_symlink())
        except OSError as exc:
            _raise_unless_gone(exc)
            return None
        if len(found) > most:
            raise OverflowError(path)
        return names

    def inode(self, path: str) -> int | None:
        """Return the inode of a path, None if it is gone."""
        found = self.identity(path)
        return None if found is None else found.inode

    def identity(self, path: str) -> FileIdentity | None:
        """Return what changes when a file is replaced, None if it is gone."""
        try:
            status = os.stat(path)  # noqa: PTH116 - called often, Path is slow
        except OSError as exc:
            _raise_unless_gone(exc)
            return None
        return FileIdentity(status.st_mtime_ns, status.st_ino, status.st_size)

    def exists(self, path: str) -> bool:
        """Say whether a path is there (and its directory may be searched)."""
        return os.path.exists(path)  # noqa: PTH110 - called often, Path is slow

    def open_kept(self, path: str) -> KeptFile:
        """Open a file to be read many times; OSError where that fails."""
        return KeptFile(path)

    def open_device(self, path: str) -> KeptFile:
        """Open a device to be asked by ioctl, for which it must be open for writing, too."""
        return KeptFile(path, _open(path, os.O_RDWR))

    def open_directory(self, path: str, parent: int | None = None) -> KeptFile:
        """Open a directory, never where a link points; its last name below ``parent`` if given."""
        name = path if parent is None else os.path.basename(path)  # noqa: PTH119
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
        return KeptFile(path, os.open(name, flags, dir_fd=parent))

    def pids(self) -> Iterator[int]:
        """Yield the pids that procfs lists at this moment; any of them may be gone when used."""
        for name in self.list_dir(self.procfs) or ():
            if name.isdigit():
                yield int(name)

    def pid_names(self) -> set[str]:
        """Return the pids that procfs lists at this moment, as it writes them and unsorted."""
        return {name for name in os.listdir(self.procfs) if name.isdigit()}  # noqa: PTH208

    def read_regular(self, path: str, limit: int = READ_LIMIT_BYTES) -> bytes | None:
        """Return a file that somebody else has named, None if it is gone or no regular file.

        To open a device or a pipe can do something; to look at it first cannot.
        """
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as exc:
            _raise_unless_gone(exc)
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            _refuse_environment(os.readlink(fd_path(fd)))  # noqa: PTH115 - where links have led
            return self.read_bytes(fd_path(fd), limit)
        except OSError as exc:
            exc.filename = path
            raise
        finally:
            os.close(fd)

    def read_private(self, path: str, limit: int) -> PrivateFile | None:
        """Return a file with its owner and mode, None if it is gone; no last link is followed."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as exc:
            _raise_unless_gone(exc)
            return None
        try:
            status = os.fstat(fd)
            is_regular = stat.S_ISREG(status.st_mode)
            data = self.read_bytes(fd_path(fd), limit) if is_regular else b""
        except OSError as exc:
            exc.filename = path
            raise
        finally:
            os.close(fd)
        is_ours = status.st_uid in (0, os.geteuid())
        return PrivateFile(is_regular, is_ours, stat.S_IMODE(status.st_mode), data or b"")

    def process_file(self, pid: int, name: str, limit: int = READ_LIMIT_BYTES) -> bytes | None:
        """Return a file of a process, None if the process is gone."""
        return self.read_bytes(f"{self.procfs}/{pid}/{name}", limit)


def fd_path(fd: int) -> str:
    """Return a path by which the kernel finds what a descriptor of ours is of (proc(5))."""
    return f"/proc/self/fd/{fd}"


def render_error(exc: OSError) -> str:
    """Return which file was refused and why, as far as the error knows."""
    reason = exc.strerror or str(exc)
    return f"{exc.filename}: {reason}" if exc.filename else reason


def boot_id(host: Host) -> str:
    """Return the kernel's random name of this boot; ``UNKNOWN_BOOT`` where it cannot be read.

    An unknown boot is no boot in particular: it equals none, itself included.
    """
    try:
        text = host.read_text(f"{host.procfs}/sys/kernel/random/boot_id")
    except OSError:
        return UNKNOWN_BOOT
    return (text or "").strip() or UNKNOWN_BOOT


def online_cpus(host: Host) -> int:
    """Return how many CPUs are online; where that cannot be read, as many as this process sees."""
    try:
        text = host.read_text(f"{host.sysfs}/devices/system/cpu/online")
        return parse_cpu_list(text or "")
    except (OSError, ValueError):
        return os.cpu_count() or 1


def memory_bytes(host: Host) -> int:
    """Return the memory that the kernel has, in bytes; 0 where that cannot be read."""
    try:
        text = host.read_text(f"{host.procfs}/meminfo") or ""
    except OSError:
        return 0
    return parse_memory_bytes(text)


def parse_memory_bytes(text: str) -> int:
    """Return MemTotal of a meminfo in bytes (its kB are 1024, proc(5)); 0 where it has none."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name == "MemTotal" and words and words[0].isdecimal():
            return int(words[0]) * 1024
    return 0


def parse_cpu_list(text: str) -> int:
    """Count the CPUs in a list such as ``0-3,8``; ValueError if it is none."""
    return len(parse_cpu_numbers(text))


def parse_cpu_numbers(text: str) -> tuple[int, ...]:
    """Return the CPUs in a list such as ``0-3,8``; ValueError if it is none."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def node_name() -> str:
    """Return this machine's host name."""
    return socket.gethostname()


def own_rss_bytes() -> int:
    """Return this process's resident memory (proc(5): second number of statm, in pages).

    Without a procfs of its own: the most that it ever was (getrusage(2), in KiB).
    """
    try:
        return int(_read_own("statm").split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own_cpu_ns() -> int:
    """Return the CPU time of this process, user and system, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


def raise_open_file_limit() -> int:
    """Raise the soft limit of open files to the hard one (one per cgroup is kept); return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _trimmed(root: str) -> str:
    return root.rstrip("/")


def _open(path: str, access: int = os.O_RDONLY) -> int:
    _refuse_environment(path)
    return os.open(path, access | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)


def _refuse_environment(path: str) -> None:
    """Raise for a process's environment: it holds secrets, and nothing here has a use for it."""
    if path.endswith("/" + _FORBIDDEN_NAME):
        raise PermissionError(errno.EACCES, "a process's environment is never read", path)


def _read_up_to(fd: int, limit: int) -> bytes:
    parts = []
    while limit > 0 and (part := os.read(fd, min(limit, 65536))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def _raise_unless_gone(exc: OSError) -> None:
    """Let pass that it is gone; anything else stays an error."""
    if exc.errno not in GONE:
        raise exc


CAP_DAC_READ_SEARCH: Final = 2
CGROUP_MAGICS: Final = frozenset({0x63677270, 0x27E0EB})
"""f_type of statfs(2) for cgroup2 and cgroup v1 (linux/magic.h)."""
STATFS_BYTES: Final = 256
"""More than a struct statfs of any 64-bit machine, whose first word is f_type."""
"""Number of the capability, from linux/capability.h."""


def may_read_everything() -> bool:
    """Say whether this process may read every file: effective CAP_DAC_READ_SEARCH (or root's)."""
    return bool(own_capabilities() >> CAP_DAC_READ_SEARCH & 1)


def is_cgroup_mount(path: str) -> bool:
    """Say whether a directory lies in a cgroup file system of this kernel, not in a copy."""
    import ctypes  # asked for once

    status = ctypes.create_string_buffer(STATFS_BYTES)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), status):
        return False
    return int.from_bytes(status.raw[:8], sys.byteorder) in CGROUP_MAGICS


def own_capabilities() -> int:
    """Return the effective capabilities of this process as bits; none where procfs tells none."""
    try:
        status = _read_own("status")
    except OSError:
        return 0
    found = next((x for x in status.splitlines() if x.startswith("CapEff:")), "CapEff: 0")
    return int(found.split()[1], 16)


def _read_own(name: str) -> str:
    fd = _open(f"/proc/self/{name}")
    try:
        return _read_up_to(fd, READ_LIMIT_BYTES).decode()
    finally:
        os.close(fd)

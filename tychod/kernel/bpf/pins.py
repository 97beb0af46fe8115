"""Maps and links as files of a BPF file system: they outlive whoever loaded them.

Below a root directory each ABI has a directory ``vN``, which appears whole or not at all.  Whoever
changes something holds a lock on the root; the one reader holds a lock on the directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tychod.hostfs import GONE, fd_path
from tychod.kernel.bpf import abi, directory, syscall
from tychod.kernel.bpf.plan import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from tychod.hostfs import Host, KeptFile
    from tychod.kernel.bpf.plan import Loaded

GROUP: Final = "tychod-data"
VERSION: Final = f"v{abi.ABI}"
STAGING: Final = "new"
OURS: Final = re.compile(r"v\d+|new")
"""Names in the root that are ours to remove; whatever else lies there is somebody else's."""
LOCK_S: Final = 15.0
"""How long others may hold a root: less than systemd gives the loader to detach (20 s)."""
LOCK_STEP_S: Final = 0.05
ATTACH: Final = "run: systemctl restart tychod-bpf (or, as root: tychod-load attach)"
MAY_READ: Final = f"run as root or as a member of the group {GROUP}"


class Pins:
    """The pinned maps, opened by their one reader; the lock is held until ``close``."""

    def __init__(self, held: KeptFile, maps: Mapping[str, int]) -> None:
        self._held = held
        self._identity = _identity(os.fstat(held.fileno()))
        self.maps: Final = maps

    def replaced(self) -> bool:
        """Say whether other pins, or none, are at this place now; costs one stat."""
        try:
            return _identity(os.stat(self._held.path)) != self._identity  # noqa: PTH116
        except OSError:
            return True

    def close(self) -> None:
        """Give everything back; mapped memory stays as it is."""
        self._held.close()
        for fd in self.maps.values():
            os.close(fd)


def default_root(host: Host) -> str:
    """Return the directory below which everything is pinned, unless ``--pin-dir`` says other."""
    return f"{host.sysfs}/fs/bpf/tychod"


def open_pins(host: Host, root: str) -> Pins:
    """Open all maps of this ABI as the only reader; LoadError where there are none for us."""
    held = _open_version(host, root)
    maps: dict[str, int] = {}
    try:
        _lock_for_reading(host, held)
        for name in abi.MAPS:
            maps[name] = directory.open_pin(held, name)
        check_abi(read_ctl(maps["ty_ctl"]))
        return Pins(held, maps)
    except (OSError, LoadError) as exc:
        held.close()
        for fd in maps.values():
            os.close(fd)
        if isinstance(exc, OSError):
            raise _unusable(exc, held.path) from exc
        raise


def read_ctl(fd: int) -> NDArray[np.void]:
    """Return a copy of the control map, an array of one."""
    return np.frombuffer(syscall.lookup(fd, bytes(4), abi.CTL.itemsize), abi.CTL)


def check_abi(ctl: NDArray[np.void]) -> None:
    """Raise LoadError where the layout of the maps is not ours."""
    if int(ctl["abi"][0]) != abi.ABI:
        raise LoadError(f"the pinned maps are of ABI {ctl['abi'][0]}, not {abi.ABI}", ATTACH)


def reader_of(host: Host, path: str) -> int | None:
    """Return the pid of who reads the maps at a path; 0: one that we cannot see; None: nobody."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path would do no more
    except OSError:
        return None
    return parse_locks(host.read_text(f"{host.procfs}/locks") or "", status)


def parse_locks(text: str, status: os.stat_result) -> int | None:
    """Return the pid that holds a flock on a file in /proc/locks (proc(5)), None if nobody does."""
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    wanted = f"{major:02x}:{minor:02x}:{status.st_ino}"
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == wanted:
            return max(int(fields[4]), 0)
    return None


# ---- for the loader ----


class Place(NamedTuple):
    """A locked root directory."""

    host: Host
    held: KeptFile

    @property
    def current(self) -> str:
        """The directory of this ABI."""
        return f"{self.held.path}/{VERSION}"

    def ours(self) -> list[str]:
        """Return the names in it that are ours."""
        return ours(self.held.fileno())

    def remove(self, name: str) -> None:
        """Remove pins; what only they kept alive ends.  OSError."""
        directory.remove(self.host, self.held, name)


@contextlib.contextmanager
def locked_root(host: Host, root: str, *, create: bool) -> Iterator[Place | None]:
    """Hold the root against others that attach or detach; None where it is not there."""
    while True:
        if create:
            _make_root(host, root)
        try:
            held = directory.open_root(host, root)
        except OSError as exc:
            if exc.errno in GONE and not create:
                yield None
                return
            raise _unusable(exc, root) from exc
        try:
            _lock(host, held)
            if host.inode(root) == os.fstat(held.fileno()).st_ino:
                yield Place(host, held)
                return
        finally:
            held.close()
        # whoever had the lock removed the directory


def _lock(host: Host, held: KeptFile) -> None:
    """Wait for the lock on a root, but not for ever: who may read the root can hold it."""
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            return fcntl.flock(held.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(LOCK_STEP_S)
                continue
        raise LoadError(
            f"{_holder(host, held)} holds {held.path} for more than {LOCK_S:g} s",
            "wait for it if it is another tychod-load, else end it; then try again",
        )


def pin_all(place: Place, loaded: Loaded) -> None:
    """Pin maps and links in place of all that is pinned there; LoadError where that fails.

    Maps are the group's to read and write, links the owner's alone: a link in hand can be detached.
    """
    root = place.held
    before = os.umask(0o007)
    try:
        place.remove(STAGING)
        os.mkdir(STAGING, 0o750, dir_fd=root.fileno())  # the group is the root's (set-group-id)
        with contextlib.closing(directory.open_below(place.host, root, STAGING)) as staging:
            _pin(staging, loaded)
        for name in place.ours():
            if name != STAGING:
                place.remove(name)
        os.rename(STAGING, VERSION, src_dir_fd=root.fileno(), dst_dir_fd=root.fileno())
    except OSError as exc:
        with contextlib.suppress(OSError):
            place.remove(STAGING)
        exc.filename = None  # below a descriptor, it says little
        raise _unusable(exc, root.path) from exc
    finally:
        os.umask(before)


def _pin(staging: KeptFile, loaded: Loaded) -> None:
    for name, fd in {**loaded.links, **loaded.maps}.items():
        syscall.obj_pin(fd, f"{fd_path(staging.fileno())}/{name}")
    for name in loaded.maps:
        os.chmod(name, 0o660, dir_fd=staging.fileno())


def ours(root: str | int) -> list[str]:
    """Return the names in a root, a path or a descriptor, that are ours."""
    return sorted(name for name in os.listdir(root) if OURS.fullmatch(name))  # noqa: PTH208


def is_bpffs(mountinfo: str, path: str) -> bool:
    """Say whether a path lies in a BPF file system, by a mountinfo file (proc(5))."""
    best, found = "", False
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        mount = fields[4].replace("\\040", " ")
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):  # the later of two at one place hides the other
            best, found = mount, right.split()[0] == "bpf"
    return found


def not_bpffs(host: Host, root: str) -> LoadError | None:
    """Return that a root is not in a BPF file system, as an error; None: it is."""
    mounts = host.read_text(f"{host.procfs}/self/mountinfo") or ""
    if is_bpffs(mounts, os.path.realpath(root)):
        return None
    return LoadError(
        f"{root} is not in a BPF file system",
        f"mount one: mount -t bpf -o mode=0700 bpf {os.path.dirname(root)}",  # noqa: PTH120
    )


def _make_root(host: Host, root: str) -> None:
    if refused := not_bpffs(host, root):
        raise refused
    try:
        os.mkdir(root, 0o750)  # noqa: PTH102
    except FileExistsError:
        return
    except OSError as exc:
        raise _unusable(exc, root) from exc
    try:
        with contextlib.closing(directory.open_root(host, root)) as held:
            with contextlib.suppress(KeyError):  # without the group only root reads
                os.fchown(held.fileno(), -1, grp.getgrnam(GROUP).gr_gid)
            os.fchmod(held.fileno(), 0o2750)  # set-group-id, so that pins are the group's
    except OSError as exc:
        raise _unusable(exc, root) from exc


def _open_version(host: Host, root: str) -> KeptFile:
    try:
        with contextlib.closing(directory.open_root(host, root)) as top:
            return directory.open_below(host, top, VERSION)
    except OSError as exc:
        if exc.errno not in GONE:
            raise _unusable(exc, root) from exc
    others = ", ".join(_versions(root)) or "nothing"
    path = f"{root}/{VERSION}"
    raise LoadError(f"no kernel programs are pinned at {path} (there: {others})", ATTACH)


def _versions(root: str) -> list[str]:
    try:
        return ours(root)
    except OSError:
        return []


def _lock_for_reading(host: Host, held: KeptFile) -> None:
    try:
        fcntl.flock(held.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LoadError(
            f"{_holder(host, held)} reads the maps at {held.path} already; there can be one reader",
            "stop it (systemctl stop tychod), or give one of them another --pin-dir",
        ) from None


def _holder(host: Host, held: KeptFile) -> str:
    """Say who has locked a directory that is open here."""
    locks = host.read_text(f"{host.procfs}/locks") or ""
    pid = parse_locks(locks, os.fstat(held.fileno()))
    return f"process {pid}" if pid else "another process"


def _unusable(exc: OSError, path: str) -> LoadError:
    """Say what an OSError about a pin means."""
    where = f"{exc.filename or path}: {exc.strerror}"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return LoadError(f"not permitted: {where}", MAY_READ)
    if exc.errno == errno.EROFS:
        return LoadError(
            f"read-only: {where}", "let the loader write there (ProtectKernelTunables=no)"
        )
    return LoadError(f"the pins are not usable: {where}", ATTACH)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino

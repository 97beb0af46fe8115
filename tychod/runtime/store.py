"""State on disk: what survives a restart within one boot (design.md 6).

Saved after every window, before its snapshot is published: write, then rename.  It survives
``kill -9``; it is synced to the disk once a minute and at the end.
"""

import fcntl
import logging
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgpack

from tychod.analysis.state import State
from tychod.hostfs import UNKNOWN_BOOT
from tychod.kernel.cgroups import CpuBaseline
from tychod.runtime.saved import Saved, pack, parse, parse_learned, unpack

log = logging.getLogger(__name__)

FILE_NAME: Final = "state.msgpack"
LOCK_NAME: Final = "lock"
OWN_NAMES: Final = frozenset({LOCK_NAME, FILE_NAME.partition(".")[0], "calibration", "history"})
SYNC_S: Final = 60.0


class StateInUseError(Exception):
    """Another daemon works on the same state directory."""


class Store:
    """One state directory, locked for this process."""

    def __init__(self, directory: Path) -> None:
        """Create (0700) and lock the directory; raise ``StateInUseError`` or ``OSError``."""
        self.directory: Final = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _restrict(directory)
        self._lock_fd = _lock(directory / LOCK_NAME)
        self._synced = time.monotonic()
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the last save failed, or None."""
        return self._problem

    def load(self, boot_id: str, now_ns: int) -> Saved | None:
        """Return the state of this boot; None on another boot or with a file that is unusable.

        ``now_ns`` is the monotonic time: what ends after it was saved on another clock.
        """
        path = self.directory / FILE_NAME
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._set_aside(path, f"cannot be read: {exc.strerror}")
            return None
        try:
            plain = unpack(data)
            why = _why_foreign(plain["boot_id"], boot_id)
            saved = None if why else parse(plain)
            if saved and saved.latest_ns > now_ns:
                why = "ends in the future of this boot's clock, so it is of another boot"
        except (ValueError, TypeError, LookupError, msgpack.UnpackException) as exc:
            self._set_aside(path, f"is damaged: {exc!r}")
            return None
        if why:
            log.info("the saved state %s: counters start anew", why)
            return None
        return self._with_learned(saved, plain) if saved else None

    def _with_learned(self, saved: Saved, plain: Mapping[str, Any]) -> Saved:
        learned, why = parse_learned(plain)
        if why:
            log.info("what was learned of workloads %s: it is learned anew, counters go on", why)
        return saved._replace(state=replace(saved.state, learned=learned))

    def _set_aside(self, path: Path, why: str) -> None:
        kept = path.with_suffix(f".damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        try:
            path.rename(kept)
        except OSError as exc:
            log.error("%s %s; cannot set it aside either: %s", path, why, exc.strerror)  # noqa: TRY400
            return
        log.error(
            "%s %s; kept as %s, counters start anew",
            path,
            why,
            kept.name,
            extra={"event": "state-damaged"},
        )

    def save(self, boot_id: str, state: State, baseline: CpuBaseline | None) -> None:
        """Write the state; a failure is logged when it begins and shown in the status."""
        try:
            framed = pack(boot_id, state, baseline)
        except (ValueError, OverflowError) as exc:  # the text of one may be what others wrote
            self._fail(f"state cannot be packed ({type(exc).__name__}); report it")
            return
        sync = time.monotonic() - self._synced >= SYNC_S
        try:
            self._write(framed, sync=sync)
        except OSError as exc:
            self._fail(f"state cannot be saved in {self.directory}: {exc.strerror}")
            return
        if self._problem:
            log.info("state can be saved again")
        self._problem = None

    def _write(self, packed: bytes, *, sync: bool) -> None:
        path = self.directory / FILE_NAME
        scratch = path.with_suffix(".new")
        scratch.unlink(missing_ok=True)  # left by a save that failed, or put there by another
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, packed)
            if sync:
                os.fsync(fd)
                self._synced = time.monotonic()
        finally:
            os.close(fd)
        scratch.rename(path)

    def _fail(self, problem: str) -> None:
        if self._problem != problem:
            log.error("%s; after a restart the counters would lack this", problem)
        self._problem = problem

    def close(self) -> None:
        """Sync what was saved and give up the lock."""
        try:
            fd = os.open(self.directory / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            log.debug("state not synced at the end: %s", exc)
        os.close(self._lock_fd)


def _why_foreign(saved_boot: object, boot_id: str) -> str | None:
    """Return why state of one boot must not go on in another; an unknown boot equals none."""
    if UNKNOWN_BOOT in (saved_boot, boot_id):
        return "cannot be told from that of another boot (procfs shows no boot_id)"
    return None if saved_boot == boot_id else "is of another boot"


def _restrict(directory: Path) -> None:
    """Close a directory to others, unless it holds more than state: it may be a shared one."""
    status = directory.stat()
    is_own = status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX
    is_open = is_own and status.st_mode & 0o077
    if is_open and all(e.name.partition(".")[0] in OWN_NAMES for e in directory.iterdir()):
        directory.chmod(0o700)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StateInUseError(
            f"another tychod (pid {holder}) uses the state directory {path.parent}; "
            "stop it or set STATE_DIRECTORY to another place"
        ) from None
    with suppress(OSError):  # a full disk: the lock holds without the number
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def write_all(fd: int, data: bytes) -> None:
    """Write bytes to a file, all of them however few it takes at once; raise ``OSError``."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

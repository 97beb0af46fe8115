"""Directories made and removed, told by the kernel (inotify(7)); cgroup2 and v1 both do."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_MOVED_FROM: Final = 0x00000040
IN_MOVED_TO: Final = 0x00000080
IN_CREATE: Final = 0x00000100
IN_DELETE: Final = 0x00000200
IN_Q_OVERFLOW: Final = 0x00004000
IN_ONLYDIR: Final = 0x01000000
IN_ISDIR: Final = 0x40000000

_WATCHED: Final = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR
_HEADER: Final = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, len
_READ_BYTES: Final = 65536


class DirectoryEvent(NamedTuple):
    """A directory of this name came to, or left, the watched one."""

    watch: int
    name: str


class Overflow(NamedTuple):
    """The kernel's queue was full: events are missing."""


class Inotify:
    """One inotify instance (there are only 128 per user) that watches many directories."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = _checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")

    def fileno(self) -> int:
        """Return the descriptor, readable when there are events."""
        return self._fd

    def watch(self, path: str) -> int:
        """Watch a directory and return the watch's number; OSError (ENOSPC: too many, ENOENT)."""
        return _checked(
            self._libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(_WATCHED)),
            path,
        )

    def unwatch(self, watch: int) -> None:
        """Stop watching; a watch whose directory is gone went with it."""
        self._libc.inotify_rm_watch(self._fd, ctypes.c_int(watch))

    def read_events(self) -> list[DirectoryEvent | Overflow]:
        """Return what happened since the last call, without waiting."""
        events: list[DirectoryEvent | Overflow] = []
        while data := self._read():
            events.extend(parse_events(data))
        return events

    def close(self) -> None:
        """Give the instance back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return b""


def parse_events(data: bytes) -> Iterator[DirectoryEvent | Overflow]:
    """Yield the directory events and overflows in what the kernel wrote; skip all others."""
    offset = 0
    while offset < len(data):
        watch, mask, _cookie, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size + length
        if mask & IN_Q_OVERFLOW:
            yield Overflow()
        elif mask & IN_ISDIR and length:
            yield DirectoryEvent(watch, os.fsdecode(data[offset - length : offset].rstrip(b"\0")))


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, errno.errorcode.get(code, str(code)), what)
    return result

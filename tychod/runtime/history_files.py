"""The history's files: appended to, listed, and removed when they are too old or too many.

A file is never changed but at its end, so a reader needs no lock; ``kill -9`` can tear only the
last record, which the next run leaves behind in a file that it does not touch.
"""

import os
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

from tychod.runtime.store import write_all

NAME: Final = re.compile(r"(\d{8})-(\d{8,18})\.history")  # UTC day and number
DAY_S: Final = 86400
MOST_FILES: Final = 2000
"""A daemon that starts again and again makes a file each time."""
PARTS: Final = 8
"""A file takes at most this part of the bytes allowed, so that the oldest can go alone."""


class Limits(NamedTuple):
    """How much is kept."""

    days: int
    max_bytes: int


class File(NamedTuple):
    """One file of the history."""

    path: Path
    day: str
    number: int

    def read(self, start: int, count: int) -> bytes:
        """Return this many bytes, fewer at the end; raise ``OSError``."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.pread(fd, count, start)
        finally:
            os.close(fd)

    def size(self) -> int:
        """Return its bytes; raise ``OSError``."""
        return self.path.lstat().st_size


def list_files(directory: Path) -> list[File]:
    """Return the files in the order in which they were written; raise ``OSError``.

    Links, directories and pipes that are called like one are none.
    """
    return [file for file, is_regular in _list_names(directory) if is_regular]


def _list_names(directory: Path) -> list[tuple[File, bool]]:
    """Return everything that is called like a file of the history, and whether it is one."""
    try:
        with os.scandir(directory) as entries:
            named = [(entry, NAME.fullmatch(entry.name)) for entry in entries]
            found = [
                (
                    File(Path(entry.path), name[1], int(name[2])),
                    entry.is_file(follow_symlinks=False),
                )
                for entry, name in named
                if name
            ]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda one: one[0].number)


def utc_day(wall_ns: int) -> str:
    """Return the day of a time in nanoseconds since 1970, as 20260131."""
    return time.strftime("%Y%m%d", time.gmtime(wall_ns // 1_000_000_000))


class Writer:
    """Appends to the newest file; only one thread may."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self.directory: Final = directory
        self._limits = limits
        self._fd: int | None = None
        self._file: File | None = None
        self._bytes = 0

    def is_new(self, wall_ns: int) -> bool:
        """Say whether the next record will begin a file."""
        if self._file is None or self._fd is None:
            return True
        is_full = self._bytes >= self._limits.max_bytes // PARTS
        is_gone = not self._file.path.exists()  # somebody removed it
        return is_full or is_gone or self._file.day != utc_day(wall_ns)

    def append(self, data: bytes, wall_ns: int) -> None:
        """Write one record; raise ``OSError``."""
        if self.is_new(wall_ns) or self._fd is None:
            self.close()
            self._fd = self._open(utc_day(wall_ns))
        try:
            write_all(self._fd, data)
            self._bytes += len(data)
        except OSError:
            self._drop_torn()
            raise

    def _open(self, day: str) -> int:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        taken = _list_names(self.directory)
        number = taken[-1][0].number + 1 if taken else 1
        path = self.directory / f"{day}-{number:08d}.history"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        self._file, self._bytes = File(path, day, number), 0
        return fd

    def _drop_torn(self) -> None:
        """After a failure the file is left as it was before, without what was half written."""
        fd, file = self._fd, self._file
        if fd is None or file is None:
            return
        try:
            if self._bytes:
                os.ftruncate(fd, self._bytes)
            else:
                file.path.unlink()
        except OSError:
            pass  # whoever reads it passes over what is torn
        self.close()

    def prune(self, wall_ns: int) -> None:
        """Remove one old file where that is due, so at most one a record; raise ``OSError``.

        A clock that is wrong for a moment shall not cost them all.  One that cannot be removed
        does not keep the others.
        """
        files = list_files(self.directory)
        oldest_day = utc_day(max(wall_ns // 1_000_000_000 - self._limits.days * DAY_S, 0) * 10**9)
        is_over = len(files) > MOST_FILES or sum(map(_size, files)) > self._limits.max_bytes
        failure = None
        for file in files:
            if file == self._file or not (is_over or file.day < oldest_day):
                break
            try:
                file.path.unlink(missing_ok=True)
                break
            except OSError as exc:
                failure = failure or exc
        if failure:
            raise failure

    def close(self) -> None:
        """Finish the file in use."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._file = None, None


def _size(file: File) -> int:
    """Return its bytes; none where it is gone meanwhile."""
    try:
        return file.size()
    except OSError:
        return 0

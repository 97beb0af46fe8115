"""The bpf(2) system call, for what a reader of maps needs: no library and no capability."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMBERS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
"""Number of bpf(2) on each machine."""

_LOOKUP, _UPDATE, _DELETE, _PIN, _GET, _LOOKUP_BATCH, _DELETE_BATCH = 1, 2, 3, 6, 7, 24, 27

# union bpf_attr of linux/bpf.h, the members that these commands use
_ELEMENT: Final = struct.Struct("=I4xQQQ")  # map_fd, key, value, flags
_OBJECT: Final = struct.Struct("=QII")  # pathname, bpf_fd, file_flags
_BATCH: Final = struct.Struct("=QQQQIIQQ")  # in, out, keys, values, count, map_fd, flags, flags
_COUNT_AT: Final = 32


def obj_get(path: str) -> int:
    """Open a pinned map or link and return its descriptor."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    try:
        return _bpf(_GET, bytearray(_OBJECT.pack(ctypes.addressof(name), 0, 0)))
    except OSError as exc:
        exc.filename = path
        raise


def obj_pin(fd: int, path: str) -> None:
    """Pin a map or link: it lives until the file is removed, without any process."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    try:
        _bpf(_PIN, bytearray(_OBJECT.pack(ctypes.addressof(name), fd, 0)))
    except OSError as exc:
        exc.filename = path
        raise


def lookup(fd: int, key: bytes, size: int) -> bytes:
    """Return the value of a key, ``size`` bytes; OSError (ENOENT) where it has none."""
    held = ctypes.create_string_buffer(key, len(key))
    data = ctypes.create_string_buffer(size)
    _bpf(_LOOKUP, bytearray(_ELEMENT.pack(fd, *map(ctypes.addressof, (held, data)), 0)))
    return data.raw


def update(fd: int, key: bytes | None, value: bytes, flags: int = 0) -> None:
    """Store a value in a map; a queue has no key."""
    held = None if key is None else ctypes.create_string_buffer(key, len(key))
    data = ctypes.create_string_buffer(value, len(value))
    at = 0 if held is None else ctypes.addressof(held)
    _bpf(_UPDATE, bytearray(_ELEMENT.pack(fd, at, ctypes.addressof(data), flags)))


def delete(fd: int, key: bytes) -> None:
    """Remove a key from a map; OSError (ENOENT) where it has none."""
    held = ctypes.create_string_buffer(key, len(key))
    _bpf(_DELETE, bytearray(_ELEMENT.pack(fd, ctypes.addressof(held), 0, 0)))


def lookup_all(
    fd: int, key: np.dtype[Any], value: np.dtype[Any], most: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the keys and values of a hash map of up to ``most`` entries.

    What changes meanwhile may be seen or not; an entry is never seen twice.
    """
    # A bucket is given whole or not at all: room for one more than the map can hold is enough.
    keys, values = np.zeros(most + 1, key), np.zeros(most + 1, value)
    token = ctypes.c_uint32(0)
    found, first = 0, True
    while found <= most:
        count, more = _lookup_batch(fd, None if first else token, token, (keys, values, found))
        found, first = found + count, False
        if not more:
            break
    return keys[:found], values[:found]


def delete_batch(fd: int, keys: NDArray[Any]) -> int:
    """Remove keys from a hash map and return how many were there; an absent key is no error."""
    keys = np.ascontiguousarray(keys)
    gone = start = 0
    while start < len(keys):
        at = keys.ctypes.data + start * keys.itemsize
        attr = bytearray(_BATCH.pack(0, 0, at, 0, len(keys) - start, fd, 0, 0))
        error = _errno_of(_DELETE_BATCH, attr)
        if error not in (0, errno.ENOENT):
            raise OSError(error, os.strerror(error))
        done = _count(attr)
        gone += done
        start += done + (error == errno.ENOENT)
    return gone


def _lookup_batch(
    fd: int,
    after: ctypes.c_uint32 | None,
    token: ctypes.c_uint32,
    into: tuple[NDArray[Any], NDArray[Any], int],
) -> tuple[int, bool]:
    """Fetch a batch behind a place; return its size and whether there is more."""
    keys, values, at = into
    attr = bytearray(
        _BATCH.pack(
            0 if after is None else ctypes.addressof(after),
            ctypes.addressof(token),
            keys.ctypes.data + at * keys.itemsize,
            values.ctypes.data + at * values.itemsize,
            len(keys) - at,
            fd,
            0,
            0,
        )
    )
    error = _errno_of(_LOOKUP_BATCH, attr)
    if error in (0, errno.ENOENT):
        return _count(attr), error == 0
    if error == errno.ENOSPC:  # others filled the map while we read: what there is room for
        return _count(attr), False
    raise OSError(error, os.strerror(error))


def _count(attr: bytearray) -> int:
    count: int = struct.unpack_from("=I", attr, _COUNT_AT)[0]
    return count


def _bpf(command: int, attr: bytearray) -> int:
    result, error = _call(command, attr)
    if result < 0:
        raise OSError(error, os.strerror(error))
    return result


def _errno_of(command: int, attr: bytearray) -> int:
    result, error = _call(command, attr)
    return error if result < 0 else 0


def _call(command: int, attr: bytearray) -> tuple[int, int]:
    buffer = (ctypes.c_char * len(attr)).from_buffer(attr)
    result = _libc().syscall(
        ctypes.c_long(_number()), ctypes.c_long(command), buffer, ctypes.c_ulong(len(attr))
    )
    return int(result), ctypes.get_errno()


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


@functools.cache
def _number() -> int:
    machine = platform.machine()
    if machine not in NUMBERS:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {machine} is not known")
    return NUMBERS[machine]

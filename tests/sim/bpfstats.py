"""Time that kernel programs take, as the kernel itself measures it (BPF_ENABLE_STATS)."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.kernel.bpf.syscall import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

from contextlib import contextmanager

_PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD, _ENABLE_STATS = 13, 15, 32
_INFO_BYTES: Final = 256
_LINK_PROGRAM_AT, _RUN_TIME_AT = 8, 192  # bpf_link_info.prog_id, bpf_prog_info.run_time_ns


class Spent(NamedTuple):
    """What a program has used since statistics were first on."""

    ns: int
    runs: int

    def __sub__(self, other: object) -> Spent:
        assert isinstance(other, Spent)
        return Spent(self.ns - other.ns, self.runs - other.runs)

    @property
    def mean_ns(self) -> float:
        """Nanoseconds of one run."""
        return self.ns / self.runs if self.runs else 0.0


@contextmanager
def stats_on() -> Iterator[None]:
    """Let the kernel measure programs; it stops when the last one who asked for it has ended."""
    fd = _bpf(_ENABLE_STATS, bytearray(4))
    try:
        yield
    finally:
        os.close(fd)


def read_spent(links: Mapping[str, int]) -> dict[str, Spent]:
    """Return what the programs behind links have used."""
    found = {}
    for name, link in links.items():
        number = struct.unpack_from("=I", _info(link), _LINK_PROGRAM_AT)[0]
        program = _bpf(_PROG_GET_FD_BY_ID, bytearray(struct.pack("=I8x", number)))
        try:
            found[name] = Spent(*struct.unpack_from("=QQ", _info(program), _RUN_TIME_AT))
        finally:
            os.close(program)
    return found


def _info(fd: int) -> bytes:
    info = ctypes.create_string_buffer(_INFO_BYTES)
    _bpf(
        _OBJ_GET_INFO_BY_FD,
        bytearray(struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info))),
    )
    return info.raw


def _bpf(command: int, attr: bytearray) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    buffer = (ctypes.c_char * len(attr)).from_buffer(attr)
    result = libc.syscall(
        ctypes.c_long(NUMBERS[os.uname().machine]),
        ctypes.c_long(command),
        buffer,
        ctypes.c_ulong(len(attr)),
    )
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)

"""Hardware counters: one event for each CPU, handed to the programs in PERF_EVENT_ARRAYs."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.kernel.bpf import abi, syscall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NUMBERS: Final = {"x86_64": 298, "aarch64": 241, "riscv64": 241}
"""Number of perf_event_open(2) on each machine."""

_HARDWARE, _SOFTWARE = 0, 1
_HARDWARE_EVENTS: Final = {"cycles": 0, "instructions": 1, "llc_misses": 3}
_SOFTWARE_EVENTS: Final = {"task-clock": 1, "page-faults": 2, "context-switches": 3}
SOFTWARE: Final = "sw:"
"""Names that begin so stand for an event that every kernel has: they exercise the same path."""

_ATTR_BYTES: Final = 112  # PERF_ATTR_SIZE_VER5
_READ_FORMAT: Final = 1 | 2  # time enabled, time running
_CLOSE_ON_EXEC: Final = 8
_NOT_HERE: Final = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL})


class Counter(NamedTuple):
    """A counter that this machine has: its place in ``ty_pmu_total``, and an event for each CPU."""

    name: str
    place: int
    kind: int
    number: int


def available(names: Iterable[str]) -> tuple[tuple[Counter, ...], tuple[str, ...]]:
    """Return those of the wanted counters that can be opened here, and a note for each other."""
    found, notes = [], []
    for position, name in enumerate(names):
        counter = _counter(name, position)
        try:
            os.close(_open(counter, min(os.sched_getaffinity(0))))
        except OSError as exc:
            notes.append(f"counter {name} is not counted: {_why(exc)}")
        else:
            found.append(counter)
    return tuple(found), tuple(notes)


def connect(
    counters: Iterable[Counter], cpus: Iterable[int], map_fd: Callable[[str], int]
) -> tuple[str, ...]:
    """Open each counter on each of these CPUs and put it into its array, which keeps it.

    Return a note for each CPU that has none: its time is not covered, the others count.
    """
    notes, wanted = [], tuple(cpus)
    for counter in counters:
        array = map_fd(f"ty_pmu_{counter.place}")
        try:
            for cpu in wanted:
                try:
                    _connect_one(counter, cpu, array)
                except OSError as exc:  # it went offline, or somebody has the hardware there
                    notes.append(f"counter {counter.name} is not counted on CPU {cpu}: {_why(exc)}")
        finally:
            os.close(array)
    return tuple(notes)


def _connect_one(counter: Counter, cpu: int, array: int) -> None:
    event = _open(counter, cpu)
    try:
        syscall.update(array, struct.pack("=I", cpu), struct.pack("=I", event))
    finally:
        os.close(event)


def _counter(name: str, position: int) -> Counter:
    if name.startswith(SOFTWARE):
        number = _SOFTWARE_EVENTS[name.removeprefix(SOFTWARE)]
        return Counter(name, position, _SOFTWARE, number)
    return Counter(name, abi.COUNTERS.index(name), _HARDWARE, _HARDWARE_EVENTS[name])


def _open(counter: Counter, cpu: int) -> int:
    """Open an event that counts everything on one CPU (perf_event_open(2))."""
    attr = struct.pack(
        "=IIQQQQ", counter.kind, _ATTR_BYTES, counter.number, 0, 0, _READ_FORMAT
    ).ljust(_ATTR_BYTES, b"\0")
    held = ctypes.create_string_buffer(attr, len(attr))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    number = NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    arguments = (number, ctypes.addressof(held), -1, cpu, -1, _CLOSE_ON_EXEC)
    fd = int(libc.syscall(*(ctypes.c_long(value) for value in arguments)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _why(exc: OSError) -> str:
    if exc.errno in _NOT_HERE:
        return "this machine does not have it (virtual machines rarely do)"
    return exc.strerror or str(exc)

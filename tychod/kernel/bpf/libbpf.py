"""libbpf.so.1 by ctypes: the few calls that loading takes, none of which calls back into Python.

Not ``libbpf_set_print``: a callback needs memory that is both writable and executable.  What
libbpf prints goes to descriptor 2, which is turned aside while it works.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from typing import TYPE_CHECKING, Final

from tychod.kernel.bpf.plan import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SONAME: Final = "libbpf.so.1"
INSTALL: Final = "install libbpf 1.0 or newer: libbpf1 on Debian and Ubuntu, libbpf on Fedora"

_BTF_KIND_DATASEC: Final = 15
_TYPE: Final = struct.Struct("=III")  # struct btf_type: name_off, info, size
_SECTION_VARIABLE: Final = struct.Struct("=III")  # struct btf_var_secinfo: type, offset, size
_VLEN_MASK: Final = 0xFFFF

_POINTER, _INT, _TEXT, _U32 = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32
_SIGNATURES: Final = (
    ("libbpf_major_version", _U32, ()),
    ("bpf_object__open_file", _POINTER, (_TEXT, _POINTER)),
    ("bpf_object__load", _INT, (_POINTER,)),
    ("bpf_object__close", None, (_POINTER,)),
    ("bpf_object__btf", _POINTER, (_POINTER,)),
    ("bpf_object__next_program", _POINTER, (_POINTER, _POINTER)),
    ("bpf_object__find_map_by_name", _POINTER, (_POINTER, _TEXT)),
    ("bpf_program__name", _TEXT, (_POINTER,)),
    ("bpf_program__section_name", _TEXT, (_POINTER,)),
    ("bpf_program__attach", _POINTER, (_POINTER,)),
    ("bpf_program__attach_raw_tracepoint", _POINTER, (_POINTER, _TEXT)),
    ("bpf_link__fd", _INT, (_POINTER,)),
    ("bpf_link__destroy", _INT, (_POINTER,)),
    ("bpf_map__fd", _INT, (_POINTER,)),
    ("bpf_map__set_max_entries", _INT, (_POINTER, _U32)),
    ("bpf_map__initial_value", _POINTER, (_POINTER, ctypes.POINTER(ctypes.c_size_t))),
    ("btf__find_by_name_kind", _INT, (_POINTER, _TEXT, _U32)),
    ("btf__type_by_id", _POINTER, (_POINTER, _U32)),
    ("btf__name_by_offset", _TEXT, (_POINTER, _U32)),
)


class Program:
    """One program of an object file."""

    def __init__(self, lib: ctypes.CDLL, pointer: int) -> None:
        self._lib = lib
        self._pointer = pointer
        self.name: Final[str] = lib.bpf_program__name(pointer).decode()

    def attach(self, tracepoint: str | None = None) -> int:
        """Attach it and return a descriptor of the link; OSError where the kernel refuses.

        Without a tracepoint it goes where the object file says.
        """
        ctypes.set_errno(0)
        if tracepoint is None:
            link = self._lib.bpf_program__attach(self._pointer)
        else:
            link = self._lib.bpf_program__attach_raw_tracepoint(self._pointer, tracepoint.encode())
        if not link:
            raise _last_error()
        try:
            return duplicate(self._lib.bpf_link__fd(link))
        finally:
            self._lib.bpf_link__destroy(link)  # ours keeps the kernel's link alive


class ObjectFile:
    """An opened object file: first settings, then ``load``, then descriptors."""

    def __init__(self, lib: ctypes.CDLL, path: str) -> None:
        self._lib = lib
        ctypes.set_errno(0)
        self._pointer = lib.bpf_object__open_file(os.fsencode(path), None)
        if not self._pointer:
            raise _last_error()

    def close(self) -> None:
        """Free it; descriptors that were handed out stay open.  A second call does nothing."""
        if self._pointer:
            self._lib.bpf_object__close(self._pointer)
            self._pointer = None

    def programs(self) -> list[Program]:
        """Return all programs, the optional ones too."""
        found = []
        pointer = self._lib.bpf_object__next_program(self._pointer, None)
        while pointer:
            found.append(Program(self._lib, pointer))
            pointer = self._lib.bpf_object__next_program(self._pointer, pointer)
        return found

    def resize(self, name: str, entries: int) -> None:
        """Set how many entries a map will have."""
        _checked(self._lib.bpf_map__set_max_entries(self._map(name), entries))

    def load(self) -> None:
        """Create the maps and give the programs to the kernel; OSError where it refuses."""
        _checked(self._lib.bpf_object__load(self._pointer))

    def map_fd(self, name: str) -> int:
        """Return a new descriptor of a map, after ``load``."""
        return duplicate(self._lib.bpf_map__fd(self._map(name)))

    def constants(self) -> memoryview:
        """Return the bytes of the programs' constants; what is written before ``load`` counts."""
        size = ctypes.c_size_t()
        at = self._lib.bpf_map__initial_value(self._map(".rodata"), ctypes.byref(size))
        return memoryview((ctypes.c_char * size.value).from_address(at)).cast("B")

    def constant_places(self) -> dict[str, tuple[int, int]]:
        """Return offset and size of each constant in ``constants``, by name (from the BTF)."""
        lib, btf = self._lib, self._lib.bpf_object__btf(self._pointer)
        section = lib.btf__find_by_name_kind(btf, b".rodata", _BTF_KIND_DATASEC)
        at = lib.btf__type_by_id(btf, section if section > 0 else 0)
        _, info, _ = _unpack(_TYPE, at)
        places = {}
        for index in range(info & _VLEN_MASK if section > 0 else 0):
            entry = at + _TYPE.size + index * _SECTION_VARIABLE.size
            variable, offset, size = _unpack(_SECTION_VARIABLE, entry)
            name, _, _ = _unpack(_TYPE, lib.btf__type_by_id(btf, variable))
            places[lib.btf__name_by_offset(btf, name).decode()] = (offset, size)
        return places

    def _map(self, name: str) -> int:
        found: int | None = self._lib.bpf_object__find_map_by_name(self._pointer, name.encode())
        if not found:
            raise KeyError(name)
        return found


def open_library() -> ctypes.CDLL:
    """Return libbpf with the signatures of what is used; LoadError where it is missing."""
    try:
        lib = ctypes.CDLL(SONAME, use_errno=True)
    except OSError as exc:
        raise LoadError(f"{SONAME} cannot be loaded: {exc}", INSTALL) from exc
    for name, result, arguments in _SIGNATURES:
        try:
            function = getattr(lib, name)
        except AttributeError as exc:
            raise LoadError(f"{SONAME} has no function {name}", INSTALL) from exc
        function.restype, function.argtypes = result, arguments
    if lib.libbpf_major_version() != 1:
        raise LoadError(f"{SONAME} is of version {lib.libbpf_major_version()}", INSTALL)
    return lib


@contextlib.contextmanager
def kept_stderr() -> Iterator[Callable[[], str]]:
    """Turn descriptor 2 of this process aside; yields a call that returns what was printed."""
    sys.stderr.flush()
    saved = duplicate(2)
    aside = os.memfd_create("stderr")
    os.dup2(aside, 2)
    try:
        yield lambda: os.pread(aside, os.fstat(aside).st_size, 0).decode(errors="replace")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(aside)


def duplicate(fd: int) -> int:
    """Return a second descriptor for the same thing, closed at exec."""
    return os.dup(fd)


def _checked(result: int) -> None:
    """Raise OSError for what libbpf returns as a negative errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _unpack(layout: struct.Struct, address: int) -> tuple[int, ...]:
    return layout.unpack(ctypes.string_at(address, layout.size))

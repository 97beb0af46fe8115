"""What goes from value to value of a sequence: numbers of values that were there before."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from tychod.schema import show

NAMES: Final = "surrogateescape"
"""How names of files that are not UTF-8 are kept; anybody may name a cgroup so."""
BIG_INT: Final = 1
"""Extension type: a whole number that msgpack has no form for, in decimal."""

Array = NDArray[Any]


class CodecError(ValueError):
    """Bytes that are not what they are said to be."""


class Coder(NamedTuple):
    """How values of one declared type are written and read."""

    write: Callable[[Any, "Writer"], bytes]
    read: Callable[[Any, "Reader"], Any]
    plain: frozenset[type] = frozenset()  # msgpack writes all of these by itself
    refers: bool = False  # holds classes, mappings or arrays, so equal bytes may differ in meaning


class Writer:
    """Writes values one after the other; ``canonical``: each for itself, mappings in order."""

    def __init__(self, *, canonical: bool = False) -> None:
        self.canonical: Final = canonical
        self._packer = msgpack.Packer(
            use_bin_type=True, unicode_errors=NAMES, default=_plain_number
        )
        self.pack: Callable[[object], bytes] = self._packer.pack
        self._by_id: dict[int, tuple[object, int]] = {}
        self._by_bytes: dict[tuple[str, bytes], int] = {}
        self._used: set[int] = set()
        self._count = 0
        self.arrays: dict[str, Array] = {}

    def header(self, length: int) -> bytes:
        """Return the start of a list."""
        packed: bytes = self._packer.pack_array_header(length)
        return packed

    def known(self, value: object) -> bytes | None:
        """Return the number of a value that was written before, packed; None for another."""
        found = self._by_id.get(id(value))
        if found is None:
            return None
        self._used.add(found[1])
        return self.pack(found[1])

    def define(self, value: object, body: bytes, name: str | None) -> bytes:
        """Give a value its number; ``name``: of its class, where equal bytes are equal values."""
        if self.canonical:
            return body
        number = self._by_bytes.get((name, body)) if name else None
        new = number is None
        if number is None:
            number = self._count
            self._count += 1
            if name:
                self._by_bytes[name, body] = number
        self._by_id[id(value)] = (value, number)
        self._used.add(number)
        return body if new else self.pack(number)

    def end(self) -> None:
        """End one value of the sequence: forget what it did not refer to."""
        used = self._used
        self._by_id = {key: entry for key, entry in self._by_id.items() if entry[1] in used}
        self._by_bytes = {key: number for key, number in self._by_bytes.items() if number in used}
        self._used = set()


class Reader:
    """Reads what one ``Writer`` wrote, in the same order."""

    def __init__(self) -> None:
        self._table: dict[int, tuple[object, object]] = {}
        self._used: set[int] = set()
        self._count = 0
        self.arrays: dict[str, Array] = {}

    def look_up(self, number: int, kind: object) -> object:
        """Return the value that has a number; raise where there is none or of another type."""
        owner, value = self._table.get(number, (None, None))
        if owner != kind:
            raise CodecError(f"refers to {show(number)}, which is not there")
        self._used.add(number)
        return value

    def define(self, kind: object, value: object) -> object:
        """Give a value its number and return it."""
        self._table[self._count] = (kind, value)
        self._used.add(self._count)
        self._count += 1
        return value

    def end(self) -> None:
        """End one value of the sequence: forget what it did not refer to."""
        self._table = {n: entry for n, entry in self._table.items() if n in self._used}
        self._used = set()


def _plain_number(value: Any) -> object:
    """Return what msgpack takes for a number that it does not."""
    if isinstance(value, int):
        return msgpack.ExtType(BIG_INT, str(value).encode())
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot write {show(value)}")


def as_list(plain: Any, length: int | None = None) -> list[Any]:
    """Return foreign data as the list that it has to be; raise ``CodecError`` for anything else."""
    if type(plain) is not list or (length is not None and len(plain) != length):
        raise CodecError(f"is {show(plain)}, not a list of {length or 'values'}")
    return plain

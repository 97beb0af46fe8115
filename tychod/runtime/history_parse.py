"""Frames of the history read back: what they hold, or ``DamagedError``; pure.

A frame can be sound and yet be of another shape, written by another version: whatever it holds, it
is either what is expected, to the type of each field, or damaged.
"""

import zlib
from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import msgpack

from tychod.runtime.history_records import (
    FORMAT,
    MOST_BYTES,
    Frame,
    Gone,
    Head,
    Life,
    Log,
    Node,
    Row,
    Totals,
    Who,
)

_NONE: Final = type(None)
_MISSHAPEN: Final = (TypeError, ValueError, LookupError, AttributeError)
_WHO_SHAPES: Final = frozenset(
    product((str,), (str,), (str,), *4 * [(str, _NONE)], (bool,), (str, _NONE))
)
"""The types of the fields of ``Who``."""
_ENERGY_SHAPES: Final = frozenset(product((int,), (int, _NONE), (int, _NONE)))


class DamagedError(Exception):
    """A frame is not what was written."""


class OtherFormatError(DamagedError):
    """What follows was written by another version, in another format."""


def read_frame(log: Log, found: Frame) -> Any:
    """Return what a frame holds; raise ``DamagedError`` or ``OSError``."""
    body = log.read(found.start, found.length)
    if zlib.crc32(body) != found.crc:
        raise DamagedError
    try:
        inflate = zlib.decompressobj()
        packed = inflate.decompress(body, MOST_BYTES)
        return msgpack.unpackb(
            packed,
            raw=False,
            use_list=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
        )
    except (zlib.error, ValueError, TypeError, msgpack.UnpackException) as exc:
        raise DamagedError from exc


def parse_head(plain: Any) -> Head:
    """Return what a HEAD says; raise ``DamagedError``."""
    if type(plain) is not tuple or len(plain) < 1:
        raise DamagedError
    if plain[0] != FORMAT:
        raise OtherFormatError
    if tuple(map(type, plain)) != (int, str, int, int):
        raise DamagedError
    return Head(Life(plain[1], plain[2]), plain[3])


def parse_gone(plain: Any) -> Gone:
    """Return what a GONE frame holds; raise ``DamagedError``."""
    try:
        domains, leaves, pods = plain
        width = _width(domains)
        rows = [tuple(_row(who, values, width) for who, values in x) for x in (leaves, pods)]
    except _MISSHAPEN as exc:
        raise DamagedError from exc
    return Gone(domains, *rows)


def rebuild(log: Log, chain: Sequence[Frame]) -> Totals:
    """Return the totals at the end of a FULL and the CHANGES after it.

    Raise ``DamagedError`` or ``OSError``.
    """
    try:
        return _rebuild(log, chain)
    except _MISSHAPEN as exc:
        raise DamagedError from exc


def _rebuild(log: Log, chain: Sequence[Frame]) -> Totals:
    domains, node, listed = read_frame(log, chain[0])
    who = {number: (key, told) for number, (key, told, _) in enumerate(listed)}
    values = {number: row[2] for number, row in enumerate(listed)}
    for each in chain[1:]:
        node, fresh, changed, gone = read_frame(log, each)
        values.update(changed)
        for number, key, told, found in fresh:
            who[number] = (key, told)
            values[number] = found
        for number in gone:
            values.pop(number, None)
    width = _width(domains)
    rows = {_text(who[n][0]): _row(who[n][1], found, width) for n, found in values.items()}
    return Totals(chain[-1].t_ns, chain[-1].offset_ns, domains, _node(node), rows)


def _text(plain: Any) -> str:
    if type(plain) is not str:
        raise DamagedError
    return plain


def _width(domains: Any) -> int:
    """Return how many values a row has."""
    if type(domains) is not tuple or any(type(name) is not str for name in domains):
        raise DamagedError
    return 1 + 2 * len(domains)


def _row(who: Any, values: Any, width: int) -> Row:
    if tuple(map(type, who)) not in _WHO_SHAPES or tuple(map(type, values)) != (int,) * width:
        raise DamagedError
    return Row(Who(*who), tuple(values))


def _node(plain: Any) -> Node:
    energy, residual_uj, cpu_ns, modelled_uj = plain
    for name, counted in energy.items():
        if type(name) is not str or tuple(map(type, counted)) not in _ENERGY_SHAPES:
            raise DamagedError
    if {type(cpu_ns), type(modelled_uj)} != {int} or type(residual_uj) not in (int, _NONE):
        raise DamagedError
    return Node(energy, residual_uj, cpu_ns, modelled_uj)

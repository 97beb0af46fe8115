"""Declared values <-> bytes, to the bit: dataclasses, named tuples and what may be in them.

What a field may hold is read from its annotation: int, float, str, bool, bytes, None, Literal,
unions of those or of one other type with None, tuples, sequences, sets, mappings, arrays of
numbers, and classes of such fields.  A ``Writer`` and a ``Reader`` go together through a sequence
of values: what was in the value before is written as its number, and an array of whole numbers as
its difference to the last one of the same field.  What a value does not refer to any more is
forgotten, so that neither grows.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgpack
import numpy as np

from tychod.codec.arrays import array_coder
from tychod.codec.stream import NAMES, CodecError, Coder, Reader, Writer, as_list
from tychod.schema import UNIONS, show

SCALARS: Final = (int, float, str, bool, bytes, type(None))
NIL: Final = b"\xc0"

Fields = Mapping[str, Sequence[str]]
"""Class name -> names of its fields, in the order of writing."""


class Codec:
    """Everything that can be reached from some types; ``fields``: as another version wrote them."""

    def __init__(self, *roots: type, fields: Fields | None = None) -> None:
        """Raise ``TypeError`` for a type that has no form, ``CodecError`` for unknown fields."""
        self._told = fields
        self._coders: dict[object, Coder] = {}
        self._fields: dict[str, tuple[str, ...]] = {}
        for root in roots:
            self._coder(root)
        if fields is not None:
            self._refuse_unknown(fields)

    @property
    def fields(self) -> Fields:
        """Names of the fields of every class, in the order in which this codec writes them."""
        return self._fields

    def write(self, cls: type, value: object, writer: Writer) -> bytes:
        """Return the next value of a sequence as bytes."""
        body = self._coders[cls].write(value, writer)
        writer.end()
        return body

    def read(self, cls: type, data: bytes, reader: Reader) -> Any:
        """Return the next value of a sequence; raise ``CodecError`` where it is none."""
        try:
            plain = msgpack.unpackb(data, raw=False, strict_map_key=True, unicode_errors=NAMES)
        except (ValueError, RecursionError, msgpack.UnpackException) as exc:
            raise CodecError(f"is not msgpack: {exc}") from exc
        value = self._coders[cls].read(plain, reader)
        reader.end()
        return value

    def canonical(self, cls: type, value: object) -> bytes:
        """Return the bytes that equal values share, whatever the order of their mappings."""
        return self._coders[cls].write(value, Writer(canonical=True))

    def _refuse_unknown(self, told: Fields) -> None:
        new = [
            f"{name}.{field}"
            for name, names in told.items()
            for field in names
            if field not in self._fields.get(name, ())
        ]
        if new:
            raise CodecError(f"has {', '.join(new)}, which this version does not know")

    def _coder(self, hint: Any, place: str = "") -> Coder:
        """Return the coder of a type; ``place`` is the field that an array belongs to."""
        key = (hint, place) if get_origin(hint) is np.ndarray else hint
        if key not in self._coders:
            self._coders[key] = self._make(hint, place)
        return self._coders[key]

    def _make(self, hint: Any, place: str) -> Coder:
        origin, args = get_origin(hint), get_args(hint)
        if hint in SCALARS:
            return _scalar_coder(frozenset({hint}))
        if origin is Literal:
            return _choice_coder(args)
        if origin in UNIONS:
            return self._union(args, place)
        if origin is np.ndarray:
            return array_coder(place)
        if isinstance(origin, type):
            return self._many(hint, origin, args, place)
        if isinstance(hint, type) and (hasattr(hint, "_fields") or dataclasses.is_dataclass(hint)):
            return self._class(hint)
        raise TypeError(f"{place}: values of type {hint!r} have no form in a recording")

    def _union(self, args: tuple[Any, ...], place: str) -> Coder:
        others = [arg for arg in args if arg is not type(None)]
        coders = [self._coder(arg, place) for arg in others]
        none = frozenset({type(None)} if len(others) < len(args) else ())
        if len(coders) > 1:
            if not all(coder.plain for coder in coders):
                raise TypeError(f"{place}: which of {others} a value is cannot be told")
            return _scalar_coder(none.union(*(coder.plain for coder in coders)))
        (inner,) = coders
        return inner._replace(
            write=lambda value, writer: NIL if value is None else inner.write(value, writer),
            read=lambda plain, reader: None if plain is None else inner.read(plain, reader),
            plain=inner.plain | none if inner.plain else inner.plain,
        )

    def _many(self, hint: object, origin: type, args: tuple[Any, ...], place: str) -> Coder:
        if origin is tuple and args[-1:] != (...,):
            return _row_coder([self._coder(arg, place) for arg in args])
        if issubclass(origin, Mapping):
            return _mapping_coder(hint, *(self._coder(arg, place) for arg in args))
        if issubclass(origin, Set | Sequence):
            return _list_coder(origin, self._coder(args[0], place))
        raise TypeError(f"{place}: values of type {hint!r} have no form in a recording")

    def _class(self, cls: Any) -> Coder:
        name, hints = cls.__name__, get_type_hints(cls)
        own = tuple(getattr(cls, "_fields", None) or (f.name for f in dataclasses.fields(cls)))
        if name in self._fields:
            raise TypeError(f"two classes are named {name}")
        self._fields[name] = own
        told = own if self._told is None else tuple(self._told.get(name, ()))
        coders = [
            self._coder(hints[n], f"{name}.{n}") if n in hints else _scalar_coder(frozenset())
            for n in told
        ]
        refers = any(coder.refers for coder in coders)
        shared = None if refers else name

        def write(value: Any, writer: Writer) -> bytes:
            if (number := writer.known(value)) is not None:
                return number
            parts = [c.write(getattr(value, n), writer) for c, n in zip(coders, told, strict=True)]
            return writer.define(value, writer.header(len(parts)) + b"".join(parts), shared)

        def read(plain: Any, reader: Reader) -> object:
            if type(plain) is int:
                return reader.look_up(plain, cls)
            entries = zip(told, coders, as_list(plain, len(told)), strict=True)
            values = {n: _read_field(f"{name}.{n}", c, entry, reader) for n, c, entry in entries}
            return reader.define(cls, _build(cls, values))

        return Coder(write, read, refers=True)


def _read_field(place: str, coder: Coder, plain: object, reader: Reader) -> object:
    try:
        return coder.read(plain, reader)
    except CodecError as exc:
        told = str(exc)
        raise CodecError(told if "." in told.partition(" ")[0] else f"{place} {told}") from None


def _build(cls: Any, values: dict[str, object]) -> object:
    try:
        return cls(**values)
    except TypeError as exc:  # a field that an older version did not write has no default
        raise CodecError(f"{cls.__name__} is incomplete: {exc}") from exc


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        raise CodecError(f"has {show(value)} as a key") from None
    return value


def _scalar_coder(kinds: frozenset[type]) -> Coder:
    """Return the coder of numbers, strings and None; a float may be written as a whole number."""
    allowed = kinds | {int} if float in kinds else kinds

    def read(plain: Any, _: Reader) -> object:
        if isinstance(plain, msgpack.ExtType) and int in allowed:
            return _big_int(plain)
        if type(plain) not in allowed:
            raise CodecError(f"is {show(plain)}, not {' or '.join(k.__name__ for k in kinds)}")
        return plain

    return Coder(lambda value, writer: writer.pack(value), read, kinds)


def _big_int(plain: Any) -> int:
    try:
        return int(plain.data)
    except ValueError:
        raise CodecError(f"is {show(plain)}, not a number") from None


def _choice_coder(choices: tuple[object, ...]) -> Coder:
    kinds = frozenset(type(choice) for choice in choices)

    def read(plain: Any, _: Reader) -> object:
        if not any(plain == choice and type(plain) is type(choice) for choice in choices):
            raise CodecError(f"is {show(plain)}, not one of {', '.join(map(repr, choices))}")
        return plain

    return Coder(lambda value, writer: writer.pack(value), read, kinds)


def _mapping_coder(hint: object, keys: Coder, values: Coder) -> Coder:
    """Return the coder of mappings; their order is kept: a sum may depend on it."""
    refers = not (keys.plain and values.plain)

    def write(mapping: Mapping[Any, Any], writer: Writer) -> bytes:
        number = writer.known(mapping) if refers else None
        if number is not None:
            return number
        pairs = [keys.write(k, writer) + values.write(v, writer) for k, v in mapping.items()]
        if writer.canonical:
            pairs.sort()
        body = writer.header(2 * len(pairs)) + b"".join(pairs)
        return writer.define(mapping, body, None) if refers else body

    def read(plain: Any, reader: Reader) -> object:
        if refers and type(plain) is int:
            return reader.look_up(plain, hint)
        entries = as_list(plain)
        if len(entries) % 2:
            raise CodecError("has a key without a value")
        pairs = zip(entries[::2], entries[1::2], strict=True)
        made = {_hashable(keys.read(k, reader)): values.read(v, reader) for k, v in pairs}
        return reader.define(hint, made) if refers else made

    return Coder(write, read, refers=refers)


def _list_coder(origin: type, inner: Coder) -> Coder:
    """Return the coder of any number of values of one type; those of a set are put in order."""
    is_set = issubclass(origin, Set)
    made: Any = frozenset if is_set else list if origin is list else tuple

    def write(value: Iterable[Any], writer: Writer) -> bytes:
        if inner.plain and not is_set:
            return writer.pack(list(value))
        parts = [inner.write(entry, writer) for entry in value]
        if is_set:
            parts.sort()
        return writer.header(len(parts)) + b"".join(parts)

    def read(plain: Any, reader: Reader) -> Any:
        found = (inner.read(entry, reader) for entry in as_list(plain))
        return made(map(_hashable, found) if is_set else found)

    return Coder(write, read, refers=inner.refers)


def _row_coder(coders: Sequence[Coder]) -> Coder:
    """Return the coder of tuples of a fixed length."""

    def write(value: Iterable[Any], writer: Writer) -> bytes:
        parts = [c.write(entry, writer) for c, entry in zip(coders, value, strict=True)]
        return writer.header(len(parts)) + b"".join(parts)

    def read(plain: Any, reader: Reader) -> Any:
        entries = as_list(plain, len(coders))
        return tuple(c.read(entry, reader) for c, entry in zip(coders, entries, strict=True))

    return Coder(write, read, refers=any(c.refers for c in coders))

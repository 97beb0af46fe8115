"""Plain data <-> frozen dataclasses, with the path of every error.

A settings or message type is a frozen dataclass whose fields are annotated with
``Annotated[type, Doc(...), Range(...)]``.  From that one statement come the strict
loader, the generated default file, the manual's table and the JSON form.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

TYPE_NAMES: Final[Mapping[object, str]] = types.MappingProxyType(
    {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
)
# `bool | Literal["auto"]` makes the one before Python 3.14, `float | None` the other.
UNIONS: Final = (types.UnionType, Union)


class Doc(NamedTuple):
    """One line for the manual, the generated default file and error messages."""

    text: str


class Range(NamedTuple):
    """Inclusive limits of a number."""

    low: float
    high: float


class Restart(NamedTuple):
    """Marks a setting that a reload cannot change."""


class Dataclass(Protocol):
    """Any dataclass type or instance."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=Dataclass)


class FieldSpec(NamedTuple):
    """What one field declares; ``type`` is the annotation without its metadata."""

    name: str
    type: object
    doc: str
    limits: Range | None
    restart: bool
    default: object


class Problem(NamedTuple):
    """One thing wrong in foreign data: where (key path) and what, with the remedy."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def fields_of(cls: type[Dataclass]) -> tuple[FieldSpec, ...]:
    """Return the declared fields of a dataclass, in order of declaration."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(_field_spec(f, hints[f.name]) for f in dataclasses.fields(cls))


def _field_spec(field: dataclasses.Field[Any], hint: object) -> FieldSpec:
    extras: tuple[object, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(rest)
    doc = next((x.text for x in extras if isinstance(x, Doc)), "")
    limits = next((x for x in extras if isinstance(x, Range)), None)
    restart = any(isinstance(x, Restart) for x in extras)
    return FieldSpec(field.name, hint, doc, limits, restart, _default_of(field))


def _default_of(field: dataclasses.Field[Any]) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING


def check_value(value: object, hint: object, limits: Range | None = None) -> tuple[object, str]:
    """Return ``(value, "")``, the value normalised to ``hint``, or ``(None, message)``."""
    if get_origin(hint) in UNIONS:
        return _check_union(value, hint, limits)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if any(value == c and type(value) is type(c) for c in choices):
            return value, ""
        return None, f"{show(value)} is not one of {', '.join(map(repr, choices))}"
    if get_origin(hint) is tuple:
        return _check_list(value, get_args(hint)[0])
    return _check_scalar(value, hint, limits)


def _check_union(value: object, hint: object, limits: Range | None) -> tuple[object, str]:
    for part in get_args(hint):
        if part is type(None):
            if value is None:
                return None, ""
            continue
        checked, message = check_value(value, part, limits)
        if not message:
            return checked, ""
        if type(value) is part or (part is float and type(value) is int):
            return None, message  # the right kind but out of range: say that, not the list
    return None, f"expected {describe(hint)}, got {show(value)}"


def _check_list(value: object, item: object) -> tuple[object, str]:
    if not isinstance(value, list | tuple):
        return None, f"expected a list, got {show(value)}"
    items = []
    for index, entry in enumerate(value):
        checked, message = check_value(entry, item)
        if message:
            return None, f"item {index + 1}: {message}"
        items.append(checked)
    return tuple(items), ""


def _check_scalar(value: object, hint: object, limits: Range | None) -> tuple[object, str]:
    if hint not in TYPE_NAMES:
        raise TypeError(f"schema does not know the type {hint!r}")
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else math.inf  # a huge int does not convert
    if type(value) is not hint:
        return None, f"expected {describe(hint)}, got {show(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return None, f"{value} is not a finite number"
    if limits and isinstance(value, int | float) and not limits.low <= value <= limits.high:
        return None, f"{show(value)} is not within {limits.low:.10g}..{limits.high:.10g}"
    return value, ""


def show(value: object) -> str:
    """Return foreign data for a message: one line, short, whatever its size or depth."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxlong, brief.maxother = 2, 80, 40, 80
    try:
        text = brief.repr(value)
        return text if len(text) <= 120 else text[:117] + "..."
    except ValueError:  # more digits than Python converts (sys.set_int_max_str_digits)
        return "a number of thousands of digits"


def describe(hint: object) -> str:
    """Return the words for a type that a person reads in the manual or an error."""
    *others, last = _alternatives(hint)
    return f"{', '.join(others)} or {last}" if others else last


def _alternatives(hint: object) -> list[str]:
    if get_origin(hint) in UNIONS:
        return [words for part in get_args(hint) for words in _alternatives(part)]
    if get_origin(hint) is Literal:
        return [f'"{c}"' if isinstance(c, str) else repr(c) for c in get_args(hint)]
    if get_origin(hint) is tuple:
        return ["a list of strings" if get_args(hint)[0] is str else "a list"]
    if hint is bool:
        return ["true", "false"]
    return ["null" if hint is type(None) else TYPE_NAMES.get(hint, repr(hint))]


def unknown_key(key: str, known: Iterable[str], what: str = "setting") -> str:
    """Return the message for a key nobody declared, with the nearest declared name."""
    near = difflib.get_close_matches(key.lower(), list(known), n=1, cutoff=0.5)
    return f"unknown {what}; did you mean '{near[0]}'?" if near else f"unknown {what}"


def load(cls: type[T], data: object, path: str = "") -> tuple[T | None, list[Problem]]:
    """Build ``cls`` from plain data; every problem is reported, none stops the others.

    Unknown keys, missing fields without default, wrong types and values out of range
    are problems.  The first item is None when there is any.
    """
    if not isinstance(data, Mapping):
        return None, [Problem(path or "top level", f"expected a table, got {show(data)}")]
    specs = {spec.name: spec for spec in fields_of(cls)}
    problems = [
        Problem(
            _join(path, _name(key)),
            unknown_key(str(key), specs, "section" if isinstance(entry, Mapping) else "setting"),
        )
        for key, entry in data.items()
        if key not in specs
    ]
    values: dict[str, Any] = {}
    for name, spec in specs.items():
        if name in data:
            value, found = _load_field(spec, data[name], _join(path, name))
            problems += found
            values[name] = value
        elif spec.default is dataclasses.MISSING:
            problems.append(Problem(_join(path, name), "is missing"))
    return (None, problems) if problems else (cls(**values), [])


def _load_field(spec: FieldSpec, value: object, path: str) -> tuple[object, list[Problem]]:
    if isinstance(spec.type, type) and dataclasses.is_dataclass(spec.type):
        return load(spec.type, value, path)
    checked, message = check_value(value, spec.type, spec.limits)
    return checked, [Problem(path, message)] if message else []


def _name(key: object) -> str:
    """Return a foreign key as it may stand in a one-line message."""
    plain = isinstance(key, str) and key.isprintable() and len(key) <= 80
    return str(key) if plain else show(key)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def to_plain(value: object) -> object:
    """Return dataclasses as dicts and tuples as lists, deeply: the form for JSON and msgpack."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    return value


def walk(cls: type[Dataclass], path: str = "") -> Iterator[tuple[str, FieldSpec]]:
    """Yield ``(dotted path, field)`` of every leaf setting below a dataclass type."""
    for spec in fields_of(cls):
        if isinstance(spec.type, type) and dataclasses.is_dataclass(spec.type):
            yield from walk(spec.type, _join(path, spec.name))
        else:
            yield _join(path, spec.name), spec

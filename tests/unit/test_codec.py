"""Declared values as bytes: back to the bit, whatever is in them; anything else is refused."""

import dataclasses
import random
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tychod.analysis.state import Observations, Params, State
from tychod.codec.declared import Codec
from tychod.codec.stream import CodecError, Reader, Writer
from tychod.model import Snapshot, Window
from tychod.schema import UNIONS

ROOTS: tuple[type, ...] = (Window, Observations, State, Params, Snapshot)
CODEC = Codec(*ROOTS)


def make(hint: Any, rng: random.Random) -> Any:
    """Return a random value of a declared type: a new kind of field needs a line here, too."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return make(rng.choice(args), rng)
    if origin is Literal:
        return rng.choice(args)
    if origin is np.ndarray:
        return make_array(np.dtype(get_args(args[1])[0]), rng)
    if origin is tuple and args[-1] is not ...:
        return tuple(make(arg, rng) for arg in args)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        keys = [make(args[0], rng) for _ in range(rng.randrange(4))]
        return {key: make(args[1], rng) for key in keys}
    if origin is not None:
        values = [make(args[0], rng) for _ in range(rng.randrange(4))]
        return frozenset(values) if issubclass(origin, Set) else tuple(values)
    if hasattr(hint, "_fields") or dataclasses.is_dataclass(hint):
        return hint(**{name: make(h, rng) for name, h in get_type_hints(hint).items()})
    return {
        int: lambda: rng.choice([0, -1, 7, rng.getrandbits(62), -(2**63), 2**64 - 1, 3**90]),
        float: lambda: rng.choice([0.0, -0.0, 0, 0.1, 1e300, float("inf"), rng.random()]),
        str: lambda: rng.choice(["", "größe", "\udcff.scope", "a" * 300]),
        bool: lambda: rng.random() < 0.5,
        bytes: lambda: rng.randbytes(3),
        type(None): lambda: None,
    }[hint]()


def make_array(dtype: np.dtype[Any], rng: random.Random) -> NDArray[Any]:
    """Return an array of some shape and layout with numbers that use all their bits."""
    shape = tuple(rng.randrange(4) for _ in range(rng.randrange(1, 4)))
    count = int(np.prod(shape)) * dtype.itemsize
    data = (
        bytes(rng.randrange(2) for _ in range(count)) if dtype.kind == "b" else rng.randbytes(count)
    )
    return np.frombuffer(data, dtype).reshape(shape).copy(rng.choice("CF"))


def alike(a: Any, b: Any) -> bool:
    """Say whether two values are the same to the bit, types and order included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        same_layout = a.flags.c_contiguous == b.flags.c_contiguous or a.size < 2
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) and same_layout
    if dataclasses.is_dataclass(a):
        return all(alike(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        a, b = list(a.items()), list(b.items())
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(alike, a, b))
    return bool(repr(a) == repr(b)) if isinstance(a, float) else bool(a == b)


@given(st.integers(0, 2**32), st.sampled_from(ROOTS))
def test_every_declared_value_comes_back_to_the_bit(seed: int, cls: type) -> None:
    """All that analysis is given, keeps and says can be recorded; new fields fail here at once."""
    rng = random.Random(seed)
    writer, reader = Writer(), Reader()
    before = make(cls, rng)
    values = [before, make(cls, rng), before, before]

    for value in values:
        assert alike(CODEC.read(cls, CODEC.write(cls, value, writer), reader), value)


class Point(NamedTuple):
    """A small value."""

    name: str
    x: int | None = None


@dataclass(frozen=True)
class Thing:
    """A value with one of everything that is worth sharing."""

    point: Point
    numbers: NDArray[np.int64]
    table: Mapping[int, Point] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)


THING = Thing(
    Point("a" * 50, 1),
    np.arange(1000, dtype=np.int64) ** 3,
    {n: Point(f"point {n}") for n in range(100)},
)


def sizes(*values: Thing) -> list[int]:
    """Return the bytes of each of a sequence of values, each read back and compared."""
    codec, writer, reader = Codec(Thing), Writer(), Reader()
    written = [codec.write(Thing, value, writer) for value in values]
    for value, data in zip(values, written, strict=True):
        assert alike(codec.read(Thing, data, reader), value)
    return [len(data) for data in written]


def test_what_was_there_before_is_a_number() -> None:
    """Equal small values and the same large ones are written once; what changed is written anew."""
    other = replace(THING, table={**THING.table, 7: Point("new")})
    equal = replace(THING, table={n: Point(f"point {n}") for n in range(100)})

    assert sizes(THING, THING)[1] < 10
    first, changed, again = sizes(THING, other, equal)
    shared = 8 * 1000 + 100 * len("point 10")
    assert changed < first - shared
    assert again < first - shared


def test_what_is_not_referred_to_is_forgotten() -> None:
    """A sequence of any length needs the memory of two values, on both sides."""
    codec, writer, reader = Codec(Thing), Writer(), Reader()
    for n in range(50):
        table = {k: Point(f"point {k}") for k in range(n, n + 5)}
        data = codec.write(Thing, Thing(Point(str(n)), np.zeros(3, np.int64), table), writer)
        codec.read(Thing, data, reader)

    assert len(writer._by_id) < 20
    assert len(writer._by_bytes) < 20
    assert len(reader._table) < 20


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6), max_size=6))
def test_differences_of_arrays_never_lose_a_bit(rows: list[list[int]]) -> None:
    """Arrays grow, shrink and run over: the sum of all differences is the array."""
    sizes(*(Thing(Point(""), np.array(row, np.int64)) for row in rows))


def test_equal_values_have_one_canonical_form() -> None:
    """The order of mappings and shared objects do not show; one unit in the last place does."""
    codec = Codec(Thing)
    shuffled = replace(THING, table=dict(reversed(THING.table.items())))
    other = replace(THING, numbers=THING.numbers + (THING.numbers == 0))

    assert codec.canonical(Thing, THING) == codec.canonical(Thing, shuffled)
    assert codec.canonical(Thing, THING) != codec.canonical(Thing, other)


BROKEN: list[tuple[str, Any, str]] = [
    ("no list", 7, "refers to 7"),
    ("short", [["a", 1], 2], "not a list of 4"),
    ("text", "abc", "not a list"),
    ("wrong type", [["a", 1.5], [], [], []], r"Point.x is 1.5, not"),
    ("true is no number", [["a", True], [], [], []], "Point.x is True"),
    ("key without value", [["a", 1], ["<i8", [0], False, False, b""], [1], []], "Thing.table has"),
    ("no reference", [["a", 1], ["<i8", [0], False, False, b""], [1, 99], []], "refers to 99"),
    ("array of objects", [["a", 1], ["|O", [1], False, False, b"12345678"], [], []], "array of"),
    ("array of nothing", [["a", 1], ["zz", [1], False, False, b"1"], [], []], "array of 'zz'"),
    ("array too short", [["a", 1], ["<i8", [2], False, False, b"12345678"], [], []], "8 bytes"),
    ("negative", [["a", 1], ["<i8", [-1, -1], False, False, b"12345678"], [], []], "the shape"),
    ("huge", [["a", 1], ["<i8", [2**40], False, True, b""], [], []], "0 bytes for the shape"),
]


@pytest.mark.parametrize(
    ("plain", "told"), [row[1:] for row in BROKEN], ids=[name for name, *_ in BROKEN]
)
def test_what_is_no_value_is_refused(plain: object, told: str) -> None:
    """Foreign bytes are refused with what is wrong with them; nothing is allocated for them."""
    with pytest.raises(CodecError, match=told):
        Codec(Thing).read(Thing, msgpack.packb(plain), Reader())


@given(st.binary(max_size=60), st.integers(0, 400))
def test_no_bytes_are_a_fault(noise: bytes, place: int) -> None:
    """Whatever the bytes: a value or a refusal, nothing else."""
    codec = Codec(Thing)
    data = codec.write(Thing, replace(THING, numbers=THING.numbers[:3], table={}), Writer())
    for bad in (noise, data[:place] + noise + data[place + len(noise) :]):
        try:
            codec.read(Thing, bad, Reader())
        except CodecError:
            continue


def test_fields_of_other_versions() -> None:
    """A field more is refused by name; one less has its default, or is named where it has none."""
    more = Codec(Thing).fields
    data = Codec(Thing).write(Thing, THING, Writer())
    without = Codec(Thing, fields={**more, "Thing": ["point", "numbers"]})
    lacking = Codec(Thing, fields={**more, "Thing": ["point"]})
    short = msgpack.packb(msgpack.unpackb(data)[:2])

    with pytest.raises(CodecError, match=r"has Thing\.colour, Other\.x, which this version does"):
        Codec(Thing, fields={**more, "Thing": [*more["Thing"], "colour"], "Other": ["x"]})
    assert alike(without.read(Thing, short, Reader()), replace(THING, table={}))
    with pytest.raises(CodecError, match=r"Thing is incomplete: .*numbers"):
        lacking.read(Thing, msgpack.packb([["a", 1]]), Reader())


class Vague(NamedTuple):
    """What cannot be told apart."""

    value: Point | Thing


class Anything(NamedTuple):
    """What may be anything."""

    value: object


@pytest.mark.parametrize("cls", [Vague, Anything])
def test_a_type_without_a_form_is_refused_at_once(cls: type) -> None:
    """Who declares such a field learns of it from the first test, not from a user's recording."""
    with pytest.raises(TypeError, match=cls.__name__):
        Codec(cls)

"""The schema: plain data in, a frozen dataclass or every problem out."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod.schema import (
    Doc,
    Range,
    Restart,
    check_value,
    describe,
    fields_of,
    load,
    show,
    to_plain,
    walk,
)

Mode = bool | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Inner:
    """A section."""

    rate: Annotated[float, Range(0.5, 10.0), Doc("Readings a second.")] = 1.0
    mode: Annotated[Mode, Restart(), Doc("Whether to read.")] = "auto"
    names: Annotated[tuple[str, ...], Doc("Which to read.")] = ()
    count: Annotated[int, Range(0, 5)] = 0
    limit: Annotated[float | None, Range(1.0, 2.0)] = None
    level: Literal["low", "high"] = "low"


@dataclass(frozen=True, slots=True)
class Outer:
    """Two sections, one of them with a field that must be given."""

    must: Annotated[str, Doc("No default.")]
    inner: Inner = field(default_factory=Inner)


def problems_of(**values: object) -> list[str]:
    """Return the problems that loading these values below `inner` finds."""
    return [str(problem) for problem in load(Outer, {"must": "x", "inner": values})[1]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Inner()),
        ({"rate": 2}, Inner(rate=2.0)),
        ({"mode": True}, Inner(mode=True)),
        ({"mode": "auto"}, Inner(mode="auto")),
        ({"names": ["a", "b"]}, Inner(names=("a", "b"))),
        ({"limit": 1}, Inner(limit=1.0)),
        ({"limit": None}, Inner(limit=None)),
        ({"level": "high", "count": 5, "rate": 10.0}, Inner(level="high", count=5, rate=10.0)),
    ],
)
def test_good_values_load(values: dict[str, object], expected: Inner) -> None:
    """What fits the declaration loads; a whole number stands for a number, a list for a tuple."""
    assert load(Inner, values) == (expected, [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0.4}, "inner.rate: 0.4 is not within 0.5..10"),
        ({"rate": "1"}, "inner.rate: expected a number, got '1'"),
        ({"rate": True}, "inner.rate: expected a number, got True"),
        ({"rate": math.nan}, "inner.rate: nan is not a finite number"),
        ({"rate": 10**400}, "inner.rate: inf is not a finite number"),
        ({"count": 6}, "inner.count: 6 is not within 0..5"),
        ({"count": 1.0}, "inner.count: expected a whole number, got 1.0"),
        ({"count": False}, "inner.count: expected a whole number, got False"),
        ({"mode": "yes"}, "inner.mode: expected true, false or \"auto\", got 'yes'"),
        ({"mode": 1}, 'inner.mode: expected true, false or "auto", got 1'),
        ({"names": "a"}, "inner.names: expected a list, got 'a'"),
        ({"names": ["a", 1]}, "inner.names: item 2: expected a string, got 1"),
        ({"limit": 3}, "inner.limit: 3.0 is not within 1..2"),
        ({"limit": 3.5}, "inner.limit: 3.5 is not within 1..2"),
        ({"limit": "x"}, "inner.limit: expected a number or null, got 'x'"),
        ({"level": "middle"}, "inner.level: 'middle' is not one of 'low', 'high'"),
        ({"rat": 1.0}, "inner.rat: unknown setting; did you mean 'rate'?"),
        ({"RATE": 1.0}, "inner.RATE: unknown setting; did you mean 'rate'?"),
        ({"zzzzzz": 1.0}, "inner.zzzzzz: unknown setting"),
        ({"a\nb": 1.0}, "inner.'a\\nb': unknown setting"),
    ],
)
def test_bad_values_are_named(values: dict[str, object], message: str) -> None:
    """A problem says where, what was found, and what would fit."""
    assert problems_of(**values) == [message]


def test_all_problems_at_once() -> None:
    """A problem does not hide another one, on whatever level."""
    _, problems = load(Outer, {"inner": {"rate": 0, "count": 9, "mod": 1}, "iner": {}, "x": 0})

    assert sorted(str(problem) for problem in problems) == [
        "iner: unknown section; did you mean 'inner'?",
        "inner.count: 9 is not within 0..5",
        "inner.mod: unknown setting; did you mean 'mode'?",
        "inner.rate: 0.0 is not within 0.5..10",
        "must: is missing",
        "x: unknown setting",
    ]


@pytest.mark.parametrize("data", [None, 3, "x", [], [("must", "x")]])
def test_what_is_no_table_is_one_problem(data: object) -> None:
    """Anything but a map is refused whole."""
    value, problems = load(Outer, data)

    assert value is None
    assert [problem.path for problem in problems] == ["top level"]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["must", "inner", "other\x00"]) | st.text(), PLAIN))
def test_foreign_data_never_raises(data: dict[str, object]) -> None:
    """Whatever arrives, the outcome is a value or problems of one short line each."""
    value, problems = load(Outer, data)

    assert (value is None) == bool(problems)
    for problem in problems:
        assert str(problem).isprintable()
        assert len(str(problem)) < 300


@given(
    st.builds(
        Inner,
        rate=st.floats(0.5, 10.0),
        mode=st.sampled_from([True, False, "auto"]),
        names=st.lists(st.text()).map(tuple),
        count=st.integers(0, 5),
        limit=st.none() | st.floats(1.0, 2.0),
        level=st.sampled_from(["low", "high"]),
    )
)
def test_what_is_written_loads_again(inner: Inner) -> None:
    """The plain form holds everything."""
    outer = Outer("m", inner)

    assert load(Outer, to_plain(outer)) == (outer, [])


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), "x" * 10_000, [[[[[[[0]]]]]]] * 500, b"\xff\n" * 99, 1e300],
    ids=["huge", "huge and negative", "long", "deep", "bytes", "float"],
)
def test_show_is_short(value: object) -> None:
    """A message stays a line, whatever the size of what it quotes."""
    text = show(value)

    assert len(text) < 200
    assert "\n" not in text


def test_show_survives_depth() -> None:
    """A value nested a hundred thousand deep is shown, not followed."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]

    assert len(show(value)) < 200

    while value:  # taken apart here: freeing it in one go would recurse as well
        value = value.pop()


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (float, "a number"),
        (Mode, 'true, false or "auto"'),
        (float | None, "a number or null"),
        (Literal["a", "b", "c"], '"a", "b" or "c"'),
        (Literal[1, 2], "1 or 2"),
        (tuple[str, ...], "a list of strings"),
        (tuple[int, ...], "a list"),
    ],
)
def test_types_have_words(hint: object, words: str) -> None:
    """The manual and the messages use the same plain words for a type."""
    assert describe(hint) == words


def test_an_undeclared_kind_of_type_is_a_fault_of_ours() -> None:
    """A declaration the schema cannot check is found at once, not ignored."""
    with pytest.raises(TypeError, match="does not know the type"):
        check_value(b"", bytes)


def test_fields_carry_their_declaration() -> None:
    """Document, range and mark come from the annotation."""
    mode = next(spec for spec in fields_of(Inner) if spec.name == "mode")
    rate = next(spec for spec in fields_of(Inner) if spec.name == "rate")

    assert (mode.doc, mode.restart, mode.default) == ("Whether to read.", True, "auto")
    assert (rate.limits, rate.restart, rate.type) == (Range(0.5, 10.0), False, float)


def test_walk_names_every_leaf() -> None:
    """Settings are found by dotted path, in order of declaration."""
    assert [path for path, _ in walk(Outer)] == [
        "must",
        *(f"inner.{name}" for name in ("rate", "mode", "names", "count", "limit", "level")),
    ]

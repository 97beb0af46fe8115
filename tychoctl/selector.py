"""Label selectors, with the grammar and the meaning that they have in Kubernetes; pure.

Equality (`key=value`, `key==value`, `key!=value`), sets (`key in (a,b)`, `key notin (a,b)`),
presence (`key`, `!key`) and whole numbers (`key>5`, `key<5`), joined by commas that mean "and":
apimachinery, pkg/labels/selector.go.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

from tychoctl.view import Selector

EXAMPLE: Final = "for example app=web,tier in (front,back),!old"
TOKEN: Final = re.compile(r"[ \t\r\n]*(?:(==|!=|[=!(),<>])|([^ \t\r\n=!(),<>]+))")
NAME: Final = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
KEY: Final = re.compile(
    r"(?:(?=.{1,253}/)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*/)?"
    + NAME
)
VALUE: Final = re.compile(f"(?:{NAME})?")
WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
OPERATORS: Final[Mapping[str, str]] = {
    "=": "in",
    "==": "in",
    "!=": "notin",
    "in": "in",
    "notin": "notin",
    ">": ">",
    "<": "<",
}
LONGEST: Final = 10_000
MOST_SHOWN: Final = 60


class SelectorError(Exception):
    """The text is no selector; the message says what was expected, with an example."""


class Requirement(NamedTuple):
    """One condition on one label."""

    key: str
    operator: str  # in, notin, exists, absent, > or <
    values: frozenset[str] = frozenset()


def parse_selector(text: str) -> Selector:
    """Return what tells whether labels fit; raise ``SelectorError`` with what was expected."""
    return partial(_fits, parse_requirements(text))


def parse_requirements(text: str) -> tuple[Requirement, ...]:
    """Return the conditions of a selector; an empty one has none and fits everything."""
    if len(text) > LONGEST:
        raise SelectorError(f"a selector of {len(text)} characters; at most {LONGEST} are taken")
    tokens = _Tokens(text)
    if tokens.peek() is None:
        return ()
    found = [_parse_requirement(tokens)]
    while tokens.peek() is not None:
        tokens.take(",", expected="a comma or the end")
        found.append(_parse_requirement(tokens))
    return tuple(found)


class _Tokens:
    """The words and signs of a selector, taken one by one."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self._next: str | None = None
        self.pop()

    def peek(self) -> str | None:
        """Return the next one and leave it; None at the end."""
        return self._next

    def take(self, *wanted: str, expected: str) -> str:
        """Return the next one, which has to be one of these."""
        if self._next not in wanted:
            raise self.wrong(expected)
        return self.pop()

    def take_word(self, pattern: re.Pattern[str], expected: str) -> str:
        """Return the next one, which has to be a word of this form."""
        if self._next is None or self._next[0] in "=!(),<>" or not pattern.fullmatch(self._next):
            raise self.wrong(expected)
        return self.pop()

    def pop(self) -> str:
        """Return the next one, whatever it is."""
        taken = self._next or ""
        found = TOKEN.match(self._text, self._end)
        self._next = (found[1] or found[2]) if found else None
        self._end = found.end() if found else len(self._text)
        return taken

    def wrong(self, expected: str) -> SelectorError:
        """Return the error that something else was expected here."""
        found = "the end" if self._next is None else repr(_short(self._next))
        return SelectorError(
            f"{_short(self._text)!r}: expected {expected}, found {found}; {EXAMPLE}"
        )


def _short(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."


def _parse_requirement(tokens: _Tokens) -> Requirement:
    if tokens.peek() == "!":
        tokens.pop()
        return Requirement(_take_key(tokens), "absent")
    key = _take_key(tokens)
    if tokens.peek() in (None, ","):
        return Requirement(key, "exists")
    told = tokens.take(*OPERATORS, expected="=, !=, in, notin, a comma or the end")
    operator = OPERATORS[told]
    if told in ("in", "notin"):
        return Requirement(key, operator, _take_values(tokens))
    if told in (">", "<"):
        value = tokens.take_word(WHOLE, f"a whole number after {told}")
    else:
        value = _take_value(tokens)
    return Requirement(key, operator, frozenset([value]))


def _take_key(tokens: _Tokens) -> str:
    return tokens.take_word(KEY, "the name of a label")


def _take_value(tokens: _Tokens) -> str:
    """Return a value; nothing at all is the empty one."""
    if tokens.peek() in (None, ",", ")"):
        return ""
    return tokens.take_word(VALUE, "a label's value of letters, digits, '-', '_' and '.'")


def _take_values(tokens: _Tokens) -> frozenset[str]:
    tokens.take("(", expected="( after in or notin")
    if tokens.peek() == ")":
        raise tokens.wrong("at least one value")
    values = {_take_value(tokens)}
    while tokens.take(",", ")", expected="a comma or )") == ",":
        values.add(_take_value(tokens))
    return frozenset(values)


def _fits(requirements: tuple[Requirement, ...], labels: Mapping[str, object]) -> bool:
    values = ((one, labels.get(one.key)) for one in requirements)
    return all(_holds(one, value if isinstance(value, str) else None) for one, value in values)


def _holds(requirement: Requirement, value: str | None) -> bool:
    """Say whether a label's value meets a condition; None: there is no such label."""
    operator, values = requirement.operator, requirement.values
    if operator in ("absent", "exists"):
        return (value is None) == (operator == "absent")
    if operator == "notin":
        return value not in values
    if operator == "in":
        return value in values
    if value is None or not WHOLE.fullmatch(value):
        return False
    (limit,) = values
    return int(value) > int(limit) if operator == ">" else int(value) < int(limit)

"""Every remedy in the daemon's code is shown by some test: found in the code, looked for in tests.

A remedy counts as shown where a test of its module names the constant, or holds enough of its text
that it can be no other's.  For the others a table names the test that makes the cause; a reason
alone, or a few words, shows nothing.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fixtures.remedies import KNOWN_GAPS, SHOWN_BY

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("collectors", "doctor", "kernel", "runtime", "workloads")
SUITES = ("unit", "property", "integration")
MAKERS = {
    **dict.fromkeys(("Unavailable", "LoadError", "KubeletError", "RedfishError", "Advice"), 1),
    **dict.fromkeys(("CredentialsError", "Problem", "NoHierarchy", "_refuse", "_failed"), 1),
    **dict.fromkeys(("Trouble", "_problem"), 2),
}
"""Who takes a remedy, and as which argument."""
CONSTANT = re.compile(
    r".*REMEDY|ATTACH|MAY_READ|RELOAD|MEMORY|INSTALL|FORBIDDEN|NEED_CAPABILITY|REPORT|"
    r"LOOK_AT_SOURCES|TELL_REQUESTS|_UNREADABLE"
)
LEAST, LONG = 8, 24
"""Characters of a piece that says something, and of a test's text that is found in one."""
GAPS_MOST = 2
"""As many remedies had no test when this was counted; the number may only fall."""

NO_REMEDIES = frozenset({"nothing could be read"})
"""What stands where a remedy would, and is a reason."""


class Remedy(NamedTuple):
    """A remedy in the code: where, its constant's name, and its text's pieces."""

    place: str
    name: str
    pieces: tuple[str, ...]

    @property
    def piece(self) -> str:
        """The longest piece, which tells it from others."""
        return max(self.pieces, key=len)

    @property
    def module(self) -> str:
        """Its file below the package."""
        return self.place.partition(":")[0].removeprefix("tychod/")


class Suite(NamedTuple):
    """What the tests hold: their texts, one a line, and of each file the words."""

    text: str
    words: tuple[frozenset[str], ...] = ()

    def long(self, everything: str) -> frozenset[str]:
        """Return the texts that stand in another one, long enough to be that one's alone."""
        lines = set(self.text.split("\n"))
        return frozenset(s for s in lines if len(s.strip()) >= LONG and s in everything)

    def names(self, constant: str, module: str) -> bool:
        """Say whether a file names a constant and the module that it is of."""
        return any(constant in words and module in words for words in self.words)


STRING = re.compile(r'"((?:[^"\\\n]|\\.)+)"')
"""A string in the formatted source of a test; parsed, all of them would take seconds."""
WORD = re.compile(r"\w{3,}")


def pieces_of(node: ast.AST) -> tuple[str, ...]:
    """Return the texts in an expression that say something."""
    found = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return tuple(t for t in found if isinstance(t, str) and len(t.strip()) >= LEAST)


def find_remedies(place: str, text: str) -> Iterator[Remedy]:
    """Yield the remedies of a module: constants, variables of that name, arguments."""
    for node in ast.walk(ast.parse(text)):
        for name, value in assigned(node):
            if name == "remedy" or CONSTANT.fullmatch(name):
                yield Remedy(f"{place}:{value.lineno}", name, pieces_of(value))
        given = remedy_of(node)
        if given is not None:
            yield Remedy(f"{place}:{getattr(node, 'lineno', 0)}", "", pieces_of(given))


def remedy_of(node: ast.AST) -> ast.expr | None:
    """Return the remedy that a call is given."""
    if not isinstance(node, ast.Call):
        return None
    called = (
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    )
    place = MAKERS.get(called, 0)
    if place and len(node.args) > place:
        return node.args[place]
    return next((k.value for k in node.keywords if k.arg == "remedy"), None)


def assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the name and value of a plain assignment."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        yield node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id, node.value


def read_tests() -> Suite:
    """Return what all tests hold; this module shows nothing of what it names."""
    strings: set[str] = set()
    words: list[frozenset[str]] = []
    for path in sorted(p for suite in SUITES for p in (ROOT / "tests" / suite).glob("test_*.py")):
        if path.name != Path(__file__).name:
            source = path.read_text()
            strings.update(STRING.findall(source))
            words.append(frozenset(WORD.findall(source)))
    return Suite("\n".join(sorted(strings)), tuple(words))


def is_shown(remedy: Remedy, tests: Suite, long: frozenset[str]) -> bool:
    """Say whether a test holds the remedy, or the table names one that makes its cause."""
    if not remedy.pieces or any(piece in NO_REMEDIES for piece in remedy.pieces):
        return True
    if len(remedy.name) > LEAST and tests.names(remedy.name, Path(remedy.module).stem):
        return True
    piece = remedy.piece
    if piece.strip() in tests.text or any(text in piece for text in long):
        return True
    return any(
        module == remedy.module and piece.startswith(start)
        for module, start in (*SHOWN_BY, *KNOWN_GAPS)
    )


def unshown(found: Sequence[Remedy], tests: Suite) -> dict[str, str]:
    """Return the remedies that no test shows, by place."""
    long = tests.long("\n".join(r.piece for r in found if r.pieces))
    return {r.place: r.piece for r in found if not is_shown(r, tests, long)}


def find_all() -> list[Remedy]:
    """Return the remedies of the daemon's code."""
    paths = sorted(p for part in PARTS for p in (ROOT / "tychod" / part).rglob("*.py"))
    return [
        remedy
        for path in paths
        if path.name != "remedies.py"  # the doctor's own table has a cause for each entry
        for remedy in find_remedies(str(path.relative_to(ROOT)), path.read_text())
    ]


def test_every_remedy_is_shown_by_a_test() -> None:
    """A new remedy fails here until a test holds its text, or the table names who makes it."""
    found = find_all()

    assert len(found) > 100
    assert unshown(found, read_tests()) == {}


def test_the_tables_hold_no_more_than_is_needed() -> None:
    """An entry is of a remedy that is there, and what has no test yet never grows."""
    there = {(r.module, r.piece) for r in find_all() if r.pieces}
    listed = [*SHOWN_BY, *KNOWN_GAPS]
    stale = [
        (module, start)
        for module, start in listed
        if not any(module == m and piece.startswith(start) for m, piece in there)
    ]

    assert stale == []
    assert len(KNOWN_GAPS) <= GAPS_MOST


@pytest.mark.parametrize(("file", "name"), sorted(set(SHOWN_BY.values())))
def test_tests_that_are_named_are_there(file: str, name: str) -> None:
    """A test that is renamed or removed is missed."""
    paths = [path for suite in SUITES for path in (ROOT / "tests" / suite).glob(file)]

    assert any(f"def {name}(" in path.read_text() for path in paths)


def test_a_remedy_that_no_test_shows_is_found() -> None:
    """The rule could fail: constants, arguments and variables without a test are told."""
    text = (
        'NEW_REMEDY = "turn the unheard-of wheel to the left"\n'
        "def f():\n"
        '    raise LoadError("an unheard-of reason", "pull the unheard-of lever with care")\n'
        '    remedy = "mend it"\n'
    )
    found = list(find_remedies("tychod/m.py", text))
    named = (frozenset({"NEW_REMEDY", "m"}), frozenset({"NEW_REMEDY", "other"}))

    def places(*texts: str, words: tuple[frozenset[str], ...] = ()) -> list[int]:
        told = unshown(found, Suite("\n".join(texts), words))
        return [int(place.rpartition(":")[2]) for place in told]

    assert places("a test's text") == [1, 3]
    assert places("a text", words=named[:1]) == [3]
    assert places("a text", words=named[1:]) == [1, 3]
    assert places("an unheard-of reason") == [1, 3]
    assert places("the unheard-of wheel") == [1, 3]
    assert places("pull the unheard-of lever") == [1]

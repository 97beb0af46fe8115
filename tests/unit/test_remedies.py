"""Every remedy in the daemon's code is shown by some test: found in the code, looked for in tests.

A remedy counts as shown where a test names the constant, or holds a piece of its text or of the
reason that it comes with: those two are one finding, so that whoever meets one has met the other.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("collectors", "doctor", "kernel", "runtime", "workloads")
SUITES = ("unit", "property", "integration")
MAKERS = {
    **dict.fromkeys(("Unavailable", "LoadError", "KubeletError", "RedfishError", "Advice"), 1),
    **dict.fromkeys(("CredentialsError", "Problem", "NoHierarchy", "_refuse", "_failed"), 1),
    **dict.fromkeys(("Trouble", "_problem"), 2),
}
"""Who takes a remedy, and as which argument; the reason stands before it."""
CONSTANT = re.compile(
    r".*REMEDY|ATTACH|MAY_READ|RELOAD|MEMORY|INSTALL|FORBIDDEN|NEED_CAPABILITY|REPORT|"
    r"LOOK_AT_SOURCES|TELL_REQUESTS|_UNREADABLE"
)
LEAST, LONG = 8, 10
"""Characters of a piece that says something, and of a test's text that is found in one."""

NEAR = 12
"""Lines between a variable and the call that is given it."""

ELSEWHERE = {
    ", or choose another policy": (
        "test_replies.py",
        "test_requests_that_nobody_tells_are_a_problem_of_the_policy",
    ),
    "see whether memory or processes are short; it is tried again": (
        "test_units.py",
        "test_child_that_fails_is_no_harm",
    ),
    "make room, or mend the directory's mode; it is tried again at every record, and reports have "
    "what is in memory": (
        "test_history.py",
        "test_a_full_disk_is_told_and_tried_again",
    ),
    "make room or mend the directory's mode; saving is tried again every window": (
        "test_store.py",
        "test_what_cannot_be_packed_is_a_problem_and_no_crash",
    ),
    "mend the files named, then reload: systemctl reload tychod": (
        "test_daemon.py",
        "test_reload",
    ),
    "see who makes cgroups of such names": (
        "test_registry.py",
        "test_two_claims_of_one_id_are_told_once",
    ),
}
"""Remedies whose cause a test makes that holds neither text: where."""
NO_REMEDIES = frozenset({"nothing could be read"})
"""What stands where a remedy would, and is a reason."""


class Remedy(NamedTuple):
    """A remedy in the code: where, its constant's name, its text's pieces and its reasons'."""

    place: str
    name: str
    pieces: tuple[str, ...]
    reasons: tuple[str, ...]


class Suite(NamedTuple):
    """What the tests hold: their texts, one a line, and the names of constants."""

    text: str
    names: frozenset[str]

    def short(self, everything: str) -> frozenset[str]:
        """Return the texts that stand in another one, long enough to mean it."""
        lines = set(self.text.split("\n"))
        return frozenset(s for s in lines if len(s.strip()) >= LONG and s in everything)


STRING = re.compile(r'"((?:[^"\\\n]|\\.)+)"')
"""A string in the formatted source of a test; parsed, all of them would take seconds."""
NAME = re.compile(r"\b_?[A-Z][A-Z_]{3,}\b")


def pieces_of(node: ast.AST) -> tuple[str, ...]:
    """Return the texts in an expression that say something."""
    found = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return tuple(t for t in found if isinstance(t, str) and len(t.strip()) >= LEAST)


def find_remedies(place: str, text: str) -> Iterator[Remedy]:
    """Yield the remedies of a module: constants, variables of that name, arguments."""
    nodes = list(ast.walk(ast.parse(text)))
    calls = [(node, *taken) for node in nodes if (taken := remedy_of(node))]
    values = [(name, value) for node in nodes for name, value in assigned(node)]
    for name, value in values:
        if name != "remedy" and not CONSTANT.fullmatch(name):
            continue
        users = [
            reason
            for call, given, reason in calls
            if reason and (near(value, call) if name == "remedy" else name in names_in(given))
        ]
        reasons = tuple(piece for reason in users for piece in pieces_of(reason))
        yield Remedy(f"{place}:{value.lineno}", name, pieces_of(value), reasons)
    for call, given, reason in calls:
        reasons = pieces_of(reason) if reason else ()
        for name, value in values:  # a reason that was put together just before
            if name == "reason" and near(value, call):
                reasons += pieces_of(value)
        yield Remedy(f"{place}:{call.lineno}", "", pieces_of(given), reasons)


def near(value: ast.expr, call: ast.AST) -> bool:
    """Say whether a call comes soon after a value."""
    return 0 <= getattr(call, "lineno", 0) - value.lineno <= NEAR


def remedy_of(node: ast.AST) -> tuple[ast.expr, ast.expr | None] | None:
    """Return the remedy that a call is given, and the reason."""
    if not isinstance(node, ast.Call):
        return None
    called = (
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    )
    place = MAKERS.get(called, 0)
    if place and len(node.args) > place:
        return node.args[place], node.args[place - 1]
    return next(((k.value, None) for k in node.keywords if k.arg == "remedy"), None)


def assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the name and value of a plain assignment."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        yield node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id, node.value


def names_in(node: ast.AST) -> set[str]:
    """Return the names in an expression, those of other modules' attributes too."""
    plain = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return plain | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def read_tests() -> Suite:
    """Return what all tests hold; this module shows nothing of what it names."""
    strings: set[str] = set()
    names: set[str] = set()
    for path in sorted(p for suite in SUITES for p in (ROOT / "tests" / suite).glob("test_*.py")):
        if path.name != Path(__file__).name:
            source = path.read_text()
            strings.update(STRING.findall(source))
            names.update(NAME.findall(source))
    return Suite("\n".join(sorted(strings)), frozenset(names))


def is_shown(remedy: Remedy, tests: Suite, short: frozenset[str]) -> bool:
    """Say whether a test holds the remedy, or the reason that it comes with."""
    if not remedy.pieces or remedy.name in tests.names:
        return True
    if any(piece in ELSEWHERE or piece in NO_REMEDIES for piece in remedy.pieces):
        return True
    texts = (*remedy.pieces, *remedy.reasons)
    return any(piece.strip() in tests.text or any(s in piece for s in short) for piece in texts)


def unshown(found: Sequence[Remedy], tests: Suite) -> dict[str, str]:
    """Return the remedies that no test shows, by place."""
    short = tests.short("\n".join(p for r in found for p in (*r.pieces, *r.reasons)))
    return {r.place: r.pieces[0] for r in found if not is_shown(r, tests, short)}


def test_every_remedy_is_shown_by_a_test() -> None:
    """A new remedy fails here until a test produces its cause."""
    paths = sorted(p for part in PARTS for p in (ROOT / "tychod" / part).rglob("*.py"))
    found = [
        remedy
        for path in paths
        if path.name != "remedies.py"  # the doctor's own table has a cause for each entry
        for remedy in find_remedies(str(path.relative_to(ROOT)), path.read_text())
    ]

    assert len(found) > 100
    assert unshown(found, read_tests()) == {}


@pytest.mark.parametrize(("file", "name"), ELSEWHERE.values())
def test_tests_that_are_named_are_there(file: str, name: str) -> None:
    """A test that is renamed or removed is missed."""
    paths = [path for suite in SUITES for path in (ROOT / "tests" / suite).glob(file)]

    assert any(f"def {name}(" in path.read_text() for path in paths)


def test_a_remedy_that_no_test_shows_is_found() -> None:
    """The rule could fail: constants, arguments and variables without a test are told."""
    text = (
        'NEW_REMEDY = "turn the unheard-of wheel"\n'
        "def f():\n"
        '    raise LoadError("an unheard-of reason", "pull the unheard-of lever")\n'
    )
    found = list(find_remedies("m", text))

    assert list(unshown(found, Suite("a test's text", frozenset()))) == ["m:1", "m:3"]
    assert list(unshown(found, Suite("a text", frozenset({"NEW_REMEDY"})))) == ["m:3"]
    assert list(unshown(found, Suite("says: an unheard-of reason", frozenset()))) == ["m:1"]

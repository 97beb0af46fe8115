"""What people are told to do can be done where they are, and mends what it is told for."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = re.compile(r"(?<![\w/.])(docs|packaging|tests)/[\w.]")
"""Paths that only a checkout has: packages have the pages in /usr/share/doc/tychod."""


def texts_of(source: str) -> list[str]:
    """Return the texts of a module that are shown: all but those that stand for themselves."""
    tree = ast.parse(source)
    unused = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in unused)
    return [node.value for node in found if isinstance(node.value, str)]


def test_no_text_sends_people_to_a_path_of_the_checkout() -> None:
    """Pages are named where the packages put them."""
    paths = [p for part in ("tychod", "tychoctl") for p in (ROOT / part).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in paths
        if CHECKOUT.search(source := path.read_text(encoding="utf-8"))
        for text in texts_of(source)
        if CHECKOUT.search(text)
    ]

    assert len(paths) > 100
    assert not found

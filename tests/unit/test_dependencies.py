"""Dependencies: declared once, bounded by what the packages run on, and nothing undeclared used."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Names to import where they differ from the project's name.
IMPORT_NAMES = {
    "nvidia-ml-py": "pynvml",
    "prometheus-client": "prometheus_client",
    "tomli-w": "tomli_w",
}
# bcc is the distribution's (the project of that name on PyPI is another one): only a child of the
# distribution's own Python imports it, and the packages suggest it.
SYSTEM_ONLY = [("tychod/kernel/bpf/bcc_child.py", "bcc")]


def parse_bounds(requirements: list[str]) -> dict[str, str]:
    """Return name -> lower bound of `name>=bound` requirements, the only form in use."""
    pairs = (re.fullmatch(r"([a-z0-9-]+)>=([0-9.]+)", line) for line in requirements)
    return {pair[1]: pair[2] for pair in pairs if pair is not None}


def parse_pins(path: Path) -> dict[str, str]:
    """Return normalised name -> version of a constraints file."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def version_key(version: str) -> tuple[int, ...]:
    """Return a version of digits and dots as something that sorts."""
    return tuple(int(part) for part in version.split("."))


def find_third_party(package: str) -> Iterator[tuple[str, str]]:
    """Yield (file, top-level module) of each import from outside the project and Python."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names | {"tychod", "tychoctl"}:
                    yield str(path.relative_to(ROOT)), top


BOUNDS = parse_bounds(PROJECT["dependencies"])
TEST_BOUNDS = parse_bounds(PROJECT["optional-dependencies"]["test"])


def test_every_requirement_has_a_lower_bound() -> None:
    """No requirement is written in a form that these tests do not see."""
    assert len(BOUNDS) == len(PROJECT["dependencies"])
    assert len(TEST_BOUNDS) == len(PROJECT["optional-dependencies"]["test"])


def test_the_lower_bounds_are_the_oldest_supported_versions() -> None:
    """pyproject.toml and constraints-oldest.txt state the same versions, Debian 12's."""
    assert parse_pins(ROOT / "constraints-oldest.txt") == BOUNDS


@pytest.mark.parametrize(("name", "bound"), sorted((BOUNDS | TEST_BOUNDS).items()))
def test_set_up_installs_a_pinned_version_within_the_bounds(name: str, bound: str) -> None:
    """`make setup` gives every developer the same versions, and allowed ones."""
    pins = parse_pins(ROOT / "constraints.txt")

    assert version_key(pins[name]) >= version_key(bound)


@pytest.mark.parametrize("package", ["tychod", "tychoctl"])
def test_only_declared_dependencies_are_imported(package: str) -> None:
    """What the product imports is in pyproject.toml, and so in the packages' dependencies."""
    declared = {IMPORT_NAMES.get(name, name) for name in BOUNDS}

    others = [found for found in find_third_party(package) if found[1] not in declared]
    assert others == (SYSTEM_ONLY if package == "tychod" else [])


def test_bcc_is_never_asked_of_pypi() -> None:
    """The PyPI project named bcc is something else: no requirement and no pin names it."""
    pins = [parse_pins(path) for path in sorted(ROOT.glob("constraints*.txt"))]

    assert not any("bcc" in names for names in (BOUNDS, TEST_BOUNDS, *pins))


def test_the_import_check_sees_what_is_used() -> None:
    """The check above looks at real imports: msgpack is one of them."""
    assert "msgpack" in {top for _, top in find_third_party("tychod")}

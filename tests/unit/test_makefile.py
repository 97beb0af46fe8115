"""The Makefile: every target is documented, and each does what the documents promise of it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = (
    "help",
    "setup",
    "run",
    "test",
    "check",
    "bpf",
    "e2e",
    "e2e-kernels",
    "bench",
    "accuracy",
    "demo",
    "deb",
    "rpm",
)

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def parse_targets(text: str) -> dict[str, str | None]:
    """Return each target of a makefile with its `##` comment, or None where it has none."""
    rule = re.compile(r"^([A-Za-z0-9_-]+)\s*:(?![:=])([^#\n]*)(?:##\s*(.*\S))?", re.MULTILINE)
    return {match[1]: match[3] for match in rule.finditer(text)}


def read_recipe(target: str) -> str:
    """Return what make would run for one target, set-up taken as done."""
    done = subprocess.run(
        ["make", "-s", "-n", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_an_undocumented_target_is_found() -> None:
    """The check sees a rule without a comment, and takes no assignment for a rule."""
    targets = parse_targets("a: b ## does a\n\nb:\n\ttrue\nC := 1\nD ::= 2\nx-y: a\n")

    assert targets == {"a": "does a", "b": None, "x-y": None}


def test_every_target_is_documented() -> None:
    """No target lacks its `##` comment, and the set is the one that the documents promise."""
    targets = parse_targets(MAKEFILE)

    assert [name for name, comment in targets.items() if not comment] == []
    assert sorted(targets) == sorted(TARGETS)


def test_every_target_is_phony() -> None:
    """A file named like a target does not stop it."""
    phony = re.search(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE)

    assert phony is not None
    assert sorted(phony[1].split()) == sorted(TARGETS)


@needs_make
@pytest.mark.parametrize("arguments", [["help"], []], ids=["help", "no target"])
def test_help_lists_every_target(arguments: list[str]) -> None:
    """`make help`, and `make` alone, print each target with its comment."""
    done = subprocess.run(
        ["make", "-s", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )

    listed = dict(line.split(maxsplit=2)[1:] for line in done.stdout.splitlines())
    assert listed == parse_targets(MAKEFILE)


@needs_make
def test_run_says_where_its_socket_is() -> None:
    """`make run` prints the line to paste, and keeps socket and state below .state/."""
    recipe = read_recipe("run")

    assert f"export TYCHOD_SOCKET={ROOT}/.state/tychod.sock" in recipe
    assert f"STATE_DIRECTORY={ROOT}/.state/state" in recipe
    assert f"RUNTIME_DIRECTORY={ROOT}/.state " in recipe


@needs_make
@pytest.mark.parametrize("target", ["run", "test", "bench", "accuracy"])
def test_numeric_libraries_stay_single_threaded(target: str) -> None:
    """What measures or runs the daemon does so under the limits that the unit sets."""
    recipe = read_recipe(target)

    for limit in ("OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1", "MALLOC_ARENA_MAX=2"):
        assert limit in recipe

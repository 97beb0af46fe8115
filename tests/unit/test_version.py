"""`--version`: the commit and build time are known in a checkout, a wheel and a packaged tree."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tychod
from tychod import version
from tychod.version import UNKNOWN, Build

ROOT = Path(__file__).resolve().parents[2]
EPOCH_S = 1_700_000_000
EPOCH = "2023-11-14T22:13:20Z"
COMMIT_TIME = "2024-02-29T12:00:00Z"
SOURCES = ("pyproject.toml", "setup.py", "LICENSE", "tychod", "tychoctl")

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
needs_pip = pytest.mark.skipif(
    importlib.util.find_spec("pip") is None or importlib.util.find_spec("setuptools") is None,
    reason="this interpreter has no pip or no setuptools to build a wheel with",
)


def run(cwd: Path, *command: str, **environment: str) -> str:
    """Run a command in a folder, with SOURCE_DATE_EPOCH only where given, and return its output."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("SOURCE_DATE_EPOCH", "PYTHONPATH")
    }
    done = subprocess.run(
        command, cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Return a copy of what the project is built from, without git and without a stamp."""
    copy = tmp_path / "sources"
    copy.mkdir()
    for name in SOURCES:
        origin = ROOT / name
        if origin.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "_build.py")
            shutil.copytree(origin, copy / name, ignore=ignore)
        else:
            shutil.copy(origin, copy / name)
    return copy


@pytest.fixture
def checkout(sources: Path) -> Path:
    """Return the copy as a git checkout with one commit, made at COMMIT_TIME."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    run(sources, "git", "init", "--quiet")
    run(sources, "git", "add", ".")
    run(
        sources,
        *("git", *identity, "-c", "commit.gpgsign=false", "commit", "--quiet", "--message=all"),
        GIT_AUTHOR_DATE=COMMIT_TIME,
        GIT_COMMITTER_DATE=COMMIT_TIME,
    )
    return sources


def head_of(checkout: Path) -> str:
    """Return the abbreviated commit, as git itself gives it."""
    return run(checkout, "git", "rev-parse", "HEAD")[:12]


def build_wheel(sources: Path, into: Path, **environment: str) -> Path:
    """Build a wheel as pip does and return it."""
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    target = ("--wheel-dir", str(into))
    run(sources, sys.executable, "-m", "pip", "wheel", *options, *target, ".", **environment)
    (wheel,) = into.glob("*.whl")
    return wheel


def read_version_line(tree: Path) -> str:
    """Return what the tree's own copy of the project says of itself."""
    return run(tree, sys.executable, "-m", "tychod.version")


def unpack(wheel: Path, into: Path) -> Path:
    """Unpack a wheel, which is what installing it does to the modules."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    return into


@needs_git
def test_a_checkout_knows_its_commit(checkout: Path) -> None:
    """In a checkout the commit is git's and the time is that of the commit."""
    expected = f"tychod {tychod.__version__} (commit {head_of(checkout)}, built {COMMIT_TIME})"

    assert read_version_line(checkout) == expected


@needs_git
def test_a_changed_checkout_says_so(checkout: Path) -> None:
    """A commit whose files were edited is not passed off as that commit."""
    with (checkout / "tychod" / "version.py").open("a") as file:
        file.write("# edited\n")

    assert f"(commit {head_of(checkout)}-dirty, " in read_version_line(checkout)


@needs_git
def test_without_git_the_version_is_still_known(checkout: Path) -> None:
    """No git on the path: the version is printed, the rest is unknown, nothing fails."""
    line = run(checkout, sys.executable, "-m", "tychod.version", PATH="/nonexistent")

    assert line == f"tychod {tychod.__version__} (commit {UNKNOWN}, built {UNKNOWN})"


@needs_git
def test_a_copy_inside_another_checkout_does_not_borrow_its_commit(checkout: Path) -> None:
    """Modules installed below somebody's git checkout do not claim that checkout's commit."""
    shutil.copytree(checkout / "tychod", checkout / "site-packages" / "tychod")

    assert version.read_build(checkout / "site-packages" / "tychod").commit == UNKNOWN


@needs_git
@needs_pip
def test_a_wheel_knows_its_commit_and_build_time(checkout: Path, tmp_path: Path) -> None:
    """A wheel built by pip says which commit it is from and, reproducibly, when it was built."""
    wheel = build_wheel(checkout, tmp_path / "wheels", SOURCE_DATE_EPOCH=str(EPOCH_S))

    line = read_version_line(unpack(wheel, tmp_path / "installed"))
    assert line == f"tychod {tychod.__version__} (commit {head_of(checkout)}, built {EPOCH})"
    assert not (checkout / "tychod" / "_build.py").exists()


@needs_git
def test_a_packaged_tree_knows_its_commit_and_build_time(checkout: Path, tmp_path: Path) -> None:
    """The .deb and .rpm builds copy the modules and write the facts beside them."""
    staged = tmp_path / "staged"
    shutil.copytree(checkout / "tychod", staged / "tychod")
    command = (sys.executable, "-m", "tychod.version", "--write", str(staged / "tychod"))
    run(checkout, *command, SOURCE_DATE_EPOCH=str(EPOCH_S))

    line = read_version_line(staged)
    assert line == f"tychod {tychod.__version__} (commit {head_of(checkout)}, built {EPOCH})"


@needs_git
@needs_pip
def test_a_source_archive_carries_its_commit_into_the_wheel(checkout: Path, tmp_path: Path) -> None:
    """A wheel built from a source archive, far from git, names the archive's commit and time."""
    command = (sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path / "s"))
    run(checkout, *command, SOURCE_DATE_EPOCH=str(EPOCH_S))
    (archive,) = (tmp_path / "s").glob("*.tar.gz")
    run(tmp_path, "tar", "-xf", str(archive))
    tree = tmp_path / archive.name.removesuffix(".tar.gz")
    wheel = build_wheel(tree, tmp_path / "wheels")

    line = read_version_line(unpack(wheel, tmp_path / "installed"))
    assert line == f"tychod {tychod.__version__} (commit {head_of(checkout)}, built {EPOCH})"


def test_the_stamp_reads_back() -> None:
    """What a build writes is what the running program says."""
    build = Build(tychod.__version__, "0123456789ab-dirty", EPOCH)

    assert version.parse_build_module(version.render_build_module(build)) == build


def test_a_broken_stamp_is_unknown() -> None:
    """A truncated stamp costs the facts, not the start of the daemon."""
    assert version.parse_build_module('COMMIT = "') == Build(tychod.__version__, UNKNOWN, UNKNOWN)

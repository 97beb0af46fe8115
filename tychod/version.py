"""Which build this is: version, commit and build time, in a wheel, a package or a checkout.

A build writes `_build.py` beside this module (setup.py, `python3 -m tychod.version --write DIR`). A
checkout has none: git is asked, when somebody wants to know and not at import.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from tychod import __version__

UNKNOWN: Final = "unknown"
GIT_TIMEOUT_S: Final = 5.0
PACKAGE: Final = Path(__file__).resolve().parent


class Build(NamedTuple):
    """What `--version` and `tychoctl status` say; `built` is RFC 3339, UTC."""

    version: str
    commit: str
    built: str


def read_build(package: Path = PACKAGE) -> Build:
    """Return this build's facts; what cannot be found out is `unknown`, never an error."""
    stamp = package / "_build.py"
    if stamp.exists():
        return parse_build_module(stamp.read_text(encoding="utf-8"))
    if not (package.parent / ".git").exists():
        return Build(__version__, UNKNOWN, UNKNOWN)
    return read_checkout(package.parent)


def parse_build_module(text: str) -> Build:
    """Read what render_build_module wrote, without running it."""
    facts = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    found = (facts.get(name, "").strip().strip('"') or UNKNOWN for name in ("COMMIT", "BUILT"))
    return Build(__version__, *found)


def read_checkout(root: Path) -> Build:
    """Ask git; a checkout is not built, so its time is that of its commit."""
    commit = read_git(root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    committed_s = read_git(root, "show", "--no-patch", "--format=%ct", "HEAD")
    built = render_time(int(committed_s)) if committed_s else UNKNOWN
    return Build(__version__, commit or UNKNOWN, built)


def read_git(root: Path, *arguments: str) -> str | None:
    """Return git's answer, or None without git, without a commit, or in a checkout it distrusts."""
    import subprocess  # costs a client command several milliseconds and only checkouts need it

    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            env=environment,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def render_time(unix_s: int) -> str:
    """Return a Unix time as RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def render_build_module(build: Build) -> str:
    """Return the text of `_build.py`."""
    return (
        '"""Written by the build that made this copy; a checkout has no such file."""\n\n'
        f'COMMIT = "{build.commit}"\nBUILT = "{build.built}"\n'
    )


def render_version(program: str, build: Build) -> str:
    """Return the line that `--version` prints."""
    return f"{program} {build.version} (commit {build.commit}, built {build.built})"


def write_build_module(directory: Path) -> None:
    """Write `_build.py` into a copy of the package that is being built.

    The time is SOURCE_DATE_EPOCH where a reproducible build sets it, else now. A source archive's
    facts were written when it was made and stay as they are.
    """
    build = read_build()
    if not (PACKAGE / "_build.py").exists():
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        build = build._replace(built=render_time(int(epoch) if epoch else int(time.time())))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "_build.py").write_text(render_build_module(build), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Print the version, or write the build's facts for a package that is being built."""
    parser = argparse.ArgumentParser(prog="python3 -m tychod.version", description=__doc__)
    parser.add_argument("--write", metavar="DIR", type=Path, help="write DIR/_build.py")
    directory = parser.parse_args(argv).write
    if directory is None:
        sys.stdout.write(render_version("tychod", read_build()) + "\n")
    else:
        write_build_module(directory)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

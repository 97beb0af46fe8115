"""``tychod`` on the command line: one line or a usage error, never a traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tychod.runtime.places import StartError, state_directory
from tychod.version import read_build, render_version

ROOT = Path(__file__).resolve().parents[2]
NO_SUCH_UID = 2_147_480_001


def tychod(*words: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run the daemon's command."""
    return subprocess.run(
        [sys.executable, "-m", "tychod", *words],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )


def test_version_is_the_one_line_that_all_parts_print() -> None:
    """In a checkout ``tychod --version`` prints version, commit and time in the common form."""
    done = tychod("--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == render_version("tychod", read_build()) + "\n"


@pytest.mark.parametrize("flag", ["--config", "--config-dir"])
def test_an_empty_path_is_refused(flag: str) -> None:
    """``--config=$UNSET`` must not start the daemon with other settings than were meant."""
    done = tychod(f"{flag}=", "--check-config")

    assert done.returncode == 2
    assert flag in done.stderr
    assert "names no file or directory" in done.stderr


@pytest.mark.parametrize("flag", ["--check-config", "--version"])
def test_a_reader_that_left_is_no_failure(flag: str, tmp_path: Path) -> None:
    """Output into a closed pipe ends quietly."""
    settings = tmp_path / "tychod.toml"
    settings.write_text("")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = tychod("--config", str(settings), flag, stdout=writer)
    finally:
        os.close(writer)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", ["--version >/dev/full", "--version >&-", "--hash-password <&-"])
def test_streams_that_cannot_be_used_are_told_in_one_line(words: str) -> None:
    """A full disk, or an output or input that was closed: what is wrong, exit 1, no traceback."""
    command = f'exec "$0" -m tychod {words}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"tychod: .+\n", done.stderr)


def test_where_state_is_kept(tmp_path: Path) -> None:
    """systemd's directory, else the system's for root, else the user's own."""
    given = {"STATE_DIRECTORY": f"{tmp_path}:/second", "HOME": "/home/u"}

    assert state_directory(given, 1000) == tmp_path
    assert state_directory({"HOME": "/root"}, 0) == Path("/var/lib/tychod")
    assert state_directory({"XDG_STATE_HOME": "/x"}, 1000) == Path("/x/tychod")
    assert state_directory({"HOME": "/home/u"}, NO_SUCH_UID) == Path("/home/u/.local/state/tychod")


@pytest.mark.parametrize("environ", [{}, {"HOME": "", "XDG_STATE_HOME": ""}])
def test_a_user_without_a_home_is_told_what_to_set(environ: dict[str, str]) -> None:
    """No HOME and no entry in the password file: one line that says what to do."""
    with pytest.raises(StartError, match="STATE_DIRECTORY"):
        state_directory(environ, NO_SUCH_UID)

"""Completion: the scripts are sourced and tried in real shells, against a real control server."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.fixtures import snapshots as made
from tychoctl.options import ALL
from tychod.buffer import Latest
from tychod.model import Snapshot

ROOT = Path(__file__).resolve().parents[2]
BASH = ROOT / "packaging/completion/tychoctl.bash"
ZSH = ROOT / "packaging/completion/_tychoctl"
PATIENCE_S = 20.0
TRY_BASH = """
set -u
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_tychoctl
printf '%s\\n' ${COMPREPLY[@]+"${COMPREPLY[@]}"}
"""
TRY_ZSH = """autoload -Uz compinit; compinit -D -u; source {script}
show() {{ print -r -- "<<$BUFFER>>"; BUFFER= }}; zle -N show; bindkey '^T' show
bindkey '^I' complete-word; echo REA''DY
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which `tychoctl` is that of this checkout."""
    program = tmp_path / "tychoctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tychoctl "$@"\n')
    program.chmod(0o755)
    return {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "TYCHOD_SOCKET": str(tmp_path / "control.sock"),
        "TERM": "dumb",
        "PS1": "> ",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
    }


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[None]:
    """Run a control server that knows the example node."""
    latest = Latest[Snapshot]()
    latest.publish(made.make_snapshot())
    with made.serving(tmp_path / "control.sock", latest):
        yield


def in_bash(environ: dict[str, str], *words: str) -> list[str]:
    """Return what bash offers for the last word; no package of completions is loaded."""
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", TRY_BASH, "try", str(BASH), "tychoctl", *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["po"], ["pods"]),
        (["-o", "wide", "nod"], ["node"]),
        (["--socket", "/x", "version"], ["version"]),
        (["-w", "5", "unit"], ["units"]),
        (["pods", "-o", ""], ["table", "wide", "json", "csv"]),
        (["pods", "--output", "=", "j"], ["json"]),
        (["pods", "--output", "="], ["table", "wide", "json", "csv"]),
        (["pods", "--output=j"], ["--output=json"]),
        (["pods", "--sort", "e"], ["energy"]),
        (["pods", "--no"], ["--no-headers"]),
        (["record", "x", "-o", ""], ["table", "json"]),
        (["replay", "x", "un"], ["units"]),
        (["config", ""], ["show", "default"]),
        (["completion", ""], ["bash", "zsh"]),
        (["doctor", "--group", "na"], ["names"]),
        (["report", "--last", ""], ["24h", "7d", "today", "yesterday"]),
        (["report", "--since", "yes"], ["yesterday"]),
        (["report", "--until=to"], ["--until=today"]),
        (["explain", "po"], ["pod"]),
        (["pods", "--limit", ""], []),
        (["nothing", ""], []),
    ],
)
def test_bash_offers_what_fits(
    environ: dict[str, str], words: Sequence[str], offered: list[str]
) -> None:
    """Commands, options and their values, wherever the common options stand."""
    assert in_bash(environ, *words) == offered


def test_bash_offers_every_command(environ: dict[str, str]) -> None:
    """Where nothing is typed yet all are told."""
    assert in_bash(environ, "") == list(ALL)


def test_bash_offers_files_with_odd_names(environ: dict[str, str], tmp_path: Path) -> None:
    """A file is one word, whatever its name; nothing in it is run."""
    (tmp_path / "a b.rec").touch()
    (tmp_path / "a$(touch gone).rec").touch()

    found = in_bash(environ, "replay", f"{tmp_path}/a")

    assert sorted(found) == [f"{tmp_path}/a b.rec", f"{tmp_path}/a$(touch gone).rec"]
    assert not (tmp_path / "gone").exists()


@pytest.mark.usefixtures("serving")
def test_bash_asks_the_daemon_for_names(environ: dict[str, str]) -> None:
    """Namespaces, pods, units and settings are those of the node that answers."""
    assert in_bash(environ, "pods", "-n", "") == ["shop"]
    assert in_bash(environ, "pods", "-n", "x") == []
    assert in_bash(environ, "explain", "pod", "shop/w") == ["shop/web"]
    assert in_bash(environ, "explain", "unit", "idle") == ["idle.service"]
    assert in_bash(environ, "explain", "n") == ["nginx"]
    assert in_bash(environ, "explain", "con") == ["container"]
    assert in_bash(environ, "config", "rapl.i") == ["rapl.interval"]
    assert in_bash(environ, "config", "show", "rapl.i") == ["rapl.interval"]
    # A name that somebody chose to run something in a shell is not offered.
    assert not [name for name in in_bash(environ, "explain", "unit", "") if "\\" in name]


@pytest.mark.usefixtures("serving")
def test_the_socket_on_the_line_is_the_one_that_is_asked(environ: dict[str, str]) -> None:
    """Names come from the daemon that the command would ask."""
    path = environ["TYCHOD_SOCKET"]
    environ["TYCHOD_SOCKET"] = f"{path}.none"

    assert in_bash(environ, "pods", "-n", "sh") == []
    assert in_bash(environ, "--socket", path, "pods", "-n", "sh") == ["shop"]
    assert in_bash(environ, "pods", "--socket", "=", path, "-n", "sh") == ["shop"]
    if shutil.which("zsh"):
        line = f"tychoctl --socket {path} pods -n sh"
        assert in_zsh(environ, [line]) == [f"{line}op "]


def test_without_a_daemon_nothing_is_said(environ: dict[str, str]) -> None:
    """Who presses a key wants no error message: neither in the shell nor of the command."""
    assert in_bash(environ, "pods", "-n", "") == []
    done = subprocess.run(
        ["tychoctl", "completion", "namespaces"],
        env=environ,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def in_zsh(environ: dict[str, str], lines: Sequence[str]) -> list[str]:
    """Type lines into zsh on a terminal, a tabulator after each; return what they become."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], environ)  # noqa: S606 - the shell itself
    try:
        os.write(terminal, TRY_ZSH.format(script=ZSH).encode())
        _until(terminal, b"READY")
        found = []
        for line in lines:
            os.write(terminal, line.encode() + b"\t\x14")
            text = _until(terminal, b">>").rpartition(b"<<")[2].partition(b">>")[0]
            found.append(text.decode())
        return found
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def _until(terminal: int, mark: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + PATIENCE_S
    while mark not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536)
    assert mark in seen, seen
    return seen


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
@pytest.mark.usefixtures("serving")
def test_zsh_completes_what_fits(environ: dict[str, str]) -> None:
    """Commands, options, values, and names from the daemon, typed into a real shell."""
    wanted = {
        "tychoctl po": "tychoctl pods ",
        "tychoctl -o wide nod": "tychoctl -o wide node ",
        "tychoctl pods --sort e": "tychoctl pods --sort energy ",
        "tychoctl pods --no-h": "tychoctl pods --no-headers ",
        "tychoctl record f -o j": "tychoctl record f -o json ",
        "tychoctl replay f uni": "tychoctl replay f units ",
        "tychoctl config show rapl.i": "tychoctl config show rapl.interval ",
        "tychoctl pods -n sh": "tychoctl pods -n shop ",
        "tychoctl explain pod shop/w": "tychoctl explain pod shop/web ",
        "tychoctl explain ngi": "tychoctl explain nginx ",
        "tychoctl explain contain": "tychoctl explain container ",
        "tychoctl config rapl.i": "tychoctl config rapl.interval ",
        "tychoctl report --since yes": "tychoctl report --since yesterday ",
    }

    assert dict(zip(wanted, in_zsh(environ, list(wanted)), strict=True)) == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_scripts_are_sound(shell: str) -> None:
    """Each shell can read its script whole."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = {"bash": BASH, "zsh": ZSH}[shell]
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")

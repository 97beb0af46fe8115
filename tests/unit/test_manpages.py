"""Manual pages: what they must hold, and that the programs that show them have nothing to say."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from docs.manpages import render_pages
from tychoctl.grammar import commands_in, options_of
from tychoctl.options import ALL, make_parser
from tychod import load
from tychod.__main__ import build_parser
from tychod.config import Config
from tychod.config_text import section_type
from tychod.schema import fields_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("tychoctl.1", "tychod.8", "tychod-load.8", "tychod.toml.5")
ALWAYS = (
    *("NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "ENVIRONMENT", "EXAMPLES"),
    "SEE ALSO",
)
OF_PROGRAMS = ("OPTIONS", "EXIT STATUS")


def read(page: str) -> str:
    """Return a page as it is checked in."""
    return (ROOT / "packaging/man" / page).read_text()


def plain(text: str) -> str:
    """Return a page's text without fonts and escapes."""
    for mark in ("\\fB", "\\fI", "\\fR", "\\&"):
        text = text.replace(mark, "")
    return text.replace("\\-", "-").replace("\\e", "\\")


@pytest.mark.parametrize("page", PAGES)
def test_the_sections_are_those_of_a_manual_page(page: str) -> None:
    """Each begins with NAME, in the form that whatis reads, and has what readers look for."""
    text = read(page)
    titles = [line[4:] for line in text.splitlines() if line.startswith(".SH ")]
    wanted = ALWAYS if page.endswith(".5") else ALWAYS + OF_PROGRAMS

    assert titles[0] == "NAME"
    assert set(wanted) <= set(titles)
    assert len(titles) == len(set(titles))
    name = plain(text.split(".SH NAME\n")[1].split("\n")[0])
    assert name.startswith(f"{page.rpartition('.')[0]} - ")


def test_every_command_and_option_is_in_the_page() -> None:
    """What tychoctl takes is described: commands, options short and long, an example each."""
    text = plain(read("tychoctl.1"))
    joined = " ".join(text.split())
    for name, parser in commands_in(make_parser(ALL.values())).items():
        assert f"\n{name}" in text
        assert ALL[name].example in joined
        for option in options_of(parser):
            assert all(spelled in text for spelled in option.names)


def test_every_option_of_the_daemon_and_the_loader_is_in_its_page() -> None:
    """What tychod and tychod-load take is described, each command of the loader, too."""
    for option in options_of(build_parser()):
        assert all(spelled in plain(read("tychod.8")) for spelled in option.names)
    text = plain(read("tychod-load.8"))
    commands = commands_in(load.build_parser())
    assert commands.keys() == {name for name, _ in load.COMMANDS}
    for name, parser in commands.items():
        assert f".TP\n{name}\n" in text
        for option in options_of(parser):
            assert all(spelled in text for spelled in option.names)


def test_every_setting_is_in_the_page() -> None:
    """Each section, and in it each setting with its default."""
    text = plain(read("tychod.toml.5"))
    for section in fields_of(Config):
        _, found, body = text.partition(f".SS [{section.name}]\n")
        assert found
        body = body.split("\n.SS ")[0].split("\n.SH ")[0]
        for spec in fields_of(section_type(section)):
            assert f"\n{spec.name} = " in body


def test_pages_do_not_depend_on_the_day() -> None:
    """Two builds of one checkout are the same; no line is taken for a request by accident."""
    first, second = render_pages(), render_pages()

    assert first == second
    for text in first.values():
        for line in text.splitlines():
            assert not line.startswith("'")
            assert not line.startswith(".") or line.split()[0] in (
                *(".TH", ".SH", ".SS", ".PP", ".TP", ".RS", ".RE", ".nf", ".fi"),
            )


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "command",
    [
        ("man", "-l", "--warnings=all"),
        ("groff", "-man", "-ww", "-Tutf8"),
        ("mandoc", "-Tlint", "-Werror"),
    ],
    ids=lambda command: command[0],
)
def test_what_shows_pages_does_not_complain(page: str, command: tuple[str, ...]) -> None:
    """No warning of man, groff or mandoc, at the width of most terminals."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [*command, str(ROOT / "packaging/man" / page)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"},
    )

    assert done.stderr == ""
    assert done.returncode == 0
    shown = re.sub(".\b", "", done.stdout)  # bold as printers have it
    assert "EXAMPLES" in shown or command[0] == "mandoc"

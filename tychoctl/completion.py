"""`tychoctl completion`: the scripts for bash and zsh, and the names that they ask for."""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from tychoctl import output
from tychoctl.client import Connection, Failure, Reply, socket_path
from tychoctl.grammar import Option, commands_in, options_of, words_of
from tychoctl.options import ALL, Options, make_parser
from tychoctl.view import Entry, entries

SHELLS: Final = ("bash", "zsh")
ASKED: Final = ("namespaces", "names", "settings")
TIMEOUT_S: Final = 1.0
"""Longer than that nobody waits for a key."""
KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "pod": ("pods", "pods"),
    "container": ("containers", "workloads"),
    "vm": ("vms", "workloads"),
    "unit": ("units", "workloads"),
    "workload": ("workloads", "workloads"),
}
"""What to ask for the names of a kind, and where the answer has them."""
SAFE: Final = r"[A-Za-z0-9_][A-Za-z0-9._@/+-]{0,252}"
"""Names that no shell takes for anything else; others may have been chosen by anybody."""
# What stands for a value in a help text, and what the shell offers there.
OFFERS: Final[Mapping[str, str]] = {
    "NS": "@namespaces",
    "NAME": "@names",
    "PATH": "@files",
    "FILE": "@files",
    "DIR": "@files",
    "KEY": "@settings",
    "ACTION": "show default @settings",
}
MORE: Final[Mapping[str, str]] = {
    "what": "@names",
    "since": "today yesterday 24h 7d",
    "until": "today yesterday 24h 7d",
    "last": "24h 7d today yesterday",
}
"""What the shell offers beside the choices, by where argparse keeps the value."""


class Place(NamedTuple):
    """What one command, or no command yet, takes."""

    options: list[Option]
    words: list[Option]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what completion takes."""
    parser.add_argument(
        "action",
        metavar="SHELL",
        choices=(*SHELLS, *ASKED),
        help="bash or zsh: print its script; namespaces, settings, names: what the scripts ask "
        "for, a line each, nothing where tychod does not answer",
    )
    parser.add_argument(
        "shown",
        metavar="KIND",
        nargs="?",
        default=None,
        choices=tuple(KINDS),
        help=f"of whom names are asked: {', '.join(KINDS)} (default: workload)",
    )


def run(options: Options) -> int:
    """Print a script, or names."""
    if options.action in ASKED:
        output.write("".join(f"{name}\n" for name in ask(options)))
        return 0
    if options.shown is not None:
        raise Failure("usage", f"completion {options.action} takes no {options.shown!r}")
    output.write(render(options.action))
    return 0


def render(shell: str) -> str:
    """Return the script for a shell."""
    from tychoctl import completion_bash, completion_zsh

    scripts: Mapping[str, Callable[[Mapping[str, Place]], str]] = {
        "bash": completion_bash.render_script,
        "zsh": completion_zsh.render_script,
    }
    return scripts[shell](places())


def places() -> Mapping[str, Place]:
    """Return what every command takes; under the empty name: what stands before one."""
    parser = make_parser(ALL.values())
    found = {"": Place(options_of(parser), [])}
    for name, own in commands_in(parser).items():
        found[name] = Place(options_of(own), words_of(own))
    return found


def offer(option: Option) -> str:
    """Return the words that an option or word takes, or what to ask for, or nothing."""
    shown = SHELLS if option.metavar == "SHELL" else option.choices
    told = " ".join([*shown, MORE.get(option.dest, "")]).strip()
    return told or OFFERS.get(option.metavar, "")


def doc(option: Option) -> str:
    """Return the help of an option up to where it goes into detail."""
    return re.split(r"[;:(]", option.help, maxsplit=1)[0].strip()


def ask(options: Options) -> list[str]:
    """Return names for a shell, in order; none where the daemon does not tell them at once."""
    path = socket_path(options.socket)
    if options.action == "namespaces":
        op, read = "pods", _namespaces
    elif options.action == "settings":
        op, read = "config", _settings
    else:
        op, key = KINDS[options.shown or "workload"]
        read = _pods if key == "pods" else _names
    try:
        with Connection(path, TIMEOUT_S) as connection:
            reply = connection.call(op)
    except Failure:
        return []
    return sorted({name for name in read(reply) if re.fullmatch(SAFE, name)})


def _namespaces(reply: Reply) -> Iterable[str]:
    return (str(entry.get("namespace")) for entry in entries(reply, "pods") if _has(entry))


def _has(entry: Entry) -> bool:
    return bool(entry.get("namespace"))


def _settings(reply: Reply) -> Iterable[str]:
    return (str(entry.get("key")) for entry in entries(reply, "config"))


def _pods(reply: Reply) -> Iterable[str]:
    found = (entry for entry in entries(reply, "pods") if _has(entry))
    return (f"{entry.get('namespace')}/{entry.get('name')}" for entry in found)


def _names(reply: Reply) -> Iterable[str]:
    return (str(entry.get("name")) for entry in entries(reply, "workloads") if entry.get("name"))

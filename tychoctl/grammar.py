"""What argparse was told of options, commands and words: for help, completion and manual pages."""

import argparse
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Option(NamedTuple):
    """One option, or, without names, one word that a command takes."""

    names: tuple[str, ...]
    metavar: str  # empty where it takes no value
    choices: tuple[str, ...]
    help: str
    optional: bool = False  # it may stand without its value; a word may be left out
    dest: str = ""  # where argparse keeps its value

    @property
    def takes_value(self) -> bool:
        """Say whether something follows it."""
        return bool(self.metavar)


def commands_in(parser: object) -> Mapping[str, argparse.ArgumentParser]:
    """Return the commands of a parser, each with its own."""
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - argparse tells no other way
            return dict(action.choices)
    return {}


def options_of(parser: object) -> list[Option]:
    """Return the options of a parser, --help among them, in the order of their declaration."""
    return [_option(action) for action in _actions(parser) if action.option_strings]


def words_of(parser: object) -> list[Option]:
    """Return the words that a parser takes in order, without its commands."""
    return [
        _option(action)
        for action in _actions(parser)
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    ]


def _actions(parser: object) -> Iterator[argparse.Action]:
    if isinstance(parser, argparse.ArgumentParser):
        yield from parser._actions  # noqa: SLF001 - argparse tells no other way


def _option(action: argparse.Action) -> Option:
    choices = tuple(map(str, action.choices or ()))
    metavar = action.metavar if isinstance(action.metavar, str) else None
    shown = metavar or action.dest.upper()
    return Option(
        tuple(action.option_strings),
        "" if action.nargs == 0 else shown,
        choices,
        "" if action.help in (None, argparse.SUPPRESS) else str(action.help).replace("%%", "%"),
        action.nargs in ("?", "*"),
        action.dest,
    )

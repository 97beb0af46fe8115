"""Why a command line means nothing: what, which, and what would; loaded when one has options."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Final

from tychoctl.client import Failure
from tychoctl.commands import COMMANDS, Command, Task
from tychoctl.options import ALL, COMMON, Options

# argparse has no other way to say which text it took for a command, or for a word or value.
WRONG_CHOICE: Final = r"argument (.*?): invalid choice: '(.*)' \(choose from (.*)\)"
VALUED: Final = ("-o", "--output", "--wait", "--socket")
BEFORE: Final = ("-h", "--help", "-w", "--watch", *VALUED)
LIVE: Final = {"top": "top is live already: leave out -w, or see --interval"}
NO_LABELS: Final = (
    "report knows no labels: totals are kept by namespace, pod, unit and workload (--by, -n)"
)
LIST_OPTIONS: Final[Mapping[str, str]] = {
    "namespace": "-n",
    "all_namespaces": "-A",
    "selector": "-l",
    "sums": "--namespaces or --slices",
    "sort": "--sort",
    "reverse": "-r",
    "limit": "--limit",
    "everything": "-a",
}


def usage(message: str, command: str = "") -> Failure:
    """Return a failure of the command line that leads to the help."""
    return Failure("usage", f"{message}; see {' '.join(['tychoctl', command]).strip()} --help")


def nearest(text: str, known: Iterable[str]) -> str:
    """Return a question with the known word that is most alike, empty where none is."""
    import difflib

    near = difflib.get_close_matches(text, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def wrong_choice(message: str, prog: str) -> Failure | None:
    """Return what to tell of a word that is none of those known; None where it means another."""
    found = re.match(WRONG_CHOICE, message, re.DOTALL)
    if found is None:
        return None
    what, text, told = found[1], found[2], found[3]
    if prog == "tychoctl" and what == "COMMAND":
        hint = nearest(text, ALL) or "; tychoctl --help lists them"
        return Failure("usage", f"there is no command {text!r}{hint}")
    known = re.findall(r"[\w-]+", told)
    if what == "COMMAND":
        hint = nearest(text, known) or f"; it has {', '.join(known)}"
        return Failure("usage", f"replay prints no {text}{hint}")
    listed = f"argument {what}: {text!r} is none of {', '.join(known)}"
    return Failure("usage", listed + (nearest(text, known) or f"; see {prog} --help"))


def misplaced(argv: Sequence[str]) -> Failure | None:
    """Return what to tell where an option of a command stands before it."""
    at = next((i for i, argument in enumerate(argv) if argument in ALL), 0)
    pairs = zip(["", *argv], argv[:at], strict=False)
    own = [argument for before, argument in pairs if before not in VALUED]
    early = [a for a in own if a.startswith("-") and not a.startswith(BEFORE)]
    if not early:
        return None
    command = argv[at]
    option = early[0].partition("=")[0]
    return usage(f"{option} stands after the command: tychoctl {command} {option} ...", command)


def unknown_arguments(command: str, unknown: Sequence[str]) -> Failure:
    """Return what to tell of arguments that a command does not take."""
    text, _, _ = unknown[0].partition("=")
    if not text.startswith("-"):
        return usage(f"{command or 'it'} takes no argument {text!r} here", command)
    from tychoctl.options import make_parser

    parser = make_parser(ALL.values())
    elsewhere = {name for other in ALL for name in option_strings(parser, other)}
    known = option_strings(parser, command)
    is_typo = text.startswith("--") and text not in elsewhere
    hint = nearest(text, known) if is_typo else ""
    message = f"{command or 'it'} knows no {text}"
    if text == "--watch":  # as -w is spelled by now
        message = _why_not(command, "-w")
    elif command == "report" and text.startswith(("-l", "--selector")):
        message = NO_LABELS
    elif hint:
        return Failure("usage", message + hint)
    return usage(message, command)


def option_strings(parser: object, command: str) -> list[str]:
    """Return the options of a command, or of no command."""
    from tychoctl.grammar import commands_in, options_of

    own = commands_in(parser)[command] if command else parser
    return [name for option in options_of(own) for name in option.names]


def refuse(options: Options, found: Mapping[str, object]) -> None:
    """Raise ``Failure`` where an option that was given would have no effect."""
    given = found.keys()
    if not options.command:
        _refuse_overview(given)
        return
    command = ALL[options.command]
    _refuse_common(command, options, given)
    for check in CHECKS:
        check(options, given)


def _refuse_overview(given: Set[str]) -> None:
    for name, instead in (("watch", "top"), ("output", "status")):
        if name in given:
            raise usage(f"{COMMON[name]} needs a command, for example tychoctl {instead}")


def _refuse_common(command: Command | Task, options: Options, given: Set[str]) -> None:
    for name, option in COMMON.items():
        if name in given and name not in command.common:
            raise usage(_why_not(command.name, option), command.name)
    if options.output not in command.outputs:
        known = " or ".join(command.outputs)
        raise usage(f"{command.name} has no -o {options.output}, only {known}", command.name)


def _why_not(command: str, option: str) -> str:
    if option == "-w":
        return LIVE.get(command, f"{command} cannot be watched")
    return f"{command} knows no {option}"


def _refuse_default(options: Options, given: Set[str]) -> None:
    if (
        options.action == "default"
        and given - {"command", "action"}
        and (given - {"command", "action", "key"} or options.key)
    ):
        raise usage("config default prints a file; it takes no other option", "config")


def _refuse_namespaces(options: Options, _: Set[str]) -> None:
    if options.all_namespaces and options.namespace is not None:
        raise usage("-A asks for every namespace and -n for one: leave one out", options.command)


def _refuse_sums(options: Options, _: Set[str]) -> None:
    if options.sums is not None and options.selector is not None:
        what = f"--{options.sums} sums up whole {options.sums}"
        raise usage(f"{what}: leave out -l", options.command)


def _refuse_headers(options: Options, _: Set[str]) -> None:
    if not options.no_headers:
        return
    if options.output == "json":
        raise usage("JSON has no headers: leave out --no-headers", options.command)
    command = COMMANDS.get(options.shown or options.command)
    if command is not None and not command.has_headers and options.output != "csv":
        message = f"{command.name} prints a text, no table: --no-headers is for its -o csv"
        raise usage(message, options.command)


def _refuse_replayed(options: Options, given: Set[str]) -> None:
    """Refuse what the command that is replayed would not know."""
    if options.command != "replay":
        return
    asked = [option for name, option in LIST_OPTIONS.items() if name in given]
    asked += ["--no-headers"] if options.no_headers else []
    if options.verify and options.shown is None:
        asked += [f"-o {options.output}"] if options.output in ("wide", "csv") else []
        if asked:
            message = f"replay --verify prints no table for {asked[0]}: name one, such as pods"
            raise usage(message, "replay")
        return
    shown = options.shown or "workloads"
    command = COMMANDS[shown]
    wrong = {
        "-n": options.namespace is not None and not command.has_namespaces,
        "-A": options.all_namespaces and not command.has_namespaces,
        "-l": options.selector is not None and not command.has_labels,
        f"--{options.sums}": options.sums is not None and options.sums != command.sums,
        **{option: name in given and not command.is_list for name, option in PLAIN.items()},
    }
    for option, is_wrong in wrong.items():
        if is_wrong:
            raise usage(f"{shown} knows no {option}", shown)


PLAIN: Final = {name: LIST_OPTIONS[name] for name in ("sort", "reverse", "limit", "everything")}
CHECKS: Final[tuple[Callable[[Options, Set[str]], None], ...]] = (
    _refuse_default,
    _refuse_namespaces,
    _refuse_sums,
    _refuse_headers,
    _refuse_replayed,
)

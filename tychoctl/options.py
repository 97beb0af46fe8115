"""The command line: options before or after the command, checked; nothing is asked yet."""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, NoReturn

from tychoctl.client import DEFAULT_SOCKET, Failure
from tychoctl.commands import COMMANDS, OUTPUTS, REPLAYED, TASKS, Command, Output, Task
from tychoctl.output import terminal_size, write
from tychoctl.values import (
    NUMBER,
    parse_count,
    parse_duration,
    parse_interval,
    parse_labels,
    parse_namespace,
    parse_wait,
    settle_setting,
)
from tychoctl.view import DEFAULT_SORT, SORTS, Selector

ALL: Final[Mapping[str, Command | Task]] = {**COMMANDS, **TASKS}


class Options(NamedTuple):
    """What the user asked for; ``watch`` and ``wait`` in seconds, None where not given."""

    command: str = ""  # none given: the status on one screen
    socket: str | None = None
    output: Output = "table"
    watch: float | None = None
    wait: float | None = None
    namespace: str | None = None
    all_namespaces: bool = False
    sort: str = DEFAULT_SORT
    reverse: bool = False
    ordered: bool = False  # somebody asked for an order, which JSON keeps then, too
    limit: int | None = None
    no_headers: bool = False
    everything: bool = False
    selector: Selector | None = None
    sums: str | None = None
    action: str = "show"
    key: str | None = None
    file: str = ""
    seconds: float = 60.0
    force: bool = False
    shown: str | None = None
    verify: bool = False
    group: str | None = None  # of checks
    config: str | None = None  # of tychod, for doctor
    config_dir: str | None = None
    what: str = "workload"  # kind of what is explained
    name: str = ""
    kind: str | None = None
    flat: bool = False
    units: Literal["W", "J", "Wh"] = "W"
    interval: float | None = None
    names: str | None = None  # of metrics
    openmetrics: bool = False
    by: str = "namespace"  # of a report
    since: str | None = None
    until: str | None = None
    last: str | None = None


class Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse's own, told the width: to find it out it imports shutil, whenever it is made."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=help_width())


def help_width() -> int:
    """Return the cells of a line of help."""
    size = terminal_size()
    return (size.columns if size else 100) - 2


class Parser(argparse.ArgumentParser):
    """argparse that leaves it to the caller how an error is told."""

    def print_help(self, file: object = None) -> None:  # noqa: ARG002 - argparse passes it
        """Print the help as everything is printed: a full disk is told."""
        write(self.format_help())

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and how to get help."""
        from tychoctl.refusals import usage, wrong_choice

        command = self.prog.removeprefix("tychoctl").strip()
        raise wrong_choice(message, self.prog) or usage(message, command)


def parse_options(argv: Sequence[str]) -> Options:
    """Return the options; raise ``Failure`` (usage) when they are wrong."""
    joined = understood(join_watch(argv))
    try:
        space, unknown = make_parser(meant(joined)).parse_known_args(joined)
    except Failure as failure:
        from tychoctl.refusals import misplaced

        raise misplaced(joined) or failure from None
    found = vars(space)
    if found.get("command") == "config":
        settle_setting(found)
    options = Options(**{key: value for key, value in found.items() if value is not None})
    if unknown:
        from tychoctl.refusals import misplaced, unknown_arguments

        raise misplaced(joined) or unknown_arguments(options.command, unknown)
    if found.keys() - {"command"}:
        from tychoctl.refusals import refuse

        refuse(options, found)
    if options.watch is not None and "output" not in found and terminal_size() is None:
        options = options._replace(output="json")  # a program reads it: one answer a line
    return options._replace(ordered=bool(found.keys() & {"sort", "reverse"}))


def meant(argv: Sequence[str]) -> Iterable[Command | Task]:
    """Return the command that a command line has; all where it may be any or help is wanted.

    Each costs time to declare, some import modules for it.
    """
    rest = iter(argv)
    for argument in rest:
        if argument in ("-h", "--help"):
            return ALL.values()
        if argument in ("--socket", "-o", "--output", "--wait"):
            next(rest, None)
        elif not argument.startswith("-"):
            command = ALL.get(argument)
            return ALL.values() if command is None else (command,)
    return ()


def join_watch(argv: Sequence[str]) -> list[str]:
    """Return the arguments with -w and its seconds in one, so that -w never takes the command."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] == "--watch=" and re.fullmatch(NUMBER, argument):
            joined[-1] += argument
        else:
            joined.append("--watch=" if argument in ("-w", "--watch") else argument)
    return joined


def understood(argv: Sequence[str]) -> list[str]:
    """Return the arguments with what people type out of habit spelled as it is here."""
    if "--version" in argv and not any(argument in ALL for argument in argv):
        return ["version" if argument == "--version" else argument for argument in argv]
    return list(argv)


def make_parser(commands: Iterable[Command | Task]) -> argparse.ArgumentParser:
    """Return the parser of these commands; its help lists them when they are all."""
    declared = tuple(commands)
    parser = Parser(
        prog="tychoctl",
        description=_description() if len(declared) > 1 else None,
        epilog=EPILOG,
        formatter_class=Formatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add_common_options(parser, tuple(COMMON), OUTPUTS)
    places = parser.add_subparsers(prog="tychoctl", dest="command", metavar="COMMAND")
    for command in declared:
        own = places.add_parser(
            command.name,
            description=f"{command.doc[0].upper()}{command.doc[1:]}.",
            epilog=f"Example: {command.example}",
            formatter_class=Formatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        add_common_options(own, command.common, command.outputs)
        _add_own_options(own, command)
    return parser


EPILOG: Final = (
    "Without a command: the node's power, its sources and what is wrong, on one screen.\n"
    "tychoctl COMMAND --help describes a command. Exit codes: 0 fine, 1 failed, 2 usage,\n"
    "3 not permitted, 4 not found, 5 tychod is not running."
)


def _description() -> str:
    """Return what the program is for, and every command with a line, in groups."""
    from tychoctl.helptexts import render_groups

    return render_groups(help_width())


COMMON: Final[Mapping[str, str]] = {
    "socket": "--socket",
    "output": "-o",
    "watch": "-w",
    "wait": "--wait",
}
"""Options that stand before or after a command, by where argparse keeps them."""


def add_common_options(
    parser: argparse.ArgumentParser, names: Sequence[str], outputs: Sequence[Output]
) -> None:
    """Declare those options of ``COMMON`` that are named."""
    if "socket" in names:
        parser.add_argument(
            "--socket",
            metavar="PATH",
            help=f"tychod's socket (default: $TYCHOD_SOCKET, else {DEFAULT_SOCKET})",
        )
    if "output" in names:
        words = f"{', '.join(outputs[:-1])} or {outputs[-1]}"
        parser.add_argument(
            "-o", "--output", choices=outputs, metavar="FORMAT", help=f"{words} (default: table)"
        )
    if "watch" in names:
        parser.add_argument(
            "-w",
            "--watch",
            metavar="SECONDS",
            type=parse_interval,
            nargs="?",
            help="repeat: every SECONDS, or for every new window; redraws a terminal, and "
            "elsewhere prints a line of JSON each unless -o says otherwise",
        )
    if "wait" in names:
        parser.add_argument(
            "--wait",
            metavar="SECONDS",
            type=parse_wait,
            help="wait for tychod and its first window (default: 10 for the first window on a "
            "terminal, else 0)",
        )


def _add_own_options(parser: argparse.ArgumentParser, command: Command | Task) -> None:
    if isinstance(command, Task):
        TASK_OPTIONS[command.name](parser)
        return
    if command.is_list:
        _add_list_options(parser, command)
    _add_no_headers(parser)
    if command.name == "config":
        parser.add_argument(
            "action",
            nargs="?",
            default="show",
            metavar="ACTION",
            help="what to print: show, the settings in force with their origin (the default, so "
            "that a KEY may stand alone), or default, the commented default file",
        )
        parser.add_argument(
            "key", nargs="?", default=None, metavar="KEY", help="a setting or a section"
        )


def _add_list_options(parser: argparse.ArgumentParser, *commands: Command) -> None:
    """Declare what any of the commands knows."""
    if any(command.has_namespaces for command in commands):
        add_namespaces(parser, "only this namespace")
    if any(command.has_labels for command in commands):
        parser.add_argument(
            "-l",
            "--selector",
            metavar="LABELS",
            type=parse_labels,
            help="only pods with these labels, as for kubectl: app=web,tier in (front,back),!old",
        )
    for sums in sorted({command.sums for command in commands if command.sums}):
        parser.add_argument(
            f"--{sums}", dest="sums", action="store_const", const=sums, help=f"sums by {sums} alone"
        )
    add_order(parser, SORTS, DEFAULT_SORT)


def add_namespaces(parser: argparse.ArgumentParser, wanted: str) -> None:
    """Declare which namespaces are shown; ``wanted`` says what -n leaves."""
    parser.add_argument("-n", "--namespace", metavar="NS", type=parse_namespace, help=wanted)
    parser.add_argument(
        "-A",
        "--all-namespaces",
        dest="all_namespaces",
        action="store_true",
        help="every namespace, as it is without -n",
    )


def add_order(parser: argparse.ArgumentParser, sorts: Sequence[str], default: str) -> None:
    """Declare which rows come first, and how many and which there are."""
    parser.add_argument(
        "--sort",
        choices=sorts,
        metavar="KEY",
        help=f"order: {', '.join(sorts)} (default: {default}); most first, names from A",
    )
    parser.add_argument("-r", "--reverse", action="store_true", help="the other way round")
    parser.add_argument("--limit", metavar="N", type=parse_count, help="at most N rows")
    parser.add_argument(
        "-a",
        "--all",
        dest="everything",
        action="store_true",
        help="show also what used no energy, as json and csv always do",
    )


def _add_no_headers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-headers",
        dest="no_headers",
        action="store_true",
        help="rows alone, without header and without the notes below (table, wide, csv)",
    )


def _add_record_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="where to write; nobody else can read it")
    parser.add_argument(
        "--for",
        dest="seconds",
        metavar="TIME",
        type=parse_duration,
        help="how long: 90, 90s, 5m, 1h at most (default: 60s); Ctrl-C ends it early",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")


def _add_replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what tychoctl record wrote")
    parser.add_argument(
        "shown",
        nargs="?",
        default=None,
        choices=REPLAYED,
        metavar="COMMAND",
        help=f"what to print: {', '.join(REPLAYED)} (default: workloads)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="say whether every window comes out as it was recorded, to the bit; exit 1: not",
    )
    _add_list_options(parser, *(COMMANDS[name] for name in REPLAYED))
    _add_no_headers(parser)


def _add_completion_options(parser: argparse.ArgumentParser) -> None:
    from tychoctl.completion import add_options

    add_options(parser)


def _add_top_options(parser: argparse.ArgumentParser) -> None:
    from tychoctl import top_options

    top_options.declare(parser)


def _add_metrics_options(parser: argparse.ArgumentParser) -> None:
    from tychoctl.metrics import add_options

    add_options(parser)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    from tychoctl.report import add_options

    add_options(parser)


def _add_explain_options(parser: argparse.ArgumentParser) -> None:
    from tychoctl.explain import add_options

    add_options(parser)


def _add_doctor_options(parser: argparse.ArgumentParser) -> None:
    from tychoctl.doctor_options import add_options

    add_options(parser)


TASK_OPTIONS: Final = {
    "doctor": _add_doctor_options,
    "explain": _add_explain_options,
    "top": _add_top_options,
    "metrics": _add_metrics_options,
    "report": _add_report_options,
    "completion": _add_completion_options,
    "record": _add_record_options,
    "replay": _add_replay_options,
}

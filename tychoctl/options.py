"""The command line: options before or after the command, checked; nothing is asked yet."""

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, NoReturn, get_args

from tychoctl.client import DEFAULT_SOCKET, Failure
from tychoctl.commands import COMMANDS, REPLAYED, TASKS, Command, Task
from tychoctl.output import terminal_size, write
from tychoctl.view import DEFAULT_SORT, SORTS, Selector

Output = Literal["table", "wide", "json", "csv"]
OUTPUTS: Final[tuple[Output, ...]] = get_args(Output)
EVERY_WINDOW: Final = 0.0
"""The interval that means: whenever there is a new window."""
MOST_SECONDS: Final = 86400.0
LEAST_INTERVAL_S: Final = 0.1
LONGEST_RECORDING_S: Final = 3600.0
# Text: most commands need neither, and to compile one takes as long as to import a module.
DURATION: Final = r"([0-9]{1,9}(?:\.[0-9]{0,9})?)(s|m|h|)"
UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "": 1}
NUMBER: Final = r"\d+(\.\d*)?|\.\d+"


class Options(NamedTuple):
    """What the user asked for; ``watch`` and ``wait`` in seconds, None where not given."""

    command: str
    socket: str | None = None
    output: Output = "table"
    watch: float | None = None
    wait: float | None = None
    namespace: str | None = None
    sort: str = DEFAULT_SORT
    limit: int | None = None
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


class Formatter(argparse.HelpFormatter):
    """argparse's own, told the width: to find it out it imports shutil, whenever it is made."""

    def __init__(self, prog: str) -> None:
        size = terminal_size()
        super().__init__(prog, width=(size.columns if size else 100) - 2)


class Parser(argparse.ArgumentParser):
    """argparse that leaves it to the caller how an error is told."""

    def print_help(self, file: object = None) -> None:  # noqa: ARG002 - argparse passes it
        """Print the help as everything is printed: a full disk is told."""
        write(self.format_help())

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and how to get help."""
        raise Failure("usage", f"{message}; see {self.prog} --help")


def parse_options(argv: Sequence[str]) -> Options:
    """Return the options; raise ``Failure`` (usage) when they are wrong."""
    # Each command costs time to declare; the first argument mostly says which one is meant.
    everything: dict[str, Command | Task] = {**COMMANDS, **TASKS}
    first = everything.get(argv[0]) if argv else None
    commands = everything.values() if first is None else (first,)
    found = vars(make_parser(commands).parse_args(join_watch(argv)))
    options = Options(**found)
    command = COMMANDS.get(options.command)
    if options.watch is not None and (command is None or command.op is None):
        raise Failure("usage", f"{options.command} cannot be watched")
    if options.action == "default" and (found.keys() & {"output", "watch"} or options.key):
        raise Failure("usage", "config default prints a file; it takes no other option")
    if options.command == "replay":
        _check_replayed(options)
    if options.sums is not None and options.selector is not None:
        raise Failure("usage", f"--{options.sums} sums up whole {options.sums}: leave out -l")
    return options


def _check_replayed(options: Options) -> None:
    """Refuse what the command that is replayed would not know."""
    shown = options.shown or "workloads"
    command = COMMANDS[shown]
    wrong = {
        "-n": options.namespace is not None and not command.has_namespaces,
        "-l": options.selector is not None and not command.has_labels,
        f"--{options.sums}": options.sums is not None and options.sums != command.sums,
    }
    for option, is_wrong in wrong.items():
        if is_wrong:
            raise Failure("usage", f"{shown} knows no {option}; see tychoctl {shown} --help")


def join_watch(argv: Sequence[str]) -> list[str]:
    """Return the arguments with -w and its seconds in one, so that -w never takes the command."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] == "--watch=" and re.fullmatch(NUMBER, argument):
            joined[-1] += argument
        else:
            joined.append("--watch=" if argument in ("-w", "--watch") else argument)
    return joined


def make_parser(commands: Iterable[Command | Task]) -> argparse.ArgumentParser:
    """Return the parser of these commands."""
    common = _common_options()
    parser = Parser(
        prog="tychoctl",
        description="Shows what tychod measures: energy of this node by pod, container, virtual "
        "machine and unit.",
        epilog="Exit codes: 0 fine, 1 failed, 2 usage, 3 not permitted, 4 not found, 5 tychod is "
        "not running.",
        parents=[common],
        formatter_class=Formatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    places = parser.add_subparsers(
        prog="tychoctl", dest="command", metavar="COMMAND", required=True
    )
    for command in commands:
        own = places.add_parser(
            command.name,
            help=command.doc,
            description=f"{command.doc[0].upper()}{command.doc[1:]}.",
            epilog=f"Example: {command.example}",
            parents=[common],
            formatter_class=Formatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        _add_own_options(own, command)
    return parser


def _common_options() -> Parser:
    common = Parser(add_help=False, formatter_class=Formatter, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--socket",
        metavar="PATH",
        help=f"tychod's socket (default: $TYCHOD_SOCKET, else {DEFAULT_SOCKET})",
    )
    common.add_argument(
        "-o", "--output", choices=OUTPUTS, metavar="FORMAT", help="table, wide, json or csv"
    )
    common.add_argument(
        "-w",
        "--watch",
        metavar="SECONDS",
        type=parse_interval,
        nargs="?",
        help="repeat: every SECONDS, or for every new window",
    )
    common.add_argument(
        "--wait",
        metavar="SECONDS",
        type=parse_wait,
        help="wait for tychod and its first window (default: 10 for the first window on a "
        "terminal, else 0)",
    )
    return common


def _add_own_options(parser: argparse.ArgumentParser, command: Command | Task) -> None:
    if isinstance(command, Task):
        TASK_OPTIONS[command.name](parser)
    elif command.is_list:
        _add_list_options(parser, command)
    if command.name == "config":
        parser.add_argument(
            "action",
            nargs="?",
            default="show",
            choices=("show", "default"),
            help="show: settings in force with their origin (the default); "
            "default: the commented default file",
        )
        parser.add_argument(
            "key", nargs="?", default=None, metavar="KEY", help="a setting or a section"
        )


def _add_list_options(parser: argparse.ArgumentParser, *commands: Command) -> None:
    """Declare what any of the commands knows."""
    if any(command.has_namespaces for command in commands):
        parser.add_argument("-n", "--namespace", metavar="NS", help="only this namespace")
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
    parser.add_argument("--sort", choices=SORTS, help=f"order (default: {DEFAULT_SORT})")
    parser.add_argument("--limit", metavar="N", type=parse_count, help="at most N rows")
    parser.add_argument(
        "-A",
        "--all",
        dest="everything",
        action="store_true",
        help="show also what used no energy",
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


TASK_OPTIONS: Final = {"record": _add_record_options, "replay": _add_replay_options}


def parse_interval(text: str) -> float:
    """Return the seconds of -w; nothing stands for every window."""
    return EVERY_WINDOW if not text else _seconds(text, LEAST_INTERVAL_S)


def parse_wait(text: str) -> float:
    """Return the seconds of --wait."""
    return _seconds(text, 0.0)


def _seconds(text: str, least: float) -> float:
    if not re.fullmatch(NUMBER, text) or not least <= float(text) <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from {least:g} to {MOST_SECONDS:g}"
        )
    return float(text)


def parse_labels(text: str) -> Selector | None:
    """Return what decides, by its labels, whether an entry is wanted; None: every one is.

    An empty selector asks for no label, so it matches those too whose labels nobody knows.
    """
    if not text.strip():
        return None
    from tychoctl.selector import SelectorError, parse_selector

    try:
        return parse_selector(text)
    except SelectorError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def parse_count(text: str) -> int:
    """Return the rows of --limit."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows, 1 or more")
    return int(text)


def parse_duration(text: str) -> float:
    """Return the seconds of --for."""
    found = re.fullmatch(DURATION, text)
    seconds = float(found[1]) * UNITS_S[found[2]] if found else 0.0
    if not 1.0 <= seconds <= LONGEST_RECORDING_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s or 5m, from 1s to 1h")
    return seconds

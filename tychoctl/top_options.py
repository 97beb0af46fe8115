"""The options of `tychoctl top`; every --help imports them, and so nothing else."""

import argparse
from typing import Final, Literal, get_args

from tychoctl.values import parse_interval, parse_labels, parse_namespace
from tychoctl.view import DEFAULT_SORT, SORTS

Unit = Literal["W", "J", "Wh"]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
KINDS: Final = ("container", "vm", "unit", "kernel", "system", "past", "unattributed")


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare them; what they set can be changed by keys."""
    parser.add_argument(
        "-n", "--namespace", metavar="NS", type=parse_namespace, help="only this namespace"
    )
    parser.add_argument(
        "-l",
        "--selector",
        metavar="LABELS",
        type=parse_labels,
        help="only pods with these labels, as for kubectl",
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        metavar="KIND",
        help=f"only one kind of workload: {', '.join(KINDS)}",
    )
    parser.add_argument(
        "--sort", choices=SORTS, help=f"order: {', '.join(SORTS)} (default: {DEFAULT_SORT})"
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--tree", dest="flat", action="store_false", help="namespaces, pods, slices (the default)"
    )
    shape.add_argument("--flat", dest="flat", action="store_true", help="all workloads in one list")
    parser.add_argument(
        "--units",
        choices=UNITS,
        metavar="UNIT",
        help="W: power of the last window (the default); J, Wh: energy since the view began",
    )
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=parse_interval,
        help="look every SECONDS (default: at every new window)",
    )

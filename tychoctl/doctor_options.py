"""The options of `tychoctl doctor`."""

import argparse

from tychoctl.doctor_view import GROUPS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what to show, and the settings of a daemon that was started with others."""
    parser.add_argument(
        "--group", choices=tuple(GROUPS), help=f"only these checks: {', '.join(GROUPS)}"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the settings that tychod was started with, if others"
    )
    parser.add_argument(
        "--config-dir", metavar="DIR", help="their directory (default: /etc/tychod)"
    )

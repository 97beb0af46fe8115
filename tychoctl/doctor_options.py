"""The options of `tychoctl doctor`; every --help imports them, and so nothing else."""

import argparse
from collections.abc import Mapping
from typing import Final

GROUPS: Final[Mapping[str, str]] = {
    "machine": "This machine",
    "service": "The service",
    "accounting": "Accounting of CPU time",
    "energy": "Sources of energy",
    "gpu": "GPUs",
    "names": "Names of pods and units",
}
"""Of checks, in the order in which they are shown."""


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

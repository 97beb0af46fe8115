"""``tychod``: the daemon's command line."""

import argparse
import os
import sys
from collections.abc import Sequence

from tychod.settings import add_arguments, arguments_from, check_config
from tychod.version import read_build


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``tychod``."""
    parser = argparse.ArgumentParser(
        prog="tychod",
        description="Measures where a node's energy goes and attributes it to workloads.",
        epilog="Ask the running daemon with tychoctl; its log is in journalctl -u tychod.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    parser.add_argument(
        "--check-config", action="store_true", help="check the settings, say what is wrong, exit"
    )
    parser.add_argument("--version", action="store_true", help="print version, commit, build time")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; 0 stopped, 1 failed, 2 wrong usage or configuration."""
    namespace = build_parser().parse_args(argv)
    if namespace.version:
        print(f"tychod {' '.join(read_build())}")  # noqa: T201
        return 0
    if namespace.check_config:
        code, text = check_config(arguments_from(namespace), os.environ)
        (sys.stderr if code else sys.stdout).write(text)
        return code
    from tychod.runtime.supervisor import run  # numpy and the sources: not for --version

    return run(arguments_from(namespace), os.environ)


if __name__ == "__main__":
    sys.exit(main())

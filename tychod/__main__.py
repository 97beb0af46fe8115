"""``tychod``: the daemon's command line."""

import argparse
import os
import sys
from collections.abc import Sequence

from tychod.settings import add_arguments, arguments_from, check_config
from tychod.version import read_build, render_version


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
        return _print(render_version("tychod", read_build()) + "\n", 0)
    if namespace.check_config:
        code, text = check_config(arguments_from(namespace), os.environ)
        return _print(text, code)
    from tychod.runtime.supervisor import run  # numpy and the sources: not for --version

    return run(arguments_from(namespace), os.environ)


def _print(text: str, code: int) -> int:
    """Print an answer, or a refusal on standard error; whoever closed the pipe has read enough."""
    stream = sys.stderr if code else sys.stdout
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())

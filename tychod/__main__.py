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
    parser.add_argument(
        "--replay",
        metavar="FILE",
        help="analyse what tychoctl record wrote, say what came of it, exit",
    )
    parser.add_argument(
        "--verify", action="store_true", help="with --replay: compare with the recorded results"
    )
    parser.add_argument("--json", action="store_true", help="with --replay: print one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; 0 stopped, 1 failed, 2 wrong usage or configuration."""
    parser = build_parser()
    namespace = parser.parse_args(argv)
    if namespace.version:
        return _print(render_version("tychod", read_build()) + "\n", 0)
    if namespace.check_config:
        code, text = check_config(arguments_from(namespace), os.environ)
        return _print(text, code)
    if namespace.replay is not None:
        return _replay(namespace.replay, as_json=namespace.json, verify=namespace.verify)
    if namespace.json or namespace.verify:
        parser.error("--json and --verify go with --replay FILE")
    from tychod.runtime.supervisor import run  # numpy and the sources: not for --version

    return run(arguments_from(namespace), os.environ)


def _replay(path: str, *, as_json: bool, verify: bool) -> int:
    """Print what came of a recording; what is wrong with it goes to standard error."""
    # As in the unit, and before numpy is loaded: threads would change the order of sums.
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    from tychod.replay import replay

    outcome = replay(path, as_json=as_json, verify=verify)
    _print(outcome.text, 0)
    if outcome.problem:
        _print(f"tychod: {outcome.problem}\n", 1)
    return outcome.code


def _print(text: str, code: int) -> int:
    """Print an answer, or a refusal on standard error; whoever closed the pipe has read enough."""
    stream = sys.stderr if code else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())

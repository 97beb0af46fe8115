"""``tychod``: the daemon's command line."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn, TextIO

from tychod.settings import add_arguments, arguments_from, check_config
from tychod.version import read_build, render_version

CALIBRATION_S: Final = 60.0


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
    parser.add_argument(
        "--hash-password",
        action="store_true",
        help="ask for a password, print its hash for [metrics] users_file, exit",
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
    parser.add_argument(
        "--json",
        action="store_true",
        help="with --replay, --calibrate, --doctor: print one JSON object",
    )
    parser.add_argument(
        "--doctor", action="store_true", help="look what is in place on this host, exit; 1: a fault"
    )
    add_calibration(parser)
    return parser


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a calibration."""
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="learn how often GPUs and the BMC publish, store it, exit; not beside the daemon",
    )
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=_seconds,
        help="with --calibrate: follow them for N seconds (default: 60)",
    )
    parser.add_argument(
        "--load",
        metavar="COMMAND",
        default="",
        help="with --calibrate: start and stop this load to learn the GPUs' delay",
    )


def _seconds(text: str) -> float:
    """Refuse what is no time that one can wait for."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("is no number of seconds from 1 to 86400")
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; 0 stopped, 1 failed, 2 wrong usage or configuration."""
    parser = build_parser()
    namespace = parser.parse_args(argv)
    code = _run_once(namespace)
    if code is not None:
        return code
    if namespace.json or namespace.verify or namespace.load or namespace.seconds:
        parser.error(
            "--verify goes with --replay FILE, --load and --seconds with --calibrate, "
            "--json with both and with --doctor"
        )
    # As in the unit: threads of a BLAS cost more than they bring for systems as small as ours.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from tychod.runtime.supervisor import run  # numpy and the sources: not for --version

    return run(arguments_from(namespace), os.environ)


def _run_once(namespace: argparse.Namespace) -> int | None:
    """Do what is asked for instead of the daemon; None where nothing is."""
    code: int | None = None
    if namespace.version:
        code = _print(render_version("tychod", read_build()) + "\n", 0)
    elif namespace.check_config:
        failed, text = check_config(arguments_from(namespace), os.environ)
        code = _print(text, failed)
    elif namespace.hash_password:
        code = _hash_password()
    elif namespace.replay is not None:
        code = _replay(namespace.replay, as_json=namespace.json, verify=namespace.verify)
    elif namespace.doctor:
        code = _doctor(namespace)
    elif namespace.calibrate:
        code = _calibrate(namespace)
    return code


def _calibrate(namespace: argparse.Namespace) -> int:
    """Print what was learned of the devices that publish."""
    from tychod.runtime.calibration_run import calibrate

    outcome = calibrate(
        arguments_from(namespace),
        os.environ,
        seconds=namespace.seconds or CALIBRATION_S,
        load=namespace.load,
        as_json=namespace.json,
    )
    return _print(outcome.text, outcome.code)


def _hash_password() -> int:
    """Print the hash of a password for `[metrics] users_file`; it is never on a command line."""
    from tychod.runtime.http_auth import UsersError, ask_password, hash_text

    try:
        return _print(hash_text(ask_password(sys.stdin)) + "\n", 0)
    except (UsersError, OSError, EOFError, KeyboardInterrupt) as exc:
        return _print(f"tychod: {str(exc) or 'no password was given'}\n", 1)


def _doctor(namespace: argparse.Namespace) -> NoReturn:
    """Print what every check of this host found; the findings are the answer, good or bad."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    from tychod.doctor.diagnose import doctor

    outcome = doctor(arguments_from(namespace), os.environ, as_json=namespace.json)
    failed = _print(outcome.text, 0)
    # What hangs in a thread must not hold up the end, which the interpreter's own way would.
    os._exit(failed or outcome.code)


def _replay(path: str, *, as_json: bool, verify: bool) -> int:
    """Print what came of a recording; what is wrong with it goes to standard error."""
    # As in the unit, and before numpy is loaded: threads would change the order of sums.
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    from tychod.replay import replay

    outcome = replay(path, as_json=as_json, verify=verify)
    failed = _print(outcome.text, 0)
    if outcome.problem:
        _print(f"tychod: {outcome.problem}\n", 1)
    return failed or outcome.code


def _print(text: str, code: int) -> int:
    """Print an answer, or a refusal on standard error; return ``code``, 1 if that cannot be done.

    Whoever closed the pipe has read enough.
    """
    problem = _write(sys.stderr if code else sys.stdout, text)
    if not problem:
        return code
    if not code:
        _write(sys.stderr, f"tychod: cannot write to standard output: {problem}\n")
    return code or 1


def _write(stream: TextIO | None, text: str) -> str:
    """Write to a standard stream; return what is wrong with it, or ""."""
    if stream is None:  # as Python has one whose descriptor was closed before the start
        return "it is closed"
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        stream.write(text)
        stream.flush()
    except OSError as exc:
        # The interpreter flushes once more at its end and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())
        return "" if isinstance(exc, BrokenPipeError) else exc.strerror or str(exc)
    return ""


if __name__ == "__main__":
    sys.exit(main())

"""`tychoctl record` and `tychoctl replay`: what analysis is given goes into a file, and back."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tychoctl import output
from tychoctl.client import Connection, Failure, Reply
from tychoctl.commands import COMMANDS
from tychoctl.options import Options
from tychoctl.run import begin_stream, show_progress
from tychoctl.view import View

PART: Final = ".part"
MODE: Final = 0o600
"""A recording names every workload and process of the node: it is for its owner alone."""
RUN_TYCHOD: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from tychod.__main__ import main; sys.exit(main())"
)


class Written(NamedTuple):
    """How much of a recording is in its file."""

    windows: int = 0
    seconds: float = 0.0
    size: int = 0


def record(path: str, options: Options) -> int:
    """Write a recording; Ctrl-C ends it with what there is."""
    target = Path(options.file)
    part = target.with_name(target.name + PART)
    if not options.force:
        refuse_existing(target, part)
    connection, replies = begin_stream(
        path, options.wait, lambda connection: connection.record(options.seconds)
    )
    with connection, ended_by_signals(connection):
        written = save(part, replies, options)
    finish(part, target, written)
    tell(target, written, options)
    return 0


def refuse_existing(target: Path, part: Path) -> None:
    """Raise ``Failure`` where a file is in the way."""
    if target.exists():
        raise Failure("usage", f"{target} is there already; --force overwrites it")
    if part.exists():
        message = f"{part} is there: a recording that runs, or was cut off"
        raise Failure("usage", f"{message}; tychoctl replay reads it, --force overwrites it")


@contextlib.contextmanager
def ended_by_signals(connection: Connection) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM ask the daemon for the end, and a second one end us."""

    def ask(_number: int, _frame: object) -> None:
        connection.end_stream()
        for number, handler in before.items():
            signal.signal(number, handler)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save(part: Path, replies: Iterable[Reply], options: Options) -> Written:
    """Write what comes until it ends; say how far it got where it ends badly."""
    written = Written()
    try:
        with open(create(part), "wb") as file:
            for reply in replies:
                chunk, seconds = reply.get("chunk"), reply.get("seconds")
                file.write(chunk if isinstance(chunk, bytes) else b"")
                windows = reply.get("windows")
                written = Written(
                    windows if isinstance(windows, int) else written.windows,
                    float(seconds) if isinstance(seconds, int | float) else written.seconds,
                    file.tell(),
                )
                asked = f"{written.windows} windows, {written.seconds:.0f} of {options.seconds:g} s"
                show_progress(f"{asked}; Ctrl-C ends with these")
    except OSError as exc:
        raise Failure("output", f"cannot write {part}: {exc.strerror or exc}") from exc
    except Failure as failure:
        raise kept(failure, part, written) from failure
    finally:
        show_progress("")
    return written


def create(part: Path) -> int:
    """Return a new file that only we can read; one that was left there is removed."""
    part.unlink(missing_ok=True)
    return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)


def kept(failure: Failure, part: Path, written: Written) -> Failure:
    """Return a failure that says where to find what came before it."""
    if not written.windows:
        part.unlink(missing_ok=True)
        return failure
    message = f"{failure.message}; {part} holds {written.windows} windows: tychoctl replay reads it"
    return Failure(failure.code, message)


def finish(part: Path, target: Path, written: Written) -> None:
    """Give a whole recording its name; raise ``Failure`` for one without a window."""
    try:
        if written.windows:
            part.rename(target)
            return
        part.unlink()
    except OSError as exc:
        raise Failure("output", f"cannot make {target}: {exc.strerror or exc}") from exc
    raise Failure(
        "failed", f"{target} was not written: no window was over yet; record longer: --for 1m"
    )


def tell(target: Path, written: Written, options: Options) -> None:
    """Say what the recording holds."""
    if options.output == "json":
        output.write(json.dumps({"file": str(target), **written._asdict()}) + "\n")
        return
    size = f"{written.size / 1000:.0f} kB"
    output.write(f"{target}: {written.windows} windows, {written.seconds:.1f} s, {size}\n")


def replay(options: Options, view: View) -> int:
    """Print what the live commands would have printed after the recording's last window."""
    told = run_tychod(options)
    problem = told.get("problem")
    command = options.shown or ("" if options.verify else "workloads")
    if command and told.get("answers"):
        reply = told["answers"][command]
        if "error" in reply:
            raise Failure(reply["error"]["code"], reply["error"]["message"])
        output.write(output.render(COMMANDS[command], reply, options.output, view))
    if options.verify:
        tell_verdict(told, options, alone=not command)
    if problem:
        raise Failure("failed", str(problem))
    return 1 if options.verify and not told.get("identical") else 0


def tell_verdict(told: dict[str, Any], options: Options, *, alone: bool) -> None:
    """Say whether the results were the recorded ones: beside a table on standard error."""
    if alone and options.output == "json":
        names = ("recording", "identical", "verdict", "differences")
        output.write(json.dumps({name: told.get(name) for name in names}) + "\n")
    elif alone:
        output.write(f"{options.file}: {told.get('verdict')}\n")
    else:
        print(f"{options.file}: {told.get('verdict')}", file=sys.stderr, flush=True)


def run_tychod(options: Options) -> dict[str, Any]:
    """Run ``tychod --replay``, of the same installation, and return what it says."""
    root = str(Path(__file__).resolve().parent.parent)
    flags = ["--json", *(["--verify"] if options.verify else [])]
    # -I: the caller's PYTHON* variables must not decide which tychod that is.
    command = [sys.executable, "-I", "-c", RUN_TYCHOD, root]
    done = subprocess.run(
        [*command, f"--replay={options.file}", *flags],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.decode(errors="backslashreplace").strip().splitlines()
        why = lines[-1] if lines else f"tychod --replay ended with status {done.returncode}"
        raise Failure("failed", why.removeprefix("tychod: ")) from None
    return told

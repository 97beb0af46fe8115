"""One command: parses, asks, prints, and turns what went wrong into one line and an exit code."""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final, TypeVar

from tychoctl import output
from tychoctl.client import DEFAULT_SOCKET, Connection, Failure, Reply, socket_path
from tychoctl.commands import COMMANDS, TASKS, Command
from tychoctl.options import Options, parse_options
from tychoctl.values import EVERY_WINDOW
from tychoctl.view import View, choose

T = TypeVar("T")
FIRST_WINDOW_WAIT_S: Final = 10.0  # on a terminal, where nobody asked for another
RETRY_S: Final = 0.2
EXIT_INTERRUPTED: Final = 130  # as a shell reports SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return run(parse_options(arguments))
    except Failure as failure:
        if failure.code == "output" and sys.stdout is not None:
            output.discard(sys.stdout)
        report(failure, as_json=wants_json(arguments))
        return failure.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read us has enough
        output.discard(sys.stdout)
        return 0


def run(options: Options) -> int:
    """Run a command that has been parsed."""
    if not options.command:
        from tychoctl import overview

        return overview.show(options)
    if options.command in TASKS:
        return run_task(options)
    command = COMMANDS[options.command]
    if options.action == "default":
        return print_default_config()
    if options.watch is not None:
        return watch(command, options)
    path = socket_path(options.socket)
    reply = read_versions(path) if command.op is None else ask(path, command.op, options)
    reply = picked(reply, options)
    view = view_of(options)
    output.write(output.render(command, reply, options.output, view))
    if options.output in ("json", "csv") and (options.selector or options.sums):
        tell_untold(command.name, reply, view)
    return 0


def tell_untold(op: str, reply: Reply, view: View) -> None:
    """Say on standard error what could not be judged or summed; a table has it below."""
    from tychoctl import lists

    told = lists.unnamed_note(reply) if view.sums == "namespaces" else []
    if view.selector is not None:
        told += lists.unlabelled_note(op, reply, choose(lists.rows_of(op, reply), view))
    for line in told:
        print(f"tychoctl: {line}", file=sys.stderr, flush=True)


def run_task(options: Options) -> int:
    """Run a command that is more than a question."""
    if options.command == "explain":
        from tychoctl import explain

        code = explain.run(options)
    elif options.command == "completion":
        from tychoctl import completion

        code = completion.run(options)
    elif options.command == "report":
        from tychoctl import report

        code = report.run(options)
    elif options.command == "metrics":
        from tychoctl import metrics

        code = metrics.run(options)
    elif options.command == "top":
        from tychoctl import top

        code = top.start(options)
    elif options.command == "doctor":
        from tychoctl import doctor

        code = doctor.run(options)
    else:
        code = run_recording(options)
    return code


def run_recording(options: Options) -> int:
    """Run a command about files of samples."""
    from tychoctl import recordings

    if options.command == "record":
        return recordings.record(socket_path(options.socket), options)
    return recordings.replay(options, view_of(options))


def view_of(options: Options) -> View:
    """Return what the user wants to see of an answer."""
    return View(
        wide=options.output == "wide",
        namespace=options.namespace,
        sort=options.sort,
        limit=options.limit,
        everything=options.everything,
        selector=options.selector,
        sums=options.sums,
        reverse=options.reverse,
        ordered=options.ordered,
        headers=not options.no_headers,
    )


def ask(path: str, op: str, options: Options) -> Reply:
    """Return the daemon's answer to one operation."""

    def once() -> Reply:
        with Connection(path) as connection:
            return connection.call(op)

    return patiently(once, path, options.wait)


def watch(command: Command, options: Options) -> int:
    """Print answers until the user has enough (0) or the daemon stops."""
    op = command.op or ""

    def start(connection: Connection) -> Iterator[Reply]:
        return (picked(reply, options) for reply in connection.stream(op, interval_of(options)))

    return show_stream(command, options, start)


def interval_of(options: Options) -> float | None:
    """Return the seconds between two answers of a watch; None: one for every window."""
    return None if options.watch == EVERY_WINDOW else options.watch


def show_stream(
    command: Command, options: Options, start: Callable[[Connection], Iterator[Reply]]
) -> int:
    """Print a stream's answers until the user has enough (0) or the daemon stops."""
    gc.enable()  # a watch may run for days
    try:
        connection, replies = begin_stream(socket_path(options.socket), options.wait, start)
        with connection:
            output.write_stream(command, replies, options.output, view_of(options))
    except KeyboardInterrupt:
        return 0
    raise stream_ended()


def begin_stream(
    path: str, wait_s: float | None, start: Callable[[Connection], Iterator[Reply]]
) -> tuple[Connection, Iterator[Reply]]:
    """Return a connection and its stream once the first answer has come."""

    def begin() -> tuple[Connection, Iterator[Reply]]:
        connection = Connection(path)
        try:
            replies = start(connection)
            return connection, chain([first_of(replies)], replies)
        except BaseException:
            connection.close()
            raise

    return patiently(begin, path, wait_s)


def first_of(replies: Iterator[Reply]) -> Reply:
    """Return a stream's first answer."""
    for reply in replies:
        return reply
    raise stream_ended()


def stream_ended() -> Failure:
    """Return what it means that the daemon ends a stream by itself."""
    return Failure(
        "not-running", "tychod ended the stream: it stops or restarts; start again with --wait 10"
    )


def patiently(attempt: Callable[[], T], path: str, wait_s: float | None) -> T:
    """Return what an attempt returns, trying again while the wait lasts and there is hope.

    Without --wait a terminal waits for the first window, and nothing for a daemon.
    """
    codes = ["not-ready", "busy"]
    if wait_s is not None:
        codes.append("not-running")
    default_s = FIRST_WINDOW_WAIT_S if output.terminal_size() else 0.0
    deadline = time.monotonic() + (default_s if wait_s is None else wait_s)
    while True:
        try:
            return attempt()
        except Failure as failure:
            left_s = deadline - time.monotonic()
            if failure.code not in codes or left_s <= 0:
                raise advised(failure, path) from failure
            pause_s = min(max(failure.seconds or 0.0, RETRY_S), left_s)
            show_progress(failure.message)
        time.sleep(pause_s)
        show_progress("")


def show_progress(message: str) -> None:
    """Show what is waited for, on a terminal only; an empty message removes it."""
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{message}")
        sys.stderr.flush()


def advised(failure: Failure, path: str) -> Failure:
    """Return a failure to connect with the advice that only the system can give."""
    if failure.code == "not-running":
        from tychoctl import advice

        service = advice.read_service() if path == DEFAULT_SOCKET else None
        return Failure(failure.code, advice.render_not_running(path, service))
    if failure.code == "not-ready":
        return Failure(failure.code, f"{failure.message}; --wait 10 waits for it", failure.seconds)
    return failure


def read_versions(path: str) -> Reply:
    """Return this program's build and that of the daemon; None where none runs."""
    from tychod.version import read_build

    daemon: Reply | None = None
    try:
        with Connection(path) as connection:
            told = connection.welcome
            version = told.daemon.removeprefix("tychod ")
            daemon = {"version": version, "commit": told.commit, "built": told.built}
    except Failure as failure:
        if failure.code != "not-running":
            raise
    return {"tychoctl": read_build()._asdict(), "tychod": daemon}


def picked(reply: Reply, options: Options) -> Reply:
    """Return an answer with the settings alone that were asked for."""
    return reply if options.key is None else only_settings(reply, options.key)


def only_settings(reply: Reply, key: str) -> Reply:
    """Return the answer with one setting or section; raise ``Failure`` when there is none."""
    found = reply.get("config")
    settings = [s for s in found if isinstance(s, dict)] if isinstance(found, list) else []
    names = [str(setting.get("key")) for setting in settings]
    wanted = [s for s, n in zip(settings, names, strict=True) if (n + ".").startswith(key + ".")]
    if not wanted:
        import difflib

        near = difflib.get_close_matches(key, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; tychoctl config show lists them"
        raise Failure("not-found", f"no setting {key!r}{hint}")
    return {**reply, "config": wanted}


def print_default_config() -> int:
    """Print the commented default file, which was generated from the declarations."""
    from pathlib import Path

    # To load the declarations and render them anew takes twice as long as a command may.
    path = Path(__file__).resolve().parent.parent / "tychod" / "default.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise Failure("failed", f"{path}: {exc.strerror}; reinstall the package") from exc
    output.write(text)
    return 0


def wants_json(arguments: Sequence[str]) -> bool:
    """Say whether errors go out as JSON, even when the arguments are wrong."""
    joined = "\0".join(["", *arguments, ""])
    spellings = ("-o\0json", "-ojson", "--output\0json", "--output=json")
    return any(f"\0{spelling}\0" in joined for spelling in spellings)


def report(failure: Failure, *, as_json: bool) -> None:
    """Tell on standard error what went wrong, in one line; the exit code says it, too."""
    if sys.stderr is None:  # closed before we started
        return
    try:
        print(render_failure(failure, as_json=as_json), file=sys.stderr, flush=True)
    except OSError:
        output.discard(sys.stderr)


def render_failure(failure: Failure, *, as_json: bool) -> str:
    """Return the line about a failure."""
    if as_json:
        import json

        return json.dumps({"error": {"code": failure.code, "message": failure.message}})
    from tychoctl.render import escape

    return f"tychoctl: {escape(failure.message)}"

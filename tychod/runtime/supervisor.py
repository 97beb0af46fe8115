"""The life of the daemon: start in order, roll back on failure, reload, watch, stop."""

import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tychod.collectors import ENERGY_COLLECTORS
from tychod.config import Config
from tychod.runtime.daemon import QUIET_LIMIT_S, Daemon
from tychod.runtime.listener import ListenError, adopt_listener, bind_control_socket
from tychod.runtime.logs import close_logging, set_level, setup_logging
from tychod.runtime.notify import Notifier
from tychod.runtime.places import DEFAULT_SOCKET, StartError, socket_path, state_directory
from tychod.runtime.store import StateInUseError, Store
from tychod.settings import (
    Arguments,
    Settings,
    SettingsError,
    changes,
    load_settings,
    render_summary,
)
from tychod.version import read_build

log = logging.getLogger(__name__)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 2
FIRST_PASS_S: Final = 5.0
"""How long a source may take to answer for the first time before the start goes on without it."""
COLLECT_AFTER: Final = 10_000
"""A window makes thousands of small objects, none of them in a cycle: to look through them after
every 700, as Python does by itself, took about a tenth of the analysis."""
ROOTS: Final = ("procfs", "sysfs", "cgroupfs", "run", "var", "log")


class Signals:
    """Turns signals into words for the main loop; at most one of each waits."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self.stop_asked: Final = threading.Event()
        self._writer.setblocking(False)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen for the signals that a service gets, until the end of the block."""
        before = {
            s: signal.signal(s, self._noted) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)
            self._reader.close()
            self._writer.close()

    def crash(self, _reason: str) -> None:
        """Wake the main loop because a thread failed; callable from any thread."""
        self._send(b"C")

    def _noted(self, number: int, _frame: object) -> None:
        if number != signal.SIGHUP:
            self.stop_asked.set()
        self._send(b"H" if number == signal.SIGHUP else b"T")

    def _send(self, word: bytes) -> None:
        try:
            self._writer.send(word)
        except (BlockingIOError, OSError):
            return  # one that waits already says the same

    def wait(self, timeout_s: float) -> bytes:
        """Return the words that arrived within the time, if any."""
        self._reader.settimeout(timeout_s)
        try:
            return self._reader.recv(64)
        except TimeoutError:
            return b""


def run(args: Arguments, environ: Mapping[str, str]) -> int:
    """Run the daemon until it is told to stop; return its exit status."""
    handler = setup_logging("auto", "info", environ)
    try:
        settings = load_settings(args, environ)
    except SettingsError as exc:
        for problem in exc.problems:
            log.error("%s", problem, extra={"event": "configuration-invalid"})  # noqa: TRY400
        close_logging(handler)
        return EXIT_CONFIG
    close_logging(handler)
    handler = setup_logging(settings.config.log.target, settings.config.log.level, environ)
    notifier = Notifier(environ, os.getpid())
    signals = Signals()
    try:
        with signals.installed():
            return _serve(args, environ, settings, notifier, signals)
    except (StartError, ListenError, StateInUseError) as exc:
        log.error("%s", exc, extra={"event": "start-failed"})  # noqa: TRY400
        return EXIT_FAILED
    finally:
        notifier.close()
        close_logging(handler)


def _serve(
    args: Arguments,
    environ: Mapping[str, str],
    settings: Settings,
    notifier: Notifier,
    signals: Signals,
) -> int:
    sys.setswitchinterval(0.001)  # a sampler gets the interpreter within a millisecond
    threading.stack_size(512 * 1024)
    with ExitStack() as undo:
        store = _open_store(environ)
        undo.callback(store.close)
        listener, path = _open_listener(settings.config, environ)
        undo.callback(listener.close)
        credentials = environ.get("CREDENTIALS_DIRECTORY", "")
        daemon = Daemon(settings, store, listener, path, signals.crash, credentials)
        log.info("%s", render_start(settings, store, path), extra={"event": "start"})
        undo.callback(daemon.stop)
        daemon.start(FIRST_PASS_S, signals.stop_asked.is_set)
        if not signals.stop_asked.is_set():
            notifier.ready(daemon.summary())
            log.info("ready: %s", daemon.summary(), extra={"event": "ready"})
            _spare_collector()
        code = _watch(args, environ, daemon, notifier, signals)
        notifier.stopping("saving state")
        log.info("stops", extra={"event": "stop"})
    return code


def _spare_collector() -> None:
    """Let the garbage collector look for cycles rarely, and never at what the start has made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def render_start(settings: Settings, store: Store, path: Path | None) -> str:
    """Return the block in the log at start: build, files read, resolved paths, sources."""
    build, config = read_build(), settings.config
    roots = ", ".join(f"{name} {getattr(config.host, name)}" for name in ROOTS)
    sources = [
        f"{spec.name} {'off' if (wanted := spec.enabled(config)) is False else wanted}"
        for spec in ENERGY_COLLECTORS
    ]
    return "\n".join(
        [
            f"tychod {build.version} ({build.commit}) starts",
            render_summary(settings),
            f"socket: {path or 'passed by systemd'}",
            f"state: {store.directory}",
            f"host: {roots}",
            f"sources: {', '.join(sources)}, kubelet {config.kubelet.enabled}".replace(
                "True", "required"
            ).replace("False", "off"),
        ]
    )


def _watch(
    args: Arguments,
    environ: Mapping[str, str],
    daemon: Daemon,
    notifier: Notifier,
    signals: Signals,
) -> int:
    """Feed the watchdog while analysis advances, reload on SIGHUP, until SIGTERM or a failure."""
    timeout_s = notifier.watchdog_timeout_s
    pause_s = min(1.0, timeout_s / 4) if timeout_s else 1.0
    told = ""
    while True:
        if daemon.quiet_s() < QUIET_LIMIT_S:
            notifier.watchdog()
        words = signals.wait(pause_s)
        if b"C" in words:
            return EXIT_FAILED
        if b"T" in words:
            return EXIT_OK
        if b"H" in words:
            _reload(args, environ, daemon, notifier)
        daemon.learn_timings()
        if (summary := daemon.summary()) != told and b"H" not in words:
            notifier.status(summary)
            told = summary


def _reload(
    args: Arguments, environ: Mapping[str, str], daemon: Daemon, notifier: Notifier
) -> None:
    notifier.reloading()
    try:
        fresh = load_settings(args, environ)
    except SettingsError as exc:
        for problem in exc.problems:
            log.error("%s", problem, extra={"event": "configuration-rejected"})  # noqa: TRY400
        daemon.reject("; ".join(exc.problems))
        notifier.ready(daemon.summary())
        return
    changed = changes(daemon.settings.config, fresh.config)
    daemon.accept(fresh, changed.live)
    set_level(daemon.settings.config.log.level)
    log.info(
        "configuration reloaded: %s",
        ", ".join(changed.live) or "nothing that can change without a restart",
        extra={"event": "configuration-reloaded"},
    )
    if changed.restart:
        log.warning(
            "these settings need a restart to take effect: %s",
            ", ".join(changed.restart),
            extra={"event": "restart-needed"},
        )
    notifier.ready(daemon.summary())


def _open_store(environ: Mapping[str, str]) -> Store:
    directory = state_directory(environ, os.geteuid())
    try:
        return Store(directory)
    except OSError as exc:
        raise StartError(
            f"state directory {directory} cannot be used: {exc.strerror}; "
            "create it for the daemon's user or set STATE_DIRECTORY"
        ) from exc


def _open_listener(config: Config, environ: Mapping[str, str]) -> tuple[socket.socket, Path | None]:
    passed = adopt_listener(dict(environ))
    if passed is not None:
        return passed, None
    path = socket_path(config, environ)
    if path == Path(DEFAULT_SOCKET) and os.geteuid() == 0:
        path.parent.mkdir(mode=0o755, exist_ok=True)
    return bind_control_socket(path, gid=group_id(config.control.group)), path


def group_id(name: str) -> int | None:
    """Return a group's number, None for no name; raise ``StartError`` for an unknown one."""
    import grp  # only where a group is named

    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(
            f"control.group: there is no group {name!r}; create it with: groupadd --system {name}"
        ) from None

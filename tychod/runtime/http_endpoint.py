"""The metrics endpoint's life: opened when it can be, tried again when not, looked after, closed.

A port that is taken or a file that is wrong never stops measuring: it is a problem that
``tychoctl status`` shows, with what to do.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from tychod.conflicts import is_loopback, split_listen
from tychod.exposition import NO_LIBRARY, has_library
from tychod.model import Trouble
from tychod.runtime.http import BACKLOG, HttpServer
from tychod.runtime.http_auth import Guard
from tychod.runtime.http_exchange import HttpLimits
from tychod.runtime.http_files import EndpointError, Files, files_of, load_context, load_users
from tychod.runtime.http_pages import Known, Pages
from tychod.runtime.problems import REPORT

if TYPE_CHECKING:
    import ssl
    from collections.abc import Container, Iterator, Mapping, Sequence

    from tychod.config_results import Metrics
    from tychod.runtime.http_files import Seen

log = logging.getLogger(__name__)

SOURCE: Final = "metrics"
RETRY_S: Final = 30.0
"""Between two tries to open, and between two looks at the files of an open one."""
CLOSE_S: Final = 0.5
OTHER_ADDRESS: Final = "set [metrics] listen to another address or port, then restart tychod"
REMEDIES: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: f"stop what listens there (ss -ltnp), or {OTHER_ADDRESS}",
    errno.EACCES: "set [metrics] listen to a port of 1024 or more, then restart tychod",
    errno.EADDRNOTAVAIL: f"this host has no such address: {OTHER_ADDRESS}",
}


class LackingError(EndpointError):
    """This host has no such address."""


class Endpoint:
    """One listener, or one for each address of the name that is set, in a thread of its own."""

    def __init__(
        self,
        metrics: Metrics,
        credentials: str,
        known: Known,
        limits: HttpLimits = HttpLimits(),  # noqa: B008 - immutable
        retry_s: float = RETRY_S,
    ) -> None:
        """``credentials``: the directory in which systemd put those of this service."""
        self._metrics = metrics
        self._known = known
        self._files: Final[Files] = files_of(metrics, credentials)
        self._guard = Guard() if self._files.users else None
        self._retry_s = retry_s
        self._context: ssl.SSLContext | None = None
        self._troubles: dict[str, Trouble] = {}
        self._seen: dict[str, Seen] = {}
        self._looked_s = 0.0
        self._addresses: tuple[tuple[str, int], ...] = ()
        self._stop = threading.Event()
        pages = Pages(known, self._guard, _own_names(metrics, self._files))
        self._server = HttpServer(pages.answer, self._current_context, limits)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to open it; never waits and never fails."""
        self._thread.start()

    def ask_stop(self) -> None:
        """Begin to stop: nobody is served any more."""
        if not self._stop.is_set():
            self._stop.set()
            self._server.stop()

    def close(self) -> None:
        """Stop within half a second, whatever clients do."""
        self.ask_stop()
        deadline = time.monotonic() + CLOSE_S
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        self._server.close(deadline)

    def counts(self) -> Mapping[str, int]:
        """Return connections open now, and what came of all since the start."""
        return self._server.counts()

    def troubles(self) -> Iterator[Trouble]:
        """Yield what keeps the endpoint closed, or what it is served in spite of."""
        yield from tuple(self._troubles.values())
        yield from self._known.troubles()

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens; empty while it is closed."""
        return self._addresses

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:  # the outermost frame of the thread: measuring goes on without it
            log.critical("the metrics endpoint failed", exc_info=True)
            self._addresses = ()
            self._troubles["closed"] = Trouble(SOURCE, "the endpoint has failed", REPORT)

    def _serve(self) -> None:
        while not self._stop.is_set():
            with contextlib.ExitStack() as listening:
                try:
                    self._load()
                    listeners = self._listen(listening)
                except EndpointError as exc:
                    self._tell("closed", exc, "the endpoint is closed")
                    self._stop.wait(self._retry_s)
                    continue
                self._tell("closed", None, "")
                self._addresses = tuple(found.getsockname()[:2] for found in listeners)
                scheme = "https" if self._context else "http"
                where = ", ".join(f"{host} port {port}" for host, port in self._addresses)
                log.info("metrics are served by %s on %s", scheme, where)
                self._server.serve(listeners)

    def _load(self) -> None:
        if not has_library():
            raise EndpointError(*NO_LIBRARY)
        self._looked_s = time.monotonic()
        for part in ("tls", "users"):
            self._load_part(part)

    def _load_part(self, part: str) -> None:
        """Load what protects the endpoint; what a failure means is the caller's to say."""
        if part == "tls":
            self._seen[part] = self._files.seen("certificate", "key", "client_ca")
            self._context = load_context(self._files)
        elif self._guard is not None:
            self._seen[part] = self._files.seen("users")
            self._guard.set_users({})
            self._guard.set_users(load_users(self._files.users))

    def _current_context(self) -> ssl.SSLContext | None:
        """Return the context for the next client, of files that were looked at not long ago."""
        if time.monotonic() - self._looked_s >= self._retry_s:
            self._looked_s = time.monotonic()
            self._look_again()
        return self._context

    def _look_again(self) -> None:
        """Take up changed files; a certificate that is half written leaves the last one.

        Users are let in by what the file says now: as long as it cannot be read, nobody is.
        """
        kept = {"tls": "the last good certificate is served", "users": "nobody is let in"}
        names = {"tls": ("certificate", "key", "client_ca"), "users": ("users",)}
        for part, effect in kept.items():
            seen = self._files.seen(*names[part])
            if seen == self._seen.get(part) and part not in self._troubles:
                continue
            try:
                self._load_part(part)
            except EndpointError as exc:
                self._tell(part, exc, effect)
            else:
                self._tell(part, None, "")
                if any(seen):
                    log.info("metrics: %s were read again", " and ".join(names[part]))

    def _tell(self, part: str, exc: EndpointError | None, effect: str) -> None:
        """Keep what is wrong for ``tychoctl status``; the log hears of it once per change."""
        if exc is None:
            self._troubles.pop(part, None)
            return
        trouble = Trouble(SOURCE, f"{exc.reason}: {effect}", exc.remedy)
        if self._troubles.get(part) != trouble:
            self._troubles[part] = trouble
            log.warning("metrics: %s; %s", trouble.reason, trouble.remedy)

    def _listen(self, listening: contextlib.ExitStack) -> Sequence[socket.socket]:
        where = split_listen(self._metrics.listen)
        if where is None:  # refused with the settings; a name may still be too long for a look-up
            raise EndpointError(f"{self._metrics.listen}: no address and port", OTHER_ADDRESS)
        host, port = where
        found = _resolve(host, port)
        if not (self._context or self._metrics.insecure):
            _refuse_open(host, [address[0] for _, address in found])
        return _bind_all(listening, found)


def _own_names(metrics: Metrics, files: Files) -> Container[str] | None:
    """Return what we may be called by whoever needs no password to read; None: anything.

    Only by loopback: who can be reached by others has names that we do not know.
    """
    where = split_listen(metrics.listen)
    if files.users or files.certificate or where is None:
        return None
    if metrics.insecure and not is_loopback(where[0]):
        return None
    return {"localhost", where[0]}


def _bind_all(
    listening: contextlib.ExitStack, found: Sequence[tuple[int, tuple[str, int]]]
) -> Sequence[socket.socket]:
    """Bind all addresses of a name; some that this host lacks, as ::1 often, do no harm."""
    listeners, lacking = [], []
    for family, address in found:
        try:
            listeners.append(listening.enter_context(_bind(family, address)))
        except LackingError as exc:
            lacking.append(exc)
    if not listeners and lacking:
        raise lacking[0]
    return listeners


def _resolve(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    """Return the addresses of a name or literal, each with its family."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or "no name of a host"
        remedy = f"write an address, or mend the name's entry in /etc/hosts; or {OTHER_ADDRESS}"
        raise EndpointError(f"{host}: {reason}", remedy) from exc
    return list(dict.fromkeys((family, address) for family, _, _, _, address in infos))  # type: ignore[misc]


def _refuse_open(host: str, addresses: Sequence[str]) -> None:
    for address in addresses:
        if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            raise EndpointError(
                f"{host} is {address} here, which others can reach",
                "set [metrics] tls_cert_file, or insecure = true to serve it unprotected",
            )


def _bind(family: int, address: tuple[str, int]) -> socket.socket:
    reason = f"{address[0]} port {address[1]}"
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise LackingError(f"{reason}: {exc.strerror}", OTHER_ADDRESS) from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # [::] is every address of the host, whatever the sysctl says
            only = address[0] != "::"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        is_lacking = exc.errno == errno.EADDRNOTAVAIL
        raise (LackingError if is_lacking else EndpointError)(
            f"{reason}: {exc.strerror}", REMEDIES.get(exc.errno or 0, OTHER_ADDRESS)
        ) from exc
    return listener

"""One HTTP question to a peer, whose cost is bounded whoever answers, and why it failed.

Imports `requests`, so it is itself imported only once there is somebody to ask.
"""

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException, HTTPResponse
from io import BufferedReader
from typing import Any, Final, TypeVar, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter

TIMEOUTS: Final = (requests.Timeout, TimeoutError, urllib3.exceptions.TimeoutError)
BROKEN: Final = (
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
)
"""How a peer that hangs up shows, in TLS 1.3 also one that refused the client certificate."""
OUT_OF_DATE: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED
HOSTNAME_MISMATCH: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_
HEAD_LIMIT: Final = 64 << 10
"""Bytes of an answer's head, provisional ones before it included: servers take 8 to 64 KiB."""
_UNFIT: Final = (
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)
"""What parsers of the standard library raise of an answer that nobody thought of."""

E = TypeVar("E", bound=BaseException)


class _Head:
    """The lines of an answer's head: so many bytes at most, and no line within a line.

    `email` takes a lone CR for the end of a line: 6 MB of head become 2 million fields, or
    thousands of messages one inside another.
    """

    def __init__(self, lines: BufferedReader) -> None:
        self._lines = lines
        self._left = HEAD_LIMIT

    def readline(self, limit: int) -> bytes:
        """Return a line; HTTPException where no honest peer would have sent it."""
        line = self._lines.readline(limit)
        self._left -= len(line)
        if self._left < 0 or b"\r" in line.removesuffix(b"\n").removesuffix(b"\r"):
            raise HTTPException("the head is too long, or there is a line within a line")
        return line


class _Response(HTTPResponse):
    """An answer of which neither head nor chunks can be what takes all memory."""

    def begin(self, **options: Any) -> None:
        """Read the head."""
        lines = self.fp
        self.fp = cast("BufferedReader", _Head(lines))
        try:
            super().begin(**options)
        finally:
            self.fp = lines
        # urllib3 would log what of it could not be parsed: a token may be among that.
        self.msg.defects.clear()
        self.msg.set_payload("")

    def _read_next_chunk_size(self) -> int:
        """Return the size of a chunk; the library takes -1 and reads to the end of the stream."""
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise HTTPException("a chunk of negative size")
        return size


class Line:
    """The newest connection of a session, which another thread may cut.

    A time-out is for one wait only: a peer that sends a byte now and then has all the time it
    wants, in the handshake, in the head of an answer and in its body.
    """

    def __init__(self, session: requests.Session) -> None:
        """Know of every connection that the session makes from now on."""
        self._socket: socket.socket | None = None
        self._dialled: socket.socket | None = None  # what TLS is begun on
        self.is_ended = False
        for adapter in session.adapters.values():
            if isinstance(adapter, HTTPAdapter):
                pools = adapter.poolmanager
                makers = pools.pool_classes_by_scheme.items()
                pools.pool_classes_by_scheme = {s: partial(self._pool, make) for s, make in makers}

    def cut(self) -> None:
        """Shut the connection down: whoever waits for its answer gets an error at once.

        Before the peer has accepted it there is nothing to cut; that ends in its own time-out.
        """
        for found in (self._socket, self._dialled):
            if found is not None:
                with suppress(OSError):  # closed meanwhile, by its owner or the peer
                    socket.socket.shutdown(found, socket.SHUT_RDWR)  # below TLS

    def end(self) -> None:
        """Cut, and let no later connection of the session come about either."""
        self.is_ended = True
        self.cut()

    def _pool(self, make: Callable[..., Any], *args: Any, **options: Any) -> object:
        pool = make(*args, **options)
        pool.ConnectionCls = partial(self._connection, pool.ConnectionCls)
        return pool

    def _connection(self, make: Callable[..., Any], *args: Any, **options: Any) -> object:
        connection = make(*args, **options)
        connection.response_class = _Response
        connection._new_conn = partial(self._dial, connection._new_conn)  # noqa: SLF001 - no other
        connection.connect = partial(self._connect, connection, connection.connect)
        return connection

    def _dial(self, dial: Callable[[], socket.socket]) -> socket.socket:
        dialled = dial()
        self._dialled = dialled.dup()  # TLS takes the other one over before it shakes hands
        if self.is_ended:
            self.cut()
        return dialled

    def _connect(self, connection: Any, connect: Callable[[], None]) -> None:
        try:
            connect()
            self._socket = connection.sock
        finally:
            dialled, self._dialled = self._dialled, None
            if dialled is not None:
                dialled.close()
        if self.is_ended:
            self.cut()


def read_body(response: requests.Response, size: int) -> Iterator[bytes]:
    """Yield the body in parts of ``size`` bytes; RequestException where it breaks off.

    `iter_content` takes chunks apart by itself, and a line that tells of one may be of any length;
    the standard library, which is asked here, reads 64 KiB of it.
    """
    try:
        while part := response.raw.read(size):
            yield part
    except urllib3.exceptions.ReadTimeoutError as exc:
        raise requests.ConnectionError(exc) from exc
    except urllib3.exceptions.SSLError as exc:
        raise requests.exceptions.SSLError(exc) from exc
    except (urllib3.exceptions.HTTPError, HTTPException) as exc:
        raise requests.exceptions.ChunkedEncodingError(exc) from exc
    except _UNFIT as exc:
        raise _broken_off(type(exc).__name__) from exc
    if response.raw.length_remaining:  # urllib3 1.26 takes a short body for a whole one
        raise _broken_off("short body")


def _broken_off(what: str) -> requests.RequestException:
    """Return what tells of an answer that is not HTTP; with no word of it."""
    cause = urllib3.exceptions.ProtocolError(what)
    return requests.exceptions.ChunkedEncodingError(cause)


def new_session() -> requests.Session:
    """Return a session that answers to our settings alone: no proxy, no .netrc."""
    session = requests.Session()
    session.trust_env = False
    session.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})
    return session


def ask(
    session: requests.Session,
    url: str,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    document: Mapping[str, str] | None = None,
) -> requests.Response:
    """Return the answer to one question with its body unread; a redirect is an answer, too.

    `Session.get` would work out where a redirect leads though it is told not to follow it: it
    reads that body whole, without a limit, and raises what is none of its own exceptions.
    ``document`` goes along as JSON.
    """
    plain = requests.Request(method, url, headers=dict(headers or {}), json=document)
    request = session.prepare_request(plain)
    verify = True if session.verify is None else session.verify
    timeouts_s = (timeout_s, timeout_s)
    adapter = session.get_adapter(url)
    try:
        return adapter.send(request, stream=True, timeout=timeouts_s, verify=verify)
    except requests.RequestException:
        raise
    except (urllib3.exceptions.HTTPError, HTTPException, *_UNFIT) as exc:
        raise _broken_off(type(exc).__name__) from exc


def system_ca() -> str | bool:
    """Return where OpenSSL finds the system's CAs."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


def causes_of(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those it wraps, outermost first; libraries nest them three ways."""
    seen: set[int] = set()
    waiting: list[object] = [exc]
    while waiting and len(seen) < 32:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = (getattr(found, "reason", None), found.__cause__, found.__context__)
        waiting += [*found.args, *inner]


def first_of(causes: tuple[BaseException, ...], kind: type[E]) -> E | None:
    """Return the outermost cause of a kind."""
    return next((cause for cause in causes if isinstance(cause, kind)), None)


def errno_text(causes: tuple[BaseException, ...]) -> str:
    """Return what the system says of a connection that could not be made."""
    texts = [c.strerror for c in causes if isinstance(c, OSError) and isinstance(c.strerror, str)]
    return texts[-1] if texts else type(causes[-1]).__name__

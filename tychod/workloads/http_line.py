"""One HTTP question to a peer on this host, whose cost is bounded whoever answers.

Imports `requests`, so it is itself imported only once there is somebody to ask.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter


class Line:
    """The newest connection of a session, which another thread may cut.

    A time-out is for one wait only: a peer that sends a byte now and then has all the time it
    wants, in the head of an answer as in its body.
    """

    def __init__(self, session: requests.Session) -> None:
        """Know of every connection that the session makes from now on."""
        self._socket: socket.socket | None = None
        for adapter in session.adapters.values():
            if isinstance(adapter, HTTPAdapter):
                pools = adapter.poolmanager
                makers = pools.pool_classes_by_scheme.items()
                pools.pool_classes_by_scheme = {s: partial(self._pool, make) for s, make in makers}

    def cut(self) -> None:
        """Shut the connection down: whoever waits for its answer gets an error at once.

        While it is being made there is nothing to cut; that ends in its own time-out.
        """
        if self._socket is not None:
            with suppress(OSError):  # closed meanwhile, by its owner or the peer
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # below TLS

    def _pool(self, make: Callable[..., Any], *args: Any, **options: Any) -> object:
        pool = make(*args, **options)
        pool.ConnectionCls = partial(self._connection, pool.ConnectionCls)
        return pool

    def _connection(self, make: Callable[..., Any], *args: Any, **options: Any) -> object:
        connection = make(*args, **options)
        connection.connect = partial(self._connect, connection, connection.connect)
        return connection

    def _connect(self, connection: Any, connect: Callable[[], None]) -> None:
        connect()
        self._socket = connection.sock


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


def new_session() -> requests.Session:
    """Return a session for a conversation on this host: no proxy, no .netrc."""
    session = requests.Session()
    session.trust_env = False
    session.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})
    return session


def ask(
    session: requests.Session, url: str, timeout_s: float, headers: Mapping[str, str] | None = None
) -> requests.Response:
    """Return the answer to one GET with its body unread; a redirect is an answer like any other.

    `Session.get` would work out where a redirect leads though it is told not to follow it: it
    reads that body whole, without a limit, and raises what is none of its own exceptions.
    """
    request = session.prepare_request(requests.Request("GET", url, headers=dict(headers or {})))
    verify = True if session.verify is None else session.verify
    timeouts_s = (timeout_s, timeout_s)
    return session.get_adapter(url).send(request, stream=True, timeout=timeouts_s, verify=verify)

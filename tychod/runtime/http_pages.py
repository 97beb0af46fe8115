"""What each path of the metrics endpoint answers.

Whether the daemon is well is told to everybody; everything else to users alone, where any are set.
"""

import gzip
import json
from collections.abc import Callable, Container, Iterable
from http import HTTPStatus
from typing import Final, NamedTuple

import msgpack

from tychod.frames import ProtocolError
from tychod.model import Trouble
from tychod.runtime.http_auth import Guard, Verdict
from tychod.runtime.http_message import (
    BadRequest,
    Request,
    Response,
    come_again,
    is_own_name,
    plain,
    wants_gzip,
)

HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json"
LEAST_TO_SHRINK: Final = 1024
SHRINKING: Final = 4  # of 9; more costs a scrape twice the time for a few per cent
REALM: Final = 'Basic realm="tychod", charset="UTF-8"'
ENERGIES: Final = ("energy_uj", "power_w")
"""Of each domain in the answer ``status``: exact, as the control socket's readers may have it."""
FOREIGN: Final = (
    "ask by address, or by the name in [metrics] listen: by loopback other names are not answered, "
    "unless [metrics] users_file or tls_cert_file is set"
)
INDEX: Final = b"""<!DOCTYPE html>
<html lang="en"><head><title>tychod</title></head><body>
<h1>tychod</h1>
<ul>
<li><a href="/metrics">/metrics</a> - energy of this node and its workloads, for Prometheus</li>
<li><a href="/status">/status</a> - health of the daemon and its sources, as JSON</li>
<li><a href="/healthz">/healthz</a> - whether analysis advances</li>
<li><a href="/readyz">/readyz</a> - whether there are results</li>
</ul>
</body></html>
"""


class Known(NamedTuple):
    """What the pages are made from; each is called from any thread and measures nothing."""

    render: Callable[[str], tuple[str, bytes] | None]  # Accept -> content type, text
    status: Callable[[], bytes]  # msgpack, as the control socket answers
    is_ready: Callable[[], bool]
    wait_s: Callable[[], float]  # until the first window is expected
    quiet_s: Callable[[], float]  # since analysis last advanced
    quiet_limit_s: float
    troubles: Callable[[], Iterable[Trouble]] = tuple  # of what the pages show


class Pages:
    """Answers requests; callable from any thread."""

    def __init__(
        self, known: Known, guard: Guard | None, names: Container[str] | None = None
    ) -> None:
        """``guard``: None where everybody who can connect is let in.

        ``names``: of ours, beside addresses; None where it does not matter what we are called.  A
        browser on this host may be led here by a web page under the page's own name.
        """
        self._known = known
        self._guard = guard
        self._names = names
        self._small: tuple[bytes, bytes] = (b"", b"")

    def answer(self, request: Request) -> Response:
        """Return the response; raise ``BadRequest`` where there is none of the page's own."""
        if self._names is not None and not is_own_name(request.host, self._names):
            raise BadRequest(plain(HTTPStatus.MISDIRECTED_REQUEST, FOREIGN))
        if request.path == "/healthz":
            return self._health()
        if request.path == "/readyz":
            return self._readiness()
        self._let_in(request)
        if request.path == "/metrics":
            return self._metrics(request)
        if request.path == "/status":
            return self._status()
        if request.path == "/":
            return Response(HTTPStatus.OK, INDEX, HTML)
        return plain(HTTPStatus.NOT_FOUND, "there is no such page; / lists those there are")

    def _let_in(self, request: Request) -> None:
        if self._guard is None:
            return
        verdict = self._guard.check(request.authorization, request.peer)
        if verdict is Verdict.WRONG:
            asked = {"WWW-Authenticate": REALM}
            raise BadRequest(plain(HTTPStatus.UNAUTHORIZED, "user and password, please", asked))
        if verdict is Verdict.LATER:
            text = "too many passwords are being tried; come again"
            raise BadRequest(plain(HTTPStatus.TOO_MANY_REQUESTS, text, {"Retry-After": "1"}))

    def _health(self) -> Response:
        quiet_s = self._known.quiet_s()
        if quiet_s < self._known.quiet_limit_s:
            return plain(HTTPStatus.OK, "ok")
        return come_again(f"analysis has not advanced for {quiet_s:.0f} s")

    def _readiness(self) -> Response:
        return plain(HTTPStatus.OK, "ok") if self._known.is_ready() else self._not_ready()

    def _not_ready(self) -> Response:
        wait_s = max(self._known.wait_s(), 0.0)
        return come_again(f"the first window is not complete; {wait_s:.1f} s left", wait_s)

    def _metrics(self, request: Request) -> Response:
        try:
            made = self._known.render(request.accept)
        except ProtocolError as exc:
            return come_again(exc.message)
        if made is None:
            return self._not_ready()
        content_type, body = made
        headers = {"Vary": "Accept, Accept-Encoding"}
        if wants_gzip(request.accept_encoding) and len(body) >= LEAST_TO_SHRINK:
            body, headers = self._shrunk(body), {**headers, "Content-Encoding": "gzip"}
        return Response(HTTPStatus.OK, body, content_type, headers)

    def _shrunk(self, body: bytes) -> bytes:
        """Return it compressed; the same text, once for all who ask."""
        of, small = self._small
        if of is not body:
            small = gzip.compress(body, SHRINKING, mtime=0)
            self._small = (body, small)
        return small

    def _status(self) -> Response:
        """Return the daemon's health; energy, which /metrics rounds, is not in it."""
        told = msgpack.unpackb(self._known.status())
        for domain in told["domains"].values():
            for key in ENERGIES:
                del domain[key]
        body = json.dumps(told) + "\n"
        return Response(HTTPStatus.OK, body.encode(), JSON)

"""Requests and responses of the metrics endpoint as bytes; pure.

One request a connection: nobody keeps a place between two scrapes.
"""

import contextlib
import io
import ipaddress
import math
import re
from collections.abc import Container, Mapping
from email.utils import formatdate
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from typing import Final, NamedTuple
from urllib.parse import urlsplit

END_OF_HEAD: Final = b"\r\n\r\n"
MAX_HEAD_BYTES: Final = 16 * 1024  # Prometheus sends about 500
METHODS: Final = ("GET", "HEAD")
TEXT: Final = "text/plain; charset=utf-8"
RETRY_S: Final = 1
_REQUEST_LINE: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (\S{1,2048}) HTTP/1\.[01]")


class Request(NamedTuple):
    """What a client asks for; ``authorization`` is shown by no representation of ours."""

    method: str
    path: str
    accept: str = ""
    accept_encoding: str = ""
    authorization: str = ""
    host: str = ""  # what the client calls us
    peer: str = ""  # whom it counts as

    def __repr__(self) -> str:
        """Leave out what may hold a password."""
        return f"Request({self.method} {self.path!r})"


class Response(NamedTuple):
    """What is answered; ``Content-Length`` and the like are added when it is sent."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT
    headers: Mapping[str, str] = {}  # never changed


class BadRequest(Exception):  # noqa: N818 - an outcome, not a fault
    """A request that is answered without being looked at further."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status.phrase)
        self.response = response


def parse_head(head: bytes) -> Request:
    """Return what a head (request line and headers) asks for; raise ``BadRequest``."""
    line, _, rest = head.partition(b"\r\n")
    found = _REQUEST_LINE.fullmatch(line.decode("latin-1"))
    if found is None:
        raise BadRequest(plain(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request"))
    method, target = found.groups()
    if method not in METHODS:
        allowed = {"Allow": ", ".join(METHODS)}
        raise BadRequest(plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", allowed))
    try:
        path = urlsplit(target).path
        headers = parse_headers(io.BytesIO(rest))
    except (ValueError, HTTPException):
        raise BadRequest(plain(HTTPStatus.BAD_REQUEST, "this request cannot be read")) from None

    def told(name: str) -> str:
        return ",".join(headers.get_all(name) or ())

    return Request(
        method,
        path,
        told("Accept"),
        told("Accept-Encoding"),
        told("Authorization"),
        told("Host"),
    )


def is_own_name(host: str, names: Container[str]) -> bool:
    """Say whether a ``Host`` header names an address or one of these; "" is none: no browser's."""
    name = ""
    with contextlib.suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
        return True
    return not host or name.removesuffix(".") in names


def plain(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response of one line of text."""
    return Response(status, f"{text}\n".encode(), TEXT, headers or {})


def come_again(text: str, seconds: float = RETRY_S) -> Response:
    """Return 503 with the time after which it makes sense to ask again."""
    wait = {"Retry-After": str(max(math.ceil(seconds), RETRY_S))}
    return plain(HTTPStatus.SERVICE_UNAVAILABLE, text, wait)


def encode(response: Response, method: str = "GET") -> bytes:
    """Return the bytes to send; to HEAD all but the body, whose length is told."""
    fields = {
        "Date": formatdate(usegmt=True),
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **response.headers,
    }
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if method == "HEAD" else head + response.body


def wants_gzip(accept_encoding: str) -> bool:
    """Say whether a client takes gzip (RFC 9110, 12.5.3)."""
    for item in accept_encoding.split(","):
        name, _, weight = item.partition(";")
        if name.strip().lower() in {"gzip", "x-gzip"}:
            return re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight) is None
    return False

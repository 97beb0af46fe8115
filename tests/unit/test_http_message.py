"""Heads of requests, whatever they hold, and the bytes of responses."""

import pytest

from tychod.runtime.http_message import (
    BadRequest,
    come_again,
    encode,
    parse_head,
    wants_gzip,
)

GOOD = (
    b"GET /metrics?x=1 HTTP/1.1\r\nHost: n:9102\r\naccept: text/plain\r\nAccept: */*;q=0.1\r\n"
    b"Accept-Encoding: gzip\r\nAuthorization: Basic czpzZWNyZXQ=\r\n\r\n"
)


def test_a_request_is_read() -> None:
    """Path without query, headers of any case, repeated ones joined."""
    found = parse_head(GOOD)

    assert found[:4] == ("GET", "/metrics", "text/plain,*/*;q=0.1", "gzip")
    assert (found.host, found.peer) == ("n:9102", "")
    assert found.authorization == "Basic czpzZWNyZXQ="


def test_no_representation_of_a_request_holds_its_password() -> None:
    """Tracebacks and logs show requests."""
    assert "czpz" not in repr(parse_head(GOOD))


def test_the_address_in_the_request_line_may_be_whole() -> None:
    """RFC 9112, 3.2.2: a server has to understand that form."""
    assert parse_head(b"HEAD http://n:9102/healthz HTTP/1.0\r\n\r\n").path == "/healthz"


BAD = {
    b"": 400,
    b"GET /\r\n": 400,
    b"GET  / HTTP/1.1\r\n": 400,
    b"GET / HTTP/2.0\r\n": 400,
    b"PRI * HTTP/2.0\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\xfc\r\n": 400,
    b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n": 400,
    b"GET http://[/ HTTP/1.1\r\n": 400,
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200: 400,
    b"POST /metrics HTTP/1.1\r\n": 405,
    b"get / HTTP/1.1\r\n": 405,
    b"CONNECT n:1 HTTP/1.1\r\n": 405,
}


@pytest.mark.parametrize(("line", "status"), BAD.items(), ids=[str(key[:30]) for key in BAD])
def test_what_is_no_request_of_ours_is_refused(line: bytes, status: int) -> None:
    """With the status that says why; nothing else is raised."""
    with pytest.raises(BadRequest) as caught:
        parse_head(line + b"\r\n")

    assert caught.value.response.status == status
    assert ("Allow" in caught.value.response.headers) == (status == 405)


def test_a_response_tells_its_length_and_that_it_is_the_last() -> None:
    """HEAD gets the same head as GET, and no body."""
    response = come_again("not yet", 2.4)
    whole, head = encode(response), encode(response, "HEAD")

    assert whole.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert whole.endswith(b"\r\n\r\nnot yet\n")
    assert whole[: len(head)].split(b"\r\n")[2:] == head.split(b"\r\n")[2:]
    for field in (b"Retry-After: 3", b"Content-Length: 8", b"Connection: close"):
        assert field in head.split(b"\r\n")


def test_come_again_is_never_at_once() -> None:
    """A client that is told 0 seconds would ask without a pause."""
    assert come_again("no", 0.0).headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0.001", True),
        ("gzippy", False),
        ("identity;q=1, *;q=0", False),
    ],
)
def test_who_wants_gzip(text: str, wanted: bool) -> None:
    """A weight of zero is a no (RFC 9110, 12.4.2)."""
    assert wants_gzip(text) == wanted

"""Whatever a peer answers, over HTTP: an exception of the library's own kind, and little memory."""

import logging
import socket
import threading
import tracemalloc

import pytest
import requests

from tests.sim.rawpeer import RawPeer
from tychod.http_line import Line, ask, new_session, read_body

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MULTIPART = OK + b"Content-Type: multipart/x; boundary*"
END = b"\r\n\r\n{}"

UNFIT = {
    "negative chunk": CHUNKED + b"-5\r\n{}\r\n",
    "very negative chunk": CHUNKED + b"-" + b"f" * 30 + b"\r\n{}\r\n",
    "chunk of minus one": CHUNKED + b"-1\r\n{}\r\n",
    "no number of a chunk": CHUNKED + b"zz\r\n{}\r\n",
    "long line of a chunk": CHUNKED + b"1" * 70000 + b"\r\n",
    "two lengths": OK + b"Content-Length: 5, 6\r\n\r\nhello",
    "codec that always fails": MULTIPART + b"=undefined''abc" + END,
    "NUL in a codec": MULTIPART + b"=a\x00b''abc" + END,
    "long number of a part": MULTIPART + b"9" * 5000 + b"=abc" + END,
    "messages in messages": OK + b"X: y\r" + b"Content-Type:message/rfc822\r\r" * 2000 + END,
    "lines in a line": OK + b"a:\r" * 20000 + END,
    "long head": OK + b"X: " + b"a" * 70000 + END,
    "long head of many": b"HTTP/1.1 100 Continue\r\n\r\n" * 4000 + OK + END,
    "short body": OK + b"Content-Length: 9\r\n\r\n{}",
    "no number of a status": b"HTTP/1.1 abc OK\r\n\r\n",
}


def body_of(url: str, limit: int = 1 << 20) -> bytes:
    """Ask once and return what was read, up to a little over a limit."""
    session = new_session()
    Line(session)
    body = b""
    with session, ask(session, url, 5.0) as response:
        for part in read_body(response, 4096):
            body += part
            if len(body) > limit:
                break
    return body


@pytest.mark.parametrize("case", UNFIT)
def test_an_answer_that_is_not_http_is_an_error_of_the_library(case: str) -> None:
    """Whoever asks catches one kind, and no thread of the daemon ends of another."""
    with RawPeer(UNFIT[case]) as peer, pytest.raises(requests.RequestException):
        body_of(peer.url)


def test_a_chunk_without_an_end_takes_no_memory() -> None:
    """The library reads a chunk of -1 bytes to the end of the stream, whatever was asked for."""
    with RawPeer(CHUNKED + b"-1\r\n", b" " * (1 << 20), most=32) as peer:
        tracemalloc.start()
        with pytest.raises(requests.RequestException):
            body_of(peer.url)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 8 << 20


def test_what_cannot_be_parsed_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The library warns of it, in full: a session's token may stand there."""
    head = b"no colon here\r\nX-Auth-Token: hunter2\r\n"
    with caplog.at_level(logging.DEBUG), RawPeer(OK + head + END) as peer:
        body_of(peer.url)

    assert "hunter2" not in caplog.text


def test_a_good_answer_in_chunks_is_read() -> None:
    """The bounds refuse nobody else."""
    with RawPeer(CHUNKED + b"2;x=y\r\n{}\r\n3\r\n   \r\n0\r\nA: b\r\n\r\n") as peer:
        assert body_of(peer.url) == b"{}   "


@pytest.mark.parametrize("ends", [True, False])
def test_a_handshake_that_drips_can_be_cut(ends: bool) -> None:
    """A time-out is for one wait only, also of TLS; until then the socket is OpenSSL's alone."""
    failed: list[Exception] = []
    session = new_session()
    line = Line(session)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}"

        def wait() -> None:
            try:
                ask(session, url, 60.0)
            except requests.RequestException as exc:
                failed.append(exc)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        accepted, _ = server.accept()
        with accepted:
            accepted.recv(1)  # the handshake has begun
            (line.end if ends else line.cut)()
            thread.join(30.0)

    assert not thread.is_alive()
    assert failed
    session.close()


def test_after_the_end_no_connection_comes_about() -> None:
    """It may be made after the cut: then there is nothing yet to shut down."""
    session = new_session()
    line = Line(session)
    line.end()
    with RawPeer(OK + END) as peer, pytest.raises(requests.RequestException):
        ask(session, peer.url, 5.0)
    session.close()

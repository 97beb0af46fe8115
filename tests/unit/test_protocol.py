"""The wire: frames cut anywhere, garbage, limits, and requests that do not fit."""

from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod import frames, protocol
from tychod.frames import Decoder, ProtocolError
from tychod.runtime.session import HANDLERS

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.dictionaries(st.text(max_size=8), PLAIN, max_size=4)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """Return a stream in pieces."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(0, 10_000), max_size=20))
def test_messages_survive_any_cutting(messages: list[dict[str, Any]], places: list[int]) -> None:
    """However the kernel cuts the stream, the same messages come out, in order."""
    stream = b"".join(frames.encode_frame(m, frames.MAX_REPLY_BYTES) for m in messages)
    decoder = Decoder(frames.MAX_REPLY_BYTES)

    found = [message for piece in cut(stream, places) for message in decoder.feed(piece)]

    assert found == messages
    assert not decoder.partial


@given(MESSAGES, st.integers(0, 2**63 - 1), st.booleans())
def test_an_answer_packed_before_makes_the_same_frame(
    answer: dict[str, Any], number: int, more: bool
) -> None:
    """Sending a kept answer is the same as encoding it again."""
    packed = msgpack.packb(answer)
    frame = frames.encode_reply_start(number, len(packed), more=more) + packed

    told = {"id": number, "more": True, "ok": answer} if more else {"id": number, "ok": answer}

    assert list(Decoder(frames.MAX_REPLY_BYTES).feed(frame)) == [told]


def complaint(stream: bytes) -> ProtocolError | None:
    """Return the error that a stream of requests meets, None when all of them are good."""
    try:
        for message in Decoder(frames.MAX_REQUEST_BYTES).feed(stream):
            protocol.parse_request(message)
    except ProtocolError as error:
        return error
    return None


@given(st.binary(max_size=200))
def test_garbage_is_an_error_that_can_be_told(garbage: bytes) -> None:
    """No bytes of a peer raise anything but an error that fits into a short answer."""
    error = complaint(frames.LENGTH.pack(len(garbage)) + garbage)

    assert error is not None
    assert error.code == "bad-request"
    assert len(frames.encode_error(0, error)) < 2000


@given(PLAIN)
def test_a_request_is_checked_whatever_it_is(message: object) -> None:
    """Any well-formed message is a request or an error, never an exception of another kind."""
    for told in ({"message": message}, {"id": 1, "op": "watch", "args": message}):
        error = complaint(frames.encode_frame(told, frames.MAX_REQUEST_BYTES))

        assert error is not None
        assert error.code == "bad-request"
        assert len(error.message) <= frames.MAX_COMPLAINT


def test_a_giant_frame_is_refused_by_its_length() -> None:
    """A frame above the limit is refused before its body is waited for or kept."""
    decoder = Decoder(frames.MAX_REQUEST_BYTES)

    with pytest.raises(ProtocolError, match="exceeds the limit"):
        list(decoder.feed(frames.LENGTH.pack(0xFFFFFFFF)))


def test_an_answer_above_the_limit_is_an_error() -> None:
    """What a client would refuse is not sent."""
    with pytest.raises(ProtocolError, match="exceeds"):
        frames.encode_reply_start(1, frames.MAX_REPLY_BYTES)
    with pytest.raises(ProtocolError, match="exceeds"):
        frames.encode_frame({"id": "x" * 100}, 50)


BAD_REQUESTS: list[tuple[object, str]] = [
    ([1, 2], "a request is a map"),
    ({"id": 1, "op": "status", "extra": 1}, "unknown key in request: 'extra'"),
    ({"op": "status"}, "id must be a whole number"),
    ({"id": True, "op": "status"}, "id must be a whole number"),
    ({"id": -1, "op": "status"}, "id must be a whole number"),
    ({"id": 2**63, "op": "status"}, "id must be a whole number"),
    ({"id": 1}, "unknown operation"),
    ({"id": 1, "op": ["status"]}, "unknown operation"),
    ({"id": 1, "op": "gpu"}, "unknown operation 'gpu'"),
    ({"id": 1, "op": "status", "args": 0}, "status: "),
    ({"id": 1, "op": "status", "args": {"all": True}}, "all"),
    ({"id": 1, "op": "hello"}, "version"),
    ({"id": 1, "op": "hello", "args": {"version": "1"}}, "version"),
    ({"id": 1, "op": "watch", "args": {"op": "pods", "interval": 0.01}}, "interval"),
    ({"id": 1, "op": "watch", "args": {"op": "pods", "interval": float("nan")}}, "interval"),
    ({"id": 1, "op": "watch", "args": {str(n): n for n in range(100)}}, "more than 32 arguments"),
]


@pytest.mark.parametrize(("message", "words"), BAD_REQUESTS)
def test_a_request_that_does_not_fit_says_why(message: object, words: str) -> None:
    """Requests are checked strictly, and the error names what is wrong."""
    with pytest.raises(ProtocolError) as caught:
        protocol.parse_request(message)

    assert caught.value.code == "bad-request"
    assert words in caught.value.message


def test_a_good_request_is_understood() -> None:
    """Arguments come out checked; numbers may be whole where fractions are allowed."""
    message = {"id": 7, "op": "watch", "args": {"op": "pods", "interval": 2}}

    request = protocol.parse_request(message)

    assert (request.id, request.op) == (7, "watch")
    assert request.args == protocol.Watch("pods", 2.0)


@pytest.mark.parametrize(("version", "older"), [(0, "tychoctl"), (2, "tychod")])
def test_another_version_is_told_what_to_upgrade(version: int, older: str) -> None:
    """Versions that do not fit give a sentence to act on, even with arguments of the other's."""
    args = {"version": version, "colour": "blue"}

    with pytest.raises(ProtocolError, match=f"upgrade {older}") as caught:
        protocol.parse_request({"id": 1, "op": "hello", "args": args})

    assert caught.value.code == "version"


def test_every_operation_has_an_answer_and_no_answer_is_unknown() -> None:
    """The table of answers and the protocol's table of operations have the same keys."""
    assert HANDLERS.keys() == protocol.OPS.keys()
    assert all(op.doc for op in protocol.OPS.values())


def test_an_error_carries_its_code_sentence_and_seconds() -> None:
    """What a program acts on and what a person reads both arrive."""
    error = ProtocolError("not-ready", "soon", seconds=1.5)

    (message,) = Decoder(1000).feed(frames.encode_error(3, error))

    told = {"code": "not-ready", "message": "soon", "seconds": 1.5}
    assert message == {"id": 3, "error": told}

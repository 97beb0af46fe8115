"""JSON that another program wrote, or somebody in its place: read if it takes little memory."""

import json
import sys
from typing import Final

# What CPython 3.11 to 3.13 take for each, measured with documents of nothing else (64-bit).
_OBJECT_BYTES: Final = 232
_LIST_BYTES: Final = 88
_VALUE_BYTES: Final = 96  # between two commas or colons: a short text that is not ASCII


def parse_json(data: bytes | bytearray, most_bytes: int) -> object:
    """Return what a JSON document in UTF-8 says; ValueError, with a short text, if it may not.

    Eight megabytes of ``{},`` become two hundred.  The parts are counted before anything is made
    of them; texts that hold such signs count as more than they are.  ``most_bytes`` bounds what
    comes of the document, its own text included.
    """
    parts_bytes = _parts_bytes(data)
    try:
        text = data.decode()
        # A single text in it may be as long as all of it.
        is_small = parts_bytes + 2 * sys.getsizeof(text) <= most_bytes
        document: object = json.loads(text) if is_small else None
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not is_small:
        raise ValueError(f"JSON that would take over {most_bytes >> 20} MiB")
    return document


def _parts_bytes(data: bytes | bytearray) -> int:
    """Return what the parts of a document take at most, once read; nesting is bounded by them."""
    values = data.count(b",") + data.count(b":")
    boxes = data.count(b"{") * _OBJECT_BYTES + data.count(b"[") * _LIST_BYTES
    return boxes + values * _VALUE_BYTES

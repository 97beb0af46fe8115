"""JSON from others never costs more memory than is granted to it."""

import json
import tracemalloc

import pytest

from tests.sim.kubelet import pod, pod_list
from tychod.documents import parse_json
from tychod.workloads.devices import FormatError, parse_checkpoint
from tychod.workloads.pods import PodsError, parse_pods

MOST = 4 << 20
LENGTH = 256 << 10


def filled(unit: str) -> bytes:
    """Return a list of one thing only, as long as the documents of these tests are."""
    text = unit.encode()
    return b"[" + b",".join([text] * (LENGTH // (len(text) + 1))) + b"]"


COSTLY = {
    "objects": filled("{}"),
    "lists": filled("[]"),
    "objects of one": filled('{"":0}'),
    "deep": filled("[[[[[0]]]]]"),
    "keys": b"{" + b",".join(b'"%x":0' % i for i in range(LENGTH // 9)) + b"}",
    "short texts": filled('"ab"'),
    "short texts, not ASCII": filled('"é…"'),
    "numbers": filled("0.5"),
    "one text": json.dumps("x" * LENGTH).encode(),
    "one text of wide characters": ('["\U0001f600' + "x" * LENGTH + '"]').encode(),
}


@pytest.mark.parametrize("kind", COSTLY)
@pytest.mark.parametrize("most_bytes", [1 << 20, MOST, 64 << 20])
def test_no_document_takes_more_than_it_may(kind: str, most_bytes: int) -> None:
    """Whatever it is made of: refused before it is read, or as small as was promised."""
    data = COSTLY[kind]
    told = ""
    tracemalloc.start()
    try:
        document = parse_json(data, most_bytes)
    except ValueError as exc:
        document, told = None, str(exc)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert taken <= max(most_bytes, 6 * len(data))  # the text alone is decoded to count it
    if document is None:
        assert told == f"JSON that would take over {most_bytes >> 20} MiB"
        assert most_bytes < 64 << 20


def test_sizes_are_told_apart_from_faults() -> None:
    """What is no JSON is called so, however little or deep it is."""
    for data in (b"", b"{", b"\xff\xfe{}", b"[" * 5000, b"9" * 5000, b'"\xed\xa0\x80"'):
        with pytest.raises(ValueError, match=r"^not JSON$"):
            parse_json(data, MOST)
    assert parse_json(b'{"a": [1, "\\ud800"]}', MOST) == {"a": [1, "\ud800"]}


def test_answers_made_of_nothing_are_refused() -> None:
    """Within their limits in bytes, but of millions of parts: a list of pods, a checkpoint."""
    with pytest.raises(PodsError, match="bytes is JSON that would take over 64 MiB"):
        parse_pods(b'{"items":[' + b"{}," * 400_000 + b"{}]}")
    with pytest.raises(FormatError, match="it is JSON that would take over 32 MiB"):
        parse_checkpoint(b'{"x":[' + b"{}," * 200_000 + b"{}]}")


def test_a_full_node_is_read() -> None:
    """A thousand pods of four containers with long labels, four times what a node may have."""
    labels = {f"example.com/label-{n}": "x" * 60 for n in range(10)}
    pods = [
        pod(f"p{n}", f"uid-{n}", {f"c{i}": f"{n * 4 + i:064x}" for i in range(4)}, labels=labels)
        for n in range(1000)
    ]

    assert len(parse_pods(pod_list(*pods))) == 1000

"""The text of one snapshot, encoded once for all who ask for the same."""

import importlib.util
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.config_results import MetricNames, Metrics
from tychod.exposition import kepler, owners, tycho
from tychod.exposition.cut import cut
from tychod.exposition.family import Family
from tychod.exposition.scrape import SECOND_NS, Scrape
from tychod.exposition.table import METRICS
from tychod.exposition.text import Block, Line

if TYPE_CHECKING:
    from prometheus_client.core import Metric

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"""What we answer: https://prometheus.io/docs/instrumenting/content_negotiation/.

Whatever later versions a scraper takes, it takes these, and no more texts are kept than these two.
"""
MAX_ACCEPT: Final = 4096  # characters of an Accept header that are looked at
_VERSION: Final = re.compile(r"version=\d{1,4}(\.\d{1,4}){0,3}", re.ASCII)
_NOT_WANTED: Final = re.compile(r"q=0(\.0*)?", re.ASCII)
NO_LIBRARY: Final = (
    "Python's prometheus_client is not installed",
    "apt-get install python3-prometheus-client, or what the library is called here",
)
"""Reason and remedy; the packages depend on it, so this is an installation by hand."""
END: Final = "# EOF\n"
KEPT: Final = 2
"""Windows whose texts are kept: who has no rights may see an older one than root does."""
Key = tuple[MetricNames, bool]


def has_library() -> bool:
    """Say whether texts can be made."""
    return importlib.util.find_spec("prometheus_client") is not None


class Told(NamedTuple):
    """A text, and what it is of; not the snapshot itself, which nobody else may hold any more."""

    sequence: int
    end_ns: int  # of the window: one of a recording may have the same number
    metrics: Metrics  # settings that it was made with
    key: Key
    body: bytes


class Exposition:
    """Answers scrapes; callable from any thread, and never makes anything be measured."""

    def __init__(
        self,
        read: Callable[[], Scrape | None],
        note: Callable[[Mapping[str, int], int], None] = lambda *_: None,
    ) -> None:
        """``note`` is told of each text what it left out, by level, and of which most."""
        self._read = read
        self._note = note
        self._told: list[Told] = []
        self._heads: dict[bool, dict[str, str]] = {}
        self._lock = threading.Lock()

    def render(self, accept: str, names: MetricNames | None = None) -> tuple[str, bytes] | None:
        """Return content type and text for an Accept header; None before the first window."""
        scrape = self._read()
        if scrape is None:
            return None
        is_open = wants_openmetrics(accept)
        body = self.text_of(scrape, names or scrape.metrics.names, is_open=is_open)
        return (OPENMETRICS if is_open else TEXT), body

    def text_of(self, scrape: Scrape, names: MetricNames, *, is_open: bool) -> bytes:
        """Return the text of a given scrape; one that was encoded lately is not encoded again."""
        snapshot = scrape.snapshot
        wanted = Told(
            snapshot.sequence, snapshot.window.end_ns, scrape.metrics, (names, is_open), b""
        )
        with self._lock:  # others wait for the text rather than make it, too
            for told in self._told:
                if told[:4] == wanted[:4]:
                    return told.body
            body = self._encode(scrape, names, is_open)
            windows = sorted({snapshot.sequence, *(told.sequence for told in self._told)})[-KEPT:]
            self._told = [
                *(t for t in self._told if t.sequence in windows and t.metrics == scrape.metrics),
                wanted._replace(body=body),
            ]
        return body

    def _encode(self, scrape: Scrape, names: MetricNames, is_open: bool) -> bytes:
        if is_open not in self._heads:
            self._heads[is_open] = {row.name: head_of(row, is_open=is_open) for row in METRICS}
        lines, dropped = series(scrape, names)
        self._note(dropped, scrape.metrics.max_series)
        return "".join(_texts(lines, self._heads[is_open], is_open)).encode()


def wants_openmetrics(accept: str) -> bool:
    """Say which of the two formats an Accept header asks for."""
    from prometheus_client.exposition import choose_encoder

    return choose_encoder(",".join(_sound(accept)))[1].startswith("application/openmetrics-text")


def _sound(accept: str) -> Iterator[str]:
    """Yield what is acceptable, with the version alone: the library trips over malformed ones."""
    for one in accept[:MAX_ACCEPT].split(","):
        media, *told = one.split(";")
        parameters = [text.strip() for text in told]
        if not any(_NOT_WANTED.fullmatch(text) for text in parameters):
            yield ";".join([media, *(text for text in parameters if _VERSION.fullmatch(text))])


def series(scrape: Scrape, names: MetricNames) -> tuple[list[Line], Mapping[str, int]]:
    """Return what is shown of a scrape, and how many series are left out by level."""
    levels = scrape.metrics.levels
    made = kepler.blocks(scrape, levels) if names == "kepler" else _own_blocks(scrape)
    room = scrape.metrics.max_series - tycho.EXPORTER_SERIES
    result = cut([_finite(block) for block in made], levels, room)
    lines = [line for block in result.blocks for line in block.lines]
    shown = {**result.shown, "self": result.shown["self"] + tycho.EXPORTER_SERIES}
    quantum_j = scrape.metrics.energy_quantum
    lines += tycho.exporter_lines(shown, result.dropped, quantum_j)
    return lines, {str(level): count for level, count in result.dropped.items()}


def _finite(block: Block) -> Block:
    """Leave out values that are no numbers: there is nothing that a reader could do with them."""
    lines = [line for line in block.lines if math.isfinite(line[2])]
    return block if len(lines) == len(block.lines) else block._replace(lines=lines)


def _own_blocks(scrape: Scrape) -> Iterator[Block]:
    levels = scrape.metrics.levels
    yield tycho.self_block(scrape, threading.active_count())
    yield tycho.node_block(scrape)
    yield owners.other_block(scrape)
    yield from owners.leaf_blocks(scrape, levels)
    for level, make in (
        ("gpu", tycho.gpu_blocks),
        ("pod", owners.pod_blocks),
        ("process", owners.process_blocks),
    ):
        if level in levels:
            yield from make(scrape)


def _texts(lines: Sequence[Line], heads: dict[str, str], is_open: bool) -> Iterator[str]:
    """Yield the text, family by family in the order of the table.

    The lines are written here, since the library takes some 20 us for each; what stands around
    them, and which format it is, are the library's.
    """
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line[0], []).append(line)
    for name, head in heads.items():
        family = found.get(name)
        if family is None:
            continue
        yield head
        write = _write_open if is_open else _write
        yield from write(name, family)
    if is_open:
        yield END


def _write(name: str, lines: Sequence[Line]) -> Iterator[str]:
    for _, labels, value, _ in lines:
        yield f"{name}{{{labels}}} {value!r}\n" if labels else f"{name} {value!r}\n"


def _write_open(name: str, lines: Sequence[Line]) -> Iterator[str]:
    """Yield each series and, where it is a counter's, when it began."""
    created = f"{name.removesuffix('_total')}_created"
    for _, labels, value, since_ns in lines:
        braces = f"{{{labels}}}" if labels else ""
        yield f"{name}{braces} {value!r}\n"
        if since_ns:
            yield f"{created}{braces} {since_ns / SECOND_NS!r}\n"


def head_of(row: Family, *, is_open: bool) -> str:
    """Return the lines before a family's series, as the library writes them."""
    from prometheus_client.exposition import choose_encoder

    encode, _ = choose_encoder(OPENMETRICS if is_open else "")
    return encode(_Alone(empty_metric(row))).decode().removesuffix(END)


def empty_metric(row: Family) -> "Metric":
    """Return a row of the table as the library has it, without series."""
    from prometheus_client.core import Metric

    name = row.name.removesuffix("_total") if row.type == "counter" else row.name
    name = name.removesuffix("_info") if row.type == "info" else name
    return Metric(name, row.help, row.type, row.unit)


class _Alone(NamedTuple):
    """A collector of one family."""

    metric: "Metric"

    def collect(self) -> "Iterator[Metric]":
        """Yield it."""
        yield self.metric

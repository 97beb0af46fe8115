"""Reading the history: for each life of the counters, the totals at both edges of a period.

Only headers are read of what is in between, and what was listed no more: a report over weeks reads
few records in whole.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tychod.runtime.history_parse import (
    DamagedError,
    OtherFormatError,
    parse_gone,
    parse_head,
    read_frame,
    rebuild,
)
from tychod.runtime.history_records import (
    CHANGES,
    FULL,
    GONE,
    HEAD,
    Frame,
    Gone,
    Head,
    Life,
    Log,
    Totals,
    scan,
)

LONGEST_STEPS: Final = 3
"""Records further apart than this many intervals are told as a gap."""

NUMBERS: Final = len(Frame._fields) - 1

STEPS_BEFORE: Final = 4
"""So many steps, or intervals where they are longer, are read before a period for its edge."""


class Source(NamedTuple):
    """One log; its name is what is said of it when it is damaged."""

    name: str
    log: Log
    size: int
    before: tuple[str, int] | None = None  # boot, and from which time on another log has it, too


class Period(NamedTuple):
    """What is asked for, in nanoseconds since 1970; ``step_ns``: least time between two edges."""

    start_ns: int
    end_ns: int
    step_ns: int = 0


class Edge(NamedTuple):
    """A record: where it is, and the frames that its totals are rebuilt from."""

    t_ns: int
    log: Log
    chain: list[Frame]  # grows with the records after it
    length: int  # of it that is this record's

    def totals(self) -> Totals | None:
        """Return the totals, earlier ones where the last are damaged; None where all are."""
        for length in range(self.length, 0, -1):
            try:
                return rebuild(self.log, self.chain[:length])
            except (DamagedError, OSError):
                continue
        return None


class Pause(NamedTuple):
    """Time between two records in which none was made, on the monotonic clock."""

    start_ns: int
    end_ns: int


class Departed(NamedTuple):
    """The GONE frames of a log: there may be thousands, so only their numbers are kept."""

    log: Log
    numbers: "array[int]"  # NUMBERS of each: the fields of Frame but the kind


@dataclass(slots=True)
class Span:
    """What is known of a period within one life of the counters."""

    life: Life
    offset_ns: int  # monotonic to wall clock: the newest that is known of this boot
    begin_ns: int  # when the counters began, on the wall clock as it is set now
    base: Edge | None = None  # the last record at or before the start; None: from the first on
    first: Edge | None = None
    last: Edge | None = None
    departed: list[Departed] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)

    def add_departed(self, log: Log, frame: Frame) -> None:
        """Note a GONE frame."""
        if not self.departed or self.departed[-1].log is not log:
            self.departed.append(Departed(log, array("q")))
        self.departed[-1].numbers.extend(frame[1:])

    def read_departed(self, after_ns: int, until_ns: int) -> Iterator[Gone]:
        """Yield what was listed no more, in order; what is damaged is left out."""
        for log, numbers in self.departed:
            for at in range(0, len(numbers), NUMBERS):
                frame = Frame(GONE, *numbers[at : at + NUMBERS])
                if after_ns < frame.t_ns <= until_ns:
                    try:
                        yield parse_gone(read_frame(log, frame))
                    except (DamagedError, OSError):
                        continue


Damaged = Callable[[str], None]


def read_spans(
    sources: Iterable[Source],
    period: Period,
    interval_ns: int,
    damaged: Damaged,
    spend: Callable[[int], None],
) -> list[Span]:
    """Return the spans of a period in the order in which they were written.

    ``damaged`` is called with the name of each log that has something unreadable in it, ``spend``
    with how many frames were found in one.
    """
    placed = []
    for source in sources:
        start = _start_of(source)
        if start is None:
            damaged(source.name)
        else:
            placed.append((source, start))
    offsets = _newest_offsets(placed)
    spans: dict[Life, _Reading] = {}
    for source, head in _overlapping(placed, offsets, period, interval_ns):
        reader = _LogReader(source, offsets, period, interval_ns, spans)
        try:
            reader.read(head)
        except OSError:
            reader.is_damaged = True  # removed meanwhile, or its disk fails
        if reader.is_damaged:
            damaged(source.name)
        spend(reader.count)
    return [reading.span for reading in spans.values()]


class Start(NamedTuple):
    """What the first frame of a log says."""

    head: Head
    t_ns: int
    offset_ns: int


def _start_of(source: Source) -> Start | None:
    """Return whose counters a log holds; None where not even that can be read."""
    try:
        for frame in scan(source.log, source.size):
            if frame and frame.kind == HEAD:
                return Start(parse_head(read_frame(source.log, frame)), frame.t_ns, frame.offset_ns)
    except (DamagedError, OSError):
        pass
    return None


def _newest_offsets(placed: list[tuple[Source, Start]]) -> Mapping[str, int]:
    """Return each boot's newest offset to the wall clock: a clock is set right, seldom wrong."""
    newest = {start.head.life.boot: (source, start) for source, start in placed}
    found = {}
    for boot, (source, start) in newest.items():
        found[boot] = start.offset_ns
        try:
            for frame in scan(source.log, source.size):
                if frame:
                    found[boot] = frame.offset_ns
        except OSError:
            continue
    return found


def _overlapping(
    placed: list[tuple[Source, Start]],
    offsets: Mapping[str, int],
    period: Period,
    interval_ns: int,
) -> Iterator[tuple[Source, Head]]:
    """Yield the logs that may hold an edge of the period or something between its edges."""
    before_ns = STEPS_BEFORE * max(period.step_ns, interval_ns) if period.step_ns else 0
    begins = [start.t_ns + offsets[start.head.life.boot] for _, start in placed]
    for number, (source, start) in enumerate(placed):
        is_over = number + 1 < len(begins) and (
            placed[number + 1][1].head.life == start.head.life
            and begins[number + 1] <= period.start_ns - before_ns
        )
        if not is_over and begins[number] <= period.end_ns:
            yield source, start.head


@dataclass(slots=True)
class _Steps:
    """Chooses records a step or more apart: always the same ones, whatever the period.

    A record is an edge a step or more after the one before it; where they are denser, the first
    one of every other step is.  The first that is read may be neither, so it is none: a choice of
    where reading begins shall not make edges of others.
    """

    before_ns: int | None = None  # the record before
    edge_ns: int = 0  # the last edge, or the first record read
    step: int = 0  # of the last record

    def is_edge(self, t_ns: int, step_ns: int) -> bool:
        """Say whether the next record is one."""
        before_ns, self.before_ns = self.before_ns, t_ns
        before_step, self.step = self.step, t_ns // step_ns
        if before_ns is None:
            self.edge_ns = t_ns
            return False
        is_first = self.step != before_step and self.step % 2 == 0
        is_apart = t_ns - before_ns >= step_ns
        if is_apart or (is_first and t_ns - self.edge_ns >= step_ns):
            self.edge_ns = t_ns
            return True
        return False


@dataclass(slots=True)
class _Reading:
    """A span, and where the reading of it stands."""

    span: Span
    last_t_ns: int | None = None  # of the record before
    steps: _Steps = field(default_factory=_Steps)


class _LogReader:
    """Walks through one log."""

    def __init__(
        self,
        source: Source,
        offsets: Mapping[str, int],
        period: Period,
        interval_ns: int,
        spans: dict[Life, _Reading],
    ) -> None:
        self.is_damaged = False
        self.count = 0  # frames
        self._source = source
        self._offsets = offsets
        self._period = period
        self._interval_ns = interval_ns
        self._spans = spans

    def read(self, first: Head) -> None:
        """Add what the log holds to the spans; raise ``OSError``."""
        log = self._source.log
        head: Head | None = first
        chain: list[Frame] = []
        for frame in scan(log, self._source.size):
            self.count += 1
            if frame is None:
                self.is_damaged, chain = True, []
            elif frame.kind == HEAD:
                head, chain = self._head(frame, head), []
            elif head is None or self._is_elsewhere(head.life, frame):
                continue
            elif frame.kind == GONE:
                self._reading(head).span.add_departed(log, frame)
            else:
                chain = self._take(head, frame, chain)

    def _is_elsewhere(self, life: Life, frame: Frame) -> bool:
        before = self._source.before
        return before is not None and before[0] == life.boot and frame.t_ns >= before[1]

    def _head(self, frame: Frame, before: Head | None) -> Head | None:
        """Return whose counters follow; None where they cannot be read."""
        try:
            return parse_head(read_frame(self._source.log, frame))
        except OtherFormatError:
            self.is_damaged = True
            return None
        except DamagedError:
            self.is_damaged = True
            return before

    def _take(self, head: Head, frame: Frame, chain: list[Frame]) -> list[Frame]:
        """Add a record; return the frames that the next one is rebuilt from."""
        if frame.kind == CHANGES and not chain:
            return []  # the full record before it is lost
        if frame.kind == FULL:
            chain = []
        chain.append(frame)
        self._note(self._reading(head), Edge(frame.t_ns, self._source.log, chain, len(chain)))
        return chain

    def _reading(self, head: Head) -> _Reading:
        life, begin_ns = head
        if life not in self._spans:
            offset_ns = self._offsets.get(life.boot, 0)
            self._spans[life] = _Reading(Span(life, offset_ns, begin_ns + offset_ns))
        return self._spans[life]

    def _note(self, reading: _Reading, edge: Edge) -> None:
        span, period = reading.span, self._period
        wall_ns = edge.t_ns + span.offset_ns
        if wall_ns > period.end_ns:
            return
        before_ns, reading.last_t_ns = reading.last_t_ns, edge.t_ns
        is_late = before_ns and edge.t_ns - before_ns > LONGEST_STEPS * self._interval_ns
        if is_late and before_ns and wall_ns > period.start_ns:
            span.pauses.append(Pause(before_ns, edge.t_ns))
        if period.step_ns and not reading.steps.is_edge(edge.t_ns, period.step_ns):
            return
        if wall_ns <= period.start_ns:
            span.base = edge
        span.first = span.first or edge
        span.last = edge

"""The history: running totals kept in memory and on disk, by a thread of its own.

Nothing waits for it: it takes the newest snapshot when a record is due.  A disk that is full or
slow costs records on disk, never a window; what is in memory goes on.
"""

import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tychod.buffer import Latest
from tychod.clock import SleepClock
from tychod.config_results import History as Settings
from tychod.config_results import Report as Factors
from tychod.frames import ProtocolError
from tychod.model import Snapshot, Window
from tychod.protocol import Nothing, Report
from tychod.runtime.history_files import File, Limits, Writer, list_files
from tychod.runtime.history_records import Encoder, Head, Life, totals_of
from tychod.runtime.history_report import Placed, place, report_body
from tychod.runtime.history_spans import Period, Source, Span, read_spans
from tychod.runtime.history_work import MOST_WORK, Allowance, Work
from tychod.runtime.slots import Slot, View

log = logging.getLogger(__name__)

DIRECTORY: Final = "history"
POLL_S: Final = 0.2
TREND_NS: Final = 600 * 10**9
MOST_POINTS: Final = 1000
FULL_EVERY: Final = 60
"""Records from one that stands alone to the next: to rebuild one takes as many."""
MOST_MEMORY_BYTES: Final = 16 * 1024 * 1024
"""However many workloads change in every record: the oldest go sooner than `memory` says then."""
CHUNK_PARTS: Final = 8
"""A chunk takes at most this part of the memory, and a record, so that the oldest can go alone."""
MOST_REPORTS: Final = 1
"""At once: each reads files, and takes time and memory of the daemon's that measuring needs."""
FAR_NS: Final = 1 << 62
REMEDY: Final = (
    "make room, or mend the directory's mode; it is tried again at every record, and reports have "
    "what is in memory"
)


class Point(NamedTuple):
    """The node's power in one window, by domain."""

    end_ns: int  # monotonic
    wall_ns: int
    power_w: Mapping[str, float | None]
    is_for_all: bool  # whether readers without rights saw this window, too


class Chunk(NamedTuple):
    """Part of the history in memory, as it is on disk; it begins with a record that stands alone.

    Reading it needs no lock: it only grows.
    """

    life: Life
    first_ns: int
    data: bytearray

    def read(self, start: int, count: int) -> bytes:
        """Return this many bytes, fewer at the end."""
        return bytes(self.data[start : start + count])


def begin_of(life: Life, offset_ns: int) -> int:
    """Return when counters began on the monotonic clock, as far as the offset of now can tell.

    A clock that was set since then can tell nothing; but none began before the boot.
    """
    return max(life.since_ns - offset_ns, 0)


class History:
    """Records totals, and answers what is asked of them."""

    def __init__(
        self,
        settings: Settings,
        boot: str,
        state: Path,
        latest: Latest[Snapshot],
        coarse: Slot,
        clock: SleepClock,
        crashed: Callable[[str], None],
    ) -> None:
        """``state``: the daemon's directory; ``crashed`` ends the daemon.

        ``coarse``: what readers without rights see.
        """
        self._settings = settings
        self._boot = boot
        self._directory = state / DIRECTORY
        self._latest = latest
        self._coarse = coarse
        self._clock = clock
        self._crashed = crashed
        self._writer = None
        if settings.days:
            self._writer = Writer(self._directory, Limits(settings.days, settings.max_bytes))
        self._interval_ns = round(settings.interval * 1e9)
        self._encoder: Encoder | None = None
        self._due_ns = 0
        self._lock = threading.Lock()  # of what follows
        self._chunks: deque[Chunk] = deque()
        self._points: deque[Point] = deque(maxlen=MOST_POINTS)
        self._problem: str | None = None
        self._told: frozenset[str] = frozenset()
        self._reports = threading.Semaphore(MOST_REPORTS)
        self._allowance = Allowance()  # of who makes a report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why records cannot be written, or None."""
        return self._problem

    def start(self) -> None:
        """Begin to record."""
        self._thread.start()

    def ask_stop(self) -> None:
        """Tell the thread to make a last record and end."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            count = 0
            while not self._stop.is_set():
                if self._latest.wait_newer(count, POLL_S):
                    count = self._latest.count()
                    self._look(self._latest.get(), is_last=False)
            self._look(self._latest.get(), is_last=True)
        except Exception:  # the outermost frame of the thread: a fault of ours ends the daemon
            log.critical("the history failed", exc_info=True)
            self._crashed("the history failed")
        finally:
            self.close()

    def close(self) -> None:
        """Finish the file in use."""
        if self._writer:
            self._writer.close()

    def _look(self, snapshot: Snapshot | None, *, is_last: bool) -> None:
        """Keep a window's power; make a record when one is due."""
        if snapshot is None:
            return
        end_ns = snapshot.window.end_ns
        power_w = {name: domain.power_w for name, domain in snapshot.domains.items()}
        is_for_all = self._coarse.get() is snapshot
        point = Point(end_ns, end_ns + snapshot.wall_offset_ns, power_w, is_for_all)
        with self._lock:
            if not self._points or self._points[-1].end_ns < end_ns:
                self._points.append(point)
            while self._points and self._points[0].end_ns <= end_ns - TREND_NS:
                self._points.popleft()
        if end_ns >= self._due_ns or is_last:
            self.record(snapshot)
            self._due_ns = max(self._due_ns + self._interval_ns, end_ns + self._interval_ns // 2)

    def record(self, snapshot: Snapshot) -> None:
        """Make a record; only one thread may."""
        snapshot = self._since_boot(snapshot)
        life = Life(self._boot, snapshot.since_ns)
        encoder = self._encoder
        if encoder is None or encoder.head.life != life:
            encoder = self._begin(life, snapshot.wall_offset_ns)
            if self._writer:
                self._writer.close()  # the next file is this life's
        elif encoder.last and encoder.last.t_ns >= snapshot.window.end_ns:
            return
        self._encoder = encoder
        totals = totals_of(snapshot, encoder.last)
        wall_ns = totals.t_ns + totals.offset_ns
        if self._is_chunk_full() or (self._writer and self._writer.is_new(wall_ns)):
            encoder.begin()
        data, stands_alone = encoder.encode(totals)
        self._keep(life, totals.t_ns, data, stands_alone=stands_alone)
        self._write(data, wall_ns)

    def _full_every(self) -> int:
        """Return how many records are rebuilt from one; memory forgets that many at once."""
        return max(min(FULL_EVERY, round(self._settings.memory / self._settings.interval) // 4), 1)

    def _begin(self, life: Life, offset_ns: int) -> Encoder:
        """Go on with what an earlier run recorded last of the same counters, or begin."""
        spans = self._read(Period(FAR_NS - 1, FAR_NS), Work(None))
        spans = [span for span in spans if span.life == life]
        if not spans:
            return Encoder(Head(life, begin_of(life, offset_ns)), None, self._full_every())
        span = spans[0]
        head = Head(life, span.begin_ns - span.offset_ns)
        return Encoder(head, span.last.totals() if span.last else None, self._full_every())

    def _is_chunk_full(self) -> bool:
        chunks = self._chunks  # only this thread changes them
        return bool(chunks) and len(chunks[-1].data) >= MOST_MEMORY_BYTES // CHUNK_PARTS

    def _keep(self, life: Life, t_ns: int, data: bytes, *, stands_alone: bool) -> None:
        oldest_ns = t_ns - round(self._settings.memory * 1e9)
        with self._lock:
            chunks = self._chunks
            if stands_alone or not chunks:
                chunks.append(Chunk(life, t_ns, bytearray()))
            chunks[-1].data.extend(data)
            held = sum(len(chunk.data) for chunk in chunks)
            while len(chunks) > 1 and (chunks[1].first_ns <= oldest_ns or held > MOST_MEMORY_BYTES):
                held -= len(chunks.popleft().data)

    def _write(self, data: bytes, wall_ns: int) -> None:
        if self._writer is None:
            return
        problem, failing = None, "history cannot be written in"
        try:
            self._writer.append(data, wall_ns)
            failing = "no old file of the history can be removed in"
            self._writer.prune(wall_ns)
        except OSError as exc:
            problem = f"{failing} {self._directory}: {exc.strerror}"
        if problem and problem != self._problem:
            log.error("%s; %s", problem, REMEDY)
        if self._problem and not problem:
            log.info("history is written, and old files of it are removed, again")
        self._problem = problem

    def report(self, args: Report, view: View, factors: Factors) -> Mapping[str, object]:
        """Return the energy of a stretch of time; raise ``ProtocolError``."""
        start_ns, end_ns = round((args.start or 0.0) * 1e9), round((args.end or 0.0) * 1e9)
        if args.end is None:
            end_ns = self._clock.now_ns() + self._clock.wall_offset_ns()
        if start_ns >= end_ns:
            raise ProtocolError("bad-request", "report: start has to be before end and before now")
        if not self._reports.acquire(blocking=False):
            message = "tychod makes another report at this moment; try again in a second"
            raise ProtocolError("busy", message)
        work = Work(MOST_WORK if view.step_s else None)
        try:
            if view.step_s:
                self._allowance.check(self._clock.now_ns())
            period = Period(start_ns, end_ns, round(view.step_s * 1e9))
            placed = self._place(period, view, work)
            return {"report": report_body(placed, period, args.by, factors)}
        finally:
            if view.step_s:
                self._allowance.take(work)
            self._reports.release()

    def _place(self, period: Period, view: View, work: Work) -> Iterator[Placed]:
        spans = {span.life: span for span in self._read(period, work)}
        live = self._live(period, view)
        current = Life(self._boot, live.since_ns) if live else None
        if live and current:
            offset_ns = live.wall_offset_ns
            began_ns = begin_of(current, offset_ns) + offset_ns
            spans.setdefault(current, Span(current, offset_ns, began_ns))
        while spans:
            life = next(iter(spans))
            placed = place(spans.pop(life), period, live if life == current else None, work)
            if placed:
                yield placed

    def _live(self, period: Period, view: View) -> Snapshot | None:
        """Return the newest window where it is in the period and may be an edge of it.

        Readers whose steps are longer than a window see records alone: a record and a window
        could be closer to each other than a step.
        """
        newest = view.newest
        if newest is None or view.step_s > newest.window.seconds:
            return None
        wall_ns = newest.window.end_ns + newest.wall_offset_ns
        return self._since_boot(newest) if period.start_ns < wall_ns <= period.end_ns else None

    def _since_boot(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot whose times count suspend, too.

        Between such times and the wall clock there is but one offset in a boot, and it is the
        newest: who sets the clock sets it right.
        """
        start_ns, end_ns = snapshot.window
        slept_ns = self._clock.slept_ns()
        return dataclasses.replace(
            snapshot,
            window=Window(start_ns + slept_ns, end_ns + slept_ns),
            wall_offset_ns=snapshot.wall_offset_ns - slept_ns,
        )

    def _read(self, period: Period, work: Work) -> list[Span]:
        damaged: list[str] = []
        sources = self._sources()
        spans = read_spans(sources, period, self._interval_ns, damaged.append, work.spend)
        with self._lock:
            fresh = [name for name in damaged if name not in self._told]
            self._told |= frozenset(fresh)
        for name in fresh:
            log.warning(
                "history: a part of %s is damaged or of another version, and left out", name
            )
        return spans

    def _sources(self) -> list[Source]:
        with self._lock:
            chunks = list(self._chunks)
        before = (self._boot, chunks[0].first_ns) if chunks else None
        found = []
        for file in self._files():
            try:
                found.append(Source(file.path.name, file, file.size(), before))
            except OSError:
                continue  # it was too old
        return [*found, *(Source("memory", chunk, len(chunk.data)) for chunk in chunks)]

    def _files(self) -> list[File]:
        try:
            return list_files(self._directory)
        except OSError as exc:
            log.warning("history: %s cannot be listed: %s", self._directory, exc.strerror)
            return []

    def trend(self, _: Nothing, view: View) -> Mapping[str, object]:
        """Return the node's power of the last minutes: of the windows that the reader could see.

        Others of the same density would, asked for again and again, come to be all there are.
        """
        with self._lock:
            points = list(self._points)
        end_ns = view.newest.window.end_ns if view.newest else 0
        shown = [
            point
            for point in points
            if point.end_ns <= end_ns and (point.is_for_all or not view.step_s)
        ]
        return {"points": [[point.wall_ns / 1e9, dict(point.power_w)] for point in shown]}

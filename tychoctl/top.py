"""`tychoctl top`: a live view of where the power goes, until the user has enough."""

import contextlib
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from types import FrameType
from typing import Final, NoReturn

from tychoctl import run as commands
from tychoctl.client import Connection, Failure, socket_path
from tychoctl.options import Options
from tychoctl.render import ELLIPSIS, escape
from tychoctl.top_feed import HOPELESS, Feed, Lost, News
from tychoctl.top_keys import ESCAPE_WAIT_S, Keys, Terminal
from tychoctl.top_model import History, Known, absorb, begin_anew, trend_points
from tychoctl.top_paint import Canvas, make_paint
from tychoctl.top_rows import Row, make_rows
from tychoctl.top_state import State, choice_of, press, settle
from tychoctl.top_view import Scene, draw, page_of
from tychoctl.values import EVERY_WINDOW

GIVE_UP_S: Final = 60.0
"""So long is a daemon that went away waited for."""
LATE_S: Final = 10.0
"""So much later than expected may a window be before it is said."""
ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
NOTED: Final = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


def start(options: Options) -> int:
    """Run the command; return its exit code."""
    check_terminal()
    path = socket_path(options.socket)

    def greet() -> None:
        Connection(path).close()

    commands.patiently(greet, path, options.wait)  # without a daemon there is nothing to look at
    gc.enable()  # it may run for days
    try:
        return show(path, options)
    except KeyboardInterrupt:
        return 0


def check_terminal() -> None:
    """Refuse what is no terminal: there is nothing to draw on, or nobody to press a key."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise Failure("usage", "top needs a terminal; in a file or pipe use tychoctl workloads -w")


def show(path: str, options: Options) -> int:
    """Show the view; whatever ends it, the terminal is as it was."""
    view = Top(options)
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    interval_s = None if options.interval in (None, EVERY_WINDOW) else options.interval

    def wake() -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake anyhow
            os.write(write_fd, b"\0")

    feed = Feed(path, interval_s, wake)
    with signals_noted(view.noted, write_fd):
        try:
            try:
                view.terminal.enter()
                feed.start()
                view.follow(feed, read_fd)
            finally:
                ignore_endings()  # a signal before this line still comes to the next finally
        finally:
            view.terminal.leave()
            feed.stop()
    return 0


@contextlib.contextmanager
def signals_noted(noted: set[int], wake_fd: int) -> Iterator[None]:
    """Note in here what the loop has to act on; the others end it, each only once."""

    def note(number: int, _: FrameType | None) -> None:
        noted.add(number)

    def end(number: int, _: FrameType | None) -> NoReturn:
        ignore_endings()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)  # as a shell reports it

    before = {number: signal.signal(number, note) for number in NOTED}
    before |= {number: signal.signal(number, end) for number in ENDING}
    before_fd = signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before_fd)
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_endings() -> None:
    """Let nothing come between a terminal and its being put back."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


class Top:
    """The view: what is known, what is shown, and the terminal it is shown on."""

    def __init__(self, options: Options) -> None:
        self.terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno())
        self.noted: set[int] = set()
        self._selector = options.selector
        self._state = State(
            sort=options.sort if options.ordered or options.units == "W" else "energy",
            is_tree=not options.flat,
            unit=options.units,
            namespace=options.namespace,
            kind=options.kind,
        )
        self._keys = Keys()
        self._canvas = Canvas(make_paint())
        self._ascii = "utf" not in (sys.stdout.encoding or "").lower()
        self._history = History()
        self._newest = self._shown = Known()
        self._until: int | None = None
        self._came_s = time.monotonic()
        self._lost: Failure | None = None
        self._rows: list[Row] = []
        self._made: tuple[Known, State] | None = None  # what the rows were made of

    def follow(self, feed: Feed, wake_fd: int) -> None:
        """Show what comes until the user leaves."""
        keys_fd = sys.stdin.fileno()
        self._refresh()
        while not self._state.is_leaving:
            ready, _, _ = select.select([keys_fd, wake_fd], [], [], self._wait_s())
            if wake_fd in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_fd, 4096)
            self._act_on_signals()
            while not feed.news.empty():
                self._take(feed.news.get())
            if keys_fd in ready:
                self._type(self.terminal.read())
            elif self._keys.is_waiting:
                self._press(self._keys.flush())
            self._give_up()
            self._refresh()

    def _wait_s(self) -> float | None:
        """Return how long nothing changes by itself."""
        if self._keys.is_waiting:
            return ESCAPE_WAIT_S
        if self._lost is not None or self._late_s() > 0:
            return 1.0
        return -self._late_s() + 0.01

    def _late_s(self) -> float:
        """Return how much later than it may be the next window is; below 0 it is not."""
        expected_s = 3 * (self._newest.seconds or 0.0) + LATE_S
        return time.monotonic() - self._came_s - expected_s

    def _act_on_signals(self) -> None:
        noted = self.noted
        if not noted:
            return
        stopping, going_on = signal.SIGTSTP in noted, signal.SIGCONT in noted
        noted.clear()
        if stopping:
            self.terminal.suspend()
            noted.discard(signal.SIGCONT)
        elif going_on:  # the modes may be those of the shell
            self.terminal.enter()
        self._canvas.forget()

    def _take(self, news: News | Lost) -> None:
        """Take what the daemon said, or that it says nothing."""
        if isinstance(news, Lost):
            if self._lost is None or self._lost.code == "not-ready":
                self._came_s = time.monotonic()
            self._lost = news.failure
            return
        self._came_s, self._lost = time.monotonic(), None
        before = self._newest
        known = absorb(before, news.workloads, news.node or {}, self._selector)
        if known.sequence != before.sequence or known.end != before.end:
            self._history.append(known, seconds_of(known.end))
        self._newest = known
        if news.trend is not None:
            self._history.seed(trend_points(news.trend, known))
        if not self._state.paused:
            self._shown = known

    def _type(self, data: bytes) -> None:
        if not data:  # the terminal has gone away
            raise SystemExit(128 + signal.SIGHUP)
        self._press(self._keys.feed(data))

    def _press(self, keys: list[str]) -> None:
        for key in keys:
            before = self._state
            self._state = press(before, key, self._rows, self._page())
            if self._state.paused != before.paused:
                self._until = self._history.count if self._state.paused else None
                self._shown = self._newest
            if self._state.zeros != before.zeros:
                self._newest = begin_anew(self._newest)
                self._shown = self._newest if not self._state.paused else begin_anew(self._shown)
            if self._state.redraws != before.redraws:
                self._canvas.forget()
            if self._state.is_leaving:
                return
            self._settle()

    def _page(self) -> int:
        height = self.terminal.size()[1]
        if self._state.mode == "help":
            return max(height - 1, 1)
        return page_of(self._shown, height)

    def _settle(self) -> None:
        told = (self._shown, choice_of(self._state))
        if self._made is None or self._made[0] is not told[0] or self._made[1] != told[1]:
            self._made = told  # a key held down moves through rows that are made already
            self._rows = make_rows(self._shown, self._state)
        self._state = settle(self._state, self._rows, self._page())

    def _refresh(self) -> None:
        """Show everything as it is now."""
        self._settle()
        width, height = self.terminal.size()
        scene = Scene(
            known=self._shown,
            state=self._state,
            rows=self._rows,
            history=self._history,
            width=width,
            height=height,
            until=self._until,
            told=self._told(),
            ascii=self._ascii,
        )
        text = self._canvas.update(draw(scene), width)
        if text:
            if self._ascii:  # what else cannot be shown is a question mark, which is as wide
                text = text.replace(ELLIPSIS, "~")
            self.terminal.write(text.encode(sys.stdout.encoding or "ascii", "replace"))

    def _told(self) -> str:
        """Return what the user must know now."""
        silent_s = time.monotonic() - self._came_s
        if self._lost is not None:
            return told_of(self._lost, silent_s)
        return f"no new window for {silent_s:.0f} s" if self._late_s() > 0 else ""

    def _give_up(self) -> None:
        """Leave when there is nothing to wait for."""
        if self._lost is None or self._lost.code == "not-ready":
            return
        if self._lost.code in HOPELESS:
            raise self._lost
        if time.monotonic() - self._came_s > GIVE_UP_S:
            message = f"tychod did not come back within {GIVE_UP_S:.0f} s: {self._lost.message}"
            raise Failure("not-running", message)


def told_of(failure: Failure, silent_s: float) -> str:
    """Return in one line why there are no answers."""
    if failure.code == "not-ready":
        return escape(failure.message)
    if failure.code in ("not-running", "closed"):
        return f"tychod went away, reconnecting ({silent_s:.0f} s)"
    return f"{escape(failure.message)}; asking again ({silent_s:.0f} s)"


def seconds_of(time_text: str) -> float:
    """Return the seconds since 1970 of an RFC 3339 time; now where it is none."""
    try:
        return datetime.fromisoformat(time_text).timestamp()
    except ValueError:
        return time.time()

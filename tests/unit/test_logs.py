"""The log against a real datagram socket in the place of journald, and real pipes."""

import contextlib
import logging
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod.runtime.logs import (
    MAX_MESSAGE_BYTES,
    JournalHandler,
    StderrHandler,
    close_logging,
    cut,
    is_journal_stream,
    priority,
    render_field,
    render_message,
    set_level,
    setup_logging,
    write_patiently,
)

log = logging.getLogger("tychod.collectors.rapl")


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    """Give the process's log back as it was."""
    root, chatty = logging.getLogger(), logging.getLogger("urllib3")
    before = root.level, chatty.level, list(root.handlers)
    yield
    for handler in [h for h in root.handlers if h not in before[2]]:
        close_logging(handler)
    root.setLevel(before[0])
    chatty.setLevel(before[1])


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """Return a datagram socket that stands where journald's would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "journal"))
        server.settimeout(5.0)
        yield server


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return the reading and writing end of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def parse_entry(data: bytes) -> dict[str, str]:
    """Read one datagram as journald does (systemd's JOURNAL_NATIVE_PROTOCOL.md)."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]*", name)
        fields[name.decode()] = value.decode()
        data = rest
    return fields


def start_journal(journal: socket.socket, level: str = "info") -> logging.Handler:
    """Send the log to the socket that stands for journald."""
    return setup_logging("journal", level, {}, journal.getsockname())


def received(journal: socket.socket) -> dict[str, str]:
    """Return the next entry."""
    return parse_entry(journal.recv(1 << 20))


def test_an_entry_has_its_fields(journal: socket.socket) -> None:
    """Priority, place in the code, logger, event and source arrive as fields to search by."""
    start_journal(journal)

    log.warning("zone %s vanished", "package-0", extra={"event": "lost", "source": "rapl"})

    entry = received(journal)
    assert entry.pop("CODE_FILE") == __file__
    assert int(entry.pop("CODE_LINE")) > 0
    assert entry == {
        "MESSAGE": "zone package-0 vanished",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "tychod",
        "LOGGER": "tychod.collectors.rapl",
        "CODE_FUNC": "test_an_entry_has_its_fields",
        "TYCHO_EVENT": "lost",
        "TYCHO_SOURCE": "rapl",
    }


def test_fields_nobody_gave_are_absent(journal: socket.socket) -> None:
    """A record without event has no event field."""
    start_journal(journal)

    log.info("x")

    assert not {"TYCHO_EVENT", "TYCHO_SOURCE"} & set(received(journal))


def test_lines_cannot_forge_fields(journal: socket.socket) -> None:
    """A message of several lines stays one message."""
    start_journal(journal)

    log.error("first\nPRIORITY=0\n\nlast %s", "ü€\udcff")

    entry = received(journal)
    assert entry["MESSAGE"] == "first\nPRIORITY=0\n\nlast ü€\\udcff"
    assert entry["PRIORITY"] == "3"


def test_a_traceback_is_part_of_the_message(journal: socket.socket) -> None:
    """An exception arrives whole, in one entry."""
    start_journal(journal)

    try:
        int("zone")
    except ValueError:
        log.exception("cannot read")

    message = received(journal)["MESSAGE"]
    assert message.startswith("cannot read\nTraceback (most recent call last):\n")
    assert message.endswith("ValueError: invalid literal for int() with base 10: 'zone'")


@pytest.mark.parametrize(
    ("level", "number"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
        (logging.INFO + 5, 6),
        (1, 7),
    ],
)
def test_priorities(level: int, number: int) -> None:
    """Levels become syslog's priorities."""
    assert priority(level) == number


def test_a_message_too_large_is_cut_with_a_mark(journal: socket.socket) -> None:
    """What does not fit a datagram arrives as far as it fits, and says so."""
    start_journal(journal)

    log.info("%s", "€" * 1_000_000)

    message = received(journal)["MESSAGE"]
    assert len(message.encode()) < MAX_MESSAGE_BYTES + 100
    assert message.startswith("€€€")
    assert message.endswith("€ ... [cut: 3000000 bytes]")


@given(st.text(max_size=100))
def test_short_messages_are_not_cut(text: str) -> None:
    """The mark means that something is missing."""
    assert cut(text) == text


@given(st.text())
def test_every_value_survives_the_protocol(text: str) -> None:
    """Whatever a value holds, journald reads the same."""
    assert parse_entry(render_field("MESSAGE", text) + render_field("LAST", "x")) == {
        "MESSAGE": text.encode("utf-8", "backslashreplace").decode(),
        "LAST": "x",
    }


class Unprintable:
    """An argument whose text cannot be had."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("message", "arguments", "shown"),
    [
        ("%s of %s", ("a",), "'%s of %s' (its arguments do not fit: TypeError)"),
        ("%d", ("a",), "'%d' (its arguments do not fit: TypeError)"),
        ("%s", (Unprintable(),), "'%s' (its arguments do not fit: RuntimeError)"),
    ],
)
def test_a_wrong_call_does_not_raise(
    message: str, arguments: tuple[object, ...], shown: str
) -> None:
    """A mistake in a log call is logged; it does not end a thread."""
    record = logging.LogRecord("x", logging.INFO, "f", 1, message, arguments, None)

    assert render_message(record) == shown


def test_levels_change_live(journal: socket.socket) -> None:
    """A reload can make the log more or less detailed."""
    start_journal(journal, "warning")
    log.info("hidden")
    set_level("debug")
    log.debug("shown")

    assert received(journal)["MESSAGE"] == "shown"

    set_level("error")
    log.warning("hidden again")
    log.error("last")

    assert received(journal)["MESSAGE"] == "last"


def test_http_connections_are_not_logged(journal: socket.socket) -> None:
    """At level debug the HTTP library's own lines stay out."""
    start_journal(journal, "debug")
    logging.getLogger("urllib3.connectionpool").debug("GET /pods")
    log.debug("ours")

    assert received(journal)["MESSAGE"] == "ours"


def test_set_up_again_replaces(journal: socket.socket) -> None:
    """After the settings are known the log is set up again: nothing is written twice."""
    start_journal(journal)
    start_journal(journal)
    log.info("once")
    log.info("twice")

    assert [received(journal)["MESSAGE"] for _ in range(2)] == ["once", "twice"]


def test_without_journald_lines_go_to_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A journal that is not there loses nothing."""
    setup_logging("journal", "info", {}, str(tmp_path / "none"))

    log.error("still here")

    assert capfd.readouterr().err.endswith(" ERROR tychod.collectors.rapl: still here\n")


def test_journald_may_come_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A restart of journald is survived: its new socket gets the next entry."""
    path = str(tmp_path / "journal")
    setup_logging("journal", "info", {}, path)
    for number in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(path)
            server.settimeout(5.0)
            log.info("%d", number)
            assert received(server)["MESSAGE"] == str(number)
        Path(path).unlink()
        log.info("between")

    assert capfd.readouterr().err.count("between") == 2


def test_a_stuck_journald_does_not_stop_us(journal: socket.socket, pipe: tuple[int, int]) -> None:
    """Once its queue is full, entries go to the other way out, and logging goes on."""
    fallback = StderrHandler(prefixed=True, fd=pipe[1])
    handler = JournalHandler(journal.getsockname(), fallback)
    record = logging.LogRecord("x", logging.INFO, "f", 1, "m", None, None)
    os.set_blocking(pipe[0], False)
    seen = b""
    with contextlib.closing(handler):
        for _ in range(100_000):
            handler.emit(record)
            with contextlib.suppress(BlockingIOError):
                seen = os.read(pipe[0], 100)
                break

    assert seen == b"<6>x: m\n"


def test_a_stuck_reader_of_standard_error_does_not_stop_us(pipe: tuple[int, int]) -> None:
    """Lines that nobody reads are dropped; when the reader is back it is told how many."""
    handler = StderrHandler(prefixed=True, fd=pipe[1])
    fill = b"." * 4096
    while write_patiently(pipe[1], fill, patient=False):
        pass
    for number in range(3):
        handler.emit(logging.LogRecord("x", logging.INFO, "f", 1, "%d", (number,), None))
    drained = os.read(pipe[0], 1 << 20)
    handler.emit(logging.LogRecord("x", logging.INFO, "f", 1, "back", None, None))

    assert set(drained) == set(b".")
    assert os.read(pipe[0], 1 << 20) == (
        b"3 lines of the log were lost: nobody read them\n<6>x: back\n"
    )


def test_a_closed_standard_error_does_not_stop_us(pipe: tuple[int, int]) -> None:
    """A terminal that went away, or a descriptor that was closed, is no reason to fail."""
    handler = StderrHandler(prefixed=False, fd=pipe[1])
    record = logging.LogRecord("x", logging.INFO, "f", 1, "m", None, None)
    os.close(pipe[0])
    handler.emit(record)
    os.close(pipe[1])
    handler.emit(record)

    assert not write_patiently(pipe[1], b"x")


def test_a_terminal_shows_time_and_level(capfd: pytest.CaptureFixture[str]) -> None:
    """Started by hand, a line reads like one."""
    setup_logging("auto", "info", {"JOURNAL_STREAM": "1:2"})

    log.info("ready", extra={"event": "start"})

    line = capfd.readouterr().err
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO tychod\.collectors\.rapl: ready\n", line
    )


PROGRAM = """
import logging, os, sys
from tychod.runtime.logs import close_logging, setup_logging
stat = os.fstat(2)
environ = {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}
handler = setup_logging(sys.argv[1], "info", environ, sys.argv[2])
logging.getLogger("tychod").error("two\\nlines")
close_logging(handler)
"""


def run_under_journal(target: str, path: str) -> str:
    """Run a program whose standard error is the journal's stream; return what went there."""
    command = [sys.executable, "-c", PROGRAM, target, path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def test_under_systemd_entries_go_to_the_journal(journal: socket.socket) -> None:
    """When $JOURNAL_STREAM is our standard error, the journal gets entries with fields."""
    assert run_under_journal("auto", journal.getsockname()) == ""
    assert received(journal)["MESSAGE"] == "two\nlines"


def test_under_systemd_standard_error_carries_priorities(journal: socket.socket) -> None:
    """Asked for standard error, every line tells journald its priority."""
    assert run_under_journal("stderr", journal.getsockname()) == "<3>tychod: two\n<3>lines\n"


def test_under_systemd_the_fallback_carries_priorities(tmp_path: Path) -> None:
    """When the journal's socket fails, its stream still gets the priority."""
    assert run_under_journal("auto", str(tmp_path / "none")) == "<3>tychod: two\n<3>lines\n"


def test_the_stream_must_be_ours(tmp_path: Path) -> None:
    """A child inherits $JOURNAL_STREAM; only the same device and inode count."""
    with (tmp_path / "a").open("w") as file:
        stat = os.fstat(file.fileno())

        assert is_journal_stream(f"{stat.st_dev}:{stat.st_ino}", file.fileno())
        for other in ("", ":", "x:y", f"{stat.st_dev}", f"{stat.st_dev}:{stat.st_ino + 1}"):
            assert not is_journal_stream(other, file.fileno())
        gone = file.fileno()
    assert not is_journal_stream(f"{stat.st_dev}:{stat.st_ino}", gone)

"""The log: journald's native protocol under systemd, standard error elsewhere.

A record may carry ``extra={"event": "start", "source": "rapl"}``; the journal keeps both as fields.
Writing never raises and never waits long: a log that is stuck must not hold up a measurement.
"""

import logging
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Final

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "tychod"
MAX_MESSAGE_BYTES: Final = 48 * 1024
"""journald accepts more, but a datagram must also fit the socket's buffer (about 200 KiB)."""
PATIENCE_S: Final = 0.1
PIPE_BUF: Final = select.PIPE_BUF
"""A pipe or socket that select calls writable takes this many bytes without blocking."""
STDERR: Final = 2
PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
DEBUG_PRIORITY: Final = 7
EXTRA_FIELDS: Final = (("event", "TYCHO_EVENT"), ("source", "TYCHO_SOURCE"))


class StderrHandler(logging.Handler):
    """Writes lines to a descriptor; what cannot be written in time is dropped and counted."""

    def __init__(self, *, prefixed: bool, fd: int = STDERR) -> None:
        """Write to ``fd``; ``prefixed``: with journald's ``<N>`` instead of time and level."""
        super().__init__()
        self._prefixed = prefixed
        self._fd = fd
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; after a loss do not wait again until the reader is back."""
        text = render_prefixed(record) if self._prefixed else render_plain(record)
        if self._lost:
            text = f"{self._lost} lines of the log were lost: nobody read them\n{text}"
        if write_patiently(self._fd, text.encode("utf-8", "backslashreplace"), not self._lost):
            self._lost = 0
        else:
            self._lost += 1


class JournalHandler(logging.Handler):
    """Sends each record to journald with fields; where that fails, writes it to standard error."""

    def __init__(self, path: str, fallback: StderrHandler) -> None:
        """Send to the datagram socket at ``path``."""
        super().__init__()
        self._path = path
        self._fallback = fallback
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_S)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one datagram; the socket is not connected, so a restarted journald is found."""
        try:
            self._socket.sendto(render_journal(record), self._path)
        except OSError:
            self._fallback.handle(record)

    def close(self) -> None:
        """Close both ways out."""
        self._socket.close()
        self._fallback.close()
        super().close()


def setup_logging(
    target: str, level: str, environ: Mapping[str, str], journal: str = JOURNAL_SOCKET
) -> logging.Handler:
    """Send the whole process's log to ``target`` ("auto", "journal", "stderr") from ``level`` up.

    May be called again; the handler that an earlier call added is replaced.
    """
    under_systemd = is_journal_stream(environ.get("JOURNAL_STREAM", ""), STDERR)
    handler: logging.Handler = StderrHandler(prefixed=under_systemd)
    if target == "journal" or (target == "auto" and under_systemd):
        handler = JournalHandler(journal, StderrHandler(prefixed=under_systemd))
    root = logging.getLogger()
    for earlier in [h for h in root.handlers if isinstance(h, StderrHandler | JournalHandler)]:
        close_logging(earlier)
    root.addHandler(handler)
    set_level(level)
    # Its debug lines tell of every connection; ours say what an operator needs.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    return handler


def close_logging(handler: logging.Handler) -> None:
    """Take a handler out of the log and close it."""
    logging.getLogger().removeHandler(handler)
    handler.close()


def set_level(level: str) -> None:
    """Write records from ``level`` up: "debug", "info", "warning" or "error"."""
    logging.getLogger().setLevel(level.upper())


def is_journal_stream(stream: str, fd: int) -> bool:
    """Say whether $JOURNAL_STREAM ("device:inode") is what ``fd`` is connected to.

    A child of a service inherits the variable but may write elsewhere: only a match counts.
    """
    device, _, inode = stream.partition(":")
    try:
        stat = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))


def render_journal(record: logging.LogRecord) -> bytes:
    """Return a record in journald's native protocol."""
    fields = {
        "MESSAGE": cut(render_message(record)),
        "PRIORITY": str(priority(record.levelno)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        **dict(extra_fields(record)),
    }
    return b"".join(render_field(name, value) for name, value in fields.items())


def render_field(name: str, value: str) -> bytes:
    """Return one field: ``NAME=value``, or with its length where the value has several lines."""
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode("ascii"), data)
    return b"%s\n%s%s\n" % (name.encode("ascii"), struct.pack("<Q", len(data)), data)


def extra_fields(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    """Yield the journal fields that the call added by ``extra``."""
    for attribute, field in EXTRA_FIELDS:
        value = getattr(record, attribute, None)
        if value is not None:
            yield field, cut(str(value))


def render_prefixed(record: logging.LogRecord) -> str:
    """Return a record for a standard error that journald reads: ``<N>`` before every line."""
    prefix = f"<{priority(record.levelno)}>"
    lines = cut(f"{record.name}: {render_message(record)}").splitlines()
    return "".join(f"{prefix}{line}\n" for line in lines)


def render_plain(record: logging.LogRecord) -> str:
    """Return a record for a person: local time, level, logger, message."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
    return cut(f"{when} {record.levelname} {record.name}: {render_message(record)}") + "\n"


def render_message(record: logging.LogRecord) -> str:
    """Return message and traceback; a call with arguments that do not fit is told, not raised."""
    try:
        message = record.getMessage()
    except Exception as exc:  # noqa: BLE001 - any argument's __str__ may fail; logging must not
        message = f"{record.msg!r} (its arguments do not fit: {type(exc).__name__})"
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    if record.stack_info:
        message += "\n" + record.stack_info
    return message


def cut(text: str) -> str:
    """Return a text that fits a datagram, with a mark where the rest is missing."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= MAX_MESSAGE_BYTES:
        return text
    kept = data[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")
    return f"{kept} ... [cut: {len(data)} bytes]"


def priority(level: int) -> int:
    """Return the syslog priority of a Python log level."""
    return next((number for least, number in PRIORITIES if level >= least), DEBUG_PRIORITY)


def write_patiently(fd: int, data: bytes, patient: bool = True) -> bool:
    """Write to a descriptor whose reader may be stuck; return whether all of it went out."""
    poll = select.poll()
    try:
        poll.register(fd, select.POLLOUT)
        while data:
            if not poll.poll(PATIENCE_S * 1000 if patient else 0):
                return False
            data = data[os.write(fd, data[:PIPE_BUF]) :]
    except OSError:
        return False
    return True

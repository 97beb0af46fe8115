"""The terminal of `tychoctl top`: keys from bytes, and modes that are always put back."""

import codecs
import contextlib
import os
import select
import signal
import termios
from typing import Final

# What terminals send for keys without a letter: ECMA-48, and xterm's and the Linux console's own.
SEQUENCES: Final = {
    b"[A": "up",
    b"[B": "down",
    b"[C": "right",
    b"[D": "left",
    b"OA": "up",
    b"OB": "down",
    b"OC": "right",
    b"OD": "left",
    b"[H": "home",
    b"[F": "end",
    b"OH": "home",
    b"OF": "end",
    b"[1~": "home",
    b"[4~": "end",
    b"[7~": "home",
    b"[8~": "end",
    b"[5~": "pageup",
    b"[6~": "pagedown",
}
CONTROLS: Final = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x02": "ctrl-b",
    "\x03": "q",  # in a terminal that sends no signal for it
    "\x06": "ctrl-f",
    "\x0c": "ctrl-l",
    "\x15": "ctrl-u",
}
ESC: Final = 0x1B
MOST_SEQUENCE: Final = 16
ESCAPE_WAIT_S: Final = 0.05
"""After this long without more, Esc was a key and not the beginning of one."""
# xterm: the other screen, no cursor, no wrapped lines (a name may be wider than we know).
LEAVE_WAIT_S: Final = 0.5
ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
LEAVE: Final = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"


class Keys:
    """Cuts what a terminal sends into keys; what it began and did not end is kept."""

    def __init__(self) -> None:
        self._data = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def is_waiting(self) -> bool:
        """Whether more may come that belongs to what came last."""
        return bool(self._data)

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that have come whole."""
        self._data += data
        keys: list[str] = []
        while self._data:
            if self._data[0] != ESC:
                keys += self._letters()
                continue
            length = _sequence_length(self._data)
            if length is None:
                break
            sequence = self._data[1:length]
            keys.append(SEQUENCES.get(sequence, "unknown") if sequence else "esc")
            self._data = self._data[length:]
        return keys

    def flush(self) -> list[str]:
        """Return what it must have been, as no more has come."""
        data, self._data = self._data, b""
        return ["esc"] if data == b"\x1b" else ["unknown"] if data else []

    def _letters(self) -> list[str]:
        end = self._data.find(b"\x1b")
        part = self._data if end < 0 else self._data[:end]
        self._data = self._data[len(part) :]
        return [CONTROLS.get(char, char) for char in self._decoder.decode(part)]


def _sequence_length(data: bytes) -> int | None:
    """Return how long the sequence is that data begins with; None: it is not all there."""
    if len(data) < 2:
        return None
    if data[1] == ord("O"):
        return 3 if len(data) >= 3 else None
    if data[1] == ESC:
        return 1  # Esc, and then another key
    if data[1] != ord("["):
        return 2  # Alt and a letter
    for at in range(2, min(len(data), MOST_SEQUENCE)):
        if 0x40 <= data[at] <= 0x7E:
            return at + 1
    return MOST_SEQUENCE if len(data) >= MOST_SEQUENCE else None


class Terminal:
    """A terminal that shows a screen of its own while it is entered."""

    def __init__(self, keys_fd: int, screen_fd: int) -> None:
        self._keys_fd = keys_fd
        self._screen_fd = screen_fd
        self._saved = termios.tcgetattr(keys_fd)

    def enter(self) -> None:
        """Take the modes and the screen; again after somebody else had them."""
        modes = termios.tcgetattr(self._keys_fd)
        modes[3] &= ~(termios.ICANON | termios.ECHO)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._keys_fd, termios.TCSANOW, modes)
        self.write(ENTER)

    def leave(self) -> None:
        """Put back modes and screen, as far as the terminal is still there."""
        with contextlib.suppress(OSError, termios.error):
            termios.tcflow(self._screen_fd, termios.TCOON)  # it may have been stopped by Ctrl-S
        with contextlib.suppress(OSError):
            # Nobody may read what is sent: an end that waits for that would be none.
            if select.select([], [self._screen_fd], [], LEAVE_WAIT_S)[1]:
                self.write(LEAVE)
        with contextlib.suppress(OSError, termios.error):
            termios.tcflush(self._keys_fd, termios.TCIFLUSH)
            termios.tcsetattr(self._keys_fd, termios.TCSANOW, self._saved)

    def suspend(self) -> None:
        """Stop like any program after Ctrl-Z, and come back when told to go on."""
        self.leave()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        with contextlib.suppress(termios.error):
            self._saved = termios.tcgetattr(self._keys_fd)
        self.enter()

    def write(self, data: bytes) -> None:
        """Send all of it, also to a terminal that somebody else made non-blocking."""
        while data:
            try:
                data = data[os.write(self._screen_fd, data) :]
            except BlockingIOError:
                select.select([], [self._screen_fd], [])

    def read(self) -> bytes:
        """Return what was typed; nothing when the terminal has gone away."""
        try:
            return os.read(self._keys_fd, 4096)
        except BlockingIOError:
            return b"\x00"  # somebody else took it
        except OSError:
            return b""

    def size(self) -> tuple[int, int]:
        """Return width and height in cells; one that was never told its size says 0."""
        try:
            size = os.get_terminal_size(self._screen_fd)
        except OSError:
            return 80, 24
        return max(size.columns, 0) or 80, max(size.lines, 0) or 24

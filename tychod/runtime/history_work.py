"""What reports may take of the daemon's time, counted in what they read; pure."""

from typing import Final

from tychod.frames import ProtocolError

MOST_WORK: Final = 400_000
"""Frames and rows in one report of a reader without rights: about 5 s of CPU."""
WORK_PER_S: Final = 15_000
"""What all readers without rights together may have read in the long run: a fifth of a core."""
MOST_LEFT: Final = 150_000
"""Reports of the usual size are never refused: a day of a busy node is a tenth of this."""


class Work:
    """What one report has read so far; beyond a bound it is given up."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self.spent = 0

    def spend(self, much: int) -> None:
        """Count so many frames or rows; raise ``ProtocolError``."""
        self.spent += much
        if self._most is not None and self.spent > self._most:
            message = (
                f"report: more than {self._most} records and ended workloads would have to be "
                "read: ask for a shorter time, or as root or an admin"
            )
            raise ProtocolError("unavailable", message)


class Allowance:
    """What readers without rights may have read: it grows with time, and a report takes of it.

    One that is begun is ended; what it took too much is waited for by the next.
    """

    def __init__(self) -> None:
        self._left = float(MOST_LEFT)
        self._at_ns: int | None = None

    def check(self, now_ns: int) -> None:
        """Raise ``ProtocolError`` where nothing is left."""
        since_ns = 0 if self._at_ns is None else max(now_ns - self._at_ns, 0)
        self._at_ns = now_ns
        self._left = min(self._left + since_ns * WORK_PER_S / 1e9, MOST_LEFT)
        if self._left <= 0:
            seconds = 1.0 + -self._left // WORK_PER_S
            message = f"tychod made long reports just now; try again in {seconds:.0f} s"
            raise ProtocolError("busy", message, seconds)

    def take(self, work: Work) -> None:
        """Take what a report has read."""
        self._left -= work.spent

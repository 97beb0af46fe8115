"""Series that the metrics endpoint leaves out: a problem of ``tychoctl status``, and a line."""

import logging
from collections.abc import Iterator, Mapping
from typing import Final

from tychod.model import Trouble

log = logging.getLogger(__name__)

SOURCE: Final = "metrics"
LEFT_OUT: Final = "[metrics] max_series = {} leaves out {} series: {}"
CAP_REMEDY: Final = "raise [metrics] max_series, or take levels out of [metrics] levels"


class Cap:
    """What the last text that was made left out; callable from any thread."""

    def __init__(self) -> None:
        self._trouble: Trouble | None = None
        self._levels: frozenset[str] = frozenset()

    def note(self, dropped: Mapping[str, int], max_series: int) -> None:
        """Take in how many series of which level a text left out; log what changed."""
        lost = {level: count for level, count in dropped.items() if count}
        self._trouble = None
        if lost:
            told = ", ".join(f"{count} of level {level}" for level, count in lost.items())
            reason = LEFT_OUT.format(max_series, sum(lost.values()), told)
            self._trouble = Trouble(SOURCE, reason, CAP_REMEDY)
        levels, self._levels = self._levels, frozenset(lost)
        if self._levels == levels:  # their number changes with every window
            return
        if self._trouble:
            log.warning("metrics: %s; %s", self._trouble.reason, CAP_REMEDY)
        else:
            log.info("metrics: no series is left out any more")

    def troubles(self) -> Iterator[Trouble]:
        """Yield what is left out, as a problem."""
        trouble = self._trouble
        if trouble is not None:
            yield trouble

"""Faults of ours in threads that answer clients: each is logged once."""

import logging
import threading
from typing import Final

MOST: Final = 32
"""Different ones that are logged."""


class Faults:
    """Logs a fault's traceback once: who repeats the question must not fill the log."""

    def __init__(self, log: logging.Logger, text: str) -> None:
        """``text``: what failed; the fault's name follows."""
        self._log = log
        self._text = text
        self._logged: set[str] = set()
        self._lock = threading.Lock()

    def tell(self, exc: Exception) -> None:
        """Log it unless it was before, or too many were; callable from any thread."""
        name = repr(exc)
        with self._lock:
            is_new = name not in self._logged and len(self._logged) < MOST
            if is_new:
                self._logged.add(name)
        if is_new:
            self._log.error("%s (logged once): %s", self._text, name, exc_info=exc)

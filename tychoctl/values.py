"""Values of options: what a text on the command line means, or why it means nothing."""

import argparse
import re
from typing import Final

from tychoctl.client import Failure
from tychoctl.view import Selector

EVERY_WINDOW: Final = 0.0
"""The interval that means: whenever there is a new window."""
MOST_SECONDS: Final = 86400.0
LEAST_INTERVAL_S: Final = 0.1
LONGEST_RECORDING_S: Final = 3600.0
# Text: most commands need neither, and to compile one takes as long as to import a module.
DURATION: Final = r"([0-9]{1,9}(?:\.[0-9]{0,9})?)(s|m|h|)"
UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "": 1}
NUMBER: Final = r"\d+(\.\d*)?|\.\d+"


def parse_interval(text: str) -> float:
    """Return the seconds of -w; nothing stands for every window."""
    return EVERY_WINDOW if not text else _seconds(text, LEAST_INTERVAL_S)


def parse_wait(text: str) -> float:
    """Return the seconds of --wait."""
    return _seconds(text, 0.0)


def _seconds(text: str, least: float) -> float:
    if not re.fullmatch(NUMBER, text) or not least <= float(text) <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from {least:g} to {MOST_SECONDS:g}"
        )
    return float(text)


def parse_labels(text: str) -> Selector | None:
    """Return what decides, by its labels, whether an entry is wanted; None: every one is.

    An empty selector asks for no label, so it matches those too whose labels nobody knows.
    """
    if not text.strip():
        return None
    from tychoctl.selector import SelectorError, parse_selector

    try:
        return parse_selector(text)
    except SelectorError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def parse_namespace(text: str) -> str:
    """Return the namespace of -n."""
    if not text.strip():
        raise argparse.ArgumentTypeError("names no namespace; leave it out to see all of them")
    return text


def parse_count(text: str) -> int:
    """Return the rows of --limit."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows, 1 or more")
    return int(text)


def parse_duration(text: str) -> float:
    """Return the seconds of --for."""
    found = re.fullmatch(DURATION, text)
    seconds = float(found[1]) * UNITS_S[found[2]] if found else 0.0
    if not 1.0 <= seconds <= LONGEST_RECORDING_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s or 5m, from 1s to 1h")
    return seconds


def settle_setting(found: dict[str, object]) -> None:
    """Put a setting that stands alone, without show, where one after show is."""
    action = found.get("action", "show")
    if action in ("show", "default"):
        return
    if found.get("key") is not None:
        message = f"config takes one setting or section: leave out {found['key']!r}"
        raise Failure("usage", f"{message}; see tychoctl config --help")
    found.update(action="show", key=action)

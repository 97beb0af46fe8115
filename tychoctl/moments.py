"""Times on the command line: what `--since`, `--until` and `--last` mean."""

import re
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from tychoctl.client import Failure

UNITS_S: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
RELATIVE: Final = r"([0-9]{1,9}(?:\.[0-9]{0,9})?) ?(s|m|min|h|d|w)(?: ago)?"
EXAMPLES: Final = (
    '2026-01-31, "2026-01-31 14:00", 2026-01-31T14:00:00Z, 3h, "90m ago", today or yesterday'
)


class Asked(NamedTuple):
    """A stretch of time in seconds since 1970; None: as far back as is known, and now."""

    start: float | None
    end: float | None


def parse_period(since: str | None, until: str | None, last: str | None, now: datetime) -> Asked:
    """Return what is asked for; ``now`` has a time zone, which is that of days without one."""
    if last is not None and (since is not None or until is not None):
        raise Failure("usage", "--last says it all: leave out --since and --until")
    if last is not None:
        return _parse_last(last, now)
    end = parse_moment("--until", until, now) if until is not None else now
    if since is None and until is not None and end <= _midnight(now, 0):
        if re.fullmatch(RELATIVE, until):
            # After midnight "an hour ago" was yesterday: whoever asks that means no years.
            raise Failure("usage", f"--until {until} is before today: say --since, too")
        return Asked(None, _seconds(end))
    since = "today" if since is None else since
    start = parse_moment("--since", since, now)
    if start >= end:
        told = "now" if until is None else f"--until {until}"
        raise Failure("usage", f"--since {since} is not before {told}")
    return Asked(_seconds(start), _seconds(end) if end < now else None)


def _parse_last(text: str, now: datetime) -> Asked:
    if text == "yesterday":
        return Asked(_seconds(_midnight(now, 1)), _seconds(_midnight(now, 0)))
    length = re.fullmatch(RELATIVE, text)
    if text != "today" and (length is None or not float(length[1])):
        raise Failure("usage", f"--last {text!r} is no length of time such as 24h, 7d or yesterday")
    return Asked(_seconds(parse_moment("--last", text, now)), None)


def parse_moment(option: str, text: str, now: datetime) -> datetime:
    """Return a moment; raise ``Failure`` (usage)."""
    words = {"now": now, "today": _midnight(now, 0), "yesterday": _midnight(now, 1)}
    if text in words:
        return words[text]
    relative = re.fullmatch(RELATIVE, text)
    try:
        if relative:
            return now - timedelta(seconds=float(relative[1]) * UNITS_S[relative[2]])
        found = datetime.fromisoformat(text)
        # The offset is that of the day, not of now: it may be summer there.
        moment = found if found.tzinfo else found.replace(tzinfo=None).astimezone()
    except (ValueError, OverflowError, OSError) as exc:
        raise Failure("usage", f"{option} {text!r} is no time such as {EXAMPLES}") from exc
    if moment.timestamp() < 0:
        raise Failure("usage", f"{option} {text!r} is before 1970")
    return moment


def _midnight(now: datetime, days_ago: int) -> datetime:
    """Return when a local day began; days of a change of the clock have 23 or 25 hours."""
    day = now.replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    return (day - timedelta(days=days_ago)).astimezone()


def _seconds(moment: datetime) -> float:
    return max(moment.timestamp(), 0.0)


def local(told: object) -> str:
    """Return an RFC 3339 time in local time, for people."""
    found = as_datetime(told)
    return "n/a" if found is None else found.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def as_datetime(told: object) -> datetime | None:
    """Return an RFC 3339 time; None for anything else."""
    try:
        return datetime.fromisoformat(str(told)).astimezone()
    except (ValueError, OverflowError):
        return None

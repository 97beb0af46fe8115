"""What a check is, and what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tychod.clock import Clock
    from tychod.config import Config
    from tychod.hostfs import Host

State = Literal["ok", "warn", "fail", "skip"]


class Finding(NamedTuple):
    """What was looked at and seen, and the command or setting that mends it."""

    state: State
    evidence: str
    remedy: str | None = None


class Place(NamedTuple):
    """Where a check looks: the machine, the settings, who asks."""

    host: Host
    config: Config
    clock: Clock
    environ: Mapping[str, str]
    uid: int
    settings: Finding  # how reading the settings went; with a failure ``config`` has the defaults
    node_name: str
    reads_all: bool  # CAP_DAC_READ_SEARCH, or root: what is refused then is refused to all


class Check(NamedTuple):
    """One precondition; ``slow`` is what to do when looking takes too long."""

    id: str
    group: str
    title: str
    look: Callable[[Place], Finding]
    slow: str


class Result(NamedTuple):
    """A check with its finding."""

    check: Check
    finding: Finding


def ok(evidence: str) -> Finding:
    """Return that it is in place."""
    return Finding("ok", evidence)


def skip(evidence: str, remedy: str | None = None) -> Finding:
    """Return that it does not apply here, or cannot be known from here, and why."""
    return Finding("skip", evidence, remedy)

"""Which of a BMC's chassis count, and what each is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from tychod.collectors.redfish_errors import RedfishError

if TYPE_CHECKING:
    from collections.abc import Iterator

Document = Mapping[str, object]


class Candidate(NamedTuple):
    """A chassis that is there, whether it counts or not."""

    ident: str
    path: str
    document: Document
    parents: tuple[str, ...]
    systems: int


def preferred(present: list[Candidate], wanted: Sequence[str]) -> tuple[list[Candidate], list[str]]:
    """Return the chassis to look at and what to tell: those named, else `Self` alone, else all."""
    if wanted:
        known = {c.ident for c in present}
        missing = [name for name in wanted if name not in known]
        notes = [f"[redfish] chassis: there is no {shown(name)}" for name in missing]
        if not known & set(wanted):
            told = ", ".join(sorted(known)[:8])
            raise RedfishError(
                "none of [redfish] chassis is there", f"name some of {told}, or none, for all"
            )
        return [c for c in present if c.ident in wanted], notes
    own = [c for c in present if c.ident == "Self" or c.path.endswith("/Self")]
    return own or present, []


def told_apart(present: Sequence[Candidate]) -> list[Candidate]:
    """Return the chassis, those of one Id with names of their own: the last part of their paths.

    By what they are called their readings are kept apart; that depends on no order.
    """
    named = list(present)
    for name in (last_part, _with_digest):
        often = Counter(c.ident for c in named)
        named = [c._replace(ident=name(c.path)) if often[c.ident] > 1 else c for c in named]
    return named


def last_part(path: str) -> str:
    """Return what a chassis is called at the end of its path."""
    return shown(path.rpartition("/")[2])


def _with_digest(path: str) -> str:
    return f"{last_part(path)[:51]}-{sha256(path.encode()).hexdigest()[:12]}"


def outermost(found: list[Candidate], present: list[Candidate | None]) -> list[Candidate]:
    """Return the chassis that hold systems, or else all; less those inside another of them."""
    kept = [c for c in found if c.systems] or found
    parents = {c.path: c.parents for c in present if c}
    paths = {c.path for c in kept}
    return [c for c in kept if not paths.intersection(_above(c, parents))]


def _above(candidate: Candidate, parents: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield what a chassis is in, and what that is in; a ring ends where it began."""
    seen = {candidate.path}
    waiting = list(candidate.parents)
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            yield path
            waiting += parents.get(path, ())


def shown(value: object) -> str:
    """Return a short, printable form of what a BMC says; of lists and objects their kind."""
    text = str(value)[:64] if isinstance(value, str | int | float) else type(value).__name__
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")[:64]

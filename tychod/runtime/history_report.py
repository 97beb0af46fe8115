"""A report as the plain data of an answer: stretches of all lives in a period, added up."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from tychod.config_results import Report as Factors
from tychod.model import Snapshot
from tychod.protocol import ReportBy
from tychod.runtime.entries import SECOND_NS, Plain, render_time
from tychod.runtime.history_accounts import Line, Stretch, account, node_gain
from tychod.runtime.history_records import Who, gone_between, totals_of
from tychod.runtime.history_spans import Period, Span

MOST_ROWS: Final = 10_000
"""Beyond that the smallest are one row: an answer is at most 8 MiB."""

Split = dict[str, list[int]]
"""Idle and dynamic microjoules by domain."""


@dataclass(slots=True)
class Sum:
    """One row over all stretches."""

    who: Who
    cpu_ns: int = 0
    energy: Split = field(default_factory=dict)

    def add(self, values: tuple[int, ...], domains: Iterable[str]) -> None:
        """Add what one stretch has."""
        self.cpu_ns += values[0]
        for number, name in enumerate(domains):
            into = self.energy.setdefault(name, [0, 0])
            into[0] += values[1 + 2 * number]
            into[1] += values[2 + 2 * number]

    @property
    def total_uj(self) -> int:
        """Idle and dynamic energy of all domains."""
        return sum(map(sum, self.energy.values()))


class Covered(NamedTuple):
    """A stretch on the wall clock, in nanoseconds since 1970."""

    start_ns: int
    end_ns: int


class Pause(NamedTuple):
    """Time of which there is no record; ``counted``: its energy is in the report nevertheless."""

    start_ns: int
    end_ns: int
    counted: bool


class Placed(NamedTuple):
    """A stretch, when it was, and when nothing was recorded in it."""

    stretch: Stretch
    covered: Covered
    pauses: tuple[Pause, ...]


def place(span: Span, period: Period, live: Snapshot | None) -> Placed | None:
    """Return a span's stretch; ``live``: newer than any record.  None: there is nothing in it."""
    last = span.last.totals() if span.last else None
    if live and last and last.t_ns >= live.window.end_ns:
        live = None
    final = totals_of(live, last) if live else last
    begins_within = span.begin_ns >= period.start_ns
    edge = span.base or (None if begins_within else span.first)
    base = edge.totals() if edge else None
    if final is None or (base is None and not begins_within):
        return None  # counters that began long ago, and nothing known of them then
    if base is not None and base.t_ns >= final.t_ns:
        return None
    from_ns = base.t_ns if base else 0
    gone = [*span.read_departed(from_ns, last.t_ns if last else 0)]
    if live and last:
        gone.append(gone_between(last, final))
    end_ns = final.t_ns + span.offset_ns
    start_ns = min(from_ns + span.offset_ns if base else span.begin_ns, end_ns)
    pauses = tuple(
        Pause(p.start_ns + span.offset_ns, p.end_ns + span.offset_ns, counted=True)
        for p in span.pauses
        if from_ns < p.end_ns <= final.t_ns
    )
    return Placed(Stretch(base, gone, final), Covered(start_ns, end_ns), pauses)


def report_body(placed: Iterable[Placed], period: Period, by: ReportBy, factors: Factors) -> Plain:
    """Return the answer's own part."""
    parts = sorted(placed, key=lambda one: one.covered.start_ns)
    length_ns = sum(p.covered.end_ns - p.covered.start_ns for p in parts)
    domains = node_domains(parts)
    whole = Sum(Who("total", "", "", None, None, None, None, nested=False))
    for part in parts:
        whole.add(node_gain(part.stretch), part.stretch.final.domains)
    seconds = length_ns / SECOND_NS
    rows, left_out = _most(_sums(parts, by)) if by != "node" else ([], 0)
    return {
        "by": by,
        "asked": {"start": render_time(period.start_ns), "end": render_time(period.end_ns)},
        "covered": _covered(parts, seconds),
        "gaps": [_gap(pause) for pause in _gaps(parts)],
        "rows": [_entry(row, seconds) for row in rows],
        "left_out": left_out,
        "total": _numbers(whole, seconds),
        "modelled_uj": sum(_modelled_uj(part.stretch) for part in parts),
        "domains": domains,
        "factors": _factors(factors),
    }


def _covered(parts: list[Placed], seconds: float) -> Plain | None:
    if not parts:
        return None
    start_ns = parts[0].covered.start_ns
    end_ns = max(part.covered.end_ns for part in parts)
    return {"start": render_time(start_ns), "end": render_time(end_ns), "seconds": seconds}


def _gaps(parts: list[Placed]) -> list[Pause]:
    """Return the times of which there is no record, in order."""
    found = [pause for part in parts for pause in part.pauses]
    for one, other in pairwise(parts):
        if other.covered.start_ns > one.covered.end_ns:
            found.append(Pause(one.covered.end_ns, other.covered.start_ns, counted=False))
    return sorted(found)


def _gap(pause: Pause) -> Plain:
    start, end = render_time(pause.start_ns), render_time(pause.end_ns)
    return {"start": start, "end": end, "counted": pause.counted}


def _sums(parts: list[Placed], by: ReportBy) -> list[Sum]:
    found: dict[tuple[str, str], Sum] = {}
    for part in parts:
        for line in account(part.stretch, by):
            _sum_of(found, line).add(line.values, part.stretch.final.domains)
    return sorted(found.values(), key=lambda row: (-row.total_uj, row.who.kind, row.who.id))


def _sum_of(found: dict[tuple[str, str], Sum], line: Line) -> Sum:
    key = (line.who.kind, line.who.id)
    known = found.setdefault(key, Sum(line.who))
    known.who = line.who  # names may have come later
    return known


def _most(rows: list[Sum]) -> tuple[list[Sum], int]:
    """Return the largest rows, and how many others are in one at the end."""
    if len(rows) <= MOST_ROWS:
        return rows, 0
    others = Sum(Who("others", "others", "others", None, None, None, None, nested=False))
    for row in rows[MOST_ROWS:]:
        cells = [cell for split in row.energy.values() for cell in split]
        others.add((row.cpu_ns, *cells), row.energy)
    return [*rows[:MOST_ROWS], others], len(rows) - MOST_ROWS


def _entry(row: Sum, seconds: float) -> Plain:
    who = row.who
    return {
        "kind": who.kind,
        "id": who.id,
        "name": who.name,
        "namespace": who.namespace,
        "pod": who.pod_name,
        "owner": who.owner,
        **_numbers(row, seconds),
    }


def _numbers(row: Sum, seconds: float) -> Plain:
    pairs = row.energy.items()
    return {
        "cpu_seconds": row.cpu_ns / SECOND_NS,
        "energy": {n: {"idle_uj": idle, "dynamic_uj": dynamic} for n, (idle, dynamic) in pairs},
        "total": {
            "idle_uj": sum(split[0] for split in row.energy.values()),
            "dynamic_uj": sum(split[1] for split in row.energy.values()),
        },
        "mean_power_w": row.total_uj / 1e6 / seconds if seconds else None,
    }


def _modelled_uj(stretch: Stretch) -> int:
    had = stretch.base.node.modelled_uj if stretch.base else 0
    now = stretch.final.node.modelled_uj
    return now - had if now >= had else now


def node_domains(parts: Iterable[Placed]) -> Plain:
    """Return the node's energy by domain, those that are in no total and the residual too."""
    found: dict[str, dict[str, int | None]] = {}
    for part in parts:
        base, final = part.stretch.base, part.stretch.final
        for name, now in final.node.energy.items():
            had = base.node.energy.get(name) if base else None
            _grow(found.setdefault(name, dict.fromkeys(_KEYS)), now, had)
        if final.node.residual_uj is not None:
            had_uj = base.node.residual_uj if base else None
            into = found.setdefault("residual", dict.fromkeys(_KEYS))
            into["energy_uj"] = (into["energy_uj"] or 0) + final.node.residual_uj - (had_uj or 0)
    return dict(found)


_KEYS: Final = ("energy_uj", "idle_uj", "dynamic_uj")
Counted = tuple[int, int | None, int | None]


def _grow(into: dict[str, int | None], now: Counted, had: Counted | None) -> None:
    began_anew = had is not None and now[0] < had[0]
    for number, key in enumerate(_KEYS):
        value = now[number]
        if value is not None:
            before = 0 if had is None or began_anew else had[number] or 0
            into[key] = (into[key] or 0) + value - before


def _factors(factors: Factors) -> Plain:
    """Return what energy costs and emits, each with where it is from; None where not set."""
    price = {
        "per_kwh": factors.price_per_kwh,
        "currency": factors.currency,
        "origin": factors.price_origin,
        "date": factors.price_date,
    }
    carbon = {
        "g_per_kwh": factors.carbon_g_per_kwh,
        "origin": factors.carbon_origin,
        "date": factors.carbon_date,
    }
    return {
        "price": price if factors.price_per_kwh else None,
        "carbon": carbon if factors.carbon_g_per_kwh else None,
    }

"""A report as the plain data of an answer: stretches of all lives in a period, added up."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from tychod.config_results import Report as Factors
from tychod.model import Snapshot
from tychod.protocol import ReportBy
from tychod.runtime.entries import SECOND_NS, Plain, render_time
from tychod.runtime.history_accounts import Line, Stretch, Table, account, lump, node_gain, project
from tychod.runtime.history_records import Gone, Totals, Values, gone_between, totals_of
from tychod.runtime.history_spans import Period, Span
from tychod.runtime.history_work import Work

MOST_ROWS: Final = 5000
"""Beyond that the smallest are one row: an answer is at most 8 MiB, and takes memory."""


class Rows:
    """Rows over all stretches, each of which may have other domains."""

    def __init__(self) -> None:
        self.domains: tuple[str, ...] = ()
        self.table: Final = Table(MOST_ROWS)

    def add(self, table: Table, domains: Sequence[str]) -> None:
        """Add what one stretch has."""
        fresh = [name for name in domains if name not in self.domains]
        if fresh:
            had, self.domains = self.domains, (*self.domains, *fresh)
            self.table.map(lambda values: project(values, had, self.domains))
        table.map(lambda values: project(values, domains, self.domains))
        self.table.add_all(table)

    def largest(self) -> list[Line]:
        """Return the largest rows, and one of all others where there are more."""
        self.table.shrink()
        return self.table.lines()

    def total(self) -> Values:
        """Return the sum of all rows."""
        nothing = (0,) * (1 + 2 * len(self.domains))
        columns = zip(nothing, *(line.values for line in self.table.lines()), strict=True)
        return tuple(map(sum, columns))


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


def place(span: Span, period: Period, live: Snapshot | None, work: Work) -> Placed | None:
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
    work.spend(len(final.rows) + (len(base.rows) if base else 0))
    from_ns = base.t_ns if base else 0
    end_ns = final.t_ns + span.offset_ns
    start_ns = min(from_ns + span.offset_ns if base else span.begin_ns, end_ns)
    pauses = tuple(
        Pause(p.start_ns + span.offset_ns, p.end_ns + span.offset_ns, counted=True)
        for p in span.pauses
        if from_ns < p.end_ns <= final.t_ns
    )
    gone = _departed(span, from_ns, last, final, work)
    return Placed(Stretch(base, gone, final), Covered(start_ns, end_ns), pauses)


def _departed(
    span: Span, from_ns: int, last: Totals | None, final: Totals, work: Work
) -> Iterator[Gone]:
    """Yield what was listed no more, read as it is asked for."""
    for gone in span.read_departed(from_ns, last.t_ns if last else 0):
        work.spend(len(gone.leaves) + len(gone.pods))
        yield gone
    if last and last is not final:
        yield gone_between(last, final)


def report_body(placed: Iterable[Placed], period: Period, by: ReportBy, factors: Factors) -> Plain:
    """Return the answer's own part; each stretch is read and forgotten before the next."""
    rows, parts = Rows(), []
    whole = Rows()
    for one in placed:
        if by != "node":
            rows.add(account(one.stretch, by, MOST_ROWS), one.stretch.final.domains)
        table = Table(1)
        table.add(lump("total"), node_gain(one.stretch))
        whole.add(table, one.stretch.final.domains)
        parts.append(_without_rows(one))
    parts.sort(key=lambda one: one.covered.start_ns)
    seconds = sum(p.covered.end_ns - p.covered.start_ns for p in parts) / SECOND_NS
    lines = rows.largest()
    return {
        "by": by,
        "asked": {"start": render_time(period.start_ns), "end": render_time(period.end_ns)},
        "covered": _covered(parts, seconds),
        "gaps": [_gap(pause) for pause in _gaps(parts)],
        "rows": [_entry(line, rows.domains, seconds) for line in lines],
        "left_out": rows.table.left_out,
        "total": _numbers(whole.total(), whole.domains, seconds),
        "modelled_uj": sum(_modelled_uj(part.stretch) for part in parts),
        "domains": node_domains(parts),
        "factors": _factors(factors),
    }


def _without_rows(placed: Placed) -> Placed:
    base, _, final = placed.stretch
    light = Stretch(base._replace(rows={}) if base else None, (), final._replace(rows={}))
    return placed._replace(stretch=light)


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


def _entry(line: Line, domains: Sequence[str], seconds: float) -> Plain:
    who = line.who
    return {
        "kind": who.kind,
        "id": who.id,
        "name": who.name,
        "namespace": who.namespace,
        "pod": who.pod_name,
        "owner": who.owner,
        **_numbers(line.values, domains, seconds),
    }


def _numbers(values: Values, domains: Sequence[str], seconds: float) -> Plain:
    idle, dynamic = values[1::2], values[2::2]
    splits = zip(domains, idle, dynamic, strict=True)
    return {
        "cpu_seconds": values[0] / SECOND_NS,
        "energy": {n: {"idle_uj": i, "dynamic_uj": d} for n, i, d in splits},
        "total": {"idle_uj": sum(idle), "dynamic_uj": sum(dynamic)},
        "mean_power_w": sum(values[1:]) / 1e6 / seconds if seconds else None,
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

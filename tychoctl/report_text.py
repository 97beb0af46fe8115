"""The text of `tychoctl report`: a head that says what is covered, and rows that add up; pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from tychoctl import render
from tychoctl.columns import PARTS
from tychoctl.commands import Rows
from tychoctl.lists import Reply
from tychoctl.moments import as_datetime, local
from tychoctl.render import Column, number
from tychoctl.view import Chosen, Entry, View, choose, entries, room, section, total_uj

UJ_PER_KWH: Final = 3.6e12
SHARE: Final = "share"
COST: Final = "cost"
EMITTED_G: Final = "co2e_g"
"""Keys that the client itself adds to an entry."""
LATE_S: Final = 300.0
"""What is known from this much later on than was asked for is told."""
MOST_GAPS: Final = 5
LEAST_MONEY: Final = 0.0001
LEAST_G: Final = 0.001
LUMPS: Final[Mapping[str, str]] = {
    "no-namespace": "(no namespace)",
    "no-pod": "(no pod)",
    "no-unit": "(no unit)",
    "kernel": "(kernel)",
    "system": "(idle, no workload's)",
    "unattributed": "(unattributed)",
    "past": "(ended, not told apart)",
    "others": "(many smaller ones)",
}
"""In brackets: a namespace or pod may be called like one of these."""
NOT_IN_TOTAL: Final = "not in the total: {}"


def _title(entry: Entry) -> str:
    kind = str(entry.get("kind"))
    return LUMPS.get(kind) or render.name(entry.get("name") or entry.get("id"))


def _share(entry: Entry) -> str:
    value = number(entry.get(SHARE))
    return render.UNKNOWN if value is None else f"{100 * value:.1f} %"


def _domain(name: str) -> Column:
    def text(entry: Entry) -> str:
        cell = section(section(entry, "energy"), name)
        return render.energy(
            (number(cell.get("idle_uj")) or 0) + (number(cell.get("dynamic_uj")) or 0)
        )

    return Column(name.upper(), text, right=True)


def _cpu(entry: Entry) -> str:
    return render.duration(entry.get("cpu_seconds"))


def _workload(entry: Entry) -> str:
    pod = entry.get("pod")
    return f"{render.name(pod)}/{_title(entry)}" if pod else _title(entry)


NUMBERS: Final = (
    Column("ENERGY", lambda e: render.energy(total_uj(e)), right=True),
    Column("SHARE", _share, right=True),
    Column("MEAN", lambda e: render.power(e.get("mean_power_w")), right=True),
    Column("CPU TIME", _cpu, right=True),
)
NAMES: Final[Mapping[str, tuple[Column, ...]]] = {
    "namespace": (Column("NAMESPACE", _title, shrinks=True),),
    "pod": (
        Column("NAMESPACE", lambda e: render.name(e.get("namespace")), shrinks=True),
        Column("POD", _title, shrinks=True),
    ),
    "unit": (Column("UNIT", _title, shrinks=True),),
    "workload": (
        Column("NAMESPACE", lambda e: render.name(e.get("namespace")), shrinks=True),
        Column("WORKLOAD", _workload, shrinks=True),
        Column("KIND", lambda e: render.name(e.get("kind"))),
    ),
}


def money(value: object, currency: object) -> str:
    """Return an amount of money; small ones with more decimals."""
    found = number(value)
    if found is None:
        return render.UNKNOWN
    shown = f"{found:.2f}" if found >= 0.995 or found == 0 else f"{found:.4f}"
    if 0 < found < LEAST_MONEY:
        shown = f"<{LEAST_MONEY}"
    return f"{shown} {render.name(currency, 16)}"


def grams(value: object) -> str:
    """Return a mass in g, kg or t."""
    found = number(value)
    if found is None:
        return render.UNKNOWN
    if 0 < found < LEAST_G:
        return f"<{LEAST_G} g"
    for limit, size, unit in ((999.5, 1.0, "g"), (999_500.0, 1e3, "kg")):
        if found < limit:
            return f"{render.three_digits(found / size)} {unit}"
    return f"{found / 1e6:.2f} t"


def choose_rows(report: Entry, view: View) -> Chosen:
    """Return the rows to show, in order, with what the client itself works out."""
    whole_uj = total_uj(section(report, "total"))
    found = entries(report, "rows")
    if report.get("by") == "node":
        found = [_domain_entry(name, report) for name in section(report, "domains")]
        if view.sort != "name":
            found.sort(key=lambda e: -(number(e.get("energy_uj")) or 0), reverse=view.reverse)
            view = view._replace(sort=None)
    return choose([_worked_out(entry, report, whole_uj) for entry in found], view)


def _domain_entry(name: str, report: Entry) -> Entry:
    counted = section(section(report, "domains"), name)
    seconds = number(section(report, "covered").get("seconds"))
    energy_uj = number(counted.get("energy_uj"))
    mean_w = energy_uj / 1e6 / seconds if energy_uj is not None and seconds else None
    return {"kind": "domain", "id": name, "name": name, "mean_power_w": mean_w, **counted}


def _worked_out(entry: Entry, report: Entry, whole_uj: float | None) -> Entry:
    uj = total_uj(entry) if "total" in entry else number(entry.get("energy_uj"))
    price, carbon = (section(section(report, "factors"), key) for key in ("price", "carbon"))
    per_kwh, g_per_kwh = number(price.get("per_kwh")), number(carbon.get("g_per_kwh"))
    is_in_total = entry.get("kind") != "domain" or entry.get("id") in _total_domains(report)
    kwh = None if uj is None else uj / UJ_PER_KWH
    return {
        **entry,
        SHARE: uj / whole_uj if is_in_total and uj is not None and whole_uj else None,
        COST: kwh * per_kwh if kwh is not None and per_kwh else None,
        EMITTED_G: kwh * g_per_kwh if kwh is not None and g_per_kwh else None,
    }


def _total_domains(report: Entry) -> Entry:
    """Return the domains that add up to the total."""
    return section(section(report, "total"), "energy")


def columns_of(report: Entry, view: View) -> tuple[Column, ...]:
    """Return the columns of a report."""
    factors = section(report, "factors")
    extra = []
    if section(factors, "price"):
        currency = section(factors, "price").get("currency")
        extra.append(Column("COST", lambda e: money(e.get(COST), currency), right=True))
    if section(factors, "carbon"):
        extra.append(Column("CO2E", lambda e: grams(e.get(EMITTED_G)), right=True))
    if report.get("by") == "node":
        return (Column("DOMAIN", _title), *_domain_columns(view), *extra)
    names = NAMES.get(str(report.get("by")), NAMES["namespace"])
    wide = (*PARTS, *map(_domain, _total_domains(report))) if view.wide else ()
    return (*names, *NUMBERS, *extra, *wide)


def _domain_columns(view: View) -> tuple[Column, ...]:
    def part(key: str) -> Column:
        def text(entry: Entry) -> str:
            return "-" if entry.get(key) is None else render.energy(entry.get(key))

        return Column(key.removesuffix("_uj").upper(), text, right=True)

    mean = Column("MEAN", lambda e: render.power(e.get("mean_power_w")), right=True)
    parts = (part("idle_uj"), part("dynamic_uj")) if view.wide else ()
    return (part("energy_uj"), Column("SHARE", _share, right=True), mean, *parts)


def render_report(reply: Reply, view: View) -> str:
    """Return the report: what is covered, the rows, and what they were worked out with."""
    report = section(reply, "report")
    chosen = choose_rows(report, view)
    lines = render.table(columns_of(report, view), chosen.rows, room(view), header=view.headers)
    if not view.headers:
        return render.lines(lines)
    if not section(report, "covered"):
        return f"{_nothing(report)}\n"
    if not chosen.rows:
        lines = ["no such rows: leave out -n, or see all of them with -a"]
    return "\n".join([*_head(reply, report), "", *lines, *_foot(report, chosen)]) + "\n"


def _nothing(report: Entry) -> str:
    asked = section(report, "asked")
    since, until = local(asked.get("start")), local(asked.get("end"))
    when = f"{since} to {until}" if _has_start(asked) else f"before {until}"
    return f"nothing is known of {when}; [history] days says how long it is kept"


def _has_start(asked: Entry) -> bool:
    """Say whether a beginning was asked for: without one it is that of all time."""
    wanted = as_datetime(asked.get("start"))
    return wanted is not None and wanted.timestamp() > 0


def _head(reply: Reply, report: Entry) -> Iterator[str]:
    covered, asked = section(report, "covered"), section(report, "asked")
    total = section(report, "total")
    length = render.duration(covered.get("seconds"))
    yield (
        f"{render.name(reply.get('node'))}, {local(covered.get('start'))} to "
        f"{local(covered.get('end'))} ({length}): {render.energy(total_uj(total))}, "
        f"mean {render.power(total.get('mean_power_w'))}"
    )
    begin, wanted = as_datetime(covered.get("start")), as_datetime(asked.get("start"))
    if _has_start(asked) and begin and wanted and (begin - wanted).total_seconds() > LATE_S:
        yield f"asked for since {local(asked.get('start'))}: nothing before is known"
    yield from _gaps(report)
    platform_uj = section(section(report, "domains"), "platform").get("energy_uj")
    if platform_uj:
        told = render.energy(platform_uj)
        yield f"the machine as a whole (platform) used {told}; the rows share what its parts used"
    modelled_uj, whole_uj = number(report.get("modelled_uj")), total_uj(total)
    if modelled_uj and whole_uj:
        yield f"{min(100 * modelled_uj / whole_uj, 100):.1f} % of it is modelled, not measured"


def _gaps(report: Entry) -> Iterator[str]:
    gaps = entries(report, "gaps")
    for gap in gaps[:MOST_GAPS]:
        is_in = "its energy is included" if gap.get("counted") is True else "not included"
        start, end = local(gap.get("start")), local(gap.get("end"))
        yield f"tychod did not run or record from {start} to {end}: {is_in}"
    if len(gaps) > MOST_GAPS:
        yield f"and {len(gaps) - MOST_GAPS} more such times; -o json has them all"


def _foot(report: Entry, chosen: Chosen) -> Iterator[str]:
    notes = []
    if chosen.cut_off:
        notes.append(f"{chosen.cut_off} more rows (--limit)")
    left_out = number(report.get("left_out"))
    if left_out:
        notes.append(f"{left_out:.0f} smaller rows are in {LUMPS['others']}")
    if report.get("by") == "node":
        apart = [name for name in section(report, "domains") if name not in _total_domains(report)]
        notes += [NOT_IN_TOTAL.format(", ".join(map(render.name, apart)))] if apart else []
    factors = section(report, "factors")
    price, carbon = section(factors, "price"), section(factors, "carbon")
    if price:
        each = f"{number(price.get('per_kwh')) or 0:g} {render.name(price.get('currency'), 16)}"
        notes.append(f"cost: {each} per kWh{_origin(price)}")
    if carbon:
        notes.append(f"CO2e: {number(carbon.get('g_per_kwh')) or 0:g} g per kWh{_origin(carbon)}")
    if notes:
        yield ""
        yield from notes


def _origin(factor: Entry) -> str:
    """Return where a factor is from and of when; that neither is known is told, too."""
    known = [render.name(factor.get(key)) for key in ("origin", "date") if factor.get(key)]
    return f" ({', '.join(known)})" if known else " ([report] does not say where from)"


TEXTS: Final = ("kind", "id", "namespace", "pod", "name", "owner")


def report_rows(reply: Reply, view: View) -> Rows:
    """Return the report as rows of plain values: energy in microjoules, power in watts."""
    report = section(reply, "report")
    names = [*TEXTS, "energy_uj", "idle_uj", "dynamic_uj", SHARE, "mean_power_w", "cpu_seconds"]
    factors = section(report, "factors")
    extra = [
        k for k, factor in ((COST, "price"), (EMITTED_G, "carbon")) if section(factors, factor)
    ]
    rows = []
    for entry in choose_rows(report, view).rows:
        flat = {"energy_uj": _whole_uj(entry), **section(entry, "total"), **entry}
        rows.append([_csv(flat.get(key)) for key in (*names, *extra)])
    return [*names, *extra], rows


def _whole_uj(entry: Entry) -> int | None:
    """Return the sum of a row's parts as exactly as they are told."""
    parts = [section(entry, "total").get(key) for key in ("idle_uj", "dynamic_uj")]
    known = [part for part in parts if isinstance(part, int)]
    return sum(known) if len(known) == len(parts) else None


def _csv(value: object) -> object:
    if isinstance(value, str):
        return value[: render.MOST_CHARS]
    return value if isinstance(value, int | float) else None

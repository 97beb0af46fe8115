"""The text of `tychoctl explain`: sections of aligned columns whose numbers add up; pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tychoctl import render
from tychoctl.columns import flags_of
from tychoctl.gpus import model
from tychoctl.lists import Reply
from tychoctl.render import Column, number
from tychoctl.view import Entry, View, entries, room, section

LABEL_WIDTH: Final = 10
WHO_WORDS: Final = {
    "container": "other containers",
    "vm": "other machines",
    "unit": "other units",
    "kernel": "kernel",
    "system": "system",
    "unattributed": "unattributed",
    "past": "past (ended)",
}
NOT_IN_TOTAL: Final = " (a part of another: not in the sum)"


def joules(microjoules: object) -> str:
    """Return microjoules as joules with all six decimals, so that sums can be followed."""
    value = number(microjoules)
    return render.UNKNOWN if value is None else f"{value / 1e6:.6f}"


def seconds(nanoseconds: object) -> str:
    """Return nanoseconds as seconds."""
    value = number(nanoseconds)
    return render.UNKNOWN if value is None else f"{value / 1e9:.3f}"


def _plain(value: object, decimals: int) -> str:
    found = number(value)
    return render.UNKNOWN if found is None else f"{found:.{decimals}f}"


def title(reply: Reply) -> str:
    """Return by what name people know what is explained."""
    parts = [reply.get("namespace"), reply.get("pod")]
    if reply.get("kind") != "pod":
        parts.append(reply.get("name"))
    shown = "/".join(render.name(part) for part in parts if part) or render.name(reply.get("id"))
    kind = render.name(reply.get("kind"))
    return shown if kind == shown else f"{kind} {shown}"


def render_explain(reply: Reply, view: View) -> str:
    """Return the whole explanation."""
    domains = [{**section(section(reply, "domains"), n), "name": n} for n in _names(reply)]
    lines = [*_head(reply, view), ""]
    for domain in domains:
        lines += [*_domain(domain, reply, view), ""]
    if domains:
        lines += [*_whom(domains, reply, view), ""]
    lines += [*_nobody(reply), *_platform(reply), *_gpus(reply, view), *_machines(reply)]
    lines += [*_flags(reply), *_hints(reply)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _names(reply: Reply) -> list[str]:
    return list(section(reply, "domains"))


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"


def _head(reply: Reply, view: View) -> Iterator[str]:
    facts = [reply.get(key) for key in ("state", "owner", "qos", "runtime")]
    told = [render.name(fact) for fact in facts if fact]
    if reply.get("kind") in ("pod", "container", "vm"):
        told.append(f"names from {render.name(reply.get('names_from'))}")
    yield f"{title(reply)}: {', '.join(told)}"
    if reply.get("reason"):
        yield _line("reason", render.name(reply.get("reason"), render.MOST_CHARS))
    yield from _held(reply)
    if view.wide:
        yield _line("id", render.name(reply.get("id"), render.MOST_CHARS))
        if reply.get("cgroup"):
            yield _line("cgroup", render.name(reply.get("cgroup"), render.MOST_CHARS))
    yield _line("window", _window(reply))
    for note in _texts(reply, "notes"):
        yield _line("", note)
    yield _line("CPU", _cpu(section(reply, "cpu")))
    yield from _total(reply)


def _held(reply: Reply) -> Iterator[str]:
    holder = section(reply, "held_by")
    if holder:
        yield _line("held by", f"{title(holder)}: itself it is in no sum")


def _window(reply: Reply) -> str:
    window = section(reply, "window")
    length = render.duration((number(reply.get("window_ns")) or 0.0) / 1e9)
    bins = number(reply.get("bins"))
    each = f" in {bins:.0f} bins of {_bin(reply)}" if bins else ""
    method = render.name(section(reply, "accounting").get("method"))
    return f"{length} up to {render.moment(window.get('end'))}{each}; CPU time by {method}"


def _bin(reply: Reply) -> str:
    return render.duration((number(reply.get("bin_ns")) or 0.0) / 1e9)


def _cpu(cpu: Entry) -> str:
    if cpu.get("ns") is None:
        return "not known for this window"
    return (
        f"{seconds(cpu.get('ns'))} s of {seconds(cpu.get('all_ns'))} s that all used: "
        + render.percent(cpu.get("share"))
    )


def _total(reply: Reply) -> Iterator[str]:
    total = section(reply, "total")
    names = _texts(total, "domains")
    if not names:
        yield _line("energy", "no source of energy: tychoctl sources says why")
        return
    yield _line("power", f"{render.power(total.get('power_w'))} over {' + '.join(names)}")
    yield _line("energy", f"{joules(total.get('uj'))} J in this window{_interval(total)}")
    if number(total.get("idle_uj")):
        dynamic = f"{joules(total.get('dynamic_uj'))} J dynamic"
        yield _line("", f"of it {joules(total.get('idle_uj'))} J idle and {dynamic}")
    since = section(total, "since_first_seen")
    parts = [number(since.get("idle_uj")), number(since.get("dynamic_uj"))]
    if None not in parts:
        whole = render.energy(sum(part or 0.0 for part in parts))
        yield _line("", f"{whole} since it was first seen{_interval(since)}")
    taken = number(total.get("taken_uj"))
    if taken:
        yield _line("", f"beside it, {joules(taken)} J that ended workloads had before it")


def _interval(entry: Entry) -> str:
    """Return the 95 % interval in words; it is of dynamic energy."""
    bounds = entry.get("interval_uj")
    if not isinstance(bounds, list) or len(bounds) != 2:
        return "; how sure that is is not known"
    if not number(entry.get("sd_uj")):
        return ""
    what = "95 %, by its dynamic part," if number(entry.get("idle_uj")) else "95 %"
    return f"; {what} from {render.energy(bounds[0])} to {render.energy(bounds[1])}"


def _texts(entry: Mapping[str, object], key: str) -> list[str]:
    found = entry.get(key)
    told = found if isinstance(found, list) else []
    return [render.name(text, render.MOST_CHARS) for text in told]


PRODUCT: Final = (
    Column("WHO", lambda e: render.name(e.get("name")), shrinks=True),
    Column("CPU S", lambda e: seconds(e.get("cpu_ns")), right=True),
    Column("J/CPU-S", lambda e: _plain(e.get("intensity_j_per_cpu_s"), 3), right=True),
)
WEIGHT: Final = Column("WEIGHT", lambda e: _plain(e.get("weight"), 3), right=True)
SUMS: Final = (
    Column("FACTOR", lambda e: _plain(e.get("factor"), 4), right=True),
    Column("DYNAMIC J", lambda e: joules(e.get("dynamic_uj")), right=True),
    Column("IDLE J", lambda e: joules(e.get("idle_uj")), right=True),
    Column("SUM J", lambda e: joules(e.get("uj")), right=True),
)


def _domain(domain: Entry, reply: Reply, view: View) -> list[str]:
    """Return one domain: its state, the product of each leaf, and how the parts were made."""
    rows = _product_rows(domain, reply)
    is_weighted = any(row.get("weight") is not None for row in rows)
    columns = (*PRODUCT, *((WEIGHT,) if is_weighted else ()), *SUMS)
    own = section(domain, "own")
    lines = [_state(domain), *render.table(columns, rows, room(view))]
    what = f"{render.power(own.get('power_w'))}, {render.percent(own.get('share'))} of the domain"
    lines.append(f"  this: {what}{_interval(own)}{_per_second(own)}")
    if number(own.get("taken_uj")):
        lines.append(f"  beside it, {joules(own.get('taken_uj'))} J of workloads that ended")
    counted, shared = number(domain.get("counted_uj")), number(domain.get("shared_uj"))
    if counted is not None and shared is not None and counted != shared:
        lines.append(f"  not shared in this window: {joules(counted - shared)} J of the domain")
    lines.append(f"  how: {render.name(domain.get('how'), render.MOST_CHARS)}")
    return [*lines, *(f"  idle: {rule}" for rule in _texts(domain, "idle_rules"))]


def _per_second(own: Entry) -> str:
    """Return what a CPU second of the window cost, with half the width of its 95 % interval."""
    found = section(own, "booked_j_per_cpu_s")
    value, sd = number(found.get("value")), number(found.get("sd"))
    if value is None:
        return ""
    margin = "" if sd is None else f" ± {1.96 * sd:.3f}"
    return f"; {value:.3f}{margin} J for each CPU second"


def _state(domain: Entry) -> str:
    name = render.name(domain.get("name"))
    part = "" if domain.get("in_total") is True else NOT_IN_TOTAL
    told = [f"{render.name(domain.get('quality'))} by {render.name(domain.get('source'))}"]
    if domain.get("coverage") is not None:
        told.append(f"{render.percent(domain.get('coverage'))} observed")
    floor = section(domain, "idle_floor")
    if floor:
        sd = number(floor.get("sd_w"))
        margin = "" if sd is None else f" ± {render.power(1.96 * sd)}"
        told.append(f"idle floor {render.power(floor.get('power_w'))}{margin}")
    return f"{name}{part}: {', '.join([*told, *map(render.escape, flags_of(domain))])}"


def _product_rows(domain: Entry, reply: Reply) -> list[Entry]:
    """Return the rows of a domain: each container, their sum, and all of the node."""
    own, cpu, name = section(domain, "own"), section(reply, "cpu"), str(domain.get("name"))
    rows = [
        {
            "name": member.get("name"),
            "cpu_ns": section(member, "cpu").get("ns"),
            **section(section(member, "domains"), name),
        }
        for member in entries(reply, "members")
    ]
    rows.append({"name": "this", "cpu_ns": cpu.get("ns"), **own})
    everything: Entry = {"name": "all", "cpu_ns": cpu.get("all_ns"), "uj": domain.get("shared_uj")}
    everything |= {key: domain.get(key) for key in ("idle_uj", "dynamic_uj")}
    dynamic, all_ns = number(domain.get("dynamic_uj")), number(cpu.get("all_ns"))
    if dynamic is not None and all_ns and name != "gpu":
        everything["intensity_j_per_cpu_s"] = dynamic * 1e3 / all_ns
    return [*rows, everything]


def _whom(domains: Sequence[Entry], reply: Reply, view: View) -> list[str]:
    """Return who has each domain's energy of the window; each column adds up to its last line."""
    whole = section(reply, "whole")
    shared = section(whole, "by_whom_uj")
    words = {"this": title(reply), **WHO_WORDS}
    rows: list[Entry] = []
    for who in dict.fromkeys([*words, *shared]):
        each = {str(d["name"]): section(d, "by_whom_uj").get(who) for d in domains}
        if who == "this" and reply.get("held_by"):
            continue
        if who in words and (who == "this" or any(each.values())):
            rows.append({"name": words[who], **each, "": shared.get(who)})
    totals = {str(d["name"]): d.get("shared_uj") for d in domains}
    rows.append({"name": "all", **totals, "": whole.get("shared_uj")})
    every = number(whole.get("shared_uj"))
    return [
        "Who has the energy of this window, in joules:",
        *render.table(_whom_columns(domains, every), rows, room(view)),
    ]


def _whom_columns(domains: Sequence[Entry], every: float | None) -> list[Column]:
    def share(entry: Entry) -> str:
        own = number(entry.get(""))
        return render.UNKNOWN if own is None or not every else render.percent(own / every)

    def of(name: str) -> Column:
        return Column(render.name(name).upper(), lambda e: joules(e.get(name)), right=True)

    first = Column("WHO", lambda e: str(e.get("name")), shrinks=True)
    last = Column("OF ALL", share, right=True)
    return [first, last, *(of(str(domain["name"])) for domain in domains)]


def _nobody(reply: Reply) -> list[str]:
    """Return why some energy is nobody's."""
    whole = section(reply, "whole")
    return [
        f"{render.name(one.get('who'))} has {render.percent(one.get('share'))}: "
        f"{render.name(one.get('reason'), render.MOST_CHARS)}"
        for one in entries(whole, "nobody")
        if number(one.get("uj"))
    ]


def _platform(reply: Reply) -> list[str]:
    found = section(section(reply, "whole"), "platform")
    if not found:
        return []
    rest = f"residual {render.power(found.get('residual_w'))}"
    share = f" of the machine's {render.power(found.get('power_w'))}"
    lines = [f"{rest}{share}: {render.name(found.get('why'), render.MOST_CHARS)}"]
    if found.get("usable") is not True and found.get("reason"):
        reason = render.name(found.get("reason"), render.MOST_CHARS)
        lines.append(f"  not to be believed now: {reason}")
    return lines


def _share(entry: Entry) -> str:
    return render.percent(entry.get("share"))


def _given(entry: Entry) -> str:
    if entry.get("allocated") is not True:
        return "no"
    count = number(entry.get("allocated_to")) or 1.0
    return "yes" if count <= 1 else f"with {count - 1:.0f} more"


GPU_COLUMNS: Final = (
    Column("GPU", lambda e: render.name(e.get("number")), right=True),
    Column("MODEL", model, shrinks=True, least=10),
    Column("POWER", lambda e: render.power(e.get("power_w")), right=True),
    Column("IDLE", lambda e: render.power(e.get("idle_w")), right=True),
    Column("THIS", lambda e: render.power(e.get("dynamic_w")), right=True),
    Column("OF ITS USE", _share, right=True),
    Column("ASSIGNED", _given),
    Column("QUALITY", lambda e: render.name(e.get("quality"))),
)


def _gpus(reply: Reply, view: View) -> list[str]:
    found = entries(reply, "gpus")
    if not found:
        return []
    return ["", "GPUs that it used or was assigned:", *render.table(GPU_COLUMNS, found, room(view))]


def _machines(reply: Reply) -> list[str]:
    """Return the virtual machines whose energy is part of this."""
    return [
        f"of this, machine {render.name(vm.get('name'))}: {render.power(vm.get('power_w'))}"
        for vm in entries(reply, "machines")
    ]


def _flags(reply: Reply) -> list[str]:
    found = section(reply, "flags")
    if not found:
        return []
    told = [f"  {render.escape(flag)}: {render.name(found[flag], 512)}" for flag in found]
    return ["", "Flags:", *told]


def _hints(reply: Reply) -> list[str]:
    """Return what would make this surer; one remedy stands once, whatever it is for."""
    by_remedy: dict[str, list[str]] = {}
    for hint in entries(reply, "improve"):
        about = f"{render.name(hint.get('about'))} ({render.name(hint.get('reason'), 512)})"
        by_remedy.setdefault(render.name(hint.get("remedy"), 512), []).append(about)
    if not by_remedy:
        return []
    lines = ["", "What would improve this:"]
    for remedy, abouts in by_remedy.items():
        lines += [f"  {', '.join(dict.fromkeys(abouts))}", f"    -> {remedy}"]
    return lines

"""What `tychoctl top` knows of the node: answers reduced to what a view needs; pure."""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import Final, NamedTuple

from tychoctl.columns import flags_of
from tychoctl.lists import add, seconds_between
from tychoctl.render import name, number
from tychoctl.view import (
    Entry,
    Selector,
    are_labels_known,
    entries,
    is_empty,
    is_unlabelled,
    section,
    total_uj,
)

Reply = Mapping[str, object]
KEEP: Final = 200
"""Windows of history: ten minutes of 3 s."""


class Leaf(NamedTuple):
    """One workload; every text is escaped and bounded, None is not known."""

    key: str
    kind: str
    name: str
    namespace: str
    pod: str
    pod_uid: str
    cgroup: str
    inside: str  # the name of the container whose own cluster it is in, else empty
    state: str
    reason: str  # why its user is not known, else empty
    flags: tuple[str, ...]
    is_empty: bool
    power_w: float | None
    energy_uj: float | None
    cpu_s: float | None
    cpu_share: float | None  # CPU seconds a second, between the last two answers
    sd_w: float | None
    sd_uj: float | None
    domains_w: Mapping[str, float | None]
    text: str  # what a free text is looked for in, lower case

    @property
    def is_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state == "terminated"


class Bar(NamedTuple):
    """A domain's power now; idle and dynamic parts where they are known."""

    name: str
    power_w: float | None
    idle_w: float | None
    quality: str
    reason: str
    in_total: bool
    energy_uj: float | None
    idle_uj: float | None
    dynamic_uj: float | None


class Known(NamedTuple):
    """What two answers, and those before, have told."""

    node: str = "-"
    since: str = ""
    end: str = ""
    sequence: float = 0.0
    seconds: float | None = None
    gap: bool = False
    leaves: tuple[Leaf, ...] = ()
    unlabelled: int = 0  # that labels were asked of and nobody knows
    bars: tuple[Bar, ...] = ()
    residual_w: float | None = None
    residual: str = ""  # why it is not to be believed; "-" where there is no residual at all
    began: str = ""  # end of the window from which energy is counted
    base_uj: Mapping[str, float] = {}
    base_domain_uj: Mapping[str, float] = {}

    def energy_uj(self, leaf: Leaf, *, whole: bool) -> float | None:
        """Return a leaf's energy since the view began, or since tychod counts."""
        if whole or leaf.energy_uj is None:
            return leaf.energy_uj
        return leaf.energy_uj - self.base_uj.get(leaf.key, 0.0)

    def node_uj(self, *, whole: bool) -> float | None:
        """Return the node's energy since the view began, or since tychod counts."""
        return add(
            bar.energy_uj - (0.0 if whole else self.base_domain_uj.get(bar.name, 0.0))
            for bar in self.bars
            if bar.in_total and bar.energy_uj is not None
        )

    @property
    def node_w(self) -> float | None:
        """The power of what workloads are billed for."""
        return add(bar.power_w for bar in self.bars if bar.in_total)


def absorb(before: Known, workloads: Reply, node: Reply, selector: Selector | None = None) -> Known:
    """Return what is known after another pair of answers."""
    window = section(workloads, "window")
    end = str(window.get("end") or "")
    elapsed_s = seconds_between(before.end, end)
    leaves = _leaves(before, workloads, elapsed_s, selector)
    residual = section(node, "residual")
    known = before._replace(
        node=name(workloads.get("node")),
        since=str(workloads.get("since") or ""),
        end=end,
        sequence=number(workloads.get("sequence")) or 0.0,
        seconds=number(window.get("seconds")),
        gap=window.get("gap") is True,
        leaves=leaves,
        unlabelled=0 if selector is None else sum(map(is_unlabelled, _found(workloads))),
        bars=_bars(before, workloads, node),
        residual_w=number(residual.get("power_w")),
        residual=_doubt(residual),
    )
    return _based(before, known)


def begin_anew(known: Known) -> Known:
    """Return the same with energy counted from now."""
    return known._replace(
        began=known.end,
        base_uj={leaf.key: leaf.energy_uj for leaf in known.leaves if leaf.energy_uj is not None},
        base_domain_uj={b.name: b.energy_uj for b in known.bars if b.energy_uj is not None},
    )


def _based(before: Known, known: Known) -> Known:
    """Return the same with the base from which energy counts."""
    if not before.end:
        return begin_anew(known)
    if known.since != before.since:  # its counters began anew, after the view did
        return known._replace(base_uj={}, base_domain_uj={})
    now = {leaf.key for leaf in known.leaves}
    gone = [leaf for leaf in before.leaves if leaf.key not in now]
    if not gone:
        return known
    base = dict(known.base_uj)
    for leaf in gone:  # its energy is in one of these now, so is what it had when the view began
        of_pod = f"past:past:{leaf.pod_uid}"
        heir = of_pod if of_pod in now else "past:past"
        base[heir] = base.get(heir, 0.0) + base.pop(leaf.key, 0.0)
    return known._replace(base_uj=base)


def _doubt(residual: Entry) -> str:
    if not residual:
        return "-"
    if residual.get("usable") is True:
        return ""
    return name(residual.get("reason") or "not usable yet")


def _found(workloads: Reply) -> list[Entry]:
    return entries(workloads, "workloads")


def _leaves(
    before: Known, workloads: Reply, elapsed_s: float | None, selector: Selector | None
) -> tuple[Leaf, ...]:
    found = _found(workloads)
    names = {str(e.get("id")): name(e.get("name")) for e in found}
    pods = {e.get("pod_uid"): e for e in found if e.get("pod_uid") and e.get("pod")}
    cpu_s = {leaf.key: leaf.cpu_s for leaf in before.leaves}
    is_rate = elapsed_s is not None and elapsed_s > 0 and before.since == workloads.get("since")
    made = []
    for entry in found:
        if selector is not None and not _is_selected(entry, selector):
            continue
        leaf = _leaf(entry, pods.get(entry.get("pod_uid"), entry), names)
        last_s = cpu_s.get(leaf.key, 0.0 if cpu_s else None)
        if is_rate and elapsed_s and last_s is not None and leaf.cpu_s is not None:
            leaf = leaf._replace(cpu_share=max(leaf.cpu_s - last_s, 0.0) / elapsed_s)
        made.append(leaf)
    return tuple(made)


def _is_selected(entry: Entry, selector: Selector) -> bool:
    """Say whether a leaf has the labels; of one whose labels nobody knows nothing can be said."""
    return are_labels_known(entry) and selector(section(entry, "labels"))


def _leaf(entry: Entry, pod: Entry, names: Mapping[str, str]) -> Leaf:
    """Return a leaf; ``pod``: one of the same pod that has its names, else the entry itself."""
    kind = name(entry.get("kind"))
    shown = {key: name(entry.get(key)) for key in ("id", "name", "cgroup")}
    namespace, pod_name = name(pod.get("namespace")), name(pod.get("pod"))
    power_w = section(entry, "power_w")
    parent = str(entry.get("parent"))
    is_inside = entry.get("nested") is True
    return Leaf(
        key=f"{kind}:{shown['id']}",
        kind=kind,
        name=shown["name"],
        namespace=namespace,
        pod=pod_name,
        pod_uid=name(entry.get("pod_uid")),
        cgroup=name(entry.get("cgroup"), 400),
        inside=names.get(parent, name(parent, 12)) if is_inside else "",
        state=name(entry.get("state")),
        reason=name(entry["reason"], 400) if entry.get("reason") else "",
        flags=tuple(name(flag) for flag in flags_of(entry)[:8]),
        is_empty=is_empty(entry),
        power_w=number(entry.get("total_power_w")),
        energy_uj=total_uj(entry),
        cpu_s=number(entry.get("cpu_seconds")),
        cpu_share=None,
        sd_w=number(entry.get("total_power_sd_w")),
        sd_uj=number(entry.get("total_sd_uj")),
        domains_w={name(key): number(power_w[key]) for key in power_w},
        text="\0".join((namespace, pod_name, kind, *shown.values())).lower(),
    )


def _bars(before: Known, workloads: Reply, node: Reply) -> tuple[Bar, ...]:
    """Return the node's domains; where a node was not told those of the workloads' answer."""
    totals, domains = section(workloads, "domains"), section(node, "domains")
    last = {bar.name: bar for bar in before.bars} if before.since == node.get("since") else {}
    bars = []
    for key in domains or totals:
        domain = section(domains or totals, key)
        in_total = section(totals, key).get("in_total") is True
        bars.append(_bar(name(key), domain, last.get(name(key)), in_total=in_total))
    return tuple(bars)


def _bar(shown: str, domain: Entry, last: Bar | None, *, in_total: bool) -> Bar:
    bar = Bar(
        name=shown,
        power_w=number(domain.get("power_w")),
        idle_w=None,
        quality=name(domain.get("quality")),
        reason=name(domain.get("reason") or ""),
        in_total=in_total,
        energy_uj=number(domain.get("energy_uj")),
        idle_uj=number(domain.get("idle_uj")),
        dynamic_uj=number(domain.get("dynamic_uj")),
    )
    floor_w = number(section(domain, "idle_floor").get("power_w"))
    return bar._replace(idle_w=_idle_w(bar, last, floor_w))


def _idle_w(bar: Bar, last: Bar | None, floor_w: float | None) -> float | None:
    """Return how much of a domain's power was idle: as it was booked since the last answer."""
    if bar.power_w is None or bar.idle_uj is None or bar.dynamic_uj is None:
        return None
    if last is None or last.idle_uj is None or last.dynamic_uj is None:
        return None if floor_w is None else min(max(floor_w, 0.0), bar.power_w)
    idle, dynamic = bar.idle_uj - last.idle_uj, bar.dynamic_uj - last.dynamic_uj
    if idle < 0 or dynamic < 0 or idle + dynamic <= 0:
        return last.idle_w
    return bar.power_w * idle / (idle + dynamic)


class History:
    """Power of the last windows, of the node and each leaf; all series end at one window."""

    def __init__(self) -> None:
        self.count = 0  # windows so far
        self._node: list[float] = []
        self._ends: list[float] = []
        self._series: dict[str, tuple[int, array[float]]] = {}

    def append(self, known: Known, time_s: float) -> None:
        """Take the window that came last; ``time_s``: its end, or any clock's time."""
        self._node.append(_or_nan(known.node_w))
        self._ends.append(time_s)
        for leaf in known.leaves:
            start, points = self._series.setdefault(leaf.key, (self.count, array("f")))
            missing = self.count - start - len(points)
            points.extend([math.nan] * missing)
            points.append(_or_nan(leaf.power_w))
        self.count += 1
        if self.count % KEEP == 0:
            self._forget()

    def seed(self, points: Sequence[tuple[float, float | None]]) -> None:
        """Put before everything what the daemon remembers of the node: end and power."""
        first = self._ends[0] if self._ends else math.inf
        older = [(at, _or_nan(watts)) for at, watts in points if at < first - 0.001][-KEEP:]
        self._node[:0] = [watts for _, watts in older]
        self._ends[:0] = [at for at, _ in older]

    def node(self, until: int | None = None) -> list[tuple[float, float]]:
        """Return end and power of the node's windows; ``until``: the count at another time."""
        last = len(self._node) - (self.count - (self.count if until is None else until))
        return list(zip(self._ends, self._node, strict=True))[max(last - KEEP, 0) : last]

    def leaves(self, keys: Iterable[str], width: int, until: int | None = None) -> list[float]:
        """Return the sum of some leaves in each of the last windows; NaN: none of them known."""
        last = self.count if until is None else until
        sums = [math.nan] * width
        for key in keys:
            start, points = self._series.get(key, (0, ()))
            for at in range(max(last - width, start), min(last, start + len(points))):
                value, place = points[at - start], at - last + width
                if not isnan(value):
                    sums[place] = value if isnan(sums[place]) else sums[place] + value
        return sums

    def _forget(self) -> None:
        """Drop what is older than is shown, also of what a paused view may show."""
        del self._node[: -2 * KEEP], self._ends[: -2 * KEEP]
        oldest = self.count - 2 * KEEP
        kept = {}
        for key, (start, points) in self._series.items():
            if start + len(points) > oldest:
                cut = max(oldest - start, 0)
                kept[key] = (start + cut, points[cut:])
        self._series = kept


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def trend_points(trend: Reply, known: Known) -> list[tuple[float, float | None]]:
    """Return what the daemon remembers of the node: end in seconds since 1970, power in watts."""
    wanted = [bar.name for bar in known.bars if bar.in_total]
    found = trend.get("points")
    points = []
    for point in found if isinstance(found, list) else []:
        if not isinstance(point, list | tuple) or len(point) != 2 or not isinstance(point[1], dict):
            continue
        end_s, domains = number(point[0]), point[1]
        if end_s is not None:
            points.append((end_s, add(number(domains.get(key)) for key in wanted)))
    return points

"""What the lists show: the columns of their tables, wide tables and CSV."""

from collections.abc import Callable, Mapping
from typing import Final

from tychoctl import render
from tychoctl.render import Column, number
from tychoctl.view import Entry, section, total_uj

NORMAL_95: Final = 1.96
"""Standard deviations to each side that hold 95 % of a normal distribution."""
ENDED_AGO: Final = "ended_ago_s"
"""Key that the client itself adds to an entry: seconds from its end to that of the window."""
ID_CHARS: Final = 12
"""As much of a container's id as people use."""


def _energy_part(part: str) -> Column:
    return Column(
        part.upper(), lambda e: render.energy(section(e, "total").get(f"{part}_uj")), right=True
    )


def text_column(title: str, key: str) -> Column:
    """Return a column of names, which give way on a narrow terminal."""
    return Column(title, lambda e: render.name(e.get(key)), shrinks=True)


def _whole(title: str, key: str) -> Column:
    """Return a column of what is of use only whole, as far as that is within reason."""
    return Column(title, lambda e: render.name(e.get(key), render.MOST_CHARS), shrinks=True)


def _pod(name_key: str, uid_key: str) -> Column:
    def text(entry: Entry) -> str:
        """Without a name the uid tells one pod from another, and finds it in the kubelet's log."""
        uid = entry.get(uid_key)
        return render.name(entry.get(name_key) or (f"uid {uid}" if uid else None)) + place(entry)

    return Column("POD", text, shrinks=True)


def place(entry: Entry) -> str:
    """Return a mark for a pod whose names the owner of another workload chose."""
    if entry.get("nested") is not True:
        return ""
    parent = entry.get("parent_name") or str(entry.get("parent") or "")[:ID_CHARS]
    return f" (in {render.name(parent)})" if parent else " (nested)"


def _names_from(entry: Entry) -> str:
    stale = " (stale)" if entry.get("stale") is True else ""
    return render.name(entry.get("names_from")) + stale


def _workload(entry: Entry) -> str:
    """Return a workload's name as people know it; its id where it is not listed any more."""
    parts = (entry.get("pod"), entry.get("name"))
    return render.name("/".join(str(part) for part in parts if part) or entry.get("workload"))


def _unit(entry: Entry) -> str:
    """Return a unit's name; of a slice that this is what it used itself, not the sum below."""
    shown = render.name(entry.get("name"))
    return f"{shown} (itself)" if str(entry.get("id")).endswith(".slice") else shown


def _count(key: str) -> Column:
    def text(entry: Entry) -> str:
        found = entry.get(key)
        return str(len(found)) if isinstance(found, list) else render.UNKNOWN

    return Column(key.upper(), text, right=True)


def margin(text: Callable[[object], str], key: str, scale: float = 1.0) -> Callable[[Entry], str]:
    """Return the text of a standard deviation as half the width of the 95 % interval."""

    def shown(entry: Entry) -> str:
        deviation = number(entry.get(key))
        return text(None if deviation is None else deviation * scale * NORMAL_95)

    return shown


def _intensity(entry: Entry) -> str:
    known = section(entry, "intensity_j_per_cpu_s")
    value = number(known.get("package", known.get("psys")))
    return render.UNKNOWN if value is None else render.three_digits(max(value, 0.0))


def flags_of(entry: Entry) -> list[str]:
    """Return what is special about an entry."""
    flags = entry.get("flags")
    return [str(flag) for flag in flags] if isinstance(flags, list) else []


def _state(entry: Entry) -> str:
    """Return a state; of what has ended, since when."""
    ago_s = number(entry.get(ENDED_AGO))
    return render.name(entry.get("state")) if ago_s is None else f"ended {render.ago(ago_s)}"


def _vcpu_share(entry: Entry) -> str:
    """Return how much of a VM's CPU time its guest had."""
    cpu_s, vcpu_s = number(entry.get("cpu_seconds")), number(entry.get("vcpu_seconds"))
    return render.UNKNOWN if vcpu_s is None or not cpu_s else f"{100 * vcpu_s / cpu_s:.0f} %"


def _holder(entry: Entry) -> str:
    """Return which workload has the energy of a VM that is but a view."""
    if entry.get("view") is not True:
        return "-"
    holder = section(entry, "held_by")
    if not holder:
        return render.name(entry.get("parent"))
    if not holder.get("pod"):
        return f"{render.name(holder.get('kind'))} {render.name(holder.get('name'))}"
    parts = [holder.get("namespace"), holder.get("pod"), holder.get("name")]
    return "pod " + "/".join(render.name(part) for part in parts if part)


def _devices(entry: Entry) -> str:
    found = section(entry, "devices")
    counts = {k: len(v) for k, v in found.items() if isinstance(v, list)}
    return render.name(", ".join(f"{k}: {n}" for k, n in counts.items()))


NAMESPACE: Final = text_column("NAMESPACE", "namespace")
POD: Final = _pod("pod", "pod_uid")
STATE: Final = Column("STATE", _state)
NUMBERS: Final = (
    Column("POWER", lambda e: render.power(e.get("total_power_w")), right=True),
    Column("ENERGY", lambda e: render.energy(total_uj(e)), right=True),
    Column("CPU", lambda e: render.duration(e.get("cpu_seconds")), right=True),
)
PARTS: Final = (_energy_part("idle"), _energy_part("dynamic"))
MARGINS: Final = (
    Column("POWER ±", margin(render.power, "total_power_sd_w"), right=True),
    Column("ENERGY ±", margin(render.energy, "total_sd_uj"), right=True),
)
LEARNED: Final = (
    Column("J/CPU-S", _intensity, right=True),
    Column("FLAGS", lambda e: render.name(", ".join(flags_of(e)))),
)
CGROUP: Final = _whole("CGROUP", "cgroup")
PARENT: Final = _whole("PARENT", "parent")
ORIGIN: Final = (
    text_column("RUNTIME", "runtime"),
    Column("NAMES FROM", _names_from),
    _whole("ID", "id"),
    CGROUP,
)
COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "pods": (NAMESPACE, _pod("name", "uid"), *NUMBERS, _count("containers"), STATE),
    "workloads": (
        text_column("KIND", "kind"),
        NAMESPACE,
        POD,
        text_column("NAME", "name"),
        *NUMBERS,
        STATE,
    ),
    "containers": (NAMESPACE, POD, text_column("CONTAINER", "name"), *NUMBERS, STATE),
    "vms": (
        text_column("VM", "name"),
        text_column("HYPERVISOR", "runtime"),
        *NUMBERS,
        Column("VCPU", _vcpu_share, right=True),
        STATE,
        Column("ENERGY HELD BY", _holder, shrinks=True),
    ),
    "units": (Column("UNIT", _unit, shrinks=True), *NUMBERS, STATE),
    "processes": (
        Column("PID", lambda e: render.name(e.get("pid")), right=True),
        text_column("COMM", "comm"),
        Column("WORKLOAD", _workload, shrinks=True),
        Column("CPU TIME", lambda e: render.duration(e.get("cpu_seconds")), right=True),
        *NUMBERS[:2],
        STATE,
    ),
}
WIDE: Final[Mapping[str, tuple[Column, ...]]] = {
    "pods": (
        *MARGINS,
        *PARTS,
        text_column("QOS", "qos"),
        text_column("OWNER", "owner"),
        text_column("UID", "uid"),
    ),
    "workloads": (*MARGINS, *PARTS, *LEARNED, *ORIGIN),
    "containers": (
        *MARGINS,
        *PARTS,
        *LEARNED,
        Column("DEVICES", _devices, shrinks=True),
        *ORIGIN,
    ),
    "vms": (
        *MARGINS,
        *PARTS,
        *LEARNED,
        Column("PID", lambda e: render.name(e.get("pid")), right=True),
        Column("NAMES FROM", _names_from),
        _whole("ID", "id"),
        PARENT,
        CGROUP,
    ),
    "units": (
        *MARGINS,
        *PARTS,
        *LEARNED,
        text_column("DESCRIPTION", "description"),
        PARENT,
        CGROUP,
    ),
    "processes": (
        Column("STARTED", lambda e: render.moment(e.get("start_time"))),
        NAMESPACE,
        text_column("POD", "pod"),
        text_column("KIND", "kind"),
        _whole("WORKLOAD ID", "workload"),
    ),
}
_LEAF_TEXTS: Final = (
    *("kind", "namespace", "pod", "pod_uid", "name", "id", "runtime", "cgroup", "parent"),
    *("sandbox", "names_from", "stale", "state", "first_seen", "reason"),
    *("ended", "tenant", "description"),
)
CSV_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "pods": (
        *("namespace", "name", "uid", "owner", "qos", "state"),
        *("ended", "tenant", "parent"),
    ),
    "workloads": _LEAF_TEXTS,
    "vms": (*_LEAF_TEXTS, "view", "held_by", "pid", "vcpu_seconds", "overhead_seconds"),
    "processes": (
        *("pid", "start_time", "comm", "state", "workload"),
        *("kind", "namespace", "pod", "name"),
    ),
}
CSV_NUMBERS: Final = ("cpu_seconds", "power_w", "energy_uj", "idle_uj", "dynamic_uj")
CSV_ERRORS: Final[Mapping[str, str]] = {
    "power_sd_w": "total_power_sd_w",
    "energy_sd_uj": "total_sd_uj",
}
"""Columns of standard deviations, and what they are called in an answer."""

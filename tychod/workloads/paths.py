"""From a cgroup's path to the workload it belongs to: one table of rules, nothing is read.

A cgroup belongs to the nearest of its ancestors, itself included, that a rule names.  Systemd units
are named only where every cgroup above them is a slice (or a user's own manager): what runs under a
systemd *inside* a container has the names of the host's units and belongs to the container.

Below a user's manager, a container or a service anybody to whom that tree was given makes cgroups
of any name.  So what is named inside carries whose tree it is in, its ``tenant``, and a pod there
is a pod of that tenant's own cluster.  What a pod's container makes is that pod's.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tychod.model import UNATTRIBUTED_ID, Identity
from tychod.views import past_id
from tychod.workloads import rules
from tychod.workloads.rules import RULES, Rule
from tychod.workloads.texts import bounded

SHORT_ID: Final = 12
"""Characters of a container id that stand in for its name, as the runtimes' own tools show it."""
MAX_DEPTH: Final = 64
"""Cgroups below this depth belong to what is named above: bounds the work of one odd path."""
MAX_BELOW: Final = 16
"""Levels below what was given away that can name somebody; a cluster in a container needs six."""
MAX_COMPONENT: Final = 255
"""Characters in the longest name that the kernel gives a cgroup; a longer one names nothing."""
MAX_ID: Final = 1024
"""A deep tree's ids grow with its path: what would have a longer one belongs to what is above."""
MAX_REASON: Final = 64

_QOS: Final[Mapping[str | None, str]] = {
    None: "Guaranteed",
    "burstable": "Burstable",
    "besteffort": "BestEffort",
}
QOS_CLASSES: Final = frozenset(_QOS.values())
_TABLE: Final = tuple((rule.own.fullmatch, rule) for rule in RULES)
_UNIT_ENDS: Final = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")
_PLAIN: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.+:-]{{0,{rules.MAX_NAME - 1}}}")
_ESCAPE: Final = re.compile(r"\\x([0-9a-f]{2})")


class _Place(NamedTuple):
    """Whose part of the tree a level is in."""

    tenant: str | None = None  # cgroup of the outermost one to whom the tree was given
    units: str | None = ""  # what a systemd unit's id begins with; None: there are none here
    pod_uid: str | None = None
    qos: str | None = None
    is_pods: bool = False  # below a container of that pod: all in here is the pod's


class _Level(NamedTuple):
    """One cgroup on the way to the one that is asked about."""

    path: str
    own: str  # its last component
    above: str  # the few components before
    is_last: bool


class _Match(NamedTuple):
    rule: Rule
    id: str
    name: str
    cgroup: str
    place: _Place


def identify(path: str) -> Identity | None:
    """Return the workload that a cgroup belongs to, or None where no rule names one."""
    chain = list(_named_levels(path))
    if not chain:
        return None
    found = chain[-1]
    return Identity(
        kind=found.rule.kind,
        id=found.id,
        name=found.name,
        pod_uid=found.place.pod_uid,
        runtime=found.rule.runtime,
        cgroup=found.cgroup,
        parent=_parent(chain[:-1]),
        qos=found.place.qos,
        tenant=found.place.tenant,
    )


def is_contained(cgroup: str) -> bool:
    """Say whether a cgroup is in a container or pod, at whatever level: files are others there."""
    parts = cgroup.strip("/").split("/")[:MAX_DEPTH]
    levels = (identify("/".join(("", *parts[: n + 1]))) for n in range(len(parts)))
    return any(x is not None and (x.kind == "container" or x.pod_uid is not None) for x in levels)


def _named_levels(path: str) -> Iterator[_Match]:
    """Yield what each level of a path is named, outermost first."""
    place, below = _Place(), 0
    for level in _levels(path):
        below += place.tenant is not None
        if below > MAX_BELOW:
            return  # whoever makes so deep a tree makes it to cost time
        here = _at(level, place)
        match = _match(level, here) if len(level.own) <= MAX_COMPONENT else None
        # What is alive below a grouping of pods is not past.
        if match and (level.is_last or match.rule.kind != "past" or here.pod_uid):
            yield match
        place = _below(level, here, match)


def _levels(path: str) -> Iterator[_Level]:
    whole = "/" + path.strip("/")
    components = whole.split("/", MAX_DEPTH + 1)[1 : MAX_DEPTH + 1]
    starts = [0]
    for component in components:
        starts.append(starts[-1] + 1 + len(component))
    for i, component in enumerate(components):
        above = whole[starts[max(0, i - rules.ABOVE)] : starts[i]]
        yield _Level(whole[: starts[i + 1]], component, above, starts[i + 1] == len(whole))


def _at(level: _Level, above: _Place) -> _Place:
    """Return the place of one level, which may be a pod's cgroup."""
    place = above
    if above.tenant is not None and _is_roots_own(level, above.tenant):
        place = above._replace(tenant=None, is_pods=False)
    if place.is_pods:
        return place
    if level.own.startswith("pod"):
        found = rules.POD.fullmatch(level.own)
        pods = rules.POD_ABOVE.search(level.above) if found else None
        if found and pods:
            return place._replace(pod_uid=found["uid"], qos=_QOS[pods["qos"]])
    elif "kubepods" in level.own:
        found = rules.POD_SLICE.fullmatch(level.own)
        if found:
            return place._replace(pod_uid=found["uid"].replace("_", "-"), qos=_QOS[found["qos"]])
    return place


def _is_roots_own(level: _Level, tenant: str) -> bool:
    """Say whether the host's root made a cgroup, though it is in what was given to a service."""
    if len(tenant) + 1 + len(level.own) != len(level.path):
        return False
    return bool(rules.ROOTS_OWN.fullmatch(f"{tenant.rpartition('/')[2]}/{level.own}"))


def _below(level: _Level, place: _Place, match: _Match | None) -> _Place:
    """Return the place of what is below one level."""
    own = level.own
    is_one = match is not None and match.rule.kind in {"container", "vm"}
    units, tenant = place.units, place.tenant
    if own.endswith(".slice"):
        units = f"{units}{own}/" if units else units
    elif units == "" and rules.MANAGER.fullmatch(own):
        units = f"{own}/"
    else:
        units = None
    is_given = is_one or _is_given(level)
    if tenant is None and is_given:
        tenant = level.path
    is_pods = place.is_pods or (is_given and place.pod_uid is not None)
    return place._replace(tenant=tenant, units=units, is_pods=is_pods)


def _is_given(level: _Level) -> bool:
    return (
        level.own.endswith(rules.GIVEN_ENDS)
        or level.own.startswith(rules.GIVEN_STARTS)
        or level.above.rpartition("/")[2] in rules.GIVEN_IN
    )


def _match(level: _Level, place: _Place) -> _Match | None:
    for fullmatch, rule in _TABLE:
        own = fullmatch(level.own)
        if own is None:
            continue
        above = rule.above.search(level.above) if rule.above else None
        if above is None and rule.above:
            continue
        if rule.kind == "vm" and place.pod_uid is not None:
            return None  # a view of what it is in: the pod has its energy
        if not _is_believed(rule, place):
            continue
        match = _named(rule, own, above, level, place)
        if match is not None:
            return match
    return None


def _is_believed(rule: Rule, place: _Place) -> bool:
    """Say whether a rule holds in a place."""
    if rule.kind == "past" and not rule.is_hosts:
        return not place.is_pods
    return (place.units is not None or not rule.is_unit) and (
        place.tenant is None or not rule.is_hosts
    )


def _named(
    rule: Rule,
    own: re.Match[str],
    above: re.Match[str] | None,
    level: _Level,
    place: _Place,
) -> _Match | None:
    """Return what a rule says, or None where the name is not one that its maker would give."""
    if rule.kind == "past":
        pod = Identity("past", "", "", pod_uid=place.pod_uid, tenant=place.tenant)
        leaf_id = name = past_id(pod)
    elif rule.is_unit:
        leaf_id = name = f"{place.units}{own['id']}"
    elif rule.id == "{id}":
        leaf_id = own["id"]
        name = leaf_id[:SHORT_ID] if rule.kind == "container" else leaf_id
    else:
        groups = own.groupdict("") | (above.groupdict("") if above else {})
        leaf_id = _decoded(rule.id.format(**groups))
        name = _decoded(groups.get("name") or groups.get("id", leaf_id)[:SHORT_ID])
        if not _PLAIN.fullmatch(name) or name.endswith(_UNIT_ENDS):
            return None
        if rule.kind == "unit":
            name = leaf_id
        elif place.tenant is not None:  # names are chosen anew in each tree
            leaf_id = f"{leaf_id}@{place.tenant}"
    return _Match(rule, leaf_id, name, level.path, place) if len(leaf_id) <= MAX_ID else None


def _decoded(text: str) -> str:
    """Return a name that systemd escaped as it was."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text) if "\\" in text else text


def _parent(enclosing: list[_Match]) -> str | None:
    """Return the nearest enclosing workload that is not a mere grouping."""
    for match in reversed(enclosing):
        if match.rule.kind != "past" and not match.cgroup.endswith(".slice"):
            return match.id
    return None


UNNAMED: Final = "cgroup that no rule names"
OUTSIDE: Final = "outside the visible cgroup tree"
IN_ROOT: Final = "processes in the root cgroup"
DETACHED: Final = "CPU time while accounting was detached"


def unattributed(reason: str) -> Identity:
    """Return the leaf of energy whose user is not known, with the reason."""
    return Identity("unattributed", UNATTRIBUTED_ID, UNATTRIBUTED_ID, reason=reason)


def unnamed_reason(path: str) -> str:
    """Say why a cgroup is nobody's, by its top component (many cgroups, few reasons)."""
    top = bounded(path.strip("/").split("/", 1)[0], MAX_REASON)
    return f"{UNNAMED}: {top}"


_CONTAINER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
"""What Docker and Podman accept as a container's name."""
_SHIMS: Final = ("containerd-shim", "docker-containerd-shim")


def name_from_cmdline(argv: tuple[str, ...]) -> str | None:
    """Return the name that a container's first process was given: the last resort of naming.

    ``--name X`` or ``--name=X``, else the third argument of an old containerd shim.
    """
    for position, argument in enumerate(argv):
        if argument == "--name":
            return _container_name(argv[position + 1 : position + 2])
        if argument.startswith("--name="):
            return _container_name((argument.removeprefix("--name="),))
    if argv and argv[0].rpartition("/")[2] in _SHIMS:
        return _container_name(argv[3:4])
    return None


def _container_name(candidate: tuple[str, ...]) -> str | None:
    return candidate[0] if candidate and _CONTAINER_NAME.fullmatch(candidate[0]) else None

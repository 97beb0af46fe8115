"""From a cgroup's path to the workload it belongs to: one table of rules, nothing is read.

A cgroup belongs to the nearest of its ancestors, itself included, that a rule names.  Systemd units
are named only where every cgroup above them is a slice (or a user's own manager): what runs under a
systemd *inside* a container has the names of the host's units and belongs to the container.

Below a user's manager, a container or a service anybody to whom that tree was given makes cgroups
of any name.  So pods are believed only outside of them, and what is named inside carries whose
tree it is in: its ``tenant``.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tychod.model import PAST_ID, UNATTRIBUTED_ID, Identity, LeafKind

SHORT_ID: Final = 12
"""Characters of a container id that stand in for its name, as the runtimes' own tools show it."""
MAX_DEPTH: Final = 64
"""Cgroups below this depth belong to what is named above: bounds the work of one odd path."""
MAX_REASON: Final = 64

_ID: Final = r"(?P<id>[0-9a-f]{64})"
_SLICES: Final = r"\A(?:/[^/]+\.slice)*"
_UNIT: Final = r"[^/]+\.(?:service|scope|slice|socket|mount|swap)"
_USER: Final = r"user@[^/]+\.service"
# The kubelet's pod cgroup: a Guaranteed pod has no class level, a static pod's uid has no dashes,
# and the systemd driver writes "-" of the uid as "_" (kubelet, pkg/kubelet/cm).
_POD: Final = r"/kubepods(?:/(?:burstable|besteffort))?/pod[0-9A-Za-z][0-9A-Za-z-]{0,127}"
_POD_SLICE: Final = (
    r"/(?:[^/]*-)?kubepods(?:-(?:burstable|besteffort))?-pod[0-9A-Za-z][0-9A-Za-z_]{0,127}\.slice"
)
_POD_UID: Final = re.compile(
    r"/kubepods(?:/(?P<fs_qos>burstable|besteffort))?/pod(?P<fs_uid>[0-9A-Za-z][0-9A-Za-z-]{0,127})"
    r"(?=/|\Z)"
    r"|/(?:[^/]*-)?kubepods(?:-(?P<sd_qos>burstable|besteffort))?"
    r"-pod(?P<sd_uid>[0-9A-Za-z][0-9A-Za-z_]{0,127})\.slice(?=[/:]|\Z)"
)
_MANAGER: Final = re.compile(rf"{_SLICES}/{_USER}\Z")
# LXC's cgroups are not named yet, but they are containers: root in one makes any name below.
_GIVEN: Final = re.compile(r"[^/]+\.(?:service|scope)|lxc(?:\.(?:payload|monitor).*)?", re.DOTALL)
"""A component below which another than the host's root may make cgroups."""
# A runtime under cgroupfs that is given a systemd path makes it below its own service. Only theirs:
# any other service may have been given its subtree and make what names it likes.
_RUNTIMES: Final = (
    r"(?:containerd|crio|cri-o|docker|kubelet|k3s(?:-agent)?|rke2-(?:server|agent)"
    r"|snap\.microk8s\.daemon-(?:containerd|kubelite))"
)
_BESIDE_RUNTIME: Final = re.compile(
    rf"{_SLICES}/{_RUNTIMES}\.service/[^/:]+:(?:cri-containerd|crio):{_ID}"
)
_QOS: Final[Mapping[str | None, str]] = {
    None: "Guaranteed",
    "burstable": "Burstable",
    "besteffort": "BestEffort",
}
QOS_CLASSES: Final = frozenset(_QOS.values())


class Rule(NamedTuple):
    """What a path that ends in ``pattern`` stands for; ``examples`` are path and expected id."""

    kind: LeafKind
    runtime: str | None
    pattern: re.Pattern[str]
    examples: tuple[tuple[str, str], ...]
    of_pod: bool  # it names what is in a pod's cgroup


def _rule(kind: LeafKind, runtime: str | None, pattern: str, *examples: tuple[str, str]) -> Rule:
    return Rule(kind, runtime, re.compile(pattern + r"\Z"), examples, _POD in pattern)


_A: Final = "a1" * 32
_B: Final = "b2" * 32
_UID: Final = "0f3a5b1c-1111-4222-8333-444455556666"
_UID_: Final = _UID.replace("-", "_")
_STATIC: Final = "5c2de33fd2a3a1c2d7f0b1e5a4c3b2d1"
_KUBE: Final = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_UID_}.slice"
_USER_AT: Final = "/user.slice/user-1000.slice/user@1000.service"

RULES: Final = (
    _rule(
        "container", "containerd", rf"[/:]cri-containerd[-:]{_ID}(?:\.scope)?",
        (f"{_KUBE}/cri-containerd-{_A}.scope", _A),
        (f"/system.slice/containerd.service/kubepods-pod{_UID_}.slice:cri-containerd:{_A}", _A),
        (f"/kubelet.slice/kubelet-kubepods-pod{_UID_}.slice/cri-containerd-{_A}.scope", _A),
    ),
    _rule(
        "container", "containerd", rf"/(?:containerd|nerdctl)[-/]{_ID}(?:\.scope)?",
        (f"/containerd/{_A}", _A),
        (f"/system.slice/containerd-{_A}.scope", _A),
        (f"{_USER_AT}/user.slice/nerdctl-{_A}.scope", _A),
    ),
    _rule(
        "container", "containerd", rf"\A/(?:default|k8s\.io)/{_ID}",
        (f"/default/{_A}", _A),  # nerdctl and ctr under cgroupfs: /<containerd namespace>/<id>
    ),
    _rule(
        "container", "crio", rf"[/:]crio[-:]{_ID}(?:\.scope)?",
        (f"{_KUBE}/crio-{_A}.scope", _A),
        (f"{_KUBE}/crio-{_A}.scope/container", _A),
        (f"/kubepods/besteffort/pod{_UID}/crio-{_A}", _A),
    ),
    _rule(
        "container", "docker", rf"/docker[-/]{_ID}(?:\.scope)?",
        (f"/docker/{_A}", _A),
        (f"/docker/{_A}/init", _A),
        (f"/system.slice/docker-{_A}.scope", _A),
        (f"/system.slice/docker-{_A}.scope/system.slice/kubelet.service", _A),
        (f"{_USER_AT}/user.slice/docker-{_A}.scope", _A),
        (f"/docker/{_A}/docker/{_B}", _B),
    ),
    _rule(
        "container", "docker", rf"/ecs/(?:[^/]+/){{1,2}}{_ID}",
        (f"/ecs/0123456789abcdef0123456789abcdef/{_A}", _A),
    ),
    _rule(
        "container", "podman", rf"/libpod-(?:payload-)?{_ID}(?:\.scope)?",
        (f"/machine.slice/libpod-{_A}.scope/container", _A),
        (f"/libpod_parent/libpod-{_A}", _A),
        (f"{_USER_AT}/user.slice/user-libpod_pod_{_B}.slice/libpod-{_A}.scope/container", _A),
        (f"/system.slice/web.service/libpod-payload-{_A}", _A),
    ),
    _rule(
        "container", "kata", rf"(?:{_POD}|{_POD_SLICE})/kata_{_ID}",
        (f"/kubepods/burstable/pod{_UID}/kata_{_A}", _A),  # the pod's one sandbox
    ),
    _rule(
        "container", "kubernetes", rf"{_POD}/{_ID}",
        (f"/kubepods/pod{_UID}/{_A}", _A),
        (f"/kubepods/burstable/pod{_STATIC}/{_A}", _A),
        (f"/k8s/kubepods/besteffort/pod{_UID}/{_A}/nested", _A),
        (f"/docker/{_A}/kubelet/kubepods/besteffort/pod{_UID}/{_B}", _B),
    ),
    _rule(
        "container", None, rf"\A/[^/]+/{_ID}",
        (f"/batch-jobs/{_A}", _A),  # `docker run --cgroup-parent`, other containerd namespaces
    ),
    _rule(
        "past", None, rf"(?:{_POD}|{_POD_SLICE})",
        (f"/kubepods/burstable/pod{_STATIC}", f"past:{_STATIC}"),
        (_KUBE, f"past:{_UID}"),
        (f"{_KUBE}/half-writ", f"past:{_UID}"),
    ),
    _rule(
        "past", None,
        r"/(?:kubepods(?:/burstable|/besteffort)?"
        r"|(?:[^/]+-)?kubepods(?:-burstable|-besteffort)?\.slice)",
        # Nothing runs in these themselves: what shows here was used by pods that are gone.
        ("/kubepods/besteffort", PAST_ID),
        ("/kubepods.slice/kubepods-burstable.slice", PAST_ID),
    ),
    _rule(
        "unit", None, rf"{_SLICES}/(?P<id>{_USER}(?:/[^/]+\.slice)*/{_UNIT})",
        (f"{_USER_AT}/app.slice/foo.service/worker", "user@1000.service/app.slice/foo.service"),
        (f"{_USER_AT}/init.scope", "user@1000.service/init.scope"),
    ),
    _rule(
        "unit", None, rf"{_SLICES}/(?P<id>{_UNIT})",
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/init.scope", "init.scope"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/user.slice", "user.slice"),
        ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
         "systemd-nspawn@web.service"),
        (f"/machine.slice/libpod-conmon-{_A}.scope", f"libpod-conmon-{_A}.scope"),
        (f"{_KUBE}/crio-conmon-{_A}.scope", f"crio-conmon-{_A}.scope"),
    ),
    _rule(
        "unit", None, rf"{_POD}/(?P<id>crio-conmon-[0-9a-f]{{64}})",
        (f"/kubepods/burstable/pod{_UID}/crio-conmon-{_A}", f"crio-conmon-{_A}"),
    ),
)  # fmt: skip
"""First match wins at each level of a path; the deepest level that matches is the workload."""


class _Place(NamedTuple):
    """Whose part of the tree a level is in."""

    tenant: str | None = None  # cgroup of the outermost one to whom the tree was given
    is_user: bool = False  # below a user's own manager
    pod_uid: str | None = None
    qos: str | None = None


class _Match(NamedTuple):
    rule: Rule
    id: str
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
        name=found.id[:SHORT_ID] if found.rule.kind == "container" else found.id,
        pod_uid=found.place.pod_uid,
        runtime=found.rule.runtime,
        cgroup=found.cgroup,
        parent=_parent(chain[:-1]),
        qos=found.place.qos,
        tenant=found.place.tenant,
    )


def _named_levels(path: str) -> Iterator[_Match]:
    """Yield what each level of a path is named, outermost first."""
    whole = "/" + path.strip("/")
    place = _Place()
    prefix = ""
    for component in whole[1:].split("/")[:MAX_DEPTH]:
        prefix += "/" + component
        here = _place_of(prefix, place)
        match = _match(prefix, here)
        # What is alive below a grouping of pods is not past.
        if match and (match.id != PAST_ID or prefix == whole):
            yield match
        place = _place_below(prefix, component, match, here)


def _place_of(prefix: str, above: _Place) -> _Place:
    """Return the place of one level: a pod is what its path says only in the host's own tree."""
    if above.tenant is None or _BESIDE_RUNTIME.fullmatch(prefix):
        return _Place(None, False, *_pod(prefix))
    return above


def _place_below(prefix: str, component: str, match: _Match | None, place: _Place) -> _Place:
    """Return the place of what is below one level."""
    is_container = match is not None and match.rule.kind == "container"
    if place.tenant is None and (is_container or _GIVEN.fullmatch(component)):
        return place._replace(tenant=prefix, is_user=_MANAGER.match(prefix) is not None)
    return place


def _match(prefix: str, place: _Place) -> _Match | None:
    for rule in RULES:
        if not _is_believed(rule, place):
            continue
        found = rule.pattern.search(prefix)
        if found:
            uid = place.pod_uid
            own_id = found.groupdict().get("id") or (f"{PAST_ID}:{uid}" if uid else PAST_ID)
            return _Match(rule, own_id, prefix, place)
    return None


def _is_believed(rule: Rule, place: _Place) -> bool:
    """Say whether a rule holds in a place: pods are the host's; a nested cluster's are leaves."""
    if rule.kind == "container":
        return not (rule.of_pod and place.is_user)
    return place.tenant is None or not (rule.of_pod or rule.kind == "past")


def _pod(prefix: str) -> tuple[str | None, str | None]:
    """Return uid and QoS class of the nearest pod at or above a cgroup."""
    pods = list(_POD_UID.finditer(prefix))
    if not pods:
        return None, None
    found = pods[-1]
    if found["fs_uid"]:
        return found["fs_uid"], _QOS[found["fs_qos"]]
    return found["sd_uid"].replace("_", "-"), _QOS[found["sd_qos"]]


def _parent(enclosing: list[_Match]) -> str | None:
    """Return the nearest enclosing workload that is not a mere grouping."""
    for match in reversed(enclosing):
        if match.rule.kind != "past" and not match.cgroup.endswith(".slice"):
            return match.id
    return None


def unattributed(reason: str) -> Identity:
    """Return the leaf of energy whose user is not known, with the reason."""
    return Identity("unattributed", UNATTRIBUTED_ID, UNATTRIBUTED_ID, reason=reason)


def unnamed_reason(path: str) -> str:
    """Say why a cgroup is nobody's, by its top component (many cgroups, few reasons)."""
    return f"cgroup that no rule names: {path.strip('/').split('/')[0][:MAX_REASON]}"


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
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
    return candidate[0] if candidate and _NAME.fullmatch(candidate[0]) else None

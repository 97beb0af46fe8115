"""The kubelet's `/pods` answer as plain data: what it says of each pod, and nothing is read.

Unknown fields are ignored and wrong types tolerated: a field that is not what it should be counts
as absent, a pod without uid, name or namespace is left out, the other pods stay.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, NamedTuple

from tychod.documents import parse_json
from tychod.workloads.paths import QOS_CLASSES
from tychod.workloads.texts import LABEL_MOST, NAME_MOST, bounded

State = Literal["running", "waiting", "terminated"]
STATES: Final[tuple[State, ...]] = ("running", "waiting", "terminated")
Role = Literal["container", "init", "sidecar", "ephemeral"]
Source = Literal["static", "api"]
Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
PHASES: Final[tuple[Phase, ...]] = ("Pending", "Running", "Succeeded", "Failed", "Unknown")

# An answer beyond these bounds is no kubelet's: the API server refuses such objects.
PODS_MOST: Final = 5000
MOST_BYTES: Final = 64 << 20  # once read, counted generously: two thousand pods as measured
LABELS_MOST: Final = 100
LABEL_KEY_MOST: Final = NAME_MOST + 1 + 63  # a prefix, a slash, a name
ID_MOST: Final = 128

MIRROR: Final = "kubernetes.io/config.mirror"
"""In the API server's copy of a static pod: the uid that is in the cgroup's path."""
SOURCE: Final = "kubernetes.io/config.source"
_SOURCES: Final[Mapping[str, Source]] = {"api": "api", "file": "static", "http": "static"}

_STATUS_ARRAYS: Final[Mapping[str, Role]] = {
    "containerStatuses": "container",
    "initContainerStatuses": "init",  # also native sidecars, which run for the pod's whole life
    "ephemeralContainerStatuses": "ephemeral",
}
_RUNTIMES: Final[Mapping[str, str]] = {
    "containerd": "containerd",
    "cri-o": "crio",
    "docker": "docker",
}
# Kubernetes' resource quantities: apimachinery, pkg/api/resource/suffix.go.
_SUFFIXES: Final[Mapping[str, Decimal]] = {
    **{s: Decimal(1000) ** p for p, s in enumerate(("n", "u", "m", "", "k", "M"), start=-3)},
    **{s: Decimal(1000) ** p for p, s in enumerate(("G", "T", "P", "E"), start=3)},
    **{s: Decimal(1024) ** p for p, s in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}
_QUANTITY: Final = re.compile(
    r"(?P<number>[+-]?[0-9.]{1,40}(?:[eE][+-]?[0-9]{1,2})?)(?P<suffix>[a-zA-Z]{0,2})"
)
# A CronJob names its Jobs by the scheduled time: minutes since 1970, before v1.21 seconds.
_SCHEDULED: Final = re.compile(r"(?P<name>.+)-(?P<time>[0-9]{8}|[0-9]{10})")
_SCHEDULE_SLACK_S: Final = 7 * 86400


class PodsError(Exception):
    """The body is no list of pods; the text says what it is instead, never its content."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What a container or pod asked the scheduler for; None where it asked for nothing."""

    cpu_millicores: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod by the runtime's id: the present one or the one before it."""

    id: str
    name: str
    runtime: str | None
    state: State | None
    role: Role = "container"


@dataclass(frozen=True, slots=True)
class Pod:
    """What the kubelet knows of one pod; ``uid`` is the one in the cgroup's path."""

    uid: str
    name: str
    namespace: str
    labels: Mapping[str, str]
    owner: str | None  # "Deployment/api"
    qos: str | None
    containers: tuple[Container, ...]
    requests: Mapping[str, Requests]  # by container name
    node: str | None = None  # that it runs on, as the pod itself says
    source: Source | None = None  # static: from a file on the node, without the API server
    phase: Phase | None = None
    requested: Requests | None = None  # for the pod as a whole, where its makers said so
    overhead: Requests | None = None  # of its runtime, e.g. a sandbox VM; beside its containers'

    @property
    def is_ended(self) -> bool:
        """Whether all its containers have ended for good."""
        return self.phase in {"Succeeded", "Failed"}


Claim = tuple[Container, Pod]
"""A container and the pod that names it as its own."""


class PodView(NamedTuple):
    """One good answer and when it was asked for (monotonic)."""

    asked_ns: int
    pods: tuple[Pod, ...]


def parse_pods(body: bytes | bytearray) -> tuple[Pod, ...]:
    """Return the pods of a PodList; PodsError if the body is something else or not whole."""
    try:
        document = parse_json(body, MOST_BYTES)
    except ValueError as exc:
        raise PodsError(f"the answer of {len(body)} bytes is {exc}") from None
    if not isinstance(document, dict) or "items" not in document:
        raise PodsError("the answer is JSON but not a list of pods")
    items = document["items"]
    if items is None:
        return ()  # Go writes an empty list so
    if not isinstance(items, list):
        raise PodsError("the answer's items are not a list")
    if len(items) > PODS_MOST:
        raise PodsError(f"the answer lists {len(items)} pods, no node has over {PODS_MOST}")
    return tuple(_once(pod for item in items if (pod := _pod(item)) is not None))


def claims(pods: Iterable[Pod]) -> Mapping[str, tuple[Claim, ...]]:
    """Return the containers of a list by id, with every pod that names it (one, if all is well)."""
    found: dict[str, tuple[Claim, ...]] = {}
    for pod in pods:
        own = {container.id: container for container in reversed(pod.containers)}
        for ident, container in own.items():
            found[ident] = (*found.get(ident, ()), (container, pod))
    return found


def claim_of(
    claimed: Mapping[str, tuple[Claim, ...]], container_id: str, pod_uid: str | None
) -> Claim | None:
    """Return the container that a cgroup is, ``pod_uid`` being the one in its path, if any.

    The path is the kernel's word: a pod of another uid that names the id is not believed, and of
    several pods none, where the path names no pod.
    """
    found = claimed.get(container_id, ())
    if pod_uid is None:
        return found[0] if len(found) == 1 else None
    return next((claim for claim in found if is_same_uid(claim[1].uid, pod_uid)), None)


def is_same_uid(uid: str, other: str) -> bool:
    """Say whether two uids are one; systemd's driver writes dashes of a path as underscores."""
    return uid == other or uid.replace("_", "-") == other.replace("_", "-")


def _once(pods: Iterable[Pod]) -> Iterator[Pod]:
    """Yield each uid's first pod; one that says it is another node's does not stand for ours."""
    seen = set()
    for pod in pods:
        if (pod.uid, pod.node) not in seen:
            seen.add((pod.uid, pod.node))
            yield pod


def _pod(item: object) -> Pod | None:
    meta, spec, status = (_map(item, key) for key in ("metadata", "spec", "status"))
    notes = _map(meta, "annotations")
    uid = _text(notes, MIRROR) or _text(meta, "uid")
    name, namespace = _name(meta, "name"), _name(meta, "namespace")
    if uid is None or name is None or namespace is None or len(uid) > ID_MOST:
        return None
    labels = dict(_labels(meta))
    qos, phase = _text(status, "qosClass"), _text(status, "phase")
    return Pod(
        uid=bounded(uid),
        name=name,
        namespace=namespace,
        labels=labels,
        owner=_owner(meta, labels),
        qos=qos if qos in QOS_CLASSES else None,
        containers=tuple(_containers(status, _sidecars(spec))),
        requests=dict(_requests(spec)),
        node=_name(spec, "nodeName"),
        source=_source(notes),
        phase=next((known for known in PHASES if known == phase), None),
        requested=_amounts(_map(_map(spec, "resources"), "requests")),
        overhead=_amounts(_map(spec, "overhead")),
    )


def _labels(meta: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the labels; one beyond all bounds is left out, for cut it would be another label."""
    found = sorted((k, v) for k, v in _map(meta, "labels").items() if isinstance(v, str))
    fitting = [(k, v) for k, v in found if len(k) <= LABEL_KEY_MOST and len(v) <= LABEL_MOST]
    for key, value in fitting[:LABELS_MOST]:
        yield bounded(key, LABEL_KEY_MOST), bounded(value, LABEL_MOST)


def _source(notes: Mapping[str, object]) -> Source | None:
    """Return where the kubelet has the pod from: the API server, or its own files and addresses."""
    return "static" if _text(notes, MIRROR) else _SOURCES.get(_text(notes, SOURCE) or "")


def _sidecars(spec: Mapping[str, object]) -> frozenset[str | None]:
    """Return the names of init containers that run on beside the others."""
    entries = _list(spec, "initContainers")
    return frozenset(_name(e, "name") for e in entries if _text(e, "restartPolicy") == "Always")


def _containers(
    status: Mapping[str, object], sidecars: frozenset[str | None]
) -> Iterator[Container]:
    for array, role in _STATUS_ARRAYS.items():
        for entry in _list(status, array):
            is_sidecar = role == "init" and _name(entry, "name") in sidecars
            yield from _generations(entry, "sidecar" if is_sidecar else role)


def _generations(entry: object, role: Role) -> Iterator[Container]:
    """Yield the present container of a status, then ended ones that it still names."""
    name = _name(entry, "name")
    if name is None:
        return
    present = _map(entry, "state")
    state = next((s for s in STATES if s in present), None)
    ended = [_map(_map(entry, key), "terminated") for key in ("state", "lastState")]
    seen = set()
    for generation, now in ((entry, state), *((e, "terminated") for e in ended)):
        scheme, separator, ident = (_text(generation, "containerID") or "").partition("://")
        if separator and ident and ident not in seen and len(ident) <= ID_MOST:
            seen.add(ident)
            yield Container(bounded(ident), name, _RUNTIMES.get(scheme), now, role)


def _owner(meta: Mapping[str, object], labels: Mapping[str, str]) -> str | None:
    """Return the workload that made the pod: a ReplicaSet's Deployment, a Job's CronJob."""
    for reference in _list(meta, "ownerReferences"):
        kind, name = _name(reference, "kind"), _name(reference, "name")
        if kind and name and isinstance(reference, dict) and reference.get("controller") is True:
            return "/".join(_root_owner(kind, name, meta, labels))
    return None


def _root_owner(
    kind: str, name: str, meta: Mapping[str, object], labels: Mapping[str, str]
) -> tuple[str, str]:
    template_hash = labels.get("pod-template-hash")
    if kind == "ReplicaSet" and template_hash and name.endswith(f"-{template_hash}"):
        return "Deployment", name.removesuffix(f"-{template_hash}")
    scheduled = _SCHEDULED.fullmatch(name)
    if kind == "Job" and scheduled and _is_near(scheduled["time"], meta):
        return "CronJob", scheduled["name"]
    return kind, name


def _is_near(digits: str, meta: Mapping[str, object]) -> bool:
    """Say whether a number is about the time the pod was made, not a date in a Job's own name."""
    try:
        created = datetime.fromisoformat(_text(meta, "creationTimestamp") or "").timestamp()
    except (ValueError, OverflowError):
        return True  # unknown: eight or ten digits at the end are a CronJob's
    scheduled_s = int(digits) * (60 if len(digits) == 8 else 1)
    return abs(scheduled_s - created) < _SCHEDULE_SLACK_S


def _requests(spec: Mapping[str, object]) -> Iterator[tuple[str, Requests]]:
    for array in ("initContainers", "containers"):
        for entry in _list(spec, array):
            name = _name(entry, "name")
            asked = _amounts(_map(_map(entry, "resources"), "requests"))
            if name is not None and asked:
                yield name, asked


def _amounts(asked: Mapping[str, object]) -> Requests | None:
    """Return the CPU and memory of a resource list; None where nothing at all is listed."""
    if not asked:
        return None
    cpu, memory = _text(asked, "cpu"), _text(asked, "memory")
    return Requests(parse_quantity(cpu, Decimal(1000)), parse_quantity(memory))


MOST: Final = 2**63 - 1
"""What fits the wire and the state file; a request beyond it is nonsense that was let through."""


def parse_quantity(text: str | None, scale: Decimal = Decimal(1)) -> int | None:
    """Return a Kubernetes quantity ("200m", "64Mi") times ``scale``, rounded up as the API does."""
    found = _QUANTITY.fullmatch(text or "")
    if found is None or found["suffix"] not in _SUFFIXES:
        return None
    try:
        value = Decimal(found["number"]) * _SUFFIXES[found["suffix"]] * scale
    except InvalidOperation:
        return None
    return min(max(0, int(value.to_integral_value(rounding="ROUND_CEILING"))), MOST)


def _map(value: object, key: str) -> Mapping[str, object]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _list(value: object, key: str) -> list[object]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, list) else []


def _name(value: object, key: str) -> str | None:
    found = _text(value, key)
    return None if found is None else bounded(found)


def _text(value: object, key: str) -> str | None:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) and found else None

"""The kubelet's `/pods` answer as plain data: what it says of each pod, and nothing is read.

Unknown fields are ignored and wrong types tolerated: a field that is not what it should be counts
as absent, a pod without uid, name or namespace is left out, the other pods stay.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, NamedTuple

from tychod.workloads.paths import QOS_CLASSES

State = Literal["running", "waiting", "terminated"]
STATES: Final[tuple[State, ...]] = ("running", "waiting", "terminated")

_STATUS_ARRAYS: Final = (
    "containerStatuses",
    "initContainerStatuses",  # also native sidecars, which run for the pod's whole life
    "ephemeralContainerStatuses",
)
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
    """What a container asked the scheduler for; None where it asked for nothing."""

    cpu_millicores: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod by the runtime's id: the present one or the one before it."""

    id: str
    name: str
    runtime: str | None
    state: State | None


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


class PodView(NamedTuple):
    """One good answer and when it was asked for (monotonic)."""

    asked_ns: int
    pods: tuple[Pod, ...]


def parse_pods(body: bytes) -> tuple[Pod, ...]:
    """Return the pods of a PodList; PodsError if the body is something else or not whole."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise PodsError(f"the answer of {len(body)} bytes is not JSON") from None
    if not isinstance(document, dict) or "items" not in document:
        raise PodsError("the answer is JSON but not a list of pods")
    items = document["items"]
    if items is None:
        return ()  # Go writes an empty list so
    if not isinstance(items, list):
        raise PodsError("the answer's items are not a list")
    return tuple(pod for item in items if (pod := _pod(item)) is not None)


def _pod(item: object) -> Pod | None:
    meta, spec, status = (_map(item, key) for key in ("metadata", "spec", "status"))
    uid, name, namespace = (_text(meta, key) for key in ("uid", "name", "namespace"))
    if uid is None or name is None or namespace is None:
        return None
    labels = {k: v for k, v in _map(meta, "labels").items() if isinstance(v, str)}
    qos = _text(status, "qosClass")
    return Pod(
        uid=uid,
        name=name,
        namespace=namespace,
        labels=labels,
        owner=_owner(meta, labels),
        qos=qos if qos in QOS_CLASSES else None,
        containers=tuple(_containers(status)),
        requests=dict(_requests(spec)),
    )


def _containers(status: Mapping[str, object]) -> Iterator[Container]:
    for array in _STATUS_ARRAYS:
        for entry in _list(status, array):
            yield from _generations(entry)


def _generations(entry: object) -> Iterator[Container]:
    """Yield the present container of a status, then ended ones that it still names."""
    name = _text(entry, "name")
    if name is None:
        return
    present = _map(entry, "state")
    state = next((s for s in STATES if s in present), None)
    ended = [_map(_map(entry, key), "terminated") for key in ("state", "lastState")]
    seen = set()
    for generation, now in ((entry, state), *((e, "terminated") for e in ended)):
        scheme, separator, ident = (_text(generation, "containerID") or "").partition("://")
        if separator and ident and ident not in seen:
            seen.add(ident)
            yield Container(ident, name, _RUNTIMES.get(scheme), now)


def _owner(meta: Mapping[str, object], labels: Mapping[str, str]) -> str | None:
    """Return the workload that made the pod: a ReplicaSet's Deployment, a Job's CronJob."""
    for reference in _list(meta, "ownerReferences"):
        kind, name = _text(reference, "kind"), _text(reference, "name")
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
            name = _text(entry, "name")
            asked = _map(_map(entry, "resources"), "requests")
            if name is not None and asked:
                yield (
                    name,
                    Requests(
                        parse_quantity(_text(asked, "cpu"), Decimal(1000)),
                        parse_quantity(_text(asked, "memory")),
                    ),
                )


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


def _text(value: object, key: str) -> str | None:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) and found else None

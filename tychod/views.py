"""How leaves are grouped: pods, namespaces and slices are views over leaves; pure.

A name that somebody below the host's root can choose carries whose tree it is in, so that a
cgroup in a container that is called like a pod of the host is never added to that pod.
"""

from collections.abc import Iterable
from typing import Final

from tychod.model import PAST_ID, Identity

NAMESPACE: Final = "namespace:"
SLICE: Final = "slice:"
PROCESS_MARK: Final = "/\n"
"""Begins the last component of the path that stands for a VM in another's cgroup.

No cgroup can be called so: the kernel refuses a line feed in a name (cgroup_mkdir).
"""
_PAST: Final = f"{PAST_ID}:"
_PODS: Final = ("kubepods", "-pod")


def pod_key(identity: Identity) -> str | None:
    """Return what tells an identity's pod from all others; None where it is in none.

    A pod of a cluster inside a container is another one than the host's of the same uid.
    """
    uid = identity.pod_uid
    return uid if uid is None or _is_hosts(identity) else f"{uid}@{identity.tenant}"


def _is_hosts(identity: Identity) -> bool:
    """Say whether names are of the host's cluster: what a pod's container makes is the pod's."""
    uid, tenant = identity.pod_uid, identity.tenant
    if tenant is None or uid is None:
        return tenant is None
    slice_ = f"-pod{uid.replace('-', '_')}.slice"  # ":" ends it where a runtime took it as a part
    return any(name in tenant for name in (f"/pod{uid}/", f"{slice_}/", f"{slice_}:"))


def pod_of(identity: Identity) -> str | None:
    """Return what tells a leaf's pod from all others; ``past:<key>`` holds its evicted leaves'.

    The id alone decides there: what else is known of such a leaf may be less than the key says.
    """
    if identity.kind == "past":
        return identity.id.removeprefix(_PAST) if identity.id.startswith(_PAST) else None
    return pod_key(identity)


def past_id(identity: Identity) -> str:
    """Return the id of the leaf that gets what an ended leaf of the same pod had."""
    key = pod_key(identity)
    return PAST_ID if key is None else f"{PAST_ID}:{key}"


def shown_cgroup(path: str | None) -> str | None:
    """Return a leaf's cgroup as it is: for a VM in another's cgroup, that one."""
    if path is None or PROCESS_MARK not in path:
        return path
    return path.partition(PROCESS_MARK)[0] or "/"


def slices_of(cgroup: str | None) -> tuple[str, ...]:
    """Return the paths of the host's slices that a cgroup is in, outermost first.

    Slices of pods are not among them: those are views of their own, and come and go with the pods.
    """
    found = []
    prefix = ""
    for component in (cgroup or "").strip("/").split("/"):
        if not component.endswith(".slice") or all(part in component for part in _PODS):
            break
        prefix += "/" + component
        found.append(prefix)
    return tuple(found)


def view_keys(identity: Identity) -> tuple[str, ...]:
    """Return the keys of the views, beside its pod's, that a leaf counts in."""
    keys = [SLICE + path for path in slices_of(identity.cgroup)]
    if identity.namespace is not None and _is_hosts(identity):
        keys.append(NAMESPACE + identity.namespace)
    return tuple(keys)


def first_known(values: Iterable[str | None]) -> str | None:
    """Return the first value that is known."""
    return next((value for value in values if value), None)

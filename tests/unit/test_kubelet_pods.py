"""The kubelet's list of pods: what is taken from it, whatever else it holds."""

import json
from decimal import Decimal
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod.samples import CgroupRef
from tychod.workloads.paths import identify
from tychod.workloads.pods import Container, PodsError, Requests, parse_pods, parse_quantity

UID = "0f3a5b1c-1111-4222-8333-444455556666"


def body(*items: object) -> bytes:
    """Return a PodList."""
    return json.dumps({"kind": "PodList", "items": list(items)}).encode()


def item(**parts: object) -> dict[str, object]:
    """Return a pod's object with some parts replaced or added."""
    return {"metadata": {"uid": UID, "name": "p", "namespace": "n"}} | parts


def owned(kind: str, name: str, **metadata: object) -> dict[str, object]:
    """Return a pod with one owner."""
    reference = {"kind": kind, "name": name, "controller": True}
    meta = {"uid": UID, "name": "p", "namespace": "n", "ownerReferences": [reference]}
    return {"metadata": meta | metadata}


def test_ids_come_from_three_arrays_and_from_ended_generations() -> None:
    """Containers, init containers and ephemeral ones; the one before the present one, too."""
    status = {
        "containerStatuses": [
            {
                "name": "app",
                "containerID": "containerd://new",
                "state": {"running": {}},
                "lastState": {"terminated": {"containerID": "containerd://old"}},
            },
            {"name": "pending", "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
        ],
        "initContainerStatuses": [
            {
                "name": "init",
                "containerID": "cri-o://done",
                "state": {"terminated": {"containerID": "cri-o://done"}},
            }
        ],
        "ephemeralContainerStatuses": [{"name": "dbg", "containerID": "docker://dbg1"}],
    }
    (pod,) = parse_pods(body(item(status=status)))

    assert pod.containers == (
        Container("new", "app", "containerd", "running"),
        Container("old", "app", "containerd", "terminated"),
        Container("done", "init", "crio", "terminated", "init"),
        Container("dbg1", "dbg", "docker", None, "ephemeral"),
    )


@pytest.mark.parametrize(
    ("owned_pod", "owner"),
    [
        (owned("ReplicaSet", "api-7449d6bcb6", labels={"pod-template-hash": "7449d6bcb6"}),
         "Deployment/api"),
        (owned("ReplicaSet", "api-7449d6bcb6"), "ReplicaSet/api-7449d6bcb6"),
        (owned("Job", "tick-29919973", creationTimestamp="2026-11-20T02:13:00Z"), "CronJob/tick"),
        (owned("Job", "tick-29919973"), "CronJob/tick"),
        (owned("Job", "report-20240131", creationTimestamp="2026-11-20T02:13:00Z"),
         "Job/report-20240131"),
        (owned("Job", "report"), "Job/report"),
        (owned("StatefulSet", "db"), "StatefulSet/db"),
        (item(), None),
    ],
)  # fmt: skip
def test_owner_is_what_a_person_deployed(owned_pod: object, owner: str | None) -> None:
    """A ReplicaSet's Deployment, a Job's CronJob, else the controller itself."""
    assert parse_pods(body(owned_pod))[0].owner == owner


def test_only_the_controlling_owner_counts() -> None:
    """The first reference with `controller: true` wins over others before it."""
    references = [
        {"kind": "Node", "name": "node-a"},
        {"kind": "ReplicaSet", "name": "x", "controller": "yes"},
        {"kind": "DaemonSet", "name": "agent", "controller": True},
    ]
    meta = {"uid": UID, "name": "p", "namespace": "n", "ownerReferences": references}

    assert parse_pods(body({"metadata": meta}))[0].owner == "DaemonSet/agent"


def test_requests_are_kept_by_container() -> None:
    """CPU in millicores, memory in bytes, None where nothing was asked for."""
    spec = {
        "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "0.2", "memory": "64Mi"}}},
            {"name": "b", "resources": {"requests": {"nvidia.com/gpu": "1"}}},
            {"name": "c"},
        ],
        "initContainers": [{"name": "s", "resources": {"requests": {"cpu": "20m"}}}],
    }
    (pod,) = parse_pods(body(item(spec=spec)))

    assert pod.requests == {
        "a": Requests(200, 64 << 20),
        "b": Requests(None, None),
        "s": Requests(20, None),
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1k", 1000), ("1.5Gi", 3 << 29), ("1e3", 1000), ("100n", 1), ("1E", 10**18),
     ("", None), (None, None), ("1Q", None), ("1.2.3", None), ("-1", 0), ("x", None)],
)  # fmt: skip
def test_quantities_are_read_as_the_api_means_them(text: str | None, value: int | None) -> None:
    """Decimal and binary suffixes, exponents, rounding up; nonsense is absent."""
    assert parse_quantity(text) == value


def test_no_pods_at_all_is_a_list() -> None:
    """Go writes an empty list as null."""
    assert parse_pods(b'{"kind":"PodList","items":null}') == parse_pods(body()) == ()


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b"3", b'{"kind":"Status"}', b"[" * 100_000])
def test_anything_but_a_list_of_pods_is_an_error(bad: bytes) -> None:
    """The caller learns that this was no answer; the text holds nothing of the body."""
    with pytest.raises(PodsError):
        parse_pods(bad)


@pytest.mark.parametrize(
    "odd",
    [
        None,
        3,
        "pod",
        [],
        {},
        {"metadata": None},
        {"metadata": {"uid": 3, "name": "p"}},
        item(uid=1),
    ],
)
def test_one_odd_item_costs_only_itself(odd: object) -> None:
    """The pods beside a malformed one are there."""
    names = [pod.name for pod in parse_pods(body(odd, owned("Job", "x")))]

    assert names[-1:] == ["p"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = ("labels", "ownerReferences", "containerStatuses", "containers", "resources", "state")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES), JSON_VALUES)
def test_wrong_types_are_absent_fields(fields: dict[str, object], entry: object) -> None:
    """Whatever stands where an object, list or text should be, the pod is still there."""
    meta = {"uid": UID, "name": "p", "namespace": "n"} | fields
    status = fields | {"initContainerStatuses": [entry, {"name": "x", "state": entry}]}
    spec = fields | {"initContainers": [entry, {"name": "x", "resources": entry}]}

    (pod,) = parse_pods(body({"metadata": meta, "status": status, "spec": spec}))

    assert (pod.uid, pod.name, pod.namespace) == (UID, "p", "n")


CAPTURES = ["02_early_running", "03_steady", "05_static_pod_removed_still_terminating"]


def read_cgroups(folder: Path, hierarchy: str) -> dict[int, CgroupRef]:
    """Read the tree of one hierarchy: lines of inode and path."""
    found = {}
    for line in (folder / "cgroup_tree_inodes.txt").read_text().splitlines():
        inode, _, path = line.partition(" ")
        prefix = f"/sys/fs/cgroup/{hierarchy}"
        if path.startswith(f"{prefix}/"):
            found[int(inode)] = CgroupRef(path.removeprefix(prefix), int(inode))
    return found


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("hierarchy", ["cpuacct", "unified"])
def test_real_answers_join_real_cgroups(
    kubelet_captures_dir: Path, capture: str, hierarchy: str
) -> None:
    """Every container cgroup of a real node joins its pod; each pod has one unlisted: its sandbox.

    Except the pod whose manifest has just been removed: the kubelet lists it no longer.
    """
    folder = kubelet_captures_dir / capture
    pods = {pod.uid: pod for pod in parse_pods((folder / "pods_10255.json").read_bytes())}
    ids = {c.id for pod in pods.values() for c in pod.containers}
    leaves = [identify(ref.path) for ref in read_cgroups(folder, hierarchy).values()]
    containers = [leaf for leaf in leaves if leaf and leaf.kind == "container"]
    unlisted_pods = {leaf.pod_uid for leaf in containers if leaf.pod_uid not in pods}
    sandboxes = [c for c in containers if c.pod_uid in pods and c.id not in ids]

    assert len(containers) >= 18
    assert len(unlisted_pods) == (capture.startswith("05"))
    assert len({c.pod_uid for c in sandboxes}) == len(sandboxes)
    assert all(c.qos == pods[c.pod_uid].qos for c in containers if c.pod_uid in pods)


def test_all_captured_answers_parse(kubelet_captures_dir: Path) -> None:
    """Every body that a real kubelet sent as `/pods` is read, the refusals are told apart."""
    lists = [
        *kubelet_captures_dir.glob("*/pods_*.json"),
        *kubelet_captures_dir.glob("14_*/*.json"),
        *kubelet_captures_dir.glob("07_*/*_pods.body"),
        *kubelet_captures_dir.glob("06_*/*_pods*.body"),
    ]
    counts = {}
    for path in lists:
        try:
            counts[path] = len(parse_pods(path.read_bytes()))
        except PodsError:
            counts[path] = -1
            assert path.read_bytes().startswith((b"Unauthorized", b"Forbidden")), path

    assert max(counts.values()) >= 17
    assert {path.parent.name[:2] for path, n in counts.items() if n > 0} >= {"03", "07", "14"}


@pytest.mark.parametrize("text", ["9223372036854775807", "9999E"])
def test_a_request_beyond_all_measure_still_fits_the_wire(text: str) -> None:
    """What an API server let through must not end the daemon when its state is packed."""
    requested = parse_quantity(text, Decimal(1000))

    assert msgpack.unpackb(msgpack.packb(requested)) == requested

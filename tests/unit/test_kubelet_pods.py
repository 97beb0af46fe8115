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
from tychod.workloads.pods import (
    LABELS_MOST,
    PODS_MOST,
    Container,
    Pod,
    PodsError,
    Requests,
    claim_of,
    claims,
    is_same_uid,
    parse_pods,
    parse_quantity,
)

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


HASH = "8f81918d88758152f5ea8687d9680d74"


def annotated(**notes: str) -> dict[str, object]:
    """Return a pod with annotations of Kubernetes' own."""
    return {
        "metadata": {
            "uid": UID,
            "name": "p",
            "namespace": "n",
            "annotations": {f"kubernetes.io/config.{key}": value for key, value in notes.items()},
        }
    }


@pytest.mark.parametrize(
    ("notes", "uid", "source"),
    [
        ({"hash": UID, "source": "file"}, UID, "static"),
        ({"hash": UID, "source": "http"}, UID, "static"),
        ({"source": "api"}, UID, "api"),
        ({}, UID, None),
        ({"source": "moon"}, UID, None),
        ({"hash": HASH, "mirror": HASH, "source": "file"}, HASH, "static"),
        ({"mirror": HASH}, HASH, "static"),
        ({"mirror": ""}, UID, None),
        ({"hash": HASH, "source": "file"}, UID, "static"),
    ],
)
def test_uid_is_the_one_in_the_cgroups_path(
    notes: dict[str, str], uid: str, source: str | None
) -> None:
    """A mirror pod's own uid is in no path: its annotation has it.  The kubelet's own uid is."""
    (pod,) = parse_pods(body(annotated(**notes)))

    assert (pod.uid, pod.source) == (uid, source)


def test_a_pod_and_its_mirror_are_one() -> None:
    """A list that holds both, as no kubelet's does, gives the pod once."""
    original = annotated(hash=UID, source="file")
    mirror = annotated(mirror=UID)
    mirror["metadata"]["uid"] = HASH  # type: ignore[index]

    assert [pod.uid for pod in parse_pods(body(original, mirror))] == [UID]


def test_mirror_pods_of_a_real_api_server_have_their_cgroups_uid(
    kubelet_captures_dir: Path,
) -> None:
    """The API server's document and the kubelet's, of the same static pod, agree on the uid."""
    folder = kubelet_captures_dir / "07_api_mode"
    served, own = (
        {pod.name: pod for pod in parse_pods((folder / name).read_bytes())}
        for name in ("node_cert_apiserver_list_pods_nodefilter.body", "cert_admin_pods.body")
    )

    assert served["idle-node-a"].uid == own["idle-node-a"].uid == HASH
    assert {pod.source for pod in own.values()} == {"static", "api"}
    assert {pod.node for pod in own.values()} == {"node-a"}
    assert own["oneshot-node-a"].phase == "Succeeded"
    assert [name for name, pod in own.items() if pod.is_ended] == ["oneshot-node-a", "report-xswfk"]


@pytest.mark.parametrize(
    ("phase", "known", "ended"),
    [("Running", "Running", False), ("Pending", "Pending", False), ("Succeeded", "Succeeded", True),
     ("Failed", "Failed", True), ("Unknown", "Unknown", False), ("odd", None, False)],
)  # fmt: skip
def test_phase_tells_whether_a_pod_has_ended(phase: str, known: str | None, ended: bool) -> None:
    """Completed pods stay listed; a phase that Kubernetes does not know is none."""
    (pod,) = parse_pods(body(item(status={"phase": phase})))

    assert (pod.phase, pod.is_ended) == (known, ended)


def test_requests_of_the_pod_as_a_whole_stand_beside_its_containers() -> None:
    """Pod-level resources and the overhead of a sandbox runtime are facts of their own."""
    spec = {
        "resources": {"requests": {"cpu": "2", "memory": "1Gi"}},
        "overhead": {"cpu": "250m", "memory": "160Mi"},
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}],
    }
    (pod,) = parse_pods(body(item(spec=spec)))
    (plain,) = parse_pods(body(item(spec={"containers": [{"name": "a"}]})))

    assert (pod.requested, pod.overhead) == (Requests(2000, 1 << 30), Requests(250, 160 << 20))
    assert pod.requests == {"a": Requests(1000, None)}
    assert (plain.requested, plain.overhead, plain.requests) == (None, None, {})


def test_sidecars_are_told_from_init_containers() -> None:
    """An init container that always restarts runs beside the others for the pod's whole life."""
    spec = {
        "initContainers": [{"name": "setup"}, {"name": "proxy", "restartPolicy": "Always"}],
        "containers": [{"name": "app"}],
    }
    status = {
        "initContainerStatuses": [
            {"name": "setup", "containerID": "containerd://1"},
            {"name": "proxy", "containerID": "containerd://2",
             "lastState": {"terminated": {"containerID": "containerd://0"}}},
        ],
        "containerStatuses": [{"name": "app", "containerID": "containerd://3"}],
        "ephemeralContainerStatuses": [{"name": "proxy", "containerID": "containerd://4"}],
    }  # fmt: skip
    (pod,) = parse_pods(body(item(spec=spec, status=status)))

    assert {c.id: c.role for c in pod.containers} == {
        "1": "init", "2": "sidecar", "0": "sidecar", "3": "container", "4": "ephemeral",
    }  # fmt: skip


def test_what_no_kubelet_would_say_is_bounded() -> None:
    """Long names are cut, labels beyond all bounds left out; control characters are data."""
    meta = {
        "uid": UID,
        "name": "p" * 10_000,
        "namespace": "n\x1b[2J\ud800",
        "labels": {"ok": "x\x07", "long": "v" * 10_000, "k" * 10_000: "v"},
    }
    many = {f"l{n:05}": "v" for n in range(10_000)}
    (pod,) = parse_pods(body({"metadata": meta}))
    (labelled,) = parse_pods(body({"metadata": meta | {"labels": many}}))

    assert (len(pod.name), pod.name[-1], pod.namespace) == (253, "…", "n\x1b[2J?")
    assert pod.labels == {"ok": "x\x07"}
    assert len(labelled.labels) == LABELS_MOST
    assert msgpack.unpackb(msgpack.packb([pod.name, pod.namespace, dict(pod.labels)]))


def test_ids_beyond_all_bounds_are_left_out() -> None:
    """A uid or container id that is cut would be another one."""
    status = {"containerStatuses": [{"name": "c", "containerID": "containerd://" + "a" * 200}]}
    meta = {"uid": "u" * 200, "name": "p", "namespace": "n"}

    assert parse_pods(body(item(status=status)))[0].containers == ()
    assert parse_pods(body({"metadata": meta})) == ()


def test_a_list_longer_than_any_nodes_is_no_answer() -> None:
    """No node runs over 5000 pods: who lists more is no kubelet."""
    entries = [{"metadata": {"uid": f"{n}", "name": "p", "namespace": "n"}} for n in range(5001)]

    assert len(parse_pods(body(*entries[:PODS_MOST]))) == PODS_MOST
    with pytest.raises(PodsError, match="lists 5001 pods"):
        parse_pods(body(*entries))


def claimant(uid: str, *ids: str) -> Pod:
    """Return a pod with these containers."""
    containers = tuple(Container(ident, f"{uid}-{ident}", None, "running") for ident in ids)
    return Pod(uid, f"pod-{uid}", "n", {}, None, None, containers, {})


@pytest.mark.parametrize(
    ("container", "path_uid", "owner"),
    [
        ("own", "u-1", "u-1"),
        ("own", None, "u-1"),
        ("own", "u-2", None),  # the path names another pod: the kubelet is not believed
        ("both", "u-1", "u-1"),
        ("both", "u-2", "u-2"),
        ("both", "u-3", None),
        ("both", None, None),  # nobody can tell
        ("none", "u-1", None),
    ],
)
def test_of_two_pods_that_name_one_container_the_path_decides(
    container: str, path_uid: str | None, owner: str | None
) -> None:
    """A container id in two pods is that of the pod in the cgroup's path, else nobody's."""
    claimed = claims((claimant("u-1", "own", "both", "both"), claimant("u-2", "both")))
    found = claim_of(claimed, container, path_uid)

    assert (found[1].uid if found else None) == owner
    assert [len(claimed[ident]) for ident in ("own", "both")] == [1, 2]


def test_uids_are_compared_as_systemd_writes_them() -> None:
    """A uid that a manifest chose may hold underscores, which a slice's name makes dashes of."""
    assert is_same_uid("my_own-uid", "my-own-uid")
    assert not is_same_uid("my_own-uid", "my-other-uid")

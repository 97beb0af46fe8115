"""When the kubelet's list is wrong: each way that a real one showed, and what we make of it.

| what the kubelet does                                   | held by                               |
|---------------------------------------------------------|---------------------------------------|
| 1 a removed static pod leaves the list at once, runs on | removed_static_pod (here), cases      |
| 2 a deleted pod stays listed after its cgroup is gone   | deleted_pod (here)                    |
| 3 restart: refused, `null`, then a growing list         | restart (kubelet over TLS, and cases) |
| 4 API server away: statuses frozen, uids right          | frozen_statuses (here), registry      |
| 5 restarted without API server: its pods are absent     | absent_pods (here)                    |
| 6 standalone restart kills the API server's pods        | killed_pods (here)                    |
| 7 `restartCount` starts again                           | restart_count (here)                  |
| 8 the wall clock steps                                  | kubelet schedule, kubelet over TLS    |
| 9 sandboxes cannot start: pending, empty pod cgroups    | failing_sandboxes (here)              |
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tychod import config
from tychod.hostfs import Host
from tychod.model import Identity
from tychod.samples import CgroupRef
from tychod.workloads.pods import Pod, PodView, parse_pods
from tychod.workloads.registry import Registry

SECOND = 1_000_000_000
NEW, NEWER = "e5" * 32, "f6" * 32


class Lister:
    """A kubelet that answers with what it is given."""

    def __init__(self) -> None:
        self.view: PodView | None = None
        self.asked_ns: int | None = None
        self.route = "ok"
        self.stale = False

    def is_stale(self, now_ns: int) -> bool:
        """Say what the test set."""
        del now_ns
        return self.stale


class Node:
    """A registry on a machine without any host file: the kubelet alone tells names."""

    def __init__(self, folder: Path) -> None:
        roots = {name: str(folder / name) for name in ("run", "log", "var", "procfs", "cgroupfs")}
        self.kubelet = Lister()
        self.registry = Registry(Host(config.Host(**roots)), str(folder), self.kubelet)
        self.now_ns = 0

    def look(self, cgroups: dict[int, CgroupRef], pods: tuple[Pod, ...]) -> dict[int, Identity]:
        """Let half a minute pass, ask the kubelet, and return who the cgroups are."""
        self.registry.update(cgroups, self.now_ns)
        self.now_ns += 30 * SECOND
        self.kubelet.asked_ns = self.now_ns
        self.kubelet.view = PodView(self.now_ns, pods)
        found = self.registry.update(cgroups, self.now_ns)
        return {key: found[key] for key in cgroups}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node on which nothing has been seen yet."""
    return Node(tmp_path)


def read_cgroups(folder: Path) -> dict[int, CgroupRef]:
    """Read a captured cgroup2 tree."""
    prefix = "/sys/fs/cgroup/unified"
    pairs = (x.split(" ", 1) for x in (folder / "cgroup_tree_inodes.txt").read_text().splitlines())
    return {
        int(inode): CgroupRef(path.removeprefix(prefix), int(inode))
        for inode, path in pairs
        if path.startswith(f"{prefix}/kubepods")
    }


def read_items(path: Path) -> list[dict[str, Any]]:
    """Read the pods of a captured answer as they are."""
    items: list[dict[str, Any]] = json.loads(path.read_text())["items"]
    return items


def listed(items: Iterable[object]) -> tuple[Pod, ...]:
    """Return what we make of these pods."""
    return parse_pods(json.dumps({"items": list(items)}).encode())


def name_of(item: dict[str, Any]) -> str:
    """Return a pod's name."""
    return str(item["metadata"]["name"])


def is_of_api(item: dict[str, Any]) -> bool:
    """Say whether a pod came through the API server."""
    return item["metadata"]["annotations"]["kubernetes.io/config.source"] == "api"


def cgroup(pod: Pod, ident: str, key: int) -> CgroupRef:
    """Return a container's cgroup below its pod's."""
    return CgroupRef(f"/kubepods/burstable/pod{pod.uid}/{ident}", key)


def cgroups_of(pods: Iterable[Pod], first: int = 1) -> dict[int, CgroupRef]:
    """Return the cgroups of all running containers of these pods."""
    running = [(p, c.id) for p in pods for c in p.containers if c.state == "running"]
    return {key: cgroup(p, ident, key) for key, (p, ident) in enumerate(running, first)}


@pytest.fixture
def items(kubelet_captures_dir: Path) -> list[dict[str, Any]]:
    """Return the pods of a real node with an API server: half of them static."""
    return read_items(kubelet_captures_dir / "07_api_mode/cert_admin_pods.body")


def test_removed_static_pod_keeps_its_name_while_it_runs_on(
    kubelet_captures_dir: Path, node: Node
) -> None:
    """It left the list 24 ms after its manifest; in its grace of 15 s all its energy is its own."""
    folder = kubelet_captures_dir / "05_static_pod_removed_still_terminating"
    after = parse_pods((folder / "pods_10255.json").read_bytes())
    running = read_items(folder / "runningpods.json")  # the runtime's view: without ids
    (removed,) = listed(running_on(running, {pod.uid for pod in after}))
    cgroups = read_cgroups(folder)
    node.look(cgroups, (*after, removed))
    meanwhile = [i for i in node.look(cgroups, after).values() if i.pod_uid == removed.uid]
    gone = {key: ref for key, ref in cgroups.items() if removed.uid not in ref.path}
    left = node.look(gone, after)

    assert sum(i.kind == "container" for i in meanwhile) >= 2
    assert {(i.pod, i.namespace) for i in meanwhile} == {(removed.name, removed.namespace)}
    assert not [i for i in left.values() if i.pod_uid == removed.uid]


def running_on(items: list[dict[str, Any]], known: set[str]) -> list[dict[str, Any]]:
    """Return the pods that are not among the known ones."""
    return [item for item in items if item["metadata"]["uid"] not in known]


def test_deleted_pod_that_is_still_listed_makes_no_workload(
    items: list[dict[str, Any]], node: Node
) -> None:
    """It stays in the list, running, for 0.7 s after its cgroup: a list is no proof of life."""
    db = next(item for item in items if name_of(item) == "db-0")
    db["metadata"]["deletionTimestamp"] = "2026-11-20T18:20:00Z"
    pods = listed(items)
    cgroups = cgroups_of(pods)
    alive = node.look(cgroups, pods)
    gone = {key: ref for key, ref in cgroups.items() if db["metadata"]["uid"] not in ref.path}
    found = node.registry.update(gone, node.now_ns)

    assert "db-0" in {i.pod for i in alive.values()}
    assert "db-0" not in {i.pod for i in found.values()}


def test_frozen_statuses_still_tell_the_pod(items: list[dict[str, Any]], node: Node) -> None:
    """API server away: the dead id stays "running", the new one is unlisted, the uid is right."""
    pods = listed(items)
    db = next(pod for pod in pods if pod.name == "db-0")
    idle = next(pod for pod in pods if pod.name == "idle-node-a")
    cgroups = cgroups_of((db, idle)) | {90: cgroup(db, "9a" * 32, 90)}  # with db-0's sandbox
    before = node.look(cgroups, pods)
    restarted = {k: r for k, r in cgroups.items() if before[k].name != "db"}
    restarted[91] = cgroup(db, NEW, 91)
    frozen = node.look(restarted, pods)[91]
    for item in items:
        if name_of(item) == "db-0":
            item["status"]["containerStatuses"][0]["containerID"] = f"containerd://{NEW}"
    thawed = node.look(restarted, listed(items))

    assert (frozen.pod, frozen.namespace, frozen.owner) == ("db-0", "tenant-b", "StatefulSet/db")
    assert (frozen.name, frozen.sandbox) == (NEW[:12], False)
    assert (thawed[91].name, thawed[90].name) == ("db", "pause")
    assert {i.pod for i in thawed.values()} == {"db-0", "idle-node-a"}


def test_absent_pods_of_a_restarted_kubelet_are_not_gone(
    items: list[dict[str, Any]], node: Node
) -> None:
    """Restarted without its API server it lists static pods only: the others keep all they had."""
    pods = listed(items)
    cgroups = cgroups_of(pods)
    before = node.look(cgroups, pods)
    static = listed(item for item in items if not is_of_api(item))
    db = next(pod for pod in pods if pod.name == "db-0")
    during = node.look(cgroups | {95: cgroup(db, NEWER, 95)}, static)
    after = node.look(cgroups, pods)

    assert 5 < len(static) < len(pods)
    assert {key: during[key] for key in before} == before
    assert (during[95].pod, during[95].namespace) == ("db-0", "tenant-b")
    assert after == before


def test_absent_pods_are_unknown_to_who_starts_then(
    items: list[dict[str, Any]], node: Node
) -> None:
    """Who has never seen them has their uid from the path, and no pod's name that is not theirs."""
    pods = listed(items)
    static = listed(item for item in items if not is_of_api(item))
    found = node.look(cgroups_of(pods), static)
    known = {pod.uid: pod.name for pod in static}

    assert {i.pod_uid for i in found.values()} > set(known) & {i.pod_uid for i in found.values()}
    assert all(i.pod == known.get(i.pod_uid or "") for i in found.values())


def test_killed_pods_leave_nothing_behind(items: list[dict[str, Any]], node: Node) -> None:
    """A standalone restart ends the API server's pods; a cgroup of that uid later is a new one."""
    pods = listed(items)
    static = listed(item for item in items if not is_of_api(item))
    db = next(pod for pod in pods if pod.name == "db-0")
    cgroups = cgroups_of(pods)
    node.look(cgroups, pods)
    alive = {pod.uid for pod in static}
    node.look({k: r for k, r in cgroups.items() if r.path.split("/pod")[1][:32] in alive}, static)
    again = node.look({99: cgroup(db, NEW, 99)}, static)[99]

    assert (again.pod_uid, again.pod, again.name) == (db.uid, None, NEW[:12])


def test_restart_count_is_no_key(items: list[dict[str, Any]]) -> None:
    """It began at 0 again for a sidecar that was added anew: nothing is read from it."""
    before = listed(items)
    for item in items:
        for array in ("containerStatuses", "initContainerStatuses"):
            for status in item["status"].get(array, ()):
                status["restartCount"] = 77

    assert listed(items) == before


def test_failing_sandboxes_have_a_pod_and_no_container(
    kubelet_captures_dir: Path, node: Node
) -> None:
    """Pending pods without any id; their empty cgroups carry the pod's name and want nothing."""
    folder = kubelet_captures_dir / "00_sandboxes_failing"
    pods = parse_pods((folder / "pods_10255.json").read_bytes())
    found = node.look(read_cgroups(folder), pods)
    of_pods = [i for i in found.values() if i.pod_uid]

    assert {pod.phase for pod in pods} == {"Pending"}
    assert not any(pod.containers for pod in pods)
    assert {i.pod for i in of_pods} <= {pod.name for pod in pods}
    assert len(of_pods) >= 5
    assert not any(i.kind == "container" for i in found.values())
    assert not node.registry.wants_kubelet

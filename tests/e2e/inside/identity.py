"""Checks of who containers are: real ones, of every runtime, under both cgroup drivers."""

import time
import uuid
from typing import Final

from tests.e2e.inside.containers import (
    CGROUPS,
    Made,
    Podman,
    RealPod,
    new_id,
    require_tools,
    start_in,
    start_scope,
)
from tests.e2e.inside.machine import ask
from tests.e2e.inside.scene import Scene
from tests.e2e.inside.town import Group, Town, build
from tests.e2e.steps import require

SHARE: Final = 5  # percent of a CPU each: many at once leave the daemon its own


def pods_of(scene: Scene) -> tuple[RealPod, ...]:
    """Return the pods: every class, both cgroup drivers, with bundles and without, a static one."""
    made = f"{scene.name}-"
    return (
        RealPod(scene, f"{made}guaranteed", "shop", "Guaranteed", systemd=True),
        RealPod(scene, f"{made}burstable", "shop", "Burstable", systemd=True),
        RealPod(scene, f"{made}besteffort", "bank", "BestEffort", systemd=False),
        RealPod(scene, f"{made}linked", "bank", "Burstable", systemd=False, bundle=False),
        RealPod(
            scene, f"{made}static", "kube-system", "Burstable", systemd=True, uid=uuid.uuid4().hex
        ),
    )


def start_pods(scene: Scene, group: Group) -> None:
    """Start the pods by runc, each with its pause container where a bundle tells of it."""
    require_tools("runc")
    for pod in pods_of(scene):
        scene.undo.append(pod.clear)
        group.pods.append(pod)
        names = {"pause": 1, "app": SHARE} if pod.bundle else {"app": SHARE}
        for name, percent in names.items():
            made = Made(pod, name, percent)
            born_s = time.time()
            made.start()
            group.add(made.cgroup, made.row(), born_s)


def start_podman(scene: Scene, group: Group) -> None:
    """Start a container under each of podman's cgroup managers; their monitors are not they."""
    require_tools("podman", "runc")
    podman = Podman(scene)
    for manager in ("systemd", "cgroupfs"):
        name, born_s = f"{scene.name}-{manager}", time.time()
        id_ = podman.start(manager, name, SHARE)
        places = {
            "systemd": f"machine.slice/libpod-{id_}.scope",
            "cgroupfs": f"libpod_parent/libpod-{id_}",
        }
        row = {"kind": "container", "id": id_, "name": name, "runtime": "podman", "pod": None}
        group.add(CGROUPS / places[manager], row, born_s)


def start_others(scene: Scene, group: Group) -> None:
    """Start what looks like containers of Docker, LXC and nspawn, and a cluster in a container."""
    work = (str(scene.work), str(SHARE))
    docker = new_id()
    scope = start_scope(scene, f"docker-{docker}.scope", *work)
    group.add(scope, {"kind": "container", "id": docker, "runtime": "docker"})
    name = f"{scene.name}-lxc"
    payload = start_in(scene, CGROUPS / f"lxc.payload.{name}/system.slice/ssh.service", *work)
    row = {"kind": "container", "runtime": "lxc", "name": name}
    group.add(payload.parent.parent, row | {"cgroup": f"/lxc.payload.{name}"})


def start_nested(scene: Scene, group: Group) -> None:
    """Start a node of a cluster in a container: both are visible, no energy is in both."""
    work = (str(scene.work), str(SHARE))
    node, inner, uid = new_id(), new_id(), str(uuid.uuid4())
    scope = start_scope(scene, f"docker-{node}.scope", *work)
    level = "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice"
    pod = f"kubelet-kubepods-besteffort-pod{uid.replace('-', '_')}.slice"
    start_in(scene, scope / level / pod / f"cri-containerd-{inner}.scope", *work)
    group.add(scope, {"kind": "container", "id": node, "runtime": "docker", "parent": None})
    row = {"kind": "container", "id": inner, "runtime": "containerd", "parent": node}
    group.add(scope, row | {"pod_uid": uid})


def town_of(scene: Scene) -> Town:
    """Return what was started for all steps, and what was seen of it."""
    return build(scene, STARTERS)


def pods_of_runc(scene: Scene) -> str:
    """Pods run by runc have their names in their first full window, class, sandbox and all."""
    town = town_of(scene)
    note = town.require_named("pods")
    listed = {pod["uid"]: pod for pod in ask("pods")["pods"]}
    for pod in town.group("pods").pods:
        shown = listed.get(pod.uid, {})
        found = (shown.get("namespace"), shown.get("name"), shown.get("qos"))
        wanted = (pod.namespace, pod.name, pod.qos)
        require(found == wanted, f"pod {pod.uid} is {found}, not {wanted}")
        count = 2 if pod.bundle else 1
        require(len(shown["containers"]) == count, f"containers of {wanted}: {shown}")
    return f"{note}; {town.require_accounted('pods')}"


def podman(scene: Scene) -> str:
    """Containers of podman have the names that they were given; their monitors are not they."""
    town = town_of(scene)
    note = town.require_named("podman")
    ids = {row["id"] for _, row in town.group("podman").rows}
    leaves = ask("containers")["workloads"]
    extra = [leaf for leaf in leaves if leaf["runtime"] == "podman" and leaf["id"] not in ids]
    require(not extra, f"podman has other containers: {extra}")
    return f"{note}; {town.require_accounted('podman')}"


def other_runtimes(scene: Scene) -> str:
    """Containers of other runtimes are told by the shapes of their cgroups."""
    town = town_of(scene)
    return f"{town.require_named('others')}; {town.require_accounted('others')}"


def nested_cluster(scene: Scene) -> str:
    """A pod of a cluster in a container is visible beside that, and no energy is in both."""
    town = town_of(scene)
    return f"{town.require_named('nested')}; {town.require_accounted('nested')}"


STARTERS: Final = {
    "pods": start_pods,
    "podman": start_podman,
    "others": start_others,
    "nested": start_nested,
}

"""Checks of the further ways to names: the kubelet, systemd, the kubelet's account of devices."""

import json
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.e2e.inside.containers import Made, RealPod, require_tools
from tests.e2e.inside.machine import (
    UNIT,
    Answer,
    Watch,
    ask,
    run,
    time_s,
    unit_property,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import Scene, cgroup_of
from tests.e2e.inside.town import Group, Row, Town, differences, find
from tests.e2e.steps import SkippedError, StepError, require
from tests.sim.kubelet import EMPTY, NODE, SimKubelet, issue, make_ca, pod, pod_list
from tests.sim.podresources import SimPodResources, answer, render_listing, says

KUBELET_PORT: Final = 10250
KUBELET_DIRECTORY: Final = Path("/var/lib/kubelet")
CHECKPOINT: Final = KUBELET_DIRECTORY / "device-plugins/kubelet_internal_checkpoint"
SOCKET: Final = KUBELET_DIRECTORY / "pod-resources/kubelet.sock"
GPU: Final = "nvidia.com/gpu"
DEVICE_ROUTES: Final = ("device-plugin", "pod-resources")
ROOT_SETTINGS: Final = """\
[control]
socket = "{socket}"
[accounting]
loader = "off"
"""
DEVICES: Final = ("GPU-0b1e8f3e-5d0e-4a55-9a55-0d6f7c1f2a01",)
KUBELET_SETTINGS: Final = """
[kubelet]
endpoint = "https://127.0.0.1:{port}"
node_name = "{node}"
ca_file = "{place}/ca.crt"
token_file = "{place}/token"
"""


def start_kubelet(scene: Scene, place: Path) -> str:
    """Start a kubelet that knows of no pod yet; return the settings, credential and all."""
    require_tools("openssl")
    place.chmod(0o700)
    pair = issue(place, make_ca(place, "ca"), NODE)
    write_token(place, "first")
    scene.kubelet = SimKubelet(EMPTY, pair, "first", port=KUBELET_PORT)
    scene.kubelet.__enter__()
    scene.undo.append(partial(scene.kubelet.__exit__, None, None, None))
    return KUBELET_SETTINGS.format(port=KUBELET_PORT, node=NODE, place=place)


def write_token(place: Path, token: str) -> None:
    """Put a token where the daemon reads it, as kubelets' own tokens are rotated."""
    new = place / "token.new"
    new.touch(mode=0o600)
    new.write_text(token, encoding="ascii")
    new.rename(place / "token")


def route(name: str, *options: str) -> Answer:
    """Return how a way to names is."""
    found = [r for r in ask("sources", options=options)["identity"] if r["route"] == name]
    require(found, f"no route {name}")
    return dict(found[0])


def pods_of_kubelet(pods: list[RealPod], containers: Mapping[str, str]) -> bytes:
    """Return the kubelet's list: owners, labels, requests; a static pod is there as its mirror."""
    listed = []
    for one in pods:
        labels = {"app": one.name.rpartition("-")[2], "tier": "front"}
        owner = {"kind": "ReplicaSet", "name": f"{one.name}-rs", "controller": True}
        metadata: dict[str, Any] = {"labels": labels, "ownerReferences": [owner]}
        uid = one.uid
        if one.namespace == "kube-system":
            uid = "01234567-89ab-4cde-8f01-23456789abcd"  # of the mirror; the cgroup has its hash
            metadata["annotations"] = {"kubernetes.io/config.mirror": one.uid}
        entry: dict[str, Any] = pod(
            one.name, uid, {"app": containers[one.uid]}, one.namespace, **metadata
        )
        entry["status"]["qosClass"] = one.qos
        asked = {"cpu": "250m", "memory": "64Mi"}
        entry["spec"]["containers"][0]["resources"] = {"requests": asked}
        listed.append(entry)
    return pod_list(*listed)


def kubelet(scene: Scene, town: Town, place: Path) -> str:
    """The kubelet gives owner, labels and requests, and a new pod's name in its first window."""
    group = town.group("pods")
    containers = {str(row["pod_uid"]): str(row["id"]) for _, row in group.rows if row["pod_uid"]}
    late = RealPod(scene, f"{scene.name}-late", "shop", "Burstable", systemd=True, bundle=False)
    scene.undo.append(late.clear)
    made = Made(late, "app", 5, has_log=False)
    server = scene.kubelet
    if server is None:
        raise StepError("the kubelet was not started")
    server.pods = pods_of_kubelet([*group.pods, late], containers | {late.uid: made.id})
    notes = [_named_by_kubelet(made), _listed(group.pods)]
    return "; ".join([*notes, _refused_and_back(scene, server, place)])


def _listed(pods: list[RealPod]) -> str:
    """StepError unless pods have what the kubelet alone knows, and selectors choose among them."""
    began_s = time.monotonic()

    def complete() -> bool:
        shown = {p["uid"]: p for p in ask("pods")["pods"]}
        return all(shown.get(p.uid, {}).get("labels_known") for p in pods)

    wait_until("the kubelet's labels", complete, 15, pause_s=0.5)
    took_s = time.monotonic() - began_s
    shown = {p["uid"]: p for p in ask("pods")["pods"]}
    for one in pods:
        found = {key: shown[one.uid][key] for key in ("name", "qos", "owner")}
        wanted = {"name": one.name, "qos": one.qos, "owner": f"ReplicaSet/{one.name}-rs"}
        require(found == wanted, f"{found}, not {wanted}")
    first = pods[0]
    app = first.name.rpartition("-")[2]
    argv = ("tychoctl", "pods", "-n", first.namespace, "-l", f"app={app}", "-o", "json")
    chosen = [p["name"] for p in json.loads(run(*argv).stdout)["pods"]]
    require(chosen == [first.name], f"{' '.join(argv)}: {chosen}")
    return f"labels after {took_s:.1f} s"


def _named_by_kubelet(made: Made) -> str:
    """StepError unless a container that only the kubelet knows has its name in a full window."""
    with Watch("workloads") as watch:
        born_s = time.time()
        made.start()
        row = made.row() | {"names_from": "kubelet"}

        def full() -> list[tuple[float, Answer]]:
            seen = list(watch.answers)
            return [(at, a) for at, a in seen if time_s(a["window"]["start"]) >= born_s]

        wait_until("a full window", full, 20)
        wrong = differences(find(full()[0][1], row), row)
        require(not wrong, f"{row}: {wrong}")
        seen = [at for at, a in watch.answers if not differences(find(a, row), row)]
    return f"a new pod named {seen[0] - born_s:.1f} s after its start"


def _refused_and_back(scene: Scene, server: SimKubelet, place: Path) -> str:
    """StepError unless a refusal is told, and a rotated token is used."""
    server.token = "second"
    late = RealPod(scene, f"{scene.name}-later", "shop", "Burstable", systemd=False, bundle=False)
    scene.undo.append(late.clear)
    Made(late, "app", 1, has_log=False).start()  # nobody knows it: so the kubelet is asked
    reason = wait_until("the refusal is told", _refusal, 45, pause_s=0.5)
    write_token(place, "second")
    wait_until("the new token is used", lambda: not _refusal(), 45, pause_s=0.5)
    return reason


def _refusal() -> str | None:
    found = route("kubelet")
    return None if found["state"] == "ok" else str(found["reason"])


def start_units(scene: Scene, group: Group) -> None:
    """Start two services in a slice, one with a description with an escape sequence in it."""
    slice_ = f"{scene.name.replace('-', '')}.slice"
    for name, description in (("described", "Sells \x1b[31mred\x1b[0m things"), ("plain", "")):
        unit = f"{scene.name}-{name}.service"
        argv = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--slice={slice_}"]
        argv += [f"--description={description}"] if description else []
        born_s = time.time()
        run(*argv, "--", str(scene.work), "5")
        scene.undo.append(partial(run, "systemctl", "stop", unit, code=None))
        row = {"kind": "unit", "id": unit, "cgroup": f"/{slice_}/{unit}"}
        row |= {"description": unit_property("Description", unit)}
        group.add(Path(str(cgroup_of(unit))), row, born_s)


def units(town: Town) -> str:
    """Units have systemd's description, asked as the daemon's user; slices are their sums."""
    note = f"{town.require_named('units')}; {town.require_accounted('units')}"
    answer = ask("units")
    cgroups = [str(row["cgroup"]) for _, row in town.group("units").rows]
    path = str(Path(cgroups[0]).parent)
    (found,) = (one for one in answer["slices"] if one["cgroup"] == path)
    leaves = [leaf for leaf in answer["workloads"] if leaf["cgroup"] in cgroups]
    for kind in ("idle_uj", "dynamic_uj"):
        total = sum(leaf["total"][kind] for leaf in leaves)
        require(found["total"][kind] == total, f"{path} has {found['total'][kind]}, not {total}")
    table = run("tychoctl", "units", "-o", "wide").stdout
    require("\x1b" not in table, "an escape sequence reaches the terminal")
    own = next((leaf for leaf in answer["workloads"] if leaf["id"] == UNIT), {})
    require(own.get("description"), f"the daemon's own unit: {own}")
    return f"{note}; {found['total']['dynamic_uj']} uJ in {path}"


def units_without_bus(scene: Scene) -> str:
    """Without D-Bus units have the names of their paths, and why is told."""
    unit = f"{scene.name}-later.service"
    run("systemctl", "stop", "dbus.socket", "dbus.service")
    try:
        argv = ("systemd-run", "--quiet", "--collect", f"--unit={unit}", "--description=Later")
        run(*argv, "--", str(scene.work), "5")
        told = wait_until("why systemd is not asked", _units_refusal, 30, pause_s=0.5)
        wait_for_window(wait_for_window()["sequence"])
        leaf = find(ask("units"), {"id": unit})
        wrong = differences(leaf, {"name": unit, "description": None, "names_from": "path"})
        require(not wrong, f"{unit}: {wrong}")
    finally:
        run("systemctl", "start", "dbus.socket")

    def described() -> bool:
        return bool((find(ask("units"), {"id": unit}) or {}).get("description") == "Later")

    try:
        wait_until("the description once D-Bus is back", described, 75, pause_s=0.5)
    finally:
        run("systemctl", "stop", unit, code=None)
    return told


def _units_refusal() -> str | None:
    found = route("systemd")
    return None if found["state"] == "ok" else str(found["reason"])


def start_devices(scene: Scene) -> None:
    """Start the kubelet's pod-resources socket, which is root's; there is no checkpoint yet."""
    if KUBELET_DIRECTORY.exists():
        return  # a kubelet's own
    scene.undo.append(lambda: shutil.rmtree(KUBELET_DIRECTORY))
    for path in (CHECKPOINT, SOCKET):
        path.parent.mkdir(parents=True, mode=0o750)
    scene.resources = SimPodResources(SOCKET, says(b""))
    SOCKET.chmod(0o600)
    scene.undo.append(partial(scene.resources.__exit__, None, None, None))


def devices(scene: Scene, town: Town) -> str:
    """The checkpoint gives a container its GPU to the daemon as it runs; the socket does not."""
    server = scene.resources
    if server is None:
        raise SkippedError(f"{KUBELET_DIRECTORY} is a kubelet's own")
    row = next(row for _, row in town.group("pods").rows if row["name"] == "app")
    key = (str(row["namespace"]), str(row["pod"]), str(row["name"]))
    server.script = says(answer(render_listing({key: {GPU: DEVICES}})))
    _write_checkpoint(row)
    wait_until("the container's GPU", lambda: _has_devices(row), 15, pause_s=0.5)
    require(route("device-plugin")["state"] == "ok", f"{route('device-plugin')}")
    why = wait_until("why the socket is not used", _socket_refusal, 70, pause_s=0.5)
    require(server.calls == 0, "the socket was open to the daemon's user")
    CHECKPOINT.unlink()
    return f"{why}; as root: {_as_root(scene, row)}"


def _write_checkpoint(row: Row) -> None:
    """Write what the kubelet does, for root alone."""
    entry = {"PodUID": row["pod_uid"], "ContainerName": row["name"], "ResourceName": GPU}
    entry |= {"DeviceIDs": {"0": list(DEVICES)}, "AllocResp": None}
    body = {"PodDeviceEntries": [entry], "RegisteredDevices": {GPU: list(DEVICES)}}
    new = CHECKPOINT.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({"Data": body, "Checksum": 1}), encoding="ascii")
    new.rename(CHECKPOINT)


def _socket_refusal() -> str | None:
    found = route("pod-resources")
    denied = found["state"] != "ok" and "ermission" in str(found["reason"])
    return str(found["reason"]) if denied else None


def _has_devices(row: Row, *options: str) -> bool:
    answer_ = ask("containers", options=options)
    return not differences(find(answer_, row), {"devices": {GPU: list(DEVICES)}})


def _as_root(scene: Scene, row: Row) -> str:
    """StepError unless a daemon that may connect to the socket asks that."""
    place = Path("/run") / scene.name
    place.mkdir()
    unit, socket = f"{scene.name}-root.service", place / "tychod.sock"
    settings = place / "tychod.toml"
    settings.write_text(ROOT_SETTINGS.format(socket=socket), encoding="ascii")
    argv = ("systemd-run", "--quiet", "--collect", f"--unit={unit}")
    state = f"--setenv=STATE_DIRECTORY={place}"
    run(*argv, state, "--", "/usr/bin/tychod", "--config", str(settings))
    try:
        wait_until("the second daemon", socket.exists, 20)
        options = ("--socket", str(socket))
        wait_until("the GPU by the socket", lambda: _has_devices(row, *options), 20, pause_s=0.5)
        told = {name: route(name, *options) for name in DEVICE_ROUTES}
        require(told["pod-resources"]["state"] == "ok", f"routes: {told}")
        require(told["device-plugin"]["state"] != "ok", f"routes: {told}")
    finally:
        run("systemctl", "stop", unit, code=None)
        shutil.rmtree(place)
    return str(told["device-plugin"]["reason"])

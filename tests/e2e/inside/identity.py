"""Checks of who containers are: real ones, of every runtime, under both cgroup drivers."""

import json
import pwd
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Final

from tests.e2e.inside import routes, virtual
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
from tests.e2e.inside.machine import DROP_INS, ask, restart, run, wait_until
from tests.e2e.inside.scene import Scene, cgroup_of
from tests.e2e.inside.town import Group, Town, build
from tests.e2e.steps import SkippedError, require

DOCKER: Final = Path("/var/lib/docker/containers")
PAYLOAD: Final = """\
mkdir {top}/payload {top}/supervisor
echo 0 >{top}/payload/cgroup.procs
exec {work} {share}
"""
PAYLOAD_UNIT: Final = """\
[Service]
Slice=machine.slice
Delegate=yes
ExecStart=/bin/sh {script}
"""
PLACE: Final = Path("/etc/tychod")
SETTINGS: Final = """\
[workloads]
firework_status = "{agent}"
"""
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
        row["names_from"] = "runtime-file"
        group.add(CGROUPS / places[manager], row, born_s)


def start_others(scene: Scene, group: Group) -> None:
    """Start what has the shapes of Docker's, LXC's and nspawn's cgroups."""
    work = (str(scene.work), str(SHARE))
    docker, name = new_id(), f"{scene.name}-docker"
    record = DOCKER / docker / "config.v2.json"
    record.parent.mkdir(parents=True, mode=0o700)
    scene.undo.append(lambda: shutil.rmtree(record.parent))
    record.write_text(json.dumps({"ID": docker, "Name": f"/{name}", "Config": {}}))
    row = {"kind": "container", "id": docker, "runtime": "docker", "name": name}
    group.add(start_scope(scene, f"docker-{docker}.scope", *work), row)
    name = f"{scene.name}-lxc"
    payload = start_in(scene, CGROUPS / f"lxc.payload.{name}/system.slice/ssh.service", *work)
    row = {"kind": "container", "id": f"lxc:{name}", "runtime": "lxc", "name": name}
    group.add(payload.parent.parent, row)
    _start_payload(scene, group)


def _start_payload(scene: Scene, group: Group) -> None:
    """Start what systemd-nspawn@.service makes: the container is below the unit, beside nspawn."""
    unit = f"systemd-nspawn@{scene.name}.service"
    top = CGROUPS / "machine.slice" / unit
    script = scene.directory / "payload.sh"
    script.write_text(PAYLOAD.format(top=top, work=scene.work, share=SHARE), encoding="utf-8")
    place = DROP_INS / unit
    place.write_text(PAYLOAD_UNIT.format(script=script), encoding="utf-8")
    scene.undo.append(place.unlink)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", unit)
    scene.undo.append(lambda: run("systemctl", "stop", unit, code=None))
    wait_until("the payload's cgroup", (top / "payload").is_dir, 10)
    row = {"kind": "container", "id": f"nspawn:{scene.name}", "runtime": "nspawn"}
    group.add(top / "payload", row | {"name": scene.name})


def start_nspawn(scene: Scene, group: Group) -> None:
    """Start a real systemd-nspawn, which registers its machine with systemd."""
    require_tools("systemd-nspawn")
    root = scene.directory / "machine"
    for name in ("usr", "etc", "dev", "proc", "sys", "run", "tmp", "root", "var"):
        (root / name).mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=e2e\n", encoding="ascii")
    shutil.copy2(scene.work, root / "work")
    name, born_s = f"{scene.name}-nspawn", time.time()
    argv = ("systemd-nspawn", "--quiet", "--as-pid2", "--directory", str(root), "--machine", name)
    log = (scene.directory / "nspawn.log").open("wb")
    process = subprocess.Popen(
        (*argv, "--console=pipe", "/work", str(SHARE)),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    scene.undo.append(process.wait)
    scene.undo.append(process.terminate)
    scope = "machine-" + name.replace("-", r"\x2d") + ".scope"
    cgroup = Path(wait_until(f"the cgroup of {scope}", lambda: cgroup_of(scope), 10))
    row = {"kind": "container", "id": f"nspawn:{name}", "runtime": "nspawn", "name": name}
    group.add(cgroup, row, born_s)


def start_of_a_user(scene: Scene, group: Group) -> None:
    """Start a service and a container's scope by the systemd of a user."""
    uid = pwd.getpwnam(scene.member).pw_uid
    manager, id_ = f"user@{uid}.service", new_id()
    if run("systemctl", "start", manager, code=None).returncode:
        raise SkippedError(f"{manager} does not start here; with libpam-systemd it would")
    scene.undo.append(lambda: run("systemctl", "stop", manager, code=None))
    env = ("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "systemd-run", "--user", "--quiet")
    unit, work = f"{scene.name}-own.service", (str(scene.work), str(SHARE))
    top = CGROUPS / f"user.slice/user-{uid}.slice" / manager
    born_s = time.time()
    run(*env, f"--unit={unit}", "--", *work, user=scene.member)
    row = {"kind": "unit", "id": f"{manager}/app.slice/{unit}", "runtime": None}
    group.add(top / "app.slice" / unit, row, born_s)
    scope, born_s = f"libpod-{id_}.scope", time.time()
    argv = ("runuser", "-u", scene.member, "--", *env, "--scope", "--slice=user.slice")
    scene.processes.append(subprocess.Popen((*argv, f"--unit={scope}", "--", *work)))
    cgroup = top / "user.slice" / scope
    wait_until("the scope", cgroup.is_dir, 10)
    row = {"kind": "container", "id": id_, "runtime": "podman", "pod": None, "namespace": None}
    group.add(cgroup, row, born_s)


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


def of_a_user(scene: Scene) -> str:
    """What a user's own systemd runs is told apart, whoever may name it."""
    town = town_of(scene)
    return f"{town.require_named('user')}; {town.require_accounted('user')}"


def real_nspawn(scene: Scene) -> str:
    """A machine of systemd-nspawn is a container with the machine's name."""
    town = town_of(scene)
    return f"{town.require_named('nspawn')}; {town.require_accounted('nspawn')}"


def qemu(scene: Scene) -> str:
    """Machines of QEMU are told from what else runs in their cgroup."""
    return virtual.qemu_machines(town_of(scene))


def firecracker(scene: Scene) -> str:
    """MicroVMs are told from the agent that started them, and from one another."""
    return virtual.firecrackers(scene, town_of(scene))


def kubelet(scene: Scene) -> str:
    """A kubelet that starts later tells what the host's files do not."""
    return routes.kubelet(scene, town_of(scene), PLACE / scene.name)


def units(scene: Scene) -> str:
    """Services have their descriptions, slices their sums."""
    return routes.units(town_of(scene))


def devices(scene: Scene) -> str:
    """Containers have their devices, by the route that is open to whoever asks."""
    return routes.devices(scene, town_of(scene))


def town_of(scene: Scene) -> Town:
    """Return what was started for all steps, and what was seen of it."""
    return build(scene, configure, STARTERS)


def configure(scene: Scene) -> None:
    """Tell the daemon whom to ask: an agent, and a kubelet, which knows of no pod for now."""
    secrets = PLACE / scene.name
    secrets.mkdir()
    scene.undo.append(lambda: shutil.rmtree(secrets))
    text = SETTINGS.format(agent=virtual.agent_of(scene).url)
    text += routes.start_kubelet(scene, secrets)
    routes.start_devices(scene)
    settings = PLACE / f"conf.d/90-{scene.name}.toml"
    settings.write_text(text, encoding="utf-8")
    scene.undo.append(settings.unlink)
    restart()


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
        count = (len(shown["containers"]), len(shown["sandboxes"]))
        require(count == (1, 1 if pod.bundle else 0), f"containers of {wanted}: {shown}")
    return f"{note}; {town.require_accounted('pods')}"


def podman(scene: Scene) -> str:
    """Containers of podman have the names that they were given; their monitors are not they."""
    town = town_of(scene)
    note = town.require_named("podman")
    ids = {row["id"] for _, row in town.group("podman").rows}
    leaves = ask("containers")["workloads"]
    roots = [leaf for leaf in leaves if leaf["runtime"] == "podman" and leaf["tenant"] is None]
    extra = [leaf["cgroup"] for leaf in roots if leaf["id"] not in ids]
    require(not extra, f"podman has other containers: {extra}")
    units = {leaf["id"] for leaf in ask("units")["workloads"]}
    monitors = units & {f"libpod-conmon-{id_}.scope" for id_ in ids}
    require(len(monitors) == 1, f"monitors that systemd started: {monitors}")
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
    "user": start_of_a_user,
    "nspawn": start_nspawn,
    "qemu": virtual.start_qemu,
    "firecracker": virtual.start_firecrackers,
    "units": routes.start_units,
}

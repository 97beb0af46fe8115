"""Checks of virtual machines: real ones of QEMU, and Firecrackers that an agent started."""

import shutil
import time
import uuid
from pathlib import Path
from typing import Final

from tests.e2e.inside.containers import Made, RealPod, require_tools, start_scope
from tests.e2e.inside.machine import ask, run, wait_until
from tests.e2e.inside.scene import Scene, cgroup_of
from tests.e2e.inside.town import Group, Town, differences, find
from tests.e2e.steps import require

# A boot sector that counts and then waits for the next tick of the timer (55 ms), for ever.
TURNS: Final = 1_000_000
COUNTER: Final = (
    b"\xfa\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x7c\xfb"  # a stack below, interrupts on
    + (b"\x66\xb9" + TURNS.to_bytes(4, "little"))  # mov ecx, TURNS
    + b"\x66\x49\x75\xfc"  # dec ecx; jnz
    + b"\xf4\xeb\xf3"  # hlt; and again
)
QEMU: Final = "qemu-system-x86_64"


def qemu(scene: Scene, name: str, id_: str) -> tuple[str, ...]:
    """Return the command of a machine that works for a part of the time, without KVM."""
    disk = scene.directory / "boot.img"
    if not disk.exists():
        disk.write_bytes((COUNTER.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 16, b"\0"))
    drive = ("-drive", f"file={disk},format=raw,if=ide,snapshot=on")
    none = ("-nodefaults", "-no-user-config", "-display", "none", "-nic", "none")
    return (
        shutil.which(QEMU) or QEMU, "-name", f"guest={name},debug-threads=on", "-uuid", id_,
        "-accel", "tcg", "-m", "16", *none, *drive, "-serial", "none", "-monitor", "none",
    )  # fmt: skip


def start_qemu(scene: Scene, group: Group) -> None:
    """Start one machine beside other work in a service, one in libvirt's scope, one in a pod."""
    require_tools(QEMU, "runc")
    _in_service(scene, group)
    _in_scope(scene, group)
    _in_pod(scene, group)


def _in_service(scene: Scene, group: Group) -> None:
    unit, name, id_ = f"{scene.name}-agent.service", f"{scene.name}-carved", str(uuid.uuid4())
    born_s = time.time()
    script = '"$1" 3 & shift; exec "$@"'
    run("systemd-run", "--quiet", "--collect", "--unit", unit, "--",
        "/bin/sh", "-c", script, "sh", str(scene.work), *qemu(scene, name, id_))  # fmt: skip
    scene.undo.append(lambda: run("systemctl", "stop", unit, code=None))
    cgroup = Path(wait_until(f"the cgroup of {unit}", lambda: cgroup_of(unit), 10))
    row = {"kind": "vm", "id": id_, "name": name, "runtime": "qemu", "parent": unit}
    group.add(cgroup, row | {"cgroup": f"/system.slice/{unit}"}, born_s)
    group.add(cgroup, {"kind": "unit", "id": unit}, born_s)


def _in_scope(scene: Scene, group: Group) -> None:
    name, id_, born_s = scene.name.replace("e2e-", "vm"), str(uuid.uuid4()), time.time()
    scope = rf"machine-qemu\x2d1\x2d{name}.scope"
    cgroup = start_scope(scene, scope, *qemu(scene, name, id_), slice_="machine.slice")
    group.add(cgroup, {"kind": "vm", "cgroup": f"/machine.slice/{scope}", "name": name}, born_s)


def _in_pod(scene: Scene, group: Group) -> None:
    """Start what KubeVirt starts: the pod's container has the energy, the machine is a view."""
    pod = RealPod(scene, f"{scene.name}-virt", "vms", "Burstable", systemd=True)
    scene.undo.append(pod.clear)
    made, name, id_, born_s = Made(pod, "compute", 0), "vms_one", str(uuid.uuid4()), time.time()
    scene.undo.append(made.remove)
    made.prepare()
    scope, slice_ = made.cgroup.name, made.cgroup.parent.name
    group.add(start_scope(scene, scope, *qemu(scene, name, id_), slice_=slice_), made.row(), born_s)
    row = {"kind": "vm", "id": id_, "name": name, "view": True, "pod_uid": pod.uid}
    group.views.append(row | {"namespace": "vms"})


def qemu_machines(town: Town) -> str:
    """Machines of QEMU have name and id; the one in a service is carved out of it.

    Agent and machine together are the service's cgroup, to the kernel's own precision.
    """
    note = f"{town.require_named('qemu')}; {town.require_accounted('qemu')}"
    shown = ask("vms")
    machines = [row for _, row in town.group("qemu").rows if row["kind"] == "vm"]
    for row in (*machines, *town.group("qemu").views):
        leaf = find(shown, row)
        wrong = differences(leaf, row)
        require(not wrong, f"tychoctl vms, {row}: {wrong}")
        vcpu_s, whole_s = (leaf or {})["vcpu_seconds"], (leaf or {})["cpu_seconds"]
        require(vcpu_s is not None, f"{row}: vCPU time is not known")
        require(0 < vcpu_s <= whole_s, f"{row}: vCPU time {vcpu_s} of {whole_s}")
        note += f"; vCPU {vcpu_s:.2f} of {whole_s:.2f} s"
    return note

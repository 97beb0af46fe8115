"""Checks of virtual machines: real ones of QEMU, and Firecrackers that an agent started."""

import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Final

from tests.e2e.inside.account import hold, require_whole, thaw
from tests.e2e.inside.burner import unseen
from tests.e2e.inside.containers import Made, RealPod, require_tools, start_scope
from tests.e2e.inside.machine import Answer, ask, run, wait_until
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
STATE: Final = Path("/run/e2e-firework")
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


class Agent:
    """A fake Firework agent in a service of its own."""

    def __init__(self, scene: Scene) -> None:
        """Start it; microVMs are started by what `tell` is given."""
        self.unit = f"{scene.name}-firework.service"
        argv = ["systemd-run", "--quiet", "--pipe", "--collect", "--unit", self.unit]
        argv += [f"--working-directory={scene.source}", "--", sys.executable, "-B", "-m"]
        argv += ["tests.e2e.inside.agent", str(STATE), str(scene.work.parent)]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        scene.undo.append(self._end)
        self.url = self._line()
        self.cgroup = Path(str(cgroup_of(self.unit)))

    def tell(self, *words: str) -> str:
        """Tell it one thing (see agent.py); return its answer."""
        if self._process.stdin:
            self._process.stdin.write(" ".join(words) + "\n")
            self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        require(line, f"{self.unit} ended")
        return line.strip()

    def _end(self) -> None:
        run("systemctl", "stop", self.unit, code=None)
        self._process.wait()
        shutil.rmtree(STATE, ignore_errors=True)


def start_firecrackers(scene: Scene, group: Group) -> None:
    """Start two microVMs under an agent: its answer names one, the path of a socket the other."""
    agent = agent_of(scene)
    for how, route in (("told", "agent"), ("laid", "cmdline")):
        name, born_s = f"{scene.name}-{how}", time.time()
        agent.tell("start", name, how)
        row = {"kind": "vm", "id": name, "name": name, "runtime": "firecracker"}
        row |= {"parent": agent.unit, "names_from": route}
        group.add(agent.cgroup, row, born_s)
    group.add(agent.cgroup, {"kind": "unit", "id": agent.unit})


def agent_of(scene: Scene) -> Agent:
    """Return the agent; it is started when it is first asked for."""
    if scene.agent is None:
        scene.agent = Agent(scene)
    return scene.agent


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


def firecrackers(scene: Scene, town: Town) -> str:
    """MicroVMs under one agent are named by it, or by their socket; all of them are its cgroup.

    One that is started again under the same id is another one.
    """
    note = f"{town.require_named('firecracker')}; {town.require_accounted('firecracker')}"
    return f"{note}; {_started_again(scene)}"


def _started_again(scene: Scene) -> str:
    agent, name = agent_of(scene), f"{scene.name}-laid"
    before = find(ask("vms"), {"id": name}) or {}
    untold = unseen()
    agent.tell("fault", "500")
    agent.tell("stop", name)
    pid = int(agent.tell("start", name, "laid"))

    def again() -> Answer | None:
        return next((vm for vm in ask("vms")["workloads"] if vm["pid"] == pid), None)

    leaf = wait_until("the new microVM is listed", again, 15, pause_s=0.5)
    agent.tell("fault", "none")
    require(leaf["name"] == name, f"the agent is silent and the path names {name}: {leaf}")
    require(leaf["cpu_seconds"] < before["cpu_seconds"], f"{leaf} goes on with {before}")
    # The list has one row for an id: what the first of that id had stays with what it ran in.
    held = hold([agent.cgroup], untold)
    try:
        rows = [leaf for leaf in ask("workloads")["workloads"] if is_of(leaf, agent.unit)]
        note = require_whole(held, {agent.cgroup: [leaf["cpu_seconds"] for leaf in rows]})
    finally:
        thaw(agent.cgroup)
    return f"again with {leaf['cpu_seconds']:.2f} s after {before['cpu_seconds']:.2f} s: {note}"


def is_of(leaf: Answer, unit: str) -> bool:
    """Return whether a leaf is a unit, or runs in its cgroup."""
    return unit in (leaf["id"], leaf["parent"])

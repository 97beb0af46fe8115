"""The table of rules: what the cgroups of each runtime, hypervisor and unit are called.

A rule judges one component of a path; where its name alone does not say enough, ``above`` judges
the end of what it is in.  Every name and id is of plain characters and bounded: a cgroup whose
name is not what its maker would have written is no workload, and belongs to what it is in.
"""

import re
from typing import Final, NamedTuple

from tychod.model import PAST_ID, LeafKind

MAX_NAME: Final = 128
"""Characters in the longest name of a container or machine that is taken from a path."""
ABOVE: Final = 4
"""Components that ``above`` is shown."""

_ID: Final = r"(?P<id>[0-9a-f]{64})"
_SCOPE: Final = rf"{_ID}(?:\.scope)?"
_NAME: Final = rf"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.+-]{{0,{MAX_NAME - 1}}})"
# As systemd writes a machine's name in a unit's: "-" and whatever is odd are \xNN.
_ESCAPED: Final = rf"(?P<name>(?:[A-Za-z0-9_.:]|\\x[0-9a-f]{{2}}){{1,{MAX_NAME}}})"
_INSTANCE: Final = _ESCAPED.replace("A-Z", "-A-Z")  # machinectl writes "-" as it is there
_MACHINE: Final = r"(?P<number>[0-9]{1,10}\\x2d)"
_LIBVIRT: Final = r"(?P<number>[0-9]{1,10}-)"
_IN_SLICE: Final = r"\.slice"
# systemd allows no other characters, so a cgroup called otherwise is no unit.
_UNIT: Final = r"(?P<id>[A-Za-z0-9:_.\\@-]+\.(?:service|scope|slice|socket|mount|swap))"
# The kubelet's pod cgroup: a Guaranteed pod has no class level, a static pod's uid has no dashes,
# and the systemd driver writes "-" of the uid as "_" (kubelet, pkg/kubelet/cm).
_PODS: Final = r"/kubepods(?:/(?P<qos>burstable|besteffort))?"
_POD: Final = r"pod(?P<uid>[0-9A-Za-z][0-9A-Za-z-]{0,127})"
_POD_SLICE: Final = (
    r"(?:[A-Za-z0-9:_.\\@-]+-)?kubepods(?:-(?P<qos>burstable|besteffort))?"
    r"-pod(?P<uid>[0-9A-Za-z][0-9A-Za-z_]{0,127})\.slice"
)
POD: Final = re.compile(_POD)
POD_ABOVE: Final = re.compile(_PODS + r"\Z")
POD_SLICE: Final = re.compile(_POD_SLICE + r"(?::[^:]+:.+)?")
"""The pod's cgroup, or one beside it of a runtime that took the slice's name for a part of its."""

GIVEN_ENDS: Final = (".service", ".scope", ".libvirt-qemu", ".libvirt-lxc")
GIVEN_STARTS: Final = ("lxc.payload.", "lxc.monitor.")
"""Below a component called so another than the host's root may make cgroups."""
GIVEN_IN: Final = frozenset({"lxc", "lxc.payload", "lxc.monitor", "firecracker"})
"""Each cgroup in one of these is given to somebody, whatever it is called."""
MANAGER: Final = re.compile(r"user@[A-Za-z0-9:_.\\-]+\.service")
"""A user's own systemd."""
# A runtime under cgroupfs that is given a systemd path makes it below its own service. Only theirs:
# any other service may have been given its subtree and make what names it likes.
_RUNTIMES: Final = (
    r"(?:containerd|crio|cri-o|docker|kubelet|k3s(?:-agent)?|rke2-(?:server|agent)"
    r"|k0s(?:controller|worker)|snap\.microk8s\.daemon-(?:containerd|kubelite))"
)
ROOTS_OWN: Final = re.compile(
    rf"{_RUNTIMES}\.service/[^/:]+:(?:cri-containerd|crio):[0-9a-f]{{64}}"
    rf"|systemd-nspawn@{_INSTANCE}\.service/payload"
)
"""In a service, and yet made by none but the host's root: the service is the runtime's."""


class Rule(NamedTuple):
    """What a cgroup called ``own`` in ``above`` is; ``examples`` are path and expected id."""

    kind: LeafKind
    runtime: str | None
    own: re.Pattern[str]  # the whole component
    above: re.Pattern[str] | None  # the end of the path to it; None: anywhere
    id: str  # made of the groups of both
    is_unit: bool  # of systemd: holds only below slices and users' managers
    is_hosts: bool  # holds only in the host's own tree
    examples: tuple[tuple[str, str], ...]


def _rule(
    kind: LeafKind,
    runtime: str | None,
    own: str,
    *examples: tuple[str, str],
    above: str | None = None,
    id: str = "{id}",  # noqa: A002 - the field's name
    is_hosts: bool = False,
) -> Rule:
    above_end = None if above is None else re.compile(rf"(?:{above})\Z")
    return Rule(kind, runtime, re.compile(own), above_end, id, own == _UNIT, is_hosts, examples)


_A: Final = "a1" * 32
_B: Final = "b2" * 32
_UID: Final = "0f3a5b1c-1111-4222-8333-444455556666"
_UID_: Final = _UID.replace("-", "_")
_STATIC: Final = "5c2de33fd2a3a1c2d7f0b1e5a4c3b2d1"
_STEP: Final = "jvifp9a6b1lxa1kuw8bwfcovf"
_KUBE: Final = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_UID_}.slice"
_KIND: Final = f"/docker/{_A}/kubelet/kubepods"
_USER_AT: Final = "/user.slice/user-1000.slice/user@1000.service"
_SESSION: Final = "/user.slice/user-1000.slice/session-3.scope"

RULES: Final = (
    _rule(
        "container", "containerd", rf"(?:[^:]+:)?cri-containerd[-:]{_SCOPE}",
        (f"{_KUBE}/cri-containerd-{_A}.scope", _A),  # a Kata sandbox too
        (f"/system.slice/containerd.service/kubepods-pod{_UID_}.slice:cri-containerd:{_A}", _A),
        (f"/kubepods-burstable-pod{_UID_}.slice:cri-containerd:{_A}", _A),
        (f"/kubelet.slice/kubelet-kubepods-pod{_UID_}.slice/cri-containerd-{_A}.scope", _A),
    ),
    _rule(
        "container", "crio", rf"(?:[^:]+:)?crio[-:]{_SCOPE}",
        (f"{_KUBE}/crio-{_A}.scope", _A),
        (f"{_KUBE}/crio-{_A}.scope/container", _A),
        (f"/kubepods/besteffort/pod{_UID}/crio-{_A}", _A),
    ),
    _rule(
        "container", "docker", rf"(?:[^:]+:)?docker[-:]{_SCOPE}",
        (f"/system.slice/docker-{_A}.scope", _A),
        (f"/system.slice/docker-{_A}.scope/system.slice/kubelet.service", _A),
        (f"{_USER_AT}/user.slice/docker-{_A}.scope", _A),
        (f"{_KUBE}/docker-{_A}.scope", _A),  # cri-dockerd
        (f"/ecstasks.slice/ecstasks-{_STATIC}.slice/docker-{_A}.scope", _A),
        (f"/system.slice:docker:{_A}", _A),  # a shim that took a systemd path as it is
    ),
    _rule(
        "container", "podman", rf"(?:[^:]+:)?libpod[-:](?:payload-)?{_SCOPE}",
        (f"/machine.slice/libpod-{_A}.scope/container", _A),
        (f"/libpod_parent/libpod-{_A}", _A),
        (f"/libpod_parent/{_B}/libpod-{_A}", _A),
        (f"{_USER_AT}/user.slice/user-libpod_pod_{_B}.slice/libpod-{_A}.scope/container", _A),
        (f"/system.slice/web.service/libpod-payload-{_A}", _A),
    ),
    _rule(
        "container", "containerd", rf"(?:[^:]+:)?(?:containerd|nerdctl)[-:]{_SCOPE}",
        (f"/system.slice/containerd-{_A}.scope", _A),
        (f"/system.slice/nerdctl-{_A}.scope", _A),
        (f"{_USER_AT}/user.slice/nerdctl-{_A}.scope", _A),
    ),
    _rule(
        "container", "kata", rf"kata_{_ID}",
        # The VMM's own threads: of the same sandbox, and a cgroup beside that of its vCPUs.
        (f"/kata_overhead/kata_{_A}", f"kata_overhead:{_A}"),
        above="/kata_overhead", id="kata_overhead:{id}",
    ),
    _rule(
        "container", "kata", _ID,
        (f"/kata_overhead/{_A}", f"kata_overhead:{_A}"),
        above="/kata_overhead", id="kata_overhead:{id}",
    ),
    _rule(
        "container", "kata", rf"kata_{_ID}",
        (f"/kubepods/burstable/pod{_UID}/kata_{_A}", _A),  # the pod's one sandbox
        (f"/kubepods/pod{_UID}/kata_{_A}/sandbox", _A),
        (f"/k8s.io/kata_{_A}", _A),
        (f"/vc/kata_{_A}", _A),
    ),
    _rule("container", "kata", _ID, (f"/vc/{_A}", _A), above="/vc"),
    _rule(
        "container", "docker", _ID,
        (f"/docker/{_A}", _A),
        (f"/docker/{_A}/init", _A),
        (f"/docker/{_A}/docker/{_B}", _B),
        (f"/lxc.payload.ci/docker/{_A}", _A),
        above="/docker",
    ),
    _rule(
        "container", "docker", _ID,
        (f"/ecs/0123456789abcdef0123456789abcdef/{_A}", _A),
        (f"/ecs/cluster/0123456789abcdef0123456789abcdef/{_A}", _A),
        above="/ecs(?:/[^/]+){1,2}",
    ),
    _rule(
        "container", "containerd", _ID,
        (f"/containerd/{_A}", _A),
        (f"/default/{_A}", _A),  # nerdctl and ctr under cgroupfs: /<containerd namespace>/<id>
        (f"/k8s.io/{_A}", _A),
        above=r"/(?:containerd|nerdctl|default|k8s\.io)",
    ),
    _rule(
        "container", "kubernetes", _ID,
        (f"/kubepods/pod{_UID}/{_A}", _A),  # kubeadm, RKE2, MicroK8s, k0s, k3s alike
        (f"/kubepods/burstable/pod{_STATIC}/{_A}", _A),
        (f"/k8s/kubepods/besteffort/pod{_UID}/{_A}/nested", _A),
        (f"{_KIND}/besteffort/pod{_UID}/{_B}", _B),
        above=f"{_PODS}/{POD.pattern}",
    ),
    _rule(
        "past", None, r"[0-9a-f]{64}",
        (f"/libpod_parent/{_B}", PAST_ID),  # a Podman pod; its containers are below
        above=r"\A/libpod_parent", is_hosts=True,
    ),
    _rule(
        "container", None, _ID,
        (f"/batch-jobs/{_A}", _A),  # `docker run --cgroup-parent`, other containerd namespaces
        above=r"\A/[^/]+",
    ),
    _rule(
        "container", "buildkit", r"(?P<name>[0-9a-z]{20,40})",
        (f"/buildkit/{_STEP}", f"buildkit:{_STEP}"),  # one step of a build
        (f"/docker/buildkit/{_STEP}", f"buildkit:{_STEP}"),
        (f"/docker/{_A}/buildkit/{_STEP}", f"buildkit:{_STEP}@/docker/{_A}"),
        above="/buildkit", id="buildkit:{name}",
    ),
    _rule(
        "container", "buildkit", r"[^:]+\.slice:docker:(?P<name>[0-9a-z]{20,40})",
        (f"/system.slice/system.slice:docker:{_STEP}", f"buildkit:{_STEP}"),
        id="buildkit:{name}",
    ),
    _rule(
        "container", "lxc", rf"lxc\.payload\.{_NAME}",
        ("/lxc.payload.web01/system.slice/nginx.service", "lxc:web01"),
        ("/lxc.payload.project_web01", "lxc:project_web01"),  # of another LXD project
        (f"{_SESSION}/lxc.payload.own", f"lxc:own@{_SESSION}"),
        ("/lxc.payload.a/lxc.payload.b", "lxc:b@/lxc.payload.a"),
        id="lxc:{name}",
    ),
    _rule(
        "container", "lxc", _NAME,
        ("/lxc/web01", "lxc:web01"),
        ("/lxc/100/ns/system.slice/nginx.service", "lxc:100"),  # Proxmox
        ("/lxc.payload/web01", "lxc:web01"),  # LXC 3
        above=r"/lxc(?:\.payload)?", id="lxc:{name}",
    ),
    _rule(
        "container", "lxc", rf"machine-lxc\\x2d{_MACHINE}{_ESCAPED}\.scope",
        (r"/machine.slice/machine-lxc\x2d2293906\x2dmy\x2dbox.scope/libvirt", "lxc:my-box"),
        above=_IN_SLICE, id="lxc:{name}",
    ),
    _rule(
        "container", "lxc", rf"(?:lxc-{_LIBVIRT})?{_NAME}\.libvirt-lxc",
        ("/machine/lxc-3-box.libvirt-lxc", "lxc:box"),
        ("/machine/box.libvirt-lxc", "lxc:box"),
        id="lxc:{name}",
    ),
    _rule(
        "vm", "qemu", rf"machine-qemu\\x2d{_MACHINE}{_ESCAPED}\.scope",
        (r"/machine.slice/machine-qemu\x2d1\x2dmy\x2dvm.scope/libvirt/emulator", "qemu-1-my-vm"),
        (r"/machine.slice/machine-prod.slice/machine-qemu\x2d2\x2dvm.scope", "qemu-2-vm"),
        above=_IN_SLICE, id="qemu-{number}{name}",
    ),
    _rule(
        "vm", "cloud-hypervisor", rf"machine-ch\\x2d{_MACHINE}{_ESCAPED}\.scope",
        (r"/machine.slice/machine-ch\x2d1\x2dvm.scope", "ch-1-vm"),
        above=_IN_SLICE, id="ch-{number}{name}",
    ),
    _rule(
        "vm", "qemu", r"(?P<name>[0-9]{1,10})\.scope",
        ("/qemu.slice/100.scope", "qemu-100"),  # Proxmox
        above=r"\A/qemu\.slice", id="qemu-{name}",
    ),
    _rule(
        "vm", "qemu", rf"(?:qemu-{_LIBVIRT})?{_NAME}\.libvirt-qemu",
        ("/machine/qemu-1-vm.libvirt-qemu/vcpu0", "qemu-1-vm"),  # libvirt without machined
        ("/machine/vm.libvirt-qemu/emulator", "qemu-vm"),
        ("/prod.partition/vm.libvirt-qemu", "qemu-vm"),
        id="qemu-{number}{name}",
    ),
    _rule(
        "vm", "firecracker", r"(?P<name>[A-Za-z0-9-]{1,64})",
        ("/firecracker/551e7604-e35c-42b3-b825-416853441234",  # the jailer's
         "firecracker:551e7604-e35c-42b3-b825-416853441234"),
        above="/firecracker", id="firecracker:{name}",
    ),
    _rule(
        "vm", "firecracker", r"firework-vm-(?P<name>[A-Za-z0-9-]{1,64})\.service",
        ("/firework-vms.slice/firework-vm-web.service", "firecracker:web"),  # Firework's
        above=r"\A/firework-vms\.slice", id="firecracker:{name}",
    ),
    _rule(
        "container", "nspawn", rf"machine-{_ESCAPED}\.scope",
        ("/machine.slice/machine-web.scope/payload/init.scope", "nspawn:web"),
        (r"/machine.slice/machine-my\x2dweb.scope", "nspawn:my-web"),
        above=_IN_SLICE, id="nspawn:{name}",
    ),
    _rule(
        "container", "nspawn", r"payload",
        ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
         "nspawn:web"),
        ("/machine.slice/systemd-nspawn@my-web.service/payload", "nspawn:my-web"),
        (r"/machine.slice/systemd-nspawn@my\x2dweb.service/payload", "nspawn:my-web"),
        above=rf"/systemd-nspawn@{_INSTANCE}\.service", id="nspawn:{name}",
    ),
    _rule(
        "past", None, _POD,
        (f"/kubepods/burstable/pod{_STATIC}", f"past:{_STATIC}"),
        (f"{_KIND}/pod{_UID}/half-writ", f"past:{_UID}@/docker/{_A}"),
        above=_PODS,
    ),
    _rule(
        "past", None, _POD_SLICE,
        (_KUBE, f"past:{_UID}"),
        (f"{_KUBE}/half-writ", f"past:{_UID}"),
        (f"{_USER_AT}/kubepods.slice/kubepods-pod{_UID_}.slice", f"past:{_UID}@{_USER_AT}"),
    ),
    _rule(
        "past", None,
        r"kubepods|(?:[A-Za-z0-9:_.\\@-]+-)?kubepods(?:-burstable|-besteffort)?\.slice",
        # Nothing runs in these themselves: what shows here was used by pods that are gone.
        ("/kubepods", PAST_ID),
        ("/kubepods.slice/kubepods-burstable.slice", PAST_ID),
        is_hosts=True,
    ),
    _rule(
        "past", None, "burstable|besteffort",
        ("/kubepods/besteffort", PAST_ID),
        above="/kubepods", is_hosts=True,
    ),
    _rule(
        "past", None,
        r"docker|libpod_parent|lxc|lxc\.payload|lxc\.monitor|ecs|buildkit|firecracker"
        r"|kata_overhead|vc|k8s\.io",
        ("/docker", PAST_ID),  # likewise, of containers
        ("/lxc", PAST_ID),
        above=r"\A", is_hosts=True,
    ),
    _rule(
        "unit", None, _UNIT,
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/init.scope", "init.scope"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/user.slice", "user.slice"),
        ("/machine.slice/systemd-nspawn@web.service/supervisor", "systemd-nspawn@web.service"),
        (f"/machine.slice/libpod-conmon-{_A}.scope", f"libpod-conmon-{_A}.scope"),
        (f"/machine.slice/machine-libpod_pod_{_B}.slice", f"machine-libpod_pod_{_B}.slice"),
        (f"{_KUBE}/crio-conmon-{_A}.scope", f"crio-conmon-{_A}.scope"),
        (f"{_USER_AT}/app.slice/foo.service/worker", "user@1000.service/app.slice/foo.service"),
        (f"{_USER_AT}/init.scope", "user@1000.service/init.scope"),
    ),
    # Monitors: not the container, and not its energy.
    _rule(
        "unit", None, r"(?P<id>crio-conmon-[0-9a-f]{64})",
        (f"/kubepods/burstable/pod{_UID}/crio-conmon-{_A}", f"crio-conmon-{_A}"),
        above=f"{_PODS}/{POD.pattern}", is_hosts=True,
    ),
    _rule(
        "unit", None, "conmon",
        ("/libpod_parent/conmon", "libpod-conmon"),
        above=r"\A/libpod_parent(?:/[0-9a-f]{64})?", id="libpod-conmon", is_hosts=True,
    ),
    _rule(
        "unit", None, rf"lxc\.monitor\.{_NAME}",
        ("/lxc.monitor.web01", "lxc.monitor.web01"),
        id="lxc.monitor.{name}", is_hosts=True,
    ),
    _rule(
        "unit", None, _NAME,
        ("/lxc.monitor/100", "lxc.monitor.100"),  # Proxmox
        above=r"/lxc\.monitor", id="lxc.monitor.{name}", is_hosts=True,
    ),
)  # fmt: skip
"""First match wins at each level of a path; the deepest level that matches is the workload."""

"""Command lines of hypervisors: which machine one runs, and which of its threads are vCPUs; pure.

A command line may hold passwords, kernel arguments and disk secrets.  Only what is named here is
taken from it: an id, a name, two numbers and the path of Firecracker's configuration.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Hypervisor = Literal["qemu", "firecracker", "cloud-hypervisor", "xen", "virtualbox", "vmware"]

COMMAND_LIMIT: Final = 64 << 10
"""Bytes of a command line that are read; a real one of libvirt's has some 5 kB."""
NAME_LIMIT: Final = 128

_PROGRAMS: Final[tuple[tuple[Hypervisor, re.Pattern[str]], ...]] = (
    # kata: qemu-system-x86_64-tdx-experimental; Nix: .qemu-system-x86_64-wrapped
    ("qemu", re.compile(r"\.?qemu-system-[\w.-]{1,64}|qemu-kvm|kvm(?:-spice)?", re.ASCII)),
    # releases are called firecracker-v1.7.0-x86_64; the jailer keeps the file's name
    ("firecracker", re.compile(r"firecracker(?:-v?[0-9][\w.-]{0,64})?", re.ASCII)),
    (
        "cloud-hypervisor",
        re.compile(r"cloud-hypervisor(?:-(?:static|aarch64|x86_64|v?[0-9.]{1,16})){0,3}"),
    ),
    ("virtualbox", re.compile(r"VBoxHeadless|VBoxSDL|VirtualBoxVM")),
    ("vmware", re.compile(r"vmware-vmx(?:-debug|-stats)?")),
)
# QEMU, only with -name debug-threads=on: "CPU %d/KVM" (kvm-accel-ops.c), "CPU %d/TCG" and
# "ALL CPUs/TCG" (tcg-accel-ops-mttcg.c, -rr.c); DUMMY runs no guest.  Firecracker: vstate/vcpu.rs.
# Cloud Hypervisor: vmm/src/cpu.rs.  Of the others no name is known for certain.
_VCPU_THREADS: Final[Mapping[str, re.Pattern[str]]] = {
    "qemu": re.compile(r"(?:CPU [0-9]{1,5}|ALL CPUs)/(?!DUMMY)[A-Z]{2,8}"),
    "firecracker": re.compile(r"fc_vcpu [0-9]{1,5}"),
    "cloud-hypervisor": re.compile(r"vcpu[0-9]{1,5}"),
}

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_RESERVED: Final = frozenset({"kernel", "system", "past", "unattributed"})
_RESERVED_PREFIXES: Final = (
    *("past:", "lxc:", "nspawn:", "buildkit:", "kata_overhead:", "firecracker:"),
    *("lxc.monitor.", "libpod-conmon", "crio-conmon-"),
)
"""How ids begin that follow from a cgroup's path."""
_UNIT_SUFFIXES: Final = (
    *(".service", ".scope", ".slice", ".socket", ".target", ".timer", ".path"),
    *(".device", ".mount", ".automount", ".swap", ".snapshot"),
)
_NOBODY: Final = frozenset({"00000000-0000-0000-0000-000000000000", "anonymous-instance"})
"""What QEMU and Firecracker call a machine that was given no id: many may be called so."""
# Firework, internal/vm/manager.go: <state>/vms/<service>/firecracker.sock
_API_SOCKET: Final = re.compile(r"(?:.*/)?vms/(?P<service>[^/]+)/firecracker\.sock", re.DOTALL)
_SIZE: Final = re.compile(r"(?P<number>[0-9]{1,18})(?P<unit>[bkKmMgGtTpP]?)")
_UNITS: Final = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_LARGEST_BYTES: Final = 1 << 56
_MOST_CPUS: Final = 65536


class Machine(NamedTuple):
    """What a hypervisor's command line says of its machine; None: it does not say."""

    hypervisor: Hypervisor
    id: str | None = None
    name: str | None = None
    vcpus: int | None = None
    memory_bytes: int | None = None
    identified_by: str | None = None  # "uuid" | "smbios" | "api-sock" | "--id" | "name" | ...
    config_file: str | None = None  # Firecracker's, in the file system that its process sees


def parse_cmdline(data: bytes) -> tuple[str, ...]:
    """Return the arguments in a /proc/PID/cmdline; one that the read's limit cut is left out."""
    arguments = data.split(b"\0")
    if not data.endswith(b"\0") and len(data) < COMMAND_LIMIT:
        arguments.append(b"")  # a process that wrote its own command line may leave no end
    return tuple(a.decode(errors="replace") for a in arguments[:-1])


def hypervisor_of(program: str) -> Hypervisor | None:
    """Return which hypervisor a first argument stands for; only its base name counts."""
    base = program.rpartition("/")[2]
    return next((kind for kind, name in _PROGRAMS if name.fullmatch(base)), None)


def parse_machine(argv: tuple[str, ...]) -> Machine | None:
    """Return the machine that a command line runs, None where it is no hypervisor's."""
    hypervisor = hypervisor_of(argv[0]) if argv else None
    return None if hypervisor is None else _READERS[hypervisor](argv[1:])


def fallback_id(hypervisor: str, pid: int, start_ticks: int) -> str:
    """Return the id of a machine that nobody gave one; as long as its process lives."""
    return f"{hypervisor}-{pid}-{start_ticks}"


def names_vcpus(hypervisor: str) -> bool:
    """Say whether it is known how a hypervisor calls the threads that run guests' CPUs."""
    return hypervisor in _VCPU_THREADS


def is_vcpu(hypervisor: str, comm: str) -> bool:
    """Say whether a thread of this name runs a guest's CPU."""
    pattern = _VCPU_THREADS.get(hypervisor)
    return pattern is not None and pattern.fullmatch(comm) is not None


def believed_id(text: str | None) -> str | None:
    """Return an id as it is if it can be a machine's, else None.

    Whoever may start a process chooses it, so it must not look like a leaf of another kind.
    """
    if text is None or not _ID.fullmatch(text) or text in _RESERVED or text in _NOBODY:
        return None
    if text.startswith(_RESERVED_PREFIXES) or text.endswith(_UNIT_SUFFIXES):
        return None
    return text


def bounded_name(text: str | None) -> str | None:
    """Return a name of at most 128 printable characters: what is none becomes visible."""
    if not text:
        return None
    cut = text[:NAME_LIMIT]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return cut[:NAME_LIMIT]


def parse_firecracker_config(data: bytes) -> tuple[int | None, int | None] | None:
    """Return vCPUs and memory in bytes of a Firecracker configuration, None if it is none.

    Everything else in it, above all the kernel's arguments, is left alone.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    machine = document.get("machine-config") if isinstance(document, dict) else None
    if not isinstance(machine, dict):
        return None
    memory_mib = _bounded(machine.get("mem_size_mib"), _LARGEST_BYTES >> 20)
    memory_bytes = None if memory_mib is None else memory_mib << 20
    return _bounded(machine.get("vcpu_count"), _MOST_CPUS), memory_bytes


def _read_qemu(arguments: Sequence[str]) -> Machine:
    found = _options(arguments)
    name = _keys(found.get("name", ""), "guest").get("guest")
    smp, memory = _keys(found.get("smp", ""), "cpus"), _keys(found.get("m", ""), "size")
    sizes = (_vcpus(smp), _size(memory.get("size"), "m"))
    if "xen-domid" in found:
        domid = found["xen-domid"]
        ident = f"xen-{domid}" if domid.isdecimal() else None
        return _machine("xen", {"domid": ident, "name": name}, name, *sizes)
    ids = {"uuid": found.get("uuid"), "smbios": _smbios_uuid(arguments), "name": name}
    return _machine("qemu", ids, name, *sizes)


def _read_firecracker(arguments: Sequence[str]) -> Machine:
    found = _options(arguments)
    layout = _API_SOCKET.fullmatch(found.get("api-sock", ""))
    ids = {"api-sock": layout["service"] if layout else None, "--id": found.get("id")}
    machine = _machine("firecracker", ids, None)
    return machine._replace(name=machine.id, config_file=found.get("config-file"))


def _read_cloud_hypervisor(arguments: Sequence[str]) -> Machine:
    found = _options(arguments)
    # [...] and "..." hold lists of strings for the guest, which may look like anything.
    platform = re.sub(r"\[[^]]*\]?|\"[^\"]*\"?", "", found.get("platform", ""))
    vcpus = _count(_keys(found.get("cpus", ""), "boot").get("boot"))
    memory_bytes = _size(_keys(found.get("memory", ""), "size").get("size"), "b")
    uuid = _keys(platform, "").get("uuid")
    return _machine("cloud-hypervisor", {"uuid": uuid}, None, vcpus, memory_bytes)


def _read_virtualbox(arguments: Sequence[str]) -> Machine:
    found = _options(arguments)
    name = found.get("comment")
    return _machine("virtualbox", {"startvm": found.get("startvm"), "name": name}, name)


def _read_vmware(arguments: Sequence[str]) -> Machine:
    files = [a.rpartition("/")[2] for a in arguments if a.endswith(".vmx")]
    name = files[-1].removesuffix(".vmx") if files else None
    return _machine("vmware", {"vmx": name}, name)


_READERS: Final[Mapping[Hypervisor, Callable[[Sequence[str]], Machine]]] = {
    "qemu": _read_qemu,
    "firecracker": _read_firecracker,
    "cloud-hypervisor": _read_cloud_hypervisor,
    "virtualbox": _read_virtualbox,
    "vmware": _read_vmware,
}


def _machine(
    hypervisor: Hypervisor,
    ids: Mapping[str, str | None],
    name: str | None,
    vcpus: int | None = None,
    memory_bytes: int | None = None,
) -> Machine:
    """Return a machine with the first of its ids that can be believed, and where it is from."""
    believed = ((source, ident) for source, text in ids.items() if (ident := believed_id(text)))
    source, ident = next(believed, (None, None))
    return Machine(hypervisor, ident, bounded_name(name), vcpus, memory_bytes, source)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """Return the options by name without dashes; the last of a name wins."""
    return dict(_pairs(arguments))


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield option and value, of ``-x V``, ``--x V``, ``-x=V`` and ``--x=V``; empty without one.

    What begins with a dash is always an option, and the value of one is never the next one's.
    """
    for position, argument in enumerate(arguments):
        if argument == "--":
            return  # what follows is the guest's or the jailer's
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-"):
            following = arguments[position + 1 : position + 2]
            is_value = following and not following[0].startswith("-")
            yield name, value if equals or not is_value else following[0]


def _keys(text: str, implied: str) -> dict[str, str]:
    """Return the keys of ``a,b=c``, whose first part may lack a name; ``,,`` is one comma."""
    found: dict[str, str] = {}
    parts = text.replace(",,", "\0").split(",")
    for position, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if equals:
            found[key] = value.replace("\0", ",")
        elif position == 0 and implied:
            found[implied] = part.replace("\0", ",")
    return found


def _smbios_uuid(arguments: Sequence[str]) -> str | None:
    """Return the UUID of the table of type 1, by which Proxmox tells its machines apart."""
    tables = (_keys(value, "") for name, value in _pairs(arguments) if name == "smbios")
    return next((t["uuid"] for t in tables if t.get("type") == "1" and "uuid" in t), None)


def _vcpus(smp: Mapping[str, str]) -> int | None:
    """Return QEMU's initial CPUs: given, or sockets x dies x clusters x cores x threads."""
    if "cpus" in smp:
        return _count(smp["cpus"])
    levels = [smp[key] for key in ("sockets", "dies", "clusters", "cores", "threads") if key in smp]
    product = 1
    for count in map(_count, levels):
        product *= count or 0
    return _bounded(product, _MOST_CPUS) if levels else None


def _count(text: str | None) -> int | None:
    return _bounded(int(text), _MOST_CPUS) if text and re.fullmatch("[0-9]{1,6}", text) else None


def _size(text: str | None, unit: str) -> int | None:
    """Return a size in bytes; without a unit it is in ``unit``."""
    found = _SIZE.fullmatch(text or "")
    if found is None:
        return None
    power = _UNITS[(found["unit"] or unit).lower()]
    return _bounded(int(found["number"]) << power, _LARGEST_BYTES)


def _bounded(number: object, most: int) -> int | None:
    is_number = isinstance(number, int) and not isinstance(number, bool)
    return number if isinstance(number, int) and is_number and 0 < number <= most else None

"""Which one cgroup hierarchy of the host is believed, and why (docs/architecture.md)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tychod import config

if TYPE_CHECKING:
    from tychod.hostfs import Host

Version = Literal["v2", "v1"]

V1_NAMES: Final = ("cpuacct", "cpu,cpuacct", "cpuacct,cpu")
_CONTAINER: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
"""The full id that every runtime puts into its containers' paths."""
DEFAULT_CGROUPFS: Final = config.Host().cgroupfs


class Hierarchy(NamedTuple):
    """The hierarchy whose cgroups are read."""

    version: Version
    root: str  # its directory
    reason: str
    true_root: bool  # False: the directory is a container's part of the machine's tree

    @property
    def method(self) -> str:
        """The accounting method's name in answers."""
        return f"cgroup-{self.version}"


class NoHierarchy(NamedTuple):
    """No usable hierarchy."""

    reason: str
    remedy: str


class Mount(NamedTuple):
    """One line of mountinfo, as far as it matters."""

    path: str
    fstype: str
    options: frozenset[str]


def choose_hierarchy(host: Host, wanted: str) -> Hierarchy | NoHierarchy:
    """Choose by ``[host] hierarchy``: auto takes cgroup2 where processes live in it, else v1.

    Where a runtime puts its containers into cpuacct and leaves them in the root of cgroup2, v1
    knows both them and the units; cgroup2 would show their energy as nobody's.
    """
    v2_root, v1_root = find_roots(host)
    if wanted == "v2":
        return _forced(host, "v2", v2_root, "no cgroup2 file system")
    if wanted == "v1":
        return _forced(host, "v1", v1_root, "no cgroup v1 cpuacct hierarchy")
    if v2_root and v1_root:
        return _hybrid(host, v2_root, v1_root)
    if v1_root:
        return _hierarchy(host, "v1", v1_root, "cpuacct: cgroup2 is not mounted")
    if v2_root:
        return _hierarchy(host, "v2", v2_root, _alone(host))
    return NoHierarchy(
        f"no cgroup hierarchy below {host.cgroupfs}",
        "mount cgroup2 at /sys/fs/cgroup, or point [host] cgroupfs to where it is",
    )


def _alone(host: Host) -> str:
    name = named_v2_cgroup(host)
    return _held(name) if name else "cgroup2 is the only hierarchy"


def _held(name: str) -> str:
    return f"cgroup2 is mounted and holds processes ({name})"


def _hybrid(host: Host, v2_root: str, v1_root: str) -> Hierarchy:
    container, name = container_in_v1_alone(host), named_v2_cgroup(host)
    if name and not container:
        return _hierarchy(host, "v2", v2_root, _held(name))
    why = f"it alone names containers ({container})" if container else "no process below its root"
    return _hierarchy(host, "v1", v1_root, f"cpuacct: {why}")


def find_roots(host: Host) -> tuple[str | None, str | None]:
    """Return the directories of cgroup2 and of v1 cpuacct, None for what is not there."""
    base = host.cgroupfs
    mounts = _mounts(host)
    v2_candidates = [base, f"{base}/unified", *(m.path for m in mounts if m.fstype == "cgroup2")]
    v1_candidates = [
        *(f"{base}/{name}" for name in V1_NAMES),
        base,
        *(m.path for m in mounts if m.fstype == "cgroup" and "cpuacct" in m.options),
    ]
    return (
        _first_with(host, v2_candidates, "cgroup.controllers"),
        _first_with(host, v1_candidates, "cpuacct.usage"),
    )


def named_v2_cgroup(host: Host) -> str | None:
    """Return the first v2 cgroup below the root that holds a process, None if there is none."""
    for pid in host.pids():
        path = parse_v2_path(_read_cgroup_file(host, pid))
        # "/../x" lies outside our cgroup namespace.
        if path and path != "/" and not path.startswith("/.."):
            return path
    return None


def container_in_v1_alone(host: Host) -> str | None:
    """Return a container's cpuacct path whose process is in the root of cgroup2, else None."""
    for pid in host.pids():
        data = _read_cgroup_file(host, pid)
        path = parse_cpuacct_path(data)
        if path and _CONTAINER.search(path) and parse_v2_path(data) == "/":
            return path
    return None


def parse_cpuacct_path(data: bytes) -> str | None:
    """Return the cpuacct path of a /proc/PID/cgroup file, None where it has none."""
    for line in data.decode(errors="surrogateescape").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "cpuacct" in controllers.split(","):
            return path.removesuffix(" (deleted)")
    return None


def parse_v2_path(data: bytes) -> str | None:
    """Return the ``0::`` path of a /proc/PID/cgroup file, None where it has none."""
    for line in data.decode(errors="surrogateescape").splitlines():
        if line.startswith("0::"):
            return line[3:].removesuffix(" (deleted)")
    return None


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the cgroup mounts of a mountinfo file (proc(5))."""
    found = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if separator and len(before) > 4 and len(after) > 2 and after[0] in ("cgroup", "cgroup2"):
            path = before[4].replace("\\040", " ")
            found.append(Mount(path, after[0], frozenset(after[2].split(","))))
    return found


def _read_cgroup_file(host: Host, pid: int) -> bytes:
    """Return /proc/PID/cgroup, empty where it is gone or hidden (hidepid): others speak for it."""
    try:
        return host.process_file(pid, "cgroup") or b""
    except OSError:
        return b""


def _mounts(host: Host) -> list[Mount]:
    """Return mounts that belong to this host: all for the default root, else those below it."""
    text = host.read_text(f"{host.procfs}/self/mountinfo") or ""
    here = host.cgroupfs
    return [
        m
        for m in parse_mountinfo(text)
        if here in (DEFAULT_CGROUPFS, m.path) or m.path.startswith(here + "/")
    ]


def _first_with(host: Host, directories: list[str], file: str) -> str | None:
    return next((d for d in directories if host.exists(f"{d}/{file}")), None)


def _forced(host: Host, version: Version, root: str | None, lack: str) -> Hierarchy | NoHierarchy:
    if root is None:
        return NoHierarchy(
            f"{lack} below {host.cgroupfs}, but [host] hierarchy = {version!r}",
            'set [host] hierarchy = "auto"',
        )
    return _hierarchy(host, version, root, f"[host] hierarchy = {version!r}")


def _hierarchy(host: Host, version: Version, root: str, reason: str) -> Hierarchy:
    # The machine's v2 root alone lacks cgroup.type (cgroup-v2.rst); a v1 root has release_agent.
    if version == "v2":
        true_root = not host.exists(f"{root}/cgroup.type")
    else:
        true_root = host.exists(f"{root}/release_agent")
    return Hierarchy(version, root, reason, true_root)

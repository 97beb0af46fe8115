"""Names of pods and containers from the host's own files: no credential, no runtime's socket.

containerd writes a container's OCI bundle 19-95 ms before its cgroup exists; the kubelet links its
log in /var/log/containers 36-612 ms after it.  Both were measured on a real node.
"""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from tychod.hostfs import Host

BUNDLE_ROOTS: Final = ("containerd", "k3s/containerd")
"""Below /run: containerd's state directory, and the one of k3s and RKE2."""
BUNDLE_LIMIT: Final = 4 << 20
CMDLINE_LIMIT: Final = 64 << 10
LISTING_LIMIT: Final = 64
LISTING_PAUSE_NS: Final = 1_000_000_000
NEED_CAPABILITY: Final = (
    "run tychod with CAP_DAC_READ_SEARCH (the packaged unit does), or rely on the other routes"
)
PAUSE: Final = "pause"
"""Name of a pod's sandbox container: it holds the pod's namespaces and does nothing."""

_PREFIX: Final = "io.kubernetes.cri."
_LINK: Final = re.compile(
    r"(?P<pod>[^_/]+)_(?P<namespace>[^_/]+)_(?P<name>[^_/]+)-(?P<id>[0-9a-f]{64})\.log"
)
_LINK_TARGET: Final = re.compile(r".*/[^_/]+_[^_/]+_(?P<uid>[^_/]+)/[^/]+/[^/]+")


class Names(NamedTuple):
    """What a host file says of one container."""

    source: str  # "bundle" | "log-link" | "cmdline"
    container: str
    pod: str | None = None
    namespace: str | None = None
    pod_uid: str | None = None
    sandbox: bool = False
    labels: Mapping[str, str] = MappingProxyType({})
    runtime: str | None = None  # where the file tells it


def parse_bundle(data: bytes) -> Names | None:
    """Return the names in an OCI bundle's config.json; None if it is no pod's or not whole."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    notes = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(notes, dict):
        return None

    def note(key: str) -> str | None:
        value = notes.get(_PREFIX + key)
        return value if isinstance(value, str) and value else None

    sandbox = note("container-type") == "sandbox"
    container = PAUSE if sandbox else note("container-name")
    if container is None or note("container-type") is None:
        return None
    return Names(
        source="bundle",
        container=container,
        pod=note("sandbox-name"),
        namespace=note("sandbox-namespace"),
        pod_uid=note("sandbox-uid"),
        sandbox=sandbox,
    )


def parse_log_link(name: str) -> tuple[str, Names] | None:
    """Return id and names from a link's name: ``<pod>_<namespace>_<container>-<id>.log``."""
    found = _LINK.fullmatch(name)
    if found is None:
        return None
    return found["id"], Names("log-link", found["name"], found["pod"], found["namespace"])


def parse_log_target(target: str) -> str | None:
    """Return the pod's uid from ``/var/log/pods/<namespace>_<pod>_<uid>/<container>/<n>.log``."""
    found = _LINK_TARGET.fullmatch(target)
    return found["uid"] if found else None


class Bundles:
    """Reads containerd's bundles; ``route`` says how that goes."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.route = "not used yet: no pod's container was seen"

    def read(self, container_id: str) -> Names | None:
        """Return the names in a container's bundle; None if there is none or it is not readable."""
        for root in BUNDLE_ROOTS:
            base = f"{self._host.run}/{root}/io.containerd.runtime.v2.task/k8s.io"
            names = self._read_one(f"{base}/{container_id}/config.json")
            if names is not None:
                self.route = "ok"
                return names
        return None

    def _read_one(self, path: str) -> Names | None:
        try:
            data = self._host.read_bytes(path, BUNDLE_LIMIT)
        except OSError as exc:
            self.route = f"{path} is not readable ({exc.strerror}); {NEED_CAPABILITY}"
            return None
        if data is None:
            if self.route.startswith("not used"):
                self.route = f"no bundle below {self._host.run}; containerd alone writes them"
            return None
        names = parse_bundle(data)
        if names is None:
            self.route = f"{path} is not a pod's bundle; it is asked for again later"
        return names


class LogLinks:
    """Reads the names of the links in /var/log/containers; ``route`` says how that goes."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._directory = f"{host.log}/containers"
        self._known: dict[str, tuple[str, Names]] = {}
        self._listed_ns: int | None = None
        self.route = "not used yet: bundles had all names"

    def read(self, container_id: str, now_ns: int) -> Names | None:
        """Return the names in a container's log link; lists the directory at most once a second."""
        if container_id not in self._known and self._may_list(now_ns):
            self._list(now_ns)
        found = self._known.get(container_id)
        if found is None:
            return None
        link, names = found
        try:
            target = self._host.read_link(f"{self._directory}/{link}")
        except OSError:
            return names  # no link but a file: its name says enough
        return names._replace(pod_uid=parse_log_target(target)) if target else names

    def _may_list(self, now_ns: int) -> bool:
        return self._listed_ns is None or now_ns - self._listed_ns >= LISTING_PAUSE_NS

    def _list(self, now_ns: int) -> None:
        self._listed_ns = now_ns
        try:
            listing = self._host.list_dir(self._directory)
        except OSError as exc:
            self.route = (
                f"{self._directory} is not readable ({exc.strerror});"
                " let tychod's user list it, or run it with CAP_DAC_READ_SEARCH"
            )
            return
        if listing is None:
            self.route = f"{self._directory} does not exist; only a kubelet makes it"
            return
        self.route = "ok"
        parsed = ((name, parse_log_link(name)) for name in listing)
        self._known = {found[0]: (name, found[1]) for name, found in parsed if found}


class CommandLines:
    """Reads what a container's first process was started with (never its environment)."""

    def __init__(self, host: Host, cgroup_root: str) -> None:
        self._host = host
        self._cgroup_root = cgroup_root.rstrip("/")

    def read(self, cgroup: str) -> tuple[str, ...]:
        """Return the arguments of a cgroup's first process; empty while none can be read."""
        try:
            return self._read_argv(cgroup)
        except OSError:
            return ()

    def _read_argv(self, cgroup: str) -> tuple[str, ...]:
        listing = self._host.read_bytes(f"{self._cgroup_root}{cgroup}/cgroup.procs", LISTING_LIMIT)
        first = (listing or b"").partition(b"\n")[0]
        # A process of a pid namespace that we cannot see into is listed as 0.
        if not re.fullmatch(rb"[1-9][0-9]{0,9}", first):
            return ()
        data = self._host.process_file(int(first), "cmdline", CMDLINE_LIMIT) or b""
        return tuple(part.decode(errors="replace") for part in data.split(b"\0")[:-1])

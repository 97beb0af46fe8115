"""Names of pods and containers from the host's own files: no credential, no runtime's socket.

containerd writes a container's OCI bundle 19-95 ms before its cgroup exists; the kubelet links its
log in /var/log/containers 36-612 ms after it.  Both were measured on a real node.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tychod.documents import parse_json
from tychod.hostfs import Host
from tychod.workloads.texts import LABEL_MOST, bounded

BUNDLE_LIMIT: Final = 4 << 20
BUNDLE_MOST: Final = 32 << 20  # once read
CMDLINE_LIMIT: Final = 64 << 10
LISTING_LIMIT: Final = 64
LISTING_PAUSE_NS: Final = 1_000_000_000
LINKS_MOST: Final = 20_000
"""Entries of the folder of log links that are looked at; a node has one per container."""
LINK_PAUSE_NS: Final = 1_000_000
"""Rest for each entry of a listing, which takes 5 us of a core for it: half a percent."""
NAMESPACES_PAUSE_NS: Final = 30_000_000_000
NAMESPACES_MOST: Final = 32
POD_NAMESPACE: Final = "k8s.io"
"""Where containerd's CRI plugin keeps the containers of pods, and nobody else does."""
USUAL_NAMESPACES: Final = ("default", "moby")
"""Looked into beside it where containerd's namespaces cannot be listed."""
NEED_CAPABILITY: Final = (
    "run tychod with CAP_DAC_READ_SEARCH (the packaged unit does), or rely on the other routes"
)
_NO_NAMES: Final = (
    "bundles were found, but no names in them: Docker and plain runtimes write none there"
)
PAUSE: Final = "pause"
"""Name of a pod's sandbox container: it holds the pod's namespaces and does nothing."""

COMPOSE: Final = ("com.docker.compose.project", "com.docker.compose.service")
"""The labels of a container outside Kubernetes that are passed on; nothing else ever is."""

_CRI: Final = "io.kubernetes.cri."
_CRIO: Final = "io.kubernetes.cri-o."
_SAFE: Final = re.compile(r"[0-9A-Za-z][\w.-]{0,127}")
_LINK: Final = re.compile(
    r"(?P<pod>[^_/]+)_(?P<namespace>[^_/]+)_(?P<name>[^_/]+)-(?P<id>[0-9a-f]{64})\.log"
)
_LINK_TARGET: Final = re.compile(r".*/[^_/]+_[^_/]+_(?P<uid>[^_/]+)/[^/]+/[^/]+")


class Names(NamedTuple):
    """What a host file says of one container.

    It is the runtime's word: where the cgroup's path names another pod, the path is right.
    """

    source: str  # "bundle" | "log-link" | "runtime-file" | "cmdline"
    container: str
    pod: str | None = None
    namespace: str | None = None
    pod_uid: str | None = None
    sandbox: bool = False
    labels: Mapping[str, str] = {}  # a plain one: it is packed into saved state
    runtime: str | None = None  # where the file tells it


def parse_bundle(data: bytes) -> Names | None:
    """Return the names in an OCI bundle's config.json; None if it holds none or is not whole."""
    try:
        document = parse_json(data, BUNDLE_MOST)
    except ValueError:
        return None
    notes = texts_of(document.get("annotations")) if isinstance(document, dict) else {}
    return _of_containerd(notes) or _of_crio(notes) or _of_nerdctl(notes)


def texts_of(found: object) -> Mapping[str, str]:
    """Return the texts in a JSON object, bounded; empty where it is something else."""
    if not isinstance(found, dict):
        return {}
    return {key: bounded(text) for key, text in found.items() if isinstance(text, str) and text}


def compose_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return which service of which Compose project a container is."""
    return {key: bounded(labels[key], LABEL_MOST) for key in COMPOSE if key in labels}


def _of_containerd(notes: Mapping[str, str]) -> Names | None:
    kind = notes.get(_CRI + "container-type")
    container = PAUSE if kind == "sandbox" else notes.get(_CRI + "container-name")
    if kind is None or container is None:
        return None
    return Names(
        source="bundle",
        container=container,
        pod=notes.get(_CRI + "sandbox-name"),
        namespace=notes.get(_CRI + "sandbox-namespace"),
        pod_uid=notes.get(_CRI + "sandbox-uid"),
        sandbox=kind == "sandbox",
        runtime="containerd",
    )


def _of_crio(notes: Mapping[str, str]) -> Names | None:
    """Return what CRI-O noted: the kubelet's labels, for a sandbox also under names of its own.

    Podman uses some of these keys too, but never says a pod's name.
    """
    kind = notes.get(_CRIO + "ContainerType")
    pod = notes.get("io.kubernetes.pod.name") or notes.get(_CRIO + "KubeName")
    container = PAUSE if kind == "sandbox" else notes.get("io.kubernetes.container.name")
    if kind is None or pod is None or container is None:
        return None
    return Names(
        source="bundle",
        container=container,
        pod=pod,
        namespace=notes.get("io.kubernetes.pod.namespace") or notes.get(_CRIO + "Namespace"),
        pod_uid=notes.get("io.kubernetes.pod.uid"),
        sandbox=kind == "sandbox",
        runtime="crio",
    )


def _of_nerdctl(notes: Mapping[str, str]) -> Names | None:
    name = notes.get("nerdctl/name")
    if name is None:
        return None
    return Names("bundle", name, runtime="containerd", labels=compose_labels(notes))


def parse_log_link(name: str) -> tuple[str, Names] | None:
    """Return id and names from a link's name: ``<pod>_<namespace>_<container>-<id>.log``."""
    found = _LINK.fullmatch(name)
    if found is None:
        return None
    container, pod, namespace = (bounded(found[part]) for part in ("name", "pod", "namespace"))
    return found["id"], Names("log-link", container, pod, namespace)


def parse_log_target(target: str) -> str | None:
    """Return the pod's uid from ``/var/log/pods/<namespace>_<pod>_<uid>/<container>/<n>.log``."""
    found = _LINK_TARGET.fullmatch(target)
    return bounded(found["uid"]) if found else None


class Bundles:
    """Reads the bundles of containerd (all its namespaces, also k3s's and others') and CRI-O.

    ``route`` says how that goes.  It never holds an id, so that it changes with the way only.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        task = "containerd/io.containerd.runtime.v2.task"
        self._containerd = (
            f"{host.run}/{task}",
            f"{host.run}/k3s/{task}",  # k3s and RKE2
            f"{host.run}/k0s/{task}",
            f"{host.var}/snap/microk8s/common/run/{task}",
        )
        self._crio = f"{host.run}/containers/storage/overlay-containers"
        self._namespaces: Mapping[str, Sequence[str]] = {}
        self._listed_ns: int | None = None
        self.route = "not used yet: no pod's container was seen"

    def read(self, container_id: str, now_ns: int | None = None) -> Names | None:
        """Return the names in a container's bundle; None if there is none or it is not readable.

        Namespaces are listed at most every 30 s, without ``now_ns`` only once.
        """
        if not _SAFE.fullmatch(container_id):
            return None
        self._list(now_ns)
        for root in self._containerd:
            for namespace in (POD_NAMESPACE, *self._namespaces.get(root, ())):
                names = self._read_one(root, f"{namespace}/{container_id}/config.json")
                # Elsewhere anybody who may run a container notes on it what he likes.
                if names is not None and (namespace == POD_NAMESPACE or names.pod is None):
                    return self._found(names)
        names = self._read_one(self._crio, f"{container_id}/userdata/config.json")
        return None if names is None else self._found(names)

    def _found(self, names: Names) -> Names:
        self.route = "ok"
        return names

    def _list(self, now_ns: int | None) -> None:
        """Look which namespaces containerd has: the directories in its state directory."""
        if self._listed_ns is not None and (
            now_ns is None or now_ns - self._listed_ns < NAMESPACES_PAUSE_NS
        ):
            return
        self._listed_ns = now_ns or 0
        self._namespaces = {root: self._namespaces_in(root) for root in self._containerd}

    def _namespaces_in(self, root: str) -> Sequence[str]:
        try:
            listing = self._host.list_dir(root) or ()
        except OSError:
            return USUAL_NAMESPACES  # it may still be searched
        found = [name for name in listing if name != POD_NAMESPACE and _SAFE.fullmatch(name)]
        return found[:NAMESPACES_MOST]

    def _read_one(self, root: str, path: str) -> Names | None:
        try:
            data = self._host.read_regular(f"{root}/{path}", BUNDLE_LIMIT)
        except OSError as exc:
            self.route = f"bundles below {root} are not readable ({exc.strerror}); "
            self.route += NEED_CAPABILITY
            return None
        names = None if data is None else parse_bundle(data)
        if names is None and not self._has_outcome:
            self.route = self._why_none if data is None else _NO_NAMES
        return names

    @property
    def _has_outcome(self) -> bool:
        """Whether the route already tells more than that one container has no bundle."""
        return self.route in {"ok", _NO_NAMES} or "not readable" in self.route

    @property
    def _why_none(self) -> str:
        run, var = self._host.run, self._host.var
        return (
            f"no bundle below {run}/containerd, {run}/k3s, {run}/k0s, {var}/snap/microk8s or"
            f" {run}/containers; let containerd or CRI-O have its state there, or rely on the"
            " kubelet and the log links, which remain"
        )


def _once_each(listing: Iterable[str]) -> dict[str, tuple[str, Names]]:
    """Return id -> link and names; of two links of one id neither is the kubelet's for certain."""
    found: dict[str, tuple[str, Names]] = {}
    twice = set()
    for link in listing:
        if parsed := parse_log_link(link):
            if parsed[0] in found:
                twice.add(parsed[0])
            found[parsed[0]] = (link, parsed[1])
    return {ident: told for ident, told in found.items() if ident not in twice}


class LogLinks:
    """Reads the names of the links in /var/log/containers; ``route`` says how that goes.

    Pods that collect logs may write there.  So only what is a link is believed, into a pod's
    folder, whose uid must then be that of the cgroup's path.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._directory = f"{host.log}/containers"
        self._known: dict[str, tuple[str, Names]] = {}
        self._listed_ns: int | None = None
        self._pause_ns = LISTING_PAUSE_NS
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
            return None  # another thing than a link by now
        uid = parse_log_target(target or "")
        return None if uid is None else names._replace(pod_uid=uid)

    def _may_list(self, now_ns: int) -> bool:
        return self._listed_ns is None or now_ns - self._listed_ns >= self._pause_ns

    def _list(self, now_ns: int) -> None:
        self._listed_ns = now_ns
        try:
            listing = self._host.list_links(self._directory, LINKS_MOST)
        except OverflowError:
            self._pause_ns, self._known = LINKS_MOST * LINK_PAUSE_NS, {}
            self.route = (
                f"{self._directory} has more than {LINKS_MOST} entries, so none is believed;"
                " see who else than the kubelet writes there"
            )
            return
        except OSError as exc:
            self.route = (
                f"{self._directory} is not readable ({exc.strerror});"
                " let tychod's user list it, or run it with CAP_DAC_READ_SEARCH"
            )
            return
        if listing is None:
            self.route = f"not used yet: {self._directory} does not exist, which a kubelet makes"
            return
        self.route = "ok"
        self._pause_ns = max(LISTING_PAUSE_NS, len(listing) * LINK_PAUSE_NS)
        self._known = _once_each(listing)


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

"""Names of containers from the files in which Docker, Podman and CRI-O keep their own records.

Docker's file also holds the container's environment and arguments: only its name and what a
Compose project or a kubelet calls it ever leave the parser.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from tychod.documents import parse_json
from tychod.hostfs import FileIdentity, Host
from tychod.workloads.hostfiles import (
    NEED_CAPABILITY,
    PAUSE,
    Names,
    compose_labels,
    texts_of,
)
from tychod.workloads.pods import is_same_uid
from tychod.workloads.texts import bounded

DOCKER_LIMIT: Final = 1 << 20
DOCKER_MOST: Final = 16 << 20  # once read
STORAGE_LIMIT: Final = 4 << 20  # about 1 kB a container
STORAGE_BYTES: Final = 64 << 20  # once read, counted generously
STORAGE_MOST: Final = 10_000
STORAGE_PAUSE_NS: Final = 100_000_000
DOCKER_ROOTS: Final = ("lib/docker", "snap/docker/common/var-lib-docker")
"""Below /var: the usual data directory and the one of the snap."""
DRIVERS: Final = ("overlay", "vfs", "btrfs")

_ID: Final = re.compile(r"[0-9a-f]{64}")
# What cri-dockerd and CRI-O call a container: k8s_<container>_<pod>_<namespace>_<uid>_<attempt>;
# no name in Kubernetes has an underscore.  A sandbox has the container POD, or with CRI-O none;
# where the name is taken, a number follows.
_K8S: Final = re.compile(
    r"k8s_(?:(?P<container>[^_]+)_)?(?P<pod>[^_]+)_(?P<namespace>[^_]+)_(?P<uid>[^_]+)_[0-9]+"
    r"(?:_[0-9a-f]+)?"
)
_SANDBOX: Final = "POD"
_NAME_MOST: Final = 1024  # holds five names of Kubernetes


def parse_docker(data: bytes) -> Names | None:
    """Return the names in Docker's config.v2.json; None if it holds none or is not whole."""
    try:
        document = parse_json(data, DOCKER_MOST)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    name = document.get("Name")
    config = document.get("Config")
    if not isinstance(name, str) or not name.lstrip("/"):
        return None
    labels = texts_of(config.get("Labels")) if isinstance(config, dict) else {}
    return Names(
        source="runtime-file",
        container=bounded(name.lstrip("/"), _NAME_MOST),
        labels=compose_labels(labels),
        runtime="docker",
    )


def parse_storage(data: bytes) -> Mapping[str, Names] | None:
    """Return the names in a containers.json by container id; None if it is no such file."""
    try:
        entries = parse_json(data, STORAGE_BYTES)
    except ValueError:
        return None
    if not isinstance(entries, list):
        return None
    found = {}
    for entry in entries[:STORAGE_MOST]:
        ident, names = (entry.get("id"), entry.get("names")) if isinstance(entry, dict) else (0, 0)
        if not isinstance(ident, str) or not isinstance(names, list) or not _ID.fullmatch(ident):
            continue
        name = next((name for name in names if isinstance(name, str) and name), None)
        if name is not None:
            name = bounded(name, _NAME_MOST)
            found[ident] = Names("runtime-file", name, runtime="podman")
    return found


def in_pod(names: Names, pod_uid: str | None) -> Names:
    """Return the names with what the container's own name tells of its pod, if that is ``pod_uid``.

    Who may start containers names them as he likes: only the cgroup's path puts one into a pod.
    """
    found = _K8S.fullmatch(names.container)
    if found is None or pod_uid is None or not is_same_uid(found["uid"], pod_uid):
        return names._replace(container=bounded(names.container))
    sandbox = found["container"] in {None, _SANDBOX}
    return names._replace(
        container=PAUSE if sandbox else bounded(found["container"]),
        pod=bounded(found["pod"]),
        namespace=bounded(found["namespace"]),
        pod_uid=pod_uid,
        sandbox=sandbox,
        runtime="crio" if names.runtime == "podman" else names.runtime,
    )


class Problem(NamedTuple):
    """Why a runtime's records give no names that were asked for, and what to do."""

    reason: str
    remedy: str = ""


class RuntimeFiles:
    """Reads the records of Docker, and of Podman and CRI-O; ``route`` says how that goes."""

    def __init__(self, host: Host) -> None:
        self._docker = _Docker(host)
        self._storage = _Storage(host)

    @property
    def route(self) -> str:
        """Return ok where one of them works, else why none does, and what to do.

        A note tells of the other one, if that was missed.
        """
        sources: Mapping[str, _Docker | _Storage]
        sources = {"Docker": self._docker, "Podman and CRI-O": self._storage}
        missed = {who: one.problem for who, one in sources.items() if one.problem}
        reason = ", ".join(f"{who}: {problem.reason}" for who, problem in missed.items())
        remedy = " and ".join(dict.fromkeys(p.remedy for p in missed.values() if p.remedy))
        told = "; ".join(text for text in (reason, remedy) if text)
        if any(one.works for one in sources.values()):
            return f"ok; {told}" if told else "ok"
        return told or "not used yet: no container of Docker, Podman or CRI-O needed it"

    def read(
        self, container_id: str, runtime: str | None, now_ns: int, pod_uid: str | None = None
    ) -> Names | None:
        """Return what its runtime calls a container; None where that is not recorded here.

        ``runtime`` (``None`` and ``kubernetes``: any of them) and ``pod_uid`` are those of the
        cgroup's path.
        """
        if not _ID.fullmatch(container_id):
            return None
        is_open = runtime in {None, "kubernetes"}
        names = None
        if is_open or runtime == "docker":
            names = self._docker.read(container_id, told=not is_open)
        if names is None and (is_open or runtime in {"podman", "crio"}):
            names = self._storage.read(container_id, now_ns, told=not is_open)
        return None if names is None else in_pod(names, pod_uid)


class _Docker:
    """One file for each container; its directory is root's (0710)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._roots = tuple(f"{host.var}/{root}/containers" for root in DOCKER_ROOTS)
        self.works = False
        self.problem: Problem | None = None

    def read(self, container_id: str, *, told: bool) -> Names | None:
        """Return the names of a container; ``told``: it is Docker's, so that absence is a fault."""
        for root in self._roots:
            try:
                path = f"{root}/{container_id}/config.v2.json"
                data = self._host.read_regular(path, DOCKER_LIMIT)
            except OSError as exc:
                reason = f"{root} is not readable ({exc.strerror})"
                self.works, self.problem = False, Problem(reason, NEED_CAPABILITY)
                continue
            names = None if data is None else parse_docker(data)
            if names is not None:
                self.works, self.problem = True, None
                return names
        if told and not self.works and self.problem is None:
            places = " or ".join(self._roots)
            self.problem = Problem(f"no record below {places} (another data-root is not read)")
        return None


class _Storage:
    """Few files for all containers, written anew with each change."""

    def __init__(self, host: Host) -> None:
        self._host = host
        roots = (f"{host.var}/lib/containers/storage", f"{host.run}/containers/storage")
        kinds = ("containers.json", "volatile-containers.json")  # the latter: podman run --rm
        self._root = roots[0]
        self._paths = tuple(
            f"{r}/{d}-containers/{k}" for r in roots for d in DRIVERS for k in kinds
        )
        self._seen: dict[str, FileIdentity] = {}
        self._names: dict[str, Mapping[str, Names]] = {}
        self._looked_ns: int | None = None
        self.works = False
        self.problem: Problem | None = None

    def read(self, container_id: str, now_ns: int, *, told: bool) -> Names | None:
        """Return the names of a container; looks at the files at most ten times a second."""
        found = self._find(container_id)
        is_due = self._looked_ns is None or now_ns - self._looked_ns >= STORAGE_PAUSE_NS
        if found is None and is_due:
            self._looked_ns = now_ns
            self._look(told)
            found = self._find(container_id)
        return found

    def _find(self, container_id: str) -> Names | None:
        return next((n[container_id] for n in self._names.values() if container_id in n), None)

    def _look(self, told: bool) -> None:
        problem: Problem | None = None
        for path in self._paths:
            try:
                self._look_at(path)
            except OSError as exc:
                reason = f"{path} is not readable ({exc.strerror})"
                problem = Problem(reason, NEED_CAPABILITY)
            except ValueError:
                reason = f"{path} is no list of containers, or longer than {STORAGE_LIMIT} bytes"
                problem = Problem(reason)
        self.works = bool(self._names)
        if problem or self.works:
            self.problem = problem
        elif told:
            self.problem = Problem(f"no record below {self._root} (another graphroot is not read)")

    def _look_at(self, path: str) -> None:
        """Read a file again if it is another one than last time; ValueError if it is no record."""
        identity = self._host.identity(path)
        if identity is None:
            self._seen.pop(path, None)
            self._names.pop(path, None)
        elif identity != self._seen.get(path):
            data = self._host.read_regular(path, STORAGE_LIMIT + 1) or b""
            names = parse_storage(data) if len(data) <= STORAGE_LIMIT else None
            self._seen[path] = identity
            if names is None:
                raise ValueError(path)
            self._names[path] = names

"""A Kubernetes node as its files and its kubelet show it: pods start and stop, nothing runs."""

import itertools
import json
import random
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tests.sim.kubelet import pod, pod_list

PARENT: Final = "kubepods.slice/kubepods-burstable.slice"
FILLER: Final = "x" * 2_600
"""What a pod's entry holds beside names: a real one has 3.4 kB (managed fields, conditions)."""


class SimPod(NamedTuple):
    """One pod: its cgroup, and its containers by name, "pause" among them."""

    uid: str
    name: str
    cgroup: str
    containers: dict[str, str]


class PodNode:
    """Pods below ``place``: cgroups, bundles and what the kubelet lists.

    ``make`` and ``remove`` make one cgroup and remove it, by its path below the root.
    """

    def __init__(
        self,
        place: Path,
        make: Callable[[str], object],
        remove: Callable[[str], object],
        seed: int = 1,
    ) -> None:
        self._bundles = place / "run/containerd/io.containerd.runtime.v2.task/k8s.io"
        self._bundles.mkdir(parents=True)
        self._make = make
        self._remove = remove
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self.pods: dict[str, SimPod] = {}
        self._entries: dict[str, dict[str, object]] = {}
        self.made_s: dict[str, float] = {}  # monotonic, by container id

    def start(self, *names: str, bundle: bool = True) -> SimPod:
        """Start a pod with these containers and its sandbox; bundles are there before cgroups."""
        uid = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        cgroup = f"/{PARENT}/kubepods-burstable-pod{uid.replace('-', '_')}.slice"
        containers = {name: f"{self._random.getrandbits(256):064x}" for name in ("pause", *names)}
        made = SimPod(uid, f"app-{next(self._numbers)}", cgroup, containers)
        self._make(cgroup)
        for name, ident in containers.items():
            if bundle:
                self._write_bundle(made, name, ident)
            self.made_s[ident] = time.monotonic()
            self._make(f"{cgroup}/cri-containerd-{ident}.scope")
        self.pods[uid] = made
        listed = {name: ident for name, ident in containers.items() if name != "pause"}
        labels = {"app": made.name.partition("-")[0], "tier": "backend"}
        self._entries[uid] = pod(
            made.name, uid, listed, labels=labels, annotations={"note": FILLER}
        )
        return made

    def stop(self, made: SimPod) -> None:
        """End a pod: bundles and cgroups go, and the kubelet's entry."""
        for ident in made.containers.values():
            self._remove(f"{made.cgroup}/cri-containerd-{ident}.scope")
            folder = self._bundles / ident
            (folder / "config.json").unlink(missing_ok=True)
            if folder.is_dir():
                folder.rmdir()
        self._remove(made.cgroup)
        del self.pods[made.uid], self._entries[made.uid]

    def listed(self) -> bytes:
        """Return what the kubelet answers now."""
        return pod_list(*self._entries.values())

    def _write_bundle(self, made: SimPod, name: str, ident: str) -> None:
        folder = self._bundles / ident
        folder.mkdir()
        notes = {
            "container-type": "sandbox" if name == "pause" else "container",
            "sandbox-name": made.name,
            "sandbox-namespace": "shop",
            "sandbox-uid": made.uid,
        } | ({} if name == "pause" else {"container-name": name})
        document = {
            "ociVersion": "1.0.2",
            "process": {"env": ["FILLER=" + FILLER], "args": ["/app"]},
            "annotations": {f"io.kubernetes.cri.{key}": value for key, value in notes.items()},
        }
        (folder / "config.json").write_text(json.dumps(document))

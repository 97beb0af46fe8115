"""Real containers: pods by runc as containerd asks for them, by podman, and plain cgroups."""

import json
import os
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.e2e.inside.machine import run, wait_until
from tests.e2e.inside.scene import BUNDLES, CGROUPS, CONTAINER_LOGS, POD_LOGS, Scene, cgroup_of
from tests.e2e.steps import SkippedError, StepError

CRI: Final = "io.kubernetes.cri"
RUNC_ROOT: Final = "/run/e2e-runc"
# Without controllers of version 2 a limit of processes cannot be set, nor any limit raised here.
CONTAINERS_CONF: Final = """\
[containers]
pids_limit = 0
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
events_logger = "file"
"""
STORAGE: Final = Path("/var/lib/containers/storage")
IMAGE: Final = "localhost/e2e-work"


def new_id() -> str:
    """Return an id as the runtimes make them."""
    return secrets.token_hex(32)


def root_directory(scene: Scene) -> Path:
    """Return a root directory for containers: one program is in it."""
    root = scene.directory / "rootfs"
    if not root.is_dir():
        for name in ("dev", "proc", "sys"):
            (root / name).mkdir(parents=True)
        shutil.copy2(scene.work, root / "work")
    return root


@dataclass(frozen=True)
class Made:
    """One container of a pod, as runc runs it."""

    pod: "RealPod"
    name: str  # "pause": its sandbox
    percent: int
    usec: int | None = None  # of CPU time, then it ends
    has_log: bool = True  # which the kubelet links
    id: str = field(default_factory=new_id)

    @property
    def bundle(self) -> Path:
        """Where its bundle is."""
        return BUNDLES / self.id if self.pod.bundle else self.pod.scene.directory / self.id

    @property
    def link(self) -> Path:
        """The kubelet's link to its log."""
        return CONTAINER_LOGS / f"{self.pod.name}_{self.pod.namespace}_{self.name}-{self.id}.log"

    @property
    def cgroup(self) -> Path:
        """Its cgroup's directory."""
        return CGROUPS / self.pod.cgroup / (
            f"cri-containerd-{self.id}.scope" if self.pod.systemd else self.id
        )  # fmt: skip

    def row(self) -> dict[str, object]:
        """Return what its row must say."""
        return {
            "kind": "container",
            "id": self.id,
            "name": self.name,
            "namespace": self.pod.namespace,
            "pod": self.pod.name,
            "pod_uid": self.pod.uid,
            "sandbox": self.name == "pause",
            "names_from": "bundle" if self.pod.bundle else "log-link",
            "stale": False,
        }

    def prepare(self) -> None:
        """Write what is there before the cgroup: the bundle; and the log's link."""
        self.bundle.mkdir(parents=True, mode=0o700)
        if self.pod.bundle:
            for parent in (BUNDLES, BUNDLES.parent, BUNDLES.parent.parent):
                parent.chmod(0o711)
        run("runc", "spec", "--bundle", str(self.bundle))
        path = self.bundle / "config.json"
        spec = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(self._asked(spec)), encoding="utf-8")
        if self.has_log and self.name != "pause":
            log = (
                POD_LOGS / f"{self.pod.namespace}_{self.pod.name}_{self.pod.uid}/{self.name}/0.log"
            )
            log.parent.mkdir(parents=True, exist_ok=True)
            POD_LOGS.chmod(0o750)
            log.touch()
            CONTAINER_LOGS.mkdir(exist_ok=True)
            self.link.symlink_to(log)

    def _asked(self, spec: dict[str, Any]) -> dict[str, Any]:
        usec = () if self.usec is None else (str(self.usec),)
        spec["process"] |= {"terminal": False, "rlimits": []}
        spec["process"]["args"] = ["/work", str(self.percent), *usec]
        spec["root"] = {"path": str(root_directory(self.pod.scene)), "readonly": True}
        spec["linux"]["cgroupsPath"] = (
            f"{Path(self.pod.cgroup).name}:cri-containerd:{self.id}"
            if self.pod.systemd
            else f"/{self.pod.cgroup}/{self.id}"
        )
        spec["annotations"] = self._annotations() if self.pod.bundle else {}
        return spec

    def _annotations(self) -> Mapping[str, str]:
        sandbox = {} if self.name == "pause" else {f"{CRI}.container-name": self.name}
        return sandbox | {
            f"{CRI}.container-type": "sandbox" if self.name == "pause" else "container",
            f"{CRI}.sandbox-name": self.pod.name,
            f"{CRI}.sandbox-namespace": self.pod.namespace,
            f"{CRI}.sandbox-uid": self.pod.uid,
            f"{CRI}.sandbox-id": self.pod.sandbox,
        }

    def start(self) -> None:
        """Run it; its runtime does not wait."""
        self.prepare()
        self.pod.scene.undo.append(self.remove)
        driver = ("--systemd-cgroup",) if self.pod.systemd else ()
        self._call(*driver, "run", "--detach", "--bundle", str(self.bundle), self.id)

    def run(self) -> None:
        """Run it to its end; its bundle goes with it."""
        self.prepare()
        try:
            driver = ("--systemd-cgroup",) if self.pod.systemd else ()
            self._call(*driver, "run", "--bundle", str(self.bundle), self.id)
        finally:
            self.remove()

    def remove(self) -> None:
        """End it and remove all that it leaves."""
        run("runc", "--root", RUNC_ROOT, "delete", "--force", self.id, code=None)
        shutil.rmtree(self.bundle, ignore_errors=True)
        self.link.unlink(missing_ok=True)

    def _call(self, *argv: str) -> None:
        """Call runc; the container has its standard streams as long as it lives."""
        log = self.pod.scene.directory / f"runc-{self.id[:12]}.log"
        command = ("runc", "--root", RUNC_ROOT, "--log", str(log), *argv)
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
        if done.returncode:
            text = log.read_text(encoding="utf-8") if log.exists() else ""
            raise StepError(f"{' '.join(command)}: exit {done.returncode}\n{text}")


@dataclass(frozen=True)
class RealPod:
    """A pod of real containers."""

    scene: Scene
    name: str
    namespace: str
    qos: str
    systemd: bool  # cgroup driver; else cgroupfs
    bundle: bool = True  # containerd's bundles are there; log links always are
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    sandbox: str = field(default_factory=new_id)

    @property
    def cgroup(self) -> str:
        """Its cgroup, as the kubelet's two drivers call it."""
        level = "" if self.qos == "Guaranteed" else self.qos.lower()
        if not self.systemd:
            return str(Path("kubepods") / level / f"pod{self.uid}")
        parent = f"kubepods-{level}" if level else "kubepods"
        parents = ["kubepods.slice", *([f"{parent}.slice"] if level else [])]
        return "/".join([*parents, f"{parent}-pod{self.uid.replace('-', '_')}.slice"])

    def clear(self) -> None:
        """Remove what its containers share."""
        name = f"{self.namespace}_{self.name}_{self.uid}"
        shutil.rmtree(POD_LOGS / name, ignore_errors=True)
        for directory in () if self.systemd else (CGROUPS / self.cgroup,):
            remove_cgroups(directory, CGROUPS / "kubepods")


def remove_cgroups(directory: Path, top: Path) -> None:
    """Remove a cgroup, and those above it up to `top` that are empty then."""
    while directory.is_relative_to(top) and directory.is_dir():
        try:
            directory.rmdir()
        except OSError:
            return  # another's
        directory = directory.parent


def start_scope(scene: Scene, unit: str, *argv: str, slice_: str = "system.slice") -> Path:
    """Run a program in a scope of a given name; return the scope's cgroup."""
    command = ["systemd-run", "--quiet", "--scope", "--collect", f"--unit={unit}"]
    command += [f"--slice={slice_}", "--", *argv]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    scene.undo.append(process.wait)
    scene.undo.append(process.kill)
    return Path(wait_until(f"the cgroup of {unit}", lambda: cgroup_of(unit), 10))


def start_in(scene: Scene, cgroup: Path, *argv: str) -> Path:
    """Run a program in a cgroup that is made for it, as runtimes without systemd do."""
    made = [path for path in (cgroup, *cgroup.parents) if not path.exists()]
    cgroup.mkdir(parents=True)
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: _enter(cgroup),  # noqa: PLW1509 (it writes one file)
    )

    def end() -> None:
        process.kill()
        process.wait()
        for path in made:
            remove_cgroups(path, path)

    scene.undo.append(end)
    return cgroup


def _enter(cgroup: Path) -> None:
    """Move the calling process there."""
    fd = os.open(cgroup / "cgroup.procs", os.O_WRONLY)
    os.write(fd, b"0")
    os.close(fd)


class Podman:
    """Containers of podman, as root; all of them go with clear()."""

    def __init__(self, scene: Scene) -> None:
        """Give it a place of its own: no container or image of this machine is touched."""
        self._env = {**os.environ, "CONTAINERS_CONF": str(scene.directory / "containers.conf")}
        STORAGE.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "none", str(STORAGE))  # there may be no overlay on an overlay
        scene.undo.append(lambda: run("umount", "--lazy", str(STORAGE)))
        Path(self._env["CONTAINERS_CONF"]).write_text(CONTAINERS_CONF, encoding="utf-8")
        archive = scene.directory / "rootfs.tar"
        run("tar", "-C", str(root_directory(scene)), "-cf", str(archive), ".")
        scene.undo.append(self._clear)
        self._call("import", "--quiet", str(archive), IMAGE)

    def start(self, manager: str, name: str, percent: int) -> str:
        """Run a container under a cgroup manager; return its id."""
        argv = ("run", "--detach", "--network", "none", "--name", name, IMAGE, "/work")
        return self._call("--cgroup-manager", manager, *argv, str(percent)).splitlines()[-1]

    def _call(self, *argv: str) -> str:
        return run("podman", *argv, env=self._env).stdout.strip()

    def _clear(self) -> None:
        for argv in (("rm", "--all", "--force", "--time", "0"), ("rmi", "--force", IMAGE)):
            run("podman", *argv, env=self._env, code=None)


def require_tools(*names: str) -> None:
    """SkippedError where this machine lacks a program."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise SkippedError(f"this machine has no {', '.join(missing)}")

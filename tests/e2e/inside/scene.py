"""What the checks find on the machine: energy counters, two people, two pods and a busy service.

Everything carries the run's random name where the system allows it, and `clear` removes it.
"""

import grp
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.e2e.inside.machine import run, unit_property, wait_until
from tests.e2e.steps import describe_error, say

if TYPE_CHECKING:
    from tests.e2e.inside.metrics import Served
    from tests.e2e.inside.town import Town
    from tests.e2e.inside.virtual import Agent
    from tests.sim.kubelet import SimKubelet
    from tests.sim.podresources import SimPodResources

CLASS: Final = Path("/sys/class/powercap")
DEVICES: Final = Path("/sys/devices/virtual/powercap")
CGROUPS: Final = Path("/sys/fs/cgroup")
PINS: Final = Path("/sys/fs/bpf")
BUNDLES: Final = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")
CONTAINER_LOGS: Final = Path("/var/log/containers")
POD_LOGS: Final = Path("/var/log/pods")

# Works that part of each 50 ms that its argument says.
BUSY: Final = """
import sys, time
share = float(sys.argv[1])
while True:
    began = time.monotonic()
    while time.monotonic() - began < 0.05 * share:
        pass
    time.sleep(0.05 * (1 - share))
"""


@dataclass(frozen=True)
class Pod:
    """One pod with one container that keeps a CPU busy for `share` of the time."""

    name: str
    namespace: str
    share: float
    bundle: bool  # whether containerd's bundle tells its name; the log link always does
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    container: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def scope(self) -> str:
        """The unit that containerd makes for the container."""
        return f"cri-containerd-{self.container}.scope"


@dataclass
class Scene:
    """The run's names and the processes that it started."""

    directory: Path  # where the driver unpacked everything
    everything: bool = False  # all of the machine's CPU use costs energy, not that of `units` alone
    name: str = field(default_factory=lambda: f"e2e-{secrets.token_hex(4)}")
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    mounts: list[Path] = field(default_factory=list)
    listing: dict[str, frozenset[str]] = field(default_factory=dict)
    undo: list[Callable[[], object]] = field(default_factory=list)  # what ends the checks' own
    town: "Town | None" = None  # made by the first step that looks at it
    agent: "Agent | None" = None
    kubelet: "SimKubelet | None" = None
    resources: "SimPodResources | None" = None
    served: "Served | None" = None

    def __post_init__(self) -> None:
        """Choose the names."""
        self.member = f"{self.name}-member"
        self.stranger = f"{self.name}-other"
        self.unit = f"{self.name}-load.service"
        self.pods = (
            Pod(f"{self.name}-web", "shop", 0.4, bundle=True),
            Pod(f"{self.name}-db", "store", 0.1, bundle=False),
        )

    @property
    def source(self) -> Path:
        """The source tree that came with the packages."""
        return self.directory / "src"

    @property
    def tree(self) -> Path:
        """The simulated sysfs."""
        return self.directory / "sys"

    @property
    def work(self) -> Path:
        """The program that works in containers (work.c)."""
        return self.directory / "programs/work"

    @property
    def load(self) -> Path:
        """The program that keeps a CPU busy."""
        return self.directory / "load.py"

    @property
    def ledger(self) -> Path:
        """What the simulator says that the counters counted."""
        return self.directory / "ledger.json"

    @property
    def units(self) -> tuple[str, ...]:
        """The units whose CPU use costs energy."""
        return (self.unit, *(pod.scope for pod in self.pods))

    def package(self, pattern: str) -> str:
        """Return the path of the one package file that matches."""
        (found,) = (self.directory / "packages").glob(pattern)
        return str(found)


def set_up(scene: Scene) -> None:
    """Build the scene; nothing of tychod is installed yet."""
    scene.directory.chmod(0o755)
    close_pins()
    for directory in DIRECTORIES:
        Path(directory).mkdir(parents=True, exist_ok=True)
    for user in (scene.member, scene.stranger):
        run("useradd", "--no-create-home", "--no-user-group", "--shell", "/bin/sh", user)
    scene.load.write_text(BUSY, encoding="utf-8")
    for pod in scene.pods:
        start_pod(scene, pod)
    busy = (sys.executable, str(scene.load), "0.2")
    run("systemd-run", "--collect", "--unit", scene.unit, *busy)
    start_simulator(scene)
    graft(scene)


def close_pins() -> None:
    """Give the BPF file system the mode that systemd mounts it with; a machine may have another."""
    if PINS.is_mount() and PINS.stat().st_mode & 0o077:
        PINS.chmod(0o1700)


def clear(scene: Scene) -> None:
    """Remove what set_up and the checks made, whatever fails on the way."""
    while scene.undo:
        try:
            scene.undo.pop()()
        except Exception as error:  # noqa: BLE001 (the rest goes, however one thing resists)
            say(f"FAIL removing what a check made: {describe_error(error)}")
    run("systemctl", "stop", scene.unit, code=None)
    for process in scene.processes:
        process.kill()
        process.wait()
    for mount in reversed(scene.mounts):
        run("umount", "--lazy", str(mount), code=None)
    for pod in scene.pods:
        remove_pod(pod)
    for user in (scene.member, scene.stranger):
        run("userdel", user, code=None)


def start_simulator(scene: Scene) -> None:
    """Start the energy counters: they follow what the pods and the service really use."""
    argv = [sys.executable, "-B", "-m", "tests.sim.powercap", "--tree", str(scene.tree)]
    argv += ["--layout", "intel-2s", "--ledger", str(scene.ledger), "--cgroup"]
    wait_until("the cgroups of the load", lambda: all(map(cgroup_of, scene.units)), 10)
    argv += [str(CGROUPS)] if scene.everything else [str(cgroup_of(u)) for u in scene.units]
    log = (scene.directory / "simulator.log").open("wb")
    scene.processes.append(
        subprocess.Popen(
            argv, cwd=scene.source, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    )
    wait_until("the simulated counters", scene.ledger.exists, 10)


def cgroup_of(unit: str) -> str | None:
    """Return the directory of a unit's cgroup, once there is one."""
    path = unit_property("ControlGroup", unit)
    roots = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
    found = (root / path.lstrip("/") for root in roots)
    return next((str(place) for place in found if path and (place / "cpu.stat").exists()), None)


def graft(scene: Scene) -> None:
    """Put the simulated tree where kernels have theirs; a real one is hidden, not touched."""
    for real in (CLASS, DEVICES):
        simulated = scene.tree / real.relative_to("/sys")
        if not real.is_dir():
            # sysfs takes no new directory, but may be the lower layer of one that has it.
            upper = scene.directory / "graft" / real.parent.name
            (upper / real.name).mkdir(parents=True)
            layers = f"lowerdir={upper}:{real.parent}"
            run("mount", "-t", "overlay", scene.name, "-o", layers, str(real.parent))
            scene.mounts.append(real.parent)
        run("mount", "--bind", str(simulated), str(real))
        scene.mounts.append(real)


def start_pod(scene: Scene, pod: Pod) -> None:
    """Start a container as containerd does: files of the host first, then the cgroup."""
    log = POD_LOGS / f"{pod.namespace}_{pod.name}_{pod.uid}" / "app" / "0.log"
    log.parent.mkdir(parents=True)
    POD_LOGS.chmod(0o750)
    log.touch()
    CONTAINER_LOGS.mkdir(exist_ok=True)
    link = CONTAINER_LOGS / f"{pod.name}_{pod.namespace}_app-{pod.container}.log"
    link.symlink_to(log)
    if pod.bundle:
        write_bundle(pod)
    slice_ = f"kubepods-burstable-pod{pod.uid.replace('-', '_')}.slice"
    argv = ["systemd-run", "--quiet", "--scope", "--collect"]
    argv += [f"--unit={pod.scope}", f"--slice={slice_}"]
    argv += [sys.executable, str(scene.load), str(pod.share)]
    scene.processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))


def write_bundle(pod: Pod) -> None:
    """Write what containerd leaves for its shim: only root may look inside."""
    key = "io.kubernetes.cri"
    annotations = {
        f"{key}.container-type": "container",
        f"{key}.container-name": "app",
        f"{key}.sandbox-name": pod.name,
        f"{key}.sandbox-namespace": pod.namespace,
        f"{key}.sandbox-uid": pod.uid,
        f"{key}.sandbox-id": secrets.token_hex(32),
    }
    directory = BUNDLES / pod.container
    directory.mkdir(parents=True)
    for parent in (BUNDLES, BUNDLES.parent, BUNDLES.parent.parent):
        parent.chmod(0o711)
    directory.chmod(0o700)
    text = json.dumps({"ociVersion": "1.1.0", "annotations": annotations})
    (directory / "config.json").write_text(text, encoding="utf-8")


def remove_pod(pod: Pod) -> None:
    """Remove a container's files; its cgroup goes with its process."""
    shutil.rmtree(BUNDLES / pod.container, ignore_errors=True)
    shutil.rmtree(POD_LOGS / f"{pod.namespace}_{pod.name}_{pod.uid}", ignore_errors=True)
    link = CONTAINER_LOGS / f"{pod.name}_{pod.namespace}_app-{pod.container}.log"
    link.unlink(missing_ok=True)


def counters() -> list[Path]:
    """Return the true paths of every energy counter."""
    return [path.resolve() for path in sorted(CLASS.glob("*/energy_uj"))]


def describe(path: Path) -> str:
    """Return mode, owner and group, as `0400 root:root`."""
    stat = path.stat()
    owner, group = pwd.getpwuid(stat.st_uid).pw_name, grp.getgrgid(stat.st_gid).gr_name
    return f"{stat.st_mode & 0o7777:04o} {owner}:{group}"


def list_machine() -> dict[str, frozenset[str]]:
    """Return the names of all that a package could leave behind, by kind."""
    unit_files = run("systemctl", "list-unit-files", "--no-legend", "--plain").stdout
    units = run("systemctl", "list-units", "--all", "--no-legend", "--plain").stdout
    sockets = Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]
    return {
        "files": frozenset(walk("/", IGNORED)),
        "units": frozenset(line.split()[0] for line in (unit_files + units).splitlines() if line),
        "sockets": frozenset(w[7] for w in map(str.split, sockets) if len(w) > 7),
        "pins": frozenset(walk(str(PINS), ())),
        "cgroups": frozenset(p for p in walk("/sys/fs/cgroup", ()) if Path(p).is_dir()),
    }


# Directories that no package removes: `filesystem` owns them on RPM distributions.
DIRECTORIES: Final = (
    "/usr/share/licenses", "/usr/share/man/man1", "/usr/share/man/man5", "/usr/share/man/man8",
    "/usr/share/bash-completion/completions", "/usr/share/zsh/site-functions",
)  # fmt: skip
# Kernel interfaces, logs, and the books that systemd, dpkg and apt keep about everything they do.
IGNORED: Final = (
    "/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/var/lib/dpkg", "/var/lib/apt",  # noqa: S108
    "/var/cache", "/var/log", "/run/log", "/run/systemd", "/run/udev", "/root/.rpmdb",
)  # fmt: skip


def walk(top: str, ignored: tuple[str, ...]) -> list[str]:
    """Return every path below `top` but those in the ignored directories."""
    found = []
    for directory, names, files in os.walk(top):
        place = directory.rstrip("/")
        names[:] = [name for name in names if f"{place}/{name}" not in ignored]
        found += [f"{place}/{name}" for name in (*names, *files)]
    return found

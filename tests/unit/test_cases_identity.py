"""Identity against gathered cases: another program's rules, and a real kubelet's node.

A row that records the other program's gap ("unknown to kepler") asks for the right answer instead.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tychod import config
from tychod.hostfs import Host
from tychod.model import Identity
from tychod.samples import CgroupRef
from tychod.views import pod_key
from tychod.workloads.hostfiles import parse_bundle, parse_log_link, parse_log_target
from tychod.workloads.paths import identify
from tychod.workloads.pods import Pod, PodView, parse_pods
from tychod.workloads.registry import Registry

A = "a1" * 32
SECOND = 1_000_000_000

# What the other program does not know, and we do: by the row's id, our kind, runtime and id.
BETTER = {
    "code-32": ("container", "containerd", A),  # a containerd namespace
    "code-33": ("container", "docker", A),  # an ECS task
    "code-34": ("container", "lxc", "lxc:web01"),  # above all not the host's nginx.service
    "code-35": ("container", "nspawn", "nspawn:web"),  # the unit keeps its supervisor
    "code-36": ("container", "kata", A),  # a pod's Kata sandbox
    "code-50": ("container", "buildkit", f"buildkit:{A[:25]}"),  # one step of a build
}
# Not containers, as the rows say: but what they are.
NOT_CONTAINERS = {
    "code-19": ("unit", f"crio-conmon-{A}.scope"),
    "code-20": ("unit", f"libpod-conmon-{A}.scope"),
    "code-22": ("unit", f"machine-libpod_pod_{'b2' * 32}.slice"),
    "code-27": None,  # 63 digits: half-written, nobody's
    "code-38": None,  # no layout of the kubelet's
    "code-39": ("vm", "qemu-1-vm"),  # its emulator's cgroup is the machine's
    "code-40": None,  # the root
    "code-41": ("unit", "init.scope"),
}


def read_rows(folder: Path, name: str) -> list[dict[str, object]]:
    """Read the rows of a case file."""
    rows: list[dict[str, object]] = json.loads((folder / f"{name}.json").read_text())["cases"]
    return rows


def strip_prefix(line: str) -> str:
    """Return the path of a line of /proc/PID/cgroup, or a path as it is."""
    return line if line.startswith("/") else line.split(":", 2)[2]


def identify_first(paths: list[str]) -> Identity | None:
    """Return what the first line that names a container says, else the first that says anything."""
    found = [identity for path in paths if (identity := identify(strip_prefix(path)))]
    containers = [identity for identity in found if identity.kind == "container"]
    return next(iter(containers or found), None)


def test_cgroup_paths(cases_dir: Path) -> None:
    """Runtime and id are what the rows say; gaps of the other program are filled."""
    wrong = []
    for row in read_rows(cases_dir, "cgroup_paths"):
        assert row.keys() <= {"id", "note", "paths", "expect", "basis"}, row
        found = identify_first(row["paths"])  # type: ignore[arg-type]
        key = (found.kind, found.runtime, found.id) if found else None
        expect: dict[str, str] = row["expect"]  # type: ignore[assignment]
        if not expect["container_id"]:
            assert expect == {"runtime": "unknown", "container_id": ""}, row
        if row["id"] in BETTER:
            right = key == BETTER[str(row["id"])]
        elif expect["container_id"]:
            right = key == ("container", expect["runtime"], expect["container_id"])
        else:
            right = NOT_CONTAINERS[str(row["id"])] == (found and (found.kind, found.id))
        if not right:
            wrong.append((row["id"], key, expect))

    assert wrong == []


def test_rows_that_name_a_gap_are_all_decided(cases_dir: Path) -> None:
    """Each row noted as unknown to the other program, or as no container, has our own answer."""
    rows = read_rows(cases_dir, "cgroup_paths")
    gaps = {row["id"] for row in rows if "unknown to kepler" in str(row.get("note", ""))}
    without = {row["id"] for row in rows if not row["expect"]["container_id"]}  # type: ignore[index]

    assert gaps == set(BETTER)
    assert without == set(BETTER) | set(NOT_CONTAINERS)


NESTED = {"code-14": A, "code-15": A, "code-17": A, "test-08": None}
"""Rows of a cluster or a runtime in a container: the container around, where the row has one id."""


@pytest.mark.parametrize("row_id", NESTED)
def test_nested_rows_show_both_levels(cases_dir: Path, row_id: str) -> None:
    """The inner container is a leaf of the outer one, and never one of the host's own pods."""
    row = next(r for r in read_rows(cases_dir, "cgroup_paths") if r["id"] == row_id)
    found = identify_first(row["paths"])  # type: ignore[arg-type]

    assert found is not None
    assert found.tenant is not None
    assert identify(found.tenant) is not None
    assert found.parent == (NESTED[row_id] or identify(found.tenant).id)  # type: ignore[union-attr]
    assert (pod_key(found) == found.pod_uid) == (row_id == "code-17")  # in a pod of the host's


BY_ENVIRONMENT: dict[tuple[str, ...], tuple[str, str]] = {
    ("HOSTNAME=test-pod-abcd",): ("test-pod-abcd", ""),
    ("HOSTNAME=h", "CONTAINER_NAME=c"): ("h", ""),
    ("CONTAINER_NAME=c", "HOSTNAME=h"): ("c", ""),
    ("HOSTNAME=a=b",): ("a=b", ""),
    ("HOSTNAME=env",): ("env", "fromcmd"),
}
"""Rows that the other program decides by the environment: its name and ours.  Another process's
environment holds secrets and is never read, so the command line decides."""
DECIDES_NOTHING = [["PATH=/bin"], ["hostname=x"], []]
"""Environments that decide nothing there either."""


def starting(root: Path, row: dict[str, Any], kubelet: "Captured | None" = None) -> Registry:
    """Return the registry of a node whose first process has a row's arguments and environment."""
    folders = config.Host(**{n: str(root / n) for n in ("procfs", "cgroupfs", "run", "log", "var")})
    cgroup, process = root / f"cgroupfs/docker/{A}", root / "procfs/77"
    for folder in (cgroup, process):
        folder.mkdir(parents=True)
    (cgroup / "cgroup.procs").write_text("77\n")
    for name, key in (("cmdline", "cmdline"), ("environ", "env")):
        (process / name).write_text("".join(f"{part}\0" for part in row[key]))
    return Registry(Host(folders), folders.cgroupfs, kubelet)


def named(root: Path, row: dict[str, Any]) -> Identity:
    """Return who the container of such a process is."""
    return starting(root, row).update({1: CgroupRef(f"/docker/{A}", 101)}, 0)[1]


def test_container_names_from_the_command_line(cases_dir: Path, tmp_path: Path) -> None:
    """Each row's name, else the beginning of the id; a new kind of environment fails."""
    rows = read_rows(cases_dir, "container_names")
    environments, wrong = set(), []
    for number, row in enumerate(rows):
        env: tuple[str, ...] = tuple(row["env"])  # type: ignore[arg-type]
        if list(env) in DECIDES_NOTHING:
            expected = row["expect_name"]
        else:
            theirs, expected = BY_ENVIRONMENT[env]
            assert row["expect_name"] == theirs
            environments.add(env)
        found = named(tmp_path / str(number), row)
        right = (expected, "cmdline") if expected else (A[:12], "path")
        if (found.name, found.names_from) != right:
            wrong.append((row, found))

    assert wrong == []
    assert environments == set(BY_ENVIRONMENT)
    assert len(rows) == 19


class Captured:
    """A kubelet whose answers were captured."""

    def __init__(self) -> None:
        self.view: PodView | None = None
        self.asked_ns: int | None = None
        self.route = "ok"

    def is_stale(self, now_ns: int) -> bool:
        """Never: these answers were good."""
        del now_ns
        return False


@pytest.mark.parametrize("cmdline", [("app", "--name=fromcmd"), ("app",)])
def test_a_pods_name_replaces_the_command_lines(
    cases_dir: Path, tmp_path: Path, cmdline: tuple[str, ...]
) -> None:
    """As the cases say: a container without a pod in its path that the kubelet lists later."""
    document = json.loads((cases_dir / "container_names.json").read_text())
    assert document["about"].endswith("A pod status name later replaces it.")
    kubelet = Captured()
    registry = starting(tmp_path, {"cmdline": cmdline, "env": ()}, kubelet)
    cgroups = {1: CgroupRef(f"/docker/{A}", 101)}
    before = registry.update(cgroups, 0)[1]
    status = {"name": "app", "containerID": f"docker://{A}"}
    metadata = {"uid": "u1", "name": "p1", "namespace": "default"}
    pod = {"metadata": metadata, "status": {"containerStatuses": [status]}}
    kubelet.view = PodView(SECOND, parse_pods(json.dumps({"items": [pod]}).encode()))
    after = registry.update(cgroups, SECOND)[1]

    assert before.name in {"fromcmd", A[:12]}
    assert (after.name, after.pod, after.names_from) == ("app", "p1", "kubelet")


def read_cgroups(folder: Path) -> dict[int, CgroupRef]:
    """Read a captured cgroup2 tree."""
    lines = (folder / "cgroup_tree_inodes.txt").read_text().splitlines()
    prefix = "/sys/fs/cgroup/unified"
    pairs = (line.split(" ", 1) for line in lines)
    return {
        int(inode): CgroupRef(path.removeprefix(prefix), int(inode))
        for inode, path in pairs
        if path.startswith(f"{prefix}/")
    }


@pytest.fixture
def node(tmp_path: Path) -> tuple[Registry, Captured]:
    """Return a registry on a machine without any host file, with a kubelet to be filled."""
    kubelet = Captured()
    roots = config.Host(run=str(tmp_path), log=str(tmp_path))
    return Registry(Host(roots), str(tmp_path), kubelet), kubelet


def containers_of(registry: Registry, cgroups: dict[int, CgroupRef], now_ns: int) -> list[Identity]:
    """Return the containers of a tree, each once."""
    found = registry.update(cgroups, now_ns)
    return [i for key, i in found.items() if key in cgroups and i.kind == "container"]


def read_pods(path: Path) -> tuple[Pod, ...]:
    """Read a captured answer."""
    return parse_pods(path.read_bytes())


@pytest.mark.parametrize("capture", ["02_early_running", "03_steady"])
def test_kubelet_alone_names_every_container_of_a_real_node(
    kubelet_captures_dir: Path, node: tuple[Registry, Captured], capture: str
) -> None:
    """All containers of the captured node get pod, namespace, name and class; one pause a pod."""
    registry, kubelet = node
    folder = kubelet_captures_dir / capture
    cgroups = read_cgroups(folder)
    registry.update(cgroups, 0)
    kubelet.view = PodView(30 * SECOND, read_pods(folder / "pods_10255.json"))
    found = containers_of(registry, cgroups, 30 * SECOND)

    assert len(found) >= 18
    assert [i for i in found if i.name == i.id[:12] or not i.pod or not i.namespace] == []
    sandboxes = [i.pod_uid for i in found if i.sandbox]
    assert len(sandboxes) == len(set(sandboxes))
    assert set(sandboxes) == {i.pod_uid for i in found}
    assert all(i.name == "pause" for i in found if i.sandbox)


def test_pod_that_left_a_real_list_keeps_its_names(
    kubelet_captures_dir: Path, node: tuple[Registry, Captured]
) -> None:
    """A later real answer lacks a static pod; while its cgroups are there it keeps its names."""
    registry, kubelet = node
    first, later = (
        kubelet_captures_dir / name / "pods_10255.json"
        for name in ("03_steady", "05_static_pod_removed_still_terminating")
    )
    cgroups = read_cgroups(first.parent)
    registry.update(cgroups, 0)
    kubelet.view = PodView(30 * SECOND, read_pods(first))
    before = containers_of(registry, cgroups, 30 * SECOND)
    kubelet.view = PodView(60 * SECOND, read_pods(later))
    after = containers_of(registry, cgroups, 60 * SECOND)
    listed = {pod.uid for pod in kubelet.view.pods}

    assert {i.pod for i in after if i.pod_uid not in listed} == {"probe-loaded-3-node-a"}
    assert [(i.id, i.name, i.pod) for i in after] == [(i.id, i.name, i.pod) for i in before]


def test_restart_of_a_kubelet_loses_nothing(
    kubelet_captures_dir: Path, node: tuple[Registry, Captured]
) -> None:
    """Refused, null, 4, 9, 10 pods as captured around a restart: every name stays throughout."""
    registry, kubelet = node
    bodies = sorted((kubelet_captures_dir / "14_kubelet_restart_bodies").glob("*.json"))
    views = [read_pods(path) for path in bodies]
    ids = {c.id: (pod.uid, c.name) for pod in views[0] for c in pod.containers}
    cgroups = {
        key: CgroupRef(f"/kubepods/burstable/pod{uid}/{ident}", key)
        for key, (ident, (uid, _)) in enumerate(ids.items(), 1)
    }
    names = []
    for second, pods in enumerate(views, 1):
        kubelet.view = PodView(second * SECOND, pods)
        found = containers_of(registry, cgroups, second * SECOND)
        names.append({i.id: i.name for i in found})

    assert () in views
    assert names[0] == {ident: name for ident, (_, name) in ids.items()}
    assert all(later == names[0] for later in names)


def test_bundles_and_log_links_of_a_real_node(kubelet_captures_dir: Path) -> None:
    """Annotations and link names that containerd and the kubelet really wrote are understood."""
    folder = kubelet_captures_dir / "12_host_files"
    bundles = json.loads((folder / "oci_bundle_annotations.json").read_text())
    container, sandbox = (parse_bundle(json.dumps(bundles[k]).encode()) for k in bundles)
    links = list(read_links(folder / "var_log_containers.txt"))

    assert container is not None
    assert (container.container, container.pod, container.sandbox) == (
        "server", "api-7449d6bcb6-b8w4n", False,
    )  # fmt: skip
    assert sandbox is not None
    assert (sandbox.container, sandbox.pod_uid, sandbox.sandbox) == (
        "pause", "888877b2c442ae70cbd3c09836a814fb", True,
    )  # fmt: skip
    assert len(links) >= 15
    for name, target in links:
        parsed, uid = parse_log_link(name), parse_log_target(target)
        assert parsed is not None
        assert uid is not None
        names = parsed[1]
        assert target.split("/")[4] == f"{names.namespace}_{names.pod}_{uid}"
        assert target.split("/")[5] == names.container


def read_links(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and target of each link in a captured listing."""
    for line in path.read_text().splitlines():
        name, arrow, target = line.rpartition(" -> ")
        if arrow:
            yield name.split()[-1], target

"""Names from the host's own files: containerd's bundles, log links, command lines."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod import config
from tychod.hostfs import Host
from tychod.workloads import hostfiles
from tychod.workloads.hostfiles import (
    Bundles,
    CommandLines,
    LogLinks,
    Names,
    parse_bundle,
    parse_log_link,
    parse_log_target,
)

A, B = "a1" * 32, "b2" * 32
UID = "0f3a5b1c-1111-4222-8333-444455556666"
SECOND = 1_000_000_000


def bundle(**notes: object) -> bytes:
    """Write a bundle with annotations of containerd's CRI plugin."""
    annotations = {f"io.kubernetes.cri.{key.replace('_', '-')}": v for key, v in notes.items()}
    return json.dumps({"process": {"env": ["SECRET=x"]}, "annotations": annotations}).encode()


CONTAINER = {
    "container_type": "container",
    "container_name": "server",
    "sandbox_name": "api-1",
    "sandbox_namespace": "shop",
    "sandbox_uid": UID,
}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a machine whose /run, /var/log, /proc and cgroups are folders."""
    for name in ("run", "log/containers", "proc", "cgroup", "var"):
        (tmp_path / name).mkdir(parents=True)
    return Host(
        config.Host(
            procfs=str(tmp_path / "proc"),
            cgroupfs=str(tmp_path / "cgroup"),
            run=str(tmp_path / "run"),
            log=str(tmp_path / "log"),
            var=str(tmp_path / "var"),
        )
    )


TASK = "io.containerd.runtime.v2.task"


def write_bundle(
    host: Host, ident: str, data: bytes, root: str = "run/containerd", namespace: str = "k8s.io"
) -> Path:
    """Put a bundle where containerd does, below the folder that holds /run and /var."""
    return write_config(Path(host.run).parent / root / TASK / namespace / ident, data)


def write_config(folder: Path, data: bytes) -> Path:
    """Write a bundle."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(data)
    return folder


def test_bundle_of_a_container_names_it_and_its_pod() -> None:
    """A container's annotations give container, pod, namespace and uid."""
    assert parse_bundle(bundle(**CONTAINER)) == Names(
        "bundle", "server", "api-1", "shop", UID, runtime="containerd"
    )


def test_bundle_of_a_sandbox_is_the_pods_pause_container() -> None:
    """A sandbox has no container name; it is called pause and marked."""
    notes = {k: v for k, v in CONTAINER.items() if k != "container_name"}
    names = parse_bundle(bundle(**(notes | {"container_type": "sandbox"})))

    assert names == Names(
        "bundle", "pause", "api-1", "shop", UID, sandbox=True, runtime="containerd"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"annotations": 3}',
        b'{"annotations": {}}',
        bundle(container_type="container", container_name=7),
        bundle(container_type=None, container_name="x"),
        bundle(**CONTAINER)[:-20],
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_malformed_bundle_names_nothing(data: bytes) -> None:
    """Half-written, foreign or wrongly typed bundles give no name and no error."""
    assert parse_bundle(data) is None


@given(st.binary(max_size=200))
def test_no_bundle_is_too_odd(data: bytes) -> None:
    """Any bytes at all are parsed or left alone."""
    parse_bundle(data)


def test_log_link_gives_names_and_its_target_the_uid() -> None:
    """Pod and container names may hold dashes and dots; underscores only separate."""
    link = f"api-7449d6bcb6-b8w4n_tenant-a_my-server.x-{A}.log"
    target = f"/var/log/pods/tenant-a_api-7449d6bcb6-b8w4n_{UID}/my-server.x/0.log"

    assert parse_log_link(link) == (
        A,
        Names("log-link", "my-server.x", "api-7449d6bcb6-b8w4n", "tenant-a"),
    )
    assert parse_log_target(target) == UID


@pytest.mark.parametrize(
    "name", ["", f"{A}.log", f"a_b_c-{A[:-1]}.log", f"a_b_c-{A}.log.gz", f"a_b_{A}.log", "x_y_z"]
)
def test_other_files_in_the_log_folder_are_ignored(name: str) -> None:
    """Only a link of the kubelet's form names a container."""
    assert parse_log_link(name) is None


@pytest.mark.parametrize(
    "root",
    ["run/containerd", "run/k3s/containerd", "run/k0s/containerd",
     "var/snap/microk8s/common/run/containerd"],
)  # fmt: skip
def test_bundles_are_found_where_containerd_of_each_distribution_puts_them(
    host: Host, root: str
) -> None:
    """All state directories are looked into, and the route is ok then."""
    write_bundle(host, A, bundle(**CONTAINER), root)
    bundles = Bundles(host)

    assert bundles.read(B, 0) is None
    assert "no bundle below" in bundles.route
    assert "remain" in bundles.route
    names = bundles.read(A, 0)
    assert names is not None
    assert names.container == "server"
    assert bundles.route == "ok"


# As nerdctl writes its own labels into the bundle, and CRI-O the kubelet's beside its own.
NERDCTL = {"nerdctl/name": "web", "nerdctl/namespace": "default", "nerdctl/hostname": "h"}
CRIO = {
    "io.container.manager": "cri-o",
    "io.kubernetes.container.name": "etcd",
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.Name": f"k8s_etcd_etcd-m_kube-system_{UID}_0",
    "io.kubernetes.pod.name": "etcd-m",
    "io.kubernetes.pod.namespace": "kube-system",
    "io.kubernetes.pod.uid": UID,
}
CRIO_SANDBOX = {
    "io.kubernetes.container.name": "POD",
    "io.kubernetes.cri-o.ContainerType": "sandbox",
    "io.kubernetes.cri-o.KubeName": "etcd-m",
    "io.kubernetes.cri-o.Namespace": "kube-system",
    "io.kubernetes.pod.uid": UID,
}
PODMAN = {"io.container.manager": "libpod", "io.kubernetes.cri-o.ContainerType": "container"}


@pytest.mark.parametrize(
    ("notes", "names"),
    [
        (NERDCTL, Names("bundle", "web", runtime="containerd")),
        (NERDCTL | {"com.docker.compose.project": "p", "com.docker.compose.service": "s", "x": "y"},
         Names("bundle", "web", runtime="containerd",
               labels={"com.docker.compose.project": "p", "com.docker.compose.service": "s"})),
        (CRIO, Names("bundle", "etcd", "etcd-m", "kube-system", UID, runtime="crio")),
        (CRIO_SANDBOX,
         Names("bundle", "pause", "etcd-m", "kube-system", UID, True, runtime="crio")),
        (PODMAN, None),
        ({"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.pod.name": "x"}, None),
        ({"nerdctl/name": 7}, None),
    ],
)  # fmt: skip
def test_each_runtime_notes_names_in_its_own_way(
    notes: dict[str, object], names: Names | None
) -> None:
    """nerdctl's name and Compose project, CRI-O's pod; Podman's bundles hold no name."""
    assert parse_bundle(json.dumps({"annotations": notes}).encode()) == names


def test_crio_keeps_its_bundles_with_its_storage(host: Host) -> None:
    """A bundle of CRI-O is below its storage's state directory."""
    data = json.dumps({"annotations": CRIO}).encode()
    write_config(Path(host.run) / "containers/storage/overlay-containers" / A / "userdata", data)
    names = Bundles(host).read(A, 0)

    assert names is not None
    assert (names.container, names.pod, names.runtime) == ("etcd", "etcd-m", "crio")


def test_namespaces_of_containerd_are_looked_for_every_30_s(host: Host) -> None:
    """Whatever namespaces there are, a container in them is found; a new one within 30 s."""
    nerdctl = json.dumps({"annotations": NERDCTL}).encode()
    write_bundle(host, A, nerdctl, namespace="builds")
    bundles = Bundles(host)
    assert bundles.read(A, 0) is not None
    write_bundle(host, B, nerdctl, namespace="late")

    assert bundles.read(B, 29 * SECOND) is None
    assert bundles.read(B, 30 * SECOND) is not None


def test_only_the_namespace_of_pods_makes_pods(host: Host) -> None:
    """Who may run a container can note a pod's name on it; containerd's CRI is not fooled so."""
    write_bundle(host, A, bundle(**CONTAINER), namespace="moby")

    assert Bundles(host).read(A, 0) is None


@pytest.mark.parametrize("ident", ["", "..", ".", "../" + A, "a/b", "a\0b", "x" * 200])
def test_nothing_but_an_id_is_looked_for(host: Host, ident: str) -> None:
    """What is no container's id is not made into a path."""
    assert Bundles(host).read(ident, 0) is None


def test_names_of_any_length_and_kind_can_be_passed_on(host: Host) -> None:
    """10,000 characters are cut, half a surrogate pair is replaced, control characters stay."""
    notes = CONTAINER | {"container_name": "x" * 10_000, "sandbox_name": "a\ud800\x1b[31m\n"}
    names = parse_bundle(bundle(**notes))
    target = f"/var/log/pods/n_p_{UID}/c/0.log"
    (Path(host.log) / "containers" / f"p_n_\udcff-{A}.log").symlink_to(target)
    linked = LogLinks(host).read(A, 0)

    assert names is not None
    assert (len(names.container), names.pod) == (253, "a?\x1b[31m\n")
    assert linked is not None
    assert linked.container == "?"


def test_routes_change_with_the_way_and_not_with_the_container(host: Host) -> None:
    """Each change is a line in the log: fifty containers a second must not be fifty lines."""
    write_bundle(host, A, bundle(**CONTAINER))
    write_bundle(host, B, b'{"annotations": {}}')
    bundles, seen = Bundles(host), []
    for ident in (B, "c3" * 32, A, B, "c3" * 32, A):
        bundles.read(ident, 0)
        seen.append(bundles.route)

    assert seen[0] == seen[1]
    assert "no names in them" in seen[0]
    assert seen[2:] == ["ok"] * 4


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[int]:
    """Return a pipe called so in a folder of this test; who opened it would take what it holds."""
    os.mkfifo(tmp_path / "pipe")
    fd = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    yield fd
    os.close(fd)


def test_what_is_no_file_is_no_bundle(host: Host, tmp_path: Path, pipe: int) -> None:
    """A pipe would be waited for, and a device does something when it is opened: neither is."""
    data = bundle(**CONTAINER)
    os.write(pipe, data)
    folder = write_bundle(host, A, b"")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "pipe")
    bundles = Bundles(host)

    assert bundles.read(A) is None
    assert bundles.route.startswith("no bundle below")
    assert os.read(pipe, 65536) == data


def test_half_written_bundle_is_read_whole_later(host: Host) -> None:
    """A bundle that is being written names nothing now and everything afterwards."""
    data = bundle(**CONTAINER)
    folder = write_bundle(host, A, data[:40])
    bundles = Bundles(host)
    assert bundles.read(A) is None

    (folder / "config.json").write_bytes(data)

    assert bundles.read(A) == parse_bundle(data)


class Forbidding(Host):
    """A host on which we may not look into containerd's folders, whoever runs the test."""

    def read_regular(self, path: str, limit: int = 1 << 20) -> bytes | None:  # noqa: ARG002
        """Refuse as the kernel refuses an ordinary user."""
        raise PermissionError(13, "Permission denied", path)

    def list_dir(self, path: str) -> tuple[str, ...] | None:
        """Refuse as the kernel refuses an ordinary user."""
        raise PermissionError(13, "Permission denied", path)

    def list_links(self, path: str, most: int) -> tuple[str, ...] | None:  # noqa: ARG002
        """Refuse as the kernel refuses an ordinary user."""
        raise PermissionError(13, "Permission denied", path)


def test_refused_reads_say_what_is_missing(host: Host) -> None:
    """Without the capability each route says so and what to do; nothing is raised."""
    roots = config.Host(run=host.run, log=host.log)
    bundles, links = Bundles(Forbidding(roots)), LogLinks(Forbidding(roots))

    assert bundles.read(A) is None
    assert links.read(A, 0) is None
    for route in (bundles.route, links.route):
        assert "not readable (Permission denied)" in route
        assert "CAP_DAC_READ_SEARCH" in route


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs uid 0 to become another user")
def test_real_kernel_refusal_is_told_the_same_way() -> None:
    """A 0700 bundle of root, read by nobody, ends in the route's reason."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        host = Host(config.Host(run=f"{folder}/run"))
        write_bundle(host, A, bundle(**CONTAINER)).chmod(0o700)
        bundles = Bundles(host)
        os.seteuid(65534)
        try:
            names = bundles.read(A)
        finally:
            os.seteuid(0)

    assert names is None
    assert "not readable (Permission denied)" in bundles.route


def test_log_links_are_listed_only_for_unknown_ids_and_once_a_second(host: Host) -> None:
    """A link made after a listing is seen by the next one, a second later at the earliest."""
    folder = Path(host.log) / "containers"
    target = f"/var/log/pods/shop_api-1_{UID}/server/0.log"
    links = LogLinks(host)
    assert links.read(A, 0) is None

    (folder / f"api-1_shop_server-{A}.log").symlink_to(target)

    assert links.read(A, SECOND // 2) is None
    assert links.read(A, SECOND) == Names("log-link", "server", "api-1", "shop", UID)
    assert links.route == "ok"


def test_only_a_link_into_a_pods_folder_is_believed(host: Host) -> None:
    """A file of such a name, a pipe, or a link to anywhere else is not the kubelet's."""
    folder = Path(host.log) / "containers"
    (folder / f"a_shop_x-{A}.log").write_text("")
    os.mkfifo(folder / f"b_shop_x-{B}.log")
    (folder / f"c_shop_x-{'c3' * 32}.log").symlink_to("/var/lib/docker/x.log")
    links = LogLinks(host)

    assert [links.read(ident, 0) for ident in (A, B, "c3" * 32)] == [None] * 3


def test_of_two_links_of_one_container_none_is_believed(host: Host) -> None:
    """Somebody else has made one of them: nobody knows which."""
    folder = Path(host.log) / "containers"
    for pod, ident in (("api-1", A), ("zz", A), ("api-1", B)):
        link = folder / f"{pod}_shop_server-{ident}.log"
        link.symlink_to(f"/var/log/pods/shop_{pod}_{UID}/server/0.log")
    links = LogLinks(host)

    assert links.read(A, 0) is None
    assert links.read(B, 0) == Names("log-link", "server", "api-1", "shop", UID)


def test_a_flood_of_log_links_costs_little_and_is_told(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit nothing is kept, looked for ever more rarely, and believed again later."""
    monkeypatch.setattr(hostfiles, "LINKS_MOST", 2000)
    folder = Path(host.log) / "containers"
    (folder / f"api-1_shop_server-{A}.log").symlink_to(f"/var/log/pods/shop_api-1_{UID}/x/0.log")
    for number in range(2000):
        os.mknod(folder / f"p_n_c-{number:064x}.log")
    links = LogLinks(host)

    assert links.read(A, 0) is None
    assert "has more than 2000 entries, so none is believed; see who" in links.route
    for number in range(2000):
        (folder / f"p_n_c-{number:064x}.log").unlink()
    assert links.read(A, 2 * SECOND - 1) is None
    assert links.read(A, 2 * SECOND) is not None
    assert links.route == "ok"


def test_missing_log_folder_is_a_reason(host: Host) -> None:
    """A host without a kubelet has no such folder, and the route says it."""
    (Path(host.log) / "containers").rmdir()
    links = LogLinks(host)

    assert links.read(A, 0) is None
    assert "does not exist" in links.route


def test_command_line_of_the_first_process_names_a_docker_container(host: Host) -> None:
    """The first process of the cgroup is read, and only its command line."""
    cgroup = Path(host.cgroupfs) / f"docker/{A}"
    cgroup.mkdir(parents=True)
    (cgroup / "cgroup.procs").write_text("4711\n4712\n")
    process = Path(host.procfs) / "4711"
    process.mkdir()
    (process / "cmdline").write_bytes(b"prometheus\0--name=my-prom\0--password=x\0")

    assert CommandLines(host, host.cgroupfs).read(f"/docker/{A}") == (
        "prometheus",
        "--name=my-prom",
        "--password=x",
    )


@pytest.mark.parametrize("procs", [None, "", "0\n", "4711\n", "x\n", "9" * 5000])
def test_cgroup_without_a_readable_process_has_no_command_line(
    host: Host, procs: str | None
) -> None:
    """Gone, empty, of another pid namespace, or its process just ended: nothing, no error."""
    if procs is not None:
        cgroup = Path(host.cgroupfs) / f"docker/{A}"
        cgroup.mkdir(parents=True)
        (cgroup / "cgroup.procs").write_text(procs)

    assert CommandLines(host, host.cgroupfs).read(f"/docker/{A}") == ()


def test_what_a_file_said_can_be_saved() -> None:
    """Labels of a container that has none are packed with the rest of its identity."""
    names = Names("cmdline", "web")

    assert msgpack.unpackb(msgpack.packb(dict(names._asdict())))["labels"] == {}

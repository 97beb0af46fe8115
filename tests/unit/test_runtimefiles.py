"""Names from the records of Docker, Podman and CRI-O, and nothing but names."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod import config
from tychod.hostfs import Host
from tychod.workloads.hostfiles import Names
from tychod.workloads.runtimefiles import (
    STORAGE_LIMIT,
    RuntimeFiles,
    parse_docker,
    parse_storage,
)

A, B, C = "a1" * 32, "b2" * 32, "c3" * 32
UID = "0f3a5b1c-1111-4222-8333-444455556666"
SECOND = 1_000_000_000
SECRET = "canary-5f1d"
COMPOSE = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}


def docker(name: object, labels: object = None) -> bytes:
    """Write a config.v2.json with a secret wherever it can hold one."""
    document = {
        "ID": A,
        "Path": f"/bin/{SECRET}",
        "Args": ["--password", SECRET],
        "Name": name,
        "Config": {"Env": [f"TOKEN={SECRET}"], "Cmd": [SECRET], "Labels": labels},
        "MountPoints": {"/x": {"Source": SECRET}},
    }
    return json.dumps(document).encode()


def storage(*entries: tuple[str, list[str]]) -> bytes:
    """Write a containers.json."""
    found = [
        {"id": ident, "names": names, "image": "f" * 64, "layer": "e" * 64,
         "metadata": json.dumps({"image-name": SECRET}), "flags": {"MountLabel": ""}}
        for ident, names in entries
    ]  # fmt: skip
    return json.dumps(found).encode()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a machine whose /run and /var are folders."""
    return Host(config.Host(run=str(tmp_path / "run"), var=str(tmp_path / "var")))


def put(path: str, data: bytes) -> Path:
    """Replace a file as the runtimes do: a new one takes its place."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".new")
    new.write_bytes(data)
    new.rename(target)
    return target


def put_docker(host: Host, data: bytes, root: str = "lib/docker") -> Path:
    """Put a container's record where Docker does."""
    return put(f"{host.var}/{root}/containers/{A}/config.v2.json", data)


def put_storage(host: Host, data: bytes, name: str = "containers.json") -> Path:
    """Put the list of containers where Podman and CRI-O do."""
    return put(f"{host.var}/lib/containers/storage/overlay-containers/{name}", data)


@pytest.mark.parametrize("root", ["lib/docker", "snap/docker/common/var-lib-docker"])
def test_docker_container_has_its_name_and_its_service(host: Host, root: str) -> None:
    """The name without Docker's slash; of the labels those of a Compose project only."""
    put_docker(host, docker("/web-1", COMPOSE | {"api-key": SECRET}), root)
    files = RuntimeFiles(host)

    assert files.read(A, "docker", 0) == Names(
        "runtime-file", "web-1", runtime="docker", labels=COMPOSE
    )
    assert files.route == "ok"


def test_nothing_of_a_record_leaves_but_names(host: Host) -> None:
    """The environment, arguments and mounts of a container are in no result and no reason."""
    path = put_docker(host, docker("/web", {"secret": SECRET}))
    put_storage(host, storage((B, ["db"])))
    files = RuntimeFiles(host)
    texts = [repr(files.read(ident, kind, 0)) for ident, kind in ((A, "docker"), (B, "podman"))]
    path.write_bytes(docker("/web")[:-30])
    broken = RuntimeFiles(host)
    texts += [repr(broken.read(A, "docker", 0)), broken.route, files.route]

    assert "web" in texts[0]
    assert "db" in texts[1]
    assert not any(SECRET in text for text in texts)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("web", Names("runtime-file", "web", runtime="docker")),
        (f"k8s_server_api-1_shop_{UID}_3",
         Names("runtime-file", "server", "api-1", "shop", UID, runtime="docker")),
        (f"k8s_POD_api-1_shop_{UID}_0",
         Names("runtime-file", "pause", "api-1", "shop", UID, True, runtime="docker")),
        (f"k8s_POD_api-1_shop_{UID}_0_4f2a",
         Names("runtime-file", "pause", "api-1", "shop", UID, True, runtime="docker")),
        ("k8s_something", Names("runtime-file", "k8s_something", runtime="docker")),
        (f"a_b_c_d_{UID}_0", Names("runtime-file", f"a_b_c_d_{UID}_0", runtime="docker")),
    ],
)  # fmt: skip
def test_name_of_a_pods_container_tells_its_pod(host: Host, name: str, names: Names) -> None:
    """cri-dockerd and CRI-O put pod, namespace and uid into the name; others are names."""
    put_docker(host, docker(f"/{name}"))

    assert RuntimeFiles(host).read(A, "docker", 0, UID) == names


@pytest.mark.parametrize("path_uid", [None, "11111111-2222-4333-8444-555555555555"])
def test_a_name_alone_puts_nobody_into_a_pod(host: Host, path_uid: str | None) -> None:
    """`docker run --name k8s_..._<uid of another's pod>_0` is a container with an odd name."""
    name = f"k8s_server_api-1_shop_{UID}_3"
    put_docker(host, docker(f"/{name}"))
    names = RuntimeFiles(host).read(A, "docker", 0, path_uid)

    assert names == Names("runtime-file", name, runtime="docker")


def test_containers_of_podman_and_crio_are_in_one_list(host: Host) -> None:
    """Podman's by their names, CRI-O's by what the names say; a sandbox has no container in it."""
    put_storage(
        host,
        storage(
            (A, ["db"]),
            (B, [f"k8s_server_api-1_shop_{UID}_3"]),
            (C, [f"k8s_api-1_shop_{UID}_0", "other"]),
        ),
    )
    files = RuntimeFiles(host)
    found = [files.read(A, "podman", 0), *(files.read(x, "crio", 0, UID) for x in (B, C))]

    assert found == [
        Names("runtime-file", "db", runtime="podman"),
        Names("runtime-file", "server", "api-1", "shop", UID, runtime="crio"),
        Names("runtime-file", "pause", "api-1", "shop", UID, True, runtime="crio"),
    ]
    assert files.route == "ok"


@pytest.mark.parametrize(
    "path",
    ["var/lib/containers/storage/overlay-containers/volatile-containers.json",
     "var/lib/containers/storage/vfs-containers/containers.json",
     "run/containers/storage/overlay-containers/volatile-containers.json"],
)  # fmt: skip
def test_other_lists_are_read_too(host: Host, tmp_path: Path, path: str) -> None:
    """Containers that remove themselves, other storage drivers, and transient storage."""
    put(str(tmp_path / path), storage((A, ["db"])))
    names = RuntimeFiles(host).read(A, "podman", 0)

    assert names is not None
    assert names.container == "db"


def test_list_is_read_again_when_it_was_replaced_ten_times_a_second_at_most(host: Host) -> None:
    """A container that came since the last look is found by the next one, 100 ms later."""
    put_storage(host, storage((A, ["db"])))
    files = RuntimeFiles(host)
    assert files.read(B, "podman", 0) is None
    put_storage(host, storage((A, ["db"]), (B, ["web"])))

    assert files.read(B, "podman", SECOND // 10 - 1) is None
    assert files.read(B, "podman", SECOND // 10) is not None
    assert files.read(A, "podman", SECOND // 10) is not None


class Counting(Host):
    """A host that counts how often a file is read."""

    reads = 0

    def read_regular(self, path: str, limit: int = 1 << 20) -> bytes | None:
        """Count, and read."""
        self.reads += 1
        return super().read_regular(path, limit)


def test_unchanged_lists_are_not_read(host: Host) -> None:
    """However long a container stays unknown, a list is read once."""
    put_storage(host, storage((A, ["db"])))
    counting = Counting(config.Host(run=host.run, var=host.var))
    files = RuntimeFiles(counting)
    for second in range(20):
        files.read(B, "podman", second * SECOND)

    assert counting.reads == 1


def test_what_is_no_file_is_no_record(host: Host) -> None:
    """Pipes in the place of both are not opened: what they hold is still there."""
    records = {"docker": docker("/web"), "podman": storage((A, ["db"]))}
    paths = {"docker": put_docker(host, b""), "podman": put_storage(host, b"")}
    for runtime, path in paths.items():
        path.unlink()
        os.mkfifo(path)
        pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        os.write(pipe, records[runtime])

        assert RuntimeFiles(host).read(A, runtime, 0) is None
        assert os.read(pipe, 65536) == records[runtime]
        os.close(pipe)


def test_a_list_that_is_gone_is_forgotten(host: Host) -> None:
    """Storage that was reset holds nothing of before."""
    path = put_storage(host, storage((A, ["db"])))
    files = RuntimeFiles(host)
    assert files.read(A, "podman", 0) is not None
    path.unlink()
    files.read(B, "podman", SECOND)

    assert files.read(A, "podman", 2 * SECOND) is None


@pytest.mark.parametrize(
    ("runtime", "found"),
    [("docker", "web"), ("podman", "db"), ("crio", "db"), ("kubernetes", "web"), (None, "web"),
     ("containerd", None), ("lxc", None)],
)  # fmt: skip
def test_only_records_of_its_runtime_name_a_container(
    host: Host, runtime: str | None, found: str | None
) -> None:
    """A path that tells the runtime is believed; one that does not is looked up everywhere."""
    put_docker(host, docker("/web"))
    put_storage(host, storage((A, ["db"])))
    names = RuntimeFiles(host).read(A, runtime, 0)

    assert (names.container if names else None) == found


@pytest.mark.parametrize("ident", ["", "..", "web", A[:12], f"../{A}", A.upper()])
def test_nothing_but_an_id_is_looked_for(host: Host, ident: str) -> None:
    """What is no container's id is not made into a path."""
    files = RuntimeFiles(host)

    assert files.read(ident, None, 0) is None
    assert files.route.startswith("not used yet")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff", docker(""), docker("/"), docker(3),
     docker(None), docker("/web")[:-5]],
)  # fmt: skip
def test_record_that_names_nothing_is_none(data: bytes) -> None:
    """Half-written, foreign or wrongly typed records give no name and no error."""
    assert parse_docker(data) is None


def test_odd_labels_cost_only_themselves() -> None:
    """A container whose labels are no labels still has its name."""
    for labels in (3, [], {"com.docker.compose.project": 3}, {"com.docker.compose.project": None}):
        names = parse_docker(docker("/web", labels))
        assert names is not None
        assert (names.container, dict(names.labels)) == ("web", {})


@given(st.binary(max_size=200))
def test_no_record_is_too_odd(data: bytes) -> None:
    """Any bytes at all are parsed or left alone."""
    parse_docker(data)
    parse_storage(data)


ODD_ENTRIES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.just(A),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "names", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.lists(ODD_ENTRIES, max_size=4))
def test_odd_entries_cost_only_themselves(entries: list[object]) -> None:
    """Whatever stands beside it in the list, a container has its name."""
    good = {"id": B, "names": ["db"]}
    found = parse_storage(json.dumps([*entries, good]).encode())

    assert found is not None
    assert found[B].container == "db"


def test_names_are_bounded_and_can_be_passed_on(host: Host) -> None:
    """10,000 characters are cut, half a surrogate pair is replaced, control characters stay."""
    found = []
    for name in ("x" * 10_000, "\ud800\x1b[31m"):
        put_docker(host, docker(f"/{name}"))
        found.append(RuntimeFiles(host).read(A, "docker", 0))

    assert [names.container for names in found if names] == ["x" * 252 + "…", "?\x1b[31m"]


@pytest.mark.parametrize("data", [b"[" * (STORAGE_LIMIT + 1), b'{"no": "list"}', b"[{"])
def test_list_that_is_none_is_a_reason_and_keeps_the_names(host: Host, data: bytes) -> None:
    """A file that cannot be used is told; what it held before stays until a good one comes."""
    put_storage(host, storage((A, ["db"])))
    files = RuntimeFiles(host)
    files.read(A, "podman", 0)
    put_storage(host, data)
    files.read(B, "podman", SECOND)

    assert "is no list of containers, or longer than" in files.route
    assert files.read(A, "podman", SECOND) is not None


def test_missing_records_say_where_they_were_looked_for(host: Host) -> None:
    """Where a path says Docker or Podman and there is no record, the reason names the place."""
    files = RuntimeFiles(host)
    files.read(A, None, 0)
    unused = files.route
    files.read(A, "docker", SECOND)
    files.read(A, "podman", 2 * SECOND)

    assert unused.startswith("not used yet")
    assert files.route.startswith(f"Docker: no record below {host.var}/lib/docker/containers or ")
    assert f"Podman and CRI-O: no record below {host.var}/lib/containers/storage" in files.route
    assert ";" not in files.route  # there is no remedy


def test_one_runtime_that_works_is_enough(host: Host) -> None:
    """The other one is told of as a note, and only where a container of it was missed."""
    put_docker(host, docker("/web"))
    files = RuntimeFiles(host)
    files.read(A, "docker", 0)
    alone = files.route
    files.read(B, None, SECOND)
    asked = files.route
    files.read(B, "podman", 2 * SECOND)

    assert (alone, asked) == ("ok", "ok")
    assert files.route.startswith("ok; Podman and CRI-O: no record below ")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs uid 0 to become another user")
def test_refused_reads_say_what_is_missing() -> None:
    """Docker's and Podman's folders are root's; without the capability the reason says so."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        host = Host(config.Host(run=f"{folder}/run", var=f"{folder}/var"))
        put_docker(host, docker("/web"))
        put_storage(host, storage((A, ["db"])))
        for name in ("docker/containers", "containers"):
            Path(f"{host.var}/lib/{name}").chmod(0o700)
        files = RuntimeFiles(host)
        os.seteuid(65534)
        try:
            found = files.read(A, "docker", 0), files.read(A, "podman", 0)
        finally:
            os.seteuid(0)

    assert found == (None, None)
    reason, _, remedy = files.route.partition("; ")
    for part in reason.split(", Podman and CRI-O: "):
        assert "not readable (Permission denied)" in part
    assert remedy.count("CAP_DAC_READ_SEARCH") == 1

"""Which container has which devices: the kubelet's checkpoint, strictly, or pod-resources."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim.podresources import SimPodResources, answer, render_listing, says
from tests.unit.test_podresources import settle
from tychod import config
from tychod.hostfs import Host, boot_id
from tychod.workloads.devices import (
    LIMIT_BYTES,
    DeviceCheckpoint,
    DeviceRoutes,
    FormatError,
    parse_checkpoint,
)

SECOND = 1_000_000_000
UID = "1a4fa341-ef3d-4908-bb5c-867a0ffd6818"
TRAIN = {"nvidia.com/gpu": ("GPU-1", "GPU-2")}


def entry(**changes: Any) -> dict[str, Any]:
    """Return an entry as kubelets since 1.20 write it."""
    whole = {
        "PodUID": UID,
        "ContainerName": "train",
        "ResourceName": "nvidia.com/gpu",
        "DeviceIDs": {"0": ["GPU-2"], "-1": ["GPU-1"]},
        "AllocResp": "CkIKFk5W",
    }
    return whole | changes


def document(*entries: Any, **changes: Any) -> dict[str, Any]:
    """Return a checkpoint."""
    data = {"PodDeviceEntries": list(entries), "RegisteredDevices": {"nvidia.com/gpu": ["GPU-1"]}}
    return {"Data": data, "Checksum": 3164029301} | changes


def parse(value: Any) -> dict[tuple[str, str], Any]:
    """Return what is read of a document."""
    return parse_checkpoint(json.dumps(value).encode())[0]


def test_devices_by_pod_and_container() -> None:
    """Ids of all NUMA nodes, in order, one resource beside another."""
    found = parse(
        document(
            entry(),
            entry(ResourceName="nvidia.com/mig-1g.18gb", DeviceIDs={"0": ["MIG-a"]}),
            entry(ContainerName="side", DeviceIDs={"1": ["GPU-9"]}, AllocResp=None),
        )
    )

    assert found == {
        (UID, "train"): TRAIN | {"nvidia.com/mig-1g.18gb": ("MIG-a",)},
        (UID, "side"): {"nvidia.com/gpu": ("GPU-9",)},
    }


def test_older_and_empty_shapes() -> None:
    """One list of ids (before Kubernetes 1.20), lists that Go never filled, and a boot id."""
    data = {"PodDeviceEntries": None, "RegisteredDevices": None}

    assert parse(document(entry(DeviceIDs=["GPU-2", "GPU-1"]))) == {(UID, "train"): TRAIN}
    assert parse(document(Data=data)) == {}
    assert parse_checkpoint(json.dumps(document(BootID="b")).encode()) == ({}, "b")


def test_checkpoint_of_a_real_kubelet(kubelet_captures_dir: Path) -> None:
    """As kubelet 1.36 wrote it for two pods."""
    path = kubelet_captures_dir / "12_host_files" / "device_plugin_checkpoint.json"
    found, _ = parse_checkpoint(path.read_bytes())
    mig = ("MIG-7b2e0000-0000-0000-0000-00000000000a",)

    assert len(found[UID, "train"]["nvidia.com/gpu"]) == 2
    infer = found["e8421760-444d-4d00-b5fc-e7e7c73c264f", "infer"]
    assert infer == {"nvidia.com/mig-1g.18gb": mig}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "document is no object"),
        ({}, "the document has other fields"),
        (document(Version="2"), "the document has other fields"),
        (document(Checksum="3164029301"), "Checksum"),
        (document(Checksum=True), "Checksum"),
        (document(Checksum=-1), "Checksum"),
        (document(BootID=7), "BootID"),
        (document(Data=[]), "Data is no object"),
        (document(Data={"PodDeviceEntries": []}), "Data has other fields"),
        (document(Data={"PodDeviceEntries": {}, "RegisteredDevices": {}}), "no list"),
        (document(Data={"PodDeviceEntries": [], "RegisteredDevices": []}), "RegisteredDevices"),
        (document(Data={"PodDeviceEntries": [], "RegisteredDevices": {"a": [1]}}), "device id"),
        (document("entry"), "an entry is no object"),
        (document(entry(Claims=[])), "an entry has other fields"),
        (document({"PodUID": UID}), "an entry has other fields"),
        (document(entry(PodUID="")), "PodUID"),
        (document(entry(ContainerName=None)), "ContainerName"),
        (document(entry(ResourceName="x" * 10_000)), "ResourceName"),
        (document(entry(AllocResp={})), "AllocResp"),
        (document(entry(DeviceIDs="GPU-1")), "no list"),
        (document(entry(DeviceIDs={"node0": ["GPU-1"]})), "no NUMA node"),
        (document(entry(DeviceIDs={"0": [1]})), "device id"),
        (document(entry(DeviceIDs=list(map(str, range(70_000))))), "more than 65536"),
    ],
)
def test_what_differs_is_refused(value: Any, reason: str) -> None:
    """Nothing is guessed of a format that is the kubelet's own: the place is named."""
    with pytest.raises(FormatError, match=reason):
        parse(value)


@pytest.mark.parametrize("half", ["\ud800", "a\udfff"])
def test_half_a_character_is_no_name(half: str) -> None:
    """JSON can write it and nothing else can: no kubelet does."""
    for value in (
        document(entry(DeviceIDs={"-1": [f"GPU-{half}"]})),
        document(entry(ResourceName=half)),
        document(entry(PodUID=half)),
        document(entry(ContainerName=half)),
    ):
        with pytest.raises(FormatError, match="holds half a character"):
            parse(value)


@pytest.mark.parametrize(
    "data", [b"", b'{"Data":', b"\xff\xfe", b"[" * 200_000, b" " * (LIMIT_BYTES + 1)]
)
def test_half_or_no_document_is_refused(data: bytes) -> None:
    """Half a file, no JSON, nesting without end, and more than a checkpoint can be."""
    with pytest.raises(FormatError):
        parse_checkpoint(data)


@given(st.data())
def test_any_change_of_a_document_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever stands in any place, the reader returns or refuses."""
    value = document(entry(), entry(DeviceIDs=["GPU-1"]))
    odd = data.draw(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["", "0", [[]], {}])
    )
    at: Any = value
    while True:
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = odd
    with contextlib.suppress(FormatError):
        parse(value)


# ---- the file ----


def make_host(tmp_path: Path) -> Host:
    """Return a host whose /var is here, with this boot's id."""
    return Host(config.Host(var=str(tmp_path), procfs="/proc"))


def write(tmp_path: Path, value: Any, root: str = "lib/kubelet", age_s: int = 0) -> Path:
    """Write a checkpoint as the kubelet does: another file under the old name."""
    path = tmp_path / root / "device-plugins" / "kubelet_internal_checkpoint"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("new")
    fresh.write_text(json.dumps(value))
    stamp = fresh.stat().st_mtime_ns - age_s * SECOND
    os.utime(fresh, ns=(stamp, stamp))
    fresh.replace(path)
    return path


def test_checkpoint_is_read_again_when_it_is_another_one(tmp_path: Path) -> None:
    """At most once a second, and not at all while it stays."""
    write(tmp_path, document(entry()))
    checkpoint = DeviceCheckpoint(make_host(tmp_path), "")
    before = checkpoint.route
    checkpoint.poll(0)
    first = checkpoint.view
    checkpoint.poll(SECOND)
    unchanged = checkpoint.view
    write(tmp_path, document())
    checkpoint.poll(2 * SECOND - 1)
    too_soon = checkpoint.view
    checkpoint.poll(2 * SECOND)

    assert before == "not read yet"
    assert first == {(UID, "train"): TRAIN}
    assert unchanged is first
    assert too_soon is first
    assert checkpoint.view == {}
    assert checkpoint.route == "ok"


def test_a_refused_checkpoint_leaves_the_last_good_one_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason stands in the route, the devices stay, stale, until there is a good one."""
    caplog.set_level(logging.WARNING)
    write(tmp_path, document(entry()))
    checkpoint = DeviceCheckpoint(make_host(tmp_path), "")
    checkpoint.poll(0)
    for second in (1, 2, 3):
        write(tmp_path, document(Version=2))
        checkpoint.poll(second * SECOND)
    told = [record.getMessage() for record in caplog.records]
    stale = (checkpoint.view, checkpoint.is_stale, checkpoint.is_current)
    route = checkpoint.route
    write(tmp_path, document(entry()))
    checkpoint.poll(4 * SECOND)

    assert stale == ({(UID, "train"): TRAIN}, True, False)
    assert route.startswith("stale: ")
    assert "is not as known: the document has other fields" in route
    assert "report it" in route
    assert len(told) == 1
    assert checkpoint.route == "ok"


def test_nothing_is_said_in_the_log_where_there_is_no_kubelet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Most hosts have none; the route says where it was looked for."""
    caplog.set_level(logging.INFO)
    checkpoint = DeviceCheckpoint(make_host(tmp_path), "")
    checkpoint.poll(0)

    assert not caplog.records
    reason, _, remedy = checkpoint.route.partition("; ")
    assert reason.startswith(f"not used yet: there is no {tmp_path}/lib/kubelet/device-plugins/")
    assert "[kubelet] root_dir" in remedy


def test_the_kubelets_directory_is_where_it_was_last_written_to(tmp_path: Path) -> None:
    """What an earlier cluster left does not count; a configured directory is the only one."""
    write(tmp_path, document(entry()), age_s=3600)
    write(tmp_path, document(), root="snap/microk8s/common/var/lib/kubelet")
    usual = DeviceCheckpoint(make_host(tmp_path), "")
    usual.poll(0)
    named = DeviceCheckpoint(make_host(tmp_path), f"{tmp_path}/lib/kubelet/")
    named.poll(0)

    assert usual.view == {}
    assert named.view == {(UID, "train"): TRAIN}


def test_a_checkpoint_of_an_earlier_boot_is_nobodys(tmp_path: Path) -> None:
    """Static pods keep their uid: the devices they had before the boot are not theirs now."""
    host = make_host(tmp_path)
    write(tmp_path, document(entry(), BootID="another"))
    checkpoint = DeviceCheckpoint(host, "")
    checkpoint.poll(0)
    old = (checkpoint.view, checkpoint.route)
    write(tmp_path, document(entry(), BootID=boot_id(host)))
    checkpoint.poll(SECOND)

    assert old[0] == {}
    assert "before this boot" in old[1]
    assert checkpoint.view == {(UID, "train"): TRAIN}


@contextlib.contextmanager
def no_rights_below(path: Path) -> Iterator[None]:
    """Be somebody who may not search a directory; root becomes another user for the while."""
    mode = path.stat().st_mode
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


def test_forbidden_checkpoint_names_the_capability(tmp_path: Path) -> None:
    """The kubelet's directory is root's; the remedy is what the packaged unit has."""
    write(tmp_path, document(entry()))
    checkpoint = DeviceCheckpoint(make_host(tmp_path), "")
    with no_rights_below(tmp_path):
        checkpoint.poll(0)
    forbidden = checkpoint.route
    checkpoint.poll(SECOND)

    assert "Permission denied" in forbidden
    assert "CAP_DAC_READ_SEARCH" in forbidden
    assert checkpoint.route == "ok"


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_what_is_no_file_is_no_checkpoint(tmp_path: Path, target: str) -> None:
    """Neither a device nor a pipe is opened; the reason says what it is not."""
    path = write(tmp_path, document(entry()))
    path.unlink()
    path.symlink_to(target)
    os.mkfifo(path.with_name("pipe"))
    pipe = os.open(path.with_name("pipe"), os.O_RDWR | os.O_NONBLOCK)
    os.write(pipe, json.dumps(document(entry())).encode())
    checkpoint = DeviceCheckpoint(make_host(tmp_path), "")
    checkpoint.poll(0)

    assert checkpoint.view == {}
    assert checkpoint.route.startswith(f"{path} is no regular file; see ")
    assert os.read(pipe, 65536)
    os.close(pipe)


def test_damaged_directory_has_its_reason(tmp_path: Path) -> None:
    """Any other error than a missing right is said as it is."""
    path = write(tmp_path, document(entry()))
    path.unlink()
    path.symlink_to(path)
    checkpoint = DeviceCheckpoint(make_host(tmp_path), "")
    checkpoint.poll(0)

    assert "symbolic links" in checkpoint.route
    assert "file system" in checkpoint.route


# ---- both routes ----


@pytest.fixture
def routes(tmp_path: Path) -> DeviceRoutes:
    """Return both routes of a host whose kubelet is below here."""
    return DeviceRoutes(config.Kubelet(), make_host(tmp_path))


def listen(tmp_path: Path, *names: str) -> SimPodResources:
    """Serve pod-resources where the kubelet does; container `train` of these pods has GPU-9."""
    path = tmp_path / "lib/kubelet/pod-resources/kubelet.sock"
    path.parent.mkdir(parents=True)
    listing = {("ml", name, "train"): {"nvidia.com/gpu": ("GPU-9",)} for name in names}
    return SimPodResources(path, says(answer(render_listing(listing))))


def poll(routes: DeviceRoutes, now_ns: int) -> None:
    """Poll and wait for the answer."""
    routes.poll(now_ns)
    settle(routes._socket, now_ns)


def test_a_current_checkpoint_has_the_last_word(tmp_path: Path, routes: DeviceRoutes) -> None:
    """A pod made again under its old name does not get its predecessor's devices."""
    write(tmp_path, document(entry()))
    with listen(tmp_path, "db-0"):
        poll(routes, 0)

    assert routes.in_use == "device-plugin"
    assert routes.devices_of(UID, "ml", "db-0", "train") == TRAIN
    assert routes.devices_of("another", "ml", "db-0", "train") == {}
    assert routes.devices_of(None, None, None, None) == {}
    assert routes.routes["device-plugin"] == "ok"
    assert routes.routes["pod-resources"] == "ok; spare: device-plugin tells more"


def test_pod_resources_answer_where_the_checkpoint_does_not(
    tmp_path: Path, routes: DeviceRoutes
) -> None:
    """By namespace, pod and container; the reason why not the checkpoint stands beside it."""
    with listen(tmp_path, "db-0"):
        poll(routes, 0)

    assert routes.in_use == "pod-resources"
    assert routes.devices_of(UID, "ml", "db-0", "train") == {"nvidia.com/gpu": ("GPU-9",)}
    assert routes.devices_of(UID, "other", "db-0", "train") == {}
    assert routes.routes["pod-resources"] == "ok"
    assert routes.routes["device-plugin"].startswith("not used yet: pod-resources works (there is")
    assert not routes.is_stale


def test_a_spare_way_that_fails_is_no_fault(tmp_path: Path, routes: DeviceRoutes) -> None:
    """Who reads the checkpoint need not be able to ask the socket: mostly only root may."""
    write(tmp_path, document(entry()))
    with listen(tmp_path, "db-0"):
        pass  # a socket file is left that nobody serves
    poll(routes, 0)
    told = routes.routes["pod-resources"]

    assert told.startswith("not used yet: device-plugin works (")
    assert told.endswith("; see whether the kubelet runs")


def test_a_stale_checkpoint_is_better_than_nothing(tmp_path: Path, routes: DeviceRoutes) -> None:
    """And is called stale."""
    path = write(tmp_path, document(entry()))
    poll(routes, 0)
    path.unlink()
    poll(routes, SECOND)

    assert routes.devices_of(UID, "ml", "db-0", "train") == TRAIN
    assert routes.in_use == "device-plugin"
    assert routes.is_stale
    assert routes.routes["device-plugin"].startswith("stale: there is no")
    assert "there is no" in routes.routes["pod-resources"]


def test_kubelet_switched_off_reads_nothing(tmp_path: Path) -> None:
    """The one setting switches off every question to the kubelet and its files."""
    write(tmp_path, document(entry()))
    routes = DeviceRoutes(config.Kubelet(enabled=False), make_host(tmp_path))
    routes.poll(0)
    routes.close()

    assert routes.in_use is None
    assert routes.devices_of(UID, "ml", "db-0", "train") == {}
    assert all("set [kubelet] enabled" in route for route in routes.routes.values())

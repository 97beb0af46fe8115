"""The registry: every cgroup has an identity at once, names as they come, and none is ever lost."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tychod import config
from tychod.hostfs import Host
from tychod.samples import KERNEL_KEY, LOST_KEY, OUTSIDE_KEY, ROOT_KEY, CgroupRef
from tychod.views import pod_key
from tychod.workloads.pods import Container, Pod, PodView, Requests
from tychod.workloads.registry import Registry

A, B, C, D = "a1" * 32, "b2" * 32, "c3" * 32, "d4" * 32
UID = "0f3a5b1c-1111-4222-8333-444455556666"
POD = f"/kubepods/burstable/pod{UID}"
SECOND = 1_000_000_000


@dataclass
class Answers:
    """What the kubelet client shows the registry, without a kubelet."""

    view: PodView | None = None
    asked_ns: int | None = None
    route: str = "ok"
    stale: bool = False

    def is_stale(self, now_ns: int) -> bool:
        """Say what the test set."""
        del now_ns
        return self.stale


def pod(*containers: Container, uid: str = UID) -> Pod:
    """Return a pod of tenant shop as the kubelet lists it."""
    return Pod(
        uid, "api-1", "shop", {"team": "x\x1b[31m"}, "Deployment/api", "Burstable",
        containers, {"server": Requests(200, 64 << 20)},
    )  # fmt: skip


def server(ident: str = A) -> Container:
    """Return the pod's container as the kubelet lists it."""
    return Container(ident, "server", "crio", "running")


def tree(*paths: str, start: int = 1) -> dict[int, CgroupRef]:
    """Return cgroups with a key each."""
    return {key: CgroupRef(path, 100 + key) for key, path in enumerate(paths, start)}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a machine whose files are folders of this test."""
    return Host(
        config.Host(
            procfs=str(tmp_path / "proc"),
            cgroupfs=str(tmp_path / "cgroup"),
            run=str(tmp_path / "run"),
            log=str(tmp_path / "log"),
            var=str(tmp_path / "var"),
        )
    )


@pytest.fixture
def kubelet() -> Answers:
    """Return a kubelet that has not answered yet."""
    return Answers()


@pytest.fixture
def registry(host: Host, kubelet: Answers) -> Registry:
    """Return an empty registry on that machine with that kubelet."""
    return Registry(host, host.cgroupfs, kubelet)


def write_bundle(host: Host, ident: str, name: str | None, uid: str = UID) -> None:
    """Put a bundle where containerd does; no name: the pod's sandbox."""
    folder = Path(host.run) / "containerd/io.containerd.runtime.v2.task/k8s.io" / ident
    folder.mkdir(parents=True)
    notes = {
        "container-type": "container" if name else "sandbox",
        "sandbox-name": "api-1",
        "sandbox-namespace": "shop",
        "sandbox-uid": uid,
    } | ({"container-name": name} if name else {})
    document = {"annotations": {f"io.kubernetes.cri.{key}": v for key, v in notes.items()}}
    (folder / "config.json").write_text(json.dumps(document))


def write_link(host: Host, ident: str, name: str) -> None:
    """Link a container's log as the kubelet does."""
    folder = Path(host.log) / "containers"
    folder.mkdir(parents=True, exist_ok=True)
    target = f"/var/log/pods/shop_api-1_{UID}/{name}/0.log"
    (folder / f"api-1_shop_{name}-{ident}.log").symlink_to(target)


def test_reserved_keys_and_the_root_are_always_there(registry: Registry) -> None:
    """Kernel, outside and root have their identities before any cgroup has."""
    found = registry.update({5: CgroupRef("/", 1), 6: CgroupRef("/odd/x", 2)}, 0)

    assert (found[KERNEL_KEY].kind, found[KERNEL_KEY].id) == ("kernel", "kernel")
    assert found[OUTSIDE_KEY].reason == "outside the visible cgroup tree"
    assert found[ROOT_KEY] == found[5]
    assert found[5].reason == "processes in the root cgroup"
    assert found[6].reason == "cgroup that no rule names: odd"
    assert {found[k].id for k in (OUTSIDE_KEY, ROOT_KEY, 5, 6)} == {"unattributed"}


def test_nothing_changed_gives_the_same_mapping(registry: Registry) -> None:
    """An unchanged tree costs a comparison, and the caller can tell by identity."""
    cgroups = tree("/system.slice/nginx.service", "/init.scope")
    first = registry.update(cgroups, 0)

    assert registry.update(dict(cgroups), SECOND) is first


def test_a_mapping_once_returned_never_changes(registry: Registry) -> None:
    """The analysis keeps what it was given while cgroups come and go."""
    first = registry.update(tree("/init.scope"), 0)
    copy = dict(first)
    registry.update(tree("/a.slice", "/b.slice", start=7), SECOND)

    assert first == copy


def test_cgroups_below_a_workload_share_its_identity(registry: Registry) -> None:
    """A container's own cgroups are all the container."""
    found = registry.update(tree(f"/docker/{A}", f"/docker/{A}/init", f"/docker/{A}/x/y"), 0)

    assert found[1] is found[2] is found[3]
    assert found[1].id == A


def test_bundle_names_container_sandbox_and_the_pods_own_cgroup(
    registry: Registry, host: Host
) -> None:
    """Everything of a pod has its name in the first answer after its cgroup appeared."""
    write_bundle(host, A, "server")
    write_bundle(host, B, None)
    found = registry.update(tree(POD, f"{POD}/{A}", f"{POD}/{B}"), 0)

    assert [
        (i.kind, i.name, i.pod, i.namespace, i.pod_uid) for i in (found[1], found[2], found[3])
    ] == [
        ("past", f"past:{UID}", "api-1", "shop", UID),
        ("container", "server", "api-1", "shop", UID),
        ("container", "pause", "api-1", "shop", UID),
    ]
    assert (found[2].names_from, found[2].runtime, found[2].sandbox) == (
        "bundle", "containerd", False,
    )  # fmt: skip
    assert found[3].sandbox
    assert registry.routes["bundle"] == "ok"


OTHER_UID = "1f3a5b1c-1111-4222-8333-444455556666"


@pytest.mark.parametrize("file", ["bundle", "log link"])
def test_a_file_that_names_another_pod_than_the_path_is_not_believed(
    registry: Registry, host: Host, file: str
) -> None:
    """Neither its pod nor any other name of it: the container is known by its path, and it shows.

    The container beside it, of which the file says the same pod as the path, has its names.
    """
    write = {"bundle": write_bundle, "log link": write_link}[file]
    for ident in (A, B):
        write(host, ident, "server")
    paths = (f"/kubepods/burstable/pod{OTHER_UID}/{A}", f"{POD}/{B}")
    found = registry.update(tree(*paths), 0)

    assert (found[1].id, found[1].name, found[1].pod_uid) == (A, A[:12], OTHER_UID)
    assert (found[1].pod, found[1].namespace, found[1].names_from) == (None, None, "path")
    assert (found[2].name, found[2].pod, found[2].namespace) == ("server", "api-1", "shop")
    assert [line for line in registry.problems if "another pod" in line]
    registry.update({}, SECOND)
    assert not registry.problems


def test_log_link_that_comes_late_names_the_container(registry: Registry, host: Host) -> None:
    """A link appears up to 0.6 s after the cgroup; the container is named by then."""
    cgroups = tree(f"{POD}/{A}")
    assert registry.update(cgroups, 0)[1].name == A[:12]
    write_link(host, A, "server")

    named = [registry.update(cgroups, round(t * SECOND))[1] for t in (0.2, 0.6, 1.2)]

    assert (named[-1].name, named[-1].names_from) == ("server", "log-link")
    assert (named[-1].pod, named[-1].namespace, named[-1].pod_uid) == ("api-1", "shop", UID)


def test_log_link_of_anothers_making_renames_no_pod(
    registry: Registry, host: Host, kubelet: Answers
) -> None:
    """A pod that may write into /var/log puts a file beside the kubelet's link, or a link."""
    folder = Path(host.log) / "containers"
    write_link(host, A, "server")
    (folder / f"zz_kube-system_evil-{A}.log").write_text("")
    write_link(host, B, "server")
    (folder / f"zz_kube-system_evil-{B}.log").symlink_to(f"/var/log/pods/k_zz_{UID}/evil/0.log")
    kubelet.view = PodView(SECOND, (pod(server()),))
    path = f"/system.slice/cri-containerd-{'c3' * 32}.scope"  # in no pod
    write_link(host, "c3" * 32, "server")
    found = registry.update(tree(f"{POD}/{A}", f"{POD}/{B}", path), SECOND)

    assert (found[1].name, found[1].pod, found[1].namespace) == ("server", "api-1", "shop")
    assert found[2].name == B[:12]
    assert "evil" not in str(found)
    assert (found[3].pod, found[3].pod_uid) == (None, None)


def test_container_without_any_name_is_asked_for_rarely_in_the_end(
    registry: Registry, host: Host
) -> None:
    """After 3 s host files are read every 30 s only: a name that comes very late still comes."""
    cgroups = tree(f"{POD}/{A}")
    for tenth in range(40):
        registry.update(cgroups, tenth * SECOND // 10)
    write_link(host, A, "server")

    assert registry.update(cgroups, 30 * SECOND)[1].name == A[:12]
    assert registry.update(cgroups, 35 * SECOND)[1].name == "server"


def test_kubelet_adds_owner_labels_and_class_to_what_the_bundle_said(
    registry: Registry, host: Host, kubelet: Answers
) -> None:
    """Names stay the bundle's; labels are data, control characters included."""
    write_bundle(host, A, "server")
    cgroups = tree(f"{POD}/{A}")
    registry.update(cgroups, 0)
    kubelet.view = PodView(SECOND, (pod(server()),))
    found = registry.update(cgroups, SECOND)[1]

    assert (found.name, found.names_from, found.runtime) == ("server", "bundle", "containerd")
    assert (found.owner, found.qos, found.labels) == (
        "Deployment/api", "Burstable", {"team": "x\x1b[31m"},
    )  # fmt: skip


def test_kubelet_alone_names_by_container_id(registry: Registry, kubelet: Answers) -> None:
    """Without host files the kubelet's list names container, pod, runtime and owner."""
    kubelet.view = PodView(0, (pod(server()),))
    found = registry.update(tree(f"{POD}/{A}"), SECOND)[1]

    assert (found.name, found.pod, found.namespace) == ("server", "api-1", "shop")
    assert (found.names_from, found.runtime, found.stale) == ("kubelet", "crio", False)


def test_unlisted_container_of_a_known_pod_has_at_least_its_pod(
    registry: Registry, kubelet: Answers
) -> None:
    """An id the kubelet does not know (frozen status) is mapped by the pod uid of its path."""
    kubelet.view = PodView(0, (pod(server(B)),))
    found = registry.update(tree(f"{POD}/{A}"), SECOND)[1]

    assert (found.name, found.pod, found.owner) == (A[:12], "api-1", "Deployment/api")


def test_kubelet_never_overrides_the_pod_of_the_path(registry: Registry, kubelet: Answers) -> None:
    """A mirror pod's uid (or another wrong one) leaves the cgroup's own uid alone."""
    kubelet.view = PodView(0, (pod(server(), uid="99999999-0000-4000-8000-000000000000"),))
    found = registry.update(tree(f"{POD}/{A}"), SECOND)[1]

    assert (found.pod_uid, found.pod, found.name) == (UID, None, A[:12])


def test_the_one_child_that_the_kubelet_does_not_list_is_the_sandbox(
    registry: Registry, kubelet: Answers
) -> None:
    """Sandboxes are in no list; a child that is still missing after seconds is one."""
    cgroups = tree(f"{POD}/{A}", f"{POD}/{B}")
    registry.update(cgroups, 0)
    kubelet.view = PodView(SECOND, (pod(server()),))
    early = registry.update(cgroups, SECOND)[2]
    kubelet.view = PodView(10 * SECOND, (pod(server()),))
    late = registry.update(cgroups, 10 * SECOND)[2]

    assert (early.sandbox, early.name) == (False, B[:12])
    assert (late.sandbox, late.name, late.names_from) == (True, "pause", "kubelet")


def test_two_unlisted_children_are_not_guessed_between(
    registry: Registry, kubelet: Answers
) -> None:
    """A restarted container that a frozen list lacks is never called the sandbox."""
    cgroups = tree(f"{POD}/{A}", f"{POD}/{B}", f"{POD}/{C}")
    registry.update(cgroups, 0)
    kubelet.view = PodView(10 * SECOND, (pod(server()),))
    found = registry.update(cgroups, 10 * SECOND)

    assert [found[k].sandbox for k in (1, 2, 3)] == [False, False, False]


def test_a_pod_has_one_sandbox(registry: Registry, kubelet: Answers) -> None:
    """With the sandbox known, a later unlisted child stays a container; a listed one is none."""
    cgroups = tree(f"{POD}/{A}", f"{POD}/{B}")
    registry.update(cgroups, 0)
    kubelet.view = PodView(10 * SECOND, (pod(server()),))
    registry.update(cgroups, 10 * SECOND)
    cgroups |= tree(f"{POD}/{C}", start=3)
    registry.update(cgroups, 11 * SECOND)
    kubelet.view = PodView(20 * SECOND, (pod(server()),))
    unlisted = registry.update(cgroups, 20 * SECOND)[3]
    kubelet.view = PodView(30 * SECOND, (pod(server(), Container(B, "late", None, "running")),))
    corrected = registry.update(cgroups, 30 * SECOND)[2]

    assert not unlisted.sandbox
    assert (corrected.sandbox, corrected.name) == (False, "late")


def test_podman_inside_a_pod_is_not_its_sandbox(registry: Registry, kubelet: Answers) -> None:
    """Only direct children of the pod's cgroup can be its sandbox."""
    cgroups = tree(f"{POD}/{A}", f"{POD}/{A}/libpod-{B}")
    registry.update(cgroups, 0)
    kubelet.view = PodView(10 * SECOND, (pod(server()),))
    found = registry.update(cgroups, 10 * SECOND)[2]

    assert (found.parent, found.pod, found.sandbox) == (A, "api-1", False)


@pytest.mark.parametrize("bad", [None, ()], ids=["no answer", "empty answer"])
def test_bad_answers_delete_nothing_and_show_as_stale(
    registry: Registry, kubelet: Answers, bad: tuple[Pod, ...] | None
) -> None:
    """Names, owner and labels stay while the cgroup lives, marked stale, and recover."""
    cgroups = tree(f"{POD}/{A}")
    kubelet.view = PodView(0, (pod(server()),))
    before = registry.update(cgroups, SECOND)[1]
    kubelet.stale = True
    if bad is not None:
        kubelet.view = PodView(SECOND, bad)
    during = registry.update(cgroups, 2 * SECOND)[1]
    kubelet.stale = False
    kubelet.view = PodView(3 * SECOND, (pod(server()),))
    after = registry.update(cgroups, 4 * SECOND)[1]

    assert during.stale
    assert (during.name, during.pod, during.owner, during.labels) == (
        before.name, before.pod, before.owner, before.labels,
    )  # fmt: skip
    assert after == before


def test_pod_that_left_the_list_keeps_its_names_until_its_cgroup_is_gone(
    registry: Registry, kubelet: Answers
) -> None:
    """A removed static pod runs on for its grace period, also in cgroups that come then."""
    cgroups = tree(POD, f"{POD}/{A}")
    kubelet.view = PodView(0, (pod(server()),))
    registry.update(cgroups, 0)
    kubelet.view = PodView(SECOND, (pod(uid="other"),))
    kept = registry.update(cgroups | tree(f"{POD}/{B}", start=9), SECOND)
    registry.update({}, 2 * SECOND)
    kubelet.view = PodView(3 * SECOND, (pod(uid="other"),))
    registry.update({}, 3 * SECOND)
    again = registry.update(tree(f"{POD}/{A}", start=20), 4 * SECOND)[20]

    assert [kept[k].pod for k in (1, 2, 9)] == ["api-1"] * 3
    assert (again.pod, again.name) == (None, A[:12])


def test_kubelet_is_wanted_for_an_unknown_container_and_then_left_alone(
    registry: Registry, kubelet: Answers
) -> None:
    """Questions at 0.05, 0.2, 1 and 3 s after a cgroup appeared; then the interval is enough."""
    cgroups = tree(f"{POD}/{A}")
    wanted = []
    for tenth in range(80):
        now_ns = tenth * SECOND // 10
        registry.update(cgroups, now_ns)
        if registry.wants_kubelet:
            wanted.append(tenth)
            kubelet.asked_ns = now_ns

    assert wanted == [1, 2, 10, 30]


def test_known_containers_and_plain_units_never_want_the_kubelet(
    registry: Registry, kubelet: Answers
) -> None:
    """A node without pods, or one that is fully known, is asked at the interval only."""
    kubelet.view = PodView(0, (pod(server()),))
    registry.update(tree(f"{POD}/{A}", f"/docker/{B}", "/init.scope", POD), SECOND)

    assert not registry.wants_kubelet


def test_docker_container_takes_the_name_of_its_command_line_once(
    registry: Registry, host: Host
) -> None:
    """Outside Kubernetes `--name` of the first process is the last resort, read at first sight."""
    cgroup, process = Path(host.cgroupfs) / f"docker/{A}", Path(host.procfs) / "77"
    for folder in (cgroup, process):
        folder.mkdir(parents=True)
    (cgroup / "cgroup.procs").write_text("77\n")
    (process / "cmdline").write_bytes(b"app\0--name=web\0")
    cgroups = tree(f"/docker/{A}")
    found = registry.update(cgroups, 0)[1]
    (process / "cmdline").write_bytes(b"app\0--name=other\0")
    later = registry.update(cgroups, 60 * SECOND)[1]

    assert (found.name, found.names_from) == ("web", "cmdline")
    assert later.name == "web"


def test_podman_containers_in_quick_succession_all_get_their_recorded_names(
    registry: Registry, host: Host
) -> None:
    """A record that is younger than the last look is waited for before the command line counts."""
    record = Path(host.var) / "lib/containers/storage/overlay-containers/containers.json"
    record.parent.mkdir(parents=True)
    names = {A: "db", B: "web"}
    for number, ident in enumerate(names):
        cgroup, process = Path(host.cgroupfs) / f"libpod_parent/libpod-{ident}", number + 77
        cgroup.mkdir(parents=True)
        (cgroup / "cgroup.procs").write_text(f"{process}\n")
        (Path(host.procfs) / str(process)).mkdir(parents=True)
        (Path(host.procfs) / str(process) / "cmdline").write_bytes(b"app\0")
        entries = [{"id": i, "names": [n]} for i, n in list(names.items())[: number + 1]]
        record.with_suffix(".new").write_text(json.dumps(entries))
        record.with_suffix(".new").rename(record)
        paths = [f"/libpod_parent/libpod-{i}" for i in list(names)[: number + 1]]
        registry.update(tree(*paths), number * SECOND // 20)
    found = registry.update(tree(*paths), SECOND // 4)

    assert {who.name for who in found.values()} >= set(names.values())


def test_forgotten_keys_leave_nothing_behind(registry: Registry) -> None:
    """Ten thousand containers that came and went cost no memory afterwards.

    Some of them were seen being made, and of those some never came to the accounting.
    """
    key = 0
    for generation in range(100):
        cgroups = {}
        for n in range(100):
            key += 1
            cgroups[key] = CgroupRef(f"{POD}/{generation:032x}{n:032x}", key)
        if generation % 10 == 0:
            paths = [ref.path for ref in cgroups.values()][:50]
            never = [f"{POD}/{generation:032x}{n:032x}" for n in range(100, 103)]
            below = [f"{POD}/half-{n}" for n in range(3)]
            registry.foresee([*paths, *never, *below], generation * SECOND)
            assert len(registry._read) >= len(registry._foreseen) > 0
        registry.update(cgroups, generation * SECOND)
    found = registry.update({}, 200 * SECOND)

    assert set(found) == {KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY, LOST_KEY}
    for held in (
        *(registry._workloads, registry._of_key, registry._of_pod, registry._nameless),
        *(registry._unknown, registry._listing.pods, registry._paths, registry._own.pending),
        *(registry._claims._of_id, registry._claims._contested, registry._claims._mismatched),
        *(registry._foreseen, registry._read),
    ):
        assert not held


def test_so_many_cgroups_are_foreseen(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes cgroups faster than they are accounted fills no memory; all have their ids."""
    monkeypatch.setattr("tychod.workloads.registry.MOST_FORESEEN", 3)
    paths = [f"{POD}/{n:064x}" for n in range(5)]
    registry.foresee(paths, 0)
    assert len(registry._read) == len(registry._foreseen) == 3
    found = registry.update(tree(*paths), SECOND)

    assert [found[key].id for key in range(1, 6)] == [f"{n:064x}" for n in range(5)]


TENANTS = (
    "/user.slice/user-1000.slice/user@1000.service/app.slice/cri-containerd-{}.scope",
    f"/docker/{D}/kubelet/kubepods/burstable/pod{UID}/{{}}",
    "/lxc.payload.web/docker/{}",
)


@pytest.mark.parametrize("path", TENANTS)
def test_a_tenants_container_gets_no_name_of_the_hosts(
    registry: Registry, host: Host, kubelet: Answers, path: str
) -> None:
    """Bundle, log link and kubelet speak of the host's container of that id, not of a copy."""
    write_bundle(host, A, "server")
    write_link(host, A, "server")
    kubelet.view = PodView(SECOND, (pod(server()),))
    found = registry.update(tree(path.format(A)), SECOND)[1]
    kubelet.view = PodView(5 * SECOND, (pod(server()),))
    later = registry.update(tree(path.format(A)), 40 * SECOND)[1]

    assert not registry.wants_kubelet
    for told in (found, later):
        assert (told.id, told.name, told.pod) == (A, A[:12], None)
        assert pod_key(told) in {None, f"{UID}@/docker/{D}"}
        assert (told.namespace, told.owner, told.labels, told.requests) == (None, None, {}, {})


def test_two_claims_of_one_id_are_told_once(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """One line when a second cgroup claims an id, and no more than one a minute for others."""
    paths = [f"{POD}/{A}", TENANTS[0].format(A), f"{POD}/{B}", TENANTS[0].format(B)]
    registry.update(tree(*paths[:1]), 0)
    assert caplog.messages == []
    for second in range(1, 30):
        registry.update(tree(*paths[:2]), second * SECOND)
    assert len(caplog.messages) == 1
    assert f"two workloads claim the id {A} (1 such" in caplog.messages[0]
    assert repr(paths[1]) in caplog.messages[0]
    registry.update(tree(*paths), 31 * SECOND)
    assert len(caplog.messages) == 1
    registry.update(tree(*paths), 61 * SECOND)
    assert f"two workloads claim the id {B}" in caplog.messages[1]
    registry.update(tree(*paths), 200 * SECOND)
    assert len(caplog.messages) == 2


def test_requests_of_a_container_come_from_the_kubelet(
    registry: Registry, host: Host, kubelet: Answers
) -> None:
    """What it asked for is known by its name in the pod; a sandbox or another asked for nothing."""
    write_bundle(host, A, "server")
    write_bundle(host, B, None)
    write_bundle(host, C, "other")
    cgroups = tree(f"{POD}/{A}", f"{POD}/{B}", f"{POD}/{C}", POD)
    before = registry.update(cgroups, 0)[1]
    kubelet.view = PodView(SECOND, (pod(server()),))
    found = registry.update(cgroups, SECOND)

    assert before.requests == {}
    assert [found[key].requests for key in (1, 2, 3, 4)] == [
        {"cpu_millicores": 200, "memory_bytes": 64 << 20}, {}, {}, {},
    ]  # fmt: skip

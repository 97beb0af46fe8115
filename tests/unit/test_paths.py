"""Cgroup paths: every rule by its own examples, and the borders between the rules."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod.model import PAST_ID
from tychod.views import PROCESS_MARK, past_id, pod_key
from tychod.workloads.paths import (
    MAX_BELOW,
    MAX_ID,
    identify,
    name_from_cmdline,
    unattributed,
    unnamed_reason,
)
from tychod.workloads.rules import RULES, Rule

A, B = "a1" * 32, "b2" * 32
UID = "0f3a5b1c-1111-4222-8333-444455556666"
UID_ = UID.replace("-", "_")
STATIC = "5c2de33fd2a3a1c2d7f0b1e5a4c3b2d1"
BURSTABLE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
KIND = f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice"
SHIM = f"/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice"
K3S = f"/k3s.slice/k3s-kubepods.slice/k3s-kubepods-besteffort-pod{UID_}.slice"
SNAP = "/system.slice/snap.microk8s.daemon-containerd.service"
MICROK8S = f"{SNAP}/kubepods-burstable-pod{UID_}.slice"
USER = "/user.slice/user-1000.slice/user@1000.service"

EXAMPLES = [
    pytest.param(rule, path, identifier, id=f"{rule.kind}-{rule.runtime}-{path[:60]}")
    for rule in RULES
    for path, identifier in rule.examples
]


@pytest.mark.parametrize(("rule", "path", "identifier"), EXAMPLES)
def test_each_rule_names_its_own_examples(rule: Rule, path: str, identifier: str) -> None:
    """An example beside a rule is decided by that rule, whatever stands before it in the table."""
    identity = identify(path)

    assert identity is not None
    assert (identity.kind, identity.runtime, identity.id) == (rule.kind, rule.runtime, identifier)


def test_every_rule_has_an_example() -> None:
    """No rule is in the table without a path that shows what it is for."""
    assert all(rule.examples for rule in RULES)


@pytest.mark.parametrize(
    ("path", "uid", "qos"),
    [
        (f"/kubepods/pod{UID}/{A}", UID, "Guaranteed"),
        (f"/kubepods/burstable/pod{UID}/{A}", UID, "Burstable"),
        (f"/kubepods/besteffort/pod{STATIC}/{A}", STATIC, "BestEffort"),
        (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{A}.scope", UID, "Guaranteed"),
        (f"{BURSTABLE}/cri-containerd-{A}.scope", UID, "Burstable"),
        (f"/kubepods.slice/kubepods-pod{STATIC}.slice/crio-{A}.scope", STATIC, "Guaranteed"),
        (f"{SHIM}:cri-containerd:{A}", UID, "BestEffort"),
        (f"{KIND}/cri-containerd-{A}.scope", UID, "Guaranteed"),
        (f"/docker/{B}", None, None),
        (f"/kubelet/kubepods/besteffort/pod{UID}/{A}", UID, "BestEffort"),
        (f"{K3S}/cri-containerd-{A}.scope", UID, "BestEffort"),
        (f"{MICROK8S}:cri-containerd:{A}", UID, "Burstable"),
        (
            f"/runtime.slice/containerd.service/kubepods-pod{UID_}.slice:cri-containerd:{A}/x",
            UID,
            "Guaranteed",
        ),
        (
            f"/mnt/systemd/system.slice/k3s.service/kubepods-pod{UID_}.slice:cri-containerd:{A}",
            UID,
            "Guaranteed",
        ),
        (f"/kubepods/burstable/pod{UID}/kata_{A}/sandbox", UID, "Burstable"),
        (f"{BURSTABLE}/crio-conmon-{A}.scope", UID, "Burstable"),
        (f"{BURSTABLE}/docker-{A}.scope", UID, "Burstable"),
        (f"/docker/{B}/kubepods/burstable/pod{STATIC}/{A}", STATIC, "Burstable"),
    ],
)
def test_pod_and_class_come_from_the_path(path: str, uid: str | None, qos: str | None) -> None:
    """Both cgroup drivers, all three classes and static pods give the pod's uid and its class."""
    identity = identify(path)

    assert identity is not None
    assert (identity.pod_uid, identity.qos) == (uid, qos)


def test_container_is_called_by_its_short_id_until_a_name_is_known() -> None:
    """A path gives the full id and, as name, what the runtime's own tools would print."""
    identity = identify(f"{BURSTABLE}/cri-containerd-{A}.scope/init.scope/deeper")

    assert identity is not None
    assert (identity.id, identity.name, identity.names_from) == (A, A[:12], "path")
    assert identity.cgroup == f"{BURSTABLE}/cri-containerd-{A}.scope"


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        (f"/system.slice/docker-{A}.scope{KIND}/cri-containerd-{B}.scope", A),
        (f"/docker/{A}/docker/{B}", A),
        (f"{BURSTABLE}/crio-{A}.scope/libpod-{B}.scope", A),
        (f"/system.slice/web.service/libpod-payload-{A}", "web.service"),
        (f"{USER}/app.slice/foo.service", "user@1000.service"),
        (f"{USER}/user.slice/libpod-{A}.scope", "user@1000.service"),
        (f"{BURSTABLE}/cri-containerd-{A}.scope", None),
        (f"/kubepods/pod{UID}/{A}", None),
        ("/system.slice/nginx.service", None),
        (f"{USER}", None),
    ],
)
def test_parent_is_the_enclosing_workload_and_never_a_grouping(
    path: str, parent: str | None
) -> None:
    """Containers and services enclose; slices and pods only group."""
    identity = identify(path)

    assert identity is not None
    assert identity.parent == parent


def test_container_inside_a_pod_s_container_belongs_to_that_pod() -> None:
    """Podman in a CRI-O pod: a leaf of its own, and the pod's energy includes it."""
    inner = identify(f"{BURSTABLE}/crio-{A}.scope/libpod-{B}.scope")

    assert inner is not None
    assert (inner.id, inner.runtime, inner.pod_uid) == (B, "podman", UID)


@pytest.mark.parametrize(
    "below",
    ["/system.slice/nginx.service", "/init.scope", "/kubelet", "/user.slice/user-0.slice"],
)
def test_units_inside_a_container_belong_to_the_container(below: str) -> None:
    """A container's own nginx.service is not the host's nginx.service."""
    assert identify(f"/system.slice/docker-{A}.scope{below}") == identify(
        f"/system.slice/docker-{A}.scope"
    )


def test_past_of_a_cluster_inside_a_container_is_the_containers() -> None:
    """The groupings of a nested cluster never reach the host's own past."""
    outer = identify(f"/docker/{A}/kubelet/kubepods/besteffort")

    assert outer is not None
    assert outer.id == A


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        f"/docker/{A[:-1]}",
        f"/docker/{A}f",
        f"/docker/{A.upper()}",
        f"/libpod_parent/{A[:-1]}",
        "/lxc.payload.",
        "/lxc.payload.web 01",
        "/lxc/" + "x" * 129,
        "/firecracker/" + "x" * 65,
        "/process_api/a3e0720305b8ec9c0307749777c639b8",
        "/../system.slice/x.service",
        "/foo/bar.service",
        "/.service",
        f"/kubepods/burstable/x/pod{UID}/{A}",
        "/kubepods/besteffort/half-writ",
    ],
)
def test_what_no_rule_names_is_nobodys(path: str) -> None:
    """Half-written, foreign or merely similar names are left to the caller, never guessed."""
    assert identify(path) is None


def test_unnamed_cgroups_say_which_top_cgroup_they_are_in() -> None:
    """The reason names the top component, bounded, so that there are few different reasons."""
    leaf = unattributed(unnamed_reason("/batch/a/b"))

    assert (leaf.kind, leaf.id) == ("unattributed", "unattributed")
    assert leaf.reason == "cgroup that no rule names: batch"
    assert unnamed_reason("/\udcff\udcfe/a").isascii()
    assert len(unnamed_reason("/" + "x" * 5000)) < 100


@given(st.lists(st.text(st.characters(blacklist_characters="/"), max_size=80), max_size=80))
def test_no_path_is_too_odd(components: list[str]) -> None:
    """Whatever a cgroup is called, the answer is a bounded identity inside that path, or none."""
    path = "/" + "/".join(components)
    identity = identify(path)

    if identity is not None and identity.id != PAST_ID:
        assert identity.cgroup is not None
        assert path.startswith(identity.cgroup)


@given(st.text("0123456789abcdef", min_size=64, max_size=64), st.text("/abc", max_size=40))
def test_cgroups_below_a_container_never_change_its_identity(ident: str, below: str) -> None:
    """Whatever a container makes below its own cgroup, the container stays itself."""
    top = f"/system.slice/docker-{ident}.scope"

    assert identify(re.sub("/+", "/", f"{top}/{below}")) == identify(top)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (("qemu", "--name"), None),
        (("app", "--name=two words"), None),
        (("app", "--name", "--other"), None),
        (("containerd-shim-runc-v2", "-namespace", "moby", "-id"), None),
        (("app", "--name=" + "x" * 300), None),
        (("app", "--name=web-1"), "web-1"),
    ],
)
def test_only_what_can_be_a_container_name_is_taken_from_a_command_line(
    argv: tuple[str, ...], name: str | None
) -> None:
    """Options, sentences and paths of a command line never become a name."""
    assert name_from_cmdline(argv) == name


def whose(path: str) -> tuple[str, str, str | None, str | None]:
    """Return kind, id, pod and tenant of a path that is named."""
    identity = identify(path)
    assert identity is not None
    return identity.kind, identity.id, identity.pod_uid, identity.tenant


@pytest.mark.parametrize("top", [USER, "/system.slice/web.service", f"/docker/{B}", "/lxc/100"])
@pytest.mark.parametrize(
    ("below", "kind", "leaf_id"),
    [
        ("/kubepods/pod99/x", "past", "past:99@{}"),
        ("/kubelet/kubepods/besteffort/pod99", "past", "past:99@{}"),
        ("/kubepods.slice/kubepods-burstable-pod99.slice/x", "past", "past:99@{}"),
        (f"/kubepods/pod99/{A}", "container", A),
        (f"/kubepods/pod99/kata_{A}", "container", A),
        (f"/kubepods.slice/kubepods-pod99.slice/cri-containerd-{A}.scope/x", "container", A),
    ],
)
def test_pods_in_a_tree_given_away_are_their_tenants(
    top: str, below: str, kind: str, leaf_id: str
) -> None:
    """A user, a service or a container may have a cluster of its own: never the host's pods."""
    found = identify(top + below)
    outer = identify(top)

    assert found is not None
    assert outer is not None
    assert (found.kind, found.id) == (kind, leaf_id.format(top))
    assert (found.pod_uid, found.tenant, found.parent) == ("99", top, outer.id)
    assert pod_key(found) == f"99@{top}"


def test_classes_of_pods_in_a_tree_given_away_are_what_runs_there() -> None:
    """No grouping of a tenant's is the host's past, and a cluster of a user's is his unit's."""
    unit = "/app.slice/k3s-rootless.service"
    inner = identify(f"{USER}{unit}/kubepods/pod99/{A}")

    assert whose(f"{USER}/kubepods/besteffort")[:2] == ("unit", "user@1000.service")
    assert whose(f"/docker/{A}/kubelet/kubepods/besteffort")[:2] == ("container", A)
    assert whose(f"{USER}{unit}/kubepods")[:2] == ("unit", f"user@1000.service{unit}")
    assert inner is not None
    assert (inner.parent, inner.qos) == (f"user@1000.service{unit}", "Guaranteed")


@pytest.mark.parametrize(
    ("below", "pod"),
    [
        (f"/user.slice/libpod-{A}.scope/container", None),
        (f"/user.slice/user-libpod_pod_{B}.slice/libpod-{A}.scope", None),
        (f"/app.slice/web.service/libpod-payload-{A}", None),
        (f"/app.slice/docker.service/docker/{A}", None),
        (f"/user.slice/nerdctl-{A}.scope", None),
        (f"/kubepods-besteffort-pod{UID_}.slice/cri-containerd-{A}.scope", UID),
    ],
)
def test_rootless_container_is_its_users_and_never_the_hosts_pods(
    below: str, pod: str | None
) -> None:
    """Its id is believed as far as nobody else has it; a pod's uid as one of the user's own."""
    found = identify(USER + below)

    assert found is not None
    assert whose(USER + below) == ("container", A, pod, USER)
    assert pod_key(found) == (pod and f"{pod}@{USER}")


@pytest.mark.parametrize(
    ("below", "inner"),
    [
        ("/kubepods/pod99/x", False),
        ("/kubepods/besteffort/pod99", False),
        (f"/kubepods/pod99/crio-conmon-{A}", False),
        ("/firecracker/vm1", False),
        (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator", False),
        ("/machine/qemu-1-vm.libvirt-qemu/vcpu0", False),
        (f"/kubelet/kubepods/besteffort/pod99/{A}", True),
        (f"/kubepods.slice/kubepods-pod99.slice/cri-containerd-{A}.scope/x", True),
        (f"/docker/{A}", True),
    ],
)
def test_all_that_a_pods_container_makes_is_that_pods(below: str, inner: bool) -> None:
    """A pod hides nothing behind names of its own: not in inner pods and not in inner VMs."""
    outer = f"{BURSTABLE}/crio-{B}.scope"
    named = identify(outer + below)

    assert named is not None
    assert (named.id, named.parent) == ((A, B) if inner else (B, None))
    assert (named.pod_uid, named.tenant) == (UID, outer if inner else None)
    assert pod_key(named) == UID


@pytest.mark.parametrize("outer", [f"/docker/{B}", "/lxc.payload.ci", f"{USER}/app.slice/a.scope"])
@pytest.mark.parametrize(
    ("below", "kind", "leaf_id", "name"),
    [
        ("/lxc.payload.web", "container", "lxc:web", "web"),
        ("/lxc/web/x", "container", "lxc:web", "web"),
        ("/machine.slice/machine-a.scope", "container", "nspawn:a", "a"),
        ("/machine.slice/systemd-nspawn@a.service/payload", "container", "nspawn:a", "a"),
        (r"/machine.slice/machine-qemu\x2d7\x2dvm\x2d1.scope/libvirt", "vm", "qemu-7-vm-1", "vm-1"),
        ("/machine/qemu-7-vm.libvirt-qemu/emulator", "vm", "qemu-7-vm", "vm"),
        ("/firecracker/kernel", "vm", "firecracker:kernel", "kernel"),
        ("/buildkit/jvifp9a6b1lxa1kuw8bwfcovf", "container", "buildkit:jvifp9a6b1lxa1kuw8bwfcovf",
         "jvifp9a6b1lxa1kuw8bwfcovf"),
    ],
)  # fmt: skip
def test_names_chosen_in_a_tenants_tree_say_whose_they_are(
    outer: str, below: str, kind: str, leaf_id: str, name: str
) -> None:
    """Two trees may both have a container "web": neither is the other, nor the host's."""
    top = USER if outer.startswith(USER) else outer
    found = identify(outer + below)
    enclosing = identify(outer)

    assert found is not None
    assert enclosing is not None
    assert (found.kind, found.id, found.name) == (kind, f"{leaf_id}@{top}", name)
    assert (found.tenant, found.parent) == (top, enclosing.id)


def test_monitor_of_a_container_is_a_unit_of_its_own() -> None:
    """What watches over a container is not in it; in a tenant's tree it is the tenant's."""
    monitor = "lxc.monitor.web"

    assert whose(f"/{monitor}/deeper")[:2] == ("unit", monitor)
    assert whose("/lxc.monitor/100")[:2] == ("unit", "lxc.monitor.100")
    assert whose(f"/lxc.payload.a/{monitor}")[:2] == ("container", "lxc:a")
    assert whose(f"{USER}/app.slice/a.scope/{monitor}")[1] == "user@1000.service/app.slice/a.scope"


def test_container_in_a_container_of_lxc_or_nspawn_is_a_leaf_with_a_parent() -> None:
    """Docker in LXC and in nspawn: both levels are there, the inner one a tenant's."""
    for top, outer in (
        ("/lxc/100/ns", "lxc:100"),
        ("/machine.slice/systemd-nspawn@a.service/payload", "nspawn:a"),
        ("/machine.slice/machine-a.scope/payload", "nspawn:a"),
    ):
        found = identify(f"{top}/system.slice/docker-{A}.scope/init.scope")
        assert found is not None
        assert (found.id, found.parent) == (A, outer)
        assert found.tenant is not None


def test_the_hosts_own_containers_have_no_tenant() -> None:
    """Only root makes these, the runtime's own service included."""
    nspawn = "/machine.slice/systemd-nspawn@a.service/payload"
    shim = f"{SHIM}:cri-containerd:{A}"
    for path in (f"{BURSTABLE}/crio-{A}.scope", f"/docker/{A}", shim, "/lxc.payload.a", nspawn):
        assert whose(path)[::3] == ("container", None)
    inner = identify(f"{shim}/docker/{B}")
    assert inner is not None
    assert (inner.pod_uid, inner.tenant, pod_key(inner)) == (UID, shim, UID)


_WORDS = [
    *("kubepods", "burstable", "pod99", "docker", "x.slice", "a.service", "init.scope", "lxc"),
    *(f"kubepods-pod{STATIC}.slice", f"kubepods-pod99.slice:cri-containerd:{A}", "user@0.service"),
    *(A, f"kata_{A}", f"crio-conmon-{A}", f"docker-{A}.scope", f"cri-containerd-{A}.scope"),
    *(f"libpod-{A}", "lxc.payload.a", "lxc.monitor.a", "containerd.service", "payload", "past"),
    *("systemd-nspawn@a.service", "firecracker", "qemu.slice", "1.scope", "vm.libvirt-qemu"),
    *(r"machine-qemu\x2d1\x2da.scope", "machine.slice", "buildkit", "b" * 25, "kata_overhead"),
]
_GIVEN = [USER, f"/docker/{B}", "/lxc.payload.a", "/system.slice/web.service", "/lxc/a",
          "/firecracker/a", "/lxc.payload.odd name", "/lxc/odd name", "/lxc.monitor.a"]  # fmt: skip


@given(st.sampled_from(_GIVEN), st.lists(st.sampled_from(_WORDS), max_size=7))
def test_no_name_inside_a_tenants_tree_reaches_beyond_it(top: str, below: list[str]) -> None:
    """Whatever a tenant makes: the pod is its own, and no group of it is the host's past."""
    identity = identify("/".join([top, *below]))

    if identity is None or identity.cgroup == top:
        assert identity == identify(top)
        return
    assert identity.tenant == top
    assert identity.pod_uid is None or pod_key(identity) == f"{identity.pod_uid}@{top}"
    if identity.kind == "past":
        assert identity.id == past_id(identity)
        assert identity.pod_uid is not None


@given(st.lists(st.sampled_from(_WORDS), max_size=7))
def test_what_a_hosts_pod_makes_is_its_own(below: list[str]) -> None:
    """Below a pod's container everything stays that pod's, by whatever name."""
    top = f"{BURSTABLE}/crio-{B}.scope"
    identity = identify("/".join([top, *below]))

    assert identity is not None
    assert pod_key(identity) == UID
    assert identity.kind == "container"


_ODD = st.text(st.characters(blacklist_characters="/"), min_size=1, max_size=300)
_SHAPES = ["{}", "lxc.payload.{}", "machine-{}.scope", "{}.service", "pod{}", "docker-{}.scope",
           "systemd-nspawn@{}.service", "kubepods-pod{}.slice", "{}.libvirt-qemu"]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(_SHAPES), _ODD | st.sampled_from(_WORDS)), max_size=70))
def test_ids_are_bounded_plain_text_of_one_kind(parts: list[tuple[str, str]]) -> None:
    """Odd bytes, escapes and endless names reach no id: there such a cgroup names nothing."""
    identity = identify("/" + "/".join(shape.format(odd) for shape, odd in parts))

    if identity is None:
        return
    own = identity.id.removesuffix(f"@{identity.tenant}")
    assert own.isascii()
    assert own.isprintable()
    assert max(len(identity.id), len(identity.name)) <= 1024
    looks = {
        "past": identity.id == "past" or identity.id.startswith("past:"),
        "unit": identity.id.startswith(("crio-conmon-", "libpod-conmon", "lxc.monitor."))
        or identity.id.endswith((".service", ".scope", ".slice", ".socket", ".mount", ".swap")),
        "vm": identity.id.startswith(("qemu-", "ch-", "firecracker:")),
        "container": re.match("[0-9a-f]{64}$|(lxc|nspawn|buildkit|kata_overhead):", identity.id),
    }
    assert looks[identity.kind]
    assert identity.id not in {"kernel", "system", "unattributed"}


@pytest.mark.parametrize(
    "top",
    [f"/docker/{A}", f"{BURSTABLE}/crio-{A}.scope", "/system.slice/a.service", USER, "/lxc/100",
     "/machine.slice/machine-a.scope", "/firecracker/a", "/lxc", "/docker", "/buildkit", "/odd"],
)  # fmt: skip
@pytest.mark.parametrize("start", ["", "docker-", "pod", "lxc.payload."])
def test_mark_of_a_process_matches_nothing(top: str, start: str) -> None:
    """The component that stands for a process is never a name itself."""
    below = identify(f"{top}/{start}{PROCESS_MARK[1:]}4711-99")
    above = identify(top)

    assert below == (None if above is None or above.id == PAST_ID else above)


@pytest.mark.parametrize(
    "path",
    ["/" + "/".join(["kubepods-" * 1111] * 90), "/" + "x" * 10_000 + ".service",
     "/".join([USER, *["y" * 250 + ".slice"] * 90, "a.service"]),
     "/lxc.payload." + "a" * 10_000, "/machine.slice/machine-" + r"\x2d" * 2_500 + ".scope",
     "/user.slice/" + "/".join(["docker"] * 500)],
)  # fmt: skip
def test_endless_paths_name_at_most_what_is_above(path: str) -> None:
    """No name longer than the kernel's is anybody's, nor a cgroup deeper than anybody's."""
    identity = identify(path)

    assert identity is None or identity.kind == "unit"
    assert identity is None or len(identity.id) <= 1024


@pytest.mark.parametrize("depth", [64, 65])
def test_a_cgroup_too_deep_belongs_to_what_is_above(depth: int) -> None:
    """The work of one path is bounded: beyond so many levels nothing is looked at."""
    found = identify("/".join(["", *["x"] * (depth - 2), "docker", A]))

    assert (found.id if found else None) == (A if depth == 64 else None)


def test_an_id_too_long_is_that_of_what_is_above() -> None:
    """Slices in slices make a unit's id as long as its path: there is an end to it."""
    own = "y" * 240 + ".slice"
    found = [identify("/".join([USER, *[own] * count, "a.service"])) for count in range(7)]
    ids = [who.id for who in found if who]

    assert ids[4] == "/".join(["user@1000.service", *[own] * 4, "a.service"])
    assert ids[5] == ids[6] == ids[4].removesuffix("/a.service")
    assert MAX_ID - len(own) < len(ids[4]) <= MAX_ID


def test_a_tree_that_was_given_away_names_nobody_too_far_below() -> None:
    """However deep a tenant makes his cgroups, few levels are looked at."""
    tops = [f"{USER}{'/x' * below}/docker/{A}" for below in (MAX_BELOW - 2, MAX_BELOW - 1)]

    assert [found.id for found in map(identify, tops) if found] == [A, "user@1000.service"]


@pytest.mark.parametrize(
    "scope",
    [r"machine-qemu\x2d1\x2d\x1b[31m.scope", r"machine-a\x0ab.scope", r"machine-\xff.scope",
     r"machine-a\x2fb.scope", "machine-a.service.scope"],
)  # fmt: skip
def test_escape_that_hides_an_odd_character_is_not_decoded(scope: str) -> None:
    """What no machine is called stays a unit, by the name that systemd gave it, or its slice."""
    kind, leaf_id, _, _ = whose(f"/machine.slice/{scope}")

    assert (kind, leaf_id) in {("unit", scope), ("unit", "machine.slice")}


def test_only_a_runtime_s_service_is_believed_beside_itself() -> None:
    """Another service may have been given its subtree: what it names there is no pod."""
    evil = SHIM.replace("containerd.service", "evil.service")

    found = identify(f"{evil}:cri-containerd:{A}")

    assert found is not None
    assert found.tenant == "/system.slice/evil.service"
    assert pod_key(found) == f"{UID}@{found.tenant}"

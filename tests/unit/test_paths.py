"""Cgroup paths: every rule by its own examples, and the borders between the rules."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod.model import PAST_ID
from tychod.workloads.paths import (
    RULES,
    Rule,
    identify,
    name_from_cmdline,
    unattributed,
    unnamed_reason,
)

A, B = "a1" * 32, "b2" * 32
UID = "0f3a5b1c-1111-4222-8333-444455556666"
UID_ = UID.replace("-", "_")
STATIC = "5c2de33fd2a3a1c2d7f0b1e5a4c3b2d1"
BURSTABLE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
KIND = f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice"
SHIM = f"/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice"
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
        "/lxc.payload.web01/system.slice/nginx.service",
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
    leaf = unattributed(unnamed_reason("/lxc.payload.web01/a/b"))

    assert (leaf.kind, leaf.id) == ("unattributed", "unattributed")
    assert leaf.reason == "cgroup that no rule names: lxc.payload.web01"
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


@pytest.mark.parametrize(
    ("below", "leaf_id"),
    [
        (f"/kubepods-burstable-pod{UID_}.slice/x", f"/kubepods-burstable-pod{UID_}.slice"),
        ("/kubepods/pod99/x", ""),
        ("/kubepods/besteffort", ""),
        (f"/kubepods/pod99/{A}", ""),
        (f"/kubepods/pod99/kata_{A}", ""),
        (f"/kubepods/pod99/crio-conmon-{A}", ""),
        (f"/app.slice/k3s-rootless.service/kubepods/pod99/{A}", "/app.slice/k3s-rootless.service"),
    ],
)
def test_pods_are_not_believed_below_a_users_manager(below: str, leaf_id: str) -> None:
    """A user without any right makes such cgroups: what runs there is his own units'."""
    assert whose(USER + below) == (
        "unit", f"user@1000.service{leaf_id}", None, USER if leaf_id else None
    )  # fmt: skip


@pytest.mark.parametrize(
    "below",
    [
        f"/user.slice/libpod-{A}.scope/container",
        f"/user.slice/user-libpod_pod_{B}.slice/libpod-{A}.scope",
        f"/app.slice/docker.service/docker/{A}",
        f"/user.slice/nerdctl-{A}.scope",
        f"/kubepods-besteffort-pod{UID_}.slice/cri-containerd-{A}.scope",
    ],
)
def test_rootless_container_is_its_users_and_never_a_pods(below: str) -> None:
    """Its id is believed as far as nobody else has it; a pod's uid is not."""
    assert whose(USER + below) == ("container", A, None, USER)


@pytest.mark.parametrize(
    ("outer", "pod"),
    [(f"/system.slice/docker-{B}.scope", None), (f"{BURSTABLE}/crio-{B}.scope", UID)],
)
@pytest.mark.parametrize(
    ("below", "inner"),
    [
        ("/kubepods/pod99/x", False),
        ("/kubepods/besteffort/pod99", False),
        (f"/kubepods/pod99/crio-conmon-{A}", False),
        (f"/kubelet/kubepods/besteffort/pod99/{A}", True),
        (f"/kubepods.slice/kubepods-pod99.slice/cri-containerd-{A}.scope/x", True),
        (f"/docker/{A}", True),
    ],
)
def test_pods_of_a_cluster_inside_a_container_are_not_the_hosts(
    outer: str, pod: str | None, below: str, inner: bool
) -> None:
    """Its containers are leaves of the enclosing container's pod; all else is that container's."""
    named = identify(outer + below)

    assert named is not None
    assert (named.id, named.parent) == ((A, B) if inner else (B, None))
    assert (named.pod_uid, named.tenant) == (pod, outer if inner else None)


@pytest.mark.parametrize(
    "given",
    ["/system.slice/web.service", "/machine.slice/systemd-nspawn@a.service/payload",
     "/lxc.payload.web01", "/lxc/web01", "/user.slice/user-1.slice/session-3.scope"],
)  # fmt: skip
def test_a_tree_given_away_has_no_pods_of_the_host(given: str) -> None:
    """Services with a delegated tree and LXC containers name no pod and no past either."""
    inner = identify(f"{given}/kubepods/pod99/{A}")
    group = identify(f"{given}/kubepods/pod99/x")

    assert inner is not None
    assert (inner.kind, inner.pod_uid) == ("container", None)
    assert inner.tenant is not None
    assert given.startswith(inner.tenant)
    assert group is None or (group.kind, group.pod_uid) == ("unit", None)


def test_the_hosts_own_containers_have_no_tenant() -> None:
    """Only root makes these, the runtime's own service included."""
    for path in (f"{BURSTABLE}/crio-{A}.scope", f"/docker/{A}", f"{SHIM}:cri-containerd:{A}"):
        assert whose(path)[::3] == ("container", None)
    assert whose(f"{SHIM}:cri-containerd:{A}/docker/{B}")[2:] == (UID, f"{SHIM}:cri-containerd:{A}")


_WORDS = [
    *("kubepods", "burstable", "pod99", "docker", "x.slice", "a.service", "init.scope"),
    *(f"kubepods-pod{STATIC}.slice", f"kubepods-pod99.slice:cri-containerd:{A}", "user@0.service"),
    *(A, f"kata_{A}", f"crio-conmon-{A}", f"docker-{A}.scope", f"cri-containerd-{A}.scope"),
    f"libpod-{A}",
]


@given(
    st.sampled_from([USER, f"/docker/{B}", f"{BURSTABLE}/crio-{B}.scope", "/lxc.payload.a"]),
    st.lists(st.sampled_from(_WORDS), max_size=7),
)
def test_no_name_inside_a_tenants_tree_reaches_beyond_it(top: str, below: list[str]) -> None:
    """Whatever a tenant makes: the pod is its own, and no group of it is anybody's past."""
    identity = identify("/".join([top, *below]))
    own = identify(top)

    assert (identity.pod_uid if identity else None) == (own.pod_uid if own else None)
    assert identity is None or identity.kind in {"container", "unit"}
    if identity is not None and identity.cgroup != top:
        assert identity.tenant == top


def test_only_a_runtime_s_service_is_believed_beside_itself() -> None:
    """Another service may have been given its subtree: what it names there is no pod."""
    evil = SHIM.replace("containerd.service", "evil.service")

    found = identify(f"{evil}:cri-containerd:{A}")

    assert found is not None
    assert found.pod_uid is None
    assert found.tenant is not None

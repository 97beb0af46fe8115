"""Which pod, namespace and slices a leaf counts in: what a tenant names is in none of them."""

from dataclasses import replace

import pytest

from tests.sim.world import container, unit
from tychod.views import past_id, pod_key, shown_cgroup, slices_of, view_keys

UID = "0f3a5b1c-1111-4222-8333-444455556666"
DASHED = UID.replace("-", "_")
A = "a1" * 32
FS_POD = f"/kubepods/burstable/pod{UID}"
SD_POD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{DASHED}.slice"
MEMBER = replace(container(1, 1), pod_uid=UID, namespace="shop", cgroup=f"{FS_POD}/{A}")


@pytest.mark.parametrize(
    ("tenant", "is_hosts"),
    [
        (None, True),
        (f"{FS_POD}/{A}", True),
        (f"{SD_POD}/cri-containerd-{A}.scope", True),
        (f"/docker/{A}", False),
        ("/user.slice/user-1000.slice/user@1000.service", False),
        (f"/kubepods/burstable/podanother/{UID}", False),
    ],
)
def test_a_pod_is_told_from_those_that_tenants_name(tenant: str | None, is_hosts: bool) -> None:
    """What a pod's container makes is that pod's; a nested cluster's pod has a key of its own."""
    leaf = replace(MEMBER, tenant=tenant)
    key = UID if is_hosts else f"{UID}@{tenant}"

    assert pod_key(leaf) == key
    assert past_id(leaf) == f"past:{key}"
    assert ("namespace:shop" in view_keys(leaf)) == is_hosts


def test_who_is_in_no_pod_has_the_one_past() -> None:
    """Units and loose containers leave what they had in `past`; no tenant names a namespace."""
    assert pod_key(unit("a.service")) is None
    assert past_id(container(1)) == "past"
    assert view_keys(replace(container(1), namespace="shop", tenant="/docker/x", cgroup="/y")) == ()


@pytest.mark.parametrize(
    ("cgroup", "slices"),
    [
        (None, ()),
        ("/", ()),
        ("/system.slice/a.service", ("/system.slice",)),
        ("/a.slice/a-b.slice/c.scope/d.slice/e.service", ("/a.slice", "/a.slice/a-b.slice")),
        (
            f"{SD_POD}/x.scope",
            ("/kubepods.slice", "/kubepods.slice/kubepods-burstable.slice"),
        ),
        (f"{FS_POD}/{A}", ()),
    ],
)
def test_slices_are_those_of_the_host(cgroup: str | None, slices: tuple[str, ...]) -> None:
    """The chain from the root down to the first that is no slice, or is a pod's own."""
    assert slices_of(cgroup) == slices


def test_a_machine_is_shown_in_the_cgroup_that_it_is_in() -> None:
    """The mark that no cgroup's name can hold is never shown."""
    assert shown_cgroup("/a.slice/b.service/\n7") == "/a.slice/b.service"
    assert shown_cgroup("/\n7") == "/"
    assert shown_cgroup("/a\n7") == "/a\n7"
    assert shown_cgroup(None) is None

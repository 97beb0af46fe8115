"""Device ids of containers: which GPU, or which part of one, they stand for."""

import pytest

from tests.sim.gpuwindow import MIG, device, leaf, uuid
from tychod.analysis.allocations import Claim, Part, claims, instances, part_of

GPU, PART = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"
DEVICES = (device(0), device(1, MIG))


@pytest.mark.parametrize(
    ("resource", "device_id", "expected"),
    [
        (GPU, uuid(0), Part(uuid(0))),
        (GPU, f"{uuid(0)}::3", Part(uuid(0))),
        ("nvidia.com/gpu.shared", f"{uuid(0)}::0", Part(uuid(0))),
        ("example.org/a100", uuid(1), Part(uuid(1))),
        (PART, MIG[0].uuid, Part(uuid(1), MIG[0].uuid)),
        (PART, f"{MIG[1].uuid}::12", Part(uuid(1), MIG[1].uuid)),
        (PART, f"MIG-{uuid(1)}/2/0", Part(uuid(1), MIG[1].uuid)),
        (GPU, "nvidia1", Part(uuid(1))),
        (GPU, "nvidia0/vgpu7", Part(uuid(0))),
        (GPU, "nvidia1/gi2", Part(uuid(1), MIG[1].uuid)),
        (GPU, "nvidia1/gi1/vgpu0", Part(uuid(1), MIG[0].uuid)),
        (GPU, "0", Part(uuid(0))),
        (GPU, "nvidia.com/gpu=1", Part(uuid(1))),
        (GPU, "nvidia.com/gpu=gpu1", Part(uuid(1))),
        (GPU, f"nvidia.com/gpu={uuid(1)}", Part(uuid(1))),
        (GPU, f"k8s.device-plugin.nvidia.com/gpu={uuid(0)}", Part(uuid(0))),
        (PART, f"nvidia.com/mig={MIG[0].uuid}", Part(uuid(1), MIG[0].uuid)),
    ],
)
def test_every_known_form_is_understood(resource: str, device_id: str, expected: Part) -> None:
    """Ids as NVIDIA's and GKE's plugins and the container device interface write them."""
    assert part_of(resource, device_id, DEVICES) == expected


@pytest.mark.parametrize(
    ("resource", "device_id"),
    [
        (GPU, ""),
        (GPU, uuid(7)),
        (GPU, "7"),
        (GPU, "-1"),
        (GPU, "0:1"),  # a place in a list that has gaps: not the number of an instance
        (GPU, "nvidia1/gi9"),  # no such instance: that is not the whole device
        (GPU, "nvidia0/gi1"),
        (PART, f"MIG-{uuid(1)}/9/0"),
        (GPU, "nvidia.com/gpu=all"),
        (GPU, "\x1b[31m" * 2000),
        (GPU, f"{uuid(0)}-3"),  # of plugins that do not heed what the kubelet chose
        ("example.org/gpu", "1"),  # may be an IOMMU group
        ("nvidia.com/GA102GL_A10", "1"),
        ("amd.com/gpu", "0"),
        ("intel.com/gpu", "nvidia.com/nic=0"),
    ],
)
def test_what_is_not_understood_is_nobodys(resource: str, device_id: str) -> None:
    """A guess would bill another tenant: a number of something else is no GPU."""
    assert part_of(resource, device_id, DEVICES) is None


def test_replicas_are_counted_by_leaf() -> None:
    """Who has two of three replicas of a GPU has a claim that counts two; a leaf counts once."""
    one = leaf(10, f"{uuid(0)}::0", f"{uuid(0)}::2")
    two = leaf(20, f"{uuid(0)}::1", MIG[0].uuid)
    found = claims([two, one, one, leaf(30)], DEVICES)

    assert found[uuid(0)] == (Claim(one.id, None, 2), Claim(two.id, None, 1))
    assert found[uuid(1)] == (Claim(two.id, MIG[0].uuid, 1),)


def test_compute_instances_of_one_gpu_instance_are_one() -> None:
    """Processes and activity are told by GPU instance, so its compute instances count together."""
    parts = (MIG[0], MIG[1], MIG[1]._replace(uuid="MIG-other"))
    found = instances(device(0, parts))

    assert [(i.number, i.slices, len(i.uuids)) for i in found] == [(1, 3, 1), (2, 4, 2)]

"""Which GPU, or part of one, the device ids of a container stand for.

Ids are as device plugins hand them to the kubelet, verbatim:

- ``GPU-<uuid>``, ``MIG-<uuid>``, and ``<either>::3`` for a replica of a shared one: NVIDIA's
  (github.com/NVIDIA/k8s-device-plugin, internal/rm/devices.go: AnnotatedID);
- ``MIG-GPU-<uuid>/1/0``: GPU instance 1, compute instance 0, of drivers before 470
  (docs.nvidia.com/datacenter/tesla/mig-user-guide, CUDA_VISIBLE_DEVICES);
- ``nvidia0``, ``nvidia0/gi1``, and ``<either>/vgpu2`` for a replica: GKE's
  (github.com/GoogleCloudPlatform/container-engine-accelerators, pkg/gpu/nvidia/gpusharing and mig);
- ``nvidia.com/gpu=0``, ``nvidia.com/gpu=GPU-<uuid>``: qualified names of the container device
  interface (github.com/cncf-tags/container-device-interface, SPEC.md);
- a number alone: as the driver counts.

A uuid names one thing whatever the resource is called.  A number may be that of something else (an
IOMMU group of a GPU that a virtual machine has, say), so it counts only under NVIDIA's own names.
Whatever is not understood is nobody's: a wrong guess would bill another tenant.  That goes for
made-up names that begin with a uuid, too, as ``GPU-<uuid>-3``: their plugins (HAMi, gpushare) let
a scheduler of their own choose the GPU, whatever ids the kubelet wrote down.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tychod.model import Identity
from tychod.samples import GpuDevice, MigInstance

NUMBERED: Final = re.compile(r"nvidia\.com/(gpu(\.shared)?|mig(-.*)?)")
"""Resources of which a number is the driver's: whole GPUs, shared ones, and parts."""
REPLICA: Final = re.compile(r"(::|/vgpu)[0-9]{1,6}\Z")
NUMBER: Final = re.compile(r"(?:nvidia|gpu)?([0-9]{1,4})(?:/gi([0-9]{1,4}))?")
OLD_MIG: Final = re.compile(r"MIG-(GPU-[0-9A-Fa-f-]{36})/([0-9]{1,4})/[0-9]{1,4}")


class Part(NamedTuple):
    """A GPU, or one instance of a divided one."""

    device: str  # uuid
    instance: str | None = None  # uuid; None: all of the device


class Claim(NamedTuple):
    """What of one GPU a leaf was given."""

    leaf_id: str
    instance: str | None  # uuid; None: all of the device
    replicas: int  # of a shared one


def part_of(resource: str, device_id: str, devices: Sequence[GpuDevice]) -> Part | None:
    """Return what a device id stands for; None: nothing that is known here."""
    kind, is_qualified, name = device_id.partition("=")
    if not is_qualified:
        kind, name = resource, device_id
    name = REPLICA.sub("", name)
    return _by_uuid(name, devices) or (
        _by_number(name, devices) if NUMBERED.fullmatch(kind) else None
    )


def _by_uuid(name: str, devices: Sequence[GpuDevice]) -> Part | None:
    for device in devices:
        if any(name == instance.uuid for instance in device.instances):
            return Part(device.uuid, name)
        if name == device.uuid:
            return Part(device.uuid)
    old = OLD_MIG.fullmatch(name)
    found = old and next((d for d in devices if d.uuid == old[1]), None)
    return _instance(found, int(old[2])) if old and found else None


def _by_number(name: str, devices: Sequence[GpuDevice]) -> Part | None:
    told = NUMBER.fullmatch(name)
    device = told and next((d for d in devices if d.number == int(told[1])), None)
    if not told or not device:
        return None
    return Part(device.uuid) if told[2] is None else _instance(device, int(told[2]))


def _instance(device: GpuDevice, number: int) -> Part | None:
    """Return a GPU instance; one that the driver does not list is not the whole device."""
    found = [i for i in device.instances if i.gpu_instance == number]
    return Part(device.uuid, found[0].uuid) if found else None


def claims(
    identities: Iterable[Identity], devices: Sequence[GpuDevice]
) -> dict[str, tuple[Claim, ...]]:
    """Return who was given what of each device (by uuid), in the order of the leaves' ids."""
    counts: dict[str, dict[tuple[str, str | None], int]] = {}
    for who in sorted({i.id: i for i in identities if i.devices}.values(), key=lambda i: i.id):
        for part in _parts(who.devices, devices):
            of_device = counts.setdefault(part.device, {})
            key = (who.id, part.instance)
            of_device[key] = of_device.get(key, 0) + 1
    return {
        device: tuple(Claim(leaf, instance, n) for (leaf, instance), n in found.items())
        for device, found in counts.items()
    }


def _parts(told: Mapping[str, Sequence[str]], devices: Sequence[GpuDevice]) -> Iterable[Part]:
    """Yield what each id stands for; one that comes under two resource names counts once."""
    ids = {device_id: resource for resource, found in told.items() for device_id in found}
    found = (part_of(resource, device_id, devices) for device_id, resource in sorted(ids.items()))
    return (part for part in found if part is not None)


class Instance(NamedTuple):
    """A GPU instance with all its compute instances."""

    number: int
    slices: int
    uuids: frozenset[str]


def instances(device: GpuDevice) -> tuple[Instance, ...]:
    """Return the GPU instances of a divided device, in the order of their numbers."""
    by_number: dict[int, list[MigInstance]] = {}
    for one in device.instances:
        by_number.setdefault(one.gpu_instance, []).append(one)
    return tuple(
        Instance(number, max(sum(one.slices for one in parts), 1), frozenset(i.uuid for i in parts))
        for number, parts in sorted(by_number.items())
    )

"""Which devices (GPUs) each container got, from the file in which the kubelet remembers it.

The file's format is the kubelet's own and may change without notice: whatever is not exactly as
known is refused, with the reason, and what was read before stays and is marked stale.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from tychod.documents import parse_json
from tychod.hostfs import UNKNOWN_BOOT, boot_id, render_error
from tychod.workloads.hostfiles import NEED_CAPABILITY
from tychod.workloads.kubelet import Unavailable
from tychod.workloads.kubeletfiles import UNUSED, absent, find_newest, kubelet_paths
from tychod.workloads.podresources import PodResources
from tychod.workloads.texts import bounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tychod import config
    from tychod.hostfs import FileIdentity, Host

    Devices = Mapping[str, tuple[str, ...]]
    """Resource name -> ids of its devices, sorted."""

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
SOCKET: Final = "pod-resources/kubelet.sock"
CHECKPOINT: Final = "device-plugins/kubelet_internal_checkpoint"

LIMIT_BYTES: Final = 4 << 20
MOST_BYTES: Final = 32 << 20  # once read
MOST_IDS: Final = 1 << 16
"""Ids in a whole document; a node has some thousand at most (shared GPUs, one id per share)."""
NAME_LIMIT: Final = 1024
"""Characters in a uid, name or device id; Kubernetes' own names end at 317."""

_NUMA: Final = re.compile(r"-?[0-9]{1,9}")
_NONE: Final[Devices] = {}


class FormatError(Exception):
    """A checkpoint is not as we know it; the text says where."""


def parse_checkpoint(data: bytes) -> tuple[dict[tuple[str, str], Devices], str]:
    """Return (pod uid, container) -> devices, and the boot in which it was written ("": untold).

    The checksum is a hash over a dump of the kubelet's Go objects, type names included: it differs
    between Go types of the same content and is not recomputed here; the shape is checked instead.
    """
    if len(data) > LIMIT_BYTES:
        raise FormatError(f"it is longer than {LIMIT_BYTES >> 20} MiB")
    try:
        document = parse_json(data, MOST_BYTES)
    except ValueError as exc:
        raise FormatError(f"it is {exc}") from None
    head = _fields(document, "the document", {"Data", "Checksum"}, {"BootID"})
    checksum = head["Checksum"]
    if type(checksum) is not int or not 0 <= checksum < 1 << 64:
        raise FormatError("Checksum is no unsigned number")
    boot = head.get("BootID", "")
    if not isinstance(boot, str) or len(boot) > NAME_LIMIT:
        raise FormatError("BootID is no name")
    body = _fields(head["Data"], "Data", {"PodDeviceEntries", "RegisteredDevices"})
    _check_registered(body["RegisteredDevices"])
    return _parse_entries(body["PodDeviceEntries"]), boot


def _parse_entries(entries: object) -> dict[tuple[str, str], Devices]:
    found: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
    count = 0
    for entry in _list(entries, "PodDeviceEntries"):
        names = {"PodUID", "ContainerName", "ResourceName", "DeviceIDs", "AllocResp"}
        fields = _fields(entry, "an entry", names)
        if not isinstance(fields["AllocResp"], str | None):
            raise FormatError("AllocResp is no text")
        key = _name(fields["PodUID"], "PodUID"), _name(fields["ContainerName"], "ContainerName")
        resource = _name(fields["ResourceName"], "ResourceName")
        ids = set(_parse_ids(fields["DeviceIDs"]))
        count += len(ids)
        if count > MOST_IDS:
            raise FormatError(f"it has more than {MOST_IDS} device ids")
        devices = found.setdefault(key, {})
        devices[resource] = tuple(sorted(ids.union(devices.get(resource, ()))))
    return dict(found)


def _parse_ids(value: object) -> Iterator[str]:
    """Yield device ids: by NUMA node (-1: none), or in one list as before Kubernetes 1.20."""
    if isinstance(value, dict):
        for node, ids in value.items():
            if not _NUMA.fullmatch(node):
                raise FormatError("DeviceIDs has a key that is no NUMA node")
            yield from _names(ids)
    else:
        yield from _names(value)


def _check_registered(value: object) -> None:
    """Refuse another shape of what the plugins offer; its content is nobody's and not kept."""
    if not isinstance(value, dict | None):
        raise FormatError("RegisteredDevices is no object")
    for ids in (value or {}).values():
        for _ in _names(ids):
            pass


def _fields(
    value: object, what: str, required: set[str], optional: Iterable[str] = ()
) -> dict[str, object]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is no object")
    if not required <= value.keys() or not value.keys() <= required.union(optional):
        raise FormatError(f"{what} has other fields than {', '.join(sorted(required))}")
    return value


def _list(value: object, what: str) -> list[object]:
    if value is None:  # how Go writes a list that was never filled
        return []
    if not isinstance(value, list):
        raise FormatError(f"{what} is no list")
    return value


def _names(value: object) -> Iterator[str]:
    for name in _list(value, "a set of device ids"):
        yield _name(name, "a device id")


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LIMIT:
        raise FormatError(f"{what} is no name")
    if bounded(value, NAME_LIMIT) != value:
        raise FormatError(f"{what} holds half a character")
    return value


class DeviceCheckpoint:
    """The kubelet's device-plugin checkpoint, read again when the file is another one."""

    def __init__(self, host: Host, root_dir: str) -> None:
        self._host = host
        self._paths = kubelet_paths(host, root_dir, CHECKPOINT)
        self._identity: tuple[str, FileIdentity] | None = None  # of what was last read
        self._looked_ns: int | None = None
        self._problem: Unavailable | None = None
        self.view: Mapping[tuple[str, str], Devices] = {}
        self.has_read = False  # a whole checkpoint, at any time

    @property
    def is_current(self) -> bool:
        """Whether the view is what the kubelet has now."""
        return self.has_read and self._problem is None

    @property
    def is_stale(self) -> bool:
        """Whether the view is of an earlier checkpoint than the one there is."""
        return self.has_read and self._problem is not None

    @property
    def route(self) -> str:
        """Return ok, or why devices do not come this way and what to do."""
        if self._problem:
            return f"stale: {self._problem}" if self.has_read else str(self._problem)
        return "ok" if self.has_read else "not read yet"

    def poll(self, now_ns: int) -> None:
        """Read the checkpoint if it is another one; at most once a second."""
        if self._looked_ns is not None and now_ns - self._looked_ns < SECOND_NS:
            return
        self._looked_ns = now_ns
        try:
            found = find_newest(self._host, self._paths)
            data = self._read_if_new(found)
        except OSError as exc:
            self._identity = None
            whole = "see whether the file system is whole"
            is_forbidden = isinstance(exc, PermissionError)
            self._failed(render_error(exc), NEED_CAPABILITY if is_forbidden else whole)
            return
        if data is not None:
            self._take(data)

    def _read_if_new(self, found: tuple[str, FileIdentity] | None) -> bytes | None:
        """Return the file's content if it was not read yet."""
        if found is None:
            self._identity = None
            self._failed(*absent(self._paths, unused=not self.has_read))
            return None
        if found == self._identity:
            return None
        data = self._host.read_regular(found[0], LIMIT_BYTES + 1)
        self._identity = found  # only now: a read that was refused is tried again
        if data is None:
            self._failed(f"{found[0]} is no regular file", "see who has put another there")
        return data

    def _take(self, data: bytes) -> None:
        try:
            entries, boot = parse_checkpoint(data)
        except FormatError as exc:
            path = self._identity[0] if self._identity else CHECKPOINT
            self._failed(
                f"{path} is not as known: {exc}",
                "report it with the kubelet's version, or let tychod use pod-resources",
                told=True,
            )
            return
        if boot and boot_id(self._host) not in (boot, UNKNOWN_BOOT):
            # Static pods keep their uid over a boot: these could be the former ones' devices.
            reason = "the kubelet wrote it before this boot, and writes it again when it starts"
            self._failed(reason, "see whether it runs: systemctl status kubelet")
            return
        if self._problem or not self.has_read:
            again = " again" if self.has_read else ""
            log.info(
                "devices of containers come from the kubelet's checkpoint%s",
                again,
                extra={"source": "kubelet"},
            )
        self.view, self.has_read, self._problem = entries, True, None

    def _failed(self, reason: str, remedy: str, *, told: bool = False) -> None:
        problem = Unavailable(reason, remedy)
        if problem != self._problem and not reason.startswith(UNUSED):
            log.log(
                logging.WARNING if told or self.has_read else logging.INFO,
                "device assignments are not read: %s. %s",
                reason,
                remedy,
                extra={"source": "kubelet"},
            )
        self._problem = problem


def _spare(route: str, other: str) -> str:
    """Return the text of a way beside one that works: nobody misses it, so it is no fault."""
    if route == "ok":
        return f"ok; spare: {other} tells more"
    reason, _, remedy = route.removeprefix(UNUSED).partition("; ")
    text = f"{UNUSED}{other} works ({reason.removeprefix('stale: ')})"
    return f"{text}; {remedy}" if remedy else text


class DeviceRoutes:
    """Both ways to a container's devices: the checkpoint, and the pod-resources socket."""

    def __init__(self, settings: config.Kubelet, host: Host) -> None:
        self._enabled = settings.enabled is not False
        self._checkpoint = DeviceCheckpoint(host, settings.root_dir)
        self._socket = PodResources(host, kubelet_paths(host, settings.root_dir, SOCKET))

    @property
    def in_use(self) -> str | None:
        """Return the route that answers now; None: neither has told anything."""
        if self._checkpoint.is_current:
            return "device-plugin"
        if self._socket.is_current:
            return "pod-resources"
        return "device-plugin" if self._checkpoint.has_read else None

    @property
    def told(self) -> tuple[object, ...]:
        """What the answers come from; another one when they may be others."""
        return (self.in_use, self._checkpoint.view, self._socket.view)

    @property
    def is_stale(self) -> bool:
        """Whether the route in use tells what was, for want of what is."""
        return self._checkpoint.is_stale and not self._socket.is_current

    @property
    def routes(self) -> dict[str, str]:
        """Return for each route how it goes: in use, spare, or why not and what to do."""
        if not self._enabled:
            off = "off in the configuration; set [kubelet] enabled"
            return {"device-plugin": off, "pod-resources": off}
        checkpoint, listed = self._checkpoint, self._socket
        told = {"device-plugin": checkpoint.route, "pod-resources": listed.route}
        if checkpoint.is_current:
            told["pod-resources"] = _spare(listed.route, "device-plugin")
        elif listed.is_current and not checkpoint.has_read:
            told["device-plugin"] = _spare(checkpoint.route, "pod-resources")
        return told

    def poll(self, now_ns: int, *, soon: bool = False) -> None:
        """Look at both; ``soon`` asks the kubelet out of turn, for a container just started."""
        if self._enabled:
            self._checkpoint.poll(now_ns)
            self._socket.poll(now_ns, soon=soon)

    def devices_of(
        self, pod_uid: str | None, namespace: str | None, pod: str | None, container: str | None
    ) -> Devices:
        """Return resource -> device ids of a container; empty where none are known.

        A current checkpoint has the last word: pod-resources knows no uid, and a pod that was made
        again under its old name would get its predecessor's devices.
        """
        if container is None:
            return _NONE
        if not self._checkpoint.is_current and self._socket.is_current:
            return self._socket.view.get((namespace or "", pod or "", container), _NONE)
        return self._checkpoint.view.get((pod_uid or "", container), _NONE)

    def close(self) -> None:
        """Wait a moment for a question under way; one that hangs is left to its own end."""
        self._socket.close()

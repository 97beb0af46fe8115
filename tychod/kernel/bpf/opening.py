"""Where the daemon gets its maps: pins of the loader's unit, else programs that it loads itself."""

from __future__ import annotations

import errno
import os
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.hostfs import is_cgroup_mount
from tychod.kernel.bpf import attach, pins, refusal, syscall
from tychod.kernel.bpf.abi import LOADER_BCC, Views, view_maps
from tychod.kernel.bpf.plan import LoadError
from tychod.kernel.hierarchy import Hierarchy, choose_hierarchy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tychod.config import Config
    from tychod.hostfs import Host
    from tychod.kernel.hierarchy import Version

HIERARCHIES: Final[Mapping[int, Version]] = MappingProxyType({2: "v2", 1: "v1"})
MEMORY: Final = "lower [accounting] slots, or raise tychod's memory limit (MemoryMax)"
RELOAD: Final = "run: systemctl restart tychod-bpf"


class OpenMaps(NamedTuple):
    """A running accounting that this process alone reads."""

    fds: Mapping[str, int]
    views: Views
    origin: str  # who loaded the programs, for people
    notes: tuple[str, ...]
    replaced: Callable[[], bool]  # one look: these maps are no longer the pinned ones
    close: Callable[[], None]

    @property
    def method(self) -> str:
        """How time is counted, as ``tychoctl status`` names it."""
        return "bpf-bcc" if int(self.views.ctl["loader"][0]) == LOADER_BCC else "bpf-core"


def open_maps(host: Host, config: Config, hierarchy: Hierarchy) -> OpenMaps:
    """Open pinned maps, or load the programs where we may; raise ``LoadError``."""
    if not is_cgroup_mount(hierarchy.root):
        raise LoadError(
            f"the cgroups below {hierarchy.root} are not this kernel's",
            "point [host] procfs and cgroupfs to those of the kernel that tychod runs on",
        )
    try:
        opened = _open_pinned(host)
    except LoadError as refused:
        if refusal.missing_capabilities(host):
            raise told_by_loader(host) or refused from None
        try:
            opened = _load(host, config)
        except LoadError as failed:
            raise LoadError(f"{failed.reason} (and {refused.reason})", failed.remedy) from None
    return opened


def counted_hierarchy(
    host: Host, config: Config, opened: OpenMaps, hierarchy: Hierarchy
) -> Hierarchy:
    """Return the hierarchy that the programs count; LoadError where the settings want another.

    What tells a hybrid host's truth may change with every process; the account stays what it is.
    """
    found = HIERARCHIES.get(int(opened.views.ctl["hierarchy"][0]))
    if found == hierarchy.version:
        return hierarchy
    may_follow = config.host.hierarchy == "auto"
    other = choose_hierarchy(host, found) if found and may_follow else None
    if isinstance(other, Hierarchy):
        return other._replace(reason="the kernel programs count its cgroups")
    raise LoadError(
        f"the programs count cgroups of {found}, but this host's truth is {hierarchy.version}",
        RELOAD,
    )


def _open_pinned(host: Host) -> OpenMaps:
    held = pins.open_pins(host, pins.default_root(host))
    try:
        views = view_maps(held.maps)
    except OSError as exc:
        held.close()
        raise LoadError(f"the pinned maps cannot be mapped ({exc.strerror})", RELOAD) from None
    return OpenMaps(held.maps, views, "pinned by tychod-bpf.service", (), held.replaced, held.close)


def told_by_loader(host: Host) -> LoadError | None:
    """Return why tychod-bpf.service could not attach, as it left it (``tychod-load``)."""
    text = host.read_text(f"{host.run}/tychod-bpf/refused") or ""
    reason, _, remedy = text.partition("\n")
    return LoadError(reason, f"{remedy}; then: systemctl restart tychod-bpf") if reason else None


def _load(host: Host, config: Config) -> OpenMaps:
    loaded = attach.load(host, config)
    fds = (*loaded.maps.values(), *loaded.links.values())

    def close() -> None:
        for fd in fds:
            os.close(fd)

    try:
        views = view_maps(loaded.maps)
    except OSError as exc:
        close()
        raise LoadError(f"the maps cannot be mapped ({exc.strerror})", MEMORY) from None
    return OpenMaps(loaded.maps, views, "loaded by tychod", loaded.notes, lambda: False, close)


class SlotTable:
    """What the reader changes through system calls: slots of removed cgroups are given back."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self._slot_of = fds["ty_slot_of"]
        self._free = fds["ty_free"]

    def delete_slot(self, cgid: int) -> None:
        """Forget which slot a cgroup has; one that has none is fine.  OSError when refused."""
        try:
            syscall.delete(self._slot_of, cgid.to_bytes(8, sys.byteorder))
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                raise

    def push_free(self, slot: int) -> None:
        """Let the programs use a slot again.  OSError when refused."""
        syscall.update(self._free, None, slot.to_bytes(4, sys.byteorder))


class PinWatch:
    """Notices that the loader's pins came, went or were replaced; one look costs one stat."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._path = f"{pins.default_root(host)}/{pins.VERSION}"
        self._seen = self._look()

    def changed(self) -> bool:
        """Say whether the pins are others than when this watch began."""
        return self._look() != self._seen

    def _look(self) -> int | None:
        try:
            return self._host.inode(self._path)
        except OSError:
            return None  # not for us

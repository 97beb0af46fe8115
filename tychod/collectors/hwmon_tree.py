"""What the kernel's hwmon class shows: the chips, their channels, and what they call themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.hostfs import render_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tychod.hostfs import Host

NAME_CHARS: Final = 64
TEXT_BYTES: Final = 256
"""More than any driver's name or label; firmware writes some of them."""

# A value of a channel (Documentation/hwmon/sysfs-interface.rst).
_VALUE: Final = re.compile(r"(energy|power|in|curr)(\d{1,4})_(input|average)")
_UNCLEAN: Final = re.compile(r"[^a-z0-9:_]")


class Channel(NamedTuple):
    """One quantity that a chip measures and has not switched off."""

    kind: str  # energy (uJ), power (uW), in (mV), curr (mA)
    number: int
    values: tuple[str, ...]  # average, input: those that there are, in this order
    label: str  # cleaned; empty: it has none
    is_battery: bool = False


class Chip(NamedTuple):
    """One chip with at least one channel that could tell energy."""

    directory: str  # hwmon3; another one after each boot
    path: str  # of its files
    name: str  # cleaned
    device: str  # what it sits on, as 0000:03:00.0; empty: not told
    channels: tuple[Channel, ...]
    files: tuple[
        str, ...
    ]  # all names beside the channels' values: drivers differ in what they have

    def of_kind(self, kind: str) -> tuple[Channel, ...]:
        """Return the channels of one kind."""
        return tuple(channel for channel in self.channels if channel.kind == kind)


class Listing(NamedTuple):
    """The chips that there are."""

    chips: tuple[Chip, ...]
    refused: Mapping[str, str]  # directory -> why it cannot be listed


def hwmon_dir(host: Host) -> str:
    """Return the class directory that lists every chip."""
    return f"{host.sysfs}/class/hwmon"


def list_chips(host: Host) -> Listing:
    """Return the chips; OSError only where the class itself cannot be listed."""
    chips: list[Chip] = []
    refused: dict[str, str] = {}
    for directory in sorted(host.list_dir(hwmon_dir(host)) or (), key=_directory_order):
        try:
            chip = _chip(host, directory)
        except OSError as exc:
            refused[directory] = render_error(exc)
            continue
        if chip is not None:
            chips.append(chip)
    return Listing(tuple(chips), refused)


def clean_name(text: str) -> str:
    """Return a name as results show it: lower case, ``a-z 0-9 : _``, of at most 64 characters."""
    return _UNCLEAN.sub("_", text[:TEXT_BYTES].lower()).strip("_")[:NAME_CHARS]


def _chip(host: Host, directory: str) -> Chip | None:
    """Return a chip; its files are beside ``name``, with old drivers in its device's directory.

    acpi_power_meter had them there until it was moved to hwmon_device_register_with_info, and
    libsensors looks there, too.
    """
    top = f"{hwmon_dir(host)}/{directory}"
    for path in (top, f"{top}/device"):
        files = host.list_dir(path) or ()
        channels = tuple(_channels(host, path, files))
        if channels:
            link = [part for part in _link(host, f"{top}/device").split("/") if part]
            name = clean_name(_text(host, f"{path}/name") or _device_name(link) or directory)
            device = clean_name(link[-1]) if link else ""
            return Chip(directory, path, name or directory, device, channels, files)
    return None


def _channels(host: Host, path: str, files: tuple[str, ...]) -> Iterator[Channel]:
    found: dict[tuple[str, int], list[str]] = {}
    for match in filter(None, map(_VALUE.fullmatch, files)):
        found.setdefault((match[1], int(match[2])), []).append(match[3])
    for (kind, index), values in sorted(found.items()):
        stem = f"{kind}{index}"
        if f"{stem}_enable" in files and _text(host, f"{path}/{stem}_enable") == "0":
            continue  # one that cannot be read counts as on
        label = next(
            # The latter is where ACPI's meters say what they measure (Grace: "CPU Power Socket 0").
            (f"{stem}_{end}" for end in ("label", "oem_info") if f"{stem}_{end}" in files),
            "",
        )
        battery = f"{stem}_is_battery"
        yield Channel(
            kind,
            index,
            tuple(sorted(values)),
            clean_name(_text(host, f"{path}/{label}")) if label else "",
            battery in files and _text(host, f"{path}/{battery}") == "1",
        )


def _link(host: Host, path: str) -> str:
    """Return where a link points, empty where there is none (in a copied tree: a directory)."""
    try:
        return host.read_link(path) or ""
    except OSError:
        return ""


def _device_name(link: list[str]) -> str:
    """Return ``drm_card0`` for a link that ends in ``drm/card0``."""
    return "_".join(part for part in link[-2:] if part not in {".", ".."})


def _text(host: Host, path: str) -> str:
    """Return a short text, empty where it cannot be read: names and labels are optional."""
    try:
        data = host.read_bytes(path, TEXT_BYTES) or b""
    except OSError:
        return ""
    return data.decode(errors="replace").strip(" \t\r\n\0")


def _directory_order(directory: str) -> tuple[str, int]:
    stem = directory.rstrip("0123456789")
    return stem, int(directory[len(stem) :] or 0)

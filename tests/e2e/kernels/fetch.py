"""Debian's kernels from its archive: each version is downloaded once, kept outside the checkout."""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

APT_LIMIT_S: Final = 300
# As root apt would download as another user, who may not write here.
APT: Final = ("apt-get", "-q", "-o", "APT::Sandbox::User=root")


class Kernel(NamedTuple):
    """A kernel's image and configuration, by the name of its package."""

    name: str
    image: Path
    config: Path

    @property
    def hz(self) -> int:
        """Timer ticks a second."""
        found = re.search(
            r"^CONFIG_HZ=(\d+)$", self.config.read_text(encoding="utf-8"), re.MULTILINE
        )
        if not found:
            raise NotHereError(f"{self.config} does not tell CONFIG_HZ")
        return int(found[1])


class NotHereError(Exception):
    """A kernel cannot be had here; the message says why."""


def fetch_kernel(wanted: str) -> Kernel:
    """Return the kernel that a package is or depends on; from the network only when it is new."""
    try:
        return _fetch(wanted)
    except NotHereError:
        if os.geteuid():
            raise
    # Without lists, or with old ones, the archive has other names: once more with new ones.
    _call(*APT, "update")
    return _fetch(wanted)


def _fetch(wanted: str) -> Kernel:
    package, version = _resolve(wanted)
    place = _cache() / f"{package}_{version.replace(':', '%')}"
    if not place.exists():
        _download(package, version, place)
    (image,), (config,) = place.glob("vmlinuz-*"), place.glob("config-*")
    return Kernel(f"{package} {version}", image, config)


def _resolve(wanted: str) -> tuple[str, str]:
    """Return package and version; `linux-image-amd64` and its like only name the newest one."""
    fields = _show(wanted)
    named = re.search(r"\b(linux-image-\d[^\s,(]*)", fields.get("Depends", ""))
    if not named or wanted == named[1]:
        return wanted, fields["Version"]
    return named[1], _show(named[1])["Version"]


def _show(package: str) -> dict[str, str]:
    text = _call("apt-cache", "show", "--no-all-versions", package)
    fields = dict(re.findall(r"^(\w[\w-]*): (.*)$", text, re.MULTILINE))
    if "Version" not in fields:
        raise NotHereError(f"apt knows no package {package}")
    return fields


def _download(package: str, version: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place.parent) as directory:
        new = Path(directory, "boot")
        new.mkdir()
        _call(*APT, "download", f"{package}={version}", cwd=directory)
        (deb,) = Path(directory).glob("*.deb")
        files = ("--wildcards", "./boot/vmlinuz-*", "./boot/config-*")
        unpacked = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
        tar = ("tar", "-x", "--strip-components=2", "-C", str(new), *files)
        done = subprocess.run(tar, stdin=unpacked.stdout, capture_output=True, check=False)
        if unpacked.wait() or done.returncode:
            raise NotHereError(f"{deb.name} cannot be unpacked: {done.stderr.decode()[-200:]}")
        if not place.exists():
            new.rename(place)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "tychod-kernels")


def _call(*argv: str, cwd: str | None = None) -> str:
    try:
        done = subprocess.run(
            argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=APT_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotHereError(f"{' '.join(argv)}: {exc}") from None
    if done.returncode:
        raise NotHereError(f"{' '.join(argv)}: {done.stderr.strip()[-300:]}")
    return done.stdout

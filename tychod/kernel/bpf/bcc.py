"""The backend ``bcc``: compiles the helpers-only programs on this machine, in a child process.

Kernel headers of another release compile without a word and are wrong; ours read nothing of the
kernel's, so ``any`` headers do, but only those of this very kernel are taken unasked.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tychod.kernel.bpf import abi, refusal
from tychod.kernel.bpf.child import Backend
from tychod.kernel.bpf.plan import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tychod.hostfs import Host

INTERPRETER: Final = "/usr/bin/python3"
"""The distribution's own: its bcc is for no other."""

TEXTS: Final = ("tychod.h", "tychod.bcc.c")

_RELEASE = re.compile(r'#define\s+UTS_RELEASE\s+"([^"]+)"')
_INCLUDED = re.compile(r"^include\s+(/\S+)/Makefile\s*$", re.MULTILINE)


class Places(NamedTuple):
    """Where kernel headers are installed."""

    modules: str = "/lib/modules"
    sources: str = "/usr/src"


class Headers(NamedTuple):
    """Kernel headers to compile with; no ``source``: bcc finds those of this kernel itself."""

    source: str | None = None
    flags: tuple[str, ...] = ()


def bcc_backend(
    host: Host,
    headers: Literal["match", "any"],
    release: str | None = None,
    places: Places | None = None,
) -> Backend:
    """Return what a child must be told to load the programs with bcc; ``LoadError`` if refused."""
    not_permitted = refusal.not_permitted(host)
    if not_permitted:
        raise not_permitted
    if not Path(INTERPRETER).exists():
        raise LoadError(
            f"there is no {INTERPRETER}, for which bcc is packaged", "apt install python3"
        )
    found = find_headers(host, headers, release or os.uname().release, places or Places())
    request = {
        "text": program_text(),
        "kernel_source": found.source,
        "flags": found.flags,
        "maps": abi.MAPS,
        "ctl": {"abi": abi.ABI, "loader": abi.LOADER_BCC, "next_slot": abi.SLOT_FIRST},
    }
    command = (INTERPRETER, "-I", str(Path(__file__).with_name("bcc_child.py")))
    return Backend("bcc", command, request)


def program_text() -> str:
    """Return the programs as bcc compiles them: the layout of the maps, then the code."""
    beside = Path(__file__).parent
    for folder in (beside, beside.parents[2] / "bpf"):
        paths = [folder / name for name in TEXTS]
        if all(path.exists() for path in paths):
            return "".join(path.read_text() for path in paths)
    raise LoadError(f"the text of the programs is not in {beside}", "install the package again")


# ---- headers ----


def find_headers(
    host: Host, wanted: Literal["match", "any"], release: str, places: Places
) -> Headers:
    """Choose the headers to compile with; ``LoadError`` where none may be taken."""
    own = f"{places.modules}/{release}/build"
    found = read_release(host, own)
    if found == release or (found is None and _in_kernel(host)):
        return Headers()
    if wanted == "match":
        raise LoadError(_mismatch(host, release, found, places), remedy(release))
    for _, tree in sorted(_trees(host, places), reverse=True):
        headers = _use(host, tree)
        if headers:
            return headers
    raise LoadError("there are no kernel headers, which bcc needs", remedy(release))


def remedy(release: str) -> str:
    """Say what gives bcc headers, or makes it unnecessary."""
    return (
        f"apt install linux-headers-{release} (Fedora, RHEL: dnf install kernel-devel-{release}),"
        ' or [accounting] bcc_headers = "any", or loader = "core"'
    )


def parse_release(text: str) -> str | None:
    """Return the kernel release that headers say they are of."""
    match = _RELEASE.search(text)
    return match[1] if match else None


def release_key(release: str) -> tuple[int, ...]:
    """Order releases by their numbers: 6.10 is newer than 6.9."""
    return tuple(int(number) for number in re.findall(r"\d+", release))


def read_release(host: Host, tree: str) -> str | None:
    """Return the release that the headers in a directory are of, None if there are none."""
    return parse_release(host.read_text(f"{tree}/include/generated/utsrelease.h") or "")


def _in_kernel(host: Host) -> bool:
    """Say whether the kernel carries its own headers (CONFIG_IKHEADERS)."""
    return host.exists(f"{host.sysfs}/kernel/kheaders.tar.xz")


def _mismatch(host: Host, release: str, found: str | None, places: Places) -> str:
    others = sorted({read for read in (found, *_releases(host, places)) if read})
    there = f"; those of {', '.join(others)} are here" if others else ""
    return f"bcc needs the headers of this kernel, {release}{there}"


def _releases(host: Host, places: Places) -> Iterator[str | None]:
    return (read_release(host, tree) for _, tree in _trees(host, places))


def _trees(host: Host, places: Places) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield every directory with headers, with the key of its release."""
    modules = host.list_dir(places.modules) or ()
    sources = host.list_dir(places.sources) or ()
    trees = [f"{places.modules}/{name}/build" for name in modules]
    trees += [f"{places.sources}/{name}" for name in sources if name.startswith("linux-headers-")]
    for tree in trees:
        release = read_release(host, tree)
        if release:
            yield release_key(release), tree


def _use(host: Host, tree: str) -> Headers | None:
    """Say how to compile with a tree; Debian keeps a kernel's own part apart from the common."""
    if _is_whole(host, tree):
        return Headers(tree)
    common = _INCLUDED.search(host.read_text(f"{tree}/Makefile") or "")
    if not common or not _is_whole(host, common[1]):
        return None
    folders = [f"{tree}/include", f"{tree}/include/generated/uapi"]
    for arch in host.list_dir(f"{tree}/arch") or ():
        generated = f"{tree}/arch/{arch}/include/generated"
        folders = [generated, *folders, f"{generated}/uapi"]
    return Headers(common[1], tuple(f"-I{folder}" for folder in folders))


def _is_whole(host: Host, tree: str) -> bool:
    return host.exists(f"{tree}/include/linux/kconfig.h")

"""Packs a guest's files into an initramfs: this machine's Python, its libraries, our tree."""

import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

ROOT: Final = Path(__file__).resolve().parents[3]
PYTHON: Final = Path("/usr/bin/python3")
NUMPY: Final = Path("/usr/lib/python3/dist-packages/numpy")
LIBRARIES: Final = ("libbpf.so.1", "libgcc_s.so.1")  # opened by name at run time
# The same places on every merged-/usr system; the rest is made by init.
LINKS: Final = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
DIRECTORIES: Final = ("dev", "proc", "sys", "tmp", "run")
CONSOLE: Final = (5, 1)
UNUSED: Final = re.compile(
    r"/(tests?|idlelib|tkinter|ensurepip|pydoc_data|lib2to3|distutils|f2py|include|turtledemo"
    r"|config-\d.*|EXTERNALLY-MANAGED)(/|$)|\.(a|pyi|h)$|cpython-\d+\.opt-\d\.pyc$"
)


class Archive:
    """A cpio archive in the kernel's format ("newc"); parents are added before what they hold."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._seen: set[str] = set()

    def add(self, name: str, mode: int, data: bytes = b"", mtime: int = 0) -> None:
        """Add one entry under its path from the root, without a leading slash; twice is once."""
        if name in self._seen:
            return
        parent = str(PurePosixPath(name).parent)
        if parent != ".":
            self.add(parent, stat.S_IFDIR | 0o755)
        self._seen.add(name)
        self._write(name, mode, data, mtime, CONSOLE if stat.S_ISCHR(mode) else (0, 0))

    def add_file(self, name: str, source: Path) -> None:
        """Add a file with its mode and time: compiled Python modules are valid by their time."""
        found = source.stat()
        self.add(
            name, stat.S_IFREG | found.st_mode & 0o755, source.read_bytes(), int(found.st_mtime)
        )

    def close(self) -> None:
        """Write the end mark."""
        self._write("TRAILER!!!", 0, b"", 0, (0, 0))

    def _write(
        self, name: str, mode: int, data: bytes, mtime: int, device: tuple[int, int]
    ) -> None:
        number, links, crc = len(self._seen), 1, 0
        fields = (number, mode, 0, 0, links, mtime, len(data), 0, 0, *device, len(name) + 1, crc)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        self._out.write(_padded(head) + _padded(data))


def pack(target: Path, extra: Iterable[tuple[str, Path]]) -> int:
    """Write the initramfs with these files (path from the root, source) added; return its bytes."""
    with target.open("wb") as out:
        archive = Archive(out)
        for name, to in LINKS.items():
            archive.add(name, stat.S_IFLNK | 0o777, to.encode())
        for name in DIRECTORIES:
            archive.add(name, stat.S_IFDIR | 0o755)
        archive.add("dev/console", stat.S_IFCHR | 0o600)
        for source in (*_runtime_files(), *_libraries()):
            archive.add_file(_inside(source), source)
        for name, source in extra:
            archive.add_file(name, source)
        archive.close()
        return out.tell()


def _runtime_files() -> Iterator[Path]:
    interpreter = PYTHON.resolve()
    yield interpreter
    for top in (Path(f"/usr/lib/{interpreter.name}"), NUMPY):
        for path in sorted(top.rglob("*")):
            if path.is_file() and not UNUSED.search(str(path).removeprefix(str(top))):
                yield path


def _libraries() -> Iterator[Path]:
    """Yield the shared objects that anything above is linked with."""
    named = [find_library(name) for name in LIBRARIES]
    yield from named
    linked = [path for path in _runtime_files() if ".so" in path.suffixes]
    needed: set[str] = set()
    command = ["ldd", *map(str, (PYTHON.resolve(), *named, *linked))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        found = re.match(r"\s+(?:\S+ => )?(/\S+) \(0x", line)
        if found:
            needed.add(found[1])
    yield from map(Path, sorted(needed))


def find_library(name: str) -> Path:
    """Return where a shared library is installed; FileNotFoundError where it is not."""
    done = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    found = re.search(rf"^\s*{re.escape(name)} .*=> (\S+)$", done.stdout, re.MULTILINE)
    if not found:
        raise FileNotFoundError(f"{name} is not installed")
    return Path(found[1])


def _inside(source: Path) -> str:
    """Return a file's place in the guest: its own name, in the directory without symbolic links."""
    return str(source.parent.resolve() / source.name).lstrip("/")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)

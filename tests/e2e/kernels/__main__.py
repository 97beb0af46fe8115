"""Boots Debian's kernels, emulated by qemu, and checks the kernel programs there.

Run by tests/e2e/kernels.sh. Arguments are packages of kernels, by default the newest of Debian's
6.1 and 6.12. Each boots with an initramfs of this machine's Python and this tree (guest.py is its
first process); KVM is not used. Needs `make bpf`, qemu, python3-numpy, libbpf1 and apt.
"""

import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.e2e.kernels.fetch import Kernel, NotHereError, fetch_kernel
from tests.e2e.kernels.initramfs import NUMPY, PYTHON, ROOT, find_library, pack
from tests.e2e.steps import say

SKIPPED: Final = 77
KERNELS: Final = ("linux-image-amd64", "linux-image-6.12-amd64")
QEMU: Final = "qemu-system-x86_64"
OBJECT: Final = ROOT / "tychod/kernel/bpf/tychod.bpf.o"
PROGRAM: Final = Path("/usr/bin/true")  # what the load starts again and again
LIMIT_S: Final = 180
TAIL_LINES: Final = 30
MACHINE: Final = (
    # One thread: with one for each CPU, an emulated CPU may run kernel text that another has just
    # patched (a static branch) as the breakpoint it was for a moment, and the kernel panics.
    QEMU, "-accel", "tcg,thread=single", "-machine", "q35", "-cpu", "max", "-smp", "2",
    "-m", "768M", "-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot",
)  # fmt: skip


def main() -> int:
    """Boot each kernel; 0: all ok, 1: something failed, 77: none could be booted."""
    reason = why_not()
    if reason:
        say(f"e2e-kernels: SKIPPED: {reason}")
        return SKIPPED
    if not OBJECT.exists():
        say(f"e2e-kernels: FAILED: {OBJECT.relative_to(ROOT)} is not built: make bpf")
        return 1
    failed, booted, skipped = [], [], []
    with tempfile.TemporaryDirectory(prefix="tychod-kernels-") as directory:
        initramfs = Path(directory, "initramfs")
        pack(initramfs, tree_files())
        for wanted in sys.argv[1:] or KERNELS:
            try:
                kernel = fetch_kernel(wanted)
            except NotHereError as exc:
                say(f"skip {wanted}: {exc}")
                skipped.append(wanted)
                continue
            booted.append(kernel.name)
            if not check(kernel, initramfs):
                failed.append(kernel.name)
    if not booted:
        say("e2e-kernels: SKIPPED: no kernel to boot, see above")
        return SKIPPED
    rest = f"; SKIPPED {', '.join(skipped)}, see above" if skipped else ""
    result = f"FAILED on {', '.join(failed)}" if failed else f"ok on {', '.join(booted)}"
    say(f"e2e-kernels: {result}{rest}")
    return 1 if failed else 0


def why_not() -> str:
    """Return what this machine lacks, "" where it can boot kernels."""
    if platform.machine() != "x86_64":
        return "the kernels are x86-64's, and so must this machine's Python be"
    for tool in (QEMU, "apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed; packaging/setup.sh --kernels installs what it takes"
    for path in (PYTHON, NUMPY, PROGRAM):
        if not path.exists():
            return f"{path} is not there; packaging/setup.sh --kernels installs what it takes"
    try:
        find_library("libbpf.so.1")
    except FileNotFoundError as exc:
        return f"{exc}; packaging/setup.sh --kernels installs what it takes"
    return ""


def tree_files() -> Iterator[tuple[str, Path]]:
    """Yield what of this tree the guest runs, with its place there."""
    for top in ("tychod", "tests/e2e"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in {".py", ".o"}:
                yield str(path.relative_to(ROOT)), path
    yield str(PROGRAM).lstrip("/"), PROGRAM


def check(kernel: Kernel, initramfs: Path) -> bool:
    """Boot a kernel and print its steps as they end; say why if it does not come to the end."""
    say(f"== {kernel.name}")
    began_s = time.monotonic()
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    result = None
    process = subprocess.Popen(
        [*MACHINE, *boot_arguments(kernel, initramfs)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    timer = threading.Timer(LIMIT_S, process.kill)
    timer.start()
    try:
        for line in read_lines(process):
            tail.append(line)
            if not line.startswith("["):  # the kernel's own
                say(line)
            if line.startswith("guest: done, "):
                result = line
        process.wait()
    finally:
        timer.cancel()
        process.kill()
    passed_s = time.monotonic() - began_s
    if result is None:
        say(f"FAIL {kernel.name}: it {how_it_ended(passed_s)}; the end of its console:")
        say("\n".join(f"    {line}" for line in tail))
    say(f"== {kernel.name}: {passed_s:.1f} s")
    return result == "guest: done, 0 failed"


def how_it_ended(passed_s: float) -> str:
    """Return what became of a guest that did not report."""
    return f"was not done after {LIMIT_S} s" if passed_s >= LIMIT_S else "stopped before the end"


def boot_arguments(kernel: Kernel, initramfs: Path) -> list[str]:
    """Return the rest of qemu's command line; the guest's first process is Python itself."""
    python = PYTHON.resolve()
    words = (
        f"console=ttyS0 quiet panic=-1 TYCHOD_HZ={kernel.hz} OPENBLAS_NUM_THREADS=1"
        f" rdinit={python} -- -B -m tests.e2e.kernels.guest"
    )
    return ["-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", words]


def read_lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield the lines of a guest's console."""
    if process.stdout is None:
        return
    for line in process.stdout:
        yield line.decode(errors="replace").rstrip()


if __name__ == "__main__":
    sys.exit(main())

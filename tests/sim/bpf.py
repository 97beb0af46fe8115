"""What tests that attach kernel programs share: one lock for the machine, and private places.

Programs see the whole machine, so two tests that attach at one time would measure each other.
"""

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tychod.config import Config
from tychod.hostfs import Host
from tychod.kernel.bpf.attach import make_plan
from tychod.kernel.bpf.core import default_object, load_core
from tychod.kernel.bpf.plan import Loaded, LoadPlan
from tychod.kernel.bpf.refusal import missing_capabilities

LOCK = Path(tempfile.gettempdir()) / "tychod-test-bpf.lock"


def why_not() -> str:
    """Return why this machine cannot load kernel programs, "" if it can."""
    host = Host(Config().host)
    if not host.exists(f"{host.sysfs}/kernel/btf/vmlinux"):
        return "this kernel has no BTF (/sys/kernel/btf/vmlinux)"
    missing = missing_capabilities(host)
    if missing:
        return f"loading kernel programs takes {' and '.join(missing)}"
    if not default_object().exists():
        return f"{default_object().name} is not built: make bpf (it takes clang)"
    return ""


def require_bpf() -> None:
    """Skip the calling test, with the reason, where kernel programs cannot be loaded."""
    reason = why_not()
    if reason:
        pytest.skip(reason)


@contextlib.contextmanager
def bpf_lock() -> Iterator[None]:
    """Hold the machine's one lock for attaching; others wait."""
    fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def bpffs(mode: str = "0755") -> Iterator[Path]:
    """Mount a BPF file system of one's own, which only root writes to; root only."""
    with tempfile.TemporaryDirectory(prefix="tychod-bpffs-") as place:
        Path(place).chmod(0o755)
        subprocess.run(["mount", "-t", "bpf", "-o", f"mode={mode}", "bpf", place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)


def plan_here(**changes: object) -> LoadPlan:
    """Return the plan for this machine with the default settings, and what is to be different."""
    config = Config()
    return replace(make_plan(Host(config.host), config), **changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def loaded(plan: LoadPlan | None = None, **changes: object) -> Iterator[Loaded]:
    """Load and attach in this process under the lock; everything is gone afterwards."""
    require_bpf()
    with bpf_lock():
        found = load_core(plan or plan_here(**changes))
        try:
            yield found
        finally:
            for fd in (*found.links.values(), *found.maps.values()):
                os.close(fd)

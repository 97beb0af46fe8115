"""What every test shares: example budgets, per-run names, optional data, and a check for leaks."""

import gc
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

# How long what a test started may take to go away by itself, e.g. a thread that was told to stop.
GRACE_S = 3.0

# Opened by the interpreter or a library on first use and kept for the life of the process.
KEPT_OPEN = ("/dev/urandom",)

# A shell's background job ignores Ctrl-C, and so would all that is started from it; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dev", max_examples=30, deadline=None)
settings.register_profile(
    "ci",
    max_examples=60,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


class Held(NamedTuple):
    """What this process holds: names that mean the same before and after a test."""

    threads: frozenset[str]
    children: frozenset[str]
    files: frozenset[str]

    def beyond(self, before: "Held") -> list[str]:
        """Return what is held now and was not before."""
        return sorted(
            (self.threads - before.threads)
            | (self.children - before.children)
            | (self.files - before.files)
        )


def read_held() -> Held:
    """List this process's threads, children (zombies too) and open descriptors."""
    return Held(
        frozenset(f"thread {t.name} ({t.ident})" for t in threading.enumerate()),
        frozenset(read_children()),
        frozenset(read_open_files()),
    )


def read_children() -> Iterator[str]:
    """Yield each child process by pid and start time; a pid alone could be a later process's."""
    for entry in list_pids():
        try:
            stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
        except OSError:
            continue  # it ended while we looked
        fields = stat.rpartition(")")[2].split()  # what follows the name: state, parent, ...
        if int(fields[1]) == os.getpid():
            yield f"child pid {entry} (started at tick {fields[19]})"


def list_pids() -> list[str]:
    """Return the pids among which our children are: of each thread where the kernel tells that."""
    try:
        tasks = os.listdir("/proc/self/task")  # noqa: PTH208 - twice for each test
        lists = [Path(f"/proc/self/task/{task}/children").read_text() for task in tasks]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN, or a thread that ended meanwhile
        return [entry for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208
    return " ".join(lists).split()


def read_open_files() -> Iterator[str]:
    """Yield number and target of each open descriptor, but for those that are meant to stay."""
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - Path.iterdir may keep it open
        try:
            target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 - a target, not a path
        except OSError:
            continue  # the descriptor of this very listing
        if target not in KEPT_OPEN:
            yield f"descriptor {number} -> {target.removesuffix(' (deleted)')}"


def settle(before: Held) -> list[str]:
    """Return what is still held beyond `before` once it had time to go away."""
    deadline = time.monotonic() + GRACE_S
    left = read_held().beyond(before)
    while left and time.monotonic() < deadline:
        gc.collect()  # an object in a cycle holds its descriptor until it is collected
        time.sleep(0.02)
        left = read_held().beyond(before)
    return left


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves a thread, a child process or an open descriptor behind."""
    before = read_held()
    yield
    left = settle(before)
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture
def run_name() -> str:
    """Return a name that no other run uses: for sockets, cgroups and whatever else is shared."""
    return f"tychod-test-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def data_dir() -> Callable[[str], Path]:
    """Return a look-up of a folder by environment variable that skips where it is not set."""

    def find(variable: str) -> Path:
        value = os.environ.get(variable)
        if not value:
            pytest.skip(f"{variable} is not set: no folder with this data")
        path = Path(value)
        assert path.is_dir(), f"{variable}={value} is not a folder"
        return path

    return find


@pytest.fixture(scope="session")
def cases_dir(data_dir: Callable[[str], Path]) -> Path:
    """Return the folder of behaviour cases (TYCHOD_CASES)."""
    return data_dir("TYCHOD_CASES")


@pytest.fixture(scope="session")
def kubelet_captures_dir(data_dir: Callable[[str], Path]) -> Path:
    """Return the folder of a real kubelet's answers (TYCHOD_KUBELET_CAPTURES)."""
    return data_dir("TYCHOD_KUBELET_CAPTURES")

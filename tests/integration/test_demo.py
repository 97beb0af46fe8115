"""`make demo`: it shows tychod beside the truth, and whatever ends it, nothing is left."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 40.0
SHOWN_S = 60.0  # it draws anew all the time, so its end would never come


Demo = subprocess.Popen[str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Return what starts the demo in a session of its own; its directory is below tmp_path."""
    if not (shutil.which("openssl") and any(map(shutil.which, ("cc", "gcc", "clang")))):
        pytest.skip("the simulators need a C compiler and openssl")
    started = []

    def run(*words: str) -> Demo:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.sim.demo", "--window", "1", *words],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(child)
        return child

    yield run
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


def descendants(pid: int) -> set[int]:
    """Return the processes that this one and those that it started have started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def cgroups_of(pids: set[int]) -> set[Path]:
    """Return the directories of the cgroups that the demo made for its processes."""
    paths = {
        line.split(":", 2)[2]
        for pid in pids
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if "/tychod-demo-" in line
    }
    roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    places = {Path(f"{root}{path}") for root in roots for path in paths}
    return {place for place in places if place.exists()}


def until_shown(demo: Demo, *patterns: str) -> set[int]:
    """Read until each pattern was seen in a line; return the processes that run then."""
    assert demo.stdout
    missing = {re.compile(pattern) for pattern in patterns}
    end_s = time.monotonic() + SHOWN_S
    for line in demo.stdout:
        if time.monotonic() > end_s:
            break
        missing = {pattern for pattern in missing if not pattern.match(line)}
        if not missing:
            return descendants(demo.pid)
    raise AssertionError(f"never shown: {missing}")


def check_nothing_left(
    place: Path, pids: Set[int] = frozenset(), cgroups: Set[Path] = frozenset()
) -> None:
    """No process, cgroup or file of it is there; the kernel may need a moment for the first."""
    end_s = time.monotonic() + HANG_S
    while (left := [p for p in pids if Path(f"/proc/{p}").exists()]) and time.monotonic() < end_s:
        time.sleep(0.02)

    assert left == []
    assert [cgroup for cgroup in cgroups if cgroup.exists()] == []
    assert list(place.iterdir()) == []


def test_it_shows_tychod_beside_the_truth_until_terminated(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    """Platform, package, GPUs and residual have a figure of both; after SIGTERM nothing is left."""
    demo = start()
    figures = (
        rf"{name} +[\d.]+ W +-?[\d.]+ W" for name in ("platform", "package", "gpu", "residual")
    )
    running = until_shown(demo, *figures, "GPU .* WORKLOADS .* METHOD$")
    cgroups = cgroups_of(running)
    demo.terminate()
    _, complaints = demo.communicate(timeout=HANG_S)

    assert (demo.returncode, complaints) == (0, "")
    check_nothing_left(tmp_path, running, cgroups)


def test_it_ends_by_itself(start: Callable[..., Demo], tmp_path: Path) -> None:
    """With a number of seconds it ends after these, and nothing is left."""
    demo = start("--seconds", "0.2")
    running = until_shown(demo, ".*ready after")
    shown, complaints = demo.communicate(timeout=HANG_S)

    assert (demo.returncode, complaints) == (0, "")
    assert "removed what it made" in shown
    check_nothing_left(tmp_path, running)


def test_ctrl_c_while_it_starts_is_no_failure(start: Callable[..., Demo], tmp_path: Path) -> None:
    """Every process of the terminal gets it, those too that just make a part."""
    demo = start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    os.killpg(demo.pid, signal.SIGINT)
    _, complaints = demo.communicate(timeout=HANG_S)

    assert (demo.returncode, complaints) == (0, "")
    check_nothing_left(tmp_path)


def test_it_is_cleaned_up_when_a_part_fails(start: Callable[..., Demo], tmp_path: Path) -> None:
    """A daemon that is killed is told of, and everything else is ended."""
    demo = start()
    running = until_shown(demo, ".*ready after")
    cgroups = cgroups_of(running)
    daemon = next(p for p in running if b"tychod.toml" in Path(f"/proc/{p}/cmdline").read_bytes())
    os.kill(daemon, signal.SIGKILL)
    _, complaints = demo.communicate(timeout=HANG_S)

    assert demo.returncode == 1
    assert "tychod has ended with status -9" in complaints
    check_nothing_left(tmp_path, running, cgroups)

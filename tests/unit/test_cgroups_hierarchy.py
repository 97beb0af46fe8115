"""The one hierarchy that is believed, and the parsers behind the choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fixtures.hosts.trees import host_at, write_files
from tychod import config
from tychod.hostfs import Host
from tychod.kernel.hierarchy import (
    Hierarchy,
    NoHierarchy,
    choose_hierarchy,
    parse_mountinfo,
    parse_v2_path,
)
from tychod.kernel.procstat import CpuTimes, parse_cpu_times, parse_is_kernel_thread

if TYPE_CHECKING:
    from pathlib import Path

V2_ROOT = {"cgroup/cgroup.controllers": "cpu\n"}
V2_UNIFIED = {"cgroup/unified/cgroup.controllers": ""}
V1 = {"cgroup/cpuacct/cpuacct.usage": "0\n", "cgroup/cpuacct/release_agent": "\n"}
V1_JOINT = {"cgroup/cpu,cpuacct/cpuacct.usage": "0\n"}
IN_V2 = {"proc/1/cgroup": "0::/\n", "proc/22/cgroup": "3:cpuacct:/x\n0::/system.slice/a.service\n"}
IN_V1 = {"proc/1/cgroup": "0::/\n", "proc/22/cgroup": "3:cpuacct:/x\n0::/\n"}
CONTAINER = "/docker/" + "a1" * 32
IN_V1_ALONE = {"proc/33/cgroup": f"4:cpu,cpuacct:{CONTAINER}\n1:name=systemd:/x\n0::/\n"}
IN_BOTH = {"proc/33/cgroup": f"4:cpu,cpuacct:{CONTAINER}\n0::{CONTAINER}\n"}
IN_OTHERS = {"proc/33/cgroup": f"5:memory:{CONTAINER}\n4:cpuacct:/a1\n0::/\n"}
OUTSIDE_NAMESPACE = {"proc/22/cgroup": "0::/../../other\n"}


@pytest.mark.parametrize(
    ("files", "wanted", "version", "below", "reason"),
    [
        (V2_ROOT | IN_V2, "auto", "v2", "cgroup", "holds processes (/system.slice/a.service)"),
        (V2_UNIFIED | V1 | IN_V2, "auto", "v2", "cgroup/unified", "holds processes"),
        (V2_UNIFIED | V1 | IN_V1, "auto", "v1", "cgroup/cpuacct", "no process below its root"),
        (V2_UNIFIED | V1 | IN_V2 | IN_V1_ALONE, "auto", "v1", "cgroup/cpuacct", CONTAINER),
        (V2_UNIFIED | V1 | IN_V2 | IN_V1_ALONE, "v2", "v2", "cgroup/unified", "[host] hierarchy"),
        (V2_UNIFIED | IN_V2 | IN_V1_ALONE, "auto", "v2", "cgroup/unified", "holds processes"),
        (V2_UNIFIED | V1 | IN_V2 | IN_BOTH, "auto", "v2", "cgroup/unified", "holds processes"),
        (V2_UNIFIED | V1 | IN_V2 | IN_OTHERS, "auto", "v2", "cgroup/unified", "holds processes"),
        (V2_UNIFIED | V1 | OUTSIDE_NAMESPACE, "auto", "v1", "cgroup/cpuacct", "no process below"),
        (V1 | IN_V1, "auto", "v1", "cgroup/cpuacct", "cgroup2 is not mounted"),
        (V1_JOINT, "auto", "v1", "cgroup/cpu,cpuacct", "cgroup2 is not mounted"),
        (V2_ROOT, "auto", "v2", "cgroup", "the only hierarchy"),
        (V2_UNIFIED | V1 | IN_V1, "v2", "v2", "cgroup/unified", "[host] hierarchy = 'v2'"),
        (V2_UNIFIED | V1 | IN_V2, "v1", "v1", "cgroup/cpuacct", "[host] hierarchy = 'v1'"),
    ],
)
def test_choice(
    tmp_path: Path, files: dict[str, str], wanted: str, version: str, below: str, reason: str
) -> None:
    """cgroup2 wins where processes live in it; the choice names its reason."""
    write_files(tmp_path, files)

    chosen = choose_hierarchy(host_at(tmp_path), wanted)

    assert isinstance(chosen, Hierarchy)
    assert (chosen.version, chosen.root) == (version, str(tmp_path / below))
    assert reason in chosen.reason
    assert chosen.method == f"cgroup-{version}"


def test_a_process_that_may_not_be_read_hides_no_other(tmp_path: Path) -> None:
    """With hidepid other users' processes refuse themselves; the daemon's own tells as much."""
    write_files(tmp_path, V2_UNIFIED | V1 | {"proc/22/cgroup": "0::/system.slice/a.service\n"})
    (tmp_path / "proc" / "1" / "cgroup").mkdir(parents=True)  # refused for root, too: EISDIR

    chosen = choose_hierarchy(host_at(tmp_path), "auto")

    assert isinstance(chosen, Hierarchy)
    assert chosen.version == "v2"


@pytest.mark.parametrize(
    ("files", "wanted", "reason"),
    [
        ({}, "auto", "no cgroup hierarchy below"),
        (V1, "v2", "no cgroup2 file system below"),
        (V2_ROOT, "v1", "no cgroup v1 cpuacct hierarchy below"),
    ],
)
def test_impossible_choice(tmp_path: Path, files: dict[str, str], wanted: str, reason: str) -> None:
    """A hierarchy that is not there is refused with what to do about it."""
    write_files(tmp_path, files)

    chosen = choose_hierarchy(host_at(tmp_path), wanted)

    assert isinstance(chosen, NoHierarchy)
    assert reason in chosen.reason
    assert chosen.remedy


@pytest.mark.parametrize(
    ("files", "true_root"),
    [
        (V2_ROOT, True),
        (V2_ROOT | {"cgroup/cgroup.type": "domain\n"}, False),
        (V1, True),
        (V1_JOINT, False),
    ],
)
def test_true_root(tmp_path: Path, files: dict[str, str], true_root: bool) -> None:
    """A container's part of the tree is told from the machine's own root."""
    write_files(tmp_path, files)

    chosen = choose_hierarchy(host_at(tmp_path), "auto")

    assert isinstance(chosen, Hierarchy)
    assert chosen.true_root is true_root


def test_cgroup2_at_an_unusual_place(tmp_path: Path) -> None:
    """cgroup2 is found where the mount table says, below the configured root."""
    mount = f"38 31 0:38 / {tmp_path}/cgroup/here rw - cgroup2 none rw\n"
    write_files(
        tmp_path,
        {"cgroup/here/cgroup.controllers": "", "proc/self/mountinfo": mount} | V1 | IN_V2,
    )

    chosen = choose_hierarchy(host_at(tmp_path), "auto")

    assert isinstance(chosen, Hierarchy)
    assert chosen.root == f"{tmp_path}/cgroup/here"


def test_partial_tree_ignores_mounts_elsewhere(tmp_path: Path) -> None:
    """A tree given by settings is read alone: the machine's own mounts do not mix in."""
    write_files(tmp_path, V1)
    roots = config.Host(cgroupfs=str(tmp_path / "cgroup"))

    chosen = choose_hierarchy(Host(roots), "auto")

    assert isinstance(chosen, Hierarchy)
    assert chosen.root == str(tmp_path / "cgroup" / "cpuacct")


def test_mountinfo() -> None:
    """Mount points with spaces and optional fields are understood; other systems are left out."""
    text = (
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:2 - cgroup x rw,cpu,cpuacct\n"
        "41 31 0:38 /part /a\\040b rw - cgroup2 cgroup2 rw\n"
        "broken line\n"
    )

    v1, v2 = parse_mountinfo(text)

    assert (v1.path, v1.fstype) == ("/sys/fs/cgroup/cpu,cpuacct", "cgroup")
    assert "cpuacct" in v1.options
    assert (v2.path, v2.fstype) == ("/a b", "cgroup2")


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"2:cpu:/a\n0::/b/c\n", "/b/c"),
        (b"0::/gone (deleted)\n", "/gone"),
        (b"2:cpu:/a\n", None),
        (b"", None),
        (b"0::/\xff\n", "/\udcff"),
    ],
)
def test_v2_path(data: bytes, path: str | None) -> None:
    """Only the unified line counts; names may hold any byte."""
    assert parse_v2_path(data) == path


def test_cpu_times() -> None:
    """Guests are inside user time and stolen time is nobody's: neither is added."""
    line = b"cpu  100 20 30 4000 50 6 7 800 90 10\ncpu0 1 2 3 4 5 6 7 8\n"
    tick_ns = 10_000_000

    assert parse_cpu_times(line, 100) == CpuTimes(150 * tick_ns, 13 * tick_ns, 4050 * tick_ns)


@pytest.mark.parametrize(
    "data", [b"", b"cpu 1 2 3\n", b"cpu0 1 2 3 4 5 6 7 8\n", b"cpu  1 2 3 4 5 6 7"]
)
def test_cpu_times_of_something_else(data: bytes) -> None:
    """A cut or foreign line is an error, never zeros."""
    with pytest.raises(ValueError, match="first line"):
        parse_cpu_times(data, 100)


@pytest.mark.parametrize(
    ("stat", "is_kernel"),
    [
        (b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0", True),
        (b"99 (a) R 1) S 1 99 99 0 -1 4194560 0 0", False),
        (b"12 (kworker/0:0 (x)) I 2 0 0 0 -1 69238880 0 0", True),
    ],
)
def test_kernel_thread(stat: bytes, is_kernel: bool) -> None:
    """The flag decides, whatever the process calls itself."""
    assert parse_is_kernel_thread(stat) is is_kernel

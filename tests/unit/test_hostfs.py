"""Host access: what vanished loses only itself, secrets are never opened, reads are bounded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.hosts.trees import host_at, write_files
from tychod import config
from tychod.hostfs import (
    UNKNOWN_BOOT,
    Host,
    boot_id,
    memory_bytes,
    node_name,
    online_cpus,
    own_cpu_ns,
    own_rss_bytes,
    parse_cpu_list,
)


def test_absence_is_none(tmp_path: Path) -> None:
    """Every read of what is not there says so by None and raises nothing."""
    host = host_at(tmp_path)
    (tmp_path / "file").write_text("x")

    for path in (str(tmp_path / "none"), str(tmp_path / "file" / "below")):
        assert host.read_text(path) is None
        assert host.read_bytes(path) is None
        assert host.read_link(path) is None
        assert host.list_dir(path) is None
        assert host.list_subdirs(path) is None
        assert host.inode(path) is None
        assert host.identity(path) is None
        assert not host.exists(path)


def test_errors_other_than_absence_are_raised(tmp_path: Path) -> None:
    """What is there and cannot be read is an error, not an absence."""
    host = host_at(tmp_path)

    with pytest.raises(IsADirectoryError):
        host.read_bytes(str(tmp_path))
    with pytest.raises(OSError, match="Invalid argument"):
        host.read_link(str(tmp_path))


def test_reads_are_bounded(tmp_path: Path) -> None:
    """A file of any size costs no more memory than the limit."""
    path = tmp_path / "big"
    path.write_bytes(b"x" * 300_000)
    host = host_at(tmp_path)

    assert host.read_bytes(str(path), 10) == b"x" * 10
    assert len(host.read_bytes(str(path), 200_000) or b"") == 200_000
    assert len(host.read_bytes(str(path)) or b"") == 300_000


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    """A pipe that a container left in place of a file cannot hold the daemon."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    assert host_at(tmp_path).read_bytes(str(path)) == b""


def test_kept_file_reads_what_is_there_now(tmp_path: Path) -> None:
    """A kept file gives the present content at every read, from its start."""
    path = tmp_path / "counter"
    path.write_text("1\n")
    kept = host_at(tmp_path).open_kept(str(path))
    try:
        first = kept.read()
        with path.open("r+") as file:
            file.write("2\n")
        assert (first, kept.read(), kept.read(1)) == (b"1\n", b"2\n", b"2")
    finally:
        kept.close()
        kept.close()


def test_identity_changes_with_replacement(tmp_path: Path) -> None:
    """A file that is replaced by another of equal size and time is seen as another."""
    path, other = tmp_path / "token", tmp_path / "new"
    for file in (path, other):
        file.write_text("same")
        os.utime(file, ns=(1, 1))
    host = host_at(tmp_path)
    before = host.identity(str(path))
    other.replace(path)

    assert before is not None
    assert host.identity(str(path)) != before


def test_subdirs_are_directories_with_their_inodes(tmp_path: Path) -> None:
    """Only real directories are listed, not files and not links."""
    (tmp_path / "a").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("a")

    assert host_at(tmp_path).list_subdirs(str(tmp_path)) == (("a", (tmp_path / "a").stat().st_ino),)


@pytest.mark.parametrize("pid", ["self", "1", str(os.getpid())])
def test_a_process_environment_is_never_opened(pid: str) -> None:
    """No call opens an environment, whoever asks and whatever rights the daemon has."""
    host = Host(config.Host())
    path = f"/proc/{pid}/environ"

    with pytest.raises(PermissionError, match="never read"):
        host.read_bytes(path)
    with pytest.raises(PermissionError, match="never read"):
        host.open_kept(path)


def test_every_file_is_opened_here(tmp_path: Path) -> None:
    """A whole reading of this machine opens no environment: the interpreter reports each open."""
    script = tmp_path / "audit.py"
    script.write_text(
        "import sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' else None)\n"
        "from tychod.clock import SystemClock\n"
        "from tychod.collectors import COLLECTORS\n"
        "from tychod.collectors.base import Ready\n"
        "from tychod.config import Config\n"
        "from tychod.hostfs import Host\n"
        "host = Host(Config().host)\n"
        "for spec in COLLECTORS:\n"
        "    found = spec.probe(host, Config(), SystemClock())\n"
        "    if isinstance(found, Ready):\n"
        "        found.collector.read()\n"
        "        found.collector.close()\n"
        "for pid in host.pids():\n"
        "    host.process_file(pid, 'cgroup')\n"
        "assert any(p.startswith('/proc/') for p in opened), opened\n"
        "assert not [p for p in opened if p.endswith('environ')], opened\n"
    )
    root = Path(__file__).parents[2]

    subprocess.run([sys.executable, script], cwd=root, env={"PYTHONPATH": str(root)}, check=True)


def test_processes_that_end_lose_only_themselves(tmp_path: Path) -> None:
    """A pid whose directory is empty or gone gives None; the others are read."""
    write_files(tmp_path, {"proc/7/cgroup": "0::/a\n", "proc/uptime": "1"})
    (tmp_path / "proc" / "8").mkdir()
    host = host_at(tmp_path)

    assert {pid: host.process_file(pid, "cgroup") for pid in host.pids()} == {
        7: b"0::/a\n",
        8: None,
    }
    assert host.process_file(9, "cgroup") is None


def test_facts_of_the_machine(tmp_path: Path) -> None:
    """Boot and CPUs come from the roots that are configured."""
    write_files(
        tmp_path,
        {
            "proc/sys/kernel/random/boot_id": "7ac1caa6-e8ed-480a-b417-bd67d7f5f897\n",
            "sys/devices/system/cpu/online": "0-2,8\n",
        },
    )

    assert boot_id(host_at(tmp_path)) == "7ac1caa6-e8ed-480a-b417-bd67d7f5f897"
    assert online_cpus(host_at(tmp_path)) == 4
    assert boot_id(host_at(tmp_path / "nothing")) == "unknown"
    assert online_cpus(host_at(tmp_path / "nothing")) == os.cpu_count()


@pytest.mark.parametrize(("text", "count"), [("0", 1), ("0-63\n", 64), ("0,2-3,5-5", 4)])
def test_cpu_list(text: str, count: int) -> None:
    """Ranges and single CPUs are counted."""
    assert parse_cpu_list(text) == count


def test_facts_of_this_process() -> None:
    """Memory and CPU time of the daemon are its own, in bytes and nanoseconds."""
    assert 1 << 20 < own_rss_bytes() < 1 << 40
    assert own_cpu_ns() > 10_000_000
    assert node_name() == os.uname().nodename


def test_open_file_limit_becomes_the_hard_one() -> None:
    """One descriptor per cgroup is kept, so the soft limit must not be in the way."""
    script = (
        "import resource as r; from tychod.hostfs import raise_open_file_limit as f;"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 200));"
        "assert f() == 200 and r.getrlimit(r.RLIMIT_NOFILE) == (200, 200)"
    )

    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_facts_that_cannot_be_read_have_a_fallback(tmp_path: Path) -> None:
    """A directory in a fact's place, or one that nobody may search, is like no file at all."""
    for name in ("proc/sys/kernel/random/boot_id", "sys/devices/system/cpu/online"):
        (tmp_path / name).mkdir(parents=True)

    assert boot_id(host_at(tmp_path)) == UNKNOWN_BOOT
    assert online_cpus(host_at(tmp_path)) == os.cpu_count()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MemTotal:       16384 kB\nMemFree:  1 kB\n", 16384 * 1024),
        ("MemFree:  1 kB\n", 0),
        ("MemTotal:\n", 0),
        ("MemTotal: many kB\n", 0),
    ],
)
def test_memory_is_what_the_kernel_has(tmp_path: Path, text: str, expected: int) -> None:
    """The node's memory is known in bytes, or said to be unknown by 0."""
    assert memory_bytes(host_at(tmp_path)) == 0

    write_files(tmp_path, {"proc/meminfo": text})

    assert memory_bytes(host_at(tmp_path)) == expected

"""The bcc backend on this kernel, proven with headers of any release against other witnesses.

Tolerances are the witnesses' own: 3 us a switch (the scheduler takes its clock before the
tracepoint), one tick, and what the maps say of interrupts, which the kernel may leave out.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.sim.bpf import bpf_lock
from tychod.config import Config
from tychod.hostfs import Host
from tychod.kernel.bpf import abi, attach, bcc, child
from tychod.kernel.bpf.plan import Loaded, LoadError, LoadPlan
from tychod.kernel.hierarchy import parse_mountinfo

pytestmark = [pytest.mark.root, pytest.mark.bpf]

ROOT = Path(__file__).resolve().parents[2]
SWITCH_NS: Final = 3_000
TICK_NS: Final = 10_000_000  # HZ is at least 100
RSS_BYTES: Final = 2 << 20  # what a loader may cost the daemon
PF_KTHREAD: Final = 0x0020_0000
COPIES: Final = 2_000
TRIES: Final = 4
FORKS_NS: Final = 300_000_000
SLOTS: Final = 128  # few, so that a copy is quick and falls between two events

SPIN = "import os, sys, time; sys.stdin.readline(); t = time.thread_time() + {seconds}\n"
BUSY = SPIN + "while time.thread_time() < t: pass"
RESTLESS = SPIN + "while time.thread_time() < t: sum(range(2000)); time.sleep(1e-4)"
FORKS = (
    SPIN + "while time.thread_time() < t: pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)"
)


class Copy(NamedTuple):
    """The maps at one instant."""

    cpu: NDArray[np.void]
    total: NDArray[np.void]
    task_buckets_ns: int
    irq_buckets_ns: int
    late_ns: int


@pytest.fixture
def host() -> Host:
    """Return this machine; skip, with the reason, where bcc cannot be tried on it."""
    host = Host(Config().host)
    if os.geteuid() != 0:
        pytest.skip("loading kernel programs needs uid 0")
    command = [bcc.INTERPRETER, "-I", "-c", "import bcc"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"{bcc.INTERPRETER} has no bcc (python3-bpfcc)")
    try:
        bcc.bcc_backend(host, "any")
    except LoadError as exc:
        pytest.skip(f"{exc.reason}: {exc.remedy}")
    return host


@pytest.fixture
def unified(host: Host) -> Path:
    """Return where cgroup2 is mounted."""
    mounts = parse_mountinfo(host.read_text("/proc/self/mountinfo") or "")
    places = [mount.path for mount in mounts if mount.fstype == "cgroup2"]
    if not places:
        pytest.skip("cgroup2 is not mounted")
    return Path(places[0])


@pytest.fixture
def plan(host: Host, unified: Path) -> LoadPlan:
    """Return the plan for cgroup2, with what bcc cannot do asked for as well."""
    packages = attach.make_plan(host, Config()).packages
    root = unified.stat().st_ino
    return LoadPlan("v2", root, 0, packages, SLOTS, processes=True, counters=("cycles",))


@pytest.fixture
def loaded(host: Host, plan: LoadPlan) -> Iterator[Loaded]:
    """Load with bcc under the machine's lock; everything is gone afterwards."""
    with bpf_lock():
        found = child.load_in_child(plan, bcc.bcc_backend(host, "any"))
        try:
            yield found
        finally:
            close(found.maps.values())
            close(found.links.values())


def close(fds: Any) -> None:
    """Close descriptors that may have been closed."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def copy_maps(views: abi.Views) -> Copy:
    """Take a copy during which no CPU had an event."""
    for _ in range(COPIES):
        before = views.cpu.copy()
        total = views.total.copy()
        buckets, irq_buckets = views.bucket.copy(), views.irq_bucket.copy()
        late = int(views.ctl["late"][0])
        after = views.cpu.copy()
        if before.tobytes() == after.tobytes() and (after["enter"] == after["leave"]).all():
            return Copy(after, total, int(buckets.sum()), int(irq_buckets.sum()), late)
        time.sleep(1e-4)
    raise AssertionError(f"in {COPIES} copies there was always an event in between")


def slot_of(views: abi.Views, cgroup: Path) -> int:
    """Return the slot of a cgroup."""
    found = np.flatnonzero(views.info["cgid"] == cgroup.stat().st_ino)
    assert len(found) == 1, f"{cgroup} has {len(found)} slots"
    return int(found[0])


@contextlib.contextmanager
def made(cgroup: Path) -> Iterator[Path]:
    """Make a cgroup, and remove it."""
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        cgroup.rmdir()


def start(program: str, cgroup: Path | None, seconds: float) -> subprocess.Popen[bytes]:
    """Start a load that waits for its first line, in its cgroup."""
    command = [sys.executable, "-I", "-S", "-c", program.format(seconds=seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    if cgroup:
        (cgroup / "cgroup.procs").write_text(str(process.pid))
    return process


def run(*processes: subprocess.Popen[bytes]) -> None:
    """Let loads run, and wait for their ends."""
    for process in processes:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(20) for process in processes] == [0] * len(processes)


def usage_ns(cgroup: Path) -> int:
    """Return a cgroup's CPU time as the scheduler counts it."""
    first = (cgroup / "cpu.stat").read_text().split()
    assert first[0] == "usage_usec"
    return int(first[1]) * 1_000


def steal_ns() -> int:
    """Return how long a hypervisor let our CPUs wait: inside of our time, outside of cpu.stat."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) * 10_000_000


def test_headers_of_another_kernel_are_refused_by_default(host: Host) -> None:
    """With the headers as they are here the backend says which it needs and what to do."""
    release = os.uname().release
    if bcc.read_release(host, f"/lib/modules/{release}/build") == release:
        pytest.skip("the headers of this kernel are installed")
    with pytest.raises(LoadError, match=f"needs the headers of this kernel, {release}") as refusal:
        bcc.bcc_backend(host, "match")

    assert f"linux-headers-{release}" in refusal.value.remedy
    assert 'loader = "core"' in refusal.value.remedy


def test_the_child_is_gone_and_accounting_goes_on(loaded: Loaded, plan: LoadPlan) -> None:
    """All maps and links arrive, filled in; without any process behind them the maps count."""
    views = abi.view_maps(loaded.maps)
    ctl = views.ctl[0]

    assert set(loaded.maps) == set(abi.MAPS)
    assert (int(ctl["abi"]), int(ctl["loader"])) == (abi.ABI, abi.LOADER_BCC)
    assert (int(ctl["ncpu"]), int(ctl["nslot"])) == (len(plan.packages), plan.slots)
    assert views.cpu["pkg"].tolist() == list(plan.packages)
    assert int(ctl["stamp"]) != 0
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == ""
    assert [note.split(" are ")[0] for note in loaded.notes] == ["processes", "hardware counters"]
    first = copy_maps(views)
    time.sleep(0.1)
    assert int(copy_maps(views).cpu["switches"].sum()) > int(first.cpu["switches"].sum())


def test_every_nanosecond_has_one_owner(loaded: Loaded, unified: Path, run_name: str) -> None:
    """Up to each CPU's last event, totals and idle make up its time, and buckets the totals."""
    views = abi.view_maps(loaded.maps)
    with made(unified / run_name) as cgroup:
        run(start(RESTLESS, cgroup, 0.5), start(BUSY, cgroup, 0.7))
        now = copy_maps(views)
    online = now.cpu[now.cpu["ts"] != 0]
    spans = int((online["ts"] - online["t0"]).sum())
    owned = int(now.total["ns"].sum()) + int(online["idle"].sum()) + int(online["acc"].sum())
    task, softirq, irq = (int(now.total["ns"][..., kind].sum()) for kind in range(abi.KINDS))
    interrupts = softirq + irq + int(online["idle"][:, abi.SOFTIRQ :].sum())

    assert owned - spans == 0
    assert now.task_buckets_ns + now.irq_buckets_ns + now.late_ns == task + interrupts
    assert int(views.ctl["no_slot"][0]) == 0


def test_cgroups_agree_with_the_scheduler(loaded: Loaded, unified: Path, run_name: str) -> None:
    """The time of a busy and of a restless cgroup is what cpu.stat says, within its error."""
    views = abi.view_maps(loaded.maps)
    with made(unified / f"{run_name}-a") as busy, made(unified / f"{run_name}-b") as restless:
        stolen = steal_ns()
        run(start(BUSY, busy, 1.0), start(RESTLESS, restless, 0.4))
        now = copy_maps(views)
        stolen = steal_ns() - stolen
        for cgroup in (busy, restless):
            total = now.total[:, slot_of(views, cgroup)]
            task, softirq, irq = (int(total["ns"][..., kind].sum()) for kind in range(abi.KINDS))
            allowed = SWITCH_NS * int(total["switches"].sum()) + TICK_NS + stolen
            used = usage_ns(cgroup)

            assert task - allowed <= used <= task + softirq + irq + allowed, cgroup.name


def test_kernel_threads_are_told_from_the_roots_processes(loaded: Loaded, unified: Path) -> None:
    """Short-lived processes of the root cgroup are the root's; kernel threads are kept apart."""
    if not Path("/proc/1/schedstat").exists():
        pytest.skip("the kernel keeps no schedstat (CONFIG_SCHED_INFO), the witness")
    views = abi.view_maps(loaded.maps)
    for _ in range(TRIES):
        before = observe(views)
        run(start(FORKS, unified, FORKS_NS / 1e9))
        after = observe(views)
        if set(before.threads) <= set(after.threads):
            break
    else:
        pytest.skip(f"in {TRIES} tries a kernel thread ended, and with it what the witness knows")
    kernel = after.total[:, abi.SLOT_KERNEL], before.total[:, abi.SLOT_KERNEL]
    at_root = slot_of(views, unified)
    root = after.total[:, at_root], before.total[:, at_root]
    witness = sum(after.threads.values()) - sum(before.threads.values())
    error = TICK_NS + len(views.cpu) * (before.took_ns + after.took_ns)

    assert grown(*kernel, "ns") > 0
    allowed = SWITCH_NS * grown(*kernel, "switches") + error
    assert abs(grown(*kernel, "ns") - witness) <= allowed
    assert grown(*root, "ns") >= FORKS_NS - SWITCH_NS * grown(*root, "switches") - error


def grown(after: NDArray[np.void], before: NDArray[np.void], name: str) -> int:
    """Return by how much a cgroup's totals have grown, packages and kinds together."""
    return int(after[name].sum()) - int(before[name].sum())


class Observed(NamedTuple):
    """The totals and the witness, read one after the other in ``took_ns``."""

    total: NDArray[np.void]
    threads: dict[int, int]  # pid of a kernel thread -> how long it has run
    took_ns: int


def observe(views: abi.Views) -> Observed:
    """Read the totals and how long each kernel thread has run."""
    began = time.monotonic_ns()
    total = copy_maps(views).total
    threads = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[6]) & PF_KTHREAD:
                threads[int(path.name)] = int((path / "schedstat").read_text().split()[0])
    return Observed(total, threads, time.monotonic_ns() - began)


def test_without_links_it_ends(loaded: Loaded) -> None:
    """Closing the links takes the programs away: nothing counts any more."""
    views = abi.view_maps(loaded.maps)
    close(loaded.links.values())
    time.sleep(0.05)
    first = views.cpu.copy()
    time.sleep(0.1)

    assert views.cpu.tobytes() == first.tobytes()


def test_the_daemon_stays_small(plan: LoadPlan) -> None:
    """bcc takes 160 MB in the child and nothing in the process that asked for it."""
    program = (
        "import sys, os; sys.path.insert(0, sys.argv[1])\n"
        "from tychod.config import Config; from tychod.hostfs import Host, own_rss_bytes\n"
        "from tychod.kernel.bpf import bcc, child\n"
        "from tychod.kernel.bpf.plan import LoadPlan\n"
        "plan = LoadPlan('v2', int(sys.argv[2]), 0, (0,) * int(sys.argv[3]), 512)\n"
        "backend = bcc.bcc_backend(Host(Config().host), 'any')\n"
        "before = own_rss_bytes()\n"
        "loaded = child.load_in_child(plan, backend)\n"
        "print(own_rss_bytes() - before, 'bcc' in sys.modules)\n"
    )
    arguments = [str(ROOT), str(plan.root_cgid), str(len(plan.packages))]
    with bpf_lock():
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
        )
    grown, imported = done.stdout.split()

    assert imported == "False"
    assert int(grown) <= RSS_BYTES


def test_a_source_that_does_not_compile_is_one_error(host: Host, plan: LoadPlan) -> None:
    """What the compiler says reaches the person who has to know it."""
    backend = bcc.bcc_backend(host, "any")
    broken = backend._replace(request={**backend.request, "text": "this is no C"})

    with pytest.raises(LoadError, match="Failed to compile"):
        child.load_in_child(plan, broken)

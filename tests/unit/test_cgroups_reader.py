"""The reader of cgroup files on trees of plain files: discovery, churn, restart, degradation."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.hosts.trees import SECOND, SetClock, host_config, no_inotify_left, write_files
from tests.sim.cgrouptree import TICK_NS, FakeTree
from tychod.clock import SystemClock
from tychod.collectors import cpu
from tychod.collectors.base import CpuCollector, Ready, Unavailable
from tychod.config import Config
from tychod.hostfs import Host
from tychod.kernel import inotify
from tychod.kernel.cgroups import (
    CpuBaseline,
    baseline_of,
    parse_usage_v2_ns,
    parse_usages_v1_ns,
    parse_usages_v2_ns,
)
from tychod.samples import KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY, CgroupRef, CpuSample

RESERVED = {KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY}


class Watched:
    """A simulated tree and the collector that reads it."""

    def __init__(self, base: Path, *, version: str, true_root: bool = True) -> None:
        self.tree = FakeTree(base, version=version, true_root=true_root)
        self.clock = SetClock()
        roots = host_config(base, procfs=self.tree.procfs, cgroupfs=self.tree.cgroupfs)
        self.config = Config(host=roots)
        self.collector = self.probe()

    def probe(self) -> CpuCollector:
        """Return a collector as the daemon gets it."""
        found = cpu.probe(Host(self.config.host), self.config, self.clock)
        assert isinstance(found, Ready)
        return found.collector

    def read(self) -> CpuSample:
        """Let half a second pass and read."""
        self.clock.t_ns += SECOND // 2
        (sample,) = self.collector.read()
        return sample

    def own_by_path(self, sample: CpuSample) -> dict[str, int]:
        """Return published own time by path; the reserved keys by their number."""
        names = {key: ref.path for key, ref in self.collector.cgroups.items()}
        return {
            names.get(key, str(key)): own
            for key, own in zip(sample.keys.tolist(), sample.own_ns.tolist(), strict=True)
        }

    def restart(self, baseline: CpuBaseline) -> CpuSample:
        """Start another collector from a baseline and return its first sample."""
        self.collector.close()
        self.collector = self.probe()
        assert self.collector.resume(baseline)
        (sample,) = self.collector.read()
        return sample


Watch = Callable[..., Watched]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Return a maker of watched trees that are closed at the end."""
    made: list[Watched] = []

    def make(version: str = "v2", *, true_root: bool = True) -> Watched:
        made.append(Watched(tmp_path / str(len(made)), version=version, true_root=true_root))
        return made[-1]

    yield make
    for watched in made:
        watched.collector.close()
        watched.tree.close()


@pytest.fixture(params=["v2", "v1"])
def watched(watch: Watch, request: pytest.FixtureRequest) -> Watched:
    """Return a tree of each version: a pod with one container, started and read once."""
    found = watch(request.param)
    for path in ("/pod", "/pod/a"):
        found.tree.make(path)
    found.tree.use("/pod/a", 50 * TICK_NS)
    found.read()
    return found


def test_own_time_of_each_cgroup(watched: Watched) -> None:
    """From the first reading on, each cgroup has what its own tasks used."""
    watched.tree.use("/pod/a", 3 * TICK_NS)
    watched.tree.use("/pod", 2 * TICK_NS)
    watched.tree.use("", TICK_NS)
    watched.tree.use_elsewhere(0, irq_ns=4 * TICK_NS, idle_ns=7 * TICK_NS)

    sample = watched.read()

    own = watched.own_by_path(sample)
    assert own == {
        "/pod/a": 3 * TICK_NS,
        "/pod": 2 * TICK_NS,
        str(KERNEL_KEY): 5 * TICK_NS,  # nobody sits in the root, so its own time is the kernel's
        str(ROOT_KEY): 0,
        str(OUTSIDE_KEY): 0,
    }
    assert sample.idle_ns == 7 * TICK_NS
    assert sample.t_ns == watched.clock.t_ns


def test_sample_is_safe_to_share(watched: Watched) -> None:
    """Samples are sorted by key and cannot be changed; neither can the table of names."""
    first = watched.read()
    kept = (first.own_ns.tolist(), dict(watched.collector.cgroups))
    names = watched.collector.cgroups
    watched.tree.make("/new")
    watched.tree.use("/pod/a", TICK_NS)
    watched.read()

    assert (first.own_ns.tolist(), dict(names)) == kept
    assert sorted(first.keys.tolist()) == first.keys.tolist()
    for array in (first.keys, first.own_ns, first.total_ns):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        names[99] = CgroupRef("/x", 1)  # type: ignore[index]


def test_new_cgroups_count_in_full(watched: Watched) -> None:
    """A container and what is nested in it are found without a walk, with all they used."""
    for path in ("/pod/b", "/pod/b/init", "/pod/b/init/deep"):
        watched.tree.make(path)
    watched.tree.use("/pod/b/init/deep", 2 * TICK_NS)
    watched.tree.use("/pod/b", TICK_NS)

    own = watched.own_by_path(watched.read())

    assert own["/pod/b/init/deep"] == 2 * TICK_NS
    assert own["/pod/b"] == TICK_NS
    assert own["/pod"] == own["/pod/b/init"] == 0


def test_removed_cgroup_leaves_its_last_moments_to_its_parent(watched: Watched) -> None:
    """What ran after the last reading lands in the parent; the name stays known for a while."""
    watched.tree.use("/pod/a", TICK_NS)
    key = next(k for k, ref in watched.collector.cgroups.items() if ref.path == "/pod/a")
    watched.read()
    watched.tree.use("/pod/a", 2 * TICK_NS)
    watched.tree.remove("/pod/a")

    sample = watched.read()

    assert key not in sample.keys
    assert watched.own_by_path(sample)["/pod"] == 2 * TICK_NS
    assert watched.collector.cgroups[key].path == "/pod/a"
    for _ in range(3):
        watched.clock.t_ns += 60 * SECOND
        watched.tree.make(f"/other{watched.clock.t_ns}")
        watched.read()
    assert key not in watched.collector.cgroups


def test_nothing_before_the_first_reading_counts(watch: Watch) -> None:
    """A cgroup made after the probe but before the first reading starts at that reading."""
    watched = watch("v2")
    watched.tree.make("/early")
    watched.tree.use("/early", 5 * TICK_NS)
    first = watched.own_by_path(watched.read())
    watched.tree.use("/early", TICK_NS)

    assert not any(first.values())
    assert watched.own_by_path(watched.read())["/early"] == TICK_NS


def test_short_lived_cgroup_is_its_parents(watched: Watched) -> None:
    """A cgroup that came and went between two readings loses nothing."""
    watched.tree.make("/pod/short")
    watched.tree.use("/pod/short", 3 * TICK_NS)
    watched.tree.remove("/pod/short")

    assert watched.own_by_path(watched.read())["/pod"] == 3 * TICK_NS


def test_recreated_cgroup_is_another(watched: Watched) -> None:
    """The same path made anew between two readings has a new key and its own time only."""
    old = {ref: key for key, ref in watched.collector.cgroups.items()}
    watched.tree.remove("/pod/a")
    watched.tree.make("/keeps-the-inode-from-coming-back")
    watched.tree.make("/pod/a")
    watched.tree.use("/pod/a", 2 * TICK_NS)

    sample = watched.read()

    live = {ref: k for k, ref in watched.collector.cgroups.items() if k in sample.keys}
    ref, key = next((r, k) for r, k in live.items() if r.path == "/pod/a")
    assert ref not in old
    assert key > max(old.values())
    assert watched.own_by_path(sample)["/pod/a"] == 2 * TICK_NS


def test_renamed_cgroup_keeps_its_key(watch: Watch) -> None:
    """v1 lets a cgroup change its name: its counter goes on under the new one."""
    watched = watch("v1")
    for path in ("/a", "/a/inner"):
        watched.tree.make(path)
    watched.tree.use("/a/inner", 40 * TICK_NS)
    before = watched.read()
    (watched.tree.root / "a").rename(watched.tree.root / "b")

    after = watched.read()

    assert after.keys.tolist() == before.keys.tolist()
    assert {ref.path for ref in watched.collector.cgroups.values()} == {"/b", "/b/inner"}
    assert watched.own_by_path(after)["/b/inner"] == 0


def test_container_view(watch: Watch) -> None:
    """Below a container's root, the machine's other tasks are outside and the root's its own."""
    for version in ("v2", "v1"):
        watched = watch(version, true_root=False)
        watched.tree.make("/a")
        watched.read()
        watched.tree.use("/a", 2 * TICK_NS)
        watched.tree.use("", 3 * TICK_NS)
        watched.tree.use_elsewhere(50 * TICK_NS, irq_ns=4 * TICK_NS)

        assert watched.own_by_path(watched.read()) == {
            "/a": 2 * TICK_NS,
            str(ROOT_KEY): 3 * TICK_NS,
            str(OUTSIDE_KEY): 50 * TICK_NS,
            str(KERNEL_KEY): 4 * TICK_NS,
        }


def test_occupants_of_the_root(watched: Watched) -> None:
    """User processes in the root cgroup make its own time theirs; looked at every 30 s."""
    procs = {"proc/2/stat": "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0\n"}
    base = watched.tree.procfs.parent
    write_files(base, procs)
    (watched.tree.root / "cgroup.procs").write_text("2\n")
    watched.clock.t_ns += 30 * SECOND
    watched.tree.use("", TICK_NS)
    kernel = watched.own_by_path(watched.read())
    write_files(base, {"proc/7/stat": "7 (bash) S 1 7 7 0 -1 4194560 0 0\n"})
    (watched.tree.root / "cgroup.procs").write_text("2\n7\n")
    watched.clock.t_ns += 30 * SECOND
    watched.tree.use("", 2 * TICK_NS)
    user = watched.own_by_path(watched.read())

    assert (kernel[str(KERNEL_KEY)], kernel[str(ROOT_KEY)]) == (TICK_NS, 0)
    assert (user[str(KERNEL_KEY)], user[str(ROOT_KEY)]) == (TICK_NS, 2 * TICK_NS)


def test_restart_continues(watched: Watched) -> None:
    """After a restart the gap's time is there: of old, new and removed cgroups, and idle."""
    watched.tree.make("/pod/gone")
    last = watched.read()
    baseline = baseline_of(watched.collector.method, last, watched.collector.cgroups)
    watched.tree.use("/pod/a", 2 * TICK_NS)
    watched.tree.use("/pod/gone", 3 * TICK_NS)
    watched.tree.remove("/pod/gone")
    watched.tree.make("/pod/new")
    watched.tree.use("/pod/new", 5 * TICK_NS)
    watched.tree.use_elsewhere(0, irq_ns=7 * TICK_NS, idle_ns=11 * TICK_NS)

    synthetic = watched.restart(baseline)
    sample = watched.read()

    assert (synthetic.t_ns, synthetic.idle_ns) == (last.t_ns, last.idle_ns)
    assert not synthetic.own_ns.any()
    assert set(watched.own_by_path(synthetic)) - {str(k) for k in RESERVED} == {"/pod", "/pod/a"}
    own = watched.own_by_path(sample)
    assert (own["/pod/a"], own["/pod/new"]) == (2 * TICK_NS, 5 * TICK_NS)
    assert own["/pod"] == 3 * TICK_NS
    assert own[str(KERNEL_KEY)] == 7 * TICK_NS
    assert sample.idle_ns - synthetic.idle_ns == 11 * TICK_NS


def test_baseline_of_another_method_is_refused(watched: Watched) -> None:
    """Counters of one hierarchy never continue those of another, nor once reading began."""
    baseline = CpuBaseline("bpf-core", 1, 0, 0, 0, 0, {})
    collector = watched.probe()
    try:
        assert not collector.resume(baseline)
        assert collector.resume(baseline._replace(method=collector.method))
        collector.read()
        assert not collector.resume(baseline._replace(method=collector.method))
    finally:
        collector.close()


def test_full_event_queue_is_survived(watched: Watched) -> None:
    """Where the kernel dropped events the tree is walked once and nothing is missed."""
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if queue > 100_000:
        pytest.skip(f"fs.inotify.max_queued_events = {queue}: too long to fill")
    for _ in range(queue // 2 + 1):
        (watched.tree.root / "pod" / "x").mkdir()
        (watched.tree.root / "pod" / "x").rmdir()
    watched.tree.make("/pod/b")
    watched.tree.use("/pod/b", TICK_NS)
    watched.tree.remove("/pod/a")

    own = watched.own_by_path(watched.read())

    assert own["/pod/b"] == TICK_NS
    assert "/pod/a" not in own


@contextmanager
def few_files(count: int) -> Iterator[None]:
    """Let this process open so many files at most."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_out_of_descriptors(watch: Watch) -> None:
    """Cgroups beyond the limit of open files are counted in their parents, and that is said."""
    watched = watch("v2")
    paths = [watched.tree.make(f"/c{number}") for number in range(6)]
    watched.collector.close()
    with few_files(128 + 4):
        watched.collector = watched.probe()
    watched.read()
    for path in paths:
        watched.tree.use(path, TICK_NS)
    own = watched.own_by_path(watched.read())

    assert sum(own.values()) == 6 * TICK_NS
    assert own[str(KERNEL_KEY)] == 2 * TICK_NS
    assert "2 cgroups are counted in their parents" in watched.collector.problems[0]


def test_without_inotify() -> None:
    """Without inotify the tree is walked every 2 s; a cgroup counts from when it was found."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        watched = Watched(Path(base), version="v2")
        watched.collector.close()
        with no_inotify_left():
            watched.collector = watched.probe()
        try:
            watched.read()
            watched.tree.make("/late")
            watched.tree.use("/late", 3 * TICK_NS)
            unseen = watched.own_by_path(watched.read())
            watched.clock.t_ns += 2 * SECOND
            watched.read()
            watched.tree.use("/late", TICK_NS)
            seen = watched.own_by_path(watched.read())
            problems = watched.collector.problems
        finally:
            watched.collector.close()
            watched.tree.close()

    assert unseen == {str(KERNEL_KEY): 3 * TICK_NS, str(ROOT_KEY): 0, str(OUTSIDE_KEY): 0}
    assert (seen["/late"], seen[str(KERNEL_KEY)]) == (TICK_NS, 3 * TICK_NS)
    assert "max_user_instances" in problems[0]


def test_unreadable_times_give_no_sample(watched: Watched) -> None:
    """A reading without /proc/stat is no sample; the next one holds its time."""
    stat = watched.tree.procfs / "stat"
    saved = stat.read_text()
    stat.write_text("")
    assert watched.collector.read() == ()
    assert "no counter of CPU time" in watched.collector.failure

    stat.write_text(saved)
    watched.tree.use("/pod/a", 2 * TICK_NS)

    assert watched.own_by_path(watched.read())["/pod/a"] == 2 * TICK_NS


def test_counter_that_cannot_be_parsed_stands_still(watched: Watched) -> None:
    """One damaged counter loses only itself, and only for as long."""
    name = "cpu.stat" if watched.tree.cgroupfs == watched.tree.root else "cpuacct.usage"
    usage = watched.tree.root / "pod" / "a" / name
    saved = usage.read_text()
    usage.write_text("garbage\n")
    watched.tree.make("/b")
    watched.tree.use("/b", TICK_NS)
    damaged = watched.own_by_path(watched.read())
    usage.write_text(saved)
    watched.tree.use("/pod/a", TICK_NS)
    repaired = watched.own_by_path(watched.read())

    assert (damaged["/pod/a"], damaged["/b"]) == (0, TICK_NS)
    assert (repaired["/pod/a"], repaired["/b"]) == (TICK_NS, TICK_NS)


def test_idle_time_never_falls(watched: Watched) -> None:
    """The kernel may take back a tick of idle time; what was published stays."""
    watched.tree.use_elsewhere(0, idle_ns=9 * TICK_NS)
    before = watched.read().idle_ns
    watched.tree.use_elsewhere(0, idle_ns=-TICK_NS)

    assert watched.read().idle_ns == before


def test_no_cgroups_is_an_outcome(tmp_path: Path) -> None:
    """A machine without cgroups, or without /proc/stat, is unavailable with a remedy."""
    write_files(tmp_path, {"full/cgroup/cgroup.controllers": ""})
    for base in (tmp_path / "empty", tmp_path / "full"):
        config = Config(host=host_config(base))
        found = cpu.SPEC.find(Host(config.host), config, SystemClock())
        assert isinstance(found, Unavailable)
        assert found.reason
        assert found.remedy


@pytest.mark.parametrize("data", [b"", b"user_usec 5\n", b"usage_usec 5", b"usage_usec x\n"])
def test_not_a_usage(data: bytes) -> None:
    """What is not a whole first line of cpu.stat is an error, never zero."""
    with pytest.raises(ValueError, match=r"cpu\.stat|not found|invalid literal"):
        parse_usage_v2_ns(data)


@pytest.mark.parametrize("other", [b"", b"usage_usec 5", b"user_usec 5\n", b"nr_bursts 0\n"])
def test_usages_of_many(other: bytes) -> None:
    """Many counters at once are what each is by itself; one that is none is an error for all."""
    texts = [b"usage_usec 0\nuser_usec 7\n", b"usage_usec 123456789\nusage_usec 8\n"]

    assert parse_usages_v2_ns(texts) == [parse_usage_v2_ns(text) for text in texts]
    assert parse_usages_v2_ns([]) == []
    assert parse_usages_v1_ns([b"12\n", b"0\n"]) == [12, 0]
    with pytest.raises(ValueError, match=r"cpu\.stat|not found"):
        parse_usages_v2_ns([*texts, other])


def test_inotify_events() -> None:
    """Events of files and of watches that ended are left out; a full queue is told."""
    records = [
        (1, inotify.IN_CREATE | inotify.IN_ISDIR, b"pod\0\0\0\0\0"),
        (1, inotify.IN_CREATE, b"file\0\0\0\0"),
        (1, 0x8000, b""),
        (-1, inotify.IN_Q_OVERFLOW, b""),
    ]
    data = b"".join(
        watch.to_bytes(4, "little", signed=True)
        + mask.to_bytes(4, "little")
        + bytes(4)
        + len(name).to_bytes(4, "little")
        + name
        for watch, mask, name in records
    )

    assert list(inotify.parse_events(data)) == [
        inotify.DirectoryEvent(1, "pod"),
        inotify.Overflow(),
    ]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["make", "remove", "use", "use", "read", "restart"]),
        st.integers(0, 1 << 16),
    ),
    max_size=30,
)


@settings(max_examples=40)
@given(STEPS, st.sampled_from(["v2", "v1"]))
def test_any_history_of_files_adds_up(steps: list[tuple[str, int]], version: str) -> None:
    """For any life of cgroups: all published time together is what the machine used, also over
    restarts, and no published time ever falls.
    """
    with tempfile.TemporaryDirectory() as base:
        watched = Watched(Path(base), version=version)
        try:
            sample = watched.read()
            published: dict[int, int] = {}
            before_restart = 0
            for number, (action, choice) in enumerate([*steps, ("read", 0)]):
                paths = ["", *watched.tree.paths]
                path = paths[choice % len(paths)]
                if action == "make":
                    watched.tree.make(f"{path}/c{number}")
                elif action == "remove" and path and not has_children(watched.tree, path):
                    watched.tree.remove(path)
                elif action == "use":
                    watched.tree.use(path, (choice % 7) * TICK_NS)
                elif action == "restart":
                    before_restart += sum(published.values())
                    published = {}
                    names = watched.collector.cgroups
                    saved = baseline_of(watched.collector.method, sample, names)
                    watched.restart(saved)
                    sample = watched.read()
                    take(published, sample)
                elif action == "read":
                    sample = watched.read()
                    take(published, sample)
            assert before_restart + sum(published.values()) == watched.tree.busy_ns
        finally:
            watched.collector.close()
            watched.tree.close()


def has_children(tree: FakeTree, path: str) -> bool:
    """Say whether a cgroup has others below it."""
    return any(other.startswith(path + "/") for other in tree.paths)


def take(published: dict[int, int], sample: CpuSample) -> None:
    """Remember the newest published time of every key; none may have fallen."""
    for key, own in zip(sample.keys.tolist(), sample.own_ns.tolist(), strict=True):
        assert own >= published.get(key, 0)
        published[key] = own

"""State on disk: whole or set aside, never half, never a crash."""

import fcntl
import os
import resource
import stat
import subprocess
import sys
import threading
import typing
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim.world import Load, Meter, World, container, unit, zone
from tychod.analysis.learned import Learned
from tychod.analysis.state import (
    Account,
    DomainAccount,
    Params,
    ProcessAccount,
    ProcessId,
    ProcessState,
    ReadingId,
    State,
    VmId,
    VmPoint,
    ZonePoint,
)
from tychod.analysis.summary import to_plain
from tychod.hostfs import UNKNOWN_BOOT
from tychod.kernel.cgroups import CpuBaseline
from tychod.model import Energy, Identity, Usage
from tychod.runtime.saved import CHECKSUM, MAGIC, Saved
from tychod.runtime.store import StateInUseError, Store
from tychod.samples import CgroupRef

BOOT = "8c1f0c1e-boot"
NOW_NS = 60 * 10**9
END_OF_TIME_NS = 1 << 64  # no time in a file is in the future of it
ODD = "user.slice/\udcff\udc80.scope"  # a directory name that is not UTF-8, as Python gives it
NAMED = replace(
    container(1, 2),
    labels={"app": "größe"},
    stale=True,
    requests={"cpu_millicores": 250},
    tenant="/docker/x",
    description="größe",
    devices={"nvidia.com/gpu": ("GPU-1", "GPU-2"), "x.com/none": ()},
    pid=42,
)
MACHINE = Account(
    Identity("vm", "web", "web", parent="x", cgroup="/a", pid=7),
    10**18,
    cpu_ns=9,
    energy={"dram": Energy(0, 3)},
    vcpu_ns=4,
)
STATE = State(
    sequence=7,
    since_ns=10**18,
    end_ns=5 * 10**9,
    zones={
        "rapl:0": ZonePoint(4 * 10**9, 123, 456, "package"),
        "model:0": ZonePoint(9, None, 2**60, "package"),
    },
    domains={"package": DomainAccount(999, Energy(400, 599), attributed=True)},
    accounts={
        i.id: Account(
            i,
            10**18 + 1,
            inode,
            5,
            {"package": Energy(1, 2)},
            ended,
            spread={"package": 0.25},
            requested=requested,
            ended_sequence=ended and 6,
        )
        for i, inode, ended, requested in (
            (NAMED, 77, None, {"cpu_millicores": 250, "memory_bytes": 2**40}),
            (unit(ODD), None, 4 * 10**9, {}),
            (Identity("unattributed", "unattributed", "unattributed", reason="?"), None, None, {}),
        )
    },
    violations=1,
    processes=ProcessState(
        {
            ProcessId(7, 123, ODD): ProcessAccount("a\ufffd", 10**18, 5, 6, {"dram": 7}, None),
            ProcessId(8, 124, "x"): ProcessAccount("", 10**18, 5, 0, {}, 4 * 10**9),
        },
        {ReadingId(7, 123, 2**63): 2**40, ReadingId(7, 123, 0): 1, ReadingId(8, 124, 5): 0},
        "bpf",
        5 * 10**9,
    ),
    vms={VmId(7, 123): VmPoint(2**40, 5, -1), VmId(8, 124): VmPoint(0, None, 2**62)},
    views={MACHINE.identity.id: MACHINE},
    folded={
        "namespace:shop": Usage(2**40, {"package": Energy(1, 2), "dram": Energy(-3, 4)}),
        f"slice:/{ODD}": Usage(-5, {}),
    },
)
BASELINE = CpuBaseline(
    "bpf-core", 5, 6, 7, 8, 9, {CgroupRef("/a", 1): 2, CgroupRef(ODD, 3): 4}, 2**64 - 1, 11
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty state directory."""
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


def file_of(store: Store) -> Path:
    """The state file."""
    return store.directory / "state.msgpack"


def kept_aside(store: Store) -> list[Path]:
    """Files that were set aside."""
    return [p for p in store.directory.iterdir() if "damaged" in p.name]


def write(store: Store, plain: object) -> None:
    """Write any plain data as a state file with a valid checksum."""
    packed = msgpack.packb(plain, unicode_errors="surrogateescape")
    file_of(store).write_bytes(MAGIC + CHECKSUM.pack(zlib.crc32(packed)) + packed)


def read_plain(store: Store) -> Any:
    """The plain data of a good state file."""
    body = file_of(store).read_bytes()[len(MAGIC) + CHECKSUM.size :]
    return msgpack.unpackb(body, unicode_errors="surrogateescape")


def test_what_is_saved_is_loaded(store: Store) -> None:
    """Every counter, name and point comes back, in names of any bytes too."""
    for baseline in (BASELINE, None):
        store.save(BOOT, STATE, baseline)

        assert store.load(BOOT, NOW_NS) == Saved(replace(STATE, restarted=True), baseline)
    assert store.problem is None


def learned() -> Mapping[str, Learned]:
    """What two workloads taught in a few windows."""
    loads = (Load(1, unit("a.service"), 0.5, 0, 3 * 10**9), Load(2, unit("b.service"), 0.3))
    times = tuple(range(0, 8 * 10**9, 10**8))
    world = World(loads, {"rapl": (Meter(zone("package-0"), 10.0, 10.0),)}, times, times)
    edges = [n * 10**9 for n in range(8)]
    *_, (_, state) = world.steps(edges, Params(cpus=4))
    assert state.learned
    return state.learned


def test_what_was_learned_is_loaded(store: Store) -> None:
    """Intensities and the idle floor go on after a restart, as far as their summary goes."""
    models = learned()
    store.save(BOOT, replace(STATE, learned=models), None)
    saved = store.load(BOOT, NOW_NS)

    assert saved is not None
    found = saved.state.learned
    assert {n: to_plain(m) for n, m in found.items()} == {n: to_plain(m) for n, m in models.items()}


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (None, "is not in the saved state"),
        ([], "cannot be used: expected a table"),
        ({"package": {}}, "cannot be used"),
        ({"package": []}, "cannot be used"),
        ({"package": {"version": 99}}, "cannot be used"),
    ],
)
def test_without_what_was_learned_the_counters_go_on(
    store: Store, caplog: pytest.LogCaptureFixture, kept: object, told: str
) -> None:
    """An older or odd summary costs the learning and one line, never the counters."""
    caplog.set_level("INFO")
    store.save(BOOT, STATE, BASELINE)
    plain = read_plain(store)
    del plain["learned"]
    if kept is not None:
        plain["learned"] = kept
    write(store, plain)
    saved = store.load(BOOT, NOW_NS)

    assert saved == Saved(replace(STATE, restarted=True), BASELINE)
    assert caplog.text.count("it is learned anew, counters go on") == 1
    assert told in caplog.text


HALVES = "\ud800b\udfff\udcff"


def test_any_text_can_be_saved(store: Store) -> None:
    """Half a surrogate pair, wherever it comes from, costs its character and not the daemon."""
    hints = typing.get_type_hints(Identity)
    texts: dict[str, Any] = {n: HALVES for n, h in hints.items() if h in (str, str | None)}
    odd = Identity(
        "container",
        labels={HALVES: HALVES},
        devices={HALVES: (HALVES,)},
        requests={HALVES: 5},
        **texts,
    )
    process = {ProcessId(7, 1, HALVES): ProcessAccount(HALVES, 0, 0, 0, {HALVES: 7}, None)}
    accounts = {HALVES: Account(odd, 10**18, energy={HALVES: Energy(1, 2)})}
    state = replace(STATE, accounts=accounts, processes=ProcessState(process, {}, "bpf", 5))
    store.save(BOOT, state, BASELINE)
    loaded = store.load(BOOT, NOW_NS)

    assert store.problem is None
    assert loaded is not None
    (account,) = loaded.state.accounts.values()
    assert account.energy == {"?b?\udcff": Energy(1, 2)}
    assert account.identity.devices == {"?b?\udcff": ("?b?\udcff",)}
    assert {getattr(account.identity, name) for name in texts} == {"?b?\udcff"}
    assert loaded.state.folded == STATE.folded  # what was whole stays as it was
    assert loaded.baseline == BASELINE


def test_what_cannot_be_packed_is_a_problem_and_no_crash(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A number beyond the format is told once; the file of before stays."""
    store.save(BOOT, STATE, BASELINE)
    for _ in range(2):
        store.save(BOOT, replace(STATE, violations=1 << 70), BASELINE)

    assert store.problem is not None
    assert "cannot be packed (OverflowError)" in store.problem
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    loaded = store.load(BOOT, NOW_NS)
    assert loaded is not None
    assert loaded.state.violations == STATE.violations


def test_empty_state_is_no_restart(store: Store) -> None:
    """Nothing saved, or saved before the first window: counters begin."""
    assert store.load(BOOT, NOW_NS) is None
    store.save(BOOT, State(), None)
    assert store.load(BOOT, NOW_NS) == Saved(State(), None)


def test_an_unknown_boot_equals_none(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Where procfs shows no boot id, what was saved may be of another boot: never gone on from."""
    caplog.set_level("INFO")
    store.save(UNKNOWN_BOOT, STATE, BASELINE)
    assert store.load(UNKNOWN_BOOT, NOW_NS) is None
    assert store.load(BOOT, NOW_NS) is None
    store.save(BOOT, STATE, BASELINE)
    assert store.load(UNKNOWN_BOOT, NOW_NS) is None

    assert caplog.text.count("counters start anew") == 3
    assert kept_aside(store) == []


@pytest.mark.parametrize(
    "saved",
    [
        Saved(replace(STATE, end_ns=NOW_NS + 1), BASELINE),
        Saved(STATE, BASELINE._replace(t_ns=NOW_NS + 1)),
    ],
)
def test_state_from_the_future_starts_anew(store: Store, saved: Saved) -> None:
    """A boot that is as old as the saved one was, by its clock, cannot be the same."""
    store.save(BOOT, *saved)

    assert store.load(BOOT, NOW_NS) is None
    assert store.load(BOOT, NOW_NS + 1) is not None
    assert kept_aside(store) == []


def test_another_boot_starts_anew(store: Store) -> None:
    """State of another boot is neither used nor an error."""
    store.save(BOOT, STATE, BASELINE)

    assert store.load("another", NOW_NS) is None
    assert kept_aside(store) == []


def test_every_truncation_is_noticed(store: Store) -> None:
    """A file cut short anywhere is set aside."""
    store.save(BOOT, STATE, BASELINE)
    data = file_of(store).read_bytes()
    for length in range(len(data)):
        file_of(store).write_bytes(data[:length])
        assert store.load(BOOT, NOW_NS) is None, length
        assert not file_of(store).exists()
    assert kept_aside(store)


def test_every_flipped_bit_is_noticed(store: Store) -> None:
    """One wrong bit anywhere is never read as a counter."""
    store.save(BOOT, STATE, BASELINE)
    data = file_of(store).read_bytes()
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 1 << index % 8
        file_of(store).write_bytes(damaged)
        assert store.load(BOOT, NOW_NS) is None, index


def test_other_format_is_set_aside(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A file of a newer or older version is kept, with one line that names it."""
    store.save(BOOT, STATE, None)
    plain = read_plain(store)
    for version in (0, 2, "1", None):
        caplog.clear()
        write(store, plain | {"format": version})
        assert store.load(BOOT, NOW_NS) is None
        assert len(caplog.records) == 1
        assert "format" in caplog.text
    assert kept_aside(store)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.just(2**64 - 1),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.just([]),
    st.just({}),
    st.just([1, "a"]),
    st.just({1: []}),
    st.just(msgpack.Timestamp(5)),
)


def paths(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested plain data."""
    yield path
    entries = (
        plain.items()
        if isinstance(plain, dict)
        else enumerate(plain)
        if isinstance(plain, list)
        else ()
    )
    for key, value in entries:
        yield from paths(value, (*path, key))


def replaced(plain: Any, path: tuple[Any, ...], value: object) -> Any:
    """The same data with another value at one place."""
    if not path:
        return value
    copied = plain.copy()
    copied[path[0]] = replaced(plain[path[0]], path[1:], value)
    return copied


def check_types(state: State) -> None:
    """Everything that analysis computes with has the type it is declared with."""
    for point in state.zones.values():
        assert type(point.t_ns) is type(point.booked_uj) is int
        assert point.native_uj is None or type(point.native_uj) is int
        assert type(point.domain) is str
    for domain in state.domains.values():
        assert type(domain.energy_uj) is int
        assert {type(x) for x in domain.split} == {int}
        assert type(domain.attributed) is bool
    for who, seen in state.vms.items():
        assert {type(x) for x in (*who, seen.cpu_ns, seen[2])} == {int}
        assert type(seen.vcpu_ns) in (int, type(None))
    for usage in state.folded.values():
        assert type(usage.cpu_ns) is int
        assert {type(x) for e in usage.energy.values() for x in e} <= {int}
    for account in (*state.accounts.values(), *state.views.values()):
        assert type(account.cpu_ns) is type(account.first_seen_ns) is int
        assert type(account.identity.id) is type(account.identity.name) is str
        assert {type(x) for e in account.energy.values() for x in e} <= {int}
        assert {type(x) for pair in account.identity.labels.items() for x in pair} <= {str}
        assert {type(x) for x in account.requested.values()} <= {int}
        assert {type(x) for x in (account.ended_sequence, account.vcpu_ns)} <= {int, type(None)}
        assert {type(x) for x in account.spread.values()} <= {float}


@given(st.data())
def test_wrong_types_are_set_aside(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A valid checksum over values of other types: set aside, or of the right types after all."""
    store = Store(tmp_path_factory.mktemp("state"))
    try:
        store.save(BOOT, STATE, BASELINE)
        plain = read_plain(store)
        place = data.draw(st.sampled_from(list(paths(plain))))
        write(store, replaced(plain, place, data.draw(JUNK)))
        loaded = store.load(BOOT, END_OF_TIME_NS)
        if loaded is None:
            assert kept_aside(store) or place in ((), ("boot_id",))
        else:
            check_types(loaded.state)
            store.save(BOOT, loaded.state, loaded.baseline)
            assert store.load(BOOT, END_OF_TIME_NS) == loaded
    finally:
        store.close()


def test_a_reading_without_its_process_is_not_taken(store: Store) -> None:
    """What a file says of processes that it does not list is left out: loaded is as saved."""
    store.save(BOOT, STATE, BASELINE)
    plain = read_plain(store)
    write(store, replaced(plain, ("processes", "accounts", 0, 0, 0), 2**64 - 1))

    loaded = store.load(BOOT, END_OF_TIME_NS)

    assert loaded is not None
    listed = {who[:2] for who in loaded.state.processes.accounts}
    assert {who[:2] for who in loaded.state.processes.read_ns} <= listed


def test_what_is_no_file_is_set_aside(store: Store) -> None:
    """A directory in the file's place costs the counters, not the start."""
    file_of(store).mkdir()

    assert store.load(BOOT, NOW_NS) is None
    assert kept_aside(store)
    store.save(BOOT, STATE, None)
    assert store.problem is None


def test_a_baseline_of_an_older_version_has_no_stamp(store: Store) -> None:
    """State that was saved before the kernel accounting came goes on after an upgrade."""
    store.save(BOOT, STATE, BASELINE)
    plain = read_plain(store)
    write(store, plain | {"cpu": plain["cpu"][:-2]})

    loaded = store.load(BOOT, NOW_NS)

    assert loaded is not None
    assert loaded.baseline == BASELINE._replace(stamp=0, busy_ns=0)
    write(store, plain | {"cpu": plain["cpu"][:-1]})
    assert store.load(BOOT, NOW_NS) is None


ADDED_LATER = {"processes", "learned", "vms", "views", "folded", "gpus", "platform"}


def test_missing_parts_are_set_aside(store: Store) -> None:
    """A part that is not there is not made up."""
    store.save(BOOT, STATE, BASELINE)
    plain = read_plain(store)
    for name in plain.keys() - ADDED_LATER:
        write(store, {k: v for k, v in plain.items() if k != name})
        assert store.load(BOOT, NOW_NS) is None, name
    assert kept_aside(store)


def test_state_of_a_version_without_processes_goes_on(store: Store) -> None:
    """An upgrade to a version that accounts processes loses no counter of a workload."""
    store.save(BOOT, STATE, BASELINE)
    plain = read_plain(store)
    del plain["processes"]
    write(store, plain)
    expected = replace(STATE, restarted=True, processes=ProcessState())

    assert store.load(BOOT, NOW_NS) == Saved(expected, BASELINE)


def test_state_of_a_version_without_requests_goes_on(store: Store) -> None:
    """An upgrade to a version that remembers requests loses no counter of a workload."""
    store.save(BOOT, STATE, BASELINE)
    plain = read_plain(store)
    write(store, plain | {"accounts": [row[:6] for row in plain["accounts"]]})

    loaded = store.load(BOOT, NOW_NS)

    assert loaded is not None
    forgotten = {
        i: replace(a, requested={}, spread={}, ended_sequence=None)
        for i, a in STATE.accounts.items()
    }
    assert loaded.state.accounts == forgotten


NEW_IN_IDENTITY = ("description", "devices", "pid")


def test_state_of_a_version_without_lifetimes_goes_on(store: Store) -> None:
    """An upgrade to the version that knows virtual machines and views loses no counter."""
    store.save(BOOT, STATE, BASELINE)
    plain = read_plain(store)
    fields = plain["identity_fields"]
    old = [n for n, name in enumerate(fields) if name not in NEW_IN_IDENTITY]
    plain["identity_fields"] = [fields[n] for n in old]
    plain["accounts"] = [[[row[0][n] for n in old], *row[1:8]] for row in plain["accounts"]]
    write(store, {k: v for k, v in plain.items() if k not in {"vms", "views", "folded"}})
    loaded = store.load(BOOT, NOW_NS)

    assert loaded is not None
    assert loaded.baseline == BASELINE
    bare = {
        i: replace(
            a,
            identity=replace(a.identity, description=None, devices={}, pid=None),
            ended_sequence=None,
        )
        for i, a in STATE.accounts.items()
    }
    assert loaded.state == replace(
        STATE, restarted=True, accounts=bare, vms={}, views={}, folded={}
    )


def test_what_a_newer_version_adds_is_left_out(store: Store) -> None:
    """Further parts and values at the end of an account do not hinder an older version."""
    store.save(BOOT, STATE, BASELINE)
    plain = read_plain(store)
    longer = [[*row, {"new": 1}] for row in plain["accounts"]]
    write(store, plain | {"accounts": longer, "later": [1]})

    assert store.load(BOOT, NOW_NS) == Saved(replace(STATE, restarted=True), BASELINE)


def test_readings_of_unlisted_processes_are_not_kept(store: Store) -> None:
    """The file is bounded by the processes that are listed, not by those that there are."""
    many = {ReadingId(pid, 1, 0): pid for pid in range(100, 200)}
    read = replace(STATE.processes, read_ns={**STATE.processes.read_ns, **many})
    store.save(BOOT, replace(STATE, processes=read), None)
    saved = store.load(BOOT, NOW_NS)

    assert saved is not None
    assert saved.state.processes == STATE.processes


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    """Directory 0700 and files 0600, also where they were wider before."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    (directory / "state.new").write_bytes(b"left behind")
    (directory / "state.new").chmod(0o666)
    store = Store(directory)
    store.save(BOOT, STATE, None)
    store.close()

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in directory.iterdir()} == {0o600}


def test_a_shared_directory_keeps_its_mode(tmp_path: Path) -> None:
    """Where other things live too, their users are not shut out."""
    (tmp_path / "other").write_text("")
    tmp_path.chmod(0o755)
    Store(tmp_path).close()

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_no_link_is_followed(tmp_path: Path) -> None:
    """A link in the place of the file to be written does not lead to another file."""
    directory, victim = tmp_path / "state", tmp_path / "victim"
    directory.mkdir()
    victim.write_text("precious")
    (directory / "state.new").symlink_to(victim)
    store = Store(directory)
    store.save(BOOT, STATE, None)
    store.close()

    assert victim.read_text() == "precious"
    assert not (directory / "state.msgpack").is_symlink()


def test_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file in its place is told, not worked around."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file")


def test_second_user_is_refused_and_told_the_first(store: Store) -> None:
    """Another process cannot lock the directory; the error names ours."""
    code = (
        "import sys; from pathlib import Path; from tychod.runtime.store import *\n"
        "try: Store(Path(sys.argv[1]))\n"
        "except StateInUseError as exc: print(exc)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.directory)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert f"pid {os.getpid()}" in done.stdout
    with pytest.raises(StateInUseError):
        Store(store.directory)


def test_lock_is_given_up(tmp_path: Path) -> None:
    """After the end another may begin."""
    Store(tmp_path).close()
    Store(tmp_path).close()


def test_lock_is_held_by_the_file(tmp_path: Path) -> None:
    """Who holds the lock without having written its number is unknown, and still respected."""
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        with pytest.raises(StateInUseError, match="unknown"):
            Store(tmp_path)
    finally:
        os.close(fd)


def test_full_disk_costs_only_this_save(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A save that fails leaves the last good file, is told once, and recovery is told once."""
    store.save(BOOT, STATE, BASELINE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # as a disk with 64 bytes left
    try:
        for _ in range(3):
            store.save(BOOT, replace(STATE, sequence=8), BASELINE)
        problem = store.problem
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = store.load(BOOT, NOW_NS)
    store.save(BOOT, replace(STATE, sequence=9), BASELINE)
    after = store.load(BOOT, NOW_NS)

    assert problem
    assert str(store.directory) in problem
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    assert kept is not None
    assert kept.state.sequence == 7
    assert after is not None
    assert after.state.sequence == 9
    assert store.problem is None


def test_a_full_disk_does_not_stop_the_start(tmp_path: Path) -> None:
    """Without room for its number the lock still holds."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        store = Store(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(StateInUseError):
        Store(tmp_path)
    store.close()


def test_a_reader_never_sees_half(store: Store) -> None:
    """While saves go on, the file is whole at every moment."""
    store.save(BOOT, STATE, BASELINE)
    done = threading.Event()

    def save_on_and_on() -> None:
        for sequence in range(300):
            store.save(BOOT, replace(STATE, sequence=sequence), BASELINE)
        done.set()

    writer = threading.Thread(target=save_on_and_on)
    writer.start()
    seen = 0
    while not done.is_set():
        data = file_of(store).read_bytes()
        head = len(MAGIC) + CHECKSUM.size
        assert CHECKSUM.unpack_from(data, len(MAGIC)) == (zlib.crc32(data[head:]),)
        seen += 1
    writer.join()

    assert seen

"""The loader's parts that need no kernel: plan, child's protocol, pins' rules, command line."""

import fcntl
import json
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tychod import config, load
from tychod.hostfs import Host
from tychod.kernel.bpf import attach, attached, child, cpus, directory, pins
from tychod.kernel.bpf.child import Backend
from tychod.kernel.bpf.plan import Loaded, LoadError, LoadPlan

PLAN = LoadPlan("v1", 7, 3, (0, 1), 64, processes=True, counters=("cycles",))
MOUNTS = (
    "22 1 0:20 / /sys rw shared:2 - sysfs sysfs rw\n"
    "30 22 0:27 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700\n"
    "31 1 0:28 /tychod /run/ty\\040chod rw - bpf bpf rw\n"
    "32 30 0:29 / /sys/fs/bpf/hidden rw - tmpfs tmpfs rw\n"
)


# ---- the plan ----


def machine(tmp_path: Path, files: dict[str, str]) -> Host:
    """Return a machine made of these files."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    roots = {name: str(tmp_path / name) for name in ("procfs", "sysfs", "cgroupfs")}
    return Host(config.Host(**roots))


TWO_PACKAGES = {
    "sysfs/devices/system/cpu/possible": "0-3\n",
    "sysfs/devices/system/cpu/online": "0,2-3\n",
    "sysfs/devices/system/cpu/cpu0/topology/physical_package_id": "3\n",
    "sysfs/devices/system/cpu/cpu2/topology/physical_package_id": "36\n",
    "sysfs/devices/system/cpu/cpu3/topology/physical_package_id": "3\n",
}


def test_packages_become_dense_rows(tmp_path: Path) -> None:
    """Whatever numbers the firmware gives, rows count from 0; an offline CPU is in the first."""
    host = machine(tmp_path, TWO_PACKAGES)

    assert cpus.package_rows(host) == (0, 0, 1, 0)
    assert cpus.online(host) == (0, 2, 3)


def test_a_machine_without_topology_has_one_package(tmp_path: Path) -> None:
    """No files, or the firmware's -1: one row for all."""
    unknown = {
        "sysfs/devices/system/cpu/possible": "0-1\n",
        "sysfs/devices/system/cpu/cpu0/topology/physical_package_id": "-1\n",
    }

    assert cpus.package_rows(machine(tmp_path, unknown)) == (0, 0)
    assert set(cpus.package_rows(Host(config.Host(sysfs=str(tmp_path / "none"))))) == {0}


@pytest.mark.parametrize("is_true_root", [True, False])
def test_the_plan_follows_machine_and_settings(tmp_path: Path, is_true_root: bool) -> None:
    """Only the machine's own root has its id in the plan: a container's part has kernel threads
    of nobody."""
    files = TWO_PACKAGES | {
        "cgroupfs/cgroup.controllers": "",
        "procfs/self/mountinfo": "",
        "procfs/1/cgroup": "0::/init.scope\n",
    }
    if not is_true_root:
        files["cgroupfs/cgroup.type"] = "domain\n"
    host = machine(tmp_path, files)
    accounting = config.Accounting(slots=100, processes=True, counters=("cycles",))
    plan = attach.make_plan(host, config.Config(accounting=accounting))

    inode = (tmp_path / "cgroupfs").stat().st_ino
    assert plan == LoadPlan(
        "v2", inode if is_true_root else 0, 0, (0, 0, 1, 0), 100, True, ("cycles",)
    )


def test_v1_has_its_number_from_the_kernel() -> None:
    """The hierarchy of cpuacct is told from others by the kernel's number."""
    text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\ncpuacct\t12\t5\t1\n"

    assert attach.parse_hierarchy_id(text) == 12
    with pytest.raises(LoadError, match="cpuacct"):
        attach.parse_hierarchy_id(text.replace("\t12\t", "\t0\t"))


def test_a_host_without_cgroups_has_no_plan(tmp_path: Path) -> None:
    """Reason and remedy are those of the choice of a hierarchy."""
    with pytest.raises(LoadError, match="no cgroup hierarchy"):
        attach.make_plan(machine(tmp_path, {}), config.Config())


def test_off_loads_nothing(tmp_path: Path) -> None:
    """loader = "off" is a reason like others."""
    settings = config.Config(accounting=config.Accounting(loader="off"))

    with pytest.raises(LoadError, match=r'loader = "off"'):
        attach.load(machine(tmp_path, {}), settings)


def test_auto_keeps_both_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When neither backend works a person sees why each did not; core alone asks no other."""
    host = machine(tmp_path, TWO_PACKAGES | {"cgroupfs/cgroup.controllers": ""})

    def core(_: LoadPlan) -> Loaded:
        raise LoadError("no types", "other kernel")

    def bcc(*_: object) -> Loaded:
        raise LoadError("no headers", "install")

    monkeypatch.setattr(attach, "_load_bcc", bcc)
    with pytest.raises(LoadError, match=r"^no types; bcc: no headers$"):
        attach.load(host, config.Config(), core)
    only = config.Config(accounting=config.Accounting(loader="core"))
    with pytest.raises(LoadError, match=r"^no types$"):
        attach.load(host, only, core)
    other = config.Config(accounting=config.Accounting(loader="bcc"))
    with pytest.raises(LoadError, match=r"^no headers$"):
        attach.load(host, other, core)


# ---- the child ----

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from tychod.kernel.bpf import child
from tychod.kernel.bpf.plan import Loaded, LoadError
number = int(sys.argv[2])
request = child.read_request(sys.stdin.buffer)
"""


def scripted(body: str, **request: object) -> Backend:
    """Return a backend whose child does what the test says."""
    root = str(child.project_root())
    return Backend("test", (sys.executable, "-I", "-c", CHILD + body, root), request)


def test_a_child_gets_the_plan_and_gives_descriptors() -> None:
    """The plan arrives as it was sent, and what the child opened can be read here."""
    found = child.load_in_child(
        PLAN,
        scripted(
            "import os\n"
            "read, write = os.pipe()\n"
            "os.write(write, repr((request.plan, request.rest)).encode())\n"
            "child.hand_over(number, Loaded({'m': read}, {'l': write}, ('a note',)))",
            headers="any",
        ),
    )
    try:
        assert os.read(found.maps["m"], 4096).decode() == repr((PLAN, {"headers": "any"}))
        assert os.write(found.links["l"], b"x") == 1
        assert found.notes == ("a note",)
        assert not os.get_inheritable(found.maps["m"])
    finally:
        for fd in (*found.maps.values(), *found.links.values()):
            os.close(fd)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("child.hand_over_error(number, LoadError('why', 'what to do'))", "^why$"),
        ("print('some trouble', file=sys.stderr); sys.exit(3)", "ended early: .*some trouble"),
        ("sys.exit(0)", "without a word"),
        ("import socket; socket.socket(fileno=number).send(b'nonsense')", "damaged"),
        ("import socket; socket.socket(fileno=number).send(b'[]')", "damaged"),
        (
            "child._send(number, {'maps': ['a'], 'links': [], 'notes': []}, [])",
            "0 descriptors",
        ),
    ],
)
def test_a_child_that_fails_is_a_reason(body: str, reason: str) -> None:
    """Whatever the child does, the parent has an error in words and nothing left open."""
    with pytest.raises(LoadError, match=reason):
        child.load_in_child(PLAN, scripted(body))


def test_a_child_that_hangs_is_ended() -> None:
    """The time limit holds, and the child is gone afterwards."""
    with pytest.raises(LoadError, match=r"within 0\.3 s"):
        child.load_in_child(PLAN, scripted("import time; time.sleep(60)"), timeout_s=0.3)


def test_an_interpreter_that_is_missing_is_named() -> None:
    """A backend whose interpreter is not there is refused in words."""
    with pytest.raises(LoadError, match="/nonexistent/python cannot be started"):
        child.load_in_child(PLAN, Backend("test", ("/nonexistent/python",)))


def test_unwanted_descriptors_are_closed() -> None:
    """Descriptors that come without names do not stay open."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(LoadError, match="1 descriptors"):
        child.parse_answer(
            json.dumps({"maps": [], "links": [], "notes": []}).encode(), [os.dup(ours.fileno())]
        )


# ---- pins ----


@pytest.mark.parametrize(
    ("path", "is_bpf"),
    [
        ("/sys/fs/bpf/tychod", True),
        ("/sys/fs/bpf", True),
        ("/sys/fs/bpfx/tychod", False),
        ("/sys/fs/bpf/hidden/tychod", False),
        ("/run/ty chod/v1", True),
        ("/tmp/tychod", False),  # noqa: S108
    ],
)
def test_a_bpf_file_system_is_recognised(path: str, is_bpf: bool) -> None:
    """The innermost mount decides."""
    assert pins.is_bpffs(MOUNTS, path) == is_bpf


def test_no_pins_are_made_elsewhere(tmp_path: Path) -> None:
    """Where no BPF file system is, the message says how to mount one."""
    host = Host(config.Host())
    with (
        pytest.raises(LoadError, match="not in a BPF file system") as caught,
        pins.locked_root(host, str(tmp_path / "x"), create=True),
    ):
        pass
    assert "mount -t bpf -o mode=0700" in caught.value.remedy
    assert not (tmp_path / "x").exists()


def test_who_holds_a_lock_is_found(tmp_path: Path) -> None:
    """The holder of a flock is found by device and inode, nobody else's."""
    status = tmp_path.stat()
    here = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    line = "1: {} ADVISORY  WRITE {} {} 0 EOF\n"

    assert pins.parse_locks(line.format("FLOCK", 71, here), status) == 71
    assert pins.parse_locks(line.format("FLOCK", 0, here), status) == 0
    assert pins.parse_locks(line.format("POSIX", 71, here), status) is None
    assert pins.parse_locks(line.format("FLOCK", 71, f"{here}0"), status) is None
    assert pins.parse_locks("", status) is None


def test_only_our_names_are_removed(tmp_path: Path) -> None:
    """Somebody else's files in the directory are left alone."""
    for name in ("v1", "v23", "new", "vx", "v1x", "other", "renew"):
        (tmp_path / name).mkdir()

    assert pins.ours(str(tmp_path)) == ["new", "v1", "v23"]
    assert (
        attached.detach_pinned(Host(config.Host()), str(tmp_path)).text == "detached new, v1, v23"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "renew", "v1x", "vx"]


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    """Where a directory of ours should be, somebody's link costs nobody a file."""
    victim, root = tmp_path / "victim", tmp_path / "root"
    victim.mkdir()
    (victim / "a").touch()
    root.mkdir()
    (root / "v0").symlink_to(victim)
    (root / "v2").mkdir()
    (root / "v2" / "ty_ctl").symlink_to(victim / "a")
    attached.detach_pinned(Host(config.Host()), str(root))

    assert not root.exists()
    assert [p.name for p in victim.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["root", "root/v1"])
def test_no_link_is_a_place_for_pins(tmp_path: Path, name: str) -> None:
    """Neither the root nor the directory in it may lie elsewhere."""
    (tmp_path / "real" / "v1").mkdir(parents=True)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "real")

    with pytest.raises(LoadError, match="symbolic link") as caught:
        pins.open_pins(Host(config.Host()), str(tmp_path / "root"))
    assert f"rm -r {tmp_path / name}" in caught.value.remedy


@pytest.mark.parametrize("mode", [0o1777, 0o770])
def test_a_root_that_others_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """Neither loader nor reader believes what anybody could have put there."""
    root = tmp_path / "root"
    (root / "v1").mkdir(parents=True)
    root.chmod(mode)
    host = Host(config.Host())
    for attempt in (attached.detach_pinned, attached.read_state, pins.open_pins):
        with pytest.raises(LoadError, match="somebody else's work"):
            attempt(host, str(root))
    assert (root / "v1").exists()


def status(uid: int, mode: int) -> os.stat_result:
    """Return the status of a directory."""
    return os.stat_result((0o040000 | mode, 1, 1, 2, uid, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("uid", "mode", "above_uid", "above_mode", "is_believed"),
    [
        (0, 0o2750, 0, 0o1777, True),
        (990, 0o2750, 0, 0o1777, True),
        (1000, 0o2750, 0, 0o1777, False),
        (1000, 0o2750, 0, 0o700, True),
        (1000, 0o2750, 990, 0o700, False),
        (1000, 0o2750, 0, 0o775, False),
        (0, 0o2770, 0, 0o700, False),
        (0, 0o2752, 0, 0o700, False),
    ],
)
def test_whose_directory_is_believed(
    uid: int, mode: int, above_uid: int, above_mode: int, is_believed: bool
) -> None:
    """Root's and the loader's, or whose root gave it; of nobody where others may write."""
    found = directory.is_believed(status(uid, mode), status(above_uid, above_mode), {0, 990})

    assert found == is_believed


def test_a_held_lock_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may read the root can hold its lock: the message names the process."""
    monkeypatch.setattr(pins, "LOCK_S", 0.1)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LoadError, match=rf"process {os.getpid()} holds .* more than 0\.1 s"):
            attached.detach_pinned(Host(config.Host()), str(tmp_path))
    finally:
        os.close(held)
    assert "nothing is attached" in attached.detach_pinned(Host(config.Host()), str(tmp_path)).text


# ---- the command ----


def test_usage_and_settings_errors_are_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Wrong usage and an invalid configuration are told from a failure."""
    bad = tmp_path / "bad.toml"
    bad.write_text("[accounting]\nslots = 1\n")
    for arguments in ([], ["nonsense"], ["attach", "--wrong"]):
        with pytest.raises(SystemExit) as caught:
            load.main(arguments)
        assert caught.value.code == 2

    assert load.main(["attach", "--config", str(bad)]) == 2
    assert "accounting.slots" in capsys.readouterr().err


def test_a_machine_without_a_place_for_pins_fails_in_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """attach exits 1 with reason and remedy, status 3, detach 0: there is nothing to do."""
    where = ["--config", os.devnull, "--pin-dir", str(tmp_path / "x")]

    assert load.main(["attach", *where]) == 1
    assert "mount -t bpf -o mode=0700 bpf" in capsys.readouterr().err
    assert load.main(["status", *where, "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == {"attached": False}
    assert load.main(["detach", *where]) == 0
    assert capsys.readouterr().out == "nothing is attached\n"


def test_status_for_people_names_what_matters() -> None:
    """The lines show the reader, what was lost and what is on."""
    state = attached.State(
        *(1, "core", "v2", "00ff", 5_000_000_000, 17, 64, 2, 1, False, 1, True, ()),
        *(5, 6, 7, 8, 4711),
    )
    text = attached.render(state, "/pins")

    for part in ("loader core", "17 of 64 slots", "process 4711", "late 5 ns", "processes   off"):
        assert part in text
    assert "nobody" in attached.render(replace(state, reader=None), "/pins")
    assert "not attached" in attached.render(None, "/pins")

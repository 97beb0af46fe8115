"""Loading on the real kernel: what is counted, what is pinned, who may do what, what stays."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.sim.bpf import bpf_lock, bpffs, loaded, plan_here, require_bpf
from tychod.config import Config
from tychod.hostfs import Host
from tychod.kernel.bpf import abi, child, core, pins, syscall
from tychod.kernel.bpf.plan import LoadError

pytestmark = [
    pytest.mark.bpf,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a BPF file system: root only"),
]

ROOT = Path(__file__).resolve().parents[2]
HOST = Host(Config().host)
SOFTWARE = ("sw:task-clock", "sw:context-switches", "sw:page-faults")
NOBODY = 65534
LOOKS = 200


class Sum(NamedTuple):
    """All time of all CPUs, at one moment of each: what is accounted, and what has passed."""

    accounted_ns: int
    passed_ns: int


def look(views: abi.Views) -> Sum | None:
    """Add up everything, None if a CPU was at work meanwhile (the look must be repeated)."""
    before, total = views.cpu.copy(), int(views.total["ns"].sum())
    cpus = views.cpu.copy()
    if before.tobytes() != cpus.tobytes() or (cpus["enter"] != cpus["leave"]).any():
        return None
    accounted = total + int(cpus["idle"].sum()) + int(cpus["acc"].sum())
    return Sum(accounted, int((cpus["ts"] - cpus["t0"]).sum()))


def look_quietly(views: abi.Views) -> Sum:
    """Look until nothing happened meanwhile."""
    for _ in range(LOOKS):
        found = look(views)
        if found is not None:
            return found
        time.sleep(0.01)
    pytest.skip("the machine never kept still for one look")


def list_programs() -> set[str]:
    """Return the ids of our programs that the kernel holds, whoever loaded them."""
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool, the independent witness of what is loaded, is not installed")
    done = subprocess.run(["bpftool", "prog", "show"], capture_output=True, text=True, check=True)
    return {x.partition(":")[0] for x in done.stdout.splitlines() if " name ty_" in x}


def run_load(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run tychod-load as a person would, with settings from the environment."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("TYCHOD_")}
    environ |= {f"TYCHOD_ACCOUNTING_{key.upper()}": value for key, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "tychod.load", *arguments, "--config", os.devnull],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def pin_root() -> Iterator[str]:
    """Return a root for pins in a BPF file system of one's own, with the lock held."""
    require_bpf()
    with bpf_lock(), bpffs() as mounted:
        yield str(mounted / "tychod")


def test_every_nanosecond_has_one_owner() -> None:
    """At a quiet point cgroups, idle and what is pending add up to what has passed: 0 ns off."""
    with loaded() as found:
        views = abi.view_maps(found.maps)
        subprocess.run(["sh", "-c", "for i in $(seq 200); do true | true; done"], check=True)
        seen = look_quietly(views)

        assert len(found.links) >= 12
        assert found.notes == ()
        assert seen.accounted_ns == seen.passed_ns > 0
        assert (views.cpu["t0"] > 0).all()


def test_each_package_has_its_own_row() -> None:
    """CPUs of two packages charge two rows, and both together are whole."""
    rows = tuple(cpu % 2 for cpu in range(len(plan_here().packages)))
    if 1 not in rows:
        pytest.skip("one CPU cannot be in two packages")
    script = "import os; os.sched_setaffinity(0, {%d}); sum(range(200000))"
    with loaded(packages=rows) as found:
        views = abi.view_maps(found.maps)
        for cpu in sorted(os.sched_getaffinity(0)):
            subprocess.run([sys.executable, "-I", "-c", script % cpu], check=True)
        seen = look_quietly(views)

        assert views.total.shape[0] == 2
        assert (views.total["ns"].sum(axis=(1, 2)) > 0).all()
        assert seen.accounted_ns == seen.passed_ns


def test_loading_is_quick_enough_to_be_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """Loading and attaching takes what it takes: printed, for the target of 150 ms."""
    require_bpf()
    plan = plan_here()
    with bpf_lock():
        start = time.monotonic()
        found = core.load_core(plan)
        took = time.monotonic() - start
        core.close_all((*found.links.values(), *found.maps.values()))
    with capsys.disabled():
        print(f"\nload and attach: {took * 1e3:.0f} ms, {len(found.links)} links")  # noqa: T201

    assert found.links


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_every_flag_loads_and_counts(version: str) -> None:
    """Processes, three counters and either hierarchy: all load together, and all count."""
    roots = {"v2": "unified", "v1": "cpuacct"}
    base = Path("/sys/fs/cgroup") / roots[version]
    if not base.is_dir():
        pytest.skip(f"no {base} on this machine")
    subsystems = Path("/proc/cgroups").read_text()
    number = next(int(x.split()[1]) for x in subsystems.splitlines() if x.startswith("cpuacct"))
    plan = plan_here(
        version=version,
        root_cgid=base.stat().st_ino,
        hierarchy_id=0 if version == "v2" else number,
        processes=True,
        counters=SOFTWARE,
        exit_ns=0,
    )
    with loaded(plan) as found:
        views = abi.view_maps(found.maps)
        subprocess.run(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"], check=True)
        time.sleep(0.05)
        keys, values = syscall.lookup_all(
            found.maps["ty_proc"], abi.PROC_KEY, abi.PROC, plan.process_slots
        )
        ctl, pmu = views.ctl[0], views.pmu

        assert pmu is not None
        assert (pmu["value"].sum(axis=(0, 1)) > 0).all()
        assert (pmu["ns"].sum(axis=(0, 1)) > 0).all()
        assert int(ctl["flags"]) == sum(abi.FLAG_COUNTERS) | abi.FLAG_PROCESSES | abi.FLAG_VECTORS
        assert int(ctl["hierarchy"]) == int(version[1:])
        assert b"sh" in values["comm"][values["exited"] > 0]
        assert len(np.unique(keys)) == len(keys)
        assert int(ctl["proc_lost"]) == int(ctl["exit_lost"]) == 0
        seen = look_quietly(views)
        assert seen.accounted_ns == seen.passed_ns


def test_a_counter_that_the_machine_lacks_is_absent() -> None:
    """What cannot be counted is noted and its flag off; the others count."""
    with loaded(counters=("sw:task-clock", "instructions")) as found:
        flags = int(abi.view_maps(found.maps).ctl["flags"][0])
        has_pmu = not found.notes

        assert flags & abi.FLAG_COUNTERS[0]
        assert bool(flags & abi.FLAG_COUNTERS[1]) == has_pmu
        assert has_pmu or "instructions" in found.notes[0]


def test_maps_are_read_and_cleared_whole() -> None:
    """All entries of a hash map come at once, each once; absent keys are no error to delete."""
    word, half = np.dtype("<u8"), np.dtype("<u4")
    with loaded(slots=1024) as found:
        fd = found.maps["ty_slot_of"]
        first = 1 << 60  # no cgroup has such an id
        for number in range(500):
            syscall.update(fd, (first + number).to_bytes(8, "little"), (7).to_bytes(4, "little"))
        keys, values = syscall.lookup_all(fd, word, half, 1024)
        ours = keys >= first
        gone = syscall.delete_batch(fd, np.arange(first - 3, first + 503, dtype=word))
        left, _ = syscall.lookup_all(fd, word, half, 1024)

        assert sorted(keys[ours]) == list(range(first, first + 500))
        assert (values[ours] == 7).all()
        assert gone == 500
        assert not (left >= first).any()
        with pytest.raises(FileNotFoundError):
            syscall.delete(fd, first.to_bytes(8, "little"))
        syscall.update(found.maps["ty_free"], None, (9).to_bytes(4, "little"))


def test_a_child_hands_everything_over() -> None:
    """The child ends, its descriptors work here, and closing them ends the programs."""
    require_bpf()
    with bpf_lock():
        before = list_programs()
        found = child.load_in_child(plan_here(), child.core_backend())
        views = abi.view_maps(found.maps)
        first = int(views.cpu["switches"].sum())
        time.sleep(0.1)
        later = int(views.cpu["switches"].sum())
        core.close_all((*found.links.values(), *found.maps.values()))
        time.sleep(0.3)  # the kernel frees programs a grace period later

        assert set(found.maps) == set(abi.MAPS)
        assert later > first
        assert list_programs() <= before


def test_attach_status_detach(pin_root: str) -> None:
    """Pins have the right modes, a second attach keeps them, detach leaves nothing at all."""
    before = list_programs()
    absent = run_load("status", "--pin-dir", pin_root)
    attached = run_load("attach", "--pin-dir", pin_root, slots="512")
    status = run_load("status", "--pin-dir", pin_root, "--json")
    again = run_load("attach", "--pin-dir", pin_root, slots="512")
    status_again = run_load("status", "--pin-dir", pin_root, "--json")
    modes = {p.name: oct(p.stat().st_mode & 0o7777) for p in Path(pin_root, "v1").iterdir()}
    root_mode = Path(pin_root).stat().st_mode & 0o7777
    detached = run_load("detach", "--pin-dir", pin_root)
    time.sleep(0.3)

    assert (absent.returncode, attached.returncode, again.returncode) == (3, 0, 0), attached
    assert "already attached" in again.stdout
    assert json.loads(status.stdout) == json.loads(status_again.stdout) | {
        "cgroups": json.loads(status.stdout)["cgroups"]
    }
    assert json.loads(status.stdout)["slots"] == 512
    assert root_mode == 0o2750
    assert {modes[name] for name in abi.MAPS} == {"0o660"}
    assert {modes[name] for name in set(modes) - set(abi.MAPS)} == {"0o600"}
    assert detached.returncode == 0
    assert not Path(pin_root).exists()
    assert list_programs() <= before
    assert run_load("status", "--pin-dir", pin_root).returncode == 3


def test_attach_replaces_what_does_not_fit(pin_root: str) -> None:
    """Other settings, a missing pin, another version: attached anew, the old is gone."""
    stamps: list[str] = []
    steps = (
        ({"slots": "512"}, None),
        ({"slots": "256"}, None),
        ({"slots": "256"}, "ty_switch"),
        ({"slots": "256", "processes": "true"}, None),
    )
    for settings, broken in steps:
        if broken:
            Path(pin_root, pins.VERSION, broken).unlink()
        if stamps:
            Path(pin_root, "v999").mkdir()
        done = run_load("attach", "--pin-dir", pin_root, **settings)
        state = json.loads(run_load("status", "--pin-dir", pin_root, "--json").stdout)
        stamps.append(state["stamp"])
        assert done.stdout.startswith("attached "), done
        assert [p.name for p in Path(pin_root).iterdir()] == [pins.VERSION]
    off = run_load("attach", "--pin-dir", pin_root, loader="off")

    assert len(set(stamps)) == len(steps)
    assert off.returncode == 0
    assert not Path(pin_root).exists()


def test_there_is_one_reader(pin_root: str) -> None:
    """A second reader is told who the first is; when that one ends the place is free."""
    run_load("attach", "--pin-dir", pin_root)
    with closing(pins.open_pins(HOST, pin_root)) as held:
        with pytest.raises(LoadError, match=f"process {os.getpid()} reads"):
            pins.open_pins(HOST, pin_root)
        status = json.loads(run_load("status", "--pin-dir", pin_root, "--json").stdout)

        assert status["reader"] == os.getpid()
        assert not held.replaced()
        run_load("attach", "--pin-dir", pin_root, slots="256")
        assert held.replaced()
    with closing(pins.open_pins(HOST, pin_root)) as other:
        assert abi.view_maps(other.maps).info.shape == (256,)
        run_load("detach", "--pin-dir", pin_root)
        assert other.replaced()


def test_maps_of_another_layout_are_refused(pin_root: str) -> None:
    """Pins whose control map has another ABI number are never mapped, and attach replaces them."""
    run_load("attach", "--pin-dir", pin_root)
    fd = syscall.obj_get(f"{pin_root}/{pins.VERSION}/ty_ctl")
    ctl = pins.read_ctl(fd).copy()
    ctl["abi"] += 1
    syscall.update(fd, bytes(4), ctl.tobytes())
    os.close(fd)

    with pytest.raises(LoadError, match=f"ABI {abi.ABI + 1}, not {abi.ABI}"):
        pins.open_pins(HOST, pin_root)
    run_load("attach", "--pin-dir", pin_root)
    with closing(pins.open_pins(HOST, pin_root)) as held:
        assert held.maps.keys() == set(abi.MAPS)


def test_the_loader_needs_two_capabilities_and_the_reader_none(pin_root: str) -> None:
    """As nobody, in a directory from root: CAP_BPF and CAP_PERFMON attach, one of them is refused
    by name; a reader needs the group only, and nobody without the group sees nothing."""
    group = 4242
    Path(pin_root).mkdir()
    os.chown(pin_root, NOBODY, group)
    Path(pin_root).chmod(0o2750)
    attach = ("-m", "tychod.load", "attach", "--pin-dir", pin_root)
    read = (
        "from tychod.config import Config; from tychod.hostfs import Host;"
        "from tychod.kernel.bpf import abi, pins, syscall; import sys;"
        "held = pins.open_pins(Host(Config().host), sys.argv[1]); views = abi.view_maps(held.maps);"
        "syscall.update(held.maps['ty_free'], None, bytes(4));"
        "syscall.lookup_all(held.maps['ty_slot_of'], abi.np.dtype('u8'), abi.np.dtype('u4'), 4096);"
        "views.ctl['closed'] = 7; print(int(views.cpu['switches'].sum()) > 0)"
    )
    refused = run_as(NOBODY, group, ("bpf",), *attach)
    attached = run_as(NOBODY, group, ("bpf", "perfmon"), *attach)
    reader = run_as(NOBODY - 1, group, (), "-c", read, pin_root)
    stranger = run_as(NOBODY - 1, 4343, (), "-c", read, pin_root)

    assert refused.returncode == 1
    assert "missing CAP_PERFMON" in refused.stderr
    assert attached.returncode == 0, attached
    assert {p.stat().st_gid for p in Path(pin_root, pins.VERSION).iterdir()} == {group}
    assert reader.stdout == "True\n", reader
    assert "not permitted" in stranger.stderr


def test_a_strangers_directory_is_nothing_to_root_and_reader(tmp_path: Path) -> None:
    """In a BPF file system open to all, what anybody made first is refused, and left alone."""
    require_bpf()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    script = "import os,sys; os.mkdir(sys.argv[1], 0o755); os.symlink(sys.argv[2], sys.argv[3])"
    with bpf_lock(), bpffs("1777") as mounted:
        root = str(mounted / "tychod")
        made = run_as(NOBODY, NOBODY, (), "-c", script, root, str(victim), f"{root}/v0")
        done = [run_load(command, "--pin-dir", root) for command in ("attach", "detach", "status")]
        with pytest.raises(LoadError, match=f"somebody else's work .user {NOBODY}"):
            pins.open_pins(HOST, root)
        left = [p.name for p in Path(root).iterdir()]

    assert made.returncode == 0, made
    assert [d.returncode for d in done] == [1, 1, 1]
    assert all("somebody else's work" in d.stderr for d in done)
    assert left == ["v0"]
    assert [p.name for p in victim.iterdir()] == ["kept"]


def run_as(
    uid: int, gid: int, capabilities: tuple[str, ...], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run Python as somebody with these capabilities and no way to more."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    caps = ",".join(("-all", *(f"+{name}" for name in capabilities)))
    command = ["setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
    command += ["--no-new-privs", "--inh-caps", caps, "--ambient-caps", caps]
    return subprocess.run(
        [*command, "--bounding-set", caps, sys.executable, *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

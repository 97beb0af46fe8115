"""Readers, cgroups and CPUs that come and go while the real kernel counts: nothing is lost."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sim.bpf import require_bpf
from tests.sim.cgrouptree import RealCgroups, real_base
from tests.sim.kernelmaps import (
    KernelMaps,
    accounted,
    counted_ns,
    drain,
    first,
    inode,
    own_ns,
    reading,
)
from tests.sim.loads import Load, NoCompilerError, compile_load
from tychod.kernel.bpf import abi, slots
from tychod.kernel.cgroups import CpuBaseline
from tychod.samples import KERNEL_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tychod.kernel.bpf.reader import BpfReader

pytestmark = [pytest.mark.root, pytest.mark.bpf]

SAMPLES_BEHIND_NS = 10 * abi.BUCKET_NS  # a reading, and how far its samples are behind it

READER = """
import json, os, pickle, sys, time
from tests.sim.kernelmaps import open_reader
from tychod.kernel.cgroups import baseline_of
reader = open_reader(json.loads(sys.argv[1]), "v2")
while True:
    samples = reader.read()
    if samples:
        saved = baseline_of("bpf-core", samples[-1], reader.cgroups, reader.stamp)
        with open(sys.argv[2] + ".new", "wb") as file:
            pickle.dump(tuple(saved), file)
        os.rename(sys.argv[2] + ".new", sys.argv[2])
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled loads."""
    try:
        return compile_load(tmp_path_factory.mktemp("load"))
    except NoCompilerError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def cgroups(run_name: str) -> Iterator[RealCgroups]:
    """Return a place for cgroups of this run, removed at the end."""
    require_bpf()
    base = real_base("v2")
    if base is None:
        pytest.skip("no writable cgroup v2 hierarchy below /sys/fs/cgroup")
    with RealCgroups(base, run_name) as made:
        yield made


# ---- readers ----


def test_a_killed_reader_loses_no_cpu_time(
    cgroups: RealCgroups, load: Path, tmp_path: Path
) -> None:
    """After kill -9 under load, the next reader goes on from what was saved, to the nanosecond."""
    busy, short = cgroups.make("busy"), cgroups.make("short")
    saved_at = tmp_path / "saved"
    with (
        accounted("v2") as maps,
        Load(load, busy, 2.5, "busy") as one,
        Load(load, short, 2.5, "spawn", 200, 500) as two,
    ):
        one.go()
        two.go()
        kill_a_reader(maps, saved_at)
        saved = CpuBaseline(*pickle.loads(saved_at.read_bytes()))  # noqa: S301 - we wrote it
        time.sleep(0.3)
        reader = maps.reader()
        try:
            assert reader.resume(saved)
            samples = [*first(reader)]
            one.finish()
            two.finish()
            samples += drain(reader, 0.5)
        finally:
            reader.close()
        known = {ref.inode: total_ns for ref, total_ns in saved.totals.items()}

        assert samples[0].t_ns == saved.t_ns
        for place in (busy, short):
            key = inode(place)
            assert known[key] > 0
            assert own_ns(samples[0], key) == 0
            assert known[key] + own_ns(samples[-1], key) == maps.used(key).task_ns
        assert all(
            later >= earlier
            for place in (busy, short)
            for earlier, later in zip(
                [own_ns(s, inode(place)) for s in samples],
                [own_ns(s, inode(place)) for s in samples[1:]],
                strict=False,
            )
        )


def kill_a_reader(maps: KernelMaps, saved_at: Path) -> None:
    """Let another process read for a while, and kill it without warning."""
    fds = dict(maps.fds)
    child = subprocess.Popen(
        [sys.executable, "-c", READER, json.dumps(fds), str(saved_at)],
        pass_fds=tuple(fds.values()),
        cwd=Path(__file__).parents[2],
    )
    try:
        end = time.monotonic() + 10
        while not saved_at.exists() and time.monotonic() < end and child.poll() is None:
            time.sleep(0.02)
        time.sleep(0.5)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


# ---- cgroups ----


def test_slots_are_used_again(
    cgroups: RealCgroups, load: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More cgroups come and go than the table holds: all get a slot, and all time is published."""
    monkeypatch.setattr(slots, "KEPT_NS", 300_000_000)
    with accounted("v2", slots=128) as maps, reading(maps, 0.3) as reader:
        used_ns: dict[int, int] = {}
        for generation in range(4):
            ours, published_ns = live_and_die(cgroups, load, reader, maps, generation)
            assert published_ns == sum(ours.values())
            used_ns |= ours
        given_back_ns = sum(ns for key, ns in used_ns.items() if maps.slot(key) is None)

        assert given_back_ns > 0
        assert int(maps.views.ctl["next_slot"][0]) <= 128
        assert int(maps.views.ctl["no_slot"][0]) == 0
        # The task time of slots that were given back is with the readers.
        assert maps.partition_error_ns() == -given_back_ns


def live_and_die(
    cgroups: RealCgroups, load: Path, reader: BpfReader, maps: KernelMaps, generation: int
) -> tuple[dict[int, int], int]:
    """Let 60 cgroups run and go; return their times by the maps, and their published sum."""
    places = [cgroups.make(f"g{generation}-{number}") for number in range(60)]
    keys = [inode(place) for place in places]
    with Load(load, None, 0.1, "born", 300, *places) as one:
        one.go()
        one.finish()
    used_ns = {key: maps.used(key).task_ns for key in keys}
    for place in places:
        place.rmdir()
    last: dict[int, int] = {}
    for sample in drain(reader, 1.6):
        last |= {key: own for key in keys if (own := own_ns(sample, key))}
    assert len(last) == len(keys)
    return used_ns, sum(last.values())


def test_a_full_table_says_so(cgroups: RealCgroups, load: Path) -> None:
    """What finds no slot is the nearest cgroup's above, the sum stays exact, and status tells."""
    places = [cgroups.make(f"c{number}") for number in range(100)]
    with accounted("v2", slots=64) as maps, reading(maps) as reader:
        with Load(load, cgroups.top, 0.001, "busy") as one:  # which gives that one its slot
            one.go()
            one.finish()
        time.sleep(0.05)
        above_ns = maps.used(inode(cgroups.top)).sum_ns
        with Load(load, None, 0.1, "born", 500, *places) as one:
            one.go()
            one.finish()
        drain(reader, 0.3)
        named = [maps.used(inode(place)).sum_ns for place in places]
        above_ns = maps.used(inode(cgroups.top)).sum_ns - above_ns

        assert int(maps.views.ctl["no_slot"][0]) > 0
        assert any("is full" in problem for problem in reader.problems)
        assert reader.figures.dropped > 0
        # 3 us a process: its clock starts before ours does.
        assert above_ns >= named.count(0) * (500_000 - 2 * 3_000) > 0
        assert above_ns + sum(named) >= len(places) * (500_000 - 2 * 3_000)
        assert maps.partition_error_ns() == 0


def test_room_is_kept_for_cgroups_in_which_something_runs(cgroups: RealCgroups, load: Path) -> None:
    """Who makes and removes any number of empty cgroups does not take others' slots."""
    with accounted("v2", slots=256) as maps:
        for number in range(400):
            cgroups.make(f"empty{number}").rmdir()
        places = [cgroups.make(f"c{number}") for number in range(20)]
        with Load(load, None, 0.1, "born", 500, *places) as one:
            one.go()
            one.finish()
        time.sleep(0.05)

        assert int(maps.views.ctl["next_slot"][0]) >= 192  # the empty ones had their share
        assert all(maps.used(inode(place)).sum_ns for place in places)
        assert int(maps.views.ctl["no_slot"][0]) == 0


# ---- CPUs ----


def test_a_cpu_that_leaves_and_comes_back(cgroups: RealCgroups, load: Path) -> None:
    """The time that a CPU was offline belongs to nobody, all other time to somebody."""
    switch = Path("/sys/devices/system/cpu/cpu1/online")
    if not switch.exists() or switch.read_text().strip() != "1":
        pytest.skip("no second CPU that can be taken offline")
    with (
        accounted("v2") as maps,
        reading(maps) as reader,
        Load(load, cgroups.make("busy"), 2.5, "busy") as one,
    ):
        cpus = int((maps.views.cpu["ts"] != 0).sum())
        one.go()
        start = drain(reader, 0.3)[-1]
        gone_ns, back_ns = take_offline(switch, reader)
        samples = drain(reader, 0.6)
        one.finish()
        samples += drain(reader, 0.3)
        kernel_ns = own_ns(samples[-1], KERNEL_KEY) - own_ns(start, KERNEL_KEY)
        passed_ns = cpus * (samples[-1].t_ns - start.t_ns)
        missing_ns = passed_ns - (counted_ns(samples[-1]) - counted_ns(start))

        # It is seen with a reading; what the samples were behind then may count or not.
        assert gone_ns <= missing_ns <= back_ns + SAMPLES_BEHIND_NS
        assert kernel_ns < gone_ns
        assert maps.partition_error_ns() == 0


def take_offline(switch: Path, reader: BpfReader) -> tuple[int, int]:
    """Take a CPU away and bring it back; return the least and the most that it can have missed."""
    asked_ns = time.monotonic_ns()
    try:
        switch.write_text("0")
    except OSError as exc:
        pytest.skip(f"the machine does not let a CPU go offline: {exc.strerror}")
    try:
        left_ns = time.monotonic_ns()
        drain(reader, 1.2)
        read_ns = time.monotonic_ns()
    finally:
        switch.write_text("1")
    return read_ns - left_ns - SAMPLES_BEHIND_NS, time.monotonic_ns() - asked_ns

"""Recordings: replayed to the bit; damaged, cut, foreign ones are told in one line, never more."""

import io
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgpack
import numpy as np
import pytest

from tests.sim.world import MS, Load, Meter, World, container, unit, zone
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Params, State
from tychod.codec.declared import Codec
from tychod.model import Energy, Identity, Window
from tychod.replay import compare, replay, run
from tychod.runtime import recording
from tychod.runtime.recording import (
    END,
    HEAD,
    HEADER,
    MAGIC,
    STATE,
    Analysed,
    RecordingError,
    RecordingReader,
    RecordingWriter,
    result_of,
)

S = 1_000 * MS
PARAMS = Params(cpus=4)
ABOUT = {"tychod": "9.9", "commit": "c", "node": "n1", "boot_id": "b", "settings": {"a.b": 1}}
WORLD = World(
    (
        Load(-1, Identity("kernel", "kernel", "kernel"), 0.01),
        Load(1, unit("a.service"), 0.5, S, 4 * S),
        Load(2, container(7, 1), 0.3),
        Load(3, unit("odd\udcff.scope"), 0.2, 3 * S, 5 * S),
    ),
    {"rapl": (Meter(zone("package-0"), 10.0, 10.0, 5_000, fails=((4 * S, 4 * S + 1),)),)},
    tuple(range(0, 10 * S, 100 * MS)),
    tuple(range(0, 10 * S, 500 * MS)),
)


def windows(edges: Sequence[int], state: State = State()) -> list[Analysed]:  # noqa: B008
    """Analyse the world between these edges (seconds); return what a recorder is offered."""
    found = []
    for start, end in pairwise(edges):
        window = Window(start * S, end * S)
        seen = WORLD.observe(window)
        snapshot, after = analyse(seen, window, state, PARAMS)
        found.append(Analysed(window, seen, state, PARAMS, snapshot))
        state = after
    return found


def record(steps: Sequence[Analysed], reason: str | None = "complete") -> bytes:
    """Return a recording of these windows; ``reason`` None: without an end."""
    writer = RecordingWriter(ABOUT)
    data = writer.start() + b"".join(writer.add(step) for step in steps)
    return data if reason is None else data + writer.end(reason)


ALL = windows([0, 1, 2, 3, 5, 6, 7])
FROM_THE_MIDDLE = record(ALL[2:])
SMALL = record(windows([0, 1, 2]))


STRIDE = 3  # coprime to what the file is made of; every byte takes a second more


def reader(data: bytes) -> RecordingReader:
    """Open a recording."""
    return RecordingReader(io.BytesIO(data))


def test_a_replay_from_the_middle_is_the_same_to_the_bit() -> None:
    """A recording holds the state it began with: a replay ends with the very same snapshot."""
    replayed = run(reader(FROM_THE_MIDDLE))
    codec = Codec(type(ALL[-1].snapshot))

    assert replayed.problem is None
    assert replayed.differences == ()
    assert (replayed.windows, replayed.seconds, replayed.ended) == (4, 5.0, "complete")
    assert replayed.snapshot is not None
    assert result_of(replayed.snapshot, codec) == result_of(ALL[-1].snapshot, codec)


def test_another_process_comes_to_the_same(tmp_path: Path) -> None:
    """The command says so, with answers as the daemon gives them, whatever hashes are there."""
    path = tmp_path / "a file"
    path.write_bytes(FROM_THE_MIDDLE)
    done = subprocess.run(
        [sys.executable, "-m", "tychod", "--replay", str(path), "--verify", "--json"],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert told["verdict"] == "identical to the bit in 4 windows"
    assert told["recording"]["settings"] == {"a.b": 1}
    assert told["answers"]["node"]["sequence"] == 6
    assert told["answers"]["pods"]["pods"][0]["name"] == "pod-1"
    assert told["answers"]["processes"]["error"]["code"] == "unavailable"


def test_a_difference_is_told_with_its_window_and_size() -> None:
    """A microjoule more in one leaf of one window is found there, and only there."""
    first, second, *_ = ALL
    leaf, *others = second.snapshot.leaves
    energy = {"package": Energy(leaf.energy["package"].idle_uj + 1, *leaf.energy["package"][1:])}
    changed = replace(second.snapshot, leaves=(replace(leaf, energy=energy), *others))
    replayed = run(reader(record([first, second._replace(snapshot=changed)])))
    (found,) = replayed.differences

    assert (found.window, found.largest_uj) == (2, 1)
    assert found.where == f"{leaf.identity.id} package idle_uj"


def test_figures_that_are_no_counters_count_too() -> None:
    """The last bit of a power is a difference, of 0 uJ."""
    was, now = (
        result_of(replace(ALL[0].snapshot, gap=gap), Codec(type(ALL[0].snapshot)))
        for gap in (False, True)
    )
    (found,) = compare(1, was, now)

    assert (found.largest_uj, found.where) == (0, "")


def told_of(data: bytes, tmp_path: Path) -> tuple[str, str | None, int]:
    """Return what the command makes of a file."""
    path = tmp_path / "r"
    path.write_bytes(data)
    outcome = replay(str(path), as_json=False, verify=True)
    return outcome.text, outcome.problem, outcome.code


def read_all(data: bytes) -> int:
    """Return how many windows a file holds; raise where it is not as written."""
    found = reader(data)
    return len(list(found.steps())) if found.state() else 0


def test_a_file_cut_anywhere_is_refused() -> None:
    """At every length: what is not whole is never taken for whole, and nothing else is raised."""
    assert read_all(SMALL) == 2
    for length in range(0, len(SMALL), STRIDE):
        with pytest.raises(RecordingError, match=r"^is "):
            read_all(SMALL[:length])


def test_a_changed_byte_anywhere_is_refused() -> None:
    """At every byte: what is not as written is never believed, and nothing else is raised."""
    for place in range(0, len(SMALL), STRIDE):
        data = bytearray(SMALL)
        data[place] ^= 0x41
        with pytest.raises(RecordingError, match=r"^(is|has|should|goes) "):
            read_all(bytes(data))


def test_what_is_whole_of_a_cut_file_is_replayed(tmp_path: Path) -> None:
    """The windows before the cut are shown; the line says how many, the status is 1."""
    text, problem, code = told_of(SMALL[:-1], tmp_path)

    assert code == 1
    assert problem is not None
    assert problem.endswith(
        "r: 2 windows could be read; then it is cut off in the middle of a record"
    )
    assert "identical to the bit in 2 windows" in text


def test_a_damage_in_the_middle_says_how_many_there_were(tmp_path: Path) -> None:
    """What follows the damage cannot be replayed, but is counted."""
    data = record(ALL)
    starts = [len(MAGIC)]
    while starts[-1] < len(data):
        starts.append(starts[-1] + HEAD.size + HEAD.unpack_from(data, starts[-1])[1])
    broken = bytearray(data)
    broken[starts[5] + HEAD.size + 20] ^= 1  # header, state, 1, 2, 3, [4], 5, 6, end
    text, problem, code = told_of(bytes(broken), tmp_path)

    assert code == 1
    assert problem is not None
    assert problem.endswith(
        "r: 3 of 6 windows could be read; then it is damaged: a checksum does not match"
    )
    assert "identical to the bit in 3 windows" in text


def sealed(kind: bytes, body: bytes) -> bytes:
    """Return a record whose checksum is right, whatever it says."""
    return HEAD.pack(kind, len(body), zlib.crc32(kind + body)) + body


def header(**changes: object) -> bytes:
    """Return the start of a file with another header."""
    fields = {name: list(names) for name, names in RecordingWriter({})._codec.fields.items()}
    return MAGIC + sealed(HEADER, msgpack.packb({**ABOUT, "fields": fields, **changes}))


FOREIGN: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is empty"),
    ("text", b"hello, this is not a recording at all", "is no recording of tychod"),
    ("other format", MAGIC.replace(b"1", b"2") + b"x" * 50, "is of another format than 1"),
    ("no header", MAGIC + sealed(STATE, b""), "does not begin with a header"),
    ("header no table", MAGIC + sealed(HEADER, b"\x07"), "7 is no table"),
    ("header no msgpack", MAGIC + sealed(HEADER, b"\xc1"), "is damaged"),
    ("no fields", header(fields=7), "does not name the fields"),
    ("odd fields", header(fields={"State": [1]}), "does not name the fields"),
    (
        "newer",
        header(fields={"State": ["sequence", "flavour"]}),
        "by tychod '9.9' and has State.flavour, which this version does not know: replay it with",
    ),
    ("nothing in it", header() + sealed(END, msgpack.packb({"windows": 0})), "holds no window"),
    ("wrong count", header() + sealed(END, msgpack.packb({"windows": 5})), "should hold 5"),
    ("no zlib", header() + sealed(STATE, b"garbage"), "cannot be unpacked"),
    ("no state", header() + sealed(STATE, zlib.compress(b"\x07")), "does not fit"),
    ("window first", header() + sealed(b"W", zlib.compress(b"")), "kind b'W' in place of b'S'"),
    ("no record", header() + b"\0" * 30, "is damaged"),
    ("endless record", header() + HEAD.pack(STATE, 2**32 - 1, 0), "longer than any"),
    ("more after its end", SMALL + b"x", "goes on after its end"),
]


@pytest.mark.parametrize(("data", "told"), [f[1:] for f in FOREIGN], ids=[f[0] for f in FOREIGN])
def test_foreign_files_are_refused_in_one_line(data: bytes, told: str, tmp_path: Path) -> None:
    """What is no recording, or not one for this version, is said; the exit status is 1."""
    _, problem, code = told_of(data, tmp_path)

    assert code == 1
    assert problem is not None
    assert told in problem
    assert "\n" not in problem


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that would unpack to more than any window needs is given up at the limit."""
    monkeypatch.setattr(recording, "MAX_RECORD_BYTES", 1 << 20)
    bomb = zlib.compress(b"\0" * (1 << 26), 9)
    _, problem, _ = told_of(header() + sealed(STATE, bomb), tmp_path)

    assert problem is not None
    assert "is larger than 1 MiB when unpacked" in problem


def test_a_window_too_large_to_record_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer keeps to the limit of the reader and says what to do."""
    monkeypatch.setattr(recording, "MAX_RECORD_BYTES", 100)
    with pytest.raises(RecordingError, match=r"make \[window\] length shorter"):
        record(ALL[:1])


def test_samples_that_no_tychod_took_are_no_fault(tmp_path: Path) -> None:
    """A file whose form is right and whose arrays do not fit together is told like any other."""
    good = ALL[0]
    assert good.observations.cpu is not None
    first, *rest = good.observations.cpu.samples
    odd = replace(
        good.observations.cpu, samples=(first._replace(own_ns=np.zeros(99, np.int64)), *rest)
    )
    bad = good._replace(observations=replace(good.observations, cpu=odd))
    _, problem, code = told_of(record([bad]), tmp_path)

    assert code == 1
    assert problem is not None
    assert "0 of 1 windows could be read; then it cannot be analysed" in problem


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """A missing file and a directory are told like anything else."""
    missing = replay(str(tmp_path / "x"), as_json=True, verify=False)
    directory = replay(str(tmp_path), as_json=True, verify=False)

    assert (missing.code, missing.text) == (directory.code, directory.text) == (1, "")
    assert "No such file" in str(missing.problem)
    assert "Is a directory" in str(directory.problem)

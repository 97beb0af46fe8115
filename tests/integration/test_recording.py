"""Recording over the socket and with the real daemon: who may, how it ends, and that it replays."""

import grp
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import snapshots as made
from tests.sim.node import Node
from tests.sim.powercap import LAYOUTS, Driver, Machine, Power
from tests.sim.world import MS, Load, Meter, World, unit, zone
from tychoctl.client import Connection, Failure
from tychod import frames
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Params, State
from tychod.buffer import Latest
from tychod.frames import Decoder, ProtocolError, encode_frame
from tychod.model import Snapshot, Window
from tychod.replay import Replayed, run
from tychod.runtime.recorder import WAITING, Recorder, Recorders
from tychod.runtime.recording import Analysed, RecordingReader
from tychod.runtime.server import ControlServer
from tychod.runtime.session import Limits

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20.0
NOBODY = 65534
S = 1_000 * MS
WORLD = World(
    (Load(1, unit("a.service"), 0.5), Load(2, unit("b.service"), 0.2)),
    {"rapl": (Meter(zone("package-0"), 10.0, 10.0),)},
    tuple(range(0, 9 * S, 500 * MS)),
    tuple(range(0, 9 * S, 500 * MS)),
)


def analysed(count: int) -> list[Analysed]:
    """Return some windows of one second, analysed."""
    state, found = State(), []
    for second in range(count):
        window = Window(second * S, (second + 1) * S)
        seen = WORLD.observe(window)
        snapshot, after = analyse(seen, window, state, Params(cpus=4))
        found.append(Analysed(window, seen, state, Params(cpus=4), snapshot))
        state = after
    return found


WINDOWS = analysed(6)


@pytest.fixture
def path(run_name: str) -> Iterator[Path]:
    """Return the path of a socket, short enough for sun_path."""
    with tempfile.TemporaryDirectory(prefix=run_name) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "control.sock"


@contextmanager
def recording(
    path: Path, admin_group: str = "", **limits: Any
) -> Iterator[tuple[ControlServer, Recorders]]:
    """Serve on a socket, with recordings."""
    latest: Latest[Snapshot] = Latest()
    latest.publish(made.make_snapshot())
    recorders = Recorders(lambda: {"node": "n"}, lambda: admin_group)
    with made.serving(path, latest, limits=Limits(**limits), recorders=recorders) as server:
        yield server, recorders


def until(condition: Callable[[], object]) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.005)


def taken(connection: Connection, seconds: float) -> bytes:
    """Return a whole recording."""
    data = bytearray()
    collect(connection.record(seconds), data)
    return bytes(data)


def collect(replies: Iterable[Mapping[str, Any]], data: bytearray) -> None:
    """Add what comes, as far as it comes."""
    for reply in replies:
        data += reply["chunk"]


def replayed(data: bytes) -> Replayed:
    """Replay a recording."""
    return run(RecordingReader(io.BytesIO(data)))


def offer(recorders: Recorders, windows: list[Analysed]) -> None:
    """Hand windows over as analysis does, when somebody records and has taken the one before."""
    until(lambda: recorders._open)
    for window in windows:
        until(lambda: not any(recorder._waiting for recorder in recorders._open))
        recorders.offer(window)


def test_a_recording_is_what_analysis_was_given(path: Path) -> None:
    """It begins with the next window, ends when the time is over, and replays to the bit."""
    with recording(path) as (_, recorders), Connection(str(path)) as connection:
        feed = threading.Thread(target=offer, args=(recorders, WINDOWS[1:]))
        feed.start()
        found = replayed(taken(connection, 3.0))
        feed.join()
        assert connection.call("node")["sequence"] == 20  # the connection goes on

    assert (found.windows, found.ended, found.problem) == (3, "complete", None)
    assert found.differences == ()
    assert found.snapshot == WINDOWS[3].snapshot


def test_a_daemon_that_stops_ends_the_recording_cleanly(path: Path) -> None:
    """What was recorded until then is whole."""
    with recording(path) as (server, recorders), Connection(str(path)) as connection:
        replies = connection.record(60.0)
        data = bytearray()
        for reply in replies:
            data += reply["chunk"]  # type: ignore[operator]
            if reply["windows"] == 0 and reply["seconds"] is not None:
                offer(recorders, WINDOWS[:1])
            elif reply["windows"] == 1 and reply["seconds"] is not None:
                threading.Thread(target=server.close).start()
        found = replayed(bytes(data))

    assert (found.windows, found.ended, found.problem) == (1, "tychod stopped", None)


def test_who_leaves_windows_untaken_is_cut_off(path: Path) -> None:
    """A reader that takes nothing for the limit is hung up on; analysis never waits for it."""
    with recording(path, send_s=0.2) as (server, recorders), Connection(str(path)) as connection:
        connection._ask("record", {"seconds": 60.0})
        until(lambda: recorders._open)
        recorders.offer(WINDOWS[0])
        until(lambda: server.counts()["killed"] == 1)
        assert recorders._open == ()
        with Connection(str(path)) as good:
            assert good.call("node")["sequence"] == 20


def test_too_many_windows_at_once_end_the_recording(path: Path) -> None:
    """The memory of a recording is bounded: more than fits is refused, what fitted is whole."""
    with recording(path) as (_, recorders), Connection(str(path)) as connection:
        replies = connection.record(3600.0)
        data = bytearray(next(replies)["chunk"])  # type: ignore[call-overload]
        for _ in range(50 * WAITING):
            recorders.offer(WINDOWS[0])
        with pytest.raises(Failure, match="windows came faster than they were taken") as caught:
            collect(replies, data)
        found = RecordingReader(io.BytesIO(bytes(data)))
        assert found.state() is not None
        count = len(list(found.steps()))

    assert caught.value.code == "busy"
    assert WAITING <= count < 50 * WAITING
    assert str(found.reason).startswith("cut off:")


def test_after_a_window_that_found_no_room_there_is_none() -> None:
    """A recording has no hole: what came before the overrun is taken, and nothing after it."""
    recorder = Recorder(2)
    for window in WINDOWS[:3]:
        recorder.offer(window)
    assert not recorder.overrun
    first = recorder.take(0.0)
    recorder.offer(WINDOWS[3])

    assert first is WINDOWS[0]
    assert recorder.take(0.0) is WINDOWS[1]
    assert recorder.take(0.0) is None
    assert recorder.overrun


def test_a_third_recording_is_refused(path: Path) -> None:
    """Two run at once; a place is free again when one has left."""
    with recording(path) as (_, recorders), Connection(str(path)) as third:
        with Connection(str(path)) as first, Connection(str(path)) as second:
            for connection in (first, second):
                next(connection.record(60.0))
            with pytest.raises(Failure, match="2 recordings run already") as caught:
                next(third.record(60.0))
            assert caught.value.code == "busy"
        until(lambda: not recorders._open)
        next(third.record(60.0))


def test_a_daemon_without_recordings_says_so(path: Path) -> None:
    """No fault, no silence."""
    latest: Latest[Snapshot] = Latest()
    with (
        made.serving(path, latest),
        Connection(str(path)) as connection,
        pytest.raises(Failure, match="makes no recordings") as caught,
    ):
        next(connection.record(1.0))
    assert caught.value.code == "unavailable"


ASK = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(bytes.fromhex(sys.argv[2]))
connection.shutdown(socket.SHUT_WR)
while data := connection.recv(65536):
    sys.stdout.buffer.write(data)
"""


def ask_as(path: Path, group: int, extra: list[int]) -> dict[str, Any]:
    """Ask for a recording as nobody with these groups; return the first answer after hello."""
    requests = [("hello", {"version": 1}), ("record", {"seconds": 1.0})]
    sent = b"".join(
        encode_frame({"id": n, "op": op, "args": args}, 1000)
        for n, (op, args) in enumerate(requests)
    )
    options: Any = {"user": NOBODY, "group": group, "extra_groups": extra}
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", ASK, str(path), sent.hex()],
        capture_output=True,
        check=True,
        timeout=PATIENCE_S,
        **options,
    )
    answers: list[Any] = list(Decoder(frames.MAX_REPLY_BYTES).feed(done.stdout))
    found: dict[str, Any] = answers[1]
    return found


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_only_root_and_the_admin_group_may_record(path: Path) -> None:
    """The kernel's word counts: primary or supplementary group of who connected, nothing else."""
    admin = grp.getgrgid(1)  # a group that every system has
    with recording(path, admin.gr_name):
        path.chmod(0o666)
        refused = ask_as(path, NOBODY, [2, 3])
        by_primary = ask_as(path, admin.gr_gid, [])
        by_extra = ask_as(path, NOBODY, [2, admin.gr_gid])

    assert refused["error"]["code"] == "forbidden"
    assert f"ask root to add you to group {admin.gr_name}" in refused["error"]["message"]
    assert by_primary["ok"]["chunk"].startswith(b"tychod recording ")
    assert by_extra["ok"]["chunk"].startswith(b"tychod recording ")


def test_without_an_admin_group_only_root_may_record() -> None:
    """An empty setting and a group that is not there let nobody in; tychoctl exits with 3."""
    for name, remedy in (("", r"set \[control\] admin_group"), ("no-such-group", "add you to")):
        recorders = Recorders(dict, lambda name=name: name)  # type: ignore[misc]
        recorders.refuse(0, frozenset)
        with pytest.raises(ProtocolError, match=remedy) as caught:
            recorders.refuse(NOBODY, lambda: frozenset(range(1000)))
        assert Failure(caught.value.code, "").exit_code == 3


SETTINGS = """
[host]
sysfs = "{sysfs}"
[window]
length = 1.0
[kubelet]
enabled = false
[accounting]
processes = true
"""


def test_the_daemons_recording_replays_to_the_bit(tmp_path: Path) -> None:
    """Three windows of a running daemon; and one that Ctrl-C ends, under its own name, for us."""
    machine = Machine(tmp_path / "sys", LAYOUTS["intel-2s"], Power(30.0, {}), start_uj=0)
    file, early = tmp_path / "three", tmp_path / "early"
    with Driver(machine), Node(tmp_path, SETTINGS.format(sysfs=tmp_path / "sys")) as node:
        node.ask("node")  # waits for the first window: so there is state to begin with
        command = [sys.executable, "-m", "tychoctl", "--socket", str(node.socket), "record"]
        with subprocess.Popen(
            [*command, str(early)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as interrupted:
            done = node.tychoctl("record", str(file), "--for", "3s", "-o", "json")
            interrupted.send_signal(signal.SIGINT)
            said, _ = interrupted.communicate(timeout=PATIENCE_S)
        again = node.tychoctl("record", str(file), "--for", "1s")

    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["windows"], told["seconds"]) == (3, 3.0)
    assert file.stat().st_mode & 0o777 == 0o600
    assert again.returncode == 2
    assert "is there already; --force overwrites it" in again.stderr
    assert interrupted.returncode == 0
    assert said.startswith(f"{early}: ")
    check = subprocess.run(
        [*command[:3], "replay", str(file), "--verify", "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (check.returncode, check.stderr) == (0, "")
    assert json.loads(check.stdout)["verdict"] == "identical to the bit in 3 windows"
    assert replayed(early.read_bytes()).ended == "ended by the client"
    assert replayed(early.read_bytes()).differences == ()

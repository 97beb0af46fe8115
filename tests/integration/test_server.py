"""The control socket against good and hostile clients, over a real Unix socket."""

import dataclasses
import grp
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import snapshots as made
from tychoctl.client import Connection, Failure
from tychod import frames
from tychod.buffer import Latest
from tychod.config_results import Control
from tychod.frames import Decoder, encode_frame
from tychod.model import Snapshot, Window
from tychod.runtime import listener as listening
from tychod.runtime.answers import Answers
from tychod.runtime.listener import ListenError, Peer, adopt_listener, bind_control_socket
from tychod.runtime.server import refuse
from tychod.runtime.session import HANDLERS, Limits, Session, Times

PATIENCE_S = 10.0  # how long a test waits for what must come; nothing is measured by it
QUICK = Limits(idle_s=1.0, frame_s=0.2, send_s=1.0)
NOBODY = 65534
HELLO = encode_frame({"id": 1, "op": "hello", "args": {"version": 1}}, 1000)


@pytest.fixture
def path(run_name: str) -> Iterator[Path]:
    """Return the path of a socket in a directory of its own, short enough for sun_path."""
    with tempfile.TemporaryDirectory(prefix=run_name) as directory:
        yield Path(directory) / "control.sock"


@pytest.fixture
def latest() -> Latest[Snapshot]:
    """Return a slot that holds a snapshot."""
    slot: Latest[Snapshot] = Latest()
    slot.publish(made.make_snapshot())
    return slot


def connect(path: Path) -> socket.socket:
    """Return a raw connection."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE_S)
    client.connect(str(path))
    return client


def read_until_closed(client: socket.socket) -> list[Any]:
    """Return what the server says until it hangs up; fail when it does not."""
    decoder, found = Decoder(frames.MAX_REPLY_BYTES), []
    while True:
        try:
            data = client.recv(65536)
        except ConnectionResetError:
            return found
        if not data:
            return found
        found += decoder.feed(data)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.01)


HOSTILE: list[tuple[str, bytes, str | None]] = [
    ("text", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "bad-request"),
    ("length of 4 GiB", b"\xff\xff\xff\xff", "bad-request"),
    ("no msgpack", frames.LENGTH.pack(3) + b"\xc1\xc1\xc1", "bad-request"),
    ("deep nesting", frames.LENGTH.pack(3000) + b"\x91" * 3000, "bad-request"),
    ("no map", frames.LENGTH.pack(1) + b"\x07", "bad-request"),
    ("empty frame", frames.LENGTH.pack(0), "bad-request"),
    ("no hello", encode_frame({"id": 4, "op": "status"}, 1000), "bad-request"),
    ("old", encode_frame({"id": 4, "op": "hello", "args": {"version": 9}}, 1000), "version"),
    ("half a frame", frames.LENGTH.pack(100) + b"\x81", None),
    ("half a frame after hello", HELLO + frames.LENGTH.pack(100) + b"\x81", None),
    ("nothing", b"", None),
    ("hello and nothing", HELLO, None),
]


@pytest.mark.parametrize(("name", "sent", "code"), HOSTILE, ids=[name for name, *_ in HOSTILE])
def test_a_hostile_client_loses_only_its_own_connection(
    path: Path, latest: Latest[Snapshot], name: str, sent: bytes, code: str | None
) -> None:
    """Garbage is answered once and hung up on, silence is hung up on; others are served on."""
    limits = QUICK._replace(idle_s=1.0 if code is None else 60.0)
    with made.serving(path, latest, limits=limits) as server, connect(path) as hostile:
        hostile.sendall(sent)
        with Connection(str(path)) as good:
            assert good.call("pods")["sequence"] == 20
        told = read_until_closed(hostile)

        assert [m["error"]["code"] for m in told if "error" in m] == ([code] if code else []), name
        with Connection(str(path)) as good:
            assert good.call("node")["sequence"] == 20
        until(lambda: server.counts()["killed"] == 1)


def test_a_frame_that_drips_in_is_cut_off(path: Path, latest: Latest[Snapshot]) -> None:
    """The time for a frame counts from its start: a byte now and then does not renew it."""
    with made.serving(path, latest, limits=QUICK), connect(path) as hostile:
        hostile.sendall(frames.LENGTH.pack(60_000))
        with pytest.raises(OSError, match=r"Broken pipe|reset"):  # noqa: PT012 - which byte fails?
            for _ in range(60_000):
                hostile.sendall(b"\x00")
                time.sleep(0.01)


def big_snapshot(sequence: int) -> Snapshot:
    """Return a snapshot whose answer is far larger than a socket's buffers."""
    return made.make_snapshot(made.LEAVES * 400, sequence=sequence)


def test_who_does_not_read_is_cut_off_and_hinders_nobody(path: Path) -> None:
    """A client that asks and does not read its answer is closed; a good one sees every window."""
    slot: Latest[Snapshot] = Latest()
    slot.publish(big_snapshot(1))
    ask = encode_frame({"id": 2, "op": "workloads"}, 1000)
    with made.serving(path, slot, limits=QUICK) as server, connect(path) as slow:
        slow.sendall(HELLO + ask * 8)
        with Connection(str(path)) as good:
            for sequence in range(2, 6):
                slot.publish(big_snapshot(sequence))
                assert good.call("workloads")["sequence"] == sequence
        until(lambda: server.counts()["killed"] == 1)


def test_a_client_that_leaves_in_the_middle_of_an_answer(path: Path) -> None:
    """Hanging up with an answer on its way is nobody's fault and costs nothing."""
    slot: Latest[Snapshot] = Latest()
    slot.publish(big_snapshot(1))
    with made.serving(path, slot) as server:
        for _ in range(20):
            with connect(path) as leaving:
                leaving.sendall(HELLO + encode_frame({"id": 2, "op": "workloads"}, 1000))
                leaving.recv(10)
            until(lambda: server.counts()["open"] == 0)

        with Connection(str(path)) as good:
            assert good.call("workloads")["sequence"] == 1
        assert server.counts()["faults"] == 0


def test_one_user_cannot_take_all_connections(path: Path, latest: Latest[Snapshot]) -> None:
    """Of 40 connections of one user 8 are served; the others are told so and closed."""
    with made.serving(path, latest) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(path)) for _ in range(40)]
        until(lambda: server.counts()["refused"] == 32)
        refused = [read_until_closed(client) for client in clients[8:]]

        assert [told[0]["error"]["code"] for told in refused] == ["busy"] * 32
        assert server.counts() == {
            "open": 8,
            "accepted": 8,
            "refused": 32,
            "killed": 0,
            "faults": 0,
        }
        with pytest.raises(Failure, match="8 connections open already"):
            Connection(str(path))
        clients[0].close()
        until(lambda: server.counts()["open"] == 7)
        with Connection(str(path)) as good:
            assert good.call("status")["connections"]["open"] == 8


def test_the_last_places_are_for_root() -> None:
    """Users together leave two of 32 places to root, who also has his own limit."""
    many = [Peer(1, uid, uid) for uid in range(1000, 1030)]
    limits = Limits()

    assert refuse(Peer(1, 2000, 2000), many[:29], limits) is None
    assert refuse(Peer(1, 2000, 2000), many, limits) is not None
    assert refuse(Peer(1, 0, 0), many, limits) is None
    assert refuse(Peer(1, 0, 0), [*many, *many[:2]], limits) is not None
    assert refuse(Peer(1, 1000, 1000), [Peer(1, 1000, 1000)] * 8, limits) is not None


class Turnstile:
    """A clock that stands still, and pauses that last until the test ends them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting = 0
        self._open = threading.Event()

    def now_s(self) -> float:
        """Seconds on a clock that only the test moves."""
        return self.now

    def pause(self, _: float) -> None:
        """Wait until the test lets everybody through."""
        self.waiting += 1
        self._open.wait(PATIENCE_S)

    def release(self) -> None:
        """Let everybody through, now and later."""
        self.now += 1.0
        self._open.set()


def test_a_flood_of_requests_waits_in_its_own_thread(path: Path, latest: Latest[Snapshot]) -> None:
    """Of a flood so many are answered in a second; while the rest waits others are served."""
    flood = encode_frame({"id": 2, "op": "node"}, 1000) * 16
    turn = Turnstile()
    limits, times = Limits(requests_per_s=12), Times(turn.now_s, turn.pause)
    with (
        made.serving(path, latest, limits=limits, times=times) as server,
        connect(path) as hostile,
    ):
        hostile.sendall(HELLO + flood)
        until(lambda: turn.waiting == 1)
        with Connection(str(path)) as good:
            assert [good.call("node")["sequence"] for _ in range(10)] == [20] * 10
        answered = drain(hostile)
        assert turn.waiting == 1
        turn.release()
        hostile.setblocking(True)
        hostile.shutdown(socket.SHUT_WR)
        rest = read_until_closed(hostile)
        until(lambda: server.counts()["open"] == 0)

    assert len(answered) == 12  # as many as a socket takes that nobody reads
    assert len(answered) + len(rest) == 17


def drain(client: socket.socket) -> list[Any]:
    """Return the messages that have arrived by now."""
    client.setblocking(False)
    decoder, found = Decoder(frames.MAX_REPLY_BYTES), []
    try:
        while data := client.recv(65536):
            found += decoder.feed(data)
    except BlockingIOError:
        return found
    return found


def test_a_flood_of_connections_is_told_so_and_then_closed_at_once(
    path: Path, latest: Latest[Snapshot]
) -> None:
    """In one second a user gets 100 places one after the other, 100 refusals, then silence."""
    turn = Turnstile()
    with made.serving(path, latest, times=Times(turn.now_s)) as server:
        served, told = frames.MAX_NEW_PER_S, frames.MAX_NEW_PER_S + frames.MAX_REFUSALS_PER_S
        for _ in range(served):
            with Connection(str(path)) as good:
                good.call("node")
            until(lambda: server.counts()["open"] == 0)
        answers = []
        for _ in range(served, told + 50):
            with connect(path) as refused:
                answers.append(read_until_closed(refused))
        counts = server.counts()
        turn.release()
        with Connection(str(path)) as good:
            assert good.call("node")["sequence"] == 20

    codes = [answer[0]["error"]["code"] if answer else None for answer in answers]
    assert codes == ["busy"] * frames.MAX_REFUSALS_PER_S + [None] * 50
    assert (counts["accepted"], counts["refused"]) == (served, told + 50 - served)


FLOOD = """
import socket, sys, time
end = time.monotonic() + 20
held = []
print("ready", flush=True)
while time.monotonic() < end:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.setblocking(False)
    try:
        client.connect(sys.argv[1])
    except BlockingIOError:
        pass
    except OSError:
        break  # the server has gone
    held.append(client)
    if len(held) > 500:
        held.pop(0).close()
"""


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_one_users_flood_of_connections_locks_nobody_out(
    path: Path, latest: Latest[Snapshot]
) -> None:
    """While another user connects as fast as he can, every connection of root is served."""
    path.parent.chmod(0o755)
    with made.serving(path, latest) as server:
        path.chmod(0o666)
        command = ["/usr/bin/python3", "-I", "-c", FLOOD, str(path)]
        options: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as flood:
            try:
                assert flood.stdout is not None
                assert flood.stdout.readline() == "ready\n"
                until(lambda: server.counts()["refused"] > 200)
                for _ in range(40):
                    with Connection(str(path), timeout_s=PATIENCE_S) as good:
                        assert good.call("node")["sequence"] == 20
                assert flood.poll() is None
            finally:
                flood.kill()


def test_a_full_queue_is_waited_for(path: Path) -> None:
    """Where the server is slow to accept, a client waits its time for a place, then gives up."""
    with bind_control_socket(path) as listener, ExitStack() as stack:
        listener.listen(0)
        stack.enter_context(connect(path))
        with pytest.raises(Failure, match="does not take connections") as caught:
            Connection(str(path), timeout_s=0.1)
        assert caught.value.code == "busy"

        timer = threading.Timer(0.2, lambda: stack.enter_context(listener.accept()[0]))
        timer.start()
        with pytest.raises(Failure, match="did not answer") as caught:
            Connection(str(path), timeout_s=1.0)
        timer.join()


def test_a_wrong_request_costs_only_its_answer(path: Path, latest: Latest[Snapshot]) -> None:
    """After hello a well-formed request that does not fit is refused and the talk goes on."""
    with made.serving(path, latest), Connection(str(path)) as client:
        with pytest.raises(Failure, match="unknown operation 'disks'"):
            client.call("disks")
        with pytest.raises(Failure, match="op names no operation"):
            next(client.stream("hello", None))

        assert client.call("node")["sequence"] == 20


def test_a_stream_sends_every_window_and_ends_with_the_server(path: Path) -> None:
    """watch tells each new snapshot once, and says good-bye when the daemon stops."""
    slot: Latest[Snapshot] = Latest()
    slot.publish(made.make_snapshot(sequence=1))
    with made.serving(path, slot) as server, Connection(str(path)) as client:
        stream = client.stream("pods", None)
        seen = [next(stream)["sequence"]]
        for sequence in (2, 3, 4):
            slot.publish(made.make_snapshot(sequence=sequence))
            seen.append(next(stream)["sequence"])
        closer = threading.Thread(target=server.close)
        closer.start()
        rest = list(stream)
        closer.join()

    assert seen == [1, 2, 3, 4]
    assert rest == []


def test_a_stream_by_the_clock_repeats_and_ends_on_the_next_request(
    path: Path, latest: Latest[Snapshot]
) -> None:
    """watch with an interval repeats the newest answer; asking something else ends it."""
    watch = {"id": 2, "op": "watch", "args": {"op": "status", "interval": 0.1}}
    with made.serving(path, latest), connect(path) as client:
        client.sendall(HELLO + encode_frame(watch, 1000))
        decoder, found = Decoder(frames.MAX_REPLY_BYTES), []
        while len(found) < 4:
            found += decoder.feed(client.recv(65536))
        client.sendall(encode_frame({"id": 3, "op": "node"}, 1000))
        while found[-1]["id"] != 3:
            found += decoder.feed(client.recv(65536))

    stream = [message for message in found if message["id"] == 2]
    assert all(message["more"] for message in stream[:-1])
    assert stream[-1] == {"id": 2, "ok": None}


def test_a_stream_whose_client_left_ends(path: Path, latest: Latest[Snapshot]) -> None:
    """A watcher that goes away frees its place although no window comes."""
    with made.serving(path, latest) as server:
        with Connection(str(path)) as client:
            assert next(client.stream("pods", None))["sequence"] == 20
        until(lambda: server.counts()["open"] == 0)


def test_before_the_first_window_results_are_not_ready(path: Path) -> None:
    """Health answers at once; results say how many seconds are left."""
    with made.serving(path, Latest()), Connection(str(path)) as client:
        assert client.call("status")["window"] is None
        assert client.call("sources")["sequence"] == 0
        with pytest.raises(Failure, match="not complete") as caught:
            client.call("pods")

        assert (caught.value.code, caught.value.seconds) == ("not-ready", 1.5)


class Broken(Answers):
    """Answers of a daemon with a fault."""

    def sources(self) -> bytes:
        """Fail as a programming mistake would."""
        raise ZeroDivisionError("a fault of ours")


def test_a_fault_costs_one_connection_and_is_logged_once(
    path: Path, latest: Latest[Snapshot], caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in answering is told as internal, leaves one traceback, and the daemon lives."""
    sound = made.make_answers(latest)
    broken = Broken(latest, made.StillClock(), sound._readers)
    with caplog.at_level(logging.INFO), made.serving(path, latest, broken) as server:
        for _ in range(3):
            with Connection(str(path)) as client:
                with pytest.raises(Failure, match="its log says why") as caught:
                    client.call("sources")
                assert caught.value.code == "internal"
                with pytest.raises(Failure, match="closed the connection"):
                    client.call("node")
        with Connection(str(path)) as client:
            assert client.call("node")["sequence"] == 20
        assert server.counts()["faults"] == 3

    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "a fault of ours" in caplog.text


def test_close_leaves_nothing(path: Path, latest: Latest[Snapshot]) -> None:
    """Closing ends idle clients, streams and half frames, and removes the socket file."""
    with ExitStack() as stack:
        with made.serving(path, latest) as server:
            idle = stack.enter_context(connect(path))
            half = stack.enter_context(connect(path))
            half.sendall(b"\x00")
            watching = stack.enter_context(Connection(str(path)))
            next(watching.stream("pods", None))
            until(lambda: server.counts()["open"] == 3)
            server.close()

            assert server.counts()["open"] == 0
            assert read_until_closed(idle) == []
        assert not path.exists()


def test_close_leaves_another_daemons_socket_alone(path: Path, latest: Latest[Snapshot]) -> None:
    """A file that took our place is not ours to remove."""
    with made.serving(path, latest):
        path.unlink()
        other = bind_control_socket(path)
    with other:
        assert path.exists()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_socket_has_the_mode_asked_for(path: Path, umask: int) -> None:
    """Owner and group may connect and nobody else, whatever the umask."""
    before = os.umask(umask)
    try:
        with bind_control_socket(path, gid=os.getgid()):
            assert path.stat().st_mode & 0o777 == 0o660
    finally:
        os.umask(before)


def test_nobody_can_connect_before_the_mode_is_set(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until group and mode are set the socket does not listen: connecting fails."""
    refused = []
    chmod = Path.chmod

    def try_to_connect(self: Path, mode: int) -> None:
        with pytest.raises(ConnectionRefusedError):
            connect_and_close(self)
        refused.append(self)
        chmod(self, mode)

    monkeypatch.setattr(listening.Path, "chmod", try_to_connect)
    with bind_control_socket(path):
        assert refused == [path]


def connect_and_close(path: Path) -> None:
    """Connect, then hang up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))


def test_a_stale_socket_is_replaced(path: Path, latest: Latest[Snapshot]) -> None:
    """What a killed daemon left behind does not keep the next one from starting."""
    bind_control_socket(path).close()
    assert path.exists()

    with made.serving(path, latest), Connection(str(path)) as client:
        assert client.call("node")["sequence"] == 20


HOLDER = """
import sys
from pathlib import Path
from tychod.runtime.listener import bind_control_socket
listener = bind_control_socket(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_second_daemon_is_refused_and_told_the_firsts_pid(path: Path) -> None:
    """Two daemons never share a socket; the message names who has it."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(ListenError, match=rf"already running .*\(pid {first.pid}\)") as caught:
            bind_control_socket(path)
        assert caught.value.pid == first.pid
        assert path.exists()


def test_a_place_that_cannot_be_used_is_told_with_a_remedy(path: Path) -> None:
    """A missing directory, another file and too long a path each say what to do."""
    path.write_text("not a socket")

    with pytest.raises(ListenError, match="is no socket; remove it"):
        bind_control_socket(path)
    with pytest.raises(ListenError, match="create it"):
        bind_control_socket(path.parent / "missing" / "control.sock")
    with pytest.raises(ListenError, match="longer than 107 bytes"):
        bind_control_socket(path.parent / ("x" * 107))
    assert path.read_text() == "not a socket"


def test_a_socket_from_systemd_is_adopted(path: Path) -> None:
    """One listening Unix socket passed to us is taken, and not passed on to children."""
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "A": "b"}
    with bind_control_socket(path) as bound:
        adopted = adopt_listener(environ, first_fd=os.dup(bound.fileno()))

        assert adopted is not None
        assert environ == {"A": "b"}
        assert not adopted.get_inheritable()
        with adopted, connect(path):
            adopted.accept()[0].close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
    ],
)
def test_what_is_not_for_us_is_not_adopted(environ: dict[str, str]) -> None:
    """Variables of another process, or of none, mean that we bind ourselves."""
    assert adopt_listener(dict(environ)) is None


def test_a_wrong_socket_from_systemd_is_an_error(path: Path) -> None:
    """More than one socket, no socket, or one that does not listen is a mistake to mend."""
    mine = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    with (
        pytest.raises(ListenError, match="passed 2 sockets"),
    ):
        adopt_listener({**mine, "LISTEN_FDS": "2"})
    with path.open("w") as file, pytest.raises(ListenError, match="is no socket"):
        adopt_listener(dict(mine), first_fd=file.fileno())
    for kind in (socket.AF_UNIX, socket.AF_INET):
        with (
            socket.socket(kind, socket.SOCK_STREAM) as idle,
            pytest.raises(ListenError, match="no listening Unix"),
        ):
            adopt_listener(dict(mine), first_fd=idle.fileno())


RELAY = """
import socket, sys, threading
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
def back():
    while data := connection.recv(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
threading.Thread(target=back).start()
while data := sys.stdin.buffer.raw.read(65536):
    connection.sendall(data)
connection.shutdown(socket.SHUT_RDWR)
"""


class Other:
    """A client that is another user: what the test says goes through a process of his."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        options: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        command = ["/usr/bin/python3", "-I", "-c", RELAY, str(path)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        self._process = stack.enter_context(subprocess.Popen(command, **pipes, **options))
        assert self._process.stdin is not None
        stack.callback(self._process.stdin.close)
        self._decoder = Decoder(frames.MAX_REPLY_BYTES)
        self._replies: list[Any] = []
        self.call("hello", {"version": 1})

    def send(self, op: str, args: dict[str, Any] | None = None) -> None:
        """Send one request."""
        assert self._process.stdin is not None
        self._process.stdin.write(encode_frame({"id": 1, "op": op, "args": args or {}}, 1000))

    def read(self) -> Any:
        """Return the next reply."""
        assert self._process.stdout is not None
        while not self._replies:
            data = self._process.stdout.read(65536)
            assert data, "hung up on"
            self._replies += self._decoder.feed(data)
        return self._replies.pop(0)

    def call(self, op: str, args: dict[str, Any] | None = None) -> Any:
        """Return the answer to one request."""
        self.send(op, args)
        return self.read()


RESULTS = [op for op, handler in HANDLERS.items() if handler is Session.tell]
RESULTS = [op for op in RESULTS if op not in {"sources", "config"}]  # they tell no energy


def publish_later(latest: Latest[Snapshot], sequence: int, seconds: int) -> None:
    """Publish a window that ends so long after the example's."""
    snapshot = made.make_snapshot(sequence=sequence)
    later = Window(*(t_ns + seconds * 1_000_000_000 for t_ns in snapshot.window))
    latest.publish(dataclasses.replace(snapshot, window=later))


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_who_has_no_rights_gets_results_no_more_often_than_is_set(
    path: Path, latest: Latest[Snapshot]
) -> None:
    """By no operation, asked or watched, of any connection; root gets every window."""
    answers = made.make_answers(latest, control=Control(min_interval=6.0))
    path.parent.chmod(0o755)
    with made.serving(path, latest, answers), ExitStack() as stack:
        path.chmod(0o666)
        root = stack.enter_context(Connection(str(path), timeout_s=PATIENCE_S))
        other, watcher = Other(path, stack), Other(path, stack)
        watcher.send("watch", {"op": "node"})
        watched = [watcher.read()["ok"]["sequence"]]
        seen = []
        for step in range(1, 5):
            publish_later(latest, 20 + step, 3 * step)
            told = {other.call(op)["ok"]["sequence"] for op in RESULTS}
            seen.append((root.call("node")["sequence"], told))
        watched.append(watcher.read()["ok"]["sequence"])

    assert seen == [(21, {20}), (22, {22}), (23, {22}), (24, {24})]
    assert watched[0] == 20
    assert watched[1] in {22, 24}


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_who_has_no_rights_may_not_watch_faster_than_is_set(
    path: Path, latest: Latest[Snapshot]
) -> None:
    """The refusal names the setting and the group; members of the group may."""
    admins = grp.getgrgid(NOBODY).gr_name
    refusing = made.make_answers(latest, control=Control(min_interval=2.0, admin_group="root"))
    admitting = made.make_answers(latest, control=Control(min_interval=2.0, admin_group=admins))
    asked = {"op": "node", "interval": 0.1}
    path.parent.chmod(0o755)
    with made.serving(path, latest, refusing), ExitStack() as stack:
        path.chmod(0o666)
        refused = Other(path, stack).call("watch", asked)["error"]
        root = stack.enter_context(Connection(str(path), timeout_s=PATIENCE_S))
        assert next(root.stream("node", 0.1))["sequence"] == 20
    with made.serving(path, latest, admitting), ExitStack() as stack:
        path.chmod(0o666)
        assert Other(path, stack).call("watch", asked)["ok"]["sequence"] == 20

    assert refused["code"] == "forbidden"
    assert "[control] min_interval, 2 s" in refused["message"]
    assert "add you to group root" in refused["message"]

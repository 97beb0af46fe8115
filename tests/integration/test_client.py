"""tychoctl as people and scripts run it: exit codes, streams, and what it costs to start."""

import dataclasses
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import snapshots as made
from tychoctl import advice, client
from tychoctl.advice import Service
from tychoctl.client import Connection, Failure
from tychoctl.options import parse_options
from tychod import frames
from tychod.buffer import Latest
from tychod.model import Snapshot
from tychod.runtime.answers import Answers
from tychod.version import Build, read_build, render_version

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20.0
COMMAND = (sys.executable, "-m", "tychoctl")
NOBODY = 65534


@pytest.fixture
def path(run_name: str) -> Iterator[Path]:
    """Return the path of a socket in a directory of its own that anybody may enter."""
    with tempfile.TemporaryDirectory(prefix=run_name) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "control.sock"


@pytest.fixture
def latest() -> Latest[Snapshot]:
    """Return a slot that holds a snapshot."""
    slot: Latest[Snapshot] = Latest()
    slot.publish(made.make_snapshot())
    return slot


def environment(path: Path) -> dict[str, str]:
    """Return the environment of a user whose tychod listens there."""
    return {**os.environ, "TYCHOD_SOCKET": str(path)}


def tychoctl(path: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    "command",
    [
        *("status", "sources", "node", "workloads", "pods", "containers", "vms", "units"),
        *("config", "version"),
    ],
)
def test_every_command_answers(path: Path, latest: Latest[Snapshot], command: str) -> None:
    """Each command prints its answer and nothing else, and is fine."""
    with made.serving(path, latest):
        done = tychoctl(path, command)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_options_may_stand_before_or_after_the_command(
    path: Path, latest: Latest[Snapshot], tmp_path: Path
) -> None:
    """The same options mean the same on both sides; --socket beats the environment."""
    elsewhere = tmp_path / "nothing"
    with made.serving(path, latest):
        before = tychoctl(elsewhere, "--socket", str(path), "-o", "json", "pods")
        after = tychoctl(elsewhere, "pods", "-o", "json", "--socket", str(path))

    assert before.returncode == 0
    assert json.loads(before.stdout) == json.loads(after.stdout)


def test_json_is_what_the_daemon_said(path: Path, latest: Latest[Snapshot]) -> None:
    """-o json prints the daemon's answer as it is."""
    with made.serving(path, latest):
        done = tychoctl(path, "workloads", "-o", "json")
        with Connection(str(path)) as connection:
            assert json.loads(done.stdout) == connection.call("workloads")


@pytest.mark.parametrize(
    "arguments",
    [
        ["disks"],
        ["pods", "-o", "yaml"],
        ["pods", "-w", "0"],
        ["pods", "--wait", "-1"],
        ["pods", "--limit", "0"],
        ["units", "-n", "shop"],
        ["pods", "--sort", "size"],
        ["pods", "-l", "app in web"],
        ["version", "-w"],
        ["config", "default", "rapl"],
        ["-o", "wide"],
        ["-w"],
        ["pods", "-n", "shop", "-A"],
        ["pods", "--namespaces", "-l", "app"],
        ["status", "--no-headers"],
        ["pods", "-n", ""],
        ["pods", "--size"],
        ["pods", "web"],
    ],
)
def test_usage_errors_exit_2(path: Path, arguments: list[str]) -> None:
    """What cannot be meant is told in one line that leads to the help, before anything is asked."""
    done = tychoctl(path, *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "tychoctl: " in done.stderr


def test_errors_with_json_are_json(path: Path) -> None:
    """A program that asked for JSON gets its errors as JSON, too, on standard error."""
    usage = tychoctl(path, "pods", "-o", "json", "--limit", "x")
    stopped = tychoctl(path, "-o", "json", "pods")

    assert json.loads(usage.stderr)["error"]["code"] == "usage"
    assert json.loads(stopped.stderr)["error"]["code"] == "not-running"
    assert (usage.returncode, stopped.returncode) == (2, 5)
    assert stopped.stdout == ""


def test_a_missing_daemon_exits_5_with_advice(path: Path) -> None:
    """No socket, and a socket nobody listens on: exit 5 and what to do, in one line."""
    missing = tychoctl(path, "status")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    refused = tychoctl(path, "status")

    for done in (missing, refused):
        assert done.returncode == 5
        assert done.stderr.count("\n") == 1
        assert f"nothing answers on {path}" in done.stderr
        assert "systemctl start tychod" in done.stderr


def test_version_works_without_a_daemon(path: Path) -> None:
    """The client's own version is known whether or not a daemon runs."""
    done = tychoctl(path, "version")

    assert done.returncode == 0
    assert "tychod is not running" in done.stdout


def test_both_programs_write_versions_alike(path: Path, latest: Latest[Snapshot]) -> None:
    """`tychoctl version` shows the daemon's line as `tychod --version` would print it."""
    facts = dataclasses.replace(made.FACTS, built="2025-06-02T00:00:00Z")
    sound = made.make_answers(latest)
    readers = sound._readers._replace(facts=lambda: facts)
    answers = Answers(latest, made.StillClock(), readers)
    with made.serving(path, latest, answers):
        own, daemon = tychoctl(path, "version").stdout.splitlines()

    assert own == render_version("tychoctl", read_build())
    build = Build(facts.version, facts.commit, facts.built)
    assert daemon == render_version("tychod", build)


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (None, "start tychod (systemctl start tychod)"),
        (Service("not-found", "inactive", "success"), "install the tychod package"),
        (
            Service("loaded", "failed", "exit-code"),
            "tychod.service is failed (Result=exit-code): see journalctl -u tychod",
        ),
        (Service("loaded", "inactive", "success"), "systemctl start tychod"),
        (Service("loaded", "activating", "success"), "--wait 10"),
        (Service("loaded", "active", "success"), "active but nothing answers on /run/x"),
    ],
)
def test_advice_fits_the_state_of_the_service(service: Service | None, words: str) -> None:
    """What systemd knows of the service decides what to do next."""
    line = advice.render_not_running("/run/x", service)

    assert words in line
    assert "\n" not in line


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_who_may_not_connect_is_told_which_group(path: Path, latest: Latest[Snapshot]) -> None:
    """A user outside the socket's group gets exit 3 and the command that lets him in."""
    with made.serving(path, latest):
        os.chown(path, 0, 1)  # group daemon, which every Debian has
        other: Mapping[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        done = tychoctl(path, "pods", **other)
        as_json = tychoctl(path, "pods", "-o", "json", **other)

    assert done.returncode == 3
    assert "not a member of group daemon: sudo usermod -aG daemon nobody" in done.stderr
    assert json.loads(as_json.stderr)["error"]["code"] == "forbidden"


def test_a_setting_that_does_not_exist_exits_4(path: Path, latest: Latest[Snapshot]) -> None:
    """config show of one setting or section shows it; an unknown one names the nearest."""
    with made.serving(path, latest):
        one = tychoctl(path, "config", "show", "rapl.interval")
        part = tychoctl(path, "config", "show", "rapl", "-o", "json")
        none = tychoctl(path, "config", "show", "rapl.intervall")

    assert "/etc/tychod/tychod.toml" in one.stdout
    assert [s["key"] for s in json.loads(part.stdout)["config"]] == ["rapl.interval", "rapl.zones"]
    assert (none.returncode, none.stdout) == (4, "")
    assert "did you mean rapl.interval?" in none.stderr


def test_nothing_that_fits_is_no_failure(path: Path, latest: Latest[Snapshot]) -> None:
    """As with kubectl: which namespaces there are is no fact of the node; exit 0 and a sentence."""
    with made.serving(path, latest):
        nowhere = tychoctl(path, "pods", "-n", "none")
        nothing = tychoctl(path, "pods", "-n", "shop", "-l", "app=none")

    assert (nowhere.returncode, nothing.returncode) == (0, 0)
    assert nowhere.stdout.startswith("no pods in namespace none\n")
    assert nothing.stdout.startswith("no pods in namespace shop with such labels\n")


def test_what_a_selector_could_not_judge_is_told_beside_data(
    path: Path, latest: Latest[Snapshot]
) -> None:
    """A program gets its rows on standard output; standard error says which may be missing."""
    with made.serving(path, latest):
        done = tychoctl(path, "pods", "-l", "app=web", "-o", "json")
        plain = tychoctl(path, "pods", "-o", "json")

    assert [pod["name"] for pod in json.loads(done.stdout)["pods"]] == ["web"]
    assert done.stderr.startswith("tychoctl: 1 pod not shown, labels not known: kubelet: 401")
    assert done.stderr.count("\n") == 1
    assert plain.stderr == ""


def test_hostile_names_reach_a_program_whole_and_a_person_escaped(path: Path) -> None:
    """From the daemon's snapshot over the socket to the output, bytes that are no UTF-8 too."""
    evil = "a\udcff\x1b]0;title\x07\u202e" + "x" * 10_000
    identity = dataclasses.replace(made.LEAVES[0].identity, name=evil, pod=evil)
    slot: Latest[Snapshot] = Latest()
    slot.publish(made.make_snapshot((dataclasses.replace(made.LEAVES[0], identity=identity),)))
    with made.serving(path, slot):
        table = tychoctl(path, "containers")
        as_json = tychoctl(path, "containers", "-o", "json")

    assert table.returncode == 0
    assert r"a\udcff\x1b]0;title\x07\u202exxx" in table.stdout
    assert all(line.isprintable() for line in table.stdout.split("\n"))
    assert max(map(len, table.stdout.splitlines())) < 300
    assert as_json.stdout.isascii()
    assert json.loads(as_json.stdout)["workloads"][0]["name"] == evil.replace("\udcff", r"\udcff")


def test_processes_that_are_not_accounted_exit_1_with_the_setting(path: Path) -> None:
    """Where processes are off the client says which setting has them, as JSON too, and when."""
    off: Latest[Snapshot] = Latest()
    off.publish(dataclasses.replace(made.make_snapshot(), processes=None))
    with made.serving(path, off):
        done = tychoctl(path, "processes")
        as_json = tychoctl(path, "processes", "-o", "json", "-w", "1")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "set [accounting] processes = true and restart tychod" in done.stderr
    assert as_json.returncode == 1
    assert json.loads(as_json.stderr)["error"]["code"] == "unavailable"


def test_config_default_prints_the_default_file(path: Path) -> None:
    """The commented default file is printed without a daemon, whole and nothing else."""
    from tychod.config_text import render_default

    done = tychoctl(path, "config", "default")

    assert (done.returncode, done.stdout) == (0, render_default())


def test_before_the_first_window_it_fails_or_waits(path: Path) -> None:
    """Without --wait a script is told at once; with it the answer comes when there is one."""
    slot: Latest[Snapshot] = Latest()
    with made.serving(path, slot):
        at_once = tychoctl(path, "pods", "-o", "json")
        health = tychoctl(path, "status")
        timer = threading.Timer(0.5, slot.publish, [made.make_snapshot()])
        timer.start()
        waited = tychoctl(path, "pods", "-o", "json", "--wait", "15")
        timer.join()

    assert (at_once.returncode, health.returncode, waited.returncode) == (1, 0, 0)
    assert json.loads(at_once.stderr)["error"]["code"] == "not-ready"
    assert json.loads(waited.stdout)["sequence"] == 20
    assert waited.stderr == ""


def test_wait_also_waits_for_the_daemon(path: Path, latest: Latest[Snapshot]) -> None:
    """--wait holds on while nothing listens yet."""
    command = [*COMMAND, "node", "-o", "json", "--wait", "15"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(path), stdout=subprocess.PIPE, text=True
    ) as waiting:
        time.sleep(0.5)
        with made.serving(path, latest):
            out, _ = waiting.communicate(timeout=PATIENCE_S)

    assert waiting.returncode == 0
    assert json.loads(out)["sequence"] == 20


@contextmanager
def running(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the background; kill it when the block fails."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, env=environment(path), stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    """Return the next line of output."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_watch_prints_a_line_a_window_and_ends_quietly(
    path: Path, latest: Latest[Snapshot]
) -> None:
    """-w with JSON is one object a line for every window; ctrl-C ends it without a word."""
    with made.serving(path, latest), running(path, "-w", "pods", "-o", "json") as watching:
        seen = [json.loads(read_line(watching))["sequence"]]
        for sequence in (21, 22):
            latest.publish(made.make_snapshot(sequence=sequence))
            seen.append(json.loads(read_line(watching))["sequence"])
        watching.send_signal(signal.SIGINT)
        out, error = watching.communicate(timeout=PATIENCE_S)

    assert seen == [20, 21, 22]
    assert (watching.returncode, out, error) == (0, "", "")


def test_a_watch_that_no_terminal_shows_prints_json_lines(
    path: Path, latest: Latest[Snapshot]
) -> None:
    """A program that reads a watch needs no -o; who asks for a table gets one."""
    with made.serving(path, latest):
        with running(path, "units", "-w", "0.1") as watching:
            lines = [json.loads(read_line(watching)) for _ in range(2)]
        with running(path, "units", "-w", "0.1", "-o", "table", "--no-headers") as watching:
            rows = [read_line(watching) for _ in range(4)]

    assert [line["sequence"] for line in lines] == [20, 20]
    assert [row.split()[0] for row in rows] == ["cron.service", "evil\\x1b[2J.service"] * 2


def test_without_a_command_the_node_is_on_one_screen(path: Path, latest: Latest[Snapshot]) -> None:
    """Exit 0 and at most 24 lines where tychod answers; else exit 5, what to do and the help."""
    missing = tychoctl(path)
    with made.serving(path, latest):
        done = tychoctl(path)
        slot: Latest[Snapshot] = Latest()
    with made.serving(path, slot):
        early = tychoctl(path)

    assert (done.returncode, done.stderr) == (0, "")
    assert 5 < len(done.stdout.splitlines()) <= 24
    assert "power" in done.stdout
    assert (missing.returncode, missing.stdout) == (5, "")
    assert "nothing answers on" in missing.stderr
    assert "tychoctl --help lists the commands" in missing.stderr
    assert early.returncode == 0
    assert "the first window is not over yet" in early.stdout


def test_watch_of_csv_has_one_header(path: Path, latest: Latest[Snapshot]) -> None:
    """Watched CSV stays one file: titles once, then rows."""
    with made.serving(path, latest), running(path, "node", "-o", "csv", "-w", "0.1") as watching:
        lines = [read_line(watching) for _ in range(10)]

    assert [line.startswith("window_end,") for line in lines] == [True] + [False] * 9


def test_watch_ends_with_the_daemon(path: Path, latest: Latest[Snapshot]) -> None:
    """When the daemon stops the watcher is told and exits 5."""
    with (
        made.serving(path, latest) as server,
        running(path, "pods", "-o", "json", "-w") as watching,
    ):
        first = read_line(watching)
        server.close()
        _, error = watching.communicate(timeout=PATIENCE_S)

    assert json.loads(first)["sequence"] == 20
    assert watching.returncode == 5
    assert "tychod ended the stream: it stops or restarts" in json.loads(error)["error"]["message"]


SERVE = """
import sys
from pathlib import Path
from tests.fixtures import snapshots as made
from tychod.buffer import Latest
latest = Latest()
latest.publish(made.make_snapshot())
with made.serving(Path(sys.argv[1]), latest):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_watch_ends_with_a_daemon_that_was_killed(path: Path) -> None:
    """kill -9 says no good-bye: the watcher is told that nothing runs any more and exits 5."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SERVE, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as daemon:
        assert read_line(daemon) == "ready\n"
        with running(path, "pods", "-o", "json", "-w") as watching:
            first = read_line(watching)
            daemon.kill()
            _, error = watching.communicate(timeout=PATIENCE_S)

    assert json.loads(first)["sequence"] == 20
    assert watching.returncode == 5
    assert json.loads(error)["error"]["code"] == "not-running"
    assert "went away" in json.loads(error)["error"]["message"]


@pytest.mark.parametrize(
    "rest", [b"HTTP/1.1 400 Bad Request\r\n", frames.LENGTH.pack(100) + b"half"]
)
def test_a_stream_that_breaks_is_a_failure(path: Path, rest: bytes) -> None:
    """Half an answer, or none at all, in the middle of a stream exits 1."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(welcome({"version": 1}))
        connection.recv(65536)
        connection.sendall(frames.encode_frame({"id": 2, "more": True, "ok": {}}, 1000) + rest)

    with odd_daemon(path, answer):
        done = tychoctl(path, "node", "-w", "-o", "json")

    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["code"] in ("closed", "protocol")


@pytest.mark.parametrize(
    "arguments",
    [
        ["pods"],
        ["pods", "-o", "json"],
        ["pods", "-w", "-o", "csv"],
        ["config", "default"],
        ["version"],
        ["--help"],
        ["pods", "--help"],
    ],
)
def test_a_full_disk_is_told_in_one_line(
    path: Path, latest: Latest[Snapshot], arguments: list[str]
) -> None:
    """What cannot be written is a failure with the reason, not a traceback, and never exit 0."""
    with made.serving(path, latest), Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env=environment(path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("redirection", [">&-", "2>/dev/full", "2>&-", ">&- 2>&-", "| true"])
def test_streams_that_are_closed_or_full_give_no_traceback(path: Path, redirection: str) -> None:
    """Whatever the shell did with the streams, the exit code is that of the failure."""
    shell = f'"$0" -m tychoctl pods --socket "$1" {redirection}'
    done = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == (0 if "|" in redirection else 5)
    assert done.stderr.count("\n") == (redirection in (">&-", "| true"))


def test_closed_standard_output_is_told(path: Path, latest: Latest[Snapshot]) -> None:
    """An answer that nobody can get is a failure."""
    with made.serving(path, latest):
        done = subprocess.run(
            ["/bin/sh", "-c", '"$0" -m tychoctl pods --socket "$1" >&-', sys.executable, str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    assert (done.returncode, done.stderr) == (1, "tychoctl: standard output is closed\n")


def test_a_closed_pipe_is_no_error(path: Path, latest: Latest[Snapshot]) -> None:
    """`tychoctl pods -w | head -1` ends without a complaint."""
    with made.serving(path, latest), running(path, "pods", "-w", "0.1", "-o", "json") as watching:
        read_line(watching)
        assert watching.stdout is not None
        assert watching.stderr is not None
        watching.stdout.close()
        error = watching.stderr.read()
        watching.wait(PATIENCE_S)

    assert (watching.returncode, error) == (0, "")


def run_on_terminal(
    path: Path, arguments: list[str], until: str, keys: bytes | signal.Signals, columns: int = 80
) -> tuple[int, str]:
    """Run a command on a terminal; type keys, or send a signal, once it shows a text.

    Return exit status and output.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        termios.tcsetwinsize(0, (24, columns))
        os.execve(sys.executable, [*COMMAND, *arguments], environment(path))  # noqa: S606
    shown, deadline = "", time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            shown += os.read(terminal, 65536).decode()
            if keys and until in shown:
                if isinstance(keys, bytes):
                    os.write(terminal, keys)
                else:
                    os.kill(pid, keys)
                keys = b""
    except OSError:
        pass  # Linux says EIO when the program at the other end has gone
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_a_terminal_is_redrawn_and_restored(path: Path, latest: Latest[Snapshot]) -> None:
    """-w on a terminal draws on a screen of its own and gives the old one back on ctrl-C."""
    with made.serving(path, latest):
        status, shown = run_on_terminal(path, ["pods", "-w", "0.1"], "shown:", b"\x03")

    assert status == 0
    begin, end = shown.index("\x1b[?1049h"), shown.index("\x1b[?1049l")
    assert begin < shown.index("\x1b[H") < shown.index("NAMESPACE") < end
    assert "\x1b[?25h" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("command", ["pods", "workloads", "status"])
def test_a_narrow_terminal_does_not_scroll(
    path: Path, latest: Latest[Snapshot], command: str
) -> None:
    """No line is wider than the terminal, so that the screen is as high as was counted."""
    with made.serving(path, latest):
        watch, once = [command, "-w", "0.1"], [command]
        _, shown = run_on_terminal(path, watch, "\x1b[J", b"\x03", columns=40)
        status, text = run_on_terminal(path, once, "", b"", columns=40)
    screen = shown.split("\x1b[H")[1].split("\x1b[J")[0].replace("\x1b[K", "")

    assert status == 0
    assert len(screen.splitlines()) <= 23
    assert max(map(len, screen.splitlines())) <= 40
    assert max(map(len, text.splitlines())) <= 40


def test_a_terminal_is_restored_when_the_watch_is_ended(
    path: Path, latest: Latest[Snapshot]
) -> None:
    """SIGTERM, too, gives the old screen and the cursor back; it is told as a shell does."""
    with made.serving(path, latest):
        status, shown = run_on_terminal(path, ["pods", "-w", "0.1"], "shown:", signal.SIGTERM)

    assert status == 128 + signal.SIGTERM
    assert shown.index("\x1b[?1049h") < shown.index("\x1b[?25h\x1b[?1049l")
    assert "Traceback" not in shown


def test_a_terminal_waits_for_the_first_window(path: Path) -> None:
    """Without any option a person who is too early sees the wait, then the answer."""
    slot: Latest[Snapshot] = Latest()
    timer = threading.Timer(1.0, slot.publish, [made.make_snapshot()])
    with made.serving(path, slot):
        timer.start()
        status, shown = run_on_terminal(path, ["pods"], "", b"")
        timer.join()

    assert status == 0
    assert "the first window is not complete" in shown
    assert "NAMESPACE" in shown


@contextmanager
def odd_daemon(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """Listen as a daemon would and answer one connection oddly."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            answer(connection)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def welcome(reply: object) -> bytes:
    """Return a frame."""
    return frames.encode_frame({"id": 1, "ok": reply}, 1000)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no answer"),
        (frames.LENGTH.pack(3) + b"\xc1\xc1\xc1", "no answer"),
        (frames.LENGTH.pack(100) + b"half", "closed the connection"),
        (welcome([1, 2]), "a map was expected"),
        (welcome({"version": 2}), "upgrade tychoctl"),
        (welcome({"version": 0}), "upgrade tychod"),
        (frames.encode_frame({"id": 99, "ok": {}}, 1000), "something else than was asked"),
        (frames.encode_frame({"id": 1}, 1000), "something else than was asked"),
        (frames.encode_frame({"id": 1, "error": "no"}, 1000), "a map was expected"),
    ],
)
def test_a_daemon_that_talks_nonsense(path: Path, sent: bytes, words: str) -> None:
    """Whatever answers, the command fails with one line and exit code 1."""
    with odd_daemon(path, lambda connection: connection.sendall(sent)):
        done = tychoctl(path, "node")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_daemon_that_says_nothing_is_given_up(path: Path) -> None:
    """Every wait of the client ends, with the time it waited in the message."""
    done = threading.Event()
    with odd_daemon(path, lambda _: done.wait(PATIENCE_S) and None):
        with pytest.raises(Failure, match=r"did not answer within 0\.2 s"):
            Connection(str(path), timeout_s=0.2)
        done.set()


def test_unknown_keys_in_an_answer_are_ignored(path: Path) -> None:
    """A newer daemon may say more."""
    reply = {"id": 1, "ok": {"version": 1, "daemon": "tychod 9", "commit": "c", "new": [1]}, "n": 1}
    with (
        odd_daemon(path, lambda c: c.sendall(frames.encode_frame(reply, 1000))),
        Connection(str(path)) as connection,
    ):
        assert connection.welcome == client.Welcome("tychod 9", "c")


@pytest.mark.parametrize(
    ("arguments", "watch"),
    [
        (["-w", "pods"], 0.0),
        (["pods", "-w"], 0.0),
        (["-w", "5", "pods"], 5.0),
        (["pods", "--watch", ".5"], 0.5),
        (["pods", "-w2"], 2.0),
        (["pods", "--watch=7", "-o", "json"], 7.0),
        (["pods"], None),
    ],
)
def test_watch_takes_seconds_or_nothing(arguments: list[str], watch: float | None) -> None:
    """-w never swallows the command, wherever it stands."""
    options = parse_options(arguments)

    assert (options.command, options.watch) == ("pods", watch)


COUNT = """
import sys
from tychoctl.__main__ import main
status = main(sys.argv[1:])
print(status, *sorted(sys.modules), file=sys.stderr)
"""
# Each takes milliseconds to import and none is needed for a question and a table.
SLOW = {
    *("numpy", "requests", "rich", "prometheus_client", "pystemd", "urllib3", "tomllib"),
    *("dataclasses", "inspect", "logging", "subprocess", "difflib", "tychod.schema"),
}
MOST_MODULES = 110


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        *(
            [command, "-o", form]
            for command in ("status", "sources", "node", "workloads", "pods", "units", "config")
            for form in ("table", "json", "csv")
        ),
        ["pods", "-n", "shop", "--sort", "energy", "-r", "--no-headers"],
    ],
    ids=" ".join,
)
def test_a_command_starts_with_few_imports(
    path: Path, latest: Latest[Snapshot], arguments: list[str]
) -> None:
    """One question loads no library that it does not need: this is what keeps it cheap."""
    with made.serving(path, latest):
        # -I -S: without what a development install or site hooks import by themselves.
        paths = [ROOT, Path(client.frames.msgpack.__file__).parents[1]]
        start = f"import sys; sys.path[:0] = {[str(p) for p in paths]!r}\n{COUNT}"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", start, "--socket", str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
    status, *modules = done.stderr.split()

    assert status == "0"
    assert SLOW & set(modules) == set()
    assert len(modules) <= MOST_MODULES

"""What a check does to the machine it runs on: commands, units, the client, the journal."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.e2e.steps import StepError, require

T = TypeVar("T")
Answer = dict[str, Any]  # parsed JSON of the client

UNIT: Final = "tychod.service"
DROP_INS: Final = Path("/run/systemd/system")


def run(
    *argv: str,
    user: str | None = None,
    code: int | None = 0,
    timeout_s: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command, as `user` when given; StepError unless it ends with `code` (None: any)."""
    command = [*(("runuser", "-u", user, "--") if user else ()), *argv]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=env,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StepError(f"{' '.join(argv)}: no end after {timeout_s:g} s") from None
    if code is not None and done.returncode != code:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise StepError(f"{' '.join(argv)}: exit {done.returncode}, not {code}\n{tail}")
    return done


def ask(
    command: str, *, user: str | None = None, wait_s: int = 10, options: Sequence[str] = ()
) -> Answer:
    """Return the client's JSON answer to `command`."""
    argv = ("tychoctl", *options, command, "-o", "json", "--wait", str(wait_s))
    answer: Answer = json.loads(run(*argv, user=user, timeout_s=wait_s + 20).stdout)
    return answer


def ask_pair() -> tuple[Answer, Answer]:
    """Return `node` and `workloads` of one and the same window."""

    def same_window() -> tuple[Answer, Answer] | None:
        node, workloads = ask("node"), ask("workloads")
        return (node, workloads) if node["sequence"] == workloads["sequence"] else None

    return wait_until("node and workloads of one window", same_window, 20)


class Watch:
    """Follows a command's answers, one a window, in a block."""

    def __init__(self, command: str) -> None:
        """`command` is one of the client's that can watch."""
        argv = ("tychoctl", command, "-w", "-o", "json", "--wait", "20")
        self.answers: list[tuple[float, Answer]] = []  # seconds since 1970 when it came, answer
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        wait_until("the first answer", lambda: self.answers, 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _follow(self) -> None:
        for line in self._process.stdout or ():
            self.answers.append((time.time(), json.loads(line)))


def wait_until(
    what: str, test: Callable[[], T | None], timeout_s: float, pause_s: float = 0.1
) -> T:
    """Return the first true answer of `test`; StepError when there is none in time."""
    end_s = time.monotonic() + timeout_s
    while True:
        found = test()
        if found:
            return found
        if time.monotonic() > end_s:
            raise StepError(f"{what}: not within {timeout_s:g} s")
        time.sleep(pause_s)


def unit_property(name: str, unit: str = UNIT) -> str:
    """Return a property of a unit as systemd knows it now."""
    return run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()


def main_pid() -> int:
    """Return the daemon's process id, 0 when it does not run."""
    return int(unit_property("MainPID"))


def start() -> None:
    """Start the daemon; forgets earlier starts, so that a long test is not taken for a loop."""
    run("systemctl", "reset-failed", UNIT, code=None)
    run("systemctl", "start", UNIT)


def restart() -> None:
    """Restart the daemon, or start it."""
    run("systemctl", "reset-failed", UNIT, code=None)
    run("systemctl", "restart", UNIT)


def ensure_running() -> None:
    """Leave the daemon running, whatever an earlier step did."""
    if unit_property("ActiveState") != "active":
        start()


def wait_for_window(after: int = 0, timeout_s: float = 30) -> Answer:
    """Return `node` of the first window with a higher sequence than `after`."""

    def newer() -> Answer | None:
        done = run("tychoctl", "node", "-o", "json", "--wait", "10", code=None)
        node: Answer = json.loads(done.stdout) if done.returncode == 0 else {"sequence": -1}
        return node if node["sequence"] > after else None

    return wait_until(f"a window after sequence {after}", newer, timeout_s)


def set_drop_in(name: str, text: str | None, unit: str = UNIT) -> None:
    """Write a drop-in for a unit that lasts until it is removed (None)."""
    directory = DROP_INS / f"{unit}.d"
    path = directory / f"{name}.conf"
    if text is None:
        path.unlink(missing_ok=True)
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
    else:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    run("systemctl", "daemon-reload")


def journal(since: str = "", *matches: str, unit: str = UNIT) -> list[Answer]:
    """Return a unit's journal since a cursor of `journal_cursor` ("": all of it)."""
    # systemd 252: --after-cursor= drops the first match when the entry of the cursor is none.
    after = (f"--cursor={since}",) if since else ()
    run("journalctl", "--sync")
    argv = ("journalctl", "--unit", unit, "--output", "json", "--all", *after, *matches)
    entries = map(json.loads, run(*argv).stdout.splitlines())
    return [entry for entry in entries if entry["__CURSOR"] != since]


def journal_cursor() -> str:
    """Return the place in the journal that is now its end."""
    run("journalctl", "--sync")
    return str(json.loads(run("journalctl", "-n", "1", "-o", "json").stdout)["__CURSOR"])


def messages(entries: Sequence[Answer]) -> str:
    """Return the text of journal entries, one a line."""
    return "\n".join(str(entry.get("MESSAGE", "")) for entry in entries)


def time_s(rfc3339: str) -> float:
    """Return a time of an answer as seconds since 1970."""
    return datetime.fromisoformat(rfc3339).timestamp()


def process_status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status as a map."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def require_refused(user: str, *argv: str) -> None:
    """StepError unless the kernel refuses the command to `user`."""
    done = run(*argv, user=user, code=None, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin:/usr/sbin"})
    refused = done.returncode != 0 and "Permission denied" in done.stderr
    require(refused, f"{user} may run {' '.join(argv)}: exit {done.returncode} {done.stderr}")

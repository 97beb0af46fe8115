"""Programs that the doctor asks: they end with it, and a busy machine is not taken for a hang."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tychod.doctor import children

ROOT = Path(__file__).resolve().parents[2]


def parent_of(program: str) -> str:
    """Return a program that asks another in a daemon thread and ends before it has an answer."""
    lines = (
        "import sys, threading, time, pathlib",
        "sys.path.insert(0, sys.argv[1])",
        "from tychod.doctor.children import ask",
        f"thread = threading.Thread(target=lambda: ask({program}, 9.0), daemon=True)",
        "thread.start()",
        "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.005)",
    )
    return "\n".join(lines)


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; whoever adopted it may not have collected it yet."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


def test_what_hangs_ends_with_the_doctor(tmp_path: Path) -> None:
    """The doctor ends at its deadline with its threads running: no program of theirs stays."""
    told = tmp_path / "pid"
    hang = ["sh", "-c", f"echo $$ > {told}.new; mv {told}.new {told}; exec sleep 20"]
    subprocess.run([sys.executable, "-c", parent_of(repr(hang)), ROOT, told], check=True)
    pid = int(told.read_text())

    deadline_s = time.monotonic() + 2.0
    while not is_gone(pid) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    gone = is_gone(pid)
    if not gone:
        os.kill(pid, signal.SIGKILL)

    assert gone


def test_an_answer_and_a_status_come_back() -> None:
    """What is told goes in, what is answered comes out."""
    assert children.ask(["sh", "-c", "cat; exit 3"], 5.0, b"text") == (3, b"text")


def test_one_that_is_late_is_killed_and_its_own_time_told() -> None:
    """Waiting for nobody's CPU, all of its time was its own."""
    with pytest.raises(children.Late) as caught:
        children.ask(["sleep", "20"], 0.2)

    assert caught.value.own_s > 0.0
    assert caught.value.timeout == 0.2


def test_where_nobody_knows_of_waiting_none_is_told() -> None:
    """A process that is gone, or a kernel without these figures, waited for no CPU."""
    assert children.waited_for_cpu_s(f"{os.getpid()}/no") == 0.0
    assert children.waited_for_cpu_s(os.getpid()) >= 0.0

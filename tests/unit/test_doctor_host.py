"""`tychoctl doctor` and the process that looks at the host: what came counts, no end is waited for.

The processes here are real ones that stand in for `tychod --doctor` in each way of going wrong.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tychoctl import doctor_host
from tychoctl.doctor_host import Half, read_host
from tychoctl.doctor_view import Check

KERNEL = Check("kernel", "Kernel", "machine", "ok", "Linux 6.1.0 on x86_64")
CLOCK = Check("clock", "Clock", "machine", "ok", "tsc")
WHOLE = json.dumps({"schema": 1, "checks": [KERNEL._asdict(), CLOCK._asdict()]})
ONE = json.dumps({"check": KERNEL._asdict()})
SPIN = "i=0; while [ $i -lt {} ]; do i=$((i+1)); done"
"""The shell counts about a million in a second."""


class Started:
    """Starts such processes, and ends them and all that they left behind."""

    def __init__(self) -> None:
        self._halves: list[Half] = []

    def half(self, script: str, ago_s: float) -> Half:
        """Start a script as if the client had begun ``ago_s`` seconds ago."""
        errors = os.memfd_create("errors")
        child = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        self._halves.append(Half(child, time.monotonic() - ago_s, errors))
        return self._halves[-1]

    def end(self) -> None:
        """Kill every group that was started."""
        for child, _, errors in self._halves:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            os.close(errors)


@pytest.fixture
def started() -> Iterator[Started]:
    """Processes that end with the test."""
    found = Started()
    yield found
    found.end()


def test_whole_checks_are_enough(started: Started) -> None:
    """A thread in the kernel holds the process and its output open: nobody waits for their end."""
    half = started.half(f"echo '{WHOLE}'; sleep 30", 0.0)

    assert read_host(half) == [KERNEL, CLOCK]
    assert half.child.poll() is None


def test_a_process_that_ends_is_waited_for(started: Started) -> None:
    """Its time counts as the client's, and it is not left to somebody else to be reaped."""
    half = started.half(f"echo '{WHOLE}'; exit 1", 0.0)

    assert read_host(half) == [KERNEL, CLOCK]
    assert half.child.returncode == 1


def test_a_process_that_cannot_end_is_left_behind(started: Started) -> None:
    """Its output stays open after the kill, as that of a process in D state would."""
    half = started.half("(trap '' TERM; sleep 30) & exec sleep 30", doctor_host.GRACE_S)

    assert [(c.id, c.state) for c in read_host(half)] == [("host", "fail")]
    os.killpg(half.child.pid, 0)  # what holds the output lives on: ProcessLookupError if not


def test_the_checks_that_came_are_kept(started: Started) -> None:
    """Where it hangs half way the checks so far are told, and that the rest is not."""
    half = started.half(f"echo '{ONE}'; sleep 30", doctor_host.GRACE_S)

    kernel, host = read_host(half)

    assert kernel == KERNEL
    assert (host.id, host.state) == ("host", "fail")
    assert "after 1 check" in host.evidence


def test_a_busy_process_has_more_time(started: Started) -> None:
    """On a machine with no time for it, it stands in line or runs: no check is lost."""
    half = started.half(f"{SPIN.format(400_000)}; echo '{WHOLE}'", doctor_host.GRACE_S)

    assert read_host(half) == [KERNEL, CLOCK]


def test_what_began_late_may_end_late(started: Started) -> None:
    """Its own deadline counts, which is later where it was slow to start."""
    until_s = time.monotonic() + 1.0
    script = f"""echo '{{"deadline": {until_s}}}'; sleep 0.9; echo '{WHOLE}'"""

    assert read_host(started.half(script, doctor_host.GRACE_S)) == [KERNEL, CLOCK]


def test_nothing_runs_for_ever(started: Started) -> None:
    """A process that only uses CPU time is given up, and ended."""
    half = started.half("while :; do :; done", doctor_host.HOST_S)

    assert [c.id for c in read_host(half)] == ["host"]
    assert half.child.wait(10.0) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo Traceback >&2; echo No module named numpy >&2; exit 1", "No module named numpy"),
        ("exit 3", "tychod --doctor ended with status 3"),
        ("echo '[1]'; echo '{\"checks\": 4}'; echo '{\"deadline\": []}'; exit 3", "status 3"),
        ('echo \'{"check": {"id": "kernel"}}\'; exit 3', "status 3"),
    ],
)
def test_what_ends_without_checks_says_why(started: Started, script: str, told: str) -> None:
    """The last line of its standard error, else its status; lines of another shape are no check."""
    (host,) = read_host(started.half(script, 0.0))

    assert told in host.evidence

"""Checks of the daemon's life: hanging, starting on demand, stopping."""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.e2e.inside.energy import counters_of, require_no_loss
from tests.e2e.inside.machine import (
    UNIT,
    ask_pair,
    ensure_running,
    journal,
    journal_cursor,
    main_pid,
    messages,
    run,
    start,
    unit_property,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import Scene, describe
from tests.e2e.steps import StepError, require

STATE: Final = "/var/lib/tychod"
SOCKET: Final = Path("/run/tychod/tychod.sock")
SOCKET_UNIT: Final = "tychod.socket"
STOP_LIMIT_S: Final = 2.0

# linux/fanotify.h
FAN_CLASS_CONTENT: Final = 0x4
FAN_CLOEXEC: Final = 0x1
FAN_MARK_ADD: Final = 0x1
FAN_OPEN_PERM: Final = 0x10000
FAN_EVENT_ON_CHILD: Final = 0x08000000
AT_FDCWD: Final = -100


@contextmanager
def opens_that_hang(directory: str) -> Iterator[None]:
    """Make every open() of a file in `directory` wait: the kernel asks us, and we do not answer."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, os.O_RDONLY)
    mask = ctypes.c_uint64(FAN_OPEN_PERM | FAN_EVENT_ON_CHILD)
    if fd < 0 or libc.fanotify_mark(fd, FAN_MARK_ADD, mask, AT_FDCWD, directory.encode()) < 0:
        raise StepError(f"fanotify: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        os.close(fd)


def hang_is_ended_by_the_watchdog(_: Scene) -> str:
    """When analysis hangs, the watchdog ends it, the stack is in the journal, and it comes back."""
    ensure_running()
    wait_for_window(wait_for_window()["sequence"])
    before = counters_of(*ask_pair())
    pid, restarts, cursor = main_pid(), int(unit_property("NRestarts")), journal_cursor()
    began_s = time.monotonic()
    with opens_that_hang(STATE):
        wait_until("the watchdog ends it", lambda: main_pid() != pid, 45)
        hung_s = time.monotonic() - began_s
    wait_until("restarted", lambda: int(unit_property("NRestarts")) > restarts, 20)
    wait_until("active again", lambda: unit_property("ActiveState") == "active", 30)
    text = messages(journal(cursor))
    require("Watchdog timeout" in text, f"systemd tells of no watchdog:\n{text}")
    require("Fatal Python error: Aborted" in text, f"no Python stack in the journal:\n{text}")
    stack = [line.strip() for line in text.splitlines() if "/usr/lib/tychod/" in line]
    require(any("store.py" in line for line in stack), f"the stack shows no hang:\n{text}")
    sequence = wait_for_window()["sequence"]
    wait_for_window(sequence)
    require_no_loss(before, counters_of(*ask_pair()))
    return f"ended after {hung_s:.1f} s, {len(stack)} frames in the journal"


def starts_on_demand(scene: Scene) -> str:
    """With tychod.socket a question starts the daemon, and the socket outlives it."""
    run("systemctl", "stop", UNIT)
    run("systemctl", "start", SOCKET_UNIT)
    try:
        require(unit_property("ActiveState") == "inactive", "the daemon runs without a question")
        require(describe(SOCKET) == "0660 tychod:tychod", f"the socket is {describe(SOCKET)}")
        run("systemctl", "reset-failed", UNIT, code=None)
        began_s = time.monotonic()
        run("tychoctl", "status", user=scene.member)
        answered_s = time.monotonic() - began_s
        require(unit_property("ActiveState") == "active", "the question did not start the daemon")
        run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", UNIT)
        wait_until("it comes back", lambda: unit_property("NRestarts") != "0", 15)
        run("tychoctl", "status", user=scene.member)
        run("systemctl", "stop", SOCKET_UNIT, UNIT)
        require(not SOCKET.exists(), "the socket outlives its unit")
    finally:
        run("systemctl", "stop", SOCKET_UNIT, UNIT)
        start()
    run("tychoctl", "status", user=scene.member)
    return f"answer after {answered_s:.2f} s"


def stop_is_clean(_: Scene) -> str:
    """`systemctl stop` takes under 2 s, loses nothing, and the client says what to do: 5."""
    ensure_running()
    wait_for_window(wait_for_window()["sequence"])
    before = counters_of(*ask_pair())
    began_s = time.monotonic()
    run("systemctl", "stop", UNIT)
    stopped_s = time.monotonic() - began_s
    require(stopped_s < STOP_LIMIT_S, f"took {stopped_s:.2f} s")
    found = {name: unit_property(name) for name in ("ActiveState", "Result", "ExecMainStatus")}
    wanted = {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    require(found == wanted, f"the unit is {found}")
    require(not SOCKET.exists(), "the socket is still there")
    done = run("tychoctl", "node", code=5)
    require("systemctl start tychod" in done.stderr, f"the client says: {done.stderr}")
    start()
    wait_for_window()
    require_no_loss(before, counters_of(*ask_pair()))
    return f"stopped in {stopped_s:.2f} s, limit {STOP_LIMIT_S:g} s"

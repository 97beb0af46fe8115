"""Checks of the kernel accounting: who may attach it, what outlives what, no time is lost."""

import json
import re
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from tests.e2e.inside.burner import Burner, Burnt, find_leaf, require_all_counted
from tests.e2e.inside.machine import (
    UNIT,
    Answer,
    ask,
    ensure_running,
    journal,
    journal_cursor,
    main_pid,
    messages,
    process_status,
    require_refused,
    restart,
    run,
    set_drop_in,
    unit_property,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.package import APT, APT_ENV
from tests.e2e.inside.scene import PINS, Scene, describe
from tests.e2e.steps import require

LOADER: Final = "tychod-bpf.service"
CAP_PERFMON, CAP_BPF = 38, 39
TWO: Final = 1 << CAP_PERFMON | 1 << CAP_BPF
OWN: Final = PINS / "tychod"
DETACHED: Final = "CPU time while accounting was detached"
SHOW_CAPABILITIES: Final = "[Service]\nExecStartPost=/bin/grep ^Cap /proc/self/status\n"
NO_PERFMON: Final = (
    "[Service]\nAmbientCapabilities=\nAmbientCapabilities=CAP_BPF\n"
    "CapabilityBoundingSet=\nCapabilityBoundingSet=CAP_BPF\n"
)


class Attached(NamedTuple):
    """What `tychod-load status` tells."""

    stamp: str
    abi: int


def attached() -> Attached:
    """Return what is attached now; StepError when nothing is."""
    state = json.loads(run("tychod-load", "status", "--json").stdout)
    return Attached(str(state["stamp"]), int(state["abi"]))


def accounting() -> Answer:
    """Return what the daemon says of its accounting."""
    answer: Answer = ask("status")["accounting"]
    return answer


def wait_for_method(prefix: str) -> str:
    """Wait until the daemon accounts by a method that begins with `prefix`; return its reason."""

    def found() -> str | None:
        shown = accounting()
        return f"{shown['reason']}" if shown["method"].startswith(prefix) else None

    return wait_until(f"accounting by {prefix}", found, 20, 0.3)


def loader_has_two_capabilities(_: Scene) -> str:
    """The loader runs as its own user with CAP_BPF and CAP_PERFMON, and leaves no process."""
    set_drop_in("capabilities", SHOW_CAPABILITIES, LOADER)
    cursor = journal_cursor()
    try:
        run("systemctl", "restart", LOADER)
        text = messages(journal(cursor, unit=LOADER))
    finally:
        set_drop_in("capabilities", None, LOADER)
    held = {kind: int(mask, 16) for kind, mask in re.findall(r"(Cap\w+):\s*([0-9a-f]+)", text)}
    require(held, f"no capabilities in the journal:\n{text}")
    for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        require(held[kind] == TWO, f"{kind} is {held[kind]:#x}")
    state = {name: unit_property(name, LOADER) for name in ("ActiveState", "SubState", "MainPID")}
    wanted = {"ActiveState": "active", "SubState": "exited", "MainPID": "0"}
    require(state == wanted, f"the loader's unit is {state}")
    users = run("ps", "-eo", "user:32=,args=").stdout
    left = [line for line in users.splitlines() if line.startswith("tychod-bpf")]
    require(not left, f"processes of the loader are left: {left}")
    return f"user {unit_property('User', LOADER)}, {held['CapEff']:#x}"


def pins_are_for_the_group(scene: Scene) -> str:
    """Maps are 0660 and directories 2750 of the group tychod-data; links are the loader's alone."""
    wait_for_method("bpf-core")
    versions = [OWN, *(path for path in OWN.iterdir() if path.is_dir())]
    modes = {describe(path) for path in versions}
    require(modes == {"2750 tychod-bpf:tychod-data"}, f"directories are {modes}")
    pins = [path for path in OWN.rglob("*") if not path.is_dir()]
    shared = [path for path in pins if path.stat().st_mode & 0o077]
    require({describe(path) for path in shared} == {"0660 tychod-bpf:tychod-data"}, str(shared))
    names = {path.name for path in shared}
    require({"ty_ctl", "ty_cpu", "ty_total"} <= names < {path.name for path in pins}, str(names))
    for user in (scene.member, scene.stranger):
        require_refused(user, "ls", str(OWN))
        run("tychod-load", "status", user=user, code=1)
    return f"{len(shared)} maps, {len(pins) - len(shared)} links"


def daemon_counts_in_the_kernel(_: Scene) -> str:
    """`tychoctl status` says bpf-core and why; the daemon has no capability that BPF asks for."""
    ensure_running()
    reason = wait_for_method("bpf-core")
    require(reason, "no reason")
    held = int(process_status(main_pid())["CapBnd"], 16)
    require(not held & TWO, f"the daemon may hold {held:#x}")
    listed = unit_property("AmbientCapabilities") + unit_property("CapabilityBoundingSet")
    require("bpf" not in listed and "perfmon" not in listed, f"its unit lists {listed}")
    shown = run("tychoctl", "status").stdout
    line = next((line for line in shown.splitlines() if "bpf-core" in line), "")
    require(line, f"tychoctl status shows:\n{shown}")
    return " ".join(line.split())


def restart_keeps_the_stamp(_: Scene) -> str:
    """Restarting the daemon leaves the kernel's account as it is."""
    ensure_running()
    before = attached()
    restart()
    wait_for_method("bpf-core")
    require(attached() == before, f"{before}, then {attached()}")
    return f"stamp {before.stamp}"


def kill_loses_no_cpu_time(scene: Scene) -> str:
    """kill -9 of the daemon in the middle of load: the leaf has all CPU time of its cgroup."""
    ensure_running()
    wait_for_method("bpf-core")

    def kill(_: Burner) -> None:
        pid = main_pid()
        run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", UNIT)
        wait_until("a new daemon", lambda: main_pid() not in (0, pid), 20)
        wait_for_method("bpf-core")

    return require_all_counted(burn_through(scene, "kill", kill))


def upgrade_keeps_the_account(scene: Scene) -> str:
    """A package upgrade with the same layout keeps stamp and counters, under load."""
    ensure_running()
    before = attached()

    def upgrade(_: Burner) -> None:
        run(*APT, "--reinstall", scene.package("next/tychod_*.deb"), timeout_s=120, env=APT_ENV)
        wait_for_method("bpf-core")

    burnt = burn_through(scene, "upgrade", upgrade)
    require(attached() == before, f"{before}, then {attached()}")
    return f"stamp {before.stamp}, {require_all_counted(burnt)}"


def new_layout_replaces_the_old(scene: Scene) -> str:
    """An upgrade to another layout loses what ran between stop and attach at most, and says so."""
    ensure_running()
    before, since = attached(), journal_cursor()
    irq = [(0.0, 0.0)]

    def upgrade(burner: Burner) -> None:
        irq.append((time.monotonic(), burner.irq_s()))  # the old maps' is gone afterwards
        run(*APT, scene.package("abi/tychod_*.deb"), timeout_s=120, env=APT_ENV)
        wait_until("unattributed time with its reason", lambda: DETACHED in reason(), 20)

    burnt = burn_through(scene, "abi", upgrade)
    require_replaced(before, attached())
    stop_s, (began_s, ended_s) = stopping_at(since), reload_times(since)
    require(stop_s < began_s, "the daemon was not stopped before its maps were replaced")
    read_s, irq_s = irq[-1]
    missing_s = burnt.witness_s - burnt.counted_s - irq_s
    # The daemon saves what the old maps have when it stops; nobody can read them later. And irq
    # time of the old maps between our look at them and their end.
    lost_s = (ended_s - stop_s) * burnt.rate
    lost_s += irq_s / burnt.witness_s * (ended_s - read_s)
    text = f"{missing_s * 1e3:.1f} ms of {burnt.witness_s:.2f} s are not the leaf's"
    most_s = lost_s + burnt.tolerance_s
    require(missing_s <= most_s, f"{text}, more than {most_s * 1e3:.1f} ms")
    require(missing_s >= -burnt.tolerance_s, f"{text}: counted twice")
    require(burnt.unattributed_s >= missing_s, f"{text}, unattributed {burnt.unattributed_s:.3f} s")
    return f"{text}, {(ended_s - stop_s) * 1e3:.0f} ms from stop to attached"


def reason() -> str:
    """Return why the last window has CPU time or energy of nobody."""
    return str(find_leaf("unattributed")["reason"])


def require_replaced(before: Attached, after: Attached) -> None:
    """StepError unless maps of the next layout are there, and none of another."""
    require(after.abi == before.abi + 1, f"{before}, then {after}")
    require(after.stamp != before.stamp, "maps of another layout have the same stamp")
    names = [path.name for path in OWN.iterdir()]
    require(names == [f"v{after.abi}"], f"pinned: {names}")


def stopping_at(since: str) -> float:
    """Return when the daemon was asked to stop (CLOCK_MONOTONIC), by systemd's journal."""
    entries = journal(since, unit=UNIT)
    found = [e for e in entries if str(e.get("MESSAGE", "")).startswith("Stopping ")]
    require(found, f"the daemon was not stopped:\n{messages(entries)}")
    return int(str(found[0]["__MONOTONIC_TIMESTAMP"])) / 1e6


def reload_times(since: str) -> tuple[float, float]:
    """Return when the loader's reload began and ended (CLOCK_MONOTONIC), by systemd's journal."""
    entries = journal(since, unit=LOADER)
    at_s = {
        word: int(str(entry["__MONOTONIC_TIMESTAMP"])) / 1e6
        for entry in entries
        for word in ("Reloading ", "Reloaded ")
        if str(entry.get("MESSAGE", "")).startswith(word)
    }
    require(len(at_s) == 2, f"no reload in the journal:\n{messages(entries)}")
    return at_s["Reloading "], at_s["Reloaded "]


def burn_through(scene: Scene, name: str, event: Callable[[Burner], None]) -> Burnt:
    """Run a load through an event; return what was used and what was counted."""
    burner = Burner(scene, name)
    try:
        wait_for_window(wait_for_window()["sequence"])
        event(burner)
        wait_for_window(wait_for_window()["sequence"])
        return burner.finish()
    finally:
        burner.remove()


def stopped_loader_is_told(_: Scene) -> str:
    """Without the loader the daemon reads cgroup files and says why; started, it comes back."""
    ensure_running()
    wait_for_method("bpf-core")
    pid = main_pid()
    run("systemctl", "stop", LOADER)
    try:
        left = [str(path) for path in OWN.rglob("*")]
        require(not left, f"pins are left: {left}")
        reason = wait_for_method("cgroup-")
        require("tychod-bpf" in reason, f"the reason does not say what to do: {reason}")
        wait_for_window(wait_for_window()["sequence"])
    finally:
        run("systemctl", "start", LOADER)
    wait_for_method("bpf-core")
    require(main_pid() == pid, "the daemon was restarted")
    return reason


def missing_capability_is_told(_: Scene) -> str:
    """Without CAP_PERFMON nothing is attached; loader and daemon say so, and what to do."""
    ensure_running()
    run("systemctl", "stop", LOADER)
    set_drop_in("no-perfmon", NO_PERFMON, LOADER)
    cursor = journal_cursor()
    try:
        done = run("systemctl", "start", LOADER, code=None)
        require(done.returncode != 0, "it attached without CAP_PERFMON")
        text = messages(journal(cursor, unit=LOADER))
        require("CAP_PERFMON" in text, f"the loader's journal says:\n{text}")
        reason = wait_for_method("cgroup-")
        restart()
        reason = wait_for_method("cgroup-")
        require("CAP_PERFMON" in reason, f"the daemon gives as reason: {reason}")
    finally:
        set_drop_in("no-perfmon", None, LOADER)
        run("systemctl", "reset-failed", LOADER, code=None)
        run("systemctl", "start", LOADER)
    wait_for_method("bpf-core")
    return reason


def missing_file_system_is_told(_: Scene) -> str:
    """Without a BPF file system loader and daemon say so, and the command that mounts one."""
    ensure_running()
    run("systemctl", "stop", LOADER)
    cursor = journal_cursor()
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "none", str(PINS))  # hides it
    try:
        done = run("systemctl", "start", LOADER, code=None)
        require(done.returncode != 0, "it attached without a BPF file system")
        text = messages(journal(cursor, unit=LOADER))
        require("mount -t bpf" in text, f"the loader's journal says:\n{text}")
        restart()
        reason = wait_for_method("cgroup-")
        require("mount -t bpf" in reason, f"the daemon gives as reason: {reason}")
    finally:
        run("umount", str(PINS))
        run("systemctl", "reset-failed", LOADER, code=None)
        run("systemctl", "restart", LOADER)
        restart()
    wait_for_method("bpf-core")
    return reason


def rpm_upgrade_keeps_the_account(scene: Scene) -> str:
    """An RPM upgrade with the same layout keeps the stamp; the daemon goes on with it."""
    ensure_running()
    wait_for_method("bpf-core")
    before = attached()
    pid = main_pid()
    package = scene.package("first/tychod-*.rpm")
    run("rpm", "--upgrade", "--force", "--nodeps", "--force-debian", package, timeout_s=120)
    wait_until("a new daemon", lambda: main_pid() not in (0, pid), 20)
    wait_for_method("bpf-core")
    require(attached() == before, f"{before}, then {attached()}")
    return f"stamp {before.stamp}"

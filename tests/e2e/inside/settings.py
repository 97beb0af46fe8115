"""Checks of settings that are wrong, at start and at reload."""

from pathlib import Path
from typing import Final

from tests.e2e.inside.machine import (
    UNIT,
    Answer,
    ask,
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
from tests.e2e.inside.scene import Scene
from tests.e2e.steps import require

DROP: Final = Path("/etc/tychod/conf.d/99-e2e.toml")
WRONG: Final = '[rapl]\nintervall = 0.05\n[log]\nlevel = "loud"\n'


def bad_settings_do_not_start(_: Scene) -> str:
    """Wrong settings: the unit fails at once, every reason in the journal; mended, it starts."""
    ensure_running()
    cursor = journal_cursor()
    DROP.write_text(WRONG, encoding="utf-8")
    try:
        run("systemctl", "reset-failed", UNIT, code=None)
        done = run("systemctl", "restart", UNIT, code=None)
        require(done.returncode != 0, "it started with wrong settings")
        found = {
            name: unit_property(name)
            for name in ("ActiveState", "NRestarts", "ExecMainStatus", "Result")
        }
        wanted = {
            "ActiveState": "failed", "NRestarts": "0", "ExecMainStatus": "2", "Result": "exit-code"
        }  # fmt: skip
        require(found == wanted, f"the unit is {found}")
        text = messages(journal(cursor))
        for part in ("intervall", "rapl.interval", "99-e2e.toml", "log.level", "loud"):
            require(part in text, f"the journal does not mention {part}:\n{text}")
        run("tychoctl", "status", code=5)
    finally:
        DROP.unlink()
    start()
    require(unit_property("ActiveState") == "active", "mended settings do not start")
    return next(line for line in text.splitlines() if "intervall" in line)


def good_reload_takes_over(_: Scene) -> str:
    """A reload takes over what can change while it runs, in the same process."""
    ensure_running()
    pid = main_pid()
    DROP.write_text('[log]\nlevel = "debug"\n[window]\nlength = 4.0\n', encoding="utf-8")
    try:
        cursor = journal_cursor()
        run("systemctl", "reload", UNIT)
        wait_until("log.level is debug", lambda: setting("log.level") == "debug", 10)
        log = wait_until("the log tells of the reload", lambda: reload_lines(cursor), 10)
        require("window.length" in log, f"the log names no setting that needs a restart:\n{log}")
    finally:
        DROP.unlink()
    run("systemctl", "reload", UNIT)
    wait_until("log.level is info again", lambda: setting("log.level") == "info", 10)
    require(main_pid() == pid, "a reload started a new process")
    require(unit_property("ActiveState") == "active", "not active after the reload")
    return log.splitlines()[0]


def setting(key: str) -> object:
    """Return the value that the daemon gives for a setting."""
    for row in ask("config")["config"]:
        if row["key"] == key:
            return row["value"]
    return None


def reload_lines(cursor: str) -> str:
    """Return the journal's lines since a cursor that are about settings."""
    lines = messages(journal(cursor)).splitlines()
    return "\n".join(line for line in lines if "restart" in line or "window.length" in line)


def bad_reload_changes_nothing(_: Scene) -> str:
    """A reload with wrong settings changes nothing, and is shown until the next good one."""
    ensure_running()
    pid, sequence = main_pid(), wait_for_window()["sequence"]
    cursor = journal_cursor()
    DROP.write_text(WRONG, encoding="utf-8")
    try:
        run("systemctl", "reload", UNIT)
        rejected = wait_until("status shows the rejection", rejection, 10)
        text = unit_property("StatusText")
        require(text.startswith("configuration rejected: "), f"STATUS={text}")
        require("intervall" in messages(journal(cursor)), "the journal does not say why")
        shown = run("tychoctl", "status").stdout
        require("intervall" in shown, f"tychoctl status does not show it:\n{shown}")
        wait_for_window(sequence + 1)
        require(rejection(), "the rejection went away by itself")
    finally:
        DROP.unlink()
    run("systemctl", "reload", UNIT)
    wait_until("the rejection is gone", lambda: not rejection(), 10)
    require("rejected" not in unit_property("StatusText"), "STATUS= still tells of the rejection")
    require(main_pid() == pid, "the process changed")
    return rejected.splitlines()[0]


def rejection() -> str | None:
    """Return why the last reload was refused, as `status` tells it."""
    status: Answer = ask("status")
    rejected: str | None = status["config_rejected"]
    return rejected

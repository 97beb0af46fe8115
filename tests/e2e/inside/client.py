"""Checks of what comes along with tychoctl: pages, completion, the live view, doctor, report."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tests.e2e.inside.machine import (
    Answer,
    ensure_running,
    main_pid,
    require_refused,
    restart,
    run,
    start,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import Scene, describe
from tests.e2e.inside.settings import DROP, WRONG
from tests.e2e.steps import SkippedError, require

PAGES: Final = ("tychoctl.1", "tychod.toml.5", "tychod.8", "tychod-load.8")
BASH: Final = "/usr/share/bash-completion/completions/tychoctl"
ZSH: Final = "/usr/share/zsh/vendor-completions/_tychoctl"
# Completes the words after the first argument (the script) as bash does at a press of the key.
PRESS: Final = """
. "$1"; shift
function=$(complete -p tychoctl); function=${function##*-F }; function=${function%% *}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
"$function" tychoctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
HISTORY: Final = Path("/var/lib/tychod/history")
SIZES: Final = ((80, 24), (200, 50))


def require_program(name: str) -> None:
    """SkippedError unless a program is on this machine."""
    if not shutil.which(name):
        raise SkippedError(f"{name} is not on this machine")


def pages_are_clean(scene: Scene) -> str:
    """Every page of the package is found by its name, and formatted without a warning.

    They are taken from the package: machines of these checks may leave out all documentation.
    """
    require_program("man")
    package, place = scene.package("first/tychod_*.deb"), scene.directory / "pages"
    place.mkdir()
    run("sh", "-c", f"dpkg-deb --fsys-tarfile {package} | tar -C {place} -xf - ./usr/share/man")
    pages = place / "usr/share/man"
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"}
    env["MANPATH"] = str(pages)
    for page in PAGES:
        name, _dot, section = page.rpartition(".")
        path = str(pages / f"man{section}" / f"{page}.gz")
        done = run("man", "--warnings", "-l", path, env=env)
        require(not done.stderr.strip(), f"{page}: {done.stderr[:1000]}")
        require(len(done.stdout.splitlines()) > 20, f"{page} is short:\n{done.stdout}")
        found = run("man", "--where", section, name, env=env).stdout.strip()
        require(found == path, f"man finds {found} as {name}({section})")
    return ", ".join(PAGES)


def completion_works(scene: Scene) -> str:
    """bash completes commands, options and the names of what runs; zsh takes its script."""
    ensure_running()
    wait_for_window()
    press = partial(run, "bash", "--norc", "-c", PRESS, "bash", BASH)
    commands = press("tychoctl", "").stdout.split()
    for one in ("status", "pods", "doctor", "report", "metrics"):
        require(one in commands, f"{one} is not among {commands}")
    options = press("tychoctl", "pods", "--").stdout.split()
    require("--namespace" in " ".join(options), f"options of pods: {options}")
    spaces = press("tychoctl", "pods", "-n", "").stdout.split()
    wanted = {pod.namespace for pod in scene.pods}
    require(wanted <= set(spaces), f"namespaces: {spaces}")
    note = f"{len(commands)} commands, {len(spaces)} namespaces in bash"
    if not shutil.which("zsh"):
        return f"{note}; zsh: SKIPPED, it is not on this machine"
    script = (
        "autoload -Uz compinit && compinit -D -u && whence -v _tychoctl && print $_comps[tychoctl]"
    )
    told = run("zsh", "-f", "-c", script, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    require("_tychoctl" in told.stdout.splitlines()[-1], told.stdout + told.stderr)
    run("zsh", "-f", "-n", ZSH)
    return f"{note}; zsh has it"


class Terminal:
    """A shell in a real terminal, which tmux keeps."""

    def __init__(self, scene: Scene, size: tuple[int, int]) -> None:
        name = f"{scene.name}-{size[0]}"  # a server of its own: one that ends takes no new session
        self._tmux = ("tmux", "-L", name, "-f", "/dev/null")
        columns, lines = map(str, size)
        run(*self._tmux, "new-session", "-d", "-x", columns, "-y", lines, "env PS1='> ' sh")

    def type(self, *keys: str) -> None:
        """Press keys, as tmux calls them."""
        run(*self._tmux, "send-keys", *keys)

    def text(self) -> str:
        """Return what stands on the screen."""
        return run(*self._tmux, "capture-pane", "-p").stdout

    def state(self) -> str:
        """Return whether the other screen is shown, the cursor, and who reports the mouse."""
        form = "#{alternate_on} #{cursor_flag} #{mouse_any_flag} #{bracket_paste_flag}"
        return run(*self._tmux, "display-message", "-p", form).stdout.strip()

    def end(self) -> None:
        """End the shell and what runs in it."""
        run(*self._tmux, "kill-server", code=None)


@contextmanager
def terminal(scene: Scene, size: tuple[int, int]) -> Iterator[Terminal]:
    """Open a terminal for the block."""
    one = Terminal(scene, size)
    try:
        yield one
    finally:
        one.end()


def top_leaves_a_clean_terminal(scene: Scene) -> str:
    """The live view shows the pods on narrow and wide terminals, and leaves them as they were."""
    require_program("tmux")
    ensure_running()
    wait_for_window()
    tried = []
    for size, key in zip(SIZES, ("q", "C-c"), strict=True):
        with terminal(scene, size) as one:
            _look_and_leave(scene, one, size, key)
        tried.append(f"{key} at {size[0]} columns")
    return ", ".join(tried)


def _look_and_leave(scene: Scene, one: Terminal, size: tuple[int, int], key: str) -> None:
    """StepError unless `tychoctl top` shows a pod, and `key` leaves the terminal as it was."""
    before, state = _settings_of(scene, one, "before"), one.state()
    one.type("tychoctl top", "Enter")
    pod = scene.pods[0].name[:12]
    wait_until("a pod on the screen", lambda: pod in one.text(), 20, pause_s=0.5)
    require(max(map(len, one.text().splitlines())) <= size[0], f"lines wider than {size[0]}")
    one.type(key)
    wait_until("the shell again", lambda: one.text().rstrip().endswith(">"), 10)
    after = _settings_of(scene, one, "after")
    require(after == before, f"{key}: the terminal was {before}, is {after}")
    require(one.state() == state, f"{key}: the screen was {state}, is {one.state()}")


def _settings_of(scene: Scene, one: Terminal, name: str) -> str:
    path = scene.directory / f"stty-{name}"
    path.unlink(missing_ok=True)
    one.type(f"stty -a >{path}.new; mv {path}.new {path}", "Enter")
    wait_until("stty", path.exists, 10)
    return path.read_text(encoding="utf-8")


def doctor_names_failures(_: Scene) -> str:
    """Doctor ends with 0 or 1 for what it finds; a failure that is made is named with its cure."""
    ensure_running()
    wait_for_window()
    began_s = time.monotonic()
    fine = _doctor()
    took_s = time.monotonic() - began_s
    require(fine["daemon"]["state"] == "ok", f"the daemon runs: {fine['daemon']}")
    failing = [f"{key}: {one['evidence']}" for key, one in fine.items() if one["state"] == "fail"]
    DROP.write_text(WRONG, encoding="utf-8")
    try:
        # Where CPU time is short the half of the host may not be done in time, and says so.
        found = wait_until("a look at settings", lambda: _doctor(code=1).get("settings"), 20)
        require(found["state"] == "fail" and "intervall" in found["evidence"], f"{found}")
    finally:
        DROP.unlink()
    run("systemctl", "stop", "tychod")
    try:
        found = _doctor(code=1)["daemon"]
        require("systemctl start tychod" in str(found["remedy"]), f"{found}")
        text = run("tychoctl", "doctor", code=1).stdout
        require("systemctl start tychod" in text, text)
    finally:
        start()
    return f"failing here: {'; '.join(failing) or 'nothing'}; {took_s:.1f} s"


def _doctor(code: int | None = None) -> dict[str, Answer]:
    """Return doctor's checks by their ids; StepError unless it ends with `code` (None: 0 or 1)."""
    done = run("tychoctl", "doctor", "-o", "json", code=code)
    answer = json.loads(done.stdout)
    checks: dict[str, Answer] = {one["id"]: one for one in answer["checks"]}
    fails = any(one["state"] == "fail" for one in checks.values())
    require(done.returncode == int(fails), f"exit {done.returncode}: {answer['summary']}")
    return checks


def report_adds_up(scene: Scene) -> str:
    """The energy of a stretch of time is the same however it is summed, and pods are in it."""
    ensure_running()
    wait_for_window(wait_for_window()["sequence"])
    until = run("date", "--utc", "--iso-8601=seconds").stdout.strip()
    sums = {}
    for by in ("namespace", "pod", "unit", "workload"):
        argv = ("tychoctl", "report", "--since", "1h", "--until", until, "--by", by, "-o", "json")
        report = json.loads(run(*argv).stdout)["report"]
        rows = report["rows"]
        sums[by] = sum(row["total"]["idle_uj"] + row["total"]["dynamic_uj"] for row in rows)
        whole = report["total"]["total"]
        require(sums[by] == whole["idle_uj"] + whole["dynamic_uj"], f"{by}: {sums[by]}, {whole}")
    require(len(set(sums.values())) == 1, f"sums differ: {sums}")
    require(sums["pod"], f"no energy within the hour before {until}")
    table = run("tychoctl", "report", "--last", "1h", "--by", "pod").stdout
    for pod in scene.pods:
        require(pod.name in table, f"{pod.name} is not in the report:\n{table}")
    return f"{sums['pod']} uJ by each of {len(sums)} ways"


def history_is_private(scene: Scene) -> str:
    """What is kept for reports is closed to all but the daemon, and is there after kill -9."""
    DROP.write_text("[history]\ninterval = 10.0\n", encoding="utf-8")
    try:
        restart()
        known = set(HISTORY.glob("*"))
        files = wait_until("a file", lambda: set(HISTORY.glob("*")) - known or known, 30)
        wait_until("records", lambda: all(path.stat().st_size for path in files), 30)
        require(describe(HISTORY) == "0700 tychod:tychod", f"{HISTORY} is {describe(HISTORY)}")
        modes = {describe(path) for path in files}
        require(modes == {"0600 tychod:tychod"}, f"the history's files are {modes}")
        for user in (scene.member, scene.stranger):
            require_refused(user, "ls", str(HISTORY))
        before = _energy_until_now()
        pid = main_pid()
        run("kill", "-9", str(pid))
        wait_until("a new process", lambda: main_pid() not in (0, pid), 20)
        wait_for_window()
        after = _energy_until_now()
        require(after >= before, f"{before} uJ in the report before kill -9, {after} after it")
    finally:
        DROP.unlink()
        restart()
    return f"{len(files)} files; {before} uJ, after kill -9 {after} uJ"


def _energy_until_now() -> int:
    argv = ("tychoctl", "report", "--since", "1h", "--by", "node", "-o", "json", "--wait", "10")
    total = json.loads(run(*argv).stdout)["report"]["total"]["total"]
    return int(total["idle_uj"] + total["dynamic_uj"])

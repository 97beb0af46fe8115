"""Checks of who may do what: the daemon, members of the group tychod, everybody else."""

import re
import shutil
from pathlib import Path
from typing import Final

from tests.e2e.inside.machine import (
    Answer,
    ask,
    ensure_running,
    journal,
    main_pid,
    process_status,
    require_refused,
    restart,
    run,
    set_drop_in,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import CLASS, DEVICES, PINS, Scene, counters, describe
from tests.e2e.steps import StepError, require

CAP_DAC_READ_SEARCH: Final = 1 << 2
OPEN: Final = "0440 root:tychod-data"
EXAMPLES: Final = Path("/usr/share/doc/tychod/examples")
RULES: Final = ("/lib/udev/rules.d/60-tychod.rules", "/usr/lib/udev/rules.d/60-tychod.rules")


def daemon_has_one_capability(_: Scene) -> str:
    """The daemon runs as tychod with CAP_DAC_READ_SEARCH and nothing else."""
    ensure_running()
    status = process_status(main_pid())
    for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        held = int(status[kind], 16)
        require(held == CAP_DAC_READ_SEARCH, f"{kind} is {held:#x}")
    require(status["NoNewPrivs"] == "1", "it may gain privileges")
    owner = run("ps", "-o", "user:32=", "-p", str(main_pid())).stdout.strip()
    require(owner == "tychod", f"runs as {owner}")
    return f"runs as {owner}"


def counters_are_opened_to_the_group(scene: Scene) -> str:
    """energy_uj is 0440 root:tychod-data: enough for the daemon's user without any capability."""
    files = counters()
    modes = {describe(path) for path in files}
    require(modes == {OPEN}, f"energy counters are {modes}")
    plain = ("setpriv", "--reuid=tychod", "--regid=tychod", "--bounding-set=-all")
    run(*plain, "--groups=tychod-data", "cat", str(files[0]))
    done = run(*plain, "--clear-groups", "cat", str(files[0]), code=None)
    require(done.returncode != 0, "the user tychod reads counters without the group")
    require_refused(scene.stranger, "cat", str(files[0]))
    return f"{len(files)} counters {OPEN}"


def later_zone_is_opened(_: Scene) -> str:
    """The udev rule's command opens a zone that appears later, and nothing outside of sysfs."""
    (rules,) = (Path(path) for path in RULES[:1] if Path(path).exists())
    found = re.search(r'SUBSYSTEM=="powercap".*RUN\+="([^"]+)"', rules.read_text(encoding="utf-8"))
    if not found:
        raise StepError(f"{rules} has no rule for powercap")
    zone = DEVICES / "intel-rapl/intel-rapl:9"
    zone.mkdir()
    link = CLASS / zone.name
    outside = Path("/run/e2e-decoy")
    try:
        counter = zone / "energy_uj"
        counter.write_text("1\n")
        counter.chmod(0o400)
        link.symlink_to(f"../../devices/virtual/powercap/intel-rapl/{zone.name}")
        run(*found[1].replace("%S%p", str(zone)).split())
        require(describe(counter) == OPEN, f"the new counter is {describe(counter)}")
        outside.mkdir()
        (outside / "energy_uj").touch(mode=0o600)
        run(*found[1].replace("%S%p", str(outside)).split())
        mode = describe(outside / "energy_uj")
        require(mode == "0600 root:root", f"a file outside of sysfs became {mode}")
    finally:
        link.unlink(missing_ok=True)
        shutil.rmtree(zone)
        shutil.rmtree(outside, ignore_errors=True)
    return found[1]


def socket_is_for_members(scene: Scene) -> str:
    """`tychoctl status` answers root and members of the group; others are not permitted: 3."""
    ensure_running()
    require(describe(Path("/run/tychod/tychod.sock")).startswith("0660 "), "socket mode")
    run("tychoctl", "status")
    text = run("tychoctl", "status", user=scene.member).stdout
    refused = run("tychoctl", "status", user=scene.stranger, code=3)
    require(refused.stderr.strip(), "the refusal says nothing")
    require("Traceback" not in refused.stderr, refused.stderr)
    return f"{len(text.splitlines())} lines for a member; others: {refused.stderr.strip()}"


def socket_for_another_group(scene: Scene) -> str:
    """With the shipped drop-in another group than tychod has the socket, and tychod's no more."""
    text = (EXAMPLES / "control-group.conf").read_text(encoding="utf-8")
    settings = Path("/etc/tychod/conf.d/50-group.toml")
    run("groupadd", "--system", scene.name)
    try:
        run("usermod", "--append", "--groups", scene.name, scene.stranger)
        settings.write_text(f'[control]\ngroup = "{scene.name}"\n', encoding="utf-8")
        set_drop_in("control-group", text.replace("Groups=ops", f"Groups={scene.name}"))
        restart()
        run("tychoctl", "status", user=scene.stranger)
        run("tychoctl", "status", user=scene.member, code=3)
        shown = describe(Path("/run/tychod/tychod.sock"))
    finally:
        settings.unlink(missing_ok=True)
        set_drop_in("control-group", None)
        restart()
        run("groupdel", scene.name)
    run("tychoctl", "status", user=scene.member)
    run("tychoctl", "status", user=scene.stranger, code=3)
    return shown


def recordings_are_for_root(scene: Scene) -> str:
    """Root's recording replays to the bit with the packaged Python; a member is refused: 3."""
    ensure_running()
    file = scene.directory / "recording"
    run("tychoctl", "record", str(file), "--for", "3s", "--wait", "10")
    try:
        require(describe(file).startswith("0600 root:"), f"a recording is {describe(file)}")
        verdict = run("tychoctl", "replay", str(file), "--verify").stdout.strip()
        # 3 s hold one window, or two where the first was about to end.
        require(re.search(r"identical to the bit in [12] windows?$", verdict), verdict)
        run("tychoctl", "replay", str(file), "pods")
    finally:
        file.unlink()
    refused = run("tychoctl", "record", "/tmp/refused", user=scene.member, code=3)  # noqa: S108
    require("admin_group" in refused.stderr, refused.stderr)
    return verdict


def member_sees_no_more(scene: Scene) -> str:
    """A member can open no BPF pin, no energy counter and nothing of the state directory."""
    for path in counters():
        require_refused(scene.member, "cat", str(path))
    require_refused(scene.member, "ls", "/var/lib/tychod")
    state = [path for path in Path("/var/lib/tychod").iterdir() if path.is_file()]
    require(state, "the daemon has saved no state")
    for path in state:
        require_refused(scene.member, "cat", str(path))
    pins = [PINS / "tychod", *(PINS / "tychod").rglob("*")]
    for pin in pins:
        require_refused(scene.member, "cat", str(pin))
    return f"{len(counters())} counters, {len(state)} state files, {len(pins)} pins"


def journal_has_fields(_: Scene) -> str:
    """Every line of the daemon carries its priority, place and logger; events can be searched."""
    entries = [e for e in journal() if e.get("SYSLOG_IDENTIFIER") == "tychod"]
    ours = [e for e in entries if str(e.get("LOGGER", "")).startswith("tychod")]
    require(ours, "no line of the daemon in the journal")
    for entry in ours:
        place = str(entry.get("CODE_FILE"))
        require(place.startswith("/usr/lib/tychod/"), f"CODE_FILE={place}")
        require(str(entry.get("CODE_LINE")).isdigit(), f"CODE_LINE={entry.get('CODE_LINE')}")
        require(entry.get("CODE_FUNC"), f"no CODE_FUNC: {entry}")
        require(entry.get("PRIORITY") in tuple("23467"), f"PRIORITY={entry.get('PRIORITY')}")
        require(entry.get("_TRANSPORT") == "journal", f"came by {entry.get('_TRANSPORT')}")
    events = {str(e["TYCHO_EVENT"]) for e in ours if "TYCHO_EVENT" in e}
    require("start" in events, f"no TYCHO_EVENT=start, only {sorted(events)}")
    require(journal("", "TYCHO_EVENT=start"), "journalctl TYCHO_EVENT=start finds nothing")
    return f"{len(ours)} lines, events {', '.join(sorted(events))}"


def runs_without_capability(scene: Scene) -> str:
    """With the shipped drop-in it has no capability, reads RAPL, and says what it lost."""
    set_drop_in("no-capability", (EXAMPLES / "no-capability.conf").read_text(encoding="utf-8"))
    try:
        restart()
        held = int(process_status(main_pid())["CapEff"], 16)
        require(held == 0, f"it still holds {held:#x}")
        method = ask("status")["accounting"]["method"]
        require(method == "bpf-core", f"accounting by {method}")
        node = wait_for_window()
        quality = node["domains"]["package"]["quality"]
        require(quality == "measured", f"package energy is {quality}")
        lost = wait_until("status says what was lost", losses, 15)
        bundled = next(pod for pod in scene.pods if pod.bundle)
        pods = {pod["uid"]: pod for pod in ask("pods")["pods"]}
        name = pods[bundled.uid]["name"]
        require(name == bundled.name, f"the pod is called {name} without the bundle")
    finally:
        set_drop_in("no-capability", None)
        restart()
    return lost


def losses() -> str | None:
    """Return what `tychoctl status` says about files that it may not read."""
    status: Answer = ask("status")
    routes = {k: v for k, v in status["identity"].items() if "denied" in v or "permi" in v.lower()}
    problems = [p for p in status["problems"] if "permi" in str(p).lower() or "denied" in str(p)]
    text = run("tychoctl", "status").stdout
    told = [line for line in text.splitlines() if "bundle" in line]
    return (
        f"{routes or problems}; shown: {told[0].strip()}" if (routes or problems) and told else None
    )

"""Checks of the package: what installing it does, and what it leaves when it goes."""

import concurrent.futures
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from tests.e2e.inside import scene as scenes
from tests.e2e.inside.energy import counters_of, require_no_loss
from tests.e2e.inside.machine import (
    UNIT,
    ask_pair,
    ensure_running,
    run,
    unit_property,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import PINS, Scene, counters, describe, list_machine
from tests.e2e.steps import require

APT: Final = ("apt-get", "install", "--yes", "--no-install-recommends")
APT_ENV: Final = {"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
EXPOSURE_LIMIT: Final = 2.0


def meters_of_a_kernel(scene: Scene) -> str:
    """The energy counters look as kernels make them: for root alone, and moving."""
    scenes.set_up(scene)
    files = counters()
    modes = {describe(path) for path in files}
    require(modes == {"0400 root:root"}, f"simulated counters are {modes}")
    before = [path.read_text() for path in files]
    time.sleep(1)
    moving = sum(path.read_text() != old for path, old in zip(files, before, strict=True))
    require(moving, "no simulated counter moves")
    scene.listing = list_machine()
    return f"{len(files)} counters, {moving} moving"


def install_deb(scene: Scene) -> str:
    """`apt install ./tychod_*.deb` is all it takes: the daemon runs and says that it is ready."""
    began_s = time.monotonic()
    run(*APT, scene.package("first/tychod_*.deb"), timeout_s=300, env=APT_ENV)
    installed_s = time.monotonic() - began_s
    require_ready(scene)
    require(unit_property("UnitFileState") == "enabled", "the service is not enabled")
    require(unit_property("UnitFileState", "tychod.socket") == "disabled", "the socket is enabled")
    return f"installed in {installed_s:.1f} s"


def install_rpm(scene: Scene) -> str:
    """The RPM installs on a system with systemd; an administrator starts the daemon."""
    package = scene.package("first/tychod-*.rpm")
    run("rpm", "--install", "--nodeps", "--force-debian", package, timeout_s=120)
    require(unit_property("ActiveState") == "inactive", "installing the RPM started the daemon")
    run("systemctl", "enable", "--now", UNIT)
    require_ready(scene)
    return run("rpm", "-q", "tychod").stdout.strip()


def require_ready(scene: Scene) -> None:
    """StepError unless the unit is active, which for Type=notify means that READY=1 came."""
    wait_until("the daemon is active", lambda: unit_property("ActiveState") == "active", 20)
    found = {name: unit_property(name) for name in ("Type", "NRestarts", "StatusText", "Result")}
    require(found["Type"] == "notify", f"Type={found['Type']}")
    require(found["NRestarts"] == "0", f"restarted {found['NRestarts']} times")
    require(found["StatusText"], "no STATUS= text")
    run("usermod", "--append", "--groups", "tychod", scene.member)


def units_are_sound(_: Scene) -> str:
    """systemd finds nothing wrong with the units, and little that they leave open."""
    loader = "tychod-bpf.service"
    done = run("systemd-analyze", "verify", "--man=no", UNIT, "tychod.socket", loader)
    require(not done.stderr.strip(), f"systemd-analyze verify: {done.stderr}")
    exposures = {unit: exposure(unit) for unit in (UNIT, loader)}
    for unit, value in exposures.items():
        require(value <= EXPOSURE_LIMIT, f"{unit}: {value}, more than {EXPOSURE_LIMIT}")
    return f"exposure {exposures}, at most {EXPOSURE_LIMIT}"


def exposure(unit: str) -> float:
    """Return what systemd thinks of a unit's hardening: 0 is closed, 10 wide open."""
    text = run("systemd-analyze", "security", "--no-pager", unit).stdout
    found = re.search(rf"exposure level for {re.escape(unit)}: ([0-9.]+)", text)
    require(found, f"systemd-analyze security gives no exposure level for {unit}")
    return float(found[1]) if found else 10.0


def callers_python_is_kept_out(scene: Scene) -> None:
    """A caller's PYTHONPATH does not reach the programs; byte code came with the installation."""
    trap = scene.directory / "trap"
    trap.mkdir()
    for module in ("msgpack", "tychod", "json"):
        (trap / f"{module}.py").write_text("raise SystemExit('the caller of this was heard')\n")
    env = {"PYTHONPATH": str(trap), "PATH": "/usr/bin:/bin"}
    for program in ("tychod", "tychoctl"):
        argv = (program, "--version") if program == "tychod" else (program, "--help")
        run(*argv, env=env, cwd=trap)
    compiled = list(Path("/usr/lib/tychod/tychod/__pycache__").glob("__main__.*.pyc"))
    require(compiled, "the installation made no byte code")


def upgrade(scene: Scene) -> str:
    """Reinstalling and upgrading keep counters, settings and the daemon running."""
    ensure_running()
    kept = Path("/etc/tychod/conf.d/50-kept.toml")
    kept.write_text('[log]\nlevel = "info"\n', encoding="utf-8")
    before = counters_of(*ask_pair())
    sequence = wait_for_window()["sequence"]
    for argv in (
        (*APT, "--reinstall", scene.package("first/tychod_*.deb")),
        (*APT, scene.package("next/tychod_*.deb")),
    ):
        run(*argv, timeout_s=300, env=APT_ENV)
        wait_until("active again", lambda: unit_property("ActiveState") == "active", 20)
        sequence = wait_for_window(sequence)["sequence"]
        require_no_loss(before, counters_of(*ask_pair()))
    require(kept.exists(), "an upgrade removed a file from conf.d")
    version = run("dpkg-query", "--show", "--showformat=${Version}", "tychod").stdout
    require(version.endswith("+1"), f"version {version} after the upgrade")
    return f"now {version}"


def packaged_python_passes_tests(scene: Scene) -> str:
    """The unit and property tests pass on the packaged code, interpreter and libraries."""
    files = sorted(
        str(path.relative_to(scene.source))
        for name in ("unit", "property")
        for path in (scene.source / "tests" / name).glob("test_*.py")
    )
    for package in ("tychod", "tychoctl"):
        copy = scene.source / package
        copy.rename(scene.directory / f"{package}.source")
        copy.symlink_to(f"/usr/lib/tychod/{package}")
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:  # two halves, side by side
            told = list(pool.map(partial(run_tests, scene), (files[::2], files[1::2])))
    finally:
        for package in ("tychod", "tychoctl"):
            (scene.source / package).unlink()
            (scene.directory / f"{package}.source").rename(scene.source / package)
    return "; ".join(told)


def run_tests(scene: Scene, files: Sequence[str]) -> str:
    """Return the last line of pytest; StepError with what failed."""
    env = {**APT_ENV, "PYTHONPATH": "/usr/lib/tychod", "CI": "true", "LC_ALL": "C.UTF-8"}
    argv = ("/usr/bin/python3", "-B", "-m", "pytest", "-q", "-rf", "--tb=short")
    done = run(*argv, *files, timeout_s=560, env=env, cwd=scene.source, code=None)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "_____", "E   "))]
    require(done.returncode == 0, "\n".join([*failed[:40], *lines[-3:], done.stderr[-2000:]]))
    return lines[-1].strip("= ")


def purge_deb(_: Scene) -> None:
    """Removing keeps the settings; purging leaves nothing but the system users and groups."""
    run("apt-get", "remove", "--yes", "tychod", timeout_s=120, env=APT_ENV)
    require(Path("/etc/tychod/tychod.toml").exists(), "removing the package removed its settings")
    require(not (PINS / "tychod").exists(), "removing the package left the kernel accounting")
    run("apt-get", "purge", "--yes", "tychod", timeout_s=120, env=APT_ENV)


def erase_rpm(_: Scene) -> None:
    """Erasing the RPM stops the daemon and disables its units."""
    run("rpm", "--erase", "--nodeps", "tychod", timeout_s=120)
    for path in ("/var/lib/tychod", "/run/tychod"):
        run("rm", "-rf", path)  # an RPM leaves data: there is no purge


def nothing_is_left(scene: Scene) -> str:
    """Files, units, sockets, pins, cgroups are those of before; the counters are root's."""
    run("systemctl", "daemon-reload")
    run("systemctl", "reset-failed", code=None)
    after = list_machine()
    extra = {kind: sorted(after[kind] - names)[:10] for kind, names in scene.listing.items()}
    gone = {kind: sorted(names - after[kind])[:10] for kind, names in scene.listing.items()}
    require(not any(extra.values()), f"left behind: {extra}")
    require(not any(gone.values()), f"missing: {gone}")
    modes = {describe(path) for path in counters()}
    require(modes == {"0400 root:root"}, f"energy counters are left as {modes}")
    run("getent", "passwd", "tychod")
    run("getent", "group", "tychod-data")
    return ", ".join(f"{len(names)} {kind}" for kind, names in scene.listing.items())

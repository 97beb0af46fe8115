"""Checks of what measures more than CPUs: a BMC over HTTPS, with its password, and GPUs."""

import base64
import secrets
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.e2e.inside.access import EXAMPLES
from tests.e2e.inside.machine import (
    Answer,
    ask,
    ensure_running,
    journal,
    messages,
    restart,
    run,
    set_drop_in,
    unit_property,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import Scene, cgroup_of, describe
from tests.e2e.steps import StepError, require
from tests.sim.bmc import SimBmc, fingerprint, make_certificate
from tests.sim.bmccadence import Cadence
from tests.sim.nvml.world import SONAME, Gpu, NvmlWorld, Process

SETTINGS: Final = Path("/etc/tychod/conf.d/50-hardware.toml")
CREDENTIALS: Final = Path("/etc/tychod/redfish.toml")
COMMANDS: Final = (
    *("status", "sources", "node", "gpus", "workloads", "pods", "containers", "vms", "units"),
    *("config", "version"),
)
FORMS: Final = ("table", "wide", "csv", "json")
KEPT: Final = Path("/var/lib/tychod/calibration.toml")
CALIBRATE: Final = (
    *("systemd-run", "--pipe", "--wait", "--quiet", "--uid=tychod", "-p", "StateDirectory=tychod"),
    *("-p", "StateDirectoryMode=0700", "-p", f"LoadCredential=redfish:{CREDENTIALS}"),
)
BY_HAND: Final = ("tychod", "--calibrate", "--seconds", "20")
MACHINE_W: Final = 300.0
GPU_W: Final = 250.0


def power_and_gpus(scene: Scene) -> str:
    """With a credential of systemd's and the driver's library both are shown within a minute."""
    password = secrets.token_urlsafe(24)
    with hardware(scene, password) as bmc:
        set_drop_in("redfish", (EXAMPLES / "redfish.conf").read_text(encoding="utf-8"))
        try:
            restart()
            began_s = time.monotonic()
            node = wait_until("the machine's power and a GPU are shown", _shown, 60, pause_s=1)
            took_s = time.monotonic() - began_s
            gpu = wait_until("the GPU's pod is known", lambda: _used(scene), 60, pause_s=1)
            _require_figures(node, gpu)
            tables = run("tychoctl", "node").stdout + run("tychoctl", "gpus").stdout
            name = gpu["name"].removeprefix("NVIDIA ")
            require("redfish" in tables and name in tables, tables)
            require(bmc.seen, "the BMC was never shown who asks")
            searched = require_secret(scene, password)
        finally:
            set_drop_in("redfish", None)
    return (
        f"after {took_s:.0f} s {node['domains']['platform']['power_w']:.0f} W, "
        f"GPU {gpu['power_w']:.0f} W; {searched} outputs without the password"
    )


def open_credentials_are_refused(scene: Scene) -> str:
    """A password that others may read is not used; the command that is named mends it."""
    password = secrets.token_urlsafe(24)
    with hardware(scene, password, f'credentials = "{CREDENTIALS}"\n') as bmc:
        CREDENTIALS.chmod(0o644)
        restart()
        found = wait_until("redfish is refused", lambda: _redfish("unavailable"), 30, pause_s=0.5)
        require(f"{CREDENTIALS} has mode 0644" in found["reason"], f"reason: {found['reason']}")
        require(not bmc.requests, "the BMC was asked all the same")
        status = run("tychoctl", "status").stdout
        require(found["remedy"] in status, f"status does not name the remedy:\n{status}")
        run("sh", "-c", found["remedy"])
        restart()
        wait_until("redfish is in use", lambda: _redfish("ok"), 60, pause_s=0.5)
        require_secret(scene, password)
    return f"{found['reason']}; mended by: {found['remedy']}"


def calibrated_by_hand(scene: Scene) -> str:
    """The manual's command stores periods as the daemon's user, who alone may read them."""
    password = secrets.token_urlsafe(24)
    with hardware(scene, password):
        run("systemctl", "stop", "tychod")
        try:
            world = f"--setenv=TYCHOD_SIM_NVML=/run/{scene.name}/world"
            told = run(*CALIBRATE, world, *BY_HAND).stdout
            kept = tomllib.loads(KEPT.read_text(encoding="utf-8"))
            require(describe(KEPT) == "0600 tychod:tychod", f"{KEPT} is {describe(KEPT)}")
            require(describe(KEPT.parent) == "0700 tychod:tychod", f"{KEPT.parent} was opened")
        finally:
            KEPT.unlink(missing_ok=True)
        found = kept["devices"].get(Gpu.uuid, {})
        jitter_s = Gpu.jitter * Gpu.period_s  # machines of these checks may be short of CPU time
        require(abs(found.get("period_s", 0) - Gpu.period_s) < jitter_s, f"kept: {kept}")
        require(Gpu.uuid in told, told)
        require(password not in told, "the password is in what it says")
    return f"{Gpu.uuid}: {found['period_s']:.4f} s"


def package_brings_nvml(_: Scene) -> str:
    """The module that speaks to the driver comes with the package and loads, without a GPU too."""
    files = run("dpkg", "--listfiles", "tychod").stdout.split()
    found = [path for path in files if path.endswith("/pynvml.py")]
    require(len(found) == 1, f"pynvml.py: {found}")
    place = str(Path(found[0]).parent)
    script = f"import sys; sys.path.insert(0, {place!r}); import pynvml; print(pynvml.__file__)"
    loaded = run("python3", "-I", "-c", script).stdout.strip()
    require(loaded == found[0], f"pynvml is {loaded}")
    ensure_running()
    nvml = next(one for one in ask("sources")["sources"] if one["name"] == "nvml")
    require(nvml["state"] == "unavailable", f"nvml is {nvml['state']} without a driver")
    return f"{loaded}; without a driver: {nvml['reason']}"


@contextmanager
def hardware(scene: Scene, password: str, more: str = "") -> Iterator[SimBmc]:
    """Be a BMC and a driver for the block; settings and credentials name both."""
    place = Path("/run") / scene.name  # /var/tmp is the daemon's own by PrivateTmp=
    with ExitStack() as stack:
        place.mkdir(mode=0o755)
        stack.callback(restart)
        stack.callback(shutil.rmtree, place)
        for path in (SETTINGS, CREDENTIALS):
            stack.callback(path.unlink, missing_ok=True)
        pair = make_certificate(scene.directory)
        cadence = Cadence(delay_s=1.0, boxcar_s=1.0, noise_w=1.0)
        bmc = SimBmc(pair, lambda _: MACHINE_W, cadence=cadence, login=("reader", password))
        stack.enter_context(bmc)
        library = place / SONAME
        shutil.copy(scene.directory / "programs" / SONAME, library)
        world = _world(scene, place / "world", library)
        stack.callback(world.close)
        _write_settings(place, bmc, fingerprint(pair), password, more)
        drop_in = f"[Service]\nEnvironment=TYCHOD_SIM_NVML={world.path}\nReadWritePaths={place}\n"
        set_drop_in("hardware", drop_in)
        stack.callback(set_drop_in, "hardware", None)
        yield bmc


def _world(scene: Scene, path: Path, library: Path) -> NvmlWorld:
    """Return a driver with one GPU, on which the first pod works."""
    pid = _pid_of(scene.pods[0].scope)
    gpu = Gpu(steps=((0.0, GPU_W),), processes=(Process(pid=pid, sm=90),))
    now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    world = NvmlWorld(path, library, (gpu,), start_ns=now_ns, simulated=False)
    shutil.chown(path, "tychod")
    return world


def _pid_of(unit: str) -> int:
    cgroup = cgroup_of(unit)
    if cgroup is None:
        raise StepError(f"{unit} has no cgroup")
    return int(Path(cgroup, "cgroup.procs").read_text(encoding="utf-8").split()[0])


def _write_settings(place: Path, bmc: SimBmc, digest: str, password: str, more: str) -> None:
    SETTINGS.write_text(
        f'[redfish]\nfingerprint = "{digest}"\n{more}[nvml]\nlibrary = "{place / SONAME}"\n',
        encoding="utf-8",
    )
    CREDENTIALS.touch(mode=0o600)
    CREDENTIALS.write_text(
        f'endpoint = "{bmc.url}"\nusername = "reader"\npassword = "{password}"\n',
        encoding="utf-8",
    )


def _shown() -> Answer | None:
    """Return `node` once it has the machine's power and `gpus` has a GPU's."""
    node, gpus = _answer("node"), _answer("gpus")
    platform = node.get("domains", {}).get("platform", {})
    has_gpu = any(gpu["power_w"] for gpu in gpus.get("gpus", ()))
    return node if platform.get("power_w") and has_gpu else None


def _answer(command: str) -> Answer:
    """Return an answer, or nothing while there is none."""
    try:
        return ask(command, wait_s=5)
    except StepError:
        return {}


def _used(scene: Scene) -> Answer | None:
    """Return the GPU once it is known which pod uses it."""
    for gpu in _answer("gpus").get("gpus", ()):
        if any(one["pod"] == scene.pods[0].name for one in gpu["workloads"]):
            return dict(gpu)
    return None


def _require_figures(node: Answer, gpu: Answer) -> None:
    """StepError unless watts are those of BMC and GPU, and their sources say how they know."""
    watts = node["domains"]["platform"]["power_w"]
    require(abs(watts - MACHINE_W) < 0.05 * MACHINE_W, f"the machine: {watts} W")
    require(abs(gpu["power_w"] - GPU_W) < 0.05 * GPU_W, f"the GPU: {gpu['power_w']} W")
    require(node["platform"]["method"] in ("hold", "fused"), f"platform: {node['platform']}")
    for name in ("redfish", "nvml"):
        (source,) = [one for one in ask("sources")["sources"] if one["name"] == name]
        require(source["state"] == "ok", f"{name}: {source['state']}, {source['reason']}")
        require(source["devices"], f"{name} tells no device")


def _redfish(state: str) -> Answer | None:
    sources = _answer("sources").get("sources", ())
    return next((s for s in sources if s["name"] == "redfish" and s["state"] == state), None)


def require_secret(scene: Scene, password: str) -> int:
    """StepError if anything that tychod writes or says has the password in it; return how many."""
    wait_for_window()
    basic = base64.b64encode(f"reader:{password}".encode()).decode()
    found = 0
    for name, read in _outputs(scene):
        text, found = read(), found + 1
        require(text or not name.startswith("tychoctl"), f"{name} says nothing")
        for secret in (password, basic):
            require(secret not in text, f"the password is in {name}")
    return found


def _outputs(scene: Scene) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield what could show a password to somebody: name, and what returns its text."""
    for command in COMMANDS:
        for form in FORMS:
            argv = ("tychoctl", command, "-o", form)
            yield " ".join(argv), lambda argv=argv: run(*argv).stdout  # type: ignore[misc]
    yield "the journal", lambda: messages(journal())
    yield "systemctl show", lambda: run("systemctl", "show", "tychod").stdout
    yield "the unit's status", lambda: unit_property("StatusText")
    record = scene.directory / "recording"
    run("tychoctl", "record", str(record), "--for", "3s", "--wait", "10")
    yield "a recording", lambda: record.read_bytes().decode("latin-1")
    for directory in (Path("/run/tychod"), Path("/var/lib/tychod")):
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            yield str(path), lambda path=path: path.read_bytes().decode("latin-1")  # type: ignore[misc]
    record.unlink()

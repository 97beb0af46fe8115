"""All simulators of one world, ready for a daemon: RAPL, hwmon, a BMC and two GPUs."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from tests.sim import hwmon
from tests.sim.bmc import SimBmc, fingerprint, make_certificate
from tests.sim.bmccadence import Cadence
from tests.sim.cgrouptree import real_base
from tests.sim.demo_world import World
from tests.sim.nvml.world import NS, VARIABLE, Process, compile_stub

LATE: Final = Cadence(
    period_s=2.0, jitter_s=0.05, delay_s=1.75, boxcar_s=1.0, noise_w=2.0, quantum_w=1.0
)
OFF: Final = "enabled = false\n"

Told = Callable[[int, bool], None]


class Ground(NamedTuple):
    """Where this machine's cgroups are made and read."""

    version: str  # "" where none can be made
    base: Path | None
    readable: Path | None  # what tells the CPU use of all of it


def find_ground() -> Ground:
    """Look for a hierarchy: one to make cgroups in, else one to read."""
    for version in ("v2", "v1"):
        if base := real_base(version):
            return Ground(version, base, base)
    for name in ("unified", ".", "cpuacct", "cpu,cpuacct"):
        place = Path("/sys/fs/cgroup", name)
        if (place / "cpu.stat").exists() or (place / "cpuacct.usage").exists():
            return Ground("", None, place)
    return Ground("", None, None)


def ignore(_gpu: int, _is_on: bool) -> None:
    """Let nobody be told of bursts."""


class Rig(NamedTuple):
    """The running simulators."""

    place: Path
    world: World
    bmc: SimBmc
    library: Path
    ground: Ground
    password_file: Path
    mark: str  # fingerprint of the BMC's certificate

    def settings(self, window_s: float, *, bmc: bool = True, gpus: bool = True) -> str:
        """Return tychod.toml for a daemon on this machine's /proc and cgroups and these meters."""
        hierarchy = f'hierarchy = "{self.ground.version}"\n' if self.ground.version else ""
        redfish = f'credentials = "{self.password_file}"\nfingerprint = "{self.mark}"\n'
        return (
            f'[host]\nsysfs = "{self.place / "sys"}"\n{hierarchy}[window]\nlength = {window_s}\n'
            f"[kubelet]\n{OFF}[ipmi]\n{OFF}[redfish]\n{redfish if bmc else OFF}"
            + (f'[nvml]\nlibrary = "{self.library}"\n' if gpus else f"[nvml]\n{OFF}")
        )

    @property
    def environment(self) -> dict[str, str]:
        """Return what the stub of the driver needs in a daemon's environment."""
        return {VARIABLE: str(self.world.nvml.path)}


def run_simulators(
    undo: ExitStack,
    place: Path,
    users: Mapping[int, tuple[Process, ...]],
    told: Told = ignore,
    cadence: Cadence = LATE,
) -> Rig:
    """Start them in this process; ``undo`` ends them.

    ``users`` and ``told`` are as of ``World``.  Raise ``NoCompilerError``, ``OSError`` or
    ``CalledProcessError`` where the tools that they are made with are missing or fail.
    """
    library, pair = compile_stub(place), make_certificate(place)
    ground = find_ground()
    world = undo.enter_context(World(place, library, ground.readable, users, told))
    chips = hwmon.typical(world.platform_j)
    undo.enter_context(hwmon.Driver(hwmon.Tree(place / "sys", chips)))
    begun_ns = time.monotonic_ns()
    bmc = SimBmc(pair, lambda t_s: world.power_w(begun_ns + round(t_s * NS)), cadence=cadence)
    undo.enter_context(bmc)
    file = place / "redfish.toml"
    file.touch(0o600)
    file.write_text(f'endpoint = "{bmc.url}"\nusername = "reader"\npassword = "secret"\n')
    return Rig(place, world, bmc, library, ground, file, fingerprint(pair))

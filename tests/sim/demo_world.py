"""The one truth behind `make demo`: a machine whose package follows this one's CPU use.

    package = 18 W + 14 W per busy CPU          GPUs = a fixed schedule of bursts
    platform = 120 W + 1.1 x (package + GPUs)

Powers in watts, energies in joules, times in nanoseconds of CLOCK_MONOTONIC.
"""

import random
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Self

from tests.sim.nvml.world import MAX_STEPS, NS, Gpu, NvmlWorld, Process
from tests.sim.powercap import Machine, Power, SimZone

IDLE_W: Final = 18.0
CPU_W: Final = 14.0
BASE_W: Final = 120.0
FACTOR: Final = 1.1
STEP_S: Final = 0.01
HISTORY_S: Final = 120.0
MOMENT_NS: Final = 25_000_000
"""Power at a moment is the mean of so long before and after it."""
ZONES: Final = (
    SimZone("intel-rapl:0", "package-0", 1000, 1000),
    SimZone("intel-rapl:0:0", "core", 300, 800, limit_w=0),
)
PACKAGE: Final = ZONES[0].directory
KNOWN_BURSTS: Final = 16
"""Of a GPU's users, the driver has so many bursts: half of them are over, half are to come."""
PASSED_ON: Final = ("kernel", "devices/system")
"""Directories of this machine's sysfs that the simulated one leads to."""


class Bursts:
    """The power of one GPU: bursts for two hours, now and then a longer rest; then it is idle."""

    def __init__(
        self, seed: int, start_ns: int, idle_w: float, busy_w: tuple[float, float]
    ) -> None:
        """``busy_w``: the least and the most that a burst draws."""
        chance = random.Random(seed)
        self.steps: list[tuple[float, float]] = [(0.0, idle_w)]
        at_s = 0.0
        while len(self.steps) + 2 <= MAX_STEPS:
            at_s += chance.uniform(4.0, 7.0) if chance.random() < 0.25 else chance.uniform(0.4, 2.5)
            self.steps.append((at_s, float(round(chance.uniform(*busy_w)))))
            at_s += chance.uniform(0.3, 3.0)
            self.steps.append((at_s, idle_w))
        self._begins_ns = [start_ns + round(at * NS) for at, _ in self.steps]
        self._before_j = [0.0]
        for i, (at, watts) in enumerate(self.steps[:-1]):
            self._before_j.append(self._before_j[-1] + watts * (self.steps[i + 1][0] - at))

    def energy_j(self, t_ns: int) -> float:
        """Return the energy since the start."""
        at = max(bisect_right(self._begins_ns, t_ns) - 1, 0)
        return self._before_j[at] + self.steps[at][1] * (t_ns - self._begins_ns[at]) / NS

    def is_on(self, t_ns: int) -> bool:
        """Say whether there is a burst."""
        return bisect_right(self._begins_ns, t_ns) % 2 == 0 and t_ns >= self._begins_ns[0]

    def ended(self, t_ns: int) -> int:
        """Return how many bursts have ended."""
        return max(bisect_right(self._begins_ns, t_ns) - 1, 0) // 2

    def span_ns(self, number: int) -> tuple[int, int]:
        """Return when a burst begins and ends; the last one again where there are no more."""
        begin = min(2 * number + 1, len(self._begins_ns) - 2)
        return self._begins_ns[begin], self._begins_ns[begin + 1]


class Package:
    """The energy of the simulated package over the last minutes, as its meter was driven."""

    def __init__(self, machine: Machine) -> None:
        self.machine: Final = machine
        self._at_ns = [time.monotonic_ns()]
        self._joules = [0.0]
        self._lock = threading.Lock()

    def step(self) -> None:
        """Let time pass up to now."""
        self.machine.step()
        joules = self.machine.ledger_uj()[PACKAGE] / 1e6
        with self._lock:
            self._at_ns.append(time.monotonic_ns())
            self._joules.append(joules)
            if len(self._at_ns) > 2 * HISTORY_S / STEP_S:
                keep = len(self._at_ns) // 2
                self._at_ns, self._joules = self._at_ns[keep:], self._joules[keep:]

    def energy_j(self, t_ns: int) -> float:
        """Return the energy since the start; before it is idle, and the last power goes on."""
        with self._lock:
            if t_ns <= self._at_ns[0] or len(self._at_ns) < 2:
                return self._joules[0] + IDLE_W * (t_ns - self._at_ns[0]) / NS
            after = min(bisect_right(self._at_ns, t_ns), len(self._at_ns) - 1)
            (t0, t1), (e0, e1) = (v[after - 1 : after + 1] for v in (self._at_ns, self._joules))
            return e0 + (e1 - e0) * (t_ns - t0) / max(t1 - t0, 1)


class Watts(NamedTuple):
    """What is true of a stretch of time, mean watts."""

    platform: float
    package: float
    gpus: tuple[float, ...]

    @property
    def residual(self) -> float:
        """What no part explains."""
        return self.platform - self.package - sum(self.gpus)


class World:
    """Package, GPUs and the rest, driven by a thread; a context manager.

    ``told`` is called with the number of a GPU when a burst begins (True) and when it ends (False).
    """

    def __init__(
        self,
        place: Path,
        library: Path,
        cpu_from: Path | None,
        users: Mapping[int, tuple[Process, ...]],
        told: Callable[[int, bool], None] = lambda _gpu, _is_on: None,
    ) -> None:
        """``cpu_from``: cgroup whose CPU use drives the package; ``users``: at most two a GPU."""
        power = Power(IDLE_W, {str(cpu_from): CPU_W} if cpu_from else {})
        self.package: Final = Package(Machine(place / "sys", ZONES, power, mode=0o644))
        self.start_ns: Final = time.monotonic_ns()
        self.bursts: Final = (
            Bursts(1, self.start_ns, 62.0, (180.0, 420.0)),
            Bursts(2, self.start_ns, 48.0, (120.0, 260.0)),
        )
        self._users, self._told = users, told
        self._on = [False] * len(self.bursts)
        gpus = [self._gpu(number) for number in range(len(self.bursts))]
        self.nvml: Final = NvmlWorld(
            place / "gpus", library, gpus, start_ns=self.start_ns, simulated=False
        )
        for name in PASSED_ON:
            (place / "sys" / name).symlink_to(Path("/sys", name))
        self.failure = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-world")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.package.machine.close()
        self.nvml.close()

    def gpus_j(self, t_ns: int) -> tuple[float, ...]:
        """Return the energy of each GPU since the start."""
        return tuple(gpu.energy_j(t_ns) for gpu in self.bursts)

    def platform_j(self, t_ns: int) -> float:
        """Return the energy of the whole machine since the start."""
        parts_j = self.package.energy_j(t_ns) + sum(self.gpus_j(t_ns))
        return BASE_W * (t_ns - self.start_ns) / NS + FACTOR * parts_j

    def power_w(self, t_ns: int) -> float:
        """Return the power of the whole machine at a moment."""
        joules = self.platform_j(t_ns + MOMENT_NS) - self.platform_j(t_ns - MOMENT_NS)
        return joules * NS / (2 * MOMENT_NS)

    def watts(self, start_ns: int, end_ns: int) -> Watts:
        """Return the mean power between two moments."""
        seconds = (end_ns - start_ns) / NS
        pairs = zip(self.gpus_j(start_ns), self.gpus_j(end_ns), strict=True)
        return Watts(
            (self.platform_j(end_ns) - self.platform_j(start_ns)) / seconds,
            (self.package.energy_j(end_ns) - self.package.energy_j(start_ns)) / seconds,
            tuple((after - before) / seconds for before, after in pairs),
        )

    def _gpu(self, number: int) -> Gpu:
        spans = [self.bursts[number].span_ns(k) for k in range(KNOWN_BURSTS)]
        return Gpu(
            uuid=f"GPU-00000000-0000-0000-0000-00000000000{number + 1}",
            steps=self.bursts[number].steps,
            processes=[
                user._replace(from_ns=from_ns, until_ns=until_ns)
                for user in self._users.get(number, ())
                for from_ns, until_ns in spans
            ],
            seed=number + 1,
        )

    def _run(self) -> None:
        try:
            while not self._stop.wait(STEP_S):
                self.package.step()
                self._follow_bursts(time.monotonic_ns())
        except OSError as exc:
            self.failure = f"the simulated machine stopped: {exc}"

    def _follow_bursts(self, now_ns: int) -> None:
        """Tell of bursts that begin and end, and let the driver know those to come."""
        for number, gpu in enumerate(self.bursts):
            is_on = gpu.is_on(now_ns)
            if is_on != self._on[number]:
                self._on[number] = is_on
                self._told(number, is_on)
                if not is_on:
                    self._extend(number, gpu.ended(now_ns) + KNOWN_BURSTS // 2)

    def _extend(self, number: int, burst: int) -> None:
        """Put a burst to come into the place of one that is long over."""
        from_ns, until_ns = self.bursts[number].span_ns(burst)
        for i in range(len(self._users.get(number, ()))):
            place = i * KNOWN_BURSTS + burst % KNOWN_BURSTS
            process = self.nvml.device(number).processes[place]
            process.until_ns = 0
            process.from_ns = from_ns
            process.until_ns = until_ns
